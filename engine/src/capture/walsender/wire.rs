//! Messages of the PostgreSQL protocol over one byte stream, with bounded memory.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::ServerError;
use crate::capture::long::{Condenser, LongTexts};
use crate::capture::pgoutput::Texts;
use crate::capture::scratch::ScratchError;
use landfall_protocol::value::INLINE_BYTES_MAX;

/// What is read at once when messages are small.
const CHUNK_BYTES: usize = 256 << 10;
/// Less free space than this and the buffer gets a new chunk.
const FREE_BYTES_MIN: usize = 64 << 10;
/// A message above this had a buffer of its own, which goes with it.
const SHRINK_BYTES: usize = 1 << 20;
/// Tag and length.
const HEADER_BYTES: usize = 5;

/// Below the level of replication: what can go wrong with any message.
#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(String),
    #[error(transparent)]
    Server(ServerError),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

/// One message of the server: its tag and what follows the length.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) tag: u8,
    pub(super) body: Bytes,
    pub(super) texts: Texts,
}

/// Both directions of one connection. Everything half-done is kept here and not in futures, so
/// that any future may be dropped at any time.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    incoming: BytesMut,
    message_bytes_max: usize,
    outgoing: BytesMut,
    unflushed: bool,
    /// Where long texts of replicated rows are put aside.
    texts: Option<Arc<LongTexts>>,
    /// A large message that is being received.
    condensing: Option<Condenser>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// `message_bytes_max` bounds one message, its header included.
    pub(super) fn new(stream: S, message_bytes_max: usize) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            message_bytes_max,
            outgoing: BytesMut::new(),
            unflushed: false,
            texts: None,
            condensing: None,
        }
    }

    pub(super) fn set_message_bytes_max(&mut self, bytes: usize) {
        self.message_bytes_max = bytes;
    }

    /// From now on long texts of replicated rows are put aside.
    pub(super) fn put_aside(&mut self, texts: Arc<LongTexts>) {
        self.texts = Some(texts);
    }

    /// The next message, if all of it has been read.
    fn try_packet(&mut self) -> Result<Option<Packet>, WireError> {
        if self.condensing.is_some() {
            return self.condense();
        }
        let Some(total) = self.total_bytes()? else { return Ok(None) };
        if self.texts.is_some() && total > INLINE_BYTES_MAX && self.incoming[0] == b'd' {
            self.incoming.advance(HEADER_BYTES);
            self.condensing = Some(Condenser::new(total - HEADER_BYTES));
            return self.condense();
        }
        if self.incoming.len() < total {
            return Ok(None);
        }
        let mut body = self.incoming.split_to(total).freeze();
        let tag = body.get_u8();
        body.advance(HEADER_BYTES - 1);
        if total > SHRINK_BYTES {
            // What is left shares the huge allocation and would keep it for ever.
            let mut fresh = BytesMut::with_capacity(CHUNK_BYTES.max(self.incoming.len()));
            fresh.extend_from_slice(&self.incoming);
            self.incoming = fresh;
        }
        Ok(Some(Packet { tag, body, texts: Texts::Whole }))
    }

    fn condense(&mut self) -> Result<Option<Packet>, WireError> {
        let (Some(condenser), Some(texts)) = (&mut self.condensing, &self.texts) else {
            return Ok(None);
        };
        let Some(condensed) = condenser.feed(&mut self.incoming, texts)? else { return Ok(None) };
        self.condensing = None;
        Ok(Some(Packet { tag: b'd', body: condensed.body, texts: condensed.texts }))
    }

    /// How long the message at the head of the buffer is, header included, once that is known.
    fn total_bytes(&self) -> Result<Option<usize>, WireError> {
        let Some(header) = self.incoming.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [tag, length @ ..] = *header;
        let length = i32::from_be_bytes(length);
        let total = usize::try_from(length).ok().filter(|n| *n >= 4).map(|n| n + 1);
        match total {
            Some(total) if total <= self.message_bytes_max => Ok(Some(total)),
            _ => Err(WireError::Protocol(format!(
                "message {:?} has length {length}, allowed are 4 to {}",
                char::from(tag),
                self.message_bytes_max - 1
            ))),
        }
    }

    /// The next message; `None` when the server closed the connection between two messages.
    /// Sends what is queued while it waits. Cancel-safe.
    pub(super) async fn packet(&mut self) -> Result<Option<Packet>, WireError> {
        loop {
            if let Some(packet) = self.try_packet()? {
                return Ok(Some(packet));
            }
            if self.fill().await? == 0 {
                if self.incoming.is_empty() && self.condensing.is_none() {
                    return Ok(None);
                }
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn fill(&mut self) -> Result<usize, WireError> {
        self.make_room()?;
        Ok(poll_fn(|cx| self.poll_exchange(cx)).await?)
    }

    fn make_room(&mut self) -> Result<(), WireError> {
        let held = self.incoming.len();
        let missing = match self.condensing {
            Some(_) => 0,
            None => self.total_bytes()?.map_or(0, |total| total.saturating_sub(held)),
        };
        if missing > FREE_BYTES_MIN {
            // Never more than doubled at once: the length is only a claim until the bytes come.
            self.incoming.reserve(missing.min(held.max(CHUNK_BYTES)));
        } else if self.incoming.capacity() - held < FREE_BYTES_MIN {
            self.incoming.reserve(CHUNK_BYTES);
        }
        Ok(())
    }

    /// Writes what it can, and is ready when something was read (0 = end).
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let written = self.poll_send(cx);
        let read = pin!(self.stream.read_buf(&mut self.incoming)).poll(cx);
        match (read, written) {
            // A server that went away in the middle of our write mostly said why before. So what
            // can be read comes first.
            (Poll::Pending, Poll::Ready(Err(e))) => Poll::Ready(Err(e)),
            (read, _) => read,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outgoing))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(n);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues a message; `write` appends it to the buffer.
    pub(super) fn queue(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.outgoing);
    }

    /// Nothing that was queued is left.
    pub(super) fn is_sent(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Takes back the last `bytes` of what is queued, unless some of them are on their way.
    pub(super) fn unqueue(&mut self, bytes: usize) -> Option<BytesMut> {
        let keep = self.outgoing.len().checked_sub(bytes)?;
        Some(self.outgoing.split_off(keep))
    }

    /// Sends all that is queued. Cancel-safe: what is left goes with the next call, or while
    /// waiting for a packet.
    pub(super) async fn send(&mut self) -> Result<(), WireError> {
        Ok(poll_fn(|cx| self.poll_send(cx)).await?)
    }
}

/// Reads the fields of a server's message. Each getter fails where the message ends early.
pub(super) struct Fields {
    what: &'static str,
    body: Bytes,
}

impl Fields {
    pub(super) fn of(what: &'static str, body: Bytes) -> Self {
        Self { what, body }
    }

    fn short<E>(&self) -> impl FnOnce(E) -> WireError {
        let what = self.what;
        move |_| WireError::Protocol(format!("{what} message is cut short"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.body.try_get_u8().map_err(self.short())
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.body.try_get_u16().map_err(self.short())
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.body.try_get_i32().map_err(self.short())
    }

    pub(super) fn i64(&mut self) -> Result<i64, WireError> {
        self.body.try_get_i64().map_err(self.short())
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.body.try_get_u64().map_err(self.short())
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, WireError> {
        if count > self.body.len() {
            return Err(self.short()(()));
        }
        Ok(self.body.split_to(count))
    }

    /// A zero-terminated text; `None` for the empty one that ends a list.
    pub(super) fn text(&mut self) -> Result<Option<String>, WireError> {
        let end = self.body.iter().position(|b| *b == 0);
        let end = end.ok_or(()).map_err(self.short())?;
        let text = self.bytes(end)?;
        self.body.advance(1);
        Ok((end > 0).then(|| String::from_utf8_lossy(&text).into_owned()))
    }

    pub(super) fn rest(self) -> Bytes {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    const LIMIT: usize = 8 << 20;

    fn pair() -> (Wire<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(1 << 16);
        (Wire::new(ours, LIMIT), theirs)
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("small");
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime")
    }

    #[test]
    fn lengths_out_of_range_are_refused_before_anything_is_reserved() {
        runtime().block_on(async {
            for length in [i32::MIN, -1, 0, 3, LIMIT as i32, i32::MAX] {
                let (mut wire, mut server) = pair();
                server.write_all(b"d").await.expect("write");
                server.write_all(&length.to_be_bytes()).await.expect("write");
                let error = wire.packet().await.expect_err("refused");
                assert!(matches!(error, WireError::Protocol(_)), "{length}: {error}");
                assert!(wire.incoming.capacity() <= CHUNK_BYTES);
            }
        });
    }

    #[test]
    fn claimed_length_reserves_only_as_bytes_arrive() {
        runtime().block_on(async {
            let (mut wire, mut server) = pair();
            server.write_all(b"d").await.expect("write");
            server.write_all(&(LIMIT as i32 - 1).to_be_bytes()).await.expect("write");
            drop(server);
            let error = wire.packet().await.expect_err("cut");
            assert!(matches!(error, WireError::Io(_)), "{error}");
            assert!(wire.incoming.capacity() <= 2 * CHUNK_BYTES);
        });
    }

    #[test]
    fn buffer_shrinks_after_a_huge_message() {
        runtime().block_on(async {
            let (mut wire, mut server) = pair();
            let huge = message(b'd', &vec![7; LIMIT - HEADER_BYTES]);
            let small = message(b'd', b"x");
            let write = async {
                server.write_all(&huge).await.expect("write");
                server.write_all(&small).await.expect("write");
            };
            let read = async {
                let first = wire.packet().await.expect("read").expect("packet");
                assert_eq!(first.body.len(), LIMIT - HEADER_BYTES);
                drop(first);
                let second = wire.packet().await.expect("read").expect("packet");
                assert_eq!(&second.body[..], b"x");
            };
            tokio::join!(write, read);
            drop(server);
            assert!(wire.packet().await.expect("end").is_none());
            assert!(wire.incoming.capacity() <= 2 * CHUNK_BYTES);
        });
    }

    #[test]
    fn dropped_futures_tear_neither_reads_nor_writes() {
        runtime().block_on(async {
            let (ours, mut server) = duplex(3);
            let mut wire = Wire::new(ours, LIMIT);
            let incoming = message(b'd', b"from the server");
            let outgoing = message(b'd', b"to the server");
            wire.queue(|out| out.extend_from_slice(&outgoing));
            let (mut got, mut received, mut sent) = (None, Vec::new(), 0);
            // Three bytes fit on the way in each direction; every round drops the read future.
            while got.is_none() || received.len() < outgoing.len() {
                if sent < incoming.len() {
                    let n = incoming.len().min(sent + 3);
                    server.write_all(&incoming[sent..n]).await.expect("write");
                    sent = n;
                }
                tokio::select! {
                    biased;
                    packet = wire.packet() => got = packet.expect("read"),
                    () = std::future::ready(()) => {}
                }
                let mut bytes = [0; 3];
                tokio::select! {
                    biased;
                    n = server.read(&mut bytes) => {
                        received.extend_from_slice(&bytes[..n.expect("read")]);
                    }
                    () = std::future::ready(()) => {}
                }
            }
            assert_eq!(&got.expect("packet").body[..], b"from the server");
            assert_eq!(received, outgoing);
            assert!(wire.outgoing.is_empty());
        });
    }

    #[test]
    fn text_fields_end_at_the_zero_or_fail() {
        let mut fields = Fields::of("test", Bytes::from_static(b"ab\0\0rest"));
        assert_eq!(fields.text().expect("text").as_deref(), Some("ab"));
        assert_eq!(fields.text().expect("end"), None);
        assert!(fields.text().is_err());
        assert!(fields.bytes(5).is_err());
        assert_eq!(&fields.rest()[..], b"rest");
    }
}
