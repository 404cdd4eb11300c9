//! From columns back to the rows of a set's part.

use crate::codec::{DecodeError, Reader, Writer};
use crate::columnar::numbers::Numbers;
use crate::columnar::predict::{Expect, Kind, Last, Rows, hashed, unfolded};
use crate::columnar::shapes::{BORN_COUNTER, COUNTER, Class, Origin, Place, Schema, spare_bytes};
use crate::columnar::texts::{Decimal, Texts, take_scale};
use crate::columnar::{BAD, SHAPES_MAX};

/// The shortest change: table, operation, an empty key, no cells.
const CHANGE_BYTES_MIN: usize = 4;

/// How a column is written.
#[derive(Clone, Copy, Debug)]
enum Way {
    Numbers(Comparison),
    Each,
    Listed { count: usize },
}

#[derive(Clone, Copy, Debug)]
struct Comparison {
    kind: Kind,
    scale: Option<u8>,
    expect: Expect,
    divisor: i64,
}

/// A column that is being read.
#[derive(Debug)]
enum Column<'a> {
    Numbers { comparison: Comparison, numbers: Numbers<'a>, before: i64 },
    Texts(Texts<'a>),
}

pub(super) fn join(mut from: Reader<'_>, plain_bytes: usize) -> Result<Vec<u8>, DecodeError> {
    let changes = from.count(plain_bytes / CHANGE_BYTES_MIN)?;
    let entries = from.count(changes)?;
    let mut schema = Schema::default();
    for _ in 0..from.count(changes.min(SHAPES_MAX))? {
        schema.take(&mut from)?;
    }
    let ways = ways(&mut from, &schema, changes)?;
    let counts = [entries, entries, changes].into_iter();
    let [steps, counts, shapes] =
        <[Numbers<'_>; 3]>::try_from(Numbers::take(&mut from, counts)?).map_err(|_| BAD)?;
    let columns = columns(&mut from, &ways, &uses(&schema, shapes.clone(), changes, plain_bytes)?)?;
    from.finish()?;
    let with_rows = ways
        .iter()
        .any(|way| matches!(way, Way::Numbers(comparison) if comparison.expect == Expect::Row));
    let mut rows = Joiner {
        schema: &schema,
        columns,
        last: Last::default(),
        rows: Rows::new(if with_rows { changes } else { 0 }),
        row: 0,
        with_rows,
        out: Writer::with_capacity(plain_bytes),
        key: Writer::new(),
        plain_bytes,
    };
    rows.join((steps, counts), shapes, (entries, changes))?;
    Ok(rows.out.into_bytes())
}

fn ways(from: &mut Reader<'_>, schema: &Schema, changes: usize) -> Result<Vec<Way>, DecodeError> {
    let mut ways = Vec::with_capacity(schema.columns.len());
    for origin in &schema.columns {
        ways.push(match &origin.class {
            Class::Number(kind) => Way::Numbers(comparison(from, *kind, (None, origin))?),
            class => match from.u8()? {
                0 => Way::Each,
                1 => Way::Listed { count: from.count(changes)? },
                2 if *class == Class::Text => {
                    let scale = take_scale(from)?;
                    Way::Numbers(comparison(from, Kind::Decimal, (Some(scale), origin))?)
                }
                tag => return Err(DecodeError::UnknownTag { what: "column", tag }),
            },
        });
    }
    Ok(ways)
}

fn comparison(
    from: &mut Reader<'_>,
    kind: Kind,
    (scale, origin): (Option<u8>, &Origin),
) -> Result<Comparison, DecodeError> {
    let expect = Expect::tagged(from.u8()?)?;
    // Which row it is shows the key.
    if origin.in_key && expect == Expect::Row {
        return Err(BAD);
    }
    let divisor = i64::try_from(from.varint()?).map_err(|_| DecodeError::BadNumber)?;
    Ok(Comparison { kind, scale, expect, divisor })
}

/// How many values each column has.
fn uses(
    schema: &Schema,
    mut shapes: Numbers<'_>,
    changes: usize,
    plain_bytes: usize,
) -> Result<Vec<usize>, DecodeError> {
    let mut of_shapes = vec![0usize; schema.shapes.len()];
    for _ in 0..changes {
        *of_shapes.get_mut(shapes.next_length()?).ok_or(BAD)? += 1;
    }
    let mut of_columns = vec![0usize; schema.columns.len()];
    let mut values = 0usize;
    for (shape, uses) in of_shapes.into_iter().enumerate() {
        let (_, places) = schema.shape(shape).filter(|_| uses > 0).ok_or(BAD)?;
        // Every value takes at least a byte.
        values = values.saturating_add(places.len().saturating_mul(uses));
        if values > plain_bytes {
            return Err(BAD);
        }
        for column in places.iter().filter_map(|place| place.column) {
            of_columns[usize::from(column)] += uses;
        }
    }
    Ok(of_columns)
}

fn columns<'a>(
    from: &mut Reader<'a>,
    ways: &[Way],
    uses: &[usize],
) -> Result<Vec<Column<'a>>, DecodeError> {
    let counts = ways.iter().zip(uses).flat_map(|(way, uses)| match way {
        Way::Numbers(_) | Way::Each => [Some(*uses), None],
        Way::Listed { count } => [Some(*count), Some(*uses)],
    });
    let mut sequences = Numbers::take(from, counts.flatten())?.into_iter();
    let mut next = || sequences.next().ok_or(BAD);
    let mut columns = Vec::with_capacity(ways.len());
    for way in ways {
        columns.push(match *way {
            Way::Numbers(comparison) => Column::Numbers { comparison, numbers: next()?, before: 0 },
            Way::Each => Column::Texts(Texts::take(from, next()?)?),
            Way::Listed { count } => {
                let lengths = next()?;
                Column::Texts(Texts::take_listed(from, (count, lengths), next()?)?)
            }
        });
    }
    Ok(columns)
}

struct Joiner<'a> {
    schema: &'a Schema,
    columns: Vec<Column<'a>>,
    last: Last,
    rows: Rows,
    /// The hash of the row, if some column needs it.
    row: u64,
    with_rows: bool,
    out: Writer,
    /// The key of a row.
    key: Writer,
    plain_bytes: usize,
}

impl Joiner<'_> {
    fn join(
        &mut self,
        (mut steps, mut counts): (Numbers<'_>, Numbers<'_>),
        mut shapes: Numbers<'_>,
        (entries, changes): (usize, usize),
    ) -> Result<(), DecodeError> {
        let mut left = changes;
        for _ in 0..entries {
            self.out.varint(steps.next()?);
            let count = counts.next()?;
            self.out.varint(count);
            self.check(&self.out, 0)?;
            let count = usize::try_from(count).map_err(|_| BAD)?;
            left = left.checked_sub(count).ok_or(BAD)?;
            for _ in 0..count {
                self.change(shapes.next_length()?)?;
            }
        }
        if left == 0 { Ok(()) } else { Err(BAD) }
    }

    fn change(&mut self, shape: usize) -> Result<(), DecodeError> {
        let schema = self.schema;
        let (shape, places) = schema.shape(shape).ok_or(BAD)?;
        self.out.varint(u64::from(shape.table));
        self.out.u8(shape.op);
        let (key, cells) = places.split_at(shape.key as usize);
        let mut out = std::mem::take(&mut self.key);
        out.clear();
        for place in key {
            self.value(place, &mut out)?;
        }
        self.out.bytes(out.as_bytes());
        if self.with_rows {
            self.row = hashed(u64::from(shape.table), out.as_bytes());
        }
        self.key = out;
        let mut out = std::mem::take(&mut self.out);
        out.varint(u64::from(shape.cells));
        for place in cells {
            if let Some(step) = place.step {
                out.varint(u64::from(step));
            }
            self.value(place, &mut out)?;
        }
        self.out = out;
        self.check(&self.out, 0)
    }

    fn value(&mut self, place: &Place, out: &mut Writer) -> Result<(), DecodeError> {
        let Some(column) = place.column else {
            match place.tag {
                COUNTER => out.raw(&[COUNTER, 0]),
                BORN_COUNTER => out.raw(&[COUNTER, 1]),
                tag => out.u8(tag),
            }
            return self.check(out, 0);
        };
        match &mut self.columns[usize::from(column)] {
            Column::Numbers { comparison, numbers, before } => {
                let by = unfolded(numbers.next()?).wrapping_mul(comparison.divisor);
                let number = match comparison.expect {
                    Expect::Zero => by,
                    Expect::Column => before.wrapping_add(by),
                    Expect::Kind => self.last.of(comparison.kind).wrapping_add(by),
                    Expect::Row => self.rows.add(self.row, usize::from(column), by, *before),
                };
                *before = number;
                self.last.set(comparison.kind, number);
                match comparison.scale {
                    Some(scale) => {
                        out.u8(place.tag);
                        Decimal { digits: number, scale }.put(out);
                    }
                    None => put(place.tag, comparison.kind, number, out),
                }
                self.check(out, 0)
            }
            Column::Texts(texts) => {
                let text = texts.next()?;
                self.check(out, text.len())?;
                match Class::of(place.tag) {
                    Some(Class::Text) => {
                        out.u8(place.tag);
                        out.bytes(text);
                    }
                    Some(Class::Uuid) => {
                        out.u8(place.tag);
                        out.raw(text);
                    }
                    _ => out.raw(text),
                }
                Ok(())
            }
        }
    }

    /// Whether there is room for more in the content.
    fn check(&self, out: &Writer, more: usize) -> Result<(), DecodeError> {
        if out.len() + more <= self.plain_bytes { Ok(()) } else { Err(BAD) }
    }
}

/// Writes a number as its tag wants it.
fn put(tag: u8, kind: Kind, number: i64, out: &mut Writer) {
    match kind {
        Kind::Integer => out.signed(number),
        Kind::Time => {
            out.u8(tag);
            out.signed(number);
        }
        Kind::Clock | Kind::Count => out.varint(number.cast_unsigned()),
        Kind::Decimal => out.bytes(&number.to_be_bytes()[spare_bytes(number)..]),
    }
}
