//! Links between real members: real stores, real QUIC on loopback, no PostgreSQL.

mod cuts;
mod exchange;
mod fleet;
mod identity;
mod stranger;
