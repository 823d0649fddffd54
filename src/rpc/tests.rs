//! A real server and real channels: who is let in, who is not, and how long anything may take.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, async_trait};

use crate::model::ClusterId;
use crate::rpc::{Caller, Identity, Me, Peers, RpcError, Tls, serve, within};
use crate::wire::proto::RaftMessage;
use crate::wire::proto::raft_server::{Raft, RaftServer};

const LIMIT: Duration = Duration::from_secs(30);

/// Says who called; with an empty message it never answers.
struct Echo;

#[async_trait]
impl Raft for Echo {
    async fn append(&self, call: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        if call.get_ref().payload.is_empty() {
            std::future::pending::<()>().await;
        }
        let caller = call.extensions().get::<Caller>().map(|caller| caller.0.to_string());
        Ok(Response::new(RaftMessage { payload: caller.unwrap_or_default().into_bytes().into() }))
    }

    async fn vote(&self, _call: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn snapshot(&self, _call: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        Err(Status::unimplemented("not used"))
    }
}

struct Served {
    address: String,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RpcError>>,
}

fn identity(cluster: u8, node: u64) -> Identity {
    let identity = Identity::new();
    identity.set(Me { cluster: ClusterId([cluster; 16]), node });
    identity
}

async fn served(tls: Option<Tls>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let task = tokio::spawn(async move {
        serve(listener, tls.as_ref(), identity(1, 2), Routes::new(RaftServer::new(Echo)), stopping).await
    });
    Served { address, stop, task }
}

async fn call(peers: &Peers, to: u64, address: &str, payload: &'static [u8]) -> Result<String, Status> {
    let mut client = peers.raft(to, address).unwrap();
    let answer = within(LIMIT, client.append(RaftMessage { payload: payload.into() })).await?;
    Ok(String::from_utf8(answer.payload.to_vec()).unwrap())
}

#[tokio::test]
async fn a_call_reaches_only_the_node_and_cluster_it_is_meant_for() {
    let served = served(None).await;
    let ours = Peers::new(identity(1, 7), None);
    assert_eq!(call(&ours, 2, &served.address, b"x").await.unwrap(), "7");
    for (peers, to) in
        [(&ours, 3), (&Peers::new(identity(9, 7), None), 2), (&Peers::new(Identity::new(), None), 2)]
    {
        let refused = call(peers, to, &served.address, b"x").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
}

#[tokio::test]
async fn a_call_ends_by_its_own_limit_and_nobody_there_is_told_apart() {
    let served = served(None).await;
    let peers = Peers::new(identity(1, 7), None);
    let mut client = peers.raft(2, &served.address).unwrap();
    let begun = Instant::now();
    let limit = Duration::from_millis(200);
    let late = within(limit, client.append(RaftMessage::default())).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(begun.elapsed() < LIMIT / 2);
    let nobody = call(&peers, 2, "127.0.0.1:1", b"x").await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unavailable, "{nobody}");
    assert!(matches!(peers.raft(2, "not an address"), Err(RpcError::Address { .. })));
}

#[tokio::test]
async fn a_peer_that_comes_back_is_reached_again() {
    let first = served(None).await;
    let peers = Peers::new(identity(1, 7), None);
    call(&peers, 2, &first.address, b"x").await.unwrap();
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    let listener = TcpListener::bind(&first.address).await.unwrap();
    let stop = CancellationToken::new();
    let serving = serve(listener, None, identity(1, 2), Routes::new(RaftServer::new(Echo)), stop.clone());
    let serving = tokio::spawn(serving);
    let deadline = Instant::now() + LIMIT;
    while call(&peers, 2, &first.address, b"x").await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn stopping_waits_for_calls_but_not_for_ever() {
    let served = served(None).await;
    let peers = Peers::new(identity(1, 7), None);
    let mut client = peers.raft(2, &served.address).unwrap();
    let hanging = tokio::spawn(async move { within(LIMIT * 6, client.append(RaftMessage::default())).await });
    call(&peers, 2, &served.address, b"x").await.unwrap();
    served.stop.cancel();
    tokio::time::timeout(LIMIT, served.task).await.unwrap().unwrap().unwrap();
    hanging.abort();
}

#[tokio::test]
async fn a_connection_that_does_not_greet_is_closed() {
    let served = served(None).await;
    for hello in [&b""[..], b"PRI * HTTP/2.0"] {
        let mut silent = TcpStream::connect(&served.address).await.unwrap();
        silent.write_all(hello).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(LIMIT, silent.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "still open after {LIMIT:?}");
    }
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn node(&self) -> Tls {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Tls { ca: self.pem.clone().into(), cert: cert.into(), key: key.serialize_pem().into() }
    }
}

#[tokio::test]
async fn with_certificates_only_nodes_of_the_same_authority_talk() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let served = served(Some(ours.node())).await;
    let peers = Peers::new(identity(1, 7), Some(ours.node()));
    assert_eq!(call(&peers, 2, &served.address, b"x").await.unwrap(), "7");
    let stranger = Tls { ca: ours.pem.clone().into(), ..theirs.node() };
    for tls in [Some(theirs.node()), Some(stranger), None] {
        let refused = call(&Peers::new(identity(1, 7), tls), 2, &served.address, b"x").await;
        assert!(refused.is_err());
    }
    assert_eq!(call(&peers, 2, &served.address, b"x").await.unwrap(), "7", "and the others go on");
}
