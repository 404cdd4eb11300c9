//! What PostgreSQL streams: messages of pgoutput, and transactions made of them.

use landfall_protocol::fold::{CapturedTransaction, MarkerKey, RowEvent};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::value::Value;

use crate::capture::assemble::{Assembled, Assembler, Content, Scratch, SourceTable};
use crate::capture::pgoutput::{Column, Message, OldRow, Tuple, decode};
use crate::capture::thread_dir;
use crate::postgres::lsn::Lsn;

/// The seal of markers in seeds.
pub(super) fn marker_key() -> MarkerKey {
    MarkerKey::new([7; 32])
}

/// One message.
pub(super) fn check_message(bytes: &[u8]) {
    match decode(bytes) {
        Ok(message) => {
            walk(&message);
            let _ = format!("{message:?}");
        }
        Err(error) => assert!(error.offset <= bytes.len(), "{error}"),
    }
}

/// What is handed out lazily is as long as it says.
fn walk(message: &Message<'_>) {
    let tuple = |tuple: Tuple<'_>| {
        assert_eq!(tuple.columns().count(), usize::from(tuple.column_count()));
        tuple.columns().for_each(|column| {
            if let Column::Text(text) | Column::Binary(text) = column {
                let _ = str::from_utf8(text);
            }
        });
    };
    let old = |old: OldRow<'_>| match old {
        OldRow::Key(row) | OldRow::Full(row) => tuple(row),
    };
    match message {
        Message::Relation(relation) => {
            assert_eq!(relation.columns().count(), usize::from(relation.column_count()));
        }
        Message::Insert(insert) => tuple(insert.new),
        Message::Update(update) => {
            update.old.into_iter().for_each(old);
            tuple(update.new);
        }
        Message::Delete(delete) => old(delete.old),
        Message::Truncate(truncate) => {
            assert_eq!(truncate.relations().count(), truncate.relations().len());
        }
        _ => {}
    }
}

/// A stream: messages, each behind two bytes of length.
pub(super) fn check_capture(mut bytes: &[u8]) {
    // Little memory, so that what is small goes through the scratch file.
    let scratch = Scratch { dir: thread_dir(), memory_bytes_max: 2_000 };
    let mut assembler = Assembler::new(marker_key(), tables(), Lsn(1), scratch.clone(), None)
        .expect("nothing is folded in part");
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (message, rest) = rest.split_at(rest.len().min(length));
        bytes = rest;
        // Whoever reads the stream stops at the first mistake.
        let Ok(message) = decode(message) else { return };
        let _ = assembler.needs_catalog(&message);
        match assembler.push(&message) {
            Ok(Some(Assembled::Committed(committed))) => {
                assert!(assembler.is_idle(), "a commit left something open");
                match committed.content {
                    Content::Nothing => {}
                    Content::Whole(transaction, _) => check_rows(&transaction),
                    Content::Large(mut large) => loop {
                        match large.next_fragment(scratch.fragment_bytes()) {
                            Ok(fragment) => {
                                check_rows(&fragment.transaction);
                                if fragment.is_last() {
                                    break;
                                }
                            }
                            Err(_) => return,
                        }
                    },
                }
            }
            Ok(Some(Assembled::Part(part))) => check_rows(&part.transaction),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// The fold goes by the description.
fn check_rows(transaction: &CapturedTransaction) {
    for RowEvent { relation, old, new } in &transaction.rows {
        for row in old.iter().chain(new) {
            let has_place = |place: ColumnId| usize::from(place.0) < relation.columns.len();
            let fits = row.iter().all(|(place, _)| has_place(place));
            let has_key = relation.key.iter().all(|place| row.get(*place).is_some());
            assert!(fits && has_key, "a row does not fit its description");
            // Nothing was put aside here, so a note would be the server's own.
            assert!(
                !row.iter().any(|(_, value)| matches!(value, Value::Long(_))),
                "a made-up note"
            );
        }
    }
}

/// As the recorded stream describes them.
fn tables() -> Vec<SourceTable> {
    let table = |schema: &str, name: &str, columns: &[(&str, &str)], key: u16| SourceTable {
        def: TableDef {
            name: TableName::new(schema, name),
            set: SetId(1),
            columns: columns
                .iter()
                .map(|(name, kind)| ColumnDef { name: (*name).into(), type_name: (*kind).into() })
                .collect(),
            key: (0..key).map(ColumnId).collect(),
            rules: TableRules::default(),
        },
        generated: ["speed".to_owned()].into(),
        partitions: Vec::new(),
    };
    let whole = [
        ("id", "integer"),
        ("name", "character varying(20)"),
        ("price", "numeric(10,2)"),
        ("mood", "mood"),
        ("note", "text"),
    ];
    vec![
        table("public", "whole", &whole, 1),
        table("public", "keyed", &[("a", "integer"), ("b", "text"), ("c", "jsonb")], 2),
        table("public", "parent", &[("id", "integer")], 1),
    ]
}
