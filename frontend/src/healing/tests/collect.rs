use proptest::prelude::*;
use tercet_common::message::Refusal;
use tercet_common::{Ballot, Content, KeyHash, Row, SyncRequest};

use super::world::*;
use crate::healing::collect::{Collected, collect};
use crate::healing::compare::{Compared, compare};
use crate::healing::{HealError, Stable};

const EPOCH: u64 = 5;

fn world() -> (World, Stable) {
    let world = World::new(3);
    let group = world.0.lock().group(EPOCH, &[0, 1, 2]);
    (world, group)
}

fn collected(world: &World, group: &Stable) -> Result<Collected, HealError> {
    let mut done = Collected::default();
    run(collect(world, group, &mut done))?;
    Ok(done)
}

fn put(world: &World, n: usize, content: Content, to: &[u16]) -> Row {
    world.0.lock().put(EPOCH, key(n), content, to)
}

fn rows(world: &World) -> usize {
    world.0.lock().workers.iter_mut().map(|worker| worker.held(partition()).rows.len()).sum()
}

#[test]
pub(super) fn tombstones_that_all_hold_go_and_the_others_stay() {
    let (world, group) = world();
    for n in 0..10 {
        put(&world, n, value("v"), &[0, 1, 2]);
        put(&world, n, Content::Tombstone, &[0, 1, 2]);
    }
    put(&world, 20, value("alive"), &[0, 1, 2]);
    put(&world, 21, Content::Tombstone, &[0, 1]);
    let done = collected(&world, &group).unwrap();
    assert_eq!((done.collected, done.left, rows(&world)), (10, 1, 5));
}

#[test]
fn an_older_version_that_comes_late_is_refused() {
    let (world, group) = world();
    let late = put(&world, 1, value("late"), &[0, 1]);
    put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    collected(&world, &group).unwrap();
    for worker in 0..3 {
        for chosen in [false, true] {
            let outcome = world.0.lock().workers[worker].put(late.clone(), chosen);
            assert!(matches!(outcome, Err(Refusal::Floor { .. })));
        }
    }
}

#[test]
fn the_floor_stays_below_what_the_owner_has_in_flight() {
    let (world, group) = world();
    put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    let in_flight = put(&world, 2, value("on its way"), &[0]);
    put(&world, 3, Content::Tombstone, &[0, 1, 2]);
    world.0.lock().in_flight = Some(in_flight.ballot);
    let done = collected(&world, &group).unwrap();
    assert_eq!((done.collected, done.left), (1, 1));
    assert!(world.0.lock().workers[1].put(in_flight, false).is_ok());
}

/// The base has the answer of a replica from before it was given the tombstone: the others must still show that.
#[test]
fn a_tombstone_stays_while_the_base_of_its_key_is_read() {
    let (world, group) = world();
    let tombstone = put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    put(&world, 2, Content::Tombstone, &[0, 1, 2]);
    world.0.lock().reading = vec![tombstone.key.hash()];
    let done = collected(&world, &group).unwrap();
    assert_eq!((done.collected, done.left), (1, 1));
    world.0.lock().reading.clear();
    assert_eq!(collected(&world, &group).unwrap().collected, 1);
}

/// It was in flight when the digests were read, and ended before the owner was asked again.
#[test]
fn what_was_in_flight_before_the_digests_counts() {
    let (world, group) = world();
    put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    let ballot = world.0.lock().held(0).rows[&hash(1)].ballot;
    world.0.lock().in_flight = Some(ballot);
    world.before_each(|state, _, _| state.in_flight = None);
    assert_eq!(collected(&world, &group).unwrap().collected, 0);
}

#[test]
fn what_comes_in_flight_during_the_digests_counts() {
    let (world, group) = world();
    put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    let ballot = world.0.lock().held(0).rows[&hash(1)].ballot;
    world.before_each(move |state, _, _| state.in_flight = Some(ballot));
    assert_eq!(collected(&world, &group).unwrap().collected, 0);
}

#[test]
fn a_tombstone_of_a_higher_owner_is_left_to_it() {
    let (world, group) = world();
    world.0.lock().term = 9;
    put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    world.0.lock().term = 1;
    assert_eq!(collected(&world, &group).unwrap(), Collected { collected: 0, left: 1 });
    world.0.lock().owned = false;
    assert_eq!(collected(&world, &group), Err(HealError::NotOwned));
}

#[test]
fn a_collection_that_failed_half_way_is_finished_by_the_next() {
    let (world, group) = world();
    put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    world.before_each(|state, worker, request| {
        state.workers[2].down = worker == 2 && matches!(request, SyncRequest::Collect { .. });
    });
    assert_eq!(collected(&world, &group).unwrap_err().worker(), Some(2));
    assert_eq!(rows(&world), 1);
    world.before_each(|state, _, _| state.workers[2].down = false);
    assert_eq!(collected(&world, &group).unwrap().collected, 1);
    assert_eq!(rows(&world), 0);
}

#[test]
fn a_newer_version_is_not_deleted_with_the_tombstone() {
    let (world, group) = world();
    put(&world, 1, Content::Tombstone, &[0, 1, 2]);
    world.before_each(|state, worker, request| {
        if worker == 0 && matches!(request, SyncRequest::Collect { .. }) {
            state.put(EPOCH, key(1), value("new"), &[0, 1, 2]);
        }
    });
    collected(&world, &group).unwrap();
    assert_eq!(rows(&world), 3);
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        n: usize,
        dead: bool,
        to: u8,
    },
    /// An old put comes late to one replica; or comes again.
    Late {
        nth: usize,
        worker: usize,
    },
    Compare,
    /// With one replica that misses the message, or none.
    Collect {
        misses: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..4, any::<bool>(), 1_u8..8).prop_map(|(n, dead, to)| Step::Put { n, dead, to }),
        3 => (0_usize..40, 0_usize..3).prop_map(|(nth, worker)| Step::Late { nth, worker }),
        1 => Just(Step::Compare),
        2 => (0_usize..4).prop_map(|misses| Step::Collect { misses }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// A key whose deletion all replicas held never shows an older version again: not by late or repeated puts, not by
    /// comparison, not by collections that fail half-way.
    #[test]
    fn nothing_that_was_deleted_comes_back(steps in steps(), page in 1_usize..4) {
        let (world, group) = world();
        world.0.lock().page = page;
        let mut sent: Vec<Row> = Vec::new();
        // The highest tombstone of each key that all three held at once.
        let mut dead: std::collections::BTreeMap<KeyHash, Ballot> = Default::default();
        for step in steps {
            match step {
                Step::Put { n, dead, to } => {
                    let to: Vec<u16> = (0..3).filter(|worker| to & (1 << worker) != 0).collect();
                    let content = if dead { Content::Tombstone } else { value("v") };
                    sent.push(put(&world, n, content, &to));
                }
                Step::Late { nth, worker } => {
                    if let Some(row) = sent.get(nth) {
                        let _ = world.0.lock().workers[worker].put(row.clone(), false);
                    }
                }
                Step::Compare => run(compare(&world, &group, &mut Compared::default())).unwrap(),
                Step::Collect { misses } => {
                    world.before_each(move |state, worker, request| {
                        let collects = matches!(request, SyncRequest::Collect { .. });
                        state.workers.iter_mut().for_each(|worker| worker.down = false);
                        state.workers[usize::from(worker)].down = collects && usize::from(worker) == misses;
                    });
                    let _ = collected(&world, &group);
                    world.before_each(|state, _, _| state.workers.iter_mut().for_each(|worker| worker.down = false));
                    world.0.lock().workers.iter_mut().for_each(|worker| worker.down = false);
                }
            }
            let mut state = world.0.lock();
            for n in 0..4 {
                let of = |worker: u16, state: &mut State| state.held(worker).rows.get(&hash(n)).cloned();
                let rows: Vec<_> = (0..3).filter_map(|worker| of(worker, &mut state)).collect();
                let same = rows.len() == 3 && rows.windows(2).all(|pair| pair[0] == pair[1]);
                if same && rows[0].content == Content::Tombstone {
                    dead.insert(hash(n), rows[0].ballot);
                }
                if let Some(dead) = dead.get(&hash(n)) {
                    for row in rows {
                        prop_assert!(row.ballot >= *dead, "{row:?} came back over {dead}");
                    }
                }
            }
        }
    }
}
