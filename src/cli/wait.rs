//! `syncd status --wait`: a barrier until every node has a generation.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::args::Status;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::daemon::status::StatusReport;
use crate::daemon::summary::span;
use crate::model::NodeState;

/// How often the status is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits until every node of the status has the generation.
pub(super) async fn wait(client: &Client, args: &Status, output: &mut Output) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let (mut report, mut json) = client.get::<StatusReport>("/status").await?;
    // Before anything was published, the first generation is what there is to wait for.
    let wanted = args.generation.or(report.generation).unwrap_or(1);
    loop {
        let laggards = laggards(&report, wanted);
        if laggards.is_empty() {
            let text = match args.json {
                true => String::from_utf8_lossy(&json).trim_end().to_owned(),
                false => {
                    let waited = span(begun.elapsed().as_secs_f64());
                    format!("generation {wanted} is on all {} nodes, after {waited}", report.nodes.len())
                }
            };
            output.write(&format!("{text}\n"))?;
            return Ok(Exit::Ok);
        }
        if begun.elapsed() >= args.timeout {
            let limit = humantime::format_duration(args.timeout);
            let names = laggards.join(", ");
            let message = format!("after {limit} generation {wanted} is not on all nodes: {names}");
            return Err(Failure::new(Exit::Degraded, message));
        }
        tokio::time::sleep(LOOK_EVERY.min(args.timeout.saturating_sub(begun.elapsed()))).await;
        match client.get::<StatusReport>("/status").await {
            Ok(answer) => (report, json) = answer,
            // A daemon that restarts meanwhile is waited for like everything else.
            Err(error) if begun.elapsed() >= args.timeout => return Err(error.into()),
            Err(_) => {}
        }
    }
}

/// Who does not have the generation yet, and what it has. A witness holds it without applying it.
fn laggards(report: &StatusReport, wanted: u64) -> Vec<String> {
    let lags = |own: Option<u64>| own.is_none_or(|own| own < wanted);
    let own = report.nodes.iter().map(|node| match node.state {
        NodeState::Witness => (node, node.holds),
        _ => (node, node.generation),
    });
    own.filter(|(_, own)| lags(*own))
        .map(|(node, own)| match (node.state, own) {
            (NodeState::Unreachable, _) => format!("{} (unreachable)", node.name),
            (_, Some(own)) => format!("{} (at {own})", node.name),
            (_, None) => format!("{} (at none)", node.name),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::portrait::tests::{node, report};

    #[test]
    fn those_behind_are_named_and_a_witness_only_holds() {
        let mut witness = node("w", NodeState::Witness, None);
        witness.holds = Some(42);
        let report = report(vec![
            node("a", NodeState::Manager, Some(42)),
            node("b", NodeState::Syncing, Some(41)),
            node("c", NodeState::Unreachable, Some(40)),
            node("d", NodeState::Fetching, None),
            witness,
        ]);
        assert_eq!(laggards(&report, 42), ["b (at 41)", "c (unreachable)", "d (at none)"]);
        assert_eq!(laggards(&report, 43).len(), 5);
        assert_eq!(laggards(&report, 40), ["d (at none)"]);
    }
}
