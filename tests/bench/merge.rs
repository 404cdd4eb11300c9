//! What it costs to merge columns and to keep foreign keys while a backlog is applied, against the same
//! changes of plain columns in the same rounds.

use std::time::{Duration, Instant};

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{DB, Fleet};
use landfall_tests::wait;

use crate::capture::{end_of_log, folded};
use crate::catchup::settle;
use crate::figure::{Aim, Better, Figure, Samples};
use crate::native::wait_for_sentinel;
use crate::workload::CONF;
use crate::{Plan, Scale};

/// How long one backlog may take.
const LIMIT: Duration = Duration::from_secs(900);
/// Rows of each table.
const ROWS: u64 = 10_000;
/// Rows that one transaction changes.
const AT_ONCE: u64 = 10;
/// Keys of a document of about 1 kB.
const KEYS: u64 = 20;
/// Words of a text of 100 kB, each of eight bytes with its blank.
const WORDS: u64 = 12_500;
/// Edits of one text, one word each, in transactions of their own.
const EDITS: u64 = 20;

const TABLES: [&str; 10] = [
    "public.plain_count",
    "public.merged_count",
    "public.plain_document",
    "public.merged_document",
    "public.parent",
    "public.plain_child",
    "public.merged_child",
    "public.plain_text",
    "public.merged_text",
    "public.sentinel",
];

const RULES: &str = "
[[table]]
name = \"public.merged_count\"
columns = { value = \"counter\" }
[[table]]
name = \"public.merged_document\"
columns = { value = \"document\" }
[[table]]
name = \"public.merged_text\"
columns = { value = \"text\" }
";

/// What is done to many rows.
#[derive(Debug, Clone, Copy)]
enum Work {
    Count,
    Document,
    Child,
}

impl Work {
    const ALL: [Self; 3] = [Self::Count, Self::Document, Self::Child];

    fn name(self) -> &'static str {
        match self {
            Self::Count => "merge, counters, one added to",
            Self::Document => "merge, documents of 1 kB, one key changed",
            Self::Child => "merge, children of a foreign key, inserted",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Document => "document",
            Self::Child => "child",
        }
    }

    fn changes(self, scale: Scale) -> u64 {
        scale.count(match self {
            Self::Count => 100_000,
            Self::Document => 40_000,
            Self::Child => 100_000,
        })
    }

    /// All changes of a round.
    fn sql(self, table: &str, scale: Scale, round: u64) -> String {
        let ids = format!("SELECT 1 + (t::bigint * {AT_ONCE} + g) * 7919 % {ROWS}");
        let ids = format!("{ids} FROM generate_series(1, {AT_ONCE}) g");
        let change = match self {
            Self::Count => {
                format!("UPDATE {table} SET value = value + 1 WHERE id = ANY (ARRAY({ids}))")
            }
            Self::Document => format!(
                "UPDATE {table} SET value = jsonb_set(value, ARRAY['key ' || t % {KEYS}], \
                 to_jsonb('written by {round} as ' || t || repeat('.', 20))) \
                 WHERE id = ANY (ARRAY({ids}))"
            ),
            Self::Child => format!(
                "INSERT INTO {table} SELECT {round}::bigint * 100000000 + t * {AT_ONCE} + g, \
                 1 + (t::bigint * {AT_ONCE} + g) * 7919 % {ROWS} FROM generate_series(1, {AT_ONCE}) g"
            ),
        };
        let transactions = self.changes(scale) / AT_ONCE;
        format!("DO $$ BEGIN FOR t IN 1 .. {transactions} LOOP {change}; COMMIT; END LOOP; END $$")
    }
}

/// The benchmark.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let fleet = Fleet::new(&schema(), &TABLES).rules(RULES).site("a").site("b").link("a", "b");
    let fleet = CONF.iter().fold(fleet, |fleet, (key, value)| fleet.conf(key, value));
    let fleet = fleet.try_start()?;
    let mut figures = Vec::new();
    let mut round = 0;
    for work in Work::ALL {
        let (mut plain, mut merged) = (Samples::default(), Samples::default());
        // The first round warms up.
        for measured in 0..=plan.rounds {
            for (prefix, samples) in [("plain", &mut plain), ("merged", &mut merged)] {
                round += 1;
                let sql = work.sql(&format!("{prefix}_{}", work.table()), plan.scale, round);
                let took = backlog(&fleet, &[sql], round)?.applied;
                if measured > 0 {
                    samples.push(work.changes(plan.scale) as f64 / took.as_secs_f64());
                }
            }
            let (plain, merged) = (plain.median(), merged.median());
            println!("{}: plain {plain:.0}/s, merged {merged:.0}/s", work.name());
        }
        let figure = Figure::new(work.name(), "changes/s", Better::Higher, merged);
        figures.push(figure.against("plain columns", &plain));
    }
    figures.extend(texts(&fleet, plan, &mut round)?);
    fleet.converge();
    Ok(figures)
}

/// One text of 100 kB, of which words are changed one by one, and at both sites at once.
fn texts(fleet: &Fleet, plan: &Plan, round: &mut u64) -> anyhow::Result<Vec<Figure>> {
    let mut samples: [Samples; 5] = Default::default();
    let [plain_captured, captured, plain_applied, applied, both] = &mut samples;
    for _ in 0..plan.rounds as u64 {
        let pairs = [
            ("plain_text", &mut *plain_captured, &mut *plain_applied),
            ("merged_text", &mut *captured, &mut *applied),
        ];
        for (table, captured, applied) in pairs {
            *round += 1;
            let edits: Vec<String> =
                (0..EDITS).map(|edit| change_word(table, 100 * edit + *round, *round)).collect();
            let took = backlog(fleet, &edits, *round)?;
            let each = |took: Duration| took.as_secs_f64() * 1e3 / EDITS as f64;
            captured.push(each(took.captured));
            applied.push(each(took.applied));
        }
        *round += 1;
        both.push(crossed(fleet, *round)?.as_secs_f64());
        println!(
            "texts: captured in {:.1} ms, applied in {:.1} ms each; both edits in {:.2} s",
            captured.median(),
            applied.median(),
            both.median()
        );
    }
    let [plain_captured, captured, plain_applied, applied, both] = samples;
    let each = |what: &str, samples, plain: &Samples| {
        let name = format!("merge, a text of 100 kB, one word changed: {what}");
        Figure::new(&name, "ms/edit", Better::Lower, samples).against("a plain column", plain)
    };
    let name = "merge, a text of 100 kB, a word changed at each site: until both show both";
    Ok(vec![
        each("written and captured", captured, &plain_captured),
        each("applied", applied, &plain_applied),
        Figure::new(name, "s", Better::Lower, both).aim(Aim::AtMost(1.0)),
    ])
}

/// How long a backlog took.
struct Took {
    /// To be written and to be durable in the store of who wrote it.
    captured: Duration,
    /// From the healing of the link until the other site showed it.
    applied: Duration,
}

/// Lets site a change things while the link is cut, and heals it.
fn backlog(fleet: &Fleet, changes: &[String], round: u64) -> anyhow::Result<Took> {
    let a = fleet.member("a").cluster();
    fleet.link("a", "b").cut();
    let began = Instant::now();
    make(a, changes, round)?;
    let end = end_of_log(a)?;
    wait::try_wait_until("capture of the backlog", LIMIT, || folded(fleet, &end))?;
    let captured = began.elapsed();
    let began = Instant::now();
    fleet.link("a", "b").heal();
    wait_for_sentinel(fleet.member("b").cluster(), round, LIMIT)?;
    let applied = began.elapsed();
    settle(fleet)?;
    Ok(Took { captured, applied })
}

fn make(on: &Cluster, changes: &[String], round: u64) -> anyhow::Result<()> {
    let session = on.session(DB)?;
    session.batch("SET synchronous_commit = off")?;
    for change in changes {
        session.batch(change)?;
    }
    session.batch("SET synchronous_commit = on")?;
    session.batch(&format!("INSERT INTO sentinel VALUES ({round})"))
}

/// Both sites change a word of the same text while the link is cut; how long until both show both.
fn crossed(fleet: &Fleet, round: u64) -> anyhow::Result<Duration> {
    fleet.link("a", "b").cut();
    let words = [("a", 3, round), ("b", WORDS - 3, round + 500_000)];
    for (site, place, word) in words {
        fleet.member(site).cluster().session(DB)?.batch(&change_word(
            "merged_text",
            place,
            word,
        ))?;
    }
    let end = end_of_log(fleet.member("a").cluster())?;
    wait::try_wait_until("capture of the edit", LIMIT, || folded(fleet, &end))?;
    let began = Instant::now();
    fleet.link("a", "b").heal();
    let shows = words.map(|(_, _, word)| format!("value LIKE '%{}%'", written(word))).join(" AND ");
    for (site, ..) in words {
        let session = fleet.member(site).cluster().session(DB)?;
        let sql = format!("SELECT 1 FROM merged_text WHERE {shows}");
        wait::try_wait_until("both edits", LIMIT, || match session.rows(&sql) {
            Ok(rows) if rows.is_empty() => Err("not there yet".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        })?;
    }
    Ok(began.elapsed())
}

fn written(word: u64) -> String {
    format!("x{word:06}")
}

/// Puts another word of the same length into a place of the text.
fn change_word(table: &str, place: u64, word: u64) -> String {
    let (at, word) = (place * 8 + 1, written(word));
    format!("UPDATE {table} SET value = overlay(value PLACING '{word}' FROM {at})")
}

fn schema() -> String {
    let twice = |columns: &str, name: &str, rows: &str| {
        ["plain", "merged"]
            .map(|prefix| {
                let table = format!("{prefix}_{name}");
                format!(
                    "CREATE TABLE {table} (id bigint PRIMARY KEY, {columns});
                     ALTER TABLE {table} REPLICA IDENTITY FULL;
                     INSERT INTO {table} {rows};"
                )
            })
            .concat()
    };
    let all = format!("FROM generate_series(1, {ROWS}) g");
    let counts = twice("value bigint NOT NULL", "count", &format!("SELECT g, 0 {all}"));
    let document = format!(
        "(SELECT jsonb_object_agg('key ' || k, 'as it was in the beginning, ' || repeat('.', 10)) \
         FROM generate_series(0, {KEYS} - 1) k)"
    );
    let documents = twice("value jsonb", "document", &format!("SELECT g, {document} {all}"));
    let text = format!(
        "SELECT 1, string_agg('w' || lpad(w::text, 6, '0') || ' ', '' ORDER BY w) \
         FROM generate_series(1, {WORDS}) w"
    );
    let texts = twice("value text", "text", &text);
    let children = twice("parent bigint NOT NULL", "child", "SELECT 1, 1 WHERE false");
    format!(
        "CREATE TABLE parent (id bigint PRIMARY KEY, name text);
         INSERT INTO parent SELECT g, 'parent ' || g {all};
         CREATE TABLE sentinel (id bigint PRIMARY KEY);
         {counts} {documents} {texts} {children}
         CREATE INDEX ON plain_child (parent);
         CREATE INDEX ON merged_child (parent);
         ALTER TABLE merged_child ADD FOREIGN KEY (parent) REFERENCES parent;
         ANALYZE;"
    )
}
