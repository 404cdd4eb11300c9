//! Any bytes as a scratch file, a row in it, or a place; see `crate::fuzz`.

use std::sync::Arc;

use landfall_protocol::fold::{Row, RowEvent};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::value::{RowKey, Value};

use super::run::{Merge, Run, RunWriter};
use super::{Phase, Place, Relations, Spill};
use crate::capture::scratch::{ScratchFile, thread_dir};

/// Two runs of the same file, merged; and a place.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(place) = Place::decode(bytes) {
        assert_eq!(Place::decode(&place.encode()), Ok(place), "a place does not read back");
    }
    let dir = thread_dir();
    let file = |name| Arc::new(ScratchFile::create(&dir, name).expect("a scratch file"));
    let (scratch, copy) = (file("read"), file("copy"));
    scratch.write(bytes, 0).expect("the scratch file takes it");
    let mut relations = relations();
    let run = Run::of_file(bytes.len() as u64);
    let Ok(mut merge) = Merge::new(&scratch, &[run, run], &relations) else { return };
    let mut writer = RunWriter::new(&copy, 0);
    let mut rows = 0;
    while let Ok(Some((_, key, net))) = merge.next(&relations) {
        writer.push(&key, &net, &mut relations).expect("the scratch file takes it");
        rows += 1;
        assert!(rows <= bytes.len(), "more rows than bytes");
    }
    let run = writer.finish().expect("the scratch file takes it");
    let mut merge = Merge::new(&copy, &[run], &relations).expect("what was written reads");
    while let Some(_row) = merge.next(&relations).expect("what was written reads") {
        rows -= 1;
    }
    assert_eq!(rows, 0, "what was written reads back");
}

/// What rows may refer to.
fn relations() -> Relations {
    let relation = |name: &str| {
        let column = |name: &str| ColumnDef { name: name.into(), type_name: "bigint".into() };
        Arc::new(TableDef {
            name: TableName::new("public", name),
            set: SetId(1),
            columns: ["id", "n"].map(column).to_vec(),
            key: vec![ColumnId(0)],
            rules: TableRules::default(),
        })
    };
    Relations(["a", "b"].map(relation).to_vec())
}

/// A scratch file and a place.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let row = |id: i64, n: &str| Some(Row::whole([Value::Int(id), Value::Text(n.into())]));
    let mut relations = relations();
    let mut spill = Spill::default();
    for (id, relation) in [(1, 0), (2, 1), (3, 0)] {
        let relation: &Arc<TableDef> = &relations.0[relation];
        let event = |old, new| RowEvent { relation: Arc::clone(relation), old, new };
        spill.push(event(None, row(id, "a")));
        spill.push(event(row(id, "a"), row(id, "b")));
        spill.push(event(row(id + 10, "x"), None));
        spill.push(event(None, row(id + 10, "y")));
    }
    let scratch = ScratchFile::create(&thread_dir(), "seed").expect("a scratch file");
    let mut writer = RunWriter::new(&scratch, 0);
    for rows in spill.rows.values() {
        for (key, net) in rows {
            writer.push(key, net, &mut relations).expect("the scratch file takes it");
        }
    }
    let run = writer.finish().expect("the scratch file takes it");
    let mut file = vec![0; run.end as usize];
    scratch.read(&mut file, 0).expect("what was written reads");
    let place = Place {
        phase: Phase::There,
        table: TableName::new("public", "a"),
        key: RowKey::new(&[Value::Int(7)]),
    };
    vec![file, place.encode()]
}
