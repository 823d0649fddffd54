//! Gets a generation from another node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::apply::intake::{IntakeError, chain, receive};
use crate::apply::own_files::OwnFiles;
use crate::delta::ParcelError;
use crate::inventory::Observed;
use crate::model::{ClusterState, Digest, Head, NodeId};
use crate::rpc::{Lane, Peers, within};
use crate::store::{Store, StoreError};
use crate::wire::Header;
use crate::wire::proto::{FetchRequest, Parcel, parcel::Part};

/// Until a peer begins to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Until all of it is here, however steadily it comes: below an upload cap a whole tree takes its time, and a peer that
/// falls silent is left for another much sooner.
const WHOLE: Duration = Duration::from_secs(3600);

/// No peer had the generation, or none that answered.
#[derive(Debug, thiserror::Error)]
#[error("generation {number} could not be fetched: {}", .reasons.join("; "))]
pub struct SupplyError {
    /// The generation.
    pub number: u64,
    /// What each peer that was asked answered.
    pub reasons: Vec<String>,
}

/// Where a node gets a generation from that it was not given.
pub trait Supplier: Send + Sync + 'static {
    /// Pins `head` in the store of this node, whose id is `node`.
    fn supply<'a>(
        &'a self,
        state: &'a ClusterState,
        node: NodeId,
        head: &'a Head,
    ) -> BoxFuture<'a, Result<(), SupplyError>>;
}

/// Fetches from the other members, those first that are known to hold it.
#[derive(Clone)]
pub struct PeerSupplier {
    peers: Peers,
    store: Store,
    observed: watch::Receiver<Arc<Observed>>,
}

impl PeerSupplier {
    /// Fetches into `store`. Large files that are in the roots already need not come whole.
    #[must_use]
    pub fn new(peers: Peers, store: Store, observed: watch::Receiver<Arc<Observed>>) -> Self {
        Self { peers, store, observed }
    }

    async fn fetch(&self, from: NodeId, address: &str, head: &Head) -> Result<(), String> {
        let own = self.store.head();
        let have = own.as_ref().map(|own| (own.generation.number, own.generation.digest));
        let chained = |error: IntakeError| chain(&error);
        if have.is_some() {
            match self.fetch_from(from, address, have, Arc::default(), head).await {
                Err(error) if is_of_base(&error) => {
                    tracing::debug!(reason = chain(&error), "fetching without a generation to start from");
                }
                result => return result.map_err(chained),
            }
        }
        let observed = Arc::clone(&self.observed.borrow());
        let files = tokio::task::spawn_blocking(move || Arc::new(OwnFiles::sign(&observed)))
            .await
            .map_err(|error| error.to_string())?;
        match self.fetch_from(from, address, None, files, head).await {
            // One of the files changed meanwhile.
            Err(IntakeError::Parcel(ParcelError::Patch { .. })) => {
                self.fetch_from(from, address, None, Arc::default(), head).await.map_err(chained)
            }
            result => result.map_err(chained),
        }
    }

    async fn fetch_from(
        &self,
        from: NodeId,
        address: &str,
        have: Option<(u64, Digest)>,
        own: Arc<OwnFiles>,
        head: &Head,
    ) -> Result<(), IntakeError> {
        let failed = |error: String| IntakeError::Parcel(std::io::Error::other(error).into());
        let mut peer =
            self.peers.artifacts(from, address, Lane::Bulk).map_err(|error| failed(chain(&error)))?;
        let bytes = |digest: &Digest| bytes::Bytes::copy_from_slice(digest.as_bytes());
        let request = FetchRequest {
            have: have.map_or(0, |(number, _)| number),
            have_digest: have.map_or_else(bytes::Bytes::new, |(_, digest)| bytes(&digest)),
            want: head.generation,
            want_digest: bytes(&head.digest),
            signed: own.messages(),
        };
        let mut parcels =
            within(ANSWER, peer.fetch(request)).await.map_err(|status| failed(status.to_string()))?;
        let first = tokio::time::timeout(ANSWER, parcels.next())
            .await
            .map_err(|_| failed(format!("no header within {ANSWER:?}")))?;
        let first = match first {
            Some(Ok(Parcel { part: Some(Part::Header(first)) })) => first,
            Some(Err(status)) => return Err(failed(status.to_string())),
            _ => return Err(failed("a parcel begins with a header".to_owned())),
        };
        let header = Header::try_from(first).map_err(|error| failed(chain(&error)))?;
        let generation = (header.generation.number, header.generation.digest);
        if generation != (head.generation, head.digest) {
            return Err(failed(format!("generation {} came instead", header.generation.number)));
        }
        if header.base == 0 && have.is_some() && OwnFiles::are_in(&self.observed.borrow()) {
            // It does not know what is here; the large files in the roots may spare most of what would come.
            let (number, base) = (header.generation.number, header.base);
            return Err(StoreError::UnknownBase { number, base }.into());
        }
        tokio::time::timeout(WHOLE, receive(&self.store, header, own, parcels))
            .await
            .map_err(|_| failed(format!("not all of it came within {WHOLE:?}")))??;
        Ok(())
    }
}

/// Whether what this node thinks it has is not whole, not what it should be, or not known to the other side.
fn is_of_base(error: &IntakeError) -> bool {
    matches!(
        error,
        IntakeError::Parcel(ParcelError::Patch { .. })
            | IntakeError::Store(
                StoreError::Missing { .. }
                    | StoreError::Damaged { .. }
                    | StoreError::UnknownBase { .. }
                    | StoreError::WrongDigest { .. }
            )
    )
}

impl Supplier for PeerSupplier {
    fn supply<'a>(
        &'a self,
        state: &'a ClusterState,
        node: NodeId,
        head: &'a Head,
    ) -> BoxFuture<'a, Result<(), SupplyError>> {
        Box::pin(async move {
            let mut reasons = Vec::new();
            for id in order_of(state, node, head) {
                let Some(member) = state.members.get(&id) else { continue };
                match self.fetch(id, &member.address, head).await {
                    Ok(()) => {
                        tracing::info!(from = member.name, generation = head.generation, "fetched");
                        return Ok(());
                    }
                    Err(reason) => {
                        tracing::debug!(
                            from = member.name,
                            generation = head.generation,
                            reason,
                            "not fetched"
                        );
                        reasons.push(format!("{}: {reason}", member.name));
                    }
                }
            }
            Err(SupplyError { number: head.generation, reasons })
        })
    }
}

/// Those that held it when it was committed, beginning after this node's own number so that nodes that come back
/// together ask different ones; then the manager; then everybody else.
fn order_of(state: &ClusterState, node: NodeId, head: &Head) -> Vec<NodeId> {
    let after = head.holders.iter().filter(|id| **id > node);
    let before = head.holders.iter().filter(|id| **id < node);
    let manager = state.appointment.as_ref().map(|appointment| appointment.manager);
    let mut seen = BTreeSet::from([node]);
    after
        .chain(before)
        .copied()
        .chain(manager)
        .chain(state.members.keys().copied())
        .filter(|id| seen.insert(*id))
        .collect()
}
