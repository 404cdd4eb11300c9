//! What both daemons share on the way to PostgreSQL: settings, connections, positions.

pub mod access;
pub mod apply;
pub mod aside;
pub mod catalog;
pub mod check;
pub mod claims;
pub mod connect;
pub mod foreign_keys;
pub mod history;
pub mod lsn;
#[cfg(feature = "simulation")]
pub mod model;
pub mod setup;
pub mod sql;
mod text_array;
pub mod tls;
