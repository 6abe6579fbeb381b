use std::collections::BTreeMap;

use proptest::prelude::*;
use tercet_common::{Ballot, Content, Epoch, KeyHash, Row, SyncRequest};

use super::world::*;
use crate::coordinator::core::WorkerIx;
use crate::healing::HealError;
use crate::healing::copy::{Copied, CopyJob, INSTALL_BYTES_MAX, copy};

const JOINT: u64 = 5;
const NEWCOMER: WorkerIx = 3;

fn job() -> CopyJob {
    CopyJob { partition: partition(), epoch: Epoch(JOINT), old: vec![0, 1, 2], newcomer: NEWCOMER, name: 1 }
}

/// Three old replicas and a newcomer in the joint epoch, with these rows.
fn world(rows: &[(WorkerIx, Row)]) -> World {
    let world = World::new(4);
    let mut state = world.0.lock();
    state.group(JOINT, &[0, 1, 2]);
    for worker in 0..4 {
        let held = state.held(worker);
        held.epoch = Epoch(JOINT);
        held.joining = worker == NEWCOMER;
    }
    for (worker, row) in rows {
        state.held(*worker).rows.insert(row.key.hash(), row.clone());
    }
    drop(state);
    world
}

fn copied(world: &World) -> Result<Copied, HealError> {
    let mut done = Copied::default();
    run(copy(world, &job(), &mut done, &mut |_| ()))?;
    Ok(done)
}

/// What the newcomer answers reads with.
fn shown(world: &World) -> BTreeMap<KeyHash, Ballot> {
    let mut state = world.0.lock();
    let held = state.held(NEWCOMER);
    let rows = held.rows.keys().filter_map(|hash| Some((*hash, held.shown(hash)?.ballot)));
    rows.collect()
}

fn old(seq: u64) -> Ballot {
    promise(2, 1).ballot(seq)
}

fn joint(seq: u64) -> Ballot {
    promise(JOINT, 1).ballot(seq)
}

#[test]
fn an_empty_newcomer_gets_all_and_shows_it_at_the_end() {
    let rows: Vec<_> =
        (0..20).flat_map(|n| [0, 1].map(|worker| (worker, row(n, old(n as u64 + 1), value("v"))))).collect();
    let world = world(&rows);
    let mut seen = Vec::new();
    let mut done = Copied::default();
    run(copy(&world, &job(), &mut done, &mut |so_far| seen.push(so_far.rows))).unwrap();
    assert_eq!((done.rows, done.kept, done.evicted), (20, 0, 0));
    assert!(seen.is_sorted() && seen.last() == Some(&20), "{seen:?}");
    assert_eq!(shown(&world).len(), 20);
}

#[test]
pub(super) fn absence_at_one_source_hides_nothing_of_the_other() {
    let world = world(&[
        (0, row(1, old(1), value("a"))),
        (1, row(2, old(2), value("b"))),
        (1, row(1, old(3), value("c"))),
    ]);
    copied(&world).unwrap();
    assert_eq!(shown(&world), [(hash(1), old(3)), (hash(2), old(2))].into());
}

#[test]
fn what_the_newcomer_has_at_the_same_ballot_is_not_sent_again() {
    let rows = (0..100_usize)
        .flat_map(|n| [0, 1, 2, 3].map(|worker| (worker, row(n, old(n as u64 + 1), value("v")))));
    let mut rows: Vec<_> = rows.collect();
    rows.extend(
        (0..7).flat_map(|n| [0, 1].map(|worker| (worker, row(n, old(n as u64 + 1_000), value("w"))))),
    );
    let world = world(&rows);
    let done = copied(&world).unwrap();
    assert_eq!((done.rows, done.kept, world.0.lock().given), (7, 93, 7));
    assert_eq!(shown(&world).len(), 100);
}

/// The newcomer was a replica before. Key 1 was deleted since and its tombstone collected; of key 2 it has a version
/// that was never chosen.
#[test]
pub(super) fn the_dead_stay_dead() {
    let world = world(&[
        (NEWCOMER, row(1, old(50), value("dead"))),
        (NEWCOMER, row(2, old(60), value("never chosen"))),
        (0, row(2, old(9), value("chosen"))),
        (1, row(2, old(9), value("chosen"))),
    ]);
    world.0.lock().held(0).state.floor = old(55);
    let done = copied(&world).unwrap();
    assert_eq!((done.evicted, done.rows), (2, 1));
    assert_eq!(shown(&world), [(hash(2), old(9))].into());
    assert_eq!(world.0.lock().held(NEWCOMER).state.floor, old(55));
}

#[test]
fn an_old_flush_of_its_own_that_was_never_chosen_hides_nothing() {
    let world = world(&[
        (0, row(1, old(9), value("a"))),
        (1, row(1, old(9), value("a"))),
        (NEWCOMER, row(2, old(3), value("hidden"))),
    ]);
    world.0.lock().held(NEWCOMER).state.flush = old(90);
    copied(&world).unwrap();
    assert_eq!(shown(&world), [(hash(1), old(9))].into());
    assert_eq!(
        world.0.lock().visible(NEWCOMER),
        [(hash(1), old(9))].into(),
        "the row from below the flush is gone too"
    );
}

#[test]
fn a_flush_in_the_joint_epoch_is_not_undone() {
    let rows: Vec<_> = (0..10)
        .flat_map(|n| [0, 1, 2].map(|worker| (worker, row(n, old(n as u64 + 1), value("v")))))
        .collect();
    // Three digests to begin with, and three of each of four stretches.
    for at_digest in 0..15 {
        let world = world(&rows);
        let mut digests = 0;
        world.before_each(move |state, _, request| {
            digests += u32::from(matches!(request, SyncRequest::Digest { .. }));
            if digests == at_digest + 1 {
                for worker in 0..4 {
                    state.workers[worker].flush(partition(), joint(1));
                }
            }
        });
        copied(&world).unwrap();
        assert!(shown(&world).is_empty(), "flushed at digest {at_digest}");
        assert_eq!(world.0.lock().held(NEWCOMER).state.flush, joint(1));
    }
}

#[test]
fn a_flush_that_the_newcomer_missed_reaches_it_with_the_copy() {
    let rows: Vec<_> = (0..10)
        .flat_map(|n| [0, 1, 2].map(|worker| (worker, row(n, old(n as u64 + 1), value("v")))))
        .collect();
    let world = world(&rows);
    let mut installs = 0;
    world.before_each(move |state, _, request| {
        installs += u32::from(matches!(request, SyncRequest::Install { .. }));
        if installs == 2 {
            (0..3).for_each(|worker| state.workers[worker].flush(partition(), joint(1)));
        }
    });
    copied(&world).unwrap();
    assert!(shown(&world).is_empty());
}

#[test]
fn flushes_without_end_are_given_up() {
    let rows: Vec<_> = (0..10)
        .flat_map(|n| [0, 1, 2].map(|worker| (worker, row(n, old(n as u64 + 1), value("v")))))
        .collect();
    let world = world(&rows);
    let mut seq = 0;
    world.before_each(move |state, _, request| {
        if matches!(request, SyncRequest::Digest { .. }) {
            seq += 1;
            (0..3).for_each(|worker| state.workers[worker].flush(partition(), joint(seq)));
        }
    });
    assert_eq!(copied(&world), Err(HealError::Unsteady));
}

#[test]
fn a_lost_source_is_replaced_and_a_second_one_is_an_error() {
    let rows: Vec<_> = (0..12)
        .flat_map(|n| [0, 1, 2].map(|worker| (worker, row(n, old(n as u64 + 1), value("v")))))
        .collect();
    for (lost, expected) in [(vec![1], Ok(12)), (vec![0, 1], Err(HealError::TooFewSources))] {
        for at in 0..20 {
            let world = world(&rows);
            let (lost, mut requests) = (lost.clone(), 0);
            world.before_each(move |state, _, _| {
                requests += 1;
                if requests > at {
                    lost.iter().for_each(|worker: &usize| state.workers[*worker].down = true);
                }
            });
            assert_eq!(copied(&world).map(|done| done.rows), expected, "after {at} requests");
        }
    }
}

#[test]
fn a_lost_newcomer_and_a_newer_epoch_end_the_copy() {
    let world_ = world(&[]);
    world_.0.lock().workers[usize::from(NEWCOMER)].down = true;
    assert_eq!(copied(&world_).unwrap_err().worker(), Some(NEWCOMER));
    let world_ = world(&[]);
    world_.0.lock().held(1).epoch = Epoch(JOINT + 1);
    assert_eq!(copied(&world_), Err(HealError::Moved));
}

#[test]
fn messages_are_bounded_in_bytes() {
    let big = "x".repeat(INSTALL_BYTES_MAX / 3);
    let rows: Vec<_> = (0..9)
        .flat_map(|n| [0, 1].map(|worker| (worker, row(n, old(n as u64 + 1), value(big.clone())))))
        .collect();
    let world = world(&rows);
    world.0.lock().page = 100;
    world.before_each(|_, _, request| {
        if let SyncRequest::Install { rows, .. } = request {
            assert!(rows.iter().map(Row::weight).sum::<usize>() <= INSTALL_BYTES_MAX);
        }
    });
    assert_eq!(copied(&world).unwrap().rows, 9);
}

/// (worker, key, seq or tombstone) of rows from before the change.
fn histories() -> impl Strategy<Value = Vec<(WorkerIx, usize, u64)>> {
    prop::collection::vec((0_u16..4, 0_usize..12, 1_u64..40), 0..40)
}

fn content(seq: u64) -> Content {
    if seq.is_multiple_of(3) { Content::Tombstone } else { value(format!("{seq}")) }
}

proptest! {
    /// Whatever the four held before, and whatever is written to some of them meanwhile, the newcomer ends with exactly
    /// the merged snapshot, and above it what it accepted itself.
    #[test]
    fn the_newcomer_ends_with_the_merged_snapshot_and_its_own(
        before in histories(),
        own in prop::collection::btree_map(0_usize..12, 1_u64..40, 0..5),
        flushes in prop::array::uniform4(0_u64..30),
        page in 1_usize..5,
    ) {
        // A ballot names one version, which the rows of one seq have in common.
        let world = world(&[]);
        let mut state = world.0.lock();
        state.page = page;
        for (worker, n, seq) in before {
            let held = state.held(worker);
            let ballot = old(seq * 12 + n as u64);
            if held.rows.get(&hash(n)).is_none_or(|there| there.ballot < ballot) {
                held.rows.insert(hash(n), row(n, ballot, content(seq)));
            }
        }
        for (worker, flush) in flushes.into_iter().enumerate() {
            state.held(worker as u16).state.flush = if flush == 0 { Ballot::ZERO } else { old(flush * 12) };
        }
        for (n, seq) in &own {
            state.held(NEWCOMER).rows.insert(hash(*n), row(*n, joint(*seq), content(*seq)));
        }
        let flush = state.held(0).state.flush.max(state.held(1).state.flush);
        let mut expected: BTreeMap<KeyHash, Ballot> = BTreeMap::new();
        for source in [0, 1] {
            for (hash, ballot) in state.visible(source) {
                let highest = expected.entry(hash).or_default();
                *highest = ballot.max(*highest);
            }
        }
        expected.retain(|_, ballot| *ballot > flush);
        expected.extend(own.iter().map(|(n, seq)| (hash(*n), joint(*seq))));
        drop(state);
        copied(&world).unwrap();
        prop_assert_eq!(shown(&world), expected);
        let again = copied(&world).unwrap();
        prop_assert_eq!((again.rows, again.evicted), (0, 0));
    }
}

/// Of a frontend that is given up for dead, for example: the ring may be changed on the strength of its copy at any time.
#[test]
fn a_second_copy_leaves_a_newcomer_alone_whose_copy_has_finished() {
    let world = world(&[(0, row(1, old(2), value("only one has it"))), (1, row(1, old(1), value("a")))]);
    copied(&world).unwrap();
    let before = shown(&world);
    assert_eq!(before, [(hash(1), old(2))].into());
    let second = CopyJob { old: vec![2, 1, 0], name: 2, ..job() };
    let mut done = Copied::default();
    run(copy(&world, &second, &mut done, &mut |_| ())).unwrap();
    assert_eq!(done, Copied::default());
    assert_eq!(shown(&world), before);
}
