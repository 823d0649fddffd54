//! Who is manager, through deaths and returns; and what may be committed.

use super::*;
use crate::model::{CommitOutcome, CommitRefusal};

async fn formed() -> Net {
    let mut net = Net::new(&[Role::Candidate; 3]).await;
    net.start_all().await;
    net.confirmed().await;
    net
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_manager_commits_on_the_head_with_a_majority() {
    let mut net = formed().await;
    let (manager, epoch) = net.manager().await;
    let me = net.id(manager);
    let other = *[1, 2, 3].iter().find(|id| **id != me).unwrap();
    let offer = |commit| async { net.cluster(manager).commit(commit).await.unwrap() };
    let refused = CommitOutcome::Refused;
    assert_eq!(offer(commit(epoch, me, 0, &[me])).await, refused(CommitRefusal::NoMajority));
    assert_eq!(offer(commit(epoch, me, 1, &[1, 2])).await, refused(CommitRefusal::NotOnHead));
    assert_eq!(offer(commit(epoch - 1, me, 0, &[1, 2])).await, refused(CommitRefusal::OldEpoch));
    let theirs = net.cluster(net.at(other)).commit(commit(epoch, other, 0, &[1, 2])).await.unwrap();
    assert_eq!(theirs, refused(CommitRefusal::OldEpoch));
    let in_their_name = net.cluster(manager).commit(commit(epoch, other, 0, &[1, 2])).await;
    assert!(!matches!(in_their_name, Ok(CommitOutcome::Committed)), "{in_their_name:?}");
    assert_eq!(offer(commit(epoch, me, 0, &[1, 2])).await, CommitOutcome::Committed);
    for at in 0..3 {
        let state = net.cluster(at).confirm().await.unwrap();
        assert_eq!(state.generation(), 1, "confirm reads the newest");
    }
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_outlives_a_restart_of_all() {
    let mut net = formed().await;
    let (manager, epoch) = net.manager().await;
    net.cluster(manager).commit(commit(epoch, net.id(manager), 0, &[1, 2, 3])).await.unwrap();
    let before = net.cluster(manager).confirm().await.unwrap();
    for _ in 0..2 {
        net.stop_all().await;
        net.start_all().await;
        net.confirmed().await;
        let (after, again) = net.manager().await;
        assert_eq!((after, again), (manager, epoch), "the manager stays, in its epoch");
        let state = net.cluster(manager).confirm().await.unwrap();
        assert_eq!((&state.head, &state.members), (&before.head, &before.members));
    }
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaders_end_moves_no_manager() {
    let mut net = formed().await;
    let (mut manager, mut epoch) = net.manager().await;
    if net.leader().await == manager {
        assert!(net.cluster(manager).let_go(epoch).await);
        (manager, epoch) = net.manager().await;
    }
    let leader = net.leader().await;
    let mut leases = LeaseWatch::new();
    for at in 0..3 {
        leases.follow(&net.nodes[at].config.node_name, net.cluster(at));
    }
    net.stop(leader).await;
    let next = net.leader().await;
    assert_ne!(next, leader);
    let (after, again) = net.manager().await;
    assert_eq!((after, again), (manager, epoch));
    // The new leader is past the moment when it could name another.
    tokio::time::sleep(LEASE.mul_f64(1.5)).await;
    assert_eq!(net.manager().await, (manager, epoch));
    net.start(leader).await;
    net.confirmed().await;
    assert_eq!(net.manager().await, (manager, epoch));
    assert_eq!(leases.check().await, 1);
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_manager_is_replaced_and_leases_never_overlap() {
    let mut net = formed().await;
    let mut leases = LeaseWatch::new();
    for at in 0..3 {
        leases.follow(&net.nodes[at].config.node_name, net.cluster(at));
    }
    let mut epoch = 0;
    for round in 0..3 {
        let (manager, now) = net.manager().await;
        assert!(now > epoch, "round {round}");
        epoch = now;
        net.stop(manager).await;
        let (next, after) = net.manager().await;
        assert_ne!(next, manager);
        assert!(after > epoch);
        net.start(manager).await;
        leases.follow(&net.nodes[manager].config.node_name, net.cluster(manager));
        net.confirmed().await;
        let (still, _) = net.manager().await;
        assert_eq!(still, next, "who returns does not take over");
    }
    // An office that was held for a moment only may have gone unseen; the point is that none overlap.
    assert!(leases.check().await >= 2);
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_lets_go_is_replaced_at_once_and_never_holds_that_epoch_again() {
    let mut net = formed().await;
    let (manager, epoch) = net.manager().await;
    assert!(!net.cluster(manager).let_go(epoch - 1).await, "another one's end");
    assert_eq!(net.manager().await, (manager, epoch));
    assert!(net.cluster(manager).let_go(epoch).await);
    assert_eq!(net.cluster(manager).renew().await, None);
    let (next, after) = net.manager().await;
    assert_ne!(next, manager);
    assert!(after > epoch);
    assert!(!net.cluster(manager).let_go(epoch).await, "it has nothing left to give up");
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_let_go_that_nobody_heard_is_said_again() {
    let mut net = formed().await;
    let (manager, epoch) = net.manager().await;
    for at in (0..3).filter(|at| *at != manager) {
        net.nodes[at].report.send_modify(|report| Arc::make_mut(report).state = NodeState::RootMissing);
    }
    let others: Vec<_> =
        (0..3).filter(|at| *at != manager).map(|at| net.nodes[at].config.node_name.clone()).collect();
    let mut heard = net.heard.subscribe();
    let told = heard.wait_for(|heard| {
        let is_told = |name| {
            heard.get(name).is_some_and(|said: &HeardReport| said.report.state == NodeState::RootMissing)
        };
        others.iter().all(is_told)
    });
    tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
    // As if the leader's answer and the question itself were lost.
    net.cluster(manager).0.released.send_replace(epoch);
    let (again, after) = net.manager().await;
    assert_eq!(again, manager, "nobody else can be it");
    assert!(after > epoch);
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_granted_confirmed_or_committed() {
    let mut net = formed().await;
    let (manager, epoch) = net.manager().await;
    for at in (0..3).filter(|at| *at != manager) {
        net.stop(at).await;
    }
    let mut standing = net.cluster(manager).standing();
    let lost = standing.wait_for(|standing| !standing.confirmed);
    tokio::time::timeout(PATIENCE, lost).await.unwrap().unwrap();
    assert_eq!(net.cluster(manager).renew().await, None);
    assert_eq!(net.cluster(manager).confirm().await, None);
    let offered = net.cluster(manager).commit(commit(epoch, net.id(manager), 0, &[1, 2, 3])).await;
    assert!(offered.is_err(), "an unknown outcome is never reported as success or failure");
    assert!(net.cluster(manager).core_alive().await, "the core lives all the same");
    net.stop_all().await;
}
