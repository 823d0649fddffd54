//! Each rule of the decision maker by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{
    Appointment, ClusterId, Digest, Head, HeardReport, Member, Problem, Severity, Switchover,
};

const LEASE: Duration = Duration::from_millis(1200);
const PROCESS: u64 = 77;

pub(in crate::cluster) fn ms(at: u64) -> BootTime {
    BootTime::at(at * 1_000_000)
}

pub(in crate::cluster) fn state(candidates: u64) -> ClusterState {
    let member = |id: u64| Member {
        name: format!("gw{id}"),
        address: String::new(),
        role: Role::Candidate,
        incarnation: [0; 16],
    };
    let members = (1..=candidates).map(|id| (id, member(id))).collect();
    let state = ClusterState::new(ClusterId([0; 16]), members, (1..=candidates).collect(), Seed::Anyone);
    ClusterState { applied_index: 3, ..state }
}

pub(in crate::cluster) fn report(id: NodeId) -> NodeReport {
    NodeReport {
        name: format!("gw{id}"),
        address: String::new(),
        role: "candidate".to_owned(),
        state: NodeState::InSync,
        generation: None,
        digest: None,
        lag_seconds: None,
        last_seen_seconds: None,
        version: None,
        drifted: None,
        quarantined: None,
        held: None,
        pending: None,
        holds: None,
        instance: None,
        priority: 0,
        faults: Vec::new(),
        progress: None,
        roots: Vec::new(),
        problems: Vec::new(),
    }
}

/// Node 1 leads three candidates; everyone is heard all the time unless a test says otherwise.
struct Bench {
    appointer: Appointer,
    state: ClusterState,
    reports: BTreeMap<NodeId, NodeReport>,
    now: u64,
    tickets: Ticket,
}

impl Bench {
    fn leading() -> Self {
        let mut bench = Self::led_by_nobody();
        assert_eq!(bench.appointer.lead(ms(bench.now)), []);
        assert_eq!(bench.appointer.first_applied(), []);
        bench
    }

    fn led_by_nobody() -> Self {
        let reports = (1..=3).map(|id| (id, report(id))).collect();
        Self { appointer: Appointer::new(LEASE), state: state(3), reports, now: 1_000_000, tickets: 0 }
    }

    /// With a manager in office and a head that all hold.
    fn managed(manager: NodeId) -> Self {
        let mut bench = Self::leading();
        bench.state.appointment = Some(Appointment { epoch: 5, replaced: 0, manager, lease: LEASE });
        bench.state.head = Some(Head {
            generation: 4,
            digest: Digest([0; 32]),
            epoch: 5,
            author: manager,
            committed_unix_ms: 0,
            holders: BTreeSet::from([1, 2, 3]),
        });
        bench.reports.values_mut().for_each(|report| report.holds = Some(4));
        bench
    }

    fn tick(&mut self) -> Vec<Action> {
        let heard: Heard = self
            .reports
            .values()
            .map(|report| (report.name.clone(), HeardReport { report: report.clone(), at: ms(self.now) }))
            .collect();
        let own = self.reports.get(&1).cloned().unwrap_or_else(|| report(1));
        let view = View { state: &self.state, me: 1, own: &own, heard: &heard };
        self.appointer.tick(ms(self.now), view)
    }

    /// Lets time pass, looking often, until something is decided; then when and what.
    fn decided_within(&mut self, limit: u64) -> Option<(u64, Vec<Action>)> {
        let start = self.now;
        while self.now - start <= limit {
            let actions = self.tick();
            if !actions.is_empty() {
                return Some((self.now - start, actions));
            }
            self.now += 25;
        }
        None
    }

    fn ask(&mut self, ask: Ask) -> Vec<Action> {
        self.tickets += 1;
        self.appointer.ask(self.tickets, ask)
    }

    fn renew(&mut self, from: NodeId, epoch: Epoch) -> Vec<Action> {
        self.ask(Ask::Renew { from, epoch, process: PROCESS })
    }

    fn ended(&mut self, id: u64, confirmed: bool) -> Vec<Action> {
        self.appointer.round_ended(id, confirmed, ms(self.now), Some(&self.state))
    }

    /// Whether the manager's renewal is granted now.
    fn grants(&mut self, from: NodeId, epoch: Epoch) -> bool {
        let asked = self.renew(from, epoch);
        let [Action::Round(id)] = asked[..] else { panic!("{asked:?}") };
        self.ended(id, true) == [Action::Answer(self.tickets, Answer::Granted)]
    }

    /// Lets time pass with a manager that renews; whom the leader appoints then, and after how many grants.
    fn appointed_while_renewed(
        &mut self,
        manager: NodeId,
        epoch: Epoch,
        limit: u64,
    ) -> (Option<NodeId>, u64) {
        let (end, mut grants) = (self.now + limit, 0);
        while self.now < end {
            grants += u64::from(self.grants(manager, epoch));
            if let [Action::Appoint { manager, .. }] = self.tick()[..] {
                return (Some(manager), grants);
            }
            self.now += 100;
        }
        (None, grants)
    }

    fn granted(&mut self) {
        let asked = self.renew(2, 5);
        let [Action::Round(id)] = asked[..] else { panic!("{asked:?}") };
        assert_eq!(self.ended(id, true), [Action::Answer(self.tickets, Answer::Granted)]);
    }
}

fn appointed(actions: &[Action]) -> NodeId {
    let [Action::Appoint { manager, .. }] = actions else { panic!("{actions:?}") };
    *manager
}

#[test]
fn nothing_is_answered_before_the_first_entry_of_its_own() {
    let mut bench = Bench::led_by_nobody();
    assert!(matches!(bench.renew(2, 5)[..], [Action::Answer(1, Answer::Refused(_))]), "it does not lead");
    bench.appointer.lead(ms(bench.now));
    assert_eq!(bench.ask(Ask::Confirm), []);
    assert_eq!(bench.decided_within(10_000), None);
    assert_eq!(bench.appointer.first_applied(), [Action::Round(1)]);
    assert_eq!(bench.ended(1, true), [Action::Answer(2, Answer::Confirmed(3))]);
}

#[test]
fn one_round_runs_and_one_waits() {
    let mut bench = Bench::managed(2);
    assert_eq!(bench.renew(2, 5), [Action::Round(1)]);
    assert_eq!(bench.ask(Ask::Confirm), [], "the running round began before this question");
    assert_eq!(bench.renew(2, 5), []);
    assert_eq!(bench.ended(9, true), [], "no such round");
    assert_eq!(bench.ended(1, true), [Action::Answer(1, Answer::Granted), Action::Round(2)]);
    let both = [Action::Answer(2, Answer::Confirmed(3)), Action::Answer(3, Answer::Granted)];
    assert_eq!(bench.ended(2, true), both);
}

#[test]
fn only_the_manager_of_the_epoch_is_granted() {
    let mut bench = Bench::managed(2);
    for (from, epoch) in [(3, 5), (2, 4), (2, 6)] {
        let asked = bench.renew(from, epoch);
        let [Action::Round(id)] = asked[..] else { panic!() };
        assert!(matches!(bench.ended(id, true)[..], [Action::Answer(_, Answer::Refused(_))]));
    }
    bench.granted();
    let asked = bench.renew(2, 5);
    let [Action::Round(id)] = asked[..] else { panic!() };
    assert!(matches!(bench.ended(id, false)[..], [Action::Answer(_, Answer::Refused(_))]), "no quorum");
}

#[test]
fn another_manager_only_after_the_lease_and_a_tenth() {
    let mut bench = Bench::managed(2);
    let (after, actions) = bench.decided_within(5_000).unwrap();
    assert!((1_320..1_400).contains(&after), "since it began to lead: {after}");
    assert_eq!(actions, [Action::Appoint { replaces: 5, manager: 3 }]);

    let mut bench = Bench::managed(2);
    assert_eq!(bench.decided_within(1_000), None);
    bench.granted();
    let (after, _) = bench.decided_within(5_000).unwrap();
    assert!((1_320..1_400).contains(&after), "since the last grant: {after}");

    let mut bench = Bench::managed(2);
    for _ in 0..100 {
        bench.granted();
        assert_eq!(bench.decided_within(300), None, "a live manager stays");
    }
}

#[test]
fn from_the_decision_on_nobody_is_granted() {
    let mut bench = Bench::managed(2);
    assert_eq!(bench.decided_within(1_200), None);
    let asked = bench.renew(2, 5);
    let [Action::Round(id)] = asked[..] else { panic!() };
    let (_, actions) = bench.decided_within(1_000).unwrap();
    assert_eq!(appointed(&actions), 3);
    assert!(
        matches!(bench.ended(id, true)[..], [Action::Answer(_, Answer::Refused(_))]),
        "the round in flight"
    );
    assert_eq!(bench.decided_within(5_000), None, "one decision at a time");
    bench.state.appointment = Some(Appointment { epoch: 9, replaced: 5, manager: 3, lease: LEASE });
    bench.appointer.appoint_ended(5, ms(bench.now));
    let (after, _) = bench.decided_within(5_000).unwrap();
    assert!((1_320..1_400).contains(&after), "the new one has its time to begin: {after}");
}

#[test]
fn who_is_no_candidate_that_votes_any_more_is_granted_nothing_and_replaced() {
    let lost: [fn(&mut ClusterState); 3] = [
        |state| drop(state.members.remove(&2)),
        |state| state.voters.retain(|voter| *voter != 2),
        |state| state.members.get_mut(&2).unwrap().role = Role::Worker,
    ];
    for lose in lost {
        let mut bench = Bench::managed(2);
        bench.granted();
        lose(&mut bench.state);
        let (next, grants) = bench.appointed_while_renewed(2, 5, 5_000);
        assert_eq!((next, grants), (Some(3), 0));
    }
}

#[test]
fn a_late_word_of_one_appointment_does_not_end_the_next() {
    let mut bench = Bench::managed(2);
    bench.decided_within(2_000).unwrap();
    // Seen in the applied state before the job that appended it says so.
    bench.state.appointment = Some(Appointment { epoch: 9, replaced: 5, manager: 3, lease: LEASE });
    let (_, actions) = bench.decided_within(2_000).unwrap();
    assert_eq!(actions, [Action::Appoint { replaces: 9, manager: 2 }]);
    bench.appointer.appoint_ended(5, ms(bench.now));
    let asked = bench.renew(3, 9);
    let [Action::Round(id)] = asked[..] else { panic!("{asked:?}") };
    assert!(matches!(bench.ended(id, true)[..], [Action::Answer(_, Answer::Refused(_))]));
    assert_eq!(bench.decided_within(5_000), None, "one decision at a time");
    bench.appointer.appoint_ended(9, ms(bench.now));
    assert!(bench.decided_within(2_000).is_some());
}

#[test]
fn who_gave_up_alone_is_appointed_again_even_if_this_leader_granted_it_nothing() {
    let mut bench = Bench::managed(2);
    bench.reports.retain(|id, _| *id == 2);
    bench.reports.insert(1, NodeReport { state: NodeState::RootMissing, ..report(1) });
    assert_eq!(bench.decided_within(5_000), None, "it may go on by itself");
    assert!(!bench.appointer.let_go(5, PROCESS), "no wait ends by this");
    bench.granted();
    assert_eq!(bench.decided_within(5_000), None, "it did go on");
    assert!(bench.appointer.let_go(5, PROCESS));
    assert_eq!(appointed(&bench.decided_within(100).unwrap().1), 2);

    let mut bench = Bench::managed(2);
    bench.reports.retain(|id, _| *id == 2);
    bench.reports.insert(1, NodeReport { state: NodeState::RootMissing, ..report(1) });
    assert!(!bench.appointer.let_go(5, PROCESS));
    let (after, actions) = bench.decided_within(5_000).unwrap();
    assert!(after >= 1_320, "its leases are waited out: {after}");
    assert_eq!(appointed(&actions), 2);
}

#[test]
fn who_let_go_is_replaced_at_once_and_granted_no_more() {
    let mut bench = Bench::managed(2);
    assert!(!bench.appointer.let_go(5, PROCESS), "this leader knows of no lease of that process");
    bench.granted();
    assert!(!bench.appointer.let_go(5, PROCESS + 1), "a restarted process may hold one");
    assert!(bench.appointer.let_go(5, PROCESS));
    assert_eq!(bench.decided_within(1_000), None, "leases of the leader before are waited out");
    bench.now += 25;
    for _ in 0..20 {
        bench.now += 25;
        let asked = bench.renew(2, 5);
        let [Action::Round(id)] = asked[..] else { panic!() };
        assert!(matches!(bench.ended(id, true)[..], [Action::Answer(_, Answer::Refused(_))]));
    }
    let asked = bench.renew(2, 5);
    let [Action::Round(id)] = asked[..] else { panic!() };
    assert!(matches!(bench.ended(id, true)[..], [Action::Answer(_, Answer::Refused(_))]));
    let (after, actions) = bench.decided_within(100).unwrap();
    assert_eq!((after, appointed(&actions)), (0, 3));

    let mut alone = Bench::managed(2);
    for _ in 0..7 {
        alone.granted();
        assert_eq!(alone.decided_within(200), None);
    }
    assert!(alone.appointer.let_go(5, PROCESS));
    alone.reports.retain(|id, _| *id == 2);
    alone.reports.insert(1, NodeReport { state: NodeState::RootMissing, ..report(1) });
    let (_, actions) = alone.decided_within(100).unwrap();
    assert_eq!(appointed(&actions), 2, "better the same under a new epoch than nobody");
}

#[test]
fn the_choice_goes_by_content_fitness_priority_place_and_name() {
    let choice = |change: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::managed(9);
        change(&mut bench);
        bench.decided_within(3_000).map(|(_, actions)| appointed(&actions))
    };
    let with = |bench: &mut Bench, id: NodeId, change: &dyn Fn(&mut NodeReport)| {
        change(bench.reports.get_mut(&id).unwrap());
    };
    assert_eq!(choice(&|_| {}), Some(2), "not the leader, then by name");
    assert_eq!(choice(&|b| with(b, 3, &|r| r.priority = 5)), Some(3));
    assert_eq!(choice(&|b| with(b, 1, &|r| r.priority = 5)), Some(1), "the leader too if it is preferred");
    assert_eq!(choice(&|b| with(b, 2, &|r| r.faults = vec!["behind".to_owned()])), Some(3));
    assert_eq!(choice(&|b| with(b, 2, &|r| r.state = NodeState::RootMissing)), Some(3));
    assert_eq!(choice(&|b| with(b, 2, &|r| r.holds = Some(3))), Some(3));
    assert_eq!(
        choice(&|b| {
            with(b, 1, &|r| r.holds = Some(1));
            with(b, 2, &|r| r.holds = Some(2));
            with(b, 3, &|r| r.holds = None);
        }),
        Some(2),
        "nobody holds the head: the most complete"
    );
    assert_eq!(
        choice(&|b| b.reports.retain(|id, _| *id == 1)),
        Some(1),
        "whoever is not heard is not chosen"
    );
    let workers = |b: &mut Bench| {
        for id in [2, 3] {
            b.state.members.get_mut(&id).unwrap().role = Role::Witness;
        }
    };
    assert_eq!(choice(&workers), Some(1), "only candidates");
}

#[test]
fn the_first_manager_holds_the_first_content() {
    let mut bench = Bench::leading();
    let (after, actions) = bench.decided_within(100).unwrap();
    assert_eq!((after, appointed(&actions)), (0, 2), "all are heard: no need to wait");

    let mut bench = Bench::leading();
    bench.state.seed = Seed::OneOf(BTreeSet::from([3]));
    assert_eq!(appointed(&bench.decided_within(100).unwrap().1), 3);

    let mut bench = Bench::leading();
    bench.reports.remove(&2);
    let (after, actions) = bench.decided_within(5_000).unwrap();
    assert!(after >= 1_300, "it waits a little for who is not heard yet: {after}");
    assert_eq!(appointed(&actions), 3);

    let mut bench = Bench::leading();
    bench.state.seed = Seed::Conflict(BTreeMap::new());
    assert_eq!(bench.decided_within(60_000), None);
}

#[test]
fn a_manager_that_should_not_be_one_is_retired_for_a_better_one() {
    let unfit = |bench: &mut Bench| {
        bench.reports.get_mut(&2).unwrap().state = NodeState::RootMissing;
    };
    let keep_renewing = |bench: &mut Bench, seconds: u64| {
        for _ in 0..seconds * 4 {
            if let Some((_, actions)) = bench.decided_within(225) {
                return Some(appointed(&actions));
            }
            let asked = bench.renew(2, 5);
            let [Action::Round(id)] = asked[..] else { panic!() };
            bench.ended(id, true);
            bench.now += 25;
        }
        None
    };
    let mut bench = Bench::managed(2);
    unfit(&mut bench);
    assert_eq!(keep_renewing(&mut bench, 9), None);
    assert_eq!(keep_renewing(&mut bench, 5), Some(3));

    let mut bench = Bench::managed(2);
    unfit(&mut bench);
    for id in [1, 3] {
        bench.reports.get_mut(&id).unwrap().faults.push("behind".to_owned());
    }
    assert_eq!(keep_renewing(&mut bench, 30), None, "nobody is better");
}

#[test]
fn standing_still_and_a_missing_quorum_are_not_the_managers_silence() {
    let mut bench = Bench::managed(2);
    assert_eq!(bench.decided_within(1_000), None);
    bench.now += 60_000;
    let (after, _) = bench.decided_within(5_000).unwrap();
    assert!(after >= 1_320, "the whole machine slept: {after}");

    let mut bench = Bench::managed(2);
    for _ in 0..20 {
        let asked = bench.renew(2, 5);
        let [Action::Round(id)] = asked[..] else { panic!() };
        assert_eq!(bench.decided_within(400), None);
        bench.ended(id, false);
    }
}

#[test]
fn losing_the_leadership_answers_everyone_and_forgets_everything() {
    let mut bench = Bench::managed(2);
    bench.renew(2, 5);
    bench.ask(Ask::Confirm);
    let refused = bench.appointer.follow();
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|action| matches!(action, Action::Answer(_, Answer::Refused(_)))));
    assert_eq!(bench.ended(1, true), [], "its rounds mean nothing any more");
    assert_eq!(bench.decided_within(5_000), None);
    bench.appointer.lead(ms(bench.now));
    bench.appointer.first_applied();
    let (after, _) = bench.decided_within(5_000).unwrap();
    assert!(after >= 1_320, "counted anew: {after}");
}

#[test]
fn an_ordered_successor_is_named_at_once_when_the_manager_let_go() {
    let mut bench = Bench::managed(2);
    bench.reports.get_mut(&1).unwrap().priority = 9;
    bench.state.switchover = Some(Switchover { ends: 5, to: 3 });
    assert_eq!(bench.appointed_while_renewed(2, 5, 2_000).0, None);
    assert!(bench.appointer.let_go(5, PROCESS));
    assert_eq!(appointed(&bench.tick()), 3);
}

#[test]
fn a_manager_that_does_not_hear_the_order_is_granted_nothing_more() {
    let mut bench = Bench::managed(2);
    bench.state.switchover = Some(Switchover { ends: 5, to: 3 });
    let (named, grants) = bench.appointed_while_renewed(2, 5, 10_000);
    assert_eq!(named, Some(3));
    assert!((45..55).contains(&grants), "{grants}: five seconds, ten a second");
}

#[test]
fn of_those_that_reach_no_majority_none_is_better_than_another() {
    let mut bench = Bench::managed(1);
    let mut managers = vec![1];
    for epoch in 5..10 {
        let manager = managers[managers.len() - 1];
        bench.reports.get_mut(&manager).unwrap().problems =
            vec![Problem::new(Severity::Critical, "no-majority", "", "")];
        bench.state.appointment = Some(Appointment { epoch, replaced: 0, manager, lease: LEASE });
        let (next, _) = bench.appointed_while_renewed(manager, epoch, 5_000);
        let Some(next) = next else { break };
        managers.push(next);
        bench.reports.get_mut(&manager).unwrap().problems.clear();
        bench.appointer.appoint_ended(epoch, ms(bench.now));
    }
    assert_eq!(managers, [1, 2, 3], "each had its turn, and it does not begin again");
    bench.state.head.as_mut().unwrap().generation = 5;
    bench.reports.values_mut().for_each(|report| report.holds = Some(5));
    let epoch = bench.state.epoch();
    assert_ne!(bench.appointed_while_renewed(3, epoch, 5_000).0, None, "a later head is another matter");
}
