//! What peers may call: the log's messages, formation, and what only a leader answers.
//!
//! Whom a call is for was checked before it comes here (`rpc`); what it says is checked here. No call waits longer
//! than its caller's limit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::RaftError;
use openraft::raft::InstallSnapshotRequest;
use tokio::sync::oneshot;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request as Call, Response as Reply, Status};

use crate::cluster::appoint::{Answer, Ask};
use crate::cluster::db::decode_formation;
use crate::cluster::handle::propose;
use crate::cluster::members::{MemberRequest, Placed};
use crate::cluster::network::{pack, unpack};
use crate::cluster::orders;
use crate::cluster::outlook::own_last;
use crate::cluster::place;
use crate::cluster::record::{self, Kind};
use crate::cluster::shared::{DUPLICATE, Request, Shared};
use crate::cluster::state::is_removed;
use crate::cluster::types::{Command, MEMBERS_MAX, Raft, Response, Timing, TypeConfig};
use crate::model::{Member, NodeId, Role, unix_ms};
use crate::rpc::Caller;
use crate::wire::proto;
use crate::wire::proto::coordination_server::Coordination;
use crate::wire::proto::raft_server::Raft as RaftApi;

/// A question to the leader task; the caller's own limit is shorter or like this.
const ASK_MAX: Duration = Duration::from_millis(1500);
/// An entry to be appended for a peer.
const WRITE_MAX: Duration = Duration::from_secs(4);
/// The largest snapshot: far above what [`MEMBERS_MAX`] members need.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// The longest name or address that a newcomer may have.
const NAME_BYTES_MAX: usize = 255;

/// Serves both services of this room.
#[derive(Clone, Debug)]
pub(super) struct Service(pub(super) Arc<Shared>);

type Served<T> = Result<Reply<T>, Status>;

impl Service {
    /// The log, for a message of a member. Whoever was removed and does not know it yet would campaign on and on, with
    /// ever newer terms that unseat the leader: it is told, and not listened to.
    fn raft_for<T>(&self, call: &Call<T>) -> Result<Raft, Status> {
        let from = caller(call)?;
        if self.0.state.borrow().as_ref().is_some_and(|state| is_removed(state, from)) {
            return Err(Status::permission_denied("this node was removed from its cluster"));
        }
        self.0.raft().ok_or_else(|| Status::unavailable("the log does not run yet"))
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, Status> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.leader.try_send(Request::Ask(ask, reply));
        sent.map_err(|_| Status::resource_exhausted("too many questions wait for the leader"))?;
        match tokio::time::timeout(ASK_MAX, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Status::unavailable("the log stopped")),
            Err(_) => Err(Status::deadline_exceeded("no quorum answered in time")),
        }
    }
}

fn caller<T>(call: &Call<T>) -> Result<NodeId, Status> {
    call.extensions()
        .get::<Caller>()
        .map(|caller| caller.0)
        .ok_or_else(|| Status::failed_precondition("the caller does not say who it is"))
}

fn invalid(error: record::RecordError) -> Status {
    Status::invalid_argument(format!("the message is not readable: {error}"))
}

fn unsendable(error: record::RecordError) -> Status {
    Status::internal(format!("the answer cannot be encoded: {error}"))
}

fn stopped<E: std::error::Error>(error: &RaftError<NodeId, E>) -> Status {
    Status::unavailable(format!("the log stopped: {error}"))
}

#[tonic::async_trait]
impl RaftApi for Service {
    async fn append(&self, call: Call<proto::RaftMessage>) -> Served<proto::RaftMessage> {
        let raft = self.raft_for(&call)?;
        let request = unpack(&call.into_inner()).map_err(invalid)?;
        let answer = raft.append_entries(request).await.map_err(|error| stopped(&error))?;
        pack(&answer).map(Reply::new).map_err(unsendable)
    }

    async fn vote(&self, call: Call<proto::RaftMessage>) -> Served<proto::RaftMessage> {
        let raft = self.raft_for(&call)?;
        let request = unpack(&call.into_inner()).map_err(invalid)?;
        let answer = raft.vote(request).await.map_err(|error| stopped(&error))?;
        pack(&answer).map(Reply::new).map_err(unsendable)
    }

    async fn snapshot(&self, call: Call<proto::RaftMessage>) -> Served<proto::RaftMessage> {
        let raft = self.raft_for(&call)?;
        let request: InstallSnapshotRequest<TypeConfig> = unpack(&call.into_inner()).map_err(invalid)?;
        if request.offset.saturating_add(request.data.len() as u64) > SNAPSHOT_BYTES_MAX {
            return Err(Status::invalid_argument("the snapshot is too large"));
        }
        let answer = match raft.install_snapshot(request).await {
            Ok(answer) => Ok(answer),
            Err(RaftError::APIError(mismatch)) => Err(mismatch),
            Err(error @ RaftError::Fatal(_)) => return Err(stopped(&error)),
        };
        pack(&answer).map(Reply::new).map_err(unsendable)
    }
}

#[tonic::async_trait]
impl Coordination for Service {
    async fn hello(&self, call: Call<proto::HelloRequest>) -> Served<proto::HelloReply> {
        let shared = &self.0;
        let scan = shared.first_scan.borrow().clone();
        let (content, marked_roots) = scan.unzip();
        let own = shared.own.borrow().clone();
        let (last_term, last_index) = own_last(shared).await;
        let has_leader = shared.standing.borrow().confirmed;
        let wishes = shared.wishes();
        let state = shared.state.borrow().clone();
        let succeeds = state.iter().flat_map(|state| &state.lineage.succeeds);
        let asks = call.into_inner();
        let removed = state
            .as_ref()
            .is_some_and(|state| asks.cluster_id == state.cluster.0[..] && is_removed(state, asks.node_id));
        Ok(Reply::new(proto::HelloReply {
            cluster_name: shared.config.cluster_name.clone(),
            node_name: shared.config.node_name.clone(),
            cluster_id: own.as_ref().map(|own| Bytes::copy_from_slice(&own.cluster.0)).unwrap_or_default(),
            node_id: own.as_ref().map(|own| own.node).unwrap_or_default(),
            has_log: shared.has_log.load(Ordering::Acquire),
            marked_roots: marked_roots.unwrap_or_default(),
            content: content.map(|content| proto::FirstContent {
                digest: Bytes::copy_from_slice(&content.digest.0),
                files: content.files,
            }),
            incarnation: Bytes::copy_from_slice(&*shared.incarnation.borrow()),
            process: shared.process,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms: unix_ms(),
            succeeds: succeeds.map(|cluster| Bytes::copy_from_slice(&cluster.0)).collect(),
            has_leader,
            is_formed: state.is_some(),
            last_term,
            last_index,
            without: wishes.without.into_iter().collect(),
            anew: wishes.anew,
            removed,
        }))
    }

    async fn form(&self, call: Call<proto::FormRequest>) -> Served<proto::FormReply> {
        let record = decode_formation(&call.into_inner().record).map_err(invalid)?;
        let (reply, answer) = oneshot::channel();
        let refused = |refused: String| Ok(Reply::new(proto::FormReply { refused }));
        if self.0.formation.try_send((record, reply)).is_err() {
            return refused("this node belongs to a cluster already".to_owned());
        }
        match tokio::time::timeout(WRITE_MAX, answer).await {
            Ok(Ok(Ok(()))) => refused(String::new()),
            Ok(Ok(Err(why))) => refused(why),
            Ok(Err(_)) => refused("this node belongs to a cluster already".to_owned()),
            Err(_) => Err(Status::deadline_exceeded("the record was not stored in time")),
        }
    }

    async fn present(&self, call: Call<proto::PresentRequest>) -> Served<proto::PresentReply> {
        let from = call.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        place::answer(&self.0, call.into_inner(), from).await.map(Reply::new)
    }

    async fn join(&self, call: Call<proto::JoinRequest>) -> Served<proto::JoinReply> {
        let request = call.into_inner();
        let refused =
            |refused: String| Ok(Reply::new(proto::JoinReply { refused, ..proto::JoinReply::default() }));
        let shared = &self.0;
        if request.cluster_name != shared.config.cluster_name {
            return refused(format!("this is cluster {:?}", shared.config.cluster_name));
        }
        let Some(own) = shared.own.borrow().clone() else {
            return refused("this node belongs to no cluster yet".to_owned());
        };
        if shared.serving.borrow().is_none() {
            let leader_address =
                shared.leader().filter(|(id, _)| *id != own.node).map(|(_, node)| node.address);
            return match leader_address {
                Some(leader_address) => {
                    Ok(Reply::new(proto::JoinReply { leader_address, ..proto::JoinReply::default() }))
                }
                None => refused(
                    "no leader is heard: start a majority of the voters; if it is lost for good, `syncd recover` on \
                     the one with the newest log"
                        .to_owned(),
                ),
            };
        }
        let newcomer = match newcomer(request) {
            Ok(newcomer) => newcomer,
            Err(why) => return refused(why),
        };
        let (reply, placed) = oneshot::channel();
        let sent = shared.members.try_send(MemberRequest::Join(newcomer, reply));
        sent.map_err(|_| Status::resource_exhausted("too many questions wait for the leader"))?;
        let placed = match tokio::time::timeout(WRITE_MAX, placed).await {
            Ok(Ok(placed)) => placed,
            Ok(Err(_)) => return refused("this node does not lead any more".to_owned()),
            Err(_) => return Err(Status::deadline_exceeded("the leader was busy for too long")),
        };
        match placed {
            Placed::Member(node_id) => Ok(Reply::new(proto::JoinReply {
                cluster_id: Bytes::copy_from_slice(&own.cluster.0),
                node_id,
                times: Some(times(own.timing)),
                ..proto::JoinReply::default()
            })),
            Placed::Duplicate(refused) => {
                let code = DUPLICATE.to_owned();
                Ok(Reply::new(proto::JoinReply { refused, code, ..proto::JoinReply::default() }))
            }
            Placed::SetBack(refused) => {
                let code = place::ROLLED_BACK.to_owned();
                Ok(Reply::new(proto::JoinReply { refused, code, ..proto::JoinReply::default() }))
            }
            Placed::Wait(why) | Placed::Refused(why) => refused(why),
        }
    }

    async fn commit(&self, call: Call<proto::CommitRequest>) -> Served<proto::CommitReply> {
        let from = caller(&call)?;
        let command: Command = record::decode(Kind::Command, &call.into_inner().command).map_err(invalid)?;
        let (Command::Commit(commit) | Command::Approved { commit, .. }) = &command else {
            return Err(Status::invalid_argument("only a commit may be proposed by a peer"));
        };
        if commit.author != from {
            return Err(Status::permission_denied("a commit is offered by its author"));
        }
        if commit.holders.len() > MEMBERS_MAX {
            return Err(Status::invalid_argument("the commit names too many holders"));
        }
        // An empty answer says that the outcome is not known, which is always true enough.
        let outcome = match propose(&self.0, command, WRITE_MAX).await {
            Ok(Response::Commit(outcome)) => record::encode(Kind::Outcome, &outcome).map_err(unsendable)?,
            Ok(_) | Err(_) => Vec::new(),
        };
        Ok(Reply::new(proto::CommitReply { outcome: outcome.into() }))
    }

    async fn renew(&self, call: Call<proto::RenewRequest>) -> Served<proto::RenewReply> {
        let from = caller(&call)?;
        let proto::RenewRequest { epoch, process } = call.into_inner();
        Ok(Reply::new(match self.ask(Ask::Renew { from, epoch, process }).await? {
            Answer::Granted => proto::RenewReply { granted: true, refused: String::new() },
            Answer::Refused(why) => proto::RenewReply { granted: false, refused: why.to_owned() },
            Answer::Confirmed(_) => return Err(Status::internal("the answer to another question")),
        }))
    }

    async fn let_go(&self, call: Call<proto::RenewRequest>) -> Served<proto::RenewReply> {
        let from = caller(&call)?;
        let proto::RenewRequest { epoch, process } = call.into_inner();
        let (reply, heard) = oneshot::channel();
        let sent = self.0.leader.try_send(Request::LetGo { from, epoch, process, reply });
        sent.map_err(|_| Status::resource_exhausted("too many questions wait for the leader"))?;
        let granted = matches!(tokio::time::timeout(ASK_MAX, heard).await, Ok(Ok(true)));
        Ok(Reply::new(proto::RenewReply { granted, refused: String::new() }))
    }

    async fn confirm(&self, _call: Call<proto::ConfirmRequest>) -> Served<proto::ConfirmReply> {
        Ok(Reply::new(match self.ask(Ask::Confirm).await? {
            Answer::Confirmed(applied_index) => proto::ConfirmReply { applied_index },
            Answer::Granted | Answer::Refused(_) => proto::ConfirmReply::default(),
        }))
    }

    async fn order(&self, call: Call<proto::OrderRequest>) -> Served<proto::OrderReply> {
        caller(&call)?;
        let command: Command = record::decode(Kind::Command, &call.into_inner().command).map_err(invalid)?;
        let Command::Order { id, by, order, .. } = &command else {
            return Err(Status::invalid_argument("only an order may come this way"));
        };
        let id = *id;
        if [by.as_str()].into_iter().chain(order.words()).any(|word| word.len() > NAME_BYTES_MAX) {
            return Err(Status::invalid_argument("the order's name is too long"));
        }
        let ordered = orders::lead(&self.0, id, command).await;
        let ordered = record::encode(Kind::Ordered, &ordered).map_err(unsendable)?;
        Ok(Reply::new(proto::OrderReply { ordered: ordered.into() }))
    }
}

fn times(timing: Timing) -> proto::ElectionTimes {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    proto::ElectionTimes {
        heartbeat_ms: millis(timing.heartbeat),
        timeout_ms: millis(timing.timeout),
        lease_ms: millis(timing.lease),
    }
}

pub(super) fn newcomer(request: proto::JoinRequest) -> Result<Member, String> {
    let proto::JoinRequest { node_name: name, address, role, incarnation, .. } = request;
    let sound =
        |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    if !sound(&name) || !sound(&address) {
        return Err("a name and an address are 1 to 255 bytes without control characters".to_owned());
    }
    let role: Role = role.parse().map_err(|()| format!("there is no role {role:?}"))?;
    let incarnation = incarnation.as_ref().try_into().map_err(|_| "an incarnation is 16 bytes".to_owned())?;
    Ok(Member { name, address, role, incarnation })
}
