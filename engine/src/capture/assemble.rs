//! From messages to transactions of replicated tables.
//!
//! What is small is kept in memory until its commit. A large transaction of the application goes
//! through a scratch file and comes out in fragments; a large one of our own, which shows fragments
//! of another site, comes out marker by marker.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use landfall_protocol::change::{Actor, Fragment};
use landfall_protocol::fold::{
    ACTOR_PREFIX, CapturedTransaction, MARKER_PREFIX, Marker, MarkerKey, Relation, Row, RowEvent,
};
use landfall_protocol::schema::{ColumnDef, ColumnId, TableDef, TableName};
use landfall_protocol::value::{LongValue, Value, ValueKind};

use crate::capture::large::{Large, Progress};
use crate::capture::long::{LongText, LongTexts};
use crate::capture::pgoutput::{self, Column, DecodeError, Message, OldRow, RelationId, Tuple};
use crate::capture::scratch::ScratchError;
use crate::capture::spill::{Spill, event_bytes};
use crate::postgres::lsn::Lsn;
use crate::store::Resume;

/// Images that one marker of ours may have in memory. The groups we apply are far smaller, unless
/// their rows hold much that did not change.
const MARKED_BYTES_MAX: usize = 128 << 20;

/// Why a transaction cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The server sent what we cannot read.
    #[error("stream from the server does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// A message came out of order.
    #[error("stream from the server is out of order: {0}")]
    OutOfOrder(&'static str),
    /// The old row is not there, so nobody can tell what changed.
    #[error(
        "table {0} does not have REPLICA IDENTITY FULL; run: ALTER TABLE {0} REPLICA IDENTITY FULL, then landfall-node init"
    )]
    NotFull(TableName),
    /// A value is not UTF-8.
    #[error("a value of table {0} is not UTF-8; the database must have encoding UTF8")]
    NotUtf8(TableName),
    /// The primary key is gone or not part of the stream.
    #[error("table {0} has no primary key any more; add one, then run landfall-node init")]
    NoKey(TableName),
    /// One of our own messages does not decode.
    #[error("a landfall.apply message in the WAL does not decode: {0}")]
    Marker(landfall_protocol::codec::DecodeError),
    /// The rows of one of our own transactions do not fit into memory.
    #[error(
        "one of our own transactions, which ends at {at}, wrote rows of more than {limit} bytes at once; lower group_changes_max"
    )]
    TooLarge {
        /// Where it commits.
        at: Lsn,
        /// The limit.
        limit: usize,
    },
    /// The scratch files of large transactions.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// What the store noted of a transaction folded in part does not read.
    #[error("the store's note on a transaction folded in part does not decode: {0}")]
    Resume(landfall_protocol::codec::DecodeError),
}

/// What a message completed.
#[derive(Debug)]
pub enum Assembled {
    /// A transaction.
    Committed(Committed),
    /// What one of our own transactions did under one of its markers; more of it follows.
    Part(Part),
}

/// A table of the fleet as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTable {
    /// As it travels; the key is empty when there is none any more.
    pub def: TableDef,
    /// Generated columns. Since version 18 they may be in the stream, and must be for the
    /// application's updates to work; every site computes its own.
    pub generated: BTreeSet<String>,
    /// Its partitions. The stream describes them, and then has their rows under the table's name.
    pub partitions: Vec<TableName>,
}

/// A relation of the stream.
#[derive(Debug)]
struct Source {
    /// Without its generated columns.
    relation: Arc<Relation>,
    /// The typed forms of its columns.
    kinds: Vec<ValueKind>,
    /// The places of generated columns in the stream's rows.
    generated: BTreeSet<usize>,
}

/// What the stream has described under a number.
#[derive(Debug)]
enum Described {
    /// A table of ours.
    Source(Source),
    /// A partition, whose rows come under the name of its table; or a table that was published and
    /// is not in the fleet file, which has rows.
    Other(TableName),
    /// One of the latter that was told about.
    Told,
}

/// A committed transaction, or only a position that moved.
#[derive(Debug)]
pub struct Committed {
    /// What it did.
    pub content: Content,
    /// The position after it.
    pub end: Lsn,
    /// Its transaction id.
    pub xid: u32,
}

/// What a transaction did.
#[derive(Debug)]
pub enum Content {
    /// Nothing to replicated tables.
    Nothing,
    /// All of it, with roughly the memory its rows take.
    Whole(CapturedTransaction, usize),
    /// Too much to hold at once.
    Large(Box<Large>),
}

/// What one of our own transactions did under one marker.
#[derive(Debug)]
pub struct Part {
    /// Marker and rows.
    pub transaction: CapturedTransaction,
    /// Says that this much of the transaction is folded.
    pub resume: Resume,
    /// Roughly the memory its rows take.
    pub bytes: usize,
}

/// How large transactions are kept.
#[derive(Debug, Clone)]
pub struct Scratch {
    /// Where the scratch files are made.
    pub dir: PathBuf,
    /// Rows of one transaction kept in memory, in bytes.
    pub memory_bytes_max: usize,
}

impl Scratch {
    /// Memory the rows of one fragment may take: the same rows take as much again where they are
    /// applied, and a few times as much while they are folded.
    pub fn fragment_bytes(&self) -> usize {
        self.memory_bytes_max / 4
    }
}

/// Collects the messages of one connection.
#[derive(Debug)]
pub struct Assembler {
    /// Tells our markers from messages somebody else wrote.
    marker_key: MarkerKey,
    /// Messages that look like markers and are not ours.
    foreign_markers: u64,
    /// Replicated tables as the catalog describes them.
    catalog: BTreeMap<TableName, SourceTable>,
    /// Transactions that commit from here on may have changed what the catalog said.
    catalog_as_of: Lsn,
    relations: BTreeMap<RelationId, Described>,
    scratch: Scratch,
    /// Where the texts are that were put aside.
    texts: Arc<LongTexts>,
    /// The transaction that is folded in part, until it comes again.
    resume: Option<(Lsn, Progress)>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    commit_ms: u64,
    final_lsn: Lsn,
    xid: u32,
    /// Whom the application named last.
    actor: Option<Actor>,
    rows: Vec<RowEvent>,
    marker: Option<Marker>,
    /// Roughly the memory of the rows in memory, spilled ones among them.
    bytes: usize,
    spill: Option<Spill>,
    /// Texts of new rows that were put aside.
    texts: BTreeMap<LongValue, LongText>,
    /// Markers whose rows are complete.
    parts: u64,
    /// How much of it is folded.
    folded: Option<Progress>,
}

impl Open {
    /// What was done under the marker; the rows of the next one follow.
    fn take_part(&mut self) -> CapturedTransaction {
        self.parts += 1;
        self.bytes = 0;
        CapturedTransaction {
            commit_ms: self.commit_ms,
            actor: self.actor.clone(),
            rows: std::mem::take(&mut self.rows),
            marker: self.marker.take(),
            fragment: Fragment::Whole,
            piece: None,
        }
    }

    /// Whether the part taken last is folded already.
    fn part_is_folded(&self) -> bool {
        matches!(self.folded, Some(Progress::Parts(folded)) if self.parts <= folded)
    }

    fn add(&mut self, event: RowEvent, scratch: &Scratch) -> Result<(), AssembleError> {
        self.bytes += event_bytes(&event);
        if self.marker.is_some() {
            if self.bytes > MARKED_BYTES_MAX {
                let limit = MARKED_BYTES_MAX;
                return Err(AssembleError::TooLarge { at: self.final_lsn, limit });
            }
            self.rows.push(event);
            return Ok(());
        }
        match &mut self.spill {
            Some(spill) => spill.push(event),
            None => self.rows.push(event),
        }
        if self.bytes > scratch.memory_bytes_max {
            let spill = self.spill.get_or_insert_default();
            self.rows.drain(..).for_each(|event| spill.push(event));
            spill.write_out(&scratch.dir)?;
            self.bytes = 0;
        }
        Ok(())
    }
}

impl Assembler {
    /// Starts with the replicated tables as the catalog described them at a position; `resume` is
    /// the store's note on a transaction folded in part.
    ///
    /// # Errors
    /// Fails when `resume` does not read.
    pub fn new(
        marker_key: MarkerKey,
        tables: impl IntoIterator<Item = SourceTable>,
        as_of: Lsn,
        scratch: Scratch,
        resume: Option<&Resume>,
    ) -> Result<Self, AssembleError> {
        let texts = Arc::new(LongTexts::new(scratch.dir.clone()));
        let resume = match resume {
            Some(note) => {
                Some((Lsn(note.commit_lsn), Progress::read(note).map_err(AssembleError::Resume)?))
            }
            None => None,
        };
        let mut assembler = Self {
            marker_key,
            foreign_markers: 0,
            catalog: BTreeMap::new(),
            catalog_as_of: as_of,
            relations: BTreeMap::new(),
            scratch,
            texts,
            resume,
            open: None,
        };
        assembler.set_catalog(tables, as_of);
        Ok(assembler)
    }

    /// Replaces the catalog by one read at a position; says whether it tells anything new.
    pub fn set_catalog(
        &mut self,
        tables: impl IntoIterator<Item = SourceTable>,
        as_of: Lsn,
    ) -> bool {
        let catalog = tables.into_iter().map(|table| (table.def.name.clone(), table)).collect();
        let differs = self.catalog != catalog;
        self.catalog = catalog;
        self.catalog_as_of = as_of;
        differs
    }

    /// Where texts too long for memory must be put, before the messages that held them come here.
    pub fn texts(&self) -> &Arc<LongTexts> {
        &self.texts
    }

    /// Whether no transaction is half received.
    pub fn is_idle(&self) -> bool {
        self.open.is_none()
    }

    /// The transaction that is half received, and where its commit stands in the log.
    pub fn open_transaction(&self) -> Option<(u32, Lsn)> {
        self.open.as_ref().map(|open| (open.xid, open.final_lsn))
    }

    /// Whether the catalog must be read again before this message: it describes a table that is
    /// not as the catalog says, or may describe a change the catalog did not know, of which the
    /// message shows nothing: another primary key, or another type.
    pub fn needs_catalog(&self, message: &Message<'_>) -> bool {
        let Message::Relation(relation) = message else { return false };
        if self.open.as_ref().is_some_and(|open| open.final_lsn >= self.catalog_as_of) {
            return true;
        }
        let name = TableName::new(relation.schema, relation.name);
        match self.catalog.get(&name) {
            Some(SourceTable { def, generated, .. }) => relation
                .columns()
                .any(|c| def.column(c.name).is_none() && !generated.contains(c.name)),
            None => !self.catalog.values().any(|table| table.partitions.contains(&name)),
        }
    }

    /// Takes the next message; at a commit, and at each further marker of our own, gives what is
    /// complete.
    ///
    /// # Errors
    /// Fails when capture cannot go on without an operator.
    pub fn push(&mut self, message: &Message<'_>) -> Result<Option<Assembled>, AssembleError> {
        match message {
            Message::Begin(begin) => self.begin(begin)?,
            Message::Commit(commit) => {
                return self.commit(commit).map(|done| Some(Assembled::Committed(done)));
            }
            Message::Relation(relation) => self.describe(relation)?,
            Message::Insert(insert) => self.row(insert.relation, None, Some(insert.new))?,
            Message::Update(update) => {
                let old = self.full(update.relation, update.old)?;
                self.row(update.relation, old, Some(update.new))?;
            }
            Message::Delete(delete) => {
                let old = self.full(delete.relation, Some(delete.old))?;
                self.row(delete.relation, old, None)?;
            }
            Message::Logical(logical)
                if logical.transactional && logical.prefix == MARKER_PREFIX =>
            {
                match self.marker_key.open(logical.content).map_err(AssembleError::Marker)? {
                    Some(marker) => return Ok(self.mark(marker)?.map(Assembled::Part)),
                    // Its transaction is the application's like any other.
                    None => self.note_foreign_marker(),
                }
            }
            Message::Logical(logical)
                if logical.transactional && logical.prefix == ACTOR_PREFIX =>
            {
                // Whatever it says, its transaction must be captured.
                self.open()?.actor = Actor::from_text(&String::from_utf8_lossy(logical.content));
            }
            // TRUNCATE is not published: a trigger refuses it.
            Message::Logical(_) | Message::Origin(_) | Message::Type(_) | Message::Truncate(_) => {}
        }
        Ok(None)
    }

    fn note_foreign_marker(&mut self) {
        self.foreign_markers += 1;
        if self.foreign_markers == 1 {
            tracing::warn!("somebody writes logical messages with our prefix; they are ignored");
        }
    }

    /// Takes a marker. One that names other transactions than the one before ends a part.
    fn mark(&mut self, marker: Marker) -> Result<Option<Part>, AssembleError> {
        let open = self.open()?;
        let goes_on = open.marker.as_ref().is_none_or(|before| before.is_about_the_same(&marker));
        let bytes = open.bytes;
        let part = (!goes_on).then(|| open.take_part()).filter(|_| !open.part_is_folded());
        open.marker = Some(marker);
        let resume = Progress::Parts(open.parts).resume(open.final_lsn);
        Ok(part.map(|transaction| Part { transaction, resume, bytes }))
    }

    fn begin(&mut self, begin: &pgoutput::Begin) -> Result<(), AssembleError> {
        if self.open.is_some() {
            return Err(AssembleError::OutOfOrder("a transaction begins inside another"));
        }
        let folded = match self.resume.take_if(|(commit, _)| *commit <= begin.final_lsn) {
            Some((commit, folded)) if commit == begin.final_lsn => Some(folded),
            Some(_) => {
                let what = "the transaction that is folded in part does not come again";
                return Err(AssembleError::OutOfOrder(what));
            }
            None => None,
        };
        self.open = Some(Open {
            commit_ms: u64::try_from(begin.commit_time.unix_micros() / 1000).unwrap_or(0),
            final_lsn: begin.final_lsn,
            xid: begin.xid.0,
            actor: None,
            rows: Vec::new(),
            marker: None,
            bytes: 0,
            spill: None,
            texts: BTreeMap::new(),
            parts: 0,
            folded,
        });
        Ok(())
    }

    fn commit(&mut self, commit: &pgoutput::Commit) -> Result<Committed, AssembleError> {
        let mut open =
            self.open.take().ok_or(AssembleError::OutOfOrder("a commit without a begin"))?;
        // Its long values go ahead of it, in fragments; and one that was begun in fragments goes on
        // so, whatever may be kept in memory by now.
        let begun = matches!(open.folded, Some(Progress::Rows(_)));
        if begun || !open.texts.is_empty() && open.marker.is_none() {
            let spill = open.spill.get_or_insert_default();
            open.rows.drain(..).for_each(|event| spill.push(event));
        }
        let content = match (open.spill.take(), open.folded.take()) {
            (Some(spill), folded) => {
                let after = match folded {
                    Some(Progress::Rows(place)) => Some(place),
                    _ => None,
                };
                let rows = spill.finish(&self.scratch.dir, after.clone())?;
                let texts = (Arc::clone(&self.texts), std::mem::take(&mut open.texts));
                let commit = (open.commit_ms, open.final_lsn);
                let large = Large::new(commit, open.actor.take(), rows, after, texts);
                Content::Large(Box::new(large))
            }
            (None, _) if open.rows.is_empty() && open.marker.is_none() => Content::Nothing,
            (None, _) => {
                let bytes = open.bytes;
                Content::Whole(open.take_part(), bytes)
            }
        };
        Ok(Committed { content, end: commit.end_lsn, xid: open.xid })
    }

    fn open(&mut self) -> Result<&mut Open, AssembleError> {
        self.open.as_mut().ok_or(AssembleError::OutOfOrder("a change outside a transaction"))
    }

    fn describe(&mut self, seen: &pgoutput::Relation<'_>) -> Result<(), AssembleError> {
        let name = TableName::new(seen.schema, seen.name);
        let Some(SourceTable { def, generated, .. }) = self.catalog.get(&name) else {
            if !matches!(self.relations.get(&seen.id), Some(Described::Told)) {
                self.relations.insert(seen.id, Described::Other(name));
            }
            return Ok(());
        };
        let is_generated = |name: &str| generated.contains(name);
        let columns: Vec<ColumnDef> = seen
            .columns()
            .filter(|column| !is_generated(column.name))
            .map(|column| {
                let known = def.column(column.name).and_then(|id| def.column_def(id));
                let type_name = known.map_or_else(|| "text".to_owned(), |c| c.type_name.clone());
                ColumnDef { name: column.name.to_owned(), type_name }
            })
            .collect();
        let key: Option<Vec<ColumnId>> = def
            .key
            .iter()
            .map(|id| {
                let name = &def.column_def(*id)?.name;
                let place = columns.iter().position(|column| column.name == *name)?;
                Some(ColumnId(place as u16))
            })
            .collect();
        let key = key.filter(|key| !key.is_empty()).ok_or(AssembleError::NoKey(name.clone()))?;
        let kinds = columns.iter().map(ColumnDef::kind).collect();
        let rules = def.rules.renamed(|id| {
            let known = &def.column_def(*id)?.name;
            let place = columns.iter().position(|column| column.name == *known)?;
            Some(ColumnId(place as u16))
        });
        let relation = Arc::new(Relation { name, set: def.set, columns, key, rules });
        let places = seen.columns().enumerate().filter(|(_, column)| is_generated(column.name));
        let generated = places.map(|(place, _)| place).collect();
        let source = Source { relation, kinds, generated };
        self.relations.insert(seen.id, Described::Source(source));
        Ok(())
    }

    fn full<'a>(
        &self,
        relation: RelationId,
        old: Option<OldRow<'a>>,
    ) -> Result<Option<Tuple<'a>>, AssembleError> {
        match (self.relations.get(&relation), old) {
            (_, Some(OldRow::Full(tuple))) => Ok(Some(tuple)),
            (Some(Described::Source(source)), _) => {
                Err(AssembleError::NotFull(source.relation.name.clone()))
            }
            _ => Ok(None),
        }
    }

    fn row(
        &mut self,
        relation: RelationId,
        old: Option<Tuple<'_>>,
        new: Option<Tuple<'_>>,
    ) -> Result<(), AssembleError> {
        let source = match self.relations.get(&relation) {
            None => return Err(AssembleError::OutOfOrder("a row of a table not described")),
            Some(Described::Source(source)) => source,
            Some(Described::Other(name)) => {
                tracing::error!(
                    table = %name,
                    "a published table is not in the fleet file, its changes are not replicated; \
                     if it was renamed, rename it back, else run landfall-node init"
                );
                self.relations.insert(relation, Described::Told);
                return Ok(());
            }
            Some(Described::Told) => return Ok(()),
        };
        if !old.iter().chain(&new).all(|tuple| source.fits(tuple)) {
            let what = "a row that does not fit its table's description";
            return Err(AssembleError::OutOfOrder(what));
        }
        let open = self
            .open
            .as_mut()
            .ok_or(AssembleError::OutOfOrder("a change outside a transaction"))?;
        let sparse = match (old, new) {
            // Compared with clocks is what the row shows, not only what became of it.
            _ if open.marker.is_some() => None,
            (Some(old), Some(new)) => changed(source, old, new)?,
            // What of it is in no log travels with its delete.
            (Some(_), None) if source.relation.rules.keeps_deleted() => None,
            (Some(old), None) => Some((Some(key(source, old)?), None)),
            (None, _) => None,
        };
        let (before, after) = match sparse {
            Some(rows) => rows,
            None => {
                let before = old.map(|old| whole(source, old, None)).transpose()?;
                (before, new.map(|new| whole(source, new, old)).transpose()?)
            }
        };
        if after.iter().flat_map(Row::iter).any(|(_, value)| matches!(value, Value::Long(_))) {
            // What was not sent again stands in the old row only.
            open.texts.extend(old.iter().chain(&new).flat_map(texts_of));
        }
        let relation = Arc::clone(&source.relation);
        open.add(RowEvent { relation, old: before, new: after }, &self.scratch)
    }
}

/// Values by their places.
type Places = Vec<(ColumnId, Value)>;

/// A row before and after.
type Rows = (Option<Row>, Option<Row>);

/// What of a tuple was put aside.
fn texts_of<'a>(tuple: &Tuple<'a>) -> impl Iterator<Item = (LongValue, LongText)> + use<'a> {
    tuple.columns().filter_map(|column| match column {
        Column::Long(text) => Some((text.value, text)),
        _ => None,
    })
}

/// An update's rows without what it did not change; `None` when it changed the key. Most of an
/// updated row is as it was, and bytes are compared faster than values are made.
fn changed(source: &Source, old: Tuple<'_>, new: Tuple<'_>) -> Result<Option<Rows>, AssembleError> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for ((place, was), (_, is)) in source.columns(old).zip(source.columns(new)) {
        let is_same = is == Column::Unchanged || is == was;
        match (is_same, source.relation.is_key(place)) {
            (true, false) => {}
            (true, true) => {
                let value = source.value(place, was, None)?;
                before.push((place, value.clone()));
                after.push((place, value));
            }
            (false, false) => {
                before.push((place, source.value(place, was, None)?));
                after.push((place, source.value(place, is, None)?));
            }
            (false, true) => return Ok(None),
        }
    }
    if !source.relation.rules.groups.is_empty() {
        complete_groups(source, (old, new), (&mut before, &mut after))?;
    }
    Ok(Some((Some(Row::of(before)), Some(Row::of(after)))))
}

/// Adds to what changed the columns that are written together with it.
fn complete_groups(
    source: &Source,
    (old, new): (Tuple<'_>, Tuple<'_>),
    (before, after): (&mut Places, &mut Places),
) -> Result<(), AssembleError> {
    let changed: BTreeSet<ColumnId> = before.iter().map(|(place, _)| *place).collect();
    let groups = source.relation.rules.groups.iter();
    let touched: BTreeSet<ColumnId> =
        groups.filter(|group| !group.is_disjoint(&changed)).flatten().copied().collect();
    for ((place, was), (_, is)) in source.columns(old).zip(source.columns(new)) {
        if touched.contains(&place) && !changed.contains(&place) {
            before.push((place, source.value(place, was, None)?));
            after.push((place, source.value(place, is, Some(was))?));
        }
    }
    before.sort_unstable_by_key(|(place, _)| *place);
    after.sort_unstable_by_key(|(place, _)| *place);
    Ok(())
}

/// A deleted row's key.
fn key(source: &Source, old: Tuple<'_>) -> Result<Row, AssembleError> {
    let key = source.columns(old).filter(|(place, _)| source.relation.is_key(*place));
    let values = key.map(|(place, column)| Ok((place, source.value(place, column, None)?)));
    values.collect::<Result<_, AssembleError>>().map(Row::of)
}

/// All of a row; what `old` was before the update is needed for values that were not sent again.
fn whole(source: &Source, tuple: Tuple<'_>, old: Option<Tuple<'_>>) -> Result<Row, AssembleError> {
    let mut before = old.map(|old| source.columns(old));
    let mut values = Vec::with_capacity(usize::from(tuple.column_count()));
    for (place, column) in source.columns(tuple) {
        let was = before.as_mut().and_then(Iterator::next).map(|(_, was)| was);
        values.push((place, source.value(place, column, was)?));
    }
    Ok(Row::of(values))
}

impl Source {
    fn fits(&self, tuple: &Tuple<'_>) -> bool {
        let columns = self.relation.columns.len() + self.generated.len();
        usize::from(tuple.column_count()) == columns
    }

    /// A tuple's columns by their place in the relation.
    fn columns<'a>(&self, tuple: Tuple<'a>) -> impl Iterator<Item = (ColumnId, Column<'a>)> {
        let travels = |(place, _): &(usize, Column<'_>)| !self.generated.contains(place);
        let columns = tuple.columns().enumerate().filter(travels).map(|(_, column)| column);
        (0..=u16::MAX).map(ColumnId).zip(columns)
    }

    /// A column's value; an unchanged TOAST value is taken from the old row, which has it.
    fn value(
        &self,
        place: ColumnId,
        column: Column<'_>,
        was: Option<Column<'_>>,
    ) -> Result<Value, AssembleError> {
        match (column, was) {
            (Column::Null, _) => Ok(Value::Null),
            (Column::Long(text), _) => Ok(Value::Long(Box::new(text.value))),
            (Column::Text(bytes), _) => {
                let text = std::str::from_utf8(bytes)
                    .map_err(|_| AssembleError::NotUtf8(self.relation.name.clone()))?;
                let kind = self.kinds.get(usize::from(place.0)).copied();
                Ok(Value::from_text(kind.unwrap_or(ValueKind::Text), text))
            }
            (Column::Unchanged, Some(was)) => self.value(place, was, None),
            (Column::Unchanged, None) => Err(AssembleError::NotFull(self.relation.name.clone())),
            (Column::Binary(_), _) => {
                Err(AssembleError::OutOfOrder("a binary value that was not asked for"))
            }
        }
    }
}
