//! Links between real members: real stores, real QUIC on loopback, no PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be set up fails its test")]

mod cuts;
mod exchange;
mod fleet;
mod identity;
mod policy;
mod resume;
mod stranger;
