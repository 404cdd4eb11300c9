//! What comes from outside, as fuzzers and tests call it: one check per kind of input.
//!
//! A check takes any bytes and panics when they break a promise: whatever they are, the answer is a
//! value or an error; what was read is written again as it was, where it has one form only; what was
//! taken apart has lost nothing. Who calls it measures memory and time against the [`Target`].
//! `docs/testing.md` says who that is and how to begin.

pub mod dice;
mod files;
mod messages;
pub mod seeds;
mod stream;
#[cfg(test)]
mod tests;
mod units;

use crate::capture::{spill_fuzz, walsender};
use crate::{bundle, store, transport};

/// A kind of input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Names its folder of seeds, too.
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub check: fn(&[u8]),
    /// How to take an input apart, so that a piece can be changed and the others stay whole.
    pub framing: Framing,
    /// Longer inputs are of no use, in bytes.
    pub input_bytes_max: usize,
    /// Memory that the check may take at any moment, in bytes: so much for each byte of input.
    pub heap_per_byte: usize,
    /// And so much whatever the input.
    pub heap_bytes: usize,
}

/// What an input is made of. Frames begin behind `head` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One piece.
    None,
    /// Frames behind their length: so many bytes, the most significant one first.
    Length {
        /// Bytes of a length.
        bytes: usize,
    },
    /// Frames behind four bytes of length, the least significant one first.
    LengthLittle,
    /// As PostgreSQL's: a tag, and four bytes of a length that counts itself.
    Packet {
        /// Bytes before the first packet.
        head: usize,
    },
}

impl Target {
    /// Memory that the check may take for an input of this length, in bytes.
    pub fn heap_bytes_max(&self, input_bytes: usize) -> usize {
        self.heap_bytes + self.heap_per_byte * input_bytes
    }
}

const fn target(name: &'static str, check: fn(&[u8])) -> Target {
    Target {
        name,
        check,
        framing: Framing::None,
        input_bytes_max: 16 << 10,
        heap_per_byte: 64,
        heap_bytes: 64 << 10,
    }
}

/// All of them.
pub const TARGETS: [Target; 22] = [
    target("control", messages::check_control),
    target("unit-stream-head", messages::check_head),
    target("frames", transport::check_stream),
    Target { framing: Framing::Length { bytes: 1 }, ..target("session", messages::check_session) },
    target("marker", messages::check_marker),
    target("value", messages::check_value),
    target("row-clock", messages::check_row_clock),
    // A header may announce what a unit may hold at most, and room for it is taken at once; and for the
    // columns that one part of it travels in.
    Target {
        heap_bytes: landfall_protocol::unit::UNIT_PLAIN_BYTES_MAX + (24 << 20),
        ..target("unit", units::check_unit)
    },
    // Every value in a document gets an id and a place in a tree, and some documents are kept at once.
    Target { heap_per_byte: 2000, heap_bytes: 1 << 20, ..target("merged", messages::check_merged) },
    target("unit-content", units::check_content),
    // Sequences are read where they stand; a content has many values in little, which are taken apart.
    Target { heap_bytes: 12 << 20, ..target("columns", units::check_columns) },
    // What is declared is taken at once; the check declares up to this much.
    Target {
        heap_bytes: units::DECLARED_BYTES_MAX + (1 << 20),
        ..target("zstd", units::check_zstd)
    },
    target("pgoutput", stream::check_message),
    // A scratch file is read and written in blocks.
    Target {
        framing: Framing::Length { bytes: 2 },
        heap_bytes: 4 << 20,
        ..target("capture", stream::check_capture)
    },
    // It receives in large chunks, and long texts are blown up for it.
    Target {
        framing: Framing::Packet { head: 1 },
        heap_bytes: 12 << 20,
        ..target("walsender", walsender::fuzz::check_packets)
    },
    Target {
        framing: Framing::Packet { head: 1 },
        heap_bytes: 2 << 20,
        ..target("login", walsender::fuzz::check_login)
    },
    Target {
        framing: Framing::LengthLittle,
        heap_bytes: 1 << 20,
        ..target("spill", spill_fuzz::check)
    },
    // SQLite allocates for itself; this is what rows take.
    Target { heap_bytes: 1 << 20, ..target("store", store::fuzz::check) },
    // The reader of TOML keeps events and errors of every byte or two.
    Target { heap_per_byte: 600, heap_bytes: 1 << 20, ..target("config", files::check_config) },
    target("texts", files::check_texts),
    target("bundle", bundle::fuzz::check_part),
    // A key, a fleet, and chunks of the body.
    Target { heap_bytes: 1 << 20, ..target("bundle-body", bundle::fuzz::check_body) },
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
