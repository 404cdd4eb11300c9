//! Does the publication still publish what the fleet replicates? What it does not publish is never
//! decoded, also later, when the publication has been put right: the server looks it up as it was
//! when a change was written.

use landfall_protocol::fleet::Fleet;
use landfall_protocol::schema::TableName;
use tokio_postgres::Client;

use crate::postgres::sql::{self, quote_table};

/// What is wrong with the publication.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// It is gone.
    #[error("publication \"{0}\" is missing; run landfall-node check to see what to do")]
    Missing(String),
    /// It publishes less than it should.
    #[error(
        "publication \"{publication}\" was changed: it {problem}, so such changes are not captured; run landfall-node init, and see docs/operations.md, \"a changed publication\""
    )]
    Changed {
        /// The publication.
        publication: String,
        /// What it does or does not.
        problem: String,
    },
    /// A question was not answered.
    #[error("cannot look at the publication: {}", sql::describe(.0))]
    Query(#[from] tokio_postgres::Error),
}

impl PublicationError {
    /// Whether waiting alone may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Query(_))
    }
}

const OPTIONS: &str = "
SELECT pubinsert, pubupdate, pubdelete, pubviaroot FROM pg_publication WHERE pubname = $1";

/// Per table of the fleet that is there: whether it is published, all its rows, all its columns.
const TABLES: &str = "
SELECT t.name,
       EXISTS (SELECT FROM pg_publication_tables p WHERE p.pubname = $1
               AND p.schemaname = n.nspname AND p.tablename = c.relname),
       NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid
                   WHERE b.pubname = $1 AND r.prrelid = c.oid AND r.prqual IS NOT NULL),
       NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid
                   WHERE b.pubname = $1 AND r.prrelid = c.oid AND r.prattrs IS NOT NULL)
FROM unnest($2::text[]) WITH ORDINALITY AS t(name, place)
JOIN pg_class c ON c.oid = to_regclass(t.name)
JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY t.place";

/// Looks at the publication.
///
/// # Errors
/// The first thing that is wrong with it.
pub async fn verify(
    client: &Client,
    publication: &str,
    fleet: &Fleet,
) -> Result<(), PublicationError> {
    let Some(row) = client.query_opt(OPTIONS, &[&publication]).await? else {
        return Err(PublicationError::Missing(publication.to_owned()));
    };
    let changed = |problem: String| PublicationError::Changed {
        publication: publication.to_owned(),
        problem,
    };
    for (column, kind) in ["inserts", "updates", "deletes"].into_iter().enumerate() {
        if !row.get::<_, bool>(column) {
            return Err(changed(format!("does not publish {kind}")));
        }
    }
    if !row.get::<_, bool>(3) {
        return Err(changed("publishes partitions instead of their tables".to_owned()));
    }
    let tables: Vec<&TableName> = fleet.tables().map(|(table, _)| table).collect();
    let names: Vec<String> = tables.iter().map(|table| quote_table(table)).collect();
    for row in client.query(TABLES, &[&publication, &names]).await? {
        let name: String = row.get(0);
        let flaws = [
            "does not have table",
            "has only some rows of table",
            "has only some columns of table",
        ];
        if let Some(flaw) = (0..flaws.len()).find(|flaw| !row.get::<_, bool>(flaw + 1)) {
            let table = tables.iter().find(|table| quote_table(table) == name);
            let table = table.map_or(name.clone(), ToString::to_string);
            return Err(changed(format!("{} {table}", flaws[flaw])));
        }
    }
    Ok(())
}
