//! Values of every type, there and back again.

use std::fmt::Write as _;

use landfall_tests::fleet::{Builder, Fleet};
use landfall_tests::session::Session;

use super::values::{COMPOUNDS, Case, DEFINITIONS, KEYS, NUMBERS, PLACES, TEXTS, TIMES};
use crate::support::value;

const COLUMNS: [&[Case]; 5] = [NUMBERS, TEXTS, TIMES, PLACES, COMPOUNDS];

/// How a database may be set up so that values print and read otherwise than by default.
const HOSTILE: &str = "
    ALTER DATABASE ward SET datestyle = 'German, DMY';
    ALTER DATABASE ward SET intervalstyle = 'sql_standard';
    ALTER DATABASE ward SET timezone = 'Asia/Kathmandu';
    ALTER DATABASE ward SET bytea_output = 'escape';
    ALTER DATABASE ward SET extra_float_digits = -15;
    ALTER DATABASE ward SET lc_monetary = 'C.UTF-8';
    ALTER DATABASE ward SET xmloption = 'document';
    ALTER DATABASE ward SET array_nulls = off;
    ALTER DATABASE ward SET backslash_quote = off;
    ALTER DATABASE ward SET quote_all_identifiers = on;
    ALTER DATABASE ward SET search_path = 'nowhere';
";

/// So that the test's own values are read as they are written here.
const PLAIN: &str = "SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; \
    SET timezone = 'UTC'; SET lc_monetary = 'C'; SET xmloption = 'content'; SET array_nulls = on; \
    SET search_path = 'public';";

struct Matrix {
    fleet: Fleet,
    /// Tables with a column of each type: number and case.
    columns: Vec<&'static Case>,
    keys: Vec<&'static Case>,
}

impl Matrix {
    fn start(sites: impl FnOnce(Builder) -> Builder) -> Self {
        let columns: Vec<&Case> = COLUMNS.iter().copied().flatten().collect();
        let keys: Vec<&Case> = KEYS.iter().collect();
        let mut schema = DEFINITIONS.to_owned();
        let mut tables = Vec::new();
        for (place, case) in columns.iter().enumerate() {
            let columns = format!("id int PRIMARY KEY, v {}, note text", case.type_name);
            write!(schema, "CREATE TABLE c{place} ({columns});").expect("a String takes all");
            tables.push(format!("public.c{place}"));
        }
        for (place, case) in keys.iter().enumerate() {
            let columns = format!("id {} PRIMARY KEY, note text", case.type_name);
            write!(schema, "CREATE TABLE k{place} ({columns});").expect("a String takes all");
            tables.push(format!("public.k{place}"));
        }
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        let fleet = Fleet::new(&schema, &tables).star("shore", &["a", "b"]).unsynced();
        Self { fleet: sites(fleet).start(), columns, keys }
    }

    /// Runs a statement for every table at a site.
    #[track_caller]
    fn each(
        &self,
        site: &str,
        columns: impl Fn(usize, &Case) -> String,
        keys: impl Fn(usize, &Case) -> String,
    ) {
        let session = self.session(site);
        for (place, case) in self.columns.iter().enumerate() {
            run(&session, case, &columns(place, case));
        }
        for (place, case) in self.keys.iter().enumerate() {
            run(&session, case, &keys(place, case));
        }
    }

    fn session(&self, site: &str) -> Session {
        let session = self.fleet.member(site).cluster().session("ward").expect("connect");
        session.batch(PLAIN).expect("set");
        session
    }

    /// Everything arrived, and nothing was set aside, put right, or complained about.
    #[track_caller]
    fn settled(&self) -> usize {
        let rows = self.fleet.converge();
        for site in ["a", "b"] {
            let parked = self.fleet.rows(
                site,
                "SELECT table_name, reason, left(change, 200) FROM landfall.parked LIMIT 9",
            );
            assert!(parked.is_empty(), "parked at {site}: {parked:#?}");
            assert_eq!(value(&self.fleet, site, "SELECT count(*) FROM landfall.conflict"), "0");
        }
        assert_eq!(self.fleet.repaired_rows(), 0);
        self.fleet.assert_quiet(&[]);
        rows
    }
}

#[track_caller]
fn run(session: &Session, case: &Case, sql: &str) {
    if let Err(error) = session.batch(sql) {
        panic!("{}: {error:#}", case.type_name);
    }
}

/// `(0, value), (1, value), …, (n, NULL)`, beginning with the value at `first`.
fn rows(case: &Case, first: usize) -> String {
    let count = case.values.len();
    let mut rows = String::new();
    for id in 0..=count {
        let comma = if id == 0 { "" } else { ", " };
        let value = case.values.get((id + first) % (count + 1)).copied().unwrap_or("NULL");
        write!(rows, "{comma}({id}, ({value})::{})", case.type_name).expect("a String takes all");
    }
    rows
}

/// Inserts at one site, updates at the other to the next value, changes keys and deletes in both
/// directions; after each step both sites must show the same.
pub(super) fn there_and_back(sites: impl FnOnce(Builder) -> Builder) {
    let matrix = Matrix::start(sites);
    let key_rows = |case: &Case| {
        let rows = case.values.iter().map(|v| format!("(({v})::{}, 'new')", case.type_name));
        rows.collect::<Vec<_>>().join(", ")
    };
    for (here, there) in [("a", "b"), ("b", "a")] {
        matrix.each(
            here,
            |place, case| format!("INSERT INTO c{place} (id, v) VALUES {}", rows(case, 0)),
            |place, case| format!("INSERT INTO k{place} VALUES {}", key_rows(case)),
        );
        let count = matrix.settled();
        assert!(count > 400, "{count} rows are no matrix");
        // Each value comes back as an update, over another value or NULL.
        let update = |place, case: &Case| {
            let next = rows(case, 1);
            format!(
                "UPDATE c{place} c SET v = x.v FROM (VALUES {next}) AS x (id, v) WHERE c.id = x.id"
            )
        };
        matrix.each(there, update, |place, _| format!("UPDATE k{place} SET note = 'changed'"));
        assert_eq!(matrix.settled(), count);
        // Keys change, rows go.
        matrix.each(
            here,
            |place, _| format!("UPDATE c{place} SET id = id + 1000 WHERE id % 2 = 0"),
            |place, case| {
                let first = format!("({})::{}", case.values[0], case.type_name);
                format!(
                    "UPDATE k{place} SET note = 'again'; DELETE FROM k{place} WHERE id = {first}"
                )
            },
        );
        matrix.settled();
        matrix.each(
            there,
            |place, _| format!("DELETE FROM c{place}"),
            |place, _| format!("DELETE FROM k{place}"),
        );
        assert_eq!(matrix.settled(), 0);
    }
}

#[test]
fn every_type_arrives_as_it_was_sent() {
    there_and_back(|fleet| fleet.prepare("b", HOSTILE));
}
