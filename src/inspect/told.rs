//! Questions, and the lines of their answers.

use serde::{Deserialize, Serialize};

use crate::model::{Entry, FileTime};

/// What is asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Where do your files differ from the head?
    Diff,
    /// The same, and what do the rules leave out?
    DiffAndExcluded,
    /// The same, after reading every file and every content of the store anew.
    Verify,
    /// What comes next?
    Plan,
    /// What do you hold back until a person agrees?
    Held,
}

/// One line of an answer. The last one is [`Told::End`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "kebab-case")]
pub enum Told {
    /// How far it is.
    Progress(Progress),
    /// A place that is not as the head says.
    Difference(Difference),
    /// A content of the store that was not what it should be.
    Damage(Damage),
    /// A change that comes next, or one of the list that was told last.
    Intent(IntentRow),
    /// A list that waits for a person; its changes follow.
    List(ListRow),
    /// What it amounts to.
    End(End),
}

/// A line, and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromNode {
    /// The node.
    pub node: String,
    /// What it says.
    #[serde(flatten)]
    pub told: Told,
}

/// How far reading everything is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// `files` or `store`.
    pub step: String,
    /// Files or contents read.
    pub done: u64,
    /// Of so many.
    pub total: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Of so many.
    pub bytes_total: u64,
    /// Seconds since the step began.
    pub seconds: f64,
}

/// A place that is not as the head says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The root.
    pub root: String,
    /// The path in it, escaped for people.
    pub path: String,
    /// How it differs.
    pub kind: Kind,
    /// Why.
    pub why: Why,
    /// What is on the node.
    pub here: Option<Side>,
    /// What the head has.
    pub head: Option<Side>,
}

/// How a place differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Only the head has it.
    Missing,
    /// Only the node has it.
    Extra,
    /// Both have it, with other content.
    Content,
    /// Both have it with the same content, and other permissions.
    Mode,
    /// A file here, a folder or link there.
    Type,
}

/// Why a place differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Somebody changed it on a node that is not the manager.
    Drift,
    /// The node has not applied the head there yet.
    Behind,
    /// The manager will publish it.
    Pending,
    /// The manager does not publish it before a person agrees.
    Held,
    /// What is there can't be read.
    Unreadable,
    /// A folder without artifacts on its way out, or one that the gateway expects: no difference that counts.
    Folder,
    /// The rules leave it out: no difference that counts.
    Excluded,
    /// It is each node's own: no difference that counts.
    PerNode,
}

impl Why {
    /// Whether a node with such a difference differs.
    #[must_use]
    pub fn counts(self) -> bool {
        !matches!(self, Self::Folder | Self::Excluded | Self::PerNode)
    }
}

/// What is at a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// `file`, `folder` or `link`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The blake3 hash of a file's content; null where it was not read.
    pub hash: Option<String>,
    /// Bytes of a file.
    pub size: Option<u64>,
    /// Permissions, octal.
    pub mode: Option<String>,
    /// When it was modified: on the node, or by the author of the head.
    pub mtime: Option<String>,
}

impl Side {
    pub(super) fn of(entry: &Entry, mtime: Option<FileTime>) -> Self {
        let mtime = mtime.and_then(time_text);
        let octal = |mode: u32| Some(format!("{mode:04o}"));
        match entry {
            Entry::File { mode, size, hash } => Self {
                kind: "file".to_owned(),
                hash: Some(hash.to_string()),
                size: Some(*size),
                mode: octal(*mode),
                mtime,
            },
            Entry::Folder { mode } => {
                Self { kind: "folder".to_owned(), hash: None, size: None, mode: octal(*mode), mtime }
            }
            Entry::Link { .. } => Self { kind: "link".to_owned(), hash: None, size: None, mode: None, mtime },
        }
    }
}

pub(super) fn time_text(time: FileTime) -> Option<String> {
    let nanos = i32::try_from(time.nanos).ok()?;
    Some(jiff::Timestamp::new(time.seconds, nanos).ok()?.to_string())
}

/// A content of the store that was not what it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Damage {
    /// Its hash.
    pub hash: String,
    /// A place of the head that has it.
    pub root: String,
    /// See `root`.
    pub path: String,
    /// What was wrong with it.
    pub what: String,
    /// Where a whole one came from; null when there was none.
    pub replaced_from: Option<String>,
}

/// A change that comes next, in the order in which it will be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentRow {
    /// The root.
    pub root: String,
    /// The path in it, escaped for people.
    pub path: String,
    /// What is done to it.
    pub action: Action,
    /// Whether it is done next.
    pub stands: Standing,
    /// What it waits for, or the code of the problem that holds it.
    pub why: Option<String>,
    /// What is there before.
    pub from: Option<Side>,
    /// What is there afterwards.
    pub to: Option<Side>,
}

/// A list that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    /// The code of the problem that tells of it.
    pub code: String,
    /// Its digest, 64 hexadecimal digits: what is approved is the list with this digest.
    pub digest: String,
    /// What comes of it when it is let through, in a sentence.
    pub says: String,
    /// How many paths it has, also those that were too many to be listed.
    pub paths: u64,
}

/// What is done to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It comes.
    Create,
    /// It gets another content or type.
    Update,
    /// It gets other permissions.
    Mode,
    /// It goes.
    Delete,
}

/// How a change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is made next.
    Due,
    /// It is made by itself a little later.
    Waiting,
    /// It is not made before a person does something.
    Held,
}

/// What an answer amounts to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The head that was compared with.
    pub generation: Option<u64>,
    /// The head's digest if every path matches, else that of what the roots hold.
    pub digest: Option<String>,
    /// Regular files in the roots.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Places that differ, also those that were too many to be listed; changes, for a plan.
    pub different: u64,
    /// Contents of the store that were damaged.
    pub damaged: u64,
    /// Whether the node is the manager, whose folder is the source.
    pub manager: bool,
    /// Why the answer is none, or not whole.
    pub unknown: Option<String>,
}

impl End {
    pub(super) fn unknown(why: impl Into<String>) -> Self {
        Self { unknown: Some(why.into()), ..Self::default() }
    }
}
