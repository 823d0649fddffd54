//! What somebody changes on a gateway that is not the manager: noticed at once, kept, and brought back or named.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::{THREE, TestCluster, has_problem, row};

const LONG: Duration = Duration::from_secs(30);
/// Far less than the pause between two walks: what was noticed by then was reported.
const AT_ONCE: Duration = Duration::from_secs(15);
const QUICK: &str = "[sync]\ngather = \"100ms\"\ndelete_grace = \"100ms\"\n";

/// Three nodes that had the same content from the start, so that syncd wrote none of it; and which is not the manager.
fn cluster(extra: &str) -> (TestCluster, usize, [usize; 2]) {
    let mut cluster = TestCluster::new(THREE, extra);
    for node in 0..3 {
        for name in ["a", "b", "c", "d"] {
            cluster.write(node, &format!("default/api/{name}.xml"), format!("<api>{name}</api>"));
        }
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    let others = [(manager + 1) % 3, (manager + 2) % 3];
    (cluster, manager, others)
}

fn quarantine(cluster: &TestCluster, node: usize) -> Vec<Value> {
    let (code, json, error) = cluster.cli(node, &["quarantine", "list", "--json"]);
    assert_eq!(code, 0, "{error}");
    serde_json::from_str::<Value>(&json).unwrap().as_array().unwrap().clone()
}

fn kept<'a>(items: &'a [Value], path: &str) -> &'a Value {
    items.iter().find(|item| item["path"] == path).unwrap_or_else(|| panic!("no {path} in {items:?}"))
}

#[test]
fn a_change_by_hand_is_noticed_kept_and_brought_back_on_every_node() {
    let (cluster, manager, others) = cluster(QUICK);
    let generation = cluster.status(manager).unwrap()["generation"].as_u64().unwrap();
    for node in others {
        let api = cluster.nodes[node].root.join("default/api");
        // An edit with an owner, a mode and a time of its own; a new file; a delete; a link; a mode alone.
        fs::write(api.join("a.xml"), "<api>by hand</api>").unwrap();
        chown(api.join("a.xml"), Some(12345), Some(23456)).unwrap();
        fs::set_permissions(api.join("a.xml"), fs::Permissions::from_mode(0o640)).unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        fs::File::options().write(true).open(api.join("a.xml")).unwrap().set_modified(old).unwrap();
        fs::write(api.join("new.xml"), "<api>new</api>").unwrap();
        fs::remove_file(api.join("b.xml")).unwrap();
        std::os::unix::fs::symlink("c.xml", api.join("link.xml")).unwrap();
        fs::set_permissions(api.join("d.xml"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    cluster.wait_equal(&[manager, others[0], others[1]], AT_ONCE);
    for node in others {
        let name = cluster.nodes[node].name.clone();
        cluster.wait("three things in quarantine", AT_ONCE, || {
            cluster.status(node).is_some_and(|status| row(&status, &name).unwrap()["quarantined"] == 3)
        });
        let items = quarantine(&cluster, node);
        let edit = kept(&items, "default/api/a.xml");
        assert_eq!(edit["root"], "synapse-configs");
        assert_eq!(edit["generation"], generation);
        assert_eq!(edit["mode"], "0640");
        assert_eq!((&edit["uid"], &edit["gid"]), (&Value::from(12345), &Value::from(23456)));
        assert_eq!(edit["mtime"], "2017-07-14T02:40:00.000Z");
        assert!(edit["why"].as_str().unwrap().contains("changed on this node"), "{edit}");
        let id = edit["id"].as_str().unwrap();
        let content = fs::read(cluster.nodes[node].data.join("quarantine").join(id).join("content")).unwrap();
        assert_eq!(content, b"<api>by hand</api>");
        kept(&items, "default/api/new.xml");
        kept(&items, "default/api/link.xml");
        // The mode of what syncd did not write is brought back without a new inode.
        let metrics = cluster.get(node, "/metrics").unwrap().body;
        assert!(metrics.contains("syncd_drift_total{root=\"synapse-configs\"} 5"), "{metrics}");
        assert!(metrics.contains("syncd_quarantined_files 3"), "{metrics}");
    }
    assert_eq!(cluster.status(manager).unwrap()["generation"], generation, "no generation came of it");
}

#[test]
fn drift_that_is_only_reported_stays_and_is_named() {
    let (cluster, manager, [node, other]) = cluster(&format!("{QUICK}drift = \"report\"\n"));
    cluster.write(node, "default/api/a.xml", "<api>by hand</api>");
    fs::remove_file(cluster.nodes[node].root.join("default/api/b.xml")).unwrap();
    let name = cluster.nodes[node].name.clone();
    cluster.wait("both to be named", AT_ONCE, || {
        cluster.status(manager).is_some_and(|status| row(&status, &name).unwrap()["drifted"] == 2)
    });
    let status = cluster.status(manager).unwrap();
    assert!(has_problem(&status, "drift"), "{status}");
    let (code, text, _) = cluster.cli(manager, &["status"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("a.xml") && text.contains("b.xml"), "{text}");
    // What the head changes is brought there all the same, the rest stays as somebody left it.
    cluster.write(manager, "default/api/c.xml", "<api>published</api>");
    cluster.wait_content(node, "default/api/c.xml", "<api>published</api>", LONG);
    cluster.wait_content(other, "default/api/c.xml", "<api>published</api>", LONG);
    assert_eq!(cluster.read(node, "default/api/a.xml").unwrap(), b"<api>by hand</api>");
    assert!(cluster.read(node, "default/api/b.xml").is_none());
    assert!(quarantine(&cluster, node).is_empty());
    assert_eq!(row(&cluster.status(node).unwrap(), &name).unwrap()["drifted"], 2);
}

/// Something mounted on a file hides it, also from root.
struct Hidden<'a>(&'a Path);

impl<'a> Hidden<'a> {
    fn new(path: &'a Path, cover: &Path) -> Self {
        fs::write(cover, "mounted").unwrap();
        let status = Command::new("mount").arg("--bind").arg(cover).arg(path).status().unwrap();
        assert!(status.success());
        Self(path)
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.0).status().unwrap();
        assert!(status.success());
    }
}

#[test]
fn what_the_head_passed_by_while_it_could_not_be_read_is_no_drift() {
    let (mut cluster, manager, [node, other]) = cluster(&format!("{QUICK}drift = \"report\"\n"));
    let path = cluster.nodes[node].root.join("default/api/a.xml");
    let cover = cluster.dir.path().join("cover");
    let hidden = Hidden::new(&path, &cover);
    cluster.write(manager, "default/api/a.xml", "<api>second</api>");
    cluster.write(manager, "default/api/b.xml", "<api>second</api>");
    cluster.wait_content(node, "default/api/b.xml", "<api>second</api>", LONG);
    cluster.wait_content(other, "default/api/a.xml", "<api>second</api>", LONG);
    let name = cluster.nodes[node].name.clone();
    cluster.wait("the file to be named as unreadable", LONG, || {
        cluster.status(manager).is_some_and(|status| has_problem(&status, "unreadable"))
    });
    // It is remembered through a restart.
    cluster.stop(node);
    cluster.start(node);
    cluster.wait("the node to be back", LONG, || {
        let status = cluster.status(node);
        status.is_some_and(|status| {
            let row = row(&status, &name).unwrap();
            row["state"] == "in-sync" && row["generation"] == status["generation"]
        })
    });
    assert_eq!(fs::read(&path).unwrap(), b"mounted");
    drop(hidden);
    assert_eq!(fs::read(&path).unwrap(), b"<api>a</api>", "it was under there all the time");
    cluster.wait_content(node, "default/api/a.xml", "<api>second</api>", Duration::from_secs(60));
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert!(quarantine(&cluster, node).is_empty(), "it was syncd's own");
}

#[test]
fn without_room_in_quarantine_drift_is_named_and_hinders_nothing() {
    let (mut cluster, manager, [node, _]) = cluster(QUICK);
    let folder = cluster.nodes[node].data.join("quarantine");
    cluster.stop(node);
    let mount = |options: &str| {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&folder).status().unwrap();
        assert!(status.success());
    };
    mount("size=1m");
    cluster.start(node);
    let name = cluster.nodes[node].name.clone();
    cluster.wait_in_sync(&[manager, node], LONG);
    cluster.write(node, "default/api/a.xml", "<api>by hand</api>");
    cluster.wait("the lack of room to be told", AT_ONCE, || {
        cluster.status(manager).is_some_and(|status| has_problem(&status, "quarantine-full"))
    });
    // Drift whose content is known needs no room, and neither does the next generation.
    cluster.write(node, "default/api/b.xml", "<api>c</api>");
    cluster.write(manager, "default/api/d.xml", "<api>published</api>");
    cluster.wait_content(node, "default/api/d.xml", "<api>published</api>", LONG);
    cluster.wait_content(node, "default/api/b.xml", "<api>b</api>", LONG);
    assert_eq!(cluster.read(node, "default/api/a.xml").unwrap(), b"<api>by hand</api>");
    let status = cluster.status(node).unwrap();
    assert_eq!(row(&status, &name).unwrap()["drifted"], 1, "{status}");
    // With room it goes on by itself.
    assert!(Command::new("mount").args(["-o", "remount,size=64m"]).arg(&folder).status().unwrap().success());
    cluster.wait_content(node, "default/api/a.xml", "<api>a</api>", LONG);
    cluster.wait("the copy", LONG, || {
        cluster.status(node).is_some_and(|status| row(&status, &name).unwrap()["quarantined"] == 1)
    });
    assert_eq!(fs::metadata(folder.join("..")).unwrap().mode() & 0o777, 0o700);
    cluster.stop(node);
    assert!(Command::new("umount").arg(&folder).status().unwrap().success());
}
