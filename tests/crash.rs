//! Daemons that die at the worst moments: crash points compiled in by the test feature, one per step of a change.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]
#![cfg(feature = "crash-points")]

mod support;

use std::time::Duration;

use support::{THREE, TestCluster};

const LONG: Duration = Duration::from_secs(30);

/// The manager dies at `point` while publishing: afterwards all nodes agree, and the edit is either everywhere or, if
/// it was never committed, kept on the node that had it.
fn manager_dies_at(point: &str) {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api>before</api>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    // The crash point is a variable of the next start, so the manager is started anew with it.
    let manager = cluster.wait_manager(LONG);
    cluster.kill(manager);
    cluster.nodes[manager].env.insert("SYNCD_CRASH".into(), point.into());
    cluster.start(manager);
    let manager = await_manager_with(&mut cluster, point);
    cluster.write(manager, "default/api/a.xml", "<api>after</api>");
    assert_eq!(cluster.wait_end(manager, LONG), None, "the daemon ended by the crash point's signal");
    cluster.nodes[manager].env.clear();

    let next = cluster.wait_manager(LONG);
    assert_ne!(next, manager);
    cluster.start(manager);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_equal(&[0, 1, 2], LONG);
    let kept = cluster.read(next, "default/api/a.xml").unwrap();
    if kept == b"<api>before</api>" {
        let (code, listed, _) = cluster.cli(manager, &["quarantine", "list"]);
        assert_eq!(code, 0);
        assert!(listed.contains("default/api/a.xml"), "the edit that was never committed is kept: {listed}");
    } else {
        assert_eq!(kept, b"<api>after</api>");
    }
    if point == "publish.after-commit" {
        assert_eq!(kept, b"<api>after</api>", "a commit is kept whoever dies");
    }
}

/// Waits until a node that was started with the crash point is manager, moving the office by killing others.
fn await_manager_with(cluster: &mut TestCluster, point: &str) -> usize {
    for _ in 0..6 {
        let manager = cluster.wait_manager(LONG);
        cluster.wait_in_sync(&[0, 1, 2], LONG);
        if cluster.nodes[manager].env.get("SYNCD_CRASH").is_some_and(|set| set == point) {
            return manager;
        }
        cluster.kill(manager);
        cluster.nodes[manager].env.insert("SYNCD_CRASH".into(), point.into());
        cluster.start(manager);
    }
    cluster.fail("no node with the crash point became manager");
}

#[test]
fn manager_dies_before_staging() {
    manager_dies_at("publish.before-stage");
}

#[test]
fn the_manager_dies_while_others_write_what_it_has_not() {
    manager_dies_at("publish.before-own-pin");
}

#[test]
fn manager_dies_after_staging() {
    manager_dies_at("publish.after-stage");
}

#[test]
fn manager_dies_after_the_commit() {
    manager_dies_at("publish.after-commit");
}

/// A worker dies at `point` while it applies twenty files: its next start brings it to the whole generation.
fn worker_dies_at(point: &str) {
    let mut cluster = TestCluster::new(THREE, "");
    for n in 0..20 {
        cluster.write(0, &format!("default/api/a{n}.xml"), format!("<api>before {n}</api>"));
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    let worker = (manager + 1) % 3;
    cluster.kill(worker);
    cluster.nodes[worker].env.insert("SYNCD_CRASH".into(), point.into());
    cluster.start(worker);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    for n in 0..20 {
        cluster.write(manager, &format!("default/api/a{n}.xml"), format!("<api>after {n}</api>"));
    }
    cluster.write(manager, "default/api/new.xml", "<api>new</api>");
    assert_eq!(cluster.wait_end(worker, LONG), None, "the daemon ended by the crash point's signal");
    for n in 0..20 {
        let content = cluster.read(worker, &format!("default/api/a{n}.xml")).unwrap();
        assert!(
            content == format!("<api>before {n}</api>").as_bytes()
                || content == format!("<api>after {n}</api>").as_bytes(),
            "whole old or whole new: {content:?}"
        );
    }
    cluster.nodes[worker].env.clear();
    cluster.start(worker);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_equal(&[0, 1, 2], LONG);
    let (code, listed, _) = cluster.cli(worker, &["quarantine", "list"]);
    assert_eq!(code, 0);
    assert!(!listed.contains("a1.xml"), "published content needs no quarantine: {listed}");
}

#[test]
fn worker_dies_before_staging_files() {
    worker_dies_at("apply.before-stage");
}

#[test]
fn worker_dies_after_staging_files() {
    worker_dies_at("apply.after-stage");
}

#[test]
fn worker_dies_between_two_renames() {
    worker_dies_at("apply.mid-rename:4");
}

#[test]
fn worker_dies_after_the_renames() {
    worker_dies_at("apply.after-rename");
}

#[test]
fn worker_dies_between_contents_and_index() {
    worker_dies_at("store.before-index");
}

#[test]
fn worker_dies_after_the_index() {
    worker_dies_at("store.after-index");
}

#[test]
fn worker_dies_after_the_record() {
    worker_dies_at("apply.after-record");
}

/// The node that forms the cluster dies on the way: its next start goes on where it stopped.
#[test]
fn the_founder_dies() {
    for point in ["cluster.form.after-record", "cluster.before-initialize"] {
        let mut cluster = TestCluster::new(THREE, "");
        cluster.write(1, "default/api/a.xml", "<api/>");
        cluster.nodes[0].env.insert("SYNCD_CRASH".into(), point.into());
        cluster.start_all();
        assert_eq!(cluster.wait_end(0, LONG), None, "{point}");
        cluster.nodes[0].env.clear();
        cluster.start(0);
        cluster.wait_in_sync(&[0, 1, 2], LONG);
        assert_eq!(cluster.read(2, "default/api/a.xml").as_deref(), Some(&b"<api/>"[..]));
    }
}
