//! One content from one store to another: giving it out, and getting a whole one for a damaged one.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::delta::{ChunkReader, ChunkWriter};
use crate::inventory::Observed;
use crate::model::{ClusterState, ContentHash, NodeId, Place};
use crate::rpc::{Peers, SLOW, send_within, within};
use crate::store::{Store, StoreError};
use crate::wire::proto::{ContentPart, ContentRequest};

/// Contents given out at once.
const GIVEN_MAX: usize = 2;
/// Until a peer begins to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest silence between two pieces.
const SILENCE: Duration = Duration::from_secs(10);
/// Pieces on their way.
const WAITING: usize = 4;

/// Gives contents out. Cheap to clone.
#[derive(Clone)]
pub(super) struct Giver {
    store: Store,
    giving: Arc<Semaphore>,
    /// How long a receiver may take for one piece.
    patience: Duration,
}

impl Giver {
    pub(super) fn new(store: Store) -> Self {
        Self { store, giving: Arc::new(Semaphore::new(GIVEN_MAX)), patience: SLOW }
    }

    /// The pieces of a content; it ends with an error when its bytes are others.
    pub(super) fn give(
        &self,
        request: &ContentRequest,
    ) -> Result<ReceiverStream<Result<ContentPart, Status>>, Status> {
        let hash = ContentHash::from_slice(&request.hash)
            .ok_or_else(|| Status::invalid_argument("a hash has 32 bytes"))?;
        let permit = Arc::clone(&self.giving)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many contents at once"))?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let (store, runtime, patience) = (self.store.clone(), Handle::current(), self.patience);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let outcome = store.open_blob(&hash).map_err(|error| match error {
                StoreError::Missing { .. } | StoreError::Damaged { .. } => {
                    Status::not_found(error.to_string())
                }
                _ => Status::internal(error.to_string()),
            });
            let outcome = outcome.and_then(|mut blob| {
                let mut pieces = ChunkWriter::new(|data| {
                    runtime.block_on(send_within(patience, &sender, Ok(ContentPart { data })))
                });
                io::copy(&mut blob, &mut pieces)
                    .and_then(|_| pieces.finish())
                    .map_err(|error| Status::data_loss(error.to_string()))
            });
            if let Err(status) = outcome {
                // Whoever does not listen any more needs no reason, and whoever does not read finds the end missing.
                let _ = sender.try_send(Err(status));
            }
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// Gets whole contents for damaged ones.
pub(super) struct Mender<'a> {
    pub store: &'a Store,
    pub observed: &'a Observed,
    pub peers: &'a Peers,
    pub state: &'a ClusterState,
    pub me: Option<NodeId>,
}

impl Mender<'_> {
    /// Puts `hash` into the store again: from this node's own root if the file is there, else from a peer. Says from
    /// where; none when nobody has it whole.
    pub(super) async fn mend(&self, hash: &ContentHash, size: u64, place: &Place) -> Option<String> {
        if self.take_from_root(hash, size, place).await {
            return Some("this node's own root".to_owned());
        }
        for (id, member) in self.state.members.iter().filter(|(id, _)| Some(**id) != self.me) {
            match self.take_from_peer(*id, &member.address, hash, size).await {
                Ok(()) => return Some(member.name.clone()),
                Err(why) => tracing::debug!(from = member.name, %hash, why, "a content did not come"),
            }
        }
        None
    }

    async fn take_from_root(&self, hash: &ContentHash, size: u64, place: &Place) -> bool {
        let same = self.observed.forest.get(place).and_then(crate::model::Entry::content) == Some(*hash);
        let root = self.observed.roots.get(&place.root).and_then(|state| state.root.clone());
        let (true, Some(root)) = (same, root) else { return false };
        let (store, hash, path) = (self.store.clone(), *hash, place.path.clone());
        let put = tokio::task::spawn_blocking(move || {
            let mut file = root.open_file(&path).map_err(|error| error.to_string())?;
            put(&store, &hash, size, &mut file)
        });
        match put.await {
            Ok(Ok(())) => true,
            Ok(Err(why)) => {
                tracing::debug!(%place, why, "the root's own copy was of no use");
                false
            }
            Err(_) => false,
        }
    }

    async fn take_from_peer(
        &self,
        id: NodeId,
        address: &str,
        hash: &ContentHash,
        size: u64,
    ) -> Result<(), String> {
        let mut peer = self.peers.inspection(id, address).map_err(|error| error.to_string())?;
        let request = ContentRequest { hash: Bytes::copy_from_slice(hash.as_bytes()) };
        let mut pieces = within(ANSWER, peer.content(request)).await.map_err(|status| status.to_string())?;
        let (sender, mut coming) = mpsc::channel::<io::Result<Bytes>>(WAITING);
        let (store, hash) = (self.store.clone(), *hash);
        let putting = tokio::task::spawn_blocking(move || {
            let mut content = ChunkReader::new(|| coming.blocking_recv().transpose());
            put(&store, &hash, size, &mut content)
        });
        loop {
            let piece = match tokio::time::timeout(SILENCE, pieces.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(part))) => Ok(part.data),
                Ok(Some(Err(status))) => Err(io::Error::other(status)),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            };
            let last = piece.is_err();
            // Who takes no more has seen enough: its own outcome says why.
            if sender.send(piece).await.is_err() || last {
                break;
            }
        }
        drop(sender);
        putting.await.map_err(|error| error.to_string())?
    }
}

/// Checks the content while it is written; a wrong one leaves the store as it was.
fn put(store: &Store, hash: &ContentHash, size: u64, content: &mut dyn Read) -> Result<(), String> {
    let mut batch = store.batch();
    batch.put(hash, size, content).map_err(|error| error.to_string())?;
    batch.sync().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_read_keeps_no_place_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &dir.path().join("quarantine")).unwrap();
        let content = vec![7; 4 << 20];
        let hash = ContentHash::of(&content);
        put(&store, &hash, content.len() as u64, &mut content.as_slice()).unwrap();
        let giver = Giver { patience: Duration::from_millis(200), ..Giver::new(store) };
        let request = ContentRequest { hash: Bytes::copy_from_slice(hash.as_bytes()) };
        let unread: Vec<_> = (0..GIVEN_MAX).map(|_| giver.give(&request).unwrap()).collect();
        assert!(giver.give(&request).is_err(), "all places are taken");
        let all = giver.giving.acquire_many(GIVEN_MAX.try_into().unwrap());
        let all = tokio::time::timeout(Duration::from_secs(30), all).await;
        drop(all.expect("none is held any more").unwrap());
        drop(unread);
    }
}
