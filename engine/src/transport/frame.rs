//! Frames on a stream: a length (LEB128, one to four bytes, shortest form) and that many bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use quinn::{ReadError, WriteError};
use tokio::sync::watch;

use crate::transport::carrier::{RecvStream, SendStream};
use crate::transport::error::{FrameError, PeerLabel, StreamCode};

/// What four bytes of length can say; no reader or writer takes more, in bytes.
pub const FRAME_BYTES_LIMIT: usize = (1 << 28) - 1;

/// Writes frames to a stream.
///
/// Dropping it before [`FrameWriter::finish`] resets the stream, so that the reader never takes a
/// half-written stream for a whole one.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    label: Arc<PeerLabel>,
    frame_bytes_max: usize,
    /// Prefixes and frames (or what is left of the first) that QUIC has not taken yet.
    queue: VecDeque<Bytes>,
    closed: bool,
    turn: Turn,
}

/// How many writers of a connection have something that goes before bulk. QUIC gives the room in its
/// send window to whoever asks first, which is who has most to send.
#[derive(Debug, Clone, Default)]
pub(super) struct Hurry(Arc<watch::Sender<usize>>);

/// The part of one writer in it.
#[derive(Debug)]
struct Turn {
    hurry: Hurry,
    is_bulk: bool,
    is_counted: bool,
}

impl Turn {
    /// Notes whether there is something to write.
    fn note(&mut self, is_waiting: bool) {
        let counts = is_waiting && !self.is_bulk;
        if counts == self.is_counted {
            return;
        }
        self.is_counted = counts;
        self.hurry.0.send_modify(|waiting| if counts { *waiting += 1 } else { *waiting -= 1 });
    }

    /// Writes when nobody in a hurry waits, as far as this writer has to mind that. Cancel-safe.
    async fn write(&self, stream: &mut SendStream, bytes: &[u8]) -> Result<usize, WriteError> {
        if !self.is_bulk {
            return stream.write(bytes).await;
        }
        let mut waiting = self.hurry.0.subscribe();
        loop {
            // Cannot fail: we hold the sender.
            let _ = waiting.wait_for(|waiting| *waiting == 0).await;
            tokio::select! {
                biased;
                _ = waiting.wait_for(|waiting| *waiting > 0) => {}
                written = stream.write(bytes) => return written,
            }
        }
    }
}

impl FrameWriter {
    pub(super) fn new(
        stream: SendStream,
        label: Arc<PeerLabel>,
        frame_bytes_max: usize,
        hurry: Hurry,
    ) -> Self {
        let frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_LIMIT);
        let turn = Turn { hurry, is_bulk: false, is_counted: false };
        Self { stream, label, frame_bytes_max, queue: VecDeque::new(), closed: false, turn }
    }

    /// Queues a frame and flushes. When the future is dropped half-way, the frame stays queued:
    /// call [`FrameWriter::flush`] to go on, not `send` again.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), FrameError> {
        self.queue(frame)?;
        self.flush().await
    }

    /// Queues a frame without waiting. Refused while an earlier frame is not flushed.
    pub fn queue(&mut self, frame: Bytes) -> Result<(), FrameError> {
        if self.closed {
            return Err(FrameError::Finished);
        }
        if frame.len() > self.frame_bytes_max {
            let (bytes, bytes_max) = (frame.len(), self.frame_bytes_max);
            return Err(FrameError::TooLong { bytes, bytes_max });
        }
        if !self.queue.is_empty() {
            return Err(FrameError::Backlog { bytes: self.queue.iter().map(Bytes::len).sum() });
        }
        self.queue.push_back(length_prefix(frame.len()));
        self.queue.push_back(frame);
        self.turn.note(true);
        Ok(())
    }

    /// Waits until QUIC has taken everything queued. Cancel-safe: call it again to go on.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        while let Some(chunk) = self.queue.front_mut() {
            if !chunk.is_empty() {
                let written = self.turn.write(&mut self.stream, chunk).await;
                chunk.advance(written.map_err(|error| write_error(&self.label, error))?);
            }
            if chunk.is_empty() {
                self.queue.pop_front();
            }
        }
        self.turn.note(false);
        Ok(())
    }

    /// Flushes, then says that no more frames come. Says nothing about arrival.
    pub async fn finish(&mut self) -> Result<(), FrameError> {
        self.flush().await?;
        self.stream.finish().map_err(|_| FrameError::Finished)?;
        self.closed = true;
        Ok(())
    }

    /// After [`FrameWriter::finish`]: waits until the peer's QUIC layer has acknowledged
    /// everything. That is not durable; use it only before closing a connection. Cancel-safe.
    pub async fn delivered(&mut self) -> Result<(), FrameError> {
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(FrameError::Stopped(StreamCode::from_var_int(code))),
            Err(error) => Err(write_error(&self.label, error.into())),
        }
    }

    /// Gives the stream up: what is queued or not yet delivered is lost, and the reader sees
    /// `code`.
    pub fn reset(&mut self, code: StreamCode) {
        self.queue.clear();
        self.turn.note(false);
        self.closed = true;
        // An error means that the stream is closed already.
        let _ = self.stream.reset(code.var_int());
    }

    /// Sends this stream before those of lower priority of the same connection. 0 at first; below is
    /// bulk, which is not even handed to QUIC as long as anything else waits for that.
    pub fn set_priority(&mut self, priority: i32) {
        self.turn.is_bulk = priority < 0;
        self.turn.note(!self.queue.is_empty());
        // An error means that the stream is closed already.
        let _ = self.stream.set_priority(priority);
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.closed {
            self.reset(StreamCode::ABANDONED);
        }
        self.turn.note(false);
    }
}

fn write_error(label: &PeerLabel, error: WriteError) -> FrameError {
    match error {
        WriteError::Stopped(code) => FrameError::Stopped(StreamCode::from_var_int(code)),
        WriteError::ConnectionLost(error) => label.ended(&error).into(),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => FrameError::Finished,
    }
}

/// What has arrived of a stream, on its way into frames.
#[derive(Debug)]
pub(super) struct Arrived {
    frame_bytes_max: usize,
    /// What is not handed out yet. Grows with what arrives, never by what a prefix claims.
    buffer: BytesMut,
}

impl Arrived {
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        let frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_LIMIT);
        Self { frame_bytes_max, buffer: BytesMut::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The length of the frame of which only a part is there, and that part; of its contents, at least a
    /// byte.
    fn begun(&self) -> Option<(usize, &[u8])> {
        let (prefix, bytes) = parse_length(&self.buffer).ok()??;
        let arrived = &self.buffer[prefix..];
        let is_begun = (1..bytes).contains(&arrived.len()) && bytes <= self.frame_bytes_max;
        is_begun.then_some((bytes, arrived))
    }

    /// The next frame, once all of it is there.
    pub(super) fn take_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some((prefix, bytes)) = parse_length(&self.buffer)? else { return Ok(None) };
        if bytes > self.frame_bytes_max {
            return Err(FrameError::TooLong { bytes, bytes_max: self.frame_bytes_max });
        }
        if self.buffer.len() - prefix < bytes {
            return Ok(None);
        }
        self.buffer.advance(prefix);
        Ok(Some(self.buffer.split_to(bytes).freeze()))
    }
}

/// Reads frames from a stream.
///
/// Holds up to `frame_bytes_max` and 64 KiB while a frame arrives, beyond QUIC's own window. A peer
/// can make that happen on as many streams as it may open (64), so frames on part streams should be
/// small.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    label: Arc<PeerLabel>,
    arrived: Arrived,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream, label: Arc<PeerLabel>, frame_bytes_max: usize) -> Self {
        Self { stream, label, arrived: Arrived::new(frame_bytes_max) }
    }

    /// Changes the limit for the frames to come, where the first one says what the others are.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.arrived.frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_LIMIT);
    }

    /// The next frame; `None` when the writer finished. Cancel-safe: what has arrived stays here.
    ///
    /// After an error about the frame itself the stream is of no more use: its boundaries are lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            match self.step().await? {
                Step::Frame(frame) => return Ok(Some(frame)),
                Step::More => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// As [`FrameReader::next`], but returns whenever something has come.
    pub async fn step(&mut self) -> Result<Step, FrameError> {
        if let Some(frame) = self.arrived.take_frame()? {
            return Ok(Step::Frame(frame));
        }
        let chunk = self.stream.read_chunk().await;
        match chunk.map_err(|error| self.read_error(error))? {
            Some(chunk) => self.arrived.push(&chunk),
            None if self.arrived.buffer.is_empty() => return Ok(Step::End),
            None => return Err(FrameError::Truncated { bytes: self.arrived.buffer.len() }),
        }
        Ok(self.arrived.take_frame()?.map_or(Step::More, Step::Frame))
    }

    /// Of the frame of which a part has come: its length, and what is there, at least a byte and not
    /// all. Also after the stream has ended.
    pub fn begun(&self) -> Option<(usize, &[u8])> {
        self.arrived.begun()
    }

    /// Tells the writer that no more is wanted, and why.
    pub fn stop(&mut self, code: StreamCode) {
        // An error means that the stream is closed already.
        let _ = self.stream.stop(code.var_int());
    }

    fn read_error(&self, error: ReadError) -> FrameError {
        match error {
            ReadError::Reset(code) => FrameError::Reset(StreamCode::from_var_int(code)),
            ReadError::ConnectionLost(error) => self.label.ended(&error).into(),
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => FrameError::Finished,
        }
    }
}

/// What reading came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The next frame.
    Frame(Bytes),
    /// More of it.
    More,
    /// The writer finished.
    End,
}

fn length_prefix(mut bytes: usize) -> Bytes {
    let mut prefix = BytesMut::with_capacity(4);
    loop {
        let low = u8::try_from(bytes & 0x7f).expect("seven bits");
        bytes >>= 7;
        if bytes == 0 {
            prefix.extend_from_slice(&[low]);
            return prefix.freeze();
        }
        prefix.extend_from_slice(&[low | 0x80]);
    }
}

/// Length of the prefix and of the frame; `None` while the prefix is incomplete.
fn parse_length(buffer: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut length = 0;
    for (at, &byte) in buffer.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let shortest = byte != 0 || at == 0;
            return if shortest { Ok(Some((at + 1, length))) } else { Err(FrameError::BadLength) };
        }
    }
    if buffer.len() < 4 { Ok(None) } else { Err(FrameError::BadLength) }
}

#[cfg(test)]
impl FrameReader {
    /// Bytes of memory the reader holds.
    pub(super) fn capacity(&self) -> usize {
        self.arrived.buffer.capacity()
    }
}

/// Any bytes as a stream, chunk by chunk: the first byte says how long a chunk is.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_stream(bytes: &[u8]) {
    const FRAME_BYTES_MAX: usize = 1_000;
    let Some((chunk, stream)) = bytes.split_first() else { return };
    let mut arrived = Arrived::new(FRAME_BYTES_MAX);
    let mut again = BytesMut::new();
    for chunk in stream.chunks(usize::from(*chunk) + 1) {
        arrived.push(chunk);
        loop {
            match arrived.take_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= FRAME_BYTES_MAX, "a frame over the limit");
                    again.extend_from_slice(&length_prefix(frame.len()));
                    again.extend_from_slice(&frame);
                }
                Ok(None) => {
                    if let Some((length, part)) = arrived.begun() {
                        assert!(!part.is_empty() && part.len() < length);
                        assert!(length <= FRAME_BYTES_MAX, "a part of a frame over the limit");
                    }
                    break;
                }
                Err(_) => {
                    assert!(stream.starts_with(&again), "what came before was changed");
                    return;
                }
            }
        }
    }
    again.extend_from_slice(&arrived.buffer);
    assert_eq!(again, stream, "nothing is lost or added");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_trip_in_their_shortest_form() {
        let edges = [(0, 1), (1, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_151, 3)];
        for (length, prefix_bytes) in
            edges.into_iter().chain([(2_097_152, 4), (FRAME_BYTES_LIMIT, 4)])
        {
            let prefix = length_prefix(length);
            assert_eq!(prefix.len(), prefix_bytes, "{length}");
            assert_eq!(parse_length(&prefix), Ok(Some((prefix_bytes, length))));
            for cut in 0..prefix_bytes {
                assert_eq!(parse_length(&prefix[..cut]), Ok(None), "{length} cut at {cut}");
            }
        }
    }

    #[test]
    fn malformed_lengths_are_refused() {
        for bad in [&[0x80, 0][..], &[0xff, 0x80, 0], &[0x80; 4], &[0xff, 0xff, 0xff, 0xff, 0]] {
            assert_eq!(parse_length(bad), Err(FrameError::BadLength), "{bad:?}");
        }
    }
}
