//! What Prometheus scrapes.
//!
//! Owns the registry and every metric in it. What has a current value is set from one snapshot of the node just
//! before a scrape, so that metrics and status can't disagree; what happens is observed as it happens.
//! Labels come from small closed sets (roots, members, kinds), never from paths.

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, process_collector::ProcessCollector,
};

use crate::apply;
use crate::model::{NodeState, RootName};
use crate::publish;

/// From one sync of a fast disk to a first copy over a slow line, in seconds.
const TIME_BOUNDS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

/// All metrics of one daemon.
pub struct Metrics {
    registry: Registry,
    is_manager: IntGauge,
    epoch: IntGauge,
    generation: IntGauge,
    head_generation: IntGauge,
    in_sync: IntGauge,
    lag_seconds: Gauge,
    node_up: IntGaugeVec,
    root_files: IntGaugeVec,
    root_bytes: IntGaugeVec,
    quarantined_files: IntGauge,
    held_changes: IntGauge,
    watch_mode: IntGaugeVec,
    unwatched_folders: IntGauge,
    health: IntGauge,
    drifted_files: IntGauge,
    heard_seconds: GaugeVec,
    scan_seconds: Gauge,
    watch_overflows: IntCounter,
    elections: IntCounter,
    drift: IntCounterVec,
    publish_seconds: Histogram,
    publish_step_seconds: HistogramVec,
    propagation_seconds: Histogram,
    apply_seconds: Histogram,
    sent_bytes: IntCounterVec,
    saved_bytes: IntCounter,
}

/// The current values of a node, taken together.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// This node's state; none before it has one.
    pub state: Option<NodeState>,
    /// The epoch in the log.
    pub epoch: u64,
    /// The applied generation.
    pub generation: u64,
    /// The head.
    pub head_generation: u64,
    /// Whether every path matches the head.
    pub in_sync: bool,
    /// How long it has been behind.
    pub lag_seconds: f64,
    /// Each other member, and whether it is heard.
    pub peers: Vec<(String, bool)>,
    /// Each root with its files and bytes.
    pub roots: Vec<(String, u64, u64)>,
    /// Files in quarantine.
    pub quarantined: u64,
    /// Changes held.
    pub held: u64,
    /// Folders without a watch, and whether any has one.
    pub unwatched: u64,
    /// Whether some folder has a watch.
    pub watching: bool,
    /// What it all amounts to: 0, 1 or 2.
    pub health: u8,
    /// Files that differ from this node's generation.
    pub drifted: u64,
    /// How long ago each other member was heard, of those that ever were.
    pub heard_seconds: Vec<(String, f64)>,
    /// How long the last walk took.
    pub scan_seconds: f64,
    /// Watch overflows since the start.
    pub watch_overflows: u64,
    /// Elections seen since the start.
    pub elections: u64,
}

/// A metric that could not be registered: two of one name.
#[derive(Debug, thiserror::Error)]
#[error("can't register a metric")]
pub struct MetricsError(#[from] prometheus::Error);

impl Metrics {
    /// Registers everything once.
    ///
    /// # Errors
    /// [`MetricsError`] when a name is taken twice.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let build =
            IntGaugeVec::new(Opts::new("syncd_build_info", "The running version; always 1"), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;

        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let float = |name: &str, help: &str| -> Result<Gauge, prometheus::Error> {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        let histogram = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let options = HistogramOpts::new(name, help).buckets(TIME_BOUNDS.to_vec());
            let histogram = Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };

        let steps = HistogramVec::new(
            HistogramOpts::new("syncd_publish_step_seconds", "The steps of a publish on the manager")
                .buckets(TIME_BOUNDS.to_vec()),
            &["step"],
        )?;
        registry.register(Box::new(steps.clone()))?;

        let heard = GaugeVec::new(
            Opts::new(
                "syncd_heard_seconds",
                "How long ago this node heard that peer: the age of what it says of it",
            ),
            &["peer"],
        )?;
        registry.register(Box::new(heard.clone()))?;

        Ok(Self {
            is_manager: gauge("syncd_is_manager", "1 while this node's folder is the source")?,
            epoch: gauge("syncd_epoch", "The epoch of the manager in office")?,
            generation: gauge("syncd_generation", "The generation this node has applied whole")?,
            head_generation: gauge(
                "syncd_head_generation",
                "The newest committed generation this node knows",
            )?,
            in_sync: gauge("syncd_in_sync", "1 while every path matches the head")?,
            lag_seconds: float("syncd_lag_seconds", "How long this node has been behind the head")?,
            node_up: gauges("syncd_node_up", "1 while this node hears that peer", &["peer"])?,
            root_files: gauges("syncd_root_files", "Regular files in a root", &["root"])?,
            root_bytes: gauges("syncd_root_bytes", "Bytes of the regular files in a root", &["root"])?,
            quarantined_files: gauge(
                "syncd_quarantined_files",
                "Local files kept in quarantine on this node",
            )?,
            held_changes: gauge("syncd_held_changes", "Changes of the manager held back")?,
            watch_mode: gauges(
                "syncd_watch_mode",
                "1 for each way in which changes are noticed: native (events), poll (folders without a watch)",
                &["mode"],
            )?,
            unwatched_folders: gauge("syncd_unwatched_folders", "Folders without a watch, which are polled")?,
            health: gauge("syncd_health", "The health of `syncd status`: 0 ok, 1 degraded, 2 critical")?,
            drifted_files: gauge("syncd_drifted_files", "Files that differ from this node's generation now")?,
            heard_seconds: heard,
            scan_seconds: float("syncd_scan_seconds", "How long the last walk over all roots took")?,
            watch_overflows: counter("syncd_watch_overflows_total", "Overflows of the kernel's event queue")?,
            elections: counter("syncd_elections_total", "Changes of the leader seen by this node")?,
            drift: counters(
                "syncd_drift_total",
                "Paths found different from this node's generation",
                &["root"],
            )?,
            publish_seconds: histogram("syncd_publish_seconds", "From a change seen to its commit")?,
            publish_step_seconds: steps,
            propagation_seconds: histogram(
                "syncd_propagation_seconds",
                "From a generation made to its files in place here, by both clocks",
            )?,
            apply_seconds: histogram("syncd_apply_seconds", "Moving this node's files to a generation")?,
            sent_bytes: counters("syncd_sent_bytes_total", "Content sent to a peer", &["peer", "kind"])?,
            saved_bytes: counter(
                "syncd_delta_saved_bytes_total",
                "Bytes of changed files that were not sent, because the old version was known",
            )?,
            registry,
        })
    }

    /// The text that Prometheus reads, with the current values of `now`.
    ///
    /// # Errors
    /// [`MetricsError`] when a metric can't be written as text.
    pub fn text(&self, now: &Snapshot) -> Result<String, MetricsError> {
        let int = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.is_manager.set(i64::from(now.state == Some(NodeState::Manager)));
        self.epoch.set(int(now.epoch));
        self.generation.set(int(now.generation));
        self.head_generation.set(int(now.head_generation));
        self.in_sync.set(i64::from(now.in_sync));
        self.lag_seconds.set(now.lag_seconds);
        self.node_up.reset();
        for (peer, up) in &now.peers {
            self.node_up.with_label_values(&[peer]).set(i64::from(*up));
        }
        for (root, files, bytes) in &now.roots {
            self.root_files.with_label_values(&[root]).set(int(*files));
            self.root_bytes.with_label_values(&[root]).set(int(*bytes));
        }
        self.quarantined_files.set(int(now.quarantined));
        self.held_changes.set(int(now.held));
        self.watch_mode.with_label_values(&["native"]).set(i64::from(now.watching));
        self.watch_mode.with_label_values(&["poll"]).set(i64::from(now.unwatched > 0));
        self.unwatched_folders.set(int(now.unwatched));
        self.health.set(i64::from(now.health));
        self.drifted_files.set(int(now.drifted));
        self.heard_seconds.reset();
        for (peer, seconds) in &now.heard_seconds {
            self.heard_seconds.with_label_values(&[peer]).set(*seconds);
        }
        self.scan_seconds.set(now.scan_seconds);
        self.watch_overflows.inc_by(now.watch_overflows.saturating_sub(self.watch_overflows.get()));
        self.elections.inc_by(now.elections.saturating_sub(self.elections.get()));

        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl publish::Observer for Metrics {
    fn published(&self, took: Duration) {
        self.publish_seconds.observe(took.as_secs_f64());
    }

    fn step(&self, step: &'static str, took: Duration) {
        self.publish_step_seconds.with_label_values(&[step]).observe(took.as_secs_f64());
    }

    fn sent(&self, peer: &str, kind: &'static str, bytes: u64) {
        self.sent_bytes.with_label_values(&[peer, kind]).inc_by(bytes);
    }

    fn saved(&self, bytes: u64) {
        self.saved_bytes.inc_by(bytes);
    }
}

impl apply::Observer for Metrics {
    fn applied(&self, took: Duration) {
        self.apply_seconds.observe(took.as_secs_f64());
    }

    fn propagated(&self, took: Duration) {
        self.propagation_seconds.observe(took.as_secs_f64());
    }

    fn drifted(&self, root: &RootName, places: u64) {
        self.drift.with_label_values(&[root.as_str()]).inc_by(places);
    }

    fn sent(&self, peer: &str, kind: &'static str, bytes: u64) {
        publish::Observer::sent(self, peer, kind, bytes);
    }

    fn saved(&self, bytes: u64) {
        publish::Observer::saved(self, bytes);
    }
}
