//! Port numbers on 127.0.0.1 for servers and daemons that are told theirs in a file.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;

/// Ports are drawn from here: below the range from which systems take the source ports of outgoing
/// connections, or a stranger could take ours while its owner is down for a moment.
const PORTS: Range<u16> = 15_000..32_000;

/// Draws before we give up.
const DRAWS_MAX: usize = 1_000;

/// A port that is free for TCP and for UDP now, and that this process gives to nobody else: whoever asks
/// may bind it later, and leave it for a moment. Another process may still take it.
///
/// # Errors
/// Fails when a thousand ports in a row are taken.
pub fn draw() -> anyhow::Result<u16> {
    for port in (0..DRAWS_MAX).map(|_| next()) {
        let address = ("127.0.0.1", port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(port);
        }
    }
    bail!("{DRAWS_MAX} ports in {PORTS:?} were all taken");
}

/// All ports of the range in turn, from one that differs by process.
fn next() -> u16 {
    static FIRST: OnceLock<u32> = OnceLock::new();
    static TURN: AtomicU32 = AtomicU32::new(0);
    let first = FIRST.get_or_init(|| RandomState::new().build_hasher().finish() as u32);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let span = u32::from(PORTS.end - PORTS.start);
    PORTS.start + (first.wrapping_add(turn) % span) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_the_port_of_another() {
        let drawn: std::collections::BTreeSet<u16> = (0..100).map(|_| draw().unwrap()).collect();
        assert_eq!(drawn.len(), 100);
        assert!(drawn.iter().all(|port| PORTS.contains(port)));
    }
}
