//! How concurrent writes of a table merge, as the fleet file says.
//!
//! A rule decides how a site's own writes are expressed in its log: a change of a merged column
//! travels as what was done to it and not as a value, columns of a group travel together. How what travels is joined does not
//! depend on the rules of whoever joins it, so what is merged is the same everywhere. Rules travel
//! with a table's description all the same: sites that express the same column differently would
//! overwrite each other's parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::decimal::Decimal;
use crate::merged::Kind;
use crate::schema::{COLUMNS_MAX, ColumnId};

/// Longest list of columns, or description of collations, of a unique index. PostgreSQL has 32 columns in an
/// index, with names of 63 bytes.
const COLLATION_BYTES_MAX: usize = 16 << 10;

/// How concurrent writes of a column merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColumnRule {
    /// The newest write stays.
    #[default]
    LastWriterWins,
    /// All writes count, each kind in its own way.
    Merged(Kind),
    /// A counter of which inserts add up too that do not know of each other.
    Tally,
}

/// The number of [`ColumnRule::Tally`] in a description; kinds have those below.
const TALLY_TAG: u8 = 0x40;

impl ColumnRule {
    fn all() -> impl Iterator<Item = Self> {
        let merged = Kind::ALL.map(Self::Merged);
        [Self::LastWriterWins].into_iter().chain(merged).chain([Self::Tally])
    }

    /// As in the fleet file.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastWriterWins => "last_writer_wins",
            Self::Merged(kind) => kind.name(),
            Self::Tally => "tally",
        }
    }

    /// The rule of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|rule| rule.name() == name)
    }

    /// The names of all rules, for those who wrote another.
    pub fn names() -> String {
        Self::all().map(|rule| format!("{:?}", rule.name())).collect::<Vec<_>>().join(", ")
    }

    /// How its column is merged, if it is.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::LastWriterWins => None,
            Self::Merged(kind) => Some(kind),
            Self::Tally => Some(Kind::Counter),
        }
    }

    /// Its number in a description; 0 is never written.
    fn tag(self) -> u8 {
        match self {
            Self::LastWriterWins => 0,
            Self::Merged(kind) => kind.tag() + 1,
            Self::Tally => TALLY_TAG,
        }
    }

    /// The rule of this number, but for the one that is never written.
    fn tagged(tag: u8) -> Option<Self> {
        match tag {
            TALLY_TAG => Some(Self::Tally),
            tag => tag.checked_sub(1).and_then(Kind::tagged).map(Self::Merged),
        }
    }
}

/// What becomes of a row that one site deletes while another, which does not know, updates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeleteRule {
    /// It goes, and the update is in the history.
    #[default]
    DeleteWins,
    /// It stays, with all its columns.
    UpdateWins,
}

impl DeleteRule {
    const ALL: [Self; 2] = [Self::DeleteWins, Self::UpdateWins];

    /// As in the fleet file.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeleteWins => "delete_wins",
            Self::UpdateWins => "update_wins",
        }
    }

    /// The rule of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// The names of all rules, for those who wrote another.
    pub fn names() -> String {
        Self::ALL.map(|rule| format!("{:?}", rule.name())).join(", ")
    }
}

/// The rules of a table, by what its columns are called in `C`: names in the fleet file, numbers in
/// a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules<C: Ord> {
    /// Columns that do not merge by last writer.
    pub columns: BTreeMap<C, ColumnRule>,
    /// Columns that are one cell: whoever writes one of them has written all. No column is in two.
    pub groups: BTreeSet<BTreeSet<C>>,
    /// The least and the greatest value that a counter may show.
    pub bounds: BTreeMap<C, Bounds>,
    /// By the columns of a unique index that may take different texts for equal, by whose collation it does and
    /// of which version: another version may think otherwise.
    pub collations: BTreeMap<String, String>,
    /// Deletes against updates.
    pub deletes: DeleteRule,
    /// Whether a foreign key of a replicated table leads to this one, so that a deleted row may have
    /// to come back.
    pub is_parent: bool,
}

/// What a counter's column can hold, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Nothing below this.
    pub least: Option<Decimal>,
    /// Nothing above this.
    pub most: Option<Decimal>,
}

impl Bounds {
    /// The number itself, or the end beyond which it is.
    pub fn clamp(&self, number: Decimal) -> Decimal {
        let below = self.least.as_ref().filter(|least| !least.is_at_most(&number));
        let above = self.most.as_ref().filter(|most| !number.is_at_most(most));
        below.or(above).cloned().unwrap_or(number)
    }

    /// Both conditions at once.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let pick =
            |one: Option<Decimal>, two: Option<Decimal>, first: fn(&Decimal, &Decimal) -> bool| {
                match (one, two) {
                    (Some(one), Some(two)) => Some(if first(&one, &two) { one } else { two }),
                    (one, two) => one.or(two),
                }
            };
        Self {
            least: pick(self.least, other.least, |one, two| two.is_at_most(one)),
            most: pick(self.most, other.most, Decimal::is_at_most),
        }
    }

    fn encode(&self, out: &mut Writer) {
        out.u8(u8::from(self.least.is_some()) | u8::from(self.most.is_some()) << 1);
        self.least.iter().chain(&self.most).for_each(|end| end.encode(out));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = from.u8()?;
        if !(1..=3).contains(&tag) {
            return Err(DecodeError::UnknownTag { what: "bounds", tag });
        }
        let least = (tag & 1 != 0).then(|| Decimal::decode(from)).transpose()?;
        let most = (tag & 2 != 0).then(|| Decimal::decode(from)).transpose()?;
        Ok(Self { least, most })
    }
}

/// The rules of a table as it is described in a log.
pub type TableRules = Rules<ColumnId>;

impl<C: Ord> Default for Rules<C> {
    fn default() -> Self {
        let (columns, groups, bounds, collations) = Default::default();
        let deletes = DeleteRule::default();
        Self { columns, groups, bounds, collations, deletes, is_parent: false }
    }
}

impl<C: Ord> Rules<C> {
    /// Whether nothing is said but what holds without saying.
    pub fn is_default(&self) -> bool {
        let no_columns = self.columns.is_empty() && self.groups.is_empty();
        no_columns && self.bounds.is_empty() && self.table_flags() == 0
    }

    /// Whether a deleted row may have to come back with all that it had.
    pub fn keeps_deleted(&self) -> bool {
        self.is_parent || self.deletes == DeleteRule::UpdateWins
    }

    fn table_flags(&self) -> u8 {
        let (deletes, parent) = (self.deletes == DeleteRule::UpdateWins, self.is_parent);
        u8::from(deletes) | u8::from(parent) << 1 | u8::from(!self.collations.is_empty()) << 2
    }

    /// The rule of a column.
    pub fn column(&self, column: &C) -> ColumnRule {
        self.columns.get(column).copied().unwrap_or_default()
    }

    /// The columns that are written with this one, itself among them; `None` when it stands alone.
    pub fn group(&self, column: &C) -> Option<&BTreeSet<C>> {
        self.groups.iter().find(|group| group.contains(column))
    }

    /// The same rules with columns called otherwise; what has no other name is left out.
    pub fn renamed<D: Ord>(&self, name: impl Fn(&C) -> Option<D>) -> Rules<D> {
        let columns = self.columns.iter().filter_map(|(column, rule)| Some((name(column)?, *rule)));
        let group = |group: &BTreeSet<C>| group.iter().filter_map(&name).collect();
        let groups = self.groups.iter().map(group).filter(|group: &BTreeSet<D>| group.len() > 1);
        let bounds = self.bounds.iter();
        let bounds = bounds.filter_map(|(column, ends)| Some((name(column)?, ends.clone())));
        let (columns, groups) = (columns.collect(), groups.collect());
        let (Self { deletes, is_parent, .. }, collations) = (self, self.collations.clone());
        let (deletes, is_parent) = (*deletes, *is_parent);
        Rules { columns, groups, bounds: bounds.collect(), collations, deletes, is_parent }
    }

    /// What a merged column shows of its true value.
    pub fn shown(&self, column: &C, value: String) -> String {
        let bounds = self.bounds.get(column);
        let clamped = bounds.and_then(|bounds| Some(bounds.clamp(Decimal::parse(&value)?)));
        clamped.map_or(value, |clamped| clamped.to_string())
    }

    /// Whether two texts are one value of a column.
    pub fn is_same(&self, column: &C, one: &str, two: &str) -> bool {
        match self.column(column).kind() {
            Some(kind) => kind.is_same(one, two),
            None => one == two,
        }
    }
}

impl TableRules {
    /// Whether inserts of this column add up.
    pub fn is_tally(&self, column: ColumnId) -> bool {
        self.column(&column) == ColumnRule::Tally
    }

    /// Writes the canonical form: one byte where nothing is said. What is said of the table as a
    /// whole stands at the end, if there is any.
    pub fn encode(&self, out: &mut Writer) {
        let flags = self.table_flags();
        out.u8(match flags {
            0 => u8::from(!self.is_default()),
            _ => 2,
        });
        if self.is_default() {
            return;
        }
        out.varint(self.columns.len() as u64);
        for (column, rule) in &self.columns {
            out.varint(u64::from(column.0));
            out.u8(rule.tag());
        }
        out.varint(self.groups.len() as u64);
        for group in &self.groups {
            out.varint(group.len() as u64);
            for column in group {
                out.varint(u64::from(column.0));
            }
        }
        out.varint(self.bounds.len() as u64);
        for (column, bounds) in &self.bounds {
            out.varint(u64::from(column.0));
            bounds.encode(out);
        }
        if flags != 0 {
            out.u8(flags);
        }
        if !self.collations.is_empty() {
            out.varint(self.collations.len() as u64);
            for (name, version) in &self.collations {
                out.text(name);
                out.text(version);
            }
        }
    }

    /// Reads the canonical form of rules over the first `columns` columns.
    ///
    /// # Errors
    /// Fails when cut short, of an unknown tag, out of order, or when a column is not there or in
    /// two groups.
    pub fn decode(from: &mut Reader<'_>, columns: usize) -> Result<Self, DecodeError> {
        let mut rules = Self::default();
        let tag = from.u8()?;
        match tag {
            0 => return Ok(rules),
            1 | 2 => {}
            tag => return Err(DecodeError::UnknownTag { what: "rules", tag }),
        }
        for _ in 0..from.count(COLUMNS_MAX)? {
            let column = column(from, columns)?;
            let tag = from.u8()?;
            let rule = ColumnRule::tagged(tag);
            let rule = rule.ok_or(DecodeError::UnknownTag { what: "column rule", tag })?;
            if rules.columns.last_key_value().is_some_and(|(last, _)| *last >= column) {
                return Err(DecodeError::NotCanonical("column rules"));
            }
            rules.columns.insert(column, rule);
        }
        for _ in 0..from.count(COLUMNS_MAX)? {
            let mut group = BTreeSet::new();
            for _ in 0..from.count(COLUMNS_MAX)? {
                let column = column(from, columns)?;
                let follows = group.last().is_none_or(|last| *last < column);
                if !follows || rules.group(&column).is_some() {
                    return Err(DecodeError::NotCanonical("column group"));
                }
                group.insert(column);
            }
            let follows = rules.groups.last().is_none_or(|last| *last < group);
            if !follows || group.len() < 2 {
                return Err(DecodeError::NotCanonical("column groups"));
            }
            rules.groups.insert(group);
        }
        for _ in 0..from.count(COLUMNS_MAX)? {
            let column = column(from, columns)?;
            if rules.bounds.last_key_value().is_some_and(|(last, _)| *last >= column) {
                return Err(DecodeError::NotCanonical("bounds"));
            }
            rules.bounds.insert(column, Bounds::decode(from)?);
        }
        if tag == 2 {
            let flags = from.u8()?;
            if !(1..=7).contains(&flags) {
                return Err(DecodeError::UnknownTag { what: "rules of a whole table", tag: flags });
            }
            rules.deletes = DeleteRule::ALL[usize::from(flags & 1)];
            rules.is_parent = flags & 2 != 0;
            rules.collations = collations(from, flags)?;
        }
        if rules.is_default() {
            return Err(DecodeError::NotCanonical("rules"));
        }
        Ok(rules)
    }
}

fn collations(from: &mut Reader<'_>, flags: u8) -> Result<BTreeMap<String, String>, DecodeError> {
    let mut collations: BTreeMap<String, String> = BTreeMap::new();
    if flags & 4 == 0 {
        return Ok(collations);
    }
    for _ in 0..from.count(COLUMNS_MAX)? {
        let name = from.text(COLLATION_BYTES_MAX)?.to_owned();
        if collations.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(DecodeError::NotCanonical("collations"));
        }
        collations.insert(name, from.text(COLLATION_BYTES_MAX)?.to_owned());
    }
    match collations.is_empty() {
        true => Err(DecodeError::NotCanonical("collations")),
        false => Ok(collations),
    }
}

fn column(from: &mut Reader<'_>, columns: usize) -> Result<ColumnId, DecodeError> {
    let column = from.u16()?;
    if usize::from(column) < columns { Ok(ColumnId(column)) } else { Err(DecodeError::BadNumber) }
}

impl fmt::Display for Rules<String> {
    /// In the order of the names, for comparing what two sites say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns =
            self.columns.iter().map(|(column, rule)| format!("{column} = {:?}", rule.name()));
        let group = |group: &BTreeSet<String>| {
            format!("group {}", group.iter().map(String::as_str).collect::<Vec<_>>().join("+"))
        };
        let deletes = match self.deletes {
            DeleteRule::DeleteWins => None,
            DeleteRule::UpdateWins => Some(format!("deletes = {:?}", self.deletes.name())),
        };
        let collations = self.collations.iter();
        let collations = collations.map(|(columns, by)| format!("{columns} compared by {by}"));
        let all = columns.chain(self.groups.iter().map(group)).chain(deletes).chain(collations);
        let all: Vec<String> = all.collect();
        f.write_str(if all.is_empty() { "last writer wins" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> impl Strategy<Value = TableRules> {
        let column = (0u16..12).prop_map(ColumnId);
        let rules: Vec<ColumnRule> = ColumnRule::all().skip(1).collect();
        let kind = proptest::sample::select(rules);
        let columns = proptest::collection::btree_map(column, kind, 0..5);
        let split = proptest::collection::vec(0usize..4, 12);
        let bounds =
            proptest::collection::vec((0u16..12, any::<Option<i32>>(), any::<i32>()), 0..3);
        let versions = proptest::collection::btree_map("[a-c]", "[1-3]", 0..3);
        let whole = (any::<bool>(), any::<bool>(), versions);
        (columns, split, bounds, whole).prop_map(|(columns, split, bounds, whole)| {
            let group = |number: usize| {
                let members = split.iter().enumerate().filter(|(_, group)| **group == number);
                members.map(|(column, _)| ColumnId(column as u16)).collect::<BTreeSet<_>>()
            };
            Rules {
                columns,
                groups: (1..4).map(group).filter(|group| group.len() > 1).collect(),
                bounds: bounds
                    .into_iter()
                    .map(|(column, least, most)| {
                        let end = |number: i32| Decimal::parse(&number.to_string());
                        let least = least.and_then(end);
                        (ColumnId(column), Bounds { least, most: end(most) })
                    })
                    .collect(),
                deletes: DeleteRule::ALL[usize::from(whole.0)],
                is_parent: whole.1,
                collations: whole.2,
            }
        })
    }

    proptest! {
        #[test]
        fn rules_read_back(rules in rules()) {
            let mut out = Writer::new();
            rules.encode(&mut out);
            let bytes = out.into_bytes();
            prop_assert_eq!(TableRules::decode(&mut Reader::new(&bytes), 12), Ok(rules));
            for cut in 0..bytes.len() {
                prop_assert!(TableRules::decode(&mut Reader::new(&bytes[..cut]), 12).is_err());
            }
        }

        #[test]
        fn what_reads_is_written_the_same(bytes in proptest::collection::vec(0u8..8, 0..24)) {
            let mut from = Reader::new(&bytes);
            if let Ok(rules) = TableRules::decode(&mut from, 5) {
                let mut out = Writer::new();
                rules.encode(&mut out);
                prop_assert_eq!(out.into_bytes(), &bytes[..bytes.len() - from.rest().len()]);
            }
        }
    }

    #[test]
    fn columns_that_are_elsewhere_keep_their_rules() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let rules = Rules {
            columns: [(names[2].clone(), ColumnRule::Merged(Kind::Counter))].into(),
            groups: [[names[0].clone(), names[1].clone()].into()].into(),
            ..Rules::default()
        };
        let place = |order: &'static [&'static str]| {
            move |name: &String| {
                let at = order.iter().position(|other| other == name)?;
                Some(ColumnId(at as u16))
            }
        };
        let numbered = rules.renamed(place(&["c", "b", "a"]));
        assert_eq!(numbered.column(&ColumnId(0)), ColumnRule::Merged(Kind::Counter));
        assert_eq!(numbered.group(&ColumnId(2)), Some(&[ColumnId(1), ColumnId(2)].into()));
        assert!(rules.renamed(place(&["a"])).is_default(), "a group of one is none");
    }
}
