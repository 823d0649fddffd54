//! From empty folders to a cluster, and what bars it.

use std::collections::BTreeMap;

use super::*;
use crate::cluster::db::{Keep, RaftDb, VOTE};
use crate::cluster::record::{self, Kind};
use crate::cluster::types::{Entry, FormationRecord, Founder, LogId, Own, PeerNode, Vote};
use crate::model::{ClusterId, Member};

const THREE: [Role; 3] = [Role::Candidate; 3];

#[tokio::test(flavor = "multi_thread")]
async fn nodes_started_in_any_order_form_one_cluster_and_appoint() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut net = Net::new(&THREE).await;
        for at in order {
            net.start(at).await;
        }
        let first = net.state(0, "an appointment", |state| state.appointment.is_some()).await;
        for at in 1..3 {
            let state = net.state(at, "an appointment", |state| state.appointment.is_some()).await;
            assert_eq!(state.cluster, first.cluster);
            assert_eq!(state.members, first.members);
            assert_eq!(state.appointment, first.appointment);
        }
        net.confirmed().await;
        net.manager().await;
        net.stop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_or_two_candidates_are_enough() {
    for count in [1, 2] {
        let mut net = Net::new(&THREE[..count]).await;
        net.start_all().await;
        net.confirmed().await;
        let (manager, epoch) = net.manager().await;
        let holders: Vec<NodeId> = (0..count).map(|at| net.id(at)).collect();
        let outcome = net.cluster(manager).commit(commit(epoch, net.id(manager), 0, &holders)).await.unwrap();
        assert_eq!(outcome, crate::model::CommitOutcome::Committed);
        net.stop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_voter_is_named_and_waited_for() {
    let mut net = Net::new(&THREE).await;
    net.start(0).await;
    net.start(1).await;
    // gw2 is heard sooner or later, and then only gw3 is named.
    let sentence = net.waiting_for(0, &format!("gw3 at {}", net.nodes[2].config.address)).await;
    assert!(sentence.contains("must answer once"), "{sentence}");
    let mut standing = net.cluster(0).standing();
    let only = standing.wait_for(|standing| {
        standing.waiting_for.as_ref().is_some_and(|sentence| sentence.starts_with("gw3 at"))
    });
    tokio::time::timeout(PATIENCE, only).await.unwrap().unwrap();
    assert!(net.cluster(0).identity().is_none(), "nothing is formed without it");
    net.start(2).await;
    net.confirmed().await;
    assert_eq!(net.cluster(0).standing().borrow().waiting_for, None);
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_or_an_unfinished_scan_bars_formation() {
    let mut net = Net::new(&THREE).await;
    let nothing = FirstContent { digest: Digest([0; 32]), files: 0 };
    net.nodes[1].scan.send_replace(Some((nothing, vec!["synapse-configs".to_owned()])));
    net.nodes[2].scan.send_replace(None);
    net.start_all().await;
    net.waiting_for(0, "gw2 at").await;
    net.nodes[1].scan.send_replace(Some((nothing, Vec::new())));
    net.waiting_for(0, "the first scan of gw3").await;
    assert!(net.cluster(0).identity().is_none());
    net.nodes[2].scan.send_replace(Some((nothing, Vec::new())));
    net.confirmed().await;
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_with_content_is_the_first_manager_and_a_conflict_waits() {
    let mut net = Net::new(&THREE).await;
    let full = |files: u64| Some((FirstContent { digest: Digest::of(&[9]), files }, Vec::new()));
    net.nodes[2].scan.send_replace(full(4));
    net.nodes[0].report.send_modify(|report| Arc::make_mut(report).priority = 10);
    net.start_all().await;
    let (manager, _) = net.manager().await;
    assert_eq!(manager, 2, "an empty folder never wins over a full one, whatever its priority");
    net.stop_all().await;

    let mut net = Net::new(&THREE).await;
    net.nodes[0].scan.send_replace(full(4));
    let other = FirstContent { digest: Digest::of(&[8]), files: 2 };
    net.nodes[1].scan.send_replace(Some((other, Vec::new())));
    net.start_all().await;
    let sentence = net.waiting_for(2, "needs-seed").await;
    assert!(sentence.contains("gw1 holds 4") && sentence.contains("gw2 holds 2"), "{sentence}");
    net.state(0, "formed", |_| true).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(net.cluster(0).state().borrow().as_ref().unwrap().appointment, None, "nobody until chosen");
    net.stop_all().await;
}

/// The record that `gw1` would write, as the nodes of `at` have it stored from before.
fn store_record(net: &Net, at: &[usize], incarnation_of_gw1: Option<[u8; 16]>) -> ClusterId {
    let dbs: Vec<_> = net.nodes.iter().map(|node| RaftDb::open(&node.config.db_path).unwrap()).collect();
    let founders = (1..).zip(&net.nodes).zip(&dbs).map(|((id, node), db)| {
        let ClusterConfig { node_name: name, address, role, .. } = node.config.clone();
        let mut incarnation = db.incarnation().unwrap();
        if name == "gw1" {
            incarnation = incarnation_of_gw1.unwrap_or(incarnation);
        }
        let content = FirstContent { digest: Digest([0; 32]), files: 0 };
        (id, Founder { member: Member { name, address, role, incarnation }, content })
    });
    let config = &net.nodes[0].config;
    let record = FormationRecord {
        cluster: ClusterId([42; 16]),
        name: config.cluster_name.clone(),
        writer: 1,
        founders: founders.collect(),
        timing: config.timing,
        succeeds: Vec::new(),
    };
    for at in at {
        let name = net.nodes[*at].config.node_name.clone();
        let node = record.id_of(&name).unwrap();
        let own =
            Own { cluster: record.cluster, node, name, timing: record.timing, record: Some(record.clone()) };
        assert!(dbs[*at].adopt(&own).unwrap());
    }
    record.cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_formation_interrupted_at_any_step_goes_on_with_its_record() {
    for stored in [&[0][..], &[0, 1], &[0, 1, 2]] {
        let mut net = Net::new(&THREE).await;
        let cluster = store_record(&net, stored, None);
        net.start(2).await;
        net.start(1).await;
        net.start(0).await;
        net.confirmed().await;
        for at in 0..3 {
            assert_eq!(net.cluster(at).identity().unwrap().cluster, cluster, "stored by {stored:?}");
        }
        net.stop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_set_back_to_before_its_log_takes_no_part_under_its_former_id() {
    for with_record in [false, true] {
        let mut net = Net::new(&THREE).await;
        if with_record {
            store_record(&net, &[0, 1, 2], None);
        } else {
            RaftDb::open(&net.nodes[1].config.db_path).unwrap().incarnation().unwrap();
        }
        let path = net.nodes[1].config.db_path.clone();
        let image = std::fs::read(&path).unwrap();
        net.start_all().await;
        net.confirmed().await;
        net.manager().await;
        let before = net.id(1);
        net.stop(1).await;
        std::fs::write(&path, &image).unwrap();
        net.start(1).await;
        let known = |state: &ClusterState| state.id_of("gw2").is_some_and(|id| id != before);
        net.state(0, "another id", known).await;
        net.state(1, "another id", known).await;
        net.confirmed().await;
        assert_ne!(net.id(1), before, "with its record: {with_record}");
        net.stop_all().await;
    }
}

/// A vote that a node gave in the cluster of a record, and an entry of its log.
fn store_log(net: &Net, at: usize, with_entry: bool) {
    let db = RaftDb::open(&net.nodes[at].config.db_path).unwrap();
    let members: BTreeMap<NodeId, PeerNode> = (1..)
        .zip(&net.nodes)
        .map(|(id, node)| {
            (id, PeerNode { name: node.config.node_name.clone(), address: node.config.address.clone() })
        })
        .collect();
    db.write(Keep::Durable, |writer| {
        writer.put(VOTE, &Vote::new(1, 1))?;
        if with_entry {
            let membership = openraft::Membership::new(vec![members.keys().copied().collect()], members);
            let payload = openraft::EntryPayload::Membership(membership);
            let entry = Entry { log_id: LogId::default(), payload };
            writer.append(&[(0, record::encode(Kind::Entry, &entry)?)])?;
        }
        Ok(())
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_never_formed_a_cluster_gives_way_to_one_that_formed_without_it() {
    let mut net = Net::new(&THREE).await;
    let lost = store_record(&net, &[0, 1, 2], None);
    store_log(&net, 0, true);
    store_log(&net, 1, false);
    net.start(1).await;
    net.start(2).await;
    net.waiting_for(1, "gw1").await;
    net.cluster(1).bootstrap(["gw1".to_owned()].into(), false).await.unwrap();
    net.state(1, "a cluster", |state| state.cluster != lost).await;
    net.start(0).await;
    let state = net.state(0, "that cluster", |state| state.cluster != lost).await;
    assert!(state.id_of("gw1").is_some());
    net.confirmed().await;
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_writer_lost_it_is_replaced_while_all_logs_are_empty() {
    let mut net = Net::new(&THREE).await;
    let lost = store_record(&net, &[1, 2], Some([7; 16]));
    net.start(1).await;
    net.start(2).await;
    net.waiting_for(1, "gw1").await;
    net.start(0).await;
    net.confirmed().await;
    let cluster = net.cluster(0).identity().unwrap().cluster;
    assert_ne!(cluster, lost);
    assert!((1..3).all(|at| net.cluster(at).identity().unwrap().cluster == cluster));
    net.manager().await;
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_join_listed_or_not_and_keep_their_place() {
    let mut net = Net::new(&[Role::Candidate, Role::Candidate, Role::Witness, Role::Worker]).await;
    let listed = net.nodes[0].config.listed.clone();
    let unlisted = net.add("extra", &free_address(), Role::Worker, &listed);
    net.start(3).await;
    net.waiting_for(3, "joins").await;
    for at in [0, 1, 2, unlisted] {
        net.start(at).await;
    }
    net.confirmed().await;
    for at in 0..5 {
        let state = net.state(at, "five members", |state| state.members.len() == 5).await;
        assert_eq!(state.voters.len(), 3);
        assert_eq!(state.members[&net.id(at)].name, net.nodes[at].config.node_name);
    }
    let (manager, epoch) = net.manager().await;
    let holders = [net.id(0), net.id(2)];
    net.cluster(manager).commit(commit(epoch, net.id(manager), 0, &holders)).await.unwrap();
    net.state(unlisted, "the head", |state| state.generation() == 1).await;
    let id = net.id(unlisted);
    net.stop(unlisted).await;
    net.start(unlisted).await;
    assert_eq!(net.id(unlisted), id);
    net.confirmed().await;
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_with_different_lists_say_so() {
    let mut net = Net::new(&THREE).await;
    net.nodes[2].config.listed[1].role = Role::Witness;
    net.start_all().await;
    let sentence = net.waiting_for(0, "give all hosts one configuration").await;
    assert!(sentence.contains("gw2 (witness)"), "{sentence}");
    net.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_knows_whose_it_is() {
    let mut net = Net::new(&THREE[..1]).await;
    net.start_all().await;
    net.confirmed().await;
    net.stop_all().await;
    let open = |config: &ClusterConfig| {
        let node = &net.nodes[0];
        let peers = Peers::new(Identity::new(), None);
        let scans = (node.scan.subscribe(), node.report.subscribe(), net.heard.subscribe());
        Cluster::open(config.clone(), peers, scans.0, scans.1, scans.2).map(|_| ())
    };
    let mut config = net.nodes[0].config.clone();
    config.node_name = "gw7".to_owned();
    assert!(matches!(open(&config), Err(ClusterError::OtherName { .. })));
    let mut config = net.nodes[0].config.clone();
    config.cluster_name = "other".to_owned();
    assert!(matches!(open(&config), Err(ClusterError::OtherCluster { .. })));
    let mut config = net.nodes[0].config.clone();
    config.timing.timeout = config.timing.heartbeat;
    assert!(matches!(open(&config), Err(ClusterError::Config(_))));
    let mut config = net.nodes[0].config.clone();
    (config.timing.heartbeat, config.timing.lease) = (Duration::ZERO, Duration::ZERO);
    assert!(matches!(open(&config), Err(ClusterError::Config(_))));
    open(&net.nodes[0].config).unwrap();
}
