//! What is said about bundles over the admin socket. Field names are an interface.

use serde::{Deserialize, Serialize};

/// Where a bundle begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Behind what all recipients are known to hold.
    #[default]
    Known,
    /// At the beginning: for one who lost everything.
    Nothing,
    /// Behind an earlier bundle, as if it had arrived.
    Bundle(String),
}

/// Whether a bundle that was not finished is gone on with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// When all its parts are where the new ones go.
    #[default]
    IfPresent,
    /// No.
    Never,
    /// This one, wherever its parts are.
    Bundle(String),
}

/// Asks for a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteAsk {
    /// Names or numbers of members, or `all`.
    pub recipients: Vec<String>,
    /// Where it begins.
    pub basis: Basis,
    /// Longest file.
    pub part_bytes_max: u64,
    /// Who asks.
    pub user: String,
    /// What is there already.
    pub present: Vec<PresentPart>,
    /// Whether that is to be gone on with.
    pub resume: Resume,
}

/// A part that lies where new ones go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PresentPart {
    /// Its bundle.
    pub bundle: String,
    /// Its number.
    pub part: u32,
    /// Its length.
    pub bytes: u64,
}

/// What the daemon says while it writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum WriteSay {
    /// First.
    Begin {
        /// Which bundle.
        bundle: String,
        /// The first part that comes.
        part: u32,
        /// About how many bytes come, all parts together.
        bytes: u64,
        /// For whom it is.
        recipients: Vec<String>,
    },
    /// A part begins; its bytes follow.
    Part {
        /// Its number.
        part: u32,
        /// A name for its file.
        name: String,
    },
    /// A part is over. Once it is durable the daemon wants to hear [`Durable`].
    PartEnd {
        /// A better name for its file.
        name: String,
        /// Its length.
        bytes: u64,
    },
    /// How it all came out.
    #[serde(untagged)]
    Answer(super::Answer),
}

/// Says that a part is durable under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durable {
    /// Its number.
    pub durable: u32,
}

/// What `bundle write` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteAnswer {
    /// Which bundle.
    pub bundle: String,
    /// For whom it is.
    pub recipients: Vec<String>,
    /// Parts written before, which are still needed.
    pub parts_before: u32,
    /// Parts written now.
    pub parts: u32,
    /// Units in them.
    pub units: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Members of whose changes not all could be read, with the reason.
    pub left_out: Vec<String>,
}

/// Brings a part; its bytes follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadAsk {
    /// Length of the file.
    pub bytes: u64,
    /// Who asks.
    pub user: String,
    /// Read it although it was read before.
    pub again: bool,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOutcome {
    /// All of it is held now.
    Read,
    /// All of it was held before.
    Known,
    /// It is kept until what comes before it is held.
    Waits,
    /// It cannot be kept, and must be read again when what comes before it is held.
    NotKept,
    /// Something in it was refused.
    Refused,
}

/// What `bundle read` is told of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAnswer {
    /// Which bundle.
    pub bundle: String,
    /// Which part of it.
    pub part: u32,
    /// Whether the bundle ends with it.
    pub is_last: bool,
    /// Who wrote it.
    pub writer: String,
    /// When, by the writer's clock, in Unix milliseconds.
    pub made_ms: u64,
    /// What became of it.
    pub outcome: ReadOutcome,
    /// Units that were new.
    pub units: u64,
    /// Units that were held before.
    pub units_known: u64,
    /// What it waits for, or why it was refused or not kept.
    pub why: Vec<String>,
    /// Parts that were kept before, and could be read now.
    pub freed: Vec<PresentPart>,
}

/// A bundle in the register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleEntry {
    /// Its id.
    pub bundle: String,
    /// `written` here or `read` here.
    pub way: Way,
    /// Who wrote it.
    pub writer: String,
    /// For whom it is.
    pub recipients: Vec<String>,
    /// When it was begun, by the writer's clock, in Unix milliseconds.
    pub made_ms: u64,
    /// Who had it written, as the writer says.
    pub made_by: String,
    /// When the last of its parts was written or read here, in Unix milliseconds.
    pub at_ms: u64,
    /// Who had it written or read here.
    pub done_by: String,
    /// Parts written or read.
    pub parts: u32,
    /// Whether these are all.
    pub is_whole: bool,
    /// Parts that are kept, and wait for what comes before them.
    pub waiting: Vec<u32>,
    /// Parts before the last that are not here.
    pub missing: Vec<u32>,
    /// Units in the parts.
    pub units: u64,
    /// Bytes of the parts.
    pub bytes: u64,
    /// Of one written here: who holds it, as far as that is known.
    pub receipts: Vec<BundleReceipt>,
}

/// Which way a bundle went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Out of this store.
    Written,
    /// Into this store.
    Read,
}

/// Whether a member holds what a bundle brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleReceipt {
    /// The member.
    pub member: String,
    /// Parts of which it holds everything, by this bundle or by another way.
    pub parts: u32,
    /// Whether those are all.
    pub is_whole: bool,
}

/// What `bundle list` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleList {
    /// Newest first.
    pub bundles: Vec<BundleEntry>,
    /// Whether there are older ones.
    pub truncated: bool,
}

/// How it stands with bundles, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStatus {
    /// Parts written since the daemon started.
    pub parts_written: u64,
    /// Their bytes.
    pub bytes_written: u64,
    /// Parts read since the daemon started.
    pub parts_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Parts that could not be read since the daemon started.
    pub parts_refused: u64,
    /// Parts that are kept, and wait for what comes before them.
    pub parts_waiting: u64,
    /// Their bytes.
    pub bytes_waiting: u64,
    /// What the oldest of them waits for.
    pub waits_for: Vec<String>,
}

impl BundleStatus {
    /// What to say while parts wait.
    pub fn warning(&self) -> Option<String> {
        if self.parts_waiting == 0 {
            return None;
        }
        let (parts, waits_for) = (self.parts_waiting, self.waits_for.join(", "));
        Some(format!("{parts} parts of bundles wait for what comes before them: {waits_for}"))
    }
}
