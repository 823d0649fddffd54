//! Wiped, unmounted and strange folders, and what a person lets through: nothing goes that nobody meant to go.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{THREE, TestCluster, has_problem, row, snapshot};

const LONG: Duration = Duration::from_secs(40);
const QUICK: &str = "[sync]\ngather = \"100ms\"\ndelete_grace = \"100ms\"\n";

fn api(n: usize) -> String {
    format!("default/api/a{n}.xml")
}

/// Three nodes with so many APIs and one endpoint, and who is manager.
fn cluster(apis: usize, extra: &str) -> (TestCluster, usize) {
    let mut cluster = TestCluster::new(THREE, extra);
    for n in 0..apis {
        cluster.write(0, &api(n), format!("<api>{n}</api>"));
    }
    cluster.write(0, "default/endpoints/e.xml", "<endpoint/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    (cluster, manager)
}

fn wait_problem(cluster: &TestCluster, node: usize, code: &str) {
    cluster.wait(code, LONG, || cluster.status(node).is_some_and(|status| has_problem(&status, code)));
}

fn generation(cluster: &TestCluster, node: usize) -> u64 {
    cluster.status(node).unwrap()["generation"].as_u64().unwrap()
}

fn apis_on(cluster: &TestCluster, node: usize) -> usize {
    fs::read_dir(cluster.nodes[node].root.join("default/api")).map_or(0, Iterator::count)
}

fn held(cluster: &TestCluster, node: usize) -> u64 {
    let status = cluster.status(node).unwrap();
    row(&status, &cluster.nodes[node].name).unwrap()["held"].as_u64().unwrap()
}

/// Approves on `node` without being asked; what it printed.
fn approve(cluster: &TestCluster, node: usize) -> String {
    let (code, text, error) = cluster.cli(node, &["approve", "--yes"]);
    if code != 0 {
        cluster.fail(&format!("approve ended with {code}: {text}{error}"));
    }
    text
}

#[test]
fn a_slow_wipe_is_held_after_fifty_and_only_the_list_that_was_shown_is_let_through() {
    let (mut cluster, manager) = cluster(120, QUICK);
    let other = (manager + 1) % 3;
    // As `rm -r` of a busy host would: ten files a second.
    for n in 0..100 {
        fs::remove_file(cluster.nodes[manager].root.join(api(n))).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_problem(&cluster, other, "mass-delete");
    let name = cluster.nodes[manager].name.clone();
    cluster.wait("all later deletes to be held", LONG, || {
        let published = 120 - apis_on(&cluster, other);
        held(&cluster, manager) as usize == 100 - published
    });
    assert!(apis_on(&cluster, other) >= 70, "at most fifty went");
    let before = generation(&cluster, manager);
    let (code, text, _) = cluster.cli(manager, &["plan"]);
    assert!(code == 1 && text.contains("(mass-delete)") && text.contains(&api(99)), "{text}");
    // Everything else flows meanwhile.
    cluster.write(manager, &api(110), "<api>edited</api>");
    cluster.wait_content(other, &api(110), "<api>edited</api>", LONG);
    // A script that does not say yes, and a list that nobody holds.
    let (code, _, error) = cluster.cli(other, &["approve"]);
    assert_eq!(code, 64, "{error}");
    // A restart of the manager forgets nothing.
    let count = held(&cluster, manager);
    cluster.kill(manager);
    cluster.start(manager);
    cluster.wait("the manager to be back", LONG, || cluster.manager().is_some());
    if cluster.manager() == Some(manager) {
        cluster.wait("the list to be back", LONG, || held(&cluster, manager) == count);
        // Asked on another node; the manager lets it through, and the log keeps it.
        let text = approve(&cluster, other);
        assert!(text.contains(&format!("on {name}: {count} paths")) && text.contains(&api(99)), "{text}");
        cluster.wait("exactly these to go", LONG, || (0..3).all(|node| apis_on(&cluster, node) == 20));
        cluster.wait_equal(&[0, 1, 2], LONG);
        assert!(generation(&cluster, manager) > before);
        cluster.wait("nothing to be held", LONG, || {
            held(&cluster, manager) == 0 && !has_problem(&cluster.status(other).unwrap(), "mass-delete")
        });
        assert_eq!(approve(&cluster, other), "nothing is held that could be approved here\n");
    } else {
        // The office went on: what was held is undone, and told.
        cluster.wait_equal(&[0, 1, 2], LONG);
        wait_problem(&cluster, other, "held-undone");
    }
}

#[test]
fn what_is_approved_is_not_counted_and_what_came_back_is_not_held() {
    let (cluster, manager) = cluster(60, &format!("{QUICK}max_delete = 5\n"));
    let other = (manager + 1) % 3;
    let remove = |from: usize, to: usize| {
        for n in from..to {
            fs::remove_file(cluster.nodes[manager].root.join(api(n))).unwrap();
        }
    };
    remove(0, 10);
    cluster.wait("ten to be held", LONG, || held(&cluster, manager) == 10);
    wait_problem(&cluster, other, "mass-delete");
    approve(&cluster, manager);
    cluster.wait("ten to go", LONG, || apis_on(&cluster, other) == 50);
    // The ten do not count: five more may go.
    remove(10, 15);
    cluster.wait("five more to go", LONG, || apis_on(&cluster, other) == 45);
    remove(15, 18);
    cluster.wait("three to be held", LONG, || held(&cluster, manager) == 3);
    // Wiped and filled again: an update.
    let generation = generation(&cluster, manager);
    for n in 15..18 {
        cluster.write(manager, &api(n), format!("<api>{n}</api>"));
    }
    cluster.wait("nothing to be held", LONG, || held(&cluster, manager) == 0);
    assert_eq!(self::generation(&cluster, manager), generation);
    assert_eq!(apis_on(&cluster, other), 45);
}

#[test]
fn an_emptied_folder_of_ten_is_held() {
    let (cluster, manager) = cluster(10, QUICK);
    let other = (manager + 1) % 3;
    let before = snapshot(&cluster.nodes[other].root);
    fs::remove_dir_all(cluster.nodes[manager].root.join("default/api")).unwrap();
    wait_problem(&cluster, other, "mass-delete");
    cluster.wait("the ten and their folder to be held", LONG, || held(&cluster, manager) == 11);
    assert_eq!(snapshot(&cluster.nodes[other].root), before);
    approve(&cluster, manager);
    cluster.wait("the ten to go", LONG, || apis_on(&cluster, other) == 0);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be unmounted already.
        let _ = Command::new("umount").args(["-l", &self.0]).output();
    }
}

fn fill(root: &Path) {
    for n in 0..12 {
        let path = root.join(api(n));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("<api>{n}</api>")).unwrap();
    }
}

#[test]
fn a_root_that_is_unmounted_emptied_or_moved_away_deletes_nothing() {
    let mut cluster = TestCluster::new(&THREE[..1], QUICK);
    let two = cluster.add_host("w1", "w1", &cluster.nodes[0].address.replace(".1:8730", ".9"));
    // The root of the manager is a file system of its own, on a disk that can come back.
    let root = cluster.nodes[0].root.clone();
    let disk = cluster.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    fill(&disk);
    let (from, to) = (disk.to_str().unwrap(), root.to_str().unwrap());
    run("mount", &["--bind", from, to]);
    let _mounted = Mounted(to.to_owned());
    cluster.start_all();
    cluster.wait_in_sync(&[0, two], LONG);
    let before = snapshot(&cluster.nodes[two].root);
    assert_eq!(apis_on(&cluster, two), 12);
    let unharmed = |cluster: &TestCluster, what: &str| {
        // Three scans of the gateway would be 45 s; nothing is on its way once the state was named and two walks passed.
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            assert_eq!(snapshot(&cluster.nodes[two].root), before, "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    run("umount", &["-l", to]);
    wait_problem(&cluster, two, "root-missing");
    unharmed(&cluster, "unmounted");
    run("mount", &["--bind", from, to]);
    cluster.wait_manager(LONG);
    // Emptied by `rm -r` of everything, the mark aside.
    fs::remove_dir_all(root.join("default")).unwrap();
    wait_problem(&cluster, two, "root-emptied");
    unharmed(&cluster, "emptied");
    fill(&root);
    cluster.wait_manager(LONG);
    cluster.wait("the emptied root to recover", LONG, || {
        !has_problem(&cluster.status(two).unwrap(), "root-emptied")
    });
    // Moved away, mark and all.
    run("umount", &["-l", to]);
    fs::remove_dir_all(&root).unwrap();
    wait_problem(&cluster, two, "root-missing");
    unharmed(&cluster, "moved away");
    fs::create_dir(&root).unwrap();
    run("mount", &["--bind", from, to]);
    cluster.wait_manager(LONG);
    cluster.write(0, &api(0), "<api>alive</api>");
    cluster.wait_content(two, &api(0), "<api>alive</api>", LONG);
}

#[test]
fn an_exclude_on_one_node_and_a_failover_to_it_delete_nothing_until_approved() {
    let (mut cluster, manager) = cluster(4, QUICK);
    let heir = (manager + 1) % 3;
    let before = snapshot(&cluster.nodes[heir].root);
    cluster.stop(heir);
    cluster.nodes[heir].env.insert("SYNCD_ROOT__0__EXCLUDE".to_owned(), "[\"a1.xml\"]".to_owned());
    cluster.start(heir);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let name = cluster.nodes[heir].name.clone();
    let (code, _, error) = cluster.cli(manager, &["switchover", "--to", &name]);
    assert_eq!(code, 0, "{error}");
    wait_problem(&cluster, manager, "rules-held");
    cluster.write(heir, &api(0), "<api>new</api>");
    cluster.wait_content(manager, &api(0), "<api>new</api>", LONG);
    for node in 0..3 {
        assert_eq!(snapshot(&cluster.nodes[node].root).len(), before.len(), "nothing went");
    }
    let text = approve(&cluster, manager);
    assert!(text.contains("rules-held") && text.contains(&api(1)), "{text}");
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    // Released: it stays everywhere, and is nobody's business any more.
    cluster.write(heir, &api(1), "<api>of this node</api>");
    cluster.write(heir, &api(2), "<api>after it</api>");
    cluster.wait_content(manager, &api(2), "<api>after it</api>", LONG);
    assert_eq!(cluster.read(manager, &api(1)).unwrap(), b"<api>1</api>");
    assert_eq!(snapshot(&cluster.nodes[manager].root).len(), before.len());
}

#[test]
fn who_was_away_does_not_bring_back_what_was_deleted() {
    let (mut cluster, manager) = cluster(6, QUICK);
    let away = (manager + 1) % 3;
    cluster.kill(away);
    fs::remove_file(cluster.nodes[manager].root.join(api(0))).unwrap();
    let here = (manager + 2) % 3;
    cluster.wait("the delete to arrive", LONG, || cluster.read(here, &api(0)).is_none());
    cluster.start(away);
    cluster.wait("the delete to be made up", LONG, || cluster.read(away, &api(0)).is_none());
    // A candidate that comes back with an old state and takes over.
    cluster.kill(away);
    fs::remove_file(cluster.nodes[manager].root.join(api(1))).unwrap();
    cluster.wait("the delete to arrive", LONG, || cluster.read(here, &api(1)).is_none());
    cluster.start(away);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.kill(manager);
    let heir = cluster.wait_manager(LONG);
    cluster.start(manager);
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.write(heir, &api(2), "<api>of the heir</api>");
    for node in 0..3 {
        cluster.wait_content(node, &api(2), "<api>of the heir</api>", LONG);
        assert_eq!((cluster.read(node, &api(0)), cluster.read(node, &api(1))), (None, None));
    }
}

#[test]
fn a_person_chooses_the_first_content_and_the_rest_is_kept() {
    let mut cluster = TestCluster::new(THREE, &format!("{QUICK}max_delete = 3\n"));
    for n in 0..8 {
        cluster.write(0, &api(n), format!("<api>first {n}</api>"));
        cluster.write(1, &api(n), format!("<api>second {n}</api>"));
    }
    cluster.start_all();
    wait_problem(&cluster, 2, "needs-seed");
    let (code, text, _) = cluster.cli(2, &["approve", "--yes"]);
    assert!(code == 1 && text.contains("gw1") && text.contains("--seed"), "{text}");
    let (code, _, error) = cluster.cli(2, &["approve", "--seed", "gw3", "--yes"]);
    assert!(code == 1 && error.contains("hold content"), "an empty folder never wins: {error}");
    let (code, text, error) = cluster.cli(2, &["approve", "--seed", "gw2", "--yes"]);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("the content of gw2 becomes the first generation"), "{text}");
    cluster.wait_equal(&[0, 1, 2], LONG);
    assert_eq!(cluster.read(0, &api(7)).unwrap(), b"<api>second 7</api>");
    cluster.wait("the others' content to be kept", LONG, || {
        let status = cluster.status(0).unwrap();
        row(&status, "gw1").unwrap()["quarantined"] == 8
    });
}

#[test]
fn a_node_with_much_content_of_its_own_waits_until_it_is_approved() {
    let (mut cluster, manager) = cluster(4, &format!("{QUICK}max_delete = 3\n"));
    let new = cluster.add_host("w1", "w1", &cluster.nodes[0].address.replace(".1:8730", ".9"));
    for n in 0..8 {
        cluster.write(new, &api(n), format!("<api>local {n}</api>"));
    }
    let before = snapshot(&cluster.nodes[new].root);
    cluster.start(new);
    cluster.wait("the node to wait", LONG, || {
        let status = cluster.status(manager);
        status.is_some_and(|status| row(&status, "w1").is_some_and(|row| row["state"] == "needs-approval"))
    });
    assert_eq!(snapshot(&cluster.nodes[new].root), before);
    assert_eq!(held(&cluster, new), 8);
    // It is that node's own business.
    assert_eq!(approve(&cluster, manager), "nothing is held that could be approved here\n");
    let text = approve(&cluster, new);
    assert!(text.contains("needs-approval on w1: 8 paths") && text.contains("w1 goes on with it"), "{text}");
    cluster.wait_equal(&[manager, new], LONG);
    cluster.wait("its content to be kept", LONG, || {
        row(&cluster.status(new).unwrap(), "w1").unwrap()["quarantined"] == 8
    });
}

#[test]
fn a_root_without_its_mark_is_taken_in_when_a_person_says_so() {
    let (cluster, manager) = cluster(4, QUICK);
    let node = (manager + 1) % 3;
    let root = cluster.nodes[node].root.clone();
    // Restored by hand from somewhere, without the daemon's folder.
    fs::remove_dir_all(root.join(".syncd")).unwrap();
    fs::write(root.join(api(0)), "<api>by hand</api>").unwrap();
    fs::remove_file(root.join(api(1))).unwrap();
    wait_problem(&cluster, node, "root-missing");
    assert_eq!(cluster.read(node, &api(0)).unwrap(), b"<api>by hand</api>");
    let text = approve(&cluster, node);
    assert!(text.contains("root-missing on") && text.contains("holds 4 files"), "{text}");
    cluster.wait_equal(&[manager, node], LONG);
    assert!(root.join(".syncd/member").exists());
    cluster.wait("the content by hand to be kept", LONG, || {
        let status = cluster.status(node).unwrap();
        row(&status, &cluster.nodes[node].name).unwrap()["quarantined"] == 1
    });
}
