//! syncd beside rsync and lsyncd: one generated tree, the same changes, the same clock.
//!
//! `cargo bench --bench peers -- FILES TARGETS WORKLOADS WHO`, each a list with commas, such as `1000,10000 1,3,8
//! first-copy,one-edit syncd,rsync`; `all` stands for every workload. Prints Markdown tables. Ratios hold within one run
//! only; judges nothing, and installs nothing: it names the Debian package that is missing.
//!
//! Owns the order of things; what is changed is in `workload`, who carries it in `contestant`, what it costs in `meter`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // it prints for people, and ends when something breaks

mod contestant;
mod host;
mod lsyncd;
mod meter;
mod rsync;
mod syncd;
mod table;
mod workload;

#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use contestant::Contestant;
use meter::{Cost, Meter};
use table::{Row, Tables};
use workload::{Source, Workload};

const FILES: &str = "10000";
const TARGETS: &str = "3";
/// How the names begin of those that take part.
const WHO: &str = "syncd,rsync,lsyncd";
const WORKLOADS: &str = "first-copy,one-edit,edits,rename,deletes,no-change";
/// Between two single edits, so that each meets a system at rest.
const REST: Duration = Duration::from_millis(40);

fn main() {
    if let Some(code) = host::enter_own_network() {
        std::process::exit(code);
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let word = |index: usize, default: &str| words.get(index).map_or(default, String::as_str).to_owned();
    let numbers = |text: String| -> Vec<usize> {
        text.split(',').map(|number| number.parse().expect("a number, or several with commas")).collect()
    };
    let (sizes, targets) = (numbers(word(0, FILES)), numbers(word(1, TARGETS)));
    let workloads = workload::parse(&word(2, WORKLOADS));
    let who = word(3, WHO);
    let takes_part = |name: &str| who.split(',').any(|start| name.starts_with(start));
    let missing = host::missing();
    missing.iter().for_each(|(tool, package)| {
        eprintln!("{tool} is not installed, so it is left out: apt-get install {package}");
    });
    host::describe();
    let mut tables = Tables::default();
    for &files in &sizes {
        let source = Source::generate(files);
        for &targets in &targets {
            for make in contestant::all(&missing).into_iter().filter(|make| takes_part(&make.name())) {
                eprintln!("{files} files, {targets} targets: {}", make.name());
                let mut contestant = make.make(&source, targets);
                for workload in &workloads {
                    let row = run(&mut *contestant, *workload, &source, files, targets);
                    tables.add(*workload, files, row);
                }
                verify(&*contestant);
            }
        }
    }
    tables.print(&workloads, &sizes, &targets);
}

/// One workload by one contestant.
fn run(
    contestant: &mut dyn Contestant,
    workload: Workload,
    source: &Source,
    files: usize,
    targets: usize,
) -> Row {
    let name = contestant.name();
    if workload != Workload::FirstCopy {
        contestant.ensure_started();
    }
    let rounds = workload.rounds(files);
    let cost = match workload {
        Workload::Idle => meter::idle(contestant),
        Workload::NoChange if contestant.watches() => None,
        _ => Some(measure(contestant, workload, source, rounds)),
    };
    // In a pass of its own: a traced process is slow.
    let syncs = (cost.is_some() && workload.counts_syncs() && host::has("strace")).then(|| {
        let again = workload.rounds_traced();
        let count = meter::syncs(contestant, |contestant, tracer| {
            for round in rounds..rounds + again {
                let change = workload.change(source, contestant.source(), round);
                contestant.carry(Some(tracer));
                change.wait(&contestant.targets());
            }
        });
        count.map(|count| count as f64 / again as f64)
    });
    Row { name, targets, cost, syncs: syncs.flatten() }
}

fn measure(contestant: &mut dyn Contestant, workload: Workload, source: &Source, rounds: usize) -> Cost {
    let mut walls = Vec::with_capacity(rounds);
    let mut meter = Meter::start(contestant);
    for round in 0..rounds {
        if rounds > 1 {
            std::thread::sleep(REST);
        }
        let (change, began) = match workload {
            Workload::FirstCopy => {
                let began = contestant.start();
                meter = Meter::start(contestant);
                (source.whole(contestant.source()), began)
            }
            _ => {
                let change = workload.change(source, contestant.source(), round);
                (change, std::time::Instant::now())
            }
        };
        contestant.carry(None);
        change.wait(&contestant.targets());
        walls.push(began.elapsed());
    }
    meter.stop(contestant, walls)
}

/// That every target really is what the source is.
fn verify(contestant: &dyn Contestant) {
    let source = support::snapshot(contestant.source());
    for target in contestant.targets() {
        let deadline = std::time::Instant::now() + workload::LONG;
        while !same(&target, &source) {
            assert!(
                std::time::Instant::now() < deadline,
                "{}: {} is not what the source is",
                contestant.name(),
                target.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn same(target: &Path, source: &std::collections::BTreeMap<std::path::PathBuf, support::Seen>) -> bool {
    support::snapshot(target) == *source
}
