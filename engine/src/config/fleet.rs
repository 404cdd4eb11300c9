//! From what the fleet file says to a checked [`Fleet`].

use std::path::Path;

use landfall_protocol::fleet::{Address, Fleet, Member, Role, Set, parse_table_name};
use landfall_protocol::id::{PublicKey, SiteId};
use landfall_protocol::schema::rules::{ColumnRule, DeleteRule, Rules};
use landfall_protocol::schema::{SetId, TableName};
use landfall_protocol::unique::{Loser, UniqueRule};

use super::{ConfigError, raw};
use crate::identity;

/// Reads and checks a fleet file.
///
/// # Errors
/// The first thing wrong, with the key.
pub fn load_fleet(file: &Path) -> Result<Fleet, ConfigError> {
    let raw: raw::Fleet = raw::read(file)?;
    check(raw).map_err(|Wrong { key, problem }| ConfigError::Invalid {
        file: file.to_owned(),
        line: None,
        key,
        problem,
    })
}

/// The key that is wrong, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Wrong {
    key: String,
    problem: String,
}

impl Wrong {
    fn new(key: String, problem: impl ToString) -> Self {
        Self { key, problem: problem.to_string() }
    }
}

pub(super) fn check(raw: raw::Fleet) -> Result<Fleet, Wrong> {
    let sets = raw.set.into_iter().enumerate().map(|(index, set)| check_set(index, set));
    let sets = sets.collect::<Result<_, Wrong>>()?;
    let members = raw.member.into_iter().enumerate();
    let members = members.map(|(index, member)| check_member(index, member));
    let members = members.collect::<Result<_, Wrong>>()?;
    let tables = raw.table.iter().enumerate();
    let unique = tables.map(|(index, table)| check_unique(index, table));
    let unique = unique.collect::<Result<_, Wrong>>()?;
    let rules = raw.table.into_iter().enumerate().map(|(index, table)| check_rules(index, table));
    let rules = rules.collect::<Result<_, Wrong>>()?;
    let fleet = Fleet::new(raw.version, sets, members)
        .and_then(|fleet| fleet.with_rules(rules)?.with_unique(unique));
    fleet.map_err(|error| Wrong::new(error.path, error.rule))
}

fn check_rules(index: usize, raw: raw::Table) -> Result<(TableName, Rules<String>), Wrong> {
    let at = |field: &str| format!("table[{index}].{field}");
    let name = parse_table_name(&raw.name).map_err(|rule| Wrong::new(at("name"), rule))?;
    let mut rules = Rules::default();
    for (column, rule) in raw.columns {
        let unknown = || format!("must be one of {}, found {rule:?}", ColumnRule::names());
        let at = || at(&format!("columns.{column}"));
        let known = ColumnRule::named(&rule).ok_or_else(|| Wrong::new(at(), unknown()))?;
        if known != ColumnRule::default() {
            rules.columns.insert(column, known);
        }
    }
    let groups = raw.groups.into_iter().map(|group| group.into_iter().collect());
    rules.groups = groups.collect();
    if let Some(rule) = raw.deletes {
        let unknown = || format!("must be one of {}, found {rule:?}", DeleteRule::names());
        let known = DeleteRule::named(&rule);
        rules.deletes = known.ok_or_else(|| Wrong::new(at("deletes"), unknown()))?;
    }
    Ok((name, rules))
}

fn check_unique(index: usize, raw: &raw::Table) -> Result<(TableName, Vec<UniqueRule>), Wrong> {
    let name = parse_table_name(&raw.name);
    let name = name.map_err(|rule| Wrong::new(format!("table[{index}].name"), rule))?;
    let rules = raw.unique.iter().enumerate().map(|(place, unique)| {
        let columns = unique.columns.iter().cloned().collect();
        let Some(rule) = &unique.loser else {
            return Ok(UniqueRule { columns, loser: Loser::default() });
        };
        let unknown = || format!("must be one of {}, found {rule:?}", Loser::names());
        let at = || format!("table[{index}].unique[{place}].loser");
        let loser = Loser::named(rule).ok_or_else(|| Wrong::new(at(), unknown()))?;
        Ok(UniqueRule { columns, loser })
    });
    Ok((name, rules.collect::<Result<_, Wrong>>()?))
}

fn check_set(index: usize, raw: raw::Set) -> Result<Set, Wrong> {
    let tables = raw.tables.iter().enumerate().map(|(position, table)| {
        parse_table_name(table)
            .map_err(|rule| Wrong::new(format!("set[{index}].tables[{position}]"), rule))
    });
    let tables = tables.collect::<Result<_, Wrong>>()?;
    Ok(Set { id: SetId(raw.id), name: raw.name, tables, full_history: raw.full_history })
}

fn check_member(index: usize, raw: raw::Member) -> Result<Member, Wrong> {
    let at = |field: &str| format!("member[{index}].{field}");
    let site = SiteId::new(raw.id)
        .ok_or_else(|| Wrong::new(at("id"), "a member's id must be from 1 to 65535"))?;
    let key = raw.key.parse::<PublicKey>().map_err(|error| Wrong::new(at("key"), error))?;
    identity::check(&key).map_err(|error| Wrong::new(at("key"), error))?;
    let addresses = raw.addresses.iter().enumerate().map(|(position, address)| {
        let parsed = address.parse::<Address>();
        parsed.map_err(|rule| Wrong::new(at(&format!("addresses[{position}]")), rule))
    });
    let addresses = addresses.collect::<Result<_, Wrong>>()?;
    let role = match raw.role.as_deref() {
        None | Some("site") => Role::Site,
        Some("hub") => Role::Hub,
        Some(other) => {
            let problem = format!("must be \"site\" or \"hub\", found {other:?}");
            return Err(Wrong::new(at("role"), problem));
        }
    };
    Ok(Member { site, name: raw.name, key, addresses, role })
}
