//! The `[[peer]]` sections: what the operator wants of the link with one member.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use landfall_protocol::fleet::Member;
use landfall_protocol::id::SiteId;

use super::check::Check;
use super::{ConfigError, raw};
use crate::time::calendar::Window;

const BUDGET_BYTES: RangeInclusive<u64> = 1..=1 << 50;
const PRICE_MAX: f64 = 1e9;
const CALL_EVERY_S: RangeInclusive<u64> = 60..=2_678_400;
const CALL_EVERY_S_DEFAULT: u64 = 3_600;
/// Signs of life more often than this would never let a link be quiet.
const KEEP_ALIVE_S_MIN: u64 = 10;
const WINDOWS_MAX: usize = 24;
const CURRENCY_BYTES_MAX: usize = 16;

/// What the operator wants of the link with one member. The default wants nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Bytes, to the member and from it together, after which there is no link until the next
    /// calendar month (UTC); `None` = as many as there are.
    pub budget: Option<u64>,
    /// What a byte costs; `None` = not told.
    pub price: Option<Price>,
    /// Outside of all of them there is no link; empty = at any time.
    pub windows: Vec<Window>,
    /// Whether to hang up when nothing is left to say; `None` = the link stays up.
    pub hang_up: Option<HangUp>,
}

impl PeerPolicy {
    /// Whether each byte of the link counts.
    pub fn is_metered(&self) -> bool {
        self.budget.is_some() || self.price.is_some()
    }
}

/// What happens to a link that is hung up when nothing is left to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HangUp {
    /// How long after that the member is called again.
    pub call_every: Duration,
    /// When else.
    pub news: News,
}

/// Whether the member is called as soon as there is something new to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is.
    Calls,
    /// It waits for the next call.
    Waits,
}

/// What a link costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// For 1,000,000 bytes, in millionths of the currency.
    pub millionths_per_mb: u64,
    /// What the operator calls the money; may be empty.
    pub currency: String,
}

impl Price {
    /// What so many bytes cost, in millionths of the currency.
    pub fn of(&self, bytes: u64) -> u64 {
        let cost = u128::from(bytes) * u128::from(self.millionths_per_mb) / 1_000_000;
        u64::try_from(cost).unwrap_or(u64::MAX)
    }
}

impl Check<'_> {
    pub(super) fn peers(
        &self,
        raw: Vec<raw::Peer>,
        me: &Member,
        keep_alive: Option<Duration>,
    ) -> Result<BTreeMap<SiteId, PeerPolicy>, ConfigError> {
        let mut peers = BTreeMap::new();
        for (position, raw) in raw.into_iter().enumerate() {
            let key = |key: &str| format!("peer[{position}].{key}");
            let site = self.other_member(&key("name"), &raw.name, me)?.site;
            if peers.contains_key(&site) {
                let problem = format!("{:?} has a section already", raw.name);
                return Err(self.wrong(&key("name"), problem));
            }
            peers.insert(site, self.policy(raw, key, keep_alive)?);
        }
        Ok(peers)
    }

    fn policy(
        &self,
        raw: raw::Peer,
        key: impl Fn(&str) -> String,
        keep_alive: Option<Duration>,
    ) -> Result<PeerPolicy, ConfigError> {
        let budget = match raw.budget_bytes_per_month {
            None => None,
            given => Some(self.number(&key("budget_bytes_per_month"), given, 0, &BUDGET_BYTES)?),
        };
        let price = self.price(raw.price_per_mb, raw.currency, &key)?;
        let windows = self.windows(raw.windows_utc, &key)?;
        let every_s = self.number(
            &key("call_every_s"),
            raw.call_every_s,
            CALL_EVERY_S_DEFAULT,
            &CALL_EVERY_S,
        )?;
        let news = if raw.call_for_news.unwrap_or(true) { News::Calls } else { News::Waits };
        let hang_up = HangUp { call_every: Duration::from_secs(every_s), news };
        let hang_up = raw.hang_up_when_drained.unwrap_or(false).then_some(hang_up);
        let without = "means nothing without hang_up_when_drained = true";
        if hang_up.is_none() && raw.call_every_s.is_some() {
            return Err(self.wrong(&key("call_every_s"), without));
        }
        if hang_up.is_none() && raw.call_for_news.is_some() {
            return Err(self.wrong(&key("call_for_news"), without));
        }
        if hang_up.is_some() && keep_alive.is_some_and(|every| every.as_secs() < KEEP_ALIVE_S_MIN) {
            let problem = format!(
                "link.keep_alive_s must be 0 or at least {KEEP_ALIVE_S_MIN}, or the link is never quiet"
            );
            return Err(self.wrong(&key("hang_up_when_drained"), problem));
        }
        Ok(PeerPolicy { budget, price, windows, hang_up })
    }

    fn windows(
        &self,
        texts: Option<Vec<String>>,
        key: impl Fn(&str) -> String,
    ) -> Result<Vec<Window>, ConfigError> {
        let Some(texts) = texts else { return Ok(Vec::new()) };
        if texts.is_empty() || texts.len() > WINDOWS_MAX {
            let found = texts.len();
            let problem = format!("must have from 1 to {WINDOWS_MAX} windows, found {found}");
            return Err(self.wrong(&key("windows_utc"), problem));
        }
        let read = |(place, text): (usize, &String)| {
            Window::parse(text).ok_or_else(|| {
                let problem =
                    format!("must be a time of day such as \"22:00-06:00\", found {text:?}");
                self.wrong(&key(&format!("windows_utc[{place}]")), problem)
            })
        };
        texts.iter().enumerate().map(read).collect()
    }

    fn price(
        &self,
        per_mb: Option<f64>,
        currency: Option<String>,
        key: impl Fn(&str) -> String,
    ) -> Result<Option<Price>, ConfigError> {
        let Some(per_mb) = per_mb else {
            return match currency {
                None => Ok(None),
                Some(_) => Err(self.wrong(&key("currency"), "means nothing without price_per_mb")),
            };
        };
        if !(0.0..=PRICE_MAX).contains(&per_mb) {
            let problem = format!("must be from 0 to {PRICE_MAX}, found {per_mb}");
            return Err(self.wrong(&key("price_per_mb"), problem));
        }
        let currency = currency.unwrap_or_default();
        if currency.len() > CURRENCY_BYTES_MAX || currency.chars().any(char::is_control) {
            let problem = format!("must be a word of at most {CURRENCY_BYTES_MAX} bytes");
            return Err(self.wrong(&key("currency"), problem));
        }
        // Within the range above this is exact enough, and fits.
        let millionths_per_mb = (per_mb * 1e6).round() as u64;
        Ok(Some(Price { millionths_per_mb, currency }))
    }
}
