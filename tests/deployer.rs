//! What the gateways see: real daemons, each folder scanned by the model of the product's hot deployer.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rand::Rng;
use rand::seq::SliceRandom;
use support::deployer::{Deployer, Did, Gateway, api, api_file};
use support::{THREE, TestCluster, has_problem, rng, row, tree};

const LONG: Duration = Duration::from_secs(30);
/// Between two scans of the model: long enough that most do not meet a publish, short enough to wait for several.
const TICK: Duration = Duration::from_millis(500);
/// What the daemons take for a scan, in milliseconds: with more room than in the product, for a loaded machine.
const SCAN_MS: &str = "2000";

struct Gateways {
    cluster: TestCluster,
    manager: usize,
    others: [usize; 2],
    /// One for each node.
    gateways: Vec<Deployer>,
}

/// Three nodes at one head, of which `fill` made the first content, and a gateway on each.
fn gateways(extra: &str, fill: impl FnOnce(&Path)) -> Gateways {
    let mut cluster = TestCluster::new(THREE, extra);
    for node in &mut cluster.nodes {
        node.env.insert("SYNCD_SCAN".to_owned(), SCAN_MS.to_owned());
        node.validates = true;
        for folder in ["api", "endpoints", "sequences", "local-entries", "proxy-services", "templates"] {
            fs::create_dir_all(node.root.join("default").join(folder)).unwrap();
        }
    }
    fill(&cluster.nodes[0].root);
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    let manager = cluster.wait_manager(LONG);
    let gateways =
        cluster.nodes.iter().map(|node| Deployer::start(&node.root, Gateway::every(TICK))).collect();
    let others = [(manager + 1) % 3, (manager + 2) % 3];
    let this = Gateways { cluster, manager, others, gateways };
    this.gateways.iter().for_each(|gateway| gateway.wait_scans(1, LONG));
    this
}

impl Gateways {
    fn marks(&self) -> Vec<usize> {
        self.gateways.iter().map(Deployer::mark).collect()
    }

    fn write_all(&self, files: &[(String, String)]) {
        files.iter().for_each(|(path, content)| self.cluster.write(self.manager, path, content));
    }

    fn settled(&self) {
        self.cluster.wait_equal(&[0, 1, 2], LONG);
        self.others.iter().for_each(|node| self.gateways[*node].wait_scans(2, LONG));
    }

    /// What the gateways of the two nodes did that are not the manager.
    #[track_caller]
    fn check_others(&self, marks: &[usize], mut expected: Vec<String>) {
        expected.sort();
        for node in self.others {
            assert_eq!(
                self.gateways[node].brief(marks[node]),
                expected,
                "on {}",
                self.cluster.nodes[node].name
            );
        }
    }
}

/// When the files were put in place, as their inodes tell: the first and the last.
fn renamed(root: &Path, paths: &[String]) -> (SystemTime, SystemTime) {
    let times = paths.iter().map(|path| {
        let meta = fs::metadata(root.join(path)).unwrap();
        SystemTime::UNIX_EPOCH
            + Duration::new(u64::try_from(meta.ctime()).unwrap(), u32::try_from(meta.ctime_nsec()).unwrap())
    });
    let times: Vec<_> = times.collect();
    (*times.iter().min().unwrap(), *times.iter().max().unwrap())
}

#[test]
fn a_new_api_in_any_order_is_never_served_without_its_endpoints() {
    let mut rng = rng("a_new_api_in_any_order");
    let all = gateways("", |root| drop(tree::generate(root, 100, &mut support::rng("its tree"))));
    let (mut overlapping, mut scans) = (0, 0);
    for round in 0..8 {
        let mut files = api(&format!("Fresh{round}"), 1);
        files.shuffle(&mut rng);
        let paths: Vec<String> = files.iter().map(|(path, _)| path.clone()).collect();
        let marks = all.marks();
        let begun: Vec<usize> = all.gateways.iter().map(|gateway| gateway.scans().len()).collect();
        for (path, content) in &files {
            all.cluster.write(all.manager, path, content);
            std::thread::sleep(Duration::from_millis(rng.random_range(150..225)));
        }
        all.settled();
        all.check_others(&marks, paths.iter().map(|path| format!("+{path}")).collect());
        for node in all.others {
            let (first, last) = renamed(&all.cluster.nodes[node].root, &paths);
            for scan in &all.gateways[node].scans()[begun[node]..] {
                scans += 1;
                if scan.began <= last && first <= scan.listed {
                    overlapping += 1;
                } else {
                    // The generated ones name endpoints that nobody made.
                    let broken: Vec<_> =
                        scan.broken.iter().filter(|(api, _)| api.contains("Fresh")).collect();
                    assert!(broken.is_empty(), "{broken:?} in {paths:?}");
                }
            }
        }
    }
    eprintln!("{overlapping} of {scans} scans overlapped the renames");
}

#[test]
fn an_update_deploys_what_changed_and_new_times_deploy_nothing() {
    let mut rng = rng("an_update_deploys");
    let mut made = Vec::new();
    let all = gateways("", |root| made = tree::generate(root, 610, &mut support::rng("its tree")));
    let pet = api("Pet", 1);
    let marks = all.marks();
    all.write_all(&pet);
    all.settled();
    all.check_others(&marks, pet.iter().map(|(path, _)| format!("+{path}")).collect());

    let newer = api("Pet", 2);
    let marks = all.marks();
    all.write_all(&newer);
    all.settled();
    all.check_others(&marks, newer.iter().map(|(path, _)| format!("~{path}")).collect());

    all.gateways[all.manager].pause();
    // New times for all: a restore from a backup, with other seconds in any direction.
    let generation = all.cluster.status(all.manager).unwrap()["generation"].clone();
    let marks = all.marks();
    for path in &made {
        let path = all.cluster.nodes[all.manager].root.join(path);
        let time = SystemTime::now() - Duration::from_secs(rng.random_range(0..100_000_000));
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    // What comes after it is published after it was looked at.
    all.cluster.write(all.manager, "default/api/admin--Pet_v1.xml", &api("Pet", 3)[4].1);
    all.settled();
    all.check_others(&marks, vec!["~default/api/admin--Pet_v1.xml".to_owned()]);
    let after = all.cluster.status(all.manager).unwrap()["generation"].clone();
    assert_eq!(after.as_u64().unwrap(), generation.as_u64().unwrap() + 1, "one publish");
}

#[test]
fn a_delete_and_its_return_within_two_seconds_undeploy_nothing() {
    let all = gateways("", |root| drop(tree::generate(root, 100, &mut support::rng("its tree"))));
    all.write_all(&api("Pet", 1));
    all.settled();
    let marks = all.marks();
    // As an update of the product: away, then written anew.
    all.gateways[all.manager].pause();
    let files = api("Pet", 2);
    for (path, _) in &files {
        fs::remove_file(all.cluster.nodes[all.manager].root.join(path)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(1200));
    for (path, content) in &files {
        all.cluster.write(all.manager, path, content);
        std::thread::sleep(Duration::from_millis(100));
    }
    all.gateways[all.manager].resume();
    all.settled();
    all.check_others(&marks, files.iter().map(|(path, _)| format!("~{path}")).collect());
}

#[test]
fn a_rename_with_the_same_context_never_collides() {
    let all = gateways("", |root| drop(tree::generate(root, 100, &mut support::rng("its tree"))));
    for (round, pause_ms) in [0, 300, 900, 1500].into_iter().enumerate() {
        let (old, new) =
            (format!("default/api/Name{round}.xml"), format!("default/api/Name{}.xml", round + 1));
        if round == 0 {
            all.cluster.write(all.manager, &old, api_file("same", "Name0", 0, ""));
            all.settled();
        }
        let marks = all.marks();
        let version = u32::try_from(round).unwrap();
        // The new one first, then the old one's end: the order in which a person would do it.
        all.gateways[all.manager].pause();
        all.cluster.write(all.manager, &new, api_file("same", &format!("Name{}", round + 1), version, ""));
        std::thread::sleep(Duration::from_millis(pause_ms / 2));
        fs::remove_file(all.cluster.nodes[all.manager].root.join(&old)).unwrap();
        all.gateways[all.manager].resume();
        all.settled();
        all.check_others(&marks, vec![format!("-{old}"), format!("+{new}")]);
    }
}

#[test]
fn the_last_of_several_versions_is_served_whatever_its_time() {
    let all = gateways("", |root| drop(tree::generate(root, 100, &mut support::rng("its tree"))));
    let path = "default/api/Pet.xml";
    let version = |number| api_file("pet", "Pet", number, "");
    all.cluster.write(all.manager, path, version(0));
    all.settled();
    for round in 0..5 {
        // Two within one second, and often within one scan of no gateway.
        let (first, last) = (version(round * 2 + 1), version(round * 2 + 2));
        all.cluster.write(all.manager, path, first);
        std::thread::sleep(Duration::from_millis(150 * u64::from(round)));
        all.cluster.write(all.manager, path, &last);
        for node in all.others {
            all.gateways[node].wait_serves("api", "Pet", &last, LONG);
        }
    }
    // An older version comes back with an older time.
    let manager = all.cluster.nodes[all.manager].root.join(path);
    fs::write(&manager, version(1)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    fs::File::options().write(true).open(&manager).unwrap().set_modified(old).unwrap();
    for node in all.others {
        all.gateways[node].wait_serves("api", "Pet", &version(1), LONG);
    }
}

#[test]
fn half_a_file_is_never_published() {
    let all = gateways("", |root| drop(tree::generate(root, 100, &mut support::rng("its tree"))));
    let path = "default/api/Pet.xml";
    let whole = |number| api_file("pet", "Pet", number, "<log level=\"full\"/>");
    all.cluster.write(all.manager, path, whole(0));
    all.settled();
    let marks = all.marks();
    let generation = all.cluster.status(all.manager).unwrap()["generation"].as_u64().unwrap();
    let file = all.cluster.nodes[all.manager].root.join(path);
    // The manager's own gateway would write its version back over the half.
    all.gateways[all.manager].pause();
    // Open all the time, for longer than a publish waits for quiet.
    let text = whole(1);
    let (begin, end) = text.split_at(60);
    let mut writer = fs::File::create(&file).unwrap();
    writer.write_all(begin.as_bytes()).unwrap();
    all.gateways[all.others[0]].wait_scans(3, LONG);
    writer.write_all(end.as_bytes()).unwrap();
    drop(writer);
    for node in all.others {
        all.gateways[node].wait_serves("api", "Pet", &text, LONG);
    }
    // Closed in between: only its being no XML tells, and what else there is goes out.
    let text = whole(2);
    fs::write(&file, &text[..60]).unwrap();
    all.cluster.wait("it is held and named", LONG, || {
        all.cluster.status(all.others[0]).is_some_and(|status| has_problem(&status, "malformed-xml"))
    });
    all.cluster.write(all.manager, "default/endpoints/e.xml", "<endpoint name=\"e\"/>");
    for node in all.others {
        all.gateways[node].wait_serves("endpoints", "e", "<endpoint name=\"e\"/>", LONG);
    }
    fs::write(&file, &text).unwrap();
    for node in all.others {
        all.gateways[node].wait_serves("api", "Pet", &text, LONG);
    }
    let update = format!("~{path}");
    all.check_others(&marks, vec![update.clone(), update, "+default/endpoints/e.xml".to_owned()]);
    let after = all.cluster.status(all.manager).unwrap()["generation"].as_u64().unwrap();
    assert_eq!(after, generation + 3);
}

#[test]
fn malformed_xml_is_held_and_named_until_it_is_mended() {
    let all = gateways("", |root| {
        fs::write(root.join("default/api/good.xml"), api_file("good", "good", 1, "")).unwrap();
    });
    all.gateways[all.manager].pause();
    let cluster = &all.cluster;
    let bad = "<api name=\"good\"\n context=\"/good/v1\">\n <resource>\n</api>";
    cluster.write(all.manager, "default/api/good.xml", bad);
    cluster.write(all.manager, "default/api/new.xml", "no xml");
    cluster.write(all.manager, "default/api/other.xml", api_file("other", "other", 1, ""));
    cluster.write(all.manager, "default/readme.txt", "no xml either");
    for node in all.others {
        cluster.wait_content(node, "default/readme.txt", "no xml either", LONG);
        cluster.wait_content(node, "default/api/other.xml", api_file("other", "other", 1, ""), LONG);
    }
    let manager = cluster.nodes[all.manager].name.clone();
    let mut status = cluster.status(all.manager).unwrap();
    cluster.wait("both are held", LONG, || {
        status = cluster.status(all.manager).unwrap();
        row(&status, &manager).unwrap()["held"] == 2
    });
    let problems = status["problems"].as_array().unwrap();
    let found = problems.iter().find(|problem| problem["path"] == "default/api/good.xml").unwrap();
    assert_eq!((&found["code"], &found["node"]), (&"malformed-xml".into(), &manager.as_str().into()));
    let message = found["message"].as_str().unwrap();
    assert!(message.contains("line 4: expected 'resource' tag, not 'api'"), "{message}");
    assert_eq!(status["health"], "degraded");
    let (code, plan, _) = cluster.cli(all.manager, &["plan"]);
    assert_eq!(code, 1, "{plan}");
    assert!(plan.contains("malformed-xml"), "{plan}");
    for node in all.others {
        assert_eq!(
            cluster.read(node, "default/api/good.xml").unwrap(),
            api_file("good", "good", 1, "").as_bytes()
        );
        assert_eq!(cluster.read(node, "default/api/new.xml"), None);
    }
    cluster.write(all.manager, "default/api/good.xml", api_file("good", "good", 2, ""));
    fs::remove_file(cluster.nodes[all.manager].root.join("default/api/new.xml")).unwrap();
    for node in all.others {
        cluster.wait_content(node, "default/api/good.xml", api_file("good", "good", 2, ""), LONG);
    }
    cluster.wait("nothing is held", LONG, || {
        cluster
            .status(all.manager)
            .is_some_and(|status| !has_problem(&status, "malformed-xml") && status["health"] == "ok")
    });
}

#[test]
fn malformed_xml_goes_out_with_warn_and_is_named() {
    let all = gateways("\n[sync]\nvalidate = \"warn\"\n", |root| {
        fs::write(root.join("default/api/good.xml"), api_file("good", "good", 1, "")).unwrap();
    });
    all.cluster.write(all.manager, "default/other.xml", "<half");
    for node in all.others {
        all.cluster.wait_content(node, "default/other.xml", "<half", LONG);
    }
    all.cluster.wait("it is named", LONG, || {
        all.cluster.status(all.manager).is_some_and(|status| has_problem(&status, "malformed-xml"))
    });
    let status = all.cluster.status(all.manager).unwrap();
    assert_eq!(row(&status, &all.cluster.nodes[all.manager].name).unwrap()["held"], 0);
}

#[test]
fn a_bad_artifact_is_pushed_three_times_and_its_fix_is_deployed() {
    let all = gateways("\n[sync]\nvalidate = \"off\"\n", |root| {
        fs::write(root.join("default/api/Pet.xml"), api_file("pet", "Pet", 1, "")).unwrap();
    });
    let path = "default/api/Pet.xml";
    let bad = "<api name=\"Pet\" context=\"/pet/v1\"><resource></api>";
    // On the manager it is the gateway's own doing: its memory has what its file lacks.
    all.gateways[all.manager].pause();
    let marks = all.marks();
    all.cluster.write(all.manager, path, bad);
    let node = all.others[0];
    let name = all.cluster.nodes[node].name.clone();
    let mut found = None;
    all.cluster.wait("it is given up on both", LONG, || {
        let Some(status) = all.cluster.status(all.manager) else { return false };
        let problems = status["problems"].as_array().unwrap();
        let given_up: Vec<_> = problems
            .iter()
            .filter(|problem| {
                problem["code"] == "rejected"
                    && problem["message"].as_str().unwrap().contains("not written again")
            })
            .collect();
        found = given_up
            .iter()
            .find(|problem| problem["node"] == name.as_str())
            .map(|problem| (*problem).clone());
        given_up.len() == 2
    });
    let message = found.unwrap()["message"].as_str().unwrap().to_owned();
    let (_, rest) = message.split_once("in quarantine here as ").unwrap_or_else(|| panic!("{message}"));
    let (code, content, error) = all.cluster.cli(node, &["quarantine", "show", rest, "--content"]);
    assert_eq!((code, content.as_str()), (0, bad), "{error}");
    // Nothing more comes of it.
    all.gateways[node].wait_scans(4, LONG);
    for node in all.others {
        let events = all.gateways[node].since(marks[node]);
        let tries: Vec<_> = events.iter().filter(|event| matches!(event.did, Did::Failed(_))).collect();
        assert_eq!(tries.len(), 3, "{events:#?}");
        for pair in tries.windows(2) {
            let between = pair[1].at.duration_since(pair[0].at).unwrap();
            assert!(between >= Duration::from_millis(SCAN_MS.parse().unwrap()), "{between:?}");
        }
        assert!(all.gateways[node].serves("api", "Pet").is_some(), "served all the time");
    }
    let fix = api_file("pet", "Pet", 2, "");
    let scans: Vec<usize> = all.gateways.iter().map(|gateway| gateway.scans().len()).collect();
    all.cluster.write(all.manager, path, &fix);
    for node in all.others {
        all.gateways[node].wait_serves("api", "Pet", &fix, LONG);
        let took = all.gateways[node].scans().len() - scans[node];
        assert!(took <= 4, "{took} scans");
    }
    all.cluster.wait("all is well", LONG, || {
        all.cluster.status(all.manager).is_some_and(|status| !has_problem(&status, "rejected"))
    });
}

#[test]
fn a_fix_that_the_gateway_swallows_is_loaded_by_the_time_that_follows() {
    let all = gateways("\n[sync]\nvalidate = \"off\"\n", |root| {
        fs::write(root.join("default/api/Pet.xml"), api_file("pet", "Pet", 1, "")).unwrap();
    });
    let path = "default/api/Pet.xml";
    let node = all.others[0];
    let gateway = &all.gateways[node];
    all.gateways[all.manager].pause();
    gateway.pause();
    let mark = gateway.mark();
    all.cluster.write(all.manager, path, "<api");
    all.cluster.wait_content(node, path, "<api", LONG);
    // One scan meets the bad version and writes its own back; the fix is there before the next one.
    gateway.scan();
    assert_eq!(gateway.brief(mark), [format!("!{path}"), format!("<{path}")]);
    let name = all.cluster.nodes[node].name.clone();
    all.cluster.wait("rejected", LONG, || {
        let Some(status) = all.cluster.status(node) else { return false };
        status["problems"]
            .as_array()
            .unwrap()
            .iter()
            .any(|problem| problem["code"] == "rejected" && problem["node"] == name.as_str())
    });
    let fix = api_file("pet", "Pet", 2, "");
    all.cluster.write(all.manager, path, &fix);
    all.cluster.wait_content(node, path, &fix, LONG);
    let file = all.cluster.nodes[node].root.join(path);
    let pushed = fs::metadata(&file).unwrap().mtime();
    gateway.scan();
    assert_ne!(
        gateway.serves("api", "Pet").unwrap().content,
        fix,
        "the change was taken for the gateway's own"
    );
    all.cluster.wait("a new time", LONG, || fs::metadata(&file).unwrap().mtime() > pushed);
    gateway.scan();
    assert_eq!(gateway.serves("api", "Pet").unwrap().content, fix);
    assert_eq!(fs::read_to_string(&file).unwrap(), fix);
}

#[test]
fn a_redeploy_loads_files_again_once_on_every_node_also_where_the_daemon_was_down() {
    let pet = api("Pet", 1);
    let mut all = gateways("", |root| {
        for (path, content) in &pet {
            fs::write(root.join(path), content).unwrap();
        }
    });
    let (path, endpoint) = (&pet[4].0, &pet[1].0);
    let generation = all.cluster.status(all.manager).unwrap()["generation"].clone();
    let (down, up) = (all.others[0], all.others[1]);
    assert_eq!(all.cluster.stop(down), Some(0));
    let marks = all.marks();
    let absolute = all.cluster.nodes[up].root.join(endpoint);
    let (code, said, error) = all.cluster.cli(up, &["redeploy", path, absolute.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    assert!(said.contains("2 files get a new time on every node"), "{said}");
    let expected = [format!("~{path}"), format!("~{endpoint}")];
    for node in [all.manager, up] {
        all.cluster.wait("both are loaded again", LONG, || all.gateways[node].brief(marks[node]).len() == 2);
        assert_eq!(all.gateways[node].brief(marks[node]), expected);
    }
    assert_eq!(all.gateways[down].brief(marks[down]), [""; 0]);
    all.cluster.start(down);
    all.cluster.wait("both are loaded again", LONG, || all.gateways[down].brief(marks[down]).len() == 2);
    // Once, also after another start; no content changed, and nothing drifted.
    all.cluster.kill(up);
    all.cluster.start(up);
    all.cluster.wait_in_sync(&[0, 1, 2], LONG);
    all.settled();
    for (node, mark) in marks.iter().enumerate() {
        assert_eq!(all.gateways[node].brief(*mark), expected, "on {}", all.cluster.nodes[node].name);
        let status = all.cluster.status(node).unwrap();
        assert_eq!(status["generation"], generation);
        assert_eq!(row(&status, &all.cluster.nodes[node].name).unwrap()["drifted"], 0);
        for (path, content) in &pet {
            assert_eq!(all.cluster.read(node, path).unwrap(), content.as_bytes());
        }
    }
    let (code, _, error) = all.cluster.cli(up, &["redeploy", "default/api/none.xml"]);
    assert_eq!(code, 1);
    assert!(error.contains("is in no root's newest generation"), "{error}");
}
