//! Partitions, one-way links, kills, pauses, lost disks and cloned machines at random, under five publishes a second:
//! afterwards every acknowledged generation is in the chain, all trees are equal, every local change is published or in
//! quarantine, and no two leases overlapped.
//!
//! A minute by default; `SYNCD_CHAOS_SECONDS=600` runs the ten minutes of a release.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;
use support::leases::LeaseWatch;
use support::network::Network;
use support::{Seen, TestCluster, row, snapshot};

const NODES: &[(&str, &str)] =
    &[("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate"), ("gw4", "worker")];
const VOTERS: usize = 3;
/// Where a cloned machine runs.
const CLONE_HOST: usize = 5;
const PUBLISH_EVERY: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const HOT: usize = 10;
const LONG: Duration = Duration::from_secs(180);

#[test]
fn chaos() {
    let mut rng = support::rng("chaos");
    let seconds = std::env::var("SYNCD_CHAOS_SECONDS").map_or(60, |text| text.parse().unwrap());
    let network = Network::new(CLONE_HOST);
    let extra = "[sync]\ngather = \"100ms\"\ndelete_grace = \"100ms\"\nsettle_max = \"1s\"\nmax_delete = 100000\n\
                 history = 100000\nverify_every = \"20s\"\n[tls]\ninsecure = true\n";
    let mut cluster = TestCluster::with_addresses(NODES, &network.addresses(), extra);
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        node.prefix = network.prefix(index + 1);
    }
    cluster.write(0, "default/api/first.xml", "<api/>");
    cluster.start_all();
    cluster.wait("the cluster to form", LONG, || in_sync(&cluster));
    let watch = LeaseWatch::over(&cluster);

    let mut faults = Faults { network, ongoing: Vec::new(), next: Instant::now(), counts: BTreeMap::new() };
    let mut ledger = Ledger::default();
    let mut writer = Writer::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut write_at, mut look_at) = (Instant::now(), Instant::now());
    while Instant::now() < end {
        let now = Instant::now();
        if now >= write_at {
            write_at = now + PUBLISH_EVERY;
            writer.write(&cluster, &mut rng);
        }
        if now >= look_at {
            look_at = now + LOOK_EVERY;
            ledger.look(&cluster);
            writer.look(&cluster);
        }
        faults.step(&mut cluster, &mut ledger, &mut writer, &mut rng);
        // The pace of the work, not a wait for an outcome.
        std::thread::sleep(Duration::from_millis(20));
    }
    faults.end_all(&mut cluster);
    eprintln!(
        "faults: {:?}; {} files and {} updates written",
        faults.counts,
        writer.made.len(),
        writer.version
    );
    cluster.wait("all nodes in sync after the faults", LONG, || in_sync(&cluster));
    cluster.wait_equal(&[0, 1, 2, 3], LONG);
    ledger.look(&cluster);
    (0..NODES.len()).for_each(|node| ledger.read_chain(&cluster, node));
    ledger.judge(&cluster);
    writer.judge(&cluster);
    let answers = watch.finish();
    eprintln!(
        "{} generations, {} acknowledged, {answers} lease headers compared",
        ledger.chain.len(),
        ledger.acknowledged.len()
    );
    assert!(ledger.acknowledged.len() > 20, "the cluster published while the faults went on");
}

/// Every node heard by every other, at one head, and all voters voting again.
fn in_sync(cluster: &TestCluster) -> bool {
    let heads: Option<BTreeSet<(u64, String)>> =
        (0..NODES.len()).map(|node| own_head(cluster, node)).collect();
    heads.is_some_and(|heads| heads.len() == 1 && heads.iter().all(|(number, _)| *number > 0))
        && cluster.get_control(0, "/status").is_some_and(|status| status["manager"].is_string())
}

/// The head that a node knows, once its own files are there.
fn own_head(cluster: &TestCluster, node: usize) -> Option<(u64, String)> {
    let status = cluster.get_control(node, "/status")?;
    let head = (status["generation"].as_u64()?, status["digest"].as_str()?.to_owned());
    let own = row(&status, &cluster.nodes[node].name)?;
    (own["generation"].as_u64() == Some(head.0) && own["digest"] == status["digest"]).then_some(head)
}

/// What nodes said about the chain of generations, gathered while it was there to be seen.
#[derive(Default)]
struct Ledger {
    /// Heads that a status showed.
    acknowledged: BTreeMap<u64, String>,
    /// What histories list.
    chain: BTreeMap<u64, String>,
}

impl Ledger {
    fn look(&mut self, cluster: &TestCluster) {
        for node in 0..NODES.len() {
            let Some(status) = cluster.get_control(node, "/status") else { continue };
            let (Some(number), Some(digest)) = (status["generation"].as_u64(), status["digest"].as_str())
            else {
                continue;
            };
            if number > 0 {
                one(&mut self.acknowledged, number, digest, &cluster.nodes[node].name);
            }
        }
    }

    /// Reads a node's history; before its disk is lost, and at the end.
    fn read_chain(&mut self, cluster: &TestCluster, node: usize) {
        let Some(Value::Array(rows)) = cluster.get_control(node, "/history?n=10000") else { return };
        for row in rows {
            let digest = row["digest"].as_str().unwrap();
            one(&mut self.chain, row["number"].as_u64().unwrap(), digest, &cluster.nodes[node].name);
        }
    }

    fn judge(&self, cluster: &TestCluster) {
        for (number, digest) in &self.acknowledged {
            if self.chain.get(number) != Some(digest) {
                cluster.fail(&format!("generation {number} was acknowledged and is not in the chain"));
            }
        }
        let (first, last) = (self.chain.keys().next().unwrap(), self.chain.keys().last().unwrap());
        assert_eq!(self.chain.len() as u64, last - first + 1, "the chain has no hole");
    }
}

fn one(all: &mut BTreeMap<u64, String>, number: u64, digest: &str, node: &str) {
    let known = all.entry(number).or_insert_with(|| digest.to_owned());
    assert_eq!(known, digest, "generation {number} has two contents, the second on {node}");
}

/// Writes as a publisher does: to whichever node takes itself for the manager.
#[derive(Default)]
struct Writer {
    /// New files, never changed again: path and content.
    made: BTreeMap<String, String>,
    /// The number of the last update, over all hot files.
    version: u64,
    /// Who wrote an update of a hot file: version and node.
    by: BTreeMap<u64, usize>,
    /// The newest version of each hot file that was seen on a node which did not write it: it was committed.
    acknowledged: BTreeMap<usize, u64>,
    /// What quarantines held on disks that were lost later.
    kept: BTreeSet<String>,
}

impl Writer {
    fn write(&mut self, cluster: &TestCluster, rng: &mut StdRng) {
        let managers: Vec<usize> = (0..VOTERS)
            .filter(|node| {
                cluster.get_control(*node, "/status").is_some_and(|status| {
                    row(&status, &cluster.nodes[*node].name).is_some_and(|row| row["state"] == "manager")
                })
            })
            .collect();
        // One that was cut off takes itself for the manager for a while: that is what is wanted here.
        let Some(node) = managers.choose(rng) else { return };
        if rng.random_bool(0.5) {
            let number = self.made.len();
            let (path, content) =
                (format!("default/api/made-{number}.xml"), format!("<api n=\"{number}\"/>"));
            cluster.write(*node, &path, &content);
            self.made.insert(path, content);
        } else {
            self.version += 1;
            self.by.insert(self.version, *node);
            let path = hot(rng.random_range(0..HOT));
            // Renamed into place: what a half-written file does is another test's.
            let next = cluster.dir.path().join("hot.next");
            fs::write(&next, format!("<version>{}</version>", self.version)).unwrap();
            fs::rename(&next, cluster.nodes[*node].root.join(path)).unwrap();
        }
    }

    fn look(&mut self, cluster: &TestCluster) {
        for file in 0..HOT {
            for node in 0..NODES.len() {
                let Some(version) = version_of(cluster, node, file) else { continue };
                if self.by.get(&version) != Some(&node) {
                    let newest = self.acknowledged.entry(file).or_default();
                    *newest = version.max(*newest);
                }
            }
        }
    }

    /// Remembers what a node's quarantine holds, before the disk is lost.
    fn keep(&mut self, cluster: &TestCluster, node: usize) {
        self.kept.extend(quarantined(&cluster.nodes[node].data));
    }

    fn judge(&mut self, cluster: &TestCluster) {
        (0..NODES.len()).for_each(|node| self.keep(cluster, node));
        let published: BTreeSet<String> = snapshot(&cluster.nodes[0].root)
            .into_values()
            .filter_map(|seen| match seen {
                Seen::File { content, .. } => Some(String::from_utf8_lossy(&content).into_owned()),
                _ => None,
            })
            .collect();
        let lost: Vec<_> = self
            .made
            .iter()
            .filter(|(_, content)| !published.contains(*content) && !self.kept.contains(*content))
            .map(|(path, _)| path)
            .collect();
        if !lost.is_empty() {
            cluster.fail(&format!("neither published nor in quarantine: {lost:?}"));
        }
        let unpublished = self.made.values().filter(|content| !published.contains(*content)).count();
        eprintln!("{unpublished} of {} new files are in quarantine, the others published", self.made.len());
        for (file, acknowledged) in &self.acknowledged {
            let last = version_of(cluster, 0, *file).unwrap_or(0);
            if last < *acknowledged {
                cluster.fail(&format!("{} is at {last}, and {acknowledged} was committed", hot(*file)));
            }
        }
    }
}

fn hot(number: usize) -> String {
    format!("default/api/hot-{number}.xml")
}

fn version_of(cluster: &TestCluster, node: usize, file: usize) -> Option<u64> {
    let text = String::from_utf8(cluster.read(node, &hot(file))?).unwrap();
    text.strip_prefix("<version>")?.strip_suffix("</version>")?.parse().ok()
}

/// The contents that lie in a data folder's quarantine.
fn quarantined(data: &Path) -> BTreeSet<String> {
    let contents = snapshot(&data.join("quarantine")).into_values().filter_map(|seen| match seen {
        Seen::File { content, .. } => String::from_utf8(content).ok(),
        _ => None,
    });
    contents.collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cut,
    OneWay,
    Kill,
    Pause,
    Wipe,
    Clone,
}

/// A fault that is going on.
struct Fault {
    kind: Kind,
    node: usize,
    until: Instant,
}

/// Begins and ends faults: one voter at a time, now and then two; a disk is lost only while all else is well.
struct Faults {
    network: Network,
    ongoing: Vec<Fault>,
    next: Instant,
    counts: BTreeMap<Kind, u32>,
}

impl Faults {
    fn step(
        &mut self,
        cluster: &mut TestCluster,
        ledger: &mut Ledger,
        writer: &mut Writer,
        rng: &mut StdRng,
    ) {
        let now = Instant::now();
        while let Some(over) = self.ongoing.iter().position(|fault| fault.until <= now) {
            let fault = self.ongoing.remove(over);
            if fault.kind == Kind::Wipe && !in_sync(cluster) {
                // Until it is back, no other disk may be lost: that would be more than a minority.
                self.ongoing.push(Fault { until: now + Duration::from_secs(1), ..fault });
                break;
            }
            self.end(cluster, fault);
        }
        if now < self.next {
            return;
        }
        self.next = now + Duration::from_millis(rng.random_range(500..4000));
        let node = rng.random_range(0..NODES.len());
        let disturbed = self.ongoing.iter().filter(|fault| fault.node < VOTERS).count();
        let is_free = self.ongoing.iter().all(|fault| fault.node != node);
        if !is_free || (node < VOTERS && disturbed > 0 && (disturbed > 1 || rng.random_bool(0.8))) {
            return;
        }
        let kind = match rng.random_range(0..100) {
            0..25 => Kind::Cut,
            25..40 => Kind::OneWay,
            40..65 => Kind::Kill,
            65..85 => Kind::Pause,
            85..95 if self.ongoing.is_empty() && in_sync(cluster) => Kind::Wipe,
            95.. if self.ongoing.is_empty() => Kind::Clone,
            _ => return,
        };
        self.begin(cluster, kind, node, ledger, writer, rng);
    }

    fn begin(
        &mut self,
        cluster: &mut TestCluster,
        kind: Kind,
        node: usize,
        ledger: &mut Ledger,
        writer: &mut Writer,
        rng: &mut StdRng,
    ) {
        let millis = match kind {
            Kind::Cut | Kind::OneWay => rng.random_range(300..8000),
            Kind::Kill => rng.random_range(0..4000),
            Kind::Pause => rng.random_range(200..5000),
            Kind::Wipe => 12_000,
            Kind::Clone => rng.random_range(3000..9000),
        };
        *self.counts.entry(kind).or_default() += 1;
        match kind {
            Kind::Cut => self.network.cut(node + 1),
            Kind::OneWay => {
                let hook = if rng.random_bool(0.5) { "input" } else { "output" };
                self.network.cut_one_way(node + 1, hook);
            }
            Kind::Kill => cluster.kill(node),
            Kind::Pause => cluster.signal(node, "STOP"),
            Kind::Wipe => {
                ledger.read_chain(cluster, node);
                cluster.kill(node);
                writer.keep(cluster, node);
                fs::remove_dir_all(&cluster.nodes[node].data).unwrap();
                cluster.start(node);
            }
            Kind::Clone => {
                cluster.kill(node);
                let (name, home) =
                    (cluster.nodes[node].name.clone(), cluster.nodes[node].data.parent().unwrap().to_owned());
                let address = self.network.addresses().pop().unwrap();
                let clone = cluster.add_host("clone", &name, &address);
                cluster.nodes[clone].prefix = self.network.prefix(CLONE_HOST);
                let there = cluster.nodes[clone].data.parent().unwrap().to_owned();
                fs::remove_dir_all(&there).unwrap();
                assert!(Command::new("cp").arg("-a").args([&home, &there]).status().unwrap().success());
                cluster.start(node);
                cluster.start(clone);
            }
        }
        self.ongoing.push(Fault { kind, node, until: Instant::now() + Duration::from_millis(millis) });
    }

    fn end(&self, cluster: &mut TestCluster, fault: Fault) {
        match fault.kind {
            Kind::Cut | Kind::OneWay => self.network.heal(fault.node + 1),
            Kind::Kill => cluster.start(fault.node),
            Kind::Pause => cluster.signal(fault.node, "CONT"),
            Kind::Wipe => {}
            Kind::Clone => {
                let clone = cluster.nodes.len() - 1;
                cluster.kill(clone);
                cluster.nodes.truncate(clone);
            }
        }
    }

    fn end_all(&mut self, cluster: &mut TestCluster) {
        for fault in std::mem::take(&mut self.ongoing) {
            self.end(cluster, fault);
        }
    }
}
