//! What applications do to tables that merge in all ways, and to rows that hang together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::merged::Json;
use landfall_protocol::value::{RowKey, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{CHART, Client, MERGING, NODE};
use crate::sim::oracle::Merge;
use crate::sim::postgres::{OnConflict, PgError, Session, TableNo};
use crate::sim::realm::{self, FIRST_KEY, MERGED, NODES_MAX, PLAIN, UNIQUE};

/// Keys of rows that hang together, and of those that merge in all ways.
const KEYS: u64 = 3;
/// Elements that a set can have.
const ELEMENTS: u64 = 6;

/// So long after everything is healed rows are stalked.
const STALKED: Duration = Duration::from_secs(2);

/// What is to be done to one value; what it comes to depends on what it is.
struct Edit {
    numbers: [u64; 3],
    /// Nobody else ever puts this in.
    token: String,
    /// It becomes NULL.
    empties: bool,
}

impl Client {
    pub(super) async fn change_realm(
        &mut self,
        session: &mut Session,
    ) -> Result<&'static str, PgError> {
        let nodes = self.realm.len() as u64 - 1;
        if self.world.options.is_fight {
            return self.fight_over_a_key(session).await;
        }
        if nodes == 0 || self.dice.below(3) == 0 {
            return self.change_chart(session).await;
        }
        let mut edited = BTreeSet::new();
        for _ in 0..1 + self.dice.below(4) {
            let node = self.dice.below(nodes) as usize;
            session.set_savepoint().await?;
            match self.change_node(session, node, &mut edited).await {
                Ok(()) => session.release().await?,
                Err(PgError::Refused { .. }) => session.undo().await?,
                Err(error) => return Err(error),
            }
        }
        Ok("nodes")
    }

    /// Deletes rows of which apply has just found that they are there, before it has committed what
    /// references them.
    pub(crate) async fn stalk(self, mut found: mpsc::UnboundedReceiver<(TableNo, RowKey)>) {
        let until = Instant::now() + Duration::from_millis(self.world.options.phase_ms) + STALKED;
        let mut left = self.world.options.stalks;
        while left > 0
            && let Ok(Some((table, key))) = tokio::time::timeout_at(until, found.recv()).await
        {
            left -= 1;
            let outcome = self.delete_at_once(table, key).await;
            self.world.trace(|| format!("{} stalker: {outcome:?}", self.site.id));
        }
        self.world.client_done();
    }

    async fn delete_at_once(&self, table: TableNo, key: RowKey) -> Result<(), PgError> {
        let mut session = self.connect().await?;
        session.begin().await?;
        session.delete(table, &[key]).await?;
        session.commit().await.map(drop)
    }

    fn edit(&mut self) -> Edit {
        let numbers = [0; 3].map(|_| self.dice.below(1 << 20));
        let count = self.world.tokens.get() + 1;
        self.world.tokens.set(count);
        Edit { numbers, token: format!("w{count}"), empties: self.dice.below(15) == 0 }
    }

    /// Puts a key into a document of which all know, or takes it out: others do the same meanwhile.
    async fn fight_over_a_key(&mut self, session: &mut Session) -> Result<&'static str, PgError> {
        let chart = self.realm[0];
        if self.site.id.number() == 1 {
            let cells = (1..realm::CHART.len()).map(|place| self.fresh(CHART, place));
            let row: Vec<Value> = [Value::Int(1)].into_iter().chain(cells).collect();
            session.insert(chart, &[row.into()], OnConflict::DoNothing).await?;
        }
        let place = realm::DOCUMENT;
        let edit = Edit {
            numbers: [self.dice.pick(&[0, 3]), 0, self.dice.below(100)],
            empties: false,
            ..self.edit()
        };
        let change = |_: usize, old: &[Value]| {
            let mut row = old.to_vec();
            row[place] = edit.made_of(CHART, place, &old[place]);
            Some(row)
        };
        session.update(chart, &[RowKey::new(&[Value::Int(1)])], change).await?;
        Ok("key")
    }

    /// Inserts, deletes and edits rows that merge in all ways. A value is edited once at most: what was
    /// put in the place of a word that the same transaction took out would be a word that was changed.
    async fn change_chart(&mut self, session: &mut Session) -> Result<&'static str, PgError> {
        let mut edited = BTreeSet::new();
        let chart = self.realm[0];
        for _ in 0..1 + self.dice.below(3) {
            let id = 1 + self.dice.below(self.world.options.hot_keys.min(2)) as i64;
            let key = [RowKey::new(&[Value::Int(id)])];
            match self.dice.below(12) {
                0 | 1 => {
                    let cells = (1..realm::CHART.len()).map(|place| self.fresh(CHART, place));
                    let row: Vec<Value> = [Value::Int(id)].into_iter().chain(cells).collect();
                    session.insert(chart, &[row.into()], OnConflict::DoNothing).await?;
                }
                2 => drop(session.delete(chart, &key).await?),
                _ => {
                    let place = 1 + self.dice.below(realm::CHART.len() as u64 - 1) as usize;
                    let edit = self.edit();
                    if edited.insert((id, place)) {
                        let change = |_: usize, old: &[Value]| {
                            let mut row = old.to_vec();
                            row[place] = edit.made_of(CHART, place, &old[place]);
                            Some(row)
                        };
                        session.update(chart, &key, change).await?;
                    }
                }
            }
        }
        Ok("chart")
    }

    /// A value for a new row.
    fn fresh(&mut self, table: usize, place: usize) -> Value {
        let edit = self.edit();
        edit.made_of(table, place, &Value::Null)
    }

    /// Inserts, deletes, moves and edits rows that hang together.
    async fn change_node(
        &mut self,
        session: &mut Session,
        node: usize,
        edited: &mut BTreeSet<(usize, i64)>,
    ) -> Result<(), PgError> {
        let (table, id) = (self.realm[1 + node], 1 + self.dice.below(KEYS) as i64);
        let key = [RowKey::new(&[Value::Int(id)])];
        let (place, value) = match self.dice.below(11) {
            0..=4 => return self.insert_node(session, node, id).await,
            5 | 6 => {
                session.delete(table, &key).await?;
                return Ok(());
            }
            7 => {
                let at = self.dice.below(2) as usize;
                (FIRST_KEY + at, self.pointer(node, at))
            }
            8 => (UNIQUE, self.word()),
            9 => (PLAIN, Value::Int(self.dice.below(1_000) as i64)),
            _ => {
                let edit = self.edit();
                if edited.insert((node, id)) {
                    let change = |_: usize, old: &[Value]| {
                        let mut row = old.to_vec();
                        row[MERGED] = edit.made_of(NODE + node, MERGED, &old[MERGED]);
                        Some(row)
                    };
                    session.update(table, &key, change).await?;
                }
                return Ok(());
            }
        };
        let change = |_: usize, old: &[Value]| {
            let mut row = old.to_vec();
            row[place] = value.clone();
            Some(row)
        };
        session.update(table, &key, change).await?;
        Ok(())
    }

    /// Inserts a row, and often the rows that it points to before it.
    async fn insert_node(
        &mut self,
        session: &mut Session,
        node: usize,
        id: i64,
    ) -> Result<(), PgError> {
        let row = self.node_row(node, id);
        let keys = self.node(node).keys.clone();
        for (at, key) in keys.iter().enumerate() {
            if let (Value::Int(parent), true) = (&row[FIRST_KEY + at], self.dice.below(3) > 0) {
                let mut above = self.node_row(key.parent, *parent);
                let not_null: Vec<bool> =
                    self.node(key.parent).keys.iter().map(|key| key.is_not_null).collect();
                for (at, is_not_null) in not_null.into_iter().enumerate() {
                    if !is_not_null {
                        above[FIRST_KEY + at] = Value::Null;
                    }
                }
                let parent = self.realm[1 + key.parent];
                session.insert(parent, &[above.into()], OnConflict::DoNothing).await?;
            }
        }
        let row: Arc<[Value]> = row.into();
        session.insert(self.realm[1 + node], &[row], OnConflict::DoNothing).await?;
        Ok(())
    }

    fn node(&self, node: usize) -> &realm::Node {
        let realm = self.world.options.realm.as_ref();
        &realm.expect("who changes nodes has some").nodes[node]
    }

    fn node_row(&mut self, node: usize, id: i64) -> Vec<Value> {
        let plain = Value::Int(self.dice.below(1_000) as i64);
        let pointers = [0, 1].map(|at| self.pointer(node, at));
        let [first, second] = pointers;
        vec![Value::Int(id), first, second, self.word(), plain, self.fresh(NODE + node, MERGED)]
    }

    /// To whom a row points.
    fn pointer(&mut self, node: usize, at: usize) -> Value {
        let key = self.node(node).keys.get(at).copied();
        match key {
            None => Value::Null,
            Some(key) if !key.is_not_null && self.dice.below(4) == 0 => Value::Null,
            Some(_) => Value::Int(1 + self.dice.below(KEYS) as i64),
        }
    }

    /// What perhaps only one row may have.
    fn word(&mut self) -> Value {
        match self.dice.below(6) {
            0 | 1 => Value::Null,
            _ => Value::Text(format!("v{}", self.dice.below(4)).into()),
        }
    }
}

const _: () = assert!(NODE + NODES_MAX == MERGING.len());

impl Edit {
    /// What becomes of a value. NULL begins anew.
    fn made_of(&self, table: usize, place: usize, old: &Value) -> Value {
        let merging = &MERGING[table];
        let [first, second, _] = self.numbers;
        if self.empties && *old != Value::Null {
            return Value::Null;
        }
        let text = old.text().unwrap_or_default();
        match (merging.merge(place), old) {
            (None, Value::Int(count)) if merging.merges(place) => {
                Value::Int(count + (second % 21) as i64 - 10)
            }
            (None, _) => Value::Int((second % 1_000) as i64),
            (Some(Merge::Max | Merge::Min), _) => Value::Int((second % 100) as i64),
            (Some(Merge::Set), Value::Null) => {
                let elements = (0..ELEMENTS).filter(|element| first >> element & 1 == 1);
                array(elements.map(|element| element.to_string()).collect())
            }
            (Some(Merge::Set), _) => self.set(&text),
            (Some(Merge::Text), Value::Null) => {
                Value::Text(format!("{0}a {0}b {0}c", self.token).into())
            }
            (Some(Merge::Text), _) => Value::Text(self.words(&text).into()),
            (Some(Merge::Document), _) => self.document(&text),
        }
    }

    /// An array with one element more or less.
    fn set(&self, text: &str) -> Value {
        let [first, second, third] = self.numbers;
        let inside = text.trim_matches(['{', '}']).split(',');
        let mut elements: Vec<String> =
            inside.filter(|element| !element.is_empty()).map(str::to_owned).collect();
        if first % 8 == 0 {
            // In another order it is the same set.
            elements.reverse();
            return array(elements);
        }
        let element = (second % ELEMENTS).to_string();
        match elements.iter().position(|known| *known == element) {
            Some(place) => drop(elements.remove(place)),
            None => elements.insert(third as usize % (elements.len() + 1), element),
        }
        array(elements)
    }

    /// A text with one word more or less. Blanks stay, so that words stay apart.
    fn words(&self, text: &str) -> String {
        let [first, second, _] = self.numbers;
        let ends: Vec<(usize, usize)> = text
            .split_whitespace()
            .map(|word| {
                let begin = word.as_ptr() as usize - text.as_ptr() as usize;
                (begin, begin + word.len())
            })
            .collect();
        match ends.get(second as usize % ends.len().max(1)) {
            None => format!("{text} {}", self.token),
            Some((begin, end)) if first % 3 == 0 => format!("{}{}", &text[..*begin], &text[*end..]),
            Some((_, end)) => format!("{} {}{}", &text[..*end], self.token, &text[*end..]),
        }
    }

    /// A document with another key or item, or without one.
    fn document(&self, text: &str) -> Value {
        let [first, second, third] = self.numbers;
        let mut document = match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(object)) => object,
            _ => serde_json::from_str(r#"{"a": 1, "l": ["x"]}"#).unwrap_or_default(),
        };
        let key = ["a", "b", "c"][second as usize % 3];
        match (first % 4, document.get_mut("l")) {
            (0, _) => drop(document.remove(key)),
            (1, Some(serde_json::Value::Array(items))) if !items.is_empty() => {
                items.remove(third as usize % items.len());
            }
            (2, Some(serde_json::Value::Array(items))) => {
                items.insert(third as usize % (items.len() + 1), self.token.clone().into());
            }
            _ => drop(document.insert(key.to_owned(), (third % 100).into())),
        }
        let text = serde_json::Value::Object(document).to_string();
        // As `jsonb` prints it.
        Json::parse(&text).map_or(Value::Null, |json| Value::Text(json.to_string().into()))
    }
}

fn array(elements: Vec<String>) -> Value {
    Value::Text(format!("{{{}}}", elements.join(",")).into())
}
