//! The content of a unit: a spine that gives every transaction its clock reading and its table
//! descriptions, and one part per replication set with the row changes.

use std::collections::BTreeMap;

use crate::change::{Fragment, Piece, RowChange, Transaction, decode_head, encode_head};
use crate::clock::Hlc;
use crate::codec::{DecodeError, Reader, Writer};
use crate::id::Seq;
use crate::schema::{SetId, TableId};
use crate::unit::{
    CHANGE_BYTES_MIN, PartHeader, PartId, TRANSACTION_BYTES_MIN, UNIT_TRANSACTIONS_MAX, UnitHeader,
};

pub(super) struct PlainPart {
    pub(super) id: PartId,
    pub(super) count: u64,
    pub(super) plain: Vec<u8>,
}

impl PlainPart {
    /// The content of a part of a header.
    pub(super) fn of(header: &PartHeader, plain: Vec<u8>) -> Self {
        Self { id: header.id, count: header.count, plain }
    }

    pub(super) fn header(&self) -> PartHeader {
        PartHeader {
            id: self.id,
            count: self.count,
            plain_bytes: self.plain.len() as u64,
            root: *blake3::hash(&self.plain).as_bytes(),
        }
    }
}

/// The spine first, then one part per set that has changes.
pub(super) fn encode(
    fragment: Fragment,
    transactions: &[Transaction],
    set_of: impl Fn(TableId) -> SetId,
) -> Vec<PlainPart> {
    let mut spine = Writer::new();
    let mut sets: BTreeMap<SetId, SetWriter> = BTreeMap::new();
    let (mut last_seq, mut last) =
        transactions.first().map_or((Seq::ZERO, Hlc::ZERO), |t| (t.seq, t.hlc));
    for (index, transaction) in transactions.iter().enumerate() {
        if fragment == Fragment::Compacted {
            spine.varint(transaction.seq.0 - last_seq.0);
            last_seq = transaction.seq;
        }
        spine.varint(transaction.hlc.0 - last.0);
        last = transaction.hlc;
        encode_head(&transaction.describes, transaction.actor.as_ref(), &mut spine);
        for (set, changes) in by_set(&transaction.changes, &set_of) {
            sets.entry(set).or_default().push(index, &changes);
        }
        if let Some(piece) = &transaction.piece {
            piece.encode(&mut sets.entry(set_of(piece.table)).or_default().out);
        }
    }
    let count = transactions.len() as u64;
    let mut parts = vec![PlainPart { id: PartId::Spine, count, plain: spine.into_bytes() }];
    parts.extend(sets.into_iter().map(|(set, writer)| PlainPart {
        id: PartId::Set(set),
        count: writer.count,
        plain: writer.out.into_bytes(),
    }));
    parts
}

#[derive(Default)]
struct SetWriter {
    out: Writer,
    count: u64,
    last_index: usize,
}

impl SetWriter {
    fn push(&mut self, index: usize, changes: &[&RowChange]) {
        self.out.varint((index - self.last_index) as u64);
        self.last_index = index;
        self.out.varint(changes.len() as u64);
        self.count += changes.len() as u64;
        for change in changes {
            change.encode(&mut self.out);
        }
    }
}

fn by_set(
    changes: &[RowChange],
    set_of: impl Fn(TableId) -> SetId,
) -> BTreeMap<SetId, Vec<&RowChange>> {
    let mut sets: BTreeMap<SetId, Vec<&RowChange>> = BTreeMap::new();
    for change in changes {
        sets.entry(set_of(change.table)).or_default().push(change);
    }
    sets
}

/// Puts the transactions together again; `plain` are the parts in header order.
pub(super) fn decode(
    header: &UnitHeader,
    plain: &[Vec<u8>],
) -> Result<Vec<Transaction>, DecodeError> {
    let mut transactions = Vec::new();
    for (part, bytes) in header.parts.iter().zip(plain) {
        let mut from = Reader::new(bytes);
        match part.id {
            PartId::Spine => transactions = decode_spine(header, part.count, &mut from)?,
            PartId::Set(_) if part.count == 0 => {
                decode_piece(header, &mut from, &mut transactions)?
            }
            PartId::Set(_) => decode_set(part.count, &mut from, &mut transactions)?,
        }
        from.finish()?;
    }
    for transaction in &mut transactions {
        // In place; equal ones are refused.
        transaction.changes.sort_unstable_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
        if transaction
            .changes
            .windows(2)
            .any(|two| two[0].table == two[1].table && two[0].key == two[1].key)
        {
            return Err(DecodeError::NotCanonical("transaction with two changes of one row"));
        }
    }
    Ok(transactions)
}

fn decode_spine(
    header: &UnitHeader,
    count: u64,
    from: &mut Reader<'_>,
) -> Result<Vec<Transaction>, DecodeError> {
    if count > UNIT_TRANSACTIONS_MAX as u64 {
        let limit = UNIT_TRANSACTIONS_MAX as u64;
        return Err(DecodeError::TooLong { found: count, limit });
    }
    let is_compacted = header.fragment == Fragment::Compacted;
    if !is_compacted && (header.last.0 - header.first.0).checked_add(1) != Some(count)
        || count > from.rest().len() as u64 / TRANSACTION_BYTES_MIN
    {
        return Err(DecodeError::NotCanonical("spine"));
    }
    let mut transactions = Vec::with_capacity(count as usize);
    let (mut seq, mut hlc) = (header.first, header.hlc_first);
    for index in 0..count {
        let skip = match is_compacted {
            true => from.varint()?,
            false => u64::from(index > 0),
        };
        if (index == 0) != (skip == 0) {
            return Err(DecodeError::NotCanonical("sequence numbers"));
        }
        seq = Seq(seq.0.checked_add(skip).ok_or(DecodeError::BadNumber)?);
        let step = from.varint()?;
        if (index == 0) != (step == 0) {
            return Err(DecodeError::NotCanonical("clock readings"));
        }
        hlc = Hlc(hlc.0.checked_add(step).ok_or(DecodeError::BadNumber)?);
        let (describes, actor) = decode_head(from)?;
        transactions.push(Transaction {
            seq,
            hlc,
            actor,
            describes,
            changes: Vec::new(),
            piece: None,
        });
    }
    if hlc != header.hlc_last {
        return Err(DecodeError::NotCanonical("clock readings"));
    }
    if seq != header.last {
        return Err(DecodeError::NotCanonical("sequence numbers"));
    }
    Ok(transactions)
}

/// A part without changes holds a piece of a long value, alone in its fragment.
fn decode_piece(
    header: &UnitHeader,
    from: &mut Reader<'_>,
    transactions: &mut [Transaction],
) -> Result<(), DecodeError> {
    match transactions {
        [alone] if header.fragment == Fragment::More && header.parts.len() == 2 => {
            alone.piece = Some(Box::new(Piece::decode(from)?));
            Ok(())
        }
        _ => Err(DecodeError::NotCanonical("part")),
    }
}

fn decode_set(
    count: u64,
    from: &mut Reader<'_>,
    transactions: &mut [Transaction],
) -> Result<(), DecodeError> {
    let mut index = 0usize;
    let mut found = 0u64;
    let mut first = true;
    while !from.rest().is_empty() {
        let step = from.varint()?;
        if !first && step == 0 {
            return Err(DecodeError::NotCanonical("part"));
        }
        first = false;
        index = usize::try_from(step)
            .ok()
            .and_then(|step| index.checked_add(step))
            .ok_or(DecodeError::BadNumber)?;
        let transaction = transactions.get_mut(index).ok_or(DecodeError::BadNumber)?;
        let changes = from.count(usize::MAX)?;
        if changes == 0 {
            return Err(DecodeError::NotCanonical("part"));
        }
        // Exactly as many, if there can be: a list that grows takes up to three times as much.
        let fit = from.rest().len() / CHANGE_BYTES_MIN as usize;
        transaction.changes.reserve_exact(changes.min(fit));
        for _ in 0..changes {
            transaction.changes.push(RowChange::decode(from)?);
        }
        found += changes as u64;
    }
    if found == count && found > 0 { Ok(()) } else { Err(DecodeError::NotCanonical("part")) }
}
