use std::fmt::Write as _;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::texts::{Decimal, scale};
use super::*;
use crate::change::{Actor, Cell, Describe, RowChange, RowOp, encode_head};
use crate::clock::{Hlc, Stamp};
use crate::codec::Writer;
use crate::decimal;
use crate::golden;
use crate::id::{Incarnation, Origin, Seq, SiteId};
use crate::merged::{Part, Share};
use crate::schema::rules::TableRules;
use crate::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use crate::value::{INLINE_BYTES_MAX, LongValue, RowKey, Value};

/// The content of a set's part: of each transaction the step of its index and its changes.
fn set(transactions: &[(u64, Vec<RowChange>)]) -> Vec<u8> {
    let mut out = Writer::new();
    for (step, changes) in transactions {
        out.varint(*step);
        out.varint(changes.len() as u64);
        changes.iter().for_each(|change| change.encode(&mut out));
    }
    out.into_bytes()
}

fn change(table: u32, key: &[Value], op: RowOp, cells: Vec<(u16, Value)>) -> RowChange {
    let cells = cells.into_iter();
    let cells = cells.map(|(column, value)| Cell { column: ColumnId(column), value });
    RowChange { table: TableId(table), key: RowKey::new(key), op, cells: cells.collect() }
}

fn text(text: impl AsRef<str>) -> Value {
    Value::Text(text.as_ref().into())
}

/// What a site has added to a counter.
fn sum(turn: i64) -> Value {
    let incarnation = Incarnation::new(0x0102_0304_0506_0708).unwrap();
    let origin = Origin { site: SiteId::new(300).unwrap(), incarnation };
    let birth =
        Stamp::new(Hlc::from_ms(1_700_000_000_000 + turn.cast_unsigned() % 3), origin, Seq(9));
    let digits = if turn % 7 == 3 { "9".repeat(turn as usize % 30) } else { String::new() };
    let sum = decimal::Decimal::parse(&format!("{}{digits}.50", turn * 100 - 500)).unwrap();
    Value::Share(Box::new(Share {
        birth: Some(birth).filter(|_| turn % 5 > 0),
        part: Part::Sum(sum),
    }))
}

/// Every kind of value and of column.
fn row(turn: i64) -> Vec<(u16, Value)> {
    let long = LongValue { hash: [turn as u8; 32], bytes: INLINE_BYTES_MAX as u64 + 1 };
    let time = 1_790_000_000_000_000 + turn * 61_000_000;
    let names = ["north", "south", "", "ward on the second floor"];
    vec![
        (1, Value::Int(turn * turn - 300)),
        (2, text(names[turn as usize % 4])),
        (3, if turn % 3 == 0 { Value::Null } else { Value::Bool(turn % 2 == 0) }),
        (4, Value::TimestampTz(time)),
        (5, Value::Timestamp(time + turn % 2)),
        (6, Value::Uuid([(turn % 5) as u8; 16])),
        (7, Value::Bytes(vec![turn as u8; turn as usize % 7].into())),
        (8, text(format!("{}.{:02}", turn * 7 - 100, turn))),
        (9, text("all of it is different, ".repeat(turn as usize % 4) + &turn.to_string())),
        (300, Value::Long(Box::new(long))),
        (301, Value::Int(i64::MIN + turn)),
    ]
}

/// Transactions that have everything in them.
fn all_kinds() -> Vec<(u64, Vec<RowChange>)> {
    let transaction = |turn: i64| {
        let cells = row(turn);
        let share = vec![(2, sum(turn)), (3, Value::Int(turn * turn))];
        let changes = vec![
            change(1, &[Value::Int(turn)], RowOp::Insert, cells),
            change(2, &[Value::Int(turn % 4), text("k")], RowOp::Update, share),
            change(2, &[Value::Int(turn % 4), text("l")], RowOp::Delete, Vec::new()),
            change(70_000, &[], RowOp::Revive, vec![(0, Value::Base("10".into()))]),
        ];
        (u64::from(turn > 0) * (1 + turn as u64 % 2), changes)
    };
    (0..40).map(transaction).collect()
}

fn spine(transactions: u64) -> Vec<u8> {
    let columns = [("id", "bigint"), ("name", "text")]
        .map(|(name, type_name)| ColumnDef { name: name.into(), type_name: type_name.into() });
    let def = TableDef {
        name: TableName::new("public", "ward"),
        set: SetId(1),
        columns: columns.to_vec(),
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    };
    let describe = Describe { table: TableId(1), def };
    let mut out = Writer::new();
    for turn in 0..transactions {
        // Two in a millisecond, then a later one.
        out.varint([(1 << 16) * (turn + 3) - 1, 1][turn as usize % 2] * u64::from(turn > 0));
        let described: &[Describe] =
            if turn.is_multiple_of(9) { std::slice::from_ref(&describe) } else { &[] };
        let name = ["dr. jones", "nurse haddad", "ward"][turn as usize % 3];
        encode_head(described, Actor::new(name).filter(|_| turn % 4 > 0).as_ref(), &mut out);
    }
    out.into_bytes()
}

/// Steps of numbers, then of clock readings; nobody is named, nothing described.
fn compacted_spine() -> Vec<u8> {
    let mut out = Writer::new();
    for turn in 0..40 {
        out.varint(turn * 3 % 200);
        out.varint((1 << 16) * turn);
        encode_head(&[], None, &mut out);
    }
    out.into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Takes a content apart and puts it together again.
fn check(content: Content, plain: &[u8], clock: u64) -> Columns {
    let columns = split(content, plain, clock);
    let columns = columns.unwrap_or_else(|| panic!("not taken apart: {}", hex(plain)));
    assert_eq!(join(content, &columns.bytes, plain.len()).as_deref(), Ok(plain));
    assert!(columns.cuts.is_sorted() && columns.cuts.iter().all(|cut| *cut < columns.bytes.len()));
    columns
}

#[test]
fn columns_are_as_recorded() {
    for (name, content, plain) in [
        ("columns-set-v1", Content::Set, set(&all_kinds())),
        ("columns-spine-v1", Content::Spine, spine(40)),
        ("columns-compacted-spine-v1", Content::CompactedSpine, compacted_spine()),
    ] {
        let recorded = golden::recorded(name, &check(content, &plain, 7).bytes);
        assert_eq!(join(content, &recorded, plain.len()).as_deref(), Ok(&plain[..]), "{name}");
    }
}

#[test]
fn contents_without_much_in_them_are_columns_too() {
    check(Content::Set, &[], 0);
    check(Content::Spine, &[], 0);
    check(Content::Spine, &[0, 0], u64::MAX);
    check(Content::Set, &set(&[(0, vec![change(0, &[], RowOp::Delete, Vec::new())])]), 0);
}

#[test]
fn clock_readings_are_kept_wherever_the_clock_began() {
    for clock in [0, 1, 0xffff, 0x1_0000, u64::MAX - 9, u64::MAX] {
        check(Content::Spine, &spine(9), clock);
    }
}

#[test]
fn what_is_no_content_is_not_taken_apart() {
    let plain = set(&all_kinds());
    for cut in 1..plain.len().min(600) {
        // Between two transactions it is shorter, and whole.
        if let Some(columns) = split(Content::Set, &plain[..cut], 0) {
            assert_eq!(join(Content::Set, &columns.bytes, cut).as_deref(), Ok(&plain[..cut]));
        }
    }
    assert_eq!(split(Content::Set, &[0, 1, 1, 9, 1], 0), None);
    assert_eq!(split(Content::Set, &vec![0; SPLIT_BYTES_MAX + 1], 0), None);
    assert_eq!(split(Content::Spine, &[0, 1, 0], 0), None);
    // More columns, and more shapes, than a part may have.
    let wide = |from: u16| (from..from + 4000).map(|column| (column, Value::Int(1))).collect();
    let wide = [0, 4000].map(|from| change(1, &[], RowOp::Update, wide(from)));
    assert_eq!(split(Content::Set, &set(&[(0, wide.to_vec())]), 0), None);
    let shapes = (0..=SHAPES_MAX as u32).map(|table| change(table, &[], RowOp::Delete, Vec::new()));
    assert_eq!(split(Content::Set, &set(&[(0, shapes.collect())]), 0), None);
}

#[test]
fn damaged_columns_never_panic_and_never_are_longer() {
    for (content, plain) in [(Content::Set, set(&all_kinds())), (Content::Spine, spine(40))] {
        let columns = check(content, &plain, 7).bytes;
        for cut in 0..columns.len() {
            assert!(join(content, &columns[..cut], plain.len()).is_err(), "cut at {cut}");
        }
        assert!(join(content, &[&columns[..], &[0]].concat(), plain.len()).is_err());
        for bit in (0..columns.len() * 8).step_by(3) {
            let mut damaged = columns.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = join(content, &damaged, plain.len()) {
                assert_eq!(found.len(), plain.len(), "bit {bit}");
            }
        }
        for declared in [0, 1, plain.len() - 1, plain.len() + 1, SPLIT_BYTES_MAX + 1, usize::MAX] {
            assert!(join(content, &columns, declared).is_err(), "{declared} declared");
        }
    }
}

/// Columns by hand: numbers of changes, entries and shapes, then what is told.
fn by_hand(changes: u64, entries: u64, shapes: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut out = Writer::new();
    [changes, entries, shapes].into_iter().for_each(|count| out.varint(count));
    rest.iter().for_each(|bytes| out.raw(bytes));
    out.into_bytes()
}

#[test]
fn what_is_only_claimed_is_refused() {
    let refused = |columns: Vec<u8>, plain_bytes| {
        assert!(join(Content::Set, &columns, plain_bytes).is_err(), "{}", hex(&columns));
    };
    // One change: table 1, a delete, no key, no cells.
    let good = by_hand(1, 1, 1, &[&[1, 2, 0, 0], &[0, 1, 0, 1]]);
    assert_eq!(join(Content::Set, &good, 6).as_deref(), Ok(&[0, 1, 1, 2, 0, 0][..]));
    refused(good, 5);
    // More changes, entries and shapes than there can be.
    for huge in [1 << 20, u64::MAX >> 1, u64::MAX] {
        refused(by_hand(huge, 1, 1, &[&[0; 64]]), SPLIT_BYTES_MAX);
        refused(by_hand(1, huge, 1, &[&[0; 64]]), SPLIT_BYTES_MAX);
        refused(by_hand(1, 1, huge, &[&[0; 64]]), SPLIT_BYTES_MAX);
    }
    // A shape that no change has, and an entry of more changes than there are.
    refused(by_hand(1, 1, 2, &[&[1, 2, 0, 0], &[1, 1, 0, 0], &[0, 1, 0, 1]]), 6);
    refused(by_hand(1, 1, 1, &[&[1, 2, 0, 0], &[0, 1, 0, 2]]), 6);
    // Lists of what is not there; numbers of nine bytes; a comparison in a key with its row.
    refused(by_hand(1, 1, 1, &[&[1, 2, 1, 1, 0], &[1, 0xff, 0xff, 0x7f], &[0, 1, 0, 1]]), 600);
    refused(by_hand(1, 1, 1, &[&[1, 2, 1, 0x20, 0], &[0, 1], &[0, 1, 0, 1], &[9; 10]]), 600);
    refused(by_hand(1, 1, 1, &[&[1, 2, 1, 0x20, 0], &[3, 1], &[0, 1, 0, 1], &[1, 5]]), 8);
    // Counters in keys, and parts of them that stand alone.
    for shape in [[1, 2, 1, 10, 0], [1, 2, 1, 0x40, 0], [1, 2, 1, 12, 0]] {
        refused(by_hand(1, 1, 1, &[&shape, &[0, 1, 0, 1], &[0, 1, 0, 1], &[1, 5]]), 8);
    }
    let key = by_hand(1, 1, 1, &[&[1, 2, 1, 0x20, 0], &[0, 1], &[0, 1, 0, 1], &[1, 6]]);
    assert_eq!(join(Content::Set, &key, 8).as_deref(), Ok(&[0, 1, 1, 2, 2, 0x21, 3, 0][..]));
}

#[test]
fn a_text_that_is_named_often_does_not_blow_up() {
    let count = 3000usize;
    let long = vec![b'x'; 60_000];
    let mut rest = vec![1, 1, 0, 1, 5, 1, 1, 1];
    rest.extend([0, 2]); // Lengths of the step and of the count,
    rest.extend(vec![0; count]); // of the shapes,
    rest.extend((count as u16).to_le_bytes()); // the count,
    rest.push(2); // length of the listed text's length,
    rest.extend(vec![0; count]); // which of the list,
    rest.extend(60_000u16.to_le_bytes());
    rest.extend(&long);
    let columns = by_hand(count as u64, 1, 1, &[&rest]);
    let whole = 3 + count * (6 + 3 + long.len());
    assert!(whole > SPLIT_BYTES_MAX && columns.len() < 100_000);
    for declared in [100_000, SPLIT_BYTES_MAX] {
        assert_eq!(join(Content::Set, &columns, declared), Err(BAD));
    }
}

#[test]
fn a_shape_of_many_cells_does_not_blow_up() {
    let cells: Vec<u8> = (0..4096).flat_map(|_| [1, 0]).collect();
    let shape = [&[1, 1, 0, 0x80, 0x20][..], &cells].concat();
    let changes = 100_000usize;
    let rest = [&[0, 3][..], &vec![0; changes], &[0xa0, 0x86, 0x01]].concat();
    let columns = by_hand(changes as u64, 1, 1, &[&shape, &rest]);
    assert_eq!(join(Content::Set, &columns, SPLIT_BYTES_MAX), Err(BAD));
}

#[test]
fn sums_are_as_long_as_they_need_be() {
    let ends = [0, 1, 0x7f, 0x80, 0x7fff, 0x8000, i64::MAX >> 8, i64::MAX >> 7, i64::MAX];
    for sum in ends.into_iter().flat_map(|end| [end, -end, -end - 1]) {
        let bytes = &sum.to_be_bytes()[shapes::spare_bytes(sum)..];
        let sum = decimal::Decimal::parse(&sum.to_string()).unwrap();
        let mut out = Writer::new();
        sum.encode(&mut out);
        assert_eq!(&out.as_bytes()[2..], bytes, "{sum}");
        let share = Value::Share(Box::new(Share { birth: None, part: Part::Sum(sum) }));
        let plain = set(&[(0, vec![change(1, &[], RowOp::Update, vec![(1, share)])])]);
        let columns = check(Content::Set, &plain, 0);
        // Table, update, no key, a cell of column 1: a counter without a birth.
        assert!(columns.bytes.starts_with(&[1, 1, 1, 1, 1, 0, 1, 1, 10]));
    }
}

#[test]
fn decimal_numbers_are_texts_that_print_the_same() {
    let printed = |text: &str| {
        let mut out = Writer::new();
        Decimal::parse(text.as_bytes())?.put(&mut out);
        Some(String::from_utf8(out.into_bytes()[1..].to_vec()).unwrap())
    };
    let nines = ["9".repeat(18), format!("-{}.{}", "9".repeat(9), "9".repeat(9))];
    let good = ["0", "7", "-7", "10", "0.0", "0.50", "-0.05", "1.10", "12345.678900", "-1.0"];
    for text in good.into_iter().chain(nines.iter().map(String::as_str)) {
        assert_eq!(printed(text).as_deref(), Some(text));
    }
    let long = ["9".repeat(19), "0.".to_owned() + &"1".repeat(18)];
    let bad =
        ["", "-", ".", "1.", ".5", "-0", "-0.0", "00", "01", "-01.5", "1e5", "1.2.3", "+1", "NaN"];
    for text in bad.into_iter().chain(long.iter().map(String::as_str)) {
        assert_eq!(printed(text), None, "{text}");
    }
    assert_eq!(scale([&b"1.50"[..], b"-2.00"].into_iter()), Some(2));
    assert_eq!(scale([&b"1.50"[..], b"2.0"].into_iter()), None);
    assert_eq!(scale([].into_iter()), None);
}

/// Numbers as columns have them: all over, close to each other, in steps.
fn any_number() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        0i64..9,
        (0i64..50).prop_map(|n| 1_790_000_000_000_000 + n * 1_000_000),
        Just(i64::MIN),
        Just(i64::MAX),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => any_number().prop_map(Value::Int),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => any_number().prop_map(Value::Timestamp),
        1 => any_number().prop_map(Value::TimestampTz),
        2 => "[a-c]{0,2}|-?[0-9]{1,3}\\.[0-9]{2}|.{0,30}".prop_map(text),
        1 => any::<[u8; 16]>().prop_map(Value::Uuid),
        1 => vec(any::<u8>(), 0..5).prop_map(|bytes| Value::Bytes(bytes.into())),
        1 => (0i64..9).prop_map(sum),
    ]
}

/// Changes of a few shapes, with values of any kind now and then.
fn any_changes() -> impl Strategy<Value = Vec<RowChange>> {
    let usual = (0u32..3, 0i64..6, vec(any_number(), 3), "[a-c]{1,2}", 0i64..999).prop_map(
        |(table, key, numbers, name, digits)| {
            let cells = vec![
                (1, Value::Int(numbers[0])),
                (2, text(name)),
                (4, text(format!("{digits}.{:02}", digits % 100))),
                (5, Value::TimestampTz(numbers[1])),
                (6, Value::Int(numbers[2])),
            ];
            change(table, &[Value::Int(key)], RowOp::Update, cells)
        },
    );
    // What was done to a merged column is never part of a key.
    let in_key = any_value().prop_filter("a value", |value| !matches!(value, Value::Share(_)));
    let odd = (0u32..3, vec(in_key, 0..3), 0..6usize, btree_map(0u16..9, any_value(), 0..6))
        .prop_map(|(table, key, op, cells)| {
            change(table, &key, RowOp::ALL[op], cells.into_iter().collect())
        });
    vec(prop_oneof![4 => usual, 1 => odd], 1..30)
}

proptest! {
    #[test]
    fn any_changes_are_put_together_to_the_same_bytes(
        transactions in vec((any::<u32>().prop_map(u64::from), any_changes()), 0..6),
    ) {
        check(Content::Set, &set(&transactions), 0);
    }

    #[test]
    fn any_spine_is_put_together_to_the_same_bytes(
        steps in vec((any::<u64>(), 0u32..64, proptest::option::of("[a-c]{1,3}")), 0..60),
        clock in any::<u64>(),
    ) {
        for content in [Content::Spine, Content::CompactedSpine] {
            let mut out = Writer::new();
            let mut left = u64::MAX >> 16 << 8;
            for (step, bits, name) in &steps {
                if content == Content::CompactedSpine {
                    out.varint(step >> (63 - bits));
                }
                let step = (step >> bits).min(left);
                left -= step;
                out.varint(step);
                let actor = name.as_ref().and_then(|name| Actor::new(name));
                encode_head(&[], actor.as_ref(), &mut out);
            }
            check(content, &out.into_bytes(), clock);
        }
    }

    #[test]
    fn mutated_columns_never_panic(
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        near in any::<bool>(),
        is_spine in any::<bool>(),
    ) {
        let (content, plain) = match is_spine {
            true => (Content::Spine, spine(40)),
            false => (Content::Set, set(&all_kinds())),
        };
        let mut columns = split(content, &plain, 7).unwrap().bytes;
        for (place, byte) in edits {
            // The directory is at the beginning.
            let place = place.index(if near { 300 } else { columns.len() });
            columns[place] = byte;
        }
        if let Ok(found) = join(content, &columns, plain.len()) {
            prop_assert_eq!(found.len(), plain.len());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), declared in 0usize..2000) {
        for content in [Content::Spine, Content::CompactedSpine, Content::Set] {
            let _ = join(content, &bytes, declared);
            let _ = split(content, &bytes, 0);
        }
    }
}
