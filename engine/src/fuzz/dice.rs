//! Seeded changes to an input: the same seed gives the same inputs.

use super::{Framing, Target};

/// A tag, where the framing has one, and a frame's content.
type Frame = (u8, Vec<u8>);

/// Numbers that decoders get wrong: around the limits of what they are read into.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x10000,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    u64::MAX >> 1,
    u64::MAX - 1,
    u64::MAX,
];

/// A generator of numbers by splitmix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, 0 when that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.throw().checked_rem(limit as u64).unwrap_or(0) as usize
    }

    /// The next number.
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A place in `bytes`, mostly near the beginning, where the structure is.
    fn place(&mut self, bytes: &[u8]) -> usize {
        let reach = if self.below(3) == 0 { bytes.len() } else { bytes.len().min(48) };
        self.below(reach)
    }

    /// A new input made of `seeds`: one of them, or two spliced, and up to five changes.
    pub fn input(&mut self, target: &Target, seeds: &[Vec<u8>]) -> Vec<u8> {
        let Some(one) = seeds.get(self.below(seeds.len())) else {
            return self.noise(target.input_bytes_max.min(200));
        };
        if target.framing != Framing::None && self.below(4) > 0 {
            let other = &seeds[self.below(seeds.len())];
            return self.framed(target, one, other);
        }
        let mut bytes = one.clone();
        if self.below(6) == 0 {
            let other = &seeds[self.below(seeds.len())];
            bytes.truncate(self.below(bytes.len() + 1));
            bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
        }
        for _ in 0..=self.below(5) {
            self.change(&mut bytes);
        }
        bytes.truncate(target.input_bytes_max);
        bytes
    }

    /// Changes one frame or more, or the order of frames; the lengths still fit.
    fn framed(&mut self, target: &Target, one: &[u8], other: &[u8]) -> Vec<u8> {
        let (head, mut frames) = split(target.framing, one);
        let (_, others) = split(target.framing, other);
        for _ in 0..=self.below(3) {
            let (at, from) = (self.below(frames.len()), self.below(others.len()));
            match self.below(8) {
                0 if !frames.is_empty() => drop(frames.remove(at)),
                1 if !frames.is_empty() => frames.insert(at, frames[at].clone()),
                2 if !others.is_empty() => frames.insert(at, others[from].clone()),
                3 if !frames.is_empty() => {
                    let to = self.below(frames.len());
                    frames.swap(at, to);
                }
                _ if !frames.is_empty() => {
                    for _ in 0..=self.below(3) {
                        self.change(&mut frames[at].1);
                    }
                }
                _ => frames.push((b'd', self.noise(40))),
            }
        }
        let mut bytes = head.to_vec();
        for (tag, frame) in &frames {
            join(target.framing, *tag, frame, &mut bytes);
        }
        bytes.truncate(target.input_bytes_max);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            *bytes = self.noise(40);
            return;
        }
        let at = self.place(bytes);
        match self.below(11) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.throw() as u8,
            2 => bytes[at] = bytes[at].wrapping_add([1, 0xff, 0x80, 0x7f][self.below(4)]),
            3 => bytes.truncate(at),
            4 => drop(bytes.remove(at)),
            5 => bytes.insert(at, self.throw() as u8),
            6 => {
                let noise = self.noise(8);
                splice(bytes, at, 0, &noise);
            }
            7 => self.repeat(bytes, at),
            8 => {
                let cut = self.below(8);
                splice(bytes, at, cut, &[]);
            }
            _ => {
                let number = EDGES[self.below(EDGES.len())];
                let number = self.written(number);
                let instead = [0, 1, number.len()][self.below(3)];
                splice(bytes, at, instead, &number);
            }
        }
    }

    /// A piece of the input again, once or many times.
    fn repeat(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let length = self.below(32) + 1;
        let piece = bytes[at..bytes.len().min(at + length)].to_vec();
        let times = [1, 2, 300][self.below(3)];
        splice(bytes, at, 0, &piece.repeat(times));
    }

    /// As one of the ways in which our formats and PostgreSQL's write numbers.
    fn written(&mut self, number: u64) -> Vec<u8> {
        match self.below(5) {
            0 => {
                let mut out = landfall_protocol::codec::Writer::new();
                out.varint(number);
                out.into_bytes()
            }
            1 => (number as u16).to_be_bytes().to_vec(),
            2 => (number as u32).to_be_bytes().to_vec(),
            3 => number.to_be_bytes().to_vec(),
            _ => number.to_string().into_bytes(),
        }
    }

    fn noise(&mut self, bytes_max: usize) -> Vec<u8> {
        (0..self.below(bytes_max + 1)).map(|_| self.throw() as u8).collect()
    }
}

/// The head and the frames; the last one may be shorter than it says.
fn split(framing: Framing, bytes: &[u8]) -> (&[u8], Vec<Frame>) {
    let (head, mut rest) = match framing {
        Framing::Packet { head } => bytes.split_at(head.min(bytes.len())),
        _ => bytes.split_at(0),
    };
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let number = |from: usize, to: usize| {
            let digits = rest.get(from..to).unwrap_or_default();
            digits.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (prefix, length) = match framing {
            Framing::None => (0, rest.len()),
            Framing::Length { bytes } => (bytes, number(0, bytes)),
            Framing::LengthLittle => (4, number(0, 4).swap_bytes() >> (usize::BITS - 32)),
            Framing::Packet { .. } => (5, number(1, 5).saturating_sub(4)),
        };
        let (tag, content) = (rest[0], &rest[prefix.min(rest.len())..]);
        let (content, after) = content.split_at(length.min(content.len()));
        frames.push((tag, content.to_vec()));
        rest = after;
    }
    (head, frames)
}

fn join(framing: Framing, tag: u8, content: &[u8], out: &mut Vec<u8>) {
    let length = content.len() as u32;
    match framing {
        Framing::None => {}
        Framing::Length { bytes } => out.extend(&length.to_be_bytes()[4 - bytes.min(4)..]),
        Framing::LengthLittle => out.extend(length.to_le_bytes()),
        Framing::Packet { .. } => {
            out.push(tag);
            out.extend((length + 4).to_be_bytes());
        }
    }
    out.extend(content);
}

fn splice(bytes: &mut Vec<u8>, at: usize, instead_of: usize, piece: &[u8]) {
    let end = bytes.len().min(at + instead_of);
    drop(bytes.splice(at..end, piece.iter().copied()));
}
