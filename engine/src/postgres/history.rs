//! The history of conflicts, `landfall.conflict`. It is in our own schema, so nothing of it
//! replicates.

mod line;

pub use line::{ConflictLine, Side, Wrote};
pub(super) use line::{INSERT, rows_json};
