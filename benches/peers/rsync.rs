//! rsync to a daemon on loopback, run after each change.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::contestant::Contestant;
use crate::workload::Source;

/// A daemon with one module per target, and the folders.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub source: PathBuf,
    pub targets: Vec<PathBuf>,
    pub port: u16,
    daemon: Child,
}

impl Server {
    /// A source that holds the tree, empty targets, and a daemon that serves them.
    pub fn start(source: &Source, targets: usize, nodelay: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("source");
        source.copy_to(&from);
        let port = free_port();
        let mut text = format!("port = {port}\naddress = 127.0.0.1\nuse chroot = no\nreverse lookup = no\n");
        if nodelay {
            text.push_str("socket options = TCP_NODELAY\n");
        }
        let mut folders = Vec::new();
        for number in 1..=targets {
            let folder = dir.path().join(format!("target{number}"));
            fs::create_dir(&folder).unwrap();
            write!(
                text,
                "[t{number}]\npath = {}\nread only = no\nuid = root\ngid = root\n",
                folder.display()
            )
            .unwrap();
            folders.push(folder);
        }
        let config = dir.path().join("rsyncd.conf");
        fs::write(&config, text).unwrap();
        let daemon = Command::new("rsync")
            .args(["--daemon", "--no-detach", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the rsync daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { dir, source: from, targets: folders, port, daemon }
    }

    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    pub fn module(&self, number: usize) -> String {
        format!("rsync://127.0.0.1:{}/t{number}/", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

pub struct Rsync {
    name: String,
    server: Server,
    parallel: bool,
    compress: bool,
    started: bool,
}

impl Rsync {
    pub fn new(name: String, source: &Source, targets: usize, parallel: bool, compress: bool) -> Self {
        Self { name, server: Server::start(source, targets, true), parallel, compress, started: false }
    }

    fn client(&self, number: usize, tracer: Option<&Path>) -> Child {
        let mut command = match tracer {
            Some(trace) => crate::meter::strace(&trace.with_extension(number.to_string())),
            None => Command::new("rsync"),
        };
        if tracer.is_some() {
            command.arg("rsync");
        }
        command.args(["-a", "--delete", "--sockopts=TCP_NODELAY"]);
        if self.compress {
            command.arg("-z");
        }
        let from = format!("{}/", self.server.source.display());
        command.arg(from).arg(self.server.module(number)).spawn().unwrap()
    }
}

impl Contestant for Rsync {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn source(&self) -> &Path {
        &self.server.source
    }

    fn targets(&self) -> Vec<PathBuf> {
        self.server.targets.clone()
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }

    fn watches(&self) -> bool {
        false
    }

    fn start(&mut self) -> Instant {
        self.started = true;
        Instant::now()
    }

    fn is_started(&self) -> bool {
        self.started
    }

    fn carry(&mut self, tracer: Option<&Path>) {
        let numbers = 1..=self.server.targets.len();
        let ended = |mut client: Child| assert!(client.wait().unwrap().success(), "rsync failed");
        if self.parallel {
            let clients: Vec<Child> = numbers.map(|number| self.client(number, tracer)).collect();
            clients.into_iter().for_each(ended);
        } else {
            numbers.for_each(|number| ended(self.client(number, tracer)));
        }
    }
}
