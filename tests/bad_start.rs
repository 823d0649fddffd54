//! Daemons that must not start, and say why: file, cause, remedy, exit code.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use support::{THREE, TestCluster};

const LONG: Duration = Duration::from_secs(30);

/// Starts node 0, waits until it ends; its exit code and what it said.
fn refused(cluster: &mut TestCluster) -> (Option<i32>, String) {
    fs::write(&cluster.nodes[0].log, "").unwrap();
    cluster.start(0);
    let code = cluster.wait_end(0, LONG);
    (code, fs::read_to_string(&cluster.nodes[0].log).unwrap())
}

#[test]
fn a_port_in_use() {
    let mut cluster = TestCluster::new(THREE, "");
    let taken = TcpListener::bind(&cluster.nodes[0].address).unwrap();
    let (code, said) = refused(&mut cluster);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("node.listen") && said.contains(&cluster.nodes[0].address) && said.contains("remedy"),
        "{said}"
    );
    drop(taken);
    let _taken = TcpListener::bind(&cluster.nodes[0].http).unwrap();
    let (code, said) = refused(&mut cluster);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("node.http"), "{said}");
}

#[test]
fn a_root_that_is_missing_or_no_folder() {
    let mut cluster = TestCluster::new(THREE, "");
    let root = cluster.nodes[0].root.clone();
    fs::remove_dir(&root).unwrap();
    let (code, said) = refused(&mut cluster);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(root.to_str().unwrap()) && said.contains("remedy"), "{said}");
    fs::write(&root, "a file").unwrap();
    let (code, said) = refused(&mut cluster);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(root.to_str().unwrap()), "{said}");
}

#[test]
fn a_data_folder_in_use() {
    let mut cluster = TestCluster::new(&THREE[..1], "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start(0);
    cluster.wait_in_sync(&[0], LONG);
    let node = &cluster.nodes[0];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_syncd"))
        .args(["run", "--config"])
        .arg(&cluster.config)
        .env("SYNCD_NODE__NAME", &node.name)
        .env("SYNCD_NODE__LISTEN", "127.255.0.1:8730")
        .env("SYNCD_NODE__HTTP", "127.255.0.1:8731")
        .env("SYNCD_NODE__DATA_DIR", &node.data)
        .env("SYNCD_NODE__SOCKET", cluster.dir.path().join("other.sock"))
        .env("SYNCD_ROOT__0__PATH", &node.root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(node.data.to_str().unwrap()), "{said}");
    // The one that was there first is not disturbed.
    cluster.wait_in_sync(&[0], LONG);
}

/// A flipped bit in the vote, the log or the state is found when the daemon starts; nothing is skipped or begun anew.
#[test]
fn a_damaged_raft_record() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_manager(LONG);
    assert_eq!(cluster.stop(0), Some(0));
    let file = cluster.nodes[0].data.join("raft.redb");
    let good = fs::read(&file).unwrap();
    // Every record that stands in the file: the root's name is in none of them, the nodes' addresses are in some.
    let needle = cluster.nodes[0].address.clone().into_bytes();
    let places: Vec<_> = good
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "the log names its members");
    let mut bad = good.clone();
    for at in &places {
        bad[*at] ^= 0x10;
    }
    fs::write(&file, &bad).unwrap();
    let (code, said) = refused(&mut cluster);
    assert!(code.is_some_and(|code| code != 0), "it must not start: {said}");
    assert!(said.contains(file.to_str().unwrap()) && said.contains("damaged"), "{said}");
    fs::write(&file, &good).unwrap();
    cluster.start(0);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
}

#[test]
fn a_file_that_is_no_database() {
    let mut cluster = TestCluster::new(THREE, "");
    fs::create_dir_all(&cluster.nodes[0].data).unwrap();
    let file = cluster.nodes[0].data.join("raft.redb");
    fs::write(&file, "not a database").unwrap();
    let (code, said) = refused(&mut cluster);
    assert!(code.is_some_and(|code| code != 0), "{said}");
    assert!(said.contains(file.to_str().unwrap()), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"not a database", "nothing is begun anew over it");
}
