//! Members that are lost, come back, are removed and added, with real daemons.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use support::{THREE, TestCluster, has_problem, row, tree, wait_problem};

/// From a lost data folder to a voter again: 10 s of silence, then some steps.
const BACK: Duration = Duration::from_secs(60);

/// Every file below a folder with its inode and its modification time.
fn traces(root: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if entry.file_name() == ".syncd" {
                continue;
            }
            if meta.is_dir() {
                folders.push(entry.path());
            }
            if meta.is_file() {
                let path = entry.path().strip_prefix(root).unwrap().display().to_string();
                found.insert(path, (meta.ino(), meta.mtime(), meta.mtime_nsec()));
            }
        }
    }
    found
}

/// Waits until a node's own status names itself without a problem that bars it, at the head.
fn wait_back(cluster: &TestCluster, node: usize) {
    let name = cluster.nodes[node].name.clone();
    cluster.wait(&format!("{name} at the head again"), BACK, || {
        let Some(status) = cluster.status(node) else { return false };
        let at_head = row(&status, &name).is_some_and(|row| {
            row["generation"] == status["generation"] && row["digest"] == status["digest"]
        });
        at_head && status["generation"].as_u64() > Some(0)
    });
}

/// How many nodes vote, as a node's warning about even numbers tells.
fn votes_even(cluster: &TestCluster, node: usize) -> bool {
    cluster.status(node).is_some_and(|status| has_problem(&status, "even-voters"))
}

#[test]
fn a_wiped_voter_comes_back_without_a_file_rewritten() {
    let mut rng = support::rng("a_wiped_voter_comes_back_without_a_file_rewritten");
    let mut cluster = TestCluster::new(THREE, "");
    tree::generate(&cluster.nodes[0].root, 300, &mut rng);
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(Duration::from_secs(20));
    let lost = (0..3).find(|node| *node != manager).unwrap();
    let before = traces(&cluster.nodes[lost].root);
    assert!(before.len() >= 300);
    cluster.kill(lost);
    fs::remove_dir_all(&cluster.nodes[lost].data).unwrap();
    cluster.start(lost);
    cluster.wait("its place in two steps", BACK, || votes_even(&cluster, manager));
    wait_back(&cluster, lost);
    cluster.wait("three voters", BACK, || !votes_even(&cluster, manager));
    assert_eq!(traces(&cluster.nodes[lost].root), before, "a file was rewritten");
    // It votes: with the third one gone the two publish.
    let third = (0..3).find(|node| *node != manager && *node != lost).unwrap();
    cluster.kill(third);
    let manager = cluster.wait_manager(Duration::from_secs(20));
    cluster.write(manager, "default/api/after.xml", "<api/>");
    for node in [manager, lost] {
        cluster.wait_content(node, "default/api/after.xml", "<api/>", Duration::from_secs(20));
    }
}

#[test]
fn a_wiped_worker_and_a_wiped_witness_come_back() {
    let nodes = &[("gw1", "candidate"), ("gw2", "candidate"), ("wit", "witness"), ("w1", "worker")];
    let mut cluster = TestCluster::new(nodes, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 3], Duration::from_secs(60));
    let before = traces(&cluster.nodes[3].root);
    for node in [2, 3] {
        cluster.kill(node);
        fs::remove_dir_all(&cluster.nodes[node].data).unwrap();
        cluster.start(node);
    }
    cluster.wait("the witness gone", BACK, || votes_even(&cluster, 0));
    cluster.wait("the witness back", BACK, || !votes_even(&cluster, 0));
    wait_back(&cluster, 3);
    assert_eq!(traces(&cluster.nodes[3].root), before, "a file was rewritten");
}

#[test]
fn a_witness_carries_a_commit_across() {
    let nodes = &[("gw1", "candidate"), ("gw2", "candidate"), ("wit", "witness")];
    let mut cluster = TestCluster::new(nodes, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1], Duration::from_secs(60));
    let manager = cluster.wait_manager(Duration::from_secs(20));
    let other = 1 - manager;
    cluster.kill(other);
    cluster.write(manager, "default/api/a.xml", "<api carried=\"yes\"/>");
    let held = |cluster: &TestCluster| {
        let status = cluster.status(2)?;
        let held = row(&status, "wit")?["holds"].as_u64()?;
        (status["generation"].as_u64() == Some(held) && held >= 2).then_some(held)
    };
    cluster.wait("the commit on gateway and witness", Duration::from_secs(20), || held(&cluster).is_some());
    let carried = held(&cluster).unwrap();
    cluster.kill(manager);
    cluster.start(other);
    cluster.wait("the other as manager", Duration::from_secs(30), || cluster.manager() == Some(other));
    assert_eq!(cluster.read(other, "default/api/a.xml").unwrap(), b"<api carried=\"yes\"/>");
    assert_eq!(cluster.status(other).unwrap()["generation"].as_u64(), Some(carried));
    // The loss of any one host is borne: now the witness.
    cluster.start(manager);
    cluster.wait_in_sync(&[0, 1], Duration::from_secs(30));
    cluster.kill(2);
    let manager = cluster.wait_manager(Duration::from_secs(20));
    cluster.write(manager, "default/api/b.xml", "<api/>");
    for node in [0, 1] {
        cluster.wait_content(node, "default/api/b.xml", "<api/>", Duration::from_secs(20));
    }
}

#[test]
fn a_member_is_removed_by_order() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(Duration::from_secs(20));
    let (code, _, said) = cluster.cli(manager, &["remove", &cluster.nodes[manager].name.clone()]);
    assert_ne!(code, 0);
    assert!(said.contains("switchover") || said.contains("leads"), "{said}");
    let (code, _, said) = cluster.cli(manager, &["remove", "gw9"]);
    assert!(code != 0 && said.contains("gw9"), "{said}");
    let mut leader = String::new();
    cluster.wait("a leader", Duration::from_secs(30), || {
        let status = cluster.status(manager).unwrap_or_default();
        status["leader"].as_str().is_some_and(|name| {
            leader = name.to_owned();
            true
        })
    });
    let gone = (0..3).find(|node| *node != manager && cluster.nodes[*node].name != leader).unwrap();
    let name = cluster.nodes[gone].name.clone();
    let (code, said, error) = cluster.cli(manager, &["remove", &name]);
    assert_eq!(code, 0, "{said} {error}");
    assert!(said.contains("no member"), "{said}");
    cluster.wait("two voters", Duration::from_secs(30), || votes_even(&cluster, manager));
    // It is told, says so, and touches nothing.
    cluster.wait("the removed node's word", Duration::from_secs(20), || {
        cluster.status(gone).is_some_and(|status| has_problem(&status, "removed"))
    });
    cluster.write(manager, "default/api/a.xml", "<api after=\"yes\"/>");
    let other = (0..3).find(|node| *node != manager && *node != gone).unwrap();
    cluster.wait_content(other, "default/api/a.xml", "<api after=\"yes\"/>", Duration::from_secs(20));
    assert_eq!(cluster.read(gone, "default/api/a.xml").unwrap(), b"<api/>");
    // Also after a restart.
    cluster.kill(gone);
    cluster.start(gone);
    wait_problem(&cluster, gone, "removed", "`syncd recover --rejoin`");
    assert_eq!(cluster.read(gone, "default/api/a.xml").unwrap(), b"<api/>");
    // It comes back the way that it names, although the cluster has a quorum.
    cluster.stop(gone);
    let (code, said, why) = cluster.offline(gone, &["recover", "--yes"]);
    assert!(code == 2 && why.contains("was removed"), "{said}{why}");
    let (code, said, why) = cluster.offline(gone, &["recover", "--rejoin", "--yes"]);
    assert!(code == 0 && said.contains("removed from"), "{said}{why}");
    cluster.start(gone);
    wait_back(&cluster, gone);
    cluster.wait("three voters", BACK, || !votes_even(&cluster, manager));
    assert_eq!(cluster.read(gone, "default/api/a.xml").unwrap(), b"<api after=\"yes\"/>");
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

fn names(cluster: &TestCluster, node: usize, code: &str) -> bool {
    cluster.status(node).is_some_and(|status| has_problem(&status, code))
}

#[test]
fn a_data_folder_that_was_set_back_is_named_and_rejoins() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(Duration::from_secs(20));
    let node = (0..3).find(|node| *node != manager).unwrap();
    cluster.kill(node);
    let (data, image) = (cluster.nodes[node].data.clone(), cluster.dir.path().join("image"));
    copy(&data, &image);
    cluster.start(node);
    let manager = cluster.wait_manager(Duration::from_secs(20));
    cluster.write(manager, "default/api/a.xml", "<api later=\"yes\"/>");
    cluster.wait_content(node, "default/api/a.xml", "<api later=\"yes\"/>", Duration::from_secs(20));
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(20));
    cluster.kill(node);
    copy(&image, &data);
    cluster.start(node);
    cluster.wait("the word for it", Duration::from_secs(20), || names(&cluster, node, "rolled-back"));
    cluster.wait("its former place given up", BACK, || votes_even(&cluster, manager));
    cluster.wait("three voters", BACK, || !votes_even(&cluster, manager));
    wait_back(&cluster, node);
    assert_eq!(cluster.read(node, "default/api/a.xml").unwrap(), b"<api later=\"yes\"/>");
}

#[test]
fn a_cloned_machine_is_named_and_kept_out() {
    let nodes = &[("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate"), ("spare", "worker")];
    let mut cluster = TestCluster::new(nodes, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    (0..3).for_each(|node| cluster.start(node));
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    cluster.kill(2);
    copy(&cluster.nodes[2].data.clone(), &cluster.nodes[3].data.clone());
    copy(&cluster.nodes[2].root.clone(), &cluster.nodes[3].root.clone());
    cluster.start(2);
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(30));
    cluster.nodes[3].name = "gw3".to_owned();
    cluster.start(3);
    cluster.wait("the clone's own word", Duration::from_secs(20), || names(&cluster, 3, "cloned"));
    cluster.wait("the others' word", Duration::from_secs(20), || {
        names(&cluster, 0, "cloned") || names(&cluster, 1, "cloned")
    });
    let manager = cluster.wait_manager(Duration::from_secs(20));
    cluster.write(manager, "default/api/a.xml", "<api after=\"yes\"/>");
    cluster.wait_content(2, "default/api/a.xml", "<api after=\"yes\"/>", Duration::from_secs(20));
    assert_eq!(cluster.read(3, "default/api/a.xml").unwrap(), b"<api/>", "the clone touches nothing");
}

#[test]
fn a_changed_address_is_taken_over_and_an_unlisted_node_says_so() {
    let nodes = &[("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate"), ("w9", "worker")];
    let mut cluster = TestCluster::new(nodes, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.nodes[3].name = "ip-10-0-0-11".to_owned();
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2, 3], Duration::from_secs(60));
    cluster.wait("its own word on that", BACK, || names(&cluster, 3, "not-listed"));
    // gw3 moves: only its own configuration knows.
    let leader = cluster.status(0).unwrap()["leader"].as_str().unwrap().to_owned();
    let moved =
        (0..3).find(|node| cluster.nodes[*node].name != leader && Some(*node) != cluster.manager()).unwrap();
    cluster.kill(moved);
    let old = cluster.nodes[moved].address.clone();
    let new = old.replace(":8730", ":8740");
    let before = fs::read_to_string(&cluster.config).unwrap();
    assert!(before.contains(&old));
    fs::write(&cluster.config, before.replace(&old, &new)).unwrap();
    cluster.nodes[moved].address = new;
    cluster.start(moved);
    let manager = cluster.wait_manager(Duration::from_secs(20));
    cluster.write(manager, "default/api/a.xml", "<api moved=\"yes\"/>");
    cluster.wait_content(moved, "default/api/a.xml", "<api moved=\"yes\"/>", Duration::from_secs(30));
    // And its vote is reached there.
    let other = (0..3).find(|node| *node != manager && *node != moved).unwrap();
    cluster.kill(other);
    let manager = cluster.wait_manager(Duration::from_secs(20));
    cluster.write(manager, "default/api/b.xml", "<api/>");
    for node in [manager, moved] {
        cluster.wait_content(node, "default/api/b.xml", "<api/>", Duration::from_secs(20));
    }
}
