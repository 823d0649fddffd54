//! The task over real folders, with a coordinator that says what the test wants.

mod held;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use super::*;
use crate::apply::testing::{CLUSTER, File, Fixture, Folder, What, forest, pin, place, rules};
use crate::apply::{PeerOfferer, SupplyError, Unobserved};
use crate::inventory;
use crate::model::{
    Appointment, Commit, CommitOutcome, Generation, Head, Lease, LetThrough, Member, Order, OrderError,
    OrderOutcome, Role, Seed, UnknownOutcome,
};
use crate::rpc::{Identity, Peers};

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(30);
const ME: NodeId = 1;
const OTHER: NodeId = 2;

/// Says what the test wants.
struct Fake {
    state: watch::Sender<Option<Arc<ClusterState>>>,
    standing: watch::Sender<Standing>,
}

impl Coordinator for Fake {
    fn state(&self) -> watch::Receiver<Option<Arc<ClusterState>>> {
        self.state.subscribe()
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    fn commit(&self, _: Commit) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        Box::pin(async { Err(UnknownOutcome { reason: "not asked for".to_owned() }) })
    }

    fn commit_approved(
        &self,
        commit: Commit,
        _: LetThrough,
    ) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        self.commit(commit)
    }

    fn confirm(&self) -> BoxFuture<'_, Option<Arc<ClusterState>>> {
        Box::pin(async { self.state.borrow().clone().filter(|_| self.standing.borrow().confirmed) })
    }

    fn renew(&self) -> BoxFuture<'_, Option<Lease>> {
        Box::pin(async { None })
    }

    fn order(&self, _: Order) -> BoxFuture<'_, Result<OrderOutcome, OrderError>> {
        Box::pin(async { Err(OrderError::Unknown { reason: "not asked for".to_owned() }) })
    }
}

/// Pins what another node holds.
struct Shelf {
    store: Store,
    entries: Vec<(&'static str, What)>,
}

impl Supplier for Shelf {
    fn supply<'a>(
        &'a self,
        _: &'a ClusterState,
        _: NodeId,
        head: &'a Head,
    ) -> BoxFuture<'a, Result<(), SupplyError>> {
        Box::pin(async {
            if self.entries.is_empty() {
                return Err(SupplyError { number: head.generation, reasons: vec!["gw2: away".to_owned()] });
            }
            pin(&self.store, head.epoch, &self.entries, 100);
            Ok(())
        })
    }
}

struct Node {
    fixture: Fixture,
    fake: Arc<Fake>,
    handle: ApplyHandle,
    observed: watch::Receiver<Arc<Observed>>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn state_without_head() -> ClusterState {
    let member = |name: &str| Member {
        name: name.to_owned(),
        address: "127.0.0.1:1".to_owned(),
        role: Role::Candidate,
        incarnation: [0; 16],
    };
    let members = BTreeMap::from([(ME, member("gw1")), (OTHER, member("gw2"))]);
    let state = ClusterState::new(CLUSTER, members, BTreeSet::from([ME, OTHER]), Seed::Anyone);
    ClusterState { applied_index: 1, ..state }
}

impl Node {
    fn start(fixture: Fixture, state: ClusterState) -> Self {
        Self::start_with(fixture, state, true, Vec::new())
    }

    fn start_with(
        fixture: Fixture,
        state: ClusterState,
        confirmed: bool,
        shelf: Vec<(&'static str, What)>,
    ) -> Self {
        let standing = Standing { leader: Some(OTHER), node: Some(ME), confirmed, ..Standing::default() };
        let fake = Arc::new(Fake {
            state: watch::Sender::new(Some(Arc::new(state))),
            standing: watch::Sender::new(standing),
        });
        let root = inventory::RootConfig {
            name: fixture.root.name().clone(),
            path: fixture.root.path().to_owned(),
            optional: false,
        };
        let config =
            inventory::Config { roots: vec![root], rules: rules(), rescan_every: Duration::from_secs(30) };
        let (inventory, inventory_task) = inventory::new(config).unwrap();
        let quiet = Quiet {
            settle: Duration::from_millis(10),
            gather: Duration::from_millis(20),
            delete_grace: Duration::from_millis(30),
        };
        let config = Config {
            drift: DriftPolicy::Revert,
            max_delete: 3,
            quiet,
            scan: Duration::from_secs(20),
            handover: Duration::ZERO,
            witness: false,
        };
        let observed = inventory.observed();
        let parts = Parts {
            coordinator: Arc::clone(&fake) as Arc<dyn Coordinator>,
            inventory,
            store: fixture.store.clone(),
            supplier: Arc::new(Shelf { store: fixture.store.clone(), entries: shelf }),
            offerer: Arc::new(PeerOfferer::new(
                Peers::new(Identity::new(), None),
                fixture.store.clone(),
                crate::rpc::Upload::default(),
            )),
            observer: Arc::new(Unobserved),
            upload: crate::rpc::Upload::default(),
        };
        let (handle, task) = new(config, parts);
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn({
                let stop = stop.clone();
                async move { inventory_task.run(stop).await.unwrap() }
            }),
            tokio::spawn({
                let stop = stop.clone();
                async move { task.run(stop).await.unwrap() }
            }),
        ];
        Self { fixture, fake, handle, observed, stop, tasks }
    }

    /// Stops as a restart does, and gives the disk back.
    async fn stop(self) -> Fixture {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.fixture
    }

    fn change(&self, change: impl FnOnce(&mut ClusterState)) {
        self.fake.state.send_modify(|state| {
            let state = state.as_mut().unwrap();
            change(Arc::make_mut(state));
        });
    }

    /// Another node's commit, staged here first.
    fn commit(&self, entries: &[(&str, What)]) {
        let epoch = self.fake.state.borrow().as_ref().unwrap().epoch();
        let generation = pin(&self.fixture.store, epoch, entries, 100);
        self.change(|state| state.head = Some(head_of(&generation)));
    }

    fn appoint(&self, manager: NodeId, epoch: Epoch) {
        self.change(|state| state.appointment = Some(appointment(manager, epoch, state.epoch())));
    }

    #[track_caller]
    fn status(&self) -> Arc<ApplyStatus> {
        self.handle.status.borrow().clone()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&ApplyStatus) -> bool) {
        let mut status = self.handle.status.clone();
        let wait = tokio::time::timeout(PATIENCE, status.wait_for(|status| holds(status)));
        if wait.await.is_err() {
            panic!("not in time: {what}: {:#?}", self.status());
        }
    }

    async fn until_at(&self, generation: u64) {
        self.until("in sync", |status| {
            status.state == NodeState::InSync
                && status.matches_head
                && status.applied.is_some_and(|(number, _)| number == generation)
        })
        .await;
    }

    async fn until_active(&self, epoch: Option<Epoch>) {
        let mut active = self.handle.active.clone();
        let wait = tokio::time::timeout(PATIENCE, active.wait_for(|active| *active == epoch));
        if wait.await.is_err() {
            panic!("not in time: active in {epoch:?}: {:#?}", self.status());
        }
    }

    async fn until_observed(&self, holds: impl Fn(&Observed) -> bool) {
        let mut observed = self.observed.clone();
        let wait = observed.wait_for(|observed| holds(observed));
        tokio::time::timeout(PATIENCE, wait).await.expect("observed in time").unwrap();
    }

    /// The disk tells of no change.
    async fn until_nothing_is_staged(&self) {
        for _ in 0..3000 {
            if self.fixture.staged() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("something stays under .syncd/stage");
    }

    fn codes(&self) -> Vec<String> {
        self.status().problems.iter().map(|problem| problem.code.clone()).collect()
    }
}

fn head_of(generation: &Generation) -> Head {
    Head {
        generation: generation.number,
        digest: generation.digest,
        epoch: generation.epoch,
        author: OTHER,
        committed_unix_ms: generation.created_unix_ms,
        holders: BTreeSet::from([OTHER]),
    }
}

fn appointment(manager: NodeId, epoch: Epoch, replaced: Epoch) -> Appointment {
    Appointment { epoch, replaced, manager, lease: Duration::from_secs(1) }
}

/// A node that has applied generation 1 under another manager, and was stopped then.
async fn at_rest(entries: &[(&str, What)]) -> (Fixture, ClusterState) {
    let mut state = state_without_head();
    state.appointment = Some(appointment(OTHER, 5, 0));
    let node = Node::start(Fixture::new(), state);
    node.commit(entries);
    node.until_at(1).await;
    let state = node.fake.state.borrow().clone().unwrap();
    (node.stop().await, (*state).clone())
}

#[tokio::test]
async fn a_node_follows_the_log() {
    let fixture = Fixture::new();
    fixture.write("same", "1");
    fixture.write("extra", "local");
    let same = fixture.stat("same");
    let node = Node::start(fixture, state_without_head());
    node.commit(&[("same", File("1")), ("d", Folder), ("d/a", File("1"))]);
    node.until_at(1).await;
    assert_eq!(node.fixture.stat("same"), same, "equal content is adopted without a write");
    assert_eq!(node.fixture.observed(), forest(&[("same", File("1")), ("d", Folder), ("d/a", File("1"))]));
    assert_eq!(node.fixture.quarantined(), [("extra".to_owned(), "local".to_owned())]);
    assert!(node.fixture.path(".syncd/member").exists());
    node.commit(&[("same", File("2"))]);
    node.until_at(2).await;
    assert_eq!(node.fixture.read("same"), "2");
    assert!(!node.fixture.path("d/a").exists());
    assert!(node.fixture.path("d").exists(), "a folder outlives its last artifact");
    assert_eq!(node.fixture.store.pins().len(), 0);
    node.until_nothing_is_staged().await;
    node.stop().await;
}

#[tokio::test]
async fn a_generation_that_was_not_staged_is_fetched() {
    let entries = vec![("a", File("1"))];
    let mut state = state_without_head();
    let digest = forest(&entries).digest();
    let generation =
        Generation { number: 1, parent: 0, digest, epoch: 0, author: "gw2".to_owned(), created_unix_ms: 0 };
    state.head = Some(head_of(&generation));
    let away = Node::start(Fixture::new(), state.clone());
    away.until("nobody has it", |status| status.state == NodeState::Fetching && !status.problems.is_empty())
        .await;
    assert_eq!(away.codes(), ["fetch-failed"]);
    away.stop().await;
    let node = Node::start_with(Fixture::new(), state, true, entries);
    node.until_at(1).await;
    assert_eq!(node.fixture.read("a"), "1");
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_lacks_a_content_of_the_head_holds_it_no_more() {
    let node = Node::start(Fixture::new(), state_without_head());
    node.commit(&[("a", File("1")), ("b", File(""))]);
    node.until("it is held", |status| status.holds == Some(1)).await;
    let store = node.fixture.store.clone();
    let hash = File("1").entry().content().unwrap();
    store.forget(&hash).unwrap();
    node.until("it is not", |status| status.holds.is_none() && status.holds_digest.is_none()).await;
    assert!(node.codes().contains(&"store-damaged".to_owned()), "{:?}", node.codes());
    let mut batch = store.batch();
    batch.put(&hash, 1, &mut &b"1"[..]).unwrap();
    batch.sync().unwrap();
    node.until("it is again", |status| status.holds == Some(1) && status.problems.is_empty()).await;
    node.stop().await;
}

#[tokio::test]
async fn nothing_is_touched_before_a_leader_confirmed_the_log() {
    let fixture = Fixture::new();
    let node = Node::start_with(fixture, state_without_head(), false, Vec::new());
    node.commit(&[("a", File("1"))]);
    node.until("the generation is held", |status| status.holds == Some(1)).await;
    assert_eq!(fs::read_dir(node.fixture.root.path()).unwrap().count(), 0);
    node.fake.standing.send_modify(|standing| standing.confirmed = true);
    node.until_at(1).await;
    node.stop().await;
}

#[tokio::test]
async fn too_much_unknown_content_at_first_contact_waits_for_a_person() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c", "d"] {
        fixture.write(name, "local");
    }
    let node = Node::start(fixture, state_without_head());
    node.commit(&[("a", File("1"))]);
    node.until("needs approval", |status| status.state == NodeState::NeedsApproval).await;
    assert_eq!(node.codes(), ["needs-approval"]);
    assert_eq!(node.fixture.read("a"), "local");
    assert!(!node.fixture.path(".syncd").exists());
    fs::remove_file(node.fixture.path("d")).unwrap();
    node.until_at(1).await;
    assert_eq!(node.fixture.store.quarantine_count(), 3);
    node.stop().await;
}

#[tokio::test]
async fn drift_goes_to_quarantine_and_the_head_comes_back() {
    let fixture = Fixture::new();
    fixture.write("a", "1");
    let node = Node::start(fixture, state_without_head());
    node.commit(&[("a", File("1"))]);
    node.until_at(1).await;
    node.fixture.write("a", "local");
    node.fixture.write("new", "mine");
    node.until("both are in quarantine", |status| status.quarantined == 2 && status.matches_head).await;
    assert_eq!(node.fixture.read("a"), "1");
    assert!(!node.fixture.path("new").exists());
    node.stop().await;
}

#[tokio::test]
async fn a_change_right_after_an_apply_is_the_gateways_answer() {
    let node = Node::start(Fixture::new(), state_without_head());
    node.commit(&[("a", File("1"))]);
    node.until_at(1).await;
    node.fixture.write("a", "written back");
    node.until("named", |status| status.problems.iter().any(|problem| problem.code == "rejected")).await;
    assert_eq!(node.fixture.read("a"), "written back");
    assert_eq!(node.status().drifted, 1);
    // The next version is brought all the same.
    node.commit(&[("a", File("2"))]);
    node.until_at(2).await;
    assert_eq!(node.fixture.read("a"), "2");
    node.stop().await;
}

#[tokio::test]
async fn the_first_manager_is_the_source() {
    let fixture = Fixture::new();
    fixture.write("a", "mine");
    let node = Node::start(fixture, state_without_head());
    node.appoint(ME, 5);
    node.until_active(Some(5)).await;
    assert_eq!(node.fixture.read("a"), "mine");
    node.until("manager", |status| status.state == NodeState::Manager).await;
    assert!(node.fixture.path(".syncd/member").exists());
    // Its own commits move the record, not the folder.
    let before = node.fixture.stat("a");
    node.commit(&[("a", File("mine"))]);
    node.until("recorded", |status| status.applied.is_some_and(|(number, _)| number == 1)).await;
    node.fixture.write("b", "next");
    node.commit(&[("a", File("mine 2"))]);
    node.until("recorded", |status| status.applied.is_some_and(|(number, _)| number == 2)).await;
    assert_eq!(node.fixture.stat("a"), before);
    assert_eq!(node.fixture.read("b"), "next");
    node.until_observed(|observed| observed.forest.get(&place("b")).is_some()).await;
    // Another takes over: what is beyond the head goes.
    node.appoint(OTHER, 9);
    node.until_active(None).await;
    node.until_at(2).await;
    assert_eq!(node.fixture.read("a"), "mine 2");
    assert_eq!(node.fixture.quarantined(), [("b".to_owned(), "next".to_owned())]);
    node.stop().await;
}

#[tokio::test]
async fn without_a_chosen_source_nobody_begins() {
    let mut state = state_without_head();
    state.seed = Seed::Conflict(BTreeMap::new());
    let node = Node::start(Fixture::new(), state);
    node.appoint(ME, 5);
    node.until("needs a seed", |status| status.state == NodeState::NeedsSeed).await;
    assert_eq!(*node.handle.active.borrow(), None);
    node.stop().await;
}

#[tokio::test]
async fn a_new_manager_brings_its_folder_to_the_head_first() {
    let (fixture, mut state) = at_rest(&[("a", File("1")), ("gone", File("1"))]).await;
    fixture.write("a", "unpublished");
    fixture.write("extra", "unpublished too");
    fs::remove_file(fixture.path("gone")).unwrap();
    state.appointment = Some(appointment(ME, 9, 5));
    let node = Node::start(fixture, state);
    node.until_active(Some(9)).await;
    assert_eq!(node.fixture.observed(), forest(&[("a", File("1")), ("gone", File("1"))]));
    assert_eq!(node.fixture.store.quarantine_count(), 2);
    assert_eq!(node.fixture.store.manager_epoch().unwrap(), 9);
    node.until("listed", |status| status.problems.iter().any(|problem| problem.code == "restored")).await;
    assert_eq!(**node.handle.held_at_start.borrow(), Withheld::default());
    node.stop().await;
}

#[tokio::test]
async fn a_manager_that_restarts_keeps_its_changes() {
    for (epoch, replaced) in [(9, 5), (12, 9)] {
        let (fixture, mut state) = at_rest(&[("a", File("1"))]).await;
        fixture.store.set_manager_epoch(9).unwrap();
        fixture.write("a", "changed");
        fixture.write("new", "changed");
        state.appointment = Some(appointment(ME, epoch, replaced));
        let node = Node::start(fixture, state);
        node.until_active(Some(epoch)).await;
        assert_eq!(node.fixture.read("a"), "changed");
        assert_eq!(node.fixture.store.quarantine_count(), 0);
        assert_eq!(**node.handle.held_at_start.borrow(), Withheld::default());
        node.stop().await;
    }
}

#[tokio::test]
async fn a_former_manager_keeps_nothing_once_there_was_another() {
    let (fixture, mut state) = at_rest(&[("a", File("1"))]).await;
    fixture.store.set_manager_epoch(7).unwrap();
    fixture.write("a", "changed");
    state.appointment = Some(appointment(ME, 12, 9));
    let node = Node::start(fixture, state);
    node.until_active(Some(12)).await;
    assert_eq!(node.fixture.read("a"), "1");
    assert_eq!(node.fixture.quarantined(), [("a".to_owned(), "changed".to_owned())]);
    node.stop().await;
}

#[tokio::test]
async fn a_root_that_lost_its_mark_is_not_written_to() {
    let (fixture, mut state) = at_rest(&[("a", File("1"))]).await;
    fs::rename(fixture.path(".syncd"), fixture.dir.path().join("kept")).unwrap();
    fs::remove_file(fixture.path("a")).unwrap();
    state.appointment = Some(appointment(ME, 9, 5));
    let node = Node::start(fixture, state);
    node.until("root missing", |status| status.state == NodeState::RootMissing).await;
    assert_eq!(node.codes(), ["root-missing"]);
    assert_eq!(fs::read_dir(node.fixture.root.path()).unwrap().count(), 0);
    assert_eq!(*node.handle.active.borrow(), None);
    fs::rename(node.fixture.dir.path().join("kept"), node.fixture.path(".syncd")).unwrap();
    node.until_active(Some(9)).await;
    assert_eq!(node.fixture.read("a"), "1");
    // And taken away under the acting manager.
    fs::remove_file(node.fixture.path(".syncd/member")).unwrap();
    node.until_active(None).await;
    node.until("root missing", |status| status.state == NodeState::RootMissing).await;
    node.stop().await;
}

#[tokio::test]
async fn a_root_that_goes_away_comes_back() {
    let (fixture, state) = at_rest(&[("a", File("1"))]).await;
    let node = Node::start(fixture, state);
    node.until_at(1).await;
    let aside = node.fixture.dir.path().join("aside");
    fs::rename(node.fixture.root.path(), &aside).unwrap();
    fs::create_dir(node.fixture.root.path()).unwrap();
    node.until("root missing", |status| status.state == NodeState::RootMissing).await;
    node.commit(&[("a", File("2"))]);
    node.until("held", |status| status.holds == Some(2)).await;
    assert_eq!(fs::read_dir(node.fixture.root.path()).unwrap().count(), 0);
    fs::remove_dir(node.fixture.root.path()).unwrap();
    fs::rename(&aside, node.fixture.root.path()).unwrap();
    node.until_at(2).await;
    assert_eq!(node.fixture.read("a"), "2");
    node.stop().await;
}

#[tokio::test]
async fn files_never_go_back_to_an_older_generation() {
    let (fixture, state) = at_rest(&[("a", File("1"))]).await;
    let node = Node::start(fixture, state.clone());
    node.commit(&[("a", File("2"))]);
    node.until_at(2).await;
    let fixture = node.stop().await;
    // The log's state as it was before, and drift that the old head would undo.
    let node = Node::start(fixture, state);
    node.until("looked", |status| status.applied.is_some_and(|(number, _)| number == 2)).await;
    assert_eq!(node.fixture.read("a"), "2");
    assert_ne!(node.status().state, NodeState::InSync);
    node.stop().await;
}

/// A node that has not applied anything, as a witness never does, keeps its newer head too.
#[tokio::test]
async fn the_store_never_goes_back_either() {
    let fixture = Fixture::new();
    let one = pin(&fixture.store, 5, &[("a", File("1"))], 100);
    fixture.store.adopt(1, &one.digest).unwrap();
    let two = pin(&fixture.store, 5, &[("a", File("2"))], 100);
    fixture.store.adopt(2, &two.digest).unwrap();
    let mut state = state_without_head();
    state.head = Some(head_of(&one));
    let node = Node::start_with(fixture, state, true, vec![("a", File("1"))]);
    node.until("looked", |status| status.holds == Some(2)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.status().holds, Some(2));
    assert_ne!(node.status().state, NodeState::Fetching);
    node.change(|state| state.head = Some(head_of(&two)));
    node.until_at(2).await;
    node.stop().await;
}

#[tokio::test]
async fn a_cut_off_apply_is_finished_by_the_next_start() {
    let (fixture, mut state) = at_rest(&[("a", File("1")), ("b", File("1"))]).await;
    let generation = pin(&fixture.store, 5, &[("a", File("2")), ("b", File("2"))], 200);
    state.head = Some(head_of(&generation));
    // Between two renames: one place is new, the journal is open, replaced content lies in the stage.
    fixture.store.adopt(generation.number, &generation.digest).unwrap();
    fixture.store.set_applying(Some(2)).unwrap();
    fs::rename(fixture.path("a"), fixture.path(".syncd/stage/2.1.a~0123456789abcdef.part")).unwrap();
    fixture.write("a", "2");
    let node = Node::start(fixture, state);
    node.until_at(2).await;
    assert_eq!((node.fixture.read("a"), node.fixture.read("b")), ("2".to_owned(), "2".to_owned()));
    assert!(!node.status().journal_open);
    node.until_nothing_is_staged().await;
    assert_eq!(node.fixture.store.quarantine_count(), 0);
    node.stop().await;
}

#[tokio::test]
async fn a_takeover_that_waits_does_not_walk_for_ever() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c", "d"] {
        fixture.write(name, "local");
    }
    let node = Node::start(fixture, state_without_head());
    node.appoint(ME, 5);
    node.until_active(Some(5)).await;
    let fixture = node.stop().await;
    // Another cluster's manager by now, at first contact.
    let mut state = state_without_head();
    state.cluster = crate::model::ClusterId([8; 16]);
    state.appointment = Some(appointment(ME, 9, 5));
    let node = Node::start(fixture, state);
    node.commit(&[("a", File("1"))]);
    node.until("needs approval", |status| status.state == NodeState::NeedsApproval).await;
    let mut observed = node.observed.clone();
    let mut seen = 0;
    let deadline = tokio::time::sleep(Duration::from_millis(500));
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            () = &mut deadline => break,
            changed = observed.changed() => {
                changed.unwrap();
                seen += 1;
            }
        }
    }
    assert!(seen <= 2, "{seen} walks within half a second");
    assert_eq!(node.codes(), ["needs-approval"]);
    node.stop().await;
}

#[tokio::test]
async fn folders_on_their_way_out_are_not_published_by_a_new_manager() {
    let (fixture, mut state) = at_rest(&[("a", File("1")), ("f", Folder), ("f/x", File("1"))]).await;
    let generation = pin(&fixture.store, 5, &[("a", File("1"))], 200);
    state.head = Some(head_of(&generation));
    state.appointment = Some(appointment(ME, 9, 5));
    let node = Node::start(fixture, state);
    node.until_active(Some(9)).await;
    assert!(!node.fixture.path("f/x").exists());
    assert!(node.fixture.path("f").exists());
    assert_eq!(node.handle.held_at_start.borrow().others, [place("f")].into());
    node.until("manager", |status| status.state == NodeState::Manager).await;
    assert!(node.codes().is_empty());
    // A restart does not make it a new folder.
    let state = node.fake.state.borrow().clone().unwrap();
    let node = Node::start(node.stop().await, (*state).clone());
    node.until_active(Some(9)).await;
    assert_eq!(node.handle.held_at_start.borrow().others, [place("f")].into());
    // An artifact in it makes it a change like any other.
    node.fixture.write("f/new", "2");
    let mut held = node.handle.held_at_start.clone();
    let wait = held.wait_for(|held| **held == Withheld::default());
    tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_root_that_the_cluster_names_anew_is_not_emptied() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c", "d"] {
        fixture.write(name, "local");
    }
    let node = Node::start(fixture, state_without_head());
    for (number, rules) in [(1, crate::model::Rules::default()), (2, rules())] {
        let forest = if number == 1 { Forest::default() } else { forest(&[]) };
        let generation = Generation {
            number,
            parent: number - 1,
            digest: forest.digest(),
            epoch: 0,
            author: "gw2".to_owned(),
            created_unix_ms: 1,
        };
        let base = number - 1;
        let proposal =
            crate::model::Proposal { generation: generation.clone(), base, rules, changes: Vec::new() };
        node.fixture.store.batch().pin(&proposal).unwrap();
        node.change(|state| state.head = Some(head_of(&generation)));
        if number == 1 {
            node.until("at the first", |status| status.applied.is_some_and(|(at, _)| at == 1)).await;
        }
    }
    node.until("needs approval", |status| status.state == NodeState::NeedsApproval).await;
    assert_eq!(node.fixture.read("a"), "local");
    node.stop().await;
}
