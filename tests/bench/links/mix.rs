//! What sites do: a hospital, a shop, pgbench, devices that report, and blobs that do not compress.
//!
//! The first three stand for the mixes that the format was designed with. Of 10,000 changes, in
//! pgoutput with whole old rows and zstd 3, they take about as many bytes as those did: 52, 25 and 19
//! per change.

use landfall_tests::cluster::Cluster;
use landfall_tests::fleet::DB;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mix {
    Hospital,
    Store,
    Bank,
    Zipf,
    Blob,
}

/// Bytes of one blob.
const BLOB_BYTES: u64 = 8192;

const BLOB: &str = "
CREATE TABLE blob (id bigint PRIMARY KEY, data bytea NOT NULL);
CREATE PROCEDURE work(transactions bigint, round bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR t IN 1 .. transactions LOOP
        INSERT INTO blob SELECT round * 100000000 + t,
            string_agg(decode(md5(round || '/' || t || '/' || g), 'hex'), '')
            FROM generate_series(1, 512) g;
        COMMIT;
    END LOOP;
END $$;";

impl Mix {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hospital => "hospital",
            Self::Store => "store",
            Self::Bank => "pgbench",
            Self::Zipf => "devices",
            Self::Blob => "blobs",
        }
    }

    pub(super) fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Hospital => &[
                "public.bed_monitor",
                "public.encounter",
                "public.observation",
                "public.medication_order",
                "public.sentinel",
            ],
            Self::Store => &[
                "public.sale",
                "public.sale_line",
                "public.stock",
                "public.till",
                "public.customer",
                "public.sentinel",
            ],
            Self::Bank => &[
                "public.branches",
                "public.tellers",
                "public.accounts",
                "public.history",
                "public.sentinel",
            ],
            Self::Zipf => &["public.device", "public.sentinel"],
            Self::Blob => &["public.blob", "public.sentinel"],
        }
    }

    /// Row changes of one transaction, on average.
    pub(super) fn changes_each(self) -> f64 {
        match self {
            Self::Hospital => 3.43,
            Self::Store => 9.0,
            Self::Bank => 4.0,
            Self::Zipf => 2.0,
            Self::Blob => 1.0,
        }
    }

    /// Bytes of one change in a long backlog, sealed, about.
    pub(super) fn change_bytes(self) -> f64 {
        match self {
            Self::Hospital => 20.0,
            Self::Store => 7.0,
            Self::Bank => 5.0,
            Self::Zipf => 9.0,
            Self::Blob => BLOB_BYTES as f64,
        }
    }

    /// Tables with their first rows, the procedure `work`, and the row that ends a backlog. Old rows
    /// travel whole for everybody: Landfall needs it, and its rivals are given the same log to decode.
    pub(super) fn schema(self) -> String {
        let own = match self {
            Self::Hospital => include_str!("hospital.sql"),
            Self::Store => include_str!("store.sql"),
            Self::Bank => include_str!("bank.sql"),
            Self::Zipf => include_str!("zipf.sql"),
            Self::Blob => BLOB,
        };
        let whole = self.tables().iter().map(|table| {
            let table = table.trim_start_matches("public.");
            format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")
        });
        let whole: String = whole.collect();
        format!("{own} CREATE TABLE sentinel (id bigint PRIMARY KEY); {whole} ANALYZE;")
    }

    /// Does about so many changes, without waiting for the disk: it is not what is measured.
    pub(super) fn work(self, on: &Cluster, changes: f64, round: u64) -> anyhow::Result<()> {
        let session = on.session(DB)?;
        session.batch("SET synchronous_commit = off")?;
        let transactions = (changes / self.changes_each()).max(1.0);
        session.batch(&format!("CALL work({transactions:.0}, {round})"))
    }
}

/// The row that ends the backlog of a round.
pub(super) fn sentinel(on: &Cluster, round: u64) -> anyhow::Result<()> {
    on.try_sql(DB, &format!("INSERT INTO sentinel VALUES ({round})"))
}
