//! What an operator asks a node about itself and the others: check, diff, verify, plan.
#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::Value;
use support::{THREE, TestCluster, snapshot};

const LONG: Duration = Duration::from_secs(30);

/// `syncd check --json` as on the host of a node: its exit code and its findings.
fn check(cluster: &TestCluster, node: usize) -> (i32, Vec<Value>) {
    let node = &cluster.nodes[node];
    let output = Command::new(env!("CARGO_BIN_EXE_syncd"))
        .args(["check", "--json", "--config"])
        .arg(&cluster.config)
        .env("SYNCD_NODE__NAME", &node.name)
        .env("SYNCD_NODE__LISTEN", &node.address)
        .env("SYNCD_NODE__HTTP", &node.http)
        .env("SYNCD_NODE__DATA_DIR", &node.data)
        .env("SYNCD_NODE__SOCKET", &node.socket)
        .env("SYNCD_ROOT__0__PATH", &node.root)
        .envs(&node.env)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = report["findings"].as_array().unwrap().clone();
    for finding in &findings {
        assert_eq!(finding["grade"] == "ok", finding["remedy"].is_null(), "a remedy for each: {finding}");
    }
    (output.status.code().unwrap(), findings)
}

/// The findings of one check, each as `grade: subject: message`.
fn about(findings: &[Value], check: &str) -> Vec<String> {
    let of_it = findings.iter().filter(|finding| finding["check"] == check);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    of_it.map(|f| format!("{}: {}: {}", text(f, "grade"), text(f, "subject"), text(f, "message"))).collect()
}

#[track_caller]
fn has(findings: &[Value], check: &str, grade: &str, part: &str) {
    let found = about(findings, check);
    let fits = |line: &String| line.starts_with(&format!("{grade}: ")) && line.contains(part);
    assert!(found.iter().any(fits), "no {grade} {check} with {part:?} in {found:#?}");
}

#[test]
fn check_needs_no_daemon_and_changes_nothing() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    let before = snapshot(cluster.dir.path());
    let (code, findings) = check(&cluster, 0);
    assert_eq!(snapshot(cluster.dir.path()), before);
    assert_eq!(code, 1, "{findings:#?}");
    has(&findings, "configuration", "ok", "this node is gw1, candidate");
    has(&findings, "root-access", "ok", "1 files in 3 folders");
    has(&findings, "root-exchange", "ok", "not tried");
    has(&findings, "port", "ok", "it is free");
    has(&findings, "data-dir", "ok", "free");
    for peer in ["gw2", "gw3"] {
        has(&findings, "peer", "warning", &format!("{peer} at"));
    }

    // Beside running daemons.
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let before = snapshot(&cluster.nodes[0].root);
    let (_, findings) = check(&cluster, 0);
    assert_eq!(snapshot(&cluster.nodes[0].root), before);
    assert!(
        fs::read_dir(cluster.nodes[0].root.join(".syncd"))
            .unwrap()
            .flatten()
            .all(|entry| { !entry.file_name().to_string_lossy().starts_with("check") })
    );
    has(&findings, "root-exchange", "ok", "RENAME_EXCHANGE");
    has(&findings, "daemon", "ok", "a daemon runs here, as process");
    let ports = about(&findings, "port");
    assert_eq!(ports.len(), 2);
    for port in ports {
        assert!(port.starts_with("ok") && port.ends_with("the running daemon holds it"), "{port}");
    }
    for peer in ["gw2", "gw3"] {
        has(&findings, "peer", "ok", &format!("{peer} at"));
    }

    // A stranger on a port, a root that is gone, an address that leads to another node.
    cluster.kill(0);
    cluster.kill(1);
    let stranger = TcpListener::bind(&cluster.nodes[0].http).unwrap();
    fs::rename(&cluster.nodes[0].root, cluster.dir.path().join("elsewhere")).unwrap();
    let third = cluster.nodes[2].address.clone();
    cluster.nodes[0].env.insert("SYNCD_CLUSTER__NAME".into(), "other".into());
    cluster.nodes[0].env.insert("SYNCD_CLUSTER__NODE__1__ADDRESS".into(), "no-such-host.invalid:8730".into());
    let (code, findings) = check(&cluster, 0);
    drop(stranger);
    assert_eq!(code, 78, "{findings:#?}");
    has(&findings, "configuration", "error", "does not exist");
    has(&findings, "port", "error", "another program holds it");
    has(&findings, "peer", "error", "gw2 at no-such-host.invalid:8730: its address can't be looked up");
    has(&findings, "peer", "error", &format!("gw3 at {third}: it belongs to the cluster \"test\""));
}

#[test]
fn check_tests_the_certificates() {
    let mut cluster = TestCluster::new(THREE, "");
    let folder = cluster.dir.path().join("tls");
    fs::create_dir_all(&folder).unwrap();
    let host = cluster.nodes[0].address.split(':').next().unwrap().to_owned();
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join("ca.pem"), params.self_signed(&authority_key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let make = |name: &str, until: i32| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(until, 2, 3);
        fs::write(folder.join("node.pem"), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
    };
    fs::write(folder.join("node.key"), key.serialize_pem()).unwrap();
    for (variable, file) in [("CA", "ca.pem"), ("CERT", "node.pem"), ("KEY", "node.key")] {
        let path = folder.join(file).to_str().unwrap().to_owned();
        cluster.nodes[0].env.insert(format!("SYNCD_TLS__{variable}"), path);
    }
    make(&host, 2400);
    let (_, findings) = check(&cluster, 0);
    has(&findings, "tls-key", "ok", "it belongs to the certificate");
    has(&findings, "tls-cert", "ok", "holds until 2400-02-03");
    has(&findings, "tls-name", "ok", &host);
    make("another.internal", 2003);
    let (code, findings) = check(&cluster, 0);
    assert_eq!(code, 2);
    has(&findings, "tls-cert", "error", "it ended on 2003-02-03");
    has(&findings, "tls-name", "error", &format!("it does not name {host}"));
    fs::write(folder.join("node.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let (_, findings) = check(&cluster, 0);
    has(&findings, "tls-key", "error", "it does not belong to the certificate");
    let other = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host]).unwrap();
    params.not_after = date_time_ymd(2400, 1, 1);
    fs::write(folder.join("node.pem"), params.self_signed(&other).unwrap().pem()).unwrap();
    fs::write(folder.join("node.key"), other.serialize_pem()).unwrap();
    let (_, findings) = check(&cluster, 0);
    has(&findings, "tls-cert", "error", "no authority in");
}

/// The answer of a command with `--json`, by node, and its exit code.
fn ask(cluster: &TestCluster, node: usize, arguments: &[&str]) -> (i32, BTreeMap<String, Value>) {
    let (code, text, errors) = cluster.cli(node, &[arguments, &["--json"]].concat());
    let answer: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {errors}"));
    let nodes = answer["nodes"].as_array().unwrap().iter();
    (code, nodes.map(|row| (row["node"].as_str().unwrap().to_owned(), row.clone())).collect())
}

/// The listed differences or changes of one node: `first second path`.
fn listed(answer: &Value, list: &str, first: &str, second: &str) -> Vec<String> {
    let rows = answer[list].as_array().cloned().unwrap_or_default();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
    rows.iter()
        .map(|row| format!("{} {} {}", text(row, first), text(row, second), text(row, "path")))
        .collect()
}

/// A cluster whose nodes only report drift, with three files everywhere; and its manager and two workers.
fn three(extra: &str) -> (TestCluster, usize, usize, usize) {
    let mut cluster = TestCluster::new(THREE, extra);
    for name in ["a", "b", "c"] {
        cluster.write(0, &format!("default/api/{name}.xml"), format!("<{name}/>"));
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    (cluster, manager, (manager + 1) % 3, (manager + 2) % 3)
}

#[test]
fn a_node_says_itself_where_it_differs() {
    let (mut cluster, manager, worker, other) =
        three("exclude = [\"*.back\"]\nper_node = [\"own.xml\"]\n[sync]\ndrift = \"report\"\n");
    let name = |node: usize| cluster.nodes[node].name.clone();
    let (code, answer) = ask(&cluster, other, &["diff"]);
    assert_eq!(code, 0, "{answer:?}");
    assert_eq!(answer[&name(other)]["different"], 0);
    assert!(answer[&name(other)]["digest"].as_str().is_some_and(|digest| digest.len() == 64));

    cluster.write(worker, "default/api/a.xml", "<local/>");
    cluster.write(worker, "default/api/new\x1b[2J.xml", "<new/>");
    cluster.write(worker, "default/api/x.back", "backup");
    cluster.write(worker, "own.xml", "<mine/>");
    fs::remove_file(cluster.nodes[worker].root.join("default/api/b.xml")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(cluster.nodes[worker].root.join("default/api/c.xml"), mode).unwrap();
    let expected = [
        "content drift default/api/a.xml",
        "missing drift default/api/b.xml",
        "mode drift default/api/c.xml",
        "extra drift default/api/new\\u{1b}[2J.xml",
    ];
    // Asked over another node; the node walks its folder before it answers.
    let worker_name = name(worker);
    let (code, answer) = ask(&cluster, other, &["diff", &worker_name]);
    let answer = &answer[&worker_name];
    assert_eq!((code, listed(answer, "differences", "kind", "why")), (1, expected.map(String::from).into()));
    let first = &answer["differences"][0];
    assert_eq!(first["here"]["hash"], blake3::hash(b"<local/>").to_hex().as_str());
    assert_eq!(first["head"]["hash"], blake3::hash(b"<a/>").to_hex().as_str());
    assert_eq!((first["here"]["size"].as_u64(), first["head"]["size"].as_u64()), (Some(8), Some(4)));
    assert!(first["here"]["mtime"].is_string() && first["head"]["mtime"].is_string(), "{first}");
    let (code, answer) = ask(&cluster, worker, &["diff", "--excluded"]);
    let rows = listed(&answer[&worker_name], "differences", "kind", "why");
    assert_eq!(code, 1);
    assert_eq!(answer[&worker_name]["different"], 4);
    for row in ["extra excluded default/api/x.back", "extra per-node own.xml"] {
        assert!(rows.contains(&row.to_owned()), "{rows:?}");
    }
    let (_, text, _) = cluster.cli(worker, &["diff"]);
    assert!(text.contains("differs from generation 1 in 4 places") && !text.contains('\x1b'), "{text}");

    let (code, answer) = ask(&cluster, manager, &["diff", "--all"]);
    assert_eq!((code, answer.len()), (1, 3));
    let (code, answer) = ask(&cluster, manager, &["diff", "nobody"]);
    assert_eq!(code, 2, "{answer:?}");
    cluster.kill(worker);
    let (code, answer) = ask(&cluster, manager, &["diff", &worker_name]);
    assert_eq!(code, 2);
    assert!(answer[&worker_name]["unknown"].as_str().unwrap().contains("does not answer"), "{answer:?}");
}

#[test]
fn a_content_that_is_found_damaged_is_fetched_again() {
    let (cluster, _, worker, _) = three("");
    flip(&cluster.nodes[worker].data.join("store"), b"<a/>");
    // To be brought back from the store, which finds it rotten then.
    cluster.write(worker, "default/api/a.xml", "<z/>");
    cluster.wait_content(worker, "default/api/a.xml", "<a/>", Duration::from_secs(60));
    cluster.wait("nothing damaged any more", Duration::from_secs(20), || {
        cluster.status(worker).is_some_and(|status| !support::has_problem(&status, "store-damaged"))
    });
}

#[test]
fn verify_reads_everything_and_mends_a_rotten_store() {
    let (mut cluster, _, worker, other) = three("[sync]\ndrift = \"report\"\n");
    let (worker_name, all) = (cluster.nodes[worker].name.clone(), [0, 1, 2]);
    let (code, answer) = ask(&cluster, other, &["verify"]);
    assert_eq!((code, answer.len()), (0, 3), "{answer:?}");
    let digests: BTreeSet<String> = answer.values().map(|row| row["digest"].to_string()).collect();
    assert_eq!(digests.len(), 1);

    let victim = cluster.nodes[worker].root.join("default/api/a.xml");
    // The store's own copy, on a node whose file is damaged as well: only another node has a whole one.
    flip(&cluster.nodes[worker].data.join("store"), b"<a/>");
    fs::write(&victim, "<z/>").unwrap();
    let (code, answer) = ask(&cluster, other, &["verify"]);
    let row = &answer[&worker_name];
    assert_eq!((code, row["damaged"].as_u64(), row["different"].as_u64()), (1, Some(1), Some(1)), "{row}");
    assert_eq!(listed(row, "differences", "kind", "why"), ["content drift default/api/a.xml"]);
    let damage = &row["damages"][0];
    assert_eq!(
        (damage["path"].as_str(), damage["hash"].as_str()),
        (Some("default/api/a.xml"), Some(blake3::hash(b"<a/>").to_hex().as_str()))
    );
    assert!(damage["replaced_from"].as_str().unwrap().starts_with("gw"), "{damage}");
    // Mended: what is restored now comes from this node's own store.
    fs::write(&victim, "<a/>").unwrap();
    let (code, answer) = ask(&cluster, other, &["verify"]);
    assert_eq!(code, 0, "{answer:?}");
    // Damaged again, with the file whole: the own root is the nearest.
    flip(&cluster.nodes[worker].data.join("store"), b"<a/>");
    let (code, answer) = ask(&cluster, worker, &["verify"]);
    assert_eq!(code, 1);
    assert_eq!(answer[&worker_name]["damages"][0]["replaced_from"], "this node's own root");
    assert_eq!(ask(&cluster, worker, &["verify"]).0, 0);

    // Who does not answer is unknown, never fine.
    cluster.kill(worker);
    let (code, answer) = ask(&cluster, other, &["verify"]);
    assert_eq!((code, answer.len()), (2, all.len()));
    let (_, text, _) = cluster.cli(other, &["verify"]);
    assert!(text.ends_with("not verified: not every node is known\n"), "{text}");
}

/// Changes one byte wherever `content` stands in the pack files below `folder`.
fn flip(folder: &std::path::Path, content: &[u8]) {
    let mut flipped = 0;
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                todo.push(entry.path());
                continue;
            }
            // The index is a database; contents lie in packs.
            if entry.path().extension().is_some_and(|extension| extension == "redb") {
                continue;
            }
            let mut bytes = fs::read(entry.path()).unwrap();
            let at: Vec<usize> = bytes
                .windows(content.len())
                .enumerate()
                .filter(|(_, w)| *w == content)
                .map(|(n, _)| n)
                .collect();
            for at in &at {
                bytes[at + 1] ^= 1;
                flipped += 1;
            }
            if !at.is_empty() {
                // In place: the daemon has the file open.
                use std::os::unix::fs::FileExt;
                let file = fs::OpenOptions::new().write(true).open(entry.path()).unwrap();
                file.write_all_at(&bytes, 0).unwrap();
            }
        }
    }
    assert!(flipped > 0, "no pack below {} has the content", folder.display());
}

#[test]
fn a_plan_says_what_would_be_done_and_does_nothing() {
    let (cluster, manager, worker, _) = three(
        "[sync]\ndrift = \"report\"\nmax_delete = 1\ngather = \"15s\"\nsettle_max = \"15s\"\ndelete_grace = \"1s\"\n",
    );
    let name = |node: usize| cluster.nodes[node].name.clone();
    let (code, answer) = ask(&cluster, manager, &["plan"]);
    let own = &answer[&name(manager)];
    assert_eq!(
        (code, own["different"].as_u64(), own["manager"].as_bool()),
        (0, Some(0), Some(true)),
        "{own}"
    );

    // New paths wait for quiet; three deletes are more than may be, and hold what is new with them.
    cluster.write(manager, "default/api/n.xml", "<n/>");
    cluster.write(manager, "default/endpoints/e.xml", "<e/>");
    let expected = [
        "create waiting default/endpoints",
        "create waiting default/endpoints/e.xml",
        "create waiting default/api/n.xml",
    ];
    cluster.wait("the plan to list what is new", LONG, || {
        let (_, answer) = ask(&cluster, manager, &["plan"]);
        listed(&answer[&name(manager)], "changes", "action", "stands") == expected
    });
    let (_, answer) = ask(&cluster, manager, &["diff"]);
    let rows = listed(&answer[&name(manager)], "differences", "kind", "why");
    assert!(rows.contains(&"extra pending default/api/n.xml".to_owned()), "{rows:?}");
    for path in ["a", "b", "c"] {
        fs::remove_file(cluster.nodes[manager].root.join(format!("default/api/{path}.xml"))).unwrap();
    }
    let expected: Vec<String> =
        ["a", "b", "c"].map(|path| format!("delete held default/api/{path}.xml")).into();
    cluster.wait("the plan to list what is held", LONG, || {
        let (code, answer) = ask(&cluster, manager, &["plan"]);
        let rows = listed(&answer[&name(manager)], "changes", "action", "stands");
        code == 1 && expected.iter().all(|row| rows.contains(row))
    });
    let (_, text, _) = cluster.cli(manager, &["plan"]);
    assert!(
        text.contains("held until a person does something:\n") && text.contains("(mass-delete)"),
        "{text}"
    );
    assert_eq!(cluster.status(manager).unwrap()["generation"], 1, "nothing was published");
    let (_, answer) = ask(&cluster, manager, &["diff"]);
    let rows = listed(&answer[&name(manager)], "differences", "kind", "why");
    assert!(rows.contains(&"missing held default/api/a.xml".to_owned()), "{rows:?}");
    assert!(rows.contains(&"extra held default/api/n.xml".to_owned()), "{rows:?}");

    // On a worker: what the gateway may have taken away, and what is new there; both are only reported.
    fs::remove_file(cluster.nodes[worker].root.join("default/api/a.xml")).unwrap();
    cluster.write(worker, "default/api/extra.xml", "<extra/>");
    let expected = ["delete held default/api/extra.xml", "create held default/api/a.xml"];
    cluster.wait("the worker's plan", LONG, || {
        let (code, answer) = ask(&cluster, worker, &["plan"]);
        code == 1 && listed(&answer[&name(worker)], "changes", "action", "stands") == expected
    });
    assert_eq!(cluster.read(worker, "default/api/a.xml"), None);
}
