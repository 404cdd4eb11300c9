//! Capture: local changes out of the write-ahead log.

pub mod pgoutput;
pub mod walsender;
