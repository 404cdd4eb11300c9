//! Do store and database belong together, or was one of them set back? See [`Bond`].
//!
//! The database keeps its token in `landfall.meta`. Whatever restores an older state of the
//! database, or of the store, brings an older token back.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::postgres::sql;
use crate::store::{Bond, Severity, Store, StoreError, Token};
use crate::{plant, random};

/// Session settings: the token must be durable when it is written, and waits for nobody.
pub const BOND_SETTINGS: &[(&str, &str)] = &[
    ("synchronous_commit", "local"),
    ("search_path", "pg_catalog"),
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
];

const READ: &str = "SELECT value FROM landfall.meta WHERE key = 'token'";
/// Whoever holds the row is waited for: it may be our own session of before, whose last statement
/// is still under way.
const LOCK: &str = "SELECT value FROM landfall.meta WHERE key = 'token' FOR UPDATE";
const MAKE_ROOM: &str =
    "INSERT INTO landfall.meta (key, value) VALUES ('token', '') ON CONFLICT (key) DO NOTHING";
const WRITE: &str = "UPDATE landfall.meta SET value = $1 WHERE key = 'token'";

/// Why store and database do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum BondError {
    /// The database has an earlier token, or none at all.
    #[error(
        "the database carries token {database}, this store knows {store}: the database was restored from a backup or is a copy; see docs/operations.md, \"a restored database\""
    )]
    DatabaseBehind {
        /// What the database carries.
        database: String,
        /// The newest that the store knows.
        store: u64,
    },
    /// The database has a later token.
    #[error(
        "the database carries token {database}, this store only knows {store}: the store was restored from a backup or is a copy; see docs/operations.md, \"a restored store\""
    )]
    StoreBehind {
        /// What the database carries.
        database: u64,
        /// The newest that the store knows.
        store: u64,
    },
    /// Both went on after they were parted.
    #[error(
        "database and store carry different tokens {0}: each went on with a copy of the other; see docs/operations.md, \"a restored store\""
    )]
    Parted(u64),
    /// `init` was not here, or somebody undid it.
    #[error("table landfall.meta is missing; run landfall-node init")]
    NotPrepared,
    /// A question was not answered.
    #[error("cannot compare the tokens of database and store: {}", sql::describe(.0))]
    Query(#[from] tokio_postgres::Error),
    /// As [`BondError::Query`], of a model.
    #[cfg(feature = "simulation")]
    #[error(transparent)]
    Model(#[from] crate::postgres::model::Fault),
    /// The operating system gives no random numbers.
    #[error("no random numbers from the operating system: {0}")]
    Random(getrandom::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BondError {
    /// Whether waiting alone may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Query(_) | Self::Random(_) => true,
            #[cfg(feature = "simulation")]
            Self::Model(_) => true,
            Self::Store(error) => error.severity() == Severity::Retry,
            _ => false,
        }
    }

    /// Whether the store is not what it was, so that nothing may be said in its name.
    pub fn speaks_against_store(&self) -> bool {
        matches!(self, Self::StoreBehind { .. } | Self::Parted(_))
    }
}

/// Compares the tokens.
///
/// # Errors
/// They differ, or one of them cannot be read.
pub async fn verify(client: &Client, store: &Store) -> Result<(), BondError> {
    verify_against(store, read(client)).await
}

/// As [`verify`], with a model's token.
#[cfg(feature = "simulation")]
pub(crate) async fn verify_modelled(
    session: &mut dyn crate::postgres::model::Session,
    store: &Store,
) -> Result<(), BondError> {
    let token = async { Ok(session.token().await?.and_then(|token| token.parse().ok())) };
    verify_against(store, token).await
}

async fn verify_against(
    store: &Store,
    read: impl Future<Output = Result<Option<Token>, BondError>>,
) -> Result<(), BondError> {
    // The token may be renewed while we look: what the store knew before and after both count.
    let before = store.bond().await?;
    let found = read.await?;
    let after = store.bond().await?;
    judge(before, found).or_else(|_| judge(after, found))
}

async fn read(client: &Client) -> Result<Option<Token>, BondError> {
    match client.query_opt(READ, &[]).await {
        Ok(row) => Ok(row.and_then(|row| row.get::<_, String>(0).parse().ok())),
        Err(error) if is_not_prepared(&error) => Err(BondError::NotPrepared),
        Err(error) => Err(error.into()),
    }
}

fn is_not_prepared(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::UNDEFINED_TABLE) || code == Some(&SqlState::INVALID_SCHEMA_NAME)
}

/// Gives both a new token. Only who holds the slot may do that.
///
/// # Errors
/// As [`verify`].
pub async fn renew(client: &mut Client, store: &Store, timeline: u32) -> Result<(), BondError> {
    let transaction = client.transaction().await?;
    transaction.execute(MAKE_ROOM, &[]).await?;
    let row = transaction.query_one(LOCK, &[]).await?;
    let found: Option<Token> = row.get::<_, String>(0).parse().ok();
    let next = intend(store, found, timeline).await?;
    plant::hang("unwritten-token").await;
    transaction.execute(WRITE, &[&next.to_string()]).await?;
    transaction.commit().await?;
    plant::hang("unconfirmed-token").await;
    confirm(store, next, timeline).await
}

/// As [`renew`], in a model.
#[cfg(feature = "simulation")]
pub(crate) async fn renew_modelled(
    session: &mut dyn crate::postgres::model::Session,
    store: &Store,
    timeline: u32,
) -> Result<(), BondError> {
    let found = session.lock_token().await?.and_then(|token| token.parse().ok());
    let next = intend(store, found, timeline).await?;
    session.write_token(&next.to_string()).await?;
    confirm(store, next, timeline).await
}

/// The next token, which the store knows from here on.
async fn intend(store: &Store, found: Option<Token>, timeline: u32) -> Result<Token, BondError> {
    let bond = store.bond().await?;
    judge(bond, found)?;
    let random = random::u64().map_err(BondError::Random)?;
    let next = Token { generation: bond.newest().saturating_add(1), random };
    let timeline = Some(timeline);
    store.set_bond(Bond { timeline, confirmed: found, intended: Some(next) }).await?;
    Ok(next)
}

/// The database has it.
async fn confirm(store: &Store, next: Token, timeline: u32) -> Result<(), BondError> {
    let timeline = Some(timeline);
    store.set_bond(Bond { timeline, confirmed: Some(next), intended: None }).await?;
    Ok(())
}

fn judge(bond: Bond, found: Option<Token>) -> Result<(), BondError> {
    let store = bond.newest();
    match found {
        Some(token) if [bond.confirmed, bond.intended].contains(&Some(token)) => Ok(()),
        None if bond.confirmed.is_none() => Ok(()),
        None => Err(BondError::DatabaseBehind { database: "none".to_owned(), store }),
        Some(Token { generation, .. }) if generation < store => {
            Err(BondError::DatabaseBehind { database: generation.to_string(), store })
        }
        Some(Token { generation, .. }) if generation > store => {
            Err(BondError::StoreBehind { database: generation, store })
        }
        Some(token) => Err(BondError::Parted(token.generation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(generation: u64) -> Option<Token> {
        Some(Token { generation, random: generation })
    }

    /// The store's bond after it confirmed `confirmed`, perhaps with the next one under way.
    fn bond(confirmed: Option<Token>, intended: Option<Token>) -> Bond {
        Bond { timeline: Some(1), confirmed, intended }
    }

    #[test]
    fn a_crash_between_the_two_writes_is_no_restore() {
        for known in [bond(None, None), bond(None, token(1))] {
            assert!(judge(known, None).is_ok(), "{known:?}");
        }
        assert!(judge(bond(None, token(1)), token(1)).is_ok());
        assert!(judge(bond(token(1), token(2)), token(1)).is_ok());
        assert!(judge(bond(token(1), token(2)), token(2)).is_ok());
        assert!(judge(bond(token(2), None), token(2)).is_ok());
        // One that never arrived leaves a gap in the count.
        assert!(judge(bond(token(1), token(3)), token(3)).is_ok());
    }

    #[test]
    fn whichever_was_set_back_is_named() {
        let database =
            |known, found| matches!(judge(known, found), Err(BondError::DatabaseBehind { .. }));
        assert!(database(bond(token(2), None), token(1)));
        assert!(database(bond(token(2), None), None));
        assert!(database(bond(token(2), token(3)), token(1)));
        let store =
            |known, found| matches!(judge(known, found), Err(BondError::StoreBehind { .. }));
        assert!(store(bond(token(2), None), token(3)));
        assert!(store(bond(token(2), token(3)), token(4)));
        assert!(store(bond(None, None), token(1)));
        let twin = Some(Token { generation: 2, random: 99 });
        assert!(matches!(judge(bond(token(2), None), twin), Err(BondError::Parted(2))));
    }

    #[test]
    fn tokens_read_back() {
        let token = Token { generation: 7, random: 0xfeed };
        assert_eq!(token.to_string().parse(), Ok(token));
        for text in ["", "7", "7.", ".feed", "7.xyz", "-1.feed"] {
            assert_eq!(text.parse::<Token>(), Err(()), "{text:?}");
        }
    }
}
