//! Several keys of one partition, take-overs and flushes that meet half-done operations.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tercet_common::{Content, Refusal, ReplicaReply, ReplicaRequest};

use super::world::{Packet, World, key, text};
use crate::coordinator::api::{Change, OpError};
use crate::coordinator::core::Missed;

/// Two keys of one partition.
const KEY: &str = "{p}1";
const OTHER: &str = "{p}2";

fn to(worker: u16) -> impl Fn(&Packet) -> bool {
    move |packet| matches!(packet, Packet::Request { worker: w, .. } if *w == worker)
}

type Done = Arc<Mutex<Option<Result<(), OpError>>>>;

fn flush(world: &mut World, frontend: usize) -> Done {
    let done = Done::default();
    let given = done.clone();
    let finish = Box::new(move |result| *given.lock().unwrap() = Some(result));
    world.with(frontend, |core| core.flush(key(KEY).partition(), finish));
    done
}

fn value(world: &mut World, frontend: usize) -> Option<String> {
    let get = world.get(frontend, KEY);
    world.run_all();
    world.pass(Duration::from_secs(2), |_| false);
    get.take().unwrap().unwrap().map(|found| text(&found.row))
}

/// Delivers the requests on the wire; the answers stay there.
fn deliver_requests(world: &mut World) {
    for packet in std::mem::take(&mut world.wire) {
        world.deliver(packet);
    }
}

#[test]
fn a_base_read_under_an_earlier_term_is_no_base() {
    let mut world = World::new(2);
    world.set(0, KEY, "1");
    world.set(0, OTHER, "x");
    world.run_all();
    let (slow, made) = world.incr(0, KEY);
    deliver_requests(&mut world);
    let late = world.wire.pop().unwrap();
    let (quick, _) = world.incr(1, KEY);
    world.run_all();
    // Another key of the partition is refused, and the first frontend takes over again.
    world.set(0, OTHER, "y");
    world.run_all();
    world.deliver(late);
    world.run_all();
    world.pass(Duration::from_secs(2), |_| false);
    assert!(quick.take().unwrap().is_ok() && slow.take().unwrap().is_ok());
    assert_eq!(*made.lock().unwrap(), 3);
}

#[test]
fn a_base_read_before_a_flush_is_no_base() {
    let mut world = World::new(1);
    world.set(0, KEY, "5");
    world.run_all();
    let (slow, made) = world.incr(0, KEY);
    deliver_requests(&mut world);
    let late = world.wire.pop().unwrap();
    let flushed = flush(&mut world, 0);
    world.run_all();
    assert_eq!(flushed.lock().unwrap().take(), Some(Ok(())));
    world.deliver(late);
    world.run_all();
    world.pass(Duration::from_secs(2), |_| false);
    assert!(slow.take().unwrap().is_ok());
    assert_eq!(*made.lock().unwrap(), 1);
}

#[test]
pub(super) fn a_flush_waits_for_puts_under_way() {
    let mut world = World::new(1);
    world.set(0, KEY, "5");
    world.run_all();
    let set = world.set(0, KEY, "6");
    let flushed = flush(&mut world, 0);
    let is_flush =
        |packet: &Packet| matches!(packet, Packet::Request { request: ReplicaRequest::Flush { .. }, .. });
    assert!(!world.wire.iter().any(is_flush));
    world.run_all();
    assert!(set.take().unwrap().is_ok());
    assert_eq!(flushed.lock().unwrap().take(), Some(Ok(())));
    assert_eq!(value(&mut world, 0), None);
}

#[test]
pub(super) fn what_waits_behind_a_flush_does_not_build_on_what_it_deleted() {
    let mut world = World::new(1);
    world.set(0, KEY, "4");
    world.run_all();
    world.set(0, KEY, "5");
    let flushed = flush(&mut world, 0);
    let (incr, made) = world.incr(0, KEY);
    world.run_all();
    assert_eq!(flushed.lock().unwrap().take(), Some(Ok(())));
    assert!(incr.take().unwrap().is_ok());
    assert_eq!(*made.lock().unwrap(), 1);
}

/// The first frontend's put of "new" is stored by one replica and refused by the others; what it sends under its next
/// term is refused as busy by all.
fn put_that_is_left_at(holder: u16) -> World {
    let mut world = World::new(2);
    world.set(0, KEY, "old");
    world.run_all();
    world.set(1, OTHER, "x");
    world.run(to(holder));
    let set = world.set(0, KEY, "new");
    world.run_until(|packet| {
        matches!(packet, Packet::Request { request: ReplicaRequest::Put { row }, .. } if row.ballot.term.n > 1)
    });
    assert_eq!(text(&world.replicas[usize::from(holder)].rows[&key(KEY)]), "new");
    world.replicas.iter_mut().for_each(|r| r.refusing = Some(Refusal::Busy));
    world.pass(Duration::from_secs(6), |_| false);
    assert_eq!(set.take().unwrap(), Err(OpError::Uncertain), "one replica holds it: it may be read yet");
    world.replicas.iter_mut().for_each(|r| r.refusing = None);
    world
}

#[test]
fn a_put_whose_rewrite_reaches_nobody_is_uncertain() {
    let mut world = put_that_is_left_at(0);
    assert_eq!(value(&mut world, 0).as_deref(), Some("new"));
}

#[test]
fn a_put_that_is_tried_afresh_and_reaches_nobody_is_uncertain() {
    let mut world = put_that_is_left_at(2);
    world.with(1, |core| core.peer(0, false));
    assert_eq!(value(&mut world, 1).as_deref(), Some("new"));
}

#[test]
fn an_operation_that_changes_nothing_after_all_buries_its_first_attempt() {
    let mut world = World::new(3);
    world.set(0, KEY, "v");
    world.run_all();
    // A delete that only the first replica stores.
    world.write(1, KEY, false, |_, _| Change::Write(Content::Tombstone));
    world.run(|packet| {
        matches!(packet, Packet::Request { worker: 1 | 2, request: ReplicaRequest::Put { .. }, .. })
    });
    assert_eq!(text(&world.replicas[0].rows[&key(KEY)]), "(deleted)");
    // It is the base that a SETNX finds ...
    let kept = world.write(0, KEY, false, |current, _| match current {
        Some(_) => Change::Keep,
        None => Change::Write(Content::string("n", None)),
    });
    world.run_until(|packet| {
        matches!(packet, Packet::Request { frontend: 0, request: ReplicaRequest::Put { .. }, .. })
    });
    // ... whose put only the first replica stores, as a third frontend has taken over at the others.
    let held = std::mem::take(&mut world.wire);
    world.set(2, OTHER, "x");
    world.pass(Duration::from_millis(300), to(0));
    world.wire.extend(held);
    world.run_until(|packet| {
        matches!(packet, Packet::Request { frontend: 0, request: ReplicaRequest::Prepare { .. }, .. })
    });
    assert_eq!(text(&world.replicas[0].rows[&key(KEY)]), "n");
    // Applied afresh over what the others hold, it changes nothing.
    world.with(0, |core| core.peer(0, false));
    world.run_all();
    assert!(kept.take().unwrap().is_ok());
    world.with(0, |core| core.peer(0, true));
    let get = world.get(0, KEY);
    world.run_all();
    assert_eq!(get.take().unwrap().unwrap().map(|found| text(&found.row)).as_deref(), Some("v"));
}

#[test]
fn partitions_do_not_remember_slots_that_are_gone() {
    let mut world = World::new(1);
    world.with(0, |core| [1, 2].into_iter().for_each(|w| core.peer(w, false)));
    for n in 0..100 {
        world.set(0, &format!("{{p}}{n}"), "v");
    }
    assert_eq!(world.cores[0].waiting(), 100);
    world.pass(Duration::from_secs(6), |_| false);
    assert_eq!((world.cores[0].in_flight().0, world.cores[0].waiting()), (0, 0));
}

#[test]
fn late_refusals_of_an_earlier_term_do_not_cost_the_next_one() {
    let mut world = World::new(2);
    world.set(0, KEY, "v");
    world.run_all();
    world.set(1, OTHER, "x");
    world.run_all();
    let sets: Vec<_> = (0..20).map(|n| world.set(0, &format!("{{p}}new{n}"), "v")).collect();
    // The puts of each key arrive only when those of the keys before it have been dealt with.
    let mut later = std::mem::take(&mut world.wire).into_iter();
    while let Some(packet) = later.next() {
        world.wire.push(packet);
        world.wire.extend(later.by_ref().take(2));
        world.run_all();
    }
    world.pass(Duration::from_secs(1), |_| false);
    assert!(sets.iter().all(|set| set.take().unwrap().is_ok()));
    assert_eq!(world.cores[0].out.counts.takeovers, 2);
}

#[test]
fn a_flush_does_not_share_one_that_was_sent_before_it() {
    let mut world = World::new(2);
    world.set(0, KEY, "old");
    world.run_all();
    let first = flush(&mut world, 0);
    deliver_requests(&mut world);
    let answers = std::mem::take(&mut world.wire);
    let set = world.set(1, KEY, "new");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
    let second = flush(&mut world, 0);
    world.wire.extend(answers);
    world.run_all();
    world.pass(Duration::from_secs(2), |_| false);
    assert_eq!(first.lock().unwrap().take(), Some(Ok(())));
    assert_eq!(second.lock().unwrap().take(), Some(Ok(())));
    assert_eq!(value(&mut world, 0), None);
}

#[test]
fn a_flush_hears_its_answers_although_the_partition_is_taken_over_again() {
    let mut world = World::new(2);
    world.set(0, KEY, "1");
    world.run_all();
    world.set(1, OTHER, "x");
    world.run(to(0));
    let (incr, _) = world.incr(0, KEY);
    let flushed = flush(&mut world, 0);
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    // One replica stored it, two refused it: it may show.
    assert_eq!(flushed.lock().unwrap().take(), Some(Err(OpError::Uncertain)));
    let unsure = |worker| (worker, Missed::UncertainFlush(key(KEY).partition()));
    let missed = std::mem::take(&mut world.cores[0].out.missed);
    assert_eq!(missed, [0, 1, 2].map(unsure), "whoever lacks it is to be found out");
    assert!(incr.take().unwrap().is_ok());
    assert_eq!(world.cores[0].in_flight(), (0, 0, 0));
}

/// Found by the simulation: nothing was left of the put, and the increment was applied a second time.
#[test]
pub(super) fn a_put_whose_successor_may_be_collected_is_not_applied_again() {
    let mut world = World::new(2);
    let (incr, _) = world.incr(0, KEY);
    world.run(|packet| matches!(packet, Packet::Reply { reply: ReplicaReply::Stored, .. }));
    let deleted = world.write(1, KEY, false, |current, _| {
        assert_eq!(current.map(text).as_deref(), Some("1"));
        Change::Write(Content::Tombstone)
    });
    world.run_all();
    let tombstone = deleted.take().unwrap().unwrap().ballot;
    for replica in &mut world.replicas {
        replica.rows.remove(&key(KEY));
        replica.floor = tombstone;
    }
    world.pass(Duration::from_secs(6), |_| false);
    assert_eq!(incr.take().unwrap(), Err(OpError::Uncertain));
    assert_eq!(value(&mut world, 1), None);
}
