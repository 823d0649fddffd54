//! What each entry of the log does to the state. Pure: the same entries give the same state on every node.

use std::collections::BTreeSet;

use crate::cluster::obey::obey;
use crate::cluster::types::{Command, FOUNDERS_MAX, FormationRecord, MEMBERS_MAX, Response, Timing};
use crate::model::{
    Appointment, ClusterState, Commit, CommitOutcome, CommitRefusal, Head, LetThrough, Member, NodeId,
    is_majority_of,
};

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) term: u64,
    pub(super) index: u64,
}

/// Applies one entry.
///
/// `state` is none until the cluster is formed; `voters` are those in force at this index.
pub(super) fn apply(
    state: &mut Option<ClusterState>,
    timing: &mut Option<Timing>,
    voters: &BTreeSet<NodeId>,
    at: At,
    command: Command,
) -> Response {
    let index = at.index;
    if let Command::Form(record) = command {
        if state.is_none() {
            *timing = Some(record.timing);
            *state = Some(founded(record, voters.clone(), index));
        }
        return Response::Done;
    }
    let Some(state) = state else { return Response::NoCluster };
    match command {
        Command::Form(_) | Command::Lead { .. } => Response::Done,
        Command::Appoint { replaces, manager, lease, term } => {
            if replaces != state.epoch() || term != at.term || !state.members.contains_key(&manager) {
                return Response::NotCurrent;
            }
            state.appointment = Some(Appointment { epoch: index, replaced: replaces, manager, lease });
            state.switchover = None;
            Response::Appointed(index)
        }
        Command::Commit(commit) => Response::Commit(take(state, commit, None)),
        Command::Approved { commit, lets_through } => {
            Response::Commit(take(state, commit, Some(lets_through)))
        }
        Command::Admit { name, address, role, incarnation } => {
            admit(state, index, Member { name, address, role, incarnation })
        }
        Command::Order { id, by, unix_ms, order } => Response::Order(obey(state, id, by, unix_ms, order)),
        Command::Change { to, generation, holding, term } => {
            if term != at.term || generation != state.generation() {
                return Response::NotCurrent;
            }
            match announce(state, to, &holding) {
                Ok(()) => Response::Done,
                Err(why) => Response::Refused(why),
            }
        }
        Command::Expel { node } => {
            if is_bound(state, node) {
                return Response::Refused("it votes".to_owned());
            }
            state.members.remove(&node);
            Response::Done
        }
        Command::Move { node, address, role } => match state.members.get_mut(&node) {
            Some(member) => {
                (member.address, member.role) = (address, role);
                Response::Done
            }
            None => Response::Refused("it is no member".to_owned()),
        },
    }
}

fn founded(record: FormationRecord, voters: BTreeSet<NodeId>, index: u64) -> ClusterState {
    let (cluster, seed) = (record.cluster, record.seed());
    let members = record.founders.into_iter().map(|(id, founder)| (id, founder.member)).collect();
    ClusterState { applied_index: index, ..ClusterState::new(cluster, members, voters, seed) }
}

/// Takes a change of the voters up: by one node, and only while a majority of those after it, newcomers among them,
/// hold every blob of the head.
fn announce(
    state: &mut ClusterState,
    to: BTreeSet<NodeId>,
    holding: &BTreeSet<NodeId>,
) -> Result<(), String> {
    if to == state.voters {
        state.changing = None;
        return Ok(());
    }
    if state.changing.as_ref().is_some_and(|after| *after != to) {
        return Err("another change of the voters is under way".to_owned());
    }
    if to.is_empty() || state.voters.symmetric_difference(&to).count() != 1 {
        return Err("voters change one at a time".to_owned());
    }
    if let Some(stranger) = to.iter().find(|id| !state.members.contains_key(id)) {
        return Err(format!("node number {stranger} is no member"));
    }
    if let Some(head) = &state.head {
        let holders: BTreeSet<NodeId> = head.holders.union(holding).copied().collect();
        if !is_majority_of(&to, &holders) || !to.difference(&state.voters).all(|id| holders.contains(id)) {
            return Err(format!(
                "generation {} is not yet held by a majority of the voters after the change",
                head.generation
            ));
        }
    }
    state.changing = Some(to);
    Ok(())
}

/// What a membership entry of openraft's own does: `configs` are the sets of voters that each need a majority.
pub(super) fn follow_voters(state: &mut ClusterState, configs: &[BTreeSet<NodeId>]) {
    let (Some(before), Some(after)) = (configs.first(), configs.last()) else { return };
    state.voters.clone_from(before);
    if configs.len() > 1 {
        state.changing = Some(after.clone());
    } else if state.changing.as_ref() == Some(after) {
        state.changing = None;
    }
}

/// Whether a node votes, or is about to.
pub(super) fn is_bound(state: &ClusterState, id: NodeId) -> bool {
    state.voters.contains(&id) || state.changing.as_ref().is_some_and(|after| after.contains(&id))
}

/// Whether `node` was a member once and is none any more, as this state knows it.
pub(super) fn is_removed(state: &ClusterState, node: NodeId) -> bool {
    node > 0 && node <= FOUNDERS_MAX + state.applied_index && !state.members.contains_key(&node)
}

/// Generations that let an approved list through are remembered for the deletes of ten minutes.
const LET_THROUGH_MAX: usize = 64;

fn take(state: &mut ClusterState, commit: Commit, lets_through: Option<LetThrough>) -> CommitOutcome {
    let head = Head {
        generation: commit.generation,
        digest: commit.digest,
        epoch: commit.epoch,
        author: commit.author,
        committed_unix_ms: commit.committed_unix_ms,
        holders: commit.holders,
    };
    if state.head.as_ref() == Some(&head) {
        // The same proposal came twice: it is the head, whoever asks.
        return CommitOutcome::Committed;
    }
    let refusal = if state.appointment.as_ref().map(|current| (current.epoch, current.manager))
        != Some((commit.epoch, commit.author))
        || !state.members.contains_key(&commit.author)
    {
        CommitRefusal::OldEpoch
    } else if commit.parent != state.generation() || Some(commit.generation) != state.next_generation() {
        CommitRefusal::NotOnHead
    } else if !state.is_majority(&head.holders) {
        CommitRefusal::NoMajority
    } else if state.paused.is_some() {
        CommitRefusal::Paused
    } else if lets_through.is_some_and(|known| {
        known.generation != head.generation || state.approval(head.author, &known.list).is_none()
    }) {
        CommitRefusal::NotApproved
    } else {
        if let Some(lets_through) = lets_through {
            let author = head.author;
            state.approvals.retain(|known| known.node != author || known.list != lets_through.list);
            while state.let_through.len() >= LET_THROUGH_MAX {
                state.let_through.pop_front();
            }
            state.let_through.push_back(lets_through);
        }
        state.head = Some(head);
        return CommitOutcome::Committed;
    };
    CommitOutcome::Refused(refusal)
}

fn admit(state: &mut ClusterState, index: u64, newcomer: Member) -> Response {
    known(state, &newcomer).unwrap_or_else(|| {
        let id = FOUNDERS_MAX + index;
        state.lineage.awaited.remove(&newcomer.name);
        state.members.insert(id, newcomer);
        Response::Admitted(id)
    })
}

/// What a newcomer is answered that takes no place of its own; none when it takes one.
fn known(state: &ClusterState, newcomer: &Member) -> Option<Response> {
    let Some((id, member)) = state.members.iter().find(|(_, member)| member.name == newcomer.name) else {
        let full = || format!("the cluster has {MEMBERS_MAX} members, which is the limit");
        return (state.members.len() >= MEMBERS_MAX).then(|| Response::NotAdmitted(full()));
    };
    if member.incarnation == newcomer.incarnation {
        return Some(Response::Admitted(*id));
    }
    Some(Response::NotAdmitted(format!(
        "a node named {:?} at {} is a member already, with another data folder than the one at {}",
        member.name, member.address, newcomer.address
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::cluster::types::Founder;
    use crate::model::{ClusterId, Digest, FirstContent, Order, OrderId, Role, Seed};

    const LEASE: Duration = Duration::from_millis(1200);

    fn record(files: [u64; 3]) -> FormationRecord {
        let founders = (1..=3)
            .map(|id| {
                let member = Member {
                    name: format!("gw{id}"),
                    address: format!("gw{id}:8730"),
                    role: Role::Candidate,
                    incarnation: [u8::try_from(id).unwrap(); 16],
                };
                let files = files[usize::try_from(id).unwrap() - 1];
                let digest = Digest::of(&files.to_le_bytes());
                (id, Founder { member, content: FirstContent { digest, files } })
            })
            .collect::<BTreeMap<_, _>>();
        FormationRecord {
            cluster: ClusterId([1; 16]),
            name: "test".to_owned(),
            writer: 1,
            founders,
            timing: Timing {
                heartbeat: Duration::from_millis(200),
                timeout: Duration::from_millis(600),
                lease: LEASE,
            },
            succeeds: Vec::new(),
        }
    }

    struct Machine {
        state: Option<ClusterState>,
        timing: Option<Timing>,
        index: u64,
    }

    impl Machine {
        fn formed() -> Self {
            let mut machine = Self { state: None, timing: None, index: 1 };
            assert_eq!(machine.apply(Command::Form(record([0, 0, 0]))), Response::Done);
            machine
        }

        fn apply(&mut self, command: Command) -> Response {
            self.index += 1;
            let voters = BTreeSet::from([1, 2, 3]);
            let at = At { term: 5, index: self.index };
            apply(&mut self.state, &mut self.timing, &voters, at, command)
        }

        fn state(&self) -> &ClusterState {
            self.state.as_ref().unwrap()
        }

        fn appoint(&mut self, replaces: u64, manager: NodeId) -> Response {
            self.apply(Command::Appoint { replaces, manager, lease: LEASE, term: 5 })
        }

        fn commit(&mut self, epoch: u64, parent: u64, author: NodeId, holders: &[NodeId]) -> Response {
            self.apply(Command::Commit(Commit {
                epoch,
                parent,
                generation: parent + 1,
                digest: Digest([7; 32]),
                author,
                committed_unix_ms: 5,
                holders: holders.iter().copied().collect(),
            }))
        }
    }

    #[test]
    fn only_the_current_epoch_is_replaced() {
        let mut machine = Machine::formed();
        let Response::Appointed(first) = machine.appoint(0, 2) else { panic!() };
        assert_eq!(first, machine.index);
        assert_eq!(machine.appoint(0, 3), Response::NotCurrent);
        assert_eq!(machine.state().appointment.as_ref().unwrap().manager, 2);
        assert!(matches!(machine.appoint(first, 3), Response::Appointed(_)));
        let epoch = machine.state().epoch();
        assert_eq!(machine.appoint(epoch, 99), Response::NotCurrent);
        let old = Command::Appoint { replaces: epoch, manager: 2, lease: LEASE, term: 4 };
        assert_eq!(machine.apply(old), Response::NotCurrent, "decided in another term");
    }

    #[test]
    fn a_commit_needs_the_epoch_the_head_and_a_majority() {
        let refused = |why| Response::Commit(CommitOutcome::Refused(why));
        let committed = Response::Commit(CommitOutcome::Committed);
        let mut machine = Machine::formed();
        assert_eq!(machine.commit(0, 0, 2, &[1, 2, 3]), refused(CommitRefusal::OldEpoch));
        machine.appoint(0, 2);
        let epoch = machine.state().epoch();
        assert_eq!(machine.commit(epoch, 0, 3, &[1, 2, 3]), refused(CommitRefusal::OldEpoch));
        assert_eq!(machine.commit(epoch, 1, 2, &[1, 2, 3]), refused(CommitRefusal::NotOnHead));
        assert_eq!(machine.commit(epoch, u64::MAX - 1, 2, &[1, 2]), refused(CommitRefusal::NotOnHead));
        assert_eq!(machine.commit(epoch, 0, 2, &[2, 98, 99]), refused(CommitRefusal::NoMajority));
        assert_eq!(machine.state().generation(), 0);
        assert_eq!(machine.commit(epoch, 0, 2, &[2, 3]), committed);
        assert_eq!(machine.state().generation(), 1);
        assert_eq!(machine.commit(epoch, 0, 2, &[2, 3]), committed, "the same again");
        assert_eq!(machine.commit(epoch, 0, 2, &[1, 2]), refused(CommitRefusal::NotOnHead));
        machine.appoint(epoch, 3);
        assert_eq!(machine.commit(epoch, 1, 2, &[1, 2, 3]), refused(CommitRefusal::OldEpoch));
        machine.state.as_mut().unwrap().members.remove(&3);
        let epoch = machine.state().epoch();
        assert_eq!(machine.commit(epoch, 1, 3, &[1, 2]), refused(CommitRefusal::OldEpoch), "no member");
    }

    #[test]
    fn an_approval_lets_one_list_through_once() {
        let mut machine = Machine::formed();
        machine.appoint(0, 2);
        let epoch = machine.state().epoch();
        let list = Digest([1; 32]);
        let approve = |machine: &mut Machine, id: u8, node: &str| {
            let (node, code) = (node.to_owned(), "mass-delete".to_owned());
            let order = Order::Approve { node, list, code, paths: 60 };
            let by = "gw1".to_owned();
            machine.apply(Command::Order { id: OrderId([id; 16]), by, unix_ms: 5, order })
        };
        let offer = |machine: &mut Machine, list| {
            let parent = machine.state().generation();
            let commit = Commit {
                epoch,
                parent,
                generation: parent + 1,
                digest: Digest([9; 32]),
                author: 2,
                committed_unix_ms: 5,
                holders: [1, 2].into(),
            };
            let lets_through = LetThrough { generation: parent + 1, list };
            machine.apply(Command::Approved { commit, lets_through })
        };
        let committed = Response::Commit(CommitOutcome::Committed);
        let refused = Response::Commit(CommitOutcome::Refused(CommitRefusal::NotApproved));
        assert_eq!(offer(&mut machine, list), refused, "nobody agreed");
        assert!(matches!(approve(&mut machine, 1, "nobody"), Response::Order(Err(_))));
        assert!(matches!(approve(&mut machine, 2, "gw3"), Response::Order(Ok(_))));
        assert_eq!(offer(&mut machine, list), refused, "it is another node's list");
        approve(&mut machine, 3, "gw2");
        assert_eq!(offer(&mut machine, Digest([2; 32])), refused, "it is another list");
        assert_eq!(offer(&mut machine, list), committed);
        assert!(machine.state().was_approved(1) && !machine.state().was_approved(2));
        assert_eq!(offer(&mut machine, list), refused, "once");
        approve(&mut machine, 4, "gw2");
        let withdraw = Order::Withdraw { node: "gw2".to_owned(), list };
        let by = "gw1".to_owned();
        machine.apply(Command::Order { id: OrderId([5; 16]), by, unix_ms: 5, order: withdraw });
        assert_eq!(offer(&mut machine, list), refused, "taken back");
    }

    #[test]
    fn a_person_chooses_among_those_that_hold_something() {
        let mut machine = Machine { state: None, timing: None, index: 1 };
        machine.apply(Command::Form(record([7, 8, 0])));
        let seed = |machine: &mut Machine, id: u8, node: &str| {
            let order = Order::Seed { node: node.to_owned() };
            let by = "gw1".to_owned();
            let answer = machine.apply(Command::Order { id: OrderId([id; 16]), by, unix_ms: 5, order });
            matches!(answer, Response::Order(Ok(_)))
        };
        assert!(!seed(&mut machine, 1, "gw3"), "an empty folder never wins");
        assert!(!seed(&mut machine, 2, "gw9"));
        assert!(seed(&mut machine, 3, "gw2"));
        assert_eq!(machine.state().seed, Seed::OneOf([2].into()));
        assert_eq!(machine.state().outvoted.keys().copied().collect::<Vec<_>>(), [1]);
        assert!(!seed(&mut machine, 4, "gw1"), "once");
    }

    #[test]
    fn a_newcomer_gets_one_id_and_keeps_its_name() {
        let mut machine = Machine::formed();
        let newcomer = |incarnation| Command::Admit {
            name: "gw9".to_owned(),
            address: "gw9:8730".to_owned(),
            role: Role::Worker,
            incarnation: [incarnation; 16],
        };
        let Response::Admitted(id) = machine.apply(newcomer(9)) else { panic!() };
        assert_eq!(id, FOUNDERS_MAX + machine.index);
        assert_eq!(machine.apply(newcomer(9)), Response::Admitted(id));
        assert!(matches!(machine.apply(newcomer(8)), Response::NotAdmitted(_)));
        assert_eq!(machine.state().members.len(), 4);
    }

    #[test]
    fn members_are_bounded() {
        let mut machine = Machine::formed();
        let mut admit = |at: usize| {
            machine.apply(Command::Admit {
                name: format!("worker{at}"),
                address: "worker:8730".to_owned(),
                role: Role::Worker,
                incarnation: [9; 16],
            })
        };
        assert!((3..MEMBERS_MAX).all(|at| matches!(admit(at), Response::Admitted(_))));
        assert!(matches!(admit(MEMBERS_MAX), Response::NotAdmitted(_)));
        assert!(matches!(admit(3), Response::Admitted(_)), "who is one stays one");
    }

    #[test]
    fn first_content_decides_the_seed() {
        assert_eq!(record([0, 0, 0]).seed(), Seed::Anyone);
        assert_eq!(record([0, 7, 0]).seed(), Seed::OneOf(BTreeSet::from([2])));
        assert_eq!(record([7, 7, 0]).seed(), Seed::OneOf(BTreeSet::from([1, 2])));
        let Seed::Conflict(full) = record([7, 8, 0]).seed() else { panic!() };
        assert_eq!(full.keys().copied().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn nothing_happens_before_the_cluster_is_formed() {
        let mut machine = Machine { state: None, timing: None, index: 1 };
        assert_eq!(machine.appoint(0, 1), Response::NoCluster);
        assert_eq!(machine.apply(Command::Form(record([0, 0, 0]))), Response::Done);
        let mut other = record([1, 2, 3]);
        other.cluster = ClusterId([2; 16]);
        machine.apply(Command::Form(other));
        assert_eq!(machine.state().cluster, ClusterId([1; 16]), "the first stays");
    }
}
