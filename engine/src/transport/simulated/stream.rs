//! Streams of a simulated connection.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use quinn::{ReadError, StoppedError, VarInt, WriteError};
use tokio::time::Instant;

use super::arrival;
use super::connection::{EndHandle, State, Wire};
use crate::transport::carrier::ClosedStream;

/// Bytes of one stream that were written and not read; more wait in the writer.
const WINDOW_BYTES: usize = 16 << 10;

/// One direction of a stream.
#[derive(Default)]
pub(super) struct Pipe {
    /// With the time of arrival, which never goes back.
    chunks: VecDeque<(Instant, Bytes)>,
    unread: usize,
    last: Option<Instant>,
    /// When the first bytes, or the news of the end, arrived or will.
    first: Option<Instant>,
    end: Option<(Instant, Ending)>,
    stopped: Option<(Instant, VarInt)>,
}

#[derive(Clone, Copy)]
enum Ending {
    Finished,
    Reset(VarInt),
}

impl Pipe {
    pub(super) fn first(&self) -> Option<Instant> {
        self.first
    }

    fn note(&mut self, at: Instant) {
        self.last = Some(at);
        self.first.get_or_insert(at);
    }

    fn end(&mut self, at: Instant, ending: Ending) {
        self.note(at);
        self.end = Some((at, ending));
        if matches!(ending, Ending::Reset(_)) {
            self.chunks.clear();
            self.unread = 0;
        }
    }

    /// The code with which the reader refused the rest, if the word has arrived.
    fn stopped(&self) -> Option<VarInt> {
        let (at, code) = self.stopped?;
        (at <= Instant::now()).then_some(code)
    }
}

/// As quinn's.
pub(in crate::transport) struct SendStream {
    end: Arc<EndHandle>,
    stream: usize,
    closed: bool,
}

impl std::fmt::Debug for SendStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl SendStream {
    pub(super) fn new(end: &Arc<EndHandle>, stream: usize) -> Self {
        Self { end: Arc::clone(end), stream, closed: false }
    }

    fn wire(&self) -> &Wire {
        &self.end.wire
    }

    pub(in crate::transport) async fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        if self.closed {
            return Err(WriteError::ClosedStream);
        }
        let (wire, side, stream) = (self.wire(), self.end.side, self.stream);
        let written = wire.until(side, |state: &mut State| {
            let pipe = &mut state.streams[stream].pipes[side];
            if let Some(code) = pipe.stopped() {
                return Ok(Err(WriteError::Stopped(code)));
            }
            let room = WINDOW_BYTES.saturating_sub(pipe.unread);
            if room == 0 {
                return Err(pipe.stopped.map(|(at, _)| at));
            }
            let count = wire.portion(bytes.len()).min(room);
            let at = arrival(pipe.last, wire.transit(side, count));
            pipe.chunks.push_back((at, Bytes::copy_from_slice(&bytes[..count])));
            pipe.unread += count;
            pipe.note(at);
            state.note_sent(side, count);
            Ok(Ok(count))
        });
        let count = written.await.map_err(WriteError::ConnectionLost)??;
        wire.wake();
        Ok(count)
    }

    pub(in crate::transport) fn finish(&mut self) -> Result<(), ClosedStream> {
        self.close(Ending::Finished)
    }

    pub(in crate::transport) fn reset(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        self.close(Ending::Reset(code))
    }

    fn close(&mut self, ending: Ending) -> Result<(), ClosedStream> {
        if std::mem::replace(&mut self.closed, true) {
            return Err(ClosedStream);
        }
        let (wire, side) = (self.wire(), self.end.side);
        let mut state = wire.lock();
        if state.is_over(side).is_none() {
            let pipe = &mut state.streams[self.stream].pipes[side];
            let at = arrival(pipe.last, wire.transit(side, 1));
            pipe.end(at, ending);
        }
        drop(state);
        wire.wake();
        Ok(())
    }

    /// Waits until everything arrived, or was refused.
    pub(in crate::transport) async fn stopped(&mut self) -> Result<Option<VarInt>, StoppedError> {
        let (wire, side, stream) = (self.wire(), self.end.side, self.stream);
        let stopped = wire.until(side, |state| {
            let pipe = &state.streams[stream].pipes[side];
            if let Some(code) = pipe.stopped() {
                return Ok(Some(code));
            }
            match pipe.end {
                Some((at, _)) if at > Instant::now() => Err(Some(at)),
                Some(_) if wire.is_up(side) => Ok(None),
                _ => Err(None),
            }
        });
        stopped.await.map_err(StoppedError::ConnectionLost)
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // As quinn does; a writer of frames has reset it before if it was not done.
        let _ = self.finish();
    }
}

/// As quinn's.
pub(in crate::transport) struct RecvStream {
    end: Arc<EndHandle>,
    stream: usize,
    done: bool,
}

impl std::fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl RecvStream {
    pub(super) fn new(end: &Arc<EndHandle>, stream: usize) -> Self {
        Self { end: Arc::clone(end), stream, done: false }
    }

    pub(in crate::transport) async fn read_chunk(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let (wire, side, stream) = (&self.end.wire, self.end.side, self.stream);
        let read = wire.until(side, |state| {
            let pipe = &mut state.streams[stream].pipes[1 - side];
            let now = Instant::now();
            let chunk_at = pipe.chunks.front().map(|(at, _)| *at);
            let next = chunk_at.or(pipe.end.map(|(at, _)| at)).ok_or(None)?;
            if next > now {
                return Err(Some(next));
            }
            if !wire.is_up(1 - side) {
                return Err(None);
            }
            let Some((_, chunk)) = pipe.chunks.front_mut() else {
                return match pipe.end {
                    Some((_, Ending::Reset(code))) => Ok(Err(ReadError::Reset(code))),
                    _ => Ok(Ok(None)),
                };
            };
            let bytes = chunk.split_to(chunk.len().min(bytes_max));
            if chunk.is_empty() {
                pipe.chunks.pop_front();
            }
            pipe.unread -= bytes.len();
            state.note_received(side, bytes.len());
            Ok(Ok(Some(bytes)))
        });
        let read = read.await.map_err(ReadError::ConnectionLost)?;
        match &read {
            // There is room in the window again.
            Ok(Some(_)) => wire.wake(),
            Ok(None) | Err(_) => self.done = true,
        }
        read
    }

    pub(in crate::transport) fn stop(&mut self, code: VarInt) -> Result<(), ClosedStream> {
        if std::mem::replace(&mut self.done, true) {
            return Err(ClosedStream);
        }
        let (wire, side) = (&self.end.wire, self.end.side);
        let mut state = wire.lock();
        if state.is_over(side).is_none() {
            let at = arrival(None, wire.transit(side, 1));
            state.streams[self.stream].pipes[1 - side].stopped.get_or_insert((at, code));
        }
        drop(state);
        wire.wake();
        Ok(())
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let _ = self.stop(0_u32.into());
    }
}
