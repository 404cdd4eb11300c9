//! Serves the [metrics](super::metrics) over HTTP, to whoever can reach the address.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::status::Status;
use super::{AdminError, metrics};

/// Connections served at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;
/// How long one connection may take in all.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the system had no descriptor left for a connection.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// Largest request, in bytes.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// A bound address.
#[derive(Debug)]
pub struct MetricsServer(TcpListener);

impl MetricsServer {
    /// Binds the address.
    ///
    /// # Errors
    /// It is taken, or not one of this machine's.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let listener = TcpListener::bind(address).await;
        Ok(Self(listener.map_err(|source| AdminError::Metrics { address, source })?))
    }

    /// Answers `GET /metrics` until told to stop, each time with a new status.
    ///
    /// # Errors
    /// None: what fails is a client's affair, or is tried again.
    pub async fn serve<H, F>(self, stop: CancellationToken, status: H) -> Result<(), Infallible>
    where
        H: Fn() -> F,
        F: Future<Output = Result<Status, String>>,
    {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(()) = open.next(), if !open.is_empty() => {}
                stream = self.accept(), if open.len() < CONNECTIONS_MAX => {
                    open.push(serve_one(stream, &status));
                }
            }
        }
    }

    async fn accept(&self) -> TcpStream {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::info!(%error, "a connection for metrics was not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

async fn serve_one<H, F>(stream: TcpStream, status: &H)
where
    H: Fn() -> F,
    F: Future<Output = Result<Status, String>>,
{
    let answer = |request| answer(request, status);
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    if !matches!(timeout(CLIENT_TIMEOUT, connection).await, Ok(Ok(()))) {
        tracing::debug!("a client did not take its metrics");
    }
}

async fn answer<H, F>(
    request: Request<Incoming>,
    status: &H,
) -> Result<Response<String>, hyper::http::Error>
where
    H: Fn() -> F,
    F: Future<Output = Result<Status, String>>,
{
    let refuse = |code: StatusCode, why: String| {
        Response::builder().status(code).header(CONTENT_TYPE, "text/plain").body(why + "\n")
    };
    if request.uri().path() != "/metrics" {
        return refuse(StatusCode::NOT_FOUND, "there is only /metrics".to_owned());
    }
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "metrics are only read".to_owned());
    }
    match status().await {
        Ok(status) => Response::builder()
            .header(CONTENT_TYPE, metrics::CONTENT_TYPE)
            .body(metrics::encode(status)),
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}
