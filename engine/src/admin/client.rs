//! A command's end of the admin socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::status::Status;
use super::talk::Talk;
use super::{ANSWER_BYTES_MAX, AdminError, Answer, Request};

/// How long a daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks a running daemon how it is.
///
/// # Errors
/// Nobody answers, or not in time, or not what was asked for.
pub async fn status(socket: &Path) -> Result<Status, AdminError> {
    let value = ask(socket, &Request::Status {}).await?;
    serde_json::from_value(value).map_err(|error| unexpected(socket, &error))
}

/// Asks a running daemon for something.
///
/// # Errors
/// Nobody answers, or not in time, or with a refusal.
pub async fn ask(socket: &Path, request: &Request) -> Result<serde_json::Value, AdminError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, exchange(socket, request)).await {
        Ok(answer) => answer,
        Err(_elapsed) => {
            Err(AdminError::TimedOut { path: socket.to_owned(), seconds: ANSWER_TIMEOUT.as_secs() })
        }
    }
}

/// Begins a conversation with a running daemon.
///
/// # Errors
/// Nobody answers.
pub async fn talk(socket: &Path, request: &Request) -> Result<Talk, AdminError> {
    let (from, to) = request_over(socket, request).await?.into_split();
    Ok(Talk::new(BufReader::new(from.take(ANSWER_BYTES_MAX)), to, None))
}

/// Connects and sends the line of a request.
async fn request_over(socket: &Path, request: &Request) -> Result<UnixStream, AdminError> {
    let failed = |source| AdminError::Socket { path: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AdminError::NotRunning(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => AdminError::NotAllowed(socket.to_owned()),
        _ => failed(error),
    })?;
    let mut line = serde_json::to_vec(request).expect("a request has only text keys");
    line.push(b'\n');
    stream.write_all(&line).await.map_err(failed)?;
    Ok(stream)
}

async fn exchange(socket: &Path, request: &Request) -> Result<serde_json::Value, AdminError> {
    let failed = |source| AdminError::Socket { path: socket.to_owned(), source };
    let (from, _to) = request_over(socket, request).await?.into_split();
    let mut answer = Vec::new();
    let mut from = BufReader::new(from.take(ANSWER_BYTES_MAX));
    from.read_until(b'\n', &mut answer).await.map_err(failed)?;
    if answer.is_empty() {
        // It went down while we asked.
        return Err(AdminError::NotRunning(socket.to_owned()));
    }
    match serde_json::from_slice(&answer).map_err(|error| unexpected(socket, &error))? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(sentence) => Err(AdminError::Refused(sentence)),
    }
}

fn unexpected(socket: &Path, error: &serde_json::Error) -> AdminError {
    AdminError::Unexpected { path: socket.to_owned(), problem: error.to_string() }
}
