//! Values that only one row may have: which row keeps one that two sites gave away at the same time,
//! and what becomes of the other.
//!
//! The oldest claim keeps it: the row whose columns have had their values for longest. That is a matter
//! of the joined clocks alone, so sites with the same knowledge decide the same. What the other row gets
//! is a change of the deciding site's own (`fold::emission`), so sites need not even have the same rules.

use std::collections::BTreeSet;

use crate::clock::{Hlc, Stamp};
use crate::dictionary::RowId;
use crate::id::{Origin, Seq};
use crate::lattice::RowClock;
use crate::schema::ColumnId;
use crate::value::RowKey;

/// What becomes of a row whose value an older row has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loser {
    /// It is kept but shown nowhere, and comes back when the value is free.
    #[default]
    Quarantine,
    /// Its value, a text, gets an ending of its own.
    Suffix,
    /// Its value is emptied.
    Null,
}

impl Loser {
    const ALL: [Self; 3] = [Self::Quarantine, Self::Suffix, Self::Null];

    /// As in the fleet file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Suffix => "suffix",
            Self::Null => "null",
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

/// What the fleet file says of columns whose values only one row may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueRule {
    /// The columns of the index, expressions' columns among them.
    pub columns: BTreeSet<String>,
    /// What becomes of the row that has to give way.
    pub loser: Loser,
}

/// Since when a row has what only one may have. The least one is the oldest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// `None` when it is older than the log.
    since: Option<Stamp>,
    key: RowKey,
}

impl Claim {
    /// The claim of a row to the values of these columns: it is as old as the last of them.
    pub fn of(row: &RowId, clock: &RowClock, columns: &[ColumnId]) -> Self {
        let stamps = columns.iter().filter_map(|column| clock.cell(*column));
        let since = stamps.filter(|stamp| *stamp != stamp.before_the_log()).max();
        Self { since, key: row.key.clone() }
    }

    /// Who made it; what nobody wrote since there is a log was there before.
    pub fn stamp(&self, own: Origin) -> Stamp {
        self.since.unwrap_or(Stamp::new(Hlc::ZERO, own, Seq::ZERO))
    }
}

/// Hexadecimal digits of a suffix.
const SUFFIX_DIGITS: usize = 8;
/// Characters of a suffix.
pub const SUFFIX_CHARS: usize = SUFFIX_DIGITS + 1;

/// A value with an ending that no other row gives it, of at most `chars_max` characters. `None` if it
/// has that ending already, or there is no room for it.
pub fn suffixed(value: &str, key: &RowKey, chars_max: Option<usize>) -> Option<String> {
    let hash = blake3::hash(key.as_bytes()).to_hex();
    let suffix = format!("~{}", &hash.as_str()[..SUFFIX_DIGITS]);
    let room = chars_max.map_or(Some(usize::MAX), |most| most.checked_sub(SUFFIX_CHARS))?;
    if value.ends_with(&suffix) {
        return None;
    }
    let kept = value.chars().take(room);
    Some(kept.chain(suffix.chars()).collect())
}

/// Whether a text is this value with an ending that some row got, cut or not.
pub fn is_suffixed(text: &str, value: &str) -> bool {
    let Some((kept, ending)) = text.rsplit_once('~') else { return false };
    let is_digit = |letter: u8| letter.is_ascii_digit() || (b'a'..=b'f').contains(&letter);
    ending.len() == SUFFIX_DIGITS && ending.bytes().all(is_digit) && value.starts_with(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Cell, RowOp};
    use crate::id::{Incarnation, SiteId};
    use crate::schema::TableId;
    use crate::value::Value;

    fn row(key: i64) -> RowId {
        RowId { table: TableId(1), key: RowKey::new(&[Value::Int(key)]) }
    }

    fn stamp(ms: u64) -> Stamp {
        let site = SiteId::new(1).expect("not zero");
        let origin = Origin { site, incarnation: Incarnation::new(7).expect("not zero") };
        Stamp::new(Hlc::from_ms(ms), origin, Seq(ms))
    }

    #[test]
    fn who_has_a_value_for_longest_keeps_it() {
        let columns = [ColumnId(1), ColumnId(2)];
        let cell = |column| [Cell { column: ColumnId(column), value: Value::Int(1) }];
        let claim = |key, inserted: u64, updated: Option<(u64, u16)>| {
            let mut clock = RowClock::default();
            clock.join(RowOp::Insert, stamp(inserted), &[]);
            if let Some((ms, column)) = updated {
                clock.join(RowOp::Update, stamp(ms), &cell(column));
            }
            // What hides a row and brings it back leaves its claim alone.
            clock.join(RowOp::Quarantine, stamp(90), &cell(1));
            clock.join(RowOp::Return, stamp(91), &[]);
            Claim::of(&row(key), &clock, &columns)
        };
        let older = Claim::of(&row(9), &RowClock::default(), &columns);
        let sorted = [
            older,
            claim(5, 3, Some((8, 3))),
            claim(6, 3, None),
            claim(1, 2, Some((4, 2))),
            claim(2, 7, None),
        ];
        assert!(sorted.is_sorted(), "{sorted:?}");
    }

    #[test]
    fn an_ending_fits_and_is_given_once() {
        let key = row(1).key;
        let whole = suffixed("ann", &key, None).expect("there is room");
        assert!(whole.starts_with("ann~") && whole.len() == 12, "{whole}");
        assert_eq!(suffixed(&whole, &key, None), None);
        assert_ne!(suffixed("ann", &row(2).key, None).as_ref(), Some(&whole));
        let cut = suffixed("änne", &key, Some(11)).expect("there is room");
        assert!(cut.starts_with("än~") && cut.chars().count() == 11, "{cut}");
        assert_eq!(suffixed("ann", &key, Some(8)), None);
        assert!(is_suffixed(&whole, "ann") && is_suffixed(&cut, "änne"));
        assert!(!is_suffixed(&whole, "bob") && !is_suffixed("ann", "ann"));
        assert!(!is_suffixed("ann~1234567", "ann") && !is_suffixed("ann~x2345678", "ann"));
    }
}
