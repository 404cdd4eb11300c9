//! The walsender: commands before the stream, the stream, and what its client reports.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use landfall_engine::capture::pgoutput::Texts;
use landfall_engine::capture::walsender::{
    Frame, Reply, StandbyStatus, SystemIdentity, TimelineSwitch,
};
use landfall_engine::postgres::lsn::Lsn;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::error::PgError;
use super::heap::TableNo;
use super::instance::{Instance, Standby};
use super::pgoutput::{self, pg_time};

/// The replication slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotState {
    /// `confirmed_flush_lsn`.
    pub(crate) confirmed: Lsn,
    /// The walsender that holds it, by its number.
    pub(crate) held_by: Option<u64>,
}

/// A running stream. Dropped, the server lets go of the slot some time later.
#[derive(Debug)]
pub(crate) struct WalStream {
    cluster: Cluster,
    life: u64,
    cuts: u64,
    sender: u64,
    /// The place of the next commit record to be sent.
    place: usize,
    /// Messages sent and not read, of transactions before that place.
    messages: VecDeque<(Lsn, Bytes)>,
    described: BTreeSet<TableNo>,
    /// When the next frame is here.
    here_at: Instant,
    /// A keepalive that is on its way.
    keepalive: Option<Reply>,
    /// Up to here the client was told that everything is sent.
    told: Lsn,
    /// When the client was last heard.
    heard: Instant,
    /// Since when an answer is awaited.
    is_asked: bool,
    queued: Option<StandbyStatus>,
}

/// What there is to be done about the stream now.
enum Turn {
    Frame(Frame),
    /// To wait for news, until a moment at most.
    Wait(Instant, OwnedNotified),
}

impl Cluster {
    /// `IDENTIFY_SYSTEM`.
    ///
    /// # Errors
    /// The server is down.
    pub(crate) async fn identify_system(&self) -> Result<SystemIdentity, PgError> {
        self.pause().await;
        let server = self.lock();
        server.is_up.then_some(()).ok_or(PgError::Down)?;
        Ok(SystemIdentity {
            system_identifier: server.options.system_identifier,
            timeline: server.timeline,
            flushed: server.log.flushed,
        })
    }

    /// `TIMELINE_HISTORY` of the present timeline.
    ///
    /// # Errors
    /// The server is down.
    pub(crate) async fn timeline_history(&self) -> Result<Vec<TimelineSwitch>, PgError> {
        self.pause().await;
        let server = self.lock();
        server.is_up.then_some(()).ok_or(PgError::Down)?;
        let switches = server.switches.iter();
        Ok(switches
            .map(|(timeline, end)| TimelineSwitch { timeline: *timeline, end: *end })
            .collect())
    }

    /// The slot; nothing when it is not there.
    ///
    /// # Errors
    /// The server is down.
    pub(crate) async fn slot(&self) -> Result<Option<SlotState>, PgError> {
        self.pause().await;
        let server = self.lock();
        server.is_up.then_some(()).ok_or(PgError::Down)?;
        let slot = server.slot.as_ref();
        Ok(slot.map(|slot| SlotState { confirmed: slot.confirmed, held_by: slot.held_by }))
    }

    /// `START_REPLICATION` from `start`, or from what the slot has confirmed if that is later.
    ///
    /// # Errors
    /// The server is down; the slot is missing (42704) or in use (55006).
    pub(crate) async fn start_replication(&self, start: Lsn) -> Result<WalStream, PgError> {
        self.pause().await;
        let mut server = self.lock();
        if !server.is_up {
            return Err(PgError::Down);
        }
        server.senders += 1;
        let sender = server.senders;
        let slot = server.slot.as_mut();
        let slot = slot.ok_or_else(|| PgError::refused("42704", "replication slot is missing"))?;
        if let Some(by) = slot.held_by {
            return Err(PgError::refused("55006", format!("slot is active for sender {by}")));
        }
        slot.held_by = Some(sender);
        let start = start.max(slot.confirmed);
        server.standby = Standby::default();
        let now = Instant::now();
        Ok(WalStream {
            cluster: self.clone(),
            life: server.life,
            cuts: server.cuts,
            sender,
            place: server.log.place_of(start),
            messages: VecDeque::new(),
            described: BTreeSet::new(),
            here_at: now,
            keepalive: None,
            told: Lsn::ZERO,
            heard: now,
            is_asked: false,
            queued: None,
        })
    }
}

impl Drop for WalStream {
    fn drop(&mut self) {
        let mut server = self.cluster.lock();
        if server.life == self.life {
            let due = Instant::now() + server.throw_within(Duration::from_millis(20));
            server.chores.bury_sender(self.sender, due);
        }
    }
}

impl WalStream {
    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) async fn next(&mut self) -> Result<Frame, PgError> {
        loop {
            match self.turn()? {
                Turn::Frame(frame) => return Ok(frame),
                Turn::Wait(until, woken) => {
                    let mut woken = pin!(woken);
                    // Woken or not, it looks again.
                    drop(tokio::time::timeout_at(until, woken.as_mut()).await);
                }
            }
        }
    }

    /// Queues a report of positions in place of one that is still queued.
    pub(crate) fn queue_status(&mut self, status: StandbyStatus) {
        let asked = self.queued.is_some_and(|queued| queued.reply == Reply::Requested);
        let reply = if asked { Reply::Requested } else { status.reply };
        self.queued = Some(StandbyStatus { reply, ..status });
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn flush_writes(&mut self) -> Result<(), PgError> {
        let cluster = self.cluster.clone();
        let mut server = cluster.lock();
        if (server.life, server.cuts) != (self.life, self.cuts) {
            return Err(PgError::Lost);
        }
        self.send_status(&mut server, Instant::now());
        Ok(())
    }

    fn send_status(&mut self, server: &mut Instance, now: Instant) {
        let Some(status) = self.queued.take() else { return };
        self.heard = now;
        self.is_asked = false;
        if status.reply == Reply::Requested {
            self.keepalive.get_or_insert(Reply::NotNeeded);
        }
        server.take_report(status, now);
    }

    fn turn(&mut self) -> Result<Turn, PgError> {
        let cluster = self.cluster.clone();
        let mut server = cluster.lock();
        let now = Instant::now();
        if server.life != self.life {
            // What was sent before an orderly end still arrives.
            let ended = server.ended_orderly == Some(self.life);
            return match ended.then(|| self.messages.pop_front()) {
                Some(Some(message)) => Ok(Turn::Frame(frame(message, Lsn::ZERO, 0))),
                Some(None) => Ok(Turn::Frame(Frame::Ended)),
                None => Err(PgError::Lost),
            };
        }
        if server.standby_is_lost(now, self.heard) || server.cuts != self.cuts {
            return Err(PgError::Lost);
        }
        self.send_status(&mut server, now);
        let (end, clock) = (server.log.flushed, cluster.now());
        self.decode(&mut server, now);
        if self.messages.is_empty() && self.keepalive.is_none() {
            server.standby.caught_up = true;
            self.think_of_keepalive(&mut server, now);
        }
        let has_frame = !self.messages.is_empty() || self.keepalive.is_some();
        if !has_frame || now < self.here_at {
            let idle =
                self.heard + server.options.walsender_timeout / if self.is_asked { 1 } else { 2 };
            let until = if has_frame { self.here_at } else { idle };
            let woken = if has_frame { Arc::default() } else { Arc::clone(&server.log_wake) };
            return Ok(Turn::Wait(until, woken.notified_owned()));
        }
        if server.throw_loss() {
            self.cuts = u64::MAX;
            return Err(PgError::Lost);
        }
        // Frames come in bunches.
        if server.dice.below(8) == 0 {
            self.here_at = now + server.throw_within(Duration::from_millis(2));
        }
        if let Some(message) = self.messages.pop_front() {
            return Ok(Turn::Frame(frame(message, end, clock)));
        }
        let reply = self.keepalive.take();
        self.told = end;
        Ok(Turn::Frame(Frame::Keepalive {
            wal_end: end,
            sent_at: pg_time(clock),
            reply_requested: reply == Some(Reply::Requested),
        }))
    }

    /// Sends the next transactions that are on disk, when everything before is read.
    fn decode(&mut self, server: &mut Instance, now: Instant) {
        while self.messages.is_empty() {
            let Some(record) = server.log.records.get(self.place) else { return };
            if record.end > server.log.flushed {
                return;
            }
            self.place += 1;
            let record = Arc::clone(record);
            if server.dice.below(100) < server.options.described_again {
                self.described.clear();
            }
            self.messages = pgoutput::messages(&record, &server.tables, &mut self.described);
            if server.dice.below(3) == 0 {
                self.here_at = now + server.throw_within(Duration::from_millis(3));
            }
        }
    }

    /// Everything is sent: the client is told so, once it has not said so itself.
    fn think_of_keepalive(&mut self, server: &mut Instance, now: Instant) {
        let end = server.log.flushed;
        let Standby { write, flush, .. } = server.standby;
        if now >= self.heard + server.options.walsender_timeout / 2 && !self.is_asked {
            self.keepalive = Some(Reply::Requested);
            self.is_asked = true;
        } else if write < end && flush < end && self.told < end {
            let asks = server.dice.below(10) == 0;
            self.keepalive = Some(if asks { Reply::Requested } else { Reply::NotNeeded });
            self.here_at = now + server.throw_within(Duration::from_millis(3));
        }
    }
}

impl Instance {
    /// Takes over the positions of a report.
    fn take_report(&mut self, status: StandbyStatus, now: Instant) {
        let StandbyStatus { write, flush, apply, .. } = status;
        self.standby = Standby { write, flush, apply, ..self.standby };
        if let Some(slot) = &mut self.slot
            && slot.confirmed < flush
        {
            slot.confirmed = flush;
            self.keep_slot_later(now);
        }
        self.standby_wake.notify_waiters();
        self.chores.retry_orphans(now);
    }

    /// The walsender is gone.
    pub(super) fn end_sender(&mut self, sender: u64) {
        if let Some(slot) = self.slot.as_mut().filter(|slot| slot.held_by == Some(sender)) {
            slot.held_by = None;
            self.standby = Standby::default();
        }
    }

    fn standby_is_lost(&self, now: Instant, heard: Instant) -> bool {
        now >= heard + self.options.walsender_timeout
    }
}

fn frame((start, data): (Lsn, Bytes), wal_end: Lsn, clock: i64) -> Frame {
    Frame::XLogData { start, wal_end, sent_at: pg_time(clock), data, texts: Texts::Whole }
}
