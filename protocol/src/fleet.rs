//! The fleet as every member knows it: which tables travel in which set, and who the members are.
//!
//! [`Fleet::new`] checks everything that can be checked without looking at a file or a database,
//! so that whoever holds a [`Fleet`] can rely on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::codec::Writer;
use crate::id::{PublicKey, SiteId};
use crate::schema::rules::{ColumnRule, Rules};
use crate::schema::{SetId, TableName};
use crate::unique::UniqueRule;

/// Longest name of a member or a set, in bytes. A slot name is made of it, and those end at 63.
pub const MEMBER_NAME_BYTES_MAX: usize = 48;
/// Longest identifier PostgreSQL keeps, in bytes; it cuts longer ones off.
pub const IDENTIFIER_BYTES_MAX: usize = 63;
/// Sets a fleet may have.
pub const SETS_MAX: usize = 1024;
/// Tables all sets of a fleet may have together.
pub const TABLES_MAX: usize = 65_536;
/// Addresses one member may have.
pub const ADDRESSES_MAX: usize = 16;

/// The schema Landfall keeps its own tables in; nothing in it is replicated.
pub const OWN_SCHEMA: &str = "landfall";

/// What a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Has a PostgreSQL that people write to.
    Site,
    /// Stores and forwards the units of others; may have a PostgreSQL of its own.
    Hub,
}

impl Role {
    /// As in the fleet file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Hub => "hub",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a member may be reached: `host:port`, the host a name, an IPv4 address or a bracketed
/// IPv6 address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Address {
    type Err = FleetRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let host = match host.strip_prefix('[') {
                Some(rest) => rest.strip_suffix(']').filter(|host| host.contains(':'))?,
                None => Some(host).filter(|host| !host.contains([':', ']']))?,
            };
            let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
            (!host.is_empty() && host.len() <= 253 && host.chars().all(sane))
                .then(|| Self { host: host.to_owned(), port })
        };
        parse().ok_or_else(|| FleetRule::BadAddress(text.to_owned()))
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number for life.
    pub site: SiteId,
    /// What people call it.
    pub name: String,
    /// Signs its units and is its TLS identity.
    pub key: PublicKey,
    /// Where it listens; empty when it only dials out.
    pub addresses: Vec<Address>,
    /// What it is for.
    pub role: Role,
}

/// Tables that travel together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its number for life.
    pub id: SetId,
    /// What people call it.
    pub name: String,
    /// Its tables.
    pub tables: Vec<TableName>,
    /// Whether every change of it travels, however many of one row there are.
    pub full_history: bool,
}

/// A checked fleet description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    version: u64,
    sets: BTreeMap<SetId, Set>,
    members: BTreeMap<SiteId, Member>,
    by_name: BTreeMap<String, SiteId>,
    by_key: BTreeMap<PublicKey, SiteId>,
    set_of_table: BTreeMap<TableName, SetId>,
    rules: BTreeMap<TableName, Rules<String>>,
    unique: BTreeMap<TableName, Vec<UniqueRule>>,
}

/// A rule a fleet description broke, and the entry that broke it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct FleetError {
    /// The entry as in the fleet file, for example `member[2].key`.
    pub path: String,
    /// What is wrong with it.
    pub rule: FleetRule,
}

/// The rules a fleet description must keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetRule {
    /// A version below 1.
    #[error("version must be 1 or more")]
    VersionZero,
    /// Nothing to replicate.
    #[error("there must be at least one [[set]]")]
    NoSet,
    /// Nobody to replicate.
    #[error("there must be at least one [[member]]")]
    NoMember,
    /// A set id of 0.
    #[error("a set's id must be from 1 to 65535")]
    SetZero,
    /// A set without tables.
    #[error("set {0:?} names no table")]
    EmptySet(String),
    /// More of something than the limit.
    #[error("{found} {what} are more than the limit of {limit}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many were given.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A name of a member or set has another form.
    #[error(
        "name {0:?} must have 1 to {MEMBER_NAME_BYTES_MAX} letters, digits, \"-\", \"_\" or \".\", and start with a letter or digit"
    )]
    BadName(String),
    /// Two entries share what must be theirs alone.
    #[error("{what} {value} is already that of {owner:?}")]
    Taken {
        /// `id`, `name` or `key`.
        what: &'static str,
        /// The shared value.
        value: String,
        /// The name of the entry that came first.
        owner: String,
    },
    /// A table stands in two places.
    #[error("table {table} is already in set {set:?}; a table belongs to one set")]
    TableTwice {
        /// The table.
        table: TableName,
        /// The set that has it.
        set: String,
    },
    /// Not a table name.
    #[error("table {0:?} must be written as schema.table; quote parts as in SQL if needed")]
    BadTable(String),
    /// A table that cannot be replicated.
    #[error("table {0} belongs to PostgreSQL or to Landfall itself and cannot be replicated")]
    SystemTable(TableName),
    /// Merge rules for a table that no set has.
    #[error("table {0} is in no set, so it has nothing to merge")]
    RulesOfNoTable(TableName),
    /// A table with two lists of merge rules.
    #[error("table {0} has merge rules already; a table has one [[table]]")]
    RulesTwice(TableName),
    /// A rule for the values of no column.
    #[error("must name the columns of a unique index")]
    UniqueNothing,
    /// Two rules for the values of the same columns.
    #[error("these columns have a rule already")]
    UniqueTwice,
    /// A group of fewer than two columns.
    #[error("a group must name two columns or more")]
    SmallGroup,
    /// A column in two groups.
    #[error("column {0:?} is in two groups; make one of them")]
    GroupedTwice(String),
    /// A column that adds up and is to be overwritten together with others.
    #[error("column {0:?} is merged by a rule of its own and cannot be in a group")]
    GroupedMerged(String),
    /// Not an address.
    #[error("address {0:?} must be host:port with a port from 1 to 65535")]
    BadAddress(String),
}

impl FleetRule {
    fn at(self, path: impl Into<String>) -> FleetError {
        FleetError { path: path.into(), rule: self }
    }
}

impl Fleet {
    /// Checks all rules.
    ///
    /// # Errors
    /// The first rule broken, with the entry in the order given here.
    pub fn new(version: u64, sets: Vec<Set>, members: Vec<Member>) -> Result<Self, FleetError> {
        if version == 0 {
            return Err(FleetRule::VersionZero.at("version"));
        }
        if sets.is_empty() {
            return Err(FleetRule::NoSet.at("set"));
        }
        if members.is_empty() {
            return Err(FleetRule::NoMember.at("member"));
        }
        limit("sets", sets.len(), SETS_MAX).map_err(|rule| rule.at("set"))?;
        let mut fleet = Self {
            version,
            sets: BTreeMap::new(),
            members: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_key: BTreeMap::new(),
            set_of_table: BTreeMap::new(),
            rules: BTreeMap::new(),
            unique: BTreeMap::new(),
        };
        for (index, set) in sets.into_iter().enumerate() {
            fleet.add_set(index, set)?;
        }
        for (index, member) in members.into_iter().enumerate() {
            fleet.add_member(index, member)?;
        }
        Ok(fleet)
    }

    fn add_set(&mut self, index: usize, set: Set) -> Result<(), FleetError> {
        let at = |field: &str| format!("set[{index}].{field}");
        let taken = |what, value: String, owner: &Set| {
            FleetRule::Taken { what, value, owner: owner.name.clone() }.at(at(what))
        };
        if set.id.0 == 0 {
            return Err(FleetRule::SetZero.at(at("id")));
        }
        if let Some(owner) = self.sets.get(&set.id) {
            return Err(taken("id", set.id.0.to_string(), owner));
        }
        check_name(&set.name).map_err(|rule| rule.at(at("name")))?;
        if let Some(owner) = self.sets.values().find(|other| other.name == set.name) {
            return Err(taken("name", format!("{:?}", set.name), owner));
        }
        if set.tables.is_empty() {
            return Err(FleetRule::EmptySet(set.name).at(at("tables")));
        }
        for (position, table) in set.tables.iter().enumerate() {
            let at = || at(&format!("tables[{position}]"));
            if is_system(table) {
                return Err(FleetRule::SystemTable(table.clone()).at(at()));
            }
            if let Some(owner) = self.set_of_table.insert(table.clone(), set.id) {
                let owner = self.sets.get(&owner).map_or(&set.name, |owner| &owner.name);
                let rule = FleetRule::TableTwice { table: table.clone(), set: owner.clone() };
                return Err(rule.at(at()));
            }
        }
        limit("tables", self.set_of_table.len(), TABLES_MAX).map_err(|rule| rule.at("set"))?;
        self.sets.insert(set.id, set);
        Ok(())
    }

    /// The same fleet with merge rules for some of its tables.
    ///
    /// # Errors
    /// The first rule broken, with the entry in the order given here.
    pub fn with_rules(
        mut self,
        rules: Vec<(TableName, Rules<String>)>,
    ) -> Result<Self, FleetError> {
        for (index, (table, rules)) in rules.into_iter().enumerate() {
            let at = |field: &str| format!("table[{index}].{field}");
            if self.set_of(&table).is_none() {
                return Err(FleetRule::RulesOfNoTable(table).at(at("name")));
            }
            if self.rules.contains_key(&table) {
                return Err(FleetRule::RulesTwice(table).at(at("name")));
            }
            check_groups(&rules).map_err(|rule| rule.at(at("groups")))?;
            self.rules.insert(table, rules);
        }
        Ok(self)
    }

    /// The same fleet with rules for values that only one row of a table may have.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn with_unique(
        mut self,
        rules: Vec<(TableName, Vec<UniqueRule>)>,
    ) -> Result<Self, FleetError> {
        for (index, (table, rules)) in rules.into_iter().enumerate() {
            let mut seen = BTreeSet::new();
            for (place, UniqueRule { columns, .. }) in rules.iter().enumerate() {
                let at = || format!("table[{index}].unique[{place}].columns");
                if columns.is_empty() {
                    return Err(FleetRule::UniqueNothing.at(at()));
                }
                if !seen.insert(columns) {
                    return Err(FleetRule::UniqueTwice.at(at()));
                }
            }
            self.unique.insert(table, rules);
        }
        Ok(self)
    }

    /// What becomes of rows of a table whose values others have.
    pub fn unique(&self, table: &TableName) -> &[UniqueRule] {
        self.unique.get(table).map_or(&[], Vec::as_slice)
    }

    /// How concurrent writes of a table merge.
    pub fn rules(&self, table: &TableName) -> Option<&Rules<String>> {
        self.rules.get(table)
    }

    fn add_member(&mut self, index: usize, member: Member) -> Result<(), FleetError> {
        let at = |field: &str| format!("member[{index}].{field}");
        let taken = |what, value: String, owner: &Member| {
            FleetRule::Taken { what, value, owner: owner.name.clone() }.at(at(what))
        };
        if let Some(owner) = self.members.get(&member.site) {
            return Err(taken("id", member.site.to_string(), owner));
        }
        check_name(&member.name).map_err(|rule| rule.at(at("name")))?;
        if let Some(owner) = self.member_named(&member.name) {
            return Err(taken("name", format!("{:?}", member.name), owner));
        }
        if let Some(owner) = self.member_with_key(&member.key) {
            return Err(taken("key", member.key.to_string(), owner));
        }
        limit("addresses", member.addresses.len(), ADDRESSES_MAX)
            .map_err(|rule| rule.at(at("addresses")))?;
        self.by_name.insert(member.name.clone(), member.site);
        self.by_key.insert(member.key, member.site);
        self.members.insert(member.site, member);
        Ok(())
    }

    /// The number of this description; a newer one is higher.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All sets by id.
    pub fn sets(&self) -> impl Iterator<Item = &Set> {
        self.sets.values()
    }

    /// The set of this number.
    pub fn set(&self, id: SetId) -> Option<&Set> {
        self.sets.get(&id)
    }

    /// The set a table belongs to.
    pub fn set_of(&self, table: &TableName) -> Option<SetId> {
        self.set_of_table.get(table).copied()
    }

    /// All replicated tables by name, with their set.
    pub fn tables(&self) -> impl Iterator<Item = (&TableName, SetId)> {
        self.set_of_table.iter().map(|(table, set)| (table, *set))
    }

    /// All members by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The member of this number.
    pub fn member(&self, site: SiteId) -> Option<&Member> {
        self.members.get(&site)
    }

    /// The member of this name.
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.get(self.by_name.get(name)?)
    }

    /// The member of this key.
    pub fn member_with_key(&self, key: &PublicKey) -> Option<&Member> {
        self.members.get(self.by_key.get(key)?)
    }

    /// What people call the member of this number; the number itself when it is unknown here.
    pub fn name_of(&self, site: SiteId) -> String {
        self.member(site).map_or_else(|| format!("site {site}"), |member| member.name.clone())
    }

    /// A hash over what decides whether two members understand each other's units: set ids and
    /// their tables. Names of sets, members, addresses and the version do not matter, so members
    /// that have not all got the newest fleet file still talk.
    pub fn sets_digest(&self) -> [u8; 32] {
        let mut out = Writer::new();
        out.text("landfall sets 1");
        out.varint(self.set_of_table.len() as u64);
        for (table, set) in self.tables() {
            out.text(&table.schema);
            out.text(&table.name);
            out.varint(u64::from(set.0));
        }
        *blake3::hash(&out.into_bytes()).as_bytes()
    }
}

fn check_groups(rules: &Rules<String>) -> Result<(), FleetRule> {
    let mut seen = BTreeSet::new();
    for group in &rules.groups {
        if group.len() < 2 {
            return Err(FleetRule::SmallGroup);
        }
        for column in group {
            if rules.column(column) != ColumnRule::LastWriterWins {
                return Err(FleetRule::GroupedMerged(column.clone()));
            }
            if !seen.insert(column) {
                return Err(FleetRule::GroupedTwice(column.clone()));
            }
        }
    }
    Ok(())
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), FleetRule> {
    if found > limit { Err(FleetRule::TooMany { what, found, limit }) } else { Ok(()) }
}

fn check_name(name: &str) -> Result<(), FleetRule> {
    let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = name.len() <= MEMBER_NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(sane);
    if good { Ok(()) } else { Err(FleetRule::BadName(name.to_owned())) }
}

fn is_system(table: &TableName) -> bool {
    table.schema == OWN_SCHEMA
        || table.schema == "information_schema"
        || table.schema.starts_with("pg_")
}

/// Reads `schema.table` as SQL would: parts in double quotes are taken as they are, others are
/// folded to lower case.
///
/// # Errors
/// [`FleetRule::BadTable`] when there are not exactly two parts or one is no identifier.
pub fn parse_table_name(text: &str) -> Result<TableName, FleetRule> {
    let parse = || {
        let (schema, rest) = identifier(text)?;
        let (name, rest) = identifier(rest.strip_prefix('.')?)?;
        rest.is_empty().then(|| TableName::new(schema, name))
    };
    parse().ok_or_else(|| FleetRule::BadTable(text.to_owned()))
}

/// The identifier at the start of `text`, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(inner) => quoted(inner)?,
        None => {
            let end = text.find(|c| !is_plain(c)).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            let starts_well = !name.starts_with(|c: char| c.is_ascii_digit() || c == '$');
            (starts_well.then(|| name.to_ascii_lowercase())?, rest)
        }
    };
    let fits = !name.is_empty() && name.len() <= IDENTIFIER_BYTES_MAX && !name.contains('\0');
    fits.then_some((name, rest))
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii()
}

/// What stands before the closing quote, with `""` read as one quote, and what follows it.
fn quoted(inner: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = inner;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(id: u16, name: &str, tables: &[&str]) -> Set {
        let tables = tables.iter().map(|table| parse_table_name(table).unwrap()).collect();
        Set { id: SetId(id), name: name.into(), tables, full_history: false }
    }

    fn member(id: u16, name: &str) -> Member {
        Member {
            site: SiteId::new(id).unwrap(),
            name: name.into(),
            key: PublicKey([id as u8; 32]),
            addresses: vec!["127.0.0.1:7400".parse().unwrap()],
            role: Role::Site,
        }
    }

    fn check(sets: Vec<Set>, members: Vec<Member>, expected: &str) {
        let error = Fleet::new(1, sets, members).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn every_broken_rule_names_its_entry() {
        let care = || set(1, "care", &["public.patient"]);
        let one = || member(1, "one");
        check(vec![], vec![one()], "set: there must be");
        check(vec![care()], vec![], "member: there must be");
        check(vec![set(0, "care", &["a.b"])], vec![one()], "set[0].id: ");
        check(vec![set(1, "care", &[])], vec![one()], "set[0].tables: ");
        check(vec![set(1, "-care", &["a.b"])], vec![one()], "set[0].name: ");
        check(vec![care(), set(1, "b", &["a.b"])], vec![one()], "set[1].id: id 1 is already");
        check(vec![care(), set(2, "care", &["a.b"])], vec![one()], "set[1].name: ");
        let twice = set(2, "b", &["a.b", "public.Patient"]);
        check(
            vec![care(), twice],
            vec![one()],
            "set[1].tables[1]: table public.patient is already",
        );
        check(vec![set(1, "b", &["a.b", "a.b"])], vec![one()], "set[0].tables[1]: ");
        for own in ["landfall.meta", "pg_catalog.pg_class", "information_schema.x"] {
            check(vec![set(1, "b", &[own])], vec![one()], "set[0].tables[0]: ");
        }
        check(vec![care()], vec![one(), member(1, "two")], "member[1].id: id 1 is already");
        check(vec![care()], vec![one(), member(2, "one")], "member[1].name: name \"one\" is");
        let mut copy = member(2, "two");
        copy.key = one().key;
        check(vec![care()], vec![one(), copy], "member[1].key: key 0101");
        for name in ["", "a b", "ü", "_x", &"x".repeat(49)] {
            check(vec![care()], vec![member(1, name)], "member[0].name: ");
        }
    }

    /// Comparing each with all before it took minutes.
    #[test]
    fn a_fleet_may_have_a_member_of_every_number() {
        let all = (1..=u16::MAX).map(|id| {
            let mut member = member(id, &format!("m{id}"));
            member.key.0[..2].copy_from_slice(&id.to_be_bytes());
            member
        });
        let fleet = Fleet::new(1, vec![set(1, "care", &["public.a"])], all.collect()).unwrap();
        let last = fleet.members().last().unwrap();
        assert_eq!(last.site.number(), u16::MAX);
        assert_eq!(fleet.member_named("m65535"), Some(last));
        assert_eq!(fleet.member_with_key(&last.key), Some(last));
    }

    #[test]
    fn table_names_read_as_in_sql() {
        let good = [
            ("public.patient", "public", "patient"),
            ("Public.PATIENT", "public", "patient"),
            ("public.\"Patient\"", "public", "Patient"),
            ("\"a.b\".\"say \"\"hi\"\"\"", "a.b", "say \"hi\""),
            ("öffentlich.t$1", "öffentlich", "t$1"),
        ];
        for (text, schema, name) in good {
            assert_eq!(parse_table_name(text), Ok(TableName::new(schema, name)), "{text}");
        }
        let long = format!("public.{}", "x".repeat(64));
        let bad = ["", "patient", "a.b.c", ".b", "a.", "a b.c", "1a.b", "\"a.b", "a.\"\"", &long];
        for text in bad {
            assert!(parse_table_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for text in ["hub.example:7400", "10.0.0.1:1", "[::1]:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let bad =
            ["", "hub", "hub:", ":7400", "hub:0", "hub:65536", "::1:7400", "[hub]:1", "a b:1"];
        for text in bad {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_sets_and_tables_decide_the_digest() {
        let digest =
            |version, sets, members| Fleet::new(version, sets, members).unwrap().sets_digest();
        let two = || set(2, "stock", &["public.item", "public.lot"]);
        let base = digest(1, vec![set(1, "care", &["a.b"]), two()], vec![member(1, "one")]);
        let other_members = vec![member(2, "two"), member(1, "uno")];
        let reordered =
            vec![set(2, "store", &["public.lot", "public.item"]), set(1, "c", &["a.b"])];
        assert_eq!(digest(2, reordered, other_members), base);
        let moved = vec![set(1, "care", &["a.b", "public.lot"]), set(2, "stock", &["public.item"])];
        assert_ne!(digest(1, moved, vec![member(1, "one")]), base);
        let renumbered = vec![set(3, "care", &["a.b"]), two()];
        assert_ne!(digest(1, renumbered, vec![member(1, "one")]), base);
    }

    #[test]
    fn members_are_found_by_id_name_and_key() {
        let fleet =
            Fleet::new(3, vec![set(1, "care", &["a.b"])], vec![member(2, "two"), member(1, "one")])
                .unwrap();
        let two = fleet.member_named("two").unwrap();
        assert_eq!(fleet.member(two.site), Some(two));
        assert_eq!(fleet.member_with_key(&two.key), Some(two));
        assert_eq!(fleet.set_of(&TableName::new("a", "b")), Some(SetId(1)));
        assert_eq!(fleet.set_of(&TableName::new("a", "c")), None);
        assert_eq!(fleet.name_of(SiteId::new(9).unwrap()), "site 9");
        assert_eq!(fleet.version(), 3);
    }
}
