//! Watches the leases that managers claim on `/manager`, from outside.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Node, TestCluster, get};

/// What the `Syncd-Lease` headers of all nodes claimed: per epoch and node the earliest start and the latest end.
type Claims = Arc<Mutex<BTreeMap<(u64, String), (u64, u64)>>>;

/// Asks every node for `/manager` every few hundredths of a second until finished.
pub struct LeaseWatch {
    claims: Claims,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
    /// Loops on hosts of their own; they end with their pipe's reader.
    loops: Vec<Child>,
}

impl LeaseWatch {
    pub fn over(cluster: &TestCluster) -> Self {
        let mut watch =
            Self { claims: Claims::default(), stop: Arc::default(), threads: Vec::new(), loops: Vec::new() };
        for node in &cluster.nodes {
            if node.prefix.is_empty() {
                watch.ask_from_here(node);
            } else {
                watch.ask_from_within(node);
            }
        }
        watch
    }

    fn ask_from_here(&mut self, node: &Node) {
        let (name, http) = (node.name.clone(), node.http.clone());
        let (claims, stop) = (self.claims.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Some(answer) = get(&http, "/manager", Duration::from_millis(600))
                    && answer.status == 200
                {
                    note(&claims, &name, &answer.headers["syncd-lease"]);
                    answers += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            answers
        }));
    }

    fn ask_from_within(&mut self, node: &Node) {
        let (program, rest) = node.prefix.split_first().unwrap();
        let ask = format!("while curl -s -i -m 0.6 http://{}/manager || :; do sleep 0.03; done", node.http);
        let mut child = Command::new(program)
            .args(rest)
            .args(["sh", "-c", &ask])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (claims, stop, name) = (self.claims.clone(), self.stop.clone(), node.name.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut answers = 0;
            for line in lines.map_while(Result::ok).take_while(|_| !stop.load(Ordering::Relaxed)) {
                // Only an answer of 200 carries the header.
                if let Some(lease) = line.to_lowercase().strip_prefix("syncd-lease:") {
                    note(&claims, &name, lease);
                    answers += 1;
                }
            }
            answers
        }));
        self.loops.push(child);
    }

    /// Fails when two managers' leases overlap; how many answers were 200.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.end_loops();
        let answers =
            std::mem::take(&mut self.threads).into_iter().map(|thread| thread.join().unwrap()).sum();
        let claims = self.claims.lock().unwrap();
        let all: Vec<_> = claims.iter().collect();
        for (index, ((epoch, node), (start, end))) in all.iter().enumerate() {
            for ((other_epoch, other_node), (other_start, other_end)) in &all[index + 1..] {
                if epoch == other_epoch {
                    assert_eq!(node, other_node, "one epoch, two managers");
                    continue;
                }
                assert!(
                    end < other_start || other_end < start,
                    "leases overlap: epoch {epoch} of {node} has {start}..{end}, epoch {other_epoch} of {other_node} has {other_start}..{other_end}"
                );
            }
        }
        answers
    }

    fn end_loops(&mut self) {
        for child in &mut self.loops {
            // It may have ended by itself.
            let _ended = child.kill();
            child.wait().unwrap();
        }
    }
}

impl Drop for LeaseWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.end_loops();
    }
}

fn note(claims: &Claims, name: &str, lease: &str) {
    let fields: Vec<u64> = lease.split_whitespace().map(|field| field.parse().unwrap()).collect();
    let [epoch, start, end] = fields[..] else { panic!("three numbers in {fields:?}") };
    assert!(start <= end);
    let mut claims = claims.lock().unwrap();
    let claim = claims.entry((epoch, name.to_owned())).or_insert((start, end));
    *claim = (claim.0.min(start), claim.1.max(end));
}
