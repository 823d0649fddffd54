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
use support::{STEADY, THREE, TestCluster, has_problem, row};

const LONG: Duration = Duration::from_secs(30);
/// Far less than the pause between two walks: what was noticed by then was reported.
const AT_ONCE: Duration = Duration::from_secs(25);
const QUICK: &str = "[sync]\ngather = \"100ms\"\ndelete_grace = \"100ms\"\n";

/// Three nodes that had the same content from the start, so that syncd wrote none of it; and which is not the manager.
fn cluster(extra: &str) -> (TestCluster, usize, [usize; 2]) {
    let mut cluster = TestCluster::new(THREE, &format!("{extra}{STEADY}"));
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
        // An edit with an owner, a mode and a time of its own; a new file; a delete; a link; a mode alone. The edit comes
        // whole: it may be noticed within milliseconds.
        let edit = cluster.dir.path().join("edit");
        fs::write(&edit, "<api>by hand</api>").unwrap();
        chown(&edit, Some(12345), Some(23456)).unwrap();
        fs::set_permissions(&edit, fs::Permissions::from_mode(0o640)).unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        fs::File::options().write(true).open(&edit).unwrap().set_modified(old).unwrap();
        fs::rename(&edit, api.join("a.xml")).unwrap();
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
    cluster.wait("one drifted file left", LONG, || {
        cluster.status(node).is_some_and(|status| row(&status, &name).unwrap()["drifted"] == 1)
    });
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

/// Makes a change by hand and returns the name under which it is kept.
fn keep(cluster: &TestCluster, node: usize, path: &str, content: &str) -> String {
    cluster.write(node, path, content);
    let mut id = None;
    cluster.wait("the change by hand to be kept", LONG, || {
        let items = quarantine(cluster, node);
        let hash = blake3::hash(content.as_bytes()).to_hex().to_string();
        let found = items.iter().find(|item| item["path"] == path && item["hash"] == hash);
        id = found.map(|item| item["id"].as_str().unwrap().to_owned());
        id.is_some()
    });
    id.unwrap()
}

#[track_caller]
fn refused(cluster: &TestCluster, node: usize, arguments: &[&str], why: &str) {
    let (code, told, error) = cluster.cli(node, &[&["quarantine", "restore"], arguments].concat());
    assert!(code == 1 && error.contains(why) && error.contains("remedy: "), "{code}: {told}{error}");
}

#[test]
fn what_is_kept_is_shown_and_restored_from_any_node() {
    let extra = format!(
        "exclude = [\"*.back\"]\nper_node = [\"default/sequences/own.xml\"]\n{QUICK}max_delete = 50\n"
    );
    let (cluster, manager, [node, other]) = cluster(&extra);
    let all = [manager, node, other];
    let id = keep(&cluster, node, "default/api/a.xml", "<api>a</api>\n<by-hand/>\n");
    cluster.wait_content(node, "default/api/a.xml", "<api>a</api>", LONG);

    let (code, told, error) = cluster.cli(node, &["quarantine", "show", &id]);
    assert_eq!(code, 0, "{error}");
    let place = format!("synapse-configs:default/api/a.xml on {}", cluster.nodes[node].name);
    for part in
        [&id, &place, "another content; see --diff", "changed on this node", "<by-hand/>", "quarantine/"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let (_, told, _) = cluster.cli(node, &["quarantine", "show", &id, "--diff"]);
    assert!(told.contains("+<by-hand/>") && told.contains("--- published"), "{told}");
    let (_, told, _) = cluster.cli(node, &["quarantine", "show", &id[..20], "--content"]);
    assert_eq!(told, "<api>a</api>\n<by-hand/>\n");
    let (code, _, error) = cluster.cli(other, &["quarantine", "show", &id]);
    assert!(code == 1 && error.contains("no version"), "{error}");

    let before = cluster.status(manager).unwrap()["generation"].as_u64().unwrap();
    let (code, told, error) = cluster.cli(node, &["quarantine", "restore", &id]);
    assert_eq!(code, 0, "{told}{error}");
    let name = &cluster.nodes[manager].name;
    assert!(told.contains(&format!("{name} published it as generation {}", before + 1)), "{told}");
    cluster.wait_equal(&all, LONG);
    for node in all {
        assert_eq!(cluster.read(node, "default/api/a.xml").unwrap(), b"<api>a</api>\n<by-hand/>\n");
    }
    assert_eq!(quarantine(&cluster, node).len(), 1, "it stays kept");
    refused(&cluster, node, &[&id], "has this content at synapse-configs:default/api/a.xml already");

    // Never over something newer without saying so.
    cluster.write(manager, "default/api/a.xml", "<api>newer</api>");
    for node in all {
        cluster.wait_content(node, "default/api/a.xml", "<api>newer</api>", LONG);
    }
    refused(&cluster, node, &[&id], "was changed between generation");
    refused(&cluster, node, &[&id, "--as", "default/api/b.xml"], "is there already");
    assert_eq!(cluster.read(manager, "default/api/a.xml").unwrap(), b"<api>newer</api>");
    let (code, _, error) = cluster.cli(node, &["quarantine", "restore", &id, "--over-newer"]);
    assert_eq!(code, 0, "{error}");
    for node in all {
        cluster.wait_content(node, "default/api/a.xml", "<api>a</api>\n<by-hand/>\n", LONG);
    }
    // To another path, in a folder that is not there yet.
    let (code, _, error) =
        cluster.cli(node, &["quarantine", "restore", &id, "--as", "default/new/deep/c.xml"]);
    assert_eq!(code, 0, "{error}");
    for node in all {
        cluster.wait_content(node, "default/new/deep/c.xml", "<api>a</api>\n<by-hand/>\n", LONG);
    }
    cluster.wait_equal(&all, LONG);

    // What is never published is not restored.
    refused(&cluster, node, &[&id, "--as", "default/api/c.xml.back"], "is excluded by the rules");
    refused(&cluster, node, &[&id, "--as", "default/sequences/own.xml"], "differs per node by the rules");
    refused(&cluster, node, &[&id, "--as", "../outside"], "is no path of an artifact");
    refused(&cluster, node, &[&id, "--as", ".syncd/member"], "");
    refused(&cluster, node, &[&id, "--as", "default/api"], "is a folder on the manager");
    refused(&cluster, node, &[&id, "--as", "default/api/b.xml/c.xml"], "is no folder on the manager");
    assert_eq!(cluster.cli(node, &["pause"]).0, 0);
    cluster.wait("the pause", LONG, || {
        cluster.status(manager).is_some_and(|status| has_problem(&status, "paused"))
    });
    refused(&cluster, node, &[&id, "--as", "default/api/e.xml"], "paused");
    assert_eq!(cluster.cli(node, &["resume"]).0, 0);
    cluster.wait("the end of the pause", LONG, || {
        cluster.status(manager).is_some_and(|status| !has_problem(&status, "paused"))
    });

    // Content that is not what its record says is not taken in.
    let content = cluster.nodes[node].data.join("quarantine").join(&id).join("content");
    fs::write(&content, "<api>a</api>\n<tampered>").unwrap();
    refused(&cluster, node, &[&id, "--as", "default/api/e.xml"], "could not store it");
    assert!(all.iter().all(|node| cluster.read(*node, "default/api/e.xml").is_none()));
}

/// The node that keeps it is itself the manager by the time that a person asks.
#[test]
fn a_manager_restores_what_it_kept_before() {
    let nodes = [("gw1", "candidate"), ("gw2", "candidate"), ("w", "witness")];
    let mut cluster = TestCluster::new(&nodes, QUICK);
    for node in 0..2 {
        cluster.write(node, "default/api/a.xml", "<api/>");
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1], LONG);
    let manager = cluster.wait_manager(LONG);
    let heir = 1 - manager;
    let id = keep(&cluster, heir, "default/api/new.xml", "<api>new</api>");
    cluster.kill(manager);
    cluster.wait("the other to be manager", LONG, || cluster.manager() == Some(heir));
    let (code, told, error) = cluster.cli(heir, &["quarantine", "restore", &id]);
    assert_eq!(code, 0, "{told}{error}");
    cluster.start(manager);
    cluster.wait_content(manager, "default/api/new.xml", "<api>new</api>", LONG);
}
