//! The daemons of the demo: started from one file, killed, asked, and always ended.

use std::fmt::Write as _;
use std::fs::File as LogFile;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::cli::client::Client;
use crate::cli::demo::artifacts::File;
use crate::cli::demo::trees::{self, Tree};
use crate::cli::http::{self, Question};
use crate::daemon::status::{QuarantineRow, StatusReport};
use crate::model::{NodeReport, NodeState};

/// How often files are looked at: small against what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How often daemons are asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// How long one answer may take; a daemon that hangs is asked again until the step's limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A daemon that was asked to stop ends within this.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// How much of a log is shown when its daemon is at fault.
const LOG_LINES_SHOWN: usize = 15;

/// Three daemons and their folders.
pub(super) struct Gateways {
    folder: tempfile::TempDir,
    config: PathBuf,
    nodes: Vec<Gateway>,
}

struct Gateway {
    name: String,
    folder: PathBuf,
    listen: SocketAddr,
    http: SocketAddr,
    child: Option<Child>,
}

/// Something did not hold.
#[derive(Debug)]
pub(super) struct Trouble {
    what: String,
    /// Whose log tells more; all when none.
    node: Option<usize>,
}

impl Trouble {
    pub(super) fn of_all(what: impl Into<String>) -> Self {
        Self { what: what.into(), node: None }
    }

    fn of(node: usize, what: impl Into<String>) -> Self {
        Self { what: what.into(), node: Some(node) }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::of_all(format!("a file of the demo: {error}"))
    }
}

impl Gateway {
    fn root(&self) -> PathBuf {
        self.folder.join("synapse-configs")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn runs(&self) -> bool {
        self.child.is_some()
    }

    async fn get(&self, path: &str) -> Option<(StatusCode, bytes::Bytes)> {
        let stream = tokio::time::timeout(ANSWER_WITHIN, TcpStream::connect(self.http)).await.ok()?.ok()?;
        http::ask(stream, Question::get(path), ANSWER_WITHIN).await.ok()
    }

    /// The status as this node sees it.
    async fn status(&self) -> Option<StatusReport> {
        let (status, body) = self.get("/status").await?;
        if !status.is_success() {
            return None;
        }
        serde_json::from_slice(&body).ok()
    }

    /// What this node says of itself.
    async fn own_row(&self) -> Option<(StatusReport, NodeReport)> {
        let report = self.status().await?;
        let row = report.own_row()?.clone();
        Some((report, row))
    }
}

impl Gateways {
    /// Makes the folders and the one configuration file; starts nothing.
    pub(super) fn prepare(names: [&str; 3]) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("syncd-demo-").tempdir()?;
        let ports = free_ports(2 * names.len())?;
        let mut text =
            "# One file for all three; what differs stands in each daemon's environment.\n[cluster]\n\
                        name = \"demo\"\n"
                .to_owned();
        let mut nodes = Vec::new();
        for (name, ports) in names.into_iter().zip(ports.chunks(2)) {
            let gateway = Gateway {
                name: name.to_owned(),
                folder: folder.path().join(name),
                listen: (Ipv4Addr::LOCALHOST, ports[0]).into(),
                http: (Ipv4Addr::LOCALHOST, ports[1]).into(),
                child: None,
            };
            std::fs::create_dir_all(gateway.root())?;
            text.push_str(&format!(
                "\n[[cluster.node]]\nname = \"{name}\"\naddress = \"{}\"\n",
                gateway.listen
            ));
            nodes.push(gateway);
        }
        text.push_str("\n[[root]]\nname = \"synapse-configs\"\nexclude = [\"*.back\"]\n");
        let config = folder.path().join("syncd.toml");
        std::fs::write(&config, text)?;
        Ok(Self { folder, config, nodes })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    pub(super) fn root(&self, node: usize) -> PathBuf {
        self.nodes[node].root()
    }

    /// Starts one daemon; its log goes on where it ended.
    pub(super) fn start(&mut self, node: usize) -> Result<(), Trouble> {
        let gateway = &mut self.nodes[node];
        let log = LogFile::options().create(true).append(true).open(gateway.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("SYNCD_") && text != "SYNCD_LOG"
                || text == "NOTIFY_SOCKET"
                || text == "WATCHDOG_USEC"
            {
                command.env_remove(&name);
            }
        }
        command
            .args(["run", "--die-with-parent", "--log-format", "text", "--config"])
            .arg(&self.config)
            .env("SYNCD_NODE__NAME", &gateway.name)
            .env("SYNCD_NODE__LISTEN", gateway.listen.to_string())
            .env("SYNCD_NODE__HTTP", gateway.http.to_string())
            .env("SYNCD_NODE__DATA_DIR", gateway.folder.join("data"))
            .env("SYNCD_NODE__SOCKET", gateway.folder.join("socket"))
            .env("SYNCD_ROOT__0__PATH", gateway.root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A terminal's Ctrl-C is for the demo, which then ends its daemons.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| Trouble::of(node, format!("cannot start: {error}")))?;
        gateway.child = Some(child);
        Ok(())
    }

    /// Ends one daemon as a power loss would.
    pub(super) async fn kill(&mut self, node: usize) -> Result<(), Trouble> {
        if let Some(mut child) = self.nodes[node].child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Waits for a manager other than `but`: one whose `/manager` answers 200.
    pub(super) async fn manager(
        &mut self,
        but: Option<usize>,
        limit: Duration,
    ) -> Result<(usize, Duration), Trouble> {
        let begun = Instant::now();
        loop {
            for (number, gateway) in self.nodes.iter().enumerate() {
                let asked = Some(number) != but && gateway.runs();
                if asked && gateway.get("/manager").await.is_some_and(|(status, _)| status == StatusCode::OK)
                {
                    return Ok((number, begun.elapsed()));
                }
            }
            self.all_alive()?;
            if begun.elapsed() > limit {
                let limit = limit.as_secs();
                return Err(Trouble::of_all(format!("no node answered 200 on /manager within {limit} s")));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Waits until all report one head, with its digest, and their folders are equal; returns its number.
    pub(super) async fn in_step(&mut self, limit: Duration) -> Result<(u64, Duration), Trouble> {
        let begun = Instant::now();
        loop {
            let (node, why) = match self.head_of_all().await {
                Err(behind) => behind,
                Ok(generation) => {
                    let found = self.trees()?;
                    if found.windows(2).all(|pair| pair[0].1 == pair[1].1) {
                        return Ok((generation, begun.elapsed()));
                    }
                    if begun.elapsed() > limit {
                        let what = "all report the same generation, but their folders differ";
                        return Err(Trouble::of_all(what));
                    }
                    tokio::time::sleep(ASK_EVERY).await;
                    continue;
                }
            };
            self.all_alive()?;
            if begun.elapsed() > limit {
                let what = format!("{} is not in step after {} s: {why}", self.name(node), limit.as_secs());
                return Err(Trouble::of(node, what));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The head that all report to have applied, else one node that does not and what it reports.
    async fn head_of_all(&self) -> Result<u64, (usize, String)> {
        let mut common = None;
        for (number, gateway) in self.nodes.iter().enumerate() {
            let Some((report, row)) = gateway.own_row().await else {
                return Err((number, "it does not answer on /status".into()));
            };
            let applied = matches!(row.state, NodeState::Manager | NodeState::InSync)
                && row.generation == report.generation
                && row.digest == report.digest;
            let Some(generation) = report.generation.filter(|_| applied) else {
                let what = format!("{:?} at {:?} of {:?}", row.state, row.generation, report.generation);
                return Err((number, what));
            };
            let head = (generation, report.digest);
            if common.get_or_insert_with(|| head.clone()) != &head {
                return Err((number, format!("its head is {generation}, and that of gw1 another")));
            }
        }
        Ok(common.map_or(0, |(generation, _)| generation))
    }

    /// Waits until every running node has the written files whole and none of those that are gone.
    pub(super) async fn visible(
        &self,
        written: &[File],
        gone: &[PathBuf],
        limit: Duration,
    ) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        for (number, gateway) in self.nodes.iter().enumerate().filter(|(_, gateway)| gateway.runs()) {
            let root = gateway.root();
            let there = |file: &&File| {
                std::fs::read(root.join(&file.path)).is_ok_and(|it| it == file.content.as_bytes())
            };
            loop {
                let missing =
                    written.iter().find(|file| !there(file)).map(|file| (&file.path, "is not there"));
                let left =
                    gone.iter().find(|path| root.join(path).exists()).map(|path| (path, "is still there"));
                let Some((path, what)) = missing.or(left) else { break };
                if begun.elapsed() > limit {
                    let limit = limit.as_secs();
                    let what = format!("{}: {} {what} after {limit} s", gateway.name, path.display());
                    return Err(Trouble::of(number, what));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(begun.elapsed())
    }

    /// Waits until a node has that many files in its quarantine.
    pub(super) async fn quarantined(
        &self,
        node: usize,
        count: usize,
        limit: Duration,
    ) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        loop {
            let row = self.nodes[node].own_row().await;
            let kept = row.and_then(|(_, row)| row.quarantined);
            if kept.is_some_and(|kept| kept >= count as u64) {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > limit {
                let what = format!("{} says {kept:?} in quarantine instead of {count}", self.name(node));
                return Err(Trouble::of(node, what));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Waits until a node's quarantine has this very content; returns the name that it lists it by.
    pub(super) async fn kept(
        &self,
        node: usize,
        file: &File,
        limit: Duration,
    ) -> Result<(String, Duration), Trouble> {
        let begun = Instant::now();
        let client = Client::new(&self.nodes[node].folder.join("socket"));
        let hash = blake3::hash(file.content.as_bytes()).to_hex().to_string();
        let path = file.path.to_string_lossy();
        loop {
            let listed = client.get::<Vec<QuarantineRow>>("/quarantine").await;
            let rows = listed.map(|(rows, _)| rows).unwrap_or_default();
            let found = rows.into_iter().find(|row| row.path == path && row.hash.as_ref() == Some(&hash));
            if let Some(row) = found {
                return Ok((row.id, begun.elapsed()));
            }
            if begun.elapsed() > limit {
                let what = format!("{}: {path} is not in its quarantine", self.name(node));
                return Err(Trouble::of(node, what));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// What each folder holds, as a walk of its own finds it.
    pub(super) fn trees(&self) -> Result<Vec<(String, Tree)>, Trouble> {
        let tree = |gateway: &Gateway| Ok((gateway.name.clone(), trees::digest(&gateway.root())?));
        self.nodes.iter().map(tree).collect()
    }

    /// Asks all to stop and waits until they did, in order.
    pub(super) async fn stop(&mut self) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        for gateway in &self.nodes {
            let id =
                gateway.child.as_ref().and_then(Child::id).and_then(|id| Pid::from_raw(id.cast_signed()));
            if let Some(id) = id {
                kill_process(id, Signal::TERM).map_err(io::Error::from)?;
            }
        }
        for (number, gateway) in self.nodes.iter_mut().enumerate() {
            let Some(child) = &mut gateway.child else { continue };
            let status = match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
                Ok(status) => status?,
                Err(_) => {
                    let what = format!("{} did not stop within {} s", gateway.name, STOP_WITHIN.as_secs());
                    return Err(Trouble::of(number, what));
                }
            };
            if !status.success() {
                return Err(Trouble::of(number, format!("{} stopped with {status}", gateway.name)));
            }
            gateway.child = None;
        }
        Ok(begun.elapsed())
    }

    /// Ends whatever still runs; the folder goes with this value.
    pub(super) async fn end(mut self) {
        for gateway in &mut self.nodes {
            if let Some(child) = &mut gateway.child {
                // It ended by itself: all the better.
                let _ = child.kill().await;
            }
        }
    }

    /// A daemon that ended by itself is a better explanation than a wait that ran out.
    fn all_alive(&mut self) -> Result<(), Trouble> {
        for (number, gateway) in self.nodes.iter_mut().enumerate() {
            if let Some(child) = &mut gateway.child
                && let Some(status) = child.try_wait()?
            {
                return Err(Trouble::of(number, format!("{} ended by itself: {status}", gateway.name)));
            }
        }
        Ok(())
    }

    /// The trouble with the last words of whoever is at fault.
    pub(super) fn explain(&self, trouble: &Trouble) -> String {
        let mut text = trouble.what.clone();
        for (number, gateway) in self.nodes.iter().enumerate() {
            if trouble.node.is_some_and(|node| node != number) {
                continue;
            }
            let log = std::fs::read(gateway.log()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            // Writing to a text cannot fail.
            let _ = write!(text, "\nthe end of {}'s log:\n  {}", gateway.name, last.join("\n  "));
        }
        text
    }
}

/// Ports that nobody listens on now. Somebody may take one before its daemon does, which the daemon would tell.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
