//! The commands of both binaries: what they do, what they say and how they end.

pub mod bundle;
pub mod cli;
pub mod conflicts;
pub mod exit;
pub mod keygen;
pub mod parked;

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::Origin;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::admin::client;
use crate::admin::explain::Explained;
use crate::admin::wait::{self, Goal};
use crate::commands::exit::{Exit, Failure};
use crate::config::{self, ConfigError, DaemonConfig, PostgresConfig, Program};
use crate::daemon::{self, Prepared};
use crate::identity::{IdentityError, MemberKey};
use crate::postgres::check::{self, Finding, Severity};
use crate::postgres::connect::PgSettings;
use crate::postgres::setup::{self, Change, Done, Plan, StoreState};
use crate::store::DatabaseIdentity;
use crate::tasks::{Child, Tasks};
use crate::telemetry;

/// How facts are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For scripts, as one JSON document.
    Json,
}

/// What a command has to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// For people; ends with a line feed.
    pub text: String,
    /// For scripts.
    pub json: Value,
    /// How the command ends.
    pub exit: Exit,
}

impl Report {
    /// All is well.
    pub fn ok(text: String, json: Value) -> Self {
        Self { text, json, exit: Exit::Ok }
    }

    /// Prints it on standard output.
    ///
    /// # Errors
    /// Standard output cannot be written to. That somebody stopped reading it is no error.
    pub fn print(&self, format: Format) -> Result<Exit, Failure> {
        let text = match format {
            Format::Text => self.text.clone(),
            Format::Json => format!("{:#}\n", self.json),
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let message = format!("write to standard output: {error}");
                Err(Failure::new(Exit::Internal, message))
            }
            _ => Ok(self.exit),
        }
    }
}

/// Runs a command to its end and prints what it has to say.
///
/// # Errors
/// As the command, or there is nothing to run it on or to print it to.
pub fn finish(
    command: impl Future<Output = Result<Report, Failure>>,
    format: Format,
) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |error| Failure::new(Exit::Internal, format!("start the runtime: {error}"));
    runtime.map_err(failed)?.block_on(command)?.print(format)
}

/// Reads and checks all files.
///
/// # Errors
/// The first thing wrong; always with exit code 2.
pub fn prepare(file: &Path, program: Program) -> Result<Prepared, Failure> {
    let (config, fleet) = config::load(file, program)?;
    let postgres = config.postgres.as_ref().map(|postgres| settings(&config, postgres));
    let postgres = postgres.transpose()?;
    let key = MemberKey::load(&config.key_file).map_err(|error| missing_key(&config, error))?;
    let public = fleet.member(config.site).map(|member| member.key);
    if public != Some(key.public()) {
        let error = ConfigError::Invalid {
            file: config.fleet_file.clone(),
            line: None,
            key: String::new(),
            problem: format!(
                "member {:?} has another public key than {}, which is in {}; correct whichever is wrong",
                config.name,
                key.public(),
                config.key_file.display()
            ),
        };
        return Err(error.into());
    }
    Ok(Prepared { config, fleet, key, postgres })
}

fn missing_key(config: &DaemonConfig, error: IdentityError) -> Failure {
    let hint = match &error {
        IdentityError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            format!("; run {} keygen to make one", config.program.binary())
        }
        _ => String::new(),
    };
    Failure::new(Exit::Usage, format!("{error}{hint}"))
}

fn settings(config: &DaemonConfig, postgres: &PostgresConfig) -> Result<PgSettings, Failure> {
    let parsed = PgSettings::parse(&postgres.conninfo, postgres.ssl_root_cert.as_deref());
    parsed.map_err(|error| {
        let failure = Failure::from(error);
        let file = config.file.display();
        Failure { message: format!("{file}: postgres: {}", failure.message), ..failure }
    })
}

fn plan<'a>(
    config: &'a DaemonConfig,
    postgres: &'a PostgresConfig,
    fleet: &'a Fleet,
    settings: &'a PgSettings,
) -> Plan<'a> {
    Plan {
        fleet,
        member: &config.name,
        role: settings.user(),
        slot: &postgres.slot,
        publication: &postgres.publication,
        drift_max: config.limits.drift_max,
    }
}

/// A session with the task that drives it.
struct Session {
    client: Client,
    _driver: Child<()>,
}

async fn open(settings: &PgSettings, name: &str) -> Result<Session, Failure> {
    let (client, driver) = settings.connect(name, &[]).await?;
    let drive = async move {
        if let Err(error) = driver.await {
            // Whoever uses the client gets an error too, and that one is shown.
            tracing::debug!(%error, "the session ended");
        }
    };
    Ok(Session { client, _driver: Tasks::new().spawn_child("postgres session", drive) })
}

/// The SQL with which a DBA prepares the database. Needs no connection and no key.
///
/// # Errors
/// A file is wrong.
pub fn print_sql(file: &Path, program: Program) -> Result<Report, Failure> {
    let (config, fleet) = config::load(file, program)?;
    let Some(postgres) = &config.postgres else { return Ok(nothing_to_prepare(&config)) };
    let settings = settings(&config, postgres)?;
    let sql = setup::print_sql(&plan(&config, postgres, &fleet, &settings), program.binary());
    let json = json!({ "sql": sql });
    Ok(Report::ok(sql, json))
}

/// Prepares the database; see [`setup::init`].
///
/// # Errors
/// A file is wrong, PostgreSQL cannot be reached, or something stands in the way.
pub async fn init(file: &Path, program: Program) -> Result<Report, Failure> {
    let Prepared { config, fleet, postgres: settings, .. } = prepare(file, program)?;
    let (Some(postgres), Some(settings)) = (&config.postgres, &settings) else {
        return init_relay(&config);
    };
    let mut session = open(settings, "landfall init").await?;
    let store = match config.store_file().try_exists() {
        Ok(false) => StoreState::Empty,
        // When in doubt a slot is not made anew.
        Ok(true) | Err(_) => StoreState::HasHistory,
    };
    let plan = plan(&config, postgres, &fleet, settings);
    let mut steps = setup::init(&mut session.client, &plan, store).await?;
    if store == StoreState::Empty {
        let found = setup::identify(&session.client, &plan).await?;
        let database = DatabaseIdentity {
            system_identifier: found.system_identifier,
            database: found.database,
            slot: postgres.slot.clone(),
        };
        let origin = daemon::create_store(&config, Some(database), found.start.0)?;
        setup::remember_store(&session.client, origin.incarnation).await?;
        steps.push(Done { what: made_store(&config, origin), change: Change::Made });
    }
    let text: String = steps.iter().fold(String::new(), |text, done| {
        let change = match done.change {
            Change::Made => "made  ",
            Change::Found => "found ",
        };
        text + change + &done.what + "\n"
    });
    let json = json!({ "member": config.name, "steps": steps });
    Ok(Report::ok(text, json))
}

/// A hub that only relays has nothing but its store.
fn init_relay(config: &DaemonConfig) -> Result<Report, Failure> {
    let what = match config.store_file().try_exists() {
        Ok(false) => {
            format!("made  {}", made_store(config, daemon::create_store(config, None, 0)?))
        }
        Ok(true) | Err(_) => format!("found store {}", config.data_dir.display()),
    };
    let json = json!({ "member": config.name, "steps": [what] });
    Ok(Report::ok(what + "\n", json))
}

fn made_store(config: &DaemonConfig, origin: Origin) -> String {
    format!("store {} (incarnation {})", config.data_dir.display(), origin.incarnation)
}

fn nothing_to_prepare(config: &DaemonConfig) -> Report {
    let text = format!("-- {} has no [postgres] section: nothing to prepare\n", config.name);
    Report::ok(text, json!({ "member": config.name, "steps": [] }))
}

/// Says what is wrong with files, fleet and database, and what to do.
///
/// # Errors
/// A file is wrong, or PostgreSQL cannot be reached; anything else is in the report.
pub async fn check(file: &Path, program: Program) -> Result<Report, Failure> {
    let Prepared { config, fleet, postgres: settings, .. } = prepare(file, program)?;
    let mut findings = links(&config, &fleet);
    findings.extend(missing_store(&config));
    if let (Some(postgres), Some(settings)) = (&config.postgres, &settings) {
        let mut session = open(settings, "landfall check").await?;
        let plan = plan(&config, postgres, &fleet, settings);
        findings.extend(check::findings(&mut session.client, &plan).await?);
    }
    Ok(checked(&findings))
}

fn checked(findings: &[Finding]) -> Report {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut text = String::new();
    for finding in findings {
        text += &format!("{:<8} {}\n", finding.severity.as_str(), finding.what);
        if !finding.advice.is_empty() {
            text += &format!("         -> {}\n", finding.advice);
        }
    }
    text += &format!("{errors} errors, {warnings} warnings\n");
    let json = json!({ "errors": errors, "warnings": warnings, "findings": findings });
    Report { text, json, exit: if errors > 0 { Exit::Unmet } else { Exit::Ok } }
}

fn missing_store(config: &DaemonConfig) -> Option<Finding> {
    // One that cannot be looked for is for `run` to complain about.
    let is_there = config.store_file().try_exists().unwrap_or(true);
    let what = || format!("there is no store in {}", config.data_dir.display());
    (!is_there).then(|| Finding::error(what(), "check data_dir, or run init"))
}

/// What the files say about who can reach whom.
fn links(config: &DaemonConfig, fleet: &Fleet) -> Vec<Finding> {
    let announced = fleet.member(config.site).is_some_and(|member| !member.addresses.is_empty());
    let mut findings = Vec::new();
    match (announced, config.listen) {
        (true, None) => findings.push(Finding::warning(
            format!("the fleet file gives {:?} addresses, but it does not listen", config.name),
            "set listen, or take the addresses out of the fleet file",
        )),
        (false, Some(listen)) => findings.push(Finding::warning(
            format!(
                "{:?} listens at {listen}, but has no addresses in the fleet file",
                config.name
            ),
            "add addresses to its entry, or leave listen out",
        )),
        _ => {}
    }
    if config.link.dial.is_empty() && config.listen.is_none() {
        findings.push(Finding::error(
            format!("{:?} neither dials anybody nor listens", config.name),
            "give another member addresses in the fleet file, or set listen",
        ));
    }
    if findings.is_empty() {
        let names: Vec<_> = config.link.dial.iter().map(|site| fleet.name_of(*site)).collect();
        let dials = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        findings.push(Finding::ok(format!("{:?} dials {dials}", config.name)));
    }
    findings
}

/// Checks every file of a daemon, then runs it until it is told to stop.
///
/// # Errors
/// A file is wrong, the daemon cannot start, or one of its parts failed.
pub fn run(file: &Path, program: Program) -> Result<Exit, Failure> {
    let prepared = prepare(file, program)?;
    telemetry::init(prepared.config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let failed = |error| Failure::new(Exit::Internal, format!("start the runtime: {error}"));
    runtime.map_err(failed)?.block_on(daemon::run(prepared))?;
    Ok(Exit::Ok)
}

/// What the running daemon says about itself.
///
/// # Errors
/// A file is wrong, or no daemon is running.
pub async fn status(file: &Path, program: Program) -> Result<Report, Failure> {
    let (config, _) = config::load(file, program)?;
    let status = client::status(&config.admin_socket()).await?;
    let json = serde_json::to_value(&status)
        .map_err(|error| Failure::new(Exit::Internal, format!("print the status: {error}")))?;
    Ok(Report::ok(Explained(&status).to_string(), json))
}

/// Waits until the fleet has got somewhere; see [`wait::wait`].
///
/// # Errors
/// A file is wrong, no daemon is running or it stands still, or time is up.
pub async fn wait(
    file: &Path,
    program: Program,
    goal: Goal,
    limit: Duration,
) -> Result<Report, Failure> {
    let (config, _) = config::load(file, program)?;
    wait::wait(&config.admin_socket(), goal, limit).await?;
    let word = match goal {
        Goal::Delivered => "delivered",
        Goal::Converged => "converged",
    };
    Ok(Report::ok(format!("{word}\n"), json!({ "reached": word })))
}
