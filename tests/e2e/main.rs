//! End-to-end tests: real PostgreSQL, real processes, one file per promise.

mod atomic;
mod harness;
mod kill;
mod large;
mod links;
mod race;
mod regress_apply;
mod setup;
mod slot;
mod tutorial;
