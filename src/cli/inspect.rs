//! `syncd diff`, `syncd verify` and `syncd plan`: what nodes say of themselves when they are asked.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::cli::args::{Diff, Plan, Verify};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Colour, Output, plain};
use crate::cli::table::{Cell, Table};
use crate::daemon::control::InspectOrder;
use crate::daemon::summary::span;
use crate::inspect::{
    Damage, Difference, End, FromNode, IntentRow, Progress, Question, Side, Standing, Told,
};

/// Digits of a hash that tell two apart for people.
const HASH_SHOWN: usize = 12;

/// What one node said.
#[derive(Debug, Default, Serialize)]
struct Answer {
    #[serde(flatten)]
    end: End,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<Difference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damages: Vec<Damage>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<IntentRow>,
    #[serde(skip)]
    ended: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    nodes: Vec<Named<'a>>,
}

#[derive(Serialize)]
struct Named<'a> {
    node: &'a str,
    #[serde(flatten)]
    answer: &'a Answer,
}

type Answers = BTreeMap<String, Answer>;

/// Prints where a node differs from the head.
pub(super) async fn diff(client: &Client, args: &Diff, output: &mut Output) -> Result<Exit, Failure> {
    let question = if args.excluded { Question::DiffAndExcluded } else { Question::Diff };
    let order = InspectOrder { question, node: args.node.clone(), everyone: args.all };
    let answers = gather(client, &order).await?;
    if args.json {
        print_json(&answers, output)?;
    } else {
        for (node, answer) in &answers {
            output.write(&format!("{}\n", sentence(node, answer)))?;
        }
        print_differences(&answers, output)?;
    }
    Ok(exit(&answers))
}

/// Lets every node read everything, and prints whether all agree.
pub(super) async fn verify(client: &Client, args: &Verify, output: &mut Output) -> Result<Exit, Failure> {
    let order = InspectOrder { question: Question::Verify, node: None, everyone: true };
    let answers = gather(client, &order).await?;
    let exit = exit(&answers);
    if args.json {
        print_json(&answers, output)?;
        return Ok(exit);
    }
    for (node, answer) in &answers {
        output.write(&format!("{}\n", sentence(node, answer)))?;
    }
    print_differences(&answers, output)?;
    for (node, answer) in &answers {
        for damage in &answer.damages {
            output.write(&format!("{}\n", damaged(node, damage)))?;
        }
    }
    let verdict = match exit {
        Exit::Ok => output.style.paint(&format!("all {} nodes agree", answers.len()), Colour::Good),
        Exit::Degraded => output.style.paint("the nodes do not agree, or a store was damaged", Colour::Bad),
        _ => output.style.paint("not verified: not every node is known", Colour::Bad),
    };
    output.write(&format!("{verdict}\n"))?;
    Ok(exit)
}

/// Prints what this node would do next.
pub(super) async fn plan(client: &Client, args: &Plan, output: &mut Output) -> Result<Exit, Failure> {
    let order = InspectOrder { question: Question::Plan, node: None, everyone: false };
    let answers = gather(client, &order).await?;
    if args.json {
        print_json(&answers, output)?;
    } else {
        for (node, answer) in &answers {
            output.write(&planned(node, answer))?;
        }
    }
    let held =
        answers.values().any(|answer| answer.changes.iter().any(|change| change.stands == Standing::Held));
    let unknown = answers.values().any(|answer| answer.end.unknown.is_some());
    Ok(match (unknown, held) {
        (true, _) => Exit::Critical,
        (false, true) => Exit::Degraded,
        (false, false) => Exit::Ok,
    })
}

/// Asks, and takes in everything until the last line; tells of progress where somebody looks on.
async fn gather(client: &Client, order: &InspectOrder) -> Result<Answers, Failure> {
    let mut answers = Answers::new();
    let mut ticker = Ticker::new();
    let followed = client
        .follow("/inspect", order, |line: FromNode| {
            let answer = answers.entry(line.node.clone()).or_default();
            match line.told {
                Told::Progress(progress) => ticker.tell(&line.node, &progress),
                Told::Difference(difference) => answer.differences.push(difference),
                Told::Damage(damage) => answer.damages.push(damage),
                Told::Intent(intent) => answer.changes.push(intent),
                Told::End(end) => (answer.end, answer.ended) = (end, true),
                // Only asked for by `approve`.
                Told::List(_) => {}
            }
            Ok(())
        })
        .await;
    ticker.end();
    followed?;
    for answer in answers.values_mut().filter(|answer| !answer.ended) {
        answer.end.unknown = Some("its answer broke off".to_owned());
    }
    Ok(answers)
}

/// 2 when a node is not known, 1 when one differs, is damaged, or stands at another generation than the others.
fn exit(answers: &Answers) -> Exit {
    if answers.is_empty() || answers.values().any(|answer| answer.end.unknown.is_some()) {
        return Exit::Critical;
    }
    let mut ends = answers.values().map(|answer| &answer.end);
    let first = ends.next().map(|end| (end.generation, &end.digest));
    let agree = ends.all(|end| Some((end.generation, &end.digest)) == first);
    let fine = answers.values().all(|answer| answer.end.different == 0 && answer.end.damaged == 0);
    if agree && fine { Exit::Ok } else { Exit::Degraded }
}

fn print_json(answers: &Answers, output: &mut Output) -> Result<(), Failure> {
    let nodes = answers.iter().map(|(node, answer)| Named { node, answer }).collect();
    let text = serde_json::to_string(&Report { nodes }).expect("plain fields");
    Ok(output.write(&format!("{text}\n"))?)
}

fn sentence(node: &str, answer: &Answer) -> String {
    let end = &answer.end;
    let node = plain(node);
    if let Some(why) = &end.unknown {
        return format!("{node}: not known: {}", plain(why));
    }
    let generation = end.generation.map_or_else(|| "no generation".to_owned(), |n| format!("generation {n}"));
    let digest = end.digest.as_deref().map_or("-", |digest| short(digest));
    let holds = format!("{} files, {} bytes, digest {}", end.files, end.bytes, plain(digest));
    match end.different {
        0 => format!("{node}: equals {generation}: {holds}"),
        1 => format!("{node}: differs from {generation} in 1 place: {holds}"),
        many => format!("{node}: differs from {generation} in {many} places: {holds}"),
    }
}

fn short(hash: &str) -> &str {
    hash.get(..HASH_SHOWN).unwrap_or(hash)
}

fn print_differences(answers: &Answers, output: &mut Output) -> Result<(), Failure> {
    if answers.values().all(|answer| answer.differences.is_empty()) {
        return Ok(());
    }
    let mut table = Table::new(&["NODE", "KIND", "WHY", "ROOT", "PATH", "HERE", "HEAD"]);
    for (node, answer) in answers {
        for difference in &answer.differences {
            let colour = if difference.why.counts() { Colour::Warning } else { Colour::Plain };
            table.row(vec![
                Cell::word(node),
                Cell::word(word(&difference.kind)).coloured(colour),
                Cell::word(word(&difference.why)),
                Cell::word(&difference.root),
                Cell::word(&difference.path),
                Cell::word(side(difference.here.as_ref())),
                Cell::word(side(difference.head.as_ref())),
            ]);
        }
    }
    output.write(&table.render(output.style))?;
    for (node, answer) in answers {
        let counted = answer.differences.iter().filter(|row| row.why.counts()).count() as u64;
        if answer.end.different > counted {
            let more = answer.end.different - counted;
            output.write(&format!("{}: {more} more are not listed\n", plain(node)))?;
        }
    }
    Ok(())
}

/// A word as the JSON has it.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}

fn side(side: Option<&Side>) -> String {
    let Some(side) = side else { return "-".to_owned() };
    let size = side.size.map(|size| format!("{size} bytes"));
    let hash = side.hash.as_deref().map(|hash| short(hash).to_owned());
    let parts = [Some(side.kind.clone()), size, side.mode.clone(), hash, side.mtime.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn damaged(node: &str, damage: &Damage) -> String {
    let (root, path) = (plain(&damage.root), plain(&damage.path));
    let mended = match &damage.replaced_from {
        Some(from) => format!("a whole one was taken from {}", plain(from)),
        None => "no node has a whole one".to_owned(),
    };
    format!(
        "{}: the store's content of {root} {path} was damaged ({}); {mended}\n    remedy: look after the disk of \
         node.data_dir on {}",
        plain(node),
        plain(&damage.what),
        plain(node)
    )
}

fn planned(node: &str, answer: &Answer) -> String {
    let (node, end) = (plain(node), &answer.end);
    if let Some(why) = &end.unknown {
        return format!("{node}: not known: {}\n", plain(why));
    }
    let does = if end.manager { "publishes" } else { "applies" };
    let base = end.generation.map_or_else(|| "nothing".to_owned(), |number| format!("generation {number}"));
    if end.different == 0 {
        return format!("{node} {does} nothing: it has what {base} says\n");
    }
    let mut text = match end.manager {
        true => format!("{node} publishes {} changes on top of {base}\n", end.different),
        false => format!("{node} makes {} changes to come to {base}\n", end.different),
    };
    for (stands, head) in [
        (Standing::Due, "now, in this order:"),
        (Standing::Waiting, "by themselves, a little later:"),
        (Standing::Held, "held until a person does something:"),
    ] {
        let rows: Vec<&IntentRow> = answer.changes.iter().filter(|row| row.stands == stands).collect();
        if rows.is_empty() {
            continue;
        }
        text += &format!("{head}\n");
        for row in rows {
            let why = row.why.as_deref().map_or(String::new(), |why| format!("  ({})", plain(why)));
            let (root, path) = (plain(&row.root), plain(&row.path));
            text += &format!("  {:<6}  {root}  {path}{why}\n", word(&row.action));
        }
    }
    let more = end.different.saturating_sub(answer.changes.len() as u64);
    if more > 0 {
        text += &format!("{more} more are not listed\n");
    }
    text
}

/// Says on a terminal how far each node is, on one line that is written over.
struct Ticker {
    lines: BTreeMap<String, String>,
    terminal: bool,
}

impl Ticker {
    fn new() -> Self {
        Self { lines: BTreeMap::new(), terminal: std::io::stderr().is_terminal() }
    }

    fn tell(&mut self, node: &str, progress: &Progress) {
        if !self.terminal {
            return;
        }
        self.lines.insert(node.to_owned(), progress_text(progress));
        let all: Vec<String> =
            self.lines.iter().map(|(node, text)| format!("{}: {text}", plain(node))).collect();
        // A terminal that went away is noticed when the answer is printed.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", all.join("; "));
    }

    fn end(&self) {
        if !self.lines.is_empty() {
            // As above.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Step, share, rate and the time left at that rate.
fn progress_text(progress: &Progress) -> String {
    let Progress { step, done, total, bytes, bytes_total, seconds } = progress;
    let head = format!("{} {done} of {total}", plain(step));
    if *bytes == 0 || *seconds <= 0.0 {
        return head;
    }
    let rate = *bytes as f64 / seconds;
    let left = bytes_total.saturating_sub(*bytes) as f64 / rate;
    format!("{head}, {:.1} MB/s, {} left", rate / 1e6, span(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(generation: u64, digest: &str, different: u64) -> Answer {
        let (generation, digest) = (Some(generation), Some(digest.to_owned()));
        let end = End { generation, digest, different, files: 3, bytes: 7, ..End::default() };
        Answer { end, ended: true, ..Answer::default() }
    }

    #[test]
    fn only_full_agreement_is_in_order() {
        let check = |answers: Vec<Answer>, expected: Exit| {
            let answers: Answers =
                answers.into_iter().enumerate().map(|(n, answer)| (format!("gw{n}"), answer)).collect();
            assert_eq!(exit(&answers), expected, "{answers:?}");
        };
        check(vec![], Exit::Critical);
        check(vec![answer(4, "a", 0), answer(4, "a", 0)], Exit::Ok);
        check(vec![answer(4, "a", 0), answer(4, "a", 1)], Exit::Degraded);
        check(vec![answer(4, "a", 0), answer(5, "b", 0)], Exit::Degraded);
        let mut rotten = answer(4, "a", 0);
        rotten.end.damaged = 1;
        check(vec![answer(4, "a", 0), rotten], Exit::Degraded);
        let mut silent = answer(4, "a", 0);
        silent.end.unknown = Some("it does not answer".into());
        check(vec![answer(4, "a", 2), silent], Exit::Critical);
    }

    #[test]
    fn progress_says_rate_and_time_left() {
        let progress = Progress {
            step: "files".into(),
            done: 10,
            total: 40,
            bytes: 5_000_000,
            bytes_total: 20_000_000,
            seconds: 0.5,
        };
        assert_eq!(progress_text(&progress), "files 10 of 40, 10.0 MB/s, 1.5 s left");
        assert_eq!(progress_text(&Progress { bytes: 0, ..progress }), "files 10 of 40");
    }

    #[test]
    fn names_command_no_terminal() {
        let text = sentence("gw\x1b[2J", &answer(4, &"ab".repeat(32), 1));
        assert_eq!(
            text,
            "gw [2J: differs from generation 4 in 1 place: 3 files, 7 bytes, digest abababababab"
        );
    }
}
