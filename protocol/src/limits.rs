//! Limits that are lower in a simulator, so that what is long there takes little.

/// Longest text, in bytes, that stands in its row; a longer one is a
/// [`LongValue`](crate::value::LongValue). Every site draws the line here, or equal values would not
/// look equal.
pub const INLINE_BYTES_MAX: usize = 256 << 10;
/// Longest piece of a long value, in bytes.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

/// [`INLINE_BYTES_MAX`], unless a simulator says otherwise.
pub fn inline_bytes_max() -> usize {
    #[cfg(feature = "simulation")]
    if let Some(limits) = simulated::limits() {
        return limits.inline_bytes_max;
    }
    INLINE_BYTES_MAX
}

/// Most bytes of a long value that travel in one piece: [`PIECE_BYTES_MAX`], unless a simulator says
/// otherwise.
pub fn piece_bytes_max() -> usize {
    #[cfg(feature = "simulation")]
    if let Some(limits) = simulated::limits() {
        return limits.piece_bytes_max;
    }
    PIECE_BYTES_MAX
}

/// What a simulator says on its thread.
#[cfg(feature = "simulation")]
pub mod simulated {
    use std::cell::Cell;

    /// The limits of a run.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        /// See [`inline_bytes_max`](super::inline_bytes_max).
        pub inline_bytes_max: usize,
        /// See [`piece_bytes_max`](super::piece_bytes_max).
        pub piece_bytes_max: usize,
    }

    thread_local! {
        static LIMITS: Cell<Option<Limits>> = const { Cell::new(None) };
    }

    /// Sets the limits from here on; `None` restores the real ones.
    pub fn set(limits: Option<Limits>) {
        LIMITS.set(limits);
    }

    pub(super) fn limits() -> Option<Limits> {
        LIMITS.get()
    }
}
