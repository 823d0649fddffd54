//! What a person or a script meets at the command line when no daemon runs.

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
    for part in ["run", "status", "history", "quarantine", "demo", "SYNCD_CONFIG", "/etc/syncd/syncd.toml"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for code in ["   0  ", "   1  ", "   2  ", "   3  ", "  64  ", "  78  "] {
        assert!(help.contains(code), "{code}: {help}");
    }
    for later in ["approve", "switchover", "bootstrap", "die-with-parent"] {
        assert!(!help.contains(later), "what is not built does not appear: {later}");
    }
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
    for command in
        [&["status"][..], &["status", "--wait"], &["status", "--json"], &["history"], &["quarantine", "list"]]
    {
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
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = syncd(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("no answer within 5s"), "{}", text(&output.stderr));
    drop(listener);
}
