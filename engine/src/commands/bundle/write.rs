//! `bundle write`.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use landfall_protocol::bundle::{Header, RECIPIENTS_MAX, SLOT_BYTES};
use serde::Deserialize as _;
use serde_json::Value;

use super::progress::Progress;
use super::{EXTENSION, UNFINISHED, user};
use crate::admin::bundle::{Basis, Durable, PresentPart, Resume, WriteAnswer, WriteAsk, WriteSay};
use crate::admin::explain::Bytes;
use crate::admin::talk::{Frame, Talk};
use crate::admin::{Answer, Request, client};
use crate::commands::exit::{Exit, Failure};
use crate::commands::{Format, Report};
use crate::config::{self, Program};

/// More than any header has.
const HEADER_BYTES_MAX: u64 = (64 + RECIPIENTS_MAX * SLOT_BYTES) as u64;

/// What `bundle write` was told.
#[derive(Clone, Debug)]
pub struct Writing {
    /// For whom.
    pub recipients: Vec<String>,
    /// Where to.
    pub dir: PathBuf,
    /// Longest file.
    pub part_bytes_max: u64,
    /// Where it begins.
    pub basis: Basis,
    /// Whether to go on with one that was not finished.
    pub resume: Resume,
    /// Write as many parts as fit, also when that will not be all.
    pub fill: bool,
    /// For whom the progress is.
    pub format: Format,
}

/// Writes a bundle into a folder.
///
/// # Errors
/// A file is wrong, no daemon is running or it refuses, or the folder does not take the files.
pub async fn write(file: &Path, program: Program, told: Writing) -> Result<Report, Failure> {
    let (config, _) = config::load(file, program)?;
    check_dir(&told.dir)?;
    let ask = WriteAsk {
        recipients: told.recipients.clone(),
        basis: told.basis.clone(),
        part_bytes_max: told.part_bytes_max,
        user: user(),
        present: present(&told.dir)?,
        resume: told.resume.clone(),
    };
    remove_unfinished(&told.dir, &config.name);
    let socket = config.admin_socket();
    let talk = client::talk(&socket, &Request::BundleWrite { ask }).await?;
    let progress = Progress::new(told.format == Format::Json);
    let mut files =
        Files { told: &told, progress, open: None, bundle: String::new(), bytes: 0, parts: 0 };
    let json = files.run(talk).await?;
    drop(files);
    let answer = WriteAnswer::deserialize(&json).map_err(|error| odd(&error.to_string()))?;
    let exit = if answer.left_out.is_empty() { Exit::Ok } else { Exit::Unmet };
    Ok(Report { text: explained(&answer, &told.dir), json, exit })
}

fn explained(answer: &WriteAnswer, dir: &Path) -> String {
    let WriteAnswer { bundle, parts, units, parts_before, .. } = answer;
    let before = match parts_before {
        0 => String::new(),
        _ => format!(" (and {parts_before} written before, which are needed as well)"),
    };
    let mut text = format!(
        "Bundle {bundle} for {}: {parts} parts{before} with {units} units, {}, in {}.\n",
        answer.recipients.join(", "),
        Bytes(answer.bytes),
        dir.display()
    );
    for left_out in &answer.left_out {
        text += &format!("Left out: {left_out}.\n");
    }
    text
}

fn check_dir(dir: &Path) -> Result<(), Failure> {
    let found = fs::metadata(dir).map_err(|error| {
        Failure::new(Exit::Usage, format!("look at {}: {error}", dir.display()))
    })?;
    if found.is_dir() {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("{} is no folder", dir.display())))
}

/// Whole parts in a folder.
fn present(dir: &Path) -> Result<Vec<PresentPart>, Failure> {
    let failed = |error| Failure::new(Exit::Usage, format!("look into {}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_part = path.extension().is_some_and(|extension| extension == EXTENSION);
        // What cannot be read is not there.
        if let Some((header, bytes)) = is_part.then(|| header(&path).ok().flatten()).flatten() {
            let bundle = header.bundle.to_string();
            found.push(PresentPart { bundle, part: header.part, bytes });
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The header of a file and its length; `None` when it has none.
pub(super) fn header(path: &Path) -> io::Result<Option<(Header, u64)>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut head = Vec::new();
    file.take(HEADER_BYTES_MAX).read_to_end(&mut head)?;
    Ok(Header::decode(&head).ok().flatten().map(|(header, _)| (header, bytes)))
}

/// What a write that was killed left behind.
fn remove_unfinished(dir: &Path, member: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let (prefix, suffix) = (format!("landfall-{member}-"), format!(".{EXTENSION}.{UNFINISHED}"));
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(&suffix));
        if ours {
            // It is only in the way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn odd(what: &str) -> Failure {
    Failure::new(Exit::Internal, format!("the daemon said something unexpected: {what}"))
}

/// The files of a bundle on their way into the folder.
struct Files<'a> {
    told: &'a Writing,
    progress: Progress,
    open: Option<Unfinished>,
    bundle: String,
    /// Of parts that are durable.
    bytes: u64,
    parts: u32,
}

/// A file that has not its name yet. Unless it gets it, it is removed.
struct Unfinished {
    file: Option<File>,
    path: PathBuf,
    part: u32,
    bytes: u64,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The stick may be gone, and the file with it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Files<'_> {
    async fn run(&mut self, mut talk: Talk) -> Result<Value, Failure> {
        let gone = |error: io::Error| {
            let why = format!("the daemon went away: {error}; run the command again to go on");
            Failure::new(Exit::Unreachable, why)
        };
        loop {
            let frame = talk.listening.next().await.map_err(gone)?;
            match frame.ok_or_else(|| gone(io::ErrorKind::UnexpectedEof.into()))? {
                Frame::Data(bytes) => self.data(&bytes)?,
                Frame::End => return Err(odd("the end of a file")),
                Frame::Json(value) => {
                    let say = WriteSay::deserialize(&value);
                    match say.map_err(|error| odd(&error.to_string()))? {
                        WriteSay::Answer(Answer::Ok(answer)) => return Ok(answer),
                        WriteSay::Answer(Answer::Error(sentence)) => {
                            return Err(Failure::new(Exit::Operator, sentence));
                        }
                        WriteSay::Begin { bundle, part, bytes, recipients } => {
                            self.begin(bundle, part, bytes, &recipients)?;
                        }
                        WriteSay::Part { part, name } => self.part(part, &name)?,
                        WriteSay::PartEnd { name, bytes } => {
                            let durable = self.part_end(&name, bytes)?;
                            talk.saying.facts(&durable).await.map_err(gone)?;
                        }
                    }
                }
            }
        }
    }

    fn begin(
        &mut self,
        bundle: String,
        part: u32,
        bytes: u64,
        recipients: &[String],
    ) -> Result<(), Failure> {
        self.progress.total = bytes;
        let goes_on = if part > 1 { format!(", going on with part {part}") } else { String::new() };
        let (names, about) = (recipients.join(", "), Bytes(bytes));
        self.progress.line(&format!("bundle {bundle} for {names}: about {about}{goes_on}"));
        self.bundle = bundle;
        // A file system that does not tell says it later, when it is full.
        let free = rustix::fs::statvfs(&self.told.dir).ok();
        let free = free.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        match free.filter(|free| *free < bytes && !self.told.fill) {
            None => Ok(()),
            Some(free) => {
                let dir = self.told.dir.display();
                let why = format!(
                    "about {about} are needed, {} are free in {dir}; free space, or write with --fill as many parts as fit and go on elsewhere",
                    Bytes(free)
                );
                Err(Failure::new(Exit::Unmet, why))
            }
        }
    }

    fn part(&mut self, part: u32, name: &str) -> Result<(), Failure> {
        let path = self.path(name)?;
        let path = path.with_extension(format!("{EXTENSION}.{UNFINISHED}"));
        let file = File::create(&path).map_err(|error| self.failed(part, &error))?;
        self.open = Some(Unfinished { file: Some(file), path, part, bytes: 0 });
        Ok(())
    }

    /// A name the daemon gave, which may be one of a file and nothing else.
    fn path(&self, name: &str) -> Result<PathBuf, Failure> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_plain = name.starts_with("landfall-") && name.chars().all(plain);
        if is_plain { Ok(self.told.dir.join(name)) } else { Err(odd("the name of a file")) }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let open = self.open.as_mut().ok_or_else(|| odd("bytes of no file"))?;
        let written = open.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        open.bytes += bytes.len() as u64;
        let part = open.part;
        written.map_err(|error| self.failed(part, &error))?;
        self.progress.advance(&format!("part {part}"), bytes.len() as u64);
        Ok(())
    }

    /// The file gets its name when it is durable, and the daemon is told when its name is.
    fn part_end(&mut self, name: &str, bytes: u64) -> Result<Durable, Failure> {
        let path = self.path(name)?;
        let mut open = self.open.take().ok_or_else(|| odd("the end of no file"))?;
        if open.bytes != bytes {
            return Err(odd("the length of a file"));
        }
        let Some(file) = open.file.as_ref() else { return Err(odd("the end of no file")) };
        let done = file
            .sync_all()
            .and_then(|()| fs::rename(&open.path, &path))
            .and_then(|()| sync_dir(&self.told.dir));
        done.map_err(|error| self.failed(open.part, &error))?;
        open.file = None;
        self.bytes += bytes;
        self.parts += 1;
        self.progress.line(&format!("part {}: {} ({})", open.part, path.display(), Bytes(bytes)));
        Ok(Durable { durable: open.part })
    }

    /// Why a file could not be written, and how to go on.
    fn failed(&self, part: u32, error: &io::Error) -> Failure {
        let (dir, id) = (self.told.dir.display(), &self.bundle);
        let left = Bytes(self.progress.total.saturating_sub(self.bytes));
        let why = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("there is no room in {dir} for part {part}")
            }
            io::ErrorKind::FileTooLarge => {
                format!("files in {dir} cannot be that large; choose a smaller --max-size")
            }
            _ => format!("write part {part} into {dir}: {error}"),
        };
        let done = format!("{} parts with {} were written now", self.parts, Bytes(self.bytes));
        let message = format!(
            "{why}; {done}, about {left} are left; run the same command again to go on here, or with --resume {id} to go on elsewhere"
        );
        Failure::new(Exit::Unmet, message)
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some file systems of sticks cannot do that; the file itself was synced.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
