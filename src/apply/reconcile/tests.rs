//! Moving real files: what is touched, what is kept, and what an interruption leaves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::apply::displaced::{clear_leftovers, drop_displaced};
use crate::apply::testing::{File, Fixture, Folder, Link, Mode, place};
use crate::model::ContentHash;

#[test]
fn brings_an_empty_root_to_the_head_and_records_it() {
    let mut fixture = Fixture::new();
    let entries =
        [("d", Folder), ("d/a", File("1")), ("d/x", Mode("run", 0o755)), ("l", Link("d/a")), ("e", Folder)];
    fixture.commit(&entries, 100);
    let outcome = fixture.apply();
    assert_eq!(fixture.observed(), fixture.store.head().unwrap().forest);
    assert_eq!(fixture.stat("d/a").1, 100);
    assert_eq!(fixture.stat("d/x").2, 0o755);
    assert_eq!(fixture.store.applied().unwrap(), Some(fixture.record()));
    assert_eq!(fixture.store.applying().unwrap(), None);
    assert_eq!(fixture.store.last_second(&place("d/a")).unwrap(), Some(100));
    assert_eq!(fixture.store.quarantine_count(), 0);
    assert_eq!(fixture.staged(), 0);
    assert!(outcome.displaced.is_empty());
    let told: Vec<String> = outcome.written.iter().map(|(place, _)| place.path.to_string()).collect();
    assert_eq!(told, ["d", "e", "d/a", "d/x"]);
}

#[test]
fn equal_content_is_not_touched_and_a_mode_is_set_in_place() {
    let mut fixture = Fixture::new();
    fixture.write("same", "1");
    fixture.write("mode", "2");
    let (same, mode) = (fixture.stat("same"), fixture.stat("mode"));
    fixture.commit(&[("same", File("1")), ("mode", Mode("2", 0o600)), ("new", File("3"))], 100);
    fixture.apply();
    assert_eq!(fixture.stat("same"), same);
    assert_eq!(fixture.stat("mode"), (mode.0, mode.1, 0o600));
    assert_eq!(fixture.stat("new").1, 100);
    assert_eq!(fixture.store.quarantine_count(), 0);
}

#[test]
fn unknown_content_goes_to_quarantine_known_content_does_not() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1")), ("b", File("1b")), ("c", File("1c"))], 100);
    fixture.apply();
    fixture.commit(&[("a", File("2")), ("b", File("2b"))], 200);
    fixture.write("a", "local");
    let outcome = fixture.apply();
    assert_eq!((fixture.read("a"), fixture.read("b")), ("2".to_owned(), "2b".to_owned()));
    assert!(!fixture.path("c").exists());
    assert_eq!(fixture.quarantined(), [("a".to_owned(), "local".to_owned())]);
    assert_eq!(outcome.quarantined, [place("a")]);
    assert_eq!(outcome.displaced.len(), 3, "what came out waits for a second look");
    let (kept, copied) = drop_displaced(&fixture.store, outcome.displaced);
    assert_eq!((kept.len(), copied, fixture.staged()), (0, 0, 0));
}

#[test]
fn what_a_late_writer_adds_is_kept() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1"))], 100);
    fixture.apply();
    let mut writer = fs::OpenOptions::new().append(true).open(fixture.path("a")).unwrap();
    fixture.commit(&[("a", File("2"))], 200);
    let outcome = fixture.carry_out(fixture.observed().edits(&fixture.store.head().unwrap().forest));
    // The open file is busy for the walk, so that nothing is observed there: it is found when it is placed.
    let outcome = outcome.unwrap();
    assert_eq!(fixture.read("a"), "2");
    assert_eq!(fixture.store.quarantine_count(), 0);
    std::io::Write::write_all(&mut writer, b" and more").unwrap();
    let (kept, copied) = drop_displaced(&fixture.store, outcome.displaced);
    assert_eq!((kept.len(), copied), (0, 1));
    assert_eq!(fixture.quarantined(), [("a".to_owned(), "1 and more".to_owned())]);
}

#[test]
fn links_are_known_by_their_target() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("l", Link("one")), ("m", Link("one"))], 100);
    fixture.apply();
    fs::remove_file(fixture.path("m")).unwrap();
    symlink("mine", fixture.path("m")).unwrap();
    fixture.commit(&[("l", Link("two")), ("m", File("now a file"))], 100);
    fixture.apply();
    assert_eq!(fs::read_link(fixture.path("l")).unwrap().to_str(), Some("two"));
    assert_eq!(fixture.read("m"), "now a file");
    let items = fixture.store.quarantine_list().unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].what.entry, Link("mine").entry());
}

#[test]
fn kinds_change_in_every_direction() {
    let kinds: [&[(&str, crate::apply::testing::What)]; 4] = [
        &[("p", File("content"))],
        &[("p", Folder), ("p/x", File("in it")), ("p/g", Folder), ("p/g/y", File("deep"))],
        &[("p", Link("q"))],
        &[],
    ];
    for from in kinds {
        for to in kinds {
            let mut fixture = Fixture::new();
            fixture.commit(from, 100);
            fixture.apply();
            assert_eq!(fixture.observed(), fixture.store.head().unwrap().forest);
            fixture.commit(to, 100);
            fixture.apply();
            assert_eq!(fixture.observed(), fixture.store.head().unwrap().forest, "{from:?} to {to:?}");
            assert_eq!(fixture.store.quarantine_count(), 0);
        }
    }
}

#[test]
fn a_folder_with_excluded_files_is_left_and_blocks_a_file() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("f", Folder), ("f/a", File("1")), ("z", File("1"))], 100);
    fixture.apply();
    fixture.write("f/mine.skip", "mine");
    fixture.commit(&[("f", File("a file")), ("z", File("2"))], 100);
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    let failed = fixture.carry_out(edits).unwrap_err();
    assert!(
        matches!(&failed.error, ApplyError::Blocked { place } if *place == self::place("f")),
        "{failed:?}"
    );
    // Whole at the old generation: everything was taken back.
    assert_eq!((fixture.read("f/a"), fixture.read("z")), ("1".to_owned(), "1".to_owned()));
    assert_eq!(fixture.read("f/mine.skip"), "mine");
    assert_eq!(fixture.store.applied().unwrap().unwrap().number, 1);
    assert_eq!(fixture.store.applying().unwrap(), None);
    drop_displaced(&fixture.store, failed.displaced);
    assert_eq!((fixture.staged(), fixture.store.quarantine_count()), (0, 0));
    fixture.commit(&[("z", File("2"))], 100);
    let outcome = fixture.apply();
    assert_eq!(outcome.kept, [place("f")]);
    assert_eq!(fixture.read("f/mine.skip"), "mine");
}

#[test]
fn the_second_always_advances_when_content_changes() {
    let mut fixture = Fixture::new();
    let mut last = 0;
    for (content, second) in [("1", 100), ("2", 100), ("3", 50), ("1", 101), ("2", 5000), ("3", 10)] {
        fixture.commit(&[("a", File(content))], second);
        fixture.apply();
        let now = fixture.stat("a").1;
        assert!(now > last, "{content}: {now} after {last}");
        assert!(now >= second);
        last = now;
    }
    // Through a delete.
    fixture.commit(&[], 0);
    fixture.apply();
    fixture.commit(&[("a", File("3"))], 10);
    fixture.apply();
    assert_eq!(fixture.stat("a").1, last + 1);
    // After a local change with a later time.
    fixture.write("a", "local");
    let local = fixture.stat("a").1;
    fixture.apply();
    assert_eq!(fixture.stat("a").1, local + 1);
}

#[test]
fn a_reader_never_sees_a_part_or_an_absence() {
    let mut fixture = Fixture::new();
    let contents = ["a", "b"].map(|letter| -> &'static str { letter.repeat(40_000).leak() });
    fixture.commit(&[("hot", File(contents[0]))], 100);
    fixture.apply();
    let path = fixture.path("hot");
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let bytes = fs::read(&path).expect("never absent");
                assert_eq!(bytes.len(), 40_000, "never a part");
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "never a mixture");
                reads += 1;
            }
            reads
        }
    });
    for round in 1..=200 {
        fixture.commit(&[("hot", File(contents[round % 2]))], 100);
        let outcome = fixture.apply();
        drop_displaced(&fixture.store, outcome.displaced);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 10);
    assert_eq!(fixture.store.quarantine_count(), 0);
}

#[test]
fn a_full_file_system_leaves_the_old_generation_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    fs::create_dir(&mount).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&mount)
        .status()
        .unwrap();
    assert!(mounted.success(), "the tests run as root");
    let mut fixture = Fixture::at(dir, Some(&mount));
    fixture.commit(&[("a", File("1")), ("b", File("1"))], 100);
    fixture.apply();
    let before = (fixture.stat("a"), fixture.stat("b"));
    let big: &'static str = "x".repeat(300_000).leak();
    fixture.commit(&[("a", File("2")), ("b", File(big))], 100);
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    let failed = fixture.carry_out(edits).unwrap_err();
    assert!(failed.error.remedy().contains("free space"), "{}", failed.error.chain());
    assert_eq!(failed.error.place(), Some(&place("b")));
    assert_eq!((fixture.stat("a"), fixture.stat("b")), before);
    assert_eq!(fixture.store.applied().unwrap().unwrap().number, 1);
    drop_displaced(&fixture.store, failed.displaced);
    assert_eq!(fixture.staged(), 0);
    // Once there is room, it goes on by itself.
    fixture.commit(&[("a", File("2")), ("b", File("small"))], 100);
    fixture.apply();
    assert_eq!(fixture.read("b"), "small");
    remount(&fixture, "remount,ro");
    fixture.commit(&[("a", File("3")), ("b", File("small"))], 100);
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    let failed = fixture.carry_out(edits).unwrap_err();
    assert!(failed.error.remedy().contains("writable"), "{}", failed.error.chain());
    assert_eq!(fixture.read("a"), "2");
    let Fixture { dir, root, .. } = fixture;
    drop((root, failed));
    let unmounted = std::process::Command::new("umount").arg(dir.path().join("small")).status().unwrap();
    assert!(unmounted.success());
}

fn remount(fixture: &Fixture, options: &str) {
    let path = fixture.root.path();
    let status = std::process::Command::new("mount").args(["-o", options]).arg(path).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_link_in_the_place_of_a_folder_leads_nowhere() {
    let mut fixture = Fixture::new();
    let outside = fixture.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("a"), "theirs").unwrap();
    fixture.commit(&[("d", Folder), ("d/a", File("1")), ("d/gone", File("1"))], 100);
    fixture.apply();
    fixture.commit(&[("d", Folder), ("d/a", File("2")), ("d/new", File("2"))], 100);
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    // After it was observed, before it is applied.
    fs::rename(fixture.path("d"), fixture.path("moved")).unwrap();
    symlink(&outside, fixture.path("d")).unwrap();
    let failed = fixture.carry_out(edits).unwrap_err();
    assert!(failed.error.place().is_some());
    let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(fs::read_to_string(outside.join("a")).unwrap(), "theirs");
    // What is observed next is put right: the link goes to quarantine, the folder comes back.
    fixture.apply();
    assert_eq!(fixture.observed(), fixture.store.head().unwrap().forest);
    assert_eq!(fs::read_to_string(outside.join("a")).unwrap(), "theirs");
}

#[test]
fn what_was_not_observed_is_found_when_it_comes_out() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1")), ("b", File("1"))], 100);
    fixture.apply();
    fixture.commit(&[("a", File("2")), ("n", File("2"))], 100);
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    fixture.write("a", "local a");
    fixture.write("b", "local b");
    fixture.write("n", "local n");
    fixture.carry_out(edits).unwrap();
    assert_eq!(fixture.observed(), fixture.store.head().unwrap().forest);
    let mut found = fixture.quarantined();
    found.sort();
    let local = |name: &str| (name.to_owned(), format!("local {name}"));
    assert_eq!(found, [local("a"), local("b"), local("n")]);
}

#[test]
fn leftovers_of_a_crash() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("the whole content"))], 100);
    fixture.apply();
    let workshop = fixture.root.workshop().unwrap();
    let stage = |sequence, path: &str, content: &str| {
        let name = StageName::new(1, sequence, &place(path).path);
        let staged = Staged {
            hash: ContentHash::of(content.as_bytes()),
            size: content.len() as u64,
            mode: 0o644,
            owner: None,
            mtime: now(),
        };
        workshop.stage(&name, &mut content.as_bytes(), &staged).unwrap();
    };
    stage(1, "a", "the whole content");
    stage(2, "a", "the who");
    stage(3, "a", "");
    stage(4, "a", "a person wrote this");
    stage(5, "other", "and this");
    // Nothing of it reaches the quarantine while that is broken, and nobody is kept from going on.
    let quarantine = fixture.dir.path().join("quarantine");
    fs::remove_dir(&quarantine).unwrap();
    fs::write(&quarantine, "in the way").unwrap();
    assert_eq!(clear_leftovers(&fixture.store, &fixture.root).unwrap(), 0);
    assert_eq!(fixture.staged(), 2);
    fs::remove_file(&quarantine).unwrap();
    fs::create_dir(&quarantine).unwrap();
    assert_eq!(clear_leftovers(&fixture.store, &fixture.root).unwrap(), 2);
    assert_eq!(fixture.staged(), 0);
    let expected =
        [("a", "a person wrote this"), ("other", "and this")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(fixture.quarantined(), expected);
}

#[test]
fn a_quarantine_without_room_takes_the_change_back() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1")), ("b", File("1"))], 100);
    fixture.apply();
    fixture.commit(&[("a", File("2")), ("b", File("2"))], 100);
    fixture.write("a", "local");
    let quarantine = fixture.dir.path().join("quarantine");
    fs::remove_dir(&quarantine).unwrap();
    fs::write(&quarantine, "in the way").unwrap();
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    let failed = fixture.carry_out(edits).unwrap_err();
    assert!(matches!(failed.error, ApplyError::Quarantine { .. }), "{failed:?}");
    assert_eq!((fixture.read("a"), fixture.read("b")), ("local".to_owned(), "1".to_owned()));
}

#[test]
fn modes_are_taken_back_too() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1")), ("f", Folder), ("f/x", File("1"))], 100);
    fixture.apply();
    fixture.write("f/in.skip", "");
    fixture.commit(&[("a", Mode("1", 0o600)), ("f", File("2")), ("n", Folder)], 100);
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    fixture.carry_out(edits).unwrap_err();
    assert_eq!(fs::metadata(fixture.path("a")).unwrap().permissions().mode() & 0o777, 0o644);
    assert!(!fixture.path("n").exists());
    assert_eq!(fixture.read("f/x"), "1");
}

#[test]
fn without_room_for_what_comes_out_nothing_is_shown() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1"))], 100);
    fixture.apply();
    fixture.commit(&[("a", File("2"))], 200);
    fixture.write("a", "local");
    let before = fixture.stat("a");
    fixture.store.pretend_full();
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    let failed = fixture.carry_out(edits).unwrap_err();
    assert!(failed.displaced.is_empty(), "nothing was out: {failed:?}");
    assert_eq!((fixture.read("a"), fixture.stat("a"), fixture.staged()), ("local".to_owned(), before, 0));
}

#[test]
fn the_time_of_what_is_taken_back_is_not_given_again() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1"))], 100);
    fixture.apply();
    fixture.commit(&[("a", File("2"))], 500);
    fixture.write("a", "local");
    let quarantine = fixture.dir.path().join("quarantine");
    fs::remove_dir(&quarantine).unwrap();
    fs::write(&quarantine, "in the way").unwrap();
    fs::File::options()
        .write(true)
        .open(fixture.path("a"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(150))
        .unwrap();
    let edits = fixture.observed().edits(&fixture.store.head().unwrap().forest);
    fixture.carry_out(edits).unwrap_err();
    assert_eq!((fixture.read("a"), fixture.stat("a").1), ("local".to_owned(), 150));
    fs::remove_file(&quarantine).unwrap();
    fs::create_dir(&quarantine).unwrap();
    fixture.commit(&[("a", File("3"))], 300);
    fixture.apply();
    assert!(fixture.stat("a").1 > 500, "{:?}", fixture.stat("a"));
}

#[test]
fn the_last_copy_of_a_content_is_kept() {
    let mut fixture = Fixture::new();
    fixture.commit(&[("a", File("1"))], 100);
    fixture.apply();
    fixture.commit(&[("a", File("2"))], 100);
    fixture.store.forget(&ContentHash::of(b"1")).unwrap();
    fixture.apply();
    assert_eq!(fixture.quarantined(), [("a".to_owned(), "1".to_owned())]);
}

#[test]
fn many_are_staged_in_two_threads_and_cleared_all_together() {
    let mut fixture = Fixture::new();
    let names: Vec<String> = (0..2 * STAGED_BY_ONE_MAX).map(|number| format!("n{number:04}")).collect();
    let contents = ["one", "two", "three"];
    let tree = |turn: usize| {
        let files = names.iter().enumerate();
        files.map(move |(number, name)| (name.as_str(), File(contents[(number + turn) % 3]))).collect()
    };
    let first: Vec<_> = tree(0);
    fixture.commit(&first, 100);
    fixture.apply();
    assert_eq!(fixture.observed(), fixture.store.head().unwrap().forest);
    let before = fixture.observed();
    let mut second: Vec<_> = tree(1);
    second.push(("z", File("blocked")));
    fixture.commit(&second, 100);
    let edits = before.edits(&fixture.store.head().unwrap().forest);
    fs::create_dir(fixture.path("z")).unwrap();
    let failed = fixture.carry_out(edits).unwrap_err();
    drop_displaced(&fixture.store, failed.displaced);
    assert_eq!(fixture.staged(), 0);
    fs::remove_dir(fixture.path("z")).unwrap();
    assert_eq!(fixture.observed(), before, "everything was taken back");
    fixture.apply();
    assert_eq!(fixture.observed(), fixture.store.head().unwrap().forest);
}
