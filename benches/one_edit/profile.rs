//! Where the time of one edit goes: what each daemon logs at level debug under `syncd::step`, put side by side.
//!
//! All daemons run on one host, so that their clocks are one. Times are those of the log's lines, in microseconds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::{THREE, TestCluster, tree};
use crate::{EDITED, LONG, content, edit_once};

/// Who says it, and what; in the order in which it should happen.
const STEPS: [(Who, &str); 18] = [
    (Who::Manager, "gathered"),
    (Who::Manager, "read"),
    (Who::Manager, "own pin durable"),
    (Who::Manager, "encoded"),
    (Who::Worker, "parcel came"),
    (Who::Worker, "parcel decoded"),
    (Who::Worker, "pinned"),
    (Who::Manager, "acknowledged"),
    (Who::Manager, "proposed"),
    (Who::Anyone, "log durable"),
    (Who::Manager, "commit known"),
    (Who::Manager, "outcome known"),
    (Who::Worker, "commit known"),
    (Who::Worker, "adopted"),
    (Who::Worker, "staged file synced"),
    (Who::Worker, "exchanged"),
    (Who::Worker, "folders synced"),
    (Who::Worker, "recorded"),
];
/// Between two edits, so that each meets a system at rest.
const REST: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Manager,
    Worker,
    /// Whichever was first.
    Anyone,
}

/// One line of a log.
struct Said {
    node: usize,
    at_us: i64,
    step: String,
    generation: u64,
    waited_us: Option<i64>,
}

/// Runs a cluster, edits one file time and again, and prints a Markdown table.
pub fn run(files: usize, edits: usize) {
    let mut rng = crate::support::rng("one_edit");
    let mut cluster = TestCluster::new(THREE, "[sync]\nsettle = \"0ms\"\n");
    for node in &mut cluster.nodes {
        node.env.insert("SYNCD_LOG".into(), "warn,syncd::step=debug".into());
    }
    tree::generate(&cluster.nodes[0].root, files, &mut rng);
    cluster.write(0, EDITED, content(0));
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    let mut visible = [Vec::new(), Vec::new(), Vec::new()];
    for edit in 1..=edits {
        edit_once(&cluster, edit, &mut visible);
        std::thread::sleep(REST);
    }
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let said: Vec<Said> = (0..3).flat_map(|node| read(node, &cluster.nodes[node].log)).collect();
    print(files, &said);
}

fn read(node: usize, log: &Path) -> Vec<Said> {
    fs::read_to_string(log).unwrap().lines().filter_map(|line| parse(node, line)).collect()
}

/// `TIME DEBUG step words generation=N waited_us=N`
fn parse(node: usize, line: &str) -> Option<Said> {
    let (time, rest) = line.trim_start().split_once(' ')?;
    let rest = rest.trim_start().strip_prefix("DEBUG ")?;
    let (step, fields) = rest.split_once(" generation=")?;
    let (generation, waited) = match fields.split_once(" waited_us=") {
        Some((generation, waited)) => (generation, Some(waited.trim().parse().ok()?)),
        None => (fields, None),
    };
    let at: jiff::Timestamp = time.parse().ok()?;
    Some(Said {
        node,
        at_us: at.as_microsecond(),
        step: step.trim().to_owned(),
        generation: generation.trim().parse().ok()?,
        waited_us: waited,
    })
}

/// The medians over all edits but the first, of the time since the event and since the step before.
fn print(files: usize, said: &[Said]) {
    let mut starts: BTreeMap<u64, i64> = BTreeMap::new();
    for line in said.iter().filter(|line| line.node == 0 && line.generation > 1) {
        if let (true, Some(waited)) = (line.step == "gathered", line.waited_us) {
            starts.entry(line.generation).or_insert(line.at_us - waited);
        }
    }
    println!("one edit in {files} files, settle = \"0ms\", {} edits: medians in µs\n", starts.len());
    println!("| step | on | since the event was seen | since the line above |\n|---|---|---:|---:|");
    let mut before = 0;
    for (who, step) in STEPS {
        let mut times: Vec<i64> = starts
            .iter()
            .filter_map(|(generation, start)| when(said, who, step, *generation, *start))
            .collect();
        times.sort_unstable();
        let Some(median) = times.get(times.len() / 2) else {
            println!("| {step} | {} | never logged | |", name(who));
            continue;
        };
        println!("| {step} | {} | {median} | {} |", name(who), median - before);
        before = *median;
    }
}

fn name(who: Who) -> &'static str {
    match who {
        Who::Manager => "manager",
        Who::Worker => "the later worker",
        Who::Anyone => "the first voter",
    }
}

/// How long after the event a step of one generation was done.
fn when(said: &[Said], who: Who, step: &str, generation: u64, start: i64) -> Option<i64> {
    let is_it = |line: &&Said| {
        let is_there = match who {
            Who::Manager => line.node == 0,
            Who::Worker => line.node != 0,
            Who::Anyone => true,
        };
        is_there && line.step == step && (line.generation == generation || line.generation == 0)
    };
    // An entry's line names no generation: the first after the proposal is its own.
    let from = match who {
        Who::Anyone => start + when(said, Who::Manager, "proposed", generation, start)?,
        _ => start,
    };
    let mut firsts: BTreeMap<usize, i64> = BTreeMap::new();
    for line in said.iter().filter(is_it).filter(|line| line.at_us >= from) {
        let at = firsts.entry(line.node).or_insert(line.at_us);
        *at = (*at).min(line.at_us);
    }
    let at = match who {
        Who::Worker => firsts.values().max(),
        _ => firsts.values().min(),
    };
    at.map(|at| at - start)
}
