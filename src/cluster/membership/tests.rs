//! Each rule of the decision maker by itself.

use super::*;
use crate::cluster::appoint::tests::{ms, report, state};
use crate::model::{Digest, Head, HeardReport, Instance};

/// Node 1 leads; everyone is heard and holds the head unless a test says otherwise.
struct Bench {
    membership: Membership,
    state: ClusterState,
    log: Log,
    reports: BTreeMap<NodeId, NodeReport>,
    silent: BTreeSet<NodeId>,
    heard: Heard,
    now: u64,
}

impl Bench {
    fn new(nodes: u64) -> Self {
        let mut state = state(nodes);
        state.head = Some(Head {
            generation: 5,
            digest: Digest([5; 32]),
            epoch: 2,
            author: 1,
            committed_unix_ms: 0,
            holders: BTreeSet::new(),
        });
        let log = Log {
            configs: vec![state.voters.clone()],
            nodes: state.voters.clone(),
            matched: state.voters.iter().map(|id| (*id, 100)).collect(),
            last: 100,
        };
        let reports = state.voters.iter().map(|id| (*id, holding_report(*id, 5))).collect();
        let mut membership = Membership::new(RETURN_AFTER);
        membership.lead(ms(0));
        let silent = BTreeSet::new();
        Self { membership, state, log, reports, silent, heard: Heard::new(), now: 0 }
    }

    /// Time passes; who is not silent is heard at its end.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 500 {
            self.now += 500;
            for (id, report) in self.reports.iter().filter(|(id, _)| !self.silent.contains(id)) {
                let report = NodeReport { name: self.state.members[id].name.clone(), ..report.clone() };
                self.heard.insert(report.name.clone(), HeardReport { report, at: ms(self.now) });
            }
            self.next();
        }
    }

    fn sight(&self) -> Sight<'_> {
        let own = self.reports.get(&1).unwrap();
        Sight { state: &self.state, me: 1, own, heard: &self.heard, log: &self.log }
    }

    fn next(&mut self) -> Option<Step> {
        let own = self.reports.get(&1).unwrap();
        let sight = Sight { state: &self.state, me: 1, own, heard: &self.heard, log: &self.log };
        self.membership.next(ms(self.now), sight)
    }

    fn join(&mut self, name: &str, incarnation: u8) -> Join {
        let newcomer = Member {
            name: name.to_owned(),
            address: "new:8730".to_owned(),
            role: Role::Candidate,
            incarnation: [incarnation; 16],
        };
        let own = self.reports.get(&1).unwrap();
        let sight = Sight { state: &self.state, me: 1, own, heard: &self.heard, log: &self.log };
        self.membership.join(ms(self.now), &newcomer, sight).unwrap()
    }

    fn remove(&mut self, name: &str) -> Result<NodeId, String> {
        let own = self.reports.get(&1).unwrap();
        let sight = Sight { state: &self.state, me: 1, own, heard: &self.heard, log: &self.log };
        self.membership.remove(ms(self.now), name, sight).map_err(|refusal| refusal.why + &refusal.remedy)
    }

    fn admit(&mut self, id: NodeId, role: Role) {
        let member = Member { name: format!("gw{id}"), address: String::new(), role, incarnation: [9; 16] };
        self.state.members.insert(id, member);
        self.reports.insert(id, holding_report(id, 0));
    }
}

fn holding_report(id: NodeId, holds: u64) -> NodeReport {
    let digest = Digest([u8::try_from(holds).unwrap(); 32]).to_string();
    let instance = Instance { node: id, process: id, starts: 1, applied: 100, holds: Some(digest) };
    NodeReport { holds: Some(holds), instance: Some(instance), ..report(id) }
}

fn to(step: Option<Step>) -> Vec<NodeId> {
    let Some(Step::Change { to, .. }) = step else { panic!("{step:?}") };
    to.into_iter().collect()
}

#[test]
fn a_newcomer_waits_until_its_former_life_was_silent() {
    let mut bench = Bench::new(3);
    bench.pass(20_000);
    assert_eq!(bench.join("gw9", 9), Join::Admit);
    assert!(matches!(bench.join("gw2", 9), Join::Duplicate(why) if why.contains("new:8730")));
    bench.silent.insert(2);
    bench.pass(4_000);
    assert!(matches!(bench.join("gw2", 9), Join::Wait(_)));
    assert_eq!(bench.next(), None, "nothing is removed yet");
    bench.pass(6_000);
    assert!(matches!(bench.join("gw2", 9), Join::Wait(_)));
    assert_eq!(to(bench.next()), [1, 3]);
    // It is heard again: nobody was lost.
    bench.silent.clear();
    bench.pass(500);
    assert_eq!(bench.next(), None);
}

#[test]
fn one_that_had_a_log_is_not_known_again_without_it() {
    let mut bench = Bench::new(3);
    bench.pass(1_000);
    assert!(matches!(bench.join("gw2", 0), Join::SetBack(_)), "a voter stored its place before it voted");
    bench.admit(70, Role::Worker);
    bench.reports.get_mut(&70).unwrap().instance.as_mut().unwrap().applied = 0;
    assert_eq!(bench.join("gw70", 9), Join::Known(70), "it did not hear the answer to its first question");
    bench.pass(500);
    assert_eq!(bench.join("gw70", 9), Join::Known(70));
    bench.reports.insert(70, holding_report(70, 0));
    bench.pass(500);
    assert!(matches!(bench.join("gw70", 9), Join::SetBack(_)), "it was heard with a log");
    bench.reports.remove(&70);
    bench.heard.clear();
    assert_eq!(bench.join("gw70", 9), Join::Known(70));
    bench.log.matched.insert(70, 3);
    assert!(matches!(bench.join("gw70", 9), Join::SetBack(_)), "it was sent one");
    bench.state.changing = Some([1, 2, 3, 70].into());
    bench.log.matched.clear();
    assert!(matches!(bench.join("gw70", 9), Join::SetBack(_)));
}

#[test]
fn a_leader_that_stood_still_or_began_just_now_has_missed_nobody() {
    let mut bench = Bench::new(3);
    bench.pass(1_000);
    bench.silent.insert(2);
    bench.now += 60_000;
    bench.next();
    assert!(matches!(bench.join("gw2", 9), Join::Wait(_)));
    bench.pass(1_000);
    assert_eq!(bench.next(), None);
    bench.pass(9_000);
    bench.join("gw2", 9);
    assert_eq!(to(bench.next()), [1, 3]);
    bench.membership.lead(ms(bench.now));
    assert!(matches!(bench.join("gw2", 9), Join::Wait(_)));
    assert_eq!(bench.next(), None);
}

#[test]
fn voters_change_only_while_the_head_and_the_majority_are_safe() {
    let mut bench = Bench::new(3);
    bench.pass(1_000);
    bench.silent.insert(2);
    bench.pass(12_000);
    bench.reports.insert(3, holding_report(3, 4));
    bench.pass(500);
    assert!(bench.remove("gw2").unwrap_err().contains("gw3 lack it"));
    bench.reports.insert(3, holding_report(3, 5));
    bench.silent.insert(3);
    bench.pass(4_000);
    assert!(bench.remove("gw2").unwrap_err().contains("no majority"));
    bench.silent.remove(&3);
    bench.pass(500);
    // What it said when the head was committed is over once it says that it has nothing whole.
    bench.state.head.as_mut().unwrap().holders = [1, 3].into();
    bench.reports.get_mut(&3).unwrap().holds = None;
    bench.pass(500);
    assert!(bench.remove("gw2").unwrap_err().contains("gw3 lack it"));
    bench.reports.insert(3, holding_report(3, 4));
    bench.pass(500);
    assert_eq!(bench.remove("gw2"), Ok(2), "it has not adopted yet what it held before the commit");
    bench.reports.insert(3, holding_report(3, 5));
    bench.pass(500);
    assert_eq!(to(bench.next()), [1, 3]);
    assert!(bench.remove("gw1").unwrap_err().contains("leads"));
    assert!(bench.remove("gw7").unwrap_err().contains("no member"));
    // The report of another life of the same name says nothing for this one.
    let mut other = holding_report(3, 5);
    other.instance.as_mut().unwrap().node = 77;
    bench.reports.insert(3, other);
    bench.pass(4_000);
    assert_eq!(bench.next(), None);
    assert!(bench.membership.barred().is_some());
}

#[test]
fn a_removed_voter_goes_step_by_step() {
    let mut bench = Bench::new(3);
    bench.pass(1_000);
    bench.remove("gw3").unwrap();
    let Some(Step::Change { to, holding, generation: 5, retain: false }) = bench.next() else { panic!() };
    assert_eq!((to.clone(), holding), ([1, 2].into(), [1, 2, 3].into()));
    bench.state.changing = Some(to.clone());
    assert!(matches!(bench.next(), Some(Step::Change { to: again, .. }) if again == to), "till it is made");
    bench.log.configs.push(to.clone());
    assert_eq!(bench.next(), Some(Step::Finish { to: to.clone(), retain: false }));
    bench.log.configs.remove(0);
    bench.log.nodes = to.clone();
    assert_eq!(bench.next(), None, "the entry is not applied here yet");
    (bench.state.voters, bench.state.changing) = (to, None);
    assert_eq!(bench.next(), None, "the order takes it out");
    // Nobody did, so it was not removed.
    bench.log.matched.insert(3, 100);
    bench.pass(25_000);
    assert_eq!(bench.next(), Some(Step::AddLearner(3)));
}

#[test]
fn an_announced_change_that_nobody_wants_any_more_is_taken_back() {
    let mut bench = Bench::new(3);
    bench.pass(1_000);
    bench.state.changing = Some([1, 2].into());
    assert_eq!(to(bench.next()), [1, 2, 3], "a new leader knows of no removal");
}

#[test]
fn a_newcomer_votes_once_it_has_the_log_and_the_head() {
    let mut bench = Bench::new(3);
    bench.pass(1_000);
    bench.admit(70, Role::Witness);
    bench.admit(71, Role::Worker);
    bench.pass(500);
    assert_eq!(bench.next(), Some(Step::AddLearner(70)));
    bench.log.nodes.extend([70, 71]);
    assert_eq!(bench.next(), None);
    bench.log.matched.insert(70, 99);
    assert_eq!(bench.next(), None, "it lacks the head");
    bench.reports.insert(70, holding_report(70, 5));
    bench.reports.insert(71, holding_report(71, 5));
    bench.log.matched.insert(70, 10);
    bench.pass(500);
    assert_eq!(bench.next(), None, "it lacks the log");
    bench.log.matched.extend([(70, 99), (71, 99)]);
    assert_eq!(to(bench.next()), [1, 2, 3, 70], "a worker never votes");
    bench.silent.insert(70);
    bench.pass(5_000);
    assert_eq!(bench.next(), None, "it can't be reached");
    assert_eq!(bench.sight().state.voters.len(), 3);
}

#[test]
fn a_manager_in_office_and_a_leader_are_not_removed_and_strays_are_dropped() {
    let mut bench = Bench::new(3);
    bench.state.appointment = Some(crate::model::Appointment {
        epoch: 9,
        replaced: 0,
        manager: 2,
        lease: Duration::from_millis(1200),
    });
    bench.pass(1_000);
    assert!(bench.remove("gw2").unwrap_err().contains("switchover"));
    bench.silent.insert(2);
    bench.pass(4_000);
    assert_eq!(bench.remove("gw2"), Ok(2), "one that can't be reached is no reason to wait");
    let mut bench = Bench::new(3);
    bench.log.nodes.insert(88);
    assert_eq!(bench.next(), Some(Step::DropLearner(88)));
    // A voter that is listed as a worker now stays a learner.
    let mut bench = Bench::new(3);
    bench.state.members.get_mut(&3).unwrap().role = Role::Worker;
    bench.pass(500);
    assert!(matches!(bench.next(), Some(Step::Change { retain: true, .. })));
}
