//! The output plugin: a committed transaction as messages of `pgoutput`, protocol version 1, with
//! text values, logical messages and whole old rows.

use std::collections::{BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use landfall_engine::capture::pgoutput::PgTime;
use landfall_engine::postgres::lsn::Lsn;
use landfall_protocol::schema::TableDef;
use landfall_protocol::value::{Value, ValueKind};

use super::heap::{Table, TableNo};
use super::log::{Change, CommitRecord, RowChange};

/// The first `pg_class` oid a user's table can have.
const FIRST_OID: u32 = 16_384;
/// Microseconds from 1970 to 2000.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Microseconds since 1970 as PostgreSQL tells them.
pub(super) fn pg_time(unix_micros: i64) -> PgTime {
    PgTime(unix_micros.saturating_sub(EPOCH_MICROS))
}

/// The `pg_class` oid of a table.
pub(super) fn oid(table: TableNo) -> u32 {
    FIRST_OID + table.0 as u32
}

/// The messages of a transaction with their positions; none when the publication has nothing of
/// it. Tables not in `described` are described first.
pub(super) fn messages(
    record: &CommitRecord,
    tables: &[Table],
    described: &mut BTreeSet<TableNo>,
) -> VecDeque<(Lsn, Bytes)> {
    let mut out = BytesMut::with_capacity(256 + record.changes.len() * 128);
    let mut messages = VecDeque::new();
    for change in &record.changes {
        match change {
            Change::Row(row) if tables[row.table.0].spec.is_published => {
                if described.insert(row.table) {
                    put_relation(&mut out, row.table, &tables[row.table.0].spec.def);
                    messages.push_back((Lsn::ZERO, out.split().freeze()));
                }
                put_row(&mut out, row);
                messages.push_back((row.lsn, out.split().freeze()));
            }
            Change::Row(_) => {}
            Change::Message { lsn, prefix, content } => {
                out.put_slice(b"M\x01");
                out.put_u64(lsn.0);
                put_text(&mut out, prefix);
                out.put_u32(content.len() as u32);
                out.put_slice(content);
                messages.push_back((*lsn, out.split().freeze()));
            }
        }
    }
    if messages.is_empty() {
        return messages;
    }
    let time = pg_time(record.time).0;
    out.put_u8(b'B');
    out.put_u64(record.lsn.0);
    out.put_i64(time);
    out.put_u32(record.xid as u32);
    messages.push_front((record.lsn, out.split().freeze()));
    out.put_slice(b"C\0");
    out.put_u64(record.lsn.0);
    out.put_u64(record.end.0);
    out.put_i64(time);
    messages.push_back((record.lsn, out.split().freeze()));
    messages
}

fn put_relation(out: &mut BytesMut, table: TableNo, def: &TableDef) {
    out.put_u8(b'R');
    out.put_u32(oid(table));
    put_text(out, &def.name.schema);
    put_text(out, &def.name.name);
    out.put_u8(b'f');
    out.put_u16(def.columns.len() as u16);
    for column in &def.columns {
        out.put_u8(1);
        put_text(out, &column.name);
        out.put_u32(type_oid(column.kind()));
        out.put_i32(-1);
    }
}

fn put_row(out: &mut BytesMut, row: &RowChange) {
    let kind = match (&row.old, &row.new) {
        (None, _) => b'I',
        (Some(_), Some(_)) => b'U',
        (Some(_), None) => b'D',
    };
    out.put_u8(kind);
    out.put_u32(oid(row.table));
    for (kind, values) in [(b'O', &row.old), (b'N', &row.new)] {
        if let Some(values) = values {
            out.put_u8(kind);
            put_tuple(out, values);
        }
    }
}

fn put_tuple(out: &mut BytesMut, values: &[Value]) {
    out.put_u16(values.len() as u16);
    for value in values {
        match value.text() {
            None => out.put_u8(b'n'),
            Some(text) => {
                out.put_u8(b't');
                out.put_u32(text.len() as u32);
                out.put_slice(text.as_bytes());
            }
        }
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// The oid of a type with a form of its own, or of `text`.
pub(super) fn type_oid(kind: ValueKind) -> u32 {
    match kind {
        ValueKind::Bool => 16,
        ValueKind::Bytes => 17,
        ValueKind::Int => 20,
        ValueKind::Text => 25,
        ValueKind::Timestamp => 1114,
        ValueKind::TimestampTz => 1184,
        ValueKind::Uuid => 2950,
    }
}
