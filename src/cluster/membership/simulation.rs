//! Hosts that lose their disks, come back, stop and start while generations are committed and voters change, in random
//! order. The head must survive the loss of any minority of the voters at every moment. A failing run prints its seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cluster::appoint::tests::{ms, report};
use crate::cluster::state::{At, apply, follow_voters};
use crate::cluster::types::{Command, FormationRecord, Founder, Response, Timing};
use crate::model::{ClusterId, Commit, CommitOutcome, Digest, FirstContent, HeardReport, Instance};

const LOOKS: u64 = 1200;
const TERM: u64 = 1;

/// A host: its present life, if it has a place, and what that holds.
struct Host {
    name: String,
    role: Role,
    incarnation: u8,
    id: Option<NodeId>,
    holds: u64,
    runs: bool,
}

struct World {
    rng: StdRng,
    now: u64,
    state: Option<ClusterState>,
    timing: Option<Timing>,
    configs: Vec<BTreeSet<NodeId>>,
    nodes: BTreeSet<NodeId>,
    index: u64,
    hosts: Vec<Host>,
    leader: NodeId,
    membership: Membership,
    heard: Heard,
    /// Proposals whose outcome nobody waited for: they may come later.
    late: Vec<Command>,
    /// Changes of the voters that were made.
    changes: u64,
    wiped: u64,
    /// Every node says that it holds the head: for the test of this test.
    careless: bool,
}

fn digest(generation: u64) -> Digest {
    Digest::of(&generation.to_le_bytes())
}

impl World {
    fn new(seed: u64, count: u64, careless: bool) -> Self {
        let role = |id: u64| if id == 3 { Role::Witness } else { Role::Candidate };
        let host = |id: u64| Host {
            name: format!("gw{id}"),
            role: role(id),
            incarnation: 0,
            id: Some(id),
            holds: 0,
            runs: true,
        };
        let hosts: Vec<Host> = (1..=count).map(host).collect();
        let founders = hosts.iter().map(|host| {
            let member = Member {
                name: host.name.clone(),
                address: host.name.clone(),
                role: host.role,
                incarnation: [0; 16],
            };
            (host.id.unwrap(), Founder { member, content: FirstContent { digest: digest(0), files: 0 } })
        });
        let second = Duration::from_secs(1);
        let record = FormationRecord {
            cluster: ClusterId([1; 16]),
            succeeds: Vec::new(),
            name: "test".to_owned(),
            writer: 1,
            founders: founders.collect(),
            timing: Timing { heartbeat: second, timeout: second, lease: second },
        };
        let voters: BTreeSet<NodeId> = (1..=count).collect();
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            state: None,
            timing: None,
            configs: vec![voters.clone()],
            nodes: voters,
            index: 0,
            hosts,
            leader: 1,
            membership: Membership::new(RETURN_AFTER),
            heard: Heard::new(),
            late: Vec::new(),
            changes: 0,
            wiped: 0,
            careless,
        };
        world.append(Command::Form(record));
        let appoint = Command::Appoint { replaces: 0, manager: 1, lease: Duration::from_secs(1), term: TERM };
        world.append(appoint);
        world.membership.lead(ms(0));
        world
    }

    fn host_of(&self, id: NodeId) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id == Some(id))
    }

    fn runs(&self, id: NodeId) -> bool {
        self.host_of(id).is_some_and(|host| host.runs)
    }

    /// Whether the log goes on: a majority of each set runs.
    fn has_quorum(&self, configs: &[BTreeSet<NodeId>]) -> bool {
        configs.iter().all(|voters| {
            let running: BTreeSet<NodeId> = voters.iter().copied().filter(|id| self.runs(*id)).collect();
            is_majority_of(voters, &running)
        })
    }

    fn append(&mut self, command: Command) -> Option<Response> {
        if !self.has_quorum(&self.configs.clone()) {
            return None;
        }
        self.index += 1;
        let at = At { term: TERM, index: self.index };
        let voters = self.configs[0].clone();
        Some(apply(&mut self.state, &mut self.timing, &voters, at, command))
    }

    fn move_to(&mut self, configs: Vec<BTreeSet<NodeId>>) -> bool {
        if !self.has_quorum(&configs) || !self.has_quorum(&self.configs.clone()) {
            return false;
        }
        self.index += 1;
        self.configs = configs;
        let state = self.state.as_mut().unwrap();
        state.applied_index = self.index;
        follow_voters(state, &self.configs);
        true
    }

    fn look(&mut self) {
        self.now += 250;
        let members = self.state.as_ref().unwrap().members.clone();
        let at = ms(self.now);
        for index in 0..self.hosts.len() {
            let heard = self.rng.random_bool(0.7);
            let host = &self.hosts[index];
            if heard && host.runs && host.id.is_some_and(|id| members.contains_key(&id)) {
                self.heard.insert(host.name.clone(), HeardReport { report: self.said_by(host), at });
            }
        }
        match self.rng.random_range(0..20) {
            0..6 => self.commit(),
            6..9 => self.fetch(),
            9..11 => self.ask(),
            11 => self.wipe(),
            12 => {
                let at = self.rng.random_range(0..self.hosts.len());
                self.hosts[at].runs = !self.hosts[at].runs || self.rng.random_bool(0.3);
            }
            13 if !self.late.is_empty() => {
                let at = self.rng.random_range(0..self.late.len());
                let command = self.late.remove(at);
                self.append(command);
            }
            14 if self.rng.random_bool(0.1) => self.elect(),
            _ => {}
        }
        if !self.runs(self.leader) || !self.configs.iter().any(|voters| voters.contains(&self.leader)) {
            self.elect();
        }
        self.step();
    }

    fn elect(&mut self) {
        if !self.has_quorum(&self.configs.clone()) {
            return;
        }
        let able: Vec<NodeId> = self.configs[0].iter().copied().filter(|id| self.runs(*id)).collect();
        if let Some(leader) = able.choose(&mut self.rng) {
            self.leader = *leader;
            // What an earlier leader left on its way is in the log before this one's first entry, or lost.
            self.late.clear();
            self.membership.lead(ms(self.now));
        }
    }

    fn step(&mut self) {
        let (state, Some(leader)) = (self.state.clone().unwrap(), self.host_of(self.leader)) else { return };
        let own = self.said_by(leader);
        let log = Log {
            configs: self.configs.clone(),
            nodes: self.nodes.clone(),
            matched: self.nodes.iter().filter(|id| self.runs(**id)).map(|id| (*id, self.index)).collect(),
            last: self.index,
        };
        let sight = Sight { state: &state, me: self.leader, own: &own, heard: &self.heard, log: &log };
        let Some(step) = self.membership.next(ms(self.now), sight) else { return };
        if self.rng.random_bool(0.1) {
            // Done later, or never: nobody is told.
            match step {
                Step::Change { to, holding, generation, .. } => {
                    self.late.push(Command::Change { to, holding, generation, term: TERM });
                }
                Step::Expel(node) => self.late.push(Command::Expel { node }),
                Step::AddLearner(_) | Step::DropLearner(_) | Step::Finish { .. } => {}
            }
            return;
        }
        match step {
            Step::AddLearner(id) => drop(self.nodes.insert(id)),
            Step::DropLearner(id) => drop(self.nodes.remove(&id)),
            Step::Expel(node) => drop(self.append(Command::Expel { node })),
            Step::Finish { to, retain } => self.finish(to, retain),
            Step::Change { to, holding, generation, retain } => {
                let announced = Command::Change { to: to.clone(), holding, generation, term: TERM };
                let is_taken = self.append(announced) == Some(Response::Done);
                let before = self.configs[0].clone();
                if is_taken
                    && to != before
                    && self.move_to(vec![before, to.clone()])
                    && self.rng.random_bool(0.7)
                {
                    self.finish(to, retain);
                }
            }
        }
    }

    fn finish(&mut self, to: BTreeSet<NodeId>, retain: bool) {
        let gone: Vec<NodeId> = self.configs[0].difference(&to).copied().collect();
        if self.move_to(vec![to]) {
            self.changes += 1;
            if !retain {
                self.nodes.retain(|id| !gone.contains(id));
            }
        }
    }

    /// The next generation is staged on some members and offered with those that answered.
    fn commit(&mut self) {
        let state = self.state.clone().unwrap();
        let generation = state.generation() + 1;
        let mut holders = BTreeSet::new();
        for host in &mut self.hosts {
            let Some(id) = host.id.filter(|id| host.runs && state.members.contains_key(id)) else { continue };
            // Staged on the parent, which it must hold; pinned, but not yet the head.
            if host.holds == generation - 1 && self.rng.random_bool(0.7) {
                holders.insert(id);
            }
        }
        let appointment = state.appointment.clone().unwrap();
        let commit = Commit {
            epoch: appointment.epoch,
            parent: generation - 1,
            generation,
            digest: digest(generation),
            author: appointment.manager,
            committed_unix_ms: 0,
            holders: holders.clone(),
        };
        if self.append(Command::Commit(commit)) == Some(Response::Commit(CommitOutcome::Committed)) {
            for host in self.hosts.iter_mut().filter(|host| host.id.is_some_and(|id| holders.contains(&id))) {
                host.holds = generation;
            }
        }
    }

    fn fetch(&mut self) {
        let head = self.state.as_ref().unwrap().generation();
        if !self.hosts.iter().any(|host| host.runs && host.id.is_some() && host.holds == head) {
            return;
        }
        for host in self.hosts.iter_mut().filter(|host| host.runs && host.id.is_some()) {
            if self.rng.random_bool(0.6) {
                host.holds = head;
            }
        }
    }

    /// Hosts without a place ask for one.
    fn ask(&mut self) {
        for at in 0..self.hosts.len() {
            let host = &self.hosts[at];
            if host.id.is_some() || !host.runs {
                continue;
            }
            let newcomer = Member {
                name: host.name.clone(),
                address: host.name.clone(),
                role: host.role,
                incarnation: [host.incarnation; 16],
            };
            let (state, Some(leader)) = (self.state.clone().unwrap(), self.host_of(self.leader)) else {
                return;
            };
            let (own, log) = (self.said_by(leader), Log::default());
            let sight = Sight { state: &state, me: self.leader, own: &own, heard: &self.heard, log: &log };
            let id = match self.membership.join(ms(self.now), &newcomer, sight) {
                Some(Join::Known(id)) => Some(id),
                Some(Join::Admit) => {
                    let Member { name, address, role, incarnation } = newcomer;
                    match self.append(Command::Admit { name, address, role, incarnation }) {
                        Some(Response::Admitted(id)) => Some(id),
                        _ => None,
                    }
                }
                _ => None,
            };
            self.hosts[at].id = id;
        }
    }

    /// How many of these voters' disks are gone.
    fn lost(&self, voters: &BTreeSet<NodeId>) -> usize {
        voters.iter().filter(|id| self.host_of(**id).is_none()).count()
    }

    /// A disk is lost, as long as it is a minority of the voters that lost theirs.
    fn wipe(&mut self) {
        let at = self.rng.random_range(0..self.hosts.len());
        let Some(id) = self.hosts[at].id else { return };
        let bears = |voters: &BTreeSet<NodeId>| {
            let more = usize::from(voters.contains(&id));
            self.lost(voters) + more <= (voters.len() - 1) / 2
        };
        if self.configs.iter().all(bears) {
            let host = &mut self.hosts[at];
            (host.id, host.holds) = (None, 0);
            host.incarnation += 1;
            self.wiped += 1;
        }
    }

    fn said_by(&self, host: &Host) -> NodeReport {
        let holds = if self.careless { self.state.as_ref().unwrap().generation() } else { host.holds };
        let instance = host.id.map(|node| Instance {
            node,
            process: node,
            starts: 1,
            applied: 0,
            holds: Some(digest(holds).to_string()),
        });
        NodeReport { name: host.name.clone(), holds: Some(holds), instance, ..report(0) }
    }

    /// Whether some minority of the voters could take the head along.
    fn in_danger(&self) -> Option<String> {
        let head = self.state.as_ref()?.generation();
        self.configs.iter().find_map(|voters| {
            let holds = |id: &&NodeId| self.host_of(**id).is_some_and(|host| host.holds == head);
            let holders = voters.iter().filter(holds).count();
            let more = ((voters.len() - 1) / 2).saturating_sub(self.lost(voters));
            (head > 0 && holders <= more).then(|| {
                format!(
                    "at {} ms generation {head} is on {holders} of {voters:?}, and {more} more may be lost",
                    self.now
                )
            })
        })
    }
}

fn run(seed: u64, careless: bool) -> (World, Option<String>) {
    let mut world = World::new(seed, 3 + seed % 3, careless);
    for _ in 0..LOOKS {
        world.look();
        if let Some(danger) = world.in_danger() {
            return (world, Some(danger));
        }
    }
    (world, None)
}

#[test]
fn the_head_survives_the_loss_of_any_minority_while_members_change() {
    let first: u64 =
        std::env::var("SYNCD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let (mut changes, mut wiped, mut generations) = (0, 0, 0);
    for seed in (0..100).map(|step| first.wrapping_add(step)) {
        let (world, danger) = run(seed, false);
        if let Some(danger) = danger {
            panic!("SYNCD_SEED={seed}: {danger}");
        }
        changes += world.changes;
        wiped += world.wiped;
        generations += world.state.unwrap().generation();
    }
    assert!(changes > 100 && wiped > 50 && generations > 1000, "{changes} {wiped} {generations}");
}

#[test]
fn the_simulation_finds_voters_that_hold_less_than_they_say() {
    assert!((0..200).any(|seed| run(seed, true).1.is_some()));
}
