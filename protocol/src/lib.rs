//! The pure core of Landfall.
//!
//! Everything that decides lives here, as values that can be called: ids and clocks, typed values,
//! the row lattice and its join, stamping, the apply plan, sealed units, the wire format and the
//! peer session. Nothing in this crate reads a clock, draws a random number, opens a file or a
//! socket, spawns, awaits, or iterates a hash map; `clippy.toml` beside this file holds that line.
//! The same inputs give the same outputs, so a failing seed can always be replayed.
//!
//! How a shell drives it:
//! 1. captured transactions go through [`fold::Fold`], which stamps them, joins foreign ones into
//!    the row clocks and says what must become durable together;
//! 2. own transactions are sealed into [`unit::Unit`]s;
//! 3. a [`sync::Session`] per peer decides which units travel;
//! 4. [`queue::readiness`] says which foreign transaction may be applied next, and
//!    [`plan::Group`] what that means for the visible rows.
//!
//! When a decision needs stored facts, the shell gathers them first, calls, and then writes what
//! comes back in one transaction. Nothing reads in the middle of deciding.

pub mod bundle;
pub mod change;
pub mod clock;
pub mod codec;
pub mod columnar;
pub mod compact;
pub mod compress;
pub mod decimal;
pub mod dictionary;
pub mod fleet;
pub mod fold;

#[cfg(test)]
mod golden;
pub mod id;
pub mod lattice;
pub mod limits;
pub mod merged;
pub mod plan;
#[cfg(feature = "simulation")]
pub mod planted;
pub mod queue;
pub mod references;
pub mod schema;
pub mod sync;

pub mod unique;
pub mod unit;
pub mod value;
pub mod version;
pub mod wire;
