use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::fold::{Relation, Row, RowEvent};
use landfall_protocol::schema::rules::TableRules;
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableName};
use landfall_protocol::value::Value;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Place, Spill};

/// What a row holds, by table and key.
type Shown = BTreeMap<(usize, i64), i64>;

fn relations() -> [Arc<Relation>; 2] {
    ["b", "a"].map(|name| {
        let column = |name: &str| ColumnDef { name: name.into(), type_name: "bigint".into() };
        Arc::new(Relation {
            name: TableName::new("public", name),
            set: SetId(1),
            columns: vec![column("id"), column("v")],
            key: vec![ColumnId(0)],
            rules: TableRules::default(),
        })
    })
}

fn row(key: i64, value: i64) -> Row {
    Row::whole([Value::Int(key), Value::Int(value)])
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Set { table: usize, key: i64, value: i64 },
    Remove { table: usize, key: i64 },
    Move { table: usize, from: i64, to: i64 },
    WriteOut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (table, key) = (0..2usize, 0..12i64);
    let step = prop_oneof![
        4 => (table.clone(), key.clone(), 0..100i64)
            .prop_map(|(table, key, value)| Step::Set { table, key, value }),
        2 => (table.clone(), key.clone()).prop_map(|(table, key)| Step::Remove { table, key }),
        1 => (table, key.clone(), key).prop_map(|(table, from, to)| Step::Move { table, from, to }),
        2 => Just(Step::WriteOut),
    ];
    vec(step, 1..200)
}

/// The event a step makes on what is there, if it is possible.
fn event(step: Step, shown: &mut Shown, relations: &[Arc<Relation>; 2]) -> Option<RowEvent> {
    let made = |table: usize, old, new| {
        Some(RowEvent { relation: Arc::clone(&relations[table]), old, new })
    };
    match step {
        Step::Set { table, key, value } => {
            let old = shown.insert((table, key), value);
            made(table, old.map(|old| row(key, old)), Some(row(key, value)))
        }
        Step::Remove { table, key } => {
            let old = shown.remove(&(table, key))?;
            made(table, Some(row(key, old)), None)
        }
        Step::Move { table, from, to } if !shown.contains_key(&(table, to)) => {
            let value = shown.remove(&(table, from))?;
            shown.insert((table, to), value);
            made(table, Some(row(from, value)), Some(row(to, value)))
        }
        Step::Move { .. } | Step::WriteOut => None,
    }
}

fn number(row: Option<&Row>, place: u16) -> i64 {
    match row.and_then(|row| row.get(ColumnId(place))) {
        Some(Value::Int(number)) => *number,
        other => panic!("{other:?} is no number"),
    }
}

fn key(event: &RowEvent) -> i64 {
    number(event.new.as_ref().or(event.old.as_ref()), 0)
}

proptest! {
    /// However a transaction is cut into runs and shares, and wherever reading goes on after a
    /// crash, its rows have the effect of the events in order, each row stands in one share, and
    /// rows that go come first.
    #[test]
    fn rows_come_back_once_with_their_net_effect(
        before in vec((0..2usize, 0..12i64, 0..100i64), 0..12),
        steps in steps(),
        share_bytes in 1..2000usize,
        crash in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let relations = relations();
        let mut shown: Shown = before.into_iter().map(|(t, key, value)| ((t, key), value)).collect();
        let mut rebuilt = shown.clone();
        let (mut spill, mut again) = (Spill::default(), Spill::default());
        for step in steps {
            if let Some(event) = event(step, &mut shown, &relations) {
                spill.push(event.clone());
                again.push(event);
            } else if matches!(step, Step::WriteOut) {
                spill.write_out(dir.path()).unwrap();
            }
        }
        let mut spilled = spill.finish(dir.path(), None).unwrap();
        let mut met = std::collections::BTreeSet::new();
        let mut stays = false;
        for round in 0.. {
            let share = spilled.next_share(share_bytes).unwrap();
            let mut here = std::collections::BTreeSet::new();
            for (index, event) in share.rows.iter().enumerate() {
                let table = relations.iter().position(|r| r.name == event.relation.name).unwrap();
                let place = (table, key(event));
                here.insert(place);
                let old = event.old.as_ref().map(|old| number(Some(old), 1));
                prop_assert_eq!(old, rebuilt.get(&place).copied());
                match &event.new {
                    Some(new) => rebuilt.insert(place, number(Some(new), 1)),
                    None => rebuilt.remove(&place),
                };
                let next = share.rows.get(index + 1);
                let again = next.is_some_and(|next| {
                    next.relation.name == event.relation.name && key(next) == key(event)
                });
                prop_assert!(event.new.is_some() || again || !stays, "gone after what stays");
                stays |= event.new.is_some();
            }
            prop_assert!(met.is_disjoint(&here), "a row in two shares");
            met.extend(here);
            let Some(after) = share.after else { break };
            if crash && round == 0 {
                let after = Place::decode(&after.encode()).unwrap();
                spilled = std::mem::take(&mut again).finish(dir.path(), Some(after)).unwrap();
            }
        }
        prop_assert_eq!(rebuilt, shown);
    }
}

#[test]
fn many_runs_are_merged_in_levels() {
    let dir = tempfile::tempdir().unwrap();
    let relations = relations();
    let mut spill = Spill::default();
    for round in 0..100 {
        for key in 0..10 {
            let old = (round > 0).then(|| row(key, round - 1));
            let relation = Arc::clone(&relations[0]);
            spill.push(RowEvent { relation, old, new: Some(row(key, round)) });
        }
        spill.write_out(dir.path()).unwrap();
    }
    let share = spill.finish(dir.path(), None).unwrap().next_share(usize::MAX).unwrap();
    assert_eq!(share.rows.len(), 10);
    for (key, event) in share.rows.iter().enumerate() {
        assert_eq!((&event.old, event.new.as_ref()), (&None, Some(&row(key as i64, 99))));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
