//! Random schedules: three frontends that all believe they own the partition of two keys, flushes, expiry, loss,
//! duplication, reordering, time-outs, cut links. Every history must be linearizable, whatever happened.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tercet_common::{Content, UnixMillis};

use super::super::Tuning;
use super::linearizable::{Event, Kind, is_linearizable};
use super::ring::Ring;
use super::world::{Answer, Packet, TUNING, World, key, number};
use crate::coordinator::api::{Change, Found, OpError, Written};

const FRONTENDS: usize = 3;
const CLIENTS: usize = 5;
const OPERATIONS: usize = 28;
/// Of one partition.
const KEYS: [&str; 2] = ["{p}1", "{p}2"];

/// splitmix64: the schedule is a function of the seed.
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// What a read-modify-write saw or made.
type Made = Arc<Mutex<i64>>;

enum Pending {
    Write(Kind, Answer<Written>, Made),
    Get(Answer<Option<Found>>),
    Flush(Arc<Mutex<Option<Result<(), OpError>>>>),
}

impl Pending {
    /// What is known of the operation: `None` while it is under way, else its kind with the answer, and whether it did
    /// happen (`Some(false)`: perhaps; `None`: not).
    fn outcome(&self) -> Option<(Kind, Option<bool>)> {
        Some(match self {
            Self::Write(kind, answer, made) => {
                let made = *made.lock().unwrap();
                let kind = match *kind {
                    Kind::Incr(_) => (Kind::Incr(Some(made)), Kind::Incr(None)),
                    Kind::SetNx(value, _) => (Kind::SetNx(value, Some(made == 1)), Kind::SetNx(value, None)),
                    Kind::Del(_) => (Kind::Del(Some(made == 1)), Kind::Del(None)),
                    other => (other, other),
                };
                match answer.take()? {
                    Ok(_) => (kind.0, Some(true)),
                    Err(OpError::Uncertain) => (kind.1, Some(false)),
                    // Everything else promises that nothing was applied.
                    Err(_) => (kind.1, None),
                }
            }
            Self::Get(answer) => match answer.take()? {
                Ok(found) => (Kind::Get(found.map(|f| number(&f.row))), Some(true)),
                Err(_) => (Kind::Get(None), None),
            },
            Self::Flush(done) => match done.lock().unwrap().take()? {
                Ok(()) => (Kind::Flush, Some(true)),
                Err(OpError::Uncertain) => (Kind::Flush, Some(false)),
                Err(_) => (Kind::Flush, None),
            },
        })
    }

    /// The operation at the end of the schedule, without an answer.
    fn unknown(&self) -> Option<Kind> {
        match self {
            Self::Write(kind, ..) => Some(*kind),
            Self::Get(_) => None,
            Self::Flush(_) => Some(Kind::Flush),
        }
    }
}

fn start(world: &mut World, random: &mut Random, frontend: usize, name: &str, value: i64) -> Pending {
    let made = Made::default();
    let result = made.clone();
    let text = move |value: i64, until| Change::Write(Content::string(value.to_string(), until));
    match random.below(100) {
        0..=29 => {
            let (answer, made) = world.incr(frontend, name);
            Pending::Write(Kind::Incr(None), answer, made)
        }
        30..=44 => {
            let expires = random.chance(40);
            let until = expires.then(|| UnixMillis(world.wall.0 + random.below(300) as i64));
            let answer = world.write(frontend, name, true, move |_, _| text(value, until));
            Pending::Write(Kind::Set { value, expires }, answer, made)
        }
        45..=59 => {
            let answer = world.write(frontend, name, false, move |current, _| {
                *result.lock().unwrap() = i64::from(current.is_none());
                if current.is_some() { Change::Keep } else { text(value, None) }
            });
            Pending::Write(Kind::SetNx(value, None), answer, made)
        }
        60..=69 => {
            let answer = world.write(frontend, name, false, move |current, _| {
                *result.lock().unwrap() = i64::from(current.is_some());
                if current.is_some() { Change::Write(Content::Tombstone) } else { Change::Keep }
            });
            Pending::Write(Kind::Del(None), answer, made)
        }
        70..=72 => {
            let done = Arc::new(Mutex::new(None));
            let given = done.clone();
            let finish = Box::new(move |result| {
                let before = given.lock().unwrap().replace(result);
                assert!(before.is_none(), "a flush was answered twice");
            });
            world.with(frontend, |core| core.flush(key(name).partition(), finish));
            Pending::Flush(done)
        }
        _ => Pending::Get(world.get(frontend, name)),
    }
}

/// Frontends that remember nothing ask the replicas more often.
fn tuning(seed: u64) -> Tuning {
    Tuning { memory_bytes: if seed.is_multiple_of(4) { 0 } else { 1024 * 1024 }, ..TUNING }
}

/// The histories of the keys. A flush belongs to each.
fn schedule(seed: u64) -> [Vec<Event>; KEYS.len()] {
    play(seed, World::tuned(FRONTENDS, 3, &tuning(seed)), None)
}

/// The same while the partition changes hands, again and again; with the number of changes that began.
fn schedule_with_ring_changes(seed: u64) -> ([Vec<Event>; KEYS.len()], usize) {
    let mut world = World::tuned(FRONTENDS, 5, &tuning(seed));
    let mut ring = Ring::new(&mut world, &KEYS);
    (play(seed, world, Some(&mut ring)), ring.changes)
}

fn play(seed: u64, mut world: World, mut ring: Option<&mut Ring>) -> [Vec<Event>; KEYS.len()] {
    let mut random = Random(seed);
    let workers = world.replicas.len();
    // Most clients are at the first frontend.
    let frontend = |client: usize| client.saturating_sub(CLIENTS - FRONTENDS);
    let mut clients: [Option<(Pending, usize, u64)>; CLIENTS] = Default::default();
    let mut histories: [Vec<Event>; KEYS.len()] = Default::default();
    let mut record = |name: usize, event: Event| {
        let flush = event.kind == Kind::Flush;
        let of = |nth: usize| flush || nth == name;
        histories.iter_mut().enumerate().filter(|(nth, _)| of(*nth)).for_each(|(_, h)| h.push(event));
    };
    let mut step = 0u64;
    let (loss, duplicates) = (random.below(12) as u64, random.below(8) as u64);
    let mut issued = 0;
    while step < 4_000 && (issued < OPERATIONS || clients.iter().any(Option::is_some)) {
        step += 1;
        let client = random.below(CLIENTS);
        if clients[client].is_none() && issued < OPERATIONS && random.chance(20) {
            issued += 1;
            let name = random.below(KEYS.len());
            let pending = start(&mut world, &mut random, frontend(client), KEYS[name], 1_000 * issued as i64);
            clients[client] = Some((pending, name, step));
        }
        if let Some(ring) = &mut ring
            && random.chance(15)
        {
            ring.step(&mut world, &mut random);
        }
        match random.below(100) {
            0..=79 if !world.wire.is_empty() => {
                let at = random.below(world.wire.len());
                let packet = world.wire.swap_remove(at);
                if random.chance(duplicates) && matches!(packet, Packet::Request { .. }) {
                    world.wire.push(packet.clone());
                }
                if !random.chance(loss) {
                    world.deliver(packet);
                }
            }
            80..=95 => {
                let passed = random.below(120);
                world.now += Duration::from_millis(passed as u64);
                world.wall.0 += passed as i64;
                (0..FRONTENDS).for_each(|frontend| world.with(frontend, |core| core.tick()));
            }
            96 => {
                let (frontend, worker) = (random.below(FRONTENDS), random.below(workers) as u16);
                world.with(frontend, |core| {
                    core.peer(worker, false);
                    core.link_lost(worker);
                });
            }
            _ => {
                let (frontend, worker) = (random.below(FRONTENDS), random.below(workers) as u16);
                world.with(frontend, |core| core.peer(worker, true));
            }
        }
        for client in &mut clients {
            let Some((kind, happened)) = client.as_ref().and_then(|(pending, ..)| pending.outcome()) else {
                continue;
            };
            if let (Some((_, name, called)), Some(known)) = (client.take(), happened) {
                let returned = if known { step } else { u64::MAX };
                record(name, Event { kind, called, returned });
            }
        }
    }
    for (pending, name, called) in clients.into_iter().flatten() {
        if let Some(kind) = pending.unknown() {
            record(name, Event { kind, called, returned: u64::MAX });
        }
    }
    if let Some(ring) = ring {
        ring.settle(&mut world);
    }
    finish(&mut world, seed);
    // What was said not to have happened must not turn up now.
    for (name, history) in KEYS.iter().zip(&mut histories) {
        for frontend in 0..FRONTENDS {
            let get = world.get(frontend, name);
            pass_until(&mut world, |_| get.is_given());
            let saw = get.take().unwrap().unwrap().map(|found| number(&found.row));
            step += 1;
            history.push(Event { kind: Kind::Get(saw), called: step, returned: step });
        }
    }
    histories
}

/// Lets time pass until it is so, or longer than any operation may take.
fn pass_until(world: &mut World, is_so: impl Fn(&World) -> bool) {
    world.run_all();
    let end = world.now + Duration::from_secs(12);
    while world.now < end && !is_so(world) {
        world.pass(Duration::from_millis(50), |_| false);
    }
}

/// With the network whole again, everything comes to an end and nothing is left.
fn finish(world: &mut World, seed: u64) {
    let workers = world.replicas.len() as u16;
    for frontend in 0..FRONTENDS {
        world.with(frontend, |core| (0..workers).for_each(|worker| core.peer(worker, true)));
    }
    let idle = |world: &World| world.cores.iter().all(|core| core.in_flight() == (0, 0, 0));
    pass_until(world, idle);
    for core in &world.cores {
        assert_eq!((core.in_flight(), core.waiting()), ((0, 0, 0), 0), "seed {seed}");
    }
}

#[test]
fn random_schedules_are_linearizable() {
    const SEEDS: u64 = 1_500;
    /// Seeds that once failed. 19,893: a put of which one copy was stored and a later copy refused was called not applied.
    const ONCE_FAILED: [u64; 1] = [19_893];
    let mut answered = 0;
    for seed in (0..SEEDS).chain(ONCE_FAILED) {
        for history in schedule(seed) {
            answered += history.iter().filter(|e| e.returned != u64::MAX).count();
            assert!(is_linearizable(&history), "seed {seed}: {history:#?}");
        }
    }
    // The schedules must not be so rough that nothing happens in them.
    assert!(answered as u64 > SEEDS * 8, "only {answered} operations were answered");
}

#[test]
fn random_ring_changes_are_linearizable() {
    const SEEDS: u64 = 600;
    /// 5,441: a flush that one replica might yet store went out under a second ballot.
    const ONCE_FAILED: [u64; 1] = [5_441];
    let (mut answered, mut changes) = (0, 0);
    for seed in (0..SEEDS).chain(ONCE_FAILED) {
        let (histories, changed) = schedule_with_ring_changes(seed);
        changes += changed;
        for history in histories {
            answered += history.iter().filter(|e| e.returned != u64::MAX).count();
            assert!(is_linearizable(&history), "seed {seed}: {history:#?}");
        }
    }
    assert!(answered as u64 > SEEDS * 8, "only {answered} operations were answered");
    assert!(changes as u64 > SEEDS * 2, "only {changes} ring changes began");
}
