//! The I/O both Landfall daemons share: capture, SQLite store, QUIC links, PostgreSQL apply,
//! supervision.

pub mod admin;
pub mod bundle;
pub mod capture;
pub mod commands;
pub mod config;
pub mod daemon;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod identity;
pub mod links;
mod plant;
pub mod postgres;
mod random;
pub mod replica;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod time;
pub mod transport;
