//! What packing saves and costs: `cargo run --release -p landfall-protocol --example packing`.
//!
//! A program to look at, not a test. Of 10 to 10,000 changes of each mix it tells the bytes per change
//! of whole units, headers and signatures included, in rows and in columns, at two levels of zstd; and
//! the nanoseconds per change that each step takes.

mod mixes;

use landfall_protocol::change::{Fragment, Transaction};
use landfall_protocol::codec::{Reader, Writer};
use landfall_protocol::columnar::{self, Columns, Content};
use landfall_protocol::compress::{compress, compress_in_pieces, decompress};
use landfall_protocol::id::{Incarnation, Origin, SiteId};
use landfall_protocol::schema::SetId;
use landfall_protocol::unit::{
    HEADER_BYTES_MAX, PartId, SealContext, UNIT_PLAIN_BYTES_TARGET, Unit, UnitHash,
};
use landfall_protocol::version::VersionVector;
use mixes::Mix;

const SIZES: [usize; 7] = [10, 20, 30, 50, 100, 1000, 10_000];
const ROUNDS: usize = 9;

/// The content of a part.
struct Part {
    content: Content,
    /// The clock reading that the unit begins at.
    clock: u64,
    plain: Vec<u8>,
}

impl Part {
    fn split(&self) -> Option<Columns> {
        columnar::split(self.content, &self.plain, self.clock)
    }
}

fn main() {
    println!(
        "{:<10}{:>8} | {:>8}{:>8}{:>8}{:>8}{:>8}{:>8} | {:>7}{:>7}{:>7}{:>7}{:>7}{:>7}",
        "bytes of",
        "changes",
        "plain",
        "rows 3",
        "col 3",
        "rows 19",
        "col 19",
        "sealed",
        "rows 3",
        "split",
        "col 3",
        "seal",
        "unzstd",
        "join",
    );
    for (name, mix) in Mix::ALL {
        for changes in SIZES {
            measure(name, &mix.transactions(changes));
        }
    }
}

fn measure(name: &str, transactions: &[Transaction]) {
    let changes = transactions.iter().map(|one| one.changes.len()).sum::<usize>() as f64;
    let units = seal(transactions);
    let sealed: usize = units.iter().map(|unit| unit.bytes().len()).sum();
    let (framing, parts): (Vec<usize>, Vec<Vec<Part>>) = units.iter().map(take_apart).unzip();
    let framing: usize = framing.iter().sum();
    let parts: Vec<Part> = parts.into_iter().flatten().collect();
    let rows = |level| parts.iter().map(|part| compress(&part.plain, level).len()).sum::<usize>();
    let split: Vec<(Columns, &Part)> =
        parts.iter().filter_map(|part| Some((part.split()?, part))).collect();
    let pack = |level| {
        let packed = split.iter().map(|(all, _)| compress_in_pieces(&all.bytes, &all.cuts, level));
        packed.collect::<Vec<_>>()
    };
    let columns = |level| pack(level).iter().map(|packed| packed.len() + 3).sum::<usize>();
    let plain: usize = parts.iter().map(|part| part.plain.len()).sum();
    print!("{name:<10}{changes:>8} |");
    for bytes in [plain, rows(3), columns(3), rows(19), columns(19), sealed - framing] {
        print!(" {:>7.2}", (framing + bytes) as f64 / changes);
    }
    print!(" |");
    let packed = pack(3);
    let tell = |work: &dyn Fn()| print!(" {:>6.0}", nanos(work) / changes);
    tell(&|| _ = std::hint::black_box(rows(3)));
    tell(&|| parts.iter().for_each(|part| drop(part.split())));
    tell(&|| drop(pack(3)));
    tell(&|| drop(seal(transactions)));
    tell(&|| {
        for ((all, _), packed) in split.iter().zip(&packed) {
            drop(decompress(packed, all.bytes.len()));
        }
    });
    tell(&|| {
        for (all, part) in &split {
            drop(columnar::join(part.content, &all.bytes, part.plain.len()));
        }
    });
    println!();
}

/// How long work takes, the least of some rounds.
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "time is what is measured here"
)]
fn nanos(work: &dyn Fn()) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let began = std::time::Instant::now();
        work();
        began.elapsed().as_nanos() as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

/// Cuts where the store does.
fn seal(transactions: &[Transaction]) -> Vec<Unit> {
    let mut units = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, transaction) in transactions.iter().enumerate() {
        let mut out = Writer::new();
        transaction.changes.iter().for_each(|change| change.encode(&mut out));
        if at > begin && bytes + out.len() > UNIT_PLAIN_BYTES_TARGET {
            units.push(seal_one(&transactions[begin..at]));
            (begin, bytes) = (at, 0);
        }
        bytes += out.len();
    }
    units.push(seal_one(&transactions[begin..]));
    units
}

fn seal_one(transactions: &[Transaction]) -> Unit {
    let site = SiteId::new(1).expect("not zero");
    let incarnation = Incarnation::new(0x0102_0304_0506_0708).expect("not zero");
    let context = SealContext {
        origin: Origin { site, incarnation },
        fleet_version: 1,
        fragment: Fragment::Whole,
        previous: UnitHash::GENESIS,
        vector: &VersionVector::default(),
        level: 3,
    };
    Unit::seal(context, transactions, |_| SetId(1), |_| [7; 64])
}

/// The bytes of a unit outside its parts' contents, and those contents.
fn take_apart(unit: &Unit) -> (usize, Vec<Part>) {
    let mut from = Reader::new(unit.bytes());
    from.raw(1).expect("a format");
    from.bytes(HEADER_BYTES_MAX).expect("a header");
    from.raw(64).expect("a signature");
    let mut framing = unit.bytes().len();
    let header = unit.header();
    let parts = header.parts.iter().map(|part| {
        let packing = from.u8().expect("a packing");
        let stored = from.bytes(usize::MAX).expect("a part");
        framing -= stored.len();
        let content = if part.id == PartId::Spine { Content::Spine } else { Content::Set };
        let plain_bytes = part.plain_bytes as usize;
        let plain = match packing {
            0 => stored.to_vec(),
            1 => decompress(stored, plain_bytes).expect("packed here"),
            _ => {
                let mut stored = Reader::new(stored);
                let length = stored.varint().expect("a length") as usize;
                let columns = decompress(stored.rest(), length).expect("packed here");
                columnar::join(content, &columns, plain_bytes).expect("taken apart here")
            }
        };
        Part { content, clock: header.hlc_first.0, plain }
    });
    let parts = parts.collect();
    (framing, parts)
}
