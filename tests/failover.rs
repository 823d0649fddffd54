//! The manager dies, hangs, or is merely not the leader: who takes over, when, and what is kept.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::time::{Duration, Instant};

use support::leases::LeaseWatch;
use support::{STEADY, THREE, TestCluster, row, tree};

/// Over twenty deaths of the manager: another takes over, leases never overlap, what was committed is there, and what
/// the dead one had not published is in its quarantine when it returns.
#[test]
fn twenty_managers_die() {
    let mut rng = support::rng("twenty_managers_die");
    let mut cluster = TestCluster::new(THREE, "");
    tree::generate(&cluster.nodes[0].root, 2000, &mut rng);
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let watch = LeaseWatch::over(&cluster);
    let mut times = Vec::new();
    for round in 0..20 {
        let manager = cluster.wait_manager(Duration::from_secs(40));
        let committed = format!("committed in round {round}");
        cluster.write(manager, "default/api/last.xml", &committed);
        for node in 0..3 {
            cluster.wait_content(node, "default/api/last.xml", &committed, Duration::from_secs(40));
        }
        let before = cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(40));
        // Killed first, so that nothing can carry the next change off.
        cluster.kill(manager);
        let died = Instant::now();
        let unpublished = format!("default/sequences/unpublished-{round}.xml");
        cluster.write(manager, &unpublished, format!("<sequence>{round}</sequence>"));
        let next = cluster.wait_manager(Duration::from_secs(40));
        times.push(died.elapsed());
        assert_ne!(next, manager);
        assert_eq!(cluster.read(next, "default/api/last.xml").as_deref(), Some(committed.as_bytes()));
        let status = cluster.status(next).unwrap();
        assert!(status["generation"].as_u64().unwrap() >= before, "no committed generation is lost");

        cluster.start(manager);
        cluster.wait("the dead manager's own file in its quarantine", Duration::from_secs(40), || {
            let (code, listed, _) = cluster.cli(manager, &["quarantine", "list"]);
            code == 0 && listed.contains(&format!("unpublished-{round}.xml"))
        });
        cluster.wait("the file out of its folder", Duration::from_secs(40), || {
            cluster.read(manager, &unpublished).is_none()
        });
        cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(40));
    }
    cluster.wait_equal(&[0, 1, 2], Duration::from_secs(40));
    let answers = watch.finish();
    assert!(answers > 20, "the leases were looked at");
    times.sort();
    eprintln!(
        "a new manager answered after {:?} at the median, {:?} at the most; {answers} lease headers compared",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

/// The leader dies while another node is manager: the manager, its epoch and its lease stay.
#[test]
fn a_leaders_death_moves_no_manager() {
    let mut cluster = TestCluster::new(THREE, STEADY);
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let watch = LeaseWatch::over(&cluster);
    for _ in 0..5 {
        let manager = cluster.wait_manager(Duration::from_secs(40));
        let epoch = cluster.status(manager).unwrap()["epoch"].clone();
        let leader = leader(&cluster, manager);
        if leader == manager {
            // Both in one: its death moves the manager for its own sake; look again after that.
            cluster.kill(manager);
            cluster.wait("another manager", Duration::from_secs(40), || {
                cluster.manager().is_some_and(|other| other != manager)
            });
            cluster.start(manager);
            cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(40));
            continue;
        }
        cluster.kill(leader);
        cluster.wait("another leader", Duration::from_secs(40), || {
            cluster.status(manager).is_some_and(|status| {
                status["leader"].as_str().is_some_and(|name| name != cluster.nodes[leader].name)
            })
        });
        assert_eq!(cluster.wait_manager(Duration::from_secs(40)), manager);
        assert_eq!(cluster.status(manager).unwrap()["epoch"], epoch);
        cluster.start(leader);
        cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(40));
        assert_eq!(cluster.status(manager).unwrap()["epoch"], epoch);
    }
    watch.finish();
}

/// A manager stopped beyond its lease and let go on: deposed, harmless, and its late writes are handed over to the new
/// one, which publishes them.
#[test]
fn a_paused_manager_comes_back_as_a_worker() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let watch = LeaseWatch::over(&cluster);
    for round in 0..3 {
        let manager = cluster.wait_manager(Duration::from_secs(40));
        cluster.signal(manager, "STOP");
        cluster.wait("another manager", Duration::from_secs(40), || {
            cluster.manager().is_some_and(|other| other != manager)
        });
        let late = format!("default/api/late-{round}.xml");
        cluster.write(manager, &late, format!("<late>{round}</late>"));
        cluster.signal(manager, "CONT");
        for node in 0..3 {
            cluster.wait_content(node, &late, format!("<late>{round}</late>"), Duration::from_secs(30));
        }
        cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(40));
        cluster.wait_equal(&[0, 1, 2], Duration::from_secs(40));
    }
    watch.finish();
}

/// An idle follower that stops for three seconds, twenty times: no other manager, no other epoch, no generation.
#[test]
fn a_paused_follower_moves_nothing() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    let generation = cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(Duration::from_secs(40));
    let epoch = cluster.status(manager).unwrap()["epoch"].clone();
    let leader = leader(&cluster, manager);
    let follower = (0..3).find(|node| *node != manager && *node != leader).unwrap();
    for _ in 0..20 {
        cluster.signal(follower, "STOP");
        // The pause itself is the fault under test, so it is a fixed length.
        std::thread::sleep(Duration::from_secs(3));
        cluster.signal(follower, "CONT");
        cluster.wait("the follower to be heard", Duration::from_secs(40), || {
            let status = cluster.status(manager).unwrap();
            row(&status, &cluster.nodes[follower].name).is_some_and(|row| row["state"] == "in-sync")
        });
    }
    let status = cluster.status(manager).unwrap();
    assert_eq!(status["epoch"], epoch);
    assert_eq!(status["manager"], cluster.nodes[manager].name);
    assert_eq!(status["generation"], generation);
}

/// The leader is killed and started again at once, also right after an appointment: leases stay disjoint.
#[test]
fn a_leader_restarts_in_an_instant() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let watch = LeaseWatch::over(&cluster);
    for round in 0..6 {
        let manager = cluster.wait_manager(Duration::from_secs(40));
        if round % 2 == 1 {
            // An appointment is provoked with the old manager alive: stopped, deposed, and let go on below.
            cluster.signal(manager, "STOP");
            cluster.wait("another manager", Duration::from_secs(40), || {
                cluster.manager().is_some_and(|other| other != manager)
            });
        }
        let asked = (0..3).find(|node| *node != manager).unwrap();
        let leader = leader(&cluster, asked);
        if leader != manager || round % 2 == 0 {
            cluster.kill(leader);
            cluster.start(leader);
        }
        if round % 2 == 1 {
            cluster.signal(manager, "CONT");
        }
        cluster.wait_manager(Duration::from_secs(40));
        cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(30));
    }
    watch.finish();
}

/// Every daemon dies at once and comes back: same cluster, same generation, and it goes on publishing.
#[test]
fn all_nodes_die() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    let before = cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    for round in 0..3 {
        (0..3).for_each(|node| cluster.kill(node));
        cluster.start_all();
        let manager = cluster.wait_manager(Duration::from_secs(30));
        let content = format!("<api round=\"{round}\"/>");
        cluster.write(manager, "default/api/a.xml", &content);
        for node in 0..3 {
            cluster.wait_content(node, "default/api/a.xml", &content, Duration::from_secs(40));
        }
    }
    assert!(cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(40)) > before);
}

/// The node that leads, as `asked` sees it.
fn leader(cluster: &TestCluster, asked: usize) -> usize {
    let mut found = None;
    cluster.wait("a leader", Duration::from_secs(40), || {
        found = cluster.status(asked).and_then(|status| {
            let name = status["leader"].as_str()?.to_owned();
            cluster.nodes.iter().position(|node| node.name == name)
        });
        found.is_some()
    });
    found.unwrap()
}
