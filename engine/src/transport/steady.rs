//! How much may be in flight: what the line delivers, times its shortest round trip, and a little more.
//!
//! QUIC's usual answer (cubic) takes every loss for a sign that it sends too fast. On links that lose
//! packets by themselves that leaves most of the line unused: 5 % of loss at 8 Mbit/s, a sixth of the
//! rate (m). BBR fills the line and pays for it: two and a half bytes for each useful one at 22 kbit/s
//! (m). This controller
//! - measures the rate at which acknowledgements come in and the shortest round trip, and keeps a little
//!   more than their product in flight, so that the queue in front of the line is short and never empty;
//! - minds loss only when it is so frequent that the queue must be overflowing;
//! - in a silence, as in an outage, lets one packet through from time to time in addition to what is in
//!   flight, so that the end of the outage is noticed within seconds. QUIC's own probes come at twice the
//!   distance each time.
//!
//! On a short line, the round trip tells more about schedulers than about the line; there is always
//! room for so much in flight that it does not matter.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use crate::time;

/// Round trips over which the highest rate counts.
const ROUNDS: usize = 10;
/// In flight, of rate times round trip.
const GAIN: f64 = 1.4;
/// In flight beyond rate times round trip, at least: of few packets, it takes most to find out that one
/// was lost.
const SPARE_PACKETS: f64 = 3.0;
/// The same while the shortest round trip is looked for anew.
const PROBE_GAIN: f64 = 0.75;
/// In flight at most at the start, while the rate still rises with it.
const STARTUP_GAIN: f64 = 2.3;
/// Rise of the rate in one round trip that says that there is more to be had.
const STARTUP_RISE: f64 = 1.25;
/// Round trips without such a rise that end the start.
const STARTUP_FLAT: u8 = 2;
/// Room for acknowledgements that come late or in clumps, in seconds of the rate.
const SLACK_S: f64 = 0.005;
/// The part of packets that may be lost before less is sent, judged over this many.
const LOSS_MAX: f64 = 0.2;
const LOSS_PACKETS: u64 = 50;
/// Less is never in flight, in packets.
const FLOOR_PACKETS: u64 = 4;
/// A round trip below this is of a short line, over which this much is always in flight.
const SHORT: Duration = Duration::from_millis(5);
const SHORT_BYTES: u64 = 256 << 10;
/// How long the shortest round trip is believed, at least and in round trips.
const BELIEVED: Duration = Duration::from_secs(15);
const BELIEVED_ROUNDS: u32 = 30;
/// No answer for so long, and for three round trips, is a silence.
const PATIENCE: Duration = Duration::from_secs(1);
/// The least time between packets that are let through in a silence; over half a minute, more.
const KNOCK: Duration = Duration::from_secs(1);
const KNOCK_LATER: Duration = Duration::from_secs(5);
const KNOCK_SOON_FOR: Duration = Duration::from_secs(30);
/// Packets that go at once when an old one is acknowledged after a silence.
const WELCOME: u64 = 2;
/// Who has not sent for so long, and for two times the patience, does not wait for an answer.
const IDLE: Duration = Duration::from_secs(10);
/// Moments of sending that are remembered.
const SENT_MAX: usize = 20_000;

/// Makes a controller for each connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct SteadyConfig {
    /// In flight before anything is known, in bytes.
    pub(super) initial_window: u64,
}

impl ControllerFactory for SteadyConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Steady::new(*self, now, mtu))
    }
}

/// A moment of sending, with what was known then.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
}

/// What is measured of the line.
#[derive(Debug, Clone)]
struct Line {
    /// Bytes per second, the best of each of the last round trips.
    rates: [u64; ROUNDS],
    round: usize,
    /// The round trip is over when this much was delivered.
    round_end: u64,
    shortest: Option<Duration>,
    shortest_at: Instant,
    /// Until when the shortest round trip is looked for anew, and what was found.
    probe: Option<(Instant, Duration)>,
}

impl Line {
    fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    /// Rate times round trip, in bytes.
    fn product(&self) -> f64 {
        self.shortest.map_or(0.0, |rtt| self.rate() as f64 * rtt.as_secs_f64())
    }

    fn is_short(&self) -> bool {
        self.shortest.is_some_and(|rtt| rtt < SHORT)
    }

    fn note_rate(&mut self, rate: u64) {
        let best = &mut self.rates[self.round % ROUNDS];
        *best = (*best).max(rate);
    }

    fn note_round_trip(&mut self, rtt: Duration, now: Instant) {
        if let Some((_, found)) = &mut self.probe {
            *found = rtt.min(*found);
        }
        if self.shortest.is_none_or(|shortest| rtt <= shortest) {
            self.shortest = Some(rtt);
            self.shortest_at = now;
        }
    }

    /// Every now and then sends a little less for two round trips, or a queue of our own making would
    /// pass for the length of the line for ever.
    fn renew_shortest(&mut self, rtt: Duration, now: Instant) {
        let shortest = self.shortest.unwrap_or(rtt);
        match self.probe {
            None if now - self.shortest_at > BELIEVED.max(shortest * BELIEVED_ROUNDS) => {
                self.probe = Some((now + shortest * 2 + Duration::from_millis(50), rtt));
            }
            Some((until, found)) if now >= until => {
                self.probe = None;
                self.shortest = Some(found);
                self.shortest_at = now;
            }
            _ => {}
        }
    }
}

/// While the rate still rises with what is in flight.
#[derive(Debug, Clone, Copy, Default)]
struct Startup {
    best: u64,
    flat: u8,
}

impl Startup {
    /// Whether it goes on after a round trip at this rate.
    fn goes_on(&mut self, rate: u64) -> bool {
        if rate as f64 >= self.best as f64 * STARTUP_RISE {
            *self = Self { best: rate, flat: 0 };
        } else {
            self.flat += 1;
        }
        self.flat < STARTUP_FLAT
    }
}

/// What became of the packets since loss was last judged, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Fates {
    delivered: u64,
    lost: u64,
}

#[derive(Debug, Clone)]
struct Steady {
    config: SteadyConfig,
    mtu: u64,
    sent: VecDeque<Sent>,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Of the acknowledgements that come in one go: the latest moment of sending, and their bytes.
    newest: Option<Sent>,
    acked: u64,
    line: Line,
    startup: Option<Startup>,
    window: u64,
    /// The window loss allows.
    ceiling: u64,
    fates: Fates,
    /// Loss of what was sent up to then says nothing: the line was down.
    after_silence: Instant,
    /// When the last answer came, or when we began to wait for one.
    answered_at: Instant,
    sent_at: Instant,
    in_flight: u64,
    /// As it was when the silence began.
    in_flight_before: u64,
    /// Packets that may go at once, for the way is open again.
    welcome: u64,
}

impl Steady {
    fn new(config: SteadyConfig, now: Instant, mtu: u16) -> Self {
        Self {
            config,
            mtu: mtu.into(),
            sent: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            newest: None,
            acked: 0,
            line: Line {
                rates: [0; ROUNDS],
                round: 0,
                round_end: 0,
                shortest: None,
                shortest_at: now,
                probe: None,
            },
            startup: Some(Startup::default()),
            window: config.initial_window,
            ceiling: u64::MAX,
            fates: Fates::default(),
            after_silence: now,
            answered_at: now,
            sent_at: now,
            in_flight: 0,
            in_flight_before: 0,
            welcome: 0,
        }
    }

    fn floor(&self) -> u64 {
        FLOOR_PACKETS * self.mtu
    }

    /// How long an answer may take.
    fn patience(&self) -> Duration {
        PATIENCE.max(self.line.shortest.unwrap_or(PATIENCE) * 3)
    }

    fn take_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        let silent_from = self.answered_at + self.patience();
        if now > silent_from && sent < silent_from {
            // From before the silence: it says that the way is open again, and nothing of the line.
            self.welcome = WELCOME;
            return;
        }
        if now > silent_from {
            self.after_silence = sent;
            self.fates = Fates::default();
        }
        self.welcome = 0;
        self.answered_at = now;
        self.delivered_at = now;
        self.acked += bytes;
        self.fates.delivered += bytes;
        if let Ok(place) = self.sent.binary_search_by_key(&sent, |sent| sent.at) {
            let found = self.sent[place];
            if self.newest.is_none_or(|newest| newest.at < found.at) {
                self.newest = Some(found);
            }
        }
    }

    fn end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.in_flight = in_flight;
        let Some(newest) = self.newest.take() else { return };
        self.in_flight_before = in_flight;
        let acked = std::mem::take(&mut self.acked);
        let rtt = now - newest.at;
        self.line.note_round_trip(rtt, now);
        // Over the longer of the two: acknowledgements may come in clumps, packets may leave in clumps.
        let took = (now - newest.delivered_at).max(newest.at - newest.first_sent);
        self.first_sent = newest.at;
        if newest.delivered >= self.line.round_end {
            self.end_round(app_limited);
        }
        if took > Duration::ZERO && took >= self.line.shortest.unwrap_or_default() / 2 {
            let rate = ((self.delivered - newest.delivered) as f64 / took.as_secs_f64()) as u64;
            // With too little to send the rate is ours, not the line's, unless it is higher.
            if !app_limited || rate > self.line.rate() {
                self.line.note_rate(rate);
            }
        }
        if self.startup.is_none() {
            self.line.renew_shortest(rtt, now);
        }
        self.move_window(acked, app_limited);
        while self.sent.front().is_some_and(|sent| sent.at < newest.at) {
            self.sent.pop_front();
        }
    }

    fn end_round(&mut self, app_limited: bool) {
        self.line.round += 1;
        self.line.round_end = self.delivered;
        self.line.rates[self.line.round % ROUNDS] = 0;
        self.judge_loss();
        let rate = self.line.rate();
        if !app_limited && self.startup.as_mut().is_some_and(|startup| !startup.goes_on(rate)) {
            self.startup = None;
        }
    }

    fn judge_loss(&mut self) {
        let Fates { delivered, lost } = self.fates;
        if delivered + lost <= LOSS_PACKETS * self.mtu {
            return;
        }
        self.fates = Fates::default();
        if lost as f64 > LOSS_MAX * (delivered + lost) as f64 {
            let least = self.window.min(self.ceiling) as f64 * 0.8;
            self.ceiling = (least as u64).max(self.floor());
            self.startup = None;
        } else {
            self.ceiling = self.ceiling.saturating_add(self.ceiling / 8);
        }
    }

    fn move_window(&mut self, acked: u64, app_limited: bool) {
        let product = self.line.product();
        if self.startup.is_some() {
            if !app_limited || self.in_flight + acked >= self.window / 2 {
                let most = ((product * STARTUP_GAIN) as u64).max(self.config.initial_window);
                self.window = (self.window + acked).min(most.max(self.window));
            }
        } else {
            let slack = self.line.rate() as f64 * SLACK_S;
            let target = if self.line.probe.is_some() {
                product * PROBE_GAIN
            } else {
                (product * GAIN).max(product + SPARE_PACKETS * self.mtu as f64) + slack
            };
            let short = if self.line.is_short() { SHORT_BYTES } else { 0 };
            let target = (target as u64).max(short).min(self.ceiling);
            self.window = target.min(self.window + acked);
        }
        self.window = self.window.max(self.floor());
    }

    fn window_at(&self, now: Instant) -> u64 {
        let Some(silence) = (now - self.answered_at).checked_sub(self.patience()) else {
            return self.window;
        };
        let step = KNOCK.max(self.patience() / 3).as_secs_f64();
        let soon = silence.min(KNOCK_SOON_FOR).as_secs_f64() / step;
        let later = silence.saturating_sub(KNOCK_SOON_FOR).as_secs_f64();
        let knocks = 2 + soon as u64 + (later / KNOCK_LATER.as_secs_f64().max(step)) as u64;
        self.window.max(self.in_flight_before) + (knocks + self.welcome) * self.mtu
    }
}

impl Controller for Steady {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        if now - self.sent_at > IDLE + self.patience() * 2 {
            self.answered_at = now;
        }
        self.sent_at = now;
        self.in_flight += bytes;
        if now - self.answered_at < self.patience() {
            self.in_flight_before = self.in_flight;
        }
        if self.sent.back().is_some_and(|sent| sent.at == now) {
            return;
        }
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        let Self { delivered, delivered_at, first_sent, .. } = *self;
        self.sent.push_back(Sent { at: now, delivered, delivered_at, first_sent });
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.take_ack(now, sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        sent: Instant,
        _is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        if sent > self.after_silence {
            self.fates.lost += lost_bytes;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
    }

    fn window(&self) -> u64 {
        self.window_at(time::monotonic())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.config.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
