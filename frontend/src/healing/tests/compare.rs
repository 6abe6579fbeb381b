use proptest::prelude::*;
use tercet_common::{Ballot, Content, Epoch, SyncRequest};

use super::world::*;
use crate::coordinator::core::WorkerIx;
use crate::healing::compare::{Compared, compare, compare_keys};
use crate::healing::{HealError, Stable};

const EPOCH: u64 = 5;

fn world() -> (World, Stable) {
    let world = World::new(3);
    let group = world.0.lock().group(EPOCH, &[0, 1, 2]);
    (world, group)
}

fn compared(world: &World, group: &Stable) -> Result<Compared, HealError> {
    let mut done = Compared::default();
    run(compare(world, group, &mut done))?;
    Ok(done)
}

fn put(world: &World, n: usize, content: Content, to: &[WorkerIx]) -> Ballot {
    world.0.lock().put(EPOCH, key(n), content, to).ballot
}

fn assert_equal(world: &World) {
    let mut state = world.0.lock();
    let first = state.visible(0);
    assert_eq!(first, state.visible(1));
    assert_eq!(first, state.visible(2));
}

#[test]
fn equal_replicas_cost_summaries_only() {
    let (world, group) = world();
    for n in 0..40 {
        put(&world, n, value("v"), &[0, 1, 2]);
    }
    let done = compared(&world, &group).unwrap();
    assert!(done.was_equal());
    assert_eq!((done.rows, done.stretches_read), (40, 0));
    assert_eq!(world.0.lock().asked.keys().copied().collect::<Vec<_>>(), ["summary"]);
}

#[test]
fn what_a_majority_holds_is_fetched_once_and_given() {
    let (world, group) = world();
    world.0.lock().page = 1_000;
    for n in 0..10_000 {
        put(&world, n, value("v"), &[0, 1, 2]);
    }
    for n in 0..100 {
        put(&world, n, value("missed"), &[0, 2]);
    }
    let done = compared(&world, &group).unwrap();
    assert_eq!((done.replicated, done.rewritten), (100, 0));
    let state = world.0.lock();
    assert_eq!((state.fetched, state.given), (100, 100));
    drop(state);
    assert_equal(&world);
}

#[test]
fn what_no_majority_holds_is_rewritten() {
    let (world, group) = world();
    put(&world, 1, value("a"), &[0, 1, 2]);
    put(&world, 1, value("b"), &[1]);
    put(&world, 2, value("c"), &[2]);
    put(&world, 3, value("d"), &[0]);
    put(&world, 3, Content::Tombstone, &[1]);
    let done = compared(&world, &group).unwrap();
    assert_eq!((done.replicated, done.rewritten), (0, 3));
    assert_equal(&world);
    assert_eq!(world.0.lock().held(0).rows[&hash(1)].content, value("b"));
    assert_eq!(world.0.lock().held(0).rows[&hash(3)].content, Content::Tombstone);
}

#[test]
fn a_row_below_the_floor_goes_to_the_owner() {
    let (world, group) = world();
    put(&world, 1, value("missed"), &[0, 1]);
    let higher = put(&world, 2, Content::Tombstone, &[]);
    (0..3).for_each(|worker| world.0.lock().held(worker).state.floor = higher);
    let done = compared(&world, &group).unwrap();
    assert_eq!((done.replicated, done.rewritten), (0, 1));
    assert_equal(&world);
    assert_eq!(world.0.lock().held(2).rows[&hash(1)].content, value("missed"));
}

#[test]
fn a_collection_that_ended_half_way_is_no_difference() {
    let (world, group) = world();
    let tombstone = put(&world, 1, Content::Tombstone, &[0, 1]);
    world.0.lock().held(2).state.floor = tombstone;
    let done = compared(&world, &group).unwrap();
    assert!(done.was_equal(), "{done:?}");
}

#[test]
fn what_is_being_written_is_left_alone() {
    let (world, group) = world();
    put(&world, 1, value("a"), &[0, 1, 2]);
    let under_way = put(&world, 1, value("b"), &[0]);
    world.0.lock().in_flight = Some(under_way);
    let done = compared(&world, &group).unwrap();
    assert_eq!((done.replicated, done.rewritten, done.unsettled), (0, 0, vec![hash(1)]));
    // It arrives between the digests and the look.
    world.0.lock().in_flight = None;
    let late = world.0.lock().held(0).rows[&hash(1)].clone();
    world.before_each(move |state, _, request| {
        if matches!(request, SyncRequest::Look { .. }) {
            for worker in &mut state.workers[1..] {
                worker.put(late.clone(), false).unwrap();
            }
        }
    });
    assert!(compared(&world, &group).unwrap().was_equal());
    assert_equal(&world);
}

/// It began behind the digests, and is half done when the keys are looked at.
#[test]
fn what_began_meanwhile_is_left_alone() {
    let (world, group) = world();
    put(&world, 1, value("a"), &[0, 1, 2]);
    put(&world, 1, value("b"), &[0]);
    world.before_each(|state, _, request| {
        if matches!(request, SyncRequest::Look { .. }) && state.in_flight.is_none() {
            state.in_flight = Some(state.put(EPOCH, key(1), value("c"), &[1]).ballot);
        }
    });
    let done = compared(&world, &group).unwrap();
    assert_eq!((done.replicated, done.rewritten, done.unsettled), (0, 0, vec![hash(1)]));
}

#[test]
fn a_flush_of_a_majority_is_given_and_one_of_a_minority_takes_effect_per_key() {
    let (world, group) = world();
    for n in 0..10 {
        put(&world, n, value("v"), &[0, 1, 2]);
    }
    let flush = put(&world, 99, Content::Tombstone, &[]);
    (0..2).for_each(|worker| world.0.lock().workers[worker].flush(partition(), flush));
    put(&world, 3, value("after"), &[0, 1, 2]);
    let done = compared(&world, &group).unwrap();
    assert_eq!((done.flushes, done.rewritten, done.replicated), (1, 0, 0));
    assert_equal(&world);
    let minority = put(&world, 99, Content::Tombstone, &[]);
    world.0.lock().workers[2].flush(partition(), minority);
    let done = compared(&world, &group).unwrap();
    assert_eq!((done.flushes, done.rewritten), (0, 1));
    assert_equal(&world);
    assert_eq!(world.0.lock().held(0).rows[&hash(3)].content, Content::Tombstone);
    assert!(compared(&world, &group).unwrap().was_equal());
}

#[test]
fn single_keys_can_be_compared() {
    let (world, group) = world();
    for n in 0..10 {
        put(&world, n, value("v"), &[0, 1]);
    }
    let mut done = Compared::default();
    run(compare_keys(&world, &group, vec![hash(4), hash(2), hash(4)], &mut done)).unwrap();
    assert_eq!((done.replicated, world.0.lock().visible(2).len()), (2, 2));
}

#[test]
fn a_silent_replica_and_a_newer_epoch_end_it() {
    let (world, group) = world();
    world.0.lock().workers[1].down = true;
    assert_eq!(compared(&world, &group).unwrap_err().worker(), Some(1));
    world.0.lock().workers[1].down = false;
    world.0.lock().held(0).epoch = Epoch(EPOCH + 1);
    assert_eq!(compared(&world, &group), Err(HealError::Moved));
}

proptest! {
    /// Puts that reached any replicas, flushes that reached any, floors of any height: all are equal afterwards, nothing
    /// that a majority held is lost, and a second comparison finds nothing to do.
    #[test]
    fn all_replicas_are_equal_afterwards(
        puts in prop::collection::vec((0_usize..12, 0_u8..8, any::<bool>()), 0..40),
        flush in prop::option::of((0_usize..40, 1_u8..8)),
        floors in prop::array::uniform3(0_u64..20),
        page in 1_usize..5,
    ) {
        let (world, group) = world();
        let mut state = world.0.lock();
        state.page = page;
        let members = |bits: u8| (0..3_u16).filter(|w| bits & (1 << w) != 0).collect::<Vec<_>>();
        for (step, (n, to, dead)) in puts.iter().enumerate() {
            if let Some((_, to)) = flush.filter(|(at, _)| *at == step) {
                state.seq += 1;
                let ballot = promise(EPOCH, 1).ballot(state.seq);
                for worker in members(to) {
                    state.workers[usize::from(worker)].flush(partition(), ballot);
                }
            }
            let content = if *dead { Content::Tombstone } else { value(step.to_string()) };
            state.put(EPOCH, key(*n), content, &members(*to));
        }
        for (worker, floor) in floors.into_iter().enumerate() {
            // That of a replica that has lost nothing, as it holds nothing.
            let floor = floor.min(state.seq);
            if state.held(worker as u16).rows.is_empty() {
                state.held(worker as u16).state.floor = promise(EPOCH, 1).ballot(floor);
            }
        }
        let before: Vec<_> = (0..3).map(|worker| state.visible(worker)).collect();
        drop(state);
        compared(&world, &group).unwrap();
        let again = compared(&world, &group).unwrap();
        prop_assert!(again.was_equal(), "{:?}", again);
        let mut state = world.0.lock();
        let after: Vec<_> = (0..3).map(|worker| state.visible(worker)).collect();
        for (view, worker) in after.iter().zip(0..) {
            for hash in after.iter().flat_map(|view| view.keys()).filter(|hash| !view.contains_key(*hash)) {
                let holder = (0..3).find_map(|worker| state.held(worker).rows.get(hash).cloned()).unwrap();
                prop_assert!(holder.content == Content::Tombstone);
                prop_assert!(state.held(worker).state.floor >= holder.ballot, "else it lacks a row");
            }
        }
        for view in &before {
            for (hash, ballot) in view {
                let chosen = before.iter().filter(|other| other.get(hash) == Some(ballot)).count() >= 2;
                if chosen {
                    let kept = |worker: u16, state: &mut State| {
                        let flush = state.held(worker).state.flush;
                        after[usize::from(worker)].get(hash).copied().unwrap_or(flush) >= *ballot
                    };
                    let holders = (0..3).filter(|worker| kept(*worker, &mut state)).count();
                    prop_assert!(holders >= 2);
                }
            }
        }
    }
}

/// Only an owner that was one all the time, and only of equal replicas: that is what pruning rests on.
#[test]
fn equal_replicas_have_passed_what_was_before_their_owner() {
    let (world, group) = world();
    put(&world, 1, value("v"), &[0, 1, 2]);
    put(&world, 2, value("missed"), &[0, 1]);
    compared(&world, &group).unwrap();
    assert_eq!(world.0.lock().passed, [], "one of them lacked a row");
    world.0.lock().owned = false;
    compared(&world, &group).unwrap();
    assert_eq!(world.0.lock().passed, [], "somebody else may be at it");
    world.0.lock().owned = true;
    world.before_each(|state, _, _| state.term = 2);
    compared(&world, &group).unwrap();
    assert_eq!(world.0.lock().passed, [], "another term since it began");
    compared(&world, &group).unwrap();
    let promise = world.0.lock().promise(EPOCH);
    assert_eq!(world.0.lock().passed, [(group.partition, promise)]);
}
