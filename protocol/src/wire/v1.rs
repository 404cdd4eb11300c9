//! Protocol version 1: how messages are laid out.
//!
//! The first byte of a frame says which message it is. A hello goes on with the range of protocols
//! its sender speaks; that much is the same in every version to come. A later version may append
//! to the hello, so bytes left over are allowed where the sender speaks a newer protocol than ours,
//! and nowhere else.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::Seq;
use crate::unit::UNIT_BYTES_MAX;
use crate::version::VersionVector;
use crate::wire::{
    Begun, BegunMark, FRAME_BYTES_MAX, HEAD_BYTES_MAX, HELD_MAX, Have, Held, Hello, Message,
    PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE_BYTES_MAX, UnitMark, UnitStreamHead, WireError,
};

const HELLO: u8 = 1;
const HAVE: u8 = 2;
const FOLLOW: u8 = 3;
const UNFOLLOW: u8 = 4;
const UNIT_STREAM_HEAD: u8 = 16;

/// Writes a message.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Writer::new();
    match message {
        Message::Hello(hello) => {
            out.u8(HELLO);
            encode_hello(hello, &mut out);
        }
        Message::Have(have) => {
            out.u8(HAVE);
            have.received.encode(&mut out);
            have.applied.encode(&mut out);
        }
        Message::Follow { origin, after, begun } => {
            out.u8(FOLLOW);
            out.origin(*origin);
            out.varint(after.0);
            encode_begun(begun.as_ref(), &mut out);
        }
        Message::Unfollow { origin } => {
            out.u8(UNFOLLOW);
            out.origin(*origin);
        }
    }
    out.into_bytes()
}

/// Reads a message.
///
/// # Errors
/// Fails at the first rule the bytes break.
pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    let (tag, mut from) = open_frame(bytes, FRAME_BYTES_MAX)?;
    match tag {
        HELLO => decode_hello(from).map(|hello| Message::Hello(Box::new(hello))),
        HAVE => name("have", || {
            let received = VersionVector::decode(&mut from)?;
            let applied = VersionVector::decode(&mut from)?;
            from.finish()?;
            Ok(Message::Have(Have { received, applied }))
        }),
        FOLLOW => name("follow", || {
            let (origin, after) = (from.origin()?, Seq(from.varint()?));
            let begun = decode_begun(&mut from)?;
            from.finish()?;
            Ok(Message::Follow { origin, after, begun })
        }),
        UNFOLLOW => name("unfollow", || {
            let origin = from.origin()?;
            from.finish()?;
            Ok(Message::Unfollow { origin })
        }),
        tag => Err(WireError::UnknownTag(tag)),
    }
}

/// Writes the first frame of a unit stream.
pub fn encode_head(head: UnitStreamHead) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(UNIT_STREAM_HEAD);
    out.origin(head.origin);
    out.varint(head.after.0);
    out.varint(head.at as u64);
    out.into_bytes()
}

/// Reads the first frame of a unit stream.
///
/// # Errors
/// Fails at the first rule the bytes break.
pub fn decode_head(bytes: &[u8]) -> Result<UnitStreamHead, WireError> {
    let (tag, mut from) = open_frame(bytes, HEAD_BYTES_MAX)?;
    if tag != UNIT_STREAM_HEAD {
        return Err(WireError::UnknownTag(tag));
    }
    name("unit stream head", || {
        let (origin, after) = (from.origin()?, Seq(from.varint()?));
        let at = length(from.varint()?).ok_or(DecodeError::NotCanonical("place in a unit"))?;
        from.finish()?;
        Ok(UnitStreamHead { origin, after, at })
    })
}

/// Nothing is one byte. Else what is left of the unit stands beside what there is of it, so that neither
/// can be more than all.
fn encode_begun(begun: Option<&Begun>, out: &mut Writer) {
    let Some(begun) = begun else { return out.varint(0) };
    out.varint(begun.bytes as u64);
    out.varint((begun.length - begun.bytes) as u64);
    out.raw(&begun.mark.0);
}

fn decode_begun(from: &mut Reader<'_>) -> Result<Option<Begun>, DecodeError> {
    let bytes = from.varint()?;
    if bytes == 0 {
        return Ok(None);
    }
    let left = from.varint()?;
    let mark = BegunMark(from.array()?);
    let lengths = length(bytes).zip(bytes.checked_add(left).and_then(length));
    let begun = lengths.map(|(bytes, length)| Begun { bytes, length, mark });
    let possible = begun.filter(Begun::is_possible);
    possible.map(Some).ok_or(DecodeError::NotCanonical("beginning of a unit"))
}

/// A number that may be the length of a unit.
fn length(number: u64) -> Option<usize> {
    usize::try_from(number).ok().filter(|length| *length <= UNIT_BYTES_MAX)
}

fn open_frame(bytes: &[u8], limit: usize) -> Result<(u8, Reader<'_>), WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLong { found: bytes.len(), limit });
    }
    let (tag, rest) = bytes.split_first().ok_or(WireError::Empty)?;
    Ok((*tag, Reader::new(rest)))
}

fn name<T>(
    message: &'static str,
    read: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, WireError> {
    read().map_err(|error| WireError::Malformed { message, error })
}

fn encode_hello(hello: &Hello, out: &mut Writer) {
    out.varint(u64::from(hello.protocol_min));
    out.varint(u64::from(hello.protocol_max));
    Held::encode_all(&hello.holds_of_you, out);
    out.origin(hello.origin);
    out.varint(hello.fleet_version);
    out.raw(&hello.sets_digest);
    hello.received.encode(out);
    hello.marks.iter().for_each(|mark| out.raw(&mark.0));
    hello.applied.encode(out);
    out.varint(hello.wall_ms);
    out.text(&hello.software);
}

fn decode_hello(mut from: Reader<'_>) -> Result<Hello, WireError> {
    let (min, max) = name("hello", || {
        let (min, max) = (from.u16()?, from.u16()?);
        if min > max { Err(DecodeError::NotCanonical("protocol range")) } else { Ok((min, max)) }
    })?;
    if min > PROTOCOL_MAX || max < PROTOCOL_MIN {
        return Err(WireError::ProtocolVersion { min, max });
    }
    name("hello", || {
        let holds_of_you = Held::decode_all(&mut from, HELD_MAX)?;
        let (origin, fleet_version, sets_digest) = (from.origin()?, from.varint()?, from.array()?);
        let received = VersionVector::decode(&mut from)?;
        let marks = received.iter().map(|_| Ok(UnitMark(from.array()?)));
        let marks = marks.collect::<Result<_, DecodeError>>()?;
        let hello = Hello {
            protocol_min: min,
            protocol_max: max,
            holds_of_you,
            origin,
            fleet_version,
            sets_digest,
            received,
            marks,
            applied: VersionVector::decode(&mut from)?,
            wall_ms: from.varint()?,
            software: from.text(SOFTWARE_BYTES_MAX)?.to_owned(),
        };
        if max <= PROTOCOL_MAX {
            from.finish()?;
        }
        Ok(hello)
    })
}
