//! Checked reads over the bytes of one message.

use super::Texts;
use crate::postgres::lsn::Lsn;
use thiserror::Error;

/// What is wrong with a message, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("pgoutput {message} message, byte {offset}: {fault}")]
pub struct DecodeError {
    /// The kind of message, `"unknown"` before that is known.
    pub message: &'static str,
    /// Bytes from the message's start to the field at fault.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The message ends before the field does.
    #[error("{field} needs {needed} bytes, {left} are left")]
    CutShort {
        /// The field.
        field: &'static str,
        /// How many bytes it has.
        needed: u64,
        /// How many there are.
        left: usize,
    },
    /// A text has no terminating zero.
    #[error("{field} has no end")]
    Unterminated {
        /// The field.
        field: &'static str,
    },
    /// A name is not UTF-8, though the session asked for it.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// A byte that selects something has no such meaning.
    #[error("{field} is {value:#04x}, which has no meaning")]
    Meaningless {
        /// The field.
        field: &'static str,
        /// The byte.
        value: u8,
    },
    /// The message goes on after its last field.
    #[error("{count} bytes too many")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// A message of protocol version 2 and up, of two-phase commit, or of no known protocol.
    #[error("kind {:?} is not part of pgoutput protocol version 1", char::from(*.kind))]
    UnknownKind {
        /// The message's first byte.
        kind: u8,
    },
}

pub(super) struct Reader<'a> {
    message: &'static str,
    length: usize,
    rest: &'a [u8],
    texts: Texts,
}

impl<'a> Reader<'a> {
    pub(super) fn of_message(bytes: &'a [u8], texts: Texts) -> Self {
        Self { message: "unknown", length: bytes.len(), rest: bytes, texts }
    }

    pub(super) fn texts(&self) -> Texts {
        self.texts
    }

    /// Names the message in the errors that follow.
    pub(super) fn in_message(&mut self, message: &'static str) {
        self.message = message;
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn fault_at(&self, offset: usize, fault: Fault) -> DecodeError {
        DecodeError { message: self.message, offset, fault }
    }

    fn fault(&self, fault: Fault) -> DecodeError {
        self.fault_at(self.length - self.rest.len(), fault)
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(self.fault(Fault::Trailing { count })),
        }
    }

    pub(super) fn bytes(
        &mut self,
        field: &'static str,
        needed: u64,
    ) -> Result<&'a [u8], DecodeError> {
        let split = usize::try_from(needed).ok().and_then(|n| self.rest.split_at_checked(n));
        let Some((bytes, rest)) = split else {
            let left = self.rest.len();
            return Err(self.fault(Fault::CutShort { field, needed, left }));
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((array, rest)) = self.rest.split_first_chunk::<N>() else {
            let left = self.rest.len();
            return Err(self.fault(Fault::CutShort { field, needed: N as u64, left }));
        };
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }

    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        Ok(Lsn(u64::from_be_bytes(self.array(field)?)))
    }

    /// A byte that must be one of `meaningful`.
    pub(super) fn one_of(
        &mut self,
        field: &'static str,
        meaningful: &[u8],
    ) -> Result<u8, DecodeError> {
        let offset = self.length - self.rest.len();
        let value = self.u8(field)?;
        if !meaningful.contains(&value) {
            return Err(self.fault_at(offset, Fault::Meaningless { field, value }));
        }
        Ok(value)
    }

    /// A zero-terminated text.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let Some(end) = self.rest.iter().position(|b| *b == 0) else {
            return Err(self.fault(Fault::Unterminated { field }));
        };
        let text =
            str::from_utf8(&self.rest[..end]).map_err(|_| self.fault(Fault::NotUtf8 { field }))?;
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }
}
