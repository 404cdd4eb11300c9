//! From the rows of a set's part to columns.

use crate::codec::{Reader, Writer};
use crate::columnar::numbers::Body;
use crate::columnar::predict::{Expect, Kind, Last, Rows, folded, hashed};
use crate::columnar::shapes::{Cell, Class, Origin, Schema, find};
use crate::columnar::texts::{Decimal, Known, Listed, list, scale};
use crate::columnar::{CUT_BYTES, Columns, SHAPES_MAX};

/// The rows of a part, read once.
#[derive(Debug, Default)]
struct Rowwise {
    steps: Vec<u64>,
    counts: Vec<u64>,
    /// The shape of each change.
    shapes: Vec<u64>,
    /// The hash of each change's row.
    rows: Vec<u64>,
    /// Where each change's cells end.
    ends: Vec<u32>,
    cells: Vec<Cell>,
    schema: Schema,
    known: Known,
    /// The shapes as they are written, one behind the other.
    written: Vec<u8>,
    bounds: Vec<u32>,
    /// Which shape came after each of them the last time.
    next: Vec<u32>,
}

/// Changes that show what numbers are best compared with.
const TRIED_CHANGES: usize = 4096;

/// How a column is written.
#[derive(Debug)]
enum Written {
    Numbers { kind: Kind, scale: Option<u8>, expect: Expect, divisor: u64, numbers: Vec<u64> },
    Each { lengths: Vec<u64> },
    Listed(Listed),
}

pub(super) fn split(plain: &[u8]) -> Option<Columns> {
    let mut rows = Rowwise::read(plain)?;
    let order = Order::of(&rows);
    let mut written = rows.choose(plain, &order);
    rows.expect(&mut written);
    Some(rows.write(plain, &order, &written))
}

impl Rowwise {
    fn read(plain: &[u8]) -> Option<Self> {
        let mut all = Self::default();
        let mut from = Reader::new(plain);
        let mut shape = Writer::new();
        while !from.rest().is_empty() {
            all.steps.push(from.varint().ok()?);
            let changes = from.count(usize::MAX).ok()?;
            all.counts.push(changes as u64);
            for _ in 0..changes {
                all.read_change(plain, &mut from, &mut shape)?;
            }
        }
        Some(all)
    }

    fn read_change(
        &mut self,
        plain: &[u8],
        from: &mut Reader<'_>,
        shape: &mut Writer,
    ) -> Option<()> {
        let begin = self.cells.len();
        let table = from.varint().ok()?;
        shape.clear();
        shape.varint(table);
        shape.u8(from.u8().ok()?);
        let key = from.bytes(usize::MAX).ok()?;
        self.rows.push(hashed(table, key));
        let key_end = from.rest().len();
        let mut values = Reader::new(key);
        let mut tags = [0u8; crate::value::KEY_VALUES_MAX];
        let mut count = 0;
        while !values.rest().is_empty() {
            // Places count from the beginning of the part.
            *tags.get_mut(count)? = find(&mut values, plain.len() - key_end, &mut self.cells)?;
            count += 1;
        }
        shape.bytes(&tags[..count]);
        let cells = from.count(usize::MAX).ok()?;
        shape.varint(cells as u64);
        for _ in 0..cells {
            shape.varint(from.varint().ok()?);
            shape.u8(find(from, plain.len(), &mut self.cells)?);
        }
        let number = self.shape(shape.as_bytes())?;
        let (_, places) = self.schema.shape(number)?;
        let columns = places.iter().filter_map(|place| place.column);
        for (cell, column) in self.cells[begin..].iter_mut().zip(columns) {
            cell.column = column;
        }
        self.ends.push(u32::try_from(self.cells.len()).ok()?);
        Some(())
    }

    /// The number of the shape of the next change, which may be new.
    fn shape(&mut self, shape: &[u8]) -> Option<usize> {
        let at = |number: usize| {
            let start = number.checked_sub(1).map_or(0, |before| self.bounds[before]);
            &self.written[start as usize..self.bounds[number] as usize]
        };
        let before = self.shapes.last().map(|before| *before as usize);
        let guess = before.map(|before| self.next[before] as usize);
        let number = match guess {
            Some(guess) if at(guess) == shape => guess,
            _ => {
                let hash = hashed(0, shape);
                match self.known.find(hash, |number| at(number) == shape) {
                    Some(number) => number,
                    None => self.add_shape(shape, hash)?,
                }
            }
        };
        if let Some(before) = before {
            self.next[before] = number as u32;
        }
        self.shapes.push(number as u64);
        Some(number)
    }

    fn add_shape(&mut self, shape: &[u8], hash: u64) -> Option<usize> {
        if self.bounds.len() == SHAPES_MAX {
            return None;
        }
        self.schema.take(&mut Reader::new(shape)).ok()?;
        self.written.extend_from_slice(shape);
        self.bounds.push(u32::try_from(self.written.len()).ok()?);
        self.next.push(0);
        Some(self.known.add(hash))
    }

    /// What of each column is numbers, and how the rest is written.
    fn choose(&mut self, plain: &[u8], order: &Order) -> Vec<Written> {
        let columns = self.schema.columns.clone();
        let numbers = |kind, scale, count| Written::Numbers {
            kind,
            scale,
            expect: Expect::Zero,
            divisor: 1,
            numbers: Vec::with_capacity(count),
        };
        let choose = |(column, origin): (usize, &Origin)| {
            let count = order.of_column(column).len();
            let cells = &self.cells;
            let texts =
                || order.of_column(column).iter().map(|at| text(plain, &cells[*at as usize]));
            match &origin.class {
                Class::Number(kind) => numbers(*kind, None, count),
                Class::Text if let Some(scale) = scale(texts()) => {
                    numbers(Kind::Decimal, Some(scale), count)
                }
                _ => match list(texts(), count) {
                    Some(listed) => Written::Listed(listed),
                    None => {
                        let lengths = texts().map(|text| text.len() as u64).collect();
                        Written::Each { lengths }
                    }
                },
            }
        };
        let written: Vec<_> = columns.iter().enumerate().map(choose).collect();
        for (column, written) in written.iter().enumerate() {
            if let Written::Numbers { scale: Some(_), .. } = written {
                for at in order.of_column(column) {
                    let cell = &mut self.cells[*at as usize];
                    let decimal = Decimal::parse(text(plain, cell));
                    cell.number = decimal.map_or(0, |decimal| decimal.digits);
                }
            }
        }
        written
    }

    /// Finds out for each column of numbers what to compare them with, and compares them.
    fn expect(&self, written: &mut [Written]) {
        let chosen = self.chosen(written);
        for (written, chosen) in written.iter_mut().zip(chosen) {
            if let Written::Numbers { expect, .. } = written {
                *expect = chosen;
            }
        }
        let mut last = Last::default();
        let mut before = vec![0i64; written.len()];
        let mut rows = Rows::new(self.shapes.len());
        let mut begin = 0;
        for (row, end) in self.rows.iter().zip(&self.ends) {
            for cell in &self.cells[begin..*end as usize] {
                let column = usize::from(cell.column);
                let Written::Numbers { kind, expect, numbers, .. } = &mut written[column] else {
                    continue;
                };
                let expected = match expect {
                    Expect::Zero => 0,
                    Expect::Column => before[column],
                    Expect::Kind => last.of(*kind),
                    Expect::Row => {
                        rows.replace(*row, column, cell.number).unwrap_or(before[column])
                    }
                };
                numbers.push(cell.number.wrapping_sub(expected).cast_unsigned());
                before[column] = cell.number;
                last.set(*kind, cell.number);
            }
            begin = *end as usize;
        }
        for written in written {
            if let Written::Numbers { divisor, numbers, .. } = written {
                let sizes = numbers.iter().map(|one| one.cast_signed().unsigned_abs());
                let by = i64::try_from(sizes.fold(0, divisor_of)).unwrap_or(1).max(1);
                *divisor = by.cast_unsigned();
                for number in numbers {
                    let difference = number.cast_signed();
                    *number = folded(if by == 1 { difference } else { difference / by });
                }
            }
        }
    }

    /// For each column what makes the differences of the first changes small.
    fn chosen(&self, written: &[Written]) -> Vec<Expect> {
        let mut costs = vec![[Cost::default(); Expect::ALL.len()]; written.len()];
        let mut last = Last::default();
        let mut before = vec![0i64; written.len()];
        let mut rows = Rows::new(self.shapes.len());
        let mut begin = 0;
        for (row, end) in self.rows.iter().zip(&self.ends).take(TRIED_CHANGES) {
            for cell in &self.cells[begin..*end as usize] {
                let column = usize::from(cell.column);
                let Written::Numbers { kind, .. } = &written[column] else { continue };
                let in_row = rows.replace(*row, column, cell.number);
                let expected =
                    [0, before[column], last.of(*kind), in_row.unwrap_or(before[column])];
                for (cost, expected) in costs[column].iter_mut().zip(expected) {
                    cost.add(folded(cell.number.wrapping_sub(expected)));
                }
                before[column] = cell.number;
                last.set(*kind, cell.number);
            }
            begin = *end as usize;
        }
        let least = |(costs, origin): (&[Cost; 4], &Origin)| {
            let possible = Expect::ALL.iter().filter(|one| !origin.in_key || **one != Expect::Row);
            possible.min_by_key(|one| costs[**one as usize].bits).copied().unwrap_or(Expect::Zero)
        };
        costs.iter().zip(&self.schema.columns).map(least).collect()
    }

    fn write(&self, plain: &[u8], order: &Order, written: &[Written]) -> Columns {
        let mut head = Writer::new();
        head.varint(self.shapes.len() as u64);
        head.varint(self.steps.len() as u64);
        head.varint(self.bounds.len() as u64);
        head.raw(&self.written);
        for written in written {
            match written {
                Written::Numbers { scale, expect, divisor, .. } => {
                    if let Some(scale) = scale {
                        head.raw(&[2, *scale]);
                    }
                    head.u8(*expect as u8);
                    head.varint(*divisor);
                }
                Written::Each { .. } => head.u8(0),
                Written::Listed(listed) => {
                    head.u8(1);
                    head.varint(listed.lengths.len() as u64);
                }
            }
        }
        let mut body = Body { bytes: head.into_bytes(), cuts: Vec::new() };
        body.put(&[&self.steps, &self.counts, &self.shapes]);
        let mut sequences: Vec<&[u64]> = Vec::new();
        for written in written {
            match written {
                Written::Numbers { numbers, .. } => sequences.push(numbers),
                Written::Each { lengths } => sequences.push(lengths),
                Written::Listed(listed) => {
                    sequences.extend([&listed.lengths[..], &listed.numbers]);
                }
            }
        }
        body.put(&sequences);
        for (column, written) in written.iter().enumerate() {
            match written {
                Written::Numbers { .. } => {}
                Written::Each { lengths } => {
                    body.cut(lengths.iter().sum::<u64>() as usize);
                    for at in order.of_column(column) {
                        body.bytes.extend_from_slice(text(plain, &self.cells[*at as usize]));
                    }
                }
                Written::Listed(listed) => {
                    body.cut(listed.bytes.len().min(CUT_BYTES));
                    body.bytes.extend_from_slice(&listed.bytes);
                }
            }
        }
        Columns { bytes: body.bytes, cuts: body.cuts }
    }
}

fn text<'a>(plain: &'a [u8], cell: &Cell) -> &'a [u8] {
    let begin = cell.number as usize;
    &plain[begin..begin + cell.length as usize]
}

/// The greatest number that divides both.
fn divisor_of(mut one: u64, mut two: u64) -> u64 {
    while two != 0 {
        if one == 1 {
            return 1;
        }
        (one, two) = (two, one % two);
    }
    one
}

/// About how many bits numbers take.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    bits: u64,
    last: u64,
}

impl Cost {
    fn add(&mut self, number: u64) {
        // What repeats costs next to nothing.
        if number != self.last {
            self.bits += u64::from(u64::BITS + 2 - number.leading_zeros());
        }
        self.last = number;
    }
}

/// The cells of each column.
#[derive(Debug)]
struct Order {
    cells: Vec<u32>,
    begins: Vec<u32>,
}

impl Order {
    fn of(rows: &Rowwise) -> Self {
        let mut begins = vec![0u32; rows.schema.columns.len() + 1];
        for cell in &rows.cells {
            begins[usize::from(cell.column) + 1] += 1;
        }
        for column in 1..begins.len() {
            begins[column] += begins[column - 1];
        }
        let mut next = begins.clone();
        let mut cells = vec![0; rows.cells.len()];
        for (at, cell) in rows.cells.iter().enumerate() {
            let place = &mut next[usize::from(cell.column)];
            cells[*place as usize] = at as u32;
            *place += 1;
        }
        Self { cells, begins }
    }

    fn of_column(&self, column: usize) -> &[u32] {
        &self.cells[self.begins[column] as usize..self.begins[column + 1] as usize]
    }
}
