//! The mixes of `tests/bench/links`, made without a database: a hospital, a shop, pgbench.

use std::collections::BTreeMap;

use landfall_protocol::change::{Cell, Describe, RowChange, RowOp, Transaction};
use landfall_protocol::clock::{Hlc, Stamp};
use landfall_protocol::decimal::Decimal;
use landfall_protocol::id::{Incarnation, Origin, Seq, SiteId};
use landfall_protocol::merged::{Part, Share};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableId, TableName};
use landfall_protocol::value::{RowKey, Value};

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mix {
    Hospital,
    Store,
    Bank,
    /// One row per transaction, with a key and a reference that are random UUIDs.
    Single,
    /// Ten rows of ten thousand per transaction, each of which adds to a counter.
    Counters,
}

impl Mix {
    pub(crate) const ALL: [(&str, Self); 5] = [
        ("hospital", Self::Hospital),
        ("store", Self::Store),
        ("pgbench", Self::Bank),
        ("single", Self::Single),
        ("counters", Self::Counters),
    ];

    /// Transactions of about so many changes in all.
    pub(crate) fn transactions(self, changes: usize) -> Vec<Transaction> {
        let mut work = Work::new();
        self.describe(&mut work);
        while work.changes < changes {
            match self {
                Self::Hospital => hospital(&mut work),
                Self::Store => store(&mut work),
                Self::Bank => bank(&mut work),
                Self::Single => single(&mut work),
                Self::Counters => counters(&mut work),
            }
            work.commit();
        }
        work.transactions
    }

    fn describe(self, work: &mut Work) {
        let tables: &[(&str, &[(&str, &str)])] = match self {
            Self::Hospital => &HOSPITAL,
            Self::Store => &STORE,
            Self::Bank => &BANK,
            Self::Single => &SINGLE,
            Self::Counters => &COUNTERS,
        };
        for (number, (name, columns)) in (1..).zip(tables) {
            let column = |(name, kind): &(&str, &str)| ColumnDef {
                name: (*name).into(),
                type_name: (*kind).into(),
            };
            let def = TableDef {
                name: TableName::new("public", *name),
                set: SetId(1),
                columns: columns.iter().map(column).collect(),
                key: vec![ColumnId(0)],
                rules: TableRules::default(),
            };
            work.describes.push(Describe { table: TableId(number), def });
        }
    }
}

const INT: &str = "integer";
const BIG: &str = "bigint";
const TEXT: &str = "text";
const TIME: &str = "timestamp with time zone";

const HOSPITAL: [(&str, &[(&str, &str)]); 4] = [
    (
        "bed_monitor",
        &[
            ("id", INT),
            ("patient", BIG),
            ("ward", TEXT),
            ("heart_rate", INT),
            ("saturation", INT),
            ("systolic", INT),
            ("diastolic", INT),
            ("temperature", "numeric(4,1)"),
            ("status", TEXT),
            ("seen", TIME),
        ],
    ),
    (
        "encounter",
        &[
            ("id", BIG),
            ("patient", BIG),
            ("ward", TEXT),
            ("bed", INT),
            ("status", TEXT),
            ("acuity", INT),
            ("attending", TEXT),
            ("updated_at", TIME),
            ("updated_by", INT),
        ],
    ),
    (
        "observation",
        &[
            ("id", BIG),
            ("encounter", BIG),
            ("code", TEXT),
            ("value", "numeric(8,1)"),
            ("unit", TEXT),
            ("taken_at", TIME),
            ("taken_by", INT),
        ],
    ),
    (
        "medication_order",
        &[
            ("id", BIG),
            ("encounter", BIG),
            ("drug", TEXT),
            ("dose", TEXT),
            ("route", TEXT),
            ("status", TEXT),
            ("notes", "jsonb"),
            ("ordered_at", TIME),
            ("updated_at", TIME),
        ],
    ),
];

const STORE: [(&str, &[(&str, &str)]); 5] = [
    (
        "sale",
        &[
            ("id", BIG),
            ("till", INT),
            ("cashier", INT),
            ("customer", BIG),
            ("total", "numeric(10,2)"),
            ("payment", TEXT),
            ("receipt", TEXT),
            ("at", TIME),
        ],
    ),
    (
        "sale_line",
        &[
            ("id", BIG),
            ("sale", BIG),
            ("article", BIG),
            ("quantity", INT),
            ("price", "numeric(10,2)"),
            ("tax", "numeric(4,2)"),
            ("at", TIME),
        ],
    ),
    (
        "stock",
        &[
            ("article", BIG),
            ("name", TEXT),
            ("supplier", TEXT),
            ("shelf", TEXT),
            ("quantity", INT),
            ("price", "numeric(10,2)"),
            ("sold_at", TIME),
        ],
    ),
    ("till", &[("id", INT), ("cash", "numeric(12,2)"), ("sales", INT), ("at", TIME)]),
    ("customer", &[("id", BIG), ("name", TEXT), ("points", INT), ("seen", TIME)]),
];

const BANK: [(&str, &[(&str, &str)]); 4] = [
    ("branches", &[("bid", INT), ("bbalance", INT), ("filler", TEXT)]),
    ("tellers", &[("tid", INT), ("bid", INT), ("tbalance", INT), ("filler", TEXT)]),
    ("accounts", &[("aid", INT), ("bid", INT), ("abalance", INT), ("filler", TEXT)]),
    (
        "history",
        &[
            ("hid", BIG),
            ("tid", INT),
            ("bid", INT),
            ("aid", INT),
            ("delta", INT),
            ("mtime", "timestamp without time zone"),
        ],
    ),
];

const SINGLE: [(&str, &[(&str, &str)]); 1] = [(
    "event",
    &[("id", "uuid"), ("device", "uuid"), ("kind", TEXT), ("value", INT), ("at", TIME)],
)];

const COUNTERS: [(&str, &[(&str, &str)]); 1] =
    [("stock", &[("article", BIG), ("quantity", BIG), ("sold_at", TIME)])];

/// What has been done so far, and the rows as they are.
struct Work {
    dice: u64,
    /// The wall clock in microseconds, of commits and of the application.
    micros: i64,
    clock: i64,
    hlc: u64,
    seq: u64,
    changes: usize,
    rows: BTreeMap<(u32, RowKey), BTreeMap<u16, Value>>,
    sums: BTreeMap<i64, i64>,
    describes: Vec<Describe>,
    now: BTreeMap<(u32, RowKey), (RowOp, BTreeMap<u16, Value>)>,
    transactions: Vec<Transaction>,
}

impl Work {
    fn new() -> Self {
        Self {
            dice: 7,
            micros: 1_790_000_000_000_000,
            clock: 1_767_340_800_000_000,
            hlc: 0,
            seq: 0,
            changes: 0,
            rows: BTreeMap::new(),
            sums: BTreeMap::new(),
            describes: Vec::new(),
            now: BTreeMap::new(),
            transactions: Vec::new(),
        }
    }

    /// A number from 0 to 1, by splitmix64.
    fn random(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `limit`.
    fn below(&mut self, limit: i64) -> i64 {
        (self.random() * limit as f64) as i64
    }

    fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len() as i64) as usize]
    }

    fn uuid(&mut self) -> Value {
        let mut bytes = [0; 16];
        bytes.fill_with(|| self.below(256) as u8);
        Value::Uuid(bytes)
    }

    fn insert<const N: usize>(&mut self, table: u32, key: Value, values: [Value; N]) {
        let key = RowKey::new(&[key]);
        let cells: BTreeMap<u16, Value> = (1..).zip(values).collect();
        self.rows.insert((table, key.clone()), cells.clone());
        self.now.insert((table, key), (RowOp::Insert, cells));
    }

    /// Only what is another value than before is a change.
    fn update<const N: usize>(&mut self, table: u32, key: i64, values: [(u16, Value); N]) {
        let row = (table, RowKey::new(&[Value::Int(key)]));
        let known = self.rows.entry(row.clone()).or_default();
        let (_, cells) = self.now.entry(row).or_insert((RowOp::Update, BTreeMap::new()));
        for (column, value) in values {
            if known.get(&column) != Some(&value) {
                known.insert(column, value.clone());
                cells.insert(column, value);
            }
        }
    }

    /// What a column has.
    fn number(&self, table: u32, key: i64, column: u16, first: i64) -> i64 {
        let row = self.rows.get(&(table, RowKey::new(&[Value::Int(key)])));
        match row.and_then(|row| row.get(&column)) {
            Some(Value::Int(number)) => *number,
            Some(Value::Text(text)) => text.replace('.', "").parse().unwrap_or(first),
            _ => first,
        }
    }

    fn commit(&mut self) {
        self.micros += 30 + self.below(90);
        self.hlc = (self.hlc + 1).max(Hlc::from_ms(self.micros as u64 / 1000).0);
        self.seq += 1;
        let changes = std::mem::take(&mut self.now).into_iter();
        let changes = changes.filter(|(_, (_, cells))| !cells.is_empty());
        let changes: Vec<_> = changes
            .map(|((table, key), (op, cells))| RowChange {
                table: TableId(table),
                key,
                op,
                cells: cells
                    .into_iter()
                    .map(|(column, value)| Cell { column: ColumnId(column), value })
                    .collect(),
            })
            .collect();
        self.changes += changes.len();
        self.transactions.push(Transaction {
            seq: Seq(self.seq),
            hlc: Hlc(self.hlc),
            actor: None,
            describes: std::mem::take(&mut self.describes),
            changes,
            piece: None,
        });
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// A number with so many digits behind the point.
fn decimal(digits: i64, scale: u32) -> Value {
    let unit = 10i64.pow(scale);
    let sign = if digits < 0 { "-" } else { "" };
    let (whole, behind) = (digits.abs() / unit, digits.abs() % unit);
    text(&format!("{sign}{whole}.{behind:0>width$}", width = scale as usize))
}

const DRUGS: [&str; 10] = [
    "paracetamol",
    "ibuprofen",
    "amoxicillin",
    "furosemide",
    "enoxaparin",
    "metoprolol",
    "insulin glargine",
    "ondansetron",
    "morphine",
    "ceftriaxone",
];
const CODES: [&str; 6] = ["heart-rate", "saturation", "temperature", "pain", "glucose", "weight"];
const UNITS: [&str; 6] = ["1/min", "%", "C", "", "mmol/l", "kg"];
const NAMES: [&str; 8] =
    ["Okafor", "Lindqvist", "Haddad", "Nakamura", "Silva", "Moreau", "Novak", "Reyes"];
const PHRASES: [&str; 26] = [
    "Patient tolerated the dose well",
    "No adverse reaction observed",
    "Reduced renal function, dose adjusted",
    "To be reviewed at the morning round",
    "Blood pressure to be checked before each dose",
    "Given with food",
    "Patient asleep, not woken",
    "Family informed of the change",
    "Allergy to penicillin confirmed",
    "Pain score",
    "Oxygen by nasal cannula, litres per minute",
    "Repeat blood gas in hours",
    "Potassium slightly low, replaced",
    "Patient mobilised to chair",
    "Fluid balance in millilitres",
    "Discussed with the consultant on call",
    "Second check by",
    "Route changed on request of ward",
    "Nausea after the last dose",
    "Withheld because of low heart rate",
    "Continue unchanged",
    "Interaction with warfarin noted",
    "Glucose before the meal",
    "Awaiting pharmacy",
    "Written from a telephone order",
    "Signed by",
];

fn notes(work: &mut Work) -> Value {
    let lines: Vec<String> = (0..8 + work.below(36))
        .map(|_| {
            let phrase = work.pick(&PHRASES);
            if work.random() < 0.3 {
                format!("{phrase} {}", work.pick(&NAMES))
            } else {
                format!("{phrase} {}", work.below(1000))
            }
        })
        .collect();
    let (author, priority) = (work.pick(&NAMES), work.below(3));
    let lines = lines.join(". ");
    text(&format!("{{\"text\": \"{lines}\", \"author\": \"{author}\", \"priority\": {priority}}}"))
}

fn hospital(work: &mut Work) {
    let turn = work.seq as i64;
    work.clock += 1000 * work.below(4000);
    let clock = Value::TimestampTz(work.clock);
    let kind = work.random();
    let visit = 1 + work.below(2000);
    if kind < 0.40 {
        for bed in 0..4 {
            let id = 1 + (turn * 4 + 13 + bed) % 400;
            let heart = Value::Int(60 + work.below(40));
            let saturation = Value::Int(92 + work.below(8));
            work.update(1, id, [(3, heart), (4, saturation), (9, clock.clone())]);
            if work.random() < 0.3 {
                let temperature = decimal(360 + work.below(25), 1);
                work.update(1, id, [(7, temperature)]);
            }
            if work.random() < 0.2 {
                let systolic = Value::Int(100 + work.below(50));
                work.update(1, id, [(5, systolic)]);
            }
        }
    } else if kind < 0.69 {
        for line in 0..3 {
            let code = work.below(6) as usize;
            let (value, by) = (decimal(work.below(1000), 1), Value::Int(1 + work.below(60)));
            let values =
                [Value::Int(visit), text(CODES[code]), value, text(UNITS[code]), clock.clone(), by];
            work.insert(3, Value::Int(100_000_000 + turn * 3 + line), values);
        }
        let (acuity, by) = (Value::Int(1 + work.below(5)), Value::Int(1 + work.below(60)));
        work.update(2, visit, [(5, acuity), (7, clock), (8, by)]);
    } else if kind < 0.84 {
        let drug = work.pick(&DRUGS);
        let dose = format!("{} mg", (1 + work.below(8)) * 125);
        let route = if work.random() < 0.6 { "oral" } else { "intravenous" };
        let notes = notes(work);
        let values = [
            Value::Int(visit),
            text(drug),
            text(&dose),
            text(route),
            text("active"),
            notes,
            clock.clone(),
            clock.clone(),
        ];
        work.insert(4, Value::Int(100_000_000 + turn * 3), values);
        let by = Value::Int(1 + work.below(60));
        work.update(2, visit, [(4, text("in treatment")), (7, clock), (8, by)]);
    } else {
        let status = if work.random() < 0.5 { "given" } else { "held" };
        let notes = notes(work);
        let order = 1 + visit * 7919 % 3000;
        work.update(4, order, [(5, text(status)), (6, notes), (8, clock)]);
    }
}

fn store(work: &mut Work) {
    work.clock += 1000 * work.below(9000);
    let at = Value::TimestampTz(work.clock);
    let machine = 1 + work.below(8);
    let number = (work.clock / 1000) << 22 | machine << 12;
    let buyer = 1 + work.below(5000);
    let mut total = 0;
    for line in 1..=3 {
        let item = (work.random() * 10_000f64.ln()).exp() as i64;
        let pieces = 1 + (work.random() * work.random() * 6.0) as i64;
        let price = 99 + item * 37 % 4900;
        total += price * pieces;
        let tax = if item % 3 == 0 { "7.00" } else { "19.00" };
        let values = [
            Value::Int(number),
            Value::Int(item),
            Value::Int(pieces),
            decimal(price, 2),
            text(tax),
            at.clone(),
        ];
        work.insert(2, Value::Int(number + line), values);
        let quantity = work.number(3, item, 4, 5000) - pieces;
        work.update(3, item, [(4, Value::Int(quantity)), (6, at.clone())]);
    }
    let payment = if work.random() < 0.7 { "card" } else { "cash" };
    let receipt = format!("R-{machine}-{}", work.seq + 1);
    let cashier = machine * 10 + work.below(3);
    let values = [
        Value::Int(machine),
        Value::Int(cashier),
        Value::Int(buyer),
        decimal(total, 2),
        text(payment),
        text(&receipt),
        at.clone(),
    ];
    work.insert(1, Value::Int(number), values);
    let cash = work.number(4, machine, 1, 0) + total;
    let sales = work.number(4, machine, 2, 0) + 1;
    work.update(4, machine, [(1, decimal(cash, 2)), (2, Value::Int(sales)), (3, at.clone())]);
    let points = work.number(5, buyer, 2, 0) + total / 100;
    work.update(5, buyer, [(2, Value::Int(points)), (3, at)]);
}

fn bank(work: &mut Work) {
    let (account, teller) = (1 + work.below(100_000), 1 + work.below(100));
    let (branch, amount) = (1 + work.below(10), work.below(10_001) - 5000);
    for (table, key, column) in [(3, account, 2), (2, teller, 2), (1, branch, 1)] {
        let balance = work.number(table, key, column, 0) + amount;
        work.update(table, key, [(column, Value::Int(balance))]);
    }
    let at = Value::Timestamp(work.micros + 20 + work.below(10));
    let number = Value::Int(100_000_000 + work.seq as i64);
    let numbers = [teller, branch, account, amount].map(Value::Int);
    let [teller, branch, account, amount] = numbers;
    work.insert(4, number, [teller, branch, account, amount, at]);
}

fn single(work: &mut Work) {
    work.clock += 1000 * work.below(500) + 17;
    let mut device = [9; 16];
    device[15] = work.below(200) as u8;
    let kind = work.pick(&CODES);
    let value = Value::Int(work.below(500));
    let id = work.uuid();
    work.insert(1, id, [Value::Uuid(device), text(kind), value, Value::TimestampTz(work.clock)]);
}

fn counters(work: &mut Work) {
    work.clock += 1000 * work.below(500);
    for _ in 0..10 {
        let row = 1 + work.below(10_000);
        // Rows were inserted one after the other, one in a transaction, by one of three sites.
        let site = SiteId::new(1 + (row * 7919 % 3) as u16).expect("not zero");
        let incarnation = Incarnation::new(0x0102_0304_0506_0708).expect("not zero");
        let ms = 1_780_000_000_000 + row * 1300 + row * row % 900;
        let origin = Origin { site, incarnation };
        let birth =
            Stamp::new(Hlc::from_ms(ms.cast_unsigned()), origin, Seq(row.cast_unsigned() / 3));
        let added = work.sums.get(&row).copied().unwrap_or(0) - 1 - work.below(5);
        work.sums.insert(row, added);
        let sum = Decimal::parse(&added.to_string()).expect("a number");
        let share = Share { birth: Some(birth), part: Part::Sum(sum) };
        let at = Value::TimestampTz(work.clock);
        work.update(1, row, [(1, Value::Share(Box::new(share))), (2, at)]);
    }
}
