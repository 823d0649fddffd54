//! Generations taken in and given out, store to store.

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::*;
use crate::apply::testing::{CLUSTER, File, Fixture, Folder, What, forest, pin};
use crate::model::{
    Appointment, ClusterState, Commit, CommitOutcome, Generation, Lease, LetThrough, Order, OrderError,
    OrderOutcome, Seed, Standing, UnknownOutcome,
};

struct Fixed(watch::Sender<Option<Arc<ClusterState>>>);

impl Coordinator for Fixed {
    fn state(&self) -> watch::Receiver<Option<Arc<ClusterState>>> {
        self.0.subscribe()
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        watch::Sender::new(Standing::default()).subscribe()
    }

    fn commit(&self, _: Commit) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        Box::pin(async { Err(UnknownOutcome { reason: "not asked for".to_owned() }) })
    }

    fn commit_approved(
        &self,
        commit: Commit,
        _: LetThrough,
    ) -> BoxFuture<'_, Result<CommitOutcome, UnknownOutcome>> {
        self.commit(commit)
    }

    fn confirm(&self) -> BoxFuture<'_, Option<Arc<ClusterState>>> {
        Box::pin(async { None })
    }

    fn renew(&self) -> BoxFuture<'_, Option<Lease>> {
        Box::pin(async { None })
    }

    fn order(&self, _: Order) -> BoxFuture<'_, Result<OrderOutcome, OrderError>> {
        Box::pin(async { Err(OrderError::Unknown { reason: "not asked for".to_owned() }) })
    }
}

/// Epoch 5, node 2 is manager.
fn stager(store: &Store) -> Stager {
    let appointment = Appointment { epoch: 5, replaced: 0, manager: 2, lease: Duration::from_secs(1) };
    let state = ClusterState::new(CLUSTER, Default::default(), Default::default(), Seed::Anyone);
    let state = ClusterState { applied_index: 5, appointment: Some(appointment), ..state };
    let coordinator = Arc::new(Fixed(watch::Sender::new(Some(Arc::new(state)))));
    Stager::new(store.clone(), coordinator, Upload::default(), Arc::new(crate::apply::Unobserved))
}

/// A manager with a generation, and its parcels for a node that has `have`.
async fn parcels(
    manager: &Fixture,
    generation: &Generation,
    have: Option<&Generation>,
) -> Vec<Result<Parcel, Status>> {
    let bytes = |generation: &Generation| bytes::Bytes::copy_from_slice(generation.digest.as_bytes());
    let request = FetchRequest {
        have: have.map_or(0, |have| have.number),
        have_digest: have.map_or_else(Default::default, bytes),
        want: generation.number,
        want_digest: bytes(generation),
        signed: Vec::new(),
    };
    stager(&manager.store).fetch(3, request).await.unwrap().collect().await
}

fn sent(parcels: &[Result<Parcel, Status>]) -> usize {
    let data = parcels.iter().filter_map(|parcel| match &parcel.as_ref().unwrap().part {
        Some(Part::Data(data)) => Some(data.len()),
        _ => None,
    });
    data.sum()
}

const ONE: [(&str, What); 3] = [("d", Folder), ("d/a", File("the first content")), ("b", File("b"))];
const TWO: [(&str, What); 3] = [("d", Folder), ("d/moved", File("the first content")), ("b", File("b2"))];

#[tokio::test]
async fn a_generation_goes_from_store_to_store() {
    let (manager, worker) = (Fixture::new(), Fixture::new());
    let one = pin(&manager.store, 5, &ONE, 100);
    manager.store.adopt(one.number, &one.digest).unwrap();
    let there = stager(&worker.store);
    let reply = there.stage(2, futures::stream::iter(parcels(&manager, &one, None).await)).await.unwrap();
    assert!(reply.pinned, "{}", reply.refused);
    assert!(worker.store.is_pinned(5, 1, &one.digest));
    // Again: answered by the pin, whatever follows the header.
    let mut again = parcels(&manager, &one, None).await;
    again.truncate(1);
    assert!(there.stage(2, futures::stream::iter(again)).await.unwrap().pinned);
    worker.store.adopt(one.number, &one.digest).unwrap();
    // The next one, from what both have.
    let two = pin(&manager.store, 5, &TWO, 200);
    manager.store.adopt(two.number, &two.digest).unwrap();
    let delta = parcels(&manager, &two, Some(&one)).await;
    assert!(there.stage(2, futures::stream::iter(delta)).await.unwrap().pinned);
    let adopted = worker.store.adopt(two.number, &two.digest).unwrap().unwrap();
    assert_eq!(adopted.forest, forest(&TWO));
}

#[tokio::test]
async fn what_the_other_side_has_is_not_sent() {
    let manager = Fixture::new();
    let big: &'static str = (0..20_000).map(|n| format!("{n:x}")).collect::<String>().leak();
    let one = pin(&manager.store, 5, &[("a", File(big))], 100);
    manager.store.adopt(one.number, &one.digest).unwrap();
    let two = pin(&manager.store, 5, &[("moved", File(big))], 100);
    manager.store.adopt(two.number, &two.digest).unwrap();
    assert!(sent(&parcels(&manager, &two, None).await) > 10_000);
    assert!(sent(&parcels(&manager, &two, Some(&one)).await) < 500, "a move ships no content");
}

#[tokio::test]
async fn refusals_say_why() {
    let (manager, worker) = (Fixture::new(), Fixture::new());
    let one = pin(&manager.store, 5, &ONE, 100);
    manager.store.adopt(one.number, &one.digest).unwrap();
    let two = pin(&manager.store, 5, &TWO, 100);
    manager.store.adopt(two.number, &two.digest).unwrap();
    let old = Fixture::new();
    let before = pin(&old.store, 4, &ONE, 100);
    let there = stager(&worker.store);
    for (caller, parcels, expected) in [
        (3, parcels(&manager, &one, None).await, "node 3 is not the manager of epoch 5"),
        (2, parcels(&old, &before, None).await, "epoch 4 is over"),
        (2, parcels(&manager, &two, Some(&one)).await, "generation 1 is not here"),
    ] {
        let reply = there.stage(caller, futures::stream::iter(parcels)).await.unwrap();
        assert!(!reply.pinned);
        assert!(reply.refused.contains(expected), "{}", reply.refused);
    }
    assert!(worker.store.pins().is_empty());
    let unknown = FetchRequest { want: 9, want_digest: vec![0; 32].into(), ..FetchRequest::default() };
    let answer = stager(&manager.store).fetch(3, unknown).await.map(|_| ());
    assert_eq!(answer.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_damaged_parcel_pins_nothing() {
    let (manager, worker) = (Fixture::new(), Fixture::new());
    let one = pin(&manager.store, 5, &ONE, 100);
    manager.store.adopt(one.number, &one.digest).unwrap();
    let whole = parcels(&manager, &one, None).await;
    let there = stager(&worker.store);
    let body = whole.iter().find_map(|parcel| match &parcel.as_ref().unwrap().part {
        Some(Part::Data(data)) => Some(data.clone()),
        _ => None,
    });
    let body = body.unwrap();
    let data = |bytes: Vec<u8>| Ok(Parcel { part: Some(Part::Data(bytes.into())) });
    let mut flipped = body.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let bodies: [Vec<Result<Parcel, Status>>; 5] = [
        vec![],
        vec![data(body[..body.len() - 5].to_vec())],
        vec![data(flipped)],
        vec![data(body.to_vec()), data(vec![0])],
        vec![data(body[..10].to_vec()), Err(Status::aborted("gone"))],
    ];
    for (case, rest) in bodies.into_iter().enumerate() {
        let parcels: Vec<_> = whole[..1].iter().cloned().chain(rest).collect();
        let reply = there.stage(2, futures::stream::iter(parcels)).await;
        assert!(reply.as_ref().map_or(true, |reply| !reply.pinned), "case {case}: {reply:?}");
        assert!(worker.store.pins().is_empty(), "case {case}");
    }
    assert!(there.stage(2, futures::stream::iter(whole)).await.unwrap().pinned);
    let nothing = there.stage(2, futures::stream::iter(vec![])).await;
    assert_eq!(nothing.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn stages_of_one_generation_wait_for_each_other() {
    let (manager, worker) = (Fixture::new(), Fixture::new());
    let one = pin(&manager.store, 5, &ONE, 100);
    manager.store.adopt(one.number, &one.digest).unwrap();
    let there = stager(&worker.store);
    let whole = parcels(&manager, &one, None).await;
    // The first one hangs after its header.
    let hanging = futures::stream::iter(whole[..1].to_vec()).chain(futures::stream::pending());
    let first = tokio::spawn({
        let there = there.clone();
        async move { there.stage(2, Box::pin(hanging)).await }
    });
    while there.turns.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn({
        let there = there.clone();
        async move { there.stage(2, futures::stream::iter(whole)).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!second.is_finished());
    first.abort();
    assert!(second.await.unwrap().unwrap().pinned);
}

#[tokio::test]
async fn a_store_of_another_cluster_takes_the_first_generation_of_this_one() {
    let (manager, worker) = (Fixture::new(), Fixture::new());
    let one = pin(&manager.store, 5, &TWO, 100);
    manager.store.adopt(one.number, &one.digest).unwrap();
    worker.commit(&ONE, 100);
    worker.commit(&TWO, 100);
    worker.commit(&ONE, 100);
    let there = stager(&worker.store);
    let own = |cluster| crate::store::Applied { cluster, ..worker.record() };
    worker.store.set_applied(&own(CLUSTER), &[]).unwrap();
    let whole = parcels(&manager, &one, None).await;
    let reply = there.stage(2, futures::stream::iter(whole.clone())).await.unwrap();
    assert!(reply.refused.contains("not newer"), "the same cluster's log is only late: {reply:?}");
    worker.store.set_applied(&own(crate::model::ClusterId([8; 16])), &[]).unwrap();
    let reply = there.stage(2, futures::stream::iter(whole)).await.unwrap();
    assert!(reply.pinned, "{}", reply.refused);
    let adopted = worker.store.adopt(one.number, &one.digest).unwrap().unwrap();
    assert_eq!(adopted.forest, forest(&TWO));
}

#[tokio::test]
async fn pins_are_bounded() {
    let (manager, worker) = (Fixture::new(), Fixture::new());
    let there = stager(&worker.store);
    for epoch in 5..5 + PINS_MAX as u64 {
        pin(&worker.store, epoch, &ONE, 100);
    }
    let one = pin(&manager.store, 5, &TWO, 100);
    manager.store.adopt(one.number, &one.digest).unwrap();
    let whole = parcels(&manager, &one, None).await;
    let reply = there.stage(2, futures::stream::iter(whole.clone())).await.unwrap();
    assert!(!reply.pinned && reply.refused.contains("too many"), "{reply:?}");
    worker.store.release(6, 0).unwrap();
    assert!(there.stage(2, futures::stream::iter(whole)).await.unwrap().pinned);
}
