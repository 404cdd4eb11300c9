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

/// What is written of a value beside its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing: the tag says all.
    Nothing,
    /// A number behind its tag.
    Number(Kind),
    /// Bytes behind a length.
    Text,
    /// Sixteen bytes.
    Uuid,
    /// All of the value, with its tag.
    Opaque,
}

impl Class {
    /// The class of the values of a tag in a shape.
    pub(super) fn of(tag: u8) -> Option<Self> {
        Some(match tag {
            0 | 2 | 3 => Self::Nothing,
            1 | 4 | 6 => Self::Text,
            5 => Self::Uuid,
            7 | 8 => Self::Number(Kind::Time),
            INTEGER => Self::Number(Kind::Integer),
            OPAQUE => Self::Opaque,
            _ => return None,
        })
    }
}

/// What a value is without its tag: a number, or where its bytes stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) tag: u8,
    /// The number, or the place of the first byte in the part.
    pub(super) number: i64,
    /// How many bytes.
    pub(super) length: u32,
}

/// Finds the next value of a part of `whole` bytes.
pub(super) fn find(from: &mut Reader<'_>, whole: usize) -> Option<Found> {
    let start = from.clone();
    let here = |from: &Reader<'_>| (whole - from.rest().len()) as i64;
    let tag = from.u8().ok()?;
    Some(match tag {
        0 | 2 | 3 => Found { tag, number: 0, length: 0 },
        1 | 4 | 6 => {
            let length = from.count(usize::MAX).ok()?;
            let number = here(from);
            from.raw(length).ok()?;
            Found { tag, number, length: length as u32 }
        }
        5 => {
            let number = here(from);
            from.raw(16).ok()?;
            Found { tag, number, length: 16 }
        }
        7 | 8 => Found { tag, number: from.signed().ok()?, length: 0 },
        tag if is_signed(tag) => {
            Found { tag: INTEGER, number: from.signed_after(tag).ok()?, length: 0 }
        }
        _ => {
            // What was done to a merged column is too much to be looked at here.
            let number = here(&start);
            *from = start;
            Value::decode(from).ok()?;
            Found { tag: OPAQUE, number, length: (here(from) - number) as u32 }
        }
    })
}

/// A value's place in a shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Steps from the column before; of a value of the key, nothing.
    pub(super) step: u16,
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
            let column = self.column((table, value as u32, tag))?;
            self.places.push(Place { step: 0, tag, column });
        }
        let mut number = CELLS;
        for _ in 0..from.count(crate::schema::COLUMNS_MAX)? {
            let (step, tag) = (from.u16()?, from.u8()?);
            number += u32::from(step);
            let column = self.column((table, number, tag))?;
            self.places.push(Place { step, tag, column });
        }
        let end = self.places.len();
        let [key, first, end] = [key, first, end].map(|number| number as u32);
        self.shapes.push(Shape { table, op, key, first, end });
        Ok(())
    }

    /// A shape and its places.
    pub(super) fn shape(&self, number: usize) -> Option<(&Shape, &[Place])> {
        let shape = self.shapes.get(number)?;
        Some((shape, &self.places[shape.first as usize..shape.end as usize]))
    }

    fn column(&mut self, name: (u32, u32, u8)) -> Result<Option<u16>, DecodeError> {
        let class = Class::of(name.2).ok_or(BAD)?;
        if class == Class::Nothing {
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
