//! Asking each other member, and answering it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::{BootTime, ClusterState, Heard, HeardReport, NodeId, NodeReport};
use crate::roster::{REPORT_BYTES_MAX, RosterError};
use crate::rpc::{Lane, Peers, within};
use crate::wire::proto::Report;

/// How often and how patiently the others are asked.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Pause between two questions to one peer.
    pub every: Duration,
    /// How long an answer may take.
    pub patience: Duration,
}

/// What this node hears of the others. Cheap to clone.
#[derive(Clone)]
pub struct Roster {
    own: watch::Receiver<Arc<NodeReport>>,
    state: watch::Receiver<Option<Arc<ClusterState>>>,
    heard: Arc<watch::Sender<Arc<Heard>>>,
}

/// Keeps one asker per other member.
pub struct RosterTask {
    config: Config,
    peers: Peers,
    roster: Roster,
}

/// A roster that says `own` of this node to the members in `state`, and puts what it hears into `heard`.
#[must_use]
pub fn new(
    config: Config,
    peers: Peers,
    state: watch::Receiver<Option<Arc<ClusterState>>>,
    own: watch::Receiver<Arc<NodeReport>>,
    heard: watch::Sender<Arc<Heard>>,
) -> (Roster, RosterTask) {
    let roster = Roster { own, state, heard: Arc::new(heard) };
    (roster.clone(), RosterTask { config, peers, roster })
}

impl Roster {
    /// Takes the report of the member `from` and answers with this node's own.
    ///
    /// # Errors
    /// [`RosterError`] when it is none, or not of that member.
    pub fn exchange(&self, from: NodeId, report: &Report) -> Result<Report, RosterError> {
        self.take(from, report)?;
        self.own_report()
    }

    fn own_report(&self) -> Result<Report, RosterError> {
        let row = serde_json::to_vec(&**self.own.borrow())?;
        Ok(Report { row: row.into() })
    }

    fn take(&self, from: NodeId, report: &Report) -> Result<(), RosterError> {
        if report.row.len() > REPORT_BYTES_MAX {
            return Err(RosterError::TooLarge(report.row.len()));
        }
        let report: NodeReport = serde_json::from_slice(&report.row)?;
        let is_its_own = self
            .state
            .borrow()
            .as_ref()
            .and_then(|state| state.members.get(&from))
            .is_some_and(|member| member.name == report.name);
        if !is_its_own {
            return Err(RosterError::NotItsOwn { spoke: from, named: report.name });
        }
        let heard = HeardReport { report, at: BootTime::now() };
        self.heard.send_modify(|all| {
            Arc::make_mut(all).insert(heard.report.name.clone(), heard);
        });
        Ok(())
    }
}

impl RosterTask {
    /// Asks until `stop`. A peer that does not answer is asked again; nothing ends this task but `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut state = self.roster.state.clone();
        let mut identity = self.peers.identity().watch();
        let mut askers: BTreeMap<NodeId, (String, CancellationToken)> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let members = self.others();
            askers.retain(|id, (address, ended)| {
                let stays = members.get(id).is_some_and(|(_, now)| now == address);
                if !stays {
                    ended.cancel();
                }
                stays
            });
            self.roster.heard.send_if_modified(|heard| {
                let is_member = |name: &String| members.values().any(|(member, _)| member == name);
                let gone = heard.keys().any(|name| !is_member(name));
                if gone {
                    Arc::make_mut(heard).retain(|name, _| is_member(name));
                }
                gone
            });
            for (id, (name, address)) in members {
                askers.entry(id).or_insert_with(|| {
                    let ended = stop.child_token();
                    let asker = Asker {
                        config: self.config,
                        peers: self.peers.clone(),
                        roster: self.roster.clone(),
                        node: id,
                        name,
                        address: address.clone(),
                    };
                    tasks.spawn(asker.run(ended.clone()));
                    (address, ended)
                });
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = state.changed() => if changed.is_err() { break },
                changed = identity.changed() => if changed.is_err() { break },
                Some(_) = tasks.join_next() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn others(&self) -> BTreeMap<NodeId, (String, String)> {
        let Some(me) = self.peers.identity().get() else { return BTreeMap::new() };
        let state = self.roster.state.borrow();
        let Some(state) = state.as_ref() else { return BTreeMap::new() };
        let others = state.members.iter().filter(|(id, _)| **id != me.node);
        others.map(|(id, member)| (*id, (member.name.clone(), member.address.clone()))).collect()
    }
}

/// Talks with one other member.
struct Asker {
    config: Config,
    peers: Peers,
    roster: Roster,
    node: NodeId,
    name: String,
    address: String,
}

/// What peers act upon at once; the rest of a report may wait for the next question.
fn urgent(report: &NodeReport) -> impl PartialEq + use<> {
    (report.generation, report.digest.clone(), report.state, report.holds, report.is_fit())
}

impl Asker {
    async fn run(self, ended: CancellationToken) {
        let mut own = self.roster.own.clone();
        let asks = own.borrow().name < self.name;
        let mut answers = true;
        loop {
            let told = urgent(&own.borrow_and_update());
            let outcome = tokio::select! {
                () = ended.cancelled() => return,
                outcome = self.ask() => outcome,
            };
            if answers != outcome.is_ok() {
                answers = outcome.is_ok();
                match outcome {
                    Ok(()) => tracing::info!(peer = self.name, "peer answers"),
                    Err(why) => {
                        tracing::info!(peer = self.name, address = self.address, why, "peer does not answer")
                    }
                }
            }
            let pause = tokio::time::sleep(self.config.every);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = &mut pause, if asks => break,
                    changed = own.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if urgent(&own.borrow()) != told {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let report = self.roster.own_report().map_err(|error| error.to_string())?;
        let mut client = self
            .peers
            .artifacts(self.node, &self.address, Lane::Control)
            .map_err(|error| error.to_string())?;
        let answer = within(self.config.patience, client.exchange(report))
            .await
            .map_err(|status| status.message().to_owned())?;
        self.roster.take(self.node, &answer).map_err(|error| error.to_string())
    }
}
