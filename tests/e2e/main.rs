//! End-to-end tests: real PostgreSQL, real processes, one file per promise.

mod atomic;
mod chain;
mod commands;
mod crashes;
mod cuts;
mod disk;
mod fragments;
mod frozen;
mod harness;
mod kill;
mod large;
mod links;
mod memory;
mod merge;
mod partition;
mod race;
mod refusals;
mod regress_apply;
mod relay;
mod restart;
mod setup;
mod slot;
mod support;
mod tutorial;
mod types;
mod walsender;
