//! Carries a former manager's late changes to the new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::apply::intake::chain;
use crate::delta::{Base, ChunkWriter, Encoder, ParcelError};
use crate::model::{ContentHash, Digest, Entry, NodeId, Place, Proposal, RootName};
use crate::rpc::{Lane, Peers, Upload, within};
use crate::store::{Store, StoreError};
use crate::tree::{Root, TreeError};
use crate::wire::proto::{Parcel, ParcelHeader, parcel::Part};

/// Changes of one offer, and the bytes of their contents.
pub(super) const CHANGES_MAX: usize = 1000;
pub(super) const CONTENT_BYTES_MAX: u64 = 256 << 20;
/// How long one offer may take.
const WITHIN: Duration = Duration::from_secs(30);
/// Messages that wait to be sent.
const WAITING: usize = 4;

/// What is offered: changes against a committed generation, and the folders that hold their contents.
#[derive(Debug)]
pub struct Offer {
    /// The changes against the generation that the number before its own names. Never proposed to the log.
    pub proposal: Proposal,
    /// The digest of that generation.
    pub base_digest: Digest,
    /// Where the contents are.
    pub roots: BTreeMap<RootName, Arc<Root>>,
}

/// What the new manager said: the positions of the changes that it took; none when it can't say yet.
pub type Answer = Result<Option<BTreeSet<u64>>, String>;

/// Who brings an offer to the manager.
pub trait Offerer: Send + Sync + 'static {
    /// Offers to the member `to` at `address`. Dropping the future takes the offer back as far as it was not taken yet.
    fn offer(&self, to: NodeId, address: String, offer: Offer) -> BoxFuture<'static, Answer>;
}

/// Offers over gRPC.
#[derive(Clone)]
pub struct PeerOfferer {
    peers: Peers,
    store: Store,
    upload: Upload,
}

impl PeerOfferer {
    /// What is offered starts from a generation in `store`.
    #[must_use]
    pub fn new(peers: Peers, store: Store, upload: Upload) -> Self {
        Self { peers, store, upload }
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the parcel could not be made")]
    Parcel(#[from] ParcelError),
    #[error("a file could not be read")]
    Tree(#[from] TreeError),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the generation that the changes were made against is not here any more")]
    NoBase,
    #[error("the receiver is gone")]
    Stream(#[from] io::Error),
}

impl Offerer for PeerOfferer {
    fn offer(&self, to: NodeId, address: String, offer: Offer) -> BoxFuture<'static, Answer> {
        let client = self.peers.artifacts(to, &address, Lane::Bulk);
        let (store, upload) = (self.store.clone(), self.upload.clone());
        async move {
            let mut client = client.map_err(|error| error.to_string())?;
            let (sender, receiver) = mpsc::channel(WAITING);
            // A content that changed meanwhile ends the stream early, which the receiver takes for no offer.
            let sending = tokio::task::spawn_blocking(move || send(&offer, &store, &upload, &sender));
            let answered = within(WITHIN, client.offer(ReceiverStream::new(receiver))).await;
            let sent = sending.await.map_err(|error| error.to_string())?;
            match (answered, sent) {
                (Ok(reply), _) => Ok((!reply.later).then(|| reply.taken.into_iter().collect())),
                (Err(status), Err(SendError::Stream(_)) | Ok(())) => Err(status.message().to_owned()),
                (Err(_), Err(error)) => Err(chain(&error)),
            }
        }
        .boxed()
    }
}

fn send(
    offer: &Offer,
    store: &Store,
    upload: &Upload,
    sender: &mpsc::Sender<Parcel>,
) -> Result<(), SendError> {
    let runtime = Handle::current();
    let give = |part| {
        let parcel = Parcel { part: Some(part) };
        runtime.block_on(upload.pass(parcel.encoded_len()));
        sender.blocking_send(parcel).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let basis = store.basis(offer.proposal.base, Some(&offer.base_digest))?.ok_or(SendError::NoBase)?;
    let mut proposal = offer.proposal.clone();
    let forest = basis.forest.clone().under(&proposal.rules);
    let made = proposal.changes.iter().map(|change| (change.place.clone(), change.entry.clone()));
    let made = forest.with(made).map_err(|_| ParcelError::Bounds { what: "the changes make no tree" })?;
    proposal.generation.digest = made.digest();
    let mut places: HashMap<ContentHash, &Place> = HashMap::new();
    for change in &offer.proposal.changes {
        if let Some(hash) = change.entry.as_ref().and_then(Entry::content) {
            places.insert(hash, &change.place);
        }
    }
    let sent: BTreeSet<ContentHash> = places.keys().copied().collect();
    let time = |place: &Place| basis.time(place).map_err(io::Error::other);
    // As if nothing older were known: contents come whole, for they are read from the folder.
    let base = Base { forest: &forest, time: &time };
    let encoder = Encoder::new(&proposal, &base, &sent, Default::default(), |_| Ok::<_, SendError>(false))?;
    let header = encoder.header(&proposal, Some(offer.base_digest), basis.rules == proposal.rules);
    give(Part::Header(ParcelHeader::from(&header)))?;
    let mut body = ChunkWriter::new(|mut piece: Bytes| {
        while !piece.is_empty() {
            give(Part::Data(piece.split_to(piece.len().min(upload.piece_bytes_max()))))?;
        }
        Ok(())
    });
    let open = |hash: &ContentHash| {
        let gone = || SendError::Stream(io::Error::from(io::ErrorKind::NotFound));
        let place = places.get(hash).ok_or_else(gone)?;
        Ok(offer.roots.get(&place.root).ok_or_else(gone)?.open_file(&place.path)?)
    };
    encoder.write::<_, SendError>(open, &mut body)?;
    Ok(body.finish()?)
}
