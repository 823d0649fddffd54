//! What a person or a script meets at the command line when no daemon runs.

#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

fn syncd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncd")).args(args).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_names_every_command_and_every_exit_code() {
    let output = syncd(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for part in [
        "run",
        "status",
        "history",
        "quarantine",
        "switchover",
        "approve",
        "redeploy",
        "demo",
        "SYNCD_CONFIG",
        "/etc/syncd/syncd.toml",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for code in ["   0  ", "   1  ", "   2  ", "   3  ", "  64  ", "  78  "] {
        assert!(help.contains(code), "{code}: {help}");
    }
    assert!(!help.contains("die-with-parent"), "what is hidden does not appear");
    assert_eq!(syncd(&["--version"]).status.code(), Some(0));
    for command in
        [&["run", "--help"][..], &["status", "--help"], &["quarantine", "list", "--help"], &["demo", "-h"]]
    {
        let output = syncd(command);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert!(!text(&output.stdout).contains("die-with-parent"));
    }
}

#[test]
fn wrong_usage_exits_with_64() {
    for args in [
        &[][..],
        &["no-such-command"],
        &["status", "--no-such-option"],
        &["status", "--generation", "3"],
        &["status", "--timeout", "3s"],
        &["status", "--wait", "--timeout", "soon"],
        &["status", "--wait", "--watch"],
        &["status", "--json", "--watch"],
        &["history", "0"],
        &["history", "many"],
        &["quarantine"],
        &["quarantine", "show"],
        &["quarantine", "show", "../status"],
        &["quarantine", "show", "x", "--diff", "--content"],
        &["quarantine", "restore", "a/b"],
        &["quarantine", "drop", ".."],
        &["run", "--log-format", "xml"],
    ] {
        let output = syncd(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_daemon_the_exit_code_is_3_and_the_socket_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none");
    let socket = socket.to_str().unwrap();
    for command in [
        &["status"][..],
        &["status", "--wait"],
        &["status", "--json"],
        &["history"],
        &["quarantine", "list"],
        &["quarantine", "show", "1"],
        &["quarantine", "restore", "1"],
        &["quarantine", "drop", "1", "--yes"],
        &["approve", "--yes"],
    ] {
        let output = syncd(&[command, &["--socket", socket]].concat());
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{command:?}: {told}");
        assert!(told.contains(socket) && told.contains("No such file") && told.contains("remedy:"), "{told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_socket_comes_from_the_configuration_whatever_else_is_wrong_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("syncd.toml");
    std::fs::write(&file, "[node]\nsocket = \"/no/such/socket\"\nlisten = 5\n").unwrap();
    let output = syncd(&["status", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("/no/such/socket"), "{}", text(&output.stderr));
    let output = syncd(&["status", "--config", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(78), "a file that was asked for must be there");
}

#[test]
fn a_socket_that_never_answers_is_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("mute");
    let listener = UnixListener::bind(&socket).unwrap();
    let output = syncd(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("no answer within 5s"), "{}", text(&output.stderr));
    drop(listener);
}

/// A daemon that knows these answers only, the last of them for ever; returns what `args` make of it and what was asked.
fn against(answers: &[&str], args: &[&str]) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let (tell, asked) = std::sync::mpsc::channel();
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for (turn, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            lines.read_line(&mut request).unwrap();
            while lines.read_line(&mut String::new()).unwrap() > 2 {}
            tell.send(request.trim().to_owned()).unwrap();
            let body = &answers[turn.min(answers.len() - 1)];
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    let output = syncd(&[args, &["--socket", socket.to_str().unwrap()]].concat());
    (output, asked.try_iter().collect())
}

/// A status with a field that this version does not know.
fn status(health: &str, nodes: &[(&str, &str, u64)]) -> String {
    let row = |(name, state, generation): &(&str, &str, u64)| {
        format!(
            r#"{{"name":"{name}","address":"{name}:1","role":"candidate","state":"{state}","generation":{generation},
            "digest":null,"lag_seconds":null,"last_seen_seconds":0.2,"version":null,"drifted":0,"quarantined":0,"held":0,
            "pending":null,"holds":null,"priority":0,"faults":[],"roots":[],"problems":[]}}"#
        )
    };
    let rows: Vec<String> = nodes.iter().map(row).collect();
    format!(
        r#"{{"cluster":"prod","mode":"rsync","health":"{health}","node":"gw1","manager":"gw1","leader":"gw1","epoch":7,
        "generation":42,"digest":null,"committed_at":null,"nodes":[{}],"problems":[],"of_a_later_version":1}}"#,
        rows.join(",")
    )
}

const GOOD: [(&str, &str, u64); 2] = [("gw1", "manager", 42), ("gw2", "in-sync", 42)];
const LATE: [(&str, &str, u64); 2] = [("gw1", "manager", 42), ("gw2", "syncing", 41)];

#[test]
fn status_exits_with_the_health() {
    for (health, code) in [("ok", 0), ("degraded", 1), ("critical", 2)] {
        let (output, asked) = against(&[&status(health, &GOOD)], &["status"]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert_eq!(asked, ["GET /status HTTP/1.1"]);
        assert!(!text(&output.stdout).contains('\x1b'), "no colours but on a terminal");
    }
    let (output, _) = against(&[&status("ok", &GOOD)], &["status"]);
    let told = text(&output.stdout);
    assert_eq!(
        told.lines().next(),
        Some("All is well: all 2 gateways serve generation 42; gw1 is manager"),
        "{told}"
    );
    let (output, _) = against(&[&status("ok", &GOOD)], &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["of_a_later_version"], 1, "what is not known is handed on");
}

#[test]
fn a_wait_ends_when_the_last_node_has_the_generation() {
    let (late, good) = (status("degraded", &LATE), status("ok", &GOOD));
    let (output, asked) = against(&[&late, &late, &good], &["status", "--wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(asked.len(), 3);
    assert!(text(&output.stdout).starts_with("generation 42 is on all 2 nodes"), "{}", text(&output.stdout));
    let (output, _) = against(&[&late], &["status", "--wait", "--generation", "41"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_wait_that_times_out_names_the_laggards() {
    let (output, _) = against(&[&status("degraded", &LATE)], &["status", "--wait", "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("after 300ms generation 42 is not on all nodes: gw2 (at 41)"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn history_and_quarantine_are_tables() {
    let history = r#"[{"number":42,"committed_at":"2026-01-31T09:00:00.123Z","created_unix_ms":1,"author":"gw1",
        "epoch":7,"digest":"d","added":3,"changed":1,"removed":0,"paths":["r:a","r:b","r:c"]}]"#;
    let (output, asked) = against(&[history], &["history", "5"]);
    assert_eq!(asked, ["GET /history?n=5 HTTP/1.1"]);
    let told = text(&output.stdout);
    assert!(told.lines().nth(1).unwrap().starts_with("        42  2026-01-31T09:00:00.123Z  gw1"), "{told}");
    assert!(told.contains("r:a r:b r:c and 1 more"), "{told}");
    let quarantine = r#"[{"id":"q1","node":"gw1","root":"r","path":"a\u001b[2J.xml","why":"replaced","generation":null,
        "size":12,"hash":null,"mode":"0644","uid":0,"gid":0,"mtime":null,"at":"2026-01-31T09:00:00.000Z"}]"#;
    let (output, asked) = against(&[quarantine], &["quarantine", "list"]);
    assert_eq!((output.status.code(), asked[0].as_str()), (Some(0), "GET /quarantine HTTP/1.1"));
    let told = text(&output.stdout);
    assert!(told.contains("q1  2026-01-31T09:00:00.000Z  r     a [2J.xml     12  replaced"), "{told}");
    let (output, _) = against(&["[]"], &["quarantine", "list"]);
    assert_eq!(text(&output.stdout), "nothing is in quarantine on this node\n");
}

#[test]
fn an_answer_of_another_shape_is_told_as_such() {
    let (output, _) = against(&["{}"], &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("with something else"), "{}", text(&output.stderr));
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_syncd"))
        .arg("demo")
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("three gateways"));
    let id = rustix::process::Pid::from_child(&demo);
    // It may be over by itself already, when its daemons could not run.
    let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    drop(lines);
    demo.wait().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
