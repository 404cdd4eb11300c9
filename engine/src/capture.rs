//! Capture: local changes out of the write-ahead log.
//!
//! [`walsender`] streams, [`pgoutput`] decodes, [`assemble`] puts transactions together, and
//! [`stream`] brings them into the store and tells the server how far we are. Only what is durable
//! in the store is ever confirmed. Before each start [`slot`], [`bond`] and [`publication`] make sure
//! that nothing was lost meanwhile, and while it runs a guard looks again.

pub mod assemble;
pub mod bond;
mod guard;
pub mod horizon;
pub mod large;
mod long;
#[cfg(feature = "simulation")]
pub mod model;
mod nap;
pub mod pgoutput;
pub mod publication;
mod scratch;
pub mod slot;
mod spill;
pub mod stream;
mod visible;
pub mod walsender;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {scratch::thread_dir, spill::fuzz as spill_fuzz};
