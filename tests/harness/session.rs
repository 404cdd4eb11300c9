//! A blocking PostgreSQL session for tests: text in, text out.

use std::fmt;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How much of a statement is shown in an error.
const SHOWN_BYTES: usize = 300;

/// One row as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// One open connection, for tests that hold a transaction open. Closed when dropped.
pub struct Session {
    // Dropped before the runtime, so that the server sees the client go.
    client: Client,
    runtime: Runtime,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("closed", &self.client.is_closed()).finish()
    }
}

impl Session {
    /// Connects by a key-value connection string.
    pub fn open(conninfo: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("build a runtime")?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(conninfo, NoTls))?;
        // How the connection ended is also told to whoever uses the client.
        runtime.spawn(async move { drop(connection.await) });
        Ok(Self { client, runtime })
    }

    /// Runs one or several statements, without a result.
    pub fn batch(&self, sql: &str) -> anyhow::Result<()> {
        let done = self.runtime.block_on(self.client.batch_execute(sql));
        done.with_context(|| format!("run {}", shorten(sql)))
    }

    /// Runs one or several statements and returns the rows of all of them as text.
    pub fn rows(&self, sql: &str) -> anyhow::Result<Vec<Row>> {
        let messages = self.runtime.block_on(self.client.simple_query(sql));
        let messages = messages.with_context(|| format!("run {}", shorten(sql)))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }
}

/// The SQLSTATE with which the server refused, if it is the server that spoke.
pub fn sqlstate(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<tokio_postgres::Error>()?.code().map(|state| state.code())
}

fn shorten(sql: &str) -> &str {
    &sql[..sql.floor_char_boundary(SHOWN_BYTES)]
}
