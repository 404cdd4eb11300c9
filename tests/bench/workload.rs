//! Tables, settings and load, the same for every contender.

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::{Builder, DB, Fleet};

use crate::Scale;

/// Rows in `item` before anything is measured.
const ITEMS: u64 = 100_000;
/// Updates of the catch-up benchmark.
const UPDATES: u64 = 500_000;
/// Rows one transaction of them changes.
const UPDATE_ROWS: u64 = 10;
/// Transactions of the insert benchmark, of one row each.
const INSERTS: u64 = 300_000;

/// Replicated tables; what everybody has.
pub(crate) const TABLES: &[&str] = &["public.item", "public.event", "public.sentinel"];

/// Settings of every cluster, beside `fsync = on` and `wal_level = logical`: room, so that
/// checkpoints do not fall into one contender's time and not into the other's, and a launcher of
/// native apply workers that does not wait for up to its usual five seconds.
pub(crate) const CONF: &[(&str, &str)] = &[
    ("shared_buffers", "256MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    ("wal_retrieve_retry_interval", "50ms"),
];

/// What a site sends in the catch-up and capture benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Updates in transactions of ten rows, scattered over all items.
    Updates,
    /// Inserts, one per transaction.
    Inserts,
}

impl Load {
    /// Row changes one round makes.
    pub(crate) fn changes(self, scale: Scale) -> u64 {
        match self {
            Self::Updates => scale.count(UPDATES),
            Self::Inserts => scale.count(INSERTS),
        }
    }

    /// Makes the backlog of a round, then the sentinel row that ends it. The writer does not wait
    /// for the disk: it is not what is measured.
    pub(crate) fn make(self, on: &Cluster, scale: Scale, round: u64) -> anyhow::Result<()> {
        let session = on.session(DB)?;
        session.batch("SET synchronous_commit = off")?;
        let changes = self.changes(scale);
        session.batch(&match self {
            Self::Updates => format!("CALL update_items({}, {round})", changes / UPDATE_ROWS),
            Self::Inserts => format!("CALL insert_events({changes}, {round})"),
        })?;
        session.batch("SET synchronous_commit = on")?;
        session.batch(&format!("INSERT INTO sentinel VALUES ({round})"))
    }
}

/// The schema with its first rows. Old rows travel whole for everybody: Landfall needs
/// `REPLICA IDENTITY FULL`, and the reference is given the same log to decode.
pub(crate) fn schema(scale: Scale) -> String {
    let items = scale.count(ITEMS);
    format!(
        "CREATE TABLE item (id bigint PRIMARY KEY, name text NOT NULL, place text, \
             quantity integer NOT NULL, price numeric(10, 2), note text, \
             seen timestamptz, sold boolean NOT NULL);
         CREATE TABLE event (id bigint PRIMARY KEY, item bigint NOT NULL, kind text NOT NULL, \
             amount integer, at timestamptz, note text);
         CREATE TABLE sentinel (id bigint PRIMARY KEY);
         ALTER TABLE item REPLICA IDENTITY FULL;
         ALTER TABLE event REPLICA IDENTITY FULL;
         ALTER TABLE sentinel REPLICA IDENTITY FULL;
         INSERT INTO item SELECT g, 'item number ' || g, 'bay ' || g % 40, g % 1000, \
             (g % 9000) / 100.0, 'a note of some length about item ' || g, \
             '2026-01-01 08:00Z', false FROM generate_series(1, {items}) g;
         ANALYZE;
         CREATE PROCEDURE update_items(transactions bigint, round bigint) LANGUAGE plpgsql AS $$
         BEGIN
             FOR t IN 0 .. transactions - 1 LOOP
                 UPDATE item SET quantity = quantity + 1, seen = clock_timestamp(),
                     place = 'bay ' || (t + round) % 40
                 WHERE id = ANY (ARRAY(SELECT 1 + (t::bigint * {UPDATE_ROWS} + g) * 7919 % {items}
                     FROM generate_series(1, {UPDATE_ROWS}) g));
                 COMMIT;
             END LOOP;
         END $$;
         CREATE PROCEDURE insert_events(transactions bigint, round bigint) LANGUAGE plpgsql AS $$
         BEGIN
             FOR t IN 1 .. transactions LOOP
                 INSERT INTO event VALUES (round * 100000000 + t, t % {items}, 'count', t % 77,
                     clock_timestamp(), 'event ' || t);
                 COMMIT;
             END LOOP;
         END $$;"
    )
}

/// A fleet of two sites, `a` dialling `b`, on the settings of every contender.
pub(crate) fn fleet(scale: Scale) -> Builder {
    let fleet = Fleet::new(&schema(scale), TABLES).site("a").site("b").link("a", "b");
    CONF.iter().fold(fleet, |fleet, (key, value)| fleet.conf(key, value))
}
