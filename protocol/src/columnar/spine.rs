//! The columns of a spine: clock readings, what is described, who did it.

use crate::change::decode_head;
use crate::codec::{DecodeError, Reader, Writer};
use crate::columnar::numbers::{Body, Numbers};
use crate::columnar::texts::{Texts, list};
use crate::columnar::{BAD, Columns};

/// The shortest transaction: a clock step, no descriptions, nobody named.
const TRANSACTION_BYTES_MIN: usize = 2;
/// Bits of a clock reading below its milliseconds.
const COUNTER_BITS: u32 = 16;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

/// `is_compacted` where a step of numbers stands before each clock step.
pub(super) fn split(plain: &[u8], clock: u64, is_compacted: bool) -> Option<Columns> {
    let begin = clock & COUNTER_MASK;
    let mut clock = begin;
    let [mut steps, mut millis, mut counters, mut heads, mut lengths] = [const { Vec::new() }; 5];
    let (mut described, mut actors) = (Vec::new(), Vec::new());
    let mut from = Reader::new(plain);
    while !from.rest().is_empty() {
        if is_compacted {
            steps.push(from.varint().ok()?);
        }
        let next = clock.checked_add(from.varint().ok()?)?;
        let later = (next >> COUNTER_BITS) - (clock >> COUNTER_BITS);
        millis.push(later);
        // In the same millisecond it counts on.
        let expected = if later == 0 { clock.wrapping_add(1) } else { 0 };
        counters.push(next.wrapping_sub(expected) & COUNTER_MASK);
        clock = next;
        let here = from.rest();
        let (_, actor) = decode_head(&mut from).ok()?;
        let mut all = Reader::new(&here[..here.len() - from.rest().len()]);
        let head = all.varint().ok()?;
        heads.push(head);
        let mut describing = all.rest();
        if let Some(actor) = &actor {
            let name = actor.as_str().len();
            describing = &describing[..describing.len() - name];
            // Its length stands before it.
            let mut length = Writer::new();
            length.varint(name as u64);
            describing = describing.strip_suffix(length.as_bytes())?;
            actors.push(&all.rest()[all.rest().len() - name..]);
        }
        if head >> 1 > 0 {
            lengths.push(describing.len() as u64);
            described.extend_from_slice(describing);
        }
    }
    let actor_lengths: Vec<u64> = actors.iter().map(|actor| actor.len() as u64).collect();
    let listed = list(actors.iter().copied(), actors.len());
    let mut head = Writer::new();
    head.varint(millis.len() as u64);
    head.varint(begin);
    head.varint(listed.as_ref().map_or(0, |listed| listed.lengths.len() as u64));
    let mut body = Body { bytes: head.into_bytes(), cuts: Vec::new() };
    body.put(&[&heads]);
    if is_compacted {
        body.put(&[&steps]);
    }
    match &listed {
        Some(listed) => {
            body.put(&[&millis, &counters, &lengths, &listed.lengths, &listed.numbers]);
            body.bytes.extend_from_slice(&described);
            body.bytes.extend_from_slice(&listed.bytes);
        }
        None => {
            body.put(&[&millis, &counters, &lengths, &actor_lengths]);
            body.bytes.extend_from_slice(&described);
            actors.iter().for_each(|actor| body.bytes.extend_from_slice(actor));
        }
    }
    Some(Columns { bytes: body.bytes, cuts: body.cuts })
}

pub(super) fn join(
    mut from: Reader<'_>,
    plain_bytes: usize,
    is_compacted: bool,
) -> Result<Vec<u8>, DecodeError> {
    let count = from.count(plain_bytes / TRANSACTION_BYTES_MIN)?;
    let mut clock = from.varint()?;
    let listed = from.count(count)?;
    let heads = Numbers::take(&mut from, [count].into_iter())?.pop().ok_or(BAD)?;
    let mut steps = match is_compacted {
        true => Numbers::take(&mut from, [count].into_iter())?.pop(),
        false => None,
    };
    let (mut describing, mut naming) = (0, 0);
    let mut rest = heads.clone();
    for _ in 0..count {
        let head = rest.next()?;
        describing += usize::from(head >> 1 > 0);
        naming += (head & 1) as usize;
    }
    let counts = [count, count, describing, if listed > 0 { listed } else { naming }, naming];
    let counts = counts.into_iter().take(if listed > 0 { 5 } else { 4 });
    let mut sequences = Numbers::take(&mut from, counts)?.into_iter();
    let mut next = || sequences.next().ok_or(BAD);
    let (mut millis, mut counters) = (next()?, next()?);
    let mut described = Texts::take(&mut from, next()?)?;
    let lengths = next()?;
    let mut actors = match listed {
        0 => Texts::take(&mut from, lengths)?,
        listed => Texts::take_listed(&mut from, (listed, lengths), next()?)?,
    };
    from.finish()?;
    let mut out = Writer::with_capacity(plain_bytes);
    let mut heads = heads;
    for _ in 0..count {
        if let Some(steps) = &mut steps {
            out.varint(steps.next()?);
        }
        let later = millis.next()?;
        let expected = if later == 0 { clock.wrapping_add(1) } else { 0 };
        let counter = counters.next()?.wrapping_add(expected) & COUNTER_MASK;
        let reached = (clock >> COUNTER_BITS).wrapping_add(later) << COUNTER_BITS | counter;
        out.varint(reached.wrapping_sub(clock));
        clock = reached;
        let head = heads.next()?;
        out.varint(head);
        if head >> 1 > 0 {
            put(&mut out, described.next()?, plain_bytes)?;
        }
        if head & 1 == 1 {
            let actor = actors.next()?;
            out.varint(actor.len() as u64);
            put(&mut out, actor, plain_bytes)?;
        }
        put(&mut out, &[], plain_bytes)?;
    }
    Ok(out.into_bytes())
}

/// Writes bytes if there is room for them.
fn put(out: &mut Writer, bytes: &[u8], plain_bytes: usize) -> Result<(), DecodeError> {
    if out.len() + bytes.len() > plain_bytes {
        return Err(BAD);
    }
    out.raw(bytes);
    Ok(())
}
