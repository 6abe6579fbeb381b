//! Reads and take-overs that somebody else comes before.

use std::time::Duration;

use tercet_common::{
    Ballot, Content, Epoch, Incarnation, Promise, Refusal, ReplicaReply, ReplicaRequest, Term,
};

use super::world::{Answer, Packet, TUNING, World, key, text};
use crate::coordinator::api::{Change, Found, OpError};

const KEY: &str = "k";

/// The first frontend reads while one replica alone holds a put of the second: it must make that one chosen before it
/// answers. Its put is held back until the third frontend has written; what that wrote is returned.
fn read_that_is_overtaken(by: Content) -> (World, Answer<Option<Found>>, Ballot) {
    let mut world = World::new(3);
    world.set(0, KEY, "v");
    world.run_all();
    world.set(1, KEY, "left");
    world.run(|packet| {
        matches!(packet, Packet::Request { worker: 1 | 2, request: ReplicaRequest::Put { .. }, .. })
    });
    let get = world.get(0, KEY);
    world.run_until(|packet| {
        matches!(packet, Packet::Request { frontend: 0, request: ReplicaRequest::Put { .. }, .. })
    });
    let held = std::mem::take(&mut world.wire);
    assert_eq!(held.len(), 3);
    let written = world.write(2, KEY, true, move |_, _| Change::Write(by.clone()));
    world.run_all();
    world.wire.extend(held);
    let written = written.take().unwrap().unwrap().ballot;
    (world, get, written)
}

#[test]
fn a_read_whose_put_was_written_over_reads_again() {
    let (mut world, get, written) = read_that_is_overtaken(Content::string("newer", None));
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(get.take().unwrap().unwrap().unwrap().row.ballot, written);
}

#[test]
fn a_read_whose_put_was_written_over_by_what_is_collected_reads_again() {
    let (mut world, get, tombstone) = read_that_is_overtaken(Content::Tombstone);
    for replica in &mut world.replicas {
        replica.rows.remove(&key(KEY));
        replica.floor = tombstone;
    }
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(get.take().unwrap().unwrap(), None);
}

#[test]
pub(super) fn a_read_behind_a_put_that_was_written_over_sees_what_did() {
    let mut world = World::new(2);
    let set = world.set(0, KEY, "v");
    let is_stored = |packet: &Packet| matches!(packet, Packet::Reply { reply: ReplicaReply::Stored, .. });
    world.run_until(is_stored);
    while !world.wire.iter().all(is_stored) {
        let at = world.wire.iter().position(|packet| !is_stored(packet)).unwrap();
        let packet = world.wire.remove(at);
        world.deliver(packet);
    }
    let late = std::mem::take(&mut world.wire);
    let newer = world.write(1, KEY, false, |_, _| Change::Write(Content::string("newer", None)));
    world.run_all();
    assert!(newer.take().unwrap().is_ok());
    // The owner has not heard yet that its put was stored, nor that somebody else came after it.
    let get = world.get(0, KEY);
    world.wire.extend(late);
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert!(set.take().unwrap().is_ok());
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "newer");
}

#[test]
pub(super) fn only_what_changed_something_is_uncertain_when_a_put_was_written_over() {
    let mut world = World::new(3);
    world.set(1, KEY, "1");
    world.run_all();
    // Both wait for the first frontend to take the partition over, and then share a put.
    let (incr, _) = world.incr(0, KEY);
    let kept = world.write(0, KEY, false, |current, _| {
        assert!(current.is_some_and(|row| ["2", "7"].contains(&text(row).as_str())));
        Change::Keep
    });
    world.run(|packet| matches!(packet, Packet::Reply { reply: ReplicaReply::Stored, .. }));
    let set = world.set(2, KEY, "7");
    world.run_all();
    world.pass(Duration::from_secs(2), |_| false);
    let written = set.take().unwrap().unwrap().ballot;
    assert_eq!(incr.take().unwrap(), Err(OpError::Uncertain));
    assert_eq!(kept.take().unwrap().unwrap().ballot, written);
}

/// Found by the simulation: an operation answered the version of an attempt that everybody had refused.
#[test]
fn an_operation_whose_rewrite_was_refused_answers_the_version_that_stands() {
    const OTHER: &str = "{k}2";
    let mut world = World::new(2);
    world.set(0, "{k}1", "old");
    world.run_all();
    world.set(1, OTHER, "x");
    world.run(|packet| matches!(packet, Packet::Request { worker: 0, .. }));
    // One replica stores it, the others refuse it.
    let set = world.set(0, "{k}1", "new");
    world.run_until(|packet| {
        matches!(packet, Packet::Request { request: ReplicaRequest::Put { row }, .. }
            if row.key == key("{k}1") && row.ballot.term.n > 1)
    });
    let rewrite = std::mem::take(&mut world.wire);
    world.set(1, OTHER, "y");
    world.run_all();
    world.wire.extend(rewrite);
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    let written = set.take().unwrap().unwrap();
    assert_eq!(written.ballot, world.replicas[1].rows[&key("{k}1")].ballot);
    assert_eq!(text(&world.replicas[1].rows[&key("{k}1")]), "new");
}

/// Found by the simulation: a read ran out of time while frontends that nobody asked for anything took its partition away.
#[test]
fn a_frontend_without_work_leaves_a_partition_to_its_rival() {
    let mut world = World::new(1);
    let promised = Promise { epoch: Epoch(1), term: Term { n: 9, incarnation: Incarnation(200) } };
    world.replicas.iter_mut().for_each(|r| r.refusing = Some(Refusal::Promise { promised }));
    world.with(0, |core| core.take_over(key(KEY).partition()));
    let mut prepares = 0;
    world.pass(Duration::from_secs(5), |packet| {
        prepares +=
            u32::from(matches!(packet, Packet::Request { request: ReplicaRequest::Prepare { .. }, .. }));
        false
    });
    assert_eq!(prepares, 6, "one attempt in ignorance of that term, and one above it");
    assert_eq!(world.cores[0].next_timer(), None);
    world.replicas.iter_mut().for_each(|r| r.refusing = None);
    let set = world.set(0, KEY, "v");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
}

/// A frontend whose only operation ran out of time between two attempts to take the partition over from a rival.
fn gave_up() -> World {
    let mut world = World::new(1);
    let promised = Promise { epoch: Epoch(1), term: Term { n: 9, incarnation: Incarnation(200) } };
    world.replicas.iter_mut().for_each(|r| r.refusing = Some(Refusal::Promise { promised }));
    let set = world.set(0, KEY, "v");
    world.pass(TUNING.request_timeout, |_| false);
    assert!(matches!(set.take(), Some(Err(OpError::NoQuorum { .. }))));
    world.replicas.iter_mut().for_each(|r| r.refusing = None);
    world
}

/// Found by the simulation: it went on alone, and took the partition away from the one that was asked.
#[test]
fn a_frontend_whose_operations_gave_up_leaves_the_partition_to_its_rival() {
    let mut world = gave_up();
    let mut sent = 0;
    world.pass(Duration::from_secs(5), |_| {
        sent += 1;
        false
    });
    assert_eq!(sent, 0);
    assert_eq!(world.cores[0].next_timer(), None);
}

/// Found by the simulation: a read sat out the pause that operations before it had earned, until it ran out of time.
#[test]
fn who_comes_after_others_gave_up_takes_the_partition_at_once() {
    let mut world = gave_up();
    let set = world.set(0, KEY, "w");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
}

#[test]
fn who_did_not_know_of_a_term_takes_a_higher_one_at_once() {
    let mut world = World::new(2);
    world.set(1, KEY, "v");
    world.run_all();
    let set = world.set(0, KEY, "w");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
}
