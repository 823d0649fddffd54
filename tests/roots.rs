//! Several roots: optional ones that appear later, ones that only one side names, and who owns what is written there.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use support::{THREE, TestCluster, has_problem, row, snapshot};

const LONG: Duration = Duration::from_secs(30);
const QUICK: &str = "[sync]\ngather = \"100ms\"\ndelete_grace = \"100ms\"\n";

/// The folder of a root that stands at `index` of the configuration; it is made by whoever wants it.
fn name_root(cluster: &mut TestCluster, node: usize, index: usize, name: &str) -> PathBuf {
    let node = &mut cluster.nodes[node];
    let path = node.root.with_file_name(name);
    node.env.insert(format!("SYNCD_ROOT__{index}__NAME"), name.to_owned());
    node.env.insert(format!("SYNCD_ROOT__{index}__PATH"), path.to_str().unwrap().to_owned());
    path
}

fn wait_file(cluster: &TestCluster, path: &std::path::Path, content: &str) {
    let what = format!("{}", path.display());
    cluster.wait(&what, LONG, || fs::read_to_string(path).is_ok_and(|found| found == content));
}

#[test]
fn several_roots_are_one_generation_and_an_optional_one_may_come_later() {
    let extra = format!(
        "exclude = [\"*.back\"]\n\n[[root]]\nname = \"executionplans\"\npath = \"/set/by/the/environment\"\n\n[[root]]\n\
         name = \"tenants\"\npath = \"/set/by/the/environment\"\noptional = true\n\n{QUICK}"
    );
    let mut cluster = TestCluster::new(THREE, &extra);
    let plans: Vec<PathBuf> = (0..3).map(|node| name_root(&mut cluster, node, 1, "executionplans")).collect();
    let tenants: Vec<PathBuf> = (0..3).map(|node| name_root(&mut cluster, node, 2, "tenants")).collect();
    plans.iter().for_each(|plan| fs::create_dir(plan).unwrap());
    cluster.write(0, "default/api/a.xml", "<api/>");
    // The same path in another root, and what another root's rules leave out.
    fs::create_dir_all(plans[0].join("default/api")).unwrap();
    fs::write(plans[0].join("default/api/a.xml"), "another root").unwrap();
    fs::write(plans[0].join("plan.back"), "no pattern of this root").unwrap();
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    cluster.wait("all to be well", LONG, || cluster.status(0).is_some_and(|status| status["health"] == "ok"));
    for node in 0..3 {
        assert_eq!(cluster.read(node, "default/api/a.xml").unwrap(), b"<api/>");
        assert_eq!(fs::read(plans[node].join("default/api/a.xml")).unwrap(), b"another root");
        assert!(plans[node].join("plan.back").exists());
        assert!(!tenants[node].exists(), "nobody made it");
        let status = cluster.status(node).unwrap();
        let names: Vec<_> = row(&status, &cluster.nodes[node].name).unwrap()["roots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|root| root["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["executionplans", "synapse-configs", "tenants"]);
    }

    // The first tenant: the manager has the folder, gw2 too, gw3 not yet.
    fs::create_dir_all(&tenants[1]).unwrap();
    fs::create_dir_all(tenants[0].join("1/synapse-configs")).unwrap();
    fs::write(tenants[0].join("1/synapse-configs/t.xml"), "<t/>").unwrap();
    wait_file(&cluster, &tenants[1].join("1/synapse-configs/t.xml"), "<t/>");
    cluster.wait("gw3 to say that it lacks the folder", LONG, || {
        cluster.status(2).is_some_and(|status| has_problem(&status, "root-missing"))
    });
    assert!(!tenants[2].exists());
    // The other roots go on there.
    cluster.write(0, "default/api/a.xml", "<api>2</api>");
    cluster.wait_content(2, "default/api/a.xml", "<api>2</api>", LONG);
    fs::create_dir(&tenants[2]).unwrap();
    wait_file(&cluster, &tenants[2].join("1/synapse-configs/t.xml"), "<t/>");
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    // From now on its absence is no delete.
    fs::rename(&tenants[0], tenants[0].with_file_name("away")).unwrap();
    cluster.wait("the manager to miss it", LONG, || {
        cluster.status(1).is_some_and(|status| has_problem(&status, "root-missing"))
    });
    assert!(tenants[1].join("1/synapse-configs/t.xml").exists());
    fs::rename(tenants[0].with_file_name("away"), &tenants[0]).unwrap();
    cluster.wait("all to be well again", LONG, || {
        (0..3).all(|node| cluster.status(node).is_some_and(|status| status["health"] == "ok"))
    });
    for root in [&plans, &tenants] {
        assert!(snapshot(&root[1]) == snapshot(&root[0]) && snapshot(&root[2]) == snapshot(&root[0]));
    }
}

#[test]
fn a_root_that_only_one_side_names_is_neither_written_nor_deleted() {
    let mut cluster = TestCluster::new(THREE, QUICK);
    // gw1 alone names one that has content, gw2 alone names another, and gw3 has a folder of the first one's name.
    let first = name_root(&mut cluster, 0, 1, "first");
    let second = name_root(&mut cluster, 1, 1, "second");
    let stranger = cluster.nodes[2].root.with_file_name("first");
    for folder in [&first, &second, &stranger] {
        fs::create_dir(folder).unwrap();
    }
    // Nothing in gw2's yet: content of two candidates would have to be equal.
    fs::write(first.join("x.xml"), "of gw1").unwrap();
    fs::write(stranger.join("x.xml"), "of nobody").unwrap();
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    assert_eq!(cluster.wait_manager(LONG), 0);
    fs::write(second.join("x.xml"), "of gw2").unwrap();
    cluster.write(0, "default/api/b.xml", "<api>b</api>");
    fs::write(first.join("y.xml"), "published").unwrap();
    for node in [1, 2] {
        cluster.wait_content(node, "default/api/b.xml", "<api>b</api>", LONG);
    }
    cluster.wait_in_sync(&[0], LONG);
    // A walk later nothing has changed in what one side alone names.
    let walk = cluster.status(0).unwrap()["generation"].as_u64().unwrap();
    cluster.write(0, "default/api/c.xml", "<api>c</api>");
    for node in [1, 2] {
        cluster.wait_content(node, "default/api/c.xml", "<api>c</api>", LONG);
    }
    assert!(cluster.status(0).unwrap()["generation"].as_u64().unwrap() > walk);
    assert_eq!(fs::read(second.join("x.xml")).unwrap(), b"of gw2");
    assert!(!second.join("y.xml").exists() && !second.join("default").exists());
    assert_eq!(fs::read(stranger.join("x.xml")).unwrap(), b"of nobody");
    assert!(!stranger.join("y.xml").exists() && !stranger.join(".syncd").exists());
    assert_eq!(fs::read(first.join("x.xml")).unwrap(), b"of gw1");
    for node in [1, 2] {
        let status = cluster.status(node).unwrap();
        let row = row(&status, &cluster.nodes[node].name).unwrap();
        assert_eq!((&row["drifted"], &row["quarantined"]), (&0.into(), &0.into()), "{row}");
    }
}

#[test]
fn files_belong_to_whom_the_rules_name() {
    let extra = format!("owner = \"daemon\"\ngroup = \"nogroup\"\n{QUICK}");
    let mut cluster = TestCluster::new(THREE, &extra);
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    assert_eq!(cluster.wait_manager(LONG), 0);
    let id = |file: &str, name: &str| -> u32 {
        let table = fs::read_to_string(file).unwrap();
        let line = table.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split(':').nth(2).unwrap().parse().unwrap()
    };
    let expected = (id("/etc/passwd", "daemon"), id("/etc/group", "nogroup"));
    let owner = |node: usize, path: &str| {
        let meta = fs::symlink_metadata(cluster.nodes[node].root.join(path)).unwrap();
        (meta.uid(), meta.gid())
    };
    cluster.write(0, "default/api/b.xml", "<api>b</api>");
    for node in [1, 2] {
        cluster.wait_content(node, "default/api/b.xml", "<api>b</api>", LONG);
        for path in ["default", "default/api", "default/api/a.xml", "default/api/b.xml"] {
            assert_eq!(owner(node, path), expected, "{path} on {node}");
        }
        assert!(!has_problem(&cluster.status(node).unwrap(), "unknown-owner"));
    }
    assert_eq!(owner(0, "default/api/a.xml"), (0, 0), "the manager's folder is the source");
}

#[test]
fn an_owner_that_a_host_does_not_know_is_named_and_replaced_by_the_daemons_user() {
    let mut cluster = TestCluster::new(THREE, &format!("owner = \"no-such-user\"\n{QUICK}"));
    cluster.write(0, "default/api/a.xml", "<api/>");
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], LONG);
    cluster.wait("the problem on each node", LONG, || {
        [1, 2]
            .iter()
            .all(|node| cluster.status(*node).is_some_and(|status| has_problem(&status, "unknown-owner")))
    });
    let (code, text, _) = cluster.cli(1, &["status"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no-such-user"), "{text}");
    for node in [1, 2] {
        let meta = fs::metadata(cluster.nodes[node].root.join("default/api/a.xml")).unwrap();
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    }
}
