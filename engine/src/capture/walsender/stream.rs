//! The running stream: frames in, reports of positions out.

use std::sync::Arc;
use std::time::SystemTime;

use crate::postgres::lsn::Lsn;
use bytes::{BufMut, Bytes};
use postgres_protocol::message::frontend;

use super::super::long::LongTexts;
use super::super::pgoutput::{PgTime, Texts};
use super::socket::WalSocket;
use super::wire::{Fields, Packet, Wire, WireError};
use super::{WalsenderError, end_of_file, read_server_error, server_error, unexpected_packet};

/// A standby status update: copy header, kind, three positions, time, flag.
const STATUS_BYTES: usize = 5 + 1 + 3 * 8 + 8 + 1;

const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";

/// What the stream delivers.
#[derive(Clone, Debug)]
pub enum Frame {
    /// One message of the output plugin.
    XLogData {
        /// The change's own position, zero for some kinds. Not a position to confirm.
        start: Lsn,
        /// How far the server's log was. Not a position to confirm.
        wal_end: Lsn,
        /// When it was sent.
        sent_at: PgTime,
        /// The message, for [`pgoutput::decode_with`](super::super::pgoutput::decode_with).
        data: Bytes,
        /// Whether texts of it were put aside.
        texts: Texts,
    },
    /// The server is alive and has sent everything up to `wal_end`.
    Keepalive {
        /// Confirm this as flushed when nothing received is still unwritten, or the log piles
        /// up and a fast shutdown of the server hangs.
        wal_end: Lsn,
        /// When it was sent.
        sent_at: PgTime,
        /// A status update is due at once, or the server will hang up.
        reply_requested: bool,
    },
    /// The server ended the stream in an orderly way, mostly because it shuts down. Nothing
    /// follows.
    Ended,
}

/// How far we are, for [`WalStream::queue_status`]. Never let a position go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received. Releases commits under `synchronous_commit = remote_write`.
    pub write: Lsn,
    /// Durable here: the slot moves to it and the server may forget the log before it.
    pub flush: Lsn,
    /// Durable at enough others. Releases commits under `synchronous_commit = remote_apply`.
    pub apply: Lsn,
    /// Whether the server shall answer.
    pub reply: Reply,
}

/// Whether the server shall answer a status update with a keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It need not.
    NotNeeded,
    /// It shall, at once.
    Requested,
}

/// A running stream of changes.
#[derive(Debug)]
pub struct WalStream {
    wire: Wire<WalSocket>,
    activity: String,
    ended: bool,
}

impl WalStream {
    pub(super) fn new(wire: Wire<WalSocket>, activity: String) -> Self {
        Self { wire, activity, ended: false }
    }

    /// From now on texts too long to be kept in memory go there while they are received, and the
    /// messages that held them have a note in their place.
    pub fn put_aside(&mut self, texts: Arc<LongTexts>) {
        self.wire.put_aside(texts);
    }

    /// The next frame. Sends what is queued while it waits. Cancel-safe.
    ///
    /// # Errors
    /// The server reports an error, the connection breaks, or the bytes make no sense. The
    /// stream is of no further use then.
    pub async fn next(&mut self) -> Result<Frame, WalsenderError> {
        loop {
            if self.ended {
                return Ok(Frame::Ended);
            }
            let packet = match self.wire.packet().await {
                Ok(Some(packet)) => packet,
                Ok(None) => return Err(self.error(end_of_file())),
                Err(e) => return Err(self.error(e)),
            };
            if let Some(frame) = self.frame(packet)? {
                return Ok(frame);
            }
        }
    }

    fn frame(&mut self, packet: Packet) -> Result<Option<Frame>, WalsenderError> {
        match packet.tag {
            b'd' => copy_frame(packet.body, packet.texts).map(Some).map_err(|e| self.error(e)),
            b'E' => Err(self.error(server_error(packet.body))),
            // An orderly shutdown sends CommandComplete, the answer to our own end CopyDone.
            b'c' | b'C' => {
                self.ended = true;
                Ok(Some(Frame::Ended))
            }
            b'N' => self.heed(packet.body).map(|()| None),
            b'S' | b'A' => Ok(None),
            tag => Err(unexpected_packet(&self.activity, tag)),
        }
    }

    /// Since version 18 a publication that was missing when a change was written is no error to the
    /// server: it warns, and leaves the change out.
    fn heed(&self, notice: Bytes) -> Result<(), WalsenderError> {
        match read_server_error(notice) {
            Ok(warning) if warning.sqlstate == OBJECT_NOT_IN_PREREQUISITE_STATE => {
                let activity = self.activity.clone();
                Err(WalsenderError::ChangesLeftOut { activity, warning })
            }
            _ => Ok(()),
        }
    }

    /// Queues a report of positions; [`Self::next`] sends it while it waits,
    /// [`Self::flush_writes`] at once. A report that is still queued whole is replaced.
    /// `now` only shows in `pg_stat_replication.reply_time`.
    pub fn queue_status(&mut self, status: StandbyStatus, now: SystemTime) {
        let replaced = self.wire.unqueue(STATUS_BYTES);
        let asked = replaced.is_some_and(|report| report.last() == Some(&1));
        let reply = asked || status.reply == Reply::Requested;
        self.wire.queue(|out| {
            out.put_u8(b'd');
            out.put_u32(STATUS_BYTES as u32 - 1);
            out.put_u8(b'r');
            out.put_u64(status.write.get());
            out.put_u64(status.flush.get());
            out.put_u64(status.apply.get());
            out.put_i64(PgTime::from(now).0);
            out.put_u8(u8::from(reply));
        });
    }

    /// Sends what is queued. Cancel-safe: the rest goes with the next call of this or
    /// [`Self::next`].
    ///
    /// # Errors
    /// The connection is broken. [`Self::next`] may still know why.
    pub async fn flush_writes(&mut self) -> Result<(), WalsenderError> {
        self.wire.send().await.map_err(|e| WalsenderError::of_wire(&self.activity, e))
    }

    /// Sends what is queued, says goodbye and waits until the server has let go of the slot.
    /// What it still sends is thrown away. Give it a deadline: a server busy with a large
    /// transaction answers late.
    ///
    /// # Errors
    /// The connection was broken before the goodbye was sent.
    pub async fn close(mut self) -> Result<(), WalsenderError> {
        self.wire.queue(frontend::terminate);
        // Reading goes on meanwhile, so that a server that waits for us to read can hear us.
        loop {
            match self.wire.packet().await {
                Ok(Some(_)) => {}
                // Gone is what we want, however it goes.
                Ok(None) => return Ok(()),
                Err(_) if self.wire.is_sent() => return Ok(()),
                Err(e) => return Err(self.error(e)),
            }
        }
    }

    fn error(&self, error: WireError) -> WalsenderError {
        WalsenderError::of_wire(&self.activity, error)
    }
}

pub(super) fn copy_frame(body: Bytes, texts: Texts) -> Result<Frame, WireError> {
    let mut fields = Fields::of("replication", body);
    match fields.u8()? {
        b'w' => Ok(Frame::XLogData {
            start: Lsn(fields.u64()?),
            wal_end: Lsn(fields.u64()?),
            sent_at: PgTime(fields.i64()?),
            data: fields.rest(),
            texts,
        }),
        b'k' => Ok(Frame::Keepalive {
            wal_end: Lsn(fields.u64()?),
            sent_at: PgTime(fields.i64()?),
            reply_requested: fields.u8()? != 0,
        }),
        kind => Err(WireError::Protocol(format!(
            "replication message of unknown kind {:?}",
            char::from(kind)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::STREAM_MESSAGE_BYTES_MAX;

    fn run<F: Future<Output = ()>>(test: impl FnOnce(WalStream, UnixStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("runtime").block_on(async {
            let (ours, theirs) = UnixStream::pair().expect("pair");
            let wire = Wire::new(WalSocket::Unix(ours), STREAM_MESSAGE_BYTES_MAX);
            test(WalStream::new(wire, "test".to_owned()), theirs).await;
        });
    }

    #[test]
    fn newer_report_replaces_the_queued_one_and_keeps_its_wish_for_an_answer() {
        run(async |mut stream, mut server| {
            let status = |lsn, reply| StandbyStatus {
                write: Lsn(lsn + 2),
                flush: Lsn(lsn + 1),
                apply: Lsn(lsn),
                reply,
            };
            stream.queue_status(status(10, Reply::Requested), UNIX_EPOCH);
            stream.queue_status(status(20, Reply::NotNeeded), UNIX_EPOCH);
            stream.flush_writes().await.expect("flush");
            // Sent is sent: this one wishes nothing.
            stream.queue_status(status(30, Reply::NotNeeded), UNIX_EPOCH);
            stream.flush_writes().await.expect("flush");
            drop(stream);
            let mut sent = Vec::new();
            server.read_to_end(&mut sent).await.expect("read");
            let reports: Vec<_> = sent.chunks(STATUS_BYTES).collect();
            assert_eq!(reports.len(), 2);
            for (report, lsn, reply) in [(reports[0], 20_u64, 1), (reports[1], 30, 0)] {
                assert_eq!(report[..6], *b"d\0\0\0\x26r");
                assert_eq!(report[6..14], (lsn + 2).to_be_bytes());
                assert_eq!(report[14..22], (lsn + 1).to_be_bytes());
                assert_eq!(report[22..30], lsn.to_be_bytes());
                assert_eq!(report[30..38], (-946_684_800_000_000_i64).to_be_bytes());
                assert_eq!(report[38], reply);
            }
        });
    }

    #[test]
    fn orderly_end_error_and_lost_connection_are_told_apart() {
        run(async |mut stream, mut server| {
            server.write_all(b"N\0\0\0\x04C\0\0\0\x0bCOPY 0\0").await.expect("write");
            assert!(matches!(stream.next().await, Ok(Frame::Ended)));
            assert!(matches!(stream.next().await, Ok(Frame::Ended)));
        });
        run(async |mut stream, mut server| {
            server.write_all(b"E\0\0\0\x0dC57P01\0\0\0").await.expect("write");
            let error = stream.next().await.expect_err("error");
            assert_eq!(error.sqlstate(), Some("57P01"));
        });
        for cut in [&b""[..], b"d\0\0\0\x10w"] {
            run(async |mut stream, mut server| {
                server.write_all(cut).await.expect("write");
                drop(server);
                let error = stream.next().await.expect_err("lost");
                assert!(matches!(error, WalsenderError::Lost { .. }), "{error}");
            });
        }
    }

    #[test]
    fn frames_cut_short_are_errors() {
        let copy = |body| copy_frame(body, Texts::Whole);
        let mut keepalive = vec![b'k'];
        keepalive.extend_from_slice(&[0; 17]);
        assert!(copy(Bytes::from(keepalive.clone())).is_ok());
        for length in 0..keepalive.len() {
            assert!(copy(Bytes::copy_from_slice(&keepalive[..length])).is_err());
        }
        let mut data = vec![b'w'];
        data.extend_from_slice(&[0; 23]);
        assert!(copy(Bytes::from(data.clone())).is_err());
        data.push(0);
        assert!(copy(Bytes::from(data)).is_ok());
        assert!(copy(Bytes::from_static(b"x")).is_err());
    }
}
