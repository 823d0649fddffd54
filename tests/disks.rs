//! Full and read-only disks, on real small file systems: the node says why, stays whole, and goes on by itself.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{THREE, TestCluster};

const LONG: Duration = Duration::from_secs(60);

/// A small file system of its own; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// None where nothing may be mounted: such a test is then left out, and says so.
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={megabytes}m,mode=0755");
        if mount(&["-t", "tmpfs", "-o", &size, "syncd-test"], at) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("left out: mounting needs root");
        None
    }

    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}")], &self.0), "remount {how}");
    }

    /// Leaves `left` bytes.
    fn fill(&self, left: u64) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        let mut piece = vec![7_u8; 64 << 10];
        while !piece.is_empty() {
            match file.write(&piece) {
                Ok(written) if written > 0 => {}
                _ => piece.truncate(piece.len() / 2),
            }
        }
        let full = file.metadata().unwrap().len();
        file.set_len(full.saturating_sub(left)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The daemons are gone before their disks: a busy one is let go of by the kernel later.
        let ended = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(ended.is_ok_and(|status| status.success()));
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    Command::new("mount").args(arguments).arg(at).output().is_ok_and(|output| output.status.success())
}

/// The problem with this code in the node's own row.
fn problem(cluster: &TestCluster, node: usize, code: &str) -> Option<Value> {
    let status = cluster.status(node)?;
    let row = support::row(&status, &cluster.nodes[node].name)?;
    row["problems"].as_array()?.iter().find(|problem| problem["code"] == code).cloned()
}

fn ready(cluster: &TestCluster, node: usize) -> bool {
    cluster.get(node, "/ready").is_some_and(|answer| answer.status == 200)
}

fn big(version: usize) -> String {
    format!("<api>{version}{}</api>", "x".repeat(300 << 10))
}

/// gw3 has its root on a disk of its own; `hurt` makes it unusable, `mend` usable again.
fn a_worker_whose_root(hurt: impl Fn(&Disk), mend: impl Fn(&Disk), says: &str, remedy: &str) {
    let mut cluster = TestCluster::new(THREE, "[sync]\nready_lag = \"1s\"\n");
    let Some(disk) = Disk::mount(&cluster.nodes[2].root, 8) else { return };
    cluster.write(0, "default/api/a.xml", big(0));
    cluster.write(0, "default/api/b.xml", big(0));
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    assert_ne!(manager, 2, "the candidate with content is manager");
    hurt(&disk);
    cluster.write(manager, "default/api/a.xml", big(1));
    cluster.write(manager, "default/api/b.xml", big(1));
    let other = 1 - manager;
    cluster.wait_content(other, "default/api/b.xml", big(1), LONG);
    let mut found = None;
    cluster.wait("the problem", LONG, || {
        found = problem(&cluster, 2, "apply-failed");
        found.is_some()
    });
    let found = found.unwrap();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    assert!(text("message").contains(says) && text("message").contains(".xml"), "{found}");
    assert!(text("remedy").contains(remedy), "{found}");
    cluster.wait("not ready, for others are better off", LONG, || !ready(&cluster, 2));
    cluster.wait("the others ready", LONG, || ready(&cluster, manager) && ready(&cluster, other));
    for path in ["default/api/a.xml", "default/api/b.xml"] {
        assert_eq!(cluster.read(2, path).as_deref(), Some(big(0).as_bytes()), "whole at the old generation");
    }
    mend(&disk);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_equal(&[0, 1], LONG);
    cluster.wait_content(2, "default/api/b.xml", big(1), LONG);
    cluster
        .wait("ready again", LONG, || ready(&cluster, 2) && problem(&cluster, 2, "apply-failed").is_none());
    drop(cluster);
    drop(disk);
}

#[test]
fn a_worker_with_a_full_root_stays_whole_and_catches_up() {
    a_worker_whose_root(|disk| disk.fill(200 << 10), Disk::free, "No space left", "free space");
}

#[test]
fn a_worker_with_a_read_only_root_stays_whole_and_catches_up() {
    let (ro, rw) = (|disk: &Disk| disk.remount("ro"), |disk: &Disk| disk.remount("rw"));
    a_worker_whose_root(ro, rw, "Read-only file system", "writable");
}

#[test]
fn a_voter_with_a_full_store_says_so_and_the_others_go_on() {
    let mut cluster = TestCluster::new(THREE, "");
    let Some(disk) = Disk::mount(&cluster.nodes[2].data.join("store"), 64) else { return };
    cluster.write(0, "default/api/a.xml", big(0));
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    let epoch = cluster.status(manager).unwrap()["epoch"].clone();
    disk.fill(0);
    for version in 1..5 {
        cluster.write(manager, "default/api/a.xml", big(version));
        cluster.wait_content(1 - manager, "default/api/a.xml", big(version), LONG);
    }
    let mut found = None;
    cluster.wait("the problem", LONG, || {
        found = problem(&cluster, 2, "store-full");
        found.is_some()
    });
    let found = found.unwrap();
    assert!(found["message"].as_str().unwrap().contains("data/store"), "{found}");
    assert!(found["remedy"].as_str().unwrap().contains("free space"), "{found}");
    assert_eq!(cluster.read(2, "default/api/a.xml").as_deref(), Some(big(0).as_bytes()));
    assert!(cluster.is_running(2));
    disk.free();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_content(2, "default/api/a.xml", big(4), LONG);
    cluster.wait("no problem any more", LONG, || problem(&cluster, 2, "store-full").is_none());
    assert_eq!(cluster.status(manager).unwrap()["epoch"], epoch, "nobody else was appointed");
    drop(cluster);
    drop(disk);
}

#[test]
fn a_voter_whose_log_has_no_room_ends_with_a_clear_line_and_comes_back() {
    let mut cluster = TestCluster::new(THREE, "");
    let Some(disk) = Disk::mount(&cluster.nodes[2].data, 64) else { return };
    cluster.write(0, "default/api/a.xml", big(0));
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    disk.fill(0);
    // What the file of the log still has free inside lasts for some entries.
    let mut version = 0;
    let deadline = Instant::now() + LONG;
    while cluster.is_running(2) {
        assert!(Instant::now() < deadline, "the log goes on without room");
        version += 1;
        let text = format!("<api>{version}</api>");
        cluster.write(manager, "default/api/b.xml", &text);
        cluster.wait_content(1 - manager, "default/api/b.xml", &text, LONG);
    }
    let code = cluster.wait_end(2, LONG);
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    let log = fs::read_to_string(&cluster.nodes[2].log).unwrap();
    let named = |line: &&str| line.contains("raft.redb") && line.contains("No space left");
    assert!(log.lines().any(|line| named(&line)), "{log}");
    let last = format!("<api>{version}</api>");
    cluster.wait_content(1 - manager, "default/api/b.xml", &last, LONG);
    disk.free();
    cluster.start(2);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_content(2, "default/api/b.xml", &last, LONG);
    drop(cluster);
    drop(disk);
}
