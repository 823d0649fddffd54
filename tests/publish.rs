//! A change on the manager is on every gateway: kinds of changes, names, and folders in a bad state.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use support::{STEADY, THREE, TestCluster, has_problem, row, snapshot};

const LONG: Duration = Duration::from_secs(30);
const QUICK: &str = "[sync]\ngather = \"100ms\"\ndelete_grace = \"100ms\"\n";

/// Three nodes in sync; node 0 is the manager, for it alone had content.
fn cluster(extra: &str) -> TestCluster {
    let mut cluster = TestCluster::new(THREE, &format!("{extra}{STEADY}"));
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.write(0, "default/synapse.xml", "<definitions/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    cluster
}

#[test]
fn changes_of_every_kind_arrive() {
    let cluster = cluster(QUICK);
    let root = cluster.nodes[0].root.clone();
    cluster.write(0, "default/api/a.xml", "<api>longer than before</api>");
    cluster.write(0, "default/api/empty.xml", "");
    cluster.write(0, "default/local-entries/big.xml", vec![b'x'; 3_000_000]);
    fs::create_dir_all(root.join("default/templates/empty/deep")).unwrap();
    std::os::unix::fs::symlink("a.xml", root.join("default/api/link.xml")).unwrap();
    fs::set_permissions(root.join("default/synapse.xml"), fs::Permissions::from_mode(0o640)).unwrap();
    cluster.wait_equal(&[0, 1, 2], LONG);

    // Kinds that change into one another.
    fs::remove_file(root.join("default/api/link.xml")).unwrap();
    fs::create_dir(root.join("default/api/link.xml")).unwrap();
    cluster.write(0, "default/api/link.xml/inside.xml", "<api/>");
    fs::remove_file(root.join("default/api/empty.xml")).unwrap();
    std::os::unix::fs::symlink("../synapse.xml", root.join("default/api/empty.xml")).unwrap();
    cluster.wait_equal(&[0, 1, 2], LONG);
    fs::remove_dir_all(root.join("default/api/link.xml")).unwrap();
    cluster.write(0, "default/api/link.xml", "a file again");
    fs::rename(root.join("default/api/a.xml"), root.join("default/api/b.xml")).unwrap();
    cluster.wait_equal(&[0, 1, 2], LONG);
}

#[test]
fn names_are_bytes() {
    let cluster = cluster(QUICK);
    let folder = cluster.nodes[0].root.join("default/imports");
    fs::create_dir_all(&folder).unwrap();
    let long = [b'n'; 255];
    let names: [&[u8]; 8] = [
        b"with space.xml",
        b"quote\"'`$(x).xml",
        b"new\nline.xml",
        b"{org.wso2.carbon.connector}gmail.xml",
        b"not-utf8-\xff\xfe.xml",
        b"-rf",
        b"\\back\\slash.xml",
        &long,
    ];
    for name in names {
        fs::write(folder.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let deep = folder.join(["d"; 60].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("deep.xml"), "<deep/>").unwrap();
    cluster.wait_equal(&[0, 1, 2], LONG);
    assert_eq!(snapshot(&cluster.nodes[2].root.join("default/imports")).len(), names.len() + 60 + 1);
}

#[test]
fn what_matches_is_never_touched() {
    let cluster = cluster(QUICK);
    cluster.write(0, "default/api/b.xml", "<api>b</api>");
    cluster.wait_equal(&[0, 1, 2], LONG);
    let before: Vec<_> = (0..3)
        .map(|node| fs::metadata(cluster.nodes[node].root.join("default/api/a.xml")).unwrap())
        .collect();
    // Times and content that stay the same, a chmod, and another file's edit.
    let path = cluster.nodes[0].root.join("default/api/a.xml");
    fs::File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    cluster.write(0, "default/api/b.xml", "<api>new b</api>");
    cluster.wait_equal(&[0, 1, 2], LONG);
    for (node, before) in before.iter().enumerate().skip(1) {
        let after = fs::metadata(cluster.nodes[node].root.join("default/api/a.xml")).unwrap();
        assert_eq!(after.ino(), before.ino(), "the same inode");
        assert_eq!(after.modified().unwrap(), before.modified().unwrap(), "the same time");
        assert_eq!(after.mode() & 0o777, 0o600);
    }
}

/// The gateway sees only whole seconds: each content that a path gets has a later one than the last.
#[test]
fn the_second_advances_with_the_content() {
    let cluster = cluster(QUICK);
    let mut last = [0; 3];
    for version in 0..6 {
        let content = format!("<api>{version}</api>");
        cluster.write(0, "default/api/a.xml", &content);
        if version == 3 {
            // An older file restored from a backup.
            let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
            let path = cluster.nodes[0].root.join("default/api/a.xml");
            fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
        }
        for (node, last) in last.iter_mut().enumerate().skip(1) {
            cluster.wait_content(node, "default/api/a.xml", &content, LONG);
            let second = fs::metadata(cluster.nodes[node].root.join("default/api/a.xml")).unwrap().mtime();
            assert!(second > *last, "second {second} after {last}");
            *last = second;
        }
    }
}

#[test]
fn excluded_files_stay_where_they_are() {
    let mut cluster = TestCluster::new(THREE, "exclude = [\"*.back\", \"**/logs/\"]\n");
    cluster.write(0, "default/api/a.xml", "<api/>");
    for node in 0..3 {
        cluster.write(node, "default/api/a.back", format!("node {node}"));
        cluster.write(node, "default/logs/x.xml", format!("log {node}"));
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.write(0, "default/api/a.xml", "<api>2</api>");
    cluster.wait_content(2, "default/api/a.xml", "<api>2</api>", LONG);
    for node in 0..3 {
        assert_eq!(cluster.read(node, "default/api/a.back").unwrap(), format!("node {node}").as_bytes());
        assert_eq!(cluster.read(node, "default/logs/x.xml").unwrap(), format!("log {node}").as_bytes());
    }
}

#[test]
fn a_worker_that_was_down_catches_up() {
    let mut cluster = cluster(QUICK);
    cluster.kill(2);
    cluster.write(0, "default/api/while-down.xml", "<api/>");
    fs::remove_file(cluster.nodes[0].root.join("default/api/a.xml")).unwrap();
    cluster.wait_equal(&[0, 1], LONG);
    cluster.wait_in_sync(&[0, 1], LONG);
    // What somebody writes on a node that is down is kept, not published and not lost.
    cluster.write(2, "default/api/local.xml", "<mine/>");
    cluster.start(2);
    cluster.wait_equal(&[0, 1, 2], LONG);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let (code, listed, _) = cluster.cli(2, &["quarantine", "list"]);
    assert_eq!(code, 0);
    assert!(listed.contains("default/api/local.xml"), "{listed}");
    assert!(!listed.contains("default/api/a.xml"), "published content needs no copy: {listed}");
    assert_eq!(cluster.read(0, "default/api/local.xml"), None);
}

#[test]
fn a_listed_worker_receives_and_never_votes() {
    let nodes = &[("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate"), ("gw4", "worker")];
    let mut cluster = TestCluster::new(nodes, QUICK);
    cluster.write(0, "default/api/a.xml", "<api/>");
    (0..3).for_each(|node| cluster.start(node));
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.start(3);
    cluster.wait_in_sync(&[0, 1, 2, 3], LONG);
    cluster.write(0, "default/api/a.xml", "<api>2</api>");
    cluster.wait_content(3, "default/api/a.xml", "<api>2</api>", LONG);
    cluster.kill(3);
    cluster.write(0, "default/api/a.xml", "<api>3</api>");
    cluster.wait_content(1, "default/api/a.xml", "<api>3</api>", LONG);
    cluster.start(3);
    cluster.wait_content(3, "default/api/a.xml", "<api>3</api>", LONG);
    let status = cluster.status(0).unwrap();
    assert_eq!(row(&status, "gw4").unwrap()["role"], "worker");
}

#[test]
fn formation_waits_for_every_listed_node_and_names_the_missing_one() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(2, "default/api/a.xml", "<api/>");
    cluster.start(2);
    cluster.start(1);
    cluster.wait("the missing node to be named", LONG, || {
        cluster.status(2).is_some_and(|status| status["problems"].to_string().contains("gw1"))
    });
    assert_eq!(cluster.manager(), None);
    cluster.start(0);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 2, "the only node with content is the source");
    cluster.wait_equal(&[0, 1, 2], LONG);
}

#[test]
fn candidates_with_different_content_wait_for_a_person() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<one/>");
    cluster.write(1, "default/api/a.xml", "<other/>");
    cluster.start_all();
    cluster.wait("needs-seed", LONG, || {
        cluster
            .status(2)
            .is_some_and(|status| has_problem(&status, "needs-seed") && status["health"] == "critical")
    });
    // Each node tells its own row as its next look finds it.
    cluster.wait("gw1's row to say so", LONG, || {
        cluster
            .status(0)
            .is_some_and(|status| row(&status, "gw1").is_some_and(|found| found["state"] == "needs-seed"))
    });
    assert_eq!(cluster.manager(), None);
    assert_eq!(cluster.read(0, "default/api/a.xml").unwrap(), b"<one/>");
    assert_eq!(cluster.read(1, "default/api/a.xml").unwrap(), b"<other/>");
}

#[test]
fn an_emptied_or_missing_root_publishes_nothing() {
    let cluster = cluster(QUICK);
    let root = cluster.nodes[0].root.clone();
    let aside = root.with_file_name("aside");
    let before = snapshot(&cluster.nodes[1].root);

    fs::rename(&root, &aside).unwrap();
    cluster.wait("the missing root to be named", LONG, || {
        cluster.status(0).is_some_and(|status| has_problem(&status, "root-missing"))
    });
    fs::create_dir(&root).unwrap();
    cluster.wait("a strange empty folder not to be taken for the root", LONG, || {
        cluster.status(0).is_some_and(|status| has_problem(&status, "root-missing"))
    });
    assert_eq!(snapshot(&cluster.nodes[1].root), before);
    fs::remove_dir(&root).unwrap();
    fs::rename(&aside, &root).unwrap();
    cluster.wait_manager(LONG);
    cluster.wait_in_sync(&[0, 1, 2], LONG);

    // Emptied in place, its work area still there.
    let manager = cluster.wait_manager(LONG);
    let root = cluster.nodes[manager].root.clone();
    fs::remove_dir_all(root.join("default")).unwrap();
    cluster.wait("the emptied root to be named", LONG, || {
        cluster.status(manager).is_some_and(|status| has_problem(&status, "root-emptied"))
    });
    let other = (manager + 1) % 3;
    assert_eq!(snapshot(&cluster.nodes[other].root), before);
}

#[test]
fn many_deletes_are_held_while_the_rest_flows() {
    let mut cluster =
        TestCluster::new(THREE, "[sync]\ngather = \"100ms\"\ndelete_grace = \"2s\"\nmax_delete = 5\n");
    for n in 0..20 {
        cluster.write(0, &format!("default/api/a{n}.xml"), format!("<api>{n}</api>"));
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    for n in 0..8 {
        fs::remove_file(cluster.nodes[0].root.join(format!("default/api/a{n}.xml"))).unwrap();
    }
    cluster.write(0, "default/api/a19.xml", "<api>edited</api>");
    cluster.wait_content(1, "default/api/a19.xml", "<api>edited</api>", LONG);
    cluster.wait("the held deletes to be named", LONG, || {
        cluster.status(0).is_some_and(|status| has_problem(&status, "mass-delete"))
    });
    assert_eq!(
        snapshot(&cluster.nodes[1].root).len(),
        22,
        "two folders and all twenty files are still there"
    );
}

#[test]
fn a_file_still_open_for_writing_is_not_published() {
    let cluster = cluster("");
    let path = cluster.nodes[0].root.join("default/api/half.xml");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"<api>first half").unwrap();
    file.sync_all().unwrap();
    // Another file's edit passes it while it is open.
    cluster.write(0, "default/api/a.xml", "<api>passes</api>");
    cluster.wait_content(1, "default/api/a.xml", "<api>passes</api>", LONG);
    cluster.wait("the open file to be named", LONG, || {
        cluster.status(0).is_some_and(|status| has_problem(&status, "busy-file"))
    });
    assert_eq!(cluster.read(1, "default/api/half.xml"), None);
    file.write_all(b" second half</api>").unwrap();
    drop(file);
    for node in 1..3 {
        cluster.wait_content(node, "default/api/half.xml", "<api>first half second half</api>", LONG);
    }
}

#[test]
fn sockets_and_pipes_are_passed_over() {
    let cluster = cluster(QUICK);
    let folder = cluster.nodes[0].root.join("default/api");
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("a.socket")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.join("a.pipe")).status().unwrap();
    assert!(made.success());
    cluster.write(0, "default/api/b.xml", "<api/>");
    cluster.wait_content(1, "default/api/b.xml", "<api/>", LONG);
    assert!(!cluster.nodes[1].root.join("default/api/a.socket").exists());
    assert!(!cluster.nodes[1].root.join("default/api/a.pipe").exists());
}

#[test]
fn a_link_that_leads_outside_is_named_and_stays_at_home() {
    let cluster = cluster(QUICK);
    std::os::unix::fs::symlink("/etc/passwd", cluster.nodes[0].root.join("default/api/absolute.xml"))
        .unwrap();
    std::os::unix::fs::symlink("../../../outside", cluster.nodes[0].root.join("default/api/up.xml")).unwrap();
    cluster.write(0, "default/api/b.xml", "<api/>");
    cluster.wait_content(1, "default/api/b.xml", "<api/>", LONG);
    cluster.wait("the links to be named", LONG, || {
        cluster.status(0).is_some_and(|status| has_problem(&status, "unsafe-link"))
    });
    for name in ["absolute.xml", "up.xml"] {
        assert!(fs::symlink_metadata(cluster.nodes[1].root.join("default/api").join(name)).is_err());
    }
}

#[test]
fn files_that_change_all_the_time_end_equal() {
    let cluster = cluster(QUICK);
    let root = cluster.nodes[0].root.clone();
    let end = Instant::now() + Duration::from_secs(3);
    let mut turn = 0usize;
    while Instant::now() < end {
        // Grows, shrinks, vanishes and comes back, as often as the disk allows.
        let path = root.join(format!("default/api/busy{}.xml", turn % 5));
        match turn % 7 {
            0..4 => fs::write(&path, vec![b'a' + (turn % 26) as u8; 1 + (turn * 7919) % 50_000]).unwrap(),
            4 | 5 if path.exists() => {
                fs::File::options().write(true).open(&path).unwrap().set_len(3).unwrap()
            }
            _ if path.exists() => fs::remove_file(&path).unwrap(),
            _ => {}
        }
        turn += 1;
    }
    cluster.wait_equal(&[0, 1, 2], LONG);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
}

#[test]
fn an_idle_cluster_makes_no_generation() {
    let cluster = cluster("");
    let before = cluster.status(0).unwrap();
    // Idle for longer than several renewals, reports and rescans: the absence of an event has no other observable.
    std::thread::sleep(Duration::from_secs(5));
    let after = cluster.status(0).unwrap();
    assert_eq!(before["generation"], after["generation"]);
    assert_eq!(before["epoch"], after["epoch"]);
}

/// Text, JSON and metrics say the same.
#[test]
fn status_and_metrics_agree() {
    let mut cluster = cluster("");
    cluster.wait("all to be well", LONG, || cluster.status(1).is_some_and(|status| status["health"] == "ok"));
    let status = cluster.status(1).unwrap();
    let metrics = cluster.get(1, "/metrics").unwrap();
    assert_eq!(metrics.status, 200);
    let value = |name: &str| {
        metrics
            .body
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{name} in {}", metrics.body))
            .parse::<f64>()
            .unwrap()
    };
    assert_eq!(value("syncd_generation"), status["generation"].as_f64().unwrap());
    assert_eq!(value("syncd_head_generation"), status["generation"].as_f64().unwrap());
    assert_eq!(value("syncd_epoch"), status["epoch"].as_f64().unwrap());
    assert_eq!(value("syncd_is_manager"), 0.0);
    assert_eq!(value("syncd_in_sync"), 1.0);
    assert_eq!(value("syncd_node_up{peer=\"gw1\"}"), 1.0);
    let files = row(&status, "gw2").unwrap()["roots"][0]["files"].as_f64().unwrap();
    assert_eq!(value("syncd_root_files{root=\"synapse-configs\"}"), files);
    let (code, text, _) = cluster.cli(1, &["status"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("gw1") && text.contains(&status["generation"].to_string()), "{text}");
    let (code, text, _) = cluster.cli(1, &["status", "--wait", "--timeout", "10s"]);
    assert_eq!(code, 0, "{text}");

    cluster.kill(2);
    cluster.wait("the dead node to be named", LONG, || {
        cluster.status(1).is_some_and(|status| {
            status["health"] == "degraded"
                && row(&status, "gw3").is_some_and(|row| row["state"] == "unreachable")
        })
    });
    assert!(cluster.get(1, "/metrics").unwrap().body.contains("syncd_node_up{peer=\"gw3\"} 0"));
    assert_eq!(cluster.cli(1, &["status"]).0, 1);
    let (code, _, error) = cluster.cli(1, &["status", "--wait", "--generation", "100000", "--timeout", "1s"]);
    assert_eq!(code, 1);
    assert!(error.contains("gw3"), "the laggards are named: {error}");
}

#[test]
fn load_balancer_paths() {
    let mut cluster = cluster("");
    let expected = [
        (0, "/live", 200),
        (0, "/ready", 200),
        (0, "/manager", 200),
        (0, "/worker", 503),
        (1, "/manager", 503),
        (1, "/worker", 200),
    ];
    for (node, path, status) in expected {
        cluster.wait(path, LONG, || cluster.get(node, path).is_some_and(|answer| answer.status == status));
    }
    cluster.wait("a lease in the header", LONG, || {
        let answer = cluster.get(0, "/manager").filter(|answer| answer.status == 200);
        answer.is_some_and(|answer| answer.headers["syncd-lease"].split_whitespace().count() == 3)
    });

    // Without a quorum nobody is manager, and every gateway stays in the load balancer.
    cluster.kill(1);
    cluster.kill(2);
    cluster.wait("no manager without a quorum", LONG, || {
        cluster.get(0, "/manager").is_some_and(|answer| answer.status == 503)
    });
    cluster.wait("/ready", LONG, || cluster.get(0, "/ready").is_some_and(|answer| answer.status == 200));
    assert_eq!(cluster.stop(0), Some(0), "asked to stop, a daemon ends in order");
}

/// What can't be read (here: too large to be carried) is named, deletes nothing and stops nothing else.
#[test]
fn an_unreadable_file_is_named_and_what_it_was_stays() {
    let mut cluster = cluster(QUICK);
    let path = cluster.nodes[0].root.join("default/api/a.xml");
    fs::File::options().write(true).open(&path).unwrap().set_len((1 << 30) + 1).unwrap();
    cluster.write(0, "default/api/b.xml", "<api>passes</api>");
    cluster.wait_content(1, "default/api/b.xml", "<api>passes</api>", LONG);
    cluster.wait("the file to be named", LONG, || {
        cluster.status(0).is_some_and(|status| has_problem(&status, "unreadable"))
    });
    assert_eq!(cluster.read(1, "default/api/a.xml").unwrap(), b"<api/>");
    // Also after a restart, which knows of no former content.
    cluster.kill(0);
    cluster.start(0);
    let manager = cluster.wait_manager(LONG);
    cluster.write(manager, "default/api/b.xml", "<api>still passes</api>");
    cluster.wait_content(1, "default/api/b.xml", "<api>still passes</api>", LONG);
    assert_eq!(cluster.read(1, "default/api/a.xml").unwrap(), b"<api/>");
}
