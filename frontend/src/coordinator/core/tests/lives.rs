//! One frontend after the other, each a new incarnation, over the same replicas; and what the clocks of puts tell then.

use std::time::Duration;

use tercet_common::{Ballot, Content, Epoch, Incarnation, Promise, Row, Term, VectorClock, WorkerId};
use tercet_proto::convert::{reply_from_wire, reply_to_wire, request_from_wire, request_to_wire};

use super::super::partition::PUT_CLOCK_ENTRIES_MAX;
use super::super::{Core, Group};
use super::world::{Packet, TUNING, World, key};

/// As it looks behind a network.
fn through_the_wire(packet: Packet) -> Packet {
    match packet {
        Packet::Request { frontend, worker, call, request } => {
            let request = request_from_wire(request_to_wire(1, request)).1.unwrap();
            Packet::Request { frontend, worker, call, request }
        }
        Packet::Reply { frontend, call, reply } => {
            let reply = reply_from_wire(reply_to_wire(1, reply)).1.unwrap();
            Packet::Reply { frontend, call, reply }
        }
    }
}

/// The frontend crashes, and its next life has the same replicas.
fn restart(world: &mut World, incarnation: u64) {
    let names: Vec<WorkerId> = (1..=3).map(|n| WorkerId::new(&format!("w{n}")).unwrap()).collect();
    let partitions = [(key("k").partition(), Group::stable(Epoch(1), 0..3))];
    world.cores = vec![Core::new(Incarnation(incarnation), TUNING, names, partitions)];
    world.wire.clear();
    (0..3).for_each(|worker| world.with(0, |core| core.peer(worker, true)));
}

/// Writes the key, and answers what replica 0 holds then. Packets to `silent` are lost.
fn write_without(world: &mut World, silent: Option<u16>) -> Row {
    let answer = world.set(0, "k", "v");
    loop {
        while !world.wire.is_empty() {
            let packet = through_the_wire(world.wire.remove(0));
            let lost = matches!(&packet, Packet::Request { worker, .. } if Some(*worker) == silent);
            if !lost {
                world.deliver(packet);
            }
        }
        if let Some(answer) = answer.take() {
            answer.expect("a write that succeeds");
            return world.replicas[0].rows[&key("k")].clone();
        }
        // It tries again under a higher term.
        world.now += Duration::from_millis(10);
        world.with(0, Core::tick);
    }
}

fn write(world: &mut World) -> Row {
    write_without(world, None)
}

/// The replicas were compared, and are equal.
fn pass(world: &mut World) {
    let partition = key("k").partition();
    let promise = world.cores[0].promise_of(partition).unwrap();
    world.with(0, |core| core.passed(partition, promise));
}

/// Each life of a frontend added an entry to the clock of its partitions for good, until clocks were longer than what the
/// wire takes: no frontend could write to, or take over, any partition ever again.
#[test]
fn any_number_of_frontend_lives_can_write() {
    let mut world = World::new(1);
    let mut before: Option<Row> = None;
    for life in 1..=1_100_u64 {
        // Incarnations are random: now above, now below those before.
        restart(&mut world, life.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1);
        let row = write(&mut world);
        assert!(row.clock.has_seen(row.ballot));
        assert!(row.clock.entries().len() <= PUT_CLOCK_ENTRIES_MAX);
        for replica in &world.replicas {
            assert_eq!(replica.vectors[&key("k").partition()], (row.ballot, row.clock.clone()));
        }
        if let Some(before) = before.replace(row.clone()) {
            assert!(row.ballot > before.ballot && !before.contradicts(&row));
        }
    }
}

/// Also where one replica misses every other life, so that the vectors differ.
#[test]
fn a_replica_that_lags_does_not_make_clocks_long() {
    let mut world = World::new(1);
    for life in 1..=200_u64 {
        restart(&mut world, life.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1);
        let row = write_without(&mut world, (life % 2 == 0).then_some(2));
        assert!(row.clock.entries().len() <= PUT_CLOCK_ENTRIES_MAX);
    }
}

#[test]
fn what_all_replicas_have_passed_goes_from_the_clocks() {
    let mut world = World::new(1);
    restart(&mut world, 1);
    let first = write(&mut world);
    restart(&mut world, 2);
    let second = write(&mut world);
    assert_eq!(second.clock.partial_cmp(&first.clock), Some(std::cmp::Ordering::Greater));
    pass(&mut world);
    let third = write(&mut world);
    assert_eq!(third.clock.entries(), [(Incarnation(2), third.ballot.seq)]);
    assert!(third.clock.has_seen(second.ballot));
    // The replicas follow, so it does not come back with the next life.
    restart(&mut world, 3);
    let fourth = write(&mut world);
    let seen: Vec<Incarnation> = fourth.clock.entries().iter().map(|entry| entry.0).collect();
    assert_eq!(seen, [Incarnation(2), Incarnation(3)]);
}

/// Whoever was deposed meanwhile has been told nothing about the puts of others.
#[test]
fn a_comparison_under_an_older_promise_prunes_nothing() {
    let mut world = World::new(1);
    restart(&mut world, 1);
    write(&mut world);
    restart(&mut world, 2);
    write(&mut world);
    let partition = key("k").partition();
    let now = world.cores[0].promise_of(partition).unwrap();
    let older = Promise { term: Term { n: now.term.n - 1, ..now.term }, ..now };
    world.with(0, |core| core.passed(partition, older));
    assert_eq!(write(&mut world).clock.entries().len(), 2);
}

/// An owner that takes over again starts from what the replicas say: what a rival pruned stays away.
#[test]
fn what_others_have_pruned_does_not_come_back() {
    let mut world = World::new(2);
    let row = |world: &World| world.replicas[0].rows[&key("k")].clone();
    let second = Duration::from_secs(1);
    for frontend in [0, 1] {
        world.set(frontend, "k", "v");
        world.pass(second, |_| false);
    }
    assert_eq!(row(&world).clock.entries().len(), 2);
    let partition = key("k").partition();
    let promise = world.cores[1].promise_of(partition).unwrap();
    world.with(1, |core| core.passed(partition, promise));
    world.set(1, "k", "pruned");
    world.pass(second, |_| false);
    let pruned = row(&world);
    assert_eq!(pruned.clock.entries(), [(Incarnation(101), pruned.ballot.seq)]);
    // From the first one it hears that it is deposed: a rival's is in between.
    world.set(0, "k", "deposed");
    world.pass(second, |_| false);
    let again = world.set(0, "k", "again");
    world.pass(second, |_| false);
    again.take().expect("an answer").expect("a write that succeeds");
    let again = row(&world);
    assert_eq!(again.ballot.term.incarnation, Incarnation(100));
    assert_eq!(again.clock, pruned.clock.with_dot(Incarnation(100), again.ballot.seq));
}

fn held(n: u64, incarnation: u64, seq: u64, seen: &[(u64, u64)]) -> Row {
    let term = Term { n, incarnation: Incarnation(incarnation) };
    let mut clock = VectorClock::new().with_dot(Incarnation(incarnation), seq);
    seen.iter().for_each(|(incarnation, seq)| clock.observe(Incarnation(*incarnation), *seq));
    let ballot: Ballot = Promise { epoch: Epoch(1), term }.ballot(seq);
    Row { key: key("k"), ballot, clock, content: Content::string(seq.to_string(), None) }
}

/// What a read-modify-write counts that finds these versions, and the rows that it sends to their holders as they are.
fn conflicts(rows: [Option<Row>; 2]) -> (u64, Vec<(u16, Ballot)>) {
    let mut world = World::new(1);
    restart(&mut world, 9);
    for (replica, row) in world.replicas.iter_mut().zip(rows) {
        if let Some(row) = row {
            replica.rows.insert(row.key.clone(), row);
        }
    }
    world.incr(0, "k");
    let mut sent = Vec::new();
    world.run(|packet| {
        if let Packet::Request {
            worker, request: tercet_common::ReplicaRequest::Replicate { row, .. }, ..
        } = packet
        {
            sent.push((*worker, row.ballot));
        }
        matches!(packet, Packet::Request { worker: 2, .. })
    });
    (world.cores[0].out.counts.clock_conflicts, sent)
}

#[test]
fn a_lower_ballot_that_has_seen_a_higher_one_is_a_conflict() {
    let higher = held(2, 7, 4, &[]);
    let lower = held(1, 8, 1, &[(7, 5)]);
    let sent = vec![(0, higher.ballot)];
    assert_eq!(conflicts([Some(lower), Some(higher)]), (1, sent), "the holder of the lower gets the higher");
}

#[test]
fn left_overs_and_pruned_clocks_are_no_conflict() {
    let newer = held(2, 7, 4, &[]);
    for older in [
        // Concurrent: neither has seen the other.
        held(1, 8, 1, &[]),
        // The newer one's clock has lost what the older one's still has: it does not cover it.
        held(1, 8, 1, &[(3, 3), (4, 4)]),
        // An earlier put of the newer one's owner was seen.
        held(1, 8, 1, &[(7, 3)]),
    ] {
        assert_eq!(conflicts([Some(older), Some(newer.clone())]), (0, vec![]));
    }
    assert_eq!(conflicts([Some(newer.clone()), Some(newer)]), (0, vec![]));
}

/// A replica that was given a chosen row of a higher term before it heard of that term has nothing to say to a lower one:
/// whose puts would seem to have seen what comes after them.
#[test]
fn a_term_is_not_taken_from_a_replica_that_holds_something_higher() {
    let mut world = World::new(1);
    restart(&mut world, 9);
    let above = held(5, 7, 4, &[]);
    let partition = key("k").partition();
    world.replicas[0].rows.insert(key("k"), above.clone());
    world.replicas[0].vectors.insert(partition, (above.ballot, above.clock.clone()));
    world.set(0, "k", "v");
    // With replica 2 silent, both others are needed.
    world.pass(Duration::from_secs(2), |packet| matches!(packet, Packet::Request { worker: 2, .. }));
    let row = world.replicas[0].rows[&key("k")].clone();
    assert!(row.ballot > above.ballot && row.ballot.term.n > 5, "{}", row.ballot);
    assert!(!row.contradicts(&above) && row.clock.has_seen(above.ballot));
}
