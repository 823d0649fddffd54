//! Several nodes in one process over real loopback connections, each with a data folder of its own.

mod formation;
mod members;
mod office;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::cluster::{Cluster, ClusterConfig, ClusterError, FirstScan, ListedNode, Timing};
use crate::model::{
    BootTime, ClusterState, Commit, Coordinator, Digest, FirstContent, Heard, HeardReport, Instance, Lease,
    NodeId, NodeReport, NodeState, Role,
};
use crate::rpc::{Identity, Peers, serve};

/// The manager's.
const LEASE: Duration = Duration::from_secs(4);
/// No wait of a test is longer: far above what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    cluster: Cluster,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ClusterError>>,
    server: JoinHandle<()>,
}

struct Node {
    config: ClusterConfig,
    scan: watch::Sender<FirstScan>,
    report: watch::Sender<Arc<NodeReport>>,
    running: Option<Running>,
}

struct Net {
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
    heard: Arc<watch::Sender<Arc<Heard>>>,
}

fn report(name: &str, role: Role) -> NodeReport {
    NodeReport {
        name: name.to_owned(),
        address: String::new(),
        role: role.to_string(),
        state: NodeState::InSync,
        generation: None,
        digest: None,
        lag_seconds: None,
        last_seen_seconds: Some(0.0),
        version: None,
        drifted: None,
        quarantined: None,
        held: None,
        pending: None,
        holds: Some(0),
        instance: None,
        priority: 0,
        faults: Vec::new(),
        progress: None,
        roots: Vec::new(),
        problems: Vec::new(),
    }
}

/// An address that nobody else binds, also while no node runs there.
fn free_address() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("127.{}.{}.{}:8750", 1 + std::process::id() % 250, 1 + n / 250 % 250, 1 + n % 250)
}

impl Net {
    /// Nodes `gw1`, `gw2`, ... of these roles, all listed, none running.
    async fn new(roles: &[Role]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut listed = Vec::new();
        for (at, role) in roles.iter().enumerate() {
            let node = ListedNode { name: format!("gw{}", at + 1), address: free_address(), role: *role };
            listed.push(node);
        }
        let mut net = Self { folder, nodes: Vec::new(), heard: Arc::new(watch::Sender::new(Arc::default())) };
        for node in &listed {
            net.add(&node.name, &node.address, node.role, &listed);
        }
        net
    }

    fn add(&mut self, name: &str, address: &str, role: Role, listed: &[ListedNode]) -> usize {
        let data = self.data(self.nodes.len(), 0);
        let config = ClusterConfig {
            cluster_name: "test".to_owned(),
            node_name: name.to_owned(),
            address: address.to_owned(),
            role,
            listed: listed.to_vec(),
            timing: Timing {
                heartbeat: Duration::from_millis(200),
                timeout: Duration::from_millis(600),
                // Longer than by default: nobody is to be replaced here for being slow.
                lease: LEASE,
            },
            return_after: Duration::from_secs(2),
            db_path: data,
        };
        let nothing = FirstContent { digest: Digest([0; 32]), files: 0 };
        self.nodes.push(Node {
            config,
            scan: watch::Sender::new(Some((nothing, Vec::new()))),
            report: watch::Sender::new(Arc::new(report(name, role))),
            running: None,
        });
        self.nodes.len() - 1
    }

    /// The store of a node's `life`-th data folder.
    fn data(&self, node: usize, life: u32) -> PathBuf {
        let folder = self.folder.path().join(format!("{node}-{life}"));
        std::fs::create_dir_all(&folder).unwrap();
        folder.join("raft.redb")
    }

    async fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        assert!(node.running.is_none());
        let identity = Identity::new();
        let peers = Peers::new(identity.clone(), None);
        let (cluster, task) = Cluster::open(
            node.config.clone(),
            peers,
            node.scan.subscribe(),
            node.report.subscribe(),
            self.heard.subscribe(),
        )
        .unwrap();
        let listener = TcpListener::bind(&node.config.address).await.unwrap();
        let stop = CancellationToken::new();
        let routes = Routes::new(cluster.raft_service()).add_service(cluster.coordination_service());
        let serving = serve(listener, None, identity, routes, stop.clone());
        let server = tokio::spawn(async move { serving.await.unwrap() });
        let task = tokio::spawn(task.run(stop.clone()));
        // Reports go round as the roster would carry them, while the node runs: a member's only, since two data folders
        // of one name may speak at once.
        let (heard, own, ended) = (Arc::clone(&self.heard), node.report.clone(), stop.clone());
        let speaks = cluster.clone();
        tokio::spawn(async move {
            while !ended.is_cancelled() {
                if let Some(life) = speaks.instance() {
                    let instance = Some(Instance { holds: Some(Digest([3; 32]).to_string()), ..life });
                    own.send_modify(|report| Arc::make_mut(report).instance = instance);
                    let report = own.borrow().as_ref().clone();
                    heard.send_modify(|heard| {
                        let at = BootTime::now();
                        Arc::make_mut(heard).insert(report.name.clone(), HeardReport { report, at });
                    });
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        node.running = Some(Running { cluster, stop, task, server });
    }

    async fn start_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.start(at).await;
        }
    }

    async fn stop(&mut self, at: usize) {
        let Running { stop, task, server, .. } = self.nodes[at].running.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
        // Connections of peers may outlive the drain; the port is free at once.
        server.abort();
        let _ = server.await;
    }

    async fn stop_all(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].running.is_some() {
                self.stop(at).await;
            }
        }
    }

    fn cluster(&self, at: usize) -> &Cluster {
        &self.nodes[at].running.as_ref().unwrap().cluster
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].running.is_some()).collect()
    }

    fn at(&self, id: NodeId) -> usize {
        let holds = |at: &usize| self.cluster(*at).identity().is_some_and(|me| me.node == id);
        self.running().into_iter().find(holds).unwrap()
    }

    fn id(&self, at: usize) -> NodeId {
        self.cluster(at).identity().unwrap().node
    }

    async fn state(
        &self,
        at: usize,
        what: &str,
        wanted: impl Fn(&ClusterState) -> bool,
    ) -> Arc<ClusterState> {
        let mut state = self.cluster(at).state();
        let waited = state.wait_for(|state| state.as_ref().is_some_and(|state| wanted(state)));
        match tokio::time::timeout(PATIENCE, waited).await {
            Ok(state) => state.unwrap().clone().unwrap(),
            Err(_) => panic!(
                "node {at} never came to {what}: {:?} {:?}",
                self.cluster(at).state().borrow(),
                self.cluster(at).standing().borrow()
            ),
        }
    }

    async fn waiting_for(&self, at: usize, words: &str) -> String {
        let mut standing = self.cluster(at).standing();
        let told = |standing: &crate::model::Standing| {
            standing.waiting_for.as_ref().is_some_and(|sentence| sentence.contains(words))
        };
        match tokio::time::timeout(PATIENCE, standing.wait_for(told)).await {
            Ok(standing) => standing.unwrap().waiting_for.clone().unwrap(),
            Err(_) => panic!("node {at} waits for {:?}, not {words:?}", self.cluster(at).standing().borrow()),
        }
    }

    /// Waits until every running node follows a leader whose log it has confirmed.
    async fn confirmed(&self) {
        for at in self.running() {
            let mut standing = self.cluster(at).standing();
            let confirmed = standing.wait_for(|standing| standing.confirmed);
            tokio::time::timeout(PATIENCE, confirmed).await.unwrap().unwrap();
        }
    }

    /// Waits until a running node holds the lease; returns it and the epoch.
    async fn manager(&self) -> (usize, u64) {
        tokio::time::timeout(PATIENCE, async {
            loop {
                for at in self.running() {
                    if let Some(lease) = self.cluster(at).renew().await {
                        return (at, lease.epoch);
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("a manager")
    }

    /// Waits until a running node leads.
    async fn leader(&self) -> usize {
        let at = self.running()[0];
        let mut standing = self.cluster(at).standing();
        let running: BTreeSet<NodeId> = self.running().iter().map(|at| self.id(*at)).collect();
        let led = standing.wait_for(|standing| standing.leader.is_some_and(|id| running.contains(&id)));
        let id = tokio::time::timeout(PATIENCE, led).await.unwrap().unwrap().leader.unwrap();
        self.at(id)
    }
}

fn commit(epoch: u64, author: NodeId, parent: u64, holders: &[NodeId]) -> Commit {
    Commit {
        epoch,
        parent,
        generation: parent + 1,
        digest: Digest([3; 32]),
        author,
        committed_unix_ms: 1,
        holders: holders.iter().copied().collect(),
    }
}

/// Asks every node for its lease all the time, as load balancers would, and keeps what it was told.
struct LeaseWatch {
    stop: CancellationToken,
    watching: Vec<JoinHandle<Vec<(String, Lease)>>>,
}

impl LeaseWatch {
    fn new() -> Self {
        Self { stop: CancellationToken::new(), watching: Vec::new() }
    }

    fn follow(&mut self, name: &str, cluster: &Cluster) {
        let (name, cluster, stop) = (name.to_owned(), cluster.clone(), self.stop.clone());
        self.watching.push(tokio::spawn(async move {
            let mut told = Vec::new();
            while !stop.is_cancelled() {
                if let Some(lease) = cluster.renew().await {
                    told.push((name.clone(), lease));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            told
        }));
    }

    /// How many managers there were; panics when the leases of two overlap.
    async fn check(self) -> usize {
        self.stop.cancel();
        let mut told = Vec::new();
        for watching in self.watching {
            told.extend(watching.await.unwrap());
        }
        for (name, lease) in &told {
            for (other, theirs) in &told {
                let apart = lease.end <= theirs.start || theirs.end <= lease.start;
                assert!(name == other || apart, "{name} {lease:?} and {other} {theirs:?} overlap");
            }
        }
        told.iter().map(|(name, lease)| (name, lease.epoch)).collect::<BTreeSet<_>>().len()
    }
}
