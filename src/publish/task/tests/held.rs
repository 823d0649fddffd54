//! What is held, and that it goes out exactly as a person agreed to it, once.

use super::*;
use crate::model::{Approval, OrderId};

impl Rig {
    fn approve(&self, list: Digest) {
        self.log.state.send_modify(|state| {
            let mut next = state.as_deref().unwrap().clone();
            let id = OrderId(list.0[..16].try_into().unwrap());
            next.approvals.push_back(Approval { id, node: 1, list, by: "gw1".to_owned(), unix_ms: 5 });
            *state = Some(Arc::new(next));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_list_outlives_the_process_and_goes_out_as_it_was_approved() {
    let mut rig = Rig::new(&[]);
    rig.together(|rig| ["a", "b", "c", "d", "e", "f", "h"].iter().for_each(|name| rig.write(name, name)))
        .await;
    rig.until("a b c d e f h").await;
    rig.together(|rig| ["a", "b", "c", "d"].iter().for_each(|name| rig.remove(name))).await;
    rig.until_status("held", |status| status.held == 4).await;
    rig.write("a", "a");
    rig.write("b", "b");
    rig.until_status("two come back", |status| status.held == 2).await;
    // Another process holds it on, although two deletes are no more than may go by themselves.
    rig.start(rules(&["*.back"]));
    let status = rig.until_status("held on", |status| status.lists.len() == 1).await;
    assert_eq!((status.held, status.lists[0].edits.len()), (2, 2));
    let shown = status.lists[0].digest;
    rig.approve(Digest([7; 32]));
    rig.write("e", "newer");
    rig.until_status("the update", |status| status.last.as_ref().is_some_and(|l| l.generation == 2)).await;
    assert_eq!(rig.store.head().unwrap().forest.files(), 7, "another list's approval lets nothing through");
    rig.approve(shown);
    rig.until("a b e f h").await;
    rig.until_status("nothing is held", |status| status.held == 0 && status.lists.is_empty()).await;
    let state = rig.log.state.borrow().clone().unwrap();
    assert!(state.was_approved(3) && state.approval(1, &shown).is_none());
    // What was approved does not count: three more may go.
    for name in ["a", "b", "f"] {
        rig.remove(name);
    }
    rig.until("e h").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_rules_take_in_and_release_in_one_generation() {
    let mut rig = Rig::new(&[]);
    for path in ["a.xml", "b.tmp", "old.back"] {
        rig.write(path, path);
    }
    rig.until("a.xml b.tmp").await;
    rig.start(rules(&["*.tmp"]));
    let status = rig.until_status("held", |status| status.lists.len() == 1).await;
    let list = Arc::clone(&status.lists[0]);
    assert_eq!((list.code, list.edits.len(), status.held), ("rules-held", 2, 2));
    rig.approve(list.digest);
    let mut state = rig.log.state.subscribe();
    let second = state.wait_for(|state| state.as_ref().unwrap().generation() == 2);
    tokio::time::timeout(Duration::from_secs(20), second).await.unwrap().unwrap();
    let head = rig.store.head().unwrap();
    assert_eq!(head.rules, rules(&["*.tmp"]));
    let paths: Vec<String> = head.forest.iter().map(|(place, _)| place.path.to_string()).collect();
    assert_eq!(paths, ["a.xml", "old.back"]);
    assert!(rig.dir.path().join("root/b.tmp").exists(), "released, not deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mass_delete_is_held_also_in_small_portions() {
    let mut rig = Rig::new(&[]);
    rig.together(|rig| ["a", "b", "c", "d", "e", "f"].iter().for_each(|name| rig.write(name, name))).await;
    rig.until("a b c d e f").await;
    rig.together(|rig| ["a", "b"].iter().for_each(|name| rig.remove(name))).await;
    rig.until("c d e f").await;
    rig.together(|rig| ["c", "d"].iter().for_each(|name| rig.remove(name))).await;
    let problem = rig.until_problem("mass-delete").await;
    assert!(problem.message.starts_with("2 artifacts"), "{}", problem.message);
    rig.together(|rig| {
        rig.write("e", "new");
        rig.write("g", "new folder mate held with them");
    })
    .await;
    let status = rig
        .until_status("the update went out", |status| status.last.as_ref().is_some_and(|l| l.generation == 3))
        .await;
    assert_eq!(status.held, 3, "two deletes, and what is new beside them");
    rig.write("c", "c");
    rig.until_status("one comes back", |status| status.held == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_touch_no_path_go_out_and_others_are_held() {
    let mut rig = Rig::new(&[]);
    rig.write("a.xml", "one");
    rig.write("a.back", "old");
    rig.until("a.xml").await;
    rig.start(rules(&["*.back", "*.tmp"]));
    let mut state = rig.log.state.subscribe();
    let second = state.wait_for(|state| state.as_ref().unwrap().generation() == 2);
    tokio::time::timeout(Duration::from_secs(20), second).await.unwrap().unwrap();
    assert_eq!(rig.store.head().unwrap().rules, rules(&["*.back", "*.tmp"]));
    for held in [rules(&["*.tmp"]), rules(&["*.back"]), rules(&["*.back", "*.tmp", "a.*"]), Rules::default()]
    {
        rig.start(held);
        rig.until_problem("rules-held").await;
    }
    assert_eq!(rig.store.head().unwrap().forest.files(), 1, "no rule deletes");
    // A change that is due already does not go out with rules under which it was not observed.
    rig.publishing.cancel();
    rig.write("b.xml", "two");
    rig.inventory.set_rules(&rules(&["*.back", "*.tmp"])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.start(rules(&["*.back", "*.tmp", "*.old"]));
    let third = state.wait_for(|state| state.as_ref().unwrap().generation() == 3);
    tokio::time::timeout(Duration::from_secs(20), third).await.unwrap().unwrap();
    rig.inventory.set_rules(&rules(&["*.back", "*.tmp", "*.old"])).await.unwrap();
    rig.until("a.xml b.xml").await;
    let added: Vec<u64> = rig.store.history(9).unwrap().iter().map(|entry| entry.added).collect();
    assert_eq!(added, [1, 0, 0, 1]);
}
