//! The replication slot: created once, after the publication, and never again in silence, because
//! a new slot starts at the present and whatever was committed since the old one would be lost.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Change, Done, Plan, SetupError, StoreState, query, recall, remember};
use crate::postgres::lsn::Lsn;

/// Creating a slot waits for all open write transactions to end.
const CREATE_TIMEOUT: &str = "60s";

/// The slot as PostgreSQL shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Whether it can be streamed from.
    pub state: SlotState,
    /// Whether somebody streams from it now.
    pub is_active: bool,
    /// How many bytes of WAL it holds back; `None` when unknown.
    pub retained_bytes: Option<i64>,
    /// Up to where everything is ours for good.
    pub confirmed: Option<Lsn>,
}

/// Whether a slot can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// It can.
    Good,
    /// It will be lost at the next checkpoint unless it advances: WAL is over
    /// `max_slot_wal_keep_size`.
    AtRisk,
    /// WAL it needs is gone.
    Lost,
    /// It is another database's; here is which.
    OtherDatabase(String),
    /// It is physical or made for another output plugin; here is which.
    OtherPlugin(String),
}

const SLOT: &str = "
SELECT coalesce(database::text, ''), coalesce(plugin::text, ''), active, wal_status,
       database IS NOT DISTINCT FROM current_database(),
       CASE WHEN NOT pg_is_in_recovery()
            THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 END,
       confirmed_flush_lsn::text
FROM pg_replication_slots WHERE slot_name = $1";

/// Looks the slot up.
///
/// # Errors
/// The connection failed.
pub async fn read_slot(client: &Client, slot: &str) -> Result<Option<Slot>, SetupError> {
    let row = client.query_opt(SLOT, &[&slot]).await.map_err(query("look for the slot"))?;
    Ok(row.map(|row| {
        let (database, plugin): (String, String) = (row.get(0), row.get(1));
        let state = match row.get::<_, Option<&str>>(3) {
            _ if plugin != "pgoutput" => SlotState::OtherPlugin(plugin),
            _ if !row.get::<_, bool>(4) => SlotState::OtherDatabase(database),
            Some("lost") => SlotState::Lost,
            Some("unreserved") => SlotState::AtRisk,
            _ => SlotState::Good,
        };
        let confirmed = row.get::<_, Option<&str>>(6).and_then(|text| text.parse().ok());
        Slot { state, is_active: row.get(2), retained_bytes: row.get(5), confirmed }
    }))
}

/// Finds or creates the slot.
pub(super) async fn create(
    client: &Client,
    plan: &Plan<'_>,
    store: StoreState,
) -> Result<Done, SetupError> {
    let what = format!("slot {:?} keeps changes until they are captured", plan.slot);
    let change = match read_slot(client, plan.slot).await? {
        Some(slot) => verify(plan, &slot).map(|()| Change::Found)?,
        None => {
            refuse_to_recreate(client, plan, store).await?;
            create_new(client, plan).await?;
            Change::Made
        }
    };
    remember(client, "slot", plan.slot).await?;
    Ok(Done { what, change })
}

fn verify(plan: &Plan<'_>, slot: &Slot) -> Result<(), SetupError> {
    match slot.state.problem(plan.slot) {
        Some((what, advice)) => Err(SetupError::Slot { what, advice }),
        None => Ok(()),
    }
}

impl SlotState {
    /// What is wrong and what to do, in two sentences; `None` when the slot can be used.
    pub fn problem(&self, slot: &str) -> Option<(String, String)> {
        match self {
            Self::Good | Self::AtRisk => None,
            Self::Lost => Some((
                format!("slot {slot:?} is lost: PostgreSQL removed WAL it still needed"),
                "changes were not captured, so this site must be rebuilt from another one; until \
                 then do not drop the slot, and raise max_slot_wal_keep_size"
                    .to_owned(),
            )),
            Self::OtherDatabase(database) => Some((
                format!("slot {slot:?} belongs to database {database:?}"),
                "check conninfo, or set another postgres.slot".to_owned(),
            )),
            Self::OtherPlugin(plugin) => {
                let plugin = if plugin.is_empty() { "physical replication" } else { plugin };
                Some((
                    format!("slot {slot:?} was made for {plugin}, not for pgoutput"),
                    "set another postgres.slot".to_owned(),
                ))
            }
        }
    }
}

async fn refuse_to_recreate(
    client: &Client,
    plan: &Plan<'_>,
    store: StoreState,
) -> Result<(), SetupError> {
    let before = match (recall(client, "slot").await?, store) {
        (Some(slot), _) => slot,
        (None, StoreState::HasHistory) => plan.slot.to_owned(),
        (None, StoreState::Empty) => return Ok(()),
    };
    Err(SetupError::Slot {
        what: if before == plan.slot {
            format!("slot {before:?} was in use and is gone")
        } else {
            format!("this database was prepared with slot {before:?}, not {:?}", plan.slot)
        },
        advice: "a new slot would skip every change since; point conninfo and slot at the right \
                 database, or rebuild this site from another one"
            .to_owned(),
    })
}

async fn create_new(client: &Client, plan: &Plan<'_>) -> Result<(), SetupError> {
    let limit = format!("SET statement_timeout = '{CREATE_TIMEOUT}'");
    client.batch_execute(&limit).await.map_err(query("set a statement timeout"))?;
    let create = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    let created = client.execute(create, &[&plan.slot]).await;
    let unlimited = client.batch_execute("RESET statement_timeout").await;
    if let Err(error) = created {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return Err(SetupError::Slot {
                what: format!(
                    "slot {:?} could not be created within {CREATE_TIMEOUT}, because it must wait \
                     for write transactions that are open",
                    plan.slot
                ),
                advice: "end them (see pg_stat_activity and pg_prepared_xacts) and run init again"
                    .to_owned(),
            });
        }
        return Err(query(&format!("create slot {:?}", plan.slot))(error));
    }
    unlimited.map_err(query("reset the statement timeout"))
}
