//! What the fleet file's rules make of writes that cross each other.

use std::fs;

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{Builder, Fleet, SOON};
use landfall_tests::wait::wait_until;

use crate::support::{conflicts, fleet_file, launch, stop, value};

/// Two ships whose link is cut.
fn apart(builder: Builder) -> Fleet {
    let fleet = builder.unsynced().site("a").site("b").link("a", "b").start();
    fleet.converge();
    fleet.link("a", "b").cut();
    fleet
}

fn heal(fleet: &Fleet) {
    fleet.link("a", "b").heal();
    fleet.converge();
}

fn number(fleet: &Fleet, site: &str, sql: &str) -> i64 {
    value(fleet, site, sql).parse().expect("a number")
}

fn shown(fleet: &Fleet, sql: &str) -> Vec<String> {
    let sites = ["a", "b"].map(|site| {
        let rows = fleet.rows(site, sql);
        let cells = rows.into_iter().flatten().map(|cell| cell.unwrap_or_default());
        cells.collect::<Vec<_>>().join(" ")
    });
    sites.to_vec()
}

const STOCK: &str = "\
CREATE TABLE stock (id int PRIMARY KEY, place text, count int, price numeric(8,2));
CREATE TABLE shelf (id int PRIMARY KEY, count int NOT NULL CHECK (count >= 0));";
const STOCK_RULES: &str = "
[[table]]
name = \"public.stock\"
columns = { count = \"counter\", price = \"counter\" }
[[table]]
name = \"public.shelf\"
columns = { count = \"counter\" }
";

fn stock() -> Builder {
    Fleet::new(STOCK, &["public.stock", "public.shelf"]).rules(STOCK_RULES)
}

#[test]
fn what_two_sites_add_to_a_counter_adds_up() {
    let fleet = stock().unsynced().site("a").site("b").link("a", "b").start();
    fleet.sql(
        "a",
        "INSERT INTO stock VALUES (1, 'bay', 100, 9.90), (2, 'bay', 7, 1), (3, 'bay', 1, 1)",
    );
    fleet.converge();
    fleet.link("a", "b").cut();
    fleet.sql("a", "UPDATE stock SET count = count - 30, price = price + 0.05 WHERE id = 1");
    fleet.sql("b", "UPDATE stock SET count = count + 50, price = price * 2 WHERE id = 1");
    // A stock-take counts as what was missing: what is sold meanwhile stays sold.
    fleet.sql("a", "UPDATE stock SET count = 0, place = 'dock' WHERE id = 2");
    fleet.sql("b", "UPDATE stock SET count = count - 2 WHERE id = 2");
    // A row that is deleted and made again begins to count anew.
    fleet.sql("a", "DELETE FROM stock WHERE id = 3; INSERT INTO stock VALUES (3, 'new', 10, 2)");
    fleet.sql("b", "UPDATE stock SET count = count + 500 WHERE id = 3");
    heal(&fleet);
    let all = "SELECT count, price, place FROM stock ORDER BY id";
    let due = "120 19.85 bay -2 1.00 dock 10 2.00 new".to_owned();
    assert_eq!(shown(&fleet, all), [due.clone(), due]);
    fleet.sql("b", "UPDATE stock SET count = count + 1");
    fleet.sql("a", "UPDATE stock SET count = count + 1");
    fleet.converge();
    assert_eq!(number(&fleet, "a", "SELECT sum(count) FROM stock"), 120 - 2 + 10 + 6);
}

#[test]
fn what_two_sites_begin_a_tally_with_adds_up() {
    let rules = STOCK_RULES.replace("count = \"counter\", price", "count = \"tally\", price");
    assert_ne!(rules, STOCK_RULES);
    let fleet = Fleet::new(STOCK, &["public.stock", "public.shelf"]).rules(&rules);
    let fleet = apart(fleet);
    fleet.sql("a", "INSERT INTO stock VALUES (1, 'bay', 10, 1), (2, 'bay', 7, 1), (3, 'a', 4, 1)");
    fleet.sql("a", "UPDATE stock SET count = count - 1 WHERE id = 1");
    fleet.sql("b", "INSERT INTO stock VALUES (1, 'dock', 5, 2), (3, 'b', NULL, 1)");
    fleet.sql("b", "UPDATE stock SET count = count + 20 WHERE id = 1");
    heal(&fleet);
    let all = "SELECT id, count, price, place FROM stock ORDER BY id";
    // Nothing is what nobody can add to: who inserts it sets it. All else is the later insert's.
    let due = "1 34 2.00 dock 2 7 1.00 bay 3  1.00 b".to_owned();
    assert_eq!(shown(&fleet, all), [due.clone(), due]);
    fleet.sql("b", "UPDATE stock SET count = count + 1 WHERE id < 3");
    fleet.sql("a", "UPDATE stock SET count = 2 WHERE id = 3");
    fleet.converge();
    let counts = "SELECT string_agg(count::text, ' ' ORDER BY id) FROM stock";
    assert_eq!(shown(&fleet, counts), ["35 8 2", "35 8 2"]);

    // Made again by both after a delete that both know, and after one that only one of them does.
    fleet.sql("a", "DELETE FROM stock WHERE id = 1");
    fleet.converge();
    fleet.link("a", "b").cut();
    fleet.sql("a", "INSERT INTO stock VALUES (1, 'bay', 100, 1)");
    fleet.sql("b", "INSERT INTO stock VALUES (1, 'dock', 1, 1)");
    fleet.sql("a", "DELETE FROM stock WHERE id = 2; INSERT INTO stock VALUES (2, 'bay', 50, 1)");
    fleet.sql("b", "UPDATE stock SET count = count + 1000 WHERE id = 2");
    heal(&fleet);
    assert_eq!(shown(&fleet, counts), ["101 50 2", "101 50 2"]);
    let told = conflicts(&fleet, "b");
    assert!(told.iter().any(|line| line.contains("2/count counter_reset")), "{told:?}");
    assert_eq!(number(&fleet, "a", "SELECT count(*) FROM landfall.parked"), 0);
    assert_eq!(fleet.repaired_rows(), 0);
}

#[test]
fn counters_of_three_sites_lose_nothing_on_any_way() {
    let fleet = stock().unsynced().star("shore", &["a", "b", "c"]).start();
    fleet.sql("a", "INSERT INTO stock SELECT id, 'bay', 0, 0 FROM generate_series(1, 5) id");
    fleet.converge();
    let mut dice = Dice::new(9);
    let mut due = [0i64; 5];
    for round in 0..60 {
        let site = ["a", "b", "c"][dice.below(3) as usize];
        let (id, by) = (dice.below(5) as usize, dice.below(200) as i64 - 100);
        due[id] += by;
        fleet.sql(site, &format!("UPDATE stock SET count = count + {by} WHERE id = {}", id + 1));
        match round % 20 {
            5 => fleet.link(site, "shore").cut(),
            19 => ["a", "b", "c"].iter().for_each(|site| fleet.link(site, "shore").heal()),
            _ => {}
        }
    }
    fleet.converge();
    for (id, due) in due.into_iter().enumerate() {
        let sql = format!("SELECT count FROM stock WHERE id = {}", id + 1);
        assert_eq!(number(&fleet, "c", &sql), due);
    }
}

#[test]
fn a_counter_shows_no_more_than_its_column_holds_and_forgets_nothing() {
    let fleet = stock().unsynced().site("a").site("b").link("a", "b").start();
    fleet.sql("a", "INSERT INTO shelf VALUES (1, 5), (2, 2147483000)");
    fleet.converge();
    fleet.link("a", "b").cut();
    for site in ["a", "b"] {
        fleet.sql(site, "UPDATE shelf SET count = count - 4 WHERE id = 1");
        fleet.sql(site, "UPDATE shelf SET count = count + 600 WHERE id = 2");
    }
    heal(&fleet);
    let all = "SELECT count FROM shelf ORDER BY id";
    let due = "0 2147483647".to_owned();
    assert_eq!(shown(&fleet, all), [due.clone(), due]);
    for site in ["a", "b"] {
        let told = conflicts(&fleet, site);
        let clamped: Vec<_> = told.iter().filter(|line| line.contains("counter_clamped")).collect();
        assert_eq!(clamped.len(), 2, "{told:?}");
        assert!(told.iter().any(|line| line.contains("-3")), "{told:?}");
    }
    // The true sum is three below: of ten that come in, seven are there.
    fleet.sql("a", "UPDATE shelf SET count = count + 10 WHERE id = 1");
    fleet.sql("b", "UPDATE shelf SET count = count - 1000 WHERE id = 2");
    fleet.converge();
    let due = "7 2147483200".to_owned();
    assert_eq!(shown(&fleet, all), [due.clone(), due]);
}

#[test]
fn columns_of_one_constraint_are_written_together() {
    let schema = "CREATE TABLE span (id int PRIMARY KEY, low int, high int, note text, \
                  zip text, town text, CHECK (low <= high))";
    let rules = "[[table]]\nname = \"public.span\"\ngroups = [[\"zip\", \"town\"]]\n";
    let fleet = Fleet::new(schema, &["public.span"]).rules(rules);
    let fleet = fleet.unsynced().site("a").site("b").link("a", "b").start();
    fleet.sql("a", "INSERT INTO span VALUES (1, 1, 10, 'x', '8001', 'Zurich')");
    fleet.converge();
    fleet.link("a", "b").cut();
    fleet.sql("a", "UPDATE span SET low = 8, zip = '8002' WHERE id = 1");
    fleet.sql("b", "UPDATE span SET high = 5, note = 'y', town = 'Bern' WHERE id = 1");
    heal(&fleet);
    let all = "SELECT low, high, zip, town, note FROM span";
    let due = "1 5 8001 Bern y".to_owned();
    assert_eq!(shown(&fleet, all), [due.clone(), due], "the later write of each group stays whole");
    assert_eq!(number(&fleet, "a", "SELECT count(*) FROM landfall.parked"), 0);
}

#[test]
fn a_table_that_two_sites_merge_by_other_rules_is_exchanged_when_the_rules_are_the_same() {
    let mut fleet = apart(
        stock()
            .rules_of("b", &STOCK_RULES.replace("counter\", price", "last_writer_wins\", price")),
    );
    fleet.sql("a", "INSERT INTO stock VALUES (1, 'bay', 1, 1); INSERT INTO shelf VALUES (1, 1)");
    fleet.sql("a", "UPDATE stock SET count = count + 5 WHERE id = 1");
    fleet.sql("b", "INSERT INTO stock VALUES (2, 'dock', 7, 7)");
    fleet.sql("b", "UPDATE stock SET count = count + 1 WHERE id = 2");
    fleet.link("a", "b").heal();
    wait_until("the other table to arrive", SOON, || {
        match number(&fleet, "b", "SELECT count(*) FROM shelf") {
            0 => Err("it is empty"),
            _ => Ok(()),
        }
    });
    let reason = fleet.rows("b", "SELECT reason, advice FROM landfall.parked");
    let told: Vec<String> = reason.into_iter().flatten().flatten().collect();
    assert!(told[0].contains("public.stock is merged by other rules"), "{told:?}");
    assert!(told[0].contains("count = \"counter\""), "{told:?}");
    assert!(told[1].contains("fleet file"), "{told:?}");
    let parked = |site| fleet.member(site).status().expect("status")["parked"].clone();
    wait_until("both to park", SOON, || {
        let both = ["a", "b"].map(parked);
        let due = both.iter().all(|parked| parked["reasons"]["other_rules"] == 2);
        if due { Ok(()) } else { Err(format!("{both:?}")) }
    });
    assert_eq!(shown(&fleet, "SELECT id, count FROM stock"), ["1 6", "2 8"]);
    // By rules that agree it is another table for nobody.
    stop(&fleet, "b");
    let path = fleet_file(&fleet, "b");
    let rules = fs::read_to_string(&path).expect("read");
    let agreed = rules.replace("last_writer_wins\", price", "counter\", price");
    fs::write(&path, agreed).expect("write");
    launch(&mut fleet, "b");
    wait_until("what a wrote to be shown by b", SOON, || {
        let found = shown(&fleet, "SELECT id, count FROM stock ORDER BY id");
        if found[1] == "1 6 2 8" { Ok(()) } else { Err(found.join(", ")) }
    });
    // What b says of its table, it says with the next change of it.
    fleet.sql("b", "UPDATE stock SET count = count + 10");
    wait_until("nothing to be parked", SOON, || {
        let both = ["a", "b"].map(|site| fleet.member(site).status().map(|s| s["parked"].clone()));
        let both = both.map(|parked| parked.expect("status"));
        let none = both.iter().all(|parked| parked["changes"] == 0);
        if none { Ok(()) } else { Err(format!("{both:?}")) }
    });
    fleet.converge();
    let due = "1 16 2 18".to_owned();
    assert_eq!(shown(&fleet, "SELECT id, count FROM stock ORDER BY id"), [due.clone(), due]);
    let left = "SELECT count(*) FROM landfall.parked";
    assert_eq!([number(&fleet, "a", left), number(&fleet, "b", left)], [0, 0]);
}

#[test]
fn columns_that_cannot_count_are_refused_with_the_reason() {
    let refused = |column: &str, words: &str| {
        let schema = format!("CREATE TABLE t (id int PRIMARY KEY, other int, {column})");
        let rules = "[[table]]\nname = \"public.t\"\ncolumns = { n = \"counter\" }\n";
        let fleet = Fleet::new(&schema, &["public.t"]).rules(rules).unsynced().site("a");
        let error = format!("{:#}", fleet.try_start().expect_err("it is refused"));
        assert!(error.contains(words), "{column}: {error}");
    };
    refused("n double precision", "order in which numbers are added");
    refused("n money", "make it smallint, integer, bigint or numeric");
    refused("n int UNIQUE", "stands in t_n_key");
    refused("n int CHECK (n < other)", "only asks n >= number");
    refused("m int", "has no column n");
}
