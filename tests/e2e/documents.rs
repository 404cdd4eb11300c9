//! Texts, documents, sets and extremes that several sites write at once.

use landfall_tests::dice::Dice;
use landfall_tests::fleet::{Builder, Fleet};

use crate::support::{conflicts, launch, stop, value};

const SCHEMA: &str = "CREATE TABLE chart (id int PRIMARY KEY, note text, data jsonb, tags text[], \
                      codes int[], best numeric, first_seen timestamptz, last_day date, ward text)";
const RULES: &str = "
[[table]]
name = \"public.chart\"
columns = { note = \"text\", data = \"document\", tags = \"set\", codes = \"set\", best = \"max\", \
first_seen = \"min\", last_day = \"max\" }
";

fn chart() -> Builder {
    Fleet::new(SCHEMA, &["public.chart"]).rules(RULES).unsynced()
}

/// Two sites with one row whose link is cut; both then write, and it heals.
struct Pair(Fleet);

impl Pair {
    fn with(columns: &str, values: &str) -> Self {
        let fleet = chart().site("a").site("b").link("a", "b").start();
        fleet.sql("a", &format!("INSERT INTO chart (id, {columns}) VALUES (1, {values})"));
        fleet.converge();
        Self(fleet)
    }

    /// What both show in a column once each has heard of the other's write.
    #[track_caller]
    fn apart(&self, column: &str, by_a: &str, by_b: &str) -> String {
        let Self(fleet) = self;
        fleet.link("a", "b").cut();
        for (site, set) in [("a", by_a), ("b", by_b)] {
            fleet.sql(site, &format!("UPDATE chart SET {set} WHERE id = 1"));
        }
        fleet.link("a", "b").heal();
        fleet.converge();
        let shown = |site| value(fleet, site, &format!("SELECT {column} FROM chart WHERE id = 1"));
        assert_eq!(shown("a"), shown("b"));
        shown("a")
    }

    fn merged(&self, column: &str, by_a: &str, by_b: &str) -> String {
        let set = |value: &str| format!("{column} = {value}");
        self.apart(column, &set(by_a), &set(by_b))
    }

    /// Nothing gave way, and nothing had to be put right.
    #[track_caller]
    fn nothing_is_lost(&self) {
        let Self(fleet) = self;
        for site in ["a", "b"] {
            assert_eq!(conflicts(fleet, site), [""; 0], "at {site}");
        }
        assert_eq!(fleet.repaired_rows(), 0);
        fleet.assert_quiet(&[]);
    }
}

#[test]
fn what_two_people_write_into_one_text_is_all_there() {
    let pair =
        Pair::with("note", "E'admitted, stable\\nno allergies known\\ndischarge on Monday\\n'");
    let by_a = "replace(note, 'stable', 'stable, BP 130/85') || E'seen by Dr. Weiß\\n'";
    let by_b = "E'URGENT\\n' || replace(note, 'no allergies known', 'allergic to 💊 penicillin')";
    assert_eq!(
        pair.merged("note", by_a, by_b),
        "URGENT\nadmitted, stable, BP 130/85\nallergic to 💊 penicillin\ndischarge on Monday\n\
         seen by Dr. Weiß\n"
    );
    // The same word, and one deletes what the other writes beside.
    let by_a = "replace(note, 'Monday', 'Mondays')";
    let by_b = "replace(note, 'discharge on ', '')";
    let shown = pair.merged("note", by_a, by_b);
    assert!(shown.contains("\nMondays\n"), "{shown}");
    pair.nothing_is_lost();
}

#[test]
fn different_places_of_one_document_are_all_there() {
    let pair = Pair::with(
        "data",
        r#"'{"vitals": {"pulse": 60, "bp": {"sys": 120, "dia": 80}}, "old": true,
             "drugs": [{"id": 1, "name": "a", "dose": 1.50}, {"id": 2, "name": "b", "dose": 2}],
             "log": ["in"]}'"#,
    );
    let by_a =
        r#"jsonb_set(data, '{vitals,pulse}', '61') || '{"a": {"big": 12345678901234567890.10}}'"#;
    let by_b =
        r#"jsonb_set(data, '{vitals,bp,dia}', '85') - 'old' || '{"b": [1e400, -0.0, null]}'"#;
    let shown = pair.merged("data", by_a, by_b);
    assert!(shown.contains(r#""pulse": 61"#) && shown.contains(r#""dia": 85"#), "{shown}");
    assert!(shown.contains("12345678901234567890.10") && !shown.contains("old"), "{shown}");
    let exact = "SELECT data->'b'->>0 = '1' || repeat('0', 400) FROM chart";
    assert_eq!(value(&pair.0, "a", exact), "t", "{shown}");
    // Items with ids and without, put in front and taken out.
    let by_a = r#"jsonb_set(jsonb_insert(data, '{drugs,0}', '{"id": 3, "name": "c"}'),
                  '{drugs,2,dose}', '2.25')"#;
    let by_b = r#"jsonb_insert(data #- '{drugs,0}', '{log,-1}', '"out"', true)"#;
    let by_a = by_a.to_owned() + r#" || '{"log": ["first", "in"]}'"#;
    pair.merged("data", &by_a, by_b);
    let drugs = "SELECT data->'drugs' FROM chart";
    let due = r#"[{"id": 3, "name": "c"}, {"id": 2, "dose": 2.25, "name": "b"}]"#;
    assert_eq!(value(&pair.0, "b", drugs), due);
    assert_eq!(value(&pair.0, "b", "SELECT data->'log' FROM chart"), r#"["first", "in", "out"]"#);
    pair.nothing_is_lost();
}

#[test]
fn of_two_writes_of_one_key_the_later_stays_and_the_history_has_the_other() {
    let pair = Pair::with("data", r#"'{"k": 1, "in": {"x": 1}}'"#);
    let by_a = r#"data || '{"k": "from a", "a": 1}'"#;
    let by_b = r#"data || '{"k": "from b", "b": 1}'"#;
    let shown = pair.merged("data", by_a, by_b);
    assert_eq!(shown, r#"{"a": 1, "b": 1, "k": "from b", "in": {"x": 1}}"#);
    for site in ["a", "b"] {
        let told = conflicts(&pair.0, site);
        let has = |line: &String| line.contains("1/data document_key") && line.contains("from a");
        assert_eq!(told.iter().filter(|line| has(line)).count(), 1, "{site}: {told:?}");
    }
}

#[test]
fn what_a_whole_write_takes_away_is_in_the_history() {
    let pair = Pair::with("note, data", r#"'kept', '{"a": 1}'"#);
    let by_a = r#"note = note || ' and lost', data = data || '{"lost": true}'"#;
    assert_eq!(pair.apart("note", by_a, "note = NULL, data = '[]'"), "NULL");
    for site in ["a", "b"] {
        let told = conflicts(&pair.0, site);
        for (rule, what) in [("text_reset", "and lost"), ("document_reset", "lost")] {
            let has = |line: &String| line.contains(rule) && line.contains(what);
            assert!(told.iter().any(has), "{site}: {told:?}");
        }
    }
    // From here on it is merged again.
    let by_a = r#"note = 'x', data = data || '1'"#;
    pair.apart("note", by_a, "data = data || '2'");
    assert_eq!(value(&pair.0, "a", "SELECT jsonb_array_length(data) FROM chart"), "2");
}

#[test]
fn a_text_that_is_too_long_is_one_value_until_it_is_short_again() {
    let pair = Pair::with("note", "'begin'");
    let long = |what: &str| format!("note = '{what}' || repeat(' and so on', 30000)");
    let shown = pair.apart("left(note, 9)", &long("a"), &long("b"));
    assert_eq!(shown, "b and so ", "the later write stays");
    pair.0.sql("a", "UPDATE chart SET note = 'short'");
    pair.0.converge();
    assert_eq!(pair.merged("note", "note || ' again'", "'very ' || note"), "very short again");
    assert_eq!(pair.0.repaired_rows(), 0);
}

#[test]
fn sets_and_extremes_take_from_both() {
    let pair = Pair::with(
        "tags, codes, best, first_seen, last_day",
        "'{red,blue}', '{3,1}', 7.50, '2024-03-01 12:00+00', '2024-03-01'",
    );
    let by_a = "array_append(array_remove(tags, 'red'), 'green')";
    assert_eq!(
        pair.merged("tags", by_a, "tags || '{\"two words\",NULL}'::text[]"),
        r#"{blue,green,"two words",NULL}"#
    );
    assert_eq!(pair.merged("codes", "array_remove(codes, 3)", "codes || 9"), "{1,9}");
    assert_eq!(pair.merged("best", "9.25", "10"), "10");
    let early = pair.merged("first_seen", "'2023-12-31 23:59+00'", "'2024-01-01 00:00+00'");
    assert!(early.starts_with("2023-12-31"), "{early}");
    assert_eq!(pair.merged("last_day", "'2024-05-01'", "'12024-01-01'"), "12024-01-01");
    pair.nothing_is_lost();
    // What is no new extreme does not stay, at its own site neither; NULL begins anew.
    assert_eq!(pair.merged("best", "3", "4"), "10");
    pair.0.sql("a", "UPDATE chart SET best = NULL");
    pair.0.sql("a", "UPDATE chart SET best = 2");
    pair.0.converge();
    assert_eq!(pair.merged("best", "3", "4"), "4");
    // An array in another order is the same set.
    assert_eq!(pair.merged("codes", "'{9,1}'", "codes || 5"), "{1,9,5}");
    // Putting back what a rule overrules is no repair, and no reason for an alarm.
    assert_eq!(pair.0.repaired_rows(), 0);
    pair.0.assert_quiet(&[]);
}

/// Sites write one chart while links and daemons come and go: every word, key and element that was
/// written is there in the end, at all of them and at one that only hears through a relay.
#[test]
fn nothing_that_three_sites_write_is_lost_on_any_way() {
    let sites = ["a", "b", "c"];
    let mut fleet = chart().star("shore", &sites).start();
    fleet.sql(
        "a",
        "INSERT INTO chart (id, note, data, tags) VALUES (1, 'begin', '{\"list\": []}', '{}')",
    );
    fleet.converge();
    let mut dice = Dice::new(11);
    for round in 0..45 {
        let site = sites[dice.below(3) as usize];
        let at = dice.below(40);
        let word = format!("{site}{round}");
        fleet.sql(
            site,
            &format!(
                "UPDATE chart SET note = left(note, {at}) || ' {word} ' || substr(note, {at} + 1), \
                 data = jsonb_insert(data || '{{\"{word}\": {round}.50}}', '{{list,0}}', '\"{word}\"'), \
                 tags = tags || '{word}'::text"
            ),
        );
        match round % 15 {
            4 => fleet.link(site, "shore").cut(),
            9 => {
                stop(&fleet, site);
                launch(&mut fleet, site);
            }
            14 => sites.iter().for_each(|site| fleet.link(site, "shore").heal()),
            _ => {}
        }
    }
    fleet.converge();
    let missing = "SELECT count(*) FROM generate_series(0, 44) round CROSS JOIN chart \
                   WHERE NOT EXISTS (SELECT FROM unnest(array['a','b','c']) site \
                   WHERE tags @> array[site || round] AND data ? (site || round) \
                   AND data->'list' ? (site || round))";
    assert_eq!(value(&fleet, "c", missing), "0");
    let letters = "SELECT length(regexp_replace(note, '[^0-9a-z]', '', 'g')) FROM chart";
    let due: usize = "begin".len() + (0..45).map(|round| format!("a{round}").len()).sum::<usize>();
    assert_eq!(value(&fleet, "b", letters), due.to_string());
    assert_eq!(fleet.repaired_rows(), 0);
}

#[test]
fn columns_that_cannot_be_merged_so_are_refused_with_the_reason() {
    let refused = |rule: &str, column: &str, words: &str| {
        let schema = format!("CREATE TABLE t (id int PRIMARY KEY, other int, {column})");
        let rules = format!("[[table]]\nname = \"public.t\"\ncolumns = {{ n = {rule:?} }}\n");
        let fleet = Fleet::new(&schema, &["public.t"]).rules(&rules).unsynced().site("a");
        let error = format!("{:#}", fleet.try_start().expect_err("it is refused"));
        assert!(error.contains(words), "{column}: {error}");
    };
    refused("document", "n json", "make it jsonb");
    refused("text", "n varchar(20)", "make it text");
    refused("set", "n float[]", "array of integers, texts");
    refused("max", "n text", "no order that every site computes alike");
    refused("min", "n real", "no order that every site computes alike");
    refused("text", "n text UNIQUE", "stands in t_n_key");
    refused("document", "n jsonb CHECK (n ? 'x')", "what is merged of several writes may break");
}
