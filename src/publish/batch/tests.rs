//! Each rule with a clock of its own: what is seen when, and what goes out when.

use super::*;
use crate::model::{ArtifactPath, ContentHash, Manifest};

/// What is where: paths to contents; a content of `/` is a folder, one that begins with `->` a link.
type Tree = BTreeMap<String, String>;

struct Bench {
    gather: Gather,
    zero: Instant,
    head: Tree,
    now: Tree,
    touched: BTreeMap<Place, Instant>,
    busy: BTreeMap<Place, Instant>,
    shut: BTreeSet<RootName>,
    withheld: Withheld,
    malformed: Malformations,
    unreadable: BTreeSet<Place>,
    deletes_left: u64,
}

fn place(path: &str) -> Place {
    Place { root: RootName::new("r"), path: ArtifactPath::new(path.as_bytes()).unwrap() }
}

fn tree(text: &str) -> Tree {
    text.split_whitespace()
        .map(|item| {
            let (path, content) = item.split_once('=').unwrap_or((item, "1"));
            (path.to_owned(), content.to_owned())
        })
        .collect()
}

fn forest(tree: &Tree) -> Forest {
    let entries = tree.iter().map(|(path, content)| {
        let entry = match content.strip_prefix("->") {
            _ if content == "/" => Entry::Folder { mode: 0o755 },
            Some(target) => Entry::Link { target: target.as_bytes().into() },
            None => Entry::File { mode: 0o644, size: 1, hash: ContentHash::of(content.as_bytes()) },
        };
        (place(path).path, Some(entry))
    });
    Forest { roots: [(RootName::new("r"), Manifest::default().with(entries).unwrap())].into() }
}

impl Bench {
    fn new(head: &str) -> Self {
        let timing = Timing {
            settle: Duration::from_millis(10),
            gather: Duration::from_secs(1),
            settle_max: Duration::from_secs(6),
            delete_grace: Duration::from_secs(3),
        };
        Self {
            gather: Gather::new(timing),
            zero: Instant::now() + Duration::from_secs(3600),
            head: tree(head),
            now: tree(head),
            touched: BTreeMap::new(),
            busy: BTreeMap::new(),
            shut: BTreeSet::new(),
            withheld: Withheld::default(),
            malformed: Malformations::default(),
            unreadable: BTreeSet::new(),
            deletes_left: 50,
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.zero + Duration::from_millis(ms)
    }

    /// Something is written, or with `-` before its path deleted; each is one event.
    fn write(&mut self, ms: u64, what: &str) -> &mut Self {
        for item in what.split_whitespace() {
            let path = match item.strip_prefix('-') {
                Some(path) => {
                    self.now.remove(path).unwrap();
                    path
                }
                None => {
                    self.now.extend(tree(item));
                    item.split('=').next().unwrap()
                }
            };
            self.touched.insert(place(path), self.at(ms));
        }
        self.see(ms);
        self
    }

    fn see(&mut self, ms: u64) {
        let (head, observed) = (forest(&self.head), forest(&self.now));
        let protected = |place: &Place| place.path.name() == b"synapse.xml";
        let scene = Scene {
            head: &head,
            observed: &observed,
            touched: &self.touched.clone().into_iter().collect(),
            busy: &self.busy,
            shut: &self.shut,
            withheld: &self.withheld,
            malformed: Some(&self.malformed),
            unreadable: &|place| self.unreadable.contains(place),
            protected: &protected,
        };
        let now = self.at(ms);
        self.gather.update(&scene, now);
    }

    /// `-`: nothing to do; a number: wait until then; else the paths that go out, which then are the head's.
    fn decide(&mut self, ms: u64) -> String {
        self.see(ms);
        let now = self.at(ms);
        match self.gather.decide(&forest(&self.head), now, self.deletes_left) {
            Decision::Idle => "-".to_owned(),
            Decision::Wait(at) => {
                assert!(at > now, "a wait that is over already would spin");
                at.duration_since(self.zero).as_millis().to_string()
            }
            Decision::Go(batch) => {
                let text = batch.edits.values().map(|edit| {
                    let sign = match (&edit.old, &edit.new) {
                        (None, _) => '+',
                        (_, None) => '-',
                        _ => '~',
                    };
                    let path = edit.place.path.to_string();
                    match edit.new {
                        Some(_) => self.head.insert(path.clone(), self.now[&path].clone()),
                        None => self.head.remove(&path),
                    };
                    format!("{sign}{path}")
                });
                text.collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[track_caller]
    fn check(&mut self, ms: u64, expected: &str) -> &mut Self {
        assert_eq!(self.decide(ms), expected, "at {ms} ms");
        self
    }
}

#[test]
fn an_update_goes_out_after_settle() {
    let mut bench = Bench::new("a b");
    bench
        .check(0, "-")
        .write(100, "a=2")
        .check(100, "110")
        .check(109, "110")
        .check(110, "~a")
        .check(111, "-");
}

#[test]
fn updates_wait_for_quiet_at_most_settle_max() {
    let mut bench = Bench::new("a b");
    for round in 0..1200 {
        bench.write(round * 5, &format!("a=c{round}"));
        assert!(bench.decide(round * 5).parse::<u64>().is_ok());
    }
    bench.write(6000, "a=x").check(6000, "~a");
}

#[test]
fn a_new_path_waits_for_gather_of_quiet_in_its_root() {
    let mut bench = Bench::new("a b");
    bench.write(0, "c").check(0, "1000").write(900, "a=2").check(1000, "1900").check(1900, "~a +c");
}

#[test]
fn events_that_change_nothing_count_as_noise_for_new_paths() {
    let mut bench = Bench::new("a b");
    bench.write(0, "c").write(500, "b=2").write(600, "b=1").check(1000, "1600").check(1600, "+c");
}

#[test]
fn a_delete_waits_for_its_grace() {
    let mut bench = Bench::new("a b");
    bench.write(0, "-a").check(1500, "3000").check(3000, "-a");
}

#[test]
fn deleted_and_written_again_is_an_update() {
    let mut bench = Bench::new("a b");
    bench.write(0, "-a").check(0, "3000").write(800, "a=2").check(805, "810").check(810, "~a");
}

#[test]
fn deleted_and_written_again_with_the_same_content_is_nothing() {
    let mut bench = Bench::new("a b");
    bench.write(0, "-a").write(800, "a").check(805, "-");
}

#[test]
fn a_rename_goes_out_as_one() {
    let mut bench = Bench::new("a b");
    bench.write(0, "-a c").check(1500, "3000").check(3000, "-a +c");
}

#[test]
fn one_publish_is_one_batch() {
    let mut bench = Bench::new("api=/ api/a seq=/ seq/s");
    bench.write(0, "-api/a -seq/s").write(700, "seq/s=2").check(1000, "3000").write(1400, "api/a=2 seq/new");
    bench.check(1500, "2400").check(2400, "~api/a +seq/new ~seq/s");
}

#[test]
fn at_the_cap_young_deletes_stay_and_new_paths_with_them() {
    let mut bench = Bench::new("a b c x=0");
    for second in 0..6 {
        bench.write(second * 900, &format!("x={second}9 n{second}"));
    }
    bench.write(5400, "-b late").check(5900, "6000");
    // What waited as long as anything waits goes; the delete is 600 ms old.
    bench.check(6000, "+n0 ~x");
    bench.check(6001, "6900").check(8400, "-b +late +n1 +n2 +n3 +n4 +n5");
}

#[test]
fn a_file_being_written_delays_its_set_until_the_cap_and_then_leaves_it() {
    let mut bench = Bench::new("a b");
    bench.busy.insert(place("b"), bench.at(0));
    bench.write(100, "a=2").check(200, "6000").check(5999, "6000");
    assert!(bench.gather.stuck(bench.at(5999)).is_empty());
    bench.check(6000, "~a").check(6001, "-");
    assert_eq!(bench.gather.stuck(bench.at(6001)), [&place("b")].into());
    // From then on it delays nothing.
    bench.write(7000, "a=3").check(7010, "~a");
    bench.busy.clear();
    bench.write(8000, "b=2").check(8010, "~b");
    assert!(bench.gather.stuck(bench.at(8011)).is_empty());
}

#[test]
fn an_unpublished_version_of_a_file_that_is_written_again_is_not_sent() {
    let mut bench = Bench::new("a b");
    bench.write(0, "a=2");
    bench.busy.insert(place("a"), bench.at(5));
    bench.check(20, "6005").check(6010, "-");
}

#[test]
fn what_could_not_be_read_is_left_alone_and_named() {
    let mut bench = Bench::new("a b");
    bench.write(0, "a=2 b=2");
    let at = bench.at(20);
    bench.gather.postpone(&place("a"), at);
    bench.check(20, "~b").check(21, "120").check(120, "~a");
    bench.write(200, "a=3");
    for _ in 0..20 {
        let at = bench.at(200);
        bench.gather.postpone(&place("a"), at);
    }
    bench.check(300, "5200");
    assert_eq!(bench.gather.stuck(bench.at(7000)), [&place("a")].into());
    bench.write(7000, "a=4").check(7010, "~a");
}

#[test]
fn an_emptied_root_publishes_nothing() {
    let mut bench = Bench::new("d=/ d/a d/b");
    bench.write(0, "-d/a -d/b").check(10_000, "-");
    assert_eq!(bench.gather.emptied().len(), 1);
    // Folders that remain, or come, are no artifacts.
    bench.write(11_000, "e=/").check(20_000, "-");
    bench.write(21_000, "d/a d/b=2").check(21_000, "22000").check(22_000, "~d/b +e");
    assert!(bench.gather.emptied().is_empty());
}

#[test]
fn the_last_artifact_of_a_folder_may_go() {
    let mut bench = Bench::new("d=/ d/a x");
    bench.write(0, "-d/a -d").check(3000, "-d -d/a");
}

#[test]
fn a_shut_root_publishes_nothing() {
    let mut bench = Bench::new("a b");
    bench.shut.insert(RootName::new("r"));
    bench.write(0, "a=2 -b c").check(10_000, "-");
    bench.shut.clear();
    bench.check(10_000, "~a -b +c");
}

#[test]
fn what_is_protected_stays_and_its_folder_with_it() {
    let mut bench = Bench::new("d=/ d/synapse.xml d/a x");
    bench.write(0, "-d/synapse.xml -d/a -d").check(3000, "-d/a").check(3001, "-");
    bench.write(3100, "x=2").check(3110, "~x");
    bench.write(4000, "d=/ d/synapse.xml=2").check(4010, "~d/synapse.xml");
}

#[test]
fn deletes_beyond_the_budget_are_held_and_the_rest_flows() {
    let mut bench = Bench::new("d=/ d/a d/b d/c e=/ e/x e/y");
    bench.deletes_left = 2;
    bench.write(0, "-d/a -d/b -d/c e/x=2 e/new").check(2999, "3000").check(3000, "+e/new ~e/x");
    assert_eq!(bench.gather.held(), (3, 3));
    bench.write(4000, "e/y=2").check(4010, "~e/y");
    // One comes back: what remains is held still, until a person agrees or it comes back too.
    bench.write(5000, "d/b").check(6000, "-");
    assert_eq!(bench.gather.held(), (2, 2));
    bench.write(7000, "d/a d/c=2").check(7010, "~d/c");
    assert_eq!(bench.gather.held(), (0, 0));
}

#[test]
fn what_is_held_counts_for_ten_minutes_and_stays() {
    let mut bench = Bench::new("d=/ d/a d/b d/c e=/ e/w e/x e/y e/z");
    bench.deletes_left = 2;
    bench.write(0, "-d/a -d/b -d/c").check(3000, "-");
    // One more within ten minutes belongs to them.
    bench.write(10_000, "-e/w").check(13_000, "-");
    assert_eq!(bench.gather.held(), (4, 4));
    // Later it is another matter, and flows.
    bench.write(700_000, "-e/x").check(703_000, "-e/x").check(703_001, "-");
    assert_eq!(bench.gather.held(), (4, 4));
}

#[test]
fn what_an_earlier_process_held_is_held_on() {
    let mut bench = Bench::new("d=/ d/a d/b e=/ e/x");
    bench.write(0, "-d/a");
    bench.gather.go_on_holding([place("d/a"), place("d/b")].into(), bench.zero);
    bench.check(3000, "-");
    assert_eq!(bench.gather.held_places(), [place("d/a")].into(), "what is there was restored");
    bench.shut.insert(RootName::new("r"));
    bench.check(4000, "-");
    bench.shut.clear();
    bench.check(5000, "-");
    assert_eq!(bench.gather.held(), (1, 1), "a root that is away for a while restores nothing");
}

#[test]
fn an_emptied_folder_is_held_and_a_moved_one_is_not() {
    let ten = |folder: &str| -> String { (0..10).map(|n| format!("{folder}/{n}={n} ")).collect() };
    let gone = |count: usize| -> String { (0..count).map(|n| format!("-d/{n} ")).collect() };
    let moved = "+n +n/0 +n/1 +n/2 +n/3 +n/4 +n/5 +n/6 +n/7 +n/8 +n/9";
    let all = "-d/0 -d/1 -d/2 -d/3 -d/4 -d/5 -d/6 -d/7 -d/8 -d/9";
    let mut bench = Bench::new(&format!("d=/ {} e=/ e/x", ten("d")));
    bench.write(0, &gone(10)).write(0, "e/x=2").check(3000, "~e/x").check(3001, "-");
    assert_eq!(bench.gather.held(), (10, 10));
    // What remains of a folder tells that it was not wiped.
    let mut bench = Bench::new(&format!("d=/ {} e=/ e/x", ten("d")));
    bench.write(0, &gone(9)).check(3000, &all[..9 * 5 - 1]);
    // What goes was seen to come elsewhere.
    let mut bench = Bench::new(&format!("d=/ {} e=/ e/x", ten("d")));
    bench.write(0, &format!("{} n=/ {}", gone(10), ten("n"))).check(3000, &format!("{all} {moved}"));
    // Protected files that vanish with it do not make it less empty.
    let mut bench = Bench::new(&format!("d=/ d/synapse.xml {} e=/ e/x", ten("d")));
    bench.write(0, &format!("-d/synapse.xml {}", gone(10))).check(3000, "-");
    assert_eq!(bench.gather.held(), (10, 10));
}

#[test]
fn a_big_move_is_held_whole() {
    let mut bench = Bench::new("d=/ d/a d/b d/c e=/ e/x");
    bench.deletes_left = 2;
    bench.write(0, "-d/a -d/b -d/c -d n=/ n/a n/b n/c e/new");
    bench.check(3000, "+e/new").check(3001, "-");
    assert_eq!(bench.gather.held(), (8, 3));
    // A new folder much later has nothing to do with it.
    bench.write(60_000, "m=/ m/a").check(61_000, "+m +m/a");
    bench.deletes_left = 3;
    bench.check(62_000, "-");
    assert_eq!(bench.gather.held_edits().len(), 8, "until a person agrees");
}

#[test]
fn what_is_new_beside_held_deletes_goes_out_once_they_came_back() {
    let mut bench = Bench::new("d=/ d/a d/b d/c");
    bench.deletes_left = 2;
    bench.write(0, "-d/a -d/b -d/c d/k d/l").check(3000, "-");
    assert_eq!(bench.gather.held(), (5, 3));
    bench.write(4000, "d/a d/b d/c").check(6000, "+d/k +d/l");
    assert_eq!(bench.gather.held(), (0, 0));
}

#[test]
fn a_rename_of_many_in_one_folder_is_held_whole() {
    let mut bench = Bench::new("d=/ d/a d/b d/c e=/ e/x");
    bench.deletes_left = 2;
    bench.write(0, "-d/a -d/b -d/c d/k d/l d/m e/new").check(3000, "+e/new");
    assert_eq!(bench.gather.held(), (6, 3));
}

#[test]
fn a_link_that_leads_out_is_left_out() {
    let mut bench = Bench::new("d=/ d/a");
    bench.write(0, "d/l=->../../etc d/k=->../d/a").check(1000, "+d/k").check(1001, "-");
    assert_eq!(*bench.gather.unsafe_links(), [place("d/l")].into());
}

#[test]
fn a_file_becomes_a_folder_and_back() {
    let mut bench = Bench::new("a b");
    bench.write(0, "a=/ a/x").check(1000, "~a +a/x");
    bench.write(2000, "-a/x a=3").check(5000, "~a -a/x");
}

#[test]
fn what_changes_during_a_publish_is_the_next_batch() {
    let mut bench = Bench::new("a b");
    bench.write(0, "a=2").check(10, "~a").write(11, "a=3").check(21, "~a").check(22, "-");
}

#[test]
fn what_somebody_else_holds_back_stays_back() {
    let mut bench = Bench::new("a b");
    bench.withheld.changed.insert(place("a"));
    bench.write(0, "a=2 b=2").check(10, "~b").check(11, "-");
    assert_eq!(bench.gather.held(), (1, 0));
    bench.withheld = Withheld::default();
    bench.check(12, "~a");
}

#[test]
fn what_cannot_be_read_is_no_change() {
    let mut bench = Bench::new("a b c");
    bench.unreadable = [place("a"), place("b")].into();
    bench.write(0, "-a b=2 -c").check(0, "3000").check(3000, "-c").check(9000, "-");
    bench.unreadable.clear();
    bench.check(9010, "-a ~b");
}

#[test]
fn malformed_content_is_held_alone_until_it_is_another() {
    let mut bench = Bench::new("a b");
    bench.write(0, "a=bad b=2 c=bad");
    for path in ["a", "c"] {
        let why = crate::plan::Malformed { line: 1, reason: "no markup".to_owned() };
        let entry = forest(&bench.now).get(&place(path)).unwrap().clone();
        bench.malformed.note(vec![(place(path), entry, why)]);
    }
    bench.check(10, "~b").check(11, "-");
    assert_eq!(bench.gather.held(), (2, 0));
    let intents = bench.gather.intents(&Decision::Idle, bench.at(10));
    assert!(intents.iter().all(|intent| intent.stands == Stands::Held("malformed-xml")));
    bench.check(20, "-").write(100, "a=mended").check(110, "~a");
    assert_eq!(bench.gather.held(), (1, 0));
    bench.write(200, "-c").check(300, "-");
    assert_eq!(bench.gather.held(), (0, 0));
}
