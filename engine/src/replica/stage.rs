//! Long values on their way from the log into rows: piece by piece, so that only PostgreSQL ever has
//! all of one in memory.

use std::borrow::Cow;
use std::collections::BTreeSet;

use landfall_protocol::dictionary::RowId;
use landfall_protocol::schema::ColumnId;
use landfall_protocol::value::{LongValue, Value};

use crate::postgres::apply::{ApplyError, RowWrite};
use crate::replica::{Replica, ReplicaError};

impl Replica {
    /// Writes rows, long values included; says whether all of them were met.
    pub(super) async fn write_rows(
        &mut self,
        writes: &[(&RowId, RowWrite<'_>)],
    ) -> Result<bool, ReplicaError> {
        let long: BTreeSet<LongValue> =
            writes.iter().flat_map(|(_, write)| longs(write.cells())).collect();
        for value in &long {
            self.stage(value).await?;
        }
        let met = self.apply.write(writes).await?;
        for value in &long {
            self.apply.unstage(value).await?;
        }
        Ok(met)
    }

    /// Writes one row by itself; when PostgreSQL refuses it, everything before stays and the reason
    /// is the inner error.
    pub(super) async fn write_alone(
        &mut self,
        write: &(&RowId, RowWrite<'_>),
    ) -> Result<Result<bool, String>, ReplicaError> {
        self.apply.set_savepoint().await?;
        match self.write_rows(std::slice::from_ref(write)).await {
            Ok(met) => {
                self.apply.keep().await?;
                Ok(Ok(met))
            }
            Err(ReplicaError::Apply(ApplyError::Data { message, .. })) => {
                self.apply.undo().await?;
                Ok(Err(message))
            }
            Err(error) => Err(error),
        }
    }

    /// Puts a row back that was there before, with new cells; otherwise as [`Replica::write_alone`].
    pub(super) async fn place_alone(
        &mut self,
        row: &RowId,
        base: &str,
        cells: &[(ColumnId, Cow<'_, Value>)],
    ) -> Result<Result<bool, String>, ReplicaError> {
        self.apply.set_savepoint().await?;
        let long: BTreeSet<LongValue> = longs(cells).collect();
        for value in &long {
            self.stage(value).await?;
        }
        match self.apply.place(row, base, cells).await {
            Ok(met) => {
                for value in &long {
                    self.apply.unstage(value).await?;
                }
                self.apply.keep().await?;
                Ok(Ok(met))
            }
            Err(ApplyError::Data { message, .. }) => {
                self.apply.undo().await?;
                Ok(Err(message))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn stage(&mut self, value: &LongValue) -> Result<(), ReplicaError> {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = 0;
        for index in 0.. {
            let Some(piece) = self.store.piece(value.hash, index).await? else { break };
            hasher.update(piece.as_bytes());
            bytes += piece.len() as u64;
            self.apply.stage(value, index, &piece).await?;
            if bytes >= value.bytes {
                break;
            }
        }
        if bytes == value.bytes && *hasher.finalize().as_bytes() == value.hash {
            return Ok(());
        }
        let message = format!("the log does not hold the {} bytes of a long value", value.bytes);
        Err(ApplyError::Data { sqlstate: "XX001".to_owned(), message }.into())
    }
}

fn longs(cells: &[(ColumnId, Cow<'_, Value>)]) -> impl Iterator<Item = LongValue> {
    cells.iter().filter_map(|(_, value)| match value.as_ref() {
        Value::Long(long) => Some(**long),
        _ => None,
    })
}
