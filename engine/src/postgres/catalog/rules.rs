//! The merge rules of a table: those of the fleet file, and the groups that its constraints make.

use std::collections::BTreeSet;

use landfall_protocol::decimal::Decimal;
use landfall_protocol::merged::Kind;
use landfall_protocol::schema::rules::{Bounds, ColumnRule, Rules, TableRules};

use super::LocalTable;

/// What the fleet file says of a table, with its column groups. Columns that stand together in a
/// CHECK, a composite foreign key or a composite UNIQUE are one cell: half of what one site wrote
/// and half of what another did may break what each of them kept.
pub(super) fn of(table: &LocalTable, declared: Option<&Rules<String>>) -> TableRules {
    let declared = declared.cloned().unwrap_or_default();
    let constraints = table.checks.iter().chain(&table.exclusions);
    let together = constraints
        .map(|constraint| &constraint.columns)
        .chain(table.foreign_keys.iter().map(|key| &key.columns))
        .chain(table.unique.iter().map(|index| &index.columns))
        .map(|columns| columns.iter().cloned().collect())
        .chain(declared.groups.iter().cloned());
    let key: BTreeSet<&String> = table.key_columns.iter().map(|column| &column.name).collect();
    let stands = |column: &String| {
        !key.contains(column) && declared.column(column) == ColumnRule::LastWriterWins
    };
    let groups = disjoint(together.map(|mut columns: BTreeSet<String>| {
        columns.retain(stands);
        columns
    }));
    let mut rules = Rules { groups, ..declared };
    rules.collations.extend(table.claims.iter().filter_map(|index| {
        let by: Vec<String> = index.loose_collations().map(ToString::to_string).collect();
        (!by.is_empty()).then(|| (index.columns.join(", "), by.join(", ")))
    }));
    let counters = rules.columns.iter().filter(|(_, rule)| rule.kind() == Some(Kind::Counter));
    for (column, _) in counters {
        let bounds = bounds_of(table, column);
        if bounds != Bounds::default() {
            rules.bounds.insert(column.clone(), bounds);
        }
    }
    rules.renamed(|column| table.def.column(column))
}

/// What a column of a counter can hold, by its type and by the CHECKs that are understood.
fn bounds_of(table: &LocalTable, column: &str) -> Bounds {
    let def = table.def.column(column).and_then(|id| table.def.column_def(id));
    let by_type = def.and_then(|def| bounds_of_type(&def.type_name)).unwrap_or_default();
    let checks = table.checks.iter().filter(|check| check.columns == [column]);
    let asked = checks.filter_map(|check| bounds_of_check(column, &check.expression));
    asked.fold(by_type, Bounds::and)
}

/// What the numbers of a type are; `None` for a type whose columns cannot be counters.
pub(crate) fn bounds_of_type(type_name: &str) -> Option<Bounds> {
    let ends = |least: i64, most: i64| Bounds {
        least: Decimal::parse(&least.to_string()),
        most: Decimal::parse(&most.to_string()),
    };
    match type_name {
        "smallint" => Some(ends(i16::MIN.into(), i16::MAX.into())),
        "integer" => Some(ends(i32::MIN.into(), i32::MAX.into())),
        "bigint" => Some(ends(i64::MIN, i64::MAX)),
        "numeric" => Some(Bounds::default()),
        _ => {
            let modifier = type_name.strip_prefix("numeric(")?.strip_suffix(')')?;
            let (precision, scale) = modifier.split_once(',')?;
            let (precision, scale): (usize, i32) = (precision.parse().ok()?, scale.parse().ok()?);
            // A scale below zero rounds, and one beyond the precision is a fraction: neither counts.
            let scale = usize::try_from(scale).ok().filter(|scale| *scale <= precision)?;
            let whole = match precision - scale {
                0 => "0".to_owned(),
                digits => "9".repeat(digits),
            };
            let point = if scale == 0 { "" } else { "." };
            let most = format!("{whole}{point}{}", "9".repeat(scale));
            let least = Decimal::parse(&format!("-{most}"));
            Some(Bounds { least, most: Decimal::parse(&most) })
        }
    }
}

/// What a CHECK that compares one column with numbers asks of it; `None` when it asks anything else.
/// PostgreSQL prints conditions in one form, each in brackets, with casts behind constants.
pub(crate) fn bounds_of_check(column: &str, expression: &str) -> Option<Bounds> {
    let mut bounds = Bounds::default();
    for condition in expression.split(" AND ") {
        let condition = condition.trim_matches(['(', ')', ' ']);
        let operators = [" >= ", " <= ", " > ", " < "];
        let operator = operators.into_iter().find(|operator| condition.contains(operator))?;
        let (left, right) = condition.split_once(operator)?;
        if left.trim_matches('"') != column {
            return None;
        }
        let number = constant(right)?;
        // Whole numbers and those behind the point differ by what is next to a number: unknown here.
        bounds = bounds.and(match operator {
            " >= " => Bounds { least: Some(number), most: None },
            " <= " => Bounds { least: None, most: Some(number) },
            _ => return None,
        });
    }
    Some(bounds)
}

/// A number as PostgreSQL prints constants: `0`, `'-5'::integer`, `(0)::numeric`, `('-5'::integer)::numeric`.
fn constant(text: &str) -> Option<Decimal> {
    let number = text.split("::").next()?;
    let casts = text.split("::").skip(1).map(|cast| cast.trim_matches([')', ' ']));
    let known = ["smallint", "integer", "bigint", "numeric"];
    let mut casts = casts.map(|cast| known.contains(&cast));
    casts
        .all(|is_known| is_known)
        .then(|| number.trim_matches(['(', ')', '\'', ' ']))
        .and_then(Decimal::parse)
}

/// Joins groups that share a column.
fn disjoint(groups: impl Iterator<Item = BTreeSet<String>>) -> BTreeSet<BTreeSet<String>> {
    let mut done: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for mut group in groups.filter(|group| group.len() > 1) {
        let (touched, apart) = done.into_iter().partition(|other| !other.is_disjoint(&group));
        let touched: BTreeSet<BTreeSet<String>> = touched;
        group.extend(touched.into_iter().flatten());
        done = apart;
        done.insert(group);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_shows_what_its_column_can_hold() {
        let ends = |bounds: Option<Bounds>| {
            let bounds = bounds?;
            let end = |end: Option<Decimal>| end.map_or("-".to_owned(), |end| end.to_string());
            Some(format!("{} to {}", end(bounds.least), end(bounds.most)))
        };
        let of_type = |name| ends(bounds_of_type(name));
        assert_eq!(of_type("smallint").as_deref(), Some("-32768 to 32767"));
        assert_eq!(of_type("numeric(6,2)").as_deref(), Some("-9999.99 to 9999.99"));
        assert_eq!(of_type("numeric(2,2)").as_deref(), Some("-0.99 to 0.99"));
        assert_eq!(of_type("numeric").as_deref(), Some("- to -"));
        assert_eq!((of_type("double precision"), of_type("numeric(2,-3)")), (None, None));
        let of_check = |expression| ends(bounds_of_check("q", expression));
        assert_eq!(of_check("(q >= 0)").as_deref(), Some("0 to -"));
        assert_eq!(of_check("((q >= '-5'::integer) AND (q <= 10))").as_deref(), Some("-5 to 10"));
        assert_eq!(of_check("(q >= (0)::numeric)").as_deref(), Some("0 to -"));
        assert_eq!(of_check("(q <= ('-1.5'::numeric)::numeric)").as_deref(), Some("- to -1.5"));
        for other in ["(q > 0)", "((q % 2) = 0)", "(q >= p)", "((q >= 0) OR (q <= 5))", "(p >= 0)"]
        {
            assert_eq!(of_check(other), None, "{other}");
        }
    }

    #[test]
    fn groups_that_share_a_column_are_one() {
        let groups = ["ab", "cd", "e", "bc", "fg"];
        let groups = groups.map(|names| names.chars().map(String::from).collect());
        let joined = disjoint(groups.into_iter());
        let names: Vec<String> = joined.into_iter().map(|g| g.into_iter().collect()).collect();
        assert_eq!(names, ["abcd", "fg"]);
    }
}
