//! Calling a member, and what an end of a call or a connection means.

use landfall_protocol::fleet::{Address, Member};
use landfall_protocol::sync::Refusal;

use super::link::LinkEnd;
use crate::transport::{CloseCode, Connection, Endpoint, TransportError};

/// Calls a member at each of its addresses in turn until one answers.
///
/// # Errors
/// Of several failures the one that tells most: that somebody answered and was not let in, else
/// the last.
pub(super) async fn call(endpoint: Endpoint, member: Member) -> Result<Connection, CallError> {
    let mut worst = None;
    for address in &member.addresses {
        match call_address(&endpoint, &member, address).await {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                let keep = worst.as_ref().is_some_and(CallError::is_refusal);
                worst = if keep { worst } else { Some(error) };
            }
        }
    }
    Err(worst.unwrap_or(CallError::NoAddress))
}

async fn call_address(
    endpoint: &Endpoint,
    member: &Member,
    address: &Address,
) -> Result<Connection, CallError> {
    let unknown = |why: String| CallError::UnknownHost { address: address.clone(), why };
    let found = tokio::net::lookup_host((address.host(), address.port())).await;
    let found = found.map_err(|error| unknown(error.to_string()))?;
    let mut worst = unknown("the name has no address".into());
    for addr in found {
        match endpoint.dial(addr, member.key).await {
            Ok(connection) => return Ok(connection),
            Err(error) if worst.is_refusal() => drop(error),
            Err(error) => worst = CallError::Transport(error),
        }
    }
    Err(worst)
}

/// Why a member could not be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    #[error("no address is known")]
    NoAddress,
    #[error("look up {address}: {why}")]
    UnknownHost { address: Address, why: String },
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl CallError {
    /// Whether somebody must act before another call can succeed.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Transport(error) if is_refusal(error))
    }
}

fn is_refusal(error: &TransportError) -> bool {
    match error {
        TransportError::WrongKey { .. }
        | TransportError::Version { .. }
        | TransportError::Handshake { .. } => true,
        TransportError::Closed { code, .. } => matches!(
            *code,
            CloseCode::REFUSED | CloseCode::FENCED | CloseCode::PROTOCOL | CloseCode::REVOKED
        ),
        _ => false,
    }
}

fn is_not_now(error: &TransportError) -> bool {
    matches!(error, TransportError::Closed { code: CloseCode::NOT_NOW, .. })
}

/// What follows from the end of a call or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Offline, as so often: call again by and by.
    Down,
    /// It does not want to be called at this time.
    NotNow,
    /// Somebody must act first.
    Refused,
    /// We must not speak any more.
    FencesUs,
}

impl From<&CallError> for Verdict {
    fn from(error: &CallError) -> Self {
        match error {
            error if error.is_refusal() => Self::Refused,
            CallError::Transport(error) if is_not_now(error) => Self::NotNow,
            _ => Self::Down,
        }
    }
}

impl From<&LinkEnd> for Verdict {
    fn from(end: &LinkEnd) -> Self {
        match end {
            LinkEnd::Refused(refusal) if refusal.fences_us() => Self::FencesUs,
            LinkEnd::Refused(Refusal::NoHello) => Self::Down,
            LinkEnd::Refused(_) | LinkEnd::Broke(_) | LinkEnd::Revoked => Self::Refused,
            LinkEnd::Transport(error) if is_refusal(error) => Self::Refused,
            LinkEnd::Transport(error) if is_not_now(error) => Self::NotNow,
            LinkEnd::Transport(_) | LinkEnd::Store(_) => Self::Down,
        }
    }
}

impl LinkEnd {
    /// How the connection is closed, so that the peer's operator knows.
    pub(super) fn code(&self) -> CloseCode {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::ProtocolViolation(_) | Refusal::WrongSite { .. } => CloseCode::PROTOCOL,
                Refusal::NoHello => CloseCode::BUSY,
                refusal if refusal.fences_us() => CloseCode::FENCED,
                _ => CloseCode::REFUSED,
            },
            Self::Broke(_) => CloseCode::PROTOCOL,
            Self::Revoked => CloseCode::REVOKED,
            // The connection is over: the code reaches nobody.
            Self::Transport(_) => CloseCode::DONE,
            Self::Store(_) => CloseCode::INTERNAL,
        }
    }
}
