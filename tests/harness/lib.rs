//! The harness: throw-away PostgreSQL clusters, supervised daemons, waiting for a state, and an
//! independent comparison of what the sites show.
//!
//! Everything here blocks; it is meant for ordinary `#[test]` functions and for `cargo xtask`, not
//! for async code. Every directory, port and process is unique and goes away with the value that
//! owns it, and with the test process however that one ends (see [`scratch`]).
//!
//! ```no_run
//! use landfall_tests::{cluster::Cluster, compare};
//! let ship = Cluster::start("ship", &[]);
//! let shore = Cluster::start("shore", &[("max_wal_size", "64MB")]);
//! ship.create_db("ward");
//! shore.create_db("ward");
//! for site in [&ship, &shore] {
//!     site.sql("ward", "CREATE TABLE bed (id int PRIMARY KEY, patient text)");
//! }
//! compare::assert_equal(&[(&ship, "ward"), (&shore, "ward")], &["public.bed"]);
//! ```
//!
//! `LANDFALL_PG_BIN` names the PostgreSQL binaries to use, `LANDFALL_BIN_DIR` the folder of our own
//! binaries, and `LANDFALL_KEEP=1` leaves directories and logs behind for a look.

pub mod account;
pub mod cluster;
pub mod compare;
pub mod dice;
pub mod disk;
pub mod fleet;
pub mod ports;
pub mod postgres_bin;
pub mod process;
pub mod processes;
pub mod relay;
pub mod scratch;
pub mod session;
#[cfg(feature = "simulation")]
#[path = "../sim/sim.rs"]
pub mod sim;
pub mod wait;
