//! The model of the gateway's hot deployer against the facts that it stands for, scan by scan and without any daemon.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of a test end it as the test itself would"
)]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use support::deployer::{Deployer, Did, Gateway, api_file};

const GATEWAY: Gateway =
    Gateway { tick: Duration::from_millis(20), update_takes: Duration::ZERO, undeploys_with_folder: false };
const LONG: Duration = Duration::from_secs(10);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        for folder in ["api", "endpoints", "sequences", "proxy-services"] {
            fs::create_dir_all(this.0.path().join("default").join(folder)).unwrap();
        }
        this
    }

    /// Writes a file with a time of its own, in seconds after some moment.
    fn write(&self, path: &str, content: &str, second: u64) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        touch(&path, second, 0);
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.0.path().join(path)).unwrap();
    }

    fn gateway(&self) -> Deployer {
        Deployer::stepped(self.0.path(), GATEWAY)
    }
}

fn touch(path: &Path, second: u64, nanos: u32) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000 + second, nanos);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

const A: &str = "default/api/a.xml";

fn a(version: u32) -> String {
    api_file("a", "a", version, "")
}

/// What one scan did.
#[track_caller]
fn check(gateway: &Deployer, expected: &[&str]) {
    let mark = gateway.mark();
    gateway.scan();
    assert_eq!(gateway.brief(mark), expected);
}

#[test]
fn only_the_whole_second_counts() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    let gateway = folder.gateway();
    assert_eq!(gateway.brief(0), [format!("+{A}")], "loaded at the start");
    check(&gateway, &[]);
    // Other content under the same second is not seen; an older second is; equal content under another second is loaded.
    folder.write(A, &a(2), 10);
    touch(&folder.0.path().join(A), 10, 999_999_999);
    check(&gateway, &[]);
    assert_eq!(gateway.serves("api", "a").unwrap().content, a(1));
    touch(&folder.0.path().join(A), 5, 0);
    check(&gateway, &["~default/api/a.xml"]);
    assert_eq!(gateway.serves("api", "a").unwrap().content, a(2));
    touch(&folder.0.path().join(A), 6, 0);
    check(&gateway, &["~default/api/a.xml"]);
}

#[test]
fn a_new_file_that_fails_is_not_tried_again_before_its_second_changes() {
    let folder = Folder::new();
    let gateway = folder.gateway();
    folder.write(A, &a(1)[..40], 10);
    check(&gateway, &["!default/api/a.xml"]);
    folder.write(A, &a(1), 10);
    check(&gateway, &[]);
    touch(&folder.0.path().join(A), 11, 0);
    check(&gateway, &["+default/api/a.xml"]);
    assert!(!folder.0.path().join("default/api/a.xml.back").exists());
}

#[test]
fn an_update_that_fails_is_written_back_and_the_next_change_is_swallowed() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    let gateway = folder.gateway();
    gateway.scan();
    folder.write(A, "<api", 11);
    check(&gateway, &["!default/api/a.xml", "<default/api/a.xml"]);
    let back = folder.read(A);
    assert_ne!(back, a(1), "in other bytes");
    assert!(back.contains("url-mapping=\"/1\""));
    assert_eq!(gateway.serves("api", "a").unwrap().content, a(1), "served all the time");
    // A fix that comes before the next scan is taken for the restore.
    folder.write(A, &a(3), 30);
    check(&gateway, &[".default/api/a.xml"]);
    check(&gateway, &[]);
    touch(&folder.0.path().join(A), 31, 0);
    check(&gateway, &["~default/api/a.xml"]);
    assert_eq!(gateway.serves("api", "a").unwrap().content, a(3));
    // One that comes a scan later is not.
    folder.write(A, "<api", 40);
    check(&gateway, &["!default/api/a.xml", "<default/api/a.xml"]);
    check(&gateway, &[".default/api/a.xml"]);
    folder.write(A, &a(4), 50);
    check(&gateway, &["~default/api/a.xml"]);
}

#[test]
fn what_is_gone_is_undeployed_first_and_only_below_a_folder_that_stands() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    folder.write("default/proxy-services/mine/p.xml", "<proxy name=\"p\"/>", 10);
    let gateway = folder.gateway();
    check(&gateway, &["+default/proxy-services/mine/p.xml"]);
    // The same API under another name: its context is free again in time.
    folder.remove(A);
    folder.write("default/api/b.xml", &api_file("a", "b", 1, ""), 11);
    check(&gateway, &["+default/api/b.xml", "-default/api/a.xml"]);
    fs::remove_dir_all(folder.0.path().join("default/proxy-services")).unwrap();
    check(&gateway, &[]);
    assert!(gateway.serves("proxy-services", "p").is_some());

    let other = Folder::new();
    other.write(A, &a(1), 10);
    let old = Deployer::stepped(other.0.path(), Gateway { undeploys_with_folder: true, ..GATEWAY });
    old.scan();
    fs::remove_dir_all(other.0.path().join("default")).unwrap();
    check(&old, &["-default/api/a.xml"]);
}

#[test]
fn a_file_that_is_back_when_its_turn_comes_is_updated() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    let gateway = folder.gateway();
    gateway.scan();
    folder.remove(A);
    let path = folder.0.path().join(A);
    let mark = gateway.mark();
    gateway.scan_with(move || fs::write(path, a(2)).unwrap());
    assert_eq!(gateway.brief(mark), [""; 0]);
    check(&gateway, &["~default/api/a.xml"]);
}

#[test]
fn content_is_read_after_the_listing() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    let gateway = folder.gateway();
    gateway.scan();
    folder.write(A, &a(2), 11);
    let path = folder.0.path().join(A);
    gateway.scan_with(move || fs::write(path, &a(3)[..50]).unwrap());
    let last = gateway.since(0).pop().unwrap();
    assert_eq!(last.did, Did::Restored, "half a file was read under a good time");
}

#[test]
fn names_and_contexts_are_taken_once() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    let gateway = folder.gateway();
    folder.write("default/api/a - Copy.xml", &a(1), 11);
    folder.write("default/api/b.xml", &api_file("a", "b", 1, ""), 11);
    check(&gateway, &["!default/api/a - Copy.xml", "!default/api/b.xml"]);
    // A rename inside the file takes the new name before it gives the old one up.
    folder.write(A, &api_file("a", "other", 1, ""), 12);
    check(&gateway, &["!default/api/a.xml", "<default/api/a.xml"]);
    check(&gateway, &[".default/api/a.xml"]);
    folder.write(A, &api_file("c", "other", 1, ""), 20);
    check(&gateway, &["~default/api/a.xml"]);
    assert!(gateway.serves("api", "a").is_none() && gateway.serves("api", "other").is_some());
}

#[test]
fn main_and_fault_come_back_from_memory() {
    let folder = Folder::new();
    folder.write("default/sequences/main.xml", "<sequence name=\"main\"/>", 10);
    folder.write("default/sequences/s.xml", "<sequence name=\"s\"/>", 10);
    let gateway = folder.gateway();
    gateway.scan();
    folder.remove("default/sequences/main.xml");
    folder.remove("default/sequences/s.xml");
    check(&gateway, &["-default/sequences/s.xml", "<default/sequences/main.xml"]);
    assert!(folder.read("default/sequences/main.xml").contains("from memory"));
    check(&gateway, &[".default/sequences/main.xml"]);
    check(&gateway, &[]);
}

#[test]
fn hidden_files_count_and_hidden_folders_do_not() {
    let folder = Folder::new();
    let gateway = folder.gateway();
    folder.write("default/api/.hidden.xml", &a(1), 10);
    folder.write(".syncd/stage/b.xml", &api_file("b", "b", 1, ""), 10);
    folder.write("default/api/CVS/c.xml", &api_file("c", "c", 1, ""), 10);
    folder.write("default/api/d.xml.tmp", &api_file("d", "d", 1, ""), 10);
    folder.write("default/api/deep/er/e.xml", &api_file("e", "e", 1, ""), 10);
    check(&gateway, &["+default/api/.hidden.xml", "+default/api/deep/er/e.xml"]);
}

#[test]
fn a_start_loads_known_folders_and_the_first_scan_the_rest() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    folder.write("default/api/deep/b.xml", &api_file("b", "b", 1, ""), 10);
    folder.write("default/api/bad.xml", "<api", 10);
    let gateway = folder.gateway();
    assert_eq!(gateway.brief(0), ["!default/api/bad.xml", "+default/api/a.xml"]);
    check(&gateway, &["!default/api/bad.xml", "+default/api/deep/b.xml"]);
    check(&gateway, &[]);
}

#[test]
fn an_api_without_its_endpoint_is_told() {
    let folder = Folder::new();
    folder.write(A, &api_file("a", "a", 1, "<send><endpoint key=\"e\"/></send>"), 10);
    let gateway = folder.gateway();
    gateway.scan();
    assert_eq!(gateway.scans().last().unwrap().broken, [("a".to_owned(), "e".to_owned())]);
    folder.write("default/endpoints/e.xml", "<endpoint name=\"e\"/>", 10);
    gateway.scan();
    assert!(gateway.scans().last().unwrap().broken.is_empty());
}

#[test]
fn it_scans_by_itself_unless_paused_and_updates_take_their_time() {
    let folder = Folder::new();
    folder.write(A, &a(1), 10);
    let takes = Duration::from_millis(50);
    let gateway = Deployer::start(folder.0.path(), Gateway { update_takes: takes, ..GATEWAY });
    gateway.wait_scans(3, LONG);
    gateway.pause();
    let scans = gateway.scans().len();
    folder.write(A, &a(2), 11);
    std::thread::sleep(GATEWAY.tick * 5);
    assert_eq!(gateway.scans().len(), scans);
    gateway.resume();
    gateway.wait_serves("api", "a", &a(2), LONG);
    let updates: Vec<_> = gateway.since(0).into_iter().filter(|event| event.did == Did::Updated).collect();
    assert_eq!(updates.len(), 1);
    let scan = gateway.scans().into_iter().find(|scan| scan.number == updates[0].scan).unwrap();
    assert!(scan.ended.duration_since(scan.began).unwrap() >= takes);
    assert!(scan.began <= scan.listed && scan.listed <= scan.ended);
}
