//! What peers ask of this node's store: to take a generation in, and to give one out.
//!
//! A stage that succeeded is a pin; it changes no artifact. Everything a peer controls is bounded: how many calls run,
//! how long each may be silent, what a message may hold (`wire`, `delta`), and who may ask: only the manager stages,
//! and not in an epoch that is over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::apply::Observer;
use crate::apply::intake::{IntakeError, chain, receive};
use crate::apply::stages::Stages;
use crate::delta::{
    Base, ChunkWriter, Encoder, ParcelError, SIGNATURES_BYTES_MAX, SIGNATURES_MAX, Signature, tally,
};
use crate::model::{ArtifactPath, ContentHash, Coordinator, Digest, Epoch, Forest, NodeId, Place, Proposal};
use crate::rpc::{SLOW, Upload, send_within};
use crate::store::{Store, StoreError};
use crate::wire::proto::{FetchRequest, Parcel, ParcelHeader, SignedFile, StageReply, parcel::Part};
use crate::wire::{Header, place_from, root_name};

/// Stages at once: one manager, and one that does not know yet that it is none, each with a retry.
const STAGES_MAX: usize = 4;
/// Fetches served at once.
const FETCHES_MAX: usize = 4;
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Generations that are held for the log to decide on: far more than one manager has in flight.
const PINS_MAX: usize = 16;
/// How long one parcel may take, however steadily it comes.
const RECEIVE_MAX: Duration = Duration::from_secs(3600);
/// Data messages that wait to be sent.
const WAITING: usize = 4;

type Turns = HashMap<(Epoch, u64), Arc<tokio::sync::Mutex<()>>>;

/// Answers `Stage` and `Fetch`. Cheap to clone.
#[derive(Clone)]
pub struct Stager {
    store: Store,
    coordinator: Arc<dyn Coordinator>,
    pub(super) stages: Stages,
    staging: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    /// One stage at a time per generation of an epoch: a repeated one finds the pin of the first.
    turns: Arc<Mutex<Turns>>,
    upload: Upload,
    observer: Arc<dyn Observer>,
}

impl Stager {
    pub(super) fn new(
        store: Store,
        coordinator: Arc<dyn Coordinator>,
        upload: Upload,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            store,
            coordinator,
            upload,
            observer,
            stages: Stages::new(),
            staging: Arc::new(Semaphore::new(STAGES_MAX)),
            fetching: Arc::new(Semaphore::new(FETCHES_MAX)),
            turns: Arc::default(),
        }
    }

    /// Takes a generation in from `caller` and answers once all of it is durable here, or why it is not.
    ///
    /// # Errors
    /// When the parcel breaks the protocol or the store failed. Nothing is pinned then.
    pub async fn stage(
        &self,
        caller: NodeId,
        mut parcels: impl Stream<Item = Result<Parcel, Status>> + Unpin,
    ) -> Result<StageReply, Status> {
        let first = tokio::time::timeout(TURN, parcels.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no header came"))?;
        let Some(Parcel { part: Some(Part::Header(first)) }) = first.transpose()? else {
            return Err(Status::invalid_argument("a parcel begins with a header"));
        };
        let header = Header::try_from(first).map_err(|error| Status::invalid_argument(chain(&error)))?;
        if let Some(reason) = self.refusal(caller, &header) {
            return Ok(self.refused(&reason));
        }
        let generation = header.generation.clone();
        let running = self.stages.begin(generation.number);
        let _permit = tokio::time::timeout(TURN, self.staging.acquire())
            .await
            .map_err(|_| Status::resource_exhausted("too many stages at once"))?
            .map_err(|_| Status::unavailable("the daemon stops"))?;
        let turn = self.turn(generation.epoch, generation.number);
        let _turn = turn.lock().await;
        let (epoch, number, digest) = (generation.epoch, generation.number, generation.digest);
        if self.store.is_pinned(epoch, number, &digest) || self.is_head(number, &digest) {
            return Ok(pinned());
        }
        if let Some(reason) = self.unusable_base(&header) {
            return Ok(self.refused(&reason));
        }
        if self.store.pins().len() >= PINS_MAX {
            return Ok(self.refused("too many generations wait here for the log"));
        }
        let parcels = parcels.inspect(|_| running.progressed());
        let received =
            tokio::time::timeout(RECEIVE_MAX, receive(&self.store, header, Arc::default(), parcels))
                .await
                .map_err(|_| Status::deadline_exceeded("the parcel takes too long"))?;
        match received {
            Ok(_) => {
                tracing::debug!(epoch, generation = number, "pinned");
                Ok(pinned())
            }
            Err(IntakeError::Store(
                error @ (StoreError::UnknownBase { .. } | StoreError::NoSpace { .. }),
            )) => Ok(self.refused(&chain(&error))),
            // A content that should be here is not, or a patch does not lead where it should: what it starts from may
            // be damaged here. All contents will do.
            Err(
                error @ (IntakeError::Parcel(ParcelError::Patch { .. })
                | IntakeError::Store(
                    StoreError::Missing { .. } | StoreError::Damaged { .. } | StoreError::WrongDigest { .. },
                )),
            ) => Ok(StageReply { incomplete: true, ..self.refused(&chain(&error)) }),
            Err(error @ IntakeError::Parcel(_)) => Err(Status::invalid_argument(chain(&error))),
            Err(IntakeError::Store(
                error @ (StoreError::NoTree { .. }
                | StoreError::UnknownRoot { .. }
                | StoreError::Excluded { .. }
                | StoreError::BadRules { .. }
                | StoreError::Mismatch { .. }),
            )) => Err(Status::invalid_argument(chain(&error))),
            Err(error) => Err(Status::internal(chain(&error))),
        }
    }

    /// Gives out to `caller` what leads from what it has to the generation that it wants.
    ///
    /// # Errors
    /// `NOT_FOUND` when the generation is not here.
    pub async fn fetch(
        &self,
        caller: NodeId,
        request: FetchRequest,
    ) -> Result<impl Stream<Item = Result<Parcel, Status>> + Send + use<>, Status> {
        let bad = |what: &str| Status::invalid_argument(format!("{what} is no digest"));
        let want_digest = Digest::from_slice(&request.want_digest).ok_or_else(|| bad("the wanted digest"))?;
        let (have, have_digest) = match request.have {
            0 => (0, Digest([0; 32])),
            have => (have, Digest::from_slice(&request.have_digest).ok_or_else(|| bad("the own digest"))?),
        };
        let signatures = signatures_of(request.signed)?;
        let permit = tokio::time::timeout(TURN, Arc::clone(&self.fetching).acquire_owned())
            .await
            .map_err(|_| Status::resource_exhausted("too many fetches at once"))?
            .map_err(|_| Status::unavailable("the daemon stops"))?;
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || {
            let found = store.changes_between(have, &have_digest, request.want, &want_digest)?;
            let Some(proposal) = found else { return Ok(None) };
            let known = (proposal.base > 0).then_some(have_digest);
            let Some(basis) = store.basis(proposal.base, known.as_ref())? else { return Ok(None) };
            let is_same = basis.rules == proposal.rules;
            let forest = basis.forest.clone().under(&proposal.rules);
            let sent = lacked(&forest, &proposal);
            let time = |place: &Place| basis.time(place).map_err(std::io::Error::other);
            let base = Base { forest: &forest, time: &time };
            let has = |hash: &ContentHash| Ok::<_, GiveError>(store.has(hash)?);
            let encoder = Encoder::new(&proposal, &base, &sent, signatures, has)?;
            let header = encoder.header(&proposal, known, is_same);
            let hold = store.hold(encoder.contents());
            Ok::<_, GiveError>(Some((encoder, header, hold)))
        });
        let (encoder, header, hold) = found
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(chain(&error)))?
            .ok_or_else(|| Status::not_found(format!("generation {} is not here", request.want)))?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let (store, upload, observer) = (self.store.clone(), self.upload.clone(), Arc::clone(&self.observer));
        let caller = self.name_of(caller);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let (_permit, _hold) = (permit, hold);
            let mut sent = 0;
            let mut give = |part| {
                let parcel = Parcel { part: Some(part) };
                let bytes = parcel.encoded_len();
                runtime.block_on(upload.pass(bytes));
                runtime.block_on(send_within(SLOW, &sender, Ok(parcel)))?;
                sent += bytes as u64;
                Ok::<_, std::io::Error>(())
            };
            let outcome =
                give(Part::Header(ParcelHeader::from(&header))).map_err(GiveError::from).and_then(|()| {
                    let mut body = ChunkWriter::new(|mut piece: bytes::Bytes| {
                        while !piece.is_empty() {
                            give(Part::Data(piece.split_to(piece.len().min(upload.piece_bytes_max()))))?;
                        }
                        Ok(())
                    });
                    let runs = encoder.write(|hash| Ok::<_, GiveError>(store.open_blob(hash)?), &mut body)?;
                    body.finish()?;
                    Ok(runs)
                });
            // What a parcel that broke off told is not known: it counts as whole contents.
            let tally = tally(outcome.as_deref().unwrap_or_default(), sent);
            for (kind, bytes) in tally.bytes.into_iter().filter(|(_, bytes)| *bytes > 0) {
                observer.sent(&caller, kind, bytes);
            }
            observer.saved(tally.saved);
            if let Err(error) = outcome {
                let generation = header.generation.number;
                tracing::warn!(error = chain(&error), generation, "a fetch ended early");
                let status = Status::unavailable(chain(&error));
                // Who does not listen any more needs no reason.
                let _ = runtime.block_on(send_within(SLOW, &sender, Err(status)));
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    fn name_of(&self, node: NodeId) -> String {
        let state = self.coordinator.state();
        let state = state.borrow();
        let member = state.as_ref().and_then(|state| state.members.get(&node));
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// Why nothing of this caller is taken in.
    fn refusal(&self, caller: NodeId, header: &Header) -> Option<String> {
        let state = self.coordinator.state();
        let state = state.borrow();
        let Some(state) = &*state else { return Some("this node belongs to no cluster yet".to_owned()) };
        let (theirs, ours) = (header.generation.epoch, state.epoch());
        if theirs < ours {
            return Some(format!("epoch {theirs} is over, the current one is {ours}"));
        }
        // In a later epoch that this node has not heard of yet, the caller may well be the manager.
        let manager = state.appointment.as_ref().map(|appointment| appointment.manager);
        if theirs == ours && manager != Some(caller) {
            return Some(format!("node {caller} is not the manager of epoch {ours}"));
        }
        None
    }

    fn unusable_base(&self, header: &Header) -> Option<String> {
        let head = self.store.head();
        let number = header.generation.number;
        if head.as_ref().is_some_and(|head| head.generation.number >= number) && !self.begins_anew(number) {
            return Some(format!("generation {number} is not newer than what is here"));
        }
        let digest = header.base_digest?;
        let is_base = |number, other: &Digest| number == header.base && *other == digest;
        let known = head.is_some_and(|head| is_base(head.generation.number, &head.generation.digest))
            || self.store.pins().iter().any(|pin| is_base(pin.number, &pin.digest));
        (!known).then(|| format!("generation {} is not here", header.base))
    }

    /// Whether the log has not come to `number` yet, while what is here was not applied in its cluster: a cluster that
    /// was formed anew over an old store.
    fn begins_anew(&self, number: u64) -> bool {
        let state = self.coordinator.state();
        let state = state.borrow();
        let Some(state) = state.as_ref().filter(|state| state.generation() < number) else { return false };
        match self.store.applied() {
            Ok(applied) => applied.is_none_or(|applied| applied.cluster != state.cluster),
            Err(error) => {
                tracing::warn!(%error, "what was applied can't be read");
                false
            }
        }
    }

    fn is_head(&self, number: u64, digest: &Digest) -> bool {
        self.store
            .head()
            .is_some_and(|head| head.generation.number == number && head.generation.digest == *digest)
    }

    fn refused(&self, reason: &str) -> StageReply {
        let newest = self.store.head().map_or(0, |head| head.generation.number);
        StageReply { refused: reason.to_owned(), newest, ..StageReply::default() }
    }

    fn turn(&self, epoch: Epoch, number: u64) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry((epoch, number)).or_default())
    }
}

fn pinned() -> StageReply {
    StageReply { pinned: true, ..StageReply::default() }
}

/// The signatures that came with a request, checked.
fn signatures_of(files: Vec<SignedFile>) -> Result<BTreeMap<Place, Signature>, Status> {
    let bytes: usize = files.iter().map(|file| file.signature.len()).sum();
    if files.len() > SIGNATURES_MAX || bytes > SIGNATURES_BYTES_MAX {
        return Err(Status::invalid_argument("more signatures than are taken"));
    }
    let bad = |error: &dyn std::error::Error| Status::invalid_argument(chain(error));
    let files = files.into_iter().map(|file| {
        let root = root_name(&file.root).map_err(|error| bad(&error))?;
        let path = ArtifactPath::new(&file.path).map_err(|error| bad(&error))?;
        let signature = Signature::parse(file.signature.to_vec()).map_err(|error| bad(&error))?;
        Ok((place_from(&root, path).map_err(|error| bad(&error))?, signature))
    });
    files.collect()
}

/// The contents that a node with the base has not.
fn lacked(base: &Forest, proposal: &Proposal) -> BTreeSet<ContentHash> {
    let mut lacked: BTreeSet<_> =
        proposal.changes.iter().filter_map(|change| change.entry.as_ref()?.content()).collect();
    for (_, entry) in base.iter() {
        if let Some(hash) = entry.content() {
            lacked.remove(&hash);
        }
    }
    lacked
}

/// Why a fetch was not served to its end.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error("the parcel could not be made")]
    Parcel(#[from] ParcelError),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the receiver is gone or too slow")]
    Stream(#[from] std::io::Error),
}

#[cfg(test)]
mod tests;
