//! `bundle read`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use landfall_protocol::bundle::BundleId;
use serde::{Deserialize as _, Serialize};
use serde_json::{Value, json};

use super::progress::Progress;
use super::write::header;
use super::{EXTENSION, user};
use crate::admin::bundle::{ReadAnswer, ReadAsk, ReadOutcome};
use crate::admin::talk::{FRAME_BYTES_MAX, Frame, Talk};
use crate::admin::{Answer, Request, client};
use crate::commands::exit::{Exit, Failure};
use crate::commands::{Format, Report};
use crate::config::{self, Program};
use crate::time::calendar::Utc;

/// What `bundle read` was told.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Files, and folders with files.
    pub paths: Vec<PathBuf>,
    /// Also what was read before.
    pub again: bool,
    /// For whom the progress is.
    pub format: Format,
}

/// What a file came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// What the daemon said.
    Answer(ReadAnswer),
    /// Why it could not be read.
    Error(String),
}

/// A file to be read. In this order parts come before those that build on them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// `None` of what is no part, which the daemon will say better.
    key: Option<(BundleId, u32)>,
    path: PathBuf,
}

/// Reads files and folders of files.
///
/// # Errors
/// A file is wrong, no daemon is running, or there is nothing to read.
pub async fn read(file: &Path, program: Program, told: Reading) -> Result<Report, Failure> {
    let (config, _) = config::load(file, program)?;
    let parts = parts(&told.paths)?;
    let socket = config.admin_socket();
    let mut progress = Progress::new(told.format == Format::Json);
    let lengths = parts.iter().filter_map(|part| fs::metadata(&part.path).ok());
    progress.total = lengths.map(|found| found.len()).sum();
    let mut outcomes = Vec::new();
    for part in parts {
        let outcome = read_part(&socket, &part.path, &told, &mut progress).await?;
        progress.line(&format!("{}: {}", part.path.display(), explained(&outcome)));
        outcomes.push((part.path, outcome));
    }
    drop(progress);
    Ok(report(outcomes))
}

/// All files in their order.
fn parts(paths: &[PathBuf]) -> Result<Vec<Part>, Failure> {
    let failed = |path: &Path, error: &io::Error| {
        Failure::new(Exit::Usage, format!("look at {}: {error}", path.display()))
    };
    let mut found = Vec::new();
    for path in paths {
        if fs::metadata(path).map_err(|error| failed(path, &error))?.is_dir() {
            for entry in fs::read_dir(path).map_err(|error| failed(path, &error))? {
                let inside = entry.map_err(|error| failed(path, &error))?.path();
                if inside.extension().is_some_and(|extension| extension == EXTENSION) {
                    found.push(inside);
                }
            }
        } else {
            found.push(path.clone());
        }
    }
    if found.is_empty() {
        let why = format!("there are no files *.{EXTENSION} to read");
        return Err(Failure::new(Exit::Usage, why));
    }
    let part = |path: PathBuf| {
        let header = header(&path).ok().flatten();
        Part { key: header.map(|(header, _)| (header.bundle, header.part)), path }
    };
    let mut parts: Vec<Part> = found.into_iter().map(part).collect();
    parts.sort_unstable();
    parts.dedup();
    Ok(parts)
}

async fn read_part(
    socket: &Path,
    path: &Path,
    told: &Reading,
    progress: &mut Progress,
) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Ok(Outcome::Error(format!("read the file: {error}")));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    let bytes = match file.metadata() {
        Ok(found) => found.len(),
        Err(error) => return failed(error),
    };
    let ask = ReadAsk { bytes, user: user(), again: told.again };
    let Talk { mut listening, mut saying, .. } =
        client::talk(socket, &Request::BundleRead { ask }).await?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let send = async {
        let mut file = file;
        let mut block = vec![0; FRAME_BYTES_MAX / 4];
        loop {
            let length = file.read(&mut block)?;
            if length == 0 {
                break;
            }
            if saying.data(&block[..length]).await.is_err() {
                // It has said why.
                return std::future::pending().await;
            }
            progress.advance(&name, length as u64);
        }
        match saying.end().await {
            Ok(()) => Ok::<(), io::Error>(()),
            Err(_) => std::future::pending().await,
        }
    };
    let answer = listening.next();
    tokio::pin!(send, answer);
    // It may have enough before it has all.
    let frame = tokio::select! {
        biased;
        frame = &mut answer => frame,
        sent = &mut send => match sent {
            Ok(()) => answer.await,
            Err(error) => return failed(error),
        },
    };
    let gone = |why: String| {
        let why = format!("the daemon went away: {why}; run the command again");
        Failure::new(Exit::Unreachable, why)
    };
    match frame.map_err(|error| gone(error.to_string()))? {
        Some(Frame::Json(value)) => understood(value),
        _ => Err(gone("it did not answer".to_owned())),
    }
}

fn understood(value: Value) -> Result<Outcome, Failure> {
    let odd = |error: serde_json::Error| {
        Failure::new(Exit::Internal, format!("read the daemon's answer: {error}"))
    };
    match Answer::deserialize(&value).map_err(odd)? {
        Answer::Ok(value) => ReadAnswer::deserialize(&value).map(Outcome::Answer).map_err(odd),
        Answer::Error(sentence) => Ok(Outcome::Error(sentence)),
    }
}

fn explained(outcome: &Outcome) -> String {
    let answer = match outcome {
        Outcome::Error(sentence) => return format!("not read: {sentence}"),
        Outcome::Answer(answer) => answer,
    };
    let ReadAnswer { part, writer, units, units_known, .. } = answer;
    let made = Utc(answer.made_ms);
    let why = answer.why.join("; ");
    let what = match answer.outcome {
        ReadOutcome::Read => format!("read, {units} units are new, {units_known} were known"),
        ReadOutcome::Known => "was read before".to_owned(),
        ReadOutcome::Waits => {
            format!("kept, and read by itself when what comes before it is here: {why}")
        }
        ReadOutcome::NotKept => {
            format!("not read and not kept; read it again when what comes before it is here: {why}")
        }
        ReadOutcome::Refused => format!("read in part, {units} units are new; refused: {why}"),
    };
    let freed = match answer.freed.len() {
        0 => String::new(),
        count => format!("; with it {count} parts that were kept"),
    };
    format!("part {part} by {writer} of {made}: {what}{freed}")
}

fn report(outcomes: Vec<(PathBuf, Outcome)>) -> Report {
    let freed: Vec<(String, u32)> = outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Error(_) => None,
        })
        .flat_map(|answer| answer.freed.iter().map(|part| (part.bundle.clone(), part.part)))
        .collect();
    let (mut read, mut waiting, mut failed, mut units) = (0, 0, 0, 0);
    for (_, outcome) in &outcomes {
        match outcome {
            Outcome::Error(_) => failed += 1,
            Outcome::Answer(answer) => {
                units += answer.units;
                let is_freed = freed.contains(&(answer.bundle.clone(), answer.part));
                match answer.outcome {
                    ReadOutcome::Read | ReadOutcome::Known => read += 1,
                    ReadOutcome::Waits if is_freed => read += 1,
                    ReadOutcome::Waits => waiting += 1,
                    ReadOutcome::NotKept | ReadOutcome::Refused => failed += 1,
                }
            }
        }
    }
    let text = format!(
        "{read} parts are read, {waiting} wait for others, {failed} could not be read; {units} units are new.\n"
    );
    let files: Vec<Value> = outcomes
        .iter()
        .map(|(path, outcome)| json!({ "file": path.display().to_string(), "outcome": outcome }))
        .collect();
    let json = json!({
        "read": read, "waiting": waiting, "failed": failed, "units": units, "files": files,
    });
    let exit = if waiting + failed == 0 { Exit::Ok } else { Exit::Unmet };
    Report { text, json, exit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_in_their_order_and_odd_files_first() {
        let id = |ms| BundleId::new(ms, [3; 16]);
        let part = |key| Part { key, path: PathBuf::from("x") };
        let mut parts = vec![
            part(Some((id(2), 1))),
            part(Some((id(1), 2))),
            part(None),
            part(Some((id(1), 1))),
        ];
        parts.sort_unstable();
        let keys: Vec<_> = parts.into_iter().map(|part| part.key).collect();
        assert_eq!(keys, [None, Some((id(1), 1)), Some((id(1), 2)), Some((id(2), 1))]);
    }
}
