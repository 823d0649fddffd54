//! Members that are lost, replaced, removed and added, with the log really running.

use openraft::raft::VoteRequest;
use tonic::Code;

use super::*;
use crate::cluster::network::pack;
use crate::model::{CommitOutcome, Order};
use crate::rpc::Me;

const THREE: [Role; 3] = [Role::Candidate; 3];

impl Net {
    /// The node comes back with an empty data folder.
    async fn wiped(&mut self, at: usize, life: u32) {
        if self.nodes[at].running.is_some() {
            self.stop(at).await;
        }
        self.nodes[at].config.db_path = self.data(at, life);
        self.start(at).await;
    }

    /// Commits one generation that these hold, and says so in their reports.
    async fn generation(&self, parent: u64, holders: &[usize]) {
        let (manager, epoch) = self.manager().await;
        let ids: Vec<NodeId> = holders.iter().map(|at| self.id(*at)).collect();
        let outcome = self.cluster(manager).commit(commit(epoch, self.id(manager), parent, &ids)).await;
        assert_eq!(outcome.unwrap(), CommitOutcome::Committed);
        holders.iter().for_each(|at| self.holds(*at, parent + 1));
    }

    fn holds(&self, at: usize, generation: u64) {
        self.nodes[at].report.send_modify(|report| Arc::make_mut(report).holds = Some(generation));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_voter_comes_back_under_a_new_id_once_it_holds_the_head() {
    let mut net = Net::new(&THREE).await;
    net.start_all().await;
    net.confirmed().await;
    net.generation(0, &[0, 1, 2]).await;
    let manager = net.manager().await.0;
    let lost = (0..3).find(|at| *at != manager).unwrap();
    let before = net.id(lost);
    net.holds(lost, 0);
    net.wiped(lost, 1).await;
    let state = net.state(manager, "the newcomer", |state| !state.members.contains_key(&before)).await;
    assert_eq!(state.voters.len(), 2, "the lost one votes no more");
    let name = net.nodes[lost].config.node_name.clone();
    let state = net.state(manager, "a new id", |state| state.id_of(&name).is_some()).await;
    let after = state.id_of(&name).unwrap();
    assert_ne!(after, before);
    // It has the log, and says that it holds nothing.
    net.confirmed().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!net.cluster(manager).state().borrow().as_ref().unwrap().voters.contains(&after));
    net.holds(lost, 1);
    net.state(manager, "three voters", |state| state.voters.contains(&after) && state.changing.is_none())
        .await;
    // And it counts: with one of the others gone the two publish on.
    let other = (0..3).find(|at| *at != manager && *at != lost).unwrap();
    net.stop(other).await;
    net.generation(1, &[manager, lost]).await;
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_refused_while_its_name_lives() {
    let mut net = Net::new(&THREE).await;
    net.start_all().await;
    net.confirmed().await;
    let listed = net.nodes[0].config.listed.clone();
    let second = net.add("gw3", &free_address(), Role::Candidate, &listed);
    let before = net.state(0, "formed", |_| true).await.members.clone();
    net.start(second).await;
    let sentence = net.waiting_for(second, "another data folder").await;
    for at in [2, second] {
        assert!(sentence.contains(&net.nodes[at].config.address), "{sentence}");
    }
    let standing = net.cluster(second).standing().borrow().clone();
    assert!(standing.notices.iter().any(|found| found.code == "duplicate-node"), "{standing:?}");
    assert_eq!(net.state(0, "formed", |_| true).await.members, before);
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_data_folder_comes_back() {
    let mut net = Net::new(&[Role::Candidate, Role::Candidate, Role::Witness, Role::Worker]).await;
    net.start_all().await;
    net.confirmed().await;
    let before = net.id(3);
    net.wiped(3, 1).await;
    let state = net.state(0, "a new id", |state| state.id_of("gw4").is_some_and(|id| id != before)).await;
    assert!(!state.members.contains_key(&before));
    assert_eq!(state.voters.len(), 3);
    net.confirmed().await;
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_listed_later_becomes_a_voter() {
    let mut net = Net::new(&THREE).await;
    net.start_all().await;
    net.confirmed().await;
    net.generation(0, &[0, 1]).await;
    let mut listed = net.nodes[0].config.listed.clone();
    let address = free_address();
    listed.push(ListedNode { name: "gw4".to_owned(), address: address.clone(), role: Role::Witness });
    let fourth = net.add("gw4", &address, Role::Witness, &listed);
    net.start(fourth).await;
    net.state(0, "a fourth member", |state| state.id_of("gw4").is_some()).await;
    net.holds(fourth, 1);
    let state = net.state(0, "four voters", |state| state.voters.len() == 4).await;
    assert!(state.voters.contains(&state.id_of("gw4").unwrap()));
    // Its own word on the times is the cluster's.
    net.stop(fourth).await;
    net.nodes[fourth].config.timing.heartbeat = Duration::from_millis(150);
    net.start(fourth).await;
    net.confirmed().await;
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_voter_that_campaigns_is_told_and_not_listened_to() {
    let mut net = Net::new(&THREE).await;
    net.start_all().await;
    net.confirmed().await;
    net.generation(0, &[0, 1, 2]).await;
    let (manager, leader) = (net.manager().await.0, net.leader().await);
    let gone = (0..3).find(|at| *at != manager && *at != leader).unwrap();
    let (id, name) = (net.id(gone), net.nodes[gone].config.node_name.clone());
    // It hears nothing of it.
    net.stop(gone).await;
    net.cluster(leader).order(Order::Remove { name }).await.unwrap();
    let others: Vec<usize> = (0..3).filter(|at| *at != gone).collect();
    for at in &others {
        net.state(*at, "the removal", |state| !state.members.contains_key(&id)).await;
    }
    let led = net.cluster(leader).metrics().elections;
    let identity = Identity::new();
    identity.set(Me { cluster: net.cluster(leader).identity().unwrap().cluster, node: id });
    let peers = Peers::new(identity, None);
    for at in others {
        let asks = pack(&VoteRequest::new(openraft::Vote::new(1000, id), None)).unwrap();
        let mut client = peers.raft(net.id(at), &net.nodes[at].config.address).unwrap();
        let refused = client.vote(asks).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("removed"), "{refused}");
    }
    // Nobody was unseated.
    net.confirmed().await;
    assert_eq!(net.leader().await, leader);
    assert_eq!(net.cluster(leader).metrics().elections, led);
    net.stop_all().await;
}
