//! Letting through what is held: the list that a person saw goes into the log as approved, and the node that holds it lets
//! exactly that list through. Told step by step to whoever ordered it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::daemon::control::{ControlError, Line};
use crate::daemon::view::View;
use crate::inspect::{ListRow, Question, Told};
use crate::model::{Coordinator, Digest, LetThrough, NodeState, Order};

/// How long a list may take to be let through.
const DONE_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether it was.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The list that a person agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveOrder {
    /// The node that holds it.
    pub node: String,
    /// Its digest, 64 hexadecimal digits.
    pub list: String,
}

/// What there is to say while it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveStep {
    /// In a sentence.
    pub said: String,
    /// Whether it was let through: the last step.
    pub done: bool,
    /// The generation that did so; null when none was needed.
    pub generation: Option<u64>,
}

/// Orders it, and tells until it is let through. What is ordered stays ordered when nobody listens any more.
pub async fn approve(view: Arc<View>, order: ApproveOrder, steps: mpsc::Sender<Line<ApproveStep>>) {
    if let Err(error) = run(&view, order, &steps).await {
        // Whoever left does not want to know.
        let _ = steps.send(Err(error)).await;
    }
}

fn changed() -> ControlError {
    ControlError::refused(
        "the list is not what it was when it was shown, so nothing of it was let through",
        "run `syncd approve` again: it shows the list as it is now",
    )
}

async fn run(
    view: &View,
    order: ApproveOrder,
    steps: &mpsc::Sender<Line<ApproveStep>>,
) -> Result<(), ControlError> {
    let ApproveOrder { node, list } = order;
    let digest: Digest = list
        .parse()
        .map_err(|_| ControlError::refused("that is no digest of a list", "run `syncd approve`"))?;
    let lists = held_on(view, &node).await?;
    let shown = lists.into_iter().find(|known| known.digest == list).ok_or_else(changed)?;
    let (code, paths) = (shown.code.clone(), shown.paths);
    let approval = Order::Approve { node: node.clone(), list: digest, code, paths };
    // The same list may have been let through before: what it had came back and went again.
    let before = view.state.borrow().as_ref().map_or(0, |state| state.generation());
    let sentence = view.cluster.order(approval).await?.sentence;
    // Whoever left does not want to know; the order stands.
    let _ = steps.send(Ok(ApproveStep { said: sentence, done: false, generation: None })).await;
    let deadline = Instant::now() + DONE_WITHIN;
    let through = async |generation: u64| {
        let said = format!("generation {generation} lets them through");
        let _ = steps.send(Ok(ApproveStep { said, done: true, generation: Some(generation) })).await;
    };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let lists = held_on(view, &node).await;
        if let Some(generation) = let_through(view, &digest, before) {
            through(generation).await;
            return Ok(());
        }
        let is_source = PUBLISHED.contains(&shown.code.as_str());
        let is_gone = lists.as_ref().is_ok_and(|lists| !lists.iter().any(|known| known.digest == list));
        let is_like_it = lists.is_ok_and(|lists| lists.iter().any(|known| known.code == shown.code));
        if is_gone && !is_source && !is_like_it && !waits(view, &node) {
            let said = format!("{node} goes on with it");
            let _ = steps.send(Ok(ApproveStep { said, done: true, generation: None })).await;
            return Ok(());
        }
        let is_late = Instant::now() >= deadline;
        if is_late || (is_gone && (is_source || is_like_it)) {
            // It was let through, and this node's own log is not there yet; or it changed, or something keeps it.
            // Withdrawn, it can't be let through any more, so that what the log says then is the last word.
            view.cluster.order(Order::Withdraw { node: node.clone(), list: digest }).await?;
            let confirmed = view.cluster.confirm().await.is_some();
            if let Some(generation) = let_through(view, &digest, before) {
                through(generation).await;
                return Ok(());
            }
            match (confirmed, is_late) {
                (true, false) => return Err(changed()),
                (true, true) if is_source => {
                    return Err(ControlError::critical(
                        format!(
                            "{node} did not let it through within {DONE_WITHIN:?}, and the approval is taken back"
                        ),
                        "see `syncd status` for what keeps it, then run `syncd approve` again",
                    ));
                }
                (_, true) => {
                    return Err(ControlError::critical(
                        format!("{node} was not seen to go on within {DONE_WITHIN:?}; it may have done so"),
                        "see `syncd status` for what keeps it",
                    ));
                }
                (false, false) => {}
            }
        }
    }
}

/// Whether a node still waits for a person, by its own row.
fn waits(view: &View, node: &str) -> bool {
    let status = view.status();
    let row = status.nodes.iter().find(|row| row.name == node);
    row.is_none_or(|row| matches!(row.state, NodeState::NeedsApproval | NodeState::RootMissing))
}

/// Codes of lists that the manager lets through by publishing them.
pub const PUBLISHED: [&str; 3] = ["mass-delete", "held-changes", "rules-held"];

/// The generation after `before` that let the list through, by this node's own log.
fn let_through(view: &View, list: &Digest, before: u64) -> Option<u64> {
    let state = view.state.borrow().clone();
    let is_it = |known: &&LetThrough| known.list == *list && known.generation > before;
    state?.let_through.iter().find(is_it).map(|known| known.generation)
}

/// What a node holds, by its own word.
async fn held_on(view: &View, node: &str) -> Result<Vec<ListRow>, ControlError> {
    let mut answer = view.inspector.ask(Question::Held, Some(node));
    let mut lists = Vec::new();
    while let Some(line) = answer.recv().await {
        match line.told {
            Told::List(list) => lists.push(list),
            Told::End(end) => {
                return match end.unknown {
                    None => Ok(lists),
                    Some(why) => Err(ControlError::refused(
                        format!("{node} does not say what it holds: {why}"),
                        "see `syncd status`, and try again",
                    )),
                };
            }
            _ => {}
        }
    }
    Err(ControlError::refused(
        format!("{node} does not say what it holds"),
        "see `syncd status`, and try again",
    ))
}
