//! The model of a line: what becomes of a datagram, and when it comes out.
//!
//! A datagram meets, in this order: an outage, the queue and the rate, loss, delay, duplication.
//! Chance comes from a fixed seed, so datagram number n has the same luck in every run.

use std::f64::consts::TAU;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;

/// The profiles by name, as text.
const PROFILES: &str = include_str!("profiles.toml");
/// How long the delay takes to wander once up and down.
const WANDER: Duration = Duration::from_secs(7);

/// Bursts of loss.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bursts {
    p: f64,
    r: f64,
    #[serde(default = "always")]
    bad: f64,
    #[serde(default)]
    good: f64,
    #[serde(default = "usual_slot_ms")]
    slot_ms: f64,
}

fn always() -> f64 {
    1.0
}

fn usual_slot_ms() -> f64 {
    10.0
}

/// One direction of a link. The default is open, without delay and loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Direction {
    rate_kbit: f64,
    queue_bytes: f64,
    delay_ms: f64,
    jitter_ms: f64,
    loss: f64,
    ge: Option<Bursts>,
    reorder: f64,
    reorder_ms: f64,
    duplicate: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outage {
    up_s: f64,
    down_s: f64,
    #[serde(default)]
    phase_s: f64,
}

/// A kind of link, one of `profiles.toml`. The default is open, without delay and loss.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    about: String,
    up: Direction,
    down: Direction,
    outage: Option<Outage>,
}

impl Profile {
    /// The profile of this name.
    ///
    /// # Errors
    /// Names those there are when there is none of this name.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let all = Self::all()?;
        let names = || all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|(known, _)| known == name);
        Ok(found.with_context(|| format!("no profile {name}; there are {}", names()))?.1.clone())
    }

    /// All of them with their names.
    ///
    /// # Errors
    /// The file of profiles does not parse.
    pub fn all() -> anyhow::Result<Vec<(String, Self)>> {
        let tables: toml::Table = PROFILES.parse().context("profiles.toml")?;
        let read = |(name, value): (String, toml::Value)| {
            let profile = Self::read(value).with_context(|| format!("profile {name}"))?;
            Ok((name, profile))
        };
        tables.into_iter().map(read).collect()
    }

    /// What it stands for.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// This link with independent loss of probability `p` both ways.
    #[must_use]
    pub fn with_loss(mut self, p: f64) -> Self {
        (self.up.loss, self.down.loss) = (p, p);
        self
    }

    /// This link with so many kilobits per second each way, which wait for each other without limit.
    #[must_use]
    pub fn with_rate(mut self, kbit: f64) -> Self {
        for way in [&mut self.up, &mut self.down] {
            (way.rate_kbit, way.queue_bytes) = (kbit, 1e9);
        }
        self
    }

    /// This link with a delay of `ms` milliseconds each way.
    #[must_use]
    pub fn with_delay(mut self, ms: f64) -> Self {
        (self.up.delay_ms, self.down.delay_ms) = (ms, ms);
        self
    }

    /// This link without outages.
    #[must_use]
    pub fn without_outages(mut self) -> Self {
        self.outage = None;
        self
    }

    /// This link, up for `up_s` seconds and then down for `down_s`, again and again.
    #[must_use]
    pub fn with_outages(mut self, up_s: f64, down_s: f64) -> Self {
        self.outage = Some(Outage { up_s, down_s, phase_s: 0.0 });
        self
    }

    /// What can be had of the line from the caller to the target, in bytes of packets per second: its
    /// rate, less what is lost on average, less the time it is down. `None` where it has no limit.
    pub fn capacity_up(&self) -> Option<f64> {
        self.capacity(&self.up)
    }

    /// As [`Profile::capacity_up`], the other way.
    pub fn capacity_down(&self) -> Option<f64> {
        self.capacity(&self.down)
    }

    fn capacity(&self, direction: &Direction) -> Option<f64> {
        if direction.rate_kbit <= 0.0 {
            return None;
        }
        let burst = direction.ge.map_or(0.0, |ge| (ge.p * ge.bad + ge.r * ge.good) / (ge.p + ge.r));
        let up = self.outage.map_or(1.0, |outage| outage.up_s / (outage.up_s + outage.down_s));
        Some(direction.rate_kbit * 125.0 * (1.0 - direction.loss) * (1.0 - burst) * up)
    }

    fn read(value: toml::Value) -> anyhow::Result<Self> {
        let mut shared: toml::Table = value.try_into()?;
        let about = match shared.remove("about") {
            Some(about) => about.try_into()?,
            None => String::new(),
        };
        let outage = shared.remove("outage").map(toml::Value::try_into).transpose()?;
        let own = [shared.remove("up"), shared.remove("down")];
        let [up, down] = own.map(|own| {
            let mut keys = shared.clone();
            if let Some(own) = own {
                keys.extend(own.try_into::<toml::Table>()?);
            }
            anyhow::Ok(keys.try_into::<Direction>()?)
        });
        Ok(Self { about, up: up?, down: down?, outage })
    }
}

impl Outage {
    fn is_down(&self, since_start: Duration) -> bool {
        let period = self.up_s + self.down_s;
        (since_start.as_secs_f64() + self.phase_s).rem_euclid(period) >= self.up_s
    }
}

/// What becomes of a datagram that was not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) at: Instant,
    /// It may be overtaken by those behind it.
    pub(super) held_back: bool,
    pub(super) twice: bool,
}

/// One direction at work.
#[derive(Debug)]
pub(super) struct Line {
    direction: Direction,
    outage: Option<Outage>,
    start: Instant,
    /// When everything in the queue has left.
    free_at: Instant,
    /// The last one in order comes out then; none may do so earlier.
    last_out: Instant,
    in_burst: bool,
    /// When the state of bursts last took a step.
    stepped: Instant,
    luck: u64,
}

/// Both directions of a link that begins now.
pub(super) fn lines(profile: &Profile, now: Instant) -> [Line; 2] {
    let line = |direction: Direction, luck| Line {
        direction,
        outage: profile.outage,
        start: now,
        free_at: now,
        last_out: now,
        in_burst: false,
        stepped: now,
        luck,
    };
    [line(profile.up, 0x9e37_79b9_7f4a_7c15), line(profile.down, 0xd1b5_4a32_d192_ed03)]
}

impl Line {
    /// When a packet of so many bytes, headers included, comes out; `None` if it is lost.
    pub(super) fn take_in(&mut self, bytes: usize, now: Instant) -> Option<Passage> {
        let luck = [self.draw(), self.draw(), self.draw(), self.draw()];
        let leaves = self.leave_queue(bytes, now)?;
        if self.outage.is_some_and(|outage| outage.is_down(leaves - self.start)) {
            return None;
        }
        let burst = self.step_burst(now);
        if luck[0] < self.direction.loss || luck[1] < burst {
            return None;
        }
        let wave = ((leaves - self.start).as_secs_f64() / WANDER.as_secs_f64() * TAU).sin();
        let delay_ms = self.direction.delay_ms + self.direction.jitter_ms * wave;
        let out = leaves + Duration::from_secs_f64(delay_ms.max(0.0) / 1000.0);
        let twice = luck[2] < self.direction.duplicate;
        if luck[3] < self.direction.reorder {
            let at = out + Duration::from_secs_f64(self.direction.reorder_ms / 1000.0);
            return Some(Passage { at, held_back: true, twice });
        }
        self.last_out = self.last_out.max(out);
        Some(Passage { at: self.last_out, held_back: false, twice })
    }

    /// When its last bit has left, unless the queue is full.
    fn leave_queue(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        if self.direction.rate_kbit <= 0.0 {
            return Some(now);
        }
        let bytes_per_second = self.direction.rate_kbit * 125.0;
        let waits = self.free_at.saturating_duration_since(now);
        let queued = waits.as_secs_f64() * bytes_per_second;
        if queued + bytes as f64 > self.direction.queue_bytes {
            return None;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / bytes_per_second);
        self.free_at = self.free_at.max(now) + takes;
        Some(self.free_at)
    }

    /// The probability of loss by a burst now.
    fn step_burst(&mut self, now: Instant) -> f64 {
        let Some(ge) = self.direction.ge else { return 0.0 };
        let slots = (now - self.stepped).as_secs_f64() * 1000.0 / ge.slot_ms;
        self.stepped = now;
        // Bursts are over after a few steps, so a long silence needs no more of them.
        for _ in 0..(slots as u32).clamp(1, 100) {
            let turn = self.draw();
            self.in_burst = if self.in_burst { turn >= ge.r } else { turn < ge.p };
        }
        if self.in_burst { ge.bad } else { ge.good }
    }

    /// The next number of a fixed sequence (xorshift64), in [0, 1).
    fn draw(&mut self) -> f64 {
        self.luck ^= self.luck << 13;
        self.luck ^= self.luck >> 7;
        self.luck ^= self.luck << 17;
        let bits = u32::try_from(self.luck >> 32).expect("32 bits");
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(keys: &str) -> (Line, Instant) {
        let profile = Profile::read(keys.parse::<toml::Table>().unwrap().into()).unwrap();
        let now = Instant::now();
        let [up, _] = lines(&profile, now);
        (up, now)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn every_profile_reads_and_directions_differ_where_told() {
        let all = Profile::all().unwrap();
        assert!(all.len() >= 8 && all.iter().all(|(_, profile)| !profile.about().is_empty()));
        let vsat = Profile::named("vsat-geo").unwrap();
        assert_eq!((vsat.up.rate_kbit, vsat.down.rate_kbit), (512.0, 2000.0));
        assert_eq!((vsat.up.delay_ms, vsat.down.delay_ms), (300.0, 300.0));
        let unknown = Profile::named("vsat").unwrap_err().to_string();
        assert!(unknown.contains("there are") && unknown.contains("vsat-geo"), "{unknown}");
        assert!(
            Profile::read("loss = 0.1\nlos = 1".parse::<toml::Table>().unwrap().into()).is_err()
        );
    }

    #[test]
    fn datagrams_leave_one_after_the_other_and_a_full_queue_drops() {
        // 8 kbit/s are 1,000 bytes per second.
        let (mut line, now) = line("rate_kbit = 8\nqueue_bytes = 2000\ndelay_ms = 5");
        let out = |passage: Option<Passage>| passage.map(|passage| passage.at - now);
        assert_eq!(out(line.take_in(1000, now)), Some(ms(1005)));
        assert_eq!(out(line.take_in(1000, now)), Some(ms(2005)));
        assert_eq!(line.take_in(1000, now), None);
        assert_eq!(out(line.take_in(1000, now + ms(1000))), Some(ms(3005)));
    }

    #[test]
    fn loss_is_as_frequent_as_told() {
        let (mut line, now) = line("loss = 0.1");
        let lost = (0..10_000).filter(|_| line.take_in(100, now).is_none()).count();
        assert!((900..1100).contains(&lost), "{lost} of 10,000");
    }

    #[test]
    fn bursts_lose_several_in_a_row() {
        let (mut line, now) = line("ge = { p = 0.01, r = 0.2 }");
        let fates: Vec<bool> = (0..20_000).map(|_| line.take_in(100, now).is_none()).collect();
        let lost = fates.iter().filter(|lost| **lost).count();
        let runs = fates.windows(2).filter(|pair| pair[1] && !pair[0]).count();
        // p / (p + r) of them, 1 / r at a time.
        assert!((700..1200).contains(&lost), "{lost} of 20,000");
        assert!((3.5..7.0).contains(&(lost as f64 / runs as f64)), "{lost} in {runs} runs");
    }

    #[test]
    fn an_outage_comes_and_goes() {
        let (mut line, now) = line("outage = { up_s = 2, down_s = 1 }");
        let fates = [0, 1999, 2001, 2999, 3001, 5001].map(|at| line.take_in(9, now + ms(at)));
        assert_eq!(fates.map(|fate| fate.is_some()), [true, true, false, false, true, false]);
    }

    #[test]
    fn only_what_is_held_back_is_overtaken() {
        let (mut line, now) = line("delay_ms = 20\njitter_ms = 10\nreorder = 0.2\nreorder_ms = 30");
        let mut last = now;
        let mut held_back = 0;
        for at in 0..1000 {
            let passage = line.take_in(9, now + ms(at)).unwrap();
            if passage.held_back {
                held_back += 1;
            } else {
                assert!(passage.at >= last, "overtaken at {at} ms");
                last = passage.at;
            }
        }
        assert!((150..250).contains(&held_back), "{held_back} of 1,000");
    }
}
