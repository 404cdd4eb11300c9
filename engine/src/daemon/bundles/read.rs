//! `bundle read`: one task takes parts as they come, puts units into the store, and keeps what came too
//! early until the store holds what it needs, by whatever way that comes.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use landfall_protocol::bundle::{Manifest, Trailer};
use landfall_protocol::id::Seq;
use landfall_protocol::version::VersionVector;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spool::{Keeping, Kept, PartKey, Spool};
use super::{Shared, Waiting, sentence, user};
use crate::admin::bundle::{PresentPart, ReadAnswer, ReadAsk, ReadOutcome};
use crate::admin::talk::{Frame, Talk};
use crate::bundle::{Intake, PartDecoder, PartError, Piece, Receipt, Taken};
use crate::links::Word;
use crate::plant;
use crate::store::{PartFate, PartRecord, Severity, StoreError};
use crate::time;

/// What is read of a file at once.
const BLOCK_BYTES: usize = 256 << 10;
/// How long a command may say nothing: one part is read at a time.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// A command that has a part.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) ask: ReadAsk,
    pub(super) talk: Talk,
}

/// The task that reads.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Incoming>,
    stop: CancellationToken,
    spool: Spool,
}

/// A part being read.
struct Reading {
    decoder: PartDecoder,
    intake: Intake,
    done_by: String,
    /// All that came before it was known whether it is to be kept.
    head: Option<Vec<u8>>,
    bytes: u64,
    said_bytes: u64,
    begun: Option<Begun>,
    trailer: Option<Trailer>,
    keeping: Keep,
}

/// What the manifest told.
struct Begun {
    manifest: Manifest,
    receipt: Receipt,
}

/// Whether what comes is kept as it is.
enum Keep {
    /// There is no need, as far as is known.
    No,
    Yes(Keeping),
    /// There is a need, and no room.
    Cannot(String),
}

/// Why a part was not read.
enum Failure {
    Part(PartError),
    /// The command is gone, or says odd things.
    Talk(String),
    /// It was read before.
    Known(Box<PartRecord>),
}

impl From<PartError> for Failure {
    fn from(error: PartError) -> Self {
        Self::Part(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Part(error.into())
    }
}

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        incoming: mpsc::Receiver<Incoming>,
        stop: CancellationToken,
    ) -> Self {
        let spool = Spool::new(&shared.parts.spool_dir, shared.parts.spool_bytes_max);
        Self { shared, incoming, stop, spool }
    }

    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            // A part under way is read again; nothing of it is promised.
            () = stop.cancelled() => Ok(()),
            outcome = self.work() => outcome,
        }
    }

    async fn work(&mut self) -> Result<(), StoreError> {
        let store = self.shared.parts.store.clone();
        let register = match store.parts().await {
            Ok(register) => register,
            Err(error) if error.severity() == Severity::Fatal => return Err(error),
            Err(error) => {
                tracing::error!(%error, advice = error.advice(), "no bundles are read");
                self.stop.cancelled().await;
                return Ok(());
            }
        };
        let parts = &self.shared.parts;
        self.spool = Spool::open(&parts.spool_dir, parts.spool_bytes_max, &register);
        let mut news = store.watch();
        loop {
            self.read_kept().await?;
            tokio::select! {
                biased;
                incoming = self.incoming.recv() => match incoming {
                    Some(incoming) => self.handle(incoming).await?,
                    // Nobody can ask any more: everything is stopping.
                    None => return Ok(()),
                },
                changed = news.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    async fn handle(&mut self, Incoming { ask, mut talk }: Incoming) -> Result<(), StoreError> {
        let outcome = self.read(&ask, &mut talk).await;
        let outcome = match outcome {
            Err(Failure::Part(PartError::Store(error))) if error.severity() == Severity::Fatal => {
                return Err(error);
            }
            Ok(answer) => Ok(answer),
            Err(Failure::Known(record)) => Ok(self.known_answer(&record)),
            Err(failure) => {
                self.shared.counted.parts_refused.fetch_add(1, Ordering::Relaxed);
                Err(match failure {
                    Failure::Part(error) => error.to_string(),
                    Failure::Talk(why) => why,
                    Failure::Known(_) => unreachable!("matched above"),
                })
            }
        };
        let outcome = match outcome {
            Ok(mut answer) => {
                answer.freed = self.read_kept().await?;
                serde_json::to_value(answer).map_err(|error| error.to_string())
            }
            Err(sentence) => Err(sentence),
        };
        self.answer(&mut talk, outcome).await;
        Ok(())
    }

    async fn answer(&self, talk: &mut Talk, outcome: Result<Value, String>) {
        if let Err(error) = talk.saying.answer(outcome).await {
            tracing::debug!(%error, "a command that read a bundle did not take its answer");
            return;
        }
        // What it still sends is taken, so that it does not find the socket reset before it has
        // read the answer.
        let rest = async { while let Ok(Some(_)) = talk.listening.next().await {} };
        let _ = tokio::time::timeout(SILENCE_MAX, rest).await;
    }

    async fn read(&mut self, ask: &ReadAsk, talk: &mut Talk) -> Result<ReadAnswer, Failure> {
        let mut reading = Reading::new(&self.shared, user(&ask.user, talk.uid), ask.bytes);
        loop {
            let frame = tokio::time::timeout(SILENCE_MAX, talk.listening.next()).await;
            let frame = frame.map_err(|_| {
                let seconds = SILENCE_MAX.as_secs();
                Failure::Talk(format!("nothing came for {seconds} s; others wait to be read"))
            })?;
            match frame.map_err(|error| Failure::Talk(error.to_string()))? {
                Some(Frame::Data(bytes)) => {
                    reading.push(bytes);
                    self.drain(&mut reading, ask.again).await?;
                }
                Some(Frame::End) => break,
                Some(Frame::Json(_)) => return Err(Failure::Talk("bytes were expected".into())),
                None => return Err(Failure::Talk("the command went away".into())),
            }
        }
        self.end(reading, ask.again).await
    }

    /// Takes what can be taken of what came.
    async fn drain(&mut self, reading: &mut Reading, again: bool) -> Result<(), Failure> {
        loop {
            let piece = match reading.decoder.take() {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // What came before was signed by its origins, whatever came behind it.
                    reading.intake.flush().await?;
                    return Err(error.into());
                }
            };
            match piece {
                Piece::Manifest(manifest) => self.begin(reading, *manifest, again).await?,
                Piece::Unit(bytes) => reading.intake.unit(bytes).await?,
                Piece::Trailer(trailer) => reading.trailer = Some(trailer),
            }
        }
    }

    async fn begin(
        &mut self,
        reading: &mut Reading,
        manifest: Manifest,
        again: bool,
    ) -> Result<(), Failure> {
        let receipt = reading.intake.greet(&manifest).await?;
        let key = reading.key();
        let store = &self.shared.parts.store;
        let received = store.watch().borrow().received.clone();
        let register = store.parts().await?;
        let known = register
            .into_iter()
            .find(|line| (line.bundle, line.part, line.fate) == (key.0, key.1, PartFate::Read));
        if let Some(known) = known.filter(|known| !again && received.contains(&known.reaches)) {
            return Err(Failure::Known(Box::new(known)));
        }
        if plant::active("bundle-early-note") {
            let record = reading.record(&manifest, PartFate::Read, VersionVector::new());
            store.record_part(record).await?;
        }
        if !received.contains(&manifest.needs) && !self.spool.kept().contains_key(&key) {
            reading.keep(self.spool.begin(key, reading.said_bytes));
        }
        reading.head = None;
        reading.begun = Some(Begun { manifest, receipt });
        Ok(())
    }

    /// All of a part has come: makes it durable, and says what became of it.
    async fn end(&mut self, mut reading: Reading, again: bool) -> Result<ReadAnswer, Failure> {
        reading.decoder.push_end();
        self.drain(&mut reading, again).await?;
        plant::hang("unstored-part").await;
        reading.intake.flush().await?;
        let taken = reading.intake.taken().clone();
        let Some(begun) = reading.begun.take() else {
            return Err(PartError::Truncated { bytes: reading.bytes }.into());
        };
        let Begun { manifest, receipt } = &begun;
        // Only now: what the writer holds may be counted upon for as long as what it brings is.
        let word = Word { received: receipt.received.clone(), applied: receipt.applied.clone() };
        self.shared.parts.links.note_word(receipt.writer, word, receipt.said_ms).await?;
        let outcome = if taken.gaps.is_empty() && taken.refused.is_empty() {
            let reaches = reading.trailer.as_ref().map(|trailer| trailer.reaches.clone());
            let record = reading.record(manifest, PartFate::Read, reaches.unwrap_or_default());
            self.note_read(record).await?;
            ReadOutcome::Read
        } else if taken.gaps.is_empty() {
            ReadOutcome::Refused
        } else {
            self.keep(&mut reading, manifest, &taken).await?
        };
        let why = self.why(&reading, manifest, &taken, outcome);
        Ok(self.answer_of(&reading, manifest, &taken, (outcome, why)))
    }

    async fn note_read(&mut self, record: PartRecord) -> Result<(), StoreError> {
        let (key, bytes) = ((record.bundle, record.part), record.bytes);
        self.shared.parts.store.record_part(record).await?;
        self.spool.remove(key);
        self.tell_waiting();
        self.shared.counted.parts_read.fetch_add(1, Ordering::Relaxed);
        self.shared.counted.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps a part of which not everything could be stored yet.
    async fn keep(
        &mut self,
        reading: &mut Reading,
        manifest: &Manifest,
        taken: &Taken,
    ) -> Result<ReadOutcome, Failure> {
        let key = reading.key();
        if self.spool.kept().contains_key(&key) {
            return Ok(ReadOutcome::Waits);
        }
        let keeping = match std::mem::replace(&mut reading.keeping, Keep::No) {
            Keep::Yes(keeping) => keeping,
            cannot @ Keep::Cannot(_) => {
                reading.keeping = cannot;
                return Ok(ReadOutcome::NotKept);
            }
            Keep::No => {
                let (origin, held) = taken.gaps.iter().next().expect("there are gaps");
                return Err(PartError::Gap { origin: *origin, held: *held }.into());
            }
        };
        if plant::active("bundle-gap") {
            return Ok(ReadOutcome::Waits);
        }
        let bytes = keeping.bytes;
        if let Err(why) = keeping.finish() {
            reading.keeping = Keep::Cannot(why);
            return Ok(ReadOutcome::NotKept);
        }
        let needs = waits_for(manifest, taken);
        let mut record = reading.record(manifest, PartFate::Waits, VersionVector::new());
        record.needs = needs.clone();
        self.shared.parts.store.record_part(record).await?;
        self.spool.insert(key, Kept { bytes, needs });
        self.tell_waiting();
        Ok(ReadOutcome::Waits)
    }

    /// Reads all kept parts whose time has come; says which.
    async fn read_kept(&mut self) -> Result<Vec<PresentPart>, StoreError> {
        let mut freed = Vec::new();
        loop {
            let received = self.shared.parts.store.watch().borrow().received.clone();
            let due = self.spool.kept().iter().find(|(_, kept)| received.contains(&kept.needs));
            let Some((key, bytes)) = due.map(|(key, kept)| (*key, kept.bytes)) else { break };
            let (bundle, part) = key;
            match self.read_file(key, bytes).await {
                Ok(ReadAnswer { outcome: ReadOutcome::Read, .. }) => {
                    tracing::info!(%bundle, part, "a part of a bundle that was kept is read");
                    freed.push(PresentPart { bundle: bundle.to_string(), part, bytes });
                }
                Err(Failure::Known(_)) => {}
                Err(Failure::Part(PartError::Store(error))) => match error.severity() {
                    Severity::Fatal => return Err(error),
                    // As soon as there are news.
                    Severity::Retry => break,
                    Severity::Operator => self.give_up(key, &sentence(&error)),
                },
                Err(Failure::Part(error)) => self.give_up(key, &error.to_string()),
                Err(Failure::Talk(why)) => self.give_up(key, &why),
                Ok(answer) => self.give_up(key, &answer.why.join("; ")),
            }
            // Whatever it came to, it does not wait any more.
            self.spool.remove(key);
        }
        self.tell_waiting();
        Ok(freed)
    }

    fn give_up(&self, (bundle, part): PartKey, why: &str) {
        self.shared.counted.parts_refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%bundle, part, why, "a part of a bundle that was kept cannot be read");
    }

    async fn read_file(&mut self, key: PartKey, bytes: u64) -> Result<ReadAnswer, Failure> {
        let failed = |error: std::io::Error| Failure::Talk(error.to_string());
        let mut file = self.spool.read(key).map_err(failed)?;
        let mut reading = Reading::new(&self.shared, String::new(), bytes);
        loop {
            let mut block = vec![0; BLOCK_BYTES];
            let length = file.read(&mut block).map_err(failed)?;
            if length == 0 {
                return self.end(reading, false).await;
            }
            block.truncate(length);
            reading.push(block);
            self.drain(&mut reading, false).await?;
        }
    }

    fn tell_waiting(&self) {
        let kept = self.spool.kept();
        let waits_for = kept.values().next().map(|kept| &kept.needs);
        let waits_for = waits_for.map(|needs| self.shared.places(needs).collect());
        *self.shared.waiting() = Waiting {
            parts: kept.len() as u64,
            bytes: self.spool.bytes(),
            waits_for: waits_for.unwrap_or_default(),
        };
    }

    fn why(
        &self,
        reading: &Reading,
        manifest: &Manifest,
        taken: &Taken,
        outcome: ReadOutcome,
    ) -> Vec<String> {
        let needs = waits_for(manifest, taken);
        let mut why: Vec<String> = match &reading.keeping {
            Keep::Cannot(why) if outcome == ReadOutcome::NotKept => vec![why.clone()],
            _ => Vec::new(),
        };
        why.extend(self.shared.places(&needs));
        let fleet = &self.shared.parts.fleet;
        let refused = taken.refused.iter();
        why.extend(refused.map(|(origin, why)| format!("{}: {why}", fleet.name_of(origin.site))));
        why
    }

    fn answer_of(
        &self,
        reading: &Reading,
        manifest: &Manifest,
        taken: &Taken,
        (outcome, why): (ReadOutcome, Vec<String>),
    ) -> ReadAnswer {
        let (bundle, part) = reading.key();
        ReadAnswer {
            bundle: bundle.to_string(),
            part,
            is_last: reading.trailer.as_ref().is_some_and(|trailer| trailer.is_last),
            writer: self.shared.parts.fleet.name_of(manifest.writer.site),
            made_ms: manifest.made_ms,
            outcome,
            units: taken.stored,
            units_known: taken.known,
            why,
            freed: Vec::new(),
        }
    }

    fn known_answer(&self, record: &PartRecord) -> ReadAnswer {
        ReadAnswer {
            bundle: record.bundle.to_string(),
            part: record.part,
            is_last: record.is_last,
            writer: self.shared.parts.fleet.name_of(record.writer.site),
            made_ms: record.made_ms,
            outcome: ReadOutcome::Known,
            units: 0,
            units_known: record.units,
            why: Vec::new(),
            freed: Vec::new(),
        }
    }
}

/// Of what a part needs, what is missing in fact.
fn waits_for(manifest: &Manifest, taken: &Taken) -> VersionVector {
    let origins = taken.gaps.keys();
    let needs = origins.map(|origin| (*origin, manifest.needs.get(*origin)));
    needs.filter(|(_, seq)| *seq > Seq::ZERO).collect()
}

impl Reading {
    fn new(shared: &Shared, done_by: String, said_bytes: u64) -> Self {
        let parts = &shared.parts;
        Self {
            decoder: PartDecoder::new(Arc::clone(&parts.key), Arc::clone(&parts.fleet)),
            intake: Intake::new(parts.store.clone(), Arc::clone(&parts.fleet), parts.own),
            done_by,
            head: Some(Vec::new()),
            bytes: 0,
            said_bytes,
            begun: None,
            trailer: None,
            keeping: Keep::No,
        }
    }

    /// Which part it is.
    fn key(&self) -> PartKey {
        let header = self.decoder.header().expect("a manifest comes behind a header");
        (header.bundle, header.part)
    }

    fn push(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        self.decoder.push(&bytes);
        match &mut self.head {
            Some(head) => head.extend(bytes),
            None => self.write(&bytes),
        }
    }

    /// Keeps all that came and what will come, if that is possible.
    fn keep(&mut self, begun: Result<Keeping, String>) {
        self.keeping = match begun {
            Ok(keeping) => Keep::Yes(keeping),
            Err(why) => Keep::Cannot(why),
        };
        let head = self.head.take().unwrap_or_default();
        self.write(&head);
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Keep::Yes(keeping) = &mut self.keeping
            && let Err(why) = keeping.write(bytes)
        {
            self.keeping = Keep::Cannot(why);
        }
    }

    fn record(&self, manifest: &Manifest, fate: PartFate, reaches: VersionVector) -> PartRecord {
        let (bundle, part) = self.key();
        PartRecord {
            bundle,
            part,
            fate,
            is_last: self.trailer.as_ref().is_some_and(|trailer| trailer.is_last),
            writer: manifest.writer,
            recipients: manifest.recipients.clone(),
            made_ms: manifest.made_ms,
            made_by: manifest.user.clone(),
            at_ms: time::wall_ms(),
            done_by: self.done_by.clone(),
            bytes: self.bytes,
            units: self.trailer.as_ref().map_or(0, |trailer| trailer.units),
            needs: manifest.needs.clone(),
            reaches,
        }
    }
}
