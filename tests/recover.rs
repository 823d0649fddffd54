//! A majority lost for good, and forming without everybody: with real daemons, by the commands that status names.
#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::Value;
use support::{THREE, TestCluster, has_problem, row, wait_problem};

const LONG: Duration = Duration::from_secs(40);

/// Waits until a problem's remedy, whichever node it is about, has `words`.
fn wait_word(cluster: &TestCluster, node: usize, code: &str, words: &str) {
    cluster.wait(&format!("{code} with {words:?}"), LONG, || {
        let Some(status) = cluster.status(node) else { return false };
        let mut problems = status["problems"].as_array().into_iter().flatten();
        problems.any(|found| {
            found["code"] == code && found["remedy"].as_str().is_some_and(|remedy| remedy.contains(words))
        })
    });
}

/// The commands between backquotes.
fn commands(remedy: &str) -> Vec<String> {
    remedy.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Does to a host what a person there would: systemctl is the test's own start and stop.
fn obey(cluster: &mut TestCluster, node: usize, commands: &[String]) -> String {
    let mut said = String::new();
    for command in commands {
        match command.as_str() {
            "systemctl stop syncd" => {
                cluster.stop(node);
            }
            "systemctl start syncd" => cluster.start(node),
            command => {
                let mut words: Vec<&str> = command.split_whitespace().skip(1).collect();
                words.push("--yes");
                let (code, out, err) = cluster.offline(node, &words);
                assert_eq!(code, 0, "{command}: {out}{err}");
                said.push_str(&out);
            }
        }
    }
    said
}

/// Waits until all of `nodes` are at the head, and that is `generation` or newer.
fn wait_generation(cluster: &TestCluster, nodes: &[usize], generation: u64) -> u64 {
    cluster.wait(&format!("generation {generation}"), LONG, || {
        cluster.status(nodes[0]).is_some_and(|status| status["generation"].as_u64() >= Some(generation))
    });
    cluster.wait_in_sync(nodes, LONG)
}

fn number(status: &Value, key: &str) -> u64 {
    status[key].as_u64().unwrap_or_else(|| panic!("{key} of {status}"))
}

#[test]
fn the_last_of_three_publishes_again_by_three_commands_that_status_names() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api>1</api>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    cluster.write(manager, "default/api/a.xml", "<api>2</api>");
    let head = wait_generation(&cluster, &[0, 1, 2], 2);
    let before = cluster.status(0).unwrap();

    for lost in [1, 2] {
        cluster.kill(lost);
        fs::remove_dir_all(&cluster.nodes[lost].data).unwrap();
        fs::remove_dir_all(&cluster.nodes[lost].root).unwrap();
    }
    let remedy = wait_problem(&cluster, 0, "no-quorum", "syncd recover");
    assert!(remedy.contains("start gw2, gw3 first"), "{remedy}");
    let way = commands(&remedy);
    assert_eq!(way, ["systemctl stop syncd", "syncd recover", "systemctl start syncd"]);

    let (code, _, refused) = cluster.offline(0, &["recover", "--yes"]);
    assert_eq!(code, 2);
    assert!(refused.contains("stop it"), "the daemon runs: {refused}");
    let artifact = cluster.nodes[0].root.join("default/api/a.xml");
    let inode = fs::metadata(&artifact).unwrap().ino();
    let said = obey(&mut cluster, 0, &way);
    assert!(said.contains("What may be lost: generations that the lost majority committed"), "{said}");
    assert!(said.contains(&format!("generation {head}, committed")), "{said}");
    let aside = cluster.nodes[0].data.join("raft.redb.aside-1");
    assert!(said.contains(&aside.display().to_string()) && aside.exists(), "{said}");

    assert_eq!(cluster.wait_manager(LONG), 0);
    assert_eq!(cluster.wait_in_sync(&[0], LONG), head, "the head is kept");
    cluster.write(0, "default/api/a.xml", "<api>3</api>");
    assert_eq!(wait_generation(&cluster, &[0], head + 1), head + 1);
    let after = cluster.status(0).unwrap();
    assert!(number(&after, "epoch") > number(&before, "epoch"), "{after}");
    assert!(has_problem(&after, "not-rejoined") && row(&after, "gw3").is_some(), "{after}");
    assert!(!has_problem(&after, "drift") && row(&after, "gw1").unwrap()["quarantined"] == 0, "{after}");
    assert_eq!(inode, fs::metadata(&artifact).unwrap().ino(), "syncd wrote no file");
    let (_, history, _) = cluster.cli(0, &["history", "--json"]);
    let history: Value = serde_json::from_str(&history).unwrap();
    assert!(history.as_array().unwrap().len() as u64 > head, "history is kept: {history}");
}

#[test]
fn recovering_asks_and_can_be_declined() {
    let mut cluster = TestCluster::new(&THREE[..1], "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    let (code, _, why) = cluster.offline(0, &["recover", "--yes"]);
    assert_eq!(code, 2);
    assert!(why.contains("there is no log"), "{why}");
    cluster.start_all();
    cluster.wait_in_sync(&[0], LONG);
    cluster.stop(0);
    let (code, out, why) = cluster.offline(0, &["recover"]);
    assert_eq!(code, 64, "{out}");
    assert!(why.contains("--yes"), "{why}");
    let (code, _, why) = cluster.offline(0, &["recover", "--rejoin", "--yes"]);
    assert_eq!(code, 2);
    assert!(why.contains("nothing to rejoin"), "{why}");
    assert!(!cluster.nodes[0].data.join("raft.redb.aside-1").exists(), "nothing was touched");
}

#[test]
fn a_cluster_forms_without_a_host_that_is_missing() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(1, "default/api/a.xml", "<api/>");
    cluster.start(1);
    let alone = wait_problem(&cluster, 1, "forming", "gw1 at");
    assert!(!alone.contains("syncd bootstrap"), "one of three is no majority: {alone}");
    let (code, _, why) = cluster.cli(1, &["bootstrap", "--without", "gw1", "--without", "gw3"]);
    assert_eq!(code, 1);
    assert!(why.contains("no majority"), "{why}");

    cluster.start(2);
    let sentence = wait_problem(&cluster, 2, "forming", "`syncd bootstrap --without gw1`");
    assert!(sentence.contains("gw1 at"), "{sentence}");
    let (code, _, why) = cluster.cli(2, &["bootstrap", "--without", "gw2"]);
    assert_eq!(code, 1);
    assert!(why.contains("gw2 at") && why.contains("answers"), "{why}");
    // Ordered on the one host, written by the other, which has the least name of those that remain.
    let words: Vec<String> = commands(&sentence)[0].split_whitespace().skip(1).map(str::to_owned).collect();
    let (code, said, why) = cluster.cli(2, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code, 0, "{why}");
    // On a slow machine only that it was ordered.
    assert!(said.contains("has formed, with 2 voters") || said.contains("ordered"), "{said}");
    cluster.wait_in_sync(&[1, 2], LONG);
    assert_eq!(cluster.read(2, "default/api/a.xml").as_deref(), Some(&b"<api/>"[..]));
    let (code, _, why) = cluster.cli(1, &["bootstrap", "--without", "gw1"]);
    assert_eq!(code, 1);
    assert!(why.contains("formed"), "{why}");

    cluster.start(0);
    cluster.wait_in_sync(&[1, 2, 0], LONG);
    assert_eq!(cluster.read(0, "default/api/a.xml").as_deref(), Some(&b"<api/>"[..]));
}

#[test]
fn hosts_that_lost_their_data_folders_form_anew_when_told_to() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let artifact = cluster.nodes[2].root.join("default/api/a.xml");
    let inode = fs::metadata(&artifact).unwrap().ino();
    for node in 0..3 {
        cluster.stop(node);
        fs::remove_dir_all(&cluster.nodes[node].data).unwrap();
    }
    cluster.start(0);
    cluster.start(1);
    let (code, _, why) = {
        cluster.wait("gw1 and gw2 up", LONG, || [0, 1].iter().all(|node| cluster.status(*node).is_some()));
        cluster.cli(0, &["bootstrap", "--new", "--yes"])
    };
    assert_eq!(code, 1, "not before all of them answer");
    assert!(why.contains("gw3 at"), "{why}");
    cluster.start(2);
    // Once its first scan is done, the last one is among them.
    let sentence = wait_problem(&cluster, 1, "forming", "(synapse-configs), gw3 at");
    assert!(sentence.contains("`syncd bootstrap --new`"), "{sentence}");
    for name in ["gw1", "gw2", "gw3"] {
        assert!(sentence.contains(&format!("{name} ")), "{sentence}");
    }
    let (code, _, why) = cluster.cli(1, &["bootstrap", "--new"]);
    assert_eq!(code, 64, "it asks");
    assert!(why.contains("--yes"), "{why}");
    let (code, said, why) = cluster.cli(1, &["bootstrap", "--new", "--yes"]);
    assert_eq!(code, 0, "{why}");
    assert!(said.contains("has formed, with 3 voters") || said.contains("ordered"), "{said}");
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(fs::metadata(&artifact).unwrap().ino(), inode, "no content is touched");
    assert!(cluster.nodes[2].root.join(".syncd.foreign-1/member").exists(), "the mark is laid aside");
}

/// Power fails at each step of `syncd recover`: the node has a whole log, the old one or the new one, and recovers when
/// it is told to again.
#[test]
#[cfg(feature = "crash-points")]
fn recovering_survives_a_crash_at_any_step() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api>1</api>");
    cluster.start_all();
    let head = wait_generation(&cluster, &[0, 1, 2], 1);
    (0..3).for_each(|node| cluster.kill(node));
    let files = |cluster: &TestCluster| -> Vec<String> {
        let names = fs::read_dir(&cluster.nodes[0].data).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.contains("aside"));
        names
    };
    for point in ["recover.before-write", "recover.after-write", "recover.after-link"] {
        cluster.nodes[0].env.insert("SYNCD_CRASH".into(), point.into());
        let (code, _, _) = cluster.offline(0, &["recover", "--yes"]);
        assert_eq!(code, -1, "ended by the crash point {point}");
        cluster.nodes[0].env.clear();
        // The old log is whole: with a second node there is a quorum again.
        cluster.start(0);
        cluster.start(1);
        assert_eq!(wait_generation(&cluster, &[0, 1], head), head, "{point}");
        (0..2).for_each(|node| cluster.kill(node));
    }
    cluster.nodes[0].env.insert("SYNCD_CRASH".into(), "recover.after-rename".into());
    let (code, _, _) = cluster.offline(0, &["recover", "--yes"]);
    assert_eq!(code, -1, "ended by the crash point");
    cluster.nodes[0].env.clear();
    assert_eq!(files(&cluster).len(), 1, "one old log, under one name: {:?}", files(&cluster));
    cluster.start(0);
    assert_eq!(cluster.wait_manager(LONG), 0);
    cluster.write(0, "default/api/a.xml", "<api>2</api>");
    assert_eq!(wait_generation(&cluster, &[0], head + 1), head + 1, "the new log is whole");
}

/// What status on a host names is done there; the host is a member of the recovered cluster afterwards.
fn rejoin(cluster: &mut TestCluster, node: usize) {
    let said = wait_problem(cluster, node, "succeeded", "`syncd recover --rejoin`");
    let way = commands(&said);
    assert_eq!(way, ["systemctl stop syncd", "syncd recover --rejoin", "systemctl start syncd"]);
    obey(cluster, node, &way);
}

#[test]
fn the_others_come_back_empty_or_with_their_old_log_and_nothing_equal_is_written() {
    let mut cluster = TestCluster::new(THREE, "");
    for n in 0..5 {
        cluster.write(0, &format!("default/api/a{n}.xml"), format!("<api>{n}</api>"));
    }
    cluster.start_all();
    wait_generation(&cluster, &[0, 1, 2], 1);
    // gw1 sees the next generation no more, which the others commit; gw2 edits by hand while nothing runs.
    cluster.kill(0);
    let manager = cluster.wait_manager(LONG);
    cluster.write(manager, "default/api/a1.xml", "<api>lost</api>");
    let lost = wait_generation(&cluster, &[1, 2], 2);
    (1..3).for_each(|node| cluster.kill(node));
    fs::remove_dir_all(&cluster.nodes[2].data).unwrap();
    cluster.write(1, "default/api/a2.xml", "<api>by hand</api>");
    let equal = cluster.nodes[1].root.join("default/api/a0.xml");
    let before = fs::metadata(&equal).unwrap();

    let (code, said, why) = cluster.offline(0, &["recover", "--yes"]);
    assert_eq!(code, 0, "{said}{why}");
    cluster.start(0);
    assert_eq!(cluster.wait_manager(LONG), 0);
    let head = wait_generation(&cluster, &[0], 1);
    assert!(head < lost, "the survivor never saw generation {lost}");

    let (code, _, why) = cluster.offline(1, &["recover", "--yes"]);
    assert_eq!(code, 2);
    assert!(why.contains("recovered already") && why.contains("--rejoin"), "{why}");
    cluster.start(1);
    rejoin(&mut cluster, 1);
    cluster.start(2);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.write(0, "default/api/a3.xml", "<api>after</api>");
    wait_generation(&cluster, &[0, 1, 2], head + 1);
    cluster.wait_equal(&[0, 1, 2], LONG);
    assert_eq!(cluster.read(1, "default/api/a1.xml").as_deref(), Some(&b"<api>1</api>"[..]));
    let after = fs::metadata(&equal).unwrap();
    assert_eq!((before.ino(), before.mtime()), (after.ino(), after.mtime()), "equal content is not written");
    let (_, kept, _) = cluster.cli(1, &["quarantine", "list"]);
    assert!(kept.contains("a1.xml") && kept.contains("a2.xml"), "what differed is kept: {kept}");
    cluster.wait("nobody awaited", LONG, || {
        cluster.status(0).is_some_and(|status| !has_problem(&status, "not-rejoined"))
    });
    // The new cluster bears the loss of its first voter once the others vote.
    cluster.wait("three voters", LONG, || {
        [1, 2].iter().all(|node| {
            cluster.status(*node).is_some_and(|status| status["voters"].as_array().map(Vec::len) == Some(3))
        })
    });
    cluster.kill(0);
    cluster.wait("a majority without gw1", LONG, || cluster.manager().is_some_and(|manager| manager != 0));
    let manager = cluster.wait_manager(LONG);
    cluster.write(manager, "default/api/after.xml", "<api/>");
    cluster.wait_content(3 - manager, "default/api/after.xml", "<api/>", LONG);
}

#[test]
fn rejoining_is_refused_while_the_old_cluster_has_a_quorum() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    wait_generation(&cluster, &[0, 1, 2], 1);
    (0..3).for_each(|node| cluster.kill(node));
    let (code, said, why) = cluster.offline(0, &["recover", "--yes"]);
    assert_eq!(code, 0, "{said}{why}");
    (0..3).for_each(|node| cluster.start(node));
    wait_problem(&cluster, 2, "succeeded", "`syncd recover --rejoin`");
    // The other side says so too, and nothing goes from one to the other.
    wait_problem(&cluster, 0, "predecessor-lives", "gw2, gw3");
    cluster.write(0, "default/api/new.xml", "<api/>");
    wait_generation(&cluster, &[0], 2);
    let mut old = 0;
    cluster.wait("a manager of the old cluster", LONG, || {
        let is_manager =
            |node: &usize| cluster.get(*node, "/manager").is_some_and(|answer| answer.status == 200);
        old = (1..3).find(is_manager).unwrap_or_default();
        old > 0
    });
    cluster.write(old, "default/api/old.xml", "<api/>");
    wait_generation(&cluster, &[1, 2], 2);
    cluster.wait_content(3 - old, "default/api/old.xml", "<api/>", LONG);
    assert_eq!(cluster.read(0, "default/api/old.xml"), None);
    assert_eq!(cluster.read(1, "default/api/new.xml").or(cluster.read(2, "default/api/new.xml")), None);
    cluster.stop(2);
    let (code, _, why) = cluster.offline(2, &["recover", "--rejoin", "--yes"]);
    assert_eq!(code, 2);
    assert!(why.contains("gw2 at") && why.contains("the old cluster lives"), "{why}");
    cluster.stop(1);
    let (code, said, why) = cluster.offline(2, &["recover", "--rejoin", "--yes"]);
    assert_eq!(code, 0, "{said}{why}");
    cluster.start(2);
    cluster.wait_in_sync(&[0, 2], LONG);
    // gw2 is gone for good: nobody waits for it once it is removed.
    wait_word(&cluster, 0, "not-rejoined", "syncd remove gw2");
    let (code, said, why) = cluster.cli(0, &["remove", "gw2"]);
    assert!(code == 0 && said.contains("not waited for"), "{said}{why}");
    cluster.wait("nobody awaited", LONG, || {
        cluster.status(0).is_some_and(|status| !has_problem(&status, "not-rejoined"))
    });
}
