//! syncd: the source is the manager's root, every other node is a target.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::contestant::Contestant;
use crate::support::TestCluster;
use crate::workload::{LONG, Source};

const NAMES: [&str; 10] = ["gw1", "gw2", "gw3", "gw4", "gw5", "gw6", "gw7", "gw8", "gw9", "gw10"];

pub struct Syncd {
    name: String,
    cluster: TestCluster,
    started: bool,
}

impl Syncd {
    /// Three candidates, or as many as there are nodes; the rest are workers.
    pub fn new(name: String, source: &Source, targets: usize, settle: &str) -> Self {
        assert!(targets < NAMES.len(), "at most {} targets", NAMES.len() - 1);
        let role = |number: usize| if number < 3 { "candidate" } else { "worker" };
        let nodes: Vec<_> = (0..=targets).map(|number| (NAMES[number], role(number))).collect();
        let extra = format!(
            "[sync]\nsettle = \"{settle}\"\ngather = \"0ms\"\ndelete_grace = \"0ms\"\nmax_delete = 1000000\n"
        );
        let cluster = TestCluster::new(&nodes, &extra);
        source.copy_to(&cluster.nodes[0].root);
        Self { name, cluster, started: false }
    }
}

impl Contestant for Syncd {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn source(&self) -> &Path {
        &self.cluster.nodes[0].root
    }

    fn targets(&self) -> Vec<PathBuf> {
        self.cluster.nodes[1..].iter().map(|node| node.root.clone()).collect()
    }

    fn processes(&self) -> Vec<u32> {
        if !self.started {
            return Vec::new();
        }
        (0..self.cluster.nodes.len()).map(|node| self.cluster.pid(node)).collect()
    }

    fn watches(&self) -> bool {
        true
    }

    /// The first copy counts from the first manager's appointment: forming a cluster happens once in its life.
    fn start(&mut self) -> Instant {
        self.cluster.start_all();
        self.started = true;
        let deadline = Instant::now() + LONG;
        loop {
            let metrics = self.cluster.get(0, "/metrics");
            if metrics.is_some_and(|answer| number(&answer.body, "syncd_epoch") > 0.0) {
                return Instant::now();
            }
            if Instant::now() > deadline {
                self.cluster.fail("no manager was appointed");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_started(&self) -> bool {
        self.started
    }

    fn carry(&mut self, _tracer: Option<&Path>) {}

    fn content_bytes(&self) -> Option<f64> {
        let metrics = self.started.then(|| self.cluster.get(0, "/metrics")).flatten()?;
        Some(number(&metrics.body, "syncd_sent_bytes_total"))
    }
}

/// The sum over all labels of a metric.
fn number(text: &str, name: &str) -> f64 {
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' '));
    values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}
