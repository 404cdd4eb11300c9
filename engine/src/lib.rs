//! The I/O both Landfall daemons share: SQLite store, QUIC links, PostgreSQL apply, supervision.

pub mod identity;
pub mod postgres;
pub mod tasks;
pub mod time;
pub mod transport;
