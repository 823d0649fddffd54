//! Random work on the manager while workers die at random: everything ends equal, and no reader ever sees a part of a
//! file or its absence.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use support::{STEADY, THREE, TestCluster, tree};

const OPERATIONS: usize = 500;
const HOT: &str = "default/api/hot.xml";

#[test]
fn random_operations_while_workers_die() {
    let mut rng = support::rng("random_operations_while_workers_die");
    let mut cluster = TestCluster::new(
        THREE,
        &format!(
            "[sync]\ngather = \"50ms\"\ndelete_grace = \"50ms\"\nsettle_max = \"200ms\"\nmax_delete = 100000\n{STEADY}"
        ),
    );
    tree::generate(&cluster.nodes[0].root, 200, &mut rng);
    cluster.write(0, HOT, hot(0));
    cluster.start_all();
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(60));
    let manager = cluster.wait_manager(Duration::from_secs(20));
    assert_eq!(manager, 0, "the only node with content is the first manager");

    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [1, 2]
        .into_iter()
        .map(|node| {
            let (path, stop) = (cluster.nodes[node].root.join(HOT), stop.clone());
            std::thread::spawn(move || read_hot(&path, &stop))
        })
        .collect();

    let root = cluster.nodes[manager].root.clone();
    let mut version = 0;
    for operation in 0..OPERATIONS {
        if operation % 10 == 0 {
            // Renamed into place, so that the manager's own reader could never see a part either.
            version += 1;
            let next = cluster.dir.path().join("hot.next");
            fs::write(&next, hot(version)).unwrap();
            fs::rename(&next, root.join(HOT)).unwrap();
        } else {
            operate(&root, &mut rng, operation);
        }
        if rng.random_bool(0.02) {
            let worker = *[1, 2].choose(&mut rng).unwrap();
            cluster.kill(worker);
            cluster.start(worker);
        }
        if rng.random_bool(0.2) {
            // Spreads the work over several generations; nothing waits on it.
            std::thread::sleep(Duration::from_millis(rng.random_range(1..60)));
        }
    }
    cluster.wait_content(1, HOT, hot(version), Duration::from_secs(60));
    cluster.wait_content(2, HOT, hot(version), Duration::from_secs(60));
    // A folder goes one scan of the gateway after its last artifact, hence the bound.
    cluster.wait_equal(&[0, 1, 2], Duration::from_secs(90));
    cluster.wait_in_sync(&[0, 1, 2], Duration::from_secs(30));
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let (reads, versions) = reader.join().unwrap();
        assert!(reads > 100 && versions > 3, "the reader read: {reads} times, {versions} versions");
    }
    for node in &cluster.nodes {
        cluster.wait("no temporary file to be left", Duration::from_secs(20), || {
            leftovers(&node.root).is_empty()
        });
    }
}

fn hot(version: u32) -> String {
    let line = format!("<version>{version}</version>\n");
    format!("<api>\n{}</api>\n", line.repeat(200 + (version as usize * 37) % 400))
}

/// Reads until told to stop: each time a whole version, never an older one than before.
fn read_hot(path: &Path, stop: &AtomicBool) -> (u64, u64) {
    let (mut reads, mut versions, mut newest) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let text = fs::read_to_string(path).expect("the hot file is never absent");
        let version: u32 = text
            .split("<version>")
            .nth(1)
            .and_then(|rest| rest.split('<').next())
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("a part of a file: {} bytes", text.len()));
        assert_eq!(text, hot(version), "a part of a file");
        assert!(version >= newest, "version {version} after {newest}");
        versions += u64::from(version > newest);
        newest = version;
        reads += 1;
    }
    (reads, versions)
}

fn operate(root: &Path, rng: &mut StdRng, number: usize) {
    let files = list(root, false);
    let folders = list(root, true);
    let folder = folders.choose(rng).cloned().unwrap_or_else(|| root.join("default"));
    let file = files.choose(rng).cloned();
    // A name in use, or a folder that is not empty, makes an operation fail: as it may for any program.
    let _may_fail = match (rng.random_range(0..100), file) {
        (0..30, _) | (_, None) => {
            fs::write(folder.join(format!("new-{number}.xml")), tree::artifact(rng, 900))
        }
        (30..50, Some(file)) => fs::write(file, tree::artifact(rng, 1500)),
        (50..60, Some(file)) => fs::OpenOptions::new()
            .append(true)
            .open(file)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"<!-- appended -->\n")),
        (60..70, Some(file)) => fs::rename(file, folder.join(format!("moved-{number}.xml"))),
        (70..80, Some(file)) => fs::remove_file(file),
        (80..86, _) => fs::create_dir_all(folder.join(format!("folder-{number}/inner"))),
        (86..90, _) if folder != root.join("default") && folder.starts_with(root.join("default")) => {
            fs::remove_dir(&folder)
        }
        (90..95, Some(file)) => {
            let mode = *[0o600, 0o640, 0o644, 0o664].choose(rng).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(mode))
        }
        (_, Some(file)) => std::os::unix::fs::symlink(
            file.file_name().unwrap(),
            file.with_file_name(format!("link-{number}.xml")),
        ),
    };
}

fn list(root: &Path, folders: bool) -> Vec<PathBuf> {
    support::snapshot(root)
        .into_iter()
        .filter(|(path, seen)| {
            path.to_str() != Some(HOT)
                && match seen {
                    support::Seen::Folder { .. } => folders,
                    support::Seen::File { .. } => !folders,
                    support::Seen::Link { .. } => false,
                }
        })
        .map(|(path, _)| root.join(path))
        .collect()
}

/// What the work area holds besides the mark.
fn leftovers(root: &Path) -> Vec<PathBuf> {
    support::snapshot(&root.join(".syncd"))
        .into_iter()
        .filter(|(path, seen)| matches!(seen, support::Seen::File { .. }) && path.to_str() != Some("member"))
        .map(|(path, _)| path)
        .collect()
}
