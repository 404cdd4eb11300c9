//! A UDP socket that the world can strike, in test builds.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};

use crate::plant::{self, Place};

/// Every datagram sent is a step.
#[derive(Debug)]
pub(super) struct Struck(Arc<dyn AsyncUdpSocket>);

impl Struck {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self(TokioRuntime.wrap_udp_socket(socket)?))
    }
}

impl AsyncUdpSocket for Struck {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if plant::step(Place::Quic).is_some() {
            // quinn's own socket notes what the system says, and goes on as after a lost datagram.
            return Ok(());
        }
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}
