//! Asking other nodes who they are, whatever cluster they belong to.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;

use crate::cluster::shared::{ClusterConfig, ListedNode};
use crate::model::{ClusterId, Digest, FirstContent, NAME_BYTES_MAX, NodeId};
use crate::rpc::{self, Peers};
use crate::wire::proto::{HelloReply, HelloRequest};

/// One peer's answer to a greeting.
const HELLO_MAX: Duration = Duration::from_secs(1);
/// What a peer may list of anything.
const WORDS_MAX: usize = 256;

/// What a peer said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) cluster_name: String,
    pub(super) node_name: String,
    pub(super) cluster: Option<ClusterId>,
    pub(super) has_log: bool,
    pub(super) marked_roots: Vec<String>,
    pub(super) content: Option<FirstContent>,
    pub(super) incarnation: Option<[u8; 16]>,
    /// The clusters that its cluster succeeds.
    pub(super) succeeds: Vec<ClusterId>,
    /// Whether it hears a leader.
    pub(super) has_leader: bool,
    /// Whether its log saw the entry that formed the cluster.
    pub(super) is_formed: bool,
    /// Term and index of its newest entry.
    pub(super) last: (u64, u64),
    /// Voters that a person ordered there to form without.
    pub(super) without: BTreeSet<String>,
    /// Whether a person ordered there to form anew, whatever marks the roots carry.
    pub(super) anew: bool,
    /// Whether it knows that this node was removed.
    pub(super) removed: bool,
}

/// What came of asking one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing: why.
    Silent(String),
    /// Its words.
    Answered(Greeting),
}

/// Asks each of `nodes`, all at once; takes as long as the slowest, a second at most.
pub(super) async fn greet(
    peers: &Peers,
    cluster_name: &str,
    node_name: &str,
    nodes: impl IntoIterator<Item = ListedNode>,
) -> Vec<(ListedNode, Heard)> {
    let (cluster_name, node_name) = (cluster_name.to_owned(), node_name.to_owned());
    greet_with(peers, HelloRequest { cluster_name, node_name, ..HelloRequest::default() }, nodes).await
}

/// As [`greet`], and asks those of `cluster` whether this node, number `me` there, is a member still.
pub(super) async fn greet_as(
    peers: &Peers,
    config: &ClusterConfig,
    (cluster, me): (ClusterId, NodeId),
    nodes: impl IntoIterator<Item = ListedNode>,
) -> Vec<(ListedNode, Heard)> {
    let request = HelloRequest {
        cluster_name: config.cluster_name.clone(),
        node_name: config.node_name.clone(),
        cluster_id: bytes::Bytes::copy_from_slice(&cluster.0),
        node_id: me,
    };
    greet_with(peers, request, nodes).await
}

async fn greet_with(
    peers: &Peers,
    request: HelloRequest,
    nodes: impl IntoIterator<Item = ListedNode>,
) -> Vec<(ListedNode, Heard)> {
    let request = &request;
    join_all(nodes.into_iter().map(|node| async move {
        let heard = match peers.coordination(None, &node.address) {
            Ok(mut client) => match rpc::within(HELLO_MAX, client.hello(request.clone())).await {
                Ok(reply) => Heard::Answered(greeting(reply)),
                Err(status) => Heard::Silent(status.message().to_owned()),
            },
            Err(error) => Heard::Silent(error.to_string()),
        };
        (node, heard)
    }))
    .await
}

fn greeting(reply: HelloReply) -> Greeting {
    let cluster = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(ClusterId);
    let content = reply.content.and_then(|content| {
        Some(FirstContent { digest: Digest::from_slice(&content.digest)?, files: content.files })
    });
    Greeting {
        cluster_name: reply.cluster_name,
        node_name: reply.node_name,
        cluster: cluster(&reply.cluster_id),
        has_log: reply.has_log,
        marked_roots: reply.marked_roots,
        content,
        incarnation: <[u8; 16]>::try_from(reply.incarnation.as_ref()).ok(),
        succeeds: reply.succeeds.iter().take(WORDS_MAX).filter_map(|bytes| cluster(bytes)).collect(),
        has_leader: reply.has_leader,
        is_formed: reply.is_formed,
        last: (reply.last_term, reply.last_index),
        without: reply
            .without
            .into_iter()
            .take(WORDS_MAX)
            .filter(|name| name.len() <= NAME_BYTES_MAX)
            .collect(),
        anew: reply.anew,
        removed: reply.removed,
    }
}
