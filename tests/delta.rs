//! What a change costs on the wire, by the daemons' own metric; and nodes that are slow, hung or far behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use support::{TestCluster, row};

const LONG: Duration = Duration::from_secs(60);
const NAME: &str = "syncd_sent_bytes_total";
const NODES: &[(&str, &str)] =
    &[("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate"), ("gw4", "worker")];

/// What stands in a node's metrics below `name`, all labels that contain `label` together.
fn metric(cluster: &TestCluster, node: usize, name: &str, label: &str) -> u64 {
    let text = cluster.get(node, "/metrics").unwrap().body;
    let values = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
        .filter(|line| line.contains(label))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    values.sum::<f64>() as u64
}

fn text(rng: &mut StdRng, length: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(length + 80);
    while text.len() < length {
        let line = format!(
            "  <property name=\"p{:x}\" value=\"{:x}\"/>\n",
            rng.random::<u16>(),
            rng.random::<u64>()
        );
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(length);
    text
}

fn with_a_line(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let at = bytes.len() / 2;
    let line = format!("  <property name=\"edited\" value=\"{:x}\"/>\n", rng.random::<u32>());
    [&bytes[..at], line.as_bytes(), &bytes[at..]].concat()
}

/// Bytes sent to gw2 for what `change` does, once all nodes have it.
fn cost(cluster: &TestCluster, nodes: &[usize], what: &str, change: impl FnOnce()) -> u64 {
    let before = metric(cluster, 0, NAME, "peer=\"gw2\"");
    let generation = cluster.wait_in_sync(nodes, LONG);
    change();
    cluster.wait("the change on every node", LONG, || cluster.wait_in_sync(nodes, LONG) > generation);
    cluster.wait_equal(nodes, LONG);
    let cost = metric(cluster, 0, NAME, "peer=\"gw2\"") - before;
    eprintln!("{what}: {cost} bytes to each node");
    cost
}

/// The aims in bytes per target: 0.5 KB, 1 KB, 1 KB and 60 KB.
#[test]
fn a_change_costs_what_it_is_worth() {
    let mut rng = support::rng("a_change_costs_what_it_is_worth");
    let mut cluster = TestCluster::new(
        support::THREE,
        "[sync]\ngather = \"300ms\"\ndelete_grace = \"100ms\"\nmax_delete = 1000\n",
    );
    let (small, large) = (text(&mut rng, 4 << 10), text(&mut rng, 5 << 20));
    cluster.write(0, "default/api/small.xml", &small);
    cluster.write(0, "default/local-entries/large.xml", &large);
    let many: Vec<(String, Vec<u8>)> = (0..1000)
        .map(|n| {
            let length = rng.random_range(500..3000);
            (format!("default/f{}/artifact-{:x}.xml", n % 5, rng.random::<u32>()), text(&mut rng, length))
        })
        .collect();
    many.iter().for_each(|(path, bytes)| cluster.write(0, path, bytes));
    cluster.start_all();
    let all = [0, 1, 2];
    cluster.wait_in_sync(&all, LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);

    let small_line = cost(&cluster, &all, "a line in 4 KB", || {
        cluster.write(0, "default/api/small.xml", with_a_line(&small, &mut rng));
    });
    assert!(small_line < 512, "{small_line}");
    let large_line = cost(&cluster, &all, "a line in 5 MB", || {
        cluster.write(0, "default/local-entries/large.xml", with_a_line(&large, &mut rng));
    });
    assert!(large_line < 1024, "{large_line}");
    cluster.wait("two nodes to have been spared 5 MB each", LONG, || {
        metric(&cluster, 0, "syncd_delta_saved_bytes_total", "") > 2 * (5 << 20)
    });
    let root = cluster.nodes[0].root.clone();
    let renamed = cost(&cluster, &all, "a folder of 200 files renamed", || {
        fs::rename(root.join("default/f0"), root.join("default/renamed")).unwrap();
    });
    assert!(renamed < 1024, "{renamed}");
    let copied = cost(&cluster, &all, "a file of 5 MB copied", || {
        let from = root.join("default/local-entries/large.xml");
        fs::copy(from, root.join("default/local-entries/copy.xml")).unwrap();
    });
    assert!(copied < 512, "{copied}");
    // In however many generations they go out.
    let before = metric(&cluster, 0, NAME, "peer=\"gw2\"");
    for (path, bytes) in many.iter().filter(|(path, _)| !path.contains("/f0/")) {
        cluster.write(0, path, with_a_line(bytes, &mut rng));
    }
    cluster.wait("all edits on every node", LONG, || {
        let last = &many.iter().rfind(|(path, _)| !path.contains("/f0/")).unwrap().0;
        cluster.read(1, last) == cluster.read(0, last)
    });
    cluster.wait_equal(&all, LONG);
    let edits = metric(&cluster, 0, NAME, "peer=\"gw2\"") - before;
    eprintln!("800 one-line edits: {edits} bytes to each node");
    assert!(edits < 48_000, "{edits}");
    for kind in ["full", "zstd"] {
        assert!(metric(&cluster, 0, NAME, &format!("kind=\"{kind}\"")) > 0, "nothing was sent as {kind}");
    }
}

/// One node reads nothing, and none of the others waits for it; when it wakes it goes to the newest generation.
#[test]
fn a_hung_worker_delays_no_other() {
    let mut rng = support::rng("a_hung_worker_delays_no_other");
    let mut cluster = TestCluster::new(NODES, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2, 3], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    cluster.signal(3, "STOP");
    let before = cluster.wait_in_sync(&[0, 1, 2], LONG);
    for _ in 0..30 {
        let content = text(&mut rng, 300_000);
        cluster.write(0, "default/api/a.xml", &content);
        for node in [1, 2] {
            cluster.wait_content(node, "default/api/a.xml", &content, LONG);
        }
    }
    let head = cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert!(head >= before + 30, "{head} after {before}");
    cluster.signal(3, "CONT");
    assert_eq!(cluster.wait_in_sync(&[0, 1, 2, 3], LONG), head);
    cluster.wait_equal(&[0, 3], LONG);
    let status = cluster.status(0).unwrap();
    assert_eq!(row(&status, "gw4").unwrap()["generation"].as_u64(), Some(head));
}

/// The cap holds for content: a parcel takes as long as it must, no lease and no leader changes, all arrive.
#[test]
fn a_capped_upload_is_slow_and_nothing_else() {
    let mut rng = support::rng("a_capped_upload_is_slow_and_nothing_else");
    let mut cluster =
        TestCluster::new(support::THREE, &format!("[sync]\nbandwidth = \"400KiB\"\n{}", support::STEADY));
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    let epoch = cluster.status(0).unwrap()["epoch"].as_u64();
    let noise: Vec<u8> = (0..1 << 20).map(|_| rng.random()).collect();
    let began = std::time::Instant::now();
    cluster.write(0, "default/api/noise.car", &noise);
    for node in [1, 2] {
        cluster.wait_content(node, "default/api/noise.car", &noise, LONG);
    }
    let took = began.elapsed();
    let sent = metric(&cluster, 0, NAME, "kind=\"full\"");
    eprintln!("{sent} bytes in {took:?} below a cap of 409600 per second");
    // A burst of a tenth of a second besides.
    assert!(sent as f64 <= 409_600.0 * (took.as_secs_f64() + 2.0), "{sent} bytes in {took:?}");
    // Counted when its receiver has said that it took it, which may be after its file is there.
    cluster.wait("both to have had it from the manager", LONG, || {
        metric(&cluster, 0, NAME, "kind=\"full\"") >= 2 << 20
    });
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.status(0).unwrap()["epoch"].as_u64(), epoch, "content stands before no heartbeat");
}

/// A node loses its store and keeps its files: what comes again is told by the large file that is there.
#[test]
fn a_lost_store_is_filled_by_what_lies_in_the_root() {
    let mut rng = support::rng("a_lost_store_is_filled_by_what_lies_in_the_root");
    let nodes = &[("gw1", "candidate"), ("gw2", "worker"), ("gw3", "worker")];
    let mut cluster = TestCluster::new(nodes, "");
    let noise: Vec<u8> = (0..3 << 20).map(|_| rng.random()).collect();
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.write(0, "default/api/noise.car", &noise);
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.stop(2);
    // One committed change that gw3 does not see, so that nothing of what it has is the head.
    cluster.write(0, "default/api/noise.car", with_a_line(&noise, &mut rng));
    cluster.wait_equal(&[0, 1], LONG);
    let sent = |cluster: &TestCluster, kind: &str| -> u64 {
        (0..2).map(|node| metric(cluster, node, NAME, &format!("kind=\"{kind}\",peer=\"gw3\""))).sum()
    };
    let (full, delta) = (sent(&cluster, "full"), sent(&cluster, "delta"));
    fs::remove_dir_all(cluster.nodes[2].data.join("store")).unwrap();
    cluster.start(2);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait_equal(&[0, 2], LONG);
    let (full, delta) = (sent(&cluster, "full") - full, sent(&cluster, "delta") - delta);
    eprintln!("{full} bytes whole, {delta} bytes as delta for a file of {} bytes", noise.len());
    assert!(delta > 0 && delta < 100_000, "{delta}");
    assert!(full < 100_000, "{full}");
}
