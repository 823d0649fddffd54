//! Every mistake in a configuration, through the real binary: exit 78, and where, what and how to mend it.

#![allow(clippy::unwrap_used, reason = "helpers of a test end it as the test itself would")]

use std::path::Path;
use std::process::{Command, Output};

/// A file that is in order on any host; the line of each key matters to the cases below.
const GOOD: &str = r#"[node]
name = "gw1"
listen = "127.0.0.1:0"
http = "127.0.0.1:0"
data_dir = "DIR/data"
socket = "DIR/socket"
[cluster]
name = "test"
[[cluster.node]]
name = "gw1"
address = "127.0.0.1:8730"
[[cluster.node]]
name = "gw2"
address = "127.0.0.2:8730"
[[cluster.node]]
name = "gw3"
address = "127.0.0.3:8730"
[[root]]
name = "r"
path = "DIR/r"
"#;

/// Runs the daemon with `text` as its file in a fresh folder; `DIR` stands for that folder.
fn run(text: &str, env: &[(&str, &str)]) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    std::fs::create_dir(folder.path().join("r")).unwrap();
    std::fs::write(folder.path().join("junk.pem"), "no certificate").unwrap();
    let file = folder.path().join("syncd.toml");
    std::fs::write(&file, text.replace("DIR", directory)).unwrap();
    let output =
        daemon(&file).envs(env.iter().map(|(name, value)| (*name, value.replace("DIR", directory)))).output();
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).replace(directory, "DIR");
    (output, told)
}

fn daemon(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncd"));
    command.arg("run").arg("--config").arg(file).env_clear();
    command
}

/// Lays `change` over the good file and expects exactly one mistake, told with `place` (line or variable), key, and
/// these parts of cause and remedy.
#[track_caller]
fn check(change: Change, place: &str, key: &str, parts: &[&str]) {
    let (text, env) = change.apply();
    let (output, told) = run(&text, &env);
    assert_eq!(output.status.code(), Some(78), "{change:?}\n{told}");
    let mistakes = told.lines().filter(|line| line.contains("remedy:"));
    let mistakes: Vec<&str> = mistakes.map(|line| line.trim_start_matches("syncd: ")).collect();
    assert_eq!(mistakes.len(), 1, "{change:?}\n{told}");
    let place = match place.parse::<usize>() {
        Ok(line) => format!("DIR/syncd.toml:{line}: "),
        Err(_) => format!("environment variable {place}: "),
    };
    let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
    let begin = format!("{place}{key}");
    assert!(mistakes[0].starts_with(&begin), "{change:?}\nexpected {begin}\n{told}");
    for part in parts {
        assert!(mistakes[0].contains(part), "{change:?}\nexpected {part}\n{told}");
    }
}

/// How the good file is spoilt.
#[derive(Clone, Copy, Debug)]
enum Change<'c> {
    /// The first becomes the second.
    Replace(&'c str, &'c str),
    /// This comes at the end, from line 21 on.
    Append(&'c str),
    /// This stands in the environment.
    Env(&'c str, &'c str),
}

use Change::{Append, Env, Replace};

impl<'c> Change<'c> {
    fn apply(self) -> (String, Vec<(&'c str, &'c str)>) {
        match self {
            Replace(from, to) => {
                assert!(GOOD.contains(from), "{from}");
                (GOOD.replacen(from, to, 1), vec![])
            }
            Append(text) => (format!("{GOOD}{text}"), vec![]),
            Env(name, value) => (GOOD.to_owned(), vec![(name, value)]),
        }
    }
}

#[test]
fn syntax_types_and_unknown_keys() {
    check(Replace("name = \"test\"", "name = test"), "8", "", &["not TOML"]);
    check(Append("[sync]\nsetle = \"1s\"\n"), "22", "sync.setle", &["no such key", "`sync.settle`"]);
    check(Append("[elections]\n"), "21", "elections", &["no such key", "`election`"]);
    check(Append("[election]\nsettle = \"1s\"\n"), "22", "election.settle", &["`sync.settle`"]);
    check(Append("[sync]\nsettle = 10\n"), "22", "sync.settle", &["duration", "\"200ms\""]);
    check(Append("[sync]\nsettle = \"10\"\n"), "22", "sync.settle", &["`10` is not a duration"]);
    check(Append("[sync]\nmax_delete = \"many\"\n"), "22", "sync.max_delete", &["whole number"]);
    check(Append("[sync]\nmax_delete = -1\n"), "22", "sync.max_delete", &["-1 is below 0"]);
    check(Append("[sync]\nhistory = 0\n"), "22", "sync.history", &["0 is below 1"]);
    check(Append("[sync]\nbandwidth = \"fast\"\n"), "22", "sync.bandwidth", &["not a size", "20MiB"]);
    check(
        Append("[sync]\ndrift = \"ignore\"\n"),
        "22",
        "sync.drift",
        &["`ignore`", "\"revert\" or \"report\""],
    );
    check(Append("[sync]\nvalidate = true\n"), "22", "sync.validate", &["text"]);
    check(
        Append("[shared_fs]\nrequire_mount = \"yes\"\n"),
        "22",
        "shared_fs.require_mount",
        &["true or false"],
    );
    check(Append("exclude = \"*.back\"\n"), "21", "root[0].exclude", &["list"]);
    check(
        Replace("[cluster]\n", "[cluster]\nmode = \"rsnc\"\n"),
        "8",
        "cluster.mode",
        &["rsnc", "\"rsync\""],
    );
    check(Append("[election]\nbackend = \"etcd\"\n"), "22", "election.backend", &["etcd", "\"raft\""]);
    check(Replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1\""), "3", "node.listen", &["port"]);
    check(Replace("\"DIR/data\"", "\"data\""), "5", "node.data_dir", &["absolute"]);
}

#[test]
fn nodes() {
    let node = "[[cluster.node]]\nname = \"x\"\naddress = \"127.0.0.9:1\"\n";
    let with = |line: &str| format!("{node}{line}");
    check(Append(&with("role = \"boss\"\n")), "24", "cluster.node[3].role", &["boss", "\"witness\""]);
    check(Append(&with("priority = \"high\"\n")), "24", "cluster.node[3].priority", &["whole number"]);
    check(
        Replace("name = \"gw3\"", "name = \"gw2\""),
        "16",
        "cluster.node[2].name",
        &["`gw2`", "[1].name too"],
    );
    check(Replace("127.0.0.3:8730", "127.0.0.2:8730"), "17", "cluster.node[2].address", &["[1].address too"]);
    check(Replace("127.0.0.3:8730", "127.0.0.3"), "17", "cluster.node[2].address", &["not host:port"]);
    check(Replace("name = \"gw3\"", "name = \"g w\""), "16", "cluster.node[2].name", &["not a good name"]);
    check(Replace("name = \"gw3\"\n", ""), "15", "cluster.node[2].name", &["missing"]);
    check(Replace("name = \"test\"\n", ""), "7", "cluster.name", &["missing"]);
    let workers = GOOD.replace("[[cluster.node]]\n", "[[cluster.node]]\nrole = \"worker\"\n");
    check(Replace(GOOD, &workers), "9", "cluster.node", &["no candidate", "[[cluster.node]]"]);
    let unnamed = GOOD.replacen("name = \"gw1\"\n", "", 1).replace("127.0.0.2", "127.0.0.4");
    let several = &["several listed nodes", "gw1, gw2, gw3", "node.name"];
    check(Replace(GOOD, &unnamed), "1", "node.name", several);
}

#[test]
fn relations() {
    let election = |line: &str| format!("[election]\n{line}\n");
    let low = election("timeout = \"400ms\"");
    check(Append(&low), "22", "election.timeout", &["twice election.heartbeat (200ms)", "more than 400ms"]);
    check(Append(&election("heartbeat = \"300ms\"")), "21", "election.timeout", &["more than 600ms"]);
    check(Append(&election("lease = \"500ms\"")), "22", "election.lease", &["election.timeout (600ms)"]);
    check(Append(&election("lease = \"1h\"")), "22", "election.lease", &["more than 1m"]);
    check(Append("[sync]\ngather = \"7s\"\n"), "22", "sync.gather", &["sync.settle_max (6s)"]);
    check(Append("[sync]\nsettle = \"7s\"\n"), "22", "sync.settle", &["sync.settle_max (6s)"]);
    check(Append("[sync]\ndelete_grace = \"7s\"\n"), "22", "sync.delete_grace", &["sync.settle_max (6s)"]);
    check(
        Append("[shared_fs]\nconverge_within = \"1s\"\n"),
        "22",
        "shared_fs.converge_within",
        &["interval"],
    );
    check(Append("[[hook]]\non = \"applied\"\ncommand = [\"x\"]\n"), "23", "hook[0].command", &["absolute"]);
    check(Append("[[hook]]\non = \"x\"\ncommand = [\"/x\"]\n"), "22", "hook[0].on", &["manager-changed"]);
    let long = format!("socket = \"/{}\"", "s".repeat(120));
    check(Replace("socket = \"DIR/socket\"", &long), "6", "node.socket", &["107"]);
}

#[test]
fn roots() {
    let root = |name: &str, path: &str| format!("[[root]]\nname = \"{name}\"\npath = \"{path}\"\n");
    check(Append(&root("r", "/elsewhere")), "22", "root[1].name", &["`r`", "root[0].name too"]);
    check(Append(&root("s", "DIR/r")), "23", "root[1].path", &["is root[0].path too"]);
    check(Append(&root("s", "DIR/r/inner")), "23", "root[1].path", &["inside root[0].path"]);
    check(Append(&root("s", "DIR/data/x")), "23", "root[1].path", &["inside node.data_dir"]);
    check(Append(&root("s/t", "/elsewhere")), "22", "root[1].name", &["not a good name"]);
    check(Replace("\"DIR/r\"", "\"r\""), "20", "root[0].path", &["absolute"]);
    check(Replace("path = \"DIR/r\"\n", ""), "18", "root[0].path", &["missing"]);
    check(Append("exclude = [\"a\",\n\"b[z-a]\"]\n"), "22", "root[0].exclude[1]", &["`b[z-a]`", "gitignore"]);
    check(Append("protect = [\"b[z-a]\"]\n"), "21", "root[0].protect[0]", &["`b[z-a]`"]);
    check(Append("per_node = [\"b[z-a]\"]\n"), "21", "root[0].per_node[0]", &["`b[z-a]`"]);
    let none = GOOD.split("[[root]]").next().unwrap();
    check(Replace(GOOD, none), "1", "root", &["no root", "[preset]"]);
    check(
        Append("[preset]\nname = \"wso2-x\"\nhome = \"/h\"\n"),
        "22",
        "preset.name",
        &["wso2-apim", "wso2-mi"],
    );
    check(Append("[preset]\nname = \"wso2-mi\"\n"), "21", "preset.home", &["missing"]);
    check(Append("[preset]\nhome = \"/h\"\n"), "21", "preset.name", &["missing"]);
}

#[test]
fn what_a_version_cannot_do_it_refuses() {
    let shared = Replace("[cluster]\n", "[cluster]\nmode = \"shared-fs\"\n");
    check(shared, "8", "cluster.mode", &["not in this version", "\"rsync\""]);
    check(Append("mode = \"compare\"\n"), "21", "root[0].mode", &["not in this version"]);
}

#[test]
fn certificates() {
    let open = Replace("listen = \"127.0.0.1:0\"", "listen = \"0.0.0.0:0\"");
    check(open, "3", "node.listen", &["no certificates", "tls.insecure = true"]);
    check(Append("[tls]\nca = \"/x\"\ncert = \"/x\"\n"), "21", "tls.key", &["missing", "all three"]);
    let three = |path: &str| format!("[tls]\nca = \"DIR/ok.pem\"\ncert = \"DIR/ok.pem\"\nkey = \"{path}\"\n");
    let (_, told) = run(&format!("{GOOD}{}", three("DIR/nothing.pem")), &[]);
    for (line, key) in [(22, "ca"), (23, "cert"), (24, "key")] {
        assert!(told.contains(&format!("DIR/syncd.toml:{line}: tls.{key}: DIR/")), "{told}");
    }
    let (_, told) = run(&format!("{GOOD}{}", three("DIR/junk.pem")), &[]);
    assert!(told.contains("tls.key: DIR/junk.pem holds no PEM block"), "{told}");
    assert!(!told.contains("no certificate\n"), "a key's content is never told: {told}");
}

#[test]
fn the_environment() {
    check(Env("SYNCD_SYNC__GATHER", "soon"), "SYNCD_SYNC__GATHER", "sync.gather", &["duration"]);
    check(Env("SYNCD_NODE__NAEM", "x"), "SYNCD_NODE__NAEM", "node.naem", &["`node.name`"]);
    check(Env("SYNCD_NOSUCH__KEY", "x"), "SYNCD_NOSUCH__KEY", "nosuch", &["no such key"]);
    check(Env("SYNCD_ROOT__5__PATH", "/x"), "SYNCD_ROOT__5__PATH", "root.5.path", &["1 entries"]);
    check(Env("SYNCD_ROOT__0__PATH", "x"), "SYNCD_ROOT__0__PATH", "root[0].path", &["absolute"]);
    check(
        Env("SYNCD_ROOT__0__EXCLUDE", "[\"b[z-a]\"]"),
        "SYNCD_ROOT__0__EXCLUDE",
        "root[0].exclude[0]",
        &["`b[z-a]`"],
    );
    check(Env("SYNCD_LOG", "syncd=loud"), "SYNCD_LOG", "", &["log filter"]);
}

#[test]
fn files_that_are_none() {
    let output = daemon(Path::new("/no/such/file.toml")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(
        told.contains("/no/such/file.toml: cannot be read: No such file") && told.contains("remedy:"),
        "{told}"
    );
    let output = daemon(Path::new("/proc/self")).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    std::fs::write(&file, b"\xff\xfe").unwrap();
    let output = daemon(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn all_mistakes_are_told_in_one_run() {
    let (output, told) = run(&format!("{GOOD}[sync]\nhistory = 0\nsetle = \"1s\"\n[x]\n"), &[]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(told.lines().filter(|line| line.contains("remedy:")).count(), 3, "{told}");
    assert!(told.contains("3 mistakes"), "{told}");
}
