//! Several leaders' views at once, in simulated time: delays, pauses, restarts, deposed leaders, lost and surviving
//! entries, in random order. No two managers may hold leases that overlap. A failing run prints its seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::Range;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::tests::{ms, report, state};
use super::*;
use crate::cluster::state::{At, apply};
use crate::cluster::types::{Command, Response};
use crate::model::HeardReport;

const NODES: u64 = 3;
const LEASE_MS: u64 = 1200;
const RUN_MS: u64 = 60_000;

/// One process of a node.
struct Process {
    number: u64,
    appointer: Appointer,
    /// The term that it believes to lead in.
    term: Option<u64>,
    asked: HashMap<Ticket, Renewal>,
    /// The epoch that it let go.
    released: Epoch,
    renewing: bool,
    /// Whether an entry of its own is committed; before that a restored leader knows only its stored commit index.
    lead_committed: bool,
}

#[derive(Clone, Copy)]
struct Renewal {
    node: NodeId,
    process: u64,
    epoch: Epoch,
    sent: u64,
}

#[derive(Clone)]
struct Proposal {
    leader: NodeId,
    process: u64,
    term: u64,
    command: Command,
}

enum Event {
    Tick,
    RenewTimer,
    LeadsNow { term: u64 },
    NoLongerLeads { term: u64 },
    Follows(NodeId),
    Commits(usize),
    Applies(usize),
    RoundChecks { id: u64, process: u64 },
    RoundEnds { id: u64, process: u64, confirmed: bool, committed: usize },
    RenewalArrives(Renewal),
    AnswerArrives(Renewal, bool),
    LetGoArrives { epoch: Epoch, process: u64 },
}

struct World {
    random: StdRng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, (NodeId, Event)>,
    counted: u64,
    processes: BTreeMap<NodeId, Process>,
    paused_until: BTreeMap<NodeId, u64>,
    /// How much of the committed log each node has applied.
    applied: BTreeMap<NodeId, usize>,
    log: Vec<(u64, Command)>,
    proposals: Vec<Option<Proposal>>,
    /// What the next leader found in its log although it was not committed.
    survivors: Vec<Proposal>,
    /// Whom a quorum follows.
    leader: (u64, NodeId),
    /// Whom each node believes to lead.
    follows: BTreeMap<NodeId, NodeId>,
    /// Each lease that a node could have shown: node, from, until.
    leases: Vec<(NodeId, u64, u64)>,
    patience_percent: u32,
    appointments: u64,
}

impl World {
    fn new(seed: u64, patience_percent: u32) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            now: 1_000_000,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            counted: 0,
            processes: BTreeMap::new(),
            paused_until: BTreeMap::new(),
            applied: (1..=NODES).map(|node| (node, 0)).collect(),
            log: Vec::new(),
            proposals: Vec::new(),
            survivors: Vec::new(),
            leader: (1, 1),
            follows: (1..=NODES).map(|node| (node, 1)).collect(),
            leases: Vec::new(),
            patience_percent,
            appointments: 0,
        };
        for node in 1..=NODES {
            world.start(node);
        }
        world.after(0..50, 1, Event::LeadsNow { term: 1 });
        world
    }

    fn after(&mut self, delay: Range<u64>, node: NodeId, event: Event) {
        let at = self.now + self.random.random_range(delay);
        self.at(at, node, event);
    }

    fn at(&mut self, at: u64, node: NodeId, event: Event) {
        self.counted += 1;
        self.queue.push(Reverse((at, self.counted)));
        self.events.insert(self.counted, (node, event));
    }

    fn start(&mut self, node: NodeId) {
        let number = self.random.random();
        let mut appointer = Appointer::new(Duration::from_millis(LEASE_MS));
        appointer.patience_percent = self.patience_percent;
        let process = Process {
            number,
            appointer,
            term: None,
            asked: HashMap::new(),
            released: 0,
            renewing: false,
            lead_committed: false,
        };
        if self.processes.insert(node, process).is_none() {
            self.after(0..25, node, Event::Tick);
            self.after(0..300, node, Event::RenewTimer);
        }
    }

    /// The state that a node's applied log has built, by the real rules.
    fn state_of(&self, node: NodeId) -> ClusterState {
        let mut built = Some(state(NODES));
        for (index, (term, command)) in self.log.iter().take(self.applied[&node]).enumerate() {
            let at = At { term: *term, index: 10 + index as u64 };
            let voters = (1..=NODES).collect();
            let response = apply(&mut built, &mut None, &voters, at, command.clone());
            assert_ne!(response, Response::NoCluster);
            built.as_mut().unwrap().applied_index = at.index;
        }
        built.unwrap()
    }

    fn run(&mut self) {
        let end = self.now + RUN_MS;
        while let Some(Reverse((at, id))) = self.queue.pop() {
            if at > end {
                return;
            }
            self.now = at;
            let (node, event) = self.events.remove(&id).unwrap();
            let paused = self.paused_until.get(&node).copied().unwrap_or(0);
            if paused > at && !matches!(event, Event::Commits(_) | Event::RoundChecks { .. }) {
                // A stopped process finds everything at once when it goes on.
                self.at(paused, node, event);
                continue;
            }
            self.happen(node, event);
            if self.random.random_range(0..600) == 0 {
                self.disturb();
            }
        }
    }

    fn disturb(&mut self) {
        let node = self.random.random_range(1..=NODES);
        match self.random.random_range(0..7) {
            0 | 1 => self.elect(node),
            5 => (1..=NODES).for_each(|node| self.restart(node)),
            6 => {
                self.let_go(node);
                self.restart(node);
            }
            2 => {
                let until = self.now + self.random.random_range(1..4_000);
                self.paused_until.insert(node, until);
            }
            3 => self.restart(node),
            _ => self.let_go(node),
        }
    }

    fn elect(&mut self, node: NodeId) {
        let (term, before) = self.leader;
        if node == before {
            return;
        }
        self.leader = (term + 1, node);
        // What the old leader had not committed is in the new one's log, or gone; gone for certain what is older than
        // something committed since: whoever has it still cannot be elected.
        let newest = self.log.last().map_or(0, |(term, _)| *term);
        let pending: Vec<Proposal> = self.proposals.iter_mut().filter_map(Option::take).collect();
        let mut survivors = std::mem::take(&mut self.survivors);
        survivors.extend(pending);
        survivors.retain(|proposal| proposal.term >= newest && self.random.random_bool(0.5));
        self.survivors = survivors;
        self.after(0..2_500, before, Event::NoLongerLeads { term });
        // Its task may hear of it only after it lost and won the leadership again.
        self.after(0..400, node, Event::LeadsNow { term: term + 1 });
        for other in 1..=NODES {
            self.after(0..2_500, other, Event::Follows(node));
        }
    }

    fn restart(&mut self, node: NodeId) {
        self.paused_until.remove(&node);
        self.start(node);
        // The state is not synced with the log: it may be older than before.
        let applied = self.applied[&node];
        let back = self.random.random_range(0..=applied);
        self.applied.insert(node, back);
        self.after(0..2_000, node, Event::Applies(applied));
        if self.leader.1 == node {
            // openraft restores a leader at once, in the term it had.
            let term = self.leader.0;
            self.after(0..50, node, Event::LeadsNow { term });
        }
    }

    fn let_go(&mut self, node: NodeId) {
        let state = self.state_of(node);
        let epoch = state.epoch();
        if state.appointment.is_none_or(|current| current.manager != node) {
            return;
        }
        let process = self.processes.get_mut(&node).unwrap();
        process.released = epoch;
        let number = process.number;
        // It stops answering with what it has.
        let now = self.now;
        for lease in self.leases.iter_mut().filter(|lease| lease.0 == node) {
            lease.2 = lease.2.min(now);
        }
        let leader = self.leader.1;
        self.after(1..1_500, leader, Event::LetGoArrives { epoch, process: number });
    }

    fn propose(&mut self, leader: NodeId, believed: u64, command: Command) {
        // The entry gets the term that the log's core is in, whatever its task believes.
        let term = if self.leader.1 == leader { self.leader.0 } else { believed };
        let process = self.processes[&leader].number;
        self.proposals.push(Some(Proposal { leader, process, term, command }));
        let id = self.proposals.len() - 1;
        self.after(1..250, leader, Event::Commits(id));
    }

    fn commit(&mut self, proposal: Proposal) {
        let Proposal { leader, process, term, command } = proposal;
        let appoints = if let Command::Appoint { replaces, .. } = command { Some(replaces) } else { None };
        self.log.push((term, command));
        let length = self.log.len();
        for node in 1..=NODES {
            if node != leader {
                self.after(0..400, node, Event::Applies(length));
            }
        }
        let entry = self.applied.get_mut(&leader).unwrap();
        *entry = length.max(*entry);
        if self.processes[&leader].number != process || self.processes[&leader].term != Some(term) {
            return;
        }
        let now = ms(self.now);
        let process = self.processes.get_mut(&leader).unwrap();
        let actions = if let Some(replaces) = appoints {
            process.appointer.appoint_ended(replaces, now);
            self.appointments += 1;
            Vec::new()
        } else {
            process.lead_committed = true;
            process.appointer.first_applied()
        };
        self.perform(leader, actions);
    }

    fn perform(&mut self, node: NodeId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Round(id) => {
                    let process = self.processes[&node].number;
                    self.after(0..150, node, Event::RoundChecks { id, process });
                }
                Action::Answer(ticket, answer) => {
                    if let Some(renewal) = self.processes.get_mut(&node).unwrap().asked.remove(&ticket) {
                        let granted = answer == Answer::Granted;
                        self.after(1..200, renewal.node, Event::AnswerArrives(renewal, granted));
                    }
                }
                Action::Appoint { replaces, manager } => {
                    let Some(term) = self.processes[&node].term else { continue };
                    let lease = Duration::from_millis(LEASE_MS);
                    self.propose(node, term, Command::Appoint { replaces, manager, lease, term });
                }
            }
        }
    }

    fn happen(&mut self, node: NodeId, event: Event) {
        match event {
            Event::Tick => {
                self.tick(node);
                let at = self.now + 25;
                self.at(at, node, Event::Tick);
            }
            Event::RenewTimer => {
                self.renew(node);
                let at = self.now + 300;
                self.at(at, node, Event::RenewTimer);
            }
            Event::LeadsNow { term } => self.leads(node, term),
            Event::NoLongerLeads { term } => {
                let process = self.processes.get_mut(&node).unwrap();
                if process.term == Some(term) {
                    process.term = None;
                    let actions = process.appointer.follow();
                    self.perform(node, actions);
                }
            }
            Event::Follows(leader) => {
                self.follows.insert(node, leader);
            }
            Event::Commits(id) => {
                if let Some(proposal) = self.proposals[id].take()
                    && proposal.term == self.leader.0
                {
                    if matches!(proposal.command, Command::Lead { .. }) {
                        for survivor in std::mem::take(&mut self.survivors) {
                            self.commit(survivor);
                        }
                    }
                    self.commit(proposal);
                }
            }
            Event::Applies(length) => {
                let applied = self.applied.get_mut(&node).unwrap();
                *applied = length.max(*applied);
            }
            Event::RoundChecks { id, process } => {
                let current = &self.processes[&node];
                // A round counts only in the term that the task believes in.
                let confirmed =
                    current.number == process && self.leader.1 == node && current.term == Some(self.leader.0);
                let committed = self.log.len();
                self.after(0..150, node, Event::RoundEnds { id, process, confirmed, committed });
            }
            Event::RoundEnds { id, process, confirmed, committed } => {
                if self.processes[&node].number == process {
                    if confirmed && self.processes[&node].lead_committed {
                        let applied = self.applied.get_mut(&node).unwrap();
                        *applied = committed.max(*applied);
                    }
                    let state = self.state_of(node);
                    let now = ms(self.now);
                    let appointer = &mut self.processes.get_mut(&node).unwrap().appointer;
                    let actions = appointer.round_ended(id, confirmed, now, Some(&state));
                    self.perform(node, actions);
                }
            }
            Event::RenewalArrives(renewal) => {
                self.counted += 1;
                let ticket = self.counted;
                let process = self.processes.get_mut(&node).unwrap();
                process.asked.insert(ticket, renewal);
                let Renewal { node: from, epoch, process: number, .. } = renewal;
                let actions = process.appointer.ask(ticket, Ask::Renew { from, epoch, process: number });
                self.perform(node, actions);
            }
            Event::AnswerArrives(renewal, granted) => self.answered(node, renewal, granted),
            Event::LetGoArrives { epoch, process } => {
                self.processes.get_mut(&node).unwrap().appointer.let_go(epoch, process);
            }
        }
    }

    fn leads(&mut self, node: NodeId, term: u64) {
        if self.processes[&node].term == Some(term) || self.leader != (term, node) {
            return;
        }
        let now = ms(self.now);
        let process = self.processes.get_mut(&node).unwrap();
        process.term = Some(term);
        let nonce = process.number;
        let actions = process.appointer.lead(now);
        self.perform(node, actions);
        self.propose(node, term, Command::Lead { leader: node, nonce });
    }

    fn tick(&mut self, node: NodeId) {
        let state = self.state_of(node);
        let mut heard = Heard::new();
        for other in 1..=NODES {
            if self.random.random_bool(0.9) {
                heard.insert(format!("gw{other}"), HeardReport { report: report(other), at: ms(self.now) });
            }
        }
        let own = report(node);
        let view = View { state: &state, me: node, own: &own, heard: &heard };
        let now = ms(self.now);
        let actions = self.processes.get_mut(&node).unwrap().appointer.tick(now, view);
        self.perform(node, actions);
    }

    fn renew(&mut self, node: NodeId) {
        let state = self.state_of(node);
        let Some(current) = state.appointment else { return };
        let now = self.now;
        let process = self.processes.get_mut(&node).unwrap();
        // Now and then a manager says nothing for a while.
        if process.renewing {
            process.renewing = self.random.random_bool(0.95);
        } else {
            process.renewing = self.random.random_bool(0.3);
        }
        if !process.renewing || current.manager != node || current.epoch <= process.released {
            return;
        }
        let renewal = Renewal { node, process: process.number, epoch: current.epoch, sent: now };
        // It may follow a leader that is none any more.
        let leader = self.follows[&node];
        let slow = self.random.random_bool(0.1);
        self.after(if slow { 100..1_500 } else { 1..60 }, leader, Event::RenewalArrives(renewal));
    }

    fn answered(&mut self, node: NodeId, renewal: Renewal, granted: bool) {
        let process = &self.processes[&node];
        let state = self.state_of(node);
        let until = renewal.sent + LEASE_MS;
        let current = state.appointment.is_some_and(|current| {
            current.manager == node && current.epoch == renewal.epoch && current.epoch > process.released
        });
        if granted && current && process.number == renewal.process && self.now < until {
            self.leases.push((node, renewal.sent, until));
        }
    }

    /// The first two leases of two nodes that overlap.
    fn overlap(&self) -> Option<String> {
        self.leases.iter().enumerate().find_map(|(at, one)| {
            let clash =
                self.leases[..at].iter().find(|other| other.0 != one.0 && other.1 < one.2 && one.1 < other.2);
            clash.map(|other| format!("{other:?} and {one:?}"))
        })
    }
}

#[test]
fn leases_of_two_managers_never_overlap() {
    let first: u64 =
        std::env::var("SYNCD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let (mut leases, mut appointments) = (0, 0);
    for seed in (0..100).map(|step| first.wrapping_add(step)) {
        let mut world = World::new(seed, 110);
        world.run();
        if let Some(overlap) = world.overlap() {
            panic!("SYNCD_SEED={seed}: {overlap}");
        }
        leases += world.leases.len();
        appointments += world.appointments;
    }
    assert!(
        leases > 1_000 && appointments > 200,
        "too little happened: {leases} leases, {appointments} appointments"
    );
}

#[test]
fn the_simulation_finds_a_leader_that_does_not_wait() {
    let found = (0..60).any(|seed| {
        let mut world = World::new(seed, 40);
        world.run();
        world.overlap().is_some()
    });
    assert!(found, "a leader that waits for less than half of a lease went unnoticed");
}
