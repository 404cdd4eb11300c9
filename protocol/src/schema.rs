//! What the fleet knows of a table: its name, its columns and its key.
//!
//! An origin numbers its tables and columns. A number never changes its meaning: columns are only
//! appended, and a changed description is sent again in the stream before the first change that
//! needs it. Other sites match tables and columns by name, so column order may differ between
//! sites.

pub mod rules;

use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::value::ValueKind;

use rules::{Rules, TableRules};

/// Longest identifier on the wire; PostgreSQL's own limit is 63 bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Columns a table may have; PostgreSQL's own limit is 1600, dropped ones included.
pub const COLUMNS_MAX: usize = 4096;

/// A table's number in one origin's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// A column's number in its table's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnId(pub u16);

/// A replication set's number in the fleet file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u16);

/// A table's qualified name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema, as in `pg_namespace`.
    pub schema: String,
    /// The table, as in `pg_class`.
    pub name: String,
}

impl TableName {
    /// A name of both parts, unquoted.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl fmt::Debug for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDef {
    /// As in `pg_attribute`.
    pub name: String,
    /// As printed by `format_type`, for example `numeric(10,2)`.
    pub type_name: String,
}

impl ColumnDef {
    /// Which typed form values may take.
    pub fn kind(&self) -> ValueKind {
        ValueKind::of_type(&self.type_name)
    }
}

/// A table as its origin describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDef {
    /// Qualified name, by which other sites find their own table.
    pub name: TableName,
    /// The replication set it belongs to.
    pub set: SetId,
    /// Columns in the order of their numbers; dropped ones stay.
    pub columns: Vec<ColumnDef>,
    /// The primary key's columns in key order.
    pub key: Vec<ColumnId>,
    /// How concurrent writes merge.
    pub rules: TableRules,
}

impl TableDef {
    /// The number of the column of this name.
    pub fn column(&self, name: &str) -> Option<ColumnId> {
        let index = self.columns.iter().position(|column| column.name == name)?;
        u16::try_from(index).ok().map(ColumnId)
    }

    /// The description of a column.
    pub fn column_def(&self, id: ColumnId) -> Option<&ColumnDef> {
        self.columns.get(usize::from(id.0))
    }

    /// Whether the column is part of the key.
    pub fn is_key(&self, id: ColumnId) -> bool {
        self.key.contains(&id)
    }

    /// The columns that are not part of the key, in number order.
    pub fn cell_columns(&self) -> impl Iterator<Item = ColumnId> + '_ {
        (0..self.columns.len() as u16).map(ColumnId).filter(|id| !self.is_key(*id))
    }

    /// The rules by the names of their columns, as others know them.
    pub fn named_rules(&self) -> Rules<String> {
        self.rules.renamed(|column| Some(self.column_def(*column)?.name.clone()))
    }

    /// Writes the canonical form.
    pub fn encode(&self, out: &mut Writer) {
        out.text(&self.name.schema);
        out.text(&self.name.name);
        out.varint(u64::from(self.set.0));
        out.varint(self.columns.len() as u64);
        for column in &self.columns {
            out.text(&column.name);
            out.text(&column.type_name);
        }
        out.varint(self.key.len() as u64);
        for id in &self.key {
            out.varint(u64::from(id.0));
        }
        self.rules.encode(out);
    }

    /// Reads the canonical form.
    ///
    /// # Errors
    /// Fails when cut short, over a limit, or when the key names a column that is not there.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = TableName::new(from.text(NAME_BYTES_MAX)?, from.text(NAME_BYTES_MAX)?);
        let set = SetId(from.u16()?);
        let columns = (0..from.count(COLUMNS_MAX)?)
            .map(|_| {
                Ok(ColumnDef {
                    name: from.text(NAME_BYTES_MAX)?.to_owned(),
                    type_name: from.text(NAME_BYTES_MAX)?.to_owned(),
                })
            })
            .collect::<Result<Vec<_>, DecodeError>>()?;
        let key = (0..from.count(COLUMNS_MAX)?)
            .map(|_| {
                let id = from.u16()?;
                if usize::from(id) < columns.len() {
                    Ok(ColumnId(id))
                } else {
                    Err(DecodeError::BadNumber)
                }
            })
            .collect::<Result<Vec<_>, DecodeError>>()?;
        if key.is_empty() {
            return Err(DecodeError::NotCanonical("table without a key"));
        }
        let rules = TableRules::decode(from, columns.len())?;
        Ok(Self { name, set, columns, key, rules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_reads_back() {
        let table = TableDef {
            name: TableName::new("public", "Übersicht \"x\""),
            set: SetId(2),
            columns: ["id", "name"]
                .map(|name| ColumnDef { name: name.into(), type_name: "text".into() })
                .to_vec(),
            key: vec![ColumnId(0)],
            rules: TableRules::default(),
        };
        let mut out = Writer::new();
        table.encode(&mut out);
        let bytes = out.into_bytes();
        assert_eq!(TableDef::decode(&mut Reader::new(&bytes)), Ok(table));
        for cut in 0..bytes.len() {
            assert!(TableDef::decode(&mut Reader::new(&bytes[..cut])).is_err());
        }
    }
}
