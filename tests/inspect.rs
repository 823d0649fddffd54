//! What an operator asks a node about itself and the others: check, diff, verify, plan.
#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

mod support;

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
