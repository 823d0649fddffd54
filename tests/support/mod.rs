//! Real daemons for the tests: each node a process of the built binary, on loopback addresses of its own.
//!
//! Owns starting, killing, pausing and asking them; every wait is bounded and says what it waited for, with the end
//! of every daemon's log. Leaves what is expected to the tests.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)] // each test file uses a part of this

pub mod deployer;
pub mod leases;
pub mod network;
pub mod tree;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One gateway host.
pub struct Node {
    pub name: String,
    pub role: &'static str,
    pub address: String,
    pub http: String,
    pub root: PathBuf,
    pub data: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    /// Variables for the next start, besides the ones every node gets.
    pub env: BTreeMap<String, String>,
    /// Put before the daemon's own command line, such as `ip netns exec gw1`.
    pub prefix: Vec<String>,
    /// Whether malformed XML is held, as it is by default. Most tests write what is no XML at all; benches do not.
    pub validates: bool,
    child: Option<Child>,
}

/// Several hosts with one configuration file.
pub struct TestCluster {
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    pub nodes: Vec<Node>,
}

/// What `GET` answered.
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// One thing in a folder, seen independently of the daemon's own code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    File { mode: u32, content: Vec<u8> },
    Folder { mode: u32 },
    Link { target: PathBuf },
}

/// Three candidates called gw1, gw2 and gw3.
/// For tests in which nobody is to be replaced for being slow.
pub const STEADY: &str = "[election]\nlease = \"5s\"\n";
pub const THREE: &[(&str, &str)] = &[("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate")];

/// A loopback network that no other test process and no other cluster of this one uses.
fn network() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    format!("127.{}.{}", 1 + (pid % 250), 1 + ((pid / 250 + n * 7) % 250))
}

impl Node {
    fn at(home: &Path, name: &str, role: &'static str, address: &str) -> Self {
        Self {
            name: name.to_owned(),
            role,
            address: format!("{address}:8730"),
            http: format!("{address}:8731"),
            root: home.join("synapse-configs"),
            data: home.join("data"),
            socket: home.join("syncd.sock"),
            log: home.join("log"),
            env: BTreeMap::new(),
            prefix: Vec::new(),
            validates: !cfg!(test),
            child: None,
        }
    }
}

impl Node {
    /// What tells this host from the others, which have the same configuration file.
    fn variables(&self) -> [(&'static str, std::ffi::OsString); 6] {
        [
            ("SYNCD_NODE__NAME", (&self.name).into()),
            ("SYNCD_NODE__LISTEN", (&self.address).into()),
            ("SYNCD_NODE__HTTP", (&self.http).into()),
            ("SYNCD_NODE__DATA_DIR", self.data.clone().into()),
            ("SYNCD_NODE__SOCKET", self.socket.clone().into()),
            ("SYNCD_ROOT__0__PATH", self.root.clone().into()),
        ]
    }
}

impl TestCluster {
    /// Nodes that are not running yet, with empty roots. `extra` is appended to the configuration file.
    pub fn new(nodes: &[(&str, &'static str)], extra: &str) -> Self {
        let network = network();
        let addresses: Vec<_> = (1..=nodes.len()).map(|host| format!("{network}.{host}")).collect();
        Self::with_addresses(nodes, &addresses, extra)
    }

    /// As [`TestCluster::new`], on the given addresses.
    pub fn with_addresses(nodes: &[(&str, &'static str)], addresses: &[String], extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("syncd.toml");
        let mut text = String::from("[cluster]\nname = \"test\"\nmode = \"rsync\"\n");
        let mut made = Vec::new();
        for ((name, role), address) in nodes.iter().zip(addresses) {
            writeln!(
                text,
                "\n[[cluster.node]]\nname = \"{name}\"\naddress = \"{address}:8730\"\nrole = \"{role}\""
            )
            .unwrap();
            let home = dir.path().join(name);
            fs::create_dir_all(home.join("synapse-configs")).unwrap();
            made.push(Node::at(&home, name, role, address));
        }
        text.push_str("\n[[root]]\nname = \"synapse-configs\"\npath = \"/set/by/the/environment\"\n");
        text.push_str(extra);
        fs::write(&config, text).unwrap();
        Self { dir, config, nodes: made }
    }

    /// One more host that the configuration does not list; its index.
    pub fn add_host(&mut self, home: &str, name: &str, address: &str) -> usize {
        let home = self.dir.path().join(home);
        fs::create_dir_all(home.join("synapse-configs")).unwrap();
        self.nodes.push(Node::at(&home, name, "worker", address));
        self.nodes.len() - 1
    }

    pub fn start(&mut self, node: usize) {
        let config = self.config.clone();
        let node = &mut self.nodes[node];
        assert!(node.child.is_none(), "{} runs already", node.name);
        let log = fs::OpenOptions::new().create(true).append(true).open(&node.log).unwrap();
        let mut command = match node.prefix.split_first() {
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(env!("CARGO_BIN_EXE_syncd"));
                command
            }
            None => Command::new(env!("CARGO_BIN_EXE_syncd")),
        };
        command
            .args(["run", "--config"])
            .arg(&config)
            .envs(node.variables())
            .envs((!node.validates).then_some(("SYNCD_SYNC__VALIDATE", "off")))
            .envs(&node.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        node.child = Some(command.spawn().unwrap());
    }

    pub fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }

    /// Ends a daemon as a power loss would end it, and waits until it is gone.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends a daemon as systemd does, and waits; its exit code.
    pub fn stop(&mut self, node: usize) -> Option<i32> {
        self.signal(node, "TERM");
        let mut child = self.nodes[node].child.take()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                self.fail(&format!("{} did not stop in time", self.nodes[node].name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until a daemon has ended by itself (a crash point, a fatal error); its exit code, none by a signal.
    pub fn wait_end(&mut self, node: usize, bound: Duration) -> Option<i32> {
        let deadline = Instant::now() + bound;
        let mut child = self.nodes[node].child.take().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                self.nodes[node].child = Some(child);
                self.fail(&format!("{} did not end by itself", self.nodes[node].name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_running(&mut self, node: usize) -> bool {
        self.nodes[node].child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].child.as_ref().unwrap().id()
    }

    /// Sends a signal by name, such as `STOP` or `CONT`.
    pub fn signal(&self, node: usize, signal: &str) {
        let Some(child) = self.nodes[node].child.as_ref() else { return };
        // With a prefix the daemon is that command's successor by exec, so the pid is the daemon's own.
        let status =
            Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn get(&self, node: usize, path: &str) -> Option<Answer> {
        let node = &self.nodes[node];
        if let Some((program, rest)) = node.prefix.split_first() {
            return get_from_within(program, rest, &node.http, path);
        }
        get(&node.http, path, Duration::from_secs(5))
    }

    pub fn status(&self, node: usize) -> Option<Value> {
        let answer = self.get(node, "/status").filter(|answer| answer.status == 200)?;
        serde_json::from_str(&answer.body).ok()
    }

    /// Asks over the control socket, which needs no network; none when nobody answers in time.
    pub fn get_control(&self, node: usize, path: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(&self.nodes[node].socket).ok()?;
        let limit = Some(Duration::from_secs(1));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        let answer = exchange(&mut stream, path).filter(|answer| answer.status == 200)?;
        serde_json::from_str(&answer.body).ok()
    }

    /// The node that answers 200 on `/manager`.
    pub fn manager(&self) -> Option<usize> {
        (0..self.nodes.len())
            .find(|node| self.get(*node, "/manager").is_some_and(|answer| answer.status == 200))
    }

    pub fn wait_manager(&self, bound: Duration) -> usize {
        let mut manager = None;
        self.wait("a manager", bound, || {
            manager = self.manager();
            manager.is_some()
        });
        manager.unwrap()
    }

    /// Waits until `done`, asked every 10 ms; fails the test with all logs after `bound`.
    pub fn wait(&self, what: &str, bound: Duration, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + bound;
        while !done() {
            if Instant::now() > deadline {
                self.fail(&format!("waited {bound:?} in vain for {what}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the given nodes' folders hold the same, by reading them.
    pub fn wait_equal(&self, nodes: &[usize], bound: Duration) {
        let mut last = String::new();
        let deadline = Instant::now() + bound;
        loop {
            let first = snapshot(&self.nodes[nodes[0]].root);
            let mut equal = true;
            for node in &nodes[1..] {
                let other = snapshot(&self.nodes[*node].root);
                if other != first {
                    last = difference(&self.nodes[nodes[0]].name, &first, &self.nodes[*node].name, &other);
                    equal = false;
                }
            }
            if equal {
                return;
            }
            if Instant::now() > deadline {
                self.fail(&format!("folders still differ after {bound:?}: {last}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every given node reports the head, and one head, without being behind.
    pub fn wait_in_sync(&self, nodes: &[usize], bound: Duration) -> u64 {
        let mut generation = 0;
        self.wait("every node at the head", bound, || {
            let heads: Vec<_> = nodes.iter().map(|node| self.status(*node)).collect();
            let Some(first) = heads[0].as_ref().and_then(|status| status["generation"].as_u64()) else {
                return false;
            };
            generation = first;
            nodes.iter().zip(&heads).all(|(node, status)| {
                let Some(status) = status else { return false };
                status["generation"].as_u64() == Some(first)
                    && row(status, &self.nodes[*node].name).is_some_and(|row| {
                        row["generation"].as_u64() == Some(first) && row["digest"] == status["digest"]
                    })
            })
        });
        generation
    }

    /// Writes a file as the gateway does: truncate, write, close.
    pub fn write(&self, node: usize, path: &str, content: impl AsRef<[u8]>) {
        let path = self.nodes[node].root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, node: usize, path: &str) -> Option<Vec<u8>> {
        fs::read(self.nodes[node].root.join(path)).ok()
    }

    /// Waits until a node's file has this content.
    pub fn wait_content(&self, node: usize, path: &str, content: impl AsRef<[u8]>, bound: Duration) {
        let what = format!("{path} on {}", self.nodes[node].name);
        self.wait(&what, bound, || self.read(node, path).as_deref() == Some(content.as_ref()));
    }

    /// Runs a client command against a node; its exit code, standard output and standard error.
    pub fn cli(&self, node: usize, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_syncd"))
            .args(arguments)
            .arg("--socket")
            .arg(&self.nodes[node].socket)
            .env("SYNCD_CONFIG", &self.config)
            .output()
            .unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Runs a command for a host whose daemon is stopped; its exit code (-1: a signal), standard output and standard error.
    pub fn offline(&self, node: usize, arguments: &[&str]) -> (i32, String, String) {
        let node = &self.nodes[node];
        let output = Command::new(env!("CARGO_BIN_EXE_syncd"))
            .args(arguments)
            .env("SYNCD_CONFIG", &self.config)
            .envs(node.variables())
            .envs(&node.env)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Fails the test with the end of every daemon's log and what each says of itself.
    pub fn fail(&self, why: &str) -> ! {
        for (index, node) in self.nodes.iter().enumerate() {
            eprintln!("---- log of {} (its end)", node.name);
            let log = fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("{line}"));
            if let Some(status) = self.status(index) {
                eprintln!("---- status of {}: {status}", node.name);
            }
        }
        panic!("{why}");
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.kill(node));
    }
}

/// The row of a node in a status document.
pub fn row<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["nodes"].as_array()?.iter().find(|row| row["name"] == name)
}

/// Whether a status document names a problem.
pub fn has_problem(status: &Value, code: &str) -> bool {
    status["problems"].as_array().is_some_and(|all| all.iter().any(|problem| problem["code"] == code))
}

/// What a node's status says of a problem, message and remedy, once it names `words`.
pub fn wait_problem(cluster: &TestCluster, node: usize, code: &str, words: &str) -> String {
    let mut found = String::new();
    cluster.wait(&format!("{code} that names {words:?}"), Duration::from_secs(40), || {
        let Some(status) = cluster.status(node) else { return false };
        let problems = status["problems"].as_array().into_iter().flatten();
        let said = problems.filter(|problem| problem["code"] == code && problem["node"] == status["node"]);
        let said = said.map(|problem| {
            format!("{}; {}", problem["message"].as_str().unwrap(), problem["remedy"].as_str().unwrap())
        });
        found = said.into_iter().find(|said| said.contains(words)).unwrap_or_default();
        !found.is_empty()
    });
    found
}

/// One request over a connection of its own; none when nobody answers in time.
pub fn get(address: &str, path: &str, limit: Duration) -> Option<Answer> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).unwrap();
    stream.set_write_timeout(Some(limit)).unwrap();
    exchange(&mut stream, path)
}

fn exchange(stream: &mut (impl Read + Write), path: &str) -> Option<Answer> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    parse_answer(&String::from_utf8_lossy(&text))
}

fn get_from_within(program: &str, rest: &[String], address: &str, path: &str) -> Option<Answer> {
    let output = Command::new(program)
        .args(rest)
        .args(["curl", "-s", "-i", "-m", "2", &format!("http://{address}{path}")])
        .output()
        .ok()?;
    parse_answer(&String::from_utf8_lossy(&output.stdout))
}

fn parse_answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split_whitespace().nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Some(Answer { status, headers, body: body.to_owned() })
}

/// Everything in a folder but the daemon's own work area, by plain reading.
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Seen> {
    fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Seen>) {
        let Ok(listing) = fs::read_dir(folder) else { return };
        for entry in listing.flatten() {
            let path = entry.path();
            let name = path.strip_prefix(top).unwrap().to_owned();
            if name.as_os_str() == ".syncd" {
                continue;
            }
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                found.insert(name, Seen::Folder { mode: meta.mode() & 0o777 });
                walk(top, &path, found);
            } else if meta.is_symlink() {
                if let Ok(target) = fs::read_link(&path) {
                    found.insert(name, Seen::Link { target });
                }
            } else if meta.is_file()
                && let Ok(content) = fs::read(&path)
            {
                found.insert(name, Seen::File { mode: meta.mode() & 0o777, content });
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

fn difference(a: &str, left: &BTreeMap<PathBuf, Seen>, b: &str, right: &BTreeMap<PathBuf, Seen>) -> String {
    let brief = |seen: Option<&Seen>| match seen {
        None => "nothing".to_owned(),
        Some(Seen::File { mode, content }) => format!("a file of {} bytes, mode {mode:o}", content.len()),
        Some(Seen::Folder { mode }) => format!("a folder, mode {mode:o}"),
        Some(Seen::Link { target }) => format!("a link to {}", target.display()),
    };
    let mut text = String::new();
    for path in left.keys().chain(right.keys().filter(|path| !left.contains_key(*path))) {
        let (one, other) = (left.get(path), right.get(path));
        if one != other && text.len() < 2000 {
            write!(text, "\n  {}: {a} has {}, {b} has {}", path.display(), brief(one), brief(other)).unwrap();
        }
    }
    text
}

/// A generator whose seed is printed, so that a failure can be run again with `SYNCD_TEST_SEED`.
pub fn rng(test: &str) -> rand::rngs::StdRng {
    use rand::SeedableRng;
    let seed = match std::env::var("SYNCD_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    eprintln!("{test}: SYNCD_TEST_SEED={seed}");
    rand::rngs::StdRng::seed_from_u64(seed)
}
