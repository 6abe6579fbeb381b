//! Rules of ring changes, one each.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tercet_common::{Content, Epoch, Refusal, ReplicaReply, ReplicaRequest, WorkerId};

use super::super::{FlushDone, Group, Missed, Replicas, WorkerIx};
use super::world::{Packet, World, key, text};
use crate::coordinator::api::{Change, OpError, ReadLevel};

const K: &str = "k";
const OLD: [WorkerIx; 3] = [0, 1, 2];
const NEW: [WorkerIx; 3] = [0, 1, 3];

fn joint(epoch: u64) -> Group {
    Group { next: Some(Replicas::from(NEW)), ..Group::stable(Epoch(epoch), OLD) }
}

/// Four workers, of which the first three hold the key, at "old".
fn world(frontends: usize) -> World {
    let mut world = World::with_workers(frontends, 4, 0);
    configure(&mut world, &Group::stable(Epoch(1), OLD));
    world.set(0, K, "old");
    world.run_all();
    world
}

/// The replicas learn of a configuration.
fn configure(world: &mut World, group: &Group) {
    world.replicas.iter_mut().for_each(|r| r.configure(key(K).partition(), group.clone()));
}

fn reconfigure(world: &mut World, frontend: usize, group: &Group) {
    world.with(frontend, |core| core.reconfigure(key(K).partition(), group.clone()));
}

/// Everybody learns of it, and takes over.
fn change(world: &mut World, group: &Group) {
    configure(world, group);
    (0..world.cores.len()).for_each(|frontend| reconfigure(world, frontend, group));
    world.run_all();
}

fn to(workers: &'static [WorkerIx]) -> impl Fn(&Packet) -> bool {
    move |packet| matches!(packet, Packet::Request { worker, .. } if workers.contains(worker))
}

fn asked(world: &World) -> Vec<WorkerIx> {
    let asked = world.wire.iter().filter_map(|packet| match packet {
        Packet::Request { worker, .. } => Some(*worker),
        Packet::Reply { .. } => None,
    });
    asked.collect()
}

/// Delivers the requests on the wire; the answers are returned.
fn answers(world: &mut World) -> Vec<Packet> {
    for packet in std::mem::take(&mut world.wire) {
        world.deliver(packet);
    }
    std::mem::take(&mut world.wire)
}

fn stored(world: &World, worker: usize) -> String {
    world.replicas[worker].rows.get(&key(K)).map_or("(nothing)".to_owned(), text)
}

type Done = Arc<Mutex<Option<Result<(), OpError>>>>;

fn done() -> (Done, FlushDone) {
    let done = Done::default();
    let given = done.clone();
    (done, Box::new(move |result| *given.lock().unwrap() = Some(result)))
}

#[test]
fn acknowledgements_of_an_epoch_that_is_over_do_not_count() {
    let mut world = world(1);
    let set = world.set(0, K, "new");
    let late = answers(&mut world);
    assert_eq!(late.len(), 3);
    configure(&mut world, &joint(2));
    reconfigure(&mut world, 0, &joint(2));
    late.into_iter().for_each(|packet| world.deliver(packet));
    assert!(!set.is_given(), "three old acknowledgements are none");
    world.run_all();
    // It was found to have happened, and was put again.
    assert_eq!(set.take().unwrap().unwrap().ballot.epoch, Epoch(2));
    assert_eq!((stored(&world, 0), stored(&world, 3)), ("new".to_owned(), "new".to_owned()));
}

#[test]
fn a_put_that_reached_nobody_before_the_change_is_applied_afresh() {
    let mut world = world(1);
    world.set(0, K, "1");
    world.run_all();
    let (incr, made) = world.incr(0, K);
    answers(&mut world).into_iter().for_each(|packet| world.deliver(packet));
    world.wire.clear();
    change(&mut world, &joint(2));
    assert_eq!(incr.take().unwrap().unwrap().ballot.epoch, Epoch(2));
    assert_eq!(*made.lock().unwrap(), 2);
}

#[test]
fn a_put_that_one_replica_stored_before_the_change_happens_once() {
    let mut world = world(1);
    world.set(0, K, "1");
    world.run_all();
    let (incr, made) = world.incr(0, K);
    answers(&mut world).into_iter().for_each(|packet| world.deliver(packet));
    world.run(to(&[1, 2]));
    assert_eq!(stored(&world, 0), "2");
    change(&mut world, &joint(2));
    assert!(incr.take().unwrap().is_ok());
    assert_eq!((*made.lock().unwrap(), stored(&world, 1)), (2, "2".to_owned()));
}

#[test]
fn an_operation_that_saw_its_epoch_end_and_finds_a_later_write_is_uncertain() {
    let mut world = world(2);
    let set = world.set(0, K, "first");
    world.run(to(&[1, 2]));
    configure(&mut world, &joint(2));
    reconfigure(&mut world, 1, &joint(2));
    let other = world.set(1, K, "second");
    world.run_all();
    assert!(other.take().unwrap().is_ok());
    reconfigure(&mut world, 0, &joint(2));
    world.pass(Duration::from_secs(2), |_| false);
    assert_eq!(set.take().unwrap(), Err(OpError::Uncertain));
    assert!(world.cores[0].out.missed.contains(&(1, Missed::Key(key(K)))), "somebody must look at the key");
}

#[test]
fn a_worker_that_knows_the_epoch_first_costs_no_error() {
    for stranger in [false, true] {
        let mut world = world(1);
        let next = if stranger { Group::stable(Epoch(2), [1, 2, 3]) } else { joint(2) };
        configure(&mut world, &next);
        let set = world.set(0, K, "new");
        world.run_all();
        world.pass(Duration::from_secs(2), |_| false);
        assert!(!set.is_given());
        reconfigure(&mut world, 0, &next);
        world.pass(Duration::from_millis(100), |_| false);
        assert!(set.take().unwrap().is_ok());
    }
}

#[test]
fn a_frontend_that_knows_the_epoch_first_waits_for_the_workers() {
    let mut world = world(1);
    reconfigure(&mut world, 0, &joint(2));
    let (set, get) = (world.set(0, K, "new"), world.get(0, K));
    world.pass(Duration::from_secs(1), |_| false);
    assert!(!set.is_given() && !get.is_given());
    configure(&mut world, &joint(2));
    world.pass(Duration::from_secs(2), |_| false);
    assert!(set.take().unwrap().is_ok());
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "new");
}

#[test]
pub(super) fn a_write_in_a_joint_epoch_needs_both_majorities() {
    let mut world = world(1);
    change(&mut world, &joint(2));
    let set = world.set(0, K, "new");
    world.run(to(&[1, 2]));
    assert!(!set.is_given(), "two of the new set, one of the old");
    world.pass(Duration::from_secs(2), to(&[1, 2]));
    assert!(!set.is_given());
    world.pass(Duration::from_secs(2), |_| false);
    assert!(set.take().unwrap().is_ok());

    let set = world.set(0, K, "newer");
    world.run(to(&[1, 3]));
    assert!(!set.is_given(), "two of the old set, one of the new");
    world.pass(Duration::from_secs(2), to(&[1]));
    let written = set.take().unwrap().unwrap();
    let names: Vec<_> = written.synchronous.iter().map(|w| w.as_str()).collect();
    assert_eq!(names, ["w1", "w4", "w3"], "those first that stay");
}

#[test]
fn a_takeover_in_a_joint_epoch_needs_both_majorities() {
    let mut world = world(1);
    configure(&mut world, &joint(2));
    let partition = key(K).partition();
    assert_eq!(world.cores[0].promise_of(partition).unwrap().epoch, Epoch(1));
    reconfigure(&mut world, 0, &joint(2));
    assert_eq!(world.cores[0].promise_of(partition), None);
    world.run(to(&[1, 3]));
    assert_eq!(world.cores[0].promise_of(partition), None);
    world.pass(Duration::from_secs(2), to(&[1]));
    assert_eq!(world.cores[0].promise_of(partition).unwrap().epoch, Epoch(2));
}

#[test]
fn promises_of_an_epoch_that_is_over_do_not_count() {
    let mut world = world(1);
    configure(&mut world, &joint(2));
    reconfigure(&mut world, 0, &joint(2));
    let late = answers(&mut world);
    let next = Group::stable(Epoch(3), NEW);
    configure(&mut world, &next);
    reconfigure(&mut world, 0, &next);
    late.into_iter().for_each(|packet| world.deliver(packet));
    let partition = key(K).partition();
    assert_eq!(world.cores[0].promise_of(partition), None);
    world.run_all();
    assert_eq!(world.cores[0].promise_of(partition).unwrap().epoch, Epoch(3));
}

#[test]
fn a_read_in_a_joint_epoch_asks_as_few_as_it_can() {
    let mut world = world(1);
    change(&mut world, &joint(2));
    let get = world.get(0, K);
    assert_eq!(asked(&world), [0, 1], "members of both sets");
    world.run_all();
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "old");
    world.with(0, |core| core.peer(1, false));
    world.get(0, K);
    assert_eq!(asked(&world), [0, 2, 3]);
}

#[test]
fn what_a_newcomer_has_not_copied_is_rewritten_before_it_is_answered() {
    let mut world = world(1);
    change(&mut world, &joint(2));
    world.with(0, |core| core.peer(1, false));
    let get = world.get(0, K);
    world.run(|packet| matches!(packet, Packet::Request { request: ReplicaRequest::Put { .. }, .. }));
    assert!(!get.is_given(), "of the new set only one holds it");
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "old");
    assert_eq!(stored(&world, 3), "old");
}

#[test]
fn a_read_of_one_replica_does_not_ask_newcomers() {
    let mut world = world(1);
    change(&mut world, &joint(2));
    world.with(0, |core| [0, 1, 2].into_iter().for_each(|w| core.peer(w, false)));
    let get = world.read(0, K, ReadLevel::One);
    assert!(asked(&world).is_empty());
    world.pass(Duration::from_secs(6), |_| false);
    assert_eq!(get.take().unwrap(), Err(OpError::ReadUnavailable));
}

#[test]
fn a_read_begins_again_in_the_new_epoch() {
    let mut world = world(1);
    let get = world.get(0, K);
    let late = answers(&mut world);
    let next = Group::stable(Epoch(2), [0, 1]);
    configure(&mut world, &next);
    reconfigure(&mut world, 0, &next);
    late.into_iter().for_each(|packet| world.deliver(packet));
    assert!(!get.is_given(), "two old answers are none");
    world.run_all();
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "old");
}

#[test]
fn a_base_is_read_again_in_the_new_epoch() {
    let mut world = world(2);
    world.set(0, K, "1");
    world.run_all();
    let (slow, made) = world.incr(0, K);
    let late = answers(&mut world);
    change(&mut world, &joint(2));
    // Before the first one's answers arrive.
    let (quick, _) = world.incr(1, K);
    late.into_iter().for_each(|packet| world.deliver(packet));
    world.run_all();
    world.pass(Duration::from_secs(2), |_| false);
    assert!(slow.take().unwrap().is_ok() && quick.take().unwrap().is_ok());
    assert_eq!(stored(&world, 0), "3");
    assert!((2..=3).contains(&*made.lock().unwrap()));
}

#[test]
fn a_hold_lets_puts_end_and_none_begin() {
    let mut world = world(1);
    let partition = key(K).partition();
    let first = world.set(0, K, "first");
    world.with(0, |core| core.hold(partition));
    let second = world.set(0, "other{k}", "second");
    assert!(!world.cores[0].is_drained(partition));
    world.run_all();
    assert!(first.take().unwrap().is_ok());
    assert!(world.cores[0].is_drained(partition) && !second.is_given());
    let get = world.get(0, K);
    world.run_all();
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "first", "reads go on");
    world.with(0, |core| core.release(partition));
    world.run_all();
    assert!(second.take().unwrap().is_ok());
}

#[test]
fn a_hold_ends_with_the_change_and_in_any_case_after_a_while() {
    let mut world = world(1);
    let partition = key(K).partition();
    world.with(0, |core| core.hold(partition));
    let set = world.set(0, K, "new");
    change(&mut world, &joint(2));
    assert!(set.take().unwrap().is_ok());
    world.with(0, |core| core.hold(partition));
    let set = world.set(0, K, "newer");
    world.pass(Duration::from_millis(900), |_| false);
    assert!(!set.is_given());
    world.pass(Duration::from_millis(200), |_| false);
    assert!(set.take().unwrap().is_ok());
}

#[test]
fn a_flush_that_is_caught_under_way_is_uncertain_and_one_that_waits_is_not() {
    let mut world = world(1);
    let partition = key(K).partition();
    let (caught, finish) = done();
    world.with(0, |core| core.flush(partition, finish));
    assert!(!world.cores[0].is_drained(partition));
    let late = answers(&mut world);
    change(&mut world, &joint(2));
    late.into_iter().for_each(|packet| world.deliver(packet));
    assert_eq!(caught.lock().unwrap().take(), Some(Err(OpError::Uncertain)));

    let (waiting, finish) = done();
    world.with(0, |core| {
        core.hold(partition);
        core.flush(partition, finish);
    });
    world.run_all();
    assert_eq!(waiting.lock().unwrap().take(), None);
    change(&mut world, &Group::stable(Epoch(3), OLD));
    assert_eq!(waiting.lock().unwrap().take(), Some(Ok(())));
    let get = world.get(0, K);
    world.run_all();
    assert_eq!(get.take().unwrap().unwrap(), None);
}

#[test]
fn a_flush_that_everybody_refuses_for_its_epoch_goes_in_the_next() {
    let mut world = world(1);
    configure(&mut world, &joint(2));
    let (flushed, finish) = done();
    world.with(0, |core| core.flush(key(K).partition(), finish));
    world.run_all();
    reconfigure(&mut world, 0, &joint(2));
    world.run_all();
    assert_eq!(flushed.lock().unwrap().take(), Some(Ok(())));
}

/// Once the answers outstanding were counted in one of the two sets only, and the flush was sent under a second ballot.
#[test]
fn a_flush_that_one_replica_of_a_joint_epoch_may_yet_store_is_uncertain() {
    let mut world = world(1);
    change(&mut world, &joint(2));
    let (flushed, finish) = done();
    world.with(0, |core| core.flush(key(K).partition(), finish));
    let next = Group::stable(Epoch(3), OLD);
    [0, 1, 3].into_iter().for_each(|w: usize| world.replicas[w].configure(key(K).partition(), next.clone()));
    let (late, refused) = std::mem::take(&mut world.wire).into_iter().partition(to(&[2]));
    world.wire = refused;
    world.run_all();
    world.wire = late;
    configure(&mut world, &next);
    reconfigure(&mut world, 0, &next);
    world.run_all();
    assert_eq!(flushed.lock().unwrap().take(), Some(Err(OpError::Uncertain)));
}

#[test]
fn a_put_of_an_earlier_epoch_that_did_not_arrive_is_missed() {
    let mut world = world(1);
    let set = world.set(0, K, "new");
    world.run_until(to(&[2]));
    // The third replica's request is on the wire when the configuration comes, and is refused for its epoch.
    let third = world.wire.remove(0);
    world.run_all();
    assert!(set.take().unwrap().is_ok());
    world.cores[0].out.missed.clear();
    let gone = Group::stable(Epoch(2), [0, 1, 2, 3]);
    change(&mut world, &gone);
    world.deliver(third.clone());
    assert!(matches!(
        world.wire.as_slice(),
        [Packet::Reply { reply: ReplicaReply::Refused(Refusal::Epoch { current: Epoch(2) }), .. }]
    ));
    world.run_all();
    assert_eq!(std::mem::take(&mut world.cores[0].out.missed), [(2, Missed::Key(key(K)))]);
}

#[test]
fn a_replica_that_left_misses_nothing() {
    let mut world = world(1);
    world.set(0, K, "new");
    world.run(to(&[2]));
    change(&mut world, &Group::stable(Epoch(2), NEW));
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(world.cores[0].out.missed, []);
    assert_eq!(world.cores[0].in_flight(), (0, 0, 0));
}

#[test]
fn a_put_that_failed_and_may_be_stored_is_looked_at_again() {
    let mut world = world(1);
    let set = world.set(0, K, "new");
    let cut = to(&[1, 2]);
    world.run(&cut);
    world.pass(Duration::from_secs(6), &cut);
    assert_eq!(set.take().unwrap(), Err(OpError::Uncertain));
    let missed: Vec<WorkerIx> = world.cores[0].out.missed.iter().map(|(worker, _)| *worker).collect();
    assert!(missed.contains(&1) && missed.contains(&2), "{missed:?}");
}

#[test]
fn a_rewrite_puts_values_and_tombstones_under_a_fresh_ballot() {
    let mut world = world(1);
    for deleted in [false, true] {
        if deleted {
            world.write(0, K, false, |_, _| Change::Write(Content::Tombstone));
            world.run_all();
        }
        let before = world.replicas[0].rows[&key(K)].clone();
        let (rewritten, finish) = done();
        world.with(0, |core| core.rewrite(key(K), finish));
        world.run_all();
        assert_eq!(rewritten.lock().unwrap().take(), Some(Ok(())));
        for replica in &world.replicas[..3] {
            let now = &replica.rows[&key(K)];
            assert!(now.ballot > before.ballot && now.content == before.content);
        }
    }
    let (nothing, finish) = done();
    world.with(0, |core| core.rewrite(key("never{k}"), finish));
    world.run_all();
    assert_eq!(nothing.lock().unwrap().take(), Some(Ok(())));
    // Whoever asks for it has seen a left-over somewhere; a tombstone ends that.
    assert_eq!(world.replicas[0].rows[&key("never{k}")].content, Content::Tombstone);
}

#[test]
fn the_lowest_ballot_in_flight_is_that_of_the_oldest_call() {
    let mut world = world(1);
    let partition = key(K).partition();
    assert_eq!(world.cores[0].lowest_in_flight(partition), None);
    let first = world.set(0, K, "first");
    world.run_until(to(&[2]));
    let third = world.wire.remove(0);
    world.run_all();
    let first = first.take().unwrap().unwrap().ballot;
    world.set(0, "other{k}", "second");
    assert_eq!(world.cores[0].lowest_in_flight(partition), Some(first), "the third replica may not have it");
    world.deliver(third);
    let second = world.wire.iter().find_map(|packet| match packet {
        Packet::Request { request: ReplicaRequest::Put { row }, .. } => Some(row.ballot),
        _ => None,
    });
    world.run(|packet| matches!(packet, Packet::Request { .. }));
    assert_eq!(world.cores[0].lowest_in_flight(partition), second);
}

#[test]
fn a_worker_that_comes_later_takes_part() {
    let mut world = world(1);
    world.replicas.push(super::replica::Replica::new(4));
    let name = WorkerId::new("w5").unwrap();
    world.with(0, |core| {
        assert_eq!(core.add_worker(name), 4);
        core.peer(4, true);
    });
    let next = Group { next: Some(Replicas::from([0, 1, 4])), ..Group::stable(Epoch(2), OLD) };
    change(&mut world, &next);
    let set = world.set(0, K, "new");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
    assert_eq!(stored(&world, 4), "new");
}

#[test]
fn only_a_higher_epoch_changes_anything() {
    let mut world = world(1);
    change(&mut world, &joint(2));
    let partition = key(K).partition();
    let promise = world.cores[0].promise_of(partition);
    reconfigure(&mut world, 0, &Group::stable(Epoch(2), [3]));
    reconfigure(&mut world, 0, &Group::stable(Epoch(1), [3]));
    assert_eq!((world.cores[0].promise_of(partition), world.wire.len()), (promise, 0));
}
