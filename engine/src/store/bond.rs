//! What ties a store to its database: the token that both keep, and the timeline.
//!
//! A token is replaced at each start and while there is work. The store notes what it is about to
//! write, the database gets it, the store confirms. So after a crash at any moment the database
//! carries one of the two that the store knows. If it carries another, one of the two was set back.

use std::fmt;
use std::str::FromStr;

use landfall_protocol::codec::{DecodeError, Reader, Writer as Bytes};

use super::error::StoreError;
use super::sql::Database;
use super::state::{put_meta, read_meta};
use super::writer::Writer;

/// Its row in `meta`.
const BOND: &str = "bond";
/// Its row in `meta`.
const SUSPENDED: &str = "suspended";
/// Longest reason.
const REASON_BYTES_MAX: usize = 4096;

/// What database and store must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Counts tokens: says which of two is older.
    pub generation: u64,
    /// Drawn anew for each, so that two of one generation are told apart.
    pub random: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.generation, self.random)
    }
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (generation, random) = text.split_once('.').ok_or(())?;
        Ok(Self {
            generation: generation.parse().map_err(|_| ())?,
            random: u64::from_str_radix(random, 16).map_err(|_| ())?,
        })
    }
}

/// What the store knows of its database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    /// The timeline on which the position in the WAL lies; `None` before the first stream.
    pub timeline: Option<u32>,
    /// The token last seen in the database.
    pub confirmed: Option<Token>,
    /// The one that may have reached it since.
    pub intended: Option<Token>,
}

impl Bond {
    /// The newest generation either side may have.
    pub fn newest(&self) -> u64 {
        let generations = self.confirmed.iter().chain(&self.intended).map(|token| token.generation);
        generations.max().unwrap_or(0)
    }

    fn encode(self) -> Vec<u8> {
        let mut out = Bytes::new();
        out.varint(u64::from(self.timeline.unwrap_or(0)));
        for token in [self.confirmed, self.intended] {
            let Token { generation, random } = token.unwrap_or(Token { generation: 0, random: 0 });
            out.varint(generation);
            out.varint(random);
        }
        out.into_bytes()
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let timeline = Some(from.u32()?).filter(|timeline| *timeline > 0);
        let mut token = || -> Result<Option<Token>, DecodeError> {
            let token = Token { generation: from.varint()?, random: from.varint()? };
            Ok(Some(token).filter(|token| token.generation > 0))
        };
        Ok(Self { timeline, confirmed: token()?, intended: token()? })
    }

    pub(super) fn load(db: &Database<'_>) -> Result<Self, StoreError> {
        Ok(read_meta(db, BOND, Self::decode)?.unwrap_or_default())
    }
}

/// Why the store stands still until the database proves that it is the right one.
pub(super) fn load_suspended(db: &Database<'_>) -> Result<Option<String>, StoreError> {
    let reason = read_meta(db, SUSPENDED, |from| Ok(from.text(REASON_BYTES_MAX)?.to_owned()))?;
    Ok(reason.filter(|reason| !reason.is_empty()))
}

impl Writer<'_> {
    pub(super) fn set_bond(&mut self, bond: Bond) -> Result<(), StoreError> {
        put_meta(&self.db, BOND, bond.encode())?;
        self.state.bond = bond;
        Ok(())
    }

    pub(super) fn suspend(&mut self, reason: Option<String>) -> Result<(), StoreError> {
        if self.state.suspended == reason {
            return Ok(());
        }
        let mut out = Bytes::new();
        out.text(reason.as_deref().unwrap_or_default());
        put_meta(&self.db, SUSPENDED, out.into_bytes())?;
        self.state.suspended = reason;
        Ok(())
    }
}
