//! The whole status in one sentence: whether all is well, else what is not; the first line for people, on a terminal
//! and on the page.
//!
//! A plain function of the report, so that it can't say anything else than the report does. Leaves colours and layout
//! to whoever shows it.

use crate::daemon::status::{Health, StatusReport};
use crate::model::{NodeReport, NodeState, Severity};

/// More nodes than this are counted instead of named.
const NAMED_MAX: usize = 3;

/// The verdict and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// The verdict in a word or three.
    pub verdict: &'static str,
    /// The rest of the sentence.
    pub reason: String,
}

/// Says what `report` amounts to. `now_ms` is the reader's wall clock, for the age of the last commit.
#[must_use]
pub fn sentence(report: &StatusReport, now_ms: i64) -> Sentence {
    let verdict = match report.health {
        Health::Ok => "All is well",
        Health::Degraded => "Degraded",
        Health::Critical => "CRITICAL",
    };
    let mut parts = troubles(report);
    parts.push(serving(report, now_ms));
    // Without a manager the troubles begin with that.
    parts.extend(report.manager.as_ref().map(|name| format!("{name} is manager")));
    Sentence { verdict, reason: parts.join("; ") }
}

/// A state in the middle of a sentence about its node; none for those in which nothing is wrong.
fn trouble_of(node: &NodeReport) -> Option<String> {
    let what = match node.state {
        NodeState::Manager | NodeState::InSync | NodeState::Witness => return None,
        NodeState::Syncing => "is moving its files",
        NodeState::Fetching => "is fetching content",
        NodeState::Behind => "is behind",
        NodeState::Paused => "is paused",
        NodeState::NeedsSeed => "waits for first content (needs-seed)",
        NodeState::NeedsApproval => "waits for approval (needs-approval)",
        NodeState::RootMissing => "misses a root",
        NodeState::Unreachable => return Some(format!("{} is not heard", node.name)),
    };
    let at = match node.generation {
        Some(generation) => format!("at generation {generation}"),
        None => "at no generation".to_owned(),
    };
    let since = match node.lag_seconds {
        Some(seconds) if seconds > 0.0 => format!(" for {}", span(seconds)),
        _ => String::new(),
    };
    Some(format!("{} {what} ({at}{since})", node.name))
}

fn troubles(report: &StatusReport) -> Vec<String> {
    let mut parts = Vec::new();
    if report.manager.is_none() {
        parts.push("there is no manager".to_owned());
    }
    let troubled: Vec<String> = report.nodes.iter().filter_map(trouble_of).collect();
    let more = troubled.len().saturating_sub(NAMED_MAX);
    parts.extend(troubled.into_iter().take(NAMED_MAX));
    if more > 0 {
        parts.push(format!("{more} more nodes are out of step"));
    }
    let counted = |count: fn(&NodeReport) -> Option<u64>, one: &str, many: &str| {
        let with = report.nodes.iter().filter(|node| node.state != NodeState::Unreachable);
        let with: Vec<_> = with
            .filter_map(|node| Some((&node.name, count(node).filter(|count| *count > 0)?)))
            .take(NAMED_MAX)
            .map(|(name, count)| format!("{count} {} on {name}", if count == 1 { one } else { many }))
            .collect();
        (!with.is_empty()).then(|| with.join(", "))
    };
    parts.extend(counted(|node| node.drifted, "file drifts", "files drift"));
    parts.extend(counted(|node| node.held, "change is held", "changes are held"));
    if parts.is_empty() && report.health != Health::Ok {
        let count = report.problems.iter().filter(|problem| problem.severity > Severity::Info).count();
        let problems = if count == 1 { "problem" } else { "problems" };
        parts.push(format!("{count} {problems}, below"));
    }
    parts
}

fn serving(report: &StatusReport, now_ms: i64) -> String {
    let Some(generation) = report.generation else { return "nothing was published yet".to_owned() };
    let gateways = || report.nodes.iter().filter(|node| node.state != NodeState::Witness);
    let serves = |node: &&NodeReport| {
        !matches!(node.state, NodeState::Unreachable | NodeState::RootMissing)
            && node.generation.is_some_and(|own| own >= generation)
    };
    let who = match (gateways().filter(serves).count(), gateways().count()) {
        (1, 1) => "the one gateway serves".to_owned(),
        (have, all) if have == all => format!("all {all} gateways serve"),
        (1, all) => format!("1 of {all} gateways serves"),
        (have, all) => format!("{have} of {all} gateways serve"),
    };
    let committed = report.committed_at.as_deref().map_or(String::new(), |at| {
        let age = at.parse::<jiff::Timestamp>().ok().map(|at| now_ms - at.as_millisecond());
        age.map_or(String::new(), |age| format!(", committed {} ago", span(age as f64 / 1000.0)))
    });
    format!("{who} generation {generation}{committed}")
}

/// A span as people say it: the two largest units at most.
#[must_use]
pub fn span(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    // Cut to whole seconds: nobody reads the rest of a minute's milliseconds.
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::report::unheard;
    use crate::model::Problem;

    fn node(name: &str, state: NodeState, generation: Option<u64>) -> NodeReport {
        NodeReport { state, generation, ..unheard(name.into(), String::new(), "candidate".into()) }
    }

    fn report(health: Health, nodes: Vec<NodeReport>) -> StatusReport {
        StatusReport {
            cluster: "prod".into(),
            mode: "rsync".into(),
            health,
            node: "gw1".into(),
            at: None,
            manager: Some("gw1".into()),
            leader: None,
            voters: None,
            epoch: Some(7),
            generation: Some(42),
            digest: None,
            committed_at: Some("2026-01-31T09:00:00.000Z".into()),
            nodes,
            problems: Vec::new(),
        }
    }

    #[track_caller]
    fn check(report: &StatusReport, expected: &str) {
        let now = "2026-01-31T09:00:03Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let Sentence { verdict, reason } = sentence(report, now);
        assert_eq!(format!("{verdict}: {reason}"), expected);
    }

    #[test]
    fn it_says_what_is_well_and_what_is_not() {
        let (manager, witness) =
            (node("gw1", NodeState::Manager, Some(42)), node("w", NodeState::Witness, None));
        let fine = |name| node(name, NodeState::InSync, Some(42));
        let mut good = report(Health::Ok, vec![manager.clone(), fine("gw2"), fine("gw3"), witness.clone()]);
        check(&good, "All is well: all 3 gateways serve generation 42, committed 3.0 s ago; gw1 is manager");
        good.nodes.truncate(1);
        check(
            &good,
            "All is well: the one gateway serves generation 42, committed 3.0 s ago; gw1 is manager",
        );

        let mut late = node("gw3", NodeState::Behind, Some(41));
        late.lag_seconds = Some(12.4);
        let bad = report(Health::Degraded, vec![manager.clone(), fine("gw2"), late.clone(), witness]);
        check(
            &bad,
            "Degraded: gw3 is behind (at generation 41 for 12 s); 2 of 3 gateways serve generation 42, \
             committed 3.0 s ago; gw1 is manager",
        );
        // What was last heard of a node that is not heard any more is not what it serves.
        let mut alone = report(
            Health::Critical,
            vec![fine("gw1"), node("gw2", NodeState::Unreachable, Some(42)), late.clone()],
        );
        alone.manager = None;
        check(
            &alone,
            "CRITICAL: there is no manager; gw2 is not heard; gw3 is behind (at generation 41 for 12 s); \
             1 of 3 gateways serves generation 42, committed 3.0 s ago",
        );
        let mut drifting = fine("gw2");
        (drifting.drifted, drifting.held) = (Some(1), Some(7));
        let drift = report(Health::Degraded, vec![manager.clone(), drifting]);
        check(
            &drift,
            "Degraded: 1 file drifts on gw2; 7 changes are held on gw2; all 2 gateways serve generation 42, \
             committed 3.0 s ago; gw1 is manager",
        );
        let mut other = report(Health::Degraded, vec![manager, fine("gw2")]);
        other.problems.push(Problem::new(Severity::Warning, "x", "m", "r"));
        (other.generation, other.committed_at) = (None, None);
        check(&other, "Degraded: 1 problem, below; nothing was published yet; gw1 is manager");
        let many = (0..5).map(|n| node(&format!("n{n}"), NodeState::Unreachable, None)).collect();
        let many = sentence(&report(Health::Degraded, many), 0).reason;
        assert!(many.contains("n2 is not heard; 2 more nodes are out of step"), "{many}");
    }

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [
            (-1.0, "0.0 s"),
            (0.25, "0.2 s"),
            (59.9, "59 s"),
            (61.0, "1 min 1 s"),
            (7260.0, "2 h 1 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
