//! Random schedules: two frontends that both believe they own the key, loss, duplication, reordering, time-outs, cut
//! links. Every history must be linearizable, whatever happened.

use std::time::Duration;

use super::linearizable::{Event, Kind, is_linearizable};
use super::world::{Answer, Packet, World, number};
use crate::coordinator::api::{Found, OpError, Written};

/// splitmix64: the schedule is a function of the seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

enum Pending {
    Incr(Answer<Written>, std::sync::Arc<std::sync::Mutex<i64>>),
    Get(Answer<Option<Found>>),
}

struct Client {
    frontend: usize,
    pending: Option<(Pending, u64)>,
}

fn schedule(seed: u64) -> Vec<Event> {
    let mut random = Random(seed);
    let mut world = World::new(2);
    let mut clients: Vec<Client> =
        (0..4).map(|n| Client { frontend: usize::from(n == 3), pending: None }).collect();
    let mut history = Vec::new();
    let mut step = 0u64;
    let (loss, duplicates) = (random.below(12) as u64, random.below(8) as u64);
    let mut issued = 0;
    while step < 3_000 && (issued < 24 || clients.iter().any(|c| c.pending.is_some())) {
        step += 1;
        let client = random.below(clients.len());
        let client = &mut clients[client];
        if client.pending.is_none() && issued < 24 && random.chance(20) {
            issued += 1;
            let pending = if random.chance(70) {
                let (answer, made) = world.incr(client.frontend, "k");
                Pending::Incr(answer, made)
            } else {
                Pending::Get(world.get(client.frontend, "k"))
            };
            client.pending = Some((pending, step));
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
                world.now += Duration::from_millis(random.below(120) as u64);
                (0..2).for_each(|frontend| world.with(frontend, |core| core.tick()));
            }
            96 => {
                let (frontend, worker) = (random.below(2), random.below(3) as u16);
                world.with(frontend, |core| {
                    core.peer(worker, false);
                    core.link_lost(worker);
                });
            }
            _ => {
                let (frontend, worker) = (random.below(2), random.below(3) as u16);
                world.with(frontend, |core| core.peer(worker, true));
            }
        }
        for client in &mut clients {
            let Some((pending, called)) = client.pending.take() else { continue };
            let mut record = |kind, returned| history.push(Event { kind, called, returned });
            let open = match &pending {
                Pending::Incr(answer, made) => match answer.take() {
                    None => true,
                    Some(Ok(_)) => {
                        record(Kind::Incr(Some(*made.lock().unwrap())), step);
                        false
                    }
                    Some(Err(OpError::Uncertain)) => {
                        record(Kind::Incr(None), u64::MAX);
                        false
                    }
                    // Everything else promises that nothing was applied.
                    Some(Err(_)) => false,
                },
                Pending::Get(answer) => match answer.take() {
                    None => true,
                    Some(Ok(found)) => {
                        record(Kind::Get(found.map_or(0, |f| number(&f.row))), step);
                        false
                    }
                    Some(Err(_)) => false,
                },
            };
            if open {
                client.pending = Some((pending, called));
            }
        }
    }
    for client in clients {
        if let Some((Pending::Incr(..), called)) = client.pending {
            history.push(Event { kind: Kind::Incr(None), called, returned: u64::MAX });
        }
    }
    history
}

#[test]
fn random_schedules_are_linearizable() {
    let mut answered = 0;
    for seed in 0..3_000 {
        let history = schedule(seed);
        answered += history.iter().filter(|e| e.returned != u64::MAX).count();
        assert!(is_linearizable(&history), "seed {seed}: {history:#?}");
    }
    // The schedules must not be so rough that nothing happens in them.
    assert!(answered > 3_000 * 8, "only {answered} operations were answered");
}
