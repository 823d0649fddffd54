//! First copy: a generated tree is moved into the manager's root with one rename, and comes to 1, 3 and 8 workers; then
//! one more worker joins and fetches it. Wall time until every worker has all of it and says so, with everything synced.
//!
//! `cargo bench --bench first_copy`; `-- FILES` for another size, `-- FILES WORKERS` for one row. Judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program that prints for people, and ends when something breaks

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{TestCluster, tree};

const LONG: Duration = Duration::from_secs(300);
const EXTRA: &str = "[sync]\nsettle = \"0ms\"\ngather = \"0ms\"\ndelete_grace = \"0ms\"\n";
const NAMES: [&str; 10] = ["gw1", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9"];

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let files = numbers.first().copied().unwrap_or(10_000);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "first copy of {files} files from a manager to workers, all on one host with {cores} cores; settle and gather 0"
    );
    println!(
        "                         wall s  CPU s, manager, worker  peak MB, manager, worker  sent MB per worker"
    );
    let rows = numbers.get(1).map_or(vec![1, 3, 8], |workers| vec![(*workers).min(8)]);
    for workers in &rows {
        measure(files, *workers);
    }
    count_syncs(files);
}

fn measure(files: usize, workers: usize) {
    let mut rng = support::rng("first_copy");
    let nodes: Vec<(&str, &'static str)> = NAMES[..workers + 2]
        .iter()
        .map(|name| (*name, if *name == "gw1" { "candidate" } else { "worker" }))
        .collect();
    let mut cluster = TestCluster::new(&nodes, EXTRA);
    let aside = cluster.dir.path().join("aside");
    tree::generate(&aside, files, &mut rng);
    cluster.write(0, "seed.xml", "<seed/>");
    as_the_unit_file(&mut cluster);
    let all: Vec<usize> = (0..=workers).collect();
    all.iter().for_each(|node| cluster.start(*node));
    cluster.wait_in_sync(&all, LONG);
    cluster.wait_manager(LONG);
    // What the generator wrote is not what is measured.
    assert!(Command::new("sync").status().unwrap().success());

    let cpu = |cluster: &TestCluster, node: usize| cpu_seconds(cluster.pid(node));
    let before: Vec<f64> = all.iter().map(|node| cpu(&cluster, *node)).collect();
    let sent_before = sent(&cluster);
    let started = Instant::now();
    fs::rename(aside.join("default"), cluster.nodes[0].root.join("default")).unwrap();
    let mut waiting = all.clone();
    cluster.wait("the whole tree everywhere", LONG, || {
        waiting.retain(|node| !has(&cluster, *node, files));
        waiting.is_empty()
    });
    let wall = started.elapsed();
    let used: Vec<f64> = all.iter().map(|node| cpu(&cluster, *node) - before[*node]).collect();
    let sent = (sent(&cluster) - sent_before) / workers as f64 / 1e6;
    let worker = used[1..].iter().sum::<f64>() / workers as f64;
    let peak = |cluster: &TestCluster, node: usize| memory(cluster, node, "VmHWM:");
    println!(
        "published to {workers} workers {:>10.2} {:>15.2} {worker:>7.2} {:>17.0} {:>7.0} {:>19.1}",
        wall.as_secs_f64(),
        used[0],
        peak(&cluster, 0),
        (1..=workers).map(|node| peak(&cluster, node)).fold(0.0, f64::max),
        sent
    );
    cluster.wait_equal(&all, LONG);

    let late = workers + 1;
    let before = cpu(&cluster, 0);
    let started = Instant::now();
    cluster.start(late);
    cluster.wait("the newcomer's whole tree", LONG, || has(&cluster, late, files));
    println!(
        "fetched by a newcomer{:>10.2} {:>15.2} {:>7.2} {:>17.0} {:>7.0}",
        started.elapsed().as_secs_f64(),
        cpu(&cluster, 0) - before,
        cpu(&cluster, late),
        peak(&cluster, 0),
        peak(&cluster, late)
    );
    for node in [0, 1] {
        let now = memory(&cluster, node, "VmRSS:");
        println!("  {} at rest: {now:.0} MB", cluster.nodes[node].name);
    }
}

/// Counts the sync calls of a manager and of a worker; the trace slows them, so that nothing else is measured.
fn count_syncs(files: usize) {
    let mut rng = support::rng("first_copy");
    let mut cluster = TestCluster::new(&[("gw1", "candidate"), ("w1", "worker")], EXTRA);
    let aside = cluster.dir.path().join("aside");
    tree::generate(&aside, files, &mut rng);
    cluster.write(0, "seed.xml", "<seed/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1], LONG);
    let traces = [0, 1].map(|node| (cluster.dir.path().join(format!("strace-{node}")), cluster.pid(node)));
    let running: Vec<Child> = traces
        .iter()
        .filter_map(|(out, pid)| {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range,msync", "-o"]);
            command.arg(out).args(["-p", &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().ok()
        })
        .collect();
    let traced = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    };
    if running.len() < 2 {
        println!("syncs: not measured, for strace is not installed");
        return;
    }
    cluster.wait("strace on both", Duration::from_secs(20), || traces.iter().all(|(_, pid)| traced(*pid)));
    fs::rename(aside.join("default"), cluster.nodes[0].root.join("default")).unwrap();
    cluster.wait("the whole tree on both", LONG, || [0, 1].iter().all(|node| has(&cluster, *node, files)));
    let [manager, worker] = traces.map(|(out, _)| {
        let text = fs::read_to_string(out).unwrap_or_default();
        text.lines().filter(|line| line.contains("sync") && !line.contains("resumed")).count()
    });
    println!(
        "syncs with one worker: {manager} on the manager, {worker} on the worker (heartbeats of the log included)"
    );
    drop(cluster);
    for mut strace in running {
        strace.wait().unwrap();
    }
}

/// The settings of the allocator that the unit file makes.
fn as_the_unit_file(cluster: &mut TestCluster) {
    for node in &mut cluster.nodes {
        node.env.insert("MALLOC_ARENA_MAX".to_owned(), "1".to_owned());
        node.env.insert("MALLOC_TRIM_THRESHOLD_".to_owned(), "131072".to_owned());
    }
}

/// Whether the node says that it holds the head, and that is the whole tree and the seed.
fn has(cluster: &TestCluster, node: usize, files: usize) -> bool {
    let Some(status) = cluster.status(node) else { return false };
    let name = &cluster.nodes[node].name;
    support::row(&status, name).is_some_and(|row| {
        row["digest"] == status["digest"]
            && row["roots"][0]["files"].as_u64().is_some_and(|has| has as usize > files)
    })
}

fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // What follows the name, which is in parentheses, begins with the third field.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|field| fields[*field].parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

/// A line of the process's status, in MB.
fn memory(cluster: &TestCluster, node: usize, line: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/status", cluster.pid(node))).unwrap();
    let line = text.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

fn sent(cluster: &TestCluster) -> f64 {
    let text = cluster.get(0, "/metrics").unwrap().body;
    let lines = text.lines().filter(|line| line.starts_with("syncd_sent_bytes_total"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
