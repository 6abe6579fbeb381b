use tercet_common::sync::Position;
use tercet_common::{Content, SyncRequest};

use super::world::*;
use crate::healing::delta::{Delta, DeltaJob, Peer, delta};
use crate::healing::{HealError, Stable};

const EPOCH: u64 = 5;
/// Worker 2 was away.
const TARGET: u16 = 2;

fn world() -> (World, Stable) {
    let world = World::new(3);
    let group = world.0.lock().group(EPOCH, &[0, 1, 2]);
    (world, group)
}

fn put(world: &World, n: usize, to: &[u16]) {
    world.0.lock().put(EPOCH, key(n), value("v"), to);
}

fn job(world: &World) -> DeltaJob {
    let state = world.0.lock();
    let peer = |worker: u16| {
        let Worker { uuid, seq, .. } = &state.workers[usize::from(worker)];
        Peer { worker, uuid: uuid.clone(), journal_seq: *seq }
    };
    DeltaJob { target: TARGET, peers: vec![peer(0), peer(1)] }
}

/// The target has all of its peers' journals as they are now.
fn in_step(world: &World) {
    let mut state = world.0.lock();
    let position = |worker: &Worker| Position { peer: worker.uuid.clone(), seq: worker.seq };
    let positions = state.workers[..2].iter().map(position).collect();
    state.workers[usize::from(TARGET)].memory.positions = positions;
}

fn synced(world: &World) -> (Delta, Result<(), HealError>) {
    let mut done = Delta::default();
    let outcome = run(delta(world, &job(world), &mut done));
    (done, outcome)
}

fn positions(world: &World) -> Vec<u64> {
    let mut positions = world.0.lock().workers[usize::from(TARGET)].memory.positions.clone();
    positions.sort_by(|a, b| a.peer.cmp(&b.peer));
    positions.into_iter().map(|position| position.seq).collect()
}

fn assert_equal(world: &World) {
    let mut state = world.0.lock();
    assert_eq!(state.visible(0), state.visible(TARGET));
    assert_eq!(state.visible(1), state.visible(TARGET));
}

#[test]
fn a_sync_ends_although_clients_go_on_writing() {
    let (world, _) = world();
    in_step(&world);
    (0..10).for_each(|n| put(&world, n, &[0, 1]));
    let (job, began) = (job(&world), positions(&world));
    (10..1_000).for_each(|n| put(&world, n, &[0, 1, 2]));
    let mut done = Delta::default();
    run(delta(&world, &job, &mut done)).unwrap();
    assert_eq!(done.compared.replicated, 10);
    for (before, after) in began.into_iter().zip(positions(&world)) {
        assert!((before + 10..before + 100).contains(&after), "{before} {after}");
    }
}

/// 1,000 missed writes in a store of 20,000 keys send 1,000 rows.
#[test]
fn the_rows_sent_are_those_that_were_missed() {
    let (world, _) = world();
    world.0.lock().page = 500;
    (0..20_000).for_each(|n| put(&world, n, &[0, 1, 2]));
    in_step(&world);
    (0..1_000).for_each(|n| put(&world, n * 7, &[0, 1]));
    (0..50).for_each(|n| put(&world, n, &[0, 1, 2]));
    let (done, outcome) = synced(&world);
    assert_eq!(outcome, Ok(()));
    assert_eq!((done.compared.replicated, done.compared.rewritten, done.partitions), (1_000 - 8, 0, 0));
    let state = world.0.lock();
    assert_eq!((state.given, state.asked.get("digest"), state.asked.get("summary")), (1_000 - 8, None, None));
    drop(state);
    assert_equal(&world);
}

#[test]
fn positions_follow_what_was_compared() {
    let (world, _) = world();
    (0..10).for_each(|n| put(&world, n, &[0, 1]));
    in_step(&world);
    assert_eq!(positions(&world), [10, 10]);
    (0..7).for_each(|n| put(&world, n, &[0, 1]));
    // The second page of the first journal gets no answer: the first one, with which it was to be compared, counts for nothing.
    let mut pages = 0;
    world.before_each(move |state, worker, request| {
        if worker == 0 && matches!(request, SyncRequest::Changes { .. }) {
            pages += 1;
            state.workers[0].down = pages > 1;
        } else if worker == 1 {
            state.workers[0].down = false;
        }
    });
    let (_, outcome) = synced(&world);
    assert_eq!(outcome.unwrap_err().worker(), Some(0));
    assert_eq!(positions(&world), [10, 17]);
    world.before_each(|_, _, _| ());
    world.0.lock().workers[0].down = false;
    assert_eq!(synced(&world).1, Ok(()));
    assert_eq!(positions(&world), [17, 17]);
    // Keys from before the positions are none of its business.
    assert_eq!(world.0.lock().visible(TARGET).len(), 7);
}

#[test]
fn a_journal_that_does_not_reach_back_means_whole_partitions() {
    let (world, _) = world();
    (0..10).for_each(|n| put(&world, n, &[0, 1]));
    in_step(&world);
    (0..10).for_each(|n| put(&world, n, &[0, 1]));
    world.0.lock().workers[0].pruned_to = 15;
    let (done, outcome) = synced(&world);
    assert_eq!((outcome, done.partitions), (Ok(()), 1));
    assert_equal(&world);
    assert_eq!(positions(&world), [20, 20]);
}

#[test]
fn an_unknown_peer_means_whole_partitions() {
    let (world, _) = world();
    (0..10).for_each(|n| put(&world, n, &[0, 1]));
    let (done, outcome) = synced(&world);
    assert_eq!((outcome, done.partitions, done.pages), (Ok(()), 2, 0));
    assert_equal(&world);
    assert_eq!(positions(&world), [10, 10]);
}

#[test]
fn a_missed_flush_comes_with_the_journal() {
    let (world, _) = world();
    (0..10).for_each(|n| put(&world, n, &[0, 1, 2]));
    in_step(&world);
    let flush = world.0.lock().put(EPOCH, key(99), Content::Tombstone, &[]).ballot;
    (0..2).for_each(|worker| world.0.lock().workers[worker].flush(partition(), flush));
    let (done, outcome) = synced(&world);
    assert_eq!((outcome, done.compared.flushes, done.compared.replicated), (Ok(()), 1, 0));
    assert!(world.0.lock().visible(TARGET).is_empty());
}

#[test]
fn what_cannot_be_compared_now_is_handed_back() {
    let (world, group) = world();
    in_step(&world);
    put(&world, 1, &[0, 1]);
    world.0.lock().groups.clear();
    let (done, outcome) = synced(&world);
    assert_eq!((outcome, done.compared.replicated), (Ok(()), 0));
    assert!(done.later.contains(&partition()), "it changes hands");
    in_step(&world);
    world.0.lock().groups.insert(partition(), group);
    put(&world, 2, &[0]);
    let ballot = world.0.lock().held(0).rows[&hash(2)].ballot;
    world.0.lock().in_flight = Some(ballot);
    let (done, outcome) = synced(&world);
    assert_eq!((outcome, done.compared.rewritten), (Ok(()), 0));
    assert!(done.later.contains(&partition()), "the key is being written");
}
