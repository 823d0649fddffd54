//! What three daemons take while nothing happens: processor time and how often they are woken, each on its own.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::support::{THREE, TestCluster, tree};
use crate::{EDITED, LONG, content, edit_once};

/// What follows a first copy, as the first collection, is over by then.
const REST: Duration = Duration::from_secs(20);
/// Two walks over all files and some thousand heartbeats.
const WATCHED: Duration = Duration::from_secs(60);

/// What one process took so far.
#[derive(Default)]
struct Used {
    nanos: u64,
    switches: u64,
    /// By the name of its threads.
    threads: BTreeMap<String, u64>,
}

/// Runs a cluster, lets it rest, and prints a Markdown table.
pub fn run(files: usize) {
    let mut rng = crate::support::rng("one_edit");
    let mut cluster = TestCluster::new(THREE, "");
    tree::generate(&cluster.nodes[0].root, files, &mut rng);
    cluster.write(0, EDITED, content(0));
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    edit_once(&cluster, 1, &mut Default::default());
    std::thread::sleep(REST);
    let leader = leader(&cluster);
    let before: Vec<Used> = (0..3).map(|node| used(cluster.pid(node))).collect();
    std::thread::sleep(WATCHED);
    let after: Vec<Used> = (0..3).map(|node| used(cluster.pid(node))).collect();
    println!("three idle daemons, {files} files each, {} s\n", WATCHED.as_secs());
    println!(
        "| node | % of a core | wake-ups per second | busiest threads, % of a core |\n|---|---:|---:|---|"
    );
    for node in 0..3 {
        let share = |nanos: u64| nanos as f64 / WATCHED.as_nanos() as f64 * 100.0;
        let since = |name: &String| {
            after[node].threads[name] - before[node].threads.get(name).copied().unwrap_or_default()
        };
        let mut threads: Vec<(u64, &String)> =
            after[node].threads.keys().map(|name| (since(name), name)).collect();
        threads.sort_unstable_by(|a, b| b.cmp(a));
        let busiest: Vec<String> =
            threads.iter().take(3).map(|(nanos, name)| format!("{name} {:.2}", share(*nanos))).collect();
        let what = match (node == 0, leader.as_deref() == Some(&cluster.nodes[node].name)) {
            (true, true) => ", manager and leader",
            (true, false) => ", manager",
            (false, true) => ", leader",
            (false, false) => "",
        };
        println!(
            "| {}{what} | {:.2} | {:.0} | {} |",
            cluster.nodes[node].name,
            share(after[node].nanos - before[node].nanos),
            (after[node].switches - before[node].switches) as f64 / WATCHED.as_secs_f64(),
            busiest.join(", ")
        );
    }
}

fn leader(cluster: &TestCluster) -> Option<String> {
    cluster.status(0)?["leader"].as_str().map(ToOwned::to_owned)
}

/// The sum over all threads; one that ended meanwhile is left out.
fn used(pid: u32) -> Used {
    let mut used = Used::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
        // Time on a core, time waiting for one, how often it got one.
        let schedstat = read("schedstat");
        let mut numbers = schedstat.split_whitespace().map(|number| number.parse().unwrap_or(0));
        let (nanos, _, times): (u64, Option<u64>, u64) =
            (numbers.next().unwrap_or(0), numbers.next(), numbers.next().unwrap_or(0));
        used.nanos += nanos;
        used.switches += times;
        *used.threads.entry(read("comm").trim().to_owned()).or_default() += nanos;
    }
    used
}
