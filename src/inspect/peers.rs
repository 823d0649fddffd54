//! A question to another node, and its answer line by line.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;

use crate::inspect::diff::ROWS_MAX;
use crate::inspect::told::{End, FromNode, Question, Told};
use crate::model::{Member, NodeId};
use crate::rpc::{Peers, within};
use crate::wire::proto::{InspectLine, InspectRequest};

/// Until a peer begins to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest silence: the largest file is read in one piece.
const SILENCE: Duration = Duration::from_secs(120);
/// One line: two sides of one place, with room for the longest path, escaped.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Lines of one answer: rows, damages and progress.
const LINES_MAX: usize = 10 * ROWS_MAX + 1_000_000;

/// The number that stands for a question on the wire.
fn number(question: Question) -> u32 {
    match question {
        Question::Diff => 1,
        Question::DiffAndExcluded => 2,
        Question::Verify => 3,
        Question::Plan => 4,
        Question::Held => 5,
    }
}

/// The question of a request; none when this version does not know it.
pub(super) fn question(request: &InspectRequest) -> Option<Question> {
    let all = [Question::Diff, Question::DiffAndExcluded, Question::Verify, Question::Plan, Question::Held];
    all.into_iter().find(|question| number(*question) == request.question)
}

/// One line for the wire.
pub(super) fn line(told: &Told) -> InspectLine {
    let line = serde_json::to_vec(told).expect("plain fields");
    InspectLine { line: line.into() }
}

/// Asks a member and hands on what it says; ends with an [`End`] in any case.
pub(super) async fn ask(
    peers: &Peers,
    id: NodeId,
    member: &Member,
    question: Question,
    told: &mpsc::Sender<FromNode>,
) {
    let from = |line| FromNode { node: member.name.clone(), told: line };
    if let Err(why) = forward(peers, id, member, question, told).await {
        // Whoever asked may have gone away.
        let _ = told.send(from(Told::End(End::unknown(why)))).await;
    }
}

async fn forward(
    peers: &Peers,
    id: NodeId,
    member: &Member,
    question: Question,
    told: &mpsc::Sender<FromNode>,
) -> Result<(), String> {
    let mut peer = peers.inspection(id, &member.address).map_err(|error| error.to_string())?;
    let asked = peer.inspect(InspectRequest { question: number(question) });
    let mut lines = within(ANSWER, asked)
        .await
        .map_err(|status| format!("it does not answer at {}: {}", member.address, status.message()))?;
    for _ in 0..LINES_MAX {
        let line = match tokio::time::timeout(SILENCE, lines.next()).await {
            Ok(Some(Ok(line))) => line.line,
            Ok(Some(Err(status))) => return Err(format!("its answer broke off: {}", status.message())),
            Ok(None) => return Err("its answer broke off".to_owned()),
            Err(_) => return Err(format!("it fell silent for {} s", SILENCE.as_secs())),
        };
        if line.len() > LINE_BYTES_MAX {
            return Err(format!("it sent a line of {} bytes", line.len()));
        }
        let line: Told =
            serde_json::from_slice(&line).map_err(|error| format!("its answer is not readable: {error}"))?;
        let ends = matches!(line, Told::End(_));
        if told.send(FromNode { node: member.name.clone(), told: line }).await.is_err() || ends {
            return Ok(());
        }
    }
    Err("its answer has no end".to_owned())
}
