//! QUIC links between members: TLS 1.3 with raw public keys (RFC 7250) on both sides, pinned, so
//! that nothing expires at sea and the handshake stays small.
//!
//! An [`Endpoint`] is bound once per process. It [accepts](Endpoint::accept) members whose keys are
//! in its [`PinnedKeys`] and [dials](Endpoint::dial) a member by address and expected key. Either
//! way the result is a [`Connection`] with the authenticated key of the peer, over which
//! [`FrameWriter`] and [`FrameReader`] carry length-prefixed frames.
//!
//! The other members refuse *us* only after our side of the handshake is complete, so a dial can
//! succeed and the first operation on the connection then fail with [`TransportError::WrongKey`];
//! waiting for their word would cost a round trip on every dial.
//!
//! quinn and rustls stay behind this module.

mod carrier;
mod connection;
mod endpoint;
mod error;
mod frame;
mod settings;
#[cfg(feature = "simulation")]
mod simulated;
mod steady;
mod tls;

pub use connection::Connection;
pub use endpoint::{Arriving, Endpoint};
pub use error::{CloseCode, FrameError, KeyFault, StreamCode, TransportError};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use frame::check_stream;
pub use frame::{FRAME_BYTES_LIMIT, FrameReader, FrameWriter, Step};
pub use settings::TransportSettings;
#[cfg(feature = "simulation")]
pub use simulated::{Network, Weather};
pub use tls::{ALPN, PinnedKeys};

#[cfg(test)]
mod tests;
