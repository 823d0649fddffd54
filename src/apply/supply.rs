//! Gets a generation from another node.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use crate::apply::intake::{IntakeError, chain, receive};
use crate::model::{ClusterState, Digest, Head, NodeId};
use crate::rpc::{Lane, Peers, within};
use crate::store::{Store, StoreError};
use crate::wire::Header;
use crate::wire::proto::{FetchRequest, Parcel, parcel::Part};

/// Until a peer begins to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Until all of it is here: a peer that is slower than this is left for another.
const WHOLE: Duration = Duration::from_secs(110);

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
}

impl PeerSupplier {
    /// Fetches into `store`.
    #[must_use]
    pub fn new(peers: Peers, store: Store) -> Self {
        Self { peers, store }
    }

    async fn fetch(&self, from: NodeId, address: &str, head: &Head) -> Result<(), String> {
        let own = self.store.head();
        let have = own.as_ref().map(|own| (own.generation.number, own.generation.digest));
        match self.fetch_from(from, address, have, head).await {
            // What this node thinks it has is not whole: then all of it.
            Err(IntakeError::Store(StoreError::Missing { .. } | StoreError::UnknownBase { .. }))
                if have.is_some() =>
            {
                self.fetch_from(from, address, None, head).await
            }
            result => result,
        }
        .map_err(|error| chain(&error))
    }

    async fn fetch_from(
        &self,
        from: NodeId,
        address: &str,
        have: Option<(u64, Digest)>,
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
        tokio::time::timeout(WHOLE, receive(&self.store, header, parcels))
            .await
            .map_err(|_| failed(format!("not all of it came within {WHOLE:?}")))??;
        Ok(())
    }
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
