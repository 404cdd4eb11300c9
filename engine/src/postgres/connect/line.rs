//! A connection to PostgreSQL that the world can strike, in test builds.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_postgres::Config;

use crate::plant::{self, Place};

/// Whether such a connection is wanted.
pub(super) fn is_to_be_struck(config: &Config) -> bool {
    // Status is asked as often as a test likes, which would count as steps.
    plant::is_planned(Place::Postgres) && config.get_application_name() != Some("landfall status")
}

/// Every write is a step.
#[derive(Debug)]
pub(super) struct Line(UnixStream);

impl Line {
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(UnixStream::connect(path).await?))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        plant::step_on_line(Place::Postgres)?;
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, buf));
        plant::step_on_line(Place::Postgres)?;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
