//! The byte stream to the server: TCP, Unix socket or TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::plant::{self, Place};
use crate::postgres::connect::{ConnectError, PgHost, PgSettings};
use crate::postgres::tls::TlsMode;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
pub(super) enum WalSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl WalSocket {
    pub(super) async fn connect(settings: &PgSettings) -> Result<Self, ConnectError> {
        let unreachable = |e: io::Error| settings.unreachable(&e);
        let host = match (settings.host(), settings.address().socket_path()) {
            (PgHost::Tcp(host), _) => host,
            (PgHost::Unix(dir), path) => {
                let path = path.unwrap_or_else(|| dir.clone());
                return UnixStream::connect(path).await.map(Self::Unix).map_err(unreachable);
            }
        };
        let tcp = connect_tcp(host, settings.port()).await.map_err(unreachable)?;
        match settings.tls_mode() {
            TlsMode::Disable => Ok(Self::Tcp(tcp)),
            mode => negotiate_tls(settings, host, tcp, mode).await,
        }
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Status updates are tiny and a commit may wait for one.
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn negotiate_tls(
    settings: &PgSettings,
    host: &str,
    mut tcp: TcpStream,
    mode: TlsMode,
) -> Result<WalSocket, ConnectError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    let mut answer = [0];
    let asked = async {
        tcp.write_all(&request).await?;
        // One byte and no more: what follows must go through TLS, or somebody in between could
        // put words into the server's mouth.
        tcp.read_exact(&mut answer).await
    };
    asked.await.map_err(|e| settings.unreachable(&e))?;
    match (&answer, mode) {
        (b"S", _) => {}
        (b"N", TlsMode::Prefer) => return Ok(WalSocket::Tcp(tcp)),
        (b"N", _) => return Err(ConnectError::TlsRefused { address: settings.address().clone() }),
        _ => return Err(settings.failed("the answer to the request for TLS makes no sense")),
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| settings.failed("the host is no name that a certificate can carry"))?;
    let connector = TlsConnector::from(settings.tls_config());
    match Box::pin(connector.connect(name, tcp)).await {
        Ok(tls) => Ok(WalSocket::Tls(Box::new(tls))),
        Err(e) => Err(settings.unreachable(&e)),
    }
}

impl AsyncRead for WalSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WalSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        plant::step_on_line(Place::Postgres)?;
        let written = ready!(match &mut *self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        });
        plant::step_on_line(Place::Postgres)?;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }
}
