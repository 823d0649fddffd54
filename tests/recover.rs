//! A majority lost for good, and forming without everybody: with real daemons, by the commands that status names.
#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::Value;
use support::{THREE, TestCluster, has_problem, row};

const LONG: Duration = Duration::from_secs(40);

/// The remedy of a problem in a node's status, once it names `words`.
fn wait_remedy(cluster: &TestCluster, node: usize, code: &str, words: &str) -> String {
    let mut found = String::new();
    cluster.wait(&format!("{code} with a remedy that names {words:?}"), LONG, || {
        let Some(status) = cluster.status(node) else { return false };
        let remedies = status["problems"].as_array().into_iter().flatten();
        let mut remedies =
            remedies.filter(|problem| problem["code"] == code).map(|problem| &problem["remedy"]);
        let remedy = remedies.find_map(|remedy| remedy.as_str().filter(|remedy| remedy.contains(words)));
        found = remedy.unwrap_or_default().to_owned();
        remedy.is_some()
    });
    found
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
    let remedy = wait_remedy(&cluster, 0, "no-quorum", "syncd recover");
    assert!(remedy.starts_with("start gw2, gw3 first"), "{remedy}");
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
