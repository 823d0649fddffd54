//! The task over a real folder, store and inventory; the log is played, a peer is a real server.

mod peer;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;

use super::*;
use crate::inventory::{self, RootConfig};
use crate::model::{
    Appointment, ArtifactPath, ClusterId, CommitRefusal, Head, Lease, Member, Order, OrderError,
    OrderOutcome, Role, RootRules, UnknownOutcome,
};
use crate::publish::task::tests::peer::{Refusal, serve_peer, serve_refusing};
use crate::rpc::{self, Identity, Me};

const CLUSTER: ClusterId = ClusterId([3; 16]);
const EPOCH: Epoch = 7;

/// What the played log does with the next commit.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Commit,
    Refuse,
    CommitUnseen,
    Lose,
}

struct Log {
    state: watch::Sender<Option<Arc<ClusterState>>>,
    standing: watch::Sender<crate::model::Standing>,
    store: Store,
    fates: Mutex<Vec<Fate>>,
    commits: Mutex<Vec<Commit>>,
}

impl Log {
    fn commit_now(&self, commit: Commit) {
        self.store.adopt(commit.generation, &commit.digest).unwrap().unwrap();
        self.commits.lock().unwrap().push(commit.clone());
        self.state.send_modify(|state| {
            let mut next = ClusterState::clone(state.as_ref().unwrap());
            assert!(next.is_majority(&commit.holders));
            assert_eq!(next.generation(), commit.parent, "one proposal in flight, each on the head");
            next.head = Some(Head {
                generation: commit.generation,
                digest: commit.digest,
                epoch: commit.epoch,
                author: commit.author,
                committed_unix_ms: commit.committed_unix_ms,
                holders: commit.holders.clone(),
            });
            *state = Some(Arc::new(next));
        });
    }
}

impl Coordinator for Log {
    fn state(&self) -> watch::Receiver<Option<Arc<ClusterState>>> {
        self.state.subscribe()
    }

    fn standing(&self) -> watch::Receiver<crate::model::Standing> {
        self.standing.subscribe()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        Box::pin(async move {
            let fate = self.fates.lock().unwrap().pop().unwrap_or(Fate::Commit);
            let unknown = || Err(UnknownOutcome { reason: "played".to_owned() });
            match fate {
                Fate::Refuse => Ok(CommitOutcome::Refused(CommitRefusal::NoMajority)),
                Fate::Lose => unknown(),
                Fate::Commit | Fate::CommitUnseen => {
                    self.commit_now(commit);
                    if fate == Fate::Commit { Ok(CommitOutcome::Committed) } else { unknown() }
                }
            }
        })
    }

    fn commit_approved(
        &self,
        commit: Commit,
        lets_through: LetThrough,
    ) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        self.state.send_modify(|state| {
            let mut next = state.as_deref().unwrap().clone();
            next.approvals.retain(|approval| approval.list != lets_through.list);
            next.let_through.push_back(lets_through);
            *state = Some(Arc::new(next));
        });
        self.commit(commit)
    }

    fn confirm(&self) -> BoxFuture<'_, Option<Arc<ClusterState>>> {
        Box::pin(async move { self.state.borrow().clone() })
    }

    fn renew(&self) -> BoxFuture<'_, Option<Lease>> {
        Box::pin(async { None })
    }

    fn order(&self, _: Order) -> BoxFuture<'_, Result<OrderOutcome, OrderError>> {
        Box::pin(async { Err(OrderError::Unknown { reason: "not asked for".to_owned() }) })
    }
}

#[derive(Default)]
struct Sent(Mutex<BTreeMap<String, u64>>, AtomicU64);

impl Observer for Sent {
    fn published(&self, _: Duration) {}
    fn step(&self, _: &'static str, _: Duration) {}
    fn sent(&self, peer: &str, kind: &'static str, bytes: u64) {
        assert!(["full", "delta", "zstd"].contains(&kind));
        *self.0.lock().unwrap().entry(peer.to_owned()).or_default() += bytes;
    }
    fn saved(&self, bytes: u64) {
        self.1.fetch_add(bytes, Ordering::Relaxed);
    }
}

struct Rig {
    dir: tempfile::TempDir,
    log: Arc<Log>,
    store: Store,
    sent: Arc<Sent>,
    status: watch::Receiver<PublishStatus>,
    active: watch::Sender<Option<Epoch>>,
    /// Ends everything with the rig.
    _stop: tokio_util::sync::DropGuard,
    stop: CancellationToken,
    publishing: CancellationToken,
    withheld: watch::Sender<Arc<Withheld>>,
    inventory: InventoryHandle,
}

fn member(name: &str, address: &str) -> Member {
    Member { name: name.to_owned(), address: address.to_owned(), role: Role::Candidate, incarnation: [0; 16] }
}

fn rules(exclude: &[&str]) -> Rules {
    let exclude = exclude.iter().map(|text| (*text).to_owned()).collect();
    Rules { roots: vec![(RootName::new("r"), RootRules { exclude, ..RootRules::default() })] }
}

impl Rig {
    /// This node is 1; `peers` are the addresses of the others.
    fn new(peers: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let store = Store::open(&dir.path().join("store"), &dir.path().join("quarantine")).unwrap();
        let mut members = BTreeMap::from([(1, member("gw1", "127.0.0.1:1"))]);
        members.extend(
            peers
                .iter()
                .enumerate()
                .map(|(n, address)| (n as u64 + 2, member(&format!("gw{}", n + 2), address))),
        );
        let voters = members.keys().copied().collect();
        let lease = Duration::from_secs(1);
        let appointment = Some(Appointment { epoch: EPOCH, replaced: 0, manager: 1, lease });
        let state = ClusterState::new(CLUSTER, members, voters, Seed::Anyone);
        let state = ClusterState { applied_index: 9, appointment, ..state };
        let standing = crate::model::Standing { node: Some(1), ..crate::model::Standing::default() };
        let log = Arc::new(Log {
            state: watch::channel(Some(Arc::new(state))).0,
            standing: watch::channel(standing).0,
            store: store.clone(),
            fates: Mutex::default(),
            commits: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let root = RootConfig { name: RootName::new("r"), path: dir.path().join("root"), optional: false };
        let (inventory, task) = inventory::new(inventory::Config {
            roots: vec![root],
            rules: rules(&["*.back"]),
            rescan_every: Duration::from_secs(30),
        })
        .unwrap();
        tokio::spawn(task.run(stop.clone()));
        let (active, _) = watch::channel(Some(EPOCH));
        let (withheld, _) = watch::channel(Arc::default());
        let sent = Arc::new(Sent::default());
        let mut rig = Self {
            status: watch::channel(PublishStatus::default()).1,
            _stop: stop.clone().drop_guard(),
            withheld,
            dir,
            log,
            store,
            sent,
            active,
            publishing: stop.child_token(),
            stop,
            inventory,
        };
        rig.start(rules(&["*.back"]));
        rig
    }

    /// As a new process does.
    fn watch_anew(&mut self) {
        let (path, rescan_every) = (self.dir.path().join("root"), Duration::from_secs(30));
        let roots = vec![RootConfig { name: RootName::new("r"), path, optional: false }];
        let config = inventory::Config { roots, rules: rules(&["*.back"]), rescan_every };
        let (inventory, task) = inventory::new(config).unwrap();
        tokio::spawn(task.run(self.stop.clone()));
        self.inventory = inventory;
    }

    fn start(&mut self, own: Rules) {
        let identity = Identity::new();
        identity.set(Me { cluster: CLUSTER, node: 1 });
        let config = Config {
            node: "gw1".to_owned(),
            timing: Timing {
                settle: Duration::from_millis(10),
                gather: Duration::from_millis(60),
                settle_max: Duration::from_secs(2),
                delete_grace: Duration::from_millis(150),
            },
            max_delete: 3,
            validate: Validate::Off,
            rules: own,
            optional: BTreeSet::new(),
            spool_dir: self.dir.path().to_owned(),
            upload: crate::rpc::Upload::default(),
        };
        let (handle, task) = new(
            config,
            Arc::clone(&self.log) as Arc<dyn Coordinator>,
            self.inventory.clone(),
            self.store.clone(),
            Peers::new(identity, None),
            self.active.subscribe(),
            self.withheld.subscribe(),
            Arc::clone(&self.sent) as Arc<dyn Observer>,
        );
        self.status = handle.status;
        self.publishing.cancel();
        self.publishing = self.stop.child_token();
        tokio::spawn(task.run(self.publishing.clone()));
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join("root").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.dir.path().join("root").join(path)).unwrap();
    }

    /// Makes changes that go out together, however slowly this machine makes and sees them: out of office nothing gathers.
    async fn together(&self, changes: impl FnOnce(&Self)) {
        self.active.send_replace(None);
        changes(self);
        self.inventory.rescan().await;
        self.active.send_replace(Some(EPOCH));
    }

    /// Waits until the head holds exactly these files.
    async fn until(&self, expected: &str) {
        let holds = || {
            let files = self.store.head().map(|head| {
                let files = head.forest.iter().filter(|(_, entry)| entry.content().is_some());
                files.map(|(place, _)| place.path.to_string()).collect::<Vec<_>>().join(" ")
            });
            files.as_deref() == Some(expected)
        };
        let mut state = self.log.state.subscribe();
        let waiting = state.wait_for(|_| holds());
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect(expected).unwrap();
    }

    async fn until_status(&mut self, what: &str, wanted: impl Fn(&PublishStatus) -> bool) -> PublishStatus {
        let waiting = self.status.wait_for(|status| wanted(status));
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect(what).unwrap().clone()
    }

    async fn until_problem(&mut self, code: &str) -> Problem {
        let status = self.until_status(code, |status| status.problems.iter().any(|p| p.code == code)).await;
        status.problems.into_iter().find(|problem| problem.code == code).unwrap()
    }

    fn generations(&self) -> Vec<u64> {
        self.log.commits.lock().unwrap().iter().map(|commit| commit.generation).collect()
    }
}

/// Where nobody listens.
fn nobody() -> String {
    "127.0.0.1:1".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_no_first_generation_and_a_change_is_the_next_one() {
    let mut rig = Rig::new(&[]);
    rig.inventory.rescan().await;
    std::fs::create_dir(rig.dir.path().join("root/empty")).unwrap();
    rig.inventory.rescan().await;
    assert_eq!(rig.generations(), [0; 0]);
    rig.write("api/a.xml", "one");
    rig.until("api/a.xml").await;
    rig.write("api/b.back", "excluded");
    rig.write("api/b.xml", "two");
    rig.until("api/a.xml api/b.xml").await;
    rig.remove("api/a.xml");
    rig.until("api/b.xml").await;
    assert_eq!(rig.generations(), [1, 2, 3]);
    let place = Place { root: RootName::new("r"), path: ArtifactPath::new(b"api/b.xml").unwrap() };
    let stat = std::fs::metadata(rig.dir.path().join("root/api/b.xml")).unwrap();
    let mtime = rig.store.author_mtime(&place).unwrap().unwrap();
    assert_eq!(mtime.seconds, std::os::unix::fs::MetadataExt::mtime(&stat));
    let status = rig.until_status("quiet", |status| status.pending == 0).await;
    assert_eq!((status.held, status.problems, status.last.unwrap().generation), (0, vec![], 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_majority_is_enough_and_known_content_is_not_sent_again() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let (address, peer) = serve_peer(dir.path(), 2, &stop).await;
    let rig = Rig::new(&[address, nobody()]);
    let noise: String = (0..500_u64).map(|n| blake3::hash(&n.to_le_bytes()).to_string()).collect();
    rig.write("a.xml", &noise);
    rig.until("a.xml").await;
    let holders = rig.log.commits.lock().unwrap()[0].holders.clone();
    assert_eq!(holders, [1, 2].into());
    let digest = rig.store.head().unwrap().generation.digest;
    assert!(peer.is_pinned(EPOCH, 1, &digest), "durable there before it was committed");
    let first = rig.sent.0.lock().unwrap()["gw2"];
    std::fs::rename(rig.dir.path().join("root/a.xml"), rig.dir.path().join("root/b.xml")).unwrap();
    rig.until("b.xml").await;
    let second = rig.sent.0.lock().unwrap()["gw2"] - first;
    assert!(first > 10_000 && second < 500, "{first} bytes, then {second}");
    assert!(!rig.sent.0.lock().unwrap().contains_key("gw3"));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_write_meanwhile_and_this_node_counts_once_it_has_written_too() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let (second, peer) = serve_peer(dir.path(), 2, &stop).await;
    let (third, other) = serve_peer(dir.path(), 3, &stop).await;
    let rig = Rig::new(&[second, third]);
    let stalled = rig.store.stall();
    rig.write("a.xml", "text");
    let both = async {
        while peer.pins().is_empty() || other.pins().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the others wait for nobody");
    drop(stalled);
    rig.until("a.xml").await;
    assert!(rig.log.commits.lock().unwrap()[0].holders.contains(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lacks_a_known_content_gets_it() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let (address, peer) = serve_peer(dir.path(), 2, &stop).await;
    let rig = Rig::new(&[address, nobody()]);
    rig.write("a.xml", "text");
    rig.until("a.xml").await;
    peer.forget(&crate::model::ContentHash::of(b"text")).unwrap();
    rig.write("b.xml", "text");
    rig.until("a.xml b.xml").await;
    assert!(peer.has(&crate::model::ContentHash::of(b"text")).unwrap());
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_it_is_named_and_tried_until_there_is_one() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let mut rig = Rig::new(&[nobody(), nobody()]);
    rig.write("a.xml", "text");
    let problem = rig.until_problem("no-majority").await;
    assert!(
        problem.message.contains("1 of 3 voters") && problem.message.contains("gw2 ("),
        "{}",
        problem.message
    );
    assert_eq!(rig.generations(), [0; 0]);
    // A new member comes; the round that waits takes it in.
    let (address, _) = serve_peer(dir.path(), 4, &stop).await;
    rig.log.state.send_modify(|state| {
        let mut next = ClusterState::clone(state.as_ref().unwrap());
        next.members.insert(4, member("gw4", &address));
        next.voters = [1, 2, 4].into();
        *state = Some(Arc::new(next));
    });
    rig.until("a.xml").await;
    rig.until_status("the problem is gone", |status| status.problems.is_empty() && status.last.is_some())
        .await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_read_from_the_log() {
    let mut rig = Rig::new(&[]);
    // From the last to the first.
    *rig.log.fates.lock().unwrap() = vec![Fate::Commit, Fate::Refuse, Fate::Lose, Fate::CommitUnseen];
    rig.write("a.xml", "one");
    rig.until("a.xml").await;
    rig.write("b.xml", "two");
    rig.until("a.xml b.xml").await;
    let status = rig.until_status("quiet", |status| status.pending == 0).await;
    assert_eq!((rig.generations(), status.last.unwrap().generation), (vec![1, 2], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_of_an_emptied_root_or_out_of_office() {
    let mut rig = Rig::new(&[]);
    rig.together(|rig| {
        rig.write("a.xml", "one");
        rig.write("b.xml", "two");
    })
    .await;
    rig.until("a.xml b.xml").await;
    rig.together(|rig| {
        rig.remove("a.xml");
        rig.remove("b.xml");
    })
    .await;
    rig.until_problem("root-emptied").await;
    rig.write("a.xml", "one");
    rig.until("a.xml").await;
    rig.active.send_replace(None);
    rig.until_status("out of office", |status| *status == PublishStatus::default()).await;
    rig.write("c.xml", "three");
    rig.inventory.rescan().await;
    assert_eq!(rig.generations(), [1, 2]);
    rig.active.send_replace(Some(EPOCH));
    rig.until("a.xml c.xml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_when_the_daemon_starts_is_no_delete() {
    let mut rig = Rig::new(&[]);
    let large = std::fs::File::create(rig.dir.path().join("root/large.bin")).unwrap();
    large.set_len((1 << 30) + 1).unwrap();
    rig.write("a.xml", "one");
    while rig.inventory.rescan().await.failed.is_empty() {}
    assert_eq!(rig.generations(), [0; 0], "no first generation without it");
    large.set_len(1).unwrap();
    drop(large);
    rig.until("a.xml large.bin").await;
    // A process that never saw it.
    rig.publishing.cancel();
    let large = std::fs::File::options().write(true).open(rig.dir.path().join("root/large.bin")).unwrap();
    large.set_len((1 << 30) + 1).unwrap();
    drop(large);
    rig.watch_anew();
    rig.start(rules(&["*.back"]));
    rig.inventory.rescan().await;
    rig.write("b.xml", "two");
    rig.until("a.xml b.xml large.bin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_of_a_commit_that_turns_up_later_count() {
    let mut rig = Rig::new(&[]);
    rig.together(|rig| ["a", "b", "c", "d"].iter().for_each(|name| rig.write(name, name))).await;
    rig.until("a b c d").await;
    rig.until_status("quiet", |status| status.pending == 0 && status.last.is_some()).await;
    // Offered by this process once, and given up as lost.
    let head = rig.store.head().unwrap();
    let gone = ["a", "b", "c"]
        .map(|name| Place { root: RootName::new("r"), path: ArtifactPath::new(name.as_bytes()).unwrap() });
    let forest = head.forest.with(gone.iter().map(|place| (place.clone(), None))).unwrap();
    let generation = crate::model::Generation {
        number: 2,
        parent: 1,
        digest: forest.digest(),
        epoch: EPOCH,
        author: "gw1".to_owned(),
        created_unix_ms: unix_ms(),
    };
    let changes = gone.map(|place| crate::model::Change { place, entry: None, mtime: None }).into();
    let (rules, digest) = (head.rules.clone(), generation.digest);
    rig.store.batch().pin(&crate::model::Proposal { generation, base: 1, rules, changes }).unwrap();
    rig.log.commit_now(Commit {
        epoch: EPOCH,
        parent: 1,
        generation: 2,
        digest,
        author: 1,
        committed_unix_ms: unix_ms(),
        holders: [1].into(),
    });
    rig.until("a b c d").await;
    rig.remove("d");
    let problem = rig.until_problem("mass-delete").await;
    assert!(problem.message.starts_with("1 artifacts"), "{}", problem.message);
}

fn noise(lines: u64) -> String {
    (0..lines).map(|n| format!("{}\n", blake3::hash(&n.to_le_bytes()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_contents_go_only_to_a_member_that_lacks_some_and_nothing_refused_counts_as_saved() {
    for (refusal, is_small) in [(Refusal::Full(2), true), (Refusal::Incomplete, false)] {
        let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let (address, _) = serve_refusing(dir.path(), 2, refusal, &stop).await;
        let rig = Rig::new(&[address, nobody()]);
        let text = noise(2000);
        rig.write("a.xml", &text);
        rig.until("a.xml").await;
        let first = rig.sent.0.lock().unwrap()["gw2"];
        rig.write("a.xml", &format!("{text}<end/>\n"));
        rig.write("b.xml", "b");
        rig.until("a.xml b.xml").await;
        let second = rig.sent.0.lock().unwrap()["gw2"] - first;
        assert_eq!(second < 10_000, is_small, "{first} bytes, then {second}");
        let saved = rig.sent.1.load(Ordering::Relaxed);
        let once = text.len() as u64 + 10;
        assert!(saved <= once && (is_small || saved == 0), "{saved} of {once}");
        stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_old_version_holds_nothing_up() {
    let rig = Rig::new(&[]);
    let text = noise(40_000);
    rig.write("a.xml", &text);
    rig.until("a.xml").await;
    let mut damaged = 0;
    for file in walkdir(&rig.dir.path().join("store")) {
        let bytes = std::fs::read(&file).unwrap();
        let wanted = &text.as_bytes()[2_000_000..2_000_064];
        let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) else { continue };
        let pack = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&pack, b"#", at as u64).unwrap();
        damaged += 1;
    }
    assert_eq!(damaged, 1);
    rig.write("a.xml", &format!("{text}<end/>\n"));
    rig.write("b.xml", "b");
    rig.until("a.xml b.xml").await;
}

/// All files below a folder.
fn walkdir(dir: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { walkdir(&path) } else { vec![path] }).collect()
}

mod held;
