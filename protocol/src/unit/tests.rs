use std::collections::BTreeMap;

use ed25519_dalek::{Signer, SigningKey};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::packing::Packing;
use super::*;
use crate::change::{ACTOR_BYTES_MAX, Actor, Cell, Describe, RowChange, RowOp};
use crate::columnar::{Content, split};
use crate::compress::compress;
use crate::golden;
use crate::id::{Incarnation, SiteId};
use crate::schema::rules::TableRules;
use crate::schema::{ColumnDef, ColumnId, TableDef, TableName};
use crate::value::{RowKey, Value};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

fn origin() -> Origin {
    Origin {
        site: SiteId::new(300).unwrap(),
        incarnation: Incarnation::new(0x0102_0304_0506_0708).unwrap(),
    }
}

fn set_of(table: TableId) -> SetId {
    SetId((table.0 % 3 + 1) as u16)
}

fn sign(bytes: &[u8]) -> [u8; 64] {
    key().sign(bytes).to_bytes()
}

fn seal(transactions: &[Transaction]) -> Unit {
    seal_as(Fragment::Whole, transactions)
}

fn seal_as(fragment: Fragment, transactions: &[Transaction]) -> Unit {
    let vector = [(Origin { site: SiteId::new(2).unwrap(), ..origin() }, Seq(9))].into_iter();
    let vector = vector.collect();
    let context = SealContext {
        origin: origin(),
        fleet_version: 4,
        fragment,
        previous: UnitHash([0xaa; 32]),
        vector: &vector,
        level: 3,
    };
    Unit::seal(context, transactions, set_of, sign)
}

fn open(bytes: &[u8]) -> Result<Unit, UnitError> {
    Unit::open(bytes.to_vec(), &public(&key()))
}

fn update(table: u32, id: i64, text: &str) -> RowChange {
    RowChange {
        table: TableId(table),
        key: RowKey::new(&[Value::Int(id)]),
        op: RowOp::Update,
        cells: vec![Cell { column: ColumnId(1), value: Value::Text(text.into()) }],
    }
}

fn describe(table: u32) -> Describe {
    let columns = [("id", "bigint"), ("name", "text")]
        .map(|(name, type_name)| ColumnDef { name: name.into(), type_name: type_name.into() });
    let def = TableDef {
        name: TableName::new("public", "ward"),
        set: set_of(TableId(table)),
        columns: columns.to_vec(),
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    };
    Describe { table: TableId(table), def }
}

/// Two sets, a description, an empty transaction; every part is too short to be packed.
fn small() -> Vec<Transaction> {
    let transaction = |seq, hlc, describes, changes| Transaction {
        seq: Seq(seq),
        hlc: Hlc(hlc),
        actor: Actor::new("dr. jones").filter(|_| seq == 7),
        describes,
        changes,
        piece: None,
    };
    let delete = RowChange {
        table: TableId(1),
        key: RowKey::new(&[Value::Int(-4)]),
        op: RowOp::Delete,
        cells: vec![],
    };
    vec![
        transaction(5, 1 << 40, vec![describe(1)], vec![delete, update(1, 8, "north")]),
        transaction(6, (1 << 40) + 3, vec![], vec![]),
        transaction(7, 1 << 41, vec![], vec![update(1, 8, "south"), update(2, 1, "")]),
    ]
}

/// Enough alike to be worth packing.
fn long() -> Vec<Transaction> {
    let mut transactions = small();
    transactions[1].changes = (0..40).map(|id| update(1, id, "a bed near the window")).collect();
    transactions[1].changes.sort_by(|a, b| a.key.cmp(&b.key));
    transactions
}

/// A unit whose header and plain parts are made by hand, signed as the origin would.
fn forge(header: &UnitHeader, parts: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let header_bytes = header.encode();
    let mut out = Writer::new();
    out.u8(UNIT_FORMAT);
    out.bytes(&header_bytes);
    out.raw(&sign(&signed_message(&header_bytes)));
    for (packing, bytes) in parts {
        out.u8(*packing);
        out.bytes(bytes);
    }
    out.into_bytes()
}

fn plain_parts(unit: &Unit) -> Vec<Vec<u8>> {
    let layout = Layout::read(unit.bytes()).unwrap();
    let parts = layout.header.parts.iter().zip(&layout.parts);
    parts.map(|(part, stored)| stored.unpack(part, &layout.header).unwrap()).collect()
}

/// `unit` with one part's content replaced, everything else made to match.
fn with_content(unit: &Unit, index: usize, count: u64, content: Vec<u8>) -> Vec<u8> {
    let mut plain = plain_parts(unit);
    let mut header = unit.header().clone();
    header.parts[index].count = count;
    header.parts[index].plain_bytes = content.len() as u64;
    header.parts[index].root = *blake3::hash(&content).as_bytes();
    plain[index] = content;
    forge(&header, &plain.into_iter().map(|bytes| (0, bytes)).collect::<Vec<_>>())
}

/// `unit` with every part in rows, packed where that is shorter.
fn in_rows(unit: &Unit) -> Vec<u8> {
    let packed = |plain: Vec<u8>| match compress(&plain, 3) {
        packed if packed.len() < plain.len() => (1, packed),
        _ => (0, plain),
    };
    forge(unit.header(), &plain_parts(unit).into_iter().map(packed).collect::<Vec<_>>())
}

#[test]
fn recorded_units_still_open_and_say_the_same() {
    let unit = seal(&small());
    golden::check("unit-plain-v1", unit.bytes());
    for (name, transactions) in
        [("unit-columns-v1", columnar()), ("unit-plain-v1", small()), ("unit-packed-v1", long())]
    {
        // What zstd makes of the same content may change with its version; what it means may not.
        let sealed = seal(&transactions);
        let current = match name {
            "unit-packed-v1" => in_rows(&sealed),
            _ => sealed.bytes().to_vec(),
        };
        let unit = open(&golden::recorded(name, &current)).unwrap();
        assert_eq!(unit.header(), sealed.header());
        assert_eq!(unit.hash(), sealed.hash());
        assert_eq!(unit.transactions().unwrap(), transactions);
    }
    let compacted = seal_as(Fragment::Compacted, &with_gaps(&small()));
    golden::check("unit-compacted-v1", compacted.bytes());
    let unit = open(&golden::recorded("unit-compacted-v1", compacted.bytes())).unwrap();
    assert_eq!(unit.transactions().unwrap(), with_gaps(&small()));
    let unit = seal(&small());
    assert_eq!(
        unit.hash().0.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "5cbfd77375f3477abe5fe9c5fd6da9007cb8e2fd8ce87a72de3f1dc578ebc51a"
    );
}

/// The same with transactions left out before each but the first.
fn with_gaps(transactions: &[Transaction]) -> Vec<Transaction> {
    let mut with_gaps = transactions.to_vec();
    for (place, transaction) in (0..).zip(&mut with_gaps) {
        transaction.seq = Seq(transaction.seq.0 + 7 * place);
    }
    with_gaps
}

#[test]
fn a_compacted_unit_has_one_form() {
    let transactions = with_gaps(&small());
    let unit = seal_as(Fragment::Compacted, &transactions);
    assert!(unit.header().is_plausible());
    let spine = |bytes: &[u8]| {
        let opened = open(&with_content(&unit, 0, 3, bytes.to_vec())).unwrap();
        opened.transactions().map(|_| ()).map_err(|error| error.to_string())
    };
    let content = plain_parts(&unit).remove(0);
    assert_eq!(spine(&content), Ok(()));
    let damaged = |place: usize, byte: u8| {
        let mut content = content.clone();
        content[place] = byte;
        spine(&content)
    };
    let last = content.len() - "dr. jones".len() - 9;
    assert_eq!(content[0], 0);
    assert!(damaged(0, 1).unwrap_err().contains("sequence numbers"), "begins at the first");
    assert_eq!(content[last], 8);
    for byte in [0, 7, 9] {
        assert!(damaged(last, byte).unwrap_err().contains("sequence numbers"), "{byte}");
    }
    // One by itself has nothing left out.
    let mut header = unit.header().clone();
    header.last = header.first;
    assert!(matches!(open(&forge(&header, &[])), Err(UnitError::Malformed(_))));
    header.last = header.first.next();
    assert!(!header.is_plausible(), "three in a range of two");
}

#[test]
fn no_flipped_bit_changes_what_a_unit_says() {
    for transactions in [small(), long(), columnar()] {
        let unit = seal(&transactions);
        let mut accepted = 0;
        for bit in 0..unit.bytes().len() * 8 {
            let mut bytes = unit.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Some bits of a zstd frame have no meaning. The content is still the signed one.
            if let Ok(found) = open(&bytes) {
                accepted += 1;
                assert_eq!(found.header(), unit.header(), "bit {bit}");
                assert_eq!(found.transactions().unwrap(), transactions, "bit {bit}");
            }
        }
        let packed = packings(&unit).iter().any(|packing| *packing != Packing::Plain);
        assert!(accepted <= if packed { 16 } else { 0 }, "{accepted} flipped bits were accepted");
    }
}

#[test]
fn every_truncation_and_every_added_byte_is_refused() {
    for transactions in [small(), long(), columnar()] {
        let unit = seal(&transactions);
        for cut in 0..unit.bytes().len() {
            let bytes = &unit.bytes()[..cut];
            assert!(open(bytes).is_err() && Unit::from_store(bytes.to_vec()).is_err(), "{cut}");
            assert!(Unit::peek(bytes).is_err(), "{cut}");
        }
        let longer = [unit.bytes(), &[0]].concat();
        assert_eq!(open(&longer), Err(UnitError::Malformed(DecodeError::TrailingBytes(1))));
    }
}

#[test]
fn only_the_origins_key_opens_a_unit() {
    let bytes = seal(&small()).into_bytes();
    let other = public(&SigningKey::from_bytes(&[8; 32]));
    let refused = UnitError::BadSignature { origin: origin(), first: Seq(5) };
    assert_eq!(Unit::open(bytes.clone(), &other), Err(refused.clone()));
    // Not a point of the curve, and one of small order that "signs" everything.
    for weak in [[0xff; 32], [0; 32]] {
        assert_eq!(Unit::open(bytes.clone(), &PublicKey(weak)), Err(refused.clone()));
    }
}

#[test]
fn an_unknown_format_is_named() {
    let mut bytes = seal(&small()).into_bytes();
    bytes[0] = 9;
    assert_eq!(open(&bytes), Err(UnitError::UnknownFormat(9)));
}

#[test]
fn swapped_content_is_refused_though_it_is_signed_elsewhere() {
    let (one, other) = (seal(&small()), seal(&long()));
    let plain = plain_parts(&other).into_iter().map(|bytes| (0, bytes)).collect::<Vec<_>>();
    assert_eq!(
        open(&forge(one.header(), &plain)),
        Err(UnitError::WrongContent(PartId::Set(SetId(2))))
    );
}

#[test]
fn a_part_that_grows_past_its_declared_length_is_refused() {
    let unit = seal(&long());
    let bomb = compress(&vec![0; 8 << 20], 3);
    let mut header = unit.header().clone();
    for declared in [bomb.len() as u64 + 1, 8 << 10, 4 << 20] {
        header.parts[1].plain_bytes = declared;
        let bytes = forge(&header, &[(1, bomb.clone()), (1, bomb.clone()), (1, bomb.clone())]);
        assert!(open(&bytes).is_err());
        assert!(Unit::from_store(bytes).unwrap().transactions().is_err());
    }
}

#[test]
fn declared_sizes_are_added_up_before_anything_is_unpacked() {
    let unit = seal(&small());
    let mut header = unit.header().clone();
    for declared in [UNIT_PLAIN_BYTES_MAX as u64 - 10, u64::MAX] {
        header.parts[0].plain_bytes = declared;
        let bytes = forge(&header, &[(0, vec![]), (0, vec![]), (0, vec![])]);
        assert!(matches!(Unit::peek(&bytes), Err(UnitError::TooLarge { .. })));
    }
}

#[test]
fn a_packed_part_cannot_be_blown_up_by_a_relay() {
    let unit = seal(&long());
    let plain = plain_parts(&unit);
    let mut parts: Vec<_> = plain.iter().map(|bytes| (0, bytes.clone())).collect();
    // A skippable frame before the real one: zstd reads past it.
    let padding = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0x10, 0, 0][..], &[0; 4096]].concat();
    let packed = compress(&plain[1], 3);
    parts[1] = (1, [padding, packed.clone()].concat());
    let refused = DecodeError::NotCanonical("packed part");
    assert_eq!(open(&forge(unit.header(), &parts)), Err(refused.into()));
    parts[1] = (1, packed);
    assert!(open(&forge(unit.header(), &parts)).is_ok());
}

/// Many alike, of which columns make less.
fn columnar() -> Vec<Transaction> {
    let transaction = |turn: u64| {
        let mut one = small().remove(if turn == 0 { 0 } else { 1 });
        (one.seq, one.hlc) =
            (Seq(5 + turn), Hlc((1 << 40) + ((turn * 100 + turn * turn * 37 % 97) << 16)));
        one.actor = Actor::new("dr. jones").filter(|_| turn.is_multiple_of(3));
        let rows = (0..2).map(|row| (turn * 40 + row * row * 7, row));
        one.changes = rows
            .map(|(id, row)| {
                let mut change = update(1, id.cast_signed(), ["north", "south"][row as usize]);
                let at = Value::TimestampTz(1_790_000_000_000_000 + (turn * 9000).cast_signed());
                change.cells.push(Cell { column: ColumnId(7), value: at });
                change
            })
            .collect();
        one
    };
    (0..60).map(transaction).collect()
}

fn packings(unit: &Unit) -> Vec<Packing> {
    Layout::read(unit.bytes()).unwrap().parts.iter().map(|part| part.packing).collect()
}

#[test]
fn columns_are_for_many_changes_of_which_they_make_less() {
    assert_eq!(packings(&seal(&columnar())), [Packing::Columns; 2]);
    assert!(!packings(&seal(&columnar()[..15])).contains(&Packing::Columns));
    // Nothing makes less of noise, and only rows have been seen before.
    let mut dice = 1u64;
    let mut noise = columnar();
    for change in noise.iter_mut().flat_map(|one| &mut one.changes) {
        let bytes = (0..64).map(|_| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 56) as u8
        });
        change.cells = vec![Cell { column: ColumnId(1), value: Value::Bytes(bytes.collect()) }];
    }
    let unit = seal(&noise);
    let layout = Layout::read(unit.bytes()).unwrap();
    assert!(layout.parts[1].bytes.len() < layout.header.parts[1].plain_bytes as usize);
    assert_eq!(open(unit.bytes()).unwrap().transactions().unwrap(), noise);
}

/// `unit` with other packed bytes in place of its second part's.
fn with_packed(unit: &Unit, packed: Vec<u8>) -> Result<Unit, UnitError> {
    let layout = Layout::read(unit.bytes()).unwrap();
    let spine = &layout.parts[0];
    open(&forge(unit.header(), &[(spine.packing as u8, spine.bytes.to_vec()), (2, packed)]))
}

#[test]
fn packed_columns_cannot_be_blown_up_by_a_relay() {
    let unit = seal(&columnar());
    let layout = Layout::read(unit.bytes()).unwrap();
    let mut from = Reader::new(layout.parts[1].bytes);
    let (length, frame) = (from.varint().unwrap(), from.rest().to_vec());
    let with_length = |length: u64, frame: &[u8]| {
        let mut out = Writer::new();
        out.varint(length);
        out.raw(frame);
        with_packed(&unit, out.into_bytes())
    };
    assert_eq!(with_length(length, &frame).as_ref(), Ok(&unit));
    // More is declared than the content could come to, than is there, or less.
    let most = 2 * layout.header.parts[1].plain_bytes + 64;
    for declared in [0, length - 1, length + 1, most] {
        assert!(matches!(with_length(declared, &frame), Err(UnitError::BadPart(_))), "{declared}");
    }
    let bomb = compress(&vec![0; 8 << 20], 3);
    assert!(matches!(with_length(most, &bomb), Err(UnitError::BadPart(_))));
    for declared in [most + 1, u64::MAX] {
        let refused = DecodeError::TooLong { found: declared, limit: most };
        assert_eq!(with_length(declared, &frame), Err(refused.into()));
    }
    // A skippable frame before the real one, until it is longer than what is in it.
    let padding = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0x10, 0, 0][..], &[0; 4096]].concat();
    let padded = with_length(length, &[padding, frame].concat());
    assert_eq!(padded, Err(DecodeError::NotCanonical("packed part").into()));
}

#[test]
fn columns_of_another_part_are_refused() {
    let unit = seal(&columnar());
    let (spine, set) = (&plain_parts(&unit)[0], &plain_parts(&unit)[1]);
    let packed = |content, plain| {
        let columns = split(content, plain, 0).unwrap();
        let mut out = Writer::new();
        out.varint(columns.bytes.len() as u64);
        out.raw(&compress(&columns.bytes, 19));
        with_packed(&unit, out.into_bytes())
    };
    assert!(packed(Content::Set, set).is_ok());
    assert!(packed(Content::Spine, spine).is_err());
    let mut other = columnar();
    other[3].changes[0].op = RowOp::Delete;
    other[3].changes[0].cells.clear();
    other[4].changes[1].cells.clear();
    assert!(packed(Content::Set, &plain_parts(&seal(&other))[1]).is_err());
}

#[test]
fn parts_out_of_order_or_without_a_spine_are_refused() {
    let unit = seal(&small());
    for order in [&[0, 2, 1][..], &[1, 2], &[0, 1, 1], &[0, 0], &[1, 0], &[]] {
        let mut header = unit.header().clone();
        header.parts = order.iter().map(|index| unit.header().parts[*index].clone()).collect();
        let parts: Vec<_> =
            order.iter().map(|index| (0, plain_parts(&unit)[*index].clone())).collect();
        assert!(matches!(open(&forge(&header, &parts)), Err(UnitError::Malformed(_))), "{order:?}");
    }
}

#[test]
fn a_range_past_the_end_of_numbers_is_refused() {
    let unit = seal(&small());
    let layout = Layout::read(unit.bytes()).unwrap();
    let mut out = Writer::new();
    out.varint(4);
    out.origin(origin());
    out.varint(u64::MAX);
    out.varint(1);
    out.raw(&layout.header_bytes[out.len()..]);
    assert!(UnitHeader::decode(&out.into_bytes()).is_err());
}

/// What the origin signed opens; whether it decodes is the question.
fn content_decodes(index: usize, count: u64, content: &[&[u8]]) -> bool {
    let bytes = with_content(&seal(&small()), index, count, content.concat());
    open(&bytes).unwrap().transactions().is_ok()
}

#[test]
fn a_hostile_count_is_refused_without_allocating() {
    let mut out = Writer::new();
    out.varint(u64::MAX >> 1);
    let huge = out.into_bytes();
    for (index, count) in [(0, 3), (1, 3), (2, 1), (1, u64::MAX >> 1)] {
        for before in [&[][..], &[0], &[0, 1], &[0, 1, 1, 0, 0]] {
            assert!(!content_decodes(index, count, &[before, &huge]), "part {index}: {before:?}");
        }
    }
}

#[test]
fn content_has_one_form() {
    let (one, two) = (&row(1), &row(2));
    assert!(content_decodes(1, 3, &[&[0, 2], one, two, &[2, 1], one]));
    // Not as many as the header says; none at all; an entry of none; past the last transaction.
    assert!(!content_decodes(1, 4, &[&[0, 2], one, two, &[2, 1], one]));
    assert!(!content_decodes(1, 0, &[]));
    assert!(!content_decodes(1, 3, &[&[0, 2], one, two, &[1, 0], &[1, 1], one]));
    assert!(!content_decodes(1, 1, &[&[3, 1], one]));
    // The same transaction twice, and the same row twice in one.
    assert!(!content_decodes(1, 2, &[&[0, 1], one, &[0, 1], two]));
    assert!(!content_decodes(1, 2, &[&[0, 2], one, one]));
    // Clock readings that stand still, or do not end where the header says.
    assert!(!content_decodes(0, 3, &[&[0, 0, 0, 0, 0, 0]]));
    assert!(!content_decodes(0, 3, &[&[0, 0, 1, 0, 1, 0]]));
    // Actors whom nobody may be: without a name, with a line feed in it, with too long a one.
    let (rest, long) = ([3, 0, 0xfd, 0xff, 0xff, 0xff, 0xff, 0x1f, 0], [b'x'; ACTOR_BYTES_MAX]);
    let actor = |name: &[&[u8]]| content_decodes(0, 3, &[&[0, 1], &name.concat(), &rest]);
    assert!(actor(&[b"\x01x"]) && actor(&[&[0xc8, 1], &long]));
    assert!(!actor(&[&[0]]) && !actor(&[b"\x01\n"]) && !actor(&[&[0xc9, 1], &long, b"x"]));
}

fn row(id: i64) -> Vec<u8> {
    let mut out = Writer::new();
    update(1, id, "x").encode(&mut out);
    out.into_bytes()
}

/// A signed unit of `count` transactions that change nothing.
fn empty_transactions(count: usize) -> Unit {
    let spine: Vec<u8> = (0..count).flat_map(|index| [u8::from(index > 0), 0]).collect();
    let mut header = seal(&small()).header().clone();
    header.last = Seq(header.first.0 + count as u64 - 1);
    header.hlc_last = Hlc(header.hlc_first.0 + count as u64 - 1);
    header.parts = vec![PartHeader {
        id: PartId::Spine,
        count: count as u64,
        plain_bytes: spine.len() as u64,
        root: *blake3::hash(&spine).as_bytes(),
    }];
    open(&forge(&header, &[(0, spine)])).unwrap()
}

#[test]
fn more_transactions_than_allowed_are_refused() {
    let most = empty_transactions(UNIT_TRANSACTIONS_MAX).transactions().unwrap();
    assert_eq!(most.len(), UNIT_TRANSACTIONS_MAX);
    let refused = empty_transactions(UNIT_TRANSACTIONS_MAX + 1).transactions();
    assert!(matches!(refused, Err(UnitError::Malformed(DecodeError::TooLong { .. }))));
}

#[test]
#[should_panic(expected = "growing clock readings")]
fn a_clock_that_stands_still_is_not_sealed() {
    let mut transactions = small();
    transactions[1].hlc = transactions[0].hlc;
    seal(&transactions);
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        ".{0,20}".prop_map(|text| Value::Text(text.into())),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Bytes(bytes.into())),
        any::<i64>().prop_map(Value::Timestamp),
        any::<i64>().prop_map(Value::TimestampTz),
    ]
}

fn any_def() -> impl Strategy<Value = TableDef> {
    let column = ("[a-zä ]{1,12}", "[a-z(),0-9]{1,12}")
        .prop_map(|(name, type_name)| ColumnDef { name, type_name });
    ("[a-z]{1,8}", "[a-z]{1,8}", any::<u16>(), vec(column, 1..5), 0u16..5).prop_map(
        |(schema, name, set, columns, key)| TableDef {
            name: TableName::new(schema, name),
            set: SetId(set),
            key: vec![ColumnId(key % columns.len() as u16)],
            rules: TableRules::default(),
            columns,
        },
    )
}

fn any_changes() -> impl Strategy<Value = Vec<RowChange>> {
    let row = (0u32..6, vec(any_value(), 1..3));
    let what = (0usize..6, btree_map(any::<u16>(), any_value(), 0..5));
    btree_map(row, what, 0..12).prop_map(|rows| {
        let mut changes: Vec<_> = rows
            .into_iter()
            .map(|((table, key), (op, cells))| RowChange {
                table: TableId(table),
                key: RowKey::new(&key),
                op: RowOp::ALL[op],
                cells: into_cells(if op >= 2 { BTreeMap::new() } else { cells }),
            })
            .collect();
        changes.sort_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
        changes
    })
}

fn into_cells(cells: BTreeMap<u16, Value>) -> Vec<Cell> {
    cells.into_iter().map(|(column, value)| Cell { column: ColumnId(column), value }).collect()
}

fn any_transactions() -> impl Strategy<Value = Vec<Transaction>> {
    let describes = vec((any::<u32>(), any_def()), 0..3).prop_map(|all| {
        all.into_iter().map(|(table, def)| Describe { table: TableId(table), def }).collect()
    });
    let actor = proptest::option::of("\\PC{1,50}").prop_map(|name| Actor::new(&name?));
    let one = (1u64..1 << 30, actor, describes, any_changes());
    (1u64..1 << 60, 0u64..1 << 60, vec(one, 1..6)).prop_map(|(first, hlc, all)| {
        let mut hlc = hlc;
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(index, (step, actor, describes, changes))| {
                hlc += step;
                Transaction {
                    seq: Seq(first + index as u64),
                    hlc: Hlc(hlc),
                    actor,
                    describes,
                    changes,
                    piece: None,
                }
            })
            .collect()
    })
}

#[test]
fn an_actor_who_is_not_named_costs_nothing() {
    let plain = |transactions: &[Transaction]| plain_parts(&seal(transactions))[0].len();
    let mut named = small();
    let unnamed: Vec<_> =
        small().into_iter().map(|one| Transaction { actor: None, ..one }).collect();
    named.iter_mut().for_each(|one| one.actor = Actor::new("jones"));
    assert_eq!(plain(&named), plain(&unnamed) + 3 * (1 + "jones".len()));
    let spine = seal(&empty_transactions_of(3));
    assert_eq!(plain_parts(&spine)[0].len() as u64, 3 * TRANSACTION_BYTES_MIN);
}

fn empty_transactions_of(count: u64) -> Vec<Transaction> {
    let alike = small().remove(1);
    let one = |n| Transaction { seq: Seq(n), hlc: Hlc(n), ..alike.clone() };
    (1..=count).map(one).collect()
}

proptest! {
    #[test]
    fn an_actor_made_of_any_text_is_one_that_travels(text in any::<String>()) {
        if let Some(actor) = Actor::from_text(&text) {
            prop_assert_eq!(Actor::new(actor.as_str()), Some(actor.clone()));
            prop_assert!(text.len() > ACTOR_BYTES_MAX || actor.as_str().len() <= text.len());
        } else {
            prop_assert!(text.chars().all(char::is_control));
        }
    }

    #[test]
    fn what_is_sealed_reads_back(transactions in any_transactions()) {
        let unit = seal(&transactions);
        let opened = open(unit.bytes()).unwrap();
        prop_assert_eq!(&opened, &unit);
        prop_assert_eq!(&Unit::from_store(unit.bytes().to_vec()).unwrap(), &unit);
        prop_assert_eq!(&Unit::peek(unit.bytes()).unwrap(), unit.header());
        let changes: usize = transactions.iter().map(|one| one.changes.len()).sum();
        prop_assert_eq!(unit.header().changes(), changes as u64);
        prop_assert_eq!(opened.transactions().unwrap(), transactions);
    }

    #[test]
    fn what_is_compacted_reads_back(transactions in any_transactions()) {
        prop_assume!(transactions.len() > 1);
        let transactions = with_gaps(&transactions);
        let unit = seal_as(Fragment::Compacted, &transactions);
        let opened = open(unit.bytes()).unwrap();
        prop_assert!(opened.header().is_plausible());
        prop_assert_eq!(opened.transactions().unwrap(), transactions);
    }

    #[test]
    fn what_is_packed_anew_is_the_same_unit(transactions in any_transactions(), level in 1i32..=19) {
        let unit = seal(&transactions);
        let anew = unit.clone().packed_at(level).unwrap();
        prop_assert!(anew.bytes().len() <= unit.bytes().len());
        let opened = open(anew.bytes()).unwrap();
        prop_assert_eq!((opened.header(), opened.hash()), (unit.header(), unit.hash()));
        prop_assert_eq!(opened.transactions().unwrap(), transactions);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..300), formatted: bool) {
        if let Some(first) = bytes.first_mut().filter(|_| formatted) {
            *first = UNIT_FORMAT;
        }
        let _ = Unit::peek(&bytes);
        let _ = open(&bytes);
        if let Ok(unit) = Unit::from_store(bytes) {
            let _ = unit.transactions();
        }
    }

    /// Past the signature: an origin that signs nonsense.
    #[test]
    fn mutated_content_never_panics(
        part in 0usize..3,
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let unit = seal(&small());
        let mut content = plain_parts(&unit)[part].clone();
        for (place, byte) in edits {
            let place = place.index(content.len());
            content[place] = byte;
        }
        content.truncate(cut.index(content.len() * 2));
        let count = unit.header().parts[part].count;
        let opened = open(&with_content(&unit, part, count, content)).unwrap();
        if let Ok(transactions) = opened.transactions() {
            prop_assert_eq!(transactions.len(), 3);
        }
    }

    #[test]
    fn mutated_units_never_panic(
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_columns: bool,
    ) {
        let mut bytes = seal(&if in_columns { columnar() } else { long() }).into_bytes();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = open(&bytes);
        if let Ok(unit) = Unit::from_store(bytes) {
            let _ = unit.transactions();
        }
    }
}
