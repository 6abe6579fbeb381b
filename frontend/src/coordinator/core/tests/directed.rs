//! One rule each.

use std::time::Duration;

use tercet_common::{Content, Refusal, ReplicaRequest, UnixMillis};

use super::super::Missed;
use super::world::{Packet, TUNING, World, key, text};
use crate::coordinator::api::{Change, OpError, ReadLevel};
use crate::coordinator::core::CallOutcome;

fn to(worker: u16) -> impl Fn(&Packet) -> bool {
    move |packet| matches!(packet, Packet::Request { worker: w, .. } if *w == worker)
}

#[test]
fn a_blind_set_is_acknowledged_by_two_and_reaches_the_third() {
    let mut world = World::new(1);
    let answer = world.set(0, "k", "v");
    world.run(to(2));
    let written = answer.take().unwrap().unwrap();
    assert_eq!(written.synchronous.iter().map(|w| w.as_str()).collect::<Vec<_>>(), ["w1", "w2"]);
    assert_eq!(written.asynchronous.unwrap().as_str(), "w3");
    let found = world.get(0, "k");
    world.run_all();
    assert_eq!(text(&found.take().unwrap().unwrap().unwrap().row), "v");
}

/// A count asks a replica that has all acknowledged writes, if it can.
#[test]
fn it_is_known_who_has_not_answered_a_write() {
    let mut world = World::new(1);
    let answer = world.set(0, "k", "v");
    let mut held = Vec::new();
    world.run(|packet| {
        to(2)(packet) && {
            held.push(packet.clone());
            true
        }
    });
    assert!(answer.take().unwrap().is_ok());
    let behind: Vec<_> = world.cores[0].being_written().collect();
    assert_eq!(behind, [(key("k").partition(), 2)]);
    world.wire.extend(held);
    world.run_all();
    assert_eq!(world.cores[0].being_written().count(), 0);
}

#[test]
fn a_dead_replica_costs_no_error() {
    let mut world = World::new(1);
    world.with(0, |core| core.peer(0, false));
    let set = world.set(0, "k", "v");
    let get = world.get(0, "k");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
    assert_eq!(get.take().unwrap().unwrap().unwrap().source.as_str(), "w2");
}

#[test]
fn a_hung_replica_costs_no_more_than_the_hedge() {
    let mut world = World::new(1);
    world.set(0, "k", "v");
    world.run_all();
    let get = world.get(0, "k");
    world.run(to(0));
    assert!(!get.is_given());
    world.pass(Duration::from_millis(60), to(0));
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "v");
}

/// Large reads once made a line so long that calls were given up and asked again, until healthy workers counted as dead.
#[test]
fn a_call_in_the_line_of_a_worker_that_answers_is_not_given_up() {
    let mut world = World::new(1);
    world.set(0, "slow", "v");
    world.set(0, "other", "v");
    world.run_all();
    let timeouts = |world: &World| {
        world.cores[0].out.ended.iter().filter(|ended| ended.outcome == CallOutcome::Timeout).count()
    };
    let slow = world.get(0, "slow");
    let in_line = std::mem::take(&mut world.wire);
    for _ in 0..12 {
        world.get(0, "other");
        world.run_all();
        world.pass(Duration::from_millis(100), |_| false);
    }
    assert_eq!(timeouts(&world), 0);
    world.wire = in_line;
    world.run_all();
    assert_eq!(text(&slow.take().unwrap().unwrap().unwrap().row), "v");

    // A worker that answers nothing is given up as before, and one that never comes to this call in the end.
    world.get(0, "slow");
    world.wire.clear();
    world.pass(TUNING.replica_timeout * 2, |_| true);
    assert!(timeouts(&world) > 0);
}

#[test]
fn with_one_replica_left_a_write_is_refused_and_not_applied() {
    let mut world = World::new(1);
    world.set(0, "k", "old");
    world.run_all();
    world.with(0, |core| [1, 2].into_iter().for_each(|w| core.peer(w, false)));
    let set = world.set(0, "k", "new");
    let get = world.get(0, "k");
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(set.take().unwrap(), Err(OpError::NoQuorum { needed: 2, available: 1 }));
    assert_eq!(get.take().unwrap(), Err(OpError::ReadUnavailable));
    assert!(world.replicas.iter().all(|r| text(&r.rows[&key("k")]) == "old"));
}

#[test]
pub(super) fn a_put_that_only_one_replica_stored_is_uncertain() {
    let mut world = World::new(1);
    world.set(0, "k", "old");
    world.run_all();
    let set = world.set(0, "k", "new");
    let cut = |packet: &Packet| matches!(packet, Packet::Request { worker: 1 | 2, .. });
    world.run(cut);
    world.pass(Duration::from_secs(6), cut);
    assert_eq!(set.take().unwrap(), Err(OpError::Uncertain));
}

#[test]
fn a_lost_acknowledgement_is_asked_for_again_under_the_same_ballot() {
    let mut world = World::new(1);
    let set = world.set(0, "k", "v");
    // Every put arrives; its first acknowledgements do not.
    let mut acks = 0;
    world.run(|packet| {
        let ack = matches!(packet, Packet::Reply { reply: tercet_common::ReplicaReply::Stored, .. });
        acks += u32::from(ack);
        ack
    });
    assert_eq!((acks, set.is_given()), (3, false));
    let first = world.replicas[0].rows[&key("k")].ballot;
    world.pass(Duration::from_secs(2), |_| false);
    assert_eq!(set.take().unwrap().unwrap().ballot, first);
}

#[test]
fn busy_replicas_make_a_write_busy_and_not_applied() {
    let mut world = World::new(1);
    world.set(0, "k", "old");
    world.run_all();
    world.replicas.iter_mut().for_each(|r| r.refusing = Some(Refusal::Busy));
    let set = world.set(0, "k", "new");
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(set.take().unwrap(), Err(OpError::Busy));
}

#[test]
fn operations_on_a_hot_key_share_puts() {
    let mut world = World::new(1);
    let answers: Vec<_> = (0..100).map(|_| world.incr(0, "k")).collect();
    let mut puts = 0;
    world.run(|packet| {
        puts += u32::from(matches!(packet, Packet::Request { request: ReplicaRequest::Put { .. }, .. }));
        false
    });
    let made: Vec<i64> = answers.iter().map(|(_, made)| *made.lock().unwrap()).collect();
    assert!(answers.iter().all(|(answer, _)| answer.take().unwrap().is_ok()));
    assert_eq!(made, (1..=100).collect::<Vec<_>>());
    assert!(puts <= 6, "{puts} puts to three replicas");
}

#[test]
fn a_read_behind_a_write_on_the_same_key_sees_it() {
    let mut world = World::new(1);
    world.set(0, "k", "old");
    world.run_all();
    let set = world.set(0, "k", "new");
    let get = world.get(0, "k");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "new");
}

#[test]
fn a_version_that_only_a_minority_holds_is_rewritten_before_it_is_answered() {
    let mut world = World::new(2);
    world.set(0, "k", "old");
    world.run_all();
    world.set(0, "k", "new");
    world.run(|packet| matches!(packet, Packet::Request { worker: 1 | 2, .. }));
    // The other frontend reads while the writer is gone and the third replica is out of reach.
    world.with(1, |core| core.peer(2, false));
    let get = world.get(1, "k");
    world.run_all();
    let row = get.take().unwrap().unwrap().unwrap().row;
    assert_eq!(text(&row), "new");
    assert_eq!(
        *row,
        world.replicas[1].rows[&key("k")],
        "the version that stands now, not the one it replaced"
    );
}

#[test]
pub(super) fn a_version_that_only_a_minority_holds_is_not_passed_on_as_chosen() {
    let mut world = World::new(2);
    world.set(0, "k", "old");
    world.run_all();
    world.set(1, "k", "left");
    world.run(|packet| {
        matches!(packet, Packet::Request { worker: 1 | 2, request: ReplicaRequest::Put { .. }, .. })
    });
    let get = world.get(0, "k");
    let mut passed_on = 0;
    world.run(|packet| {
        passed_on +=
            u32::from(matches!(packet, Packet::Request { request: ReplicaRequest::Replicate { .. }, .. }));
        false
    });
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "left");
    assert_eq!(passed_on, 0, "it is put under a fresh ballot");
}

#[test]
fn a_stale_replica_that_a_read_sees_is_repaired() {
    let mut world = World::new(2);
    world.set(0, "k", "old");
    world.run_all();
    world.set(0, "k", "new");
    world.run(to(0));
    assert_eq!(text(&world.replicas[0].rows[&key("k")]), "old");
    let get = world.get(1, "k");
    world.run_all();
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "new");
    assert_eq!(text(&world.replicas[0].rows[&key("k")]), "new");
    let row = |n: usize| world.replicas[n].rows[&key("k")].clone();
    assert_eq!(row(0), row(1), "repair re-sends the original version");
}

#[test]
fn a_deposed_owner_does_not_answer_from_memory() {
    let mut world = World::new(2);
    world.set(0, "k", "1");
    world.run_all();
    let (first, _) = world.incr(1, "k");
    world.run_all();
    assert!(first.take().unwrap().is_ok());
    // SETNX by the first frontend, whose term is over: it must see the key as it is now.
    let keep = world.write(0, "k", false, |current, _| {
        assert!(current.is_none_or(|row| text(row) == "2" || text(row) == "1"));
        Change::Keep
    });
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(keep.take().unwrap().unwrap().ballot.term.incarnation.0, 101);
}

#[test]
fn a_takeover_in_between_costs_the_client_no_error() {
    let mut world = World::new(2);
    world.set(0, "k", "1");
    world.run_all();
    let (other, _) = world.incr(1, "k");
    world.run_all();
    assert!(other.take().unwrap().is_ok());
    let (answer, made) = world.incr(0, "k");
    world.run_all();
    world.pass(Duration::from_secs(2), |_| false);
    assert!(answer.take().unwrap().is_ok());
    assert_eq!(*made.lock().unwrap(), 3);
}

#[test]
pub(super) fn an_expired_value_is_absent_once_its_tombstone_is_acknowledged() {
    let mut world = World::new(1);
    let at = UnixMillis(world.wall.0 + 1_000);
    let content = Content::string("v", Some(at));
    world.write(0, "k", true, move |_, _| Change::Write(content.clone()));
    world.run_all();
    world.wall = at;
    let get = world.get(0, "k");
    world.run(|packet| matches!(packet, Packet::Request { request: ReplicaRequest::Put { .. }, .. }));
    assert!(!get.is_given(), "not before the tombstone is durable");
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(get.take().unwrap().unwrap(), None);
    // An owner whose clock is behind does not bring it back.
    world.wall = UnixMillis(at.0 - 500);
    let get = world.get(0, "k");
    world.run_all();
    assert_eq!(get.take().unwrap().unwrap(), None);
}

/// Its owner answers those behind it that there is nothing, so nobody may find it by another clock.
#[test]
fn a_value_that_is_over_when_it_is_written_is_over_for_every_clock() {
    let mut world = World::new(1);
    let at = world.wall;
    let content = Content::string("v", Some(at));
    world.write(0, "k", true, move |_, _| Change::Write(content.clone()));
    world.run_all();
    world.wall = UnixMillis(at.0 - 500);
    let get = world.get(0, "k");
    world.run_all();
    assert_eq!(get.take().unwrap().unwrap(), None);
}

#[test]
fn a_flush_hides_every_key_also_on_a_replica_that_missed_it() {
    let mut world = World::new(1);
    world.set(0, "k", "v");
    world.run_all();
    let done = std::sync::Arc::new(std::sync::Mutex::new(None));
    let given = done.clone();
    let partition = key("k").partition();
    world
        .with(0, |core| core.flush(partition, Box::new(move |result| *given.lock().unwrap() = Some(result))));
    world.run(to(0));
    assert_eq!(done.lock().unwrap().take(), Some(Ok(())));
    let get = world.get(0, "k");
    world.run_all();
    assert_eq!(get.take().unwrap().unwrap(), None);
    world.set(0, "k", "again");
    let get = world.get(0, "k");
    world.run_all();
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "again");
}

#[test]
fn what_a_replica_missed_is_told_once_a_quorum_has_it() {
    let mut world = World::new(1);
    let set = world.set(0, "k", "v");
    // The third replica's call is lost, which shows only after the write was acknowledged.
    world.run(to(2));
    assert!(set.take().unwrap().is_ok());
    assert_eq!(world.cores[0].out.missed, []);
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(std::mem::take(&mut world.cores[0].out.missed), [(2, Missed::Key(key("k")))]);
    // It is known to be out of reach, and is not even asked.
    world.with(0, |core| core.peer(1, false));
    world.set(0, "k", "w");
    world.run_all();
    assert_eq!(std::mem::take(&mut world.cores[0].out.missed), [(1, Missed::Key(key("k")))]);
    world.with(0, |core| core.peer(1, true));
    let all = world.read(0, "k", ReadLevel::All);
    world.run_all();
    assert_eq!(text(&all.take().unwrap().unwrap().unwrap().row), "w");
    assert!(world.replicas.iter().all(|replica| text(&replica.rows[&key("k")]) == "w"));
}

#[test]
fn a_flush_that_a_replica_missed_is_repaired_whoever_owns_the_partition_then() {
    let mut world = World::new(2);
    world.set(0, "k", "v");
    world.run_all();
    let partition = key("k").partition();
    world.with(0, |core| core.flush(partition, Box::new(|result| assert_eq!(result, Ok(())))));
    world.run(to(2));
    world.set(1, "other{k}", "v");
    world.run_all();
    let missed = std::mem::take(&mut world.cores[0].out.missed);
    let [(2, Missed::Flush { partition, ballot, clock })] = missed.as_slice() else { panic!("{missed:?}") };
    world.with(0, |core| core.repair_flush(2, *partition, *ballot, clock.clone()));
    world.run_all();
    let get =
        tercet_common::ReplicaRequest::Get { epoch: tercet_common::Epoch(1), key: key("k"), digest: false };
    let tercet_common::ReplicaReply::Version(held) = world.replicas[2].handle(get) else { panic!() };
    assert_eq!((held.ballot, held.row), (*ballot, None));
}

#[test]
fn operations_that_share_a_put_answer_different_versions() {
    let mut world = World::new(1);
    world.set(0, "k", "first");
    let (a, get, b) = (world.set(0, "k", "a"), world.get(0, "k"), world.set(0, "k", "b"));
    world.run_all();
    let [a, b] = [a, b].map(|answer| answer.take().unwrap().unwrap().ballot);
    let stored = world.replicas[0].rows[&key("k")].ballot;
    assert_eq!((b, a < b), (stored, true), "a's version must not pass for the one that stands");
    assert_eq!(get.take().unwrap().unwrap().unwrap().row.ballot, a);
}

#[test]
fn what_waits_behind_a_blind_write_that_is_too_large_sees_the_key_as_it_is() {
    let mut world = World::new(2);
    world.set(1, "k", "41");
    world.run_all();
    // Both wait for the other frontend to take the partition over, and then go together.
    let big = world.set(0, "k", &"x".repeat(2_000));
    let (incr, made) = world.incr(0, "k");
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(big.take().unwrap(), Err(OpError::ValueTooLarge { len: 2_000, max: 1_024 }));
    assert!(incr.take().unwrap().is_ok());
    assert_eq!(*made.lock().unwrap(), 42);
}

#[test]
fn a_value_over_the_limit_fails_alone() {
    let mut world = World::new(1);
    let set = world.set(0, "k", "small");
    let big = world.set(0, "k", &"x".repeat(2_000));
    let get = world.get(0, "k");
    world.run_all();
    assert!(set.take().unwrap().is_ok());
    assert_eq!(big.take().unwrap(), Err(OpError::ValueTooLarge { len: 2_000, max: 1_024 }));
    assert_eq!(text(&get.take().unwrap().unwrap().unwrap().row), "small");
}

#[test]
fn nothing_is_left_behind() {
    let mut world = World::new(1);
    for n in 0..50 {
        world.set(0, &format!("k{n}"), "v");
        world.incr(0, "hot");
        world.get(0, &format!("k{}", n / 2));
    }
    world.run(|packet| matches!(packet, Packet::Request { worker: 2, .. }));
    world.pass(Duration::from_secs(10), |_| false);
    assert_eq!(world.cores[0].in_flight(), (0, 0, 0));
    assert_eq!(world.cores[0].next_timer(), None);
}
