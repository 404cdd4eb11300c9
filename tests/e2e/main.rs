//! End-to-end tests: real PostgreSQL, real processes, one file per promise.

mod harness;
mod links;
mod race;
mod setup;
