//! `syncd status`: the cluster in words, in JSON, again and again, or as a barrier.

use std::time::Duration;

use crate::cli::args::Status;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Colour, Output, Style, plain};
use crate::cli::table::{Cell, Table};
use crate::cli::wait;
use crate::daemon::status::{Health, StatusReport};
use crate::model::{NodeReport, NodeState, Problem, Severity, unix_ms};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Does what the arguments say.
pub(super) async fn status(client: &Client, args: &Status, output: &mut Output) -> Result<Exit, Failure> {
    if args.watch {
        return watch(client, output).await;
    }
    if args.wait {
        return wait::wait(client, args, output).await;
    }
    let (report, json) = client.get::<StatusReport>("/status").await?;
    if args.json {
        output.write(&format!("{}\n", String::from_utf8_lossy(&json).trim_end()))?;
    } else {
        output.write(&render(&report, unix_ms(), output.style))?;
    }
    Ok(report.health.into())
}

/// Prints until interrupted; then exits with the last health.
async fn watch(client: &Client, output: &mut Output) -> Result<Exit, Failure> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let (text, exit) = match client.get::<StatusReport>("/status").await {
            Ok((report, _)) => (render(&report, unix_ms(), output.style), report.health.into()),
            Err(error) => (format!("{error}\n"), Exit::NoDaemon),
        };
        let clear = if output.style.terminal { "\x1b[H\x1b[2J" } else { "" };
        let gap = if output.style.terminal { "" } else { "\n" };
        output.write(&format!("{clear}{text}{gap}"))?;
        tokio::select! {
            _ = &mut interrupted => return Ok(exit),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

/// The report for people: the verdict, the nodes, the problems.
pub(super) fn render(report: &StatusReport, now_ms: i64, style: Style) -> String {
    let mut text = format!("{}: {}\n", plain(&report.cluster), verdict(report, now_ms, style));
    text.push_str(&format!("as {} sees it now; HEARD says how old each line is\n\n", plain(&report.node)));
    text.push_str(&nodes(report, style));
    for problem in &report.problems {
        text.push('\n');
        text.push_str(&render_problem(problem, style));
    }
    text
}

fn verdict(report: &StatusReport, now_ms: i64, style: Style) -> String {
    let mut reasons = Vec::new();
    if report.manager.is_none() {
        reasons.push("there is no manager".to_owned());
    }
    let troubled = report.nodes.iter().filter(|node| colour_of(node.state) != Colour::Good);
    reasons.extend(troubled.map(|node| format!("{} is {}", plain(&node.name), word_of(node.state))));
    match report.problems.iter().filter(|problem| problem.severity > Severity::Info).count() {
        0 => {}
        1 => reasons.push("1 problem".to_owned()),
        count => reasons.push(format!("{count} problems")),
    }
    let reasons = if reasons.is_empty() { "see the lines below".to_owned() } else { reasons.join(", ") };
    let word = match report.health {
        Health::Ok => style.paint("all is well", Colour::Good),
        Health::Degraded => format!("{}: {reasons}", style.paint("degraded", Colour::Warning)),
        Health::Critical => format!("{}: {reasons}", style.paint("CRITICAL", Colour::Bad)),
    };
    format!("{word}; {}", head(report, now_ms))
}

fn head(report: &StatusReport, now_ms: i64) -> String {
    let Some(generation) = report.generation else { return "nothing was published yet".to_owned() };
    let gateways = || report.nodes.iter().filter(|node| node.state != NodeState::Witness);
    let have = gateways().filter(|node| node.generation.is_some_and(|own| own >= generation)).count();
    let manager =
        report.manager.as_deref().map_or("no manager".to_owned(), |name| format!("manager {}", plain(name)));
    let epoch = report.epoch.map_or(String::new(), |epoch| format!(", epoch {epoch}"));
    let committed = report.committed_at.as_deref().map_or(String::new(), |at| {
        let age = at.parse::<jiff::Timestamp>().ok().map(|at| now_ms - at.as_millisecond());
        age.map_or(String::new(), |age| format!(", committed {} ago", ago(age as f64 / 1000.0)))
    });
    format!(
        "generation {generation} is on {have} of {} nodes{committed}; {manager}{epoch}",
        gateways().count()
    )
}

fn nodes(report: &StatusReport, style: Style) -> String {
    let mut table = Table::new(&[
        "NODE",
        "ROLE",
        "STATE",
        "GENERATION",
        "LAG",
        "FILES",
        "QUARANTINED",
        "HEARD",
        "ADDRESS",
    ]);
    for node in &report.nodes {
        let heard = match node.last_seen_seconds {
            _ if node.name == report.node => "itself".to_owned(),
            Some(seconds) => format!("{} ago", ago(seconds)),
            None => "never".to_owned(),
        };
        let files: u64 = node.roots.iter().map(|root| root.files).sum();
        table.row(vec![
            Cell::word(&node.name),
            Cell::word(&node.role),
            Cell::word(word_of(node.state)).coloured(colour_of(node.state)),
            Cell::number(node.generation),
            Cell::number(lag(node)),
            Cell::number((!node.roots.is_empty()).then_some(files)),
            Cell::number(node.quarantined),
            Cell::word(heard),
            Cell::word(&node.address),
        ]);
    }
    table.render(style)
}

fn lag(node: &NodeReport) -> Option<String> {
    node.lag_seconds.map(|seconds| if seconds == 0.0 { "0".to_owned() } else { ago(seconds) })
}

fn render_problem(problem: &Problem, style: Style) -> String {
    let severity = match problem.severity {
        Severity::Info => "info".to_owned(),
        Severity::Warning => style.paint("warning", Colour::Warning),
        Severity::Critical => style.paint("critical", Colour::Bad),
    };
    let place = [&problem.node, &problem.root, &problem.path].into_iter().flatten().map(|part| plain(part));
    let place = place.collect::<Vec<_>>().join(" ");
    let place = if place.is_empty() { place } else { format!(" on {place}") };
    let (code, message, remedy) = (plain(&problem.code), plain(&problem.message), plain(&problem.remedy));
    format!("{severity} {code}{place}: {message}\n    remedy: {remedy}\n")
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

/// A span as people say it: the two largest units at most.
pub(super) fn ago(seconds: f64) -> String {
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
            priority: 0,
            faults: Vec::new(),
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
            manager: Some("gw1".into()),
            leader: Some("gw1".into()),
            epoch: Some(7),
            generation: Some(42),
            digest: None,
            committed_at: Some("2026-01-31T09:00:00.000Z".into()),
            nodes,
            problems: Vec::new(),
        }
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
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some(
                "prod: all is well; generation 42 is on 2 of 2 nodes, committed 2 min 5 s ago; manager gw1, epoch 7"
            )
        );
        assert_eq!(
            lines.nth(2),
            Some("NODE  ROLE       STATE    GENERATION  LAG  FILES  QUARANTINED  HEARD      ADDRESS")
        );
        assert_eq!(
            lines.next(),
            Some("gw1   candidate  manager          42    0      -            0  itself     gw1:8730")
        );
        assert_eq!(
            lines.nth(1),
            Some("w     candidate  witness           -    0      -            0  0.1 s ago  w:8730")
        );
    }

    #[test]
    fn trouble_is_named_with_its_remedy_and_cannot_command_the_terminal() {
        let mut bad =
            report(vec![node("gw1", NodeState::InSync, Some(42)), node("gw2", NodeState::Unreachable, None)]);
        bad.manager = None;
        bad.problems.push(Problem {
            severity: Severity::Warning,
            code: "drift".into(),
            node: Some("gw1".into()),
            root: Some("r".into()),
            path: Some("a\x1b[2J.xml".into()),
            message: "differs".into(),
            remedy: "look".into(),
        });
        bad.health = bad.judge();
        let text = render(&bad, 0, Style::default());
        assert!(
            text.starts_with("prod: CRITICAL: there is no manager, gw2 is unreachable, 1 problem; generation 42 is on 1 of 2"),
            "{text}"
        );
        assert!(text.ends_with("\nwarning drift on gw1 r a [2J.xml: differs\n    remedy: look\n"), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(
            render(&bad, 0, Style { terminal: true, colour: true }).contains("\x1b[1;31mCRITICAL\x1b[0m")
        );
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
            assert_eq!(ago(seconds), text);
        }
    }
}
