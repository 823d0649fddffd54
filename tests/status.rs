//! What a running cluster says of itself: text, JSON and metrics agree, and what can't be watched is said and polled.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::{THREE, TestCluster, has_problem, row};

const LONG: Duration = Duration::from_secs(30);
const QUICK: &str = "[sync]\ngather = \"100ms\"\ndelete_grace = \"100ms\"\n";

/// The value of a metric without labels, or with exactly these.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with(' '));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The fields of a node's line in the table, by column.
fn field<'t>(text: &'t str, node: &str, column: &str) -> &'t str {
    let head = text.lines().find(|line| line.starts_with("NODE")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{node} "))).unwrap();
    let at = head.find(column).unwrap_or_else(|| panic!("no {column} in {head}"));
    // Numbers stand right, words left: whatever touches the head's place is the field.
    let end = at + column.len();
    let from = line[..end.min(line.len())].rfind("  ").map_or(0, |gap| gap + 2).min(at);
    let rest = &line[from..];
    rest.split("  ").find(|part| !part.trim().is_empty()).unwrap().trim()
}

/// Asks until two questions for the JSON, one before and one after the others, say the same of what moves.
fn all_three(cluster: &TestCluster, node: usize) -> (Value, String, String, i32) {
    let still = |status: &Value| {
        let rows = status["nodes"].as_array().unwrap().iter();
        let rows = rows.map(|row| (row["state"].clone(), row["generation"].clone(), row["drifted"].clone()));
        (status["health"].clone(), status["generation"].clone(), rows.collect::<Vec<_>>())
    };
    for _ in 0..50 {
        let (_, json, _) = cluster.cli(node, &["status", "--json"]);
        let (code, text, _) = cluster.cli(node, &["status"]);
        let metrics = cluster.get(node, "/metrics").unwrap().body;
        let (_, again, _) = cluster.cli(node, &["status", "--json"]);
        let (json, again): (Value, Value) =
            (serde_json::from_str(&json).unwrap(), serde_json::from_str(&again).unwrap());
        if still(&json) == still(&again) {
            return (json, text, metrics, code);
        }
    }
    cluster.fail("the status never stood still");
}

fn assert_agreement(cluster: &TestCluster, node: usize) -> Value {
    let (json, text, metrics, code) = all_three(cluster, node);
    let health = json["health"].as_str().unwrap();
    let (verdict, number) = match health {
        "ok" => ("All is well: ", 0),
        "degraded" => ("Degraded: ", 1),
        _ => ("CRITICAL: ", 2),
    };
    assert!(text.starts_with(verdict), "{health}: {text}");
    assert!(!text.contains('\x1b'), "plain when piped");
    assert_eq!(code, number);
    assert_eq!(metric(&metrics, "syncd_health"), f64::from(number));
    assert_eq!(metric(&metrics, "syncd_head_generation"), json["generation"].as_f64().unwrap());
    assert!(text.lines().next().unwrap().contains(&format!("generation {}", json["generation"])), "{text}");
    assert!(json["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{}", json["at"]);
    let own = cluster.nodes[node].name.clone();
    for row in json["nodes"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        assert_eq!(field(&text, name, "STATE"), row["state"].as_str().unwrap(), "{name}: {text}");
        let shown = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
        assert_eq!(field(&text, name, "GENERATION"), shown(&row["generation"]), "{name}: {text}");
        assert_eq!(field(&text, name, "DRIFT"), shown(&row["drifted"]), "{name}: {text}");
        if name == own {
            assert_eq!(metric(&metrics, "syncd_generation"), row["generation"].as_f64().unwrap());
            assert_eq!(metric(&metrics, "syncd_drifted_files"), row["drifted"].as_f64().unwrap());
            let manages = f64::from(u8::from(row["state"] == "manager"));
            assert_eq!(metric(&metrics, "syncd_is_manager"), manages);
        } else {
            let up = f64::from(u8::from(row["state"] != "unreachable"));
            assert_eq!(metric(&metrics, &format!("syncd_node_up{{peer=\"{name}\"}}")), up);
            let age = metric(&metrics, &format!("syncd_heard_seconds{{peer=\"{name}\"}}"));
            let told = row["last_seen_seconds"].as_f64().unwrap();
            assert!((age - told).abs() < 5.0, "{name} was heard {age} s ago, or {told}");
            assert!(field(&text, name, "HEARD").ends_with(" ago"), "{text}");
        }
    }
    for problem in json["problems"].as_array().unwrap() {
        assert!(text.contains(problem["code"].as_str().unwrap()), "{problem} in {text}");
        let first_words =
            problem["remedy"].as_str().unwrap().split(' ').take(3).collect::<Vec<_>>().join(" ");
        assert!(text.contains(&first_words), "{problem} in {text}");
    }
    json
}

#[test]
fn text_json_and_metrics_agree_and_say_how_old_they_are() {
    let mut cluster = TestCluster::new(THREE, &format!("{QUICK}drift = \"report\"\n"));
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    cluster.wait("all to be well", LONG, || cluster.status(0).is_some_and(|status| status["health"] == "ok"));
    let json = assert_agreement(&cluster, 0);
    assert_eq!(json["health"], "ok");

    cluster.write(1, "default/api/local.xml", "<api/>");
    cluster.wait("the drift on gw2 to be told", LONG, || {
        cluster.status(0).is_some_and(|status| row(&status, "gw2").unwrap()["drifted"] == 1)
    });
    let json = assert_agreement(&cluster, 0);
    assert!(json["health"] == "degraded" && has_problem(&json, "drift"), "{json}");
    assert_agreement(&cluster, 1);

    cluster.kill(2);
    cluster.wait("gw3 to be unreachable", LONG, || {
        cluster.status(1).is_some_and(|status| row(&status, "gw3").unwrap()["state"] == "unreachable")
    });
    let json = assert_agreement(&cluster, 1);
    assert!(row(&json, "gw3").unwrap()["last_seen_seconds"].as_f64().unwrap() >= 3.0, "{json}");
}

/// The limit is the one of a user namespace of the node's own, so nobody else on this host meets it.
#[test]
fn what_the_kernel_will_not_watch_is_polled_until_it_does() {
    let mut cluster = TestCluster::new(THREE, QUICK);
    for folder in ["api", "endpoints", "sequences", "local-entries", "templates", "tasks"] {
        cluster.write(0, &format!("default/{folder}/x.xml"), "<x/>");
    }
    let limits = "echo 4 >/proc/sys/user/max_inotify_watches && exec \"$@\"";
    cluster.nodes[1].prefix =
        ["unshare", "--user", "--map-root-user", "sh", "-c", limits, "sh"].map(Into::into).into();
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait("the limit to be told", LONG, || {
        cluster.status(0).is_some_and(|status| has_problem(&status, "watch-limit"))
    });
    let (code, text, _) = cluster.cli(1, &["status"]);
    assert_eq!(code, 1, "{text}");
    for part in
        ["of 8 folders have no watch", "sysctl -w fs.inotify.max_user_watches=524288", "polled every 2 s"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let metrics = cluster.get(1, "/metrics").unwrap().body;
    assert_eq!(metric(&metrics, "syncd_watch_mode{mode=\"poll\"}"), 1.0);
    assert!(metric(&metrics, "syncd_unwatched_folders") >= 4.0);

    // A file by hand in each folder, watched or not: each is found.
    for folder in ["api", "endpoints", "sequences", "local-entries", "templates", "tasks"] {
        cluster.write(1, &format!("default/{folder}/by-hand.xml"), "<by-hand/>");
    }
    cluster.wait("all files by hand to be in quarantine", LONG, || {
        cluster.status(1).is_some_and(|status| row(&status, "gw2").unwrap()["quarantined"] == 6)
    });
    cluster.wait_equal(&[0, 1, 2], LONG);

    let pid = cluster.pid(1).to_string();
    let raise = "echo 10000 >/proc/sys/user/max_inotify_watches";
    let raised = Command::new("nsenter")
        .args(["--user", "--preserve-credentials", "--target", &pid, "sh", "-c", raise])
        .status()
        .unwrap();
    assert!(raised.success());
    cluster.wait("every folder to be watched", LONG, || {
        let metrics = cluster.get(1, "/metrics").map(|answer| answer.body).unwrap_or_default();
        metrics.contains("syncd_unwatched_folders 0\n")
    });
    cluster.wait("the problem to go", LONG, || {
        cluster.status(1).is_some_and(|status| !has_problem(&status, "watch-limit"))
    });
    cluster.write(1, "default/tasks/again.xml", "<by-hand/>");
    cluster.wait("one more file in quarantine", LONG, || {
        cluster.status(1).is_some_and(|status| row(&status, "gw2").unwrap()["quarantined"] == 7)
    });
    cluster.wait_equal(&[0, 1, 2], LONG);
}
