//! A store that is kept small under a stream of publishes, through deaths in the middle of it; and a newcomer's first
//! copy beside that stream.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
#[cfg(feature = "crash-points")]
use std::path::Path;
use std::time::{Duration, Instant};

use support::{TestCluster, tree};

const LONG: Duration = Duration::from_secs(300);

/// The worker dies at each step of a collection, under publishes; what it needs is there when it is back.
#[cfg(feature = "crash-points")]
#[test]
fn a_node_that_dies_while_it_collects_lacks_nothing() {
    const FILES: usize = 60;
    let nodes: &[(&str, &str)] = &[("gw1", "candidate"), ("gw2", "worker")];
    let mut cluster = TestCluster::new(nodes, "[sync]\nhistory = 2\n");
    let path = |n: usize| format!("default/api/a{n}.xml");
    let text = |n: usize, round: usize| format!("<api>{}</api>", format!("{n} in {round} ").repeat(300));
    (0..FILES).for_each(|n| cluster.write(0, &path(n), text(n, 0)));
    cluster.start(0);
    cluster.wait_manager(LONG);
    let (mut round, mut most) = (0, 0);
    for point in ["collect.removed", "collect.copied", "collect.moved", "collect.before-unlink"] {
        cluster.nodes[1].env.insert("SYNCD_CRASH".into(), point.into());
        cluster.start(1);
        cluster.wait_in_sync(&[0, 1], LONG);
        let deadline = Instant::now() + LONG;
        while cluster.is_running(1) {
            assert!(Instant::now() < deadline, "{point} was not passed");
            round += 1;
            (0..FILES).for_each(|n| cluster.write(0, &path(n), text(n, round)));
            let last = text(FILES - 1, round);
            while cluster.is_running(1)
                && cluster.read(1, &path(FILES - 1)).as_deref() != Some(last.as_bytes())
            {
                assert!(Instant::now() < deadline, "round {round} was not applied");
                std::thread::sleep(Duration::from_millis(5));
            }
            most = most.max(bytes(&cluster.nodes[1].data.join("store/packs")));
        }
        assert_eq!(cluster.wait_end(1, LONG), None, "it ended by the crash point's signal");
        cluster.nodes[1].env.clear();
        cluster.start(1);
        cluster.wait_in_sync(&[0, 1], LONG);
        cluster.wait_equal(&[0, 1], LONG);
        // What is lost in the folder comes back from this node's own store.
        (0..20).for_each(|n| fs::remove_file(cluster.nodes[1].root.join(path(n))).unwrap());
        cluster.wait_equal(&[0, 1], LONG);
        cluster.kill(1);
    }
    cluster.start(1);
    let live = (FILES * text(0, 0).len() * 2) as u64;
    for node in [0, 1] {
        let packs = cluster.nodes[node].data.join("store/packs");
        cluster.wait("a small store", LONG, || bytes(&packs) < 2 * live + (1 << 20));
    }
    eprintln!("{round} rounds, at most {most} bytes, {live} of them needed");
}

#[cfg(feature = "crash-points")]
fn bytes(folder: &Path) -> u64 {
    let items = fs::read_dir(folder).map(|items| items.flatten().collect::<Vec<_>>()).unwrap_or_default();
    items.iter().filter_map(|item| Some(item.metadata().ok()?.len())).sum()
}

/// `SYNCD_TEST_FILES` for another size than 5,000.
#[test]
fn a_newcomers_first_copy_moves_no_office() {
    let files = std::env::var("SYNCD_TEST_FILES").map_or(5_000, |text| text.parse().unwrap());
    let nodes: &[(&str, &str)] =
        &[("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate"), ("late", "worker")];
    // For the figure a machine of its own; beside other tests only a slow one would be found.
    let is_figure = std::env::var_os("SYNCD_TEST_FILES").is_some();
    let steady = "[election]\ntimeout = \"2s\"\nlease = \"5s\"\n";
    let mut cluster = TestCluster::new(nodes, if is_figure { "" } else { steady });
    let made = tree::generate(&cluster.nodes[0].root, files, &mut support::rng("newcomer"));
    (0..3).for_each(|node| cluster.start(node));
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    let office = |cluster: &TestCluster| {
        let status = cluster.status(manager).unwrap();
        (status["epoch"].clone(), status["leader"].clone(), status["manager"].clone())
    };
    let before = office(&cluster);
    cluster.start(3);
    let (mut edits, mut slowest) = (0, Duration::ZERO);
    let edited = "default/api/edited.xml";
    let is_in = |cluster: &TestCluster| {
        cluster.status(3).is_some_and(|status| {
            support::row(&status, "late").is_some_and(|row| row["generation"].as_u64().is_some())
        })
    };
    while !is_in(&cluster) || edits < 20 {
        edits += 1;
        let text = format!("<api>{edits}</api>");
        let began = Instant::now();
        cluster.write(manager, edited, &text);
        (0..3).for_each(|node| cluster.wait_content(node, edited, &text, LONG));
        slowest = slowest.max(began.elapsed());
        assert_eq!(office(&cluster), before, "the office stays where it is, edit {edits}");
    }
    // And a bulk edit, with the newcomer among those that follow.
    for path in made.iter().take(1000) {
        cluster.write(manager, path.to_str().unwrap(), format!("<api>bulk {}</api>", path.display()));
    }
    let last = made[..made.len().min(1000)].last().unwrap();
    let text = format!("<api>bulk {}</api>", last.display());
    (0..4).for_each(|node| cluster.wait_content(node, last.to_str().unwrap(), &text, LONG));
    cluster.wait_in_sync(&[0, 1, 2, 3], LONG);
    cluster.wait_equal(&[0, 1, 2, 3], LONG);
    assert_eq!(office(&cluster), before);
    eprintln!("{files} files, {edits} edits beside the first copy, the slowest {slowest:?}");
}
