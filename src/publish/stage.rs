//! Bringing one generation to every member, each at its own pace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use prost::Message;
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::delta::tally;
use crate::model::{ClusterState, Member, NodeId, Problem, Severity};
use crate::publish::Config;
use crate::publish::prepare::{Parcel, Prepared};
use crate::publish::status::Observer;
use crate::rpc::{Lane, Peers, Upload, within};
use crate::store::Store;
use crate::wire::proto;

/// A member that answers nothing for this long, besides the time its bytes take, is tried again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The slowest line that is waited for: bytes per second.
const SLOWEST: u64 = 256 << 10;
/// Below an upload cap so many are thought to share it.
const SENDERS: u64 = 8;
/// The longest attempt.
const ATTEMPT_MAX: Duration = Duration::from_secs(3600);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Generations on their way to one member at once; a member that is slower catches up by itself.
const ON_THE_WAY_MAX: usize = 2;

/// The ways to the members, and what is on them.
pub(super) struct Stages {
    peers: Peers,
    store: Store,
    spool_dir: PathBuf,
    upload: Upload,
    observer: Arc<dyn Observer>,
    lanes: HashMap<NodeId, Arc<Semaphore>>,
    running: JoinSet<()>,
}

/// A generation on its way. What is begun when this is dropped is finished; nothing is begun any more.
pub(super) struct Round {
    prepared: Arc<Prepared>,
    /// The parcel with all contents, made when a member lacks what it should have.
    whole: Arc<OnceCell<Arc<Parcel>>>,
    enough: CancellationToken,
    answers: mpsc::Sender<Answer>,
}

/// What a member said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) member: NodeId,
    /// Why it did not pin; none: it did.
    pub(super) refused: Option<String>,
}

impl Drop for Round {
    fn drop(&mut self) {
        self.enough.cancel();
    }
}

impl Stages {
    pub(super) fn new(peers: Peers, store: Store, config: &Config, observer: Arc<dyn Observer>) -> Self {
        let (spool_dir, upload) = (config.spool_dir.clone(), config.upload.clone());
        Self { peers, store, spool_dir, upload, observer, lanes: HashMap::new(), running: JoinSet::new() }
    }

    /// A new round, and where its answers come in.
    pub(super) fn round(&mut self, prepared: Arc<Prepared>) -> (Round, mpsc::Receiver<Answer>) {
        while self.running.try_join_next().is_some() {}
        let (answers, incoming) = mpsc::channel(64);
        let (whole, enough) = (Arc::default(), CancellationToken::new());
        (Round { prepared, whole, enough, answers }, incoming)
    }

    /// Tries until the member pinned or the round ends.
    pub(super) fn send(&mut self, round: &Round, id: NodeId, member: &Member) {
        let lane = self.lanes.entry(id).or_insert_with(|| Arc::new(Semaphore::new(ON_THE_WAY_MAX)));
        let way = Way {
            peers: self.peers.clone(),
            store: self.store.clone(),
            spool_dir: self.spool_dir.clone(),
            upload: self.upload.clone(),
            observer: Arc::clone(&self.observer),
            id,
            member: member.clone(),
            prepared: Arc::clone(&round.prepared),
            whole: Arc::clone(&round.whole),
        };
        let (lane, enough, answers) = (Arc::clone(lane), round.enough.clone(), round.answers.clone());
        self.running.spawn(async move {
            let permit = tokio::select! {
                // A majority may be there before this begins; the member would have to fetch what was encoded once.
                biased;
                permit = lane.acquire() => permit,
                () = enough.cancelled() => return,
            };
            // The semaphore is never closed; holding its permit or not, the member is served.
            let _permit = permit;
            way.go(&enough, &answers).await;
        });
    }
}

/// What there is to say while too few hold a generation.
pub(super) fn no_majority(
    state: &ClusterState,
    holders: &BTreeSet<NodeId>,
    refusals: &BTreeMap<NodeId, String>,
) -> Problem {
    let lacking = state.voters.difference(holders).filter_map(|id| {
        let name = &state.members.get(id)?.name;
        Some(format!("{name} ({})", refusals.get(id).map_or("no answer", String::as_str)))
    });
    let message = format!(
        "a change is held by {} of {} voters, so it can't be committed; missing: {}",
        state.voters.intersection(holders).count(),
        state.voters.len(),
        lacking.collect::<Vec<_>>().join(", ")
    );
    let remedy = "start the missing nodes, or open their port; it is tried again by itself";
    Problem::new(Severity::Critical, "no-majority", message, remedy)
}

/// All that one member's attempts need.
struct Way {
    peers: Peers,
    store: Store,
    spool_dir: PathBuf,
    upload: Upload,
    observer: Arc<dyn Observer>,
    id: NodeId,
    member: Member,
    prepared: Arc<Prepared>,
    whole: Arc<OnceCell<Arc<Parcel>>>,
}

enum Sent {
    Patched(Arc<Prepared>),
    Whole(Arc<Parcel>),
}

impl Sent {
    fn parcel(&self) -> &Parcel {
        match self {
            Self::Patched(prepared) => &prepared.parcel,
            Self::Whole(parcel) => parcel,
        }
    }
}

impl Way {
    async fn go(&self, enough: &CancellationToken, answers: &mpsc::Sender<Answer>) {
        let mut wait = RETRY_MIN;
        let mut sends_whole = false;
        loop {
            let parcel = if sends_whole {
                self.whole().await
            } else {
                Some(Sent::Patched(Arc::clone(&self.prepared)))
            };
            let refused = match parcel {
                None => Some("encoding all contents failed".to_owned()),
                Some(parcel) => match self.attempt(Arc::new(parcel)).await {
                    Ok(reply) if reply.pinned => {
                        let generation = self.prepared.generation.number;
                        tracing::debug!(target: "syncd::step", generation, "acknowledged");
                        None
                    }
                    Ok(reply) => {
                        // No other reason is gone with more bytes.
                        sends_whole |= reply.incomplete;
                        Some(reply.refused)
                    }
                    Err(status) => Some(format!("{}: {}", status.code(), status.message())),
                },
            };
            let is_done = refused.is_none();
            if let Some(why) = &refused {
                tracing::debug!(peer = %self.member.name, generation = self.prepared.generation.number, why, "not staged");
            }
            // A round that is over listens no more.
            let _ = answers.send(Answer { member: self.id, refused }).await;
            if is_done {
                return;
            }
            tokio::select! {
                () = enough.cancelled() => return,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            }
        }
    }

    async fn whole(&self) -> Option<Sent> {
        let made = self.whole.get_or_try_init(|| async {
            let (prepared, store, dir) =
                (Arc::clone(&self.prepared), self.store.clone(), self.spool_dir.clone());
            let made = tokio::task::spawn_blocking(move || prepared.whole(&store, &dir)).await;
            match made {
                Ok(Ok(whole)) => Ok(Arc::new(whole)),
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the parcel with all contents failed"
                    );
                    Err(())
                }
                Err(_) => Err(()),
            }
        });
        made.await.ok().map(|whole| Sent::Whole(Arc::clone(whole)))
    }

    async fn attempt(&self, what: Arc<Sent>) -> Result<proto::StageReply, tonic::Status> {
        let mut client = self
            .peers
            .artifacts(self.id, &self.member.address, Lane::Bulk)
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
        let slowest = self.upload.share(SLOWEST, SENDERS);
        let bytes = what.parcel().spool.bytes();
        let limit = (ANSWER_WITHIN + Duration::from_secs(bytes / slowest)).min(ATTEMPT_MAX);
        let (pieces, stream) = mpsc::channel(2);
        // Counted where the connection takes them: a peer that can't be reached is sent nothing.
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let stream = ReceiverStream::new(stream).inspect(move |message: &proto::Parcel| {
            counter.fetch_add(message.encoded_len() as u64, Ordering::Relaxed);
        });
        let reply = {
            let call = within(limit, client.stage(stream));
            let feeding = feed(&what, &self.upload, pieces);
            tokio::pin!(call, feeding);
            // The reply may come before all was read: a refusal needs no body.
            tokio::select! {
                biased;
                reply = &mut call => reply,
                fed = &mut feeding => match fed {
                    Ok(()) => call.await,
                    Err(error) => Err(tonic::Status::internal(format!("reading the encoded parcel: {error}"))),
                },
            }
        };
        let sent = sent.load(Ordering::Relaxed);
        if sent > 0 {
            let tally = tally(&what.parcel().runs, sent);
            for (kind, bytes) in tally.bytes.into_iter().filter(|(_, bytes)| *bytes > 0) {
                self.observer.sent(&self.member.name, kind, bytes);
            }
            if reply.as_ref().is_ok_and(|reply| reply.pinned) {
                self.observer.saved(tally.saved);
            }
        }
        reply
    }
}

/// Hands the parcel on piece by piece, until the other side listens no more.
async fn feed(what: &Arc<Sent>, upload: &Upload, pieces: mpsc::Sender<proto::Parcel>) -> io::Result<()> {
    let mut next = Some(proto::parcel::Part::Header((&what.parcel().header).into()));
    let mut index = 0;
    while let Some(part) = next {
        for message in cut(part, upload.piece_bytes_max()) {
            upload.pass(message.encoded_len()).await;
            if pieces.send(message).await.is_err() {
                return Ok(());
            }
        }
        let source = Arc::clone(what);
        let piece = match what.parcel().spool.is_in_memory() {
            true => source.parcel().spool.piece(index)?,
            false => tokio::task::spawn_blocking(move || source.parcel().spool.piece(index)).await??,
        };
        index += 1;
        next = piece.map(proto::parcel::Part::Data);
    }
    Ok(())
}

/// Messages of at most so many bytes of data.
fn cut(part: proto::parcel::Part, bytes_max: usize) -> impl Iterator<Item = proto::Parcel> {
    let mut rest = Some(part);
    std::iter::from_fn(move || {
        let part = match rest.take()? {
            proto::parcel::Part::Data(mut data) if data.len() > bytes_max => {
                let first = data.split_to(bytes_max);
                rest = Some(proto::parcel::Part::Data(data));
                proto::parcel::Part::Data(first)
            }
            part => part,
        };
        Some(proto::Parcel { part: Some(part) })
    })
}
