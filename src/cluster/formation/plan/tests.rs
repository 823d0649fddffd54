//! One unformed node among three listed candidates and a listed worker: what it does for what it hears.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::cluster::types::Timing;
use crate::model::{ClusterId, Digest, Role};

const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(200),
    timeout: Duration::from_millis(600),
    lease: Duration::from_millis(1200),
};

const NOTHING: FirstContent = FirstContent { digest: Digest([0; 32]), files: 0 };

fn config(name: &str, role: Role) -> ClusterConfig {
    let node = |name: &str, role| ListedNode { name: name.to_owned(), address: format!("{name}:1"), role };
    let mut listed: Vec<_> = ["gw1", "gw2", "gw3"].map(|name| node(name, Role::Candidate)).into();
    listed.push(node("w1", Role::Worker));
    ClusterConfig {
        cluster_name: "prod".to_owned(),
        node_name: name.to_owned(),
        address: format!("{name}:1"),
        role,
        listed,
        timing: TIMING,
        return_after: Duration::from_secs(10),
        db_path: PathBuf::new(),
    }
}

fn empty(name: &str) -> Greeting {
    Greeting {
        cluster_name: "prod".to_owned(),
        node_name: name.to_owned(),
        cluster: None,
        has_log: false,
        marked_roots: Vec::new(),
        content: Some(NOTHING),
        incarnation: Some([2; 16]),
        succeeds: Vec::new(),
        has_leader: false,
        is_formed: false,
        last: (0, 0),
        without: BTreeSet::new(),
        anew: false,
        removed: false,
    }
}

/// What `name` does when the others say `words`, each changed from an empty node's; `None` is silence.
fn step_of(name: &str, role: Role, own: Option<&Own>, words: &dyn Fn(Greeting) -> Option<Greeting>) -> Step {
    let config = config(name, role);
    let others = config.listed.iter().filter(|node| node.name != name);
    let heard: Vec<_> = others
        .map(|node| {
            let heard = words(empty(&node.name)).map_or(Heard::Silent("refused".to_owned()), Heard::Answered);
            (node.clone(), heard)
        })
        .collect();
    let scan = Some((NOTHING, Vec::new()));
    step(&Here { config: &config, incarnation: [1; 16], own, scan, wishes: Wishes::default() }, &heard)
}

fn waits(step: Step, words: &[&str]) {
    let Step::Wait(sentence) = step else { panic!("{step:?}") };
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
    }
}

fn formed(of: &'static str) -> impl Fn(Greeting) -> Option<Greeting> {
    move |greeting| {
        let has_log = greeting.node_name == of;
        Some(Greeting { has_log, cluster: has_log.then_some(ClusterId([5; 16])), ..greeting })
    }
}

fn record(cluster: u8) -> FormationRecord {
    let Step::Write(founders) = step_of("gw1", Role::Candidate, None, &Some) else { panic!() };
    FormationRecord {
        cluster: ClusterId([cluster; 16]),
        name: "prod".to_owned(),
        writer: 1,
        founders: (1..).zip(founders).collect(),
        timing: config("gw1", Role::Candidate).timing,
        succeeds: Vec::new(),
    }
}

#[test]
fn the_least_name_writes_once_all_are_here_and_empty() {
    let Step::Write(founders) = step_of("gw1", Role::Candidate, None, &Some) else { panic!() };
    let names: Vec<_> = founders.iter().map(|founder| founder.member.name.as_str()).collect();
    assert_eq!(names, ["gw1", "gw2", "gw3"], "workers found nothing");
    waits(step_of("gw2", Role::Candidate, None, &Some), &["gw1 at gw1:1 to form"]);
    waits(step_of("gw3", Role::Candidate, None, &Some), &["gw1 at gw1:1 to form"]);
    let own = Own {
        cluster: ClusterId([4; 16]),
        node: 1,
        name: "gw1".to_owned(),
        record: Some(record(4)),
        timing: TIMING,
    };
    let Step::Send(sent) = step_of("gw1", Role::Candidate, Some(&own), &Some) else { panic!() };
    assert_eq!(sent.cluster, own.cluster, "the record it wrote before");
    let other = |greeting| Some(Greeting { incarnation: Some([3; 16]), ..greeting });
    assert!(
        matches!(step_of("gw1", Role::Candidate, Some(&own), &other), Step::Write(_)),
        "a founder lost its disk"
    );
    let fuller = |greeting| {
        let content = Some(FirstContent { digest: Digest([9; 32]), files: 3 });
        Some(Greeting { content, ..greeting })
    };
    let Step::Write(founders) = step_of("gw1", Role::Candidate, Some(&own), &fuller) else { panic!() };
    assert_eq!(founders[1].content.files, 3, "what was empty when the record was written is not any more");
}

#[test]
fn what_is_missing_is_named() {
    let silent = |greeting: Greeting| (greeting.node_name != "gw3").then_some(greeting);
    waits(step_of("gw1", Role::Candidate, None, &silent), &["gw3 at gw3:1", "refused", "start the daemon"]);
    let worker = |greeting: Greeting| (greeting.node_name != "w1").then_some(greeting);
    assert!(
        matches!(step_of("gw1", Role::Candidate, None, &worker), Step::Write(_)),
        "a worker may come later"
    );
    let misnamed = |greeting: Greeting| {
        let node_name = if greeting.node_name == "w1" { "w7".to_owned() } else { greeting.node_name.clone() };
        let cluster_name = if node_name == "w7" { "test".to_owned() } else { greeting.cluster_name.clone() };
        Some(Greeting { has_log: node_name == "w7", node_name, cluster_name, ..greeting })
    };
    assert!(
        matches!(step_of("gw1", Role::Candidate, None, &misnamed), Step::Write(_)),
        "nor does a worker bar anybody that is not who the list says"
    );
    let scanning = |greeting| Some(Greeting { content: None, ..greeting });
    waits(step_of("gw1", Role::Candidate, None, &scanning), &["first scan of gw2"]);
    let marked = |greeting| Some(Greeting { marked_roots: vec!["configs".to_owned()], ..greeting });
    waits(
        step_of("gw1", Role::Candidate, None, &marked),
        &["gw2", "gw3", "configs", "data folders were lost", "`syncd bootstrap --new`"],
    );
    let stranger = |greeting| Some(Greeting { cluster_name: "test".to_owned(), ..greeting });
    waits(step_of("gw1", Role::Candidate, None, &stranger), &["gw2", "\"test\"", "cluster.name"]);
    let renamed = |greeting| Some(Greeting { node_name: "gw9".to_owned(), ..greeting });
    waits(step_of("gw1", Role::Candidate, None, &renamed), &["gw2:1", "\"gw9\""]);
    waits(step_of("w1", Role::Worker, None, &Some), &["worker"]);
}

#[test]
fn a_cluster_that_formed_is_joined_or_followed() {
    assert_eq!(step_of("w1", Role::Worker, None, &formed("gw2")), Step::Join(vec!["gw2:1".to_owned()]));
    assert_eq!(step_of("new", Role::Worker, None, &formed("gw2")), Step::Join(vec!["gw2:1".to_owned()]));
    assert_eq!(step_of("gw3", Role::Candidate, None, &formed("gw2")), Step::Join(vec!["gw2:1".to_owned()]));
    let own = Own {
        cluster: ClusterId([5; 16]),
        node: 3,
        name: "gw3".to_owned(),
        record: Some(record(5)),
        timing: TIMING,
    };
    assert_eq!(step_of("gw3", Role::Candidate, Some(&own), &formed("gw2")), Step::Follow);
    let other = Own { cluster: ClusterId([6; 16]), ..own };
    let joins = step_of("gw3", Role::Candidate, Some(&other), &formed("gw2"));
    assert_eq!(joins, Step::Join(vec!["gw2:1".to_owned()]), "a record without a log gives way");
}

#[test]
fn only_the_right_record_is_stored() {
    let scan = (NOTHING, Vec::new());
    let check = |change: &dyn Fn(&mut FormationRecord),
                 incarnation: u8,
                 scan: Option<&(FirstContent, Vec<String>)>| {
        let mut record = record(4);
        change(&mut record);
        acceptable(&config("gw2", Role::Candidate), [incarnation; 16], scan, &record)
    };
    assert_eq!(check(&|_| {}, 2, Some(&scan)), Ok(()));
    assert!(check(&|_| {}, 3, Some(&scan)).is_err(), "another data folder");
    assert!(check(&|_| {}, 2, None).is_err(), "the scan is not done");
    assert!(check(&|_| {}, 2, Some(&(NOTHING, vec!["configs".to_owned()]))).is_err(), "marked");
    let full = (FirstContent { digest: Digest([9; 32]), files: 3 }, Vec::new());
    assert!(check(&|_| {}, 2, Some(&full)).unwrap_err().contains("something else"));
    assert!(check(&|record| record.name = "other".to_owned(), 2, Some(&scan)).is_err());
    assert!(check(&|record| record.writer = 2, 2, Some(&scan)).is_err(), "not the least name");
    assert!(check(&|record| record.writer = 9, 2, Some(&scan)).is_err(), "nobody");
    let hasty = |record: &mut FormationRecord| record.timing.heartbeat = Duration::ZERO;
    assert!(check(&hasty, 2, Some(&scan)).unwrap_err().contains("election times"));
    let without = |record: &mut FormationRecord| {
        record.founders.remove(&3);
    };
    assert_eq!(check(&without, 2, Some(&scan)), Ok(()), "a majority may form without the rest");
    let minority = |record: &mut FormationRecord| record.founders.retain(|id, _| *id == 2);
    assert!(check(&minority, 2, Some(&scan)).unwrap_err().contains("give all hosts one configuration"));
    let stranger = |record: &mut FormationRecord| {
        record.founders.get_mut(&3).unwrap().member.name = "gw9".to_owned();
    };
    assert!(check(&stranger, 2, Some(&scan)).unwrap_err().contains("give all hosts one configuration"));
    let out_of_range = |record: &mut FormationRecord| {
        let founder = record.founders.remove(&3).unwrap();
        record.founders.insert(1 << 40, founder);
    };
    assert!(check(&out_of_range, 2, Some(&scan)).is_err());
}

/// A voter's words, `silent` ones left out, with the wish to form without `gw1` heard from gw3.
fn without_gw1(greeting: Greeting) -> Option<Greeting> {
    let wished =
        if greeting.node_name == "gw3" { BTreeSet::from(["gw1".to_owned()]) } else { BTreeSet::new() };
    (greeting.node_name != "gw1").then_some(Greeting { without: wished, ..greeting })
}

#[test]
fn a_majority_forms_without_a_silent_voter_when_somebody_says_so() {
    let Step::Write(founders) = step_of("gw2", Role::Candidate, None, &without_gw1) else { panic!() };
    let names: Vec<_> = founders.iter().map(|founder| founder.member.name.as_str()).collect();
    assert_eq!(names, ["gw2", "gw3"], "the least that remains writes, wherever it was ordered");
    let unsaid = |greeting: Greeting| (greeting.node_name != "gw1").then_some(greeting);
    waits(step_of("gw2", Role::Candidate, None, &unsaid), &["`syncd bootstrap --without gw1`"]);
    let back = |greeting: Greeting| {
        let without = BTreeSet::from(["gw1".to_owned()]);
        Some(Greeting { without, ..greeting })
    };
    waits(step_of("gw2", Role::Candidate, None, &back), &["gw1 at gw1:1 to form"]);
    let alone = |greeting: Greeting| {
        let without = BTreeSet::from(["gw1".to_owned(), "gw3".to_owned()]);
        (greeting.node_name == "w1").then_some(Greeting { without, ..greeting })
    };
    let Step::Wait(sentence) = step_of("gw2", Role::Candidate, None, &alone) else { panic!("no majority") };
    assert!(!sentence.contains("bootstrap"), "{sentence}");
}

#[test]
fn a_record_gives_way_only_where_its_cluster_can_not_have_formed() {
    let all = record(4);
    let of = |ids: &[u64], cluster: u8| {
        let mut record = record(cluster);
        record.founders.retain(|id, _| ids.contains(id));
        record.writer = *ids.iter().min().unwrap();
        record
    };
    let answers =
        |cluster: u8| Heard::Answered(Greeting { cluster: Some(ClusterId([cluster; 16])), ..empty("gw1") });
    let silent = Heard::Silent("refused".to_owned());
    let rest = of(&[2, 3], 5);
    assert!(gives_way(&all, &rest, "gw3", Some(&silent)).is_ok(), "gw1 alone is no majority of three");
    assert!(gives_way(&all, &rest, "gw3", Some(&answers(4))).is_err(), "gw1 holds on to it");
    assert!(gives_way(&all, &rest, "gw3", Some(&answers(6))).is_ok(), "gw1 gave it up");
    assert!(gives_way(&rest, &all, "gw3", Some(&silent)).is_err(), "gw2 may have formed with gw3");
    assert!(gives_way(&rest, &all, "gw2", None).is_ok(), "its own writer, who knows");
    let pair = of(&[1, 2], 6);
    let single = of(&[3], 7);
    assert!(gives_way(&pair, &single, "gw3", Some(&silent)).is_err(), "two of two may have formed");
    assert!(gives_way(&all, &record(8), "gw2", Some(&answers(4))).is_ok(), "the same writer, again");
}

#[test]
fn marks_give_way_only_when_all_voters_answer_and_somebody_says_so() {
    let step_with = |anew: bool, missing: &str| {
        let config = config("gw1", Role::Candidate);
        let others = config.listed.iter().filter(|node| node.name != "gw1");
        let heard: Vec<_> = others
            .map(|node| {
                let answer = Heard::Answered(Greeting { anew, ..empty(&node.name) });
                (
                    node.clone(),
                    if node.name == missing { Heard::Silent("refused".to_owned()) } else { answer },
                )
            })
            .collect();
        let scan = Some((NOTHING, vec!["configs".to_owned()]));
        let here = Here { config: &config, incarnation: [1; 16], own: None, scan, wishes: Wishes::default() };
        step(&here, &heard)
    };
    assert_eq!(step_with(true, ""), Step::LayMarksAside);
    waits(step_with(false, ""), &["gw1 (configs)", "`syncd bootstrap --new`"]);
    waits(step_with(true, "gw2"), &["gw2 at gw2:1"]);
}

#[test]
fn what_is_left_of_a_succeeded_cluster_is_no_place_to_go() {
    let two = |greeting: Greeting| {
        let (cluster, succeeds) = match greeting.node_name.as_str() {
            "gw1" => (ClusterId([5; 16]), Vec::new()),
            "gw2" => (ClusterId([6; 16]), vec![ClusterId([5; 16])]),
            _ => return Some(greeting),
        };
        Some(Greeting { has_log: true, cluster: Some(cluster), succeeds, ..greeting })
    };
    assert_eq!(step_of("w1", Role::Worker, None, &two), Step::Join(vec!["gw2:1".to_owned()]));
}
