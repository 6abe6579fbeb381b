//! Reads from the owner's memory, and their proofs.

use std::time::Duration;

use tercet_common::{Content, PartitionId, ReplicaReply, ReplicaRequest, UnixMillis};

use super::world::{Answer, Packet, World, key, text};
use crate::coordinator::api::{Change, Found, ReadLevel};

const KEY: &str = "k";

fn is_to(worker: u16) -> impl Fn(&Packet) -> bool {
    move |packet| matches!(packet, Packet::Request { worker: w, .. } if *w == worker)
}

/// What is on the wire, in short.
fn asked(world: &World) -> Vec<&'static str> {
    let name = |packet: &Packet| match packet {
        Packet::Request { request: ReplicaRequest::Promises { .. }, .. } => "promises",
        Packet::Request { request: ReplicaRequest::Get { .. }, .. } => "get",
        Packet::Request { request: ReplicaRequest::GetForWrite { .. }, .. } => "get-for-write",
        Packet::Request { request: ReplicaRequest::Put { .. }, .. } => "put",
        Packet::Request { .. } => "other",
        Packet::Reply { .. } => "reply",
    };
    world.wire.iter().map(name).collect()
}

fn seen(answer: &Answer<Option<Found>>) -> Option<String> {
    answer.take().expect("answered").expect("no error").map(|found| text(&found.row))
}

fn promises_reply(packet: &Packet) -> bool {
    matches!(packet, Packet::Reply { reply: ReplicaReply::Promises(_), .. })
}

#[test]
fn what_was_written_is_answered_once_two_have_promised_nothing_higher() {
    let mut world = World::remembering(1);
    world.set(0, KEY, "v");
    world.run_all();
    let get = world.get(0, KEY);
    assert_eq!(asked(&world), ["promises"; 2], "who is not needed is spared");
    world.run_until(promises_reply);
    let late = world.wire.split_off(1);
    world.run_all();
    assert!(!get.is_given(), "one is not enough");
    world.wire = late;
    world.run_until(|_| get.is_given());
    let found = get.take().unwrap().unwrap().unwrap();
    assert_eq!(text(&found.row), "v");
    assert!(["w1", "w2"].contains(&found.source.as_str()), "who acknowledged it");
    world.run_all();
    assert_eq!(world.cores[0].in_flight(), (0, 0, 0));
}

#[test]
fn what_was_read_is_remembered_too_also_that_there_is_nothing() {
    let mut world = World::remembering(2);
    world.set(0, KEY, "v");
    world.run_all();
    // The other frontend owns the partition from now on, and knows nothing of the key.
    for name in [KEY, "{k}none"] {
        world.with(1, |core| core.take_over(key(KEY).partition()));
        world.run_all();
        let first = world.get(1, name);
        assert_eq!(asked(&world), ["get"; 2]);
        world.run_all();
        let second = world.get(1, name);
        assert_eq!(asked(&world), ["promises"; 2]);
        world.run_all();
        assert_eq!(seen(&first), seen(&second));
    }
}

#[test]
fn reads_that_come_together_share_a_round() {
    let mut world = World::remembering(1);
    let names: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    for name in &names {
        world.set(0, name, name);
    }
    world.run_all();
    let gets: Vec<_> = names.iter().map(|name| world.get(0, name)).collect();
    // One for the first, and one for all that come while it is under way.
    assert_eq!(asked(&world), ["promises"; 2]);
    world.run_until(|_| gets[0].is_given());
    world.run_all();
    for (name, get) in names.iter().zip(&gets) {
        assert_eq!(seen(get).as_ref(), Some(name));
    }
    assert_eq!((world.cores[0].out.counts.remembered, world.cores[0].out.counts.unproven), (40, 0));
}

/// The first replica does not hear of the take-over.
#[test]
pub(super) fn a_deposed_owner_does_not_answer_what_it_remembers() {
    let mut world = World::remembering(2);
    world.set(0, KEY, "old");
    world.run_all();
    world.get(0, KEY);
    world.run_all();
    let newer = world.set(1, KEY, "new");
    world.run(is_to(0));
    assert!(newer.take().unwrap().is_ok());
    let get = world.get(0, KEY);
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(seen(&get).as_deref(), Some("new"));
}

/// A put of the earlier owner comes in at a replica that missed the take-over, after it was read there.
#[test]
pub(super) fn what_those_said_who_did_not_promise_is_not_remembered() {
    let mut world = World::remembering(2);
    world.set(1, KEY, "old");
    world.run_all();
    let put = world.set(1, KEY, "new");
    let (late, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut world.wire).into_iter().partition(is_to(0));
    world.wire = rest;
    world.run(is_to(1));
    world.with(0, |core| core.take_over(key(KEY).partition()));
    world.run(is_to(0));
    // So that it has to be asked.
    world.with(0, |core| core.peer(2, false));
    let before = world.get(0, KEY);
    world.run_all();
    assert_eq!(seen(&before).as_deref(), Some("old"));
    world.with(0, |core| core.peer(2, true));
    world.wire = late;
    world.run_all();
    assert!(put.take().unwrap().is_ok(), "the first and the third have it");
    let after = world.get(0, KEY);
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(seen(&after).as_deref(), Some("new"));
}

/// What a worker said counted as nothing above the owner's once its link had broken.
#[test]
fn what_a_worker_said_before_its_link_broke_proves_nothing() {
    let mut tried = 0;
    for missing in 0..3 {
        let mut world = World::remembering(2);
        world.set(0, KEY, "old");
        world.run_all();
        let newer = world.set(1, KEY, "new");
        world.run(is_to(missing));
        assert!(newer.take().unwrap().is_ok());
        let get = world.get(0, KEY);
        let (late, first): (Vec<_>, Vec<_>) =
            std::mem::take(&mut world.wire).into_iter().partition(is_to(missing));
        let [Packet::Request { worker, .. }] = first[..] else { continue };
        if late.is_empty() {
            continue;
        }
        tried += 1;
        world.wire = first;
        world.run_all();
        world.with(0, |core| core.link_lost(worker));
        world.wire = late;
        world.run_all();
        world.pass(Duration::from_secs(1), |_| false);
        assert_eq!(seen(&get).as_deref(), Some("new"));
    }
    assert!(tried > 0);
}

/// A put is acknowledged although others that were accepted before have not ended, unlike a prepare. They may be of an
/// earlier owner, and be chosen only then.
#[test]
fn who_acknowledged_a_put_has_not_thereby_ended_older_ones() {
    let mut world = World::remembering(2);
    world.set(0, KEY, "old");
    world.run_all();
    // The second accepts it and takes its time, the third stores it, and on the way to the first it is lost.
    let put = world.set(0, KEY, "new");
    let call = world.wire.iter().find_map(|packet| match packet {
        Packet::Request { worker: 1, call, request: ReplicaRequest::Put { row }, .. } => {
            Some((*call, row.clone()))
        }
        _ => None,
    });
    let (call, row) = call.unwrap();
    world.run(|packet| is_to(0)(packet) || is_to(1)(packet));
    let other = world.set(1, "{k}other", "v");
    let is_prepared =
        |packet: &Packet| matches!(packet, Packet::Reply { reply: ReplicaReply::Prepared { .. }, .. });
    world.run_until(is_prepared);
    let held = world.wire.iter().position(is_prepared).map(|first| world.wire.remove(first + 1)).unwrap();
    assert!(is_prepared(&held), "that of the second, which waits for what it accepted");
    world.run(|packet| matches!(packet, Packet::Reply { frontend: 0, .. }));
    assert!(other.take().unwrap().is_ok());
    let before = world.get(1, KEY);
    world.run_all();
    assert_eq!(seen(&before).as_deref(), Some("old"));
    world.replicas[1].rows.insert(key(KEY), row);
    world.wire.push(Packet::Reply { frontend: 0, call, reply: ReplicaReply::Stored });
    world.run_all();
    assert!(put.take().unwrap().is_ok(), "the second and the third have it");
    let after = world.get(1, KEY);
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(seen(&after).as_deref(), Some("new"));
}

/// It was not there when the partition was taken over.
#[test]
fn those_are_read_who_answered_the_prepare() {
    let mut world = World::remembering(1);
    world.with(0, |core| core.peer(0, false));
    world.with(0, |core| core.take_over(key(KEY).partition()));
    world.run_all();
    world.with(0, |core| core.peer(0, true));
    world.get(0, KEY);
    assert!(!world.wire.iter().any(is_to(0)));
    world.run_all();
    world.get(0, KEY);
    assert_eq!(asked(&world), ["promises"; 2], "remembered");
    world.run_all();
}

/// A rival's prepare reached one replica only, and the rival is gone.
#[test]
fn one_replica_with_a_higher_promise_is_left_out_of_proofs() {
    let mut world = World::remembering(2);
    world.set(0, KEY, "v");
    world.run_all();
    world.with(1, |core| core.take_over(key(KEY).partition()));
    world.run(|packet| is_to(0)(packet) || is_to(1)(packet));
    for _ in 0..6 {
        let get = world.get(0, KEY);
        world.run_all();
        world.pass(Duration::from_millis(100), |_| false);
        assert_eq!(seen(&get).as_deref(), Some("v"));
    }
    let counts = world.cores[0].out.counts;
    assert!(counts.unproven <= 1 && counts.remembered >= 5, "{counts:?}");
}

#[test]
fn a_read_goes_behind_a_write_that_is_under_way() {
    let mut world = World::remembering(1);
    world.set(0, KEY, "old");
    world.run_all();
    world.set(0, KEY, "new");
    let get = world.get(0, KEY);
    assert_eq!(asked(&world), ["put"; 3]);
    world.run_all();
    assert_eq!(seen(&get).as_deref(), Some("new"));
}

#[test]
fn what_is_remembered_is_void_after_a_flush_and_a_ring_change() {
    let mut world = World::remembering(1);
    let id = key(KEY).partition();
    world.set(0, KEY, "v");
    world.run_all();
    world.with(0, |core| core.flush(id, Box::new(|result| assert_eq!(result, Ok(())))));
    let during = world.get(0, KEY);
    assert!(!asked(&world).contains(&"promises"), "a replica may have it already");
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert!(during.is_given());
    let after = world.get(0, KEY);
    world.run_all();
    assert_eq!(seen(&after), None);

    world.set(0, KEY, "w");
    world.run_all();
    let group = super::super::Group::stable(tercet_common::Epoch(2), [0, 1, 2]);
    world.with(0, |core| core.reconfigure(id, group));
    world.run_all();
    let get = world.get(0, KEY);
    assert_eq!(asked(&world), ["get"; 2]);
    world.run_all();
    assert_eq!(seen(&get).as_deref(), Some("w"));
}

#[test]
fn a_put_without_an_outcome_leaves_nothing_remembered() {
    let mut world = World::remembering(1);
    world.set(0, KEY, "old");
    world.run_all();
    let set = world.set(0, KEY, "new");
    // The third one has it, and nobody hears of it.
    world.run(|packet| !is_to(2)(packet));
    world.pass(Duration::from_secs(6), |packet| !is_to(2)(packet));
    assert!(set.take().unwrap().is_err());
    let get = world.get(0, KEY);
    world.pass(Duration::from_secs(2), |_| false);
    let first = seen(&get);
    let again = world.get(0, KEY);
    world.run_all();
    assert_eq!(seen(&again), first);
}

#[test]
fn what_cannot_be_proven_in_time_is_read() {
    let mut world = World::remembering(1);
    world.set(0, KEY, "v");
    world.run_all();
    let get = world.get(0, KEY);
    world.run(promises_reply);
    world.pass(Duration::from_millis(40), |_| false);
    assert!(!get.is_given());
    world.pass(Duration::from_millis(20), |_| false);
    assert_eq!(seen(&get).as_deref(), Some("v"));
    assert_eq!(world.cores[0].out.counts.unproven, 1);
}

/// Counted from the beginning again: its process may be another one.
#[test]
fn a_worker_that_comes_back_is_asked_for_everything() {
    let mut world = World::remembering(1);
    world.set(0, KEY, "v");
    world.run_all();
    // Each is spared in turn.
    for _ in 0..3 {
        world.get(0, KEY);
        world.run_all();
    }
    world.with(0, |core| core.link_lost(1));
    let mut asked = Vec::new();
    for _ in 0..3 {
        world.get(0, KEY);
        for packet in &world.wire {
            let Packet::Request { worker, request: ReplicaRequest::Promises { since }, .. } = packet else {
                panic!("{packet:?}")
            };
            asked.push((*worker, *since > 0));
        }
        world.run_all();
    }
    asked.sort_unstable();
    assert_eq!(asked, [(0, true), (0, true), (1, false), (1, true), (2, true), (2, true)]);
}

#[test]
fn an_expired_version_is_not_answered_from_memory() {
    let mut world = World::remembering(1);
    let content = Content::string("v", Some(UnixMillis(world.wall.0 + 1_000)));
    world.write(0, KEY, true, move |_, _| Change::Write(content.clone()));
    world.run_all();
    let get = world.get(0, KEY);
    // It comes to its end while the proof is under way.
    world.wall.0 += 1_000;
    world.run_all();
    world.pass(Duration::from_secs(1), |_| false);
    assert_eq!(seen(&get), None);
    assert!(matches!(world.replicas[0].rows[&key(KEY)].content, Content::Tombstone));
}

#[test]
fn other_levels_ask_the_replicas() {
    let mut world = World::remembering(1);
    world.set(0, KEY, "v");
    world.run_all();
    world.read(0, KEY, ReadLevel::One);
    assert_eq!(asked(&world), ["get"; 1]);
    world.run_all();
    world.read(0, KEY, ReadLevel::All);
    assert_eq!(asked(&world), ["get"; 3]);
    world.run_all();
    assert_eq!(world.cores[0].owned(), PartitionId::all().filter(|id| *id == key(KEY).partition()).count());
}
