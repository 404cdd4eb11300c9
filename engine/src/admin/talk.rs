//! A conversation over the admin socket: after the line of the request, frames in both directions.
//!
//! ```text
//! kind:u8  length:u32 (most significant byte first)  payload
//! ```
//! Kind `j` is JSON, `d` bytes of a file, `e` the end of a file. The last frame of the daemon is its
//! [`Answer`] as JSON.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, Take};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::Answer;

/// Longest payload of a frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

const JSON: u8 = b'j';
const DATA: u8 = b'd';
const END: u8 = b'e';

/// What one side says.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Facts.
    Json(Value),
    /// Bytes of the file under way.
    Data(Vec<u8>),
    /// The file is whole.
    End,
}

/// What is said to us.
#[derive(Debug)]
pub struct Listening {
    from: BufReader<Take<OwnedReadHalf>>,
}

/// What we say.
#[derive(Debug)]
pub struct Saying {
    to: OwnedWriteHalf,
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Talk {
    /// From the other side.
    pub listening: Listening,
    /// To the other side.
    pub saying: Saying,
    /// Who the other side is, as the system knows it; `None` when it does not tell.
    pub uid: Option<u32>,
}

impl Talk {
    pub(super) fn new(
        mut from: BufReader<Take<OwnedReadHalf>>,
        to: OwnedWriteHalf,
        uid: Option<u32>,
    ) -> Self {
        // The line before was limited, frames are by their length.
        from.get_mut().set_limit(u64::MAX);
        Self { listening: Listening { from }, saying: Saying { to }, uid }
    }
}

impl Listening {
    /// The next frame; `None` when the other side is gone.
    ///
    /// # Errors
    /// The socket failed, or the other side speaks something else.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 5];
        match self.from.read_exact(&mut head).await {
            Err(error) if is_over(&error) => return Ok(None),
            other => other?,
        };
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(odd("a frame is too long"));
        }
        let mut payload = vec![0; length];
        match self.from.read_exact(&mut payload).await {
            Err(error) if is_over(&error) => return Ok(None),
            other => other?,
        };
        match kind {
            JSON => serde_json::from_slice(&payload).map(|value| Some(Frame::Json(value))),
            DATA => Ok(Some(Frame::Data(payload))),
            END => Ok(Some(Frame::End)),
            _ => return Err(odd("a frame of an unknown kind")),
        }
        .map_err(|error| odd(&error.to_string()))
    }

    /// The next frame, which must be facts of this form.
    ///
    /// # Errors
    /// As [`Listening::next`], or it is something else.
    pub async fn facts<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        match self.next().await? {
            Some(Frame::Json(value)) => {
                serde_json::from_value(value).map_err(|error| odd(&error.to_string()))
            }
            Some(_) => Err(odd("facts were expected")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Saying {
    /// Tells facts.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn facts(&mut self, facts: &impl Serialize) -> io::Result<()> {
        let payload = serde_json::to_vec(facts).expect("facts have only text keys");
        self.frame(JSON, &payload).await
    }

    /// Sends bytes of a file.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(FRAME_BYTES_MAX) {
            self.frame(DATA, chunk).await?;
        }
        Ok(())
    }

    /// Says that the file is whole.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn end(&mut self) -> io::Result<()> {
        self.frame(END, &[]).await
    }

    /// Says how it all came out.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn answer(&mut self, outcome: Result<Value, String>) -> io::Result<()> {
        let answer = match outcome {
            Ok(value) => Answer::Ok(value),
            Err(sentence) => Answer::Error(sentence),
        };
        self.facts(&answer).await
    }

    async fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| odd("a frame is too long"))?;
        if payload.len() > FRAME_BYTES_MAX {
            return Err(odd("a frame is too long"));
        }
        let mut head = [kind, 0, 0, 0, 0];
        head[1..].copy_from_slice(&length.to_be_bytes());
        self.to.write_all(&head).await?;
        self.to.write_all(payload).await
    }
}

/// Whoever goes away with something unread resets the socket.
fn is_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
