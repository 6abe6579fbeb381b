//! Clients under way while parts die, and a memory of what they were told.
//!
//! Each client works in turn on keys of its own (SET, GET, APPEND, DEL), whose value it therefore always knows, and on
//! counters shared by all (INCR). What an answer allows:
//!
//! - acknowledged: the key has that value from now on, and a counter's number is nobody else's;
//! - refused (NOREPLICAS, BUSY, LOADING; CLUSTERDOWN for a read): nothing has changed;
//! - unknown (UNCERTAIN, or the connection was lost): the write may have happened or may happen later, until the next
//!   acknowledged write to the key.
//!
//! A read that shows anything else is a failure, at once and at the end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use super::cluster::connect;
use super::{POLL, eventually, in_time};

const KEYS_PER_CLIENT: usize = 6;
const COUNTERS: usize = 3;

/// What clients may see while parts die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tolerance {
    /// No command fails: a worker, a database or two are the cluster's own business.
    Nothing,
    /// The frontend itself goes away: connections break, and a new frontend starts without workers.
    FrontendDies,
}

/// Clients that work until [`Load::finish`].
pub(crate) struct Load {
    clients: JoinSet<Memory>,
    stop: Arc<AtomicBool>,
    /// Commands acknowledged.
    acknowledged: Arc<AtomicU64>,
}

/// What one client knows.
struct Memory {
    keys: Vec<OwnKey>,
    counters: Vec<Counter>,
}

struct OwnKey {
    name: String,
    /// Every value that it may have; never empty. More than one after a write of unknown outcome.
    possible: Vec<Option<String>>,
}

#[derive(Default)]
struct Counter {
    numbers: Vec<i64>,
    unknown: u64,
}

/// What all clients knew, to be held against what is stored.
pub(crate) struct Memories {
    clients: Vec<Memory>,
    prefix: String,
}

enum Outcome<T> {
    Done(T),
    NotApplied,
    Unknown,
}

impl Load {
    /// Starts `clients` clients on keys that begin with `prefix`, which must be new.
    pub(crate) fn start(resp: SocketAddr, prefix: &str, clients: usize, tolerance: Tolerance) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for id in 0..clients {
            let worker = LoadClient {
                resp,
                prefix: prefix.to_owned(),
                id,
                tolerance,
                stop: stop.clone(),
                acknowledged: acknowledged.clone(),
            };
            tasks.spawn(worker.run());
        }
        Self { clients: tasks, stop, acknowledged }
    }

    /// Until `more` further commands have been acknowledged: the load goes on while and after something happens.
    pub(crate) async fn proceed(&mut self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        eventually("the load proceeds", async || {
            if let Some(ended) = self.clients.try_join_next() {
                match ended {
                    Err(failure) => std::panic::resume_unwind(failure.into_panic()),
                    Ok(_) => panic!("a client ended by itself"),
                }
            }
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Lets every client finish its command, and takes their memories.
    pub(crate) async fn finish(mut self, prefix: &str) -> Memories {
        self.stop.store(true, Ordering::Relaxed);
        let mut clients = Vec::new();
        while let Some(ended) = in_time("a client ends", self.clients.join_next()).await {
            match ended {
                Ok(memory) => clients.push(memory),
                Err(failure) => std::panic::resume_unwind(failure.into_panic()),
            }
        }
        Memories { clients, prefix: prefix.to_owned() }
    }
}

struct LoadClient {
    resp: SocketAddr,
    prefix: String,
    id: usize,
    tolerance: Tolerance,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl LoadClient {
    async fn run(self) -> Memory {
        let mut keys: Vec<OwnKey> = (0..KEYS_PER_CLIENT)
            .map(|k| OwnKey { name: format!("{}:{}:{k}", self.prefix, self.id), possible: vec![None] })
            .collect();
        let mut counters: Vec<Counter> = (0..COUNTERS).map(|_| Counter::default()).collect();
        let mut connection = self.reconnect().await;
        for step in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let key = &mut keys[step % KEYS_PER_CLIENT];
            match step % 5 {
                0 => {
                    let value = format!("v{step}");
                    let command = redis::cmd("SET").arg(&key.name).arg(&value).to_owned();
                    let outcome = self.ask::<()>(&mut connection, &command).await;
                    key.written(&outcome, |_| Some(value.clone()));
                }
                1 | 3 => {
                    let command = redis::cmd("GET").arg(&key.name).to_owned();
                    let outcome = self.ask::<Option<String>>(&mut connection, &command).await;
                    if let Outcome::Done(value) = outcome {
                        key.check(&value, "a read");
                    }
                }
                2 => {
                    let counter = step / 5 % COUNTERS;
                    let name = counter_name(&self.prefix, counter);
                    match self.ask::<i64>(&mut connection, redis::cmd("INCR").arg(name)).await {
                        Outcome::Done(number) => counters[counter].numbers.push(number),
                        Outcome::NotApplied => {}
                        Outcome::Unknown => counters[counter].unknown += 1,
                    }
                }
                _ if step % 2 == 0 => {
                    let outcome = self.ask::<()>(&mut connection, redis::cmd("DEL").arg(&key.name)).await;
                    key.written(&outcome, |_| None);
                }
                _ => {
                    let tail = format!("+{step}");
                    let command = redis::cmd("APPEND").arg(&key.name).arg(&tail).to_owned();
                    let outcome = self.ask::<()>(&mut connection, &command).await;
                    key.written(&outcome, |before| Some(format!("{}{tail}", before.unwrap_or_default())));
                }
            }
        }
        Memory { keys, counters }
    }

    /// Sends one command once. An error that may not be is a failure.
    async fn ask<T: redis::FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        command: &redis::Cmd,
    ) -> Outcome<T> {
        match command.query_async(connection).await {
            Ok(answer) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                Outcome::Done(answer)
            }
            Err(error) => {
                assert_eq!(
                    self.tolerance,
                    Tolerance::FrontendDies,
                    "client {} got an error for {}: {error}",
                    self.id,
                    String::from_utf8_lossy(&command.get_packed_command()).escape_debug(),
                );
                let outcome = self.judge(&error);
                if matches!(outcome, Outcome::Unknown) && error.code() != Some("UNCERTAIN") {
                    *connection = self.reconnect().await;
                }
                outcome
            }
        }
    }

    fn judge<T>(&self, error: &RedisError) -> Outcome<T> {
        match error.code() {
            Some("NOREPLICAS" | "BUSY" | "LOADING" | "CLUSTERDOWN") => Outcome::NotApplied,
            Some("UNCERTAIN") => Outcome::Unknown,
            _ if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() => {
                Outcome::Unknown
            }
            _ => panic!("client {} got {error:?}", self.id),
        }
    }

    async fn reconnect(&self) -> MultiplexedConnection {
        let connected = async {
            loop {
                if let Ok(connection) = connect(self.resp).await {
                    return connection;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        in_time("the frontend lets clients in", connected).await
    }
}

impl OwnKey {
    fn written<T>(&mut self, outcome: &Outcome<T>, becomes: impl Fn(Option<String>) -> Option<String>) {
        let after: Vec<_> = self.possible.iter().cloned().map(becomes).collect();
        match outcome {
            Outcome::Done(_) => self.possible = after,
            Outcome::NotApplied => {}
            Outcome::Unknown => self.possible.extend(after),
        }
    }

    fn check(&self, value: &Option<String>, when: &str) {
        assert!(
            self.possible.contains(value),
            "{when} of {} shows {value:?}, but it can only be one of {:?}",
            self.name,
            self.possible
        );
    }
}

fn counter_name(prefix: &str, counter: usize) -> String {
    format!("{prefix}:counter:{counter}")
}

impl Memories {
    /// Holds what is stored against what was acknowledged.
    pub(crate) async fn verify(&self, resp: SocketAddr) {
        let mut connection = connect(resp).await.expect("the frontend lets clients in");
        for key in self.clients.iter().flat_map(|client| &client.keys) {
            let value: Option<String> =
                redis::cmd("GET").arg(&key.name).query_async(&mut connection).await.expect("it can be read");
            key.check(&value, "the last read");
        }
        for counter in 0..COUNTERS {
            let name = counter_name(&self.prefix, counter);
            let value: Option<u64> =
                redis::cmd("GET").arg(&name).query_async(&mut connection).await.expect("it can be read");
            let value = value.unwrap_or(0);
            let all = || self.clients.iter().map(|client| &client.counters[counter]);
            let numbers: Vec<i64> = all().flat_map(|counter| counter.numbers.iter().copied()).collect();
            let acknowledged = numbers.len() as u64;
            let unknown: u64 = all().map(|counter| counter.unknown).sum();
            let distinct: HashSet<i64> = numbers.into_iter().collect();
            assert_eq!(distinct.len() as u64, acknowledged, "two clients got the same number of {name}");
            assert!(
                (acknowledged..=acknowledged + unknown).contains(&value),
                "{name} is {value} after {acknowledged} acknowledged and {unknown} unknown increments"
            );
        }
    }
}
