//! One edit in a tree of 10,000 files on three real daemons: how long until it is visible on all, step by step, how
//! many syncs and how many bytes it costs.
//!
//! `cargo bench --bench one_edit`; `-- FILES EDITS` for other sizes; `-- --profile` for where one edit's time goes, step
//! by step, by the daemons' own clocks; `-- --idle` for what the daemons take while nothing happens. Prints medians;
//! judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program that prints for people, and ends when something breaks

mod idle;
mod profile;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{THREE, TestCluster, tree};

const EDITED: &str = "default/api/edited.xml";
const LONG: Duration = Duration::from_secs(120);

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let files = numbers.first().copied().unwrap_or(10_000);
    let edits = numbers.get(1).copied().unwrap_or(100);
    if std::env::args().any(|argument| argument == "--profile") {
        return profile::run(files, edits);
    }
    if std::env::args().any(|argument| argument == "--idle") {
        return idle::run(files);
    }
    println!("one edit in {files} files, three nodes on one host with {} cores, {edits} edits each", cores());
    for (name, extra) in [("settle = 10ms (default)", ""), ("settle = 0ms", "[sync]\nsettle = \"0ms\"\n")] {
        println!("\n{name}");
        measure(files, edits, extra);
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn measure(files: usize, edits: usize, extra: &str) {
    let mut rng = support::rng("one_edit");
    let mut cluster = TestCluster::new(THREE, extra);
    tree::generate(&cluster.nodes[0].root, files, &mut rng);
    cluster.write(0, EDITED, content(0));
    let started = Instant::now();
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    println!("  formation and first copy to two nodes   {:>9.1} ms", ms(started.elapsed()));
    assert_eq!(cluster.wait_manager(LONG), 0);

    let before: Vec<_> = (0..3).map(|node| metrics(&cluster, node)).collect();
    let mut visible = [Vec::new(), Vec::new(), Vec::new()];
    for edit in 1..=edits {
        edit_once(&cluster, edit, &mut visible);
    }
    let after: Vec<_> = (0..3).map(|node| metrics(&cluster, node)).collect();
    for (what, times) in ["visible on the first of the two others", "visible on all"].iter().zip(&mut visible)
    {
        times.sort();
        println!(
            "  {what:<40}{:>9.2} ms median, {:>8.2} ms at the 90th percentile",
            ms(times[times.len() / 2]),
            ms(times[times.len() * 9 / 10])
        );
    }
    let mean = |node: usize, name: &str| {
        let delta = |suffix: &str| {
            let key = match name.split_once('{') {
                Some((base, labels)) => format!("{base}_{suffix}{{{labels}"),
                None => format!("{name}_{suffix}"),
            };
            after[node].get(&key).unwrap_or(&0.0) - before[node].get(&key).unwrap_or(&0.0)
        };
        delta("sum") / delta("count").max(1.0) * 1e6
    };
    for step in ["gather", "read", "stage", "commit"] {
        let name = format!("syncd_publish_step_seconds{{step=\"{step}\"}}");
        println!("  manager: {step:<31}{:>9.0} µs mean", mean(0, &name));
    }
    println!("  manager: seen to committed              {:>9.0} µs mean", mean(0, "syncd_publish_seconds"));
    println!("  worker: moving files                    {:>9.0} µs mean", mean(1, "syncd_apply_seconds"));
    let sent = |all: &BTreeMap<String, f64>| -> f64 {
        all.iter().filter(|(key, _)| key.starts_with("syncd_sent_bytes_total")).map(|(_, value)| value).sum()
    };
    println!(
        "  bytes of content sent per edit and node {:>9.0}",
        (sent(&after[0]) - sent(&before[0])) / edits as f64 / 2.0
    );
    for node in 0..3 {
        let role = if node == 0 { "manager" } else { "worker" };
        match syncs(&cluster, node, edits.min(20)) {
            Some(count) => println!(
                "  syncs per edit on {:<22}{count:>9.1}",
                format!("{} ({role})", cluster.nodes[node].name)
            ),
            None => println!("  syncs per edit: not measured, for strace is not installed or may not attach"),
        }
    }
}

fn content(version: usize) -> String {
    format!(
        "<api name=\"edited\" context=\"/edited\">\n{}  <version>{version}</version>\n</api>",
        "  <resource methods=\"GET\"/>\n".repeat(140)
    )
}

/// Writes once and watches the other nodes' files; how long until the first, and until both have it.
fn edit_once(cluster: &TestCluster, version: usize, visible: &mut [Vec<Duration>; 3]) {
    let text = content(version);
    let start = Instant::now();
    cluster.write(0, EDITED, &text);
    let mut seen = [None, None];
    while seen.iter().any(Option::is_none) {
        for (index, at) in seen.iter_mut().enumerate() {
            if at.is_none()
                && fs::read_to_string(cluster.nodes[index + 1].root.join(EDITED)).is_ok_and(|now| now == text)
            {
                *at = Some(start.elapsed());
            }
        }
        if start.elapsed() > LONG {
            cluster.fail("an edit did not arrive");
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    let seen = seen.map(Option::unwrap);
    visible[0].push(seen[0].min(seen[1]));
    visible[1].push(seen[0].max(seen[1]));
}

/// Counts the sync calls of one daemon over some edits.
fn syncs(cluster: &TestCluster, node: usize, edits: usize) -> Option<f64> {
    let trace = cluster.dir.path().join(format!("strace-{node}"));
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range,msync", "-o"])
        .arg(&trace)
        .args(["-p", &cluster.pid(node).to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // Attached once a sync of an edit shows up in the trace.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut ignored = [Vec::new(), Vec::new(), Vec::new()];
    let mut version = 1_000_000 * (node + 1);
    while fs::read_to_string(&trace).unwrap_or_default().is_empty() {
        if Instant::now() > deadline || strace.try_wait().ok()?.is_some() {
            return None;
        }
        version += 1;
        edit_once(cluster, version, &mut ignored);
    }
    let count = || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        text.lines().filter(|line| line.contains("sync") && !line.contains("resumed")).count()
    };
    let before = count();
    for _ in 0..edits {
        version += 1;
        edit_once(cluster, version, &mut ignored);
    }
    let counted = count() - before;
    // It detaches on this signal and ends; the daemon runs on.
    let ended = Command::new("kill").args(["-INT", &strace.id().to_string()]).status().ok()?;
    if ended.success() {
        strace.wait().ok()?;
    }
    Some(counted as f64 / edits as f64)
}

fn metrics(cluster: &TestCluster, node: usize) -> BTreeMap<String, f64> {
    let text = cluster.get(node, "/metrics").unwrap().body;
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
