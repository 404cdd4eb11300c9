//! Tables whose columns merge in all ways and whose rows hang together, drawn by seed. Drawn apart, so
//! that without it a seed stays the run that it was.

use std::collections::BTreeSet;

use landfall_engine::postgres::catalog::OnDelete;
use landfall_protocol::merged::{End, Kind};
use landfall_protocol::schema::rules::{ColumnRule, DeleteRule, Rules};
use landfall_protocol::schema::{ColumnDef, ColumnId, SetId, TableDef, TableName};
use landfall_protocol::unique::{Loser, UniqueRule};
use landfall_protocol::value::Value;

use super::oracle::{Counter, Merge, Merging};
use super::postgres::{Reference, TableSpec};
use crate::dice::Dice;

/// At most so many tables whose rows hang together.
pub(crate) const NODES_MAX: usize = 5;
/// Their columns beside the key, which is the first.
pub(crate) const FIRST_KEY: usize = 1;
pub(crate) const UNIQUE: usize = 3;
pub(crate) const PLAIN: usize = 4;
pub(crate) const MERGED: usize = 5;

/// Columns of the table that merges in all ways.
pub(crate) const CHART: [(&str, &str); 7] = [
    ("id", "bigint"),
    ("n", "bigint"),
    ("tags", "bigint[]"),
    ("best", "bigint"),
    ("least", "bigint"),
    ("note", "text"),
    ("data", "jsonb"),
];

/// The place of its document.
pub(crate) const DOCUMENT: usize = 6;

/// How that table merges, told apart from what the product is told.
pub(crate) const CHART_MERGING: Merging = Merging {
    merged: &[
        (2, Merge::Set),
        (3, Merge::Max),
        (4, Merge::Min),
        (5, Merge::Text),
        (DOCUMENT, Merge::Document),
    ],
    is_told: false,
    ..Merging::PLAIN
};

/// How the tables merge whose rows hang together: each has one column of another kind.
pub(crate) const NODES_MERGING: [Merging; NODES_MAX] = {
    let plain = Merging { is_told: false, ..Merging::PLAIN };
    [
        plain,
        Merging {
            counter: Some(Counter { place: MERGED, least: i64::MIN, most: i64::MAX }),
            ..plain
        },
        Merging { merged: &[(MERGED, Merge::Set)], ..plain },
        Merging { merged: &[(MERGED, Merge::Max)], ..plain },
        Merging { merged: &[(MERGED, Merge::Text)], ..plain },
    ]
};

/// What the tables are like.
#[derive(Clone, Debug, Default)]
pub struct Realm {
    /// In the table that merges in all ways an update that knows of no delete takes it back.
    pub update_wins: bool,
    /// Tables whose rows hang together.
    pub nodes: Vec<Node>,
}

/// A table whose rows point to others.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its foreign keys.
    pub keys: Vec<NodeKey>,
    /// What becomes of the younger one of two rows with one value, if only one may have it.
    pub unique: Option<Loser>,
    /// An update that knows of no delete takes it back.
    pub update_wins: bool,
}

/// A foreign key of one column.
#[derive(Clone, Copy, Debug)]
pub struct NodeKey {
    /// The place of the table that it leads to among the nodes.
    pub parent: usize,
    /// What becomes of the child when the parent goes.
    pub on_delete: OnDelete,
    /// Whether the child must have a parent.
    pub is_not_null: bool,
    /// The parent that the child has without saying.
    pub default: Option<i64>,
}

impl Realm {
    /// Those of a seed, if it has any.
    pub(crate) fn draw(seed: u64) -> Option<Self> {
        let mut dice = Dice::new(seed ^ 0x7265_616c_6d00);
        if dice.below(3) > 0 {
            return None;
        }
        let update_wins = dice.below(2) == 0;
        let count = dice.pick(&[0, 2, 2, 3, 4, 5]);
        let nodes = (0..count).map(|_| Node::draw(&mut dice, count)).collect();
        Some(Self { update_wins, nodes })
    }

    /// Whether sites may have to say something of their own.
    pub(crate) fn has_remedies(&self) -> bool {
        self.update_wins || !self.nodes.is_empty()
    }
}

impl Node {
    fn draw(dice: &mut Dice, count: u64) -> Self {
        let keys = (0..dice.pick(&[0, 1, 1, 2])).map(|_| NodeKey::draw(dice, count)).collect();
        let update_wins = dice.below(4) == 0;
        let unique = dice.pick(&[
            None,
            None,
            Some(Loser::Quarantine),
            Some(Loser::Suffix),
            Some(Loser::Null),
        ]);
        Self { keys, unique, update_wins }
    }
}

impl NodeKey {
    fn draw(dice: &mut Dice, count: u64) -> Self {
        let parent = dice.below(count) as usize;
        let on_delete = dice.pick(&[
            OnDelete::NoAction,
            OnDelete::Restrict,
            OnDelete::Cascade,
            OnDelete::Cascade,
            OnDelete::SetNull,
            OnDelete::SetDefault,
        ]);
        let is_not_null = dice.below(5) == 0;
        let default = (dice.below(2) == 0).then(|| 1 + dice.below(3) as i64);
        Self { parent, on_delete, is_not_null, default }
    }
}

fn table(name: &str, columns: &[(&str, &str)]) -> TableDef {
    let column = |(name, kind): &(&str, &str)| ColumnDef {
        name: (*name).to_owned(),
        type_name: (*kind).to_owned(),
    };
    TableDef {
        name: TableName::new("public", name),
        set: SetId(1),
        columns: columns.iter().map(column).collect(),
        key: vec![ColumnId(0)],
        rules: Default::default(),
    }
}

fn node_name(place: usize) -> String {
    format!("node{place}")
}

/// The kinds of the nodes' last columns, with their types.
const KINDS: [(Option<Kind>, &str); NODES_MAX] = [
    (None, "bigint"),
    (Some(Kind::Counter), "bigint"),
    (Some(Kind::Set), "bigint[]"),
    (Some(Kind::Extreme(End::Max)), "bigint"),
    (Some(Kind::Text), "text"),
];

/// All tables that there may be.
pub(crate) fn tables() -> Vec<TableDef> {
    let node = |(place, (_, kind)): (usize, &(_, &'static str))| {
        let columns = [
            ("id", "bigint"),
            ("p", "bigint"),
            ("q", "bigint"),
            ("u", "text"),
            ("n", "bigint"),
            ("m", *kind),
        ];
        table(&node_name(place), &columns)
    };
    let nodes = KINDS.iter().enumerate().map(node);
    [table("chart", &CHART)].into_iter().chain(nodes).collect()
}

fn deletes(update_wins: bool) -> DeleteRule {
    if update_wins { DeleteRule::UpdateWins } else { DeleteRule::DeleteWins }
}

/// What the fleet file says of them.
pub(crate) fn rules(realm: &Realm) -> Vec<(TableName, Rules<String>)> {
    let kinds = [
        ("tags", Kind::Set),
        ("best", Kind::Extreme(End::Max)),
        ("least", Kind::Extreme(End::Min)),
        ("note", Kind::Text),
        ("data", Kind::Document),
    ];
    let merged = |(name, kind): (&str, Kind)| (name.to_owned(), ColumnRule::Merged(kind));
    let columns = kinds.into_iter().map(merged).collect();
    let chart = Rules { columns, deletes: deletes(realm.update_wins), ..Rules::default() };
    let mut rules = vec![(TableName::new("public", "chart"), chart)];
    for (place, node) in realm.nodes.iter().enumerate() {
        let columns = KINDS[place].0.map(|kind| merged(("m", kind))).into_iter().collect();
        let node = Rules { columns, deletes: deletes(node.update_wins), ..Rules::default() };
        rules.push((TableName::new("public", node_name(place)), node));
    }
    rules
}

/// What it says of values that only one row may have.
pub(crate) fn unique(realm: &Realm) -> Vec<(TableName, Vec<UniqueRule>)> {
    let nodes = realm.nodes.iter().enumerate().filter_map(|(place, node)| {
        let rule = UniqueRule { columns: BTreeSet::from(["u".to_owned()]), loser: node.unique? };
        Some((TableName::new("public", node_name(place)), vec![rule]))
    });
    nodes.collect()
}

/// Gives tables, of which the first node is in this place, their foreign keys and the like.
pub(crate) fn constrain(realm: &Realm, tables: &mut [TableSpec], first_node: usize) {
    for (place, node) in realm.nodes.iter().enumerate() {
        let spec = &mut tables[first_node + place];
        for (at, key) in node.keys.iter().enumerate() {
            let column = ColumnId((FIRST_KEY + at) as u16);
            let (parent, on_delete) = (first_node + key.parent, key.on_delete);
            spec.parents.push(Reference { columns: vec![column], parent, on_delete });
            if key.is_not_null {
                spec.not_null.insert(column);
            }
            spec.defaults.extend(key.default.map(|default| (column, Value::Int(default))));
        }
        spec.unique.extend(node.unique.map(|loser| (ColumnId(UNIQUE as u16), loser)));
    }
}
