//! The controller on lines that are a few numbers.

use super::*;

const MTU: u64 = 1452;

/// A line with a queue in front of it, and a sender that always has something to send.
struct World {
    now: Instant,
    start: Instant,
    steady: Steady,
    /// Bytes per second, of the line.
    rate: f64,
    delay: Duration,
    queue_bytes: f64,
    /// Every so many packets, one is lost.
    lost_every: u64,
    free_at: Instant,
    /// In flight: number, when sent, when the acknowledgement comes if it does.
    packets: VecDeque<(u64, Instant, Option<Instant>)>,
    next: u64,
    arrived: u64,
    dropped: u64,
}

impl World {
    fn new(rate: f64, rtt_ms: u64, queue_bytes: f64) -> Self {
        let now = time::monotonic();
        let steady = Steady::new(SteadyConfig { initial_window: 10 * MTU }, now, 1452);
        Self {
            now,
            start: now,
            steady,
            rate,
            delay: Duration::from_millis(rtt_ms),
            queue_bytes,
            lost_every: u64::MAX,
            free_at: now,
            packets: VecDeque::new(),
            next: 0,
            arrived: 0,
            dropped: 0,
        }
    }

    fn in_flight(&self) -> u64 {
        self.packets.len() as u64 * MTU
    }

    fn send(&mut self, is_up: bool) {
        while self.in_flight() + MTU < self.steady.window_at(self.now) {
            self.next += 1;
            let free_at = self.free_at.max(self.now);
            let queued = (free_at - self.now).as_secs_f64() * self.rate;
            let fits = queued + MTU as f64 <= self.queue_bytes;
            let mut back = None;
            if is_up && fits {
                self.free_at = free_at + Duration::from_secs_f64(MTU as f64 / self.rate);
                back = Some(self.free_at + self.delay)
                    .filter(|_| !self.next.is_multiple_of(self.lost_every));
            }
            self.dropped += u64::from(!fits);
            self.packets.push_back((self.next, self.now, back));
            self.steady.on_sent(self.now, MTU, self.next);
        }
    }

    fn receive(&mut self) {
        let here: Vec<_> = self.packets.iter().copied().collect();
        let here = here.into_iter().filter(|packet| packet.2.is_some_and(|back| back <= self.now));
        let mut highest = None;
        for (number, sent, _) in here {
            self.packets.retain(|packet| packet.0 != number);
            self.arrived += 1;
            self.steady.take_ack(self.now, sent, MTU);
            highest = highest.max(Some(number));
        }
        let Some(highest) = highest else { return };
        let is_lost = |packet: &(u64, Instant, Option<Instant>)| packet.0 + 3 <= highest;
        let lost: Vec<_> = self.packets.iter().filter(|packet| is_lost(packet)).copied().collect();
        self.packets.retain(|packet| !is_lost(packet));
        if let Some((_, sent, _)) = lost.last() {
            let bytes = lost.len() as u64 * MTU;
            self.steady.on_congestion_event(self.now, *sent, false, bytes);
        }
        self.steady.end_acks(self.now, self.in_flight(), false);
    }

    fn run(&mut self, seconds: u64, is_up: bool) {
        let until = self.now + Duration::from_secs(seconds);
        while self.now < until {
            self.now += Duration::from_millis(1);
            self.receive();
            self.send(is_up);
        }
    }

    /// The part of the line's rate that arrived since the start.
    fn share(&self) -> f64 {
        self.arrived as f64 * MTU as f64 / ((self.now - self.start).as_secs_f64() * self.rate)
    }
}

#[test]
fn loss_that_is_the_lines_own_costs_no_rate() {
    let mut world = World::new(1e6, 40, 100_000.0);
    world.lost_every = 20;
    world.run(20, true);
    assert!(world.share() > 0.88, "{}", world.share());
    assert_eq!(world.dropped, 0);
}

#[test]
fn thin_line_is_filled_and_its_queue_does_not_overflow() {
    let mut world = World::new(2750.0, 1500, 16_000.0);
    world.run(120, true);
    assert!(world.share() > 0.9, "{}", world.share());
    assert!(world.dropped <= 8, "{} of {}", world.dropped, world.next);
}

#[test]
fn satellite_is_filled_within_some_round_trips() {
    let mut world = World::new(250_000.0, 600, 250_000.0);
    world.run(20, true);
    assert!(world.share() > 0.8, "{}", world.share());
    assert!(world.dropped * 50 < world.next, "{} of {}", world.dropped, world.next);
}

#[test]
fn queue_that_overflows_is_relieved() {
    // Too small for what is kept in flight beyond the line's own length.
    let mut world = World::new(64_000.0, 600, 4_000.0);
    world.run(120, true);
    let dropped = world.dropped as f64 / world.next as f64;
    assert!(dropped < LOSS_MAX && world.share() > 0.7, "{dropped} dropped, {}", world.share());
}

#[test]
fn silence_lets_a_packet_through_now_and_then_and_its_end_is_noticed_at_once() {
    let mut world = World::new(625_000.0, 80, 300_000.0);
    world.run(10, true);
    let before = world.next;
    world.run(1, false);
    let filled = world.next;
    world.run(19, false);
    let knocks = world.next - filled;
    assert!(filled - before < 100 && (15..=25).contains(&knocks), "{filled} {before} {knocks}");
    let arrived = world.arrived;
    world.run(3, true);
    let share = (world.arrived - arrived) as f64 * MTU as f64 / (3.0 * world.rate);
    assert!(share > 0.5, "{share}");
    assert_eq!(world.steady.fates.lost, 0, "the silence is not held against the line");
}

#[test]
fn who_was_idle_does_not_burst() {
    let mut world = World::new(64_000.0, 600, 64_000.0);
    world.run(20, true);
    let window = world.steady.window;
    world.now += Duration::from_secs(3600);
    world.receive();
    world.steady.on_sent(world.now, MTU, world.next + 1);
    assert_eq!(world.steady.window_at(world.now), window);
}

#[test]
fn short_line_always_has_room() {
    let mut world = World::new(25e6, 1, 1e6);
    world.run(5, true);
    assert!(world.share() > 0.9 && world.steady.window >= SHORT_BYTES, "{}", world.share());
}
