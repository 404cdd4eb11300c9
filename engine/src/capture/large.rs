//! A transaction that is folded in fragments: its rows come back from the scratch file, and before
//! rows with long values come the pieces of those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use landfall_protocol::change::{Actor, Fragment};
use landfall_protocol::codec::{DecodeError, Reader, Writer};
use landfall_protocol::fold::{CapturedTransaction, LongPiece, Relation, Row, RowEvent};
use landfall_protocol::value::{LongValue, Value};

use crate::capture::long::{LongText, LongTexts};
use crate::capture::scratch::ScratchError;
use crate::capture::spill::{Place, Share, Spilled};
use crate::postgres::lsn::Lsn;
use crate::store::Resume;

/// How much of a transaction is folded.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// So many of its markers.
    Parts(u64),
    /// Its rows up to this one.
    Rows(Place),
}

impl Progress {
    /// What the store notes of a transaction that commits there.
    pub(super) fn resume(&self, commit: Lsn) -> Resume {
        let mut out = Writer::new();
        match self {
            Self::Parts(count) => {
                out.u8(0);
                out.varint(*count);
            }
            Self::Rows(place) => {
                out.u8(1);
                out.raw(&place.encode());
            }
        }
        Resume { commit_lsn: commit.0, token: out.into_bytes() }
    }

    /// Reads the note.
    ///
    /// # Errors
    /// Fails when it is not one of ours.
    pub(super) fn read(resume: &Resume) -> Result<Self, DecodeError> {
        let mut from = Reader::new(&resume.token);
        match from.u8()? {
            0 => Ok(Self::Parts(from.varint()?)),
            _ => Ok(Self::Rows(Place::decode(from.rest())?)),
        }
    }
}

/// A long value on its way into pieces.
#[derive(Debug)]
struct Cutting {
    relation: Arc<Relation>,
    text: LongText,
    index: u32,
    read: u64,
}

/// A transaction of the application that is folded in fragments.
#[derive(Debug)]
pub struct Large {
    commit_ms: u64,
    commit_lsn: Lsn,
    actor: Option<Actor>,
    rows: Spilled,
    texts: Arc<LongTexts>,
    /// Where the content of its long values is.
    places: BTreeMap<LongValue, LongText>,
    /// Values whose pieces were given out or are about to be.
    known: BTreeSet<LongValue>,
    /// Pieces that come before `share`.
    cutting: VecDeque<Cutting>,
    share: Option<Share>,
    /// What is folded once everything given out so far is.
    folded: Option<Place>,
}

/// A fragment of a large transaction.
#[derive(Debug)]
pub struct LargeFragment {
    /// Its rows, or a piece of a long value.
    pub transaction: CapturedTransaction,
    /// Says that it is folded; `None` while nothing is worth being noted.
    pub resume: Option<Resume>,
    /// Roughly the memory it takes.
    pub bytes: usize,
}

impl LargeFragment {
    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.transaction.fragment == Fragment::Last
    }
}

impl Large {
    /// The rows still to be folded, those behind `after`, and where texts that were put aside are.
    pub(super) fn new(
        (commit_ms, commit_lsn): (u64, Lsn),
        actor: Option<Actor>,
        rows: Spilled,
        after: Option<Place>,
        (texts, places): (Arc<LongTexts>, BTreeMap<LongValue, LongText>),
    ) -> Self {
        Self {
            commit_ms,
            commit_lsn,
            actor,
            rows,
            texts,
            places,
            known: BTreeSet::new(),
            cutting: VecDeque::new(),
            share: None,
            folded: after,
        }
    }

    /// The next fragment, whose rows take about `bytes_max` in memory. After the last one it must
    /// not be called again.
    ///
    /// # Errors
    /// A scratch file cannot be read.
    pub fn next_fragment(&mut self, bytes_max: usize) -> Result<LargeFragment, ScratchError> {
        let share = match self.share.take() {
            Some(share) => share,
            None => self.rows.next_share(bytes_max)?,
        };
        share.rows.iter().for_each(|event| self.note_new_texts(event));
        if let Some(piece) = self.next_piece()? {
            self.share = Some(share);
            let bytes = piece.text.len();
            return Ok(self.fragment(Vec::new(), Some(piece), Fragment::More, bytes));
        }
        let fragment = if share.after.is_some() { Fragment::More } else { Fragment::Last };
        self.folded = share.after;
        Ok(self.fragment(share.rows, None, fragment, share.bytes))
    }

    fn fragment(
        &self,
        rows: Vec<RowEvent>,
        piece: Option<LongPiece>,
        fragment: Fragment,
        bytes: usize,
    ) -> LargeFragment {
        let (commit_ms, actor) = (self.commit_ms, self.actor.clone());
        let marker = None;
        let transaction = CapturedTransaction { commit_ms, actor, rows, marker, fragment, piece };
        let folded = self.folded.clone().map(Progress::Rows);
        let resume = folded.map(|folded| folded.resume(self.commit_lsn));
        LargeFragment { transaction, resume, bytes }
    }

    /// What of a row's long values is new must be on its way before the row is.
    fn note_new_texts(&mut self, event: &RowEvent) {
        for (column, value) in event.new.iter().flat_map(Row::iter) {
            let Value::Long(long) = value else { continue };
            let before = event.old.as_ref().and_then(|old| old.get(column));
            if before == Some(value) || self.known.contains(long) {
                continue;
            }
            if let Some(text) = self.places.get(long) {
                let relation = Arc::clone(&event.relation);
                self.known.insert(**long);
                self.cutting.push_back(Cutting { relation, text: *text, index: 0, read: 0 });
            }
        }
    }

    fn next_piece(&mut self) -> Result<Option<LongPiece>, ScratchError> {
        let Some(cutting) = self.cutting.front_mut() else { return Ok(None) };
        let text = self.texts.piece(&cutting.text, cutting.read)?;
        let (relation, hash) = (Arc::clone(&cutting.relation), cutting.text.value.hash);
        let piece = LongPiece { relation, hash, index: cutting.index, text };
        cutting.read += piece.text.len() as u64;
        cutting.index += 1;
        if cutting.read >= cutting.text.value.bytes {
            self.cutting.pop_front();
        }
        Ok(Some(piece))
    }
}
