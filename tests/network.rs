//! Hosts whose links are cut and healed: each node in a network namespace of its own, packets dropped by nft.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::time::Duration;

use support::network::Network;
use support::{STEADY, THREE, TestCluster};

const LONG: Duration = Duration::from_secs(40);

fn cluster() -> (Network, TestCluster) {
    cluster_of(THREE)
}

fn cluster_of(nodes: &[(&str, &'static str)]) -> (Network, TestCluster) {
    let network = Network::new(nodes.len());
    // Without hand-over: what is written while cut off is to be found in one place.
    let extra =
        "[sync]\nhandover = \"0s\"\ngather = \"100ms\"\ndelete_grace = \"100ms\"\n[tls]\ninsecure = true\n";
    let mut cluster = TestCluster::with_addresses(nodes, &network.addresses(), &format!("{extra}{STEADY}"));
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        node.prefix = network.prefix(index + 1);
    }
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&(0..nodes.len()).collect::<Vec<_>>(), LONG);
    (network, cluster)
}

/// The manager is cut off: another takes over, the old one stops saying it is manager, both keep serving files, and
/// after healing what it could not publish is in its quarantine.
#[test]
fn the_managers_link_is_cut() {
    let (network, cluster) = cluster();
    let manager = cluster.wait_manager(LONG);
    network.cut(manager + 1);
    cluster.write(manager, "default/api/cut-off.xml", "<cut-off/>");
    cluster.wait("another manager", LONG, || {
        (0..3).any(|node| {
            node != manager && cluster.get(node, "/manager").is_some_and(|answer| answer.status == 200)
        })
    });
    assert_eq!(cluster.get(manager, "/manager").unwrap().status, 503);
    assert_eq!(cluster.get(manager, "/ready").unwrap().status, 200, "a gateway that is cut off stays ready");
    let next = (0..3)
        .find(|node| cluster.get(*node, "/manager").is_some_and(|answer| answer.status == 200))
        .unwrap();
    let third = 3 - manager - next;
    cluster.write(next, "default/api/a.xml", "<api>by the next</api>");
    cluster.wait_content(third, "default/api/a.xml", "<api>by the next</api>", LONG);
    assert_eq!(
        cluster.read(manager, "default/api/cut-off.xml").unwrap(),
        b"<cut-off/>",
        "untouched while cut off"
    );
    network.heal(manager + 1);
    cluster.wait_content(manager, "default/api/a.xml", "<api>by the next</api>", LONG);
    cluster.wait("what was written while cut off in quarantine", LONG, || {
        cluster.cli(manager, &["quarantine", "list"]).1.contains("cut-off.xml")
    });
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_equal(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), next, "a returning node takes nothing over");
}

/// The leader is cut off while another is manager: publishing goes on by the same manager in the same epoch.
#[test]
fn the_leaders_link_is_cut() {
    let (network, cluster) = cluster();
    for _ in 0..3 {
        let manager = cluster.wait_manager(LONG);
        let status = cluster.status(manager).unwrap();
        let epoch = status["epoch"].clone();
        let leader = cluster.nodes.iter().position(|node| status["leader"] == node.name).unwrap();
        network.cut(leader + 1);
        if leader != manager {
            cluster.wait("another leader", LONG, || {
                cluster.status(manager).is_some_and(|status| {
                    status["leader"].as_str().is_some_and(|name| name != cluster.nodes[leader].name)
                })
            });
            cluster.wait("the same manager", LONG, || {
                cluster.get(manager, "/manager").is_some_and(|answer| answer.status == 200)
            });
            assert_eq!(cluster.status(manager).unwrap()["epoch"], epoch);
        } else {
            cluster.wait("another manager", LONG, || {
                (0..3).any(|node| {
                    node != manager
                        && cluster.get(node, "/manager").is_some_and(|answer| answer.status == 200)
                })
            });
        }
        network.heal(leader + 1);
        cluster.wait_in_sync(&[0, 1, 2], LONG);
    }
}

/// The manager reaches the leader and nobody else, so it can stage on no majority: it is replaced, although the leader
/// hears it well.
#[test]
fn a_manager_that_reaches_no_majority_is_replaced() {
    let five: Vec<(&str, &'static str)> =
        ["gw1", "gw2", "gw3", "gw4", "gw5"].into_iter().map(|name| (name, "candidate")).collect();
    let (network, cluster) = cluster_of(&five);
    let mut manager = cluster.wait_manager(LONG);
    let leader_of = |node: usize| cluster.status(node).unwrap()["leader"].as_str().unwrap().to_owned();
    if leader_of(manager) == cluster.nodes[manager].name {
        let (code, said, why) = cluster.cli(manager, &["switchover"]);
        assert_eq!(code, 0, "{said}{why}");
        manager = cluster.wait_manager(LONG);
    }
    let leader = leader_of(manager);
    let others: Vec<usize> =
        (0..5).filter(|node| *node != manager && cluster.nodes[*node].name != leader).collect();
    network.cut_between(manager + 1, &others.iter().map(|node| node + 1).collect::<Vec<_>>());
    cluster.write(manager, "default/api/b.xml", "<b/>");
    let mut next = manager;
    cluster.wait("another manager", LONG, || {
        next = cluster.manager().unwrap_or(manager);
        next != manager
    });
    assert_eq!(leader_of(next), leader, "the leader stays");
    cluster.write(next, "default/api/a.xml", "<api>by the next</api>");
    for node in others {
        cluster.wait_content(node, "default/api/a.xml", "<api>by the next</api>", LONG);
    }
    network.heal(manager + 1);
    cluster.wait_in_sync(&[0, 1, 2, 3, 4], LONG);
    cluster.wait_equal(&[0, 1, 2, 3, 4], LONG);
    assert!(cluster.cli(manager, &["quarantine", "list"]).1.contains("b.xml"));
}
