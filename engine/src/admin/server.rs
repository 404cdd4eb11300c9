//! The daemon's end of the admin socket.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::talk::Talk;
use super::{AdminError, Answer, REQUEST_BYTES_MAX, Request};

/// Connections served at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// How long a client may take to send its line, and again to take the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// A bound admin socket. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct AdminServer {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminServer {
    /// Binds the socket, for our user only. A file left behind by a killed daemon is replaced.
    ///
    /// # Errors
    /// Another daemon answers there, or the directory cannot be written to.
    pub fn bind(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Socket { path: path.to_owned(), source };
        match StdUnixStream::connect(path) {
            Ok(_) => return Err(AdminError::AlreadyRunning(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers requests until told to stop. What `handle` returns is the answer; its error is a
    /// sentence for the operator. Requests that begin a conversation go to `converse`, which answers
    /// in it. All run side by side, up to sixteen.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn serve<H, F, C, G>(
        self,
        stop: CancellationToken,
        handle: H,
        converse: C,
    ) -> Result<(), AdminError>
    where
        H: Fn(Request) -> F,
        F: Future<Output = Result<Value, String>>,
        C: Fn(Request, Talk) -> G,
        G: Future<Output = ()>,
    {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(()) = open.next(), if !open.is_empty() => {}
                accepted = self.listener.accept(), if open.len() < CONNECTIONS_MAX => {
                    let failed = |source| AdminError::Socket { path: self.path.clone(), source };
                    let (stream, _) = accepted.map_err(failed)?;
                    open.push(serve_one(stream, &handle, &converse));
                }
            }
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        // It may be gone with the whole directory; the next daemon copes with a leftover.
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve_one<H, F, C, G>(stream: UnixStream, handle: &H, converse: &C)
where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Value, String>>,
    C: Fn(Request, Talk) -> G,
    G: Future<Output = ()>,
{
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    let (from, mut to) = stream.into_split();
    let mut line = Vec::new();
    let mut from = BufReader::new(from.take(REQUEST_BYTES_MAX));
    let read = timeout(CLIENT_TIMEOUT, from.read_until(b'\n', &mut line)).await;
    if !matches!(read, Ok(Ok(_))) || line.is_empty() {
        return;
    }
    let answer = match serde_json::from_slice(&line) {
        Ok(request @ (Request::BundleWrite { .. } | Request::BundleRead { .. })) => {
            return converse(request, Talk::new(from, to, uid)).await;
        }
        Ok(request) => match handle(request).await {
            Ok(value) => Answer::Ok(value),
            Err(sentence) => Answer::Error(sentence),
        },
        Err(error) => Answer::Error(format!("request is not understood: {error}")),
    };
    let mut line = serde_json::to_vec(&answer).expect("an answer has only text keys");
    line.push(b'\n');
    if !matches!(timeout(CLIENT_TIMEOUT, to.write_all(&line)).await, Ok(Ok(()))) {
        tracing::debug!(bytes = line.len(), "an admin client did not take its answer");
    }
}
