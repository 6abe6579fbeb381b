//! Clients under way while parts die, and a record of every command: when it was called, when it returned, how it ended.
//!
//! What an answer means: with a result, it is so from now on; NOREPLICAS, BUSY, LOADING (and CLUSTERDOWN for a read): it
//! has not happened and never will; UNCERTAIN, or a lost connection: it may have happened, or may yet.

mod client;
mod keys;
mod tally;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tercet_check::{Answer, Command, Counter, Operation};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::client::{Client, Memory, Shared, outcome};
pub(crate) use self::keys::Event;
use self::keys::{COUNTERS, Keys};
pub(crate) use self::tally::Tally;
use self::wire::Ended;
use crate::seed::Seed;

/// After every fault has ended, a key must be readable within this.
const READ_DEADLINE: Duration = Duration::from_secs(30);
const READERS: usize = 16;
const BACKOFF: Duration = Duration::from_millis(50);

/// Clients that work until [`Load::finish`].
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<Memory>,
}

/// Clients wait until this is dropped.
pub(crate) struct Pause<'a> {
    _turn: RwLockWriteGuard<'a, ()>,
}

/// What clients did and were told.
pub(crate) struct Record {
    pub(crate) tally: Tally,
    pub(crate) counters: Vec<CounterRecord>,
    pub(crate) keys: Vec<KeyRecord>,
}

pub(crate) struct CounterRecord {
    pub(crate) name: String,
    pub(crate) counter: Counter,
    /// What it holds in the end, or why that cannot be read.
    pub(crate) value: Result<i64, String>,
}

pub(crate) struct KeyRecord {
    pub(crate) name: String,
    /// Without the last read.
    pub(crate) history: Vec<Event>,
    /// The last read, or why there is none.
    pub(crate) last: Result<Event, String>,
}

impl Load {
    /// Starts `clients` clients, which together send at most `rate` commands per second.
    pub(crate) fn start(resp: SocketAddr, clients: usize, rate: u32, seed: &Seed) -> Self {
        let shared = Arc::new(Shared {
            resp,
            keys: Keys::new(clients),
            begun: Instant::now(),
            gate: RwLock::new(()),
            stop: AtomicBool::new(false),
            acked: AtomicU64::new(0),
        });
        let interval = Duration::from_secs(1) * u32::try_from(clients).unwrap_or(u32::MAX) / rate.max(1);
        let mut tasks = JoinSet::new();
        for id in 0..clients {
            let rng = seed.rng(&format!("client {id}"));
            tasks.spawn(Client { id, shared: shared.clone(), rng, interval }.run());
        }
        Self { shared, clients: tasks }
    }

    /// Commands acknowledged so far.
    pub(crate) fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Lets every client finish its command, and none begin another.
    pub(crate) async fn pause(&self) -> Pause<'_> {
        Pause { _turn: self.shared.gate.write().await }
    }

    /// Ends the clients. [`Finished::read`] tells what they left.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Finished> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        let mut counters = vec![Counter::default(); COUNTERS];
        while let Some(ended) = self.clients.join_next().await {
            let memory = ended.context("a client failed")?;
            tally.merge(memory.tally);
            for (sum, counter) in counters.iter_mut().zip(memory.counters) {
                sum.merge(counter);
            }
        }
        Ok(Finished { shared: self.shared, tally, counters })
    }
}

/// Clients that have ended.
pub(crate) struct Finished {
    shared: Arc<Shared>,
    tally: Tally,
    counters: Vec<Counter>,
}

impl Finished {
    /// Reads every key once more.
    pub(crate) async fn read(self) -> anyhow::Result<Record> {
        let mut counters = Vec::new();
        for (n, counter) in self.counters.into_iter().enumerate() {
            let name = self.shared.keys.counter(n).to_owned();
            let value = read(&self.shared, &mut None, &name).await.and_then(|event| as_count(&event));
            counters.push(CounterRecord { name, counter, value });
        }
        let all = self.shared.keys.all();
        let mut readers = JoinSet::new();
        for some in all.chunks(all.len().div_ceil(READERS).max(1)) {
            let (some, shared) = (some.to_vec(), self.shared.clone());
            readers.spawn(async move {
                let mut records = Vec::with_capacity(some.len());
                let mut connection = None;
                for key in some {
                    let history = key.history();
                    // One that nobody ever touched is read too: it must be absent.
                    let last = read(&shared, &mut connection, &key.name).await;
                    records.push(KeyRecord { name: key.name.clone(), history, last });
                }
                records
            });
        }
        let mut keys = Vec::with_capacity(all.len());
        while let Some(records) = readers.join_next().await {
            keys.extend(records.context("a reader failed")?);
        }
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Record { tally: self.tally, counters, keys })
    }
}

/// Reads a key, again and again if it must.
async fn read(
    shared: &Shared,
    connection: &mut Option<redis::aio::MultiplexedConnection>,
    key: &str,
) -> Result<Event, String> {
    let begun = Instant::now();
    loop {
        if connection.is_none() {
            *connection = shared.connect().await;
        }
        let called = shared.time();
        let ended = shared.ask(connection, key, &Command::Get).await;
        if matches!(ended, Ended::Answered(_)) {
            return Ok(Operation { command: Command::Get, called, outcome: outcome(ended, shared.time()) });
        }
        if begun.elapsed() > READ_DEADLINE {
            return Err(format!("cannot be read: {ended:?}"));
        }
        tokio::time::sleep(BACKOFF).await;
    }
}

fn as_count(event: &Event) -> Result<i64, String> {
    let count = || match event.answer() {
        Some(Answer::Value(None)) => Ok(0),
        Some(Answer::Value(Some(value))) => Ok(std::str::from_utf8(value)?.parse()?),
        other => bail!("{other:?}"),
    };
    count().map_err(|error: anyhow::Error| format!("is no number: {error}"))
}
