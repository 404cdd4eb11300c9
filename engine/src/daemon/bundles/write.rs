//! `bundle write`: takes units out of the store, and tells the command what to write where.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;

use landfall_protocol::bundle::{BundleId, Manifest, PARTS_MAX, RECIPIENTS_MAX};
use landfall_protocol::fleet::Member;
use landfall_protocol::id::{Origin, Seq, SiteId};
use landfall_protocol::unit::Unit;
use landfall_protocol::version::VersionVector;
use landfall_protocol::wire::Held;
use serde_json::Value;

use super::{Shared, sentence, user};
use crate::admin::bundle::{Basis, Durable, Resume, WriteAnswer, WriteAsk, WriteSay};
use crate::admin::talk::Talk;
use crate::bundle::{Course, Ending, Opening, PartEncoder, PartError};
use crate::store::{PartFate, PartRecord, StoreError};
use crate::{plant, random, time};

/// Shorter parts would hold little beside what each of them says.
const PART_BYTES_MIN: u64 = 64 << 10;

/// What is written.
struct Plan<'a> {
    bundle: BundleId,
    recipients: Vec<&'a Member>,
    user: String,
    part_bytes_max: u64,
    /// The first part of now.
    first: u32,
    /// What the parts before bring, and what is taken for held.
    after: VersionVector,
    /// Where it ends.
    until: VersionVector,
}

/// What a part came to.
struct Written {
    units: u64,
    bytes: u64,
    is_last: bool,
}

/// Writes a bundle.
///
/// # Errors
/// A sentence for the operator.
pub(super) async fn write(
    shared: &Shared,
    ask: WriteAsk,
    talk: &mut Talk,
) -> Result<Value, String> {
    let Ok(_permit) = shared.writing.try_acquire() else {
        return Err("another bundle is being written; wait until it is done".to_owned());
    };
    check_may_speak(shared)?;
    shared.parts.store.seal().await.map_err(|error| sentence(&error))?;
    let plan = plan(shared, &ask, user(&ask.user, talk.uid)).await?;
    let bytes = shared.parts.store.backlog(plan.after.clone()).await;
    let bytes = bytes.map_err(|error| sentence(&error))?.bytes;
    let recipients = shared.names(plan.recipients.iter().map(|member| member.site));
    let begin = WriteSay::Begin {
        bundle: plan.bundle.to_string(),
        part: plan.first,
        bytes,
        recipients: recipients.clone(),
    };
    talk.saying.facts(&begin).await.map_err(gone)?;
    let mut answer = WriteAnswer {
        bundle: plan.bundle.to_string(),
        recipients,
        parts_before: plan.first - 1,
        parts: 0,
        units: 0,
        bytes: 0,
        left_out: Vec::new(),
    };
    let mut writing = Writing::begin(shared, plan).await.map_err(|error| sentence(&error))?;
    loop {
        check_may_speak(shared)?;
        let written = writing.part(talk).await?;
        answer.parts += 1;
        answer.units += written.units;
        answer.bytes += written.bytes;
        if written.is_last {
            break;
        }
    }
    answer.left_out = writing.left_out();
    serde_json::to_value(answer).map_err(|error| error.to_string())
}

/// A store that was set back carries numbers that are taken, and only its database can tell.
fn check_may_speak(shared: &Shared) -> Result<(), String> {
    let may_speak = &shared.parts.may_speak;
    let waits = !*may_speak.borrow() && may_speak.has_changed().is_ok();
    if waits {
        let why = "this member has not compared its store with its database since it started";
        return Err(format!("{why}; see status, and try again when capture works"));
    }
    match &shared.parts.store.watch().borrow().fenced {
        Some(reason) => Err(format!("this member is fenced and must not speak: {reason}")),
        None => Ok(()),
    }
}

fn gone(error: io::Error) -> String {
    format!("the command went away: {error}")
}

fn part_sentence(error: &PartError) -> String {
    error.to_string()
}

async fn plan<'a>(shared: &'a Shared, ask: &WriteAsk, user: String) -> Result<Plan<'a>, String> {
    if ask.part_bytes_max < PART_BYTES_MIN {
        return Err(format!("--max-size must be at least {PART_BYTES_MIN} bytes"));
    }
    let recipients = recipients(shared, &ask.recipients)?;
    let sites: Vec<SiteId> = recipients.iter().map(|member| member.site).collect();
    let until = shared.parts.store.watch().borrow().received.clone();
    let register = shared.parts.store.parts().await.map_err(|error| sentence(&error))?;
    let written = written(&register);
    let held = basis(shared, ask, &sites, &until, &written)?;
    let resumed = match &ask.resume {
        Resume::Never => None,
        Resume::IfPresent => unfinished(&written, &sites, &held, ask),
        Resume::Bundle(id) => {
            let bundle = parse(id)?;
            let parts = written.get(&bundle).ok_or_else(|| not_written(bundle))?;
            let last = parts.last().ok_or_else(|| not_written(bundle))?;
            if last.is_last {
                return Err(format!("bundle {bundle} is finished; write another one"));
            }
            if last.recipients != sites {
                let names = shared.names(last.recipients.iter().copied()).join(", ");
                return Err(format!("bundle {bundle} is for {names}; say the same with --for"));
            }
            Some(bundle)
        }
    };
    let (bundle, first, after) = match resumed.and_then(|bundle| written.get(&bundle)?.last()) {
        Some(last) => {
            // A receipt may have come meanwhile.
            let mut after = held;
            after.join(&last.reaches);
            (last.bundle, last.part + 1, after)
        }
        None => {
            let mut chance = [0; 16];
            random::fill(&mut chance).map_err(|error| PartError::Randomness(error).to_string())?;
            let bundle = BundleId::new(time::wall_ms(), chance);
            (bundle, 1, held)
        }
    };
    let part_bytes_max = ask.part_bytes_max;
    Ok(Plan { bundle, recipients, user, part_bytes_max, first, after, until })
}

/// What was written here, bundle by bundle, parts in their order.
fn written(register: &[PartRecord]) -> BTreeMap<BundleId, Vec<&PartRecord>> {
    let mut written: BTreeMap<BundleId, Vec<&PartRecord>> = BTreeMap::new();
    for record in register.iter().filter(|record| record.fate == PartFate::Written) {
        written.entry(record.bundle).or_default().push(record);
    }
    written
}

fn parse(id: &str) -> Result<BundleId, String> {
    id.parse().map_err(|error: landfall_protocol::bundle::ParseBundleIdError| error.to_string())
}

fn not_written(bundle: BundleId) -> String {
    format!("bundle {bundle} was not written here; bundle list shows which were")
}

fn recipients<'a>(shared: &'a Shared, asked: &[String]) -> Result<Vec<&'a Member>, String> {
    let (fleet, own) = (&shared.parts.fleet, shared.parts.own.site);
    let mut found: BTreeMap<SiteId, &Member> = BTreeMap::new();
    for name in asked {
        if name == "all" && fleet.member_named(name).is_none() {
            let others = fleet.members().filter(|member| member.site != own);
            found.extend(others.map(|member| (member.site, member)));
            continue;
        }
        let number = name.parse().ok().and_then(SiteId::new);
        let member = fleet.member_named(name).or_else(|| fleet.member(number?));
        let member = member.ok_or_else(|| format!("no member {name:?} is in our fleet file"))?;
        if member.site == own {
            return Err(format!("{name:?} is this member; a bundle is for others"));
        }
        found.insert(member.site, member);
    }
    match found.len() {
        0 => Err("say with --for whom the bundle is for".to_owned()),
        count if count > RECIPIENTS_MAX => {
            Err(format!("a bundle can be for {RECIPIENTS_MAX} members at most, not for {count}"))
        }
        _ => Ok(found.into_values().collect()),
    }
}

/// The newest bundle for the same members that was not finished, if all its parts are there, and it
/// takes no more for held than is taken for held now.
fn unfinished(
    written: &BTreeMap<BundleId, Vec<&PartRecord>>,
    sites: &[SiteId],
    held: &VersionVector,
    ask: &WriteAsk,
) -> Option<BundleId> {
    written.iter().rev().find_map(|(bundle, parts)| {
        let fits = parts.iter().all(|part| part.recipients == sites && !part.is_last);
        let name = bundle.to_string();
        let is_there = |part: &&PartRecord| {
            ask.present.iter().any(|present| {
                (&present.bundle, present.part, present.bytes) == (&name, part.part, part.bytes)
            })
        };
        let begins_in_time = parts.first().is_some_and(|first| held.contains(&first.needs));
        (fits && begins_in_time && parts.iter().all(is_there)).then_some(*bundle)
    })
}

/// What need not be written, because it is held.
fn basis(
    shared: &Shared,
    ask: &WriteAsk,
    sites: &[SiteId],
    until: &VersionVector,
    written: &BTreeMap<BundleId, Vec<&PartRecord>>,
) -> Result<VersionVector, String> {
    let held = match &ask.basis {
        Basis::Nothing => VersionVector::new(),
        Basis::Bundle(id) => {
            let bundle = parse(id)?;
            let last = written.get(&bundle).and_then(|parts| parts.last());
            last.ok_or_else(|| not_written(bundle))?.reaches.clone()
        }
        Basis::Known => {
            let known = shared.known();
            let least = |origin: Origin| {
                let held = |site| known.get(site).map_or(Seq::ZERO, |held| held.get(origin));
                sites.iter().map(held).min().unwrap_or(Seq::ZERO)
            };
            until.iter().map(|(origin, _)| (origin, least(origin))).collect()
        }
    };
    // Nobody is asked for what we do not hold ourselves.
    let least = |(origin, seq): (Origin, Seq)| (origin, seq.min(held.get(origin)));
    Ok(until.iter().map(least).filter(|(_, seq)| *seq > Seq::ZERO).collect())
}

/// A bundle being written.
struct Writing<'a> {
    shared: &'a Shared,
    plan: Plan<'a>,
    course: Course,
    /// Did not fit into the part before.
    pending: Option<Unit>,
    next_part: u32,
    reaches: VersionVector,
}

impl<'a> Writing<'a> {
    async fn begin(shared: &'a Shared, plan: Plan<'a>) -> Result<Self, StoreError> {
        let store = shared.parts.store.clone();
        let course = Course::begin(store, &plan.after, plan.until.clone()).await?;
        let (next_part, reaches) = (plan.first, plan.after.clone());
        Ok(Self { shared, plan, course, pending: None, next_part, reaches })
    }

    fn left_out(&self) -> Vec<String> {
        let damaged = self.course.damaged().iter();
        let names = &self.shared.parts.fleet;
        damaged.map(|(origin, error)| format!("{}: {error}", names.name_of(origin.site))).collect()
    }

    async fn manifest(&self) -> Result<Manifest, StoreError> {
        let parts = &self.shared.parts;
        let held = parts.store.held().await?.into_iter();
        let mut held: Vec<Held> =
            held.map(|held| Held { origin: held.origin, seq: held.seq, hash: held.hash }).collect();
        held.sort_by_key(|held| held.origin);
        Ok(Manifest {
            writer: parts.own,
            fleet_version: parts.fleet.version(),
            sets_digest: parts.fleet.sets_digest(),
            made_ms: time::wall_ms(),
            recipients: self.plan.recipients.iter().map(|member| member.site).collect(),
            user: self.plan.user.clone(),
            software: parts.software.clone(),
            held,
            applied: parts.store.watch().borrow().applied.clone(),
            needs: self.reaches.clone(),
        })
    }

    /// Writes the next part, and notes it once the command says that it is durable.
    async fn part(&mut self, talk: &mut Talk) -> Result<Written, String> {
        let number = self.next_part;
        if number > PARTS_MAX {
            return Err(format!("more than {PARTS_MAX} parts; choose a larger --max-size"));
        }
        let manifest = self.manifest().await.map_err(|error| sentence(&error))?;
        let opening = Opening {
            bundle: self.plan.bundle,
            part: number,
            recipients: &self.plan.recipients,
            manifest: &manifest,
        };
        let begun = PartEncoder::begin(&opening, &self.shared.parts.key);
        let (mut encoder, head) = begun.map_err(|error| part_sentence(&error))?;
        let name = self.file_name(number, "");
        talk.saying.facts(&WriteSay::Part { part: number, name }).await.map_err(gone)?;
        talk.saying.data(&head).await.map_err(gone)?;
        let mut bytes = head.len() as u64;
        bytes += self.units(&mut encoder, talk).await?;
        let (units, is_last) = (encoder.count(), self.pending.is_none());
        let end = encoder.end(Ending { is_last, reaches: self.reaches.clone() });
        talk.saying.data(&end).await.map_err(gone)?;
        bytes += end.len() as u64;
        let name = self.file_name(number, if is_last { "-last" } else { "" });
        talk.saying.facts(&WriteSay::PartEnd { name, bytes }).await.map_err(gone)?;
        let Durable { durable } = talk.listening.facts().await.map_err(gone)?;
        if durable != number {
            return Err(format!("the command says that part {durable} is durable, not {number}"));
        }
        if number == 2 {
            plant::hang("unnoted-part").await;
        }
        let written = Written { units, bytes, is_last };
        self.note(&manifest, &written).await.map_err(|error| sentence(&error))?;
        self.next_part += 1;
        Ok(written)
    }

    /// Writes units until the part is full or there are no more; says how many bytes that took.
    async fn units(&mut self, encoder: &mut PartEncoder, talk: &mut Talk) -> Result<u64, String> {
        let (origins, bytes_max) = (self.plan.until.len(), self.plan.part_bytes_max);
        let mut bytes = 0;
        loop {
            let unit = match self.pending.take() {
                Some(unit) => Some(unit),
                None => self.course.next().await.map_err(|error| sentence(&error))?,
            };
            let Some(unit) = unit else { return Ok(bytes) };
            let needed = encoder.bytes_with(unit.bytes().len(), origins);
            if needed > bytes_max {
                if encoder.count() == 0 {
                    let origin = unit.header().origin;
                    return Err(part_sentence(&PartError::TooSmall { origin, needed, bytes_max }));
                }
                self.pending = Some(unit);
                return Ok(bytes);
            }
            let data = encoder.unit(unit.bytes());
            self.reaches.advance(unit.header().origin, unit.header().last);
            talk.saying.data(&data).await.map_err(gone)?;
            bytes += data.len() as u64;
        }
    }

    async fn note(&self, manifest: &Manifest, written: &Written) -> Result<(), StoreError> {
        let record = PartRecord {
            bundle: self.plan.bundle,
            part: self.next_part,
            fate: PartFate::Written,
            is_last: written.is_last,
            writer: manifest.writer,
            recipients: manifest.recipients.clone(),
            made_ms: manifest.made_ms,
            made_by: manifest.user.clone(),
            at_ms: time::wall_ms(),
            done_by: manifest.user.clone(),
            bytes: written.bytes,
            units: written.units,
            needs: manifest.needs.clone(),
            reaches: self.reaches.clone(),
        };
        self.shared.parts.store.record_part(record).await?;
        self.shared.counted.parts_written.fetch_add(1, Ordering::Relaxed);
        self.shared.counted.bytes_written.fetch_add(written.bytes, Ordering::Relaxed);
        Ok(())
    }

    fn file_name(&self, part: u32, last: &str) -> String {
        let writer = self.shared.parts.fleet.name_of(self.shared.parts.own.site);
        let id = self.plan.bundle.short();
        format!("landfall-{writer}-{id}-{part:04}{last}.bundle")
    }
}
