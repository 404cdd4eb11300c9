//! Valid inputs to begin with, as `cargo xtask fuzz --write-seeds` keeps them in `fuzz/seeds`.

use ed25519_dalek::Signer as _;
use landfall_protocol::change::{
    Actor, Cell, Describe, Fragment, Piece, RowChange, RowOp, Transaction, encode_head,
};
use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::codec::Writer;
use landfall_protocol::columnar::{self, Content};
use landfall_protocol::compress::compress;
use landfall_protocol::dictionary::RowId;
use landfall_protocol::fold::{Emission, Marker, Obstacle, ParkedChange, Remedy};
use landfall_protocol::id::{PublicKey, Seq};
use landfall_protocol::lattice::RowClock;
use landfall_protocol::merged::{Kind, Part, Share, State};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use landfall_protocol::unit::{SealContext, Unit, UnitHash};
use landfall_protocol::value::{INLINE_BYTES_MAX, LongValue, RowKey, Value};
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire::{Begun, Have, Held, Hello, Message, UnitMark, UnitStreamHead};

use super::messages::origin;
use super::{stream, units};
use crate::capture::{spill_fuzz, walsender};
use crate::{bundle, identity, store};

/// A stream of PostgreSQL 15; see `capture::pgoutput`.
const RECORDED: &str = include_str!("../../testdata/pgoutput15.hex");

/// The seeds of one target; they are named by their place.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "control" => messages().iter().map(Message::encode).collect(),
        "unit-stream-head" => vec![head().encode()],
        "frames" => vec![
            [&[4][..], &framed(&head().encode()), &framed(&[7; 200])].concat(),
            // Of the longest frame and one that is longer.
            [&[255][..], &framed(&[7; 1_000]), &framed(&[7; 1_001])].concat(),
            vec![255, 0x80, 0x80, 0x80, 0x01, 1],
        ],
        "session" => vec![messages().iter().flat_map(|message| short(&message.encode())).collect()],
        "marker" => markers().iter().map(Marker::encode).collect(),
        "value" => values(),
        "row-clock" => row_clocks(),
        "merged" => merged(),
        "unit" => unit_seeds().into_iter().map(Unit::into_bytes).collect(),
        "unit-content" => contents(),
        "columns" => columns(),
        "zstd" => {
            [Vec::new(), vec![7; 1600], (0..160).collect()].iter().map(|p| packed(p)).collect()
        }
        "pgoutput" => recorded().into_iter().filter(|message| message.len() < 600).collect(),
        "capture" => streams(),
        "walsender" => walsender::fuzz::packet_seeds(&recorded()),
        "login" => walsender::fuzz::login_seeds(),
        "spill" => spill_fuzz::seeds(),
        "store" => store::fuzz::seeds(),
        "config" => files(),
        "texts" => texts(),
        "bundle" => bundle::fuzz::part_seeds(),
        "bundle-body" => bundle::fuzz::body_seeds(),
        _ => Vec::new(),
    }
}

fn messages() -> Vec<Message> {
    let received: VersionVector =
        [(origin(1), Seq(700)), (origin(2), Seq(9)), (origin(3), Seq(1 << 40))]
            .into_iter()
            .collect();
    let hello = |software: &str| Hello {
        protocol_min: 1,
        protocol_max: 1,
        holds_of_you: vec![Held { origin: origin(2), seq: Seq(9), hash: UnitHash([0x11; 32]) }],
        origin: origin(1),
        fleet_version: 12,
        sets_digest: [0x33; 32],
        received: received.clone(),
        marks: vec![UnitMark([0x44; 8]), UnitMark([0x11; 8]), UnitMark([0x55; 8])],
        applied: received.clone(),
        wall_ms: 1_700_000_000_123,
        software: software.to_owned(),
    };
    let Hello { received, applied, .. } = hello("");
    vec![
        Message::Hello(Box::new(hello("landfall 0.1.0"))),
        Message::Have(Have { received, applied }),
        Message::Follow { origin: origin(2), after: Seq(5), begun: None },
        Message::Follow { origin: origin(1), after: Seq(700), begun: Begun::of(&[7; 999], 70_000) },
        Message::Unfollow { origin: origin(2) },
    ]
}

fn head() -> UnitStreamHead {
    UnitStreamHead { origin: origin(1), after: Seq(128), at: 999 }
}

fn framed(content: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.bytes(content);
    out.into_bytes()
}

fn short(content: &[u8]) -> Vec<u8> {
    [&[content.len() as u8][..], content].concat()
}

fn markers() -> Vec<Marker> {
    let parked = vec![
        (ParkedChange { seq: Seq(8), index: 3 }, Obstacle::Refused),
        (ParkedChange { seq: Seq(9), index: 0 }, Obstacle::NoTable),
    ];
    let update = Remedy::Update(vec![ColumnId(1), ColumnId(4)]);
    let remedies = [
        Remedy::Revive,
        Remedy::Delete,
        Remedy::Quarantine,
        Remedy::Return,
        Remedy::ReviveAside,
        update,
    ];
    let row = |key| RowId { table: TableId(3), key: RowKey::new(&[Value::Int(key)]) };
    let emitted = remedies.into_iter().zip(1..);
    let emitted = emitted.map(|(remedy, key)| Emission { row: row(key), remedy }).collect();
    let (origin, first, last) = (origin(1), Seq(7), Seq(9));
    let silent = Marker::Apply { origin, first, last, parked: parked.clone(), emitted: Vec::new() };
    vec![Marker::Repair, silent, Marker::Apply { origin, first, last, parked, emitted }]
}

fn some_values() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Text("Übersicht".into()),
        Value::Bool(true),
        Value::Int(-70_000),
        Value::Uuid([9; 16]),
        Value::Bytes([1, 2, 3].into()),
        Value::Timestamp(1_700_000_000_000_001),
        Value::TimestampTz(-1),
        Value::Long(Box::new(LongValue { hash: [5; 32], bytes: INLINE_BYTES_MAX as u64 + 1 })),
    ]
}

fn values() -> Vec<Vec<u8>> {
    let mut table = Writer::new();
    table_def().encode(&mut table);
    let texts = ["2024-02-29 23:59:59.5+00", "-9223372036854775808", "\\x00ff", "t"];
    let texts = texts.iter().map(|text| text.as_bytes().to_vec());
    texts
        .chain(
            some_values().iter().map(|value| RowKey::of([value].into_iter()).as_bytes().to_vec()),
        )
        .chain([RowKey::new(&some_values()).as_bytes().to_vec(), table.into_bytes()])
        .collect()
}

/// What a merged column of each kind was born with.
pub(super) const BASES: [&str; Kind::ALL.len()] = [
    "1.50",
    "{a,b}",
    "1.5",
    "2024-02-29",
    "the old text",
    r#"{"list": [1, {"id": 2}], "old": 1, "in": {"a": 1.50}}"#,
];

/// What it became.
const CHANGED: [&str; Kind::ALL.len()] = [
    "-1.00",
    "{b,NULL,\"c d\"}",
    "-7",
    "0044-03-15 BC",
    "text, the new",
    r#"{"list": [0, 1, {"id": 2, "b": null}], "in": {"a": 2}}"#,
];

/// What a transaction did to a column of each kind.
fn parts() -> impl Iterator<Item = Part> {
    let stamp = Stamp::new(Hlc::from_ms(9), origin(1), Seq(9));
    let changes = Kind::ALL.into_iter().zip(BASES.into_iter().zip(CHANGED));
    changes.map(move |(kind, (before, after))| {
        Part::of_change(kind, (None, Some(before)), stamp, (before, after)).expect("it merges")
    })
}

/// For each kind what two transactions did, one after the other.
fn merged() -> Vec<Vec<u8>> {
    let changes = Kind::ALL.into_iter().zip(BASES.into_iter().zip(CHANGED));
    let all = changes.map(|(kind, (base, changed))| {
        let mut state = State::new(kind);
        let mut out = Writer::new();
        out.u8(kind.tag());
        for (time, change) in (1..).zip([(base, changed), (changed, base)]) {
            let by = Stamp::new(Hlc::from_ms(time), origin(time as u16 % 3 + 1), Seq(time));
            let part = Part::of_change(kind, (Some(&state), Some(base)), by, change);
            let part = part.expect("it merges");
            state.join(by, &part).expect("it is the newest");
            Share { birth: None, part }.encode(&mut out);
        }
        out.into_bytes()
    });
    all.collect()
}

fn row_clocks() -> Vec<Vec<u8>> {
    let stamp = |ms, seq| Stamp::new(Hlc::from_ms(ms), origin(1), Seq(seq));
    let share = |part| Value::Share(Box::new(Share { birth: Some(stamp(8, 8)), part }));
    let mut values = vec![(1, Value::Null), (300, Value::Int(1))];
    values.extend((2..).zip(parts()).map(|(column, part)| (column, share(part))));
    values.sort_unstable_by_key(|(column, _)| *column);
    let cells = values.into_iter().map(|(column, value)| Cell { column: ColumnId(column), value });
    let cells: Vec<Cell> = cells.collect();
    let mut clock = RowClock::default();
    let mut all = vec![clock.clone()];
    let steps = [(RowOp::Insert, 5), (RowOp::Update, 6), (RowOp::Delete, 7), (RowOp::Update, 8)];
    for (op, time) in steps {
        clock.join(op, stamp(time, time), &cells);
        all.push(clock.clone());
    }
    let encoded = |clock: &RowClock| {
        let mut out = Writer::new();
        clock.encode(&mut out);
        out.into_bytes()
    };
    all.iter().map(encoded).collect()
}

fn table_def() -> TableDef {
    let column = |name: &str, kind: &str| ColumnDef { name: name.into(), type_name: kind.into() };
    TableDef {
        name: TableName::new("public", "ward"),
        set: SetId(1),
        columns: vec![column("id", "bigint"), column("name", "text"), column("n", "bigint")],
        key: vec![ColumnId(0)],
        rules: TableRules::default(),
    }
}

fn change(id: i64, op: RowOp) -> RowChange {
    let cells = if op == RowOp::Delete { Vec::new() } else { some_values() };
    let cells = cells.into_iter().enumerate();
    let cells = cells.map(|(place, value)| Cell { column: ColumnId(place as u16 + 1), value });
    let key = RowKey::new(&[Value::Int(id)]);
    RowChange { table: TableId(1), key, op, cells: cells.collect() }
}

fn transactions(count: u64, changes: i64) -> Vec<Transaction> {
    let one = |index| Transaction {
        seq: Seq(5 + index),
        hlc: Hlc::from_ms(1_700_000_000_000 + index),
        actor: (index == 1).then(|| Actor::new("dr. jones")).flatten(),
        describes: (index == 0)
            .then(|| Describe { table: TableId(1), def: table_def() })
            .into_iter()
            .collect(),
        changes: (0..changes)
            .map(|id| change(id, [RowOp::Insert, RowOp::Update, RowOp::Delete][id as usize % 3]))
            .collect(),
        piece: None,
    };
    (0..count).map(one).collect()
}

fn seal(transactions: &[Transaction], fragment: Fragment) -> Unit {
    let vector = [(origin(1), Seq(9))].into_iter().collect();
    let context = SealContext {
        origin: origin(2),
        fleet_version: 4,
        fragment,
        previous: UnitHash([0xaa; 32]),
        vector: &vector,
        level: 3,
    };
    let sign = |bytes: &[u8]| units::key().sign(bytes).to_bytes();
    Unit::seal(context, transactions, |table| SetId((table.0 % 2) as u16 + 1), sign)
}

/// A unit of a spine and one set.
pub(super) fn small_unit(fragment: Fragment) -> Unit {
    let mut transactions = transactions(if fragment == Fragment::Compacted { 2 } else { 1 }, 1);
    if let [_, second] = &mut transactions[..] {
        second.seq.0 += 3;
    }
    seal(&transactions, fragment)
}

fn unit_seeds() -> Vec<Unit> {
    let piece =
        Piece { table: TableId(1), hash: [5; 32], index: 0, text: "a piece of text".into() };
    let mut long = transactions(1, 0);
    long[0].piece = Some(Box::new(piece));
    let mut sets = transactions(2, 3);
    sets[1].changes.iter_mut().for_each(|change| change.table = TableId(2));
    vec![
        small_unit(Fragment::Whole),
        seal(&sets, Fragment::Whole),
        seal(&transactions(1, 3), Fragment::Last),
        seal(&long, Fragment::More),
        small_unit(Fragment::Compacted),
        seal(&transactions(3, 0), Fragment::Whole),
        seal(&transactions(2, 60), Fragment::Whole),
    ]
}

/// An update of a merged column of each kind, in every other turn with a birth.
fn merging(turn: u8) -> RowChange {
    let birth = Stamp::new(Hlc::from_ms(8), origin(1), Seq(u64::from(turn)));
    let birth = turn.is_multiple_of(2).then_some(birth);
    let shares = parts().map(|part| Value::Share(Box::new(Share { birth, part })));
    let cells = (1..).zip(shares);
    let cells = cells.map(|(column, value)| Cell { column: ColumnId(column), value }).collect();
    RowChange { table: TableId(2), key: RowKey::new(&[Value::Int(7)]), op: RowOp::Update, cells }
}

/// The columns of a part each of a spine and of a set, and the contents themselves.
fn columns() -> Vec<Vec<u8>> {
    let mut rows = Writer::new();
    for turn in 0..4u8 {
        rows.raw(&[turn.min(1), 6]);
        (0..5).for_each(|id| change(id, RowOp::ALL[id as usize % 3]).encode(&mut rows));
        merging(turn).encode(&mut rows);
    }
    let mut spine = Writer::new();
    for turn in 0..12u8 {
        spine.raw(&[turn.min(1)]);
        let actor = Actor::new("dr. jones").filter(|_| turn % 2 == 0);
        let describe = Describe { table: TableId(1), def: table_def() };
        let describes: &[Describe] = if turn == 3 { &[describe] } else { &[] };
        encode_head(describes, actor.as_ref(), &mut spine);
    }
    let mut compacted = Writer::new();
    for turn in 0..12u8 {
        compacted.raw(&[turn, turn.min(1)]);
        encode_head(
            &[],
            Actor::new("dr. jones").filter(|_| turn % 2 == 0).as_ref(),
            &mut compacted,
        );
    }
    let contents = [
        (0, Content::Spine, spine.into_bytes()),
        (1, Content::Set, rows.into_bytes()),
        (2, Content::CompactedSpine, compacted.into_bytes()),
    ];
    let seeds = contents.into_iter().flat_map(|(kind, content, plain)| {
        let columns = columnar::split(content, &plain, 7).expect("it is a content");
        let head = [&[kind][..], &(plain.len() as u16).to_be_bytes()].concat();
        [[&head[..], &columns.bytes].concat(), [&head[..], &plain].concat()]
    });
    seeds.collect()
}

fn contents() -> Vec<Vec<u8>> {
    let mut row = Writer::new();
    change(1, RowOp::Update).encode(&mut row);
    let row = row.into_bytes();
    let mut other = Writer::new();
    change(2, RowOp::Delete).encode(&mut other);
    let other = other.into_bytes();
    let mut piece = Writer::new();
    Piece { table: TableId(1), hash: [5; 32], index: 0, text: "text".into() }.encode(&mut piece);
    let mut described = Writer::new();
    described.raw(&[0, 2, 1]);
    table_def().encode(&mut described);
    let described = described.into_bytes();
    vec![
        [&[0, 1, 2, 0, 1, 0, 0, 0, 1][..], &row].concat(),
        [&[0, 2, 4, 0, 3, 0, 0, 9, 0, 0, 2][..], &row, &other, &[1, 1], &row].concat(),
        [&[1, 1, 2, 0, 0, 0, 0][..], &piece.into_bytes()].concat(),
        [&[0, 1, 5, 0, 1, 0, 1, 2, b'd', b'r', 0, 1][..], &row].concat(),
        [&[0, 1, described.len() as u8, 0, 1][..], &described, &[0, 1], &row].concat(),
    ]
}

fn packed(plain: &[u8]) -> Vec<u8> {
    [&((plain.len() / 16) as u16).to_be_bytes()[..], &compress(plain, 3)].concat()
}

/// The recorded messages.
fn recorded() -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| {
        let digits = str::from_utf8(pair).ok()?;
        u8::from_str_radix(digits, 16).ok()
    };
    RECORDED.lines().map(|line| line.as_bytes().chunks(2).filter_map(byte).collect()).collect()
}

fn streams() -> Vec<Vec<u8>> {
    let long = |message: &Vec<u8>| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let recorded = recorded();
    // The first transaction is of a table with whole old rows.
    let end = recorded.iter().position(|message| message.first() == Some(&b'C')).unwrap_or(0);
    let first = &recorded[..recorded.len().min(end + 1)];
    let message = |prefix: &str, content: &[u8]| {
        let length = (content.len() as u32).to_be_bytes();
        let head = b"M\x01\0\0\0\0\0\0\0\x09";
        [&head[..], prefix.as_bytes(), &[0], &length, content].concat()
    };
    let sealed = |marker| message("landfall.apply", &stream::marker_key().seal(&marker));
    let logical = markers().into_iter().map(sealed);
    let mut marked = first.to_vec();
    for (place, marker) in logical.enumerate() {
        marked.insert(1 + place * 4, marker);
    }
    let mut named = first.to_vec();
    named.insert(1, message("landfall.actor", b"dr. jones"));
    let all = [first.to_vec(), marked, named, recorded.clone()];
    all.iter().map(|messages| messages.iter().flat_map(long).collect()).collect()
}

fn files() -> Vec<Vec<u8>> {
    const FLEETS: [&str; 2] = [
        include_str!("../../../packaging/config/fleet.toml"),
        include_str!("../../../examples/two-ships/fleet.toml"),
    ];
    const DAEMON: &str = "name = \"ship\"\ndata_dir = \"data\"\nfleet = \"fleet.toml\"\nkey = \"k\"\n\
        listen = \"0.0.0.0:7400\"\n[postgres]\nconninfo = \"host=db user=u\"\nslot = \"s_1\"\n[link]\n\
        keep_alive_s = 15\ndial = [\"shore\"]\n[limits]\nunit_bytes_max = 1048576\n[log]\n\
        level = \"info\"\nformat = \"text\"\n";
    let daemons = [
        DAEMON,
        include_str!("../../../packaging/config/node.toml"),
        &DAEMON.replace("ship", "shore"),
    ]
    .map(|text| [&[1], text.as_bytes()].concat());
    let key = format!("landfall-secret-key:{}\n", "ab".repeat(32));
    let fleets = FLEETS.iter().map(|text| [&[0], text.as_bytes()].concat());
    fleets.chain(daemons).chain([[&[2], key.as_bytes()].concat()]).collect()
}

fn texts() -> Vec<Vec<u8>> {
    let key = PublicKey(units::key().verifying_key().to_bytes());
    let texts = [
        (0, key.to_string()),
        (1, "[::1]:7400".to_owned()),
        (1, "ship.example:7400".to_owned()),
        (2, "public.\"Tab \"\"1\"\"\"".to_owned()),
        (3, origin(7).to_string()),
        (4, "16/B374D848".to_owned()),
        (5, "12.00000000000000ab".to_owned()),
        (6, "host=/run/x user='a b' password=c\\'d dbname=e port=5433".to_owned()),
        (6, "postgresql://a:b%20c@[::1]:5432/d?connect_timeout=3".to_owned()),
    ];
    let texts = texts.into_iter().map(|(which, text)| [&[which], text.as_bytes()].concat());
    texts.chain([[&[0], &identity::spki_der(&key)[..]].concat()]).collect()
}
