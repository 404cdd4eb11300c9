//! `parked list` and `parked retry`: what could not be shown here.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Report;
use super::exit::{Exit, Failure};
use crate::admin::parked::{ParkedList, RetryAnswer};
use crate::admin::{Request, client};
use crate::config::{self, Program};

/// Says what is parked, of one table or of all.
///
/// # Errors
/// A file is wrong, or no daemon is running.
pub async fn list(file: &Path, program: Program, table: Option<String>) -> Result<Report, Failure> {
    let json = ask(file, program, &Request::ParkedList { table }).await?;
    let list: ParkedList = read(&json)?;
    Ok(Report::ok(list.explained(), json))
}

/// Has what is parked tried again at once.
///
/// # Errors
/// A file is wrong, no daemon is running, or nothing of the table is parked.
pub async fn retry(
    file: &Path,
    program: Program,
    table: Option<String>,
) -> Result<Report, Failure> {
    let json = ask(file, program, &Request::ParkedRetry { table }).await?;
    let RetryAnswer { changes } = read(&json)?;
    Ok(Report::ok(format!("{changes} parked changes are tried again; status tells more\n"), json))
}

async fn ask(file: &Path, program: Program, request: &Request) -> Result<Value, Failure> {
    let (config, _) = config::load(file, program)?;
    Ok(client::ask(&config.admin_socket(), request).await?)
}

fn read<T: DeserializeOwned>(json: &Value) -> Result<T, Failure> {
    T::deserialize(json)
        .map_err(|error| Failure::new(Exit::Internal, format!("read the daemon's answer: {error}")))
}
