//! Which folder is a node's own, told by the mark in it, with real daemons.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use support::{THREE, TestCluster, has_problem, wait_problem};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_copied_root_and_a_shared_one_are_told_apart() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(Duration::from_secs(20));
    let second = (0..3).find(|node| *node != manager).unwrap();
    let own = cluster.nodes[second].root.clone();

    // The manager's folder, with everything in it, where this node's was.
    cluster.kill(second);
    let away = own.with_extension("away");
    fs::rename(&own, &away).unwrap();
    let copied = Command::new("cp").arg("-a").arg(&cluster.nodes[manager].root).arg(&own).status().unwrap();
    assert!(copied.success());
    cluster.start(second);
    wait_problem(&cluster, second, "copied-root", "a folder of its own");
    assert!(!has_problem(&cluster.status(second).unwrap(), "shared-root"));

    // The manager's folder itself.
    cluster.kill(second);
    cluster.nodes[second].root = cluster.nodes[manager].root.clone();
    cluster.start(second);
    wait_problem(&cluster, second, "shared-root", "shared-fs");
    let said = cluster.status(second).unwrap();
    assert!(!has_problem(&said, "copied-root"), "{said}");
    // The other one goes on: it is its folder.
    cluster.write(manager, "default/api/a.xml", "<api after=\"yes\"/>");
    let third = (0..3).find(|node| *node != manager && *node != second).unwrap();
    cluster.wait_content(third, "default/api/a.xml", "<api after=\"yes\"/>", LONG);
    assert!(!has_problem(&cluster.status(manager).unwrap(), "root-missing"));

    // Its own folder is taken up again.
    cluster.kill(second);
    fs::remove_dir_all(&own).unwrap();
    fs::rename(&away, &own).unwrap();
    cluster.nodes[second].root = own;
    cluster.start(second);
    cluster.wait_content(second, "default/api/a.xml", "<api after=\"yes\"/>", LONG);
}
