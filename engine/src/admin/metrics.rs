//! The status in numbers, in the OpenMetrics text format, which Prometheus and others read.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::bundle::BundleStatus;
use super::status::{DaemonState, OriginStatus, Part, PartState, PeerState, PeerStatus, Status};

/// The media type of what [`encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a status. Their names begin with `landfall_` and are an interface, as the fields of
/// `status --json` are.
pub fn encode(status: Status) -> String {
    let mut registry = Registry::with_prefix("landfall");
    registry.register_collector(Box::new(Snapshot(status)));
    let mut out = String::new();
    // Writing to a string does not fail.
    text::encode(&mut out, &registry).expect("numbers and names can be written");
    out
}

#[derive(Debug)]
struct Snapshot(Status);

/// One sample: its labels and its value.
type Sample = (Vec<(&'static str, String)>, u64);

/// A sample without labels.
fn alone(value: u64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

/// As [`alone`], of what may not be known.
fn known(value: Option<u64>) -> Vec<Sample> {
    value.map(alone).unwrap_or_default()
}

/// A value of each member for which it is known.
fn of_peers(peers: &[PeerStatus], value: fn(&PeerStatus) -> Option<u64>) -> Vec<Sample> {
    let sample = |peer: &PeerStatus| Some((vec![("peer", peer.name.clone())], value(peer)?));
    peers.iter().filter_map(sample).collect()
}

fn labelled(name: &'static str, samples: &[(&str, u64)]) -> Vec<Sample> {
    let sample = |(label, value): &(&str, u64)| (vec![(name, (*label).to_owned())], *value);
    samples.iter().map(sample).collect()
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let status = &self.0;
        page.state(status)?;
        page.positions(status)?;
        page.store(status)?;
        page.changes(status)?;
        page.bundles(&status.bundles)?;
        page.peers(&status.peers)
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, samples: Vec<Sample>) -> fmt::Result {
        self.samples(MetricType::Gauge, (name, help, None), samples)
    }

    fn bytes(&mut self, name: &str, help: &str, samples: Vec<Sample>) -> fmt::Result {
        self.samples(MetricType::Gauge, (name, help, Some(&Unit::Bytes)), samples)
    }

    fn counter(&mut self, name: &str, help: &str, samples: Vec<Sample>) -> fmt::Result {
        self.samples(MetricType::Counter, (name, help, None), samples)
    }

    fn samples(
        &mut self,
        kind: MetricType,
        (name, help, unit): (&str, &str, Option<&Unit>),
        samples: Vec<Sample>,
    ) -> fmt::Result {
        if samples.is_empty() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, unit, kind)?;
        let write = |value: u64, sample: MetricEncoder<'_>| match kind {
            MetricType::Counter => ConstCounter::new(value).encode(sample),
            _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(sample),
        };
        if let [(labels, value)] = samples.as_slice()
            && labels.is_empty()
        {
            return write(*value, metric);
        }
        for (labels, value) in samples {
            write(value, metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn state(&mut self, status: &Status) -> fmt::Result {
        let labels = vec![
            ("member", status.name.clone()),
            ("site", status.site.to_string()),
            ("version", status.version.clone()),
            ("incarnation", status.incarnation.clone().unwrap_or_default()),
        ];
        self.gauge("member_info", "Which member of the fleet this is", vec![(labels, 1)])?;
        let is = |state| u64::from(status.state == state);
        self.gauge(
            "state",
            "1 for the state the daemon is in; in all but running it stands still until somebody acts",
            labelled(
                "state",
                &[
                    ("running", is(DaemonState::Running)),
                    ("fenced", is(DaemonState::Fenced)),
                    ("operator", is(DaemonState::Operator)),
                ],
            ),
        )?;
        let works = |part: &Part| u64::from(part.state == PartState::Working);
        let mut parts = vec![("store", u64::from(status.store.state == PartState::Working))];
        parts.extend(status.capture.as_ref().map(|part| ("capture", works(part))));
        parts.extend(status.apply.as_ref().map(|part| ("apply", works(part))));
        self.gauge("part_working", "Whether a part works", labelled("part", &parts))?;
        let warnings = alone(status.warnings.len() as u64);
        self.gauge("warnings", "What will stand still if nobody acts; status tells", warnings)
    }

    fn positions(&mut self, status: &Status) -> fmt::Result {
        let slot = status.slot.as_ref();
        self.bytes(
            "wal_unconfirmed",
            "Write-ahead log that is not confirmed to our slot",
            known(status.slot_lag_bytes),
        )?;
        self.bytes(
            "wal_retained",
            "Write-ahead log that PostgreSQL keeps for our slot",
            known(slot.map(|slot| slot.retained_bytes)),
        )?;
        self.bytes(
            "wal_left",
            "What may still be written before PostgreSQL gives our slot up; absent without a limit",
            known(slot.and_then(|slot| slot.left_bytes)),
        )?;
        let origins = |far: fn(&OriginStatus) -> u64| -> Vec<Sample> {
            let sample = |origin: &OriginStatus| {
                let incarnation = ("incarnation", origin.incarnation.clone());
                (vec![("member", origin.name.clone()), incarnation], far(origin))
            };
            status.vector.iter().map(sample).collect()
        };
        self.gauge(
            "origin_received",
            "The last transaction of a member that is durable here",
            origins(|origin| origin.received),
        )?;
        self.gauge(
            "origin_applied",
            "The last transaction of a member that this database shows",
            origins(|origin| origin.applied),
        )
    }

    fn store(&mut self, status: &Status) -> fmt::Result {
        let store = &status.store;
        self.bytes("store_size", "What the store takes on its disk", alone(store.bytes))?;
        self.bytes(
            "store_limit",
            "How large the store may grow; absent without a limit",
            known(store.bytes_max),
        )?;
        self.bytes(
            "store_disk_free",
            "What is free in the file system of the store",
            known(store.disk_free_bytes),
        )
    }

    fn changes(&mut self, status: &Status) -> fmt::Result {
        let fates = &status.fates;
        self.counter("own_transactions", "Transactions written here", alone(status.own_seq))?;
        self.counter("received_changes", "Changes received of others", alone(fates.received))?;
        self.gauge(
            "changes",
            "What became of received changes; all together they are as many as were received",
            labelled(
                "fate",
                &[
                    ("applied", fates.applied),
                    ("merged", fates.merged),
                    ("superseded", fates.superseded),
                    ("parked", fates.parked),
                    ("pending", fates.pending),
                ],
            ),
        )?;
        self.gauge(
            "held_units",
            "Units that come from the future by this machine's clock",
            alone(status.held_units),
        )?;
        self.gauge(
            "parked_oldest_age_milliseconds",
            "How long the oldest parked change waits; absent when none does",
            known(status.parked.oldest_ms_ago),
        )?;
        let aside = status.aside.as_ref();
        self.gauge(
            "aside_rows",
            "Rows that no site shows because an older one has what only one row may have",
            known(aside.map(|aside| aside.rows)),
        )?;
        self.gauge(
            "aside_oldest_age_milliseconds",
            "How long the oldest of them has been put aside; absent when none is",
            known(aside.and_then(|aside| aside.oldest_ms_ago)),
        )?;
        let repaired = alone(status.repaired_rows);
        self.counter("repaired_rows", "Rows found different and rewritten", repaired)?;
        let Some(counters) = &status.apply_counters else { return Ok(()) };
        self.counter(
            "apply",
            "What apply did since the daemon started, as status counts it",
            labelled(
                "what",
                &[
                    ("groups", counters.groups),
                    ("transactions", counters.transactions),
                    ("changes", counters.changes),
                    ("barriers", counters.barriers),
                    ("retries", counters.retries),
                    ("conflicts", counters.conflicts),
                    ("parked", counters.parked),
                    ("freed", counters.freed),
                ],
            ),
        )
    }

    fn bundles(&mut self, bundles: &BundleStatus) -> fmt::Result {
        self.counter(
            "bundle_parts",
            "Parts of bundles since the daemon started",
            labelled(
                "result",
                &[
                    ("written", bundles.parts_written),
                    ("read", bundles.parts_read),
                    ("refused", bundles.parts_refused),
                ],
            ),
        )?;
        self.counter(
            "bundle_bytes",
            "Bytes of parts of bundles since the daemon started",
            labelled("result", &[("written", bundles.bytes_written), ("read", bundles.bytes_read)]),
        )?;
        self.gauge(
            "bundle_waiting_parts",
            "Parts of bundles that are kept until what comes before them is held",
            alone(bundles.parts_waiting),
        )
    }

    fn peers(&mut self, peers: &[PeerStatus]) -> fmt::Result {
        let of = |value| of_peers(peers, value);
        let connected = of(|peer| Some(u64::from(peer.state == PeerState::Connected)));
        self.gauge("peer_connected", "Whether there is a link", connected)?;
        let refused = of(|peer| Some(u64::from(peer.state == PeerState::Refused)));
        self.gauge("peer_refused", "Whether one refuses the other", refused)?;
        self.gauge(
            "peer_silence_milliseconds",
            "Time since a member was heard; absent when it never was",
            of(|peer| peer.last_contact_ms_ago),
        )?;
        let sent = of(|peer| Some(peer.bytes_sent));
        self.counter("peer_sent_bytes", "Bytes sent since the start", sent)?;
        let received = of(|peer| Some(peer.bytes_received));
        self.counter("peer_received_bytes", "Bytes received since the start", received)?;
        self.counter(
            "peer_resumed_bytes",
            "Bytes not received again since the start, because a unit went on where it was cut",
            of(|peer| Some(peer.bytes_resumed)),
        )?;
        self.gauge(
            "peer_unacknowledged_changes",
            "Changes written here that a member has not acknowledged as durable",
            of(|peer| Some(peer.unacknowledged_changes)),
        )?;
        self.bytes(
            "peer_unacknowledged",
            "The same in sealed units",
            of(|peer| Some(peer.unacknowledged_bytes)),
        )?;
        self.gauge(
            "peer_lacks_changes",
            "Changes that we hold and a member lacks, as far as we know",
            of(|peer| Some(peer.lacks_changes)),
        )?;
        self.gauge(
            "peer_offers_changes",
            "Changes that a member holds and we lack, as far as we know",
            of(|peer| Some(peer.offers_changes)),
        )?;
        self.bytes(
            "peer_lacks",
            "Sealed units that we hold and a member lacks, as far as we know",
            of(|peer| Some(peer.lacks_bytes)),
        )?;
        self.gauge(
            "peer_drain_milliseconds",
            "Time to send a member what it lacks; absent when the rate is not known",
            of(|peer| peer.drain_ms),
        )?;
        self.month(peers)
    }

    fn month(&mut self, peers: &[PeerStatus]) -> fmt::Result {
        let of = |value| of_peers(peers, value);
        self.bytes(
            "peer_month",
            "Bytes sent and received in this calendar month (UTC)",
            of(|peer| Some(peer.month.bytes)),
        )?;
        self.bytes(
            "peer_month_budget",
            "How many they may be; absent without a budget",
            of(|peer| peer.month.budget_bytes),
        )?;
        let cost = |peer: &PeerStatus| {
            let cost = peer.month.cost.as_ref()?;
            let labels = vec![("peer", peer.name.clone()), ("currency", cost.currency.clone())];
            Some((labels, cost.millionths))
        };
        self.gauge(
            "peer_month_cost_millionths",
            "What they cost, in millionths of the currency; absent without a price",
            peers.iter().filter_map(cost).collect(),
        )
    }
}
