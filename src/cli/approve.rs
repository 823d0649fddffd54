//! `syncd approve`: shows what is held, asks, and has exactly that let through.

use crate::cli::args::Approve;
use crate::cli::ask::agreed;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::inspect::word;
use crate::cli::output::{Output, plain};
use crate::daemon::approving::{ApproveOrder, ApproveStep, PUBLISHED};
use crate::daemon::control::{InspectOrder, Named};
use crate::daemon::status::StatusReport;
use crate::inspect::{FromNode, IntentRow, ListRow, Question, Told};
use crate::model::OrderOutcome;

/// So many paths of a list are printed; the rest is counted.
const PRINTED_MAX: usize = 1000;

/// One list as a node told it.
struct Shown {
    node: String,
    list: ListRow,
    rows: Vec<IntentRow>,
}

/// Shows and lets through what this node and the manager hold, or chooses the first content.
pub(super) async fn approve(client: &Client, args: &Approve, output: &mut Output) -> Result<Exit, Failure> {
    let (status, _) = client.get::<StatusReport>("/status").await?;
    if let Some(node) = &args.seed {
        return seed(client, &status, node, args.yes, output).await;
    }
    let (mut lists, mut silent) = held(client, None).await?;
    if let Some(manager) = status.manager.clone().filter(|manager| *manager != status.node) {
        let (theirs, why) = held(client, Some(manager)).await?;
        lists.extend(theirs.into_iter().filter(|shown| PUBLISHED.contains(&shown.list.code.as_str())));
        silent = silent.or(why);
    }
    if let Some(why) = silent {
        output.write(&format!("not known: {}\n", plain(&why)))?;
    }
    if let Some(found) = status.problems.iter().find(|found| found.code == "needs-seed") {
        output.write(&format!(
            "needs-seed: {}\n  remedy: {}\n",
            plain(&found.message),
            plain(&found.remedy)
        ))?;
        return Ok(Exit::Degraded);
    }
    if lists.is_empty() {
        output.write("nothing is held that could be approved here\n")?;
        return Ok(Exit::Ok);
    }
    let mut exit = Exit::Ok;
    for shown in lists {
        output.write(&printed(&shown))?;
        if !agreed(output, args.yes, "Let exactly this through, once?")? {
            output.write("Nothing of it was let through.\n")?;
            exit = Exit::Degraded;
            continue;
        }
        let order = ApproveOrder { node: shown.node, list: shown.list.digest };
        let mut done = false;
        let told = client.follow("/approve", &order, |step: ApproveStep| {
            done |= step.done;
            Ok(output.write(&format!("{}\n", plain(&step.said)))?)
        });
        told.await?;
        if !done {
            let why = "the daemon ended before the list was seen let through; remedy: see `syncd status`";
            return Err(Failure::new(Exit::Critical, why));
        }
    }
    Ok(exit)
}

/// The lists of one node (none: of this one), and why they may not be all.
async fn held(client: &Client, node: Option<String>) -> Result<(Vec<Shown>, Option<String>), Failure> {
    let (mut lists, mut unknown): (Vec<Shown>, _) = (Vec::new(), None);
    let order = InspectOrder { question: Question::Held, node, everyone: false };
    let take = |FromNode { node, told }: FromNode| {
        match told {
            Told::List(list) => lists.push(Shown { node, list, rows: Vec::new() }),
            Told::Intent(row) => {
                if let Some(shown) = lists.last_mut() {
                    shown.rows.push(row);
                }
            }
            Told::End(end) => unknown = end.unknown.map(|why| format!("what {node} holds: {why}")),
            _ => {}
        }
        Ok(())
    };
    client.follow("/inspect", &order, take).await?;
    Ok((lists, unknown))
}

fn printed(shown: &Shown) -> String {
    let Shown { node, list, rows } = shown;
    let mut text = format!(
        "{} on {}: {} paths, list {:.12}\n{}:\n",
        plain(&list.code),
        plain(node),
        list.paths,
        plain(&list.digest),
        plain(&list.says)
    );
    for row in rows.iter().take(PRINTED_MAX) {
        text += &format!("  {:<6}  {}  {}\n", word(&row.action), plain(&row.root), plain(&row.path));
    }
    let more = list.paths.saturating_sub(rows.len().min(PRINTED_MAX) as u64);
    if more > 0 {
        text += &format!("  and {more} more; `syncd plan` lists them on that node\n");
    }
    text
}

async fn seed(
    client: &Client,
    status: &StatusReport,
    node: &str,
    yes: bool,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if let Some(found) = status.problems.iter().find(|found| found.code == "needs-seed") {
        output.write(&format!("{}\n", plain(&found.message)))?;
    }
    let question = format!(
        "Make the content of {} the first generation? What only the others have goes to quarantine there.",
        plain(node)
    );
    if !agreed(output, yes, &question)? {
        output.write("Nothing was chosen.\n")?;
        return Ok(Exit::Degraded);
    }
    let outcome: OrderOutcome = client.post("/seed", &Named { name: node.to_owned() }).await?;
    output.write(&format!("{}\n", plain(&outcome.sentence)))?;
    Ok(Exit::Ok)
}
