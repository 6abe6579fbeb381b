//! The keys that clients work on, and what they noted of each.
//!
//! - **counters**: raised by all clients at once, the hottest keys. Too many operations for a search; arithmetic judges
//!   them ([`tercet_check::Counter`]).
//! - **hot** keys: each shared by a few clients, with all commands mixed. A key is put aside after some hundred operations
//!   and another takes its place, so that each history can be searched; what it holds is still checked at the end.
//! - **cold** keys: each client's own, touched now and then for the whole run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use tercet_check::{Answer, Command, Operation};

pub(crate) const COUNTERS: usize = 3;
/// Clients that share a hot key: what can be concurrent in a history.
const CLIENTS_PER_HOT_KEY: usize = 5;
const COLD_KEYS_PER_CLIENT: usize = 20;
/// After which another key takes the place of a hot one.
const HOT_OPERATIONS: usize = 300;
/// The same for a cold one.
const COLD_OPERATIONS: usize = 2_000;

pub(crate) type Event = Operation<Command, Answer>;

/// One key of strings and its history.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    history: Mutex<Vec<Event>>,
}

impl Key {
    pub(crate) fn note(&self, event: Event) {
        self.history.lock().push(event);
    }

    /// What was noted so far, in the order of the answers.
    pub(crate) fn history(&self) -> Vec<Event> {
        self.history.lock().clone()
    }
}

/// A place that a key holds for a while.
#[derive(Debug)]
struct Slot {
    prefix: String,
    operations_max: usize,
    current: Mutex<Arc<Key>>,
}

/// All keys of a run.
#[derive(Debug)]
pub(crate) struct Keys {
    counters: Vec<String>,
    hot: Vec<Slot>,
    cold: Vec<Slot>,
    all: Mutex<Vec<Arc<Key>>>,
    named: AtomicU64,
}

/// What a client does next.
#[derive(Debug)]
pub(crate) enum Step {
    Count(usize),
    On(Arc<Key>, Command),
}

impl Keys {
    pub(crate) fn new(clients: usize) -> Self {
        let slot = |prefix: String, operations_max| {
            let nothing = Arc::new(Key { name: String::new(), history: Mutex::default() });
            Slot { prefix, operations_max, current: Mutex::new(nothing) }
        };
        let keys = Self {
            counters: (0..COUNTERS).map(|n| format!("counter:{n}")).collect(),
            hot: (0..clients.div_ceil(CLIENTS_PER_HOT_KEY))
                .map(|n| slot(format!("hot:{n}"), HOT_OPERATIONS))
                .collect(),
            cold: (0..clients * COLD_KEYS_PER_CLIENT)
                .map(|n| slot(format!("cold:{n}"), COLD_OPERATIONS))
                .collect(),
            all: Mutex::default(),
            named: AtomicU64::new(0),
        };
        for slot in keys.hot.iter().chain(&keys.cold) {
            *slot.current.lock() = keys.fresh(slot);
        }
        keys
    }

    fn fresh(&self, slot: &Slot) -> Arc<Key> {
        let n = self.named.fetch_add(1, Ordering::Relaxed);
        let key = Arc::new(Key { name: format!("{}:{n}", slot.prefix), history: Mutex::default() });
        self.all.lock().push(key.clone());
        key
    }

    fn current(&self, slot: &Slot) -> Arc<Key> {
        let mut current = slot.current.lock();
        if current.history.lock().len() >= slot.operations_max {
            *current = self.fresh(slot);
        }
        current.clone()
    }

    pub(crate) fn counter(&self, n: usize) -> &str {
        &self.counters[n]
    }

    /// Every key of strings that there ever was.
    pub(crate) fn all(&self) -> Vec<Arc<Key>> {
        self.all.lock().clone()
    }

    /// What `client` does as its `n`-th operation.
    pub(crate) fn step(&self, client: usize, n: u64, rng: &mut StdRng) -> Step {
        let slot = match rng.random_range(0..100) {
            0..25 => return Step::Count(rng.random_range(0..COUNTERS)),
            25..65 => &self.hot[client / CLIENTS_PER_HOT_KEY],
            _ => &self.cold[client * COLD_KEYS_PER_CLIENT + rng.random_range(0..COLD_KEYS_PER_CLIENT)],
        };
        let command = command(client, n, rng);
        Step::On(self.current(slot), command)
    }
}

/// Any command; values name their writer, so that a read tells whose it saw.
fn command(client: usize, n: u64, rng: &mut StdRng) -> Command {
    let value = match rng.random_range(0..3) {
        // INCR takes these.
        0 => format!("{client}{n:06}"),
        _ => format!("c{client}.{n}"),
    };
    let value = value.into_bytes();
    // Shorter and longer than most faults.
    let ttl = rng.random_range(20..4_000) * 1_000;
    match rng.random_range(0..100) {
        0..35 => Command::Get,
        35..55 => Command::Set { value, ttl: None },
        55..60 => Command::Set { value, ttl: Some(ttl) },
        60..68 => Command::SetNx { value },
        68..76 => Command::Append { tail: value },
        76..86 => Command::Incr,
        86..94 => Command::Del,
        94..97 => Command::Expire { ttl },
        _ => Command::Expire { ttl: rng.random_range(1..4) * 1_000_000 },
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn steps(seed: u64) -> String {
        let keys = Keys::new(7);
        let mut rng = StdRng::seed_from_u64(seed);
        let steps: Vec<Step> = (0..500).map(|n| keys.step(6, n, &mut rng)).collect();
        format!("{steps:?}")
    }

    #[test]
    fn a_seed_decides_what_a_client_does() {
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }

    #[test]
    fn every_command_is_drawn() {
        let steps = steps(1);
        for name in ["Count(", "Get", "ttl: None", "ttl: Some(", "SetNx", "Append", "Incr", "Del", "Expire"] {
            assert!(steps.contains(name), "{name}");
        }
    }

    #[test]
    fn a_hot_key_makes_room_for_another_and_is_not_forgotten() {
        let keys = Keys::new(1);
        let before = keys.all().len();
        let first = keys.current(&keys.hot[0]);
        for at in 0..HOT_OPERATIONS as u64 {
            first.note(Event::uncertain(Command::Incr, at));
        }
        let second = keys.current(&keys.hot[0]);
        assert_ne!(first.name, second.name);
        assert_eq!(keys.all().len(), before + 1);
        assert!(keys.all().iter().any(|key| key.name == first.name));
    }
}
