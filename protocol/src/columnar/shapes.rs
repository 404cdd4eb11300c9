//! Shapes: all of a change that is no value. Changes of one shape are of the same table, do the same
//! to the same columns, and their values are of the same kinds. A part has few of them.

use crate::codec::{DecodeError, Reader, is_signed};
use crate::columnar::predict::Kind;
use crate::columnar::{BAD, COLUMNS_MAX};
use crate::value::{KEY_VALUES_MAX, Value};

/// The tag that stands for all integers.
pub(super) const INTEGER: u8 = 0x20;
/// The tag that stands for all values whose bytes are not looked at.
pub(super) const OPAQUE: u8 = 9;
/// What a site has added to a counter that was born before it joined the fleet.
pub(super) const COUNTER: u8 = 10;
/// Likewise, of a counter with a birth.
pub(super) const BORN_COUNTER: u8 = 11;

/// The clock reading of a birth.
const CLOCK: u8 = 0x40;
/// The origin of a birth.
const ORIGIN: u8 = 0x41;
/// The sequence number of a birth.
const SEQ: u8 = 0x42;
/// The count of digits behind a sum's point.
const SCALE: u8 = 0x43;
/// All digits of a sum, big-endian behind their length.
pub(super) const DIGITS: u8 = 0x44;
/// Of which parts a counter consists; of one without a birth, those from the third on.
const COUNTER_PARTS: [u8; 5] = [CLOCK, ORIGIN, SEQ, SCALE, DIGITS];
const BIRTH_PARTS: usize = 3;
/// Bytes of an incarnation.
const INCARNATION_BYTES: usize = 8;

/// What is written of a value beside its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing: the tag says all.
    Nothing,
    /// Parts that have columns of their own.
    Parts(&'static [u8]),
    /// A number.
    Number(Kind),
    /// Bytes behind a length.
    Text,
    /// Sixteen bytes.
    Uuid,
    /// All of the value, with its tag if it has one.
    Opaque,
}

impl Class {
    /// The class of the values of a tag in a shape, or of a part of such a value.
    pub(super) fn of(tag: u8) -> Option<Self> {
        Some(match tag {
            0 | 2 | 3 => Self::Nothing,
            1 | 4 | 6 => Self::Text,
            5 => Self::Uuid,
            7 | 8 => Self::Number(Kind::Time),
            INTEGER => Self::Number(Kind::Integer),
            OPAQUE | ORIGIN => Self::Opaque,
            COUNTER => Self::Parts(&COUNTER_PARTS[BIRTH_PARTS..]),
            BORN_COUNTER => Self::Parts(&COUNTER_PARTS),
            CLOCK => Self::Number(Kind::Clock),
            SEQ | SCALE => Self::Number(Kind::Count),
            DIGITS => Self::Number(Kind::Decimal),
            _ => return None,
        })
    }

    /// Whether a tag stands for a part of a value.
    fn is_part(tag: u8) -> bool {
        COUNTER_PARTS.contains(&tag)
    }
}

/// One value, or part of one, that is in a column.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) column: u16,
    /// How many bytes, if it is no number.
    pub(super) length: u32,
    /// The number, or the place of the first byte in the part.
    pub(super) number: i64,
}

/// Finds the next value of a part of `whole` bytes; adds what of it is in columns, and gives the tag
/// that stands for it in a shape.
pub(super) fn find(from: &mut Reader<'_>, whole: usize, cells: &mut Vec<Cell>) -> Option<u8> {
    let start = from.clone();
    let here = |from: &Reader<'_>| (whole - from.rest().len()) as i64;
    let tag = from.u8().ok()?;
    let mut add = |number, length: usize| {
        cells.push(Cell { column: 0, length: length as u32, number });
    };
    match tag {
        0 | 2 | 3 => {}
        1 | 4 | 6 => {
            let length = from.count(usize::MAX).ok()?;
            add(here(from), length);
            from.raw(length).ok()?;
        }
        5 => {
            add(here(from), 16);
            from.raw(16).ok()?;
        }
        7 | 8 => add(from.signed().ok()?, 0),
        tag if is_signed(tag) => {
            add(from.signed_after(tag).ok()?, 0);
            return Some(INTEGER);
        }
        COUNTER if let Some((tag, parts)) = find_counter(from, whole) => {
            cells.extend(parts.iter().skip(if tag == COUNTER { BIRTH_PARTS } else { 0 }));
            return Some(tag);
        }
        _ => {
            // What else was done to a merged column is too much to be looked at here.
            *from = start;
            let begin = here(from);
            Value::decode(from).ok()?;
            add(begin, (here(from) - begin) as usize);
            return Some(OPAQUE);
        }
    }
    Some(tag)
}

/// The parts of what a site has added to a counter, behind its tag, if the sum is not too long.
fn find_counter(from: &mut Reader<'_>, whole: usize) -> Option<(u8, [Cell; COUNTER_PARTS.len()])> {
    let mut parts = [Cell::default(); COUNTER_PARTS.len()];
    let number = |from: &mut Reader<'_>| Some(from.varint().ok()?.cast_signed());
    let is_born = from.u8().ok()?;
    if is_born == 1 {
        parts[0].number = number(from)?;
        parts[1].number = (whole - from.rest().len()) as i64;
        let rest = from.rest().len();
        from.varint().ok()?;
        from.raw(INCARNATION_BYTES).ok()?;
        parts[1].length = (rest - from.rest().len()) as u32;
        parts[2].number = number(from)?;
    }
    parts[3].number = number(from)?;
    let digits = from.bytes(size_of::<i64>()).ok()?;
    let is_negative = *digits.first()? >= 0x80;
    let begin = if is_negative { -1 } else { 0 };
    let sum = digits.iter().fold(begin, |sum: i64, byte| sum << 8 | i64::from(*byte));
    parts[4].number = sum;
    let tag = *[COUNTER, BORN_COUNTER].get(usize::from(is_born))?;
    (digits.len() + spare_bytes(sum) == size_of::<i64>()).then_some((tag, parts))
}

/// Bytes that say no more than the sign, of a sum in two's complement.
pub(super) fn spare_bytes(sum: i64) -> usize {
    let spare = if sum < 0 { sum.leading_ones() } else { sum.leading_zeros() };
    (spare as usize - 1) / 8
}

/// A value's place in a shape, or that of a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where a cell begins: steps from the column before.
    pub(super) step: Option<u16>,
    /// The tag.
    pub(super) tag: u8,
    /// Its column in the part, if it has one.
    pub(super) column: Option<u16>,
}

/// A shape as a reader has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) table: u32,
    pub(super) op: u8,
    /// Values of the key: the first of its places.
    pub(super) key: u32,
    pub(super) cells: u32,
    /// Its places among those of all shapes.
    first: u32,
    end: u32,
}

/// Of which values a column consists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) class: Class,
    /// They are part of keys.
    pub(super) in_key: bool,
}

/// The columns that the shapes of a part come to, in the order in which they first appear.
#[derive(Debug, Default)]
pub(super) struct Schema {
    pub(super) shapes: Vec<Shape>,
    pub(super) places: Vec<Place>,
    pub(super) columns: Vec<Origin>,
    numbers: std::collections::BTreeMap<(u32, u32, u8), u16>,
}

/// Cells begin here in the numbering of a table's columns, behind the values of the key.
const CELLS: u32 = 1 << 16;

impl Schema {
    /// Reads the next shape.
    pub(super) fn take(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (table, op) = (from.u32()?, from.u8()?);
        let first = self.places.len();
        let key = from.count(KEY_VALUES_MAX)?;
        for value in 0..key {
            let tag = from.u8()?;
            if matches!(Class::of(tag), Some(Class::Parts(_))) {
                return Err(BAD);
            }
            self.place((table, value as u32), None, tag)?;
        }
        let mut number = CELLS;
        let cells = from.count(crate::schema::COLUMNS_MAX)?;
        for _ in 0..cells {
            let (step, tag) = (from.u16()?, from.u8()?);
            number += u32::from(step);
            self.place((table, number), Some(step), tag)?;
        }
        let end = self.places.len();
        let [key, cells, first, end] = [key, cells, first, end].map(|number| number as u32);
        self.shapes.push(Shape { table, op, key, cells, first, end });
        Ok(())
    }

    /// Adds the place of a value, and those of its parts.
    fn place(&mut self, of: (u32, u32), step: Option<u16>, tag: u8) -> Result<(), DecodeError> {
        if Class::is_part(tag) {
            return Err(BAD);
        }
        let column = self.column((of.0, of.1, tag))?;
        self.places.push(Place { step, tag, column });
        if let Some(Class::Parts(parts)) = Class::of(tag) {
            for part in parts {
                let column = self.column((of.0, of.1, *part))?;
                self.places.push(Place { step: None, tag: *part, column });
            }
        }
        Ok(())
    }

    /// A shape and its places.
    pub(super) fn shape(&self, number: usize) -> Option<(&Shape, &[Place])> {
        let shape = self.shapes.get(number)?;
        Some((shape, &self.places[shape.first as usize..shape.end as usize]))
    }

    fn column(&mut self, name: (u32, u32, u8)) -> Result<Option<u16>, DecodeError> {
        let class = Class::of(name.2).ok_or(BAD)?;
        if matches!(class, Class::Nothing | Class::Parts(_)) {
            return Ok(None);
        }
        if let Some(column) = self.numbers.get(&name) {
            return Ok(Some(*column));
        }
        let column = self.columns.len();
        if column == COLUMNS_MAX {
            return Err(BAD);
        }
        self.columns.push(Origin { class, in_key: name.1 < CELLS });
        self.numbers.insert(name, column as u16);
        Ok(Some(column as u16))
    }
}
