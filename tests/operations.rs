//! What operators order: pause and resume, a planned change of manager, and what is kept across it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::leases::LeaseWatch;
use support::{THREE, TestCluster, get, has_problem, row};

const BOUND: Duration = Duration::from_secs(30);

/// Runs a command that must succeed.
fn order(cluster: &TestCluster, node: usize, arguments: &[&str]) -> String {
    let (code, out, err) = cluster.cli(node, arguments);
    if code != 0 {
        cluster.fail(&format!("{arguments:?} ended with {code}: {out}{err}"));
    }
    out
}

/// Runs a command that must be refused; what it says.
fn refused(cluster: &TestCluster, node: usize, arguments: &[&str]) -> String {
    let (code, out, err) = cluster.cli(node, arguments);
    assert_eq!(code, 1, "{arguments:?}: {out}{err}");
    assert!(err.contains("remedy: "), "{err}");
    err
}

fn is_quarantined(cluster: &TestCluster, node: usize, path: &str) -> bool {
    let (code, listed, _) = cluster.cli(node, &["quarantine", "list"]);
    code == 0 && listed.contains(path)
}

/// While it is paused nothing moves on any node, and nobody leaves the load balancer; what was written then goes out
/// afterwards, and what drifted is brought back.
#[test]
fn a_pause_holds_everything_and_resume_lets_it_flow() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    let before = cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(BOUND);
    let (worker, other) = ((manager + 1) % 3, (manager + 2) % 3);
    assert!(order(&cluster, worker, &["pause"]).contains("paused"));
    assert!(order(&cluster, other, &["pause"]).contains("already"));
    cluster.wait("every node to say so", BOUND, || {
        (0..3).all(|node| {
            cluster.status(node).is_some_and(|status| {
                has_problem(&status, "paused")
                    && status["manager"] == cluster.nodes[manager].name.as_str()
                    && row(&status, &cluster.nodes[worker].name).unwrap()["state"] == "paused"
                    && row(&status, &cluster.nodes[other].name).unwrap()["state"] == "paused"
            })
        })
    });
    cluster.write(manager, "default/api/late.xml", "<late/>");
    cluster.write(manager, "default/api/a.xml", "<api version=\"2\"/>");
    cluster.write(worker, "default/api/drift.xml", "<drift/>");
    cluster.wait("the drift and the pending changes to be named", BOUND, || {
        cluster.status(worker).is_some_and(|status| {
            let pending = row(&status, &cluster.nodes[manager].name).unwrap()["pending"].as_u64();
            let drifted = row(&status, &cluster.nodes[worker].name).unwrap()["drifted"].as_u64();
            has_problem(&status, "drift") && pending >= Some(2) && drifted == Some(1)
        })
    });
    // That nothing happens can't be waited for: longer than every quiet time, shorter than a test may take.
    std::thread::sleep(Duration::from_secs(5));
    for node in [worker, other] {
        assert_eq!(cluster.read(node, "default/api/a.xml").unwrap(), b"<api/>");
        assert_eq!(cluster.read(node, "default/api/late.xml"), None);
    }
    assert_eq!(cluster.read(worker, "default/api/drift.xml").unwrap(), b"<drift/>");
    assert_eq!(cluster.status(other).unwrap()["generation"], before);
    for node in 0..3 {
        let path = if node == manager { "/manager" } else { "/ready" };
        cluster.wait(path, BOUND, || cluster.get(node, path).is_some_and(|answer| answer.status == 200));
    }
    assert_eq!(cluster.cli(other, &["status"]).0, 1);

    order(&cluster, other, &["resume"]);
    cluster.wait_content(other, "default/api/late.xml", "<late/>", BOUND);
    cluster.wait_content(worker, "default/api/a.xml", "<api version=\"2\"/>", BOUND);
    cluster.wait("the drift in quarantine", BOUND, || is_quarantined(&cluster, worker, "drift.xml"));
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    cluster.wait_equal(&[0, 1, 2], BOUND);
    cluster.wait("all to be well again", BOUND, || {
        cluster.status(other).is_some_and(|status| !has_problem(&status, "paused"))
    });
}

/// A manager that dies in a pause is replaced, and a node that drifted meanwhile is not chosen while another is equal
/// to the head.
#[test]
fn managers_are_appointed_in_a_pause() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(BOUND);
    let others: Vec<usize> = (0..3).filter(|node| *node != manager).collect();
    order(&cluster, manager, &["pause"]);
    cluster.write(others[0], "default/api/drift.xml", "<drift/>");
    cluster.wait("the drift to be named", BOUND, || {
        let status = cluster.status(others[1]);
        status.is_some_and(|status| has_problem(&status, "drift") && has_problem(&status, "paused"))
    });
    cluster.kill(manager);
    cluster.wait("the other one in office", BOUND, || {
        get(&cluster.nodes[others[1]].http, "/manager", Duration::from_secs(2))
            .is_some_and(|answer| answer.status == 200)
    });
    assert_eq!(cluster.read(others[0], "default/api/drift.xml").unwrap(), b"<drift/>");
    cluster.start(manager);
    order(&cluster, others[0], &["resume"]);
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    cluster.wait_equal(&[0, 1, 2], BOUND);
    assert!(is_quarantined(&cluster, others[0], "drift.xml"));
}

/// What can't be is refused with its reason, and changes nothing.
#[test]
fn a_switchover_that_cannot_be_is_refused() {
    let nodes = [("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "candidate"), ("gw4", "worker")];
    let mut cluster = TestCluster::new(&nodes, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2, 3], Duration::from_secs(60));
    let manager = cluster.wait_manager(BOUND);
    let other = (manager + 1) % 3;
    let third = (manager + 2) % 3;
    let epoch = cluster.status(other).unwrap()["epoch"].clone();
    let name = |node: usize| cluster.nodes[node].name.clone();
    assert!(refused(&cluster, other, &["switchover", "--to", "gw9"]).contains("there is no node named gw9"));
    assert!(refused(&cluster, other, &["switchover", "--to", "gw4"]).contains("only candidates"));
    let same = refused(&cluster, 3, &["switchover", "--to", &name(manager)]);
    assert!(same.contains("the manager already"), "{same}");
    cluster.signal(third, "STOP");
    cluster.wait("the stopped one to be missed", BOUND, || {
        cluster.status(manager).is_some_and(|status| has_problem(&status, "unreachable"))
    });
    assert!(refused(&cluster, other, &["switchover", "--to", &name(third)]).contains("is not heard"));
    cluster.signal(third, "CONT");
    assert_eq!(cluster.status(other).unwrap()["epoch"], epoch);
    assert_eq!(cluster.wait_manager(BOUND), manager);
}

/// Writes a new file ten times a second to whichever node answers 200 on `/manager`, as a load balancer would send it.
struct Publisher {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Publisher {
    fn over(cluster: &TestCluster) -> Self {
        let nodes: Vec<_> = cluster.nodes.iter().map(|node| (node.http.clone(), node.root.clone())).collect();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, count) = (stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                for (http, root) in &nodes {
                    let answer = get(http, "/manager", Duration::from_millis(600));
                    if answer.is_some_and(|answer| answer.status == 200) {
                        let number = count.load(Ordering::Relaxed);
                        // Between the answer and the write the office may change: this is what is handed over.
                        let path = root.join(file(number));
                        std::fs::write(path, content(number)).unwrap();
                        count.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { stop, written, thread }
    }

    fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

fn file(number: usize) -> String {
    format!("default/api/n{number}.xml")
}

fn content(number: usize) -> String {
    format!("<api n=\"{number}\"/>")
}

/// Over ten planned changes of manager with edits going on: nothing is lost, leases are disjoint, all trees are equal.
#[test]
fn switchovers_lose_nothing() {
    let mut cluster = TestCluster::new(
        THREE,
        "[sync]\ngather = \"200ms\"\nsettle_max = \"1s\"\ndelete_grace = \"200ms\"\n",
    );
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    cluster.wait_manager(BOUND);
    let watch = LeaseWatch::over(&cluster);
    let publisher = Publisher::over(&cluster);
    for round in 0..10 {
        let manager = cluster.wait_manager(BOUND);
        let to = (manager + 1) % 3;
        let asked = round % 3;
        let before = publisher.written.load(Ordering::Relaxed);
        cluster.wait("some writes in this office", BOUND, || {
            publisher.written.load(Ordering::Relaxed) >= before + 3
        });
        // What was handed over is published before the office moves on: only the former manager hands over.
        for number in 0..before {
            cluster.wait_content(to, &file(number), content(number), BOUND);
        }
        // The target lags behind the head for some milliseconds after each publish, and is refused then.
        cluster.wait("the switchover", BOUND, || {
            let (code, out, err) = cluster.cli(asked, &["switchover", "--to", &cluster.nodes[to].name]);
            let may_try_again = ["not caught up", "is not heard", "no leader said in time"];
            assert!(code == 0 || may_try_again.iter().any(|why| err.contains(why)), "{code}: {out}{err}");
            code == 0
        });
        let manager_is = |answer: Option<support::Answer>| answer.is_some_and(|answer| answer.status == 200);
        cluster.wait("the new manager's word", BOUND, || {
            manager_is(get(&cluster.nodes[to].http, "/manager", Duration::from_secs(2)))
        });
        assert!(!manager_is(get(&cluster.nodes[manager].http, "/manager", Duration::from_secs(2))));
    }
    let written = publisher.finish();
    assert!(watch.finish() > 5, "the leases were looked at");
    eprintln!("{written} files written across ten switchovers");
    assert!(written >= 30);
    for number in 0..written {
        for node in 0..3 {
            cluster.wait_content(node, &file(number), content(number), BOUND);
        }
    }
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    cluster.wait_equal(&[0, 1, 2], BOUND);
}

/// Without a name the best other candidate takes over: the one of the highest priority.
#[test]
fn a_switchover_without_a_name_goes_to_the_best() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(BOUND);
    let out = order(&cluster, manager, &["switchover"]);
    assert!(out.contains("is manager now"), "{out}");
    let next = cluster.wait_manager(BOUND);
    assert_ne!(next, manager);
    assert!(out.contains(&cluster.nodes[next].name));
}

/// A manager whose root is gone gives its office to one that has its own, and stays out while nobody is better.
#[test]
fn a_manager_without_its_root_lets_go() {
    let mut cluster = TestCluster::new(THREE, "");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let watch = LeaseWatch::over(&cluster);
    let manager = cluster.wait_manager(BOUND);
    let aside = cluster.nodes[manager].root.with_extension("aside");
    std::fs::rename(&cluster.nodes[manager].root, &aside).unwrap();
    cluster.wait("another manager", Duration::from_secs(60), || {
        cluster.manager().is_some_and(|other| other != manager)
    });
    let next = cluster.wait_manager(BOUND);
    cluster.write(next, "default/api/b.xml", "<b/>");
    let third = 3 - manager - next;
    cluster.wait_content(third, "default/api/b.xml", "<b/>", BOUND);
    std::fs::rename(&aside, &cluster.nodes[manager].root).unwrap();
    cluster.wait_content(manager, "default/api/b.xml", "<b/>", BOUND);
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    assert_eq!(cluster.wait_manager(BOUND), next, "a returning node takes nothing over by itself");
    watch.finish();
}

/// What was written on the old manager just after the switch, a new file, a new version and a delete, is published by
/// the new one, and is not taken for drift.
#[test]
fn late_changes_are_handed_over() {
    let mut cluster = TestCluster::new(THREE, "");
    for name in ["kept", "changed", "deleted"] {
        cluster.write(0, &format!("default/api/{name}.xml"), "<old/>");
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let old = cluster.wait_manager(BOUND);
    let new = (old + 1) % 3;
    order(&cluster, old, &["switchover", "--to", &cluster.nodes[new].name]);
    cluster.write(old, "default/late/fresh.xml", "<fresh/>");
    cluster.write(old, "default/api/changed.xml", "<changed/>");
    std::fs::remove_file(cluster.nodes[old].root.join("default/api/deleted.xml")).unwrap();
    for node in 0..3 {
        cluster.wait_content(node, "default/late/fresh.xml", "<fresh/>", BOUND);
        cluster.wait_content(node, "default/api/changed.xml", "<changed/>", BOUND);
        cluster.wait("the delete", BOUND, || cluster.read(node, "default/api/deleted.xml").is_none());
    }
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    cluster.wait_equal(&[0, 1, 2], BOUND);
    assert_eq!(cluster.wait_manager(BOUND), new);
    for name in ["fresh", "changed", "deleted"] {
        assert!(!is_quarantined(&cluster, old, name), "{name} is no drift");
    }
}

/// Hands over with `extra` in the configuration after `spoil` has changed the manager's folder, and then with `late`
/// written on it just after its office ended; the cluster, the former manager and the new one.
fn moved_on(
    extra: &str,
    files: &[&str],
    spoil: impl FnOnce(&TestCluster, usize),
) -> (TestCluster, usize, usize) {
    let mut cluster = TestCluster::new(THREE, extra);
    for path in files {
        cluster.write(0, path, "<old/>");
    }
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let old = cluster.wait_manager(BOUND);
    let new = (old + 1) % 3;
    spoil(&cluster, old);
    order(&cluster, old, &["switchover", "--to", &cluster.nodes[new].name]);
    (cluster, old, new)
}

fn inode(cluster: &TestCluster, node: usize, path: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(cluster.nodes[node].root.join(path)).ok().map(|data| data.ino())
}

/// A protected artifact that vanished in office stays in the manifest, and does not leave the new manager's folder.
#[test]
fn a_protected_artifact_is_not_handed_over_as_a_delete() {
    let kept = "default/synapse.xml";
    let mut inodes = Vec::new();
    let (cluster, old, new) = moved_on(
        "protect = [\"default/synapse.xml\"]\n",
        &[kept, "default/api/a.xml", "default/api/b.xml"],
        |cluster, old| {
            inodes = (0..3).map(|node| inode(cluster, node, kept)).collect();
            std::fs::remove_file(cluster.nodes[old].root.join(kept)).unwrap();
        },
    );
    std::fs::remove_file(cluster.nodes[old].root.join("default/api/b.xml")).unwrap();
    cluster.wait_content(old, kept, "<old/>", BOUND);
    for node in 0..3 {
        cluster.wait("the other delete", BOUND, || cluster.read(node, "default/api/b.xml").is_none());
    }
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    cluster.wait_equal(&[0, 1, 2], BOUND);
    for node in [new, 3 - old - new] {
        assert_eq!(inode(&cluster, node, kept), inodes[node], "it never left a live folder");
    }
}

/// A root that lost everything in office is not published, and does not empty the new manager's.
#[test]
fn an_emptied_root_is_not_handed_over() {
    let files = ["default/api/a.xml", "default/api/b.xml"];
    let mut inodes = Vec::new();
    let (cluster, old, new) = moved_on("", &files, |cluster, old| {
        inodes = (0..3).map(|node| files.map(|path| inode(cluster, node, path))).collect();
        for path in files {
            std::fs::remove_file(cluster.nodes[old].root.join(path)).unwrap();
        }
        cluster.wait("it to be named", BOUND, || {
            cluster.status(old).is_some_and(|status| has_problem(&status, "root-emptied"))
        });
    });
    for path in files {
        cluster.wait_content(old, path, "<old/>", BOUND);
    }
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    cluster.wait_equal(&[0, 1, 2], BOUND);
    for node in [new, 3 - old - new] {
        assert_eq!(files.map(|path| inode(&cluster, node, path)), inodes[node], "they never left");
    }
}

/// What changed while no syncd watched and waits for a person is not published by the next manager: it is in the
/// quarantine of the former one.
#[test]
fn what_is_held_goes_to_quarantine_when_the_office_moves_on() {
    let nodes = [("gw1", "candidate"), ("gw2", "candidate"), ("gw3", "witness")];
    let mut cluster = TestCluster::new(&nodes, "[sync]\nmax_delete = 2\n");
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1], Duration::from_secs(60));
    let old = cluster.wait_manager(BOUND);
    let new = 1 - old;
    cluster.stop(new);
    cluster.stop(old);
    for number in 0..4 {
        cluster.write(old, &file(number), content(number));
    }
    cluster.start(old);
    cluster.wait("the changes to be held", Duration::from_secs(60), || {
        cluster.status(old).is_some_and(|status| has_problem(&status, "held-changes"))
    });
    cluster.start(new);
    cluster.wait("the switchover", Duration::from_secs(60), || {
        cluster.cli(old, &["switchover", "--to", &cluster.nodes[new].name]).0 == 0
    });
    for number in 0..4 {
        let name = format!("n{number}.xml");
        cluster.wait("it in quarantine", BOUND, || is_quarantined(&cluster, old, &name));
        assert_eq!(cluster.read(new, &file(number)), None, "nobody approved it");
    }
    cluster.write(new, "default/api/next.xml", "<next/>");
    cluster.wait_content(old, "default/api/next.xml", "<next/>", BOUND);
    cluster.wait_in_sync(&[0, 1], BOUND);
    cluster.wait_equal(&[0, 1], BOUND);
    assert_eq!(cluster.read(new, &file(0)), None);
}

/// An office that moves on twice: what the second manager took over and had not published goes on to the third.
#[test]
fn what_was_taken_over_is_handed_on() {
    let (cluster, old, middle) = moved_on("[sync]\ngather = \"3s\"\n", &["default/api/a.xml"], |_, _| {});
    let last = 3 - old - middle;
    cluster.write(old, "default/api/late.xml", "<late/>");
    cluster.wait_content(middle, "default/api/late.xml", "<late/>", BOUND);
    assert_eq!(cluster.read(last, "default/api/late.xml"), None, "not published yet");
    order(&cluster, middle, &["switchover", "--to", &cluster.nodes[last].name]);
    for node in [last, middle, old] {
        cluster.wait_content(node, "default/api/late.xml", "<late/>", BOUND);
    }
    cluster.wait_in_sync(&[0, 1, 2], BOUND);
    cluster.wait_equal(&[0, 1, 2], BOUND);
    assert_eq!(cluster.wait_manager(BOUND), last);
    for node in 0..3 {
        assert!(!is_quarantined(&cluster, node, "late.xml"), "it is no drift");
    }
}
