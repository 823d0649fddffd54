//! What changed while no daemon watched, and is held.

use super::*;

#[tokio::test]
async fn many_changes_while_nobody_watched_are_held() {
    let (fixture, mut state) = at_rest(&[("a", File("1")), ("b", File("1"))]).await;
    fixture.store.set_manager_epoch(9).unwrap();
    for name in ["a", "c", "d"] {
        fixture.write(name, "changed");
    }
    fs::remove_file(fixture.path("b")).unwrap();
    state.appointment = Some(appointment(ME, 9, 5));
    let node = Node::start(fixture, state);
    node.until_active(Some(9)).await;
    let held = node.handle.held_at_start.borrow().clone();
    assert_eq!(held.changed, ["a", "b", "c", "d"].map(place).into());
    node.until("named", |status| status.problems.iter().any(|problem| problem.code == "held-changes")).await;
    // What is put right by hand leaves the list.
    fs::remove_file(node.fixture.path("c")).unwrap();
    node.until_observed(|observed| observed.forest.get(&place("c")).is_none()).await;
    let mut held = node.handle.held_at_start.clone();
    let wait = held.wait_for(|held| !held.has(&place("c")));
    tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap();
    // Three are no more than go by themselves, and yet they were held: another start changes nothing.
    let state = node.fake.state.borrow().clone().unwrap();
    let node = Node::start(node.stop().await, (*state).clone());
    node.until_active(Some(9)).await;
    assert_eq!(node.handle.held_at_start.borrow().changed, ["a", "b", "d"].map(place).into());
    node.stop().await;
}

#[tokio::test]
async fn other_content_at_deletes_that_were_held_is_held_too() {
    let names = ["a", "b", "c", "d"];
    let (fixture, mut state) = at_rest(&names.map(|name| (name, File("2")))).await;
    fixture.store.set_manager_epoch(9).unwrap();
    fixture.store.set_held("mass-delete", &names.map(place).into()).unwrap();
    // An old backup, restored while nobody watched.
    names.iter().for_each(|name| fixture.write(name, "1"));
    state.appointment = Some(appointment(ME, 9, 5));
    let node = Node::start(fixture, state);
    node.until_active(Some(9)).await;
    assert_eq!(node.handle.held_at_start.borrow().changed, names.map(place).into());
    node.stop().await;
}
