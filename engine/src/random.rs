//! The only place that draws randomness for what the running daemon decides, so that a simulator
//! can draw it instead. Secret keys come straight from the operating system (`identity`).

#[cfg(feature = "simulation")]
use crate::simulation;

/// Fills `bytes` with what nobody can guess.
///
/// # Errors
/// Fails when the operating system gives none.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(feature = "simulation")]
    if simulation::fill(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes)
}

/// A number anywhere in its range.
///
/// # Errors
/// As [`fill`].
pub(crate) fn u64() -> Result<u64, getrandom::Error> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A number anywhere in its range.
///
/// # Errors
/// As [`fill`].
pub(crate) fn u32() -> Result<u32, getrandom::Error> {
    let mut bytes = [0; 4];
    fill(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_drawn_differs() {
        assert_ne!(super::u64().unwrap(), super::u64().unwrap());
        assert_ne!([super::u32().unwrap(), super::u32().unwrap()], [0, 0]);
    }
}
