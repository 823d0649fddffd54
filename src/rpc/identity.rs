//! Who this node is, for every call that it makes or answers.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::model::{ClusterId, NodeId};

pub(super) const CLUSTER: &str = "syncd-cluster";
pub(super) const FROM: &str = "syncd-from";
pub(super) const TO: &str = "syncd-to";

/// A node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Me {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's id in it.
    pub node: NodeId,
}

/// This node's place in its cluster, once it has one. Shared by all channels and the server; the cluster room sets it.
#[derive(Clone, Debug)]
pub struct Identity(Arc<watch::Sender<Option<Me>>>);

impl Default for Identity {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Identity {
    /// Of a node that belongs to no cluster yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the identity that the node has stored durably.
    pub fn set(&self, me: Me) {
        self.0.send_replace(Some(me));
    }

    /// Who this node is; none before it belongs to a cluster.
    #[must_use]
    pub fn get(&self) -> Option<Me> {
        *self.0.borrow()
    }

    /// Follows changes: set once in a node's life, or again while formation starts over.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Me>> {
        self.0.subscribe()
    }
}

/// Writes into each call who calls whom.
#[derive(Clone, Debug)]
pub struct Introduce {
    identity: Identity,
    to: Option<NodeId>,
}

impl Introduce {
    pub(super) fn new(identity: Identity, to: Option<NodeId>) -> Self {
        Self { identity, to }
    }
}

impl Interceptor for Introduce {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(me) = self.identity.get() {
            let cluster: MetadataValue<Ascii> = me
                .cluster
                .to_string()
                .parse()
                .map_err(|_| Status::internal("a cluster id is not hexadecimal"))?;
            metadata.insert(CLUSTER, cluster);
            metadata.insert(FROM, MetadataValue::from(me.node));
        }
        if let Some(to) = self.to {
            metadata.insert(TO, MetadataValue::from(to));
        }
        Ok(request)
    }
}
