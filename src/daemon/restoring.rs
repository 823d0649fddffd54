//! The quarantine of this node, shown and restored.
//!
//! A person asks the daemon of the node that keeps a version; it hands the version to the manager, which writes it into
//! its root, and waits until a generation has it. Leaves what may be overwritten to `apply` on the manager.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::apply::Wanted;
use crate::daemon::control::ControlError;
use crate::daemon::status::QuarantineRow;
use crate::daemon::view::{View, quarantine_row};
use crate::model::{ArtifactPath, Change, Entry, NodeId, OrderError, Place, Refusal};
use crate::rpc::Lane;
use crate::store::{QuarantineItem, StoreError};
use crate::wire::proto;

/// Bytes of one data message.
const PIECE_BYTES: usize = 256 << 10;
/// How long the manager may take in all.
const HAND_OVER: Duration = Duration::from_secs(60);
/// How long the restored version may take to be published and to arrive here: it waits for quiet like any change.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Larger contents are read where they lie.
const SHOWN_BYTES_MAX: u64 = 32 << 20;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// Which version.
    pub id: String,
    /// Another path in the same root.
    #[serde(rename = "as")]
    pub path: Option<String>,
    /// Also over something newer.
    pub over_newer: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The node whose folder it was written to.
    pub manager: String,
    /// Where, as `root:path`.
    pub place: String,
    /// The generation that published it; null when none did in time.
    pub generation: Option<u64>,
}

/// One version in quarantine, with where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineShown {
    /// As it is listed.
    #[serde(flatten)]
    pub row: QuarantineRow,
    /// The file that holds its content.
    pub content: PathBuf,
    /// Where it leads, if it is a link.
    pub target: Option<String>,
    /// What the head has at its path: its content's blake3, hexadecimal; null when that is no file.
    pub published: Option<String>,
}

fn failed(error: &StoreError) -> ControlError {
    ControlError::critical(error.to_string(), "see the daemon's log")
}

fn ended(error: &tokio::task::JoinError) -> ControlError {
    ControlError::critical(error.to_string(), "see the daemon's log")
}

impl View {
    /// The version called `id`, or the only one whose name begins so.
    async fn item(&self, id: &str) -> Result<QuarantineItem, ControlError> {
        let store = self.store.clone();
        let listed = tokio::task::spawn_blocking(move || store.quarantine_list()).await;
        let items = listed.map_err(|error| ended(&error))?.map_err(|error| failed(&error))?;
        let mut found: Vec<QuarantineItem> =
            items.into_iter().filter(|item| !id.is_empty() && item.id.0.starts_with(id)).collect();
        let list = "`syncd quarantine list` on the node that keeps it names it";
        match (found.pop(), found.is_empty()) {
            (Some(item), true) => Ok(item),
            (Some(_), false) => {
                Err(ControlError::refused(format!("several versions here begin with {id}"), list))
            }
            (None, _) => {
                let node = &self.config.node.name;
                Err(ControlError::refused(format!("no version {id} is in quarantine on {node}"), list))
            }
        }
    }

    /// One version, without its content.
    ///
    /// # Errors
    /// When there is none of that name, or it can't be read.
    pub async fn show(&self, id: &str) -> Result<QuarantineShown, ControlError> {
        let item = self.item(id).await?;
        let head = self.store.head();
        let published = head.and_then(|head| head.forest.get(&item.what.place)?.content());
        let target = match &item.what.entry {
            Entry::Link { target } => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        };
        Ok(QuarantineShown {
            content: item.folder.join("content"),
            target,
            published: published.map(|hash| hash.to_string()),
            row: quarantine_row(item, &self.config.node.name),
        })
    }

    /// Removes one version for good; what it was.
    ///
    /// # Errors
    /// As [`View::show`], and when it can't be removed.
    pub async fn drop_kept(&self, id: &str) -> Result<QuarantineRow, ControlError> {
        let item = self.item(id).await?;
        let (store, id) = (self.store.clone(), item.id.clone());
        let dropped = tokio::task::spawn_blocking(move || store.quarantine_drop(&id)).await;
        dropped.map_err(|error| ended(&error))?.map_err(|error| failed(&error))?;
        let row = quarantine_row(item, &self.config.node.name);
        tracing::warn!(
            id = row.id,
            root = row.root,
            path = row.path,
            "dropped from quarantine by a person's word"
        );
        Ok(row)
    }

    /// The content of one version.
    ///
    /// # Errors
    /// As [`View::show`], and when it is too large to be sent.
    pub async fn kept_content(&self, id: &str) -> Result<Bytes, ControlError> {
        let item = self.item(id).await?;
        let path = item.folder.join("content");
        let read = tokio::task::spawn_blocking(move || read_bounded(File::open(&path)?, &path)).await;
        read.map_err(|error| ended(&error))?
            .map_err(|error| ControlError::critical(error.to_string(), "read the file where it lies"))
    }

    /// What the head has at the path of one version; empty when that is no file.
    ///
    /// # Errors
    /// As [`View::kept_content`].
    pub async fn published_content(&self, id: &str) -> Result<Bytes, ControlError> {
        let item = self.item(id).await?;
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || {
            let hash = store.head().and_then(|head| head.forest.get(&item.what.place)?.content());
            let Some(hash) = hash else { return Ok(Bytes::new()) };
            let blob = store.open_blob(&hash).map_err(std::io::Error::other)?;
            read_bounded(blob, &item.folder)
        });
        read.await
            .map_err(|error| ended(&error))?
            .map_err(|error| ControlError::critical(error.to_string(), "see the daemon's log"))
    }

    /// Has the manager publish one version of this node's quarantine.
    ///
    /// # Errors
    /// A refusal when nothing was written; critical when it may have been.
    pub async fn restore(&self, order: RestoreOrder) -> Result<Restored, ControlError> {
        let item = self.item(&order.id).await?;
        let wanted = wanted(&item, &order)?;
        let state = self.state.borrow().clone();
        let office = state.as_ref().and_then(|state| {
            let manager = state.appointment.as_ref()?.manager;
            Some((manager, state.members.get(&manager)?.clone()))
        });
        let Some((manager, member)) = office else {
            return Err(ControlError::refused(
                "no node is manager now, so nothing can be published",
                "see `syncd status`, and try again when there is one",
            ));
        };
        let path = item.folder.join("content");
        let taken = if self.standing.borrow().node == Some(manager) {
            let file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
            self.restorer.take(wanted.clone(), file).await
        } else {
            let call = self.hand_over(manager, &member.address, wanted.clone(), path);
            match tokio::time::timeout(HAND_OVER, call).await {
                Ok(taken) => taken?,
                Err(_) => {
                    Err(OrderError::Unknown { reason: format!("{} did not answer in time", member.name) })
                }
            }
        };
        let before = taken?;
        let generation = self.wait_published(before, &wanted).await;
        Ok(Restored { manager: member.name, place: wanted.place.to_string(), generation })
    }

    async fn hand_over(
        &self,
        manager: NodeId,
        address: &str,
        wanted: Wanted,
        path: PathBuf,
    ) -> Result<Result<u64, OrderError>, ControlError> {
        let unknown = |reason: String| Ok(Err(OrderError::Unknown { reason }));
        let file = tokio::fs::File::open(&path).await.map_err(|error| unreadable(&path, &error))?;
        let mut client = match self.peers.artifacts(manager, address, Lane::Bulk) {
            Ok(client) => client,
            Err(error) => return Err(ControlError::refused(error.to_string(), "see the configuration")),
        };
        let change = Change { place: wanted.place, entry: Some(wanted.entry), mtime: None };
        let header = proto::RestoreHeader {
            change: Some((&change).into()),
            generation: wanted.generation,
            over_newer: wanted.over_newer,
            item: wanted.item,
        };
        let part = |part| proto::RestorePart { part: Some(part) };
        let first = futures::stream::iter([part(proto::restore_part::Part::Header(header))]);
        let pieces = futures::stream::unfold(file, move |mut file| async move {
            let mut piece = vec![0; PIECE_BYTES];
            // What can't be read on is missing at the other end, where the hash says so.
            let read = file.read(&mut piece).await.unwrap_or(0);
            piece.truncate(read);
            (read > 0).then(|| (part(proto::restore_part::Part::Data(piece.into())), file))
        });
        let reply = match client.restore(futures::StreamExt::chain(first, pieces)).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                let why = format!("the manager does not take it: {}", status.message());
                return Ok(Err(Refusal::new(why, "see the message").into()));
            }
            Err(status) => return unknown(format!("the manager answered: {}", status.message())),
        };
        if !reply.refused.is_empty() {
            return Ok(Err(Refusal::new(reply.refused, reply.remedy).into()));
        }
        if !reply.unknown.is_empty() {
            return unknown(reply.unknown);
        }
        Ok(Ok(reply.head))
    }

    /// The generation after `before` in which the version is, once it is here.
    async fn wait_published(&self, before: u64, wanted: &Wanted) -> Option<u64> {
        let begun = Instant::now();
        while begun.elapsed() < PUBLISHED_WITHIN {
            let published = self.store.head().filter(|head| {
                let there = head.forest.get(&wanted.place);
                head.generation.number > before
                    && there.is_some_and(|there| there.same_content(&wanted.entry))
            });
            if let Some(head) = published {
                return Some(head.generation.number);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        None
    }
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> ControlError {
    let why = format!("can't read {}: {error}", path.display());
    ControlError::refused(why, "see that the data folder is whole")
}

fn read_bounded(content: impl Read, path: &std::path::Path) -> std::io::Result<Bytes> {
    let mut bytes = Vec::new();
    content.take(SHOWN_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SHOWN_BYTES_MAX {
        let why = format!("{} has more than {SHOWN_BYTES_MAX} bytes", path.display());
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes.into())
}

fn wanted(item: &QuarantineItem, order: &RestoreOrder) -> Result<Wanted, ControlError> {
    let mut place = item.what.place.clone();
    let mut generation = item.what.generation;
    if let Some(path) = &order.path {
        let path = ArtifactPath::new(path.as_bytes()).map_err(|error| {
            let why = format!("{path} is no path of an artifact: {error}");
            ControlError::refused(why, "name a path below the root, such as default/api/a.xml")
        })?;
        // What is at another path has nothing to do with when this was put aside.
        if path != place.path {
            (place, generation) = (Place { root: place.root, path }, 0);
        }
    }
    Ok(Wanted {
        place,
        entry: item.what.entry.clone(),
        generation,
        over_newer: order.over_newer,
        item: item.id.0.clone(),
    })
}
