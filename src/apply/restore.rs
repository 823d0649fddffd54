//! Puts a version that a person wants back into the manager's root, from where it is published like any other change.
//!
//! The manager's side of `syncd quarantine restore`. Its own user is a person on any node, so nothing newer is
//! overwritten unless that was said, and what is replaced is kept like anything that an apply replaces. Everything a peer
//! sends is bounded and checked by its hash before the task that writes files hears of it.
//!
//! Leaves finding the version, and waiting for its generation, to the node that was asked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::apply::intake::chain;
use crate::apply::reconcile::{Failed, Round, reconcile};
use crate::apply::task::{ApplyTask, blocking, office_of};
use crate::apply::{ApplyError, ApplyTaskError};
use crate::delta::ChunkReader;
use crate::inventory::Observed;
use crate::model::{
    ArtifactPath, Change, ClusterState, Edit, Entry, Epoch, OrderError, Place, Refusal, RootRules,
};
use crate::plan::Matcher;
use crate::store::{Adopted, Store, StoreError};
use crate::wire::proto::{RestoreHeader, RestorePart, RestoreReply, restore_part::Part};

/// Longest silence between two messages.
const SILENCE: Duration = Duration::from_secs(10);
/// How long one version may take, however steadily it comes.
const RECEIVE_MAX: Duration = Duration::from_secs(600);
/// How long the task that writes files may be busy with something else.
const TURN: Duration = Duration::from_secs(10);
/// Data messages that wait to be stored.
const WAITING: usize = 4;
/// What a folder gets that has to be made.
const FOLDER_MODE: u32 = 0o755;

/// A version that a person wants back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub place: Place,
    /// What.
    pub entry: Entry,
    /// The generation in whose favour it was put aside; 0: whatever is there counts as newer.
    pub generation: u64,
    /// Also over something newer.
    pub over_newer: bool,
    /// What it is called in the quarantine that it comes from.
    pub item: String,
}

/// What the task is asked; it answers with the head at that moment.
pub(super) type Ask = (Wanted, oneshot::Sender<Result<u64, OrderError>>);

/// Takes wanted versions while this node is manager. Cheap to clone.
#[derive(Clone)]
pub struct Restorer {
    pub(super) store: Store,
    pub(super) state: watch::Receiver<Option<Arc<ClusterState>>>,
    pub(super) active: watch::Receiver<Option<Epoch>>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
    pub(super) asks: mpsc::Sender<Ask>,
    /// One at a time: a person waits for each.
    pub(super) turn: Arc<Semaphore>,
}

impl Restorer {
    /// Writes `wanted`, whose content is read from `content`, into this node's root. Returns the head at that moment:
    /// the version is published by a generation after it.
    ///
    /// # Errors
    /// [`OrderError::Refused`]: nothing was written. [`OrderError::Unknown`]: it may have been.
    pub async fn take(
        &self,
        wanted: Wanted,
        mut content: impl io::Read + Send + 'static,
    ) -> Result<u64, OrderError> {
        let turn = tokio::time::timeout(TURN, self.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Refusal::new("another restore is under way", "try again when it is done").into());
        };
        // Before any content is taken: most refusals are known by now.
        self.check(&wanted).await?;
        // Until the root has it, from where a publish takes it up, nothing else needs it.
        let _held = self.store.hold(wanted.entry.content());
        if let Entry::File { size, hash, .. } = wanted.entry {
            let store = self.store.clone();
            let stored = tokio::task::spawn_blocking(move || {
                let mut batch = store.batch();
                batch.put(&hash, size, &mut content)?;
                batch.sync()
            });
            match stored.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let why = format!("the manager could not store it: {}", chain(&error));
                    return Err(Refusal::new(why, "see the message, and the manager's log").into());
                }
                Err(error) => return Err(OrderError::Unknown { reason: error.to_string() }),
            }
        }
        let (answer, answered) = oneshot::channel();
        let gone = || OrderError::Unknown { reason: "the manager's daemon stops".to_owned() };
        match tokio::time::timeout(TURN, self.asks.send((wanted, answer))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(gone()),
            Err(_) => return Err(Refusal::new("the manager is busy with its files", "try again").into()),
        }
        match tokio::time::timeout(TURN, answered).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => Err(OrderError::Unknown { reason: "the manager did not say in time".to_owned() }),
        }
    }

    async fn check(&self, wanted: &Wanted) -> Result<(), OrderError> {
        let paused = self.state.borrow().as_ref().is_some_and(|state| state.paused.is_some());
        if self.active.borrow().is_none() {
            let why = "this node is not the manager now, or still brings its folder to the head";
            return Err(Refusal::new(why, "see `syncd status` for who is, and try again").into());
        }
        if paused {
            return Err(Refusal::new("the cluster is paused", "`syncd resume` first").into());
        }
        let (store, observed) = (self.store.clone(), Arc::clone(&self.observed.borrow()));
        let wanted = wanted.clone();
        let checked = tokio::task::spawn_blocking(move || refusal(&store, &observed, &wanted)).await;
        match checked {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(refused))) => Err(refused.into()),
            Ok(Err(error)) => Err(Refusal::new(chain(&error), "see the manager's log").into()),
            Err(error) => Err(OrderError::Unknown { reason: error.to_string() }),
        }
    }

    /// Answers a peer.
    ///
    /// # Errors
    /// When the stream breaks the protocol; nothing was written then.
    pub async fn serve(
        &self,
        mut parts: impl Stream<Item = Result<RestorePart, Status>> + Send + Unpin + 'static,
    ) -> Result<RestoreReply, Status> {
        let first = tokio::time::timeout(SILENCE, parts.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no header came"))?;
        let Some(RestorePart { part: Some(Part::Header(header)) }) = first.transpose()? else {
            return Err(Status::invalid_argument("a restore begins with a header"));
        };
        let wanted = wanted_from(header)?;
        let (sender, mut pieces) = mpsc::channel::<io::Result<Bytes>>(WAITING);
        let content = ChunkReader::new(move || pieces.blocking_recv().transpose());
        let taking = self.take(wanted, content);
        let receiving = async move {
            loop {
                let piece = match tokio::time::timeout(SILENCE, parts.next()).await {
                    Ok(None) => break,
                    Ok(Some(Ok(RestorePart { part: Some(Part::Data(piece)) }))) => Ok(piece),
                    Ok(Some(Ok(_))) => {
                        Err(io::Error::new(io::ErrorKind::InvalidData, "a second header came"))
                    }
                    Ok(Some(Err(status))) => Err(io::Error::other(status)),
                    Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the sender fell silent")),
                };
                let last = piece.is_err();
                // Nobody takes more once it is stored or refused.
                if sender.send(piece).await.is_err() || last {
                    break;
                }
            }
        };
        let both = async {
            tokio::pin!(taking, receiving);
            tokio::select! {
                taken = &mut taking => taken,
                () = &mut receiving => taking.await,
            }
        };
        let taken = tokio::time::timeout(RECEIVE_MAX, both)
            .await
            .map_err(|_| Status::deadline_exceeded("the version takes too long"))?;
        Ok(match taken {
            Ok(head) => RestoreReply { head, ..RestoreReply::default() },
            Err(OrderError::Refused(refused)) => {
                RestoreReply { refused: refused.why, remedy: refused.remedy, ..RestoreReply::default() }
            }
            Err(OrderError::Unknown { reason }) => {
                RestoreReply { unknown: reason, ..RestoreReply::default() }
            }
        })
    }
}

fn wanted_from(header: RestoreHeader) -> Result<Wanted, Status> {
    let change = header.change.ok_or_else(|| Status::invalid_argument("a restore names a change"))?;
    let Change { place, entry, .. } =
        Change::try_from(change).map_err(|error| Status::invalid_argument(chain(&error)))?;
    let entry = entry
        .filter(|entry| !entry.is_folder())
        .ok_or_else(|| Status::invalid_argument("a restore is of a file or a link"))?;
    let item: String = header.item.chars().filter(|char| !char.is_control()).take(200).collect();
    Ok(Wanted { place, entry, generation: header.generation, over_newer: header.over_newer, item })
}

/// Why `wanted` must not be written here; none when it may.
fn refusal(store: &Store, observed: &Observed, wanted: &Wanted) -> Result<Option<Refusal>, StoreError> {
    let Wanted { place, entry, generation, over_newer, .. } = wanted;
    let refused = |why: String, remedy: &str| Ok(Some(Refusal::new(why, remedy)));
    let Some(head) = store.head() else {
        return refused("nothing was published yet".to_owned(), "wait for the first generation");
    };
    let Some(rules) = head.rules.of(&place.root) else {
        return refused(
            format!("the cluster has no root {}", place.root),
            "name the root in every node's configuration first",
        );
    };
    if let Some(why) = uncovered(rules, &place.path) {
        return refused(format!("{place} {why}"), "copy it by hand to the node where it belongs");
    }
    if observed.roots.get(&place.root).is_none_or(|root| root.root.is_none() || root.missing.is_some()) {
        return refused(
            format!("the manager's root {} is not there", place.root),
            "see `syncd status` for the root",
        );
    }
    let forest = &observed.forest;
    let above = ancestors(place).find(|folder| forest.get(folder).is_some_and(|entry| !entry.is_folder()));
    if let Some(above) = above {
        return refused(format!("{above} is no folder on the manager"), "choose another path with --as");
    }
    if observed.busy.contains_key(place) || observed.is_unreadable(place) {
        return refused(
            format!("{place} is being written on the manager, or can't be read there"),
            "try again when it is quiet",
        );
    }
    let there = forest.get(place);
    if there.is_some_and(Entry::is_folder) {
        return refused(format!("{place} is a folder on the manager"), "choose another path with --as");
    }
    if there.is_some_and(|there| there.same_content(entry)) {
        return refused(format!("the manager has this content at {place} already"), "nothing needs be done");
    }
    if *over_newer {
        return Ok(None);
    }
    let over = "look at both versions; then --over-newer replaces what is there, which is kept in quarantine";
    let published = head.forest.get(place);
    if there != published {
        return refused(format!("{place} was changed on the manager and is not published yet"), over);
    }
    if *generation == 0 {
        return match published {
            Some(_) => refused(format!("{place} is there already"), over),
            None => Ok(None),
        };
    }
    let then = store.forest_of(*generation)?;
    if then.as_ref().is_none_or(|then| then.get(place) != published) {
        let number = head.generation.number;
        let why = format!(
            "{place} was changed between generation {generation}, when this was put aside, and {number}"
        );
        return refused(why, over);
    }
    Ok(None)
}

/// Why the rules take `path` out of what is published.
fn uncovered(rules: &RootRules, path: &ArtifactPath) -> Option<&'static str> {
    let covered = |rules: &RootRules| Matcher::new(rules).is_ok_and(|matcher| !matcher.excluded(path, false));
    if covered(rules) {
        return None;
    }
    let per_node = RootRules { per_node: rules.per_node.clone(), ..RootRules::default() };
    Some(match covered(&per_node) {
        true => "is excluded by the rules, so it would be published nowhere",
        false => "differs per node by the rules, so it is never published",
    })
}

/// The folders above a place, from the bottom up.
fn ancestors(place: &Place) -> impl Iterator<Item = Place> {
    let root = place.root.clone();
    std::iter::successors(place.path.parent(), ArtifactPath::parent)
        .map(move |path| Place { root: root.clone(), path })
}

impl ApplyTask {
    /// Writes a wanted version into the manager's root, and answers whoever asked.
    pub(super) async fn restore(&mut self, (wanted, answer): Ask) -> Result<(), ApplyTaskError> {
        let outcome = self.write_wanted(wanted).await?;
        if let Err(error) = &outcome {
            tracing::warn!(%error, "a restore from quarantine was not written");
        }
        // Whoever asked may have given up.
        let _ = answer.send(outcome);
        Ok(())
    }

    async fn write_wanted(&mut self, wanted: Wanted) -> Result<Result<u64, OrderError>, ApplyTaskError> {
        let no = |why: &str, remedy: &str| Ok(Err(Refusal::new(why, remedy).into()));
        let (state, node) = self.membership();
        let office = office_of(state.as_deref(), node);
        let (Some(state), Some(node)) = (state, node) else {
            return no("this node belongs to no cluster yet", "wait until it does");
        };
        if office.is_none() || *self.active.borrow() != office || state.paused.is_some() {
            return no("this node is not the manager any more, or the cluster is paused", "try again");
        }
        let place = wanted.place.clone();
        // Looked at now, whatever events are under way.
        let observed = self.parts.inventory.applied(vec![(place.clone(), None)]).await;
        let head = self.parts.store.head();
        let roots = self.examine(&observed, &state, node, head.as_deref()).await?;
        let (Some(head), true) = (head, roots.problems.is_empty()) else {
            return no("a root of the manager can't be used", "see `syncd status` for the root");
        };
        let Some((record, _)) = self.applied(&state).await? else {
            return no("the manager has applied no generation yet", "try again");
        };
        let store = self.parts.store.clone();
        let work = move || {
            match refusal(&store, &observed, &wanted) {
                Ok(None) => {}
                Ok(Some(refused)) => return Ok(Err(refused)),
                Err(error) => {
                    let (error, displaced) = (ApplyError::Store(error), Vec::new());
                    return Err(Box::new(Failed { error, displaced, taken_back: true }));
                }
            }
            let edits = edits_of(&wanted, &observed, &head);
            let why = |_: &Place| "a person restored another version here from quarantine";
            let before = Some(&head.forest);
            let round = Round { store: &store, sites: &roots.sites, edits, before, record, why: &why };
            match reconcile(round) {
                Ok(outcome) => {
                    tracing::info!(place = %wanted.place, item = wanted.item, "restored from quarantine");
                    Ok(Ok((outcome, head.generation.number)))
                }
                Err(failed) => Err(failed),
            }
        };
        match blocking(work).await? {
            Ok(Ok((outcome, head))) => {
                self.displaced.extend(outcome.displaced);
                self.displaced_due = Instant::now() + crate::apply::files::SECOND_LOOK;
                self.parts.inventory.applied(outcome.written).await;
                Ok(Ok(head))
            }
            Ok(Err(refused)) => Ok(Err(refused.into())),
            Err(failed) => {
                let Failed { error, displaced, taken_back } = *failed;
                self.displaced.extend(displaced);
                let error = match error {
                    ApplyError::Store(error) if error.is_fatal() => return Err(error.into()),
                    error => error,
                };
                let why = format!("the manager could not write it: {}", error.chain());
                if !taken_back {
                    return Ok(Err(OrderError::Unknown { reason: why }));
                }
                Ok(Err(Refusal::new(why, error.remedy()).into()))
            }
        }
    }
}

/// The version itself, and the folders above it that are not there.
fn edits_of(wanted: &Wanted, observed: &Observed, head: &Adopted) -> Vec<Edit> {
    let forest = &observed.forest;
    let folders = ancestors(&wanted.place).filter(|folder| forest.get(folder).is_none()).map(|folder| {
        let published = head.forest.get(&folder).filter(|entry| entry.is_folder()).cloned();
        Edit { place: folder, old: None, new: published.or(Some(Entry::Folder { mode: FOLDER_MODE })) }
    });
    let old = forest.get(&wanted.place).cloned();
    let own = Edit { place: wanted.place.clone(), old, new: Some(wanted.entry.clone()) };
    folders.chain([own]).collect()
}
