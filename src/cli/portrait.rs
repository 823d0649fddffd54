//! The status for people: the verdict in one sentence, one line per node, each problem with its remedy.
//!
//! A plain function of the report and of what the output can show. Leaves asking and repeating to `status`.

use crate::cli::output::{Colour, Style, plain, wrap};
use crate::cli::table::{Cell, Table};
use crate::daemon::status::{Health, StatusReport};
use crate::daemon::summary::{sentence, span};
use crate::model::{NodeReport, NodeState, Problem, Progress, Severity};

/// From so many problems of one code on, they are told together.
const TOGETHER_FROM: usize = 4;
/// How many of those are told each by itself.
const TOLD_MAX: usize = 5;

/// The report for people.
pub(super) fn render(report: &StatusReport, now_ms: i64, style: Style) -> String {
    let told = sentence(report, now_ms);
    let verdict = style.paint(told.verdict, colour_of_health(report.health));
    let first = wrap(&format!("{}: {}", told.verdict, plain(&told.reason)), style.width, "    ");
    // Painted after it was wrapped: colours have no width.
    let mut text = first.replacen(told.verdict, &verdict, 1) + "\n";
    let epoch = report.epoch.map_or(String::new(), |epoch| format!(", epoch {epoch}"));
    let at = report.at.as_deref().map_or(String::new(), |at| format!(" at {}", plain(at)));
    let seen = format!(
        "cluster {}{epoch}, as {} sees it{at}; HEARD says how old each line is",
        plain(&report.cluster),
        plain(&report.node)
    );
    text.push_str(&wrap(&seen, style.width, "    "));
    text.push_str("\n\n");
    text.push_str(&nodes(report, style));
    for node in &report.nodes {
        if let Some(progress) = &node.progress {
            text.push_str(&wrap(&how_far(&node.name, progress), style.width, "    "));
            text.push('\n');
        }
    }
    for group in groups(&report.problems) {
        text.push('\n');
        text.push_str(&told_together(&group, style));
    }
    text
}

fn nodes(report: &StatusReport, style: Style) -> String {
    let heads = [
        "NODE",
        "ROLE",
        "STATE",
        "GENERATION",
        "LAG",
        "FILES",
        "DRIFT",
        "HELD",
        "QUARANTINE",
        "HEARD",
        "ADDRESS",
    ];
    let mut table =
        Table::new(&heads).dispensable(&["ADDRESS", "FILES", "ROLE", "HELD", "QUARANTINE", "LAG"]);
    for node in &report.nodes {
        let heard = match node.last_seen_seconds {
            _ if node.name == report.node => "itself".to_owned(),
            Some(seconds) => format!("{} ago", span(seconds)),
            None => "never".to_owned(),
        };
        let files: u64 = node.roots.iter().map(|root| root.files).sum();
        let some = |count: Option<u64>, colour| match count {
            Some(1..) => colour,
            _ => Colour::Plain,
        };
        table.row(vec![
            Cell::word(&node.name),
            Cell::word(&node.role),
            Cell::word(word_of(node.state)).coloured(colour_of(node.state)),
            Cell::number(node.generation),
            Cell::number(lag(node)),
            Cell::number((!node.roots.is_empty()).then_some(files)),
            Cell::number(node.drifted).coloured(some(node.drifted, Colour::Warning)),
            Cell::number(node.held).coloured(some(node.held, Colour::Warning)),
            Cell::number(node.quarantined),
            Cell::word(heard),
            Cell::word(&node.address),
        ]);
    }
    table.render(style)
}

fn lag(node: &NodeReport) -> Option<String> {
    node.lag_seconds.map(|seconds| if seconds == 0.0 { "0".to_owned() } else { span(seconds) })
}

/// How far a node's long work is, at what rate, and how long the rest takes.
fn how_far(node: &str, progress: &Progress) -> String {
    let total = progress.files_total.map_or(String::new(), |total| format!(" of {total}"));
    let share = match progress.bytes_total {
        Some(total @ 1..) => format!(", {} %", 100 * progress.bytes.min(total) / total),
        _ => String::new(),
    };
    let left = progress.seconds_left.map_or(String::new(), |left| format!(", {} left", span(left)));
    let (node, step, files) = (plain(node), plain(&progress.step), progress.files);
    format!("{node}: {step}, {files}{total} files{share}, {:.0} a second{left}", progress.files_per_second)
}

/// Problems in their order; those of one code and severity stand together where the first of them stood.
fn groups(problems: &[Problem]) -> Vec<Vec<&Problem>> {
    let mut groups: Vec<Vec<&Problem>> = Vec::new();
    for problem in problems {
        let same = |other: &&mut Vec<&Problem>| {
            (other[0].severity, &other[0].code) == (problem.severity, &problem.code)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(problem),
            None => groups.push(vec![problem]),
        }
    }
    groups
        .into_iter()
        .flat_map(|group| match group.len() {
            TOGETHER_FROM.. => vec![group],
            _ => group.into_iter().map(|problem| vec![problem]).collect(),
        })
        .collect()
}

fn told_together(group: &[&Problem], style: Style) -> String {
    let (severity, colour) = match group[0].severity {
        Severity::Info => ("info", Colour::Plain),
        Severity::Warning => ("warning", Colour::Warning),
        Severity::Critical => ("critical", Colour::Bad),
    };
    let code = plain(&group[0].code);
    let mut lines = Vec::new();
    if let [problem] = group {
        let place = place_of(problem);
        let place = if place.is_empty() { place } else { format!(" on {place}") };
        lines.push(wrap(
            &format!("{severity} {code}{place}: {}", plain(&problem.message)),
            style.width,
            "    ",
        ));
    } else {
        lines.push(format!("{severity} {code}, {} of them:", group.len()));
        for problem in group.iter().take(TOLD_MAX) {
            let told = format!("  - {}: {}", place_of(problem), plain(&problem.message));
            lines.push(wrap(&told, style.width, "    "));
        }
        if group.len() > TOLD_MAX {
            let more = group.len() - TOLD_MAX;
            lines.push(format!("  - and {more} more, which `syncd status --json` lists"));
        }
    }
    lines[0] = lines[0].replacen(severity, &style.paint(severity, colour), 1);
    let mut remedies: Vec<&str> = Vec::new();
    for problem in group {
        if !remedies.contains(&problem.remedy.as_str()) && remedies.len() < TOLD_MAX {
            remedies.push(&problem.remedy);
        }
    }
    lines.extend(
        remedies.iter().map(|remedy| wrap(&format!("    remedy: {}", plain(remedy)), style.width, "      ")),
    );
    lines.join("\n") + "\n"
}

fn place_of(problem: &Problem) -> String {
    let place = [&problem.node, &problem.root, &problem.path].into_iter().flatten().map(|part| plain(part));
    place.collect::<Vec<_>>().join(" ")
}

/// A state as the JSON has it.
fn word_of(state: NodeState) -> &'static str {
    match state {
        NodeState::Manager => "manager",
        NodeState::InSync => "in-sync",
        NodeState::Syncing => "syncing",
        NodeState::Fetching => "fetching",
        NodeState::Behind => "behind",
        NodeState::Paused => "paused",
        NodeState::NeedsSeed => "needs-seed",
        NodeState::NeedsApproval => "needs-approval",
        NodeState::RootMissing => "root-missing",
        NodeState::Witness => "witness",
        NodeState::Unreachable => "unreachable",
    }
}

fn colour_of(state: NodeState) -> Colour {
    match state {
        NodeState::Manager | NodeState::InSync | NodeState::Witness => Colour::Good,
        NodeState::Syncing | NodeState::Fetching | NodeState::Paused => Colour::Warning,
        NodeState::Behind
        | NodeState::NeedsSeed
        | NodeState::NeedsApproval
        | NodeState::RootMissing
        | NodeState::Unreachable => Colour::Bad,
    }
}

fn colour_of_health(health: Health) -> Colour {
    match health {
        Health::Ok => Colour::Good,
        Health::Degraded => Colour::Warning,
        Health::Critical => Colour::Bad,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli) fn node(name: &str, state: NodeState, generation: Option<u64>) -> NodeReport {
        NodeReport {
            name: name.into(),
            address: format!("{name}:8730"),
            role: "candidate".into(),
            state,
            generation,
            digest: None,
            lag_seconds: Some(0.0),
            last_seen_seconds: Some(0.1),
            version: None,
            drifted: Some(0),
            quarantined: Some(0),
            held: Some(0),
            pending: None,
            holds: generation,
            instance: None,
            priority: 0,
            faults: Vec::new(),
            progress: None,
            roots: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(in crate::cli) fn report(nodes: Vec<NodeReport>) -> StatusReport {
        StatusReport {
            cluster: "prod".into(),
            mode: "rsync".into(),
            health: Health::Ok,
            node: "gw1".into(),
            at: Some("2026-01-31T09:02:05.000Z".into()),
            manager: Some("gw1".into()),
            leader: Some("gw1".into()),
            voters: None,
            epoch: Some(7),
            generation: Some(42),
            digest: None,
            committed_at: Some("2026-01-31T09:00:00.000Z".into()),
            nodes,
            problems: Vec::new(),
        }
    }

    fn problem(code: &str, path: &str) -> Problem {
        Problem {
            severity: Severity::Warning,
            code: code.into(),
            node: Some("gw1".into()),
            root: Some("r".into()),
            path: Some(path.into()),
            message: "differs".into(),
            remedy: "look".into(),
        }
    }

    #[test]
    fn long_work_is_told_with_its_rate_and_what_is_left() {
        let mut progress = Progress {
            step: "receiving".into(),
            files: 50,
            files_total: None,
            bytes: 250,
            bytes_total: Some(1000),
            seconds: 2.0,
            files_per_second: 25.0,
            seconds_left: Some(6.0),
        };
        let mut copying = node("gw2", NodeState::Fetching, None);
        copying.progress = Some(progress.clone());
        let text = render(&report(vec![copying]), 0, Style::default());
        assert!(text.contains("\ngw2: receiving, 50 files, 25 %, 25 a second, 6.0 s left\n"), "{text}");
        (progress.files_total, progress.bytes_total, progress.seconds_left) = (Some(70), None, None);
        assert_eq!(how_far("gw2", &progress), "gw2: receiving, 50 of 70 files, 25 a second");
    }

    #[test]
    fn the_first_line_says_whether_all_is_well() {
        let good = report(vec![
            node("gw1", NodeState::Manager, Some(42)),
            node("gw2", NodeState::InSync, Some(42)),
            node("w", NodeState::Witness, None),
        ]);
        let now = "2026-01-31T09:02:05Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let text = render(&good, now, Style::default());
        let expected = [
            "All is well: all 2 gateways serve generation 42, committed 2 min 5 s ago; gw1 is manager",
            "cluster prod, epoch 7, as gw1 sees it at 2026-01-31T09:02:05.000Z; HEARD says how old each line is",
            "",
            "NODE  ROLE       STATE    GENERATION  LAG  FILES  DRIFT  HELD  QUARANTINE  HEARD      ADDRESS",
            "gw1   candidate  manager          42    0      -      0     0           0  itself     gw1:8730",
            "gw2   candidate  in-sync          42    0      -      0     0           0  0.1 s ago  gw2:8730",
            "w     candidate  witness           -    0      -      0     0           0  0.1 s ago  w:8730",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_narrow_terminal_gets_what_matters() {
        let mut bad = report(vec![
            node("gw1", NodeState::Manager, Some(42)),
            node("gateway-number-2", NodeState::Behind, Some(41)),
        ]);
        bad.problems.push(Problem { message: "word ".repeat(40), ..problem("drift", "a.xml") });
        for width in [60, 80, 120] {
            let text = render(&bad, 0, Style { width: Some(width), ..Style::default() });
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width, "{longest} of {width}: {text}");
            for part in ["gateway-number-2", "behind", "41", "HEARD", "remedy: look"] {
                assert!(text.contains(part), "{width}, {part}: {text}");
            }
        }
    }

    #[test]
    fn trouble_is_named_with_its_remedy_and_cannot_command_the_terminal() {
        let mut bad =
            report(vec![node("gw1", NodeState::InSync, Some(42)), node("gw2", NodeState::Unreachable, None)]);
        bad.manager = None;
        bad.problems.push(problem("drift", "a\x1b[2J.xml"));
        bad.health = bad.judge();
        let text = render(&bad, 0, Style::default());
        assert!(
            text.starts_with("CRITICAL: there is no manager; gw2 is not heard; 1 of 2 gateways"),
            "{text}"
        );
        assert!(text.ends_with("\nwarning drift on gw1 r a [2J.xml: differs\n    remedy: look\n"), "{text}");
        assert!(!text.contains('\x1b'));
        let coloured = render(&bad, 0, Style { terminal: true, colour: true, width: Some(80), height: None });
        assert!(
            coloured.contains("\x1b[1;31mCRITICAL\x1b[0m: ") && coloured.contains("\x1b[33mwarning\x1b[0m")
        );
    }

    #[test]
    fn many_problems_of_one_kind_are_told_together() {
        let mut bad = report(vec![node("gw1", NodeState::InSync, Some(42))]);
        bad.problems.push(problem("unreadable", "x"));
        bad.problems.extend((0..7).map(|number| problem("drift", &format!("{number}.xml"))));
        bad.problems.push(problem("unreadable", "y"));
        let text = render(&bad, 0, Style::default());
        let problems = text.split_once("\n\n").unwrap().1.split_once("\n\n").unwrap().1;
        let expected = "\
warning unreadable on gw1 r x: differs
    remedy: look

warning unreadable on gw1 r y: differs
    remedy: look

warning drift, 7 of them:
  - gw1 r 0.xml: differs
  - gw1 r 1.xml: differs
  - gw1 r 2.xml: differs
  - gw1 r 3.xml: differs
  - gw1 r 4.xml: differs
  - and 2 more, which `syncd status --json` lists
    remedy: look
";
        assert_eq!(problems, expected);
    }
}
