//! What both daemons share on the way to PostgreSQL: settings, connections, positions.

pub mod access;
pub mod connect;
pub mod lsn;
pub mod tls;
