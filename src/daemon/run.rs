//! One daemon: everything is opened and bound, then the tasks run until they are told to stop.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::apply;
use crate::cluster::{
    Cluster, ClusterConfig, ClusterError, ClusterTask, FirstScan, ListedNode, RETURN_AFTER, Timing,
};
use crate::crash;
use crate::daemon::artifacts::ArtifactsService;
use crate::daemon::collect::collect;
use crate::daemon::config::{Config, ConfigError, Drift, Validate};
use crate::daemon::control;
use crate::daemon::first::FirstLook;
use crate::daemon::http;
use crate::daemon::listeners::{ListenError, Listeners};
use crate::daemon::mend::mend;
use crate::daemon::metrics::{Metrics, MetricsError};
use crate::daemon::report::unheard;
use crate::daemon::reporter::Reporter;
use crate::daemon::resign::Resign;
use crate::daemon::supervise::{Supervisor, TaskEnded};
use crate::daemon::view::View;
use crate::inspect::{self, Inspector};
use crate::inventory::{self, InventoryHandle, InventoryTask};
use crate::model::{Coordinator, Heard, NodeReport, Role};
use crate::plan::{self, PatternError};
use crate::publish;
use crate::roster::{self, Roster, RosterTask};
use crate::rpc::{self, CONTROL_BYTES_MAX, Identity, PARCEL_BYTES_MAX, Peers, Tls, Upload};
use crate::store::{Store, StoreError};
use crate::wire::proto::artifacts_server::ArtifactsServer;
use crate::wire::proto::inspection_server::InspectionServer;

/// Roots are walked this often even if no event came.
const RESCAN_EVERY: Duration = Duration::from_secs(30);
/// Peers are asked this often: a leader takes a report of up to 1.5 s as heard.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A report is late after this.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Why a daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration does not fit this host.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket can't be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A file that the configuration names can't be read.
    #[error("can't read {path} ({key}): {source}; remedy: give the daemon's user permission", path = .path.display())]
    File {
        /// The key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder can't be made.
    #[error("can't use the data folder {path} (node.data_dir): {source}; remedy: make it, owned by the daemon's user", path = .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store is damaged, in use, or its disk failed.
    #[error("the store can't be used")]
    Store(#[from] StoreError),
    /// The election's state is damaged, in use, or of another node.
    #[error("the election's state can't be used")]
    Cluster(#[from] ClusterError),
    /// A pattern of the rules is none.
    #[error("a pattern of a root can't be used")]
    Rules(#[from] PatternError),
    /// Metrics can't be registered.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A task ended unasked.
    #[error(transparent)]
    Task(#[from] TaskEnded),
}

impl DaemonError {
    /// 78 when something must be changed first, so that systemd need not try again; else 2: a port may come free.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::File { .. } | Self::DataDir { .. } => 78,
            _ => 2,
        }
    }
}

/// A daemon that is opened and bound, and does nothing yet.
pub struct Daemon {
    config: Arc<Config>,
    listeners: Listeners,
    tls: Option<Tls>,
    identity: Identity,
    cluster: Cluster,
    cluster_task: ClusterTask,
    inventory: InventoryHandle,
    inventory_task: InventoryTask,
    first_look: FirstLook,
    roster: Roster,
    roster_task: RosterTask,
    stager: apply::Stager,
    taker: apply::Taker,
    inspector: Inspector,
    restorer: apply::Restorer,
    apply_task: apply::ApplyTask,
    publish_task: publish::PublishTask,
    reporter: Reporter,
    resign: Resign,
    view: Arc<View>,
}

impl Daemon {
    /// Opens the store and the election's state, binds all sockets, and connects the rooms. Changes no artifact.
    ///
    /// # Errors
    /// [`DaemonError`]; nothing runs then.
    pub async fn bind(config: Config) -> Result<Self, DaemonError> {
        let config = Arc::new(config);
        let data_dir = config.node.data_dir.clone();
        let db_path = data_dir.join("raft.redb");
        config.check_roots(db_path.exists())?;
        make_private(&data_dir).map_err(|source| DaemonError::DataDir { path: data_dir.clone(), source })?;
        let spool_dir = data_dir.join("spool");
        make_private(&spool_dir)
            .map_err(|source| DaemonError::DataDir { path: spool_dir.clone(), source })?;
        let tls = read_tls(&config)?;
        let listeners = Listeners::bind(&config.node).await?;

        let store = Store::open(&data_dir.join("store"), &data_dir.join("quarantine"))?;
        store.keep_history(usize::try_from(config.sync.history).unwrap_or(usize::MAX));
        store.bound_quarantine(config.sync.quarantine_max);
        let metrics = Arc::new(Metrics::new()?);
        let identity = Identity::new();
        let peers = Peers::new(identity.clone(), tls.clone());

        let roots = config.synced_roots().map(|root| inventory::RootConfig {
            name: root.name.clone(),
            path: root.path.clone(),
            optional: root.optional,
        });
        let (inventory, inventory_task) = inventory::new(inventory::Config {
            roots: roots.collect(),
            rules: config.rules(),
            rescan_every: RESCAN_EVERY,
        })?;

        let first_scan = watch::Sender::<FirstScan>::new(None);
        let own = watch::Sender::new(Arc::new(NodeReport {
            last_seen_seconds: Some(0.0),
            faults: vec!["starting: the roots were not looked at yet".to_owned()],
            ..unheard(config.node.name.clone(), config.address(), config.role().to_string())
        }));
        let heard = watch::Sender::new(Arc::new(Heard::new()));
        let (cluster, cluster_task) = Cluster::open(
            cluster_config(&config, db_path),
            peers.clone(),
            first_scan.subscribe(),
            own.subscribe(),
            heard.subscribe(),
        )?;
        if let Some((from, to)) = cluster.recovered() {
            // At each start, so that it happens whenever the power failed in between.
            store.carry_applied_over(from, to)?;
        }
        let heard_now = heard.subscribe();
        let heard_of_others = heard.subscribe();
        let (roster, roster_task) = roster::new(
            roster::Config { every: ASK_EVERY, patience: ASK_WITHIN },
            peers.clone(),
            cluster.state(),
            own.subscribe(),
            heard,
        );
        let coordinator: Arc<dyn Coordinator> = Arc::new(cluster.clone());
        let upload = Upload::new(config.sync.bandwidth);
        let (applying, apply_task) = apply::new(
            apply_config(&config),
            apply::Parts {
                coordinator: Arc::clone(&coordinator),
                inventory: inventory.clone(),
                store: store.clone(),
                supplier: Arc::new(apply::PeerSupplier::new(
                    peers.clone(),
                    store.clone(),
                    inventory.observed(),
                )),
                offerer: Arc::new(apply::PeerOfferer::new(peers.clone(), store.clone(), upload.clone())),
                observer: Arc::clone(&metrics) as Arc<dyn apply::Observer>,
                upload: upload.clone(),
            },
        );
        let (publishing, publish_task) = publish::new(
            publish_config(&config, spool_dir, upload),
            coordinator,
            inventory.clone(),
            store.clone(),
            peers.clone(),
            applying.active.clone(),
            applying.held_at_start.clone(),
            Arc::clone(&metrics) as Arc<dyn publish::Observer>,
        );
        let meters = vec![inventory.meter(), store.meter().clone()];
        let (theirs, own_lists) = (publishing.status.clone(), applying.status.clone());
        let held = move || {
            let published = theirs.borrow().lists.clone();
            published.into_iter().chain(own_lists.borrow().lists.iter().cloned()).collect()
        };
        let inspector = Inspector::new(inspect::Parts {
            name: config.node.name.clone(),
            inventory: inventory.clone(),
            store: store.clone(),
            state: cluster.state(),
            publishing: publishing.outlook.clone(),
            applying: applying.outlook.clone(),
            held: Arc::new(held),
            peers: peers.clone(),
        });
        let told = Arc::default();
        let view = Arc::new(View {
            config: Arc::clone(&config),
            cluster: cluster.clone(),
            own: own.subscribe(),
            heard: heard_now,
            state: cluster.state(),
            standing: cluster.standing(),
            observed: inventory.observed(),
            active: applying.active.clone(),
            told: Arc::clone(&told),
            store,
            restorer: applying.restorer.clone(),
            peers,
            metrics,
            inspector: inspector.clone(),
        });
        let reporter = Reporter {
            config: Arc::clone(&config),
            cluster: cluster.clone(),
            state: cluster.state(),
            standing: cluster.standing(),
            observed: inventory.observed(),
            apply: applying.status.clone(),
            publish: publishing.status.clone(),
            heard: heard_of_others,
            own,
            behind_since: None,
            late_since: None,
            meters,
        };
        let resign = Resign {
            cluster: cluster.clone(),
            state: cluster.state(),
            active: applying.active.clone(),
            in_flight: publishing.in_flight.clone(),
            told,
        };
        let first_look = FirstLook {
            observed: inventory.observed(),
            state: cluster.state(),
            found: first_scan,
            marks_unwanted: cluster.marks_unwanted(),
            store: view.store.clone(),
        };
        Ok(Self {
            config,
            listeners,
            tls,
            identity,
            cluster,
            cluster_task,
            inventory,
            inventory_task,
            first_look,
            roster,
            roster_task,
            stager: applying.stager,
            taker: applying.taker,
            inspector,
            restorer: applying.restorer,
            apply_task,
            publish_task,
            reporter,
            resign,
            view,
        })
    }

    /// Runs until `shutdown`, then ends in order: no more answers of 200, no new work, tasks, connections, the log.
    ///
    /// # Errors
    /// [`DaemonError`] when a part failed that the daemon can't go on without.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), DaemonError> {
        let config = self.config;
        tracing::info!(
            node = config.node.name,
            role = %config.role(),
            cluster = config.cluster.name,
            listen = %config.node.listen,
            http = %config.node.http,
            version = env!("CARGO_PKG_VERSION"),
            "syncd starts"
        );
        let mut tasks = Supervisor::new(shutdown.clone());
        tasks.spawn("inventory", self.inventory_task.run(shutdown.clone()));
        let verify = verify(self.inventory.clone(), config.sync.verify_every, shutdown.clone());
        tasks.spawn("verify", forever(verify));
        tasks.spawn("mending", mend(self.inspector.clone(), shutdown.clone()));
        tasks.spawn("collection", collect(self.view.store.clone(), shutdown.clone()));
        tasks.spawn("first look", forever(self.first_look.run(shutdown.clone())));
        tasks.spawn("cluster", self.cluster_task.run(shutdown.clone()));
        tasks.spawn("roster", forever(self.roster_task.run(shutdown.clone())));
        tasks.spawn("apply", self.apply_task.run(shutdown.clone()));
        tasks.spawn("publish", self.publish_task.run(shutdown.clone()));
        tasks.spawn("resign", forever(self.resign.run(shutdown.clone())));
        tasks.spawn("reporter", forever(self.reporter.run(shutdown.clone())));

        let service = ArtifactsService::new(self.stager, self.taker, self.restorer, self.roster);
        let artifacts = ArtifactsServer::new(service)
            .max_decoding_message_size(PARCEL_BYTES_MAX)
            .max_encoding_message_size(PARCEL_BYTES_MAX);
        let inspection = InspectionServer::new(self.inspector)
            .max_decoding_message_size(CONTROL_BYTES_MAX)
            .max_encoding_message_size(PARCEL_BYTES_MAX);
        let routes = Routes::new(self.cluster.raft_service())
            .add_service(self.cluster.coordination_service())
            .add_service(artifacts)
            .add_service(inspection);
        let Listeners { peers, http, control } = self.listeners;
        let http = http.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection without TCP_NODELAY");
            }
        });
        let (tls, identity) = (self.tls, self.identity);
        let stop = shutdown.clone();
        tasks.spawn("peers", async move { rpc::serve(peers, tls.as_ref(), identity, routes, stop).await });
        tasks.spawn("http", http::serve(http, http::public(Arc::clone(&self.view)), shutdown.clone()));
        tasks.spawn("control", http::serve(control, control::control(self.view), shutdown.clone()));
        tasks.spawn("systemd", forever(tell_systemd(self.cluster, self.inventory, shutdown.clone())));

        let outcome = tasks.run().await;
        if let Err(error) = fs::remove_file(&config.node.socket) {
            tracing::debug!(%error, "the control socket is gone already");
        }
        match &outcome {
            Ok(()) => tracing::info!("syncd ended in order"),
            Err(error) => tracing::error!(%error, "syncd ends"),
        }
        outcome.map_err(DaemonError::from)
    }
}

/// A task that can't fail.
async fn forever(task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    task.await;
    Ok(())
}

/// Reads everything again now and then: the one way to see content that changed behind unchanged times.
async fn verify(inventory: InventoryHandle, every: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        inventory.verify().await;
    }
}

/// Says `READY` after the first scan and feeds the watchdog as long as the log's core answers; without systemd nothing.
async fn tell_systemd(cluster: Cluster, inventory: InventoryHandle, stop: CancellationToken) {
    let tell = |what: NotifyState<'_>| {
        if let Err(error) = sd_notify::notify(&[what]) {
            tracing::debug!(%error, "systemd was not told");
        }
    };
    let mut observed = inventory.observed();
    tokio::select! {
        () = stop.cancelled() => return,
        scanned = async { observed.wait_for(|observed| observed.complete).await.is_ok() } => {
            if !scanned {
                stop.cancelled().await;
                return;
            }
        }
    }
    tell(NotifyState::Ready);
    let pause = sd_notify::watchdog_enabled().map_or(Duration::from_secs(60), |within| within / 3);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        if cluster.core_alive().await {
            tell(NotifyState::Watchdog);
        } else {
            tracing::error!("the log's core does not answer");
        }
    }
    tell(NotifyState::Stopping);
}

/// Makes a folder that only the daemon's user reads.
fn make_private(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

pub(super) fn read_tls(config: &Config) -> Result<Option<Tls>, DaemonError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let read = |key, path: &PathBuf| {
        fs::read(path).map_err(|source| DaemonError::File { key, path: path.clone(), source })
    };
    Ok(Some(Tls {
        ca: read("tls.ca", &files.ca)?,
        cert: read("tls.cert", &files.cert)?,
        key: read("tls.key", &files.key)?,
    }))
}

pub(super) fn cluster_config(config: &Config, db_path: PathBuf) -> ClusterConfig {
    let listed = config.cluster.nodes.iter().map(|node| ListedNode {
        name: node.name.clone(),
        address: node.address.clone(),
        role: node.role,
    });
    ClusterConfig {
        cluster_name: config.cluster.name.clone(),
        node_name: config.node.name.clone(),
        address: config.address(),
        role: config.role(),
        listed: listed.collect(),
        timing: Timing {
            heartbeat: config.election.heartbeat,
            timeout: config.election.timeout,
            lease: config.election.lease,
        },
        return_after: RETURN_AFTER,
        db_path,
    }
}

fn apply_config(config: &Config) -> apply::Config {
    apply::Config {
        drift: match config.sync.drift {
            Drift::Revert => apply::DriftPolicy::Revert,
            Drift::Report => apply::DriftPolicy::Report,
        },
        max_delete: config.sync.max_delete,
        handover: config.sync.handover,
        quiet: apply::Quiet {
            settle: config.sync.settle,
            gather: config.sync.gather,
            delete_grace: config.sync.delete_grace,
        },
        scan: crash::scan(plan::SCAN),
        witness: config.role() == Role::Witness,
    }
}

fn publish_config(config: &Config, spool_dir: PathBuf, upload: Upload) -> publish::Config {
    let optional = config.synced_roots().filter(|root| root.optional);
    publish::Config {
        node: config.node.name.clone(),
        timing: publish::Timing {
            settle: config.sync.settle,
            gather: config.sync.gather,
            settle_max: config.sync.settle_max,
            delete_grace: config.sync.delete_grace,
        },
        max_delete: config.sync.max_delete,
        validate: match config.sync.validate {
            Validate::Hold => publish::Validate::Hold,
            Validate::Warn => publish::Validate::Warn,
            Validate::Off => publish::Validate::Off,
        },
        rules: config.rules(),
        optional: optional.map(|root| root.name.clone()).collect(),
        upload,
        spool_dir,
    }
}
