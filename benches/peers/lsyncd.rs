//! lsyncd with delay 0, to the same rsync daemon.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::contestant::Contestant;
use crate::rsync::Server;
use crate::workload::Source;

pub struct Lsyncd {
    name: String,
    server: Server,
    nodelay: bool,
    process: Option<Child>,
}

impl Lsyncd {
    pub fn new(name: String, source: &Source, targets: usize, nodelay: bool) -> Self {
        Self { name, server: Server::start(source, targets, nodelay), nodelay, process: None }
    }
}

impl Contestant for Lsyncd {
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
        self.process.iter().map(Child::id).chain([self.server.pid()]).collect()
    }

    fn watches(&self) -> bool {
        true
    }

    fn start(&mut self) -> Instant {
        let count = self.server.targets.len();
        let mut text =
            format!("settings {{ nodaemon = true, insist = true, maxProcesses = {} }}\n", 2 * count);
        let extra = if self.nodelay { ", _extra = { \"--sockopts=TCP_NODELAY\" }" } else { "" };
        for number in 1..=count {
            writeln!(
                text,
                "sync {{ default.rsync, source = \"{}\", target = \"{}\", delay = 0, rsync = {{ archive = true{extra} }} }}",
                self.server.source.display(),
                self.server.module(number)
            )
            .unwrap();
        }
        let config = self.server.dir.path().join("lsyncd.conf");
        fs::write(&config, text).unwrap();
        let log = fs::File::create(self.server.dir.path().join("lsyncd.log")).unwrap();
        let began = Instant::now();
        let process = Command::new("lsyncd")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        began
    }

    fn is_started(&self) -> bool {
        self.process.is_some()
    }

    fn carry(&mut self, _tracer: Option<&Path>) {}
}

impl Drop for Lsyncd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
