//! Says in sentences what stands in the way of replication, and what to do about it.
//!
//! Facts are gathered first; the judges in the submodules are plain functions over them.

use serde::Serialize;
use tokio_postgres::Client;

use super::catalog;
use super::setup::{self, Plan, SetupError};

mod claims;
mod columns;
mod objects;
mod rules;
mod server;
mod tables;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, but will surprise somebody.
    Warning,
    /// Replication cannot work, or would lose data.
    Error,
}

impl Severity {
    /// As printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do; empty when nothing needs doing.
    pub advice: String,
    /// Whether `init` puts it right.
    #[serde(skip)]
    pub init_cures: bool,
}

impl Finding {
    /// All is well.
    pub fn ok(what: impl Into<String>) -> Self {
        Self::new(Severity::Ok, what.into(), String::new())
    }

    /// All is well, with something worth knowing.
    pub fn hint(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Ok, what.into(), advice.into())
    }

    /// It works, but.
    pub fn warning(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Warning, what.into(), advice.into())
    }

    /// It cannot work.
    pub fn error(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Error, what.into(), advice.into())
    }

    fn cured_by_init(what: impl Into<String>) -> Self {
        let finding = Self::error(what, "run init, or have an administrator run its --print-sql");
        Self { init_cures: true, ..finding }
    }

    fn new(severity: Severity, what: String, advice: String) -> Self {
        Self { severity, what, advice, init_cures: false }
    }

    /// Finding and advice in one.
    pub fn sentence(&self) -> String {
        if self.advice.is_empty() {
            self.what.clone()
        } else {
            format!("{}: {}", self.what, self.advice)
        }
    }
}

/// Looks at everything replication needs of this database. Changes nothing.
///
/// # Errors
/// The connection failed; what is wrong with the database is a finding.
pub async fn findings(client: &mut Client, plan: &Plan<'_>) -> Result<Vec<Finding>, SetupError> {
    let server = server::gather(client, plan).await?;
    let mut findings = server::judge(&server, plan);
    if server.is_too_old() {
        // Older versions lack the catalogs and functions that everything below asks for.
        return Ok(findings);
    }
    let catalog = catalog::read(client, plan.fleet).await?;
    findings.extend(tables::judge(&catalog, plan.fleet, server.bypasses_row_security));
    findings.extend(objects::judge(&objects::gather(client, plan.fleet).await?));
    let pending = setup::pending(client, plan).await?;
    let of_missing = |step: &setup::Step| {
        step.table.as_ref().is_some_and(|table| catalog.missing.contains(table))
    };
    let undone: Vec<_> = pending.iter().filter(|step| !of_missing(step)).collect();
    if pending.iter().any(|step| step.what == setup::SCHEMA_IS_THERE) {
        // One sentence instead of one for each of the steps.
        let (count, all) = (undone.len(), setup::steps(plan).len());
        findings.push(Finding::cured_by_init(format!(
            "this database is not prepared for Landfall: {count} of {all} steps are not done"
        )));
        return Ok(findings);
    }
    findings.extend(undone.iter().map(|step| {
        Finding::cured_by_init(format!("init has not yet seen to it that {}", step.what))
    }));
    if pending.is_empty() {
        let tables = catalog.tables.len();
        findings.push(Finding::ok(format!(
            "schema landfall, publication {:?} and {tables} tables are prepared",
            plan.publication
        )));
    }
    Ok(findings)
}
