//! From an empty data folder to a place in a cluster, with one configuration for all hosts, started in any order.
//!
//! Forming is automatic only while every listed voter answers that it is empty. The voter with the least name writes
//! one record; every voter stores it durably before it answers; then the writer alone initializes the log. Each step
//! may be interrupted: the next start goes on with the stored record. A record may be replaced only while this node's
//! log is empty, in one transaction. A worker asks to join a cluster that has formed; it never forms one.

pub(super) mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::cluster::db::{RaftDb, random};
use crate::cluster::error::ClusterError;
use crate::cluster::formation::plan::{Here, Step};
use crate::cluster::greet::{Heard, greet};
use crate::cluster::log_store::blocking;
use crate::cluster::place::{self, Place, ROLLED_BACK};
use crate::cluster::record::{self, Kind};
use crate::cluster::shared::{DUPLICATE, FormOrder, ListedNode, Shared};
use crate::cluster::task;
use crate::cluster::types::{FormationRecord, Founder, Own, Raft, Timing};
use crate::crash;
use crate::model::{ClusterId, Member, NodeId, Problem, Severity};
use crate::rpc;
use crate::wire::proto::{FormRequest, JoinRequest};

/// How often an unformed node looks around.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// One peer's answer to a record, which it syncs first.
const FORM_MAX: Duration = Duration::from_secs(5);
/// A newcomer that is refused asks again after twice as long as before, and at least this often.
const PATIENCE_MAX: Duration = Duration::from_secs(5);
/// A leader's answer to a newcomer, which takes an entry of the log.
const JOIN_MAX: Duration = Duration::from_secs(5);

/// Brings this node to where its log runs.
pub(super) struct Formation {
    shared: Arc<Shared>,
    db: Arc<RaftDb>,
    orders: mpsc::Receiver<FormOrder>,
    own: Option<Own>,
    raft: Option<Raft>,
    /// Before this it does not ask for admission again; and how long it waits when it is refused next.
    ask_after: Instant,
    patience: Duration,
    /// Since when it presents itself under what is stored.
    presenting: Instant,
}

impl Formation {
    pub(super) fn new(
        shared: Arc<Shared>,
        db: Arc<RaftDb>,
        orders: mpsc::Receiver<FormOrder>,
        own: Option<Own>,
    ) -> Self {
        let now = Instant::now();
        Self { shared, db, orders, own, raft: None, ask_after: now, patience: LOOK_EVERY, presenting: now }
    }

    /// Runs until this node's log holds an entry, or a cluster admitted this node; none when `stop` came first.
    ///
    /// # Errors
    /// When the store or the log's core failed.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<Option<(Own, Raft)>, ClusterError> {
        if let Some(own) = &self.own {
            // Shown, but not run: what is stored may be older than what this node promised.
            self.shared.own.send_replace(Some(own.clone()));
        }
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.done()? {
                self.shared.has_log.store(true, Ordering::Release);
                self.shared.wait_for(None);
                return Ok(self.own.zip(self.raft));
            }
            tokio::select! {
                () = stop.cancelled() => {
                    if let Some(raft) = &self.raft {
                        task::shut_down(raft).await;
                    }
                    return Ok(None);
                }
                Some((record, reply)) = self.orders.recv() => {
                    let stored = self.store_for(record).await?;
                    // The writer may have given up waiting; it asks again.
                    let _ = reply.send(stored);
                }
                _ = look.tick() => self.look(stop).await?,
            }
        }
    }

    /// Whether there is nothing left to form.
    fn done(&self) -> Result<bool, ClusterError> {
        let (Some(own), Some(raft)) = (&self.own, &self.raft) else { return Ok(false) };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        metrics.running_state.clone()?;
        Ok(own.record.is_none() || metrics.last_log_index.is_some())
    }

    /// Looks around and takes the next step. What waits for peers is dropped when `stop` comes.
    async fn look(&mut self, stop: &CancellationToken) -> Result<(), ClusterError> {
        if !self.placed(stop).await? {
            return Ok(());
        }
        let Some(heard) = stop.run_until_cancelled(self.greet()).await else { return Ok(()) };
        if self.raft.is_none() && self.shared.has_log.load(Ordering::Acquire) {
            // Entries that it wrote with too few of those who were to form its cluster.
            if self.own.as_ref().is_some_and(|own| plan::is_overtaken(own.cluster, &heard)) {
                tracing::warn!("another cluster formed without this node's, whose log is given up");
                self.start_over().await?;
            }
            return Ok(());
        }
        let here = Here {
            config: &self.shared.config,
            incarnation: *self.shared.incarnation.borrow(),
            own: self.own.as_ref(),
            scan: self.shared.first_scan.borrow().clone(),
            wishes: self.shared.wishes(),
        };
        match plan::step(&here, &heard) {
            Step::Wait(sentence) => self.shared.wait_for(Some(sentence)),
            Step::Follow => self.shared.wait_for(None),
            Step::Join(addresses) => self.join(addresses, stop).await?,
            Step::LayMarksAside => {
                self.shared.wait_for(Some("the marks in this node's roots are laid aside".to_owned()));
                self.shared.marks_unwanted.send_replace(true);
            }
            Step::Write(founders) => {
                let record = self.record(founders)?;
                if let Err(why) = self.gives_way(&record).await {
                    self.shared.wait_for(Some(format!("the formation record: {why}")));
                } else if self.adopt(record.clone()).await? {
                    crash::point("cluster.form.after-record");
                    self.send(record, stop).await?;
                }
            }
            Step::Send(record) => self.send(record, stop).await?,
        }
        Ok(())
    }

    /// Starts the log under what is stored once the others know no more of it than this node itself; false when there
    /// is nothing else to do meanwhile.
    async fn placed(&mut self, stop: &CancellationToken) -> Result<bool, ClusterError> {
        let Some(own) = self.own.clone().filter(|_| self.raft.is_none()) else { return Ok(true) };
        let asked = place::ask(&self.shared, &self.db, &own, self.presenting);
        match stop.run_until_cancelled(asked).await.transpose()?.flatten() {
            Some(Place::Kept) => {
                let has_joined = own.record.is_none();
                self.start(own).await?;
                return Ok(!has_joined);
            }
            Some(Place::SetBack) => self.start_over().await?,
            // It says so, and does nothing else until it is stopped.
            Some(Place::Removed) => stop.cancelled().await,
            // A record may still be sent, or give way.
            None => return Ok(own.record.is_some()),
        }
        Ok(false)
    }

    async fn start_over(&mut self) -> Result<(), ClusterError> {
        task::start_over(&self.shared, &self.db).await?;
        self.own = None;
        Ok(())
    }

    /// Asks every other listed node who it is.
    async fn greet(&self) -> Vec<(ListedNode, Heard)> {
        let config = &self.shared.config;
        let others = config.listed.iter().filter(|node| node.name != config.node_name).cloned();
        greet(&self.shared.peers, &config.cluster_name, &config.node_name, others).await
    }

    fn record(&self, founders: Vec<Founder>) -> Result<FormationRecord, ClusterError> {
        let config = &self.shared.config;
        let mut sorted = founders;
        sorted.sort_by(|left, right| left.member.name.cmp(&right.member.name));
        let founders: BTreeMap<NodeId, Founder> = (1..).zip(sorted).collect();
        Ok(FormationRecord {
            cluster: ClusterId(random()?),
            name: config.cluster_name.clone(),
            // The least name comes first.
            writer: 1,
            founders,
            timing: config.timing,
            succeeds: Vec::new(),
        })
    }

    /// Stores a record as this node's own and starts the log under it; false if there is a log already.
    async fn adopt(&mut self, record: FormationRecord) -> Result<bool, ClusterError> {
        let Some(node) = record.id_of(&self.shared.config.node_name) else { return Ok(false) };
        let own = Own {
            cluster: record.cluster,
            node,
            name: self.shared.config.node_name.clone(),
            timing: record.timing,
            record: Some(record),
        };
        if self.own.as_ref() == Some(&own) {
            return Ok(true);
        }
        let ran = self.shut_down().await;
        let (db, stored) = (Arc::clone(&self.db), own.clone());
        let adopted = blocking(move || db.adopt(&stored)).await?;
        match self.own.clone() {
            _ if adopted => self.start(own).await?,
            Some(current) if ran => self.start(current).await?,
            _ => {}
        }
        Ok(adopted)
    }

    /// Ends the log's core; whether it ran.
    async fn shut_down(&mut self) -> bool {
        let Some(raft) = self.raft.take() else { return false };
        self.shared.raft.send_replace(None);
        task::shut_down(&raft).await;
        true
    }

    async fn start(&mut self, own: Own) -> Result<(), ClusterError> {
        let raft = task::start_raft(&self.shared, &self.db, &own).await?;
        self.raft = Some(raft);
        self.own = Some(own);
        Ok(())
    }

    /// A record came from its writer.
    async fn store_for(&mut self, record: FormationRecord) -> Result<Result<(), String>, ClusterError> {
        let scan = self.shared.first_scan.borrow().clone();
        let incarnation = *self.shared.incarnation.borrow();
        if let Err(why) = plan::acceptable(&self.shared.config, incarnation, scan.as_ref(), &record) {
            return Ok(Err(why));
        }
        if let Err(why) = self.without_whom(&record).await {
            return Ok(Err(why));
        }
        if let Err(why) = self.gives_way(&record).await {
            return Ok(Err(why));
        }
        let cluster = record.cluster;
        if self.adopt(record).await? {
            tracing::info!(%cluster, "stored the formation record");
            return Ok(Ok(()));
        }
        Ok(Err("its log is not empty: it belongs to a cluster already".to_owned()))
    }

    /// Makes sure that the voters which the record leaves out do not answer this node either.
    async fn without_whom(&self, record: &FormationRecord) -> Result<(), String> {
        let config = &self.shared.config;
        let left_out = config.voters().filter(|node| record.id_of(&node.name).is_none()).cloned();
        let heard = greet(&self.shared.peers, &config.cluster_name, &config.node_name, left_out).await;
        match heard.iter().find(|(_, heard)| matches!(heard, Heard::Answered(_))) {
            Some((node, _)) => {
                Err(format!("{} at {} answers, so it must not be left out", node.name, node.address))
            }
            None => Ok(()),
        }
    }

    /// Whether the record that is stored here may give way to `record`.
    async fn gives_way(&self, record: &FormationRecord) -> Result<(), String> {
        let Some(old) = self.own.as_ref().and_then(|own| own.record.as_ref()) else { return Ok(()) };
        let config = &self.shared.config;
        let writer = old.founders.get(&old.writer).map(|founder| founder.member.clone());
        let writer = writer.filter(|writer| writer.name != config.node_name).map(|writer| {
            let Member { name, address, role, .. } = writer;
            ListedNode { name, address, role }
        });
        let heard = greet(&self.shared.peers, &config.cluster_name, &config.node_name, writer).await;
        plan::gives_way(old, record, &config.node_name, heard.first().map(|(_, heard)| heard))
    }

    /// Sends this node's own record to all founders, and initializes the log once all stored it.
    async fn send(&mut self, record: FormationRecord, stop: &CancellationToken) -> Result<(), ClusterError> {
        let bytes = record::encode(Kind::Formation, &record)?;
        let others = record.founders.iter().filter(|(id, _)| **id != record.writer);
        let peers = &self.shared.peers;
        let asked = join_all(others.map(|(_, founder)| {
            let bytes = bytes.clone();
            let Member { name, address, .. } = &founder.member;
            async move {
                let mut client = peers
                    .coordination(None, address)
                    .map_err(|error| format!("{name} at {address}: {error}"))?;
                let asked = client.form(FormRequest { record: bytes.into() });
                match rpc::within(FORM_MAX, asked).await {
                    Ok(reply) if reply.refused.is_empty() => Ok(()),
                    Ok(reply) => Err(format!("{name} at {address} did not store it: {}", reply.refused)),
                    Err(status) => Err(format!("{name} at {address} did not answer: {}", status.message())),
                }
            }
        }));
        let Some(answers) = stop.run_until_cancelled(asked).await else { return Ok(()) };
        let missing: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        if !missing.is_empty() {
            let sentence = format!("the formation record goes to every voter: {}", missing.join("; "));
            self.shared.wait_for(Some(sentence));
            return Ok(());
        }
        crash::point("cluster.before-initialize");
        let Some(raft) = &self.raft else { return Ok(()) };
        match raft.initialize(record.voters()).await {
            Ok(()) => {
                tracing::info!(cluster = %record.cluster, voters = record.founders.len(), "formed the cluster")
            }
            Err(openraft::error::RaftError::Fatal(fatal)) => return Err(fatal.into()),
            Err(openraft::error::RaftError::APIError(openraft::error::InitializeError::NotAllowed(_))) => {
                tracing::debug!("the log was initialized before");
            }
            Err(openraft::error::RaftError::APIError(error)) => {
                return Err(ClusterError::Initialize(Box::new(error)));
            }
        }
        Ok(())
    }

    /// Asks for admission, unless it was refused just now.
    async fn join(&mut self, addresses: Vec<String>, stop: &CancellationToken) -> Result<(), ClusterError> {
        if Instant::now() < self.ask_after {
            return Ok(());
        }
        match stop.run_until_cancelled(self.ask_members(addresses)).await {
            None => Ok(()),
            Some(Ok(own)) => self.joined(own).await,
            Some(Err(Refused { why, code })) if code == ROLLED_BACK && self.raft.is_none() => {
                tracing::error!(
                    why,
                    "this node's data folder was set back: it votes no more under its former id"
                );
                self.shared.note(ROLLED_BACK, Some(place::rolled_back(why)));
                self.start_over().await
            }
            Some(Err(Refused { why, code })) => {
                self.ask_after = Instant::now() + self.patience;
                self.patience = (self.patience * 2).min(PATIENCE_MAX);
                let duplicate = (code == DUPLICATE).then(|| {
                    let remedy = format!(
                        "two hosts call themselves {}: correct node.name on one of them; or stop the one that is not \
                         meant, the other takes its place after {} s",
                        self.shared.config.node_name,
                        self.shared.config.return_after.as_secs()
                    );
                    Problem::new(Severity::Critical, DUPLICATE, why.clone(), remedy)
                });
                self.shared.note(DUPLICATE, duplicate);
                self.shared.wait_for(Some(format!("admission to the cluster: {why}")));
                Ok(())
            }
        }
    }

    /// Asks members for admission, going where they say that the leader is; why not, when none admits it.
    async fn ask_members(&self, addresses: Vec<String>) -> Result<Own, Refused> {
        let config = &self.shared.config;
        let request = JoinRequest {
            cluster_name: config.cluster_name.clone(),
            node_name: config.node_name.clone(),
            address: config.address.clone(),
            role: config.role.to_string(),
            incarnation: bytes::Bytes::copy_from_slice(&*self.shared.incarnation.borrow()),
        };
        let mut why = Vec::new();
        let mut code = String::new();
        for member in addresses {
            let mut address = member;
            // One hop: a member that names a leader which names another is out of date; the next look asks anew.
            for _ in 0..2 {
                let answer = match self.shared.peers.coordination(None, &address) {
                    Ok(mut client) => rpc::within(JOIN_MAX, client.join(request.clone())).await,
                    Err(error) => Err(tonic::Status::invalid_argument(error.to_string())),
                };
                match answer {
                    Ok(reply) if !reply.leader_address.is_empty() => address = reply.leader_address,
                    Ok(reply) if !reply.refused.is_empty() => {
                        code = reply.code;
                        why.push(format!("{address}: {}", reply.refused));
                        break;
                    }
                    Ok(reply) => {
                        let Ok(cluster) = reply.cluster_id.as_ref().try_into() else { break };
                        let millis = Duration::from_millis;
                        let timing = reply.times.map_or(config.timing, |times| Timing {
                            heartbeat: millis(times.heartbeat_ms),
                            timeout: millis(times.timeout_ms),
                            lease: millis(times.lease_ms),
                        });
                        return Ok(Own {
                            cluster: ClusterId(cluster),
                            node: reply.node_id,
                            name: config.node_name.clone(),
                            record: None,
                            timing,
                        });
                    }
                    Err(status) => {
                        why.push(format!("{address}: {}", status.message()));
                        break;
                    }
                }
            }
        }
        why.dedup();
        Err(Refused { why: why.join("; "), code })
    }

    async fn joined(&mut self, own: Own) -> Result<(), ClusterError> {
        // A record that never came to a log gives way to a cluster that has one.
        let ran = self.shut_down().await;
        let (db, stored) = (Arc::clone(&self.db), own.clone());
        if blocking(move || db.adopt(&stored)).await? {
            self.shared.note(DUPLICATE, None);
            tracing::info!(cluster = %own.cluster, node = own.node, "joined the cluster");
            self.shared.own.send_replace(Some(own.clone()));
            self.own = Some(own);
            self.presenting = Instant::now();
        } else if let Some(current) = self.own.clone() {
            tracing::warn!(cluster = %current.cluster, "the log holds something now, so it is kept; it is asked again");
            if ran {
                self.start(current).await?;
            }
        }
        Ok(())
    }
}

/// Why no member admitted this node, and the code of the problem if it is one.
struct Refused {
    why: String,
    code: String,
}
