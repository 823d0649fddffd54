//! The manager's side of the lease.
//!
//! Renews every quarter of the lease while this node's own applied state names it manager. At most one renewal runs;
//! whoever asks meanwhile shares the next one, which is sent after the question. The lease counts from when a renewal
//! was sent, on a clock that goes on while the machine sleeps.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::appoint::{Answer, Ask};
use crate::cluster::shared::{Request, Shared};
use crate::model::{Appointment, BootTime, Epoch, Lease, NodeId};
use crate::rpc;
use crate::wire::proto::RenewRequest;

/// The longest that one renewal may take, and that whoever asks for one waits.
pub(super) const RENEWAL_MAX: Duration = Duration::from_millis(300);
/// How long letting go waits for the leader's answer.
const LET_GO_MAX: Duration = Duration::from_secs(1);

type Asker = oneshot::Sender<Option<Lease>>;

struct Sent {
    appointment: Appointment,
    at: BootTime,
    granted: bool,
}

/// The task.
pub(super) struct Renewer {
    shared: Arc<Shared>,
    me: NodeId,
    asks: mpsc::Receiver<Asker>,
    lease: Option<Lease>,
    waiting: Vec<Asker>,
    served: Vec<Asker>,
    running: Option<BoxFuture<'static, Sent>>,
}

impl Renewer {
    pub(super) fn new(shared: Arc<Shared>, me: NodeId, asks: mpsc::Receiver<Asker>) -> Self {
        Self { shared, me, asks, lease: None, waiting: Vec::new(), served: Vec::new(), running: None }
    }

    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut state = self.shared.state.subscribe();
        let mut next = Instant::now();
        let mut epoch = 0;
        loop {
            let running: OptionFuture<_> = self.running.as_mut().into();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(sent) = running => self.arrived(sent),
                Some(asker) = self.asks.recv() => { self.waiting.push(asker); self.send(); }
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + self.pace();
                    self.send();
                }
                Ok(()) = state.changed() => {
                    let appointment = state.borrow_and_update().as_ref().and_then(|state| state.appointment.clone());
                    let now = appointment.map_or(0, |appointment| appointment.epoch);
                    if now != epoch {
                        epoch = now;
                        self.lease = None;
                        next = Instant::now() + self.pace();
                        self.send();
                    }
                }
            }
        }
    }

    /// How often it renews: by the lease that the appointment names, whatever this node's file says.
    fn pace(&self) -> Duration {
        let state = self.shared.state.borrow();
        let appointment = state.as_ref().and_then(|state| state.appointment.as_ref());
        appointment.map_or(self.shared.config.timing.lease, |appointment| appointment.lease) / 4
    }

    /// This node's appointment, as its own applied state names it.
    fn appointment(&self) -> Option<Appointment> {
        self.named().filter(|appointment| appointment.epoch > *self.shared.released.borrow())
    }

    /// The same, also if this node gave it up.
    fn named(&self) -> Option<Appointment> {
        let state = self.shared.state.borrow();
        let appointment = state.as_ref()?.appointment.as_ref()?;
        (appointment.manager == self.me).then(|| appointment.clone())
    }

    fn send(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some(appointment) = self.appointment() else {
            self.lease = None;
            answer(std::mem::take(&mut self.waiting), None);
            self.say_again();
            return;
        };
        self.served = std::mem::take(&mut self.waiting);
        let (shared, me) = (Arc::clone(&self.shared), self.me);
        self.running = Some(Box::pin(async move {
            let at = BootTime::now();
            let asked = ask(&shared, me, appointment.epoch);
            let granted = tokio::time::timeout(RENEWAL_MAX, asked).await.unwrap_or(false);
            Sent { appointment, at, granted }
        }));
    }

    /// A leader that did not hear that this node gave its office up would wait for it: it is told until it appoints.
    fn say_again(&mut self) {
        let Some(appointment) = self.named() else { return };
        let (shared, me) = (Arc::clone(&self.shared), self.me);
        self.running = Some(Box::pin(async move {
            let at = BootTime::now();
            let told = say_let_go(&shared, me, appointment.epoch);
            // Whether it was taken shows in the log.
            let _ = tokio::time::timeout(RENEWAL_MAX, told).await;
            Sent { appointment, at, granted: false }
        }));
    }

    fn arrived(&mut self, sent: Sent) {
        self.running = None;
        let lease = self.take(&sent);
        answer(std::mem::take(&mut self.served), lease);
        if !self.waiting.is_empty() {
            self.send();
        }
    }

    fn take(&mut self, sent: &Sent) -> Option<Lease> {
        let current = self.appointment()?;
        let end = sent.at + sent.appointment.lease;
        if !sent.granted || current.epoch != sent.appointment.epoch || BootTime::now() >= end {
            return None;
        }
        let epoch = current.epoch;
        let unbroken = self.lease.filter(|lease| lease.epoch == epoch && lease.end >= sent.at);
        let lease = Lease { epoch, start: unbroken.map_or(sent.at, |lease| lease.start), end };
        if unbroken.is_none() {
            tracing::info!(epoch, "this node is manager and holds the lease");
        }
        self.lease = Some(lease);
        Some(lease)
    }
}

fn answer(askers: Vec<Asker>, lease: Option<Lease>) {
    for asker in askers {
        // Whoever asked may have given up waiting.
        let _ = asker.send(lease);
    }
}

/// Tells the leader that this process gave `epoch` up; true if that ends the leader's wait.
pub(super) async fn say_let_go(shared: &Shared, me: NodeId, epoch: Epoch) -> bool {
    let process = shared.process;
    let Some((leader, node)) = shared.leader() else { return false };
    if leader == me {
        let (reply, heard) = oneshot::channel();
        let sent = shared.leader.try_send(Request::LetGo { from: me, epoch, process, reply }).is_ok();
        return sent && matches!(tokio::time::timeout(LET_GO_MAX, heard).await, Ok(Ok(true)));
    }
    let Ok(mut client) = shared.peers.coordination(Some(leader), &node.address) else { return false };
    let answer = rpc::within(LET_GO_MAX, client.let_go(RenewRequest { epoch, process })).await;
    answer.is_ok_and(|answer| answer.granted)
}

async fn ask(shared: &Shared, me: NodeId, epoch: u64) -> bool {
    let process = shared.process;
    let Some((leader, node)) = shared.leader() else { return false };
    if leader == me {
        let answer = shared.ask_here(Ask::Renew { from: me, epoch, process }).await;
        if let Some(Answer::Refused(why)) = answer {
            tracing::debug!(epoch, why, "the lease was not renewed");
        }
        return answer == Some(Answer::Granted);
    }
    let Ok(mut client) = shared.peers.coordination(Some(leader), &node.address) else { return false };
    match rpc::within(RENEWAL_MAX, client.renew(RenewRequest { epoch, process })).await {
        Ok(reply) => {
            if !reply.granted {
                tracing::debug!(epoch, leader, why = %reply.refused, "the lease was not renewed");
            }
            reply.granted
        }
        Err(status) => {
            tracing::debug!(epoch, leader, %status, "the lease was not renewed");
            false
        }
    }
}
