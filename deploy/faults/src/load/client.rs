//! One client: one connection, one command at a time, in an order that its seed decides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use redis::aio::MultiplexedConnection;
use tercet_check::{Answer, Command, Counter, Operation, Outcome};
use tokio::sync::RwLock;
use tokio::time::Instant;

use super::keys::{COUNTERS, Keys, Step};
use super::tally::{Stall, Tally};
use super::wire::{Ended, decode, encode};

/// Above what the frontend allows a command (5 s), so that only a hung or cut-off frontend is given up.
const ANSWER_DEADLINE: Duration = Duration::from_secs(8);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// After a refusal or a failed connection.
const BACKOFF: Duration = Duration::from_millis(20);

/// What the clients of a run have in common.
pub(super) struct Shared {
    pub(super) resp: SocketAddr,
    pub(super) keys: Keys,
    pub(super) begun: Instant,
    /// Held for reading during a command, for writing during a pause.
    pub(super) gate: RwLock<()>,
    pub(super) stop: AtomicBool,
    pub(super) acked: AtomicU64,
}

/// What one client knows in the end.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) tally: Tally,
    pub(super) counters: Vec<Counter>,
}

pub(super) struct Client {
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) rng: StdRng,
    /// The least time from one command to the next.
    pub(super) interval: Duration,
}

impl Shared {
    /// The clock of all histories, in microseconds.
    pub(super) fn time(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Sends a command once.
    pub(super) async fn ask(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        key: &str,
        command: &Command,
    ) -> Ended {
        let Some(open) = connection else { return Ended::Lost };
        let ended = decode(command, encode(command, key).query_async(open).await);
        if ended == Ended::Lost {
            *connection = None;
        }
        ended
    }

    pub(super) async fn connect(&self) -> Option<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(ANSWER_DEADLINE));
        let client = redis::Client::open(format!("redis://{}", self.resp)).ok()?;
        client.get_multiplexed_async_connection_with_config(&config).await.ok()
    }
}

/// What a command's end means for the key's history.
pub(super) fn outcome(ended: Ended, at: u64) -> Outcome<Answer> {
    match ended {
        Ended::Answered(answer) => Outcome::Answered { answer, at },
        Ended::Refused(_) => Outcome::NotApplied,
        Ended::Uncertain | Ended::Lost | Ended::Absurd(_) => Outcome::Uncertain,
    }
}

impl Client {
    pub(super) async fn run(mut self) -> Memory {
        let shared = self.shared.clone();
        let mut memory = Memory { tally: Tally::default(), counters: vec![Counter::default(); COUNTERS] };
        let mut connection = None;
        let mut stall = Stall::new(Instant::now());
        let mut next = Instant::now();
        let mut n = 0;
        while !shared.stop.load(Ordering::Relaxed) {
            let idle = Instant::now();
            let _turn = shared.gate.read().await;
            stall.excuse(idle.elapsed());
            if connection.is_none() {
                connection = shared.connect().await;
                if connection.is_none() {
                    tokio::time::sleep(BACKOFF).await;
                    continue;
                }
            }
            let step = shared.keys.step(self.id, n, &mut self.rng);
            n += 1;
            let called = Instant::now();
            let ended = self.take(step, &mut connection, &mut memory).await;
            memory.tally.add(&ended, called.elapsed());
            match ended {
                Ended::Answered(_) => {
                    let waited = stall.served(Instant::now());
                    memory.tally.longest_stall = memory.tally.longest_stall.max(waited);
                    shared.acked.fetch_add(1, Ordering::Relaxed);
                }
                Ended::Refused(_) => tokio::time::sleep(BACKOFF).await,
                _ => {}
            }
            drop(_turn);
            next = (next + self.interval).max(Instant::now());
            tokio::time::sleep_until(next).await;
        }
        memory.tally.longest_stall = memory.tally.longest_stall.max(stall.lasting(Instant::now()));
        memory
    }

    async fn take(
        &self,
        step: Step,
        connection: &mut Option<MultiplexedConnection>,
        memory: &mut Memory,
    ) -> Ended {
        let shared = &self.shared;
        match step {
            Step::Count(counter) => {
                let ended = shared.ask(connection, shared.keys.counter(counter), &Command::Incr).await;
                match &ended {
                    Ended::Answered(Answer::Number(number)) => memory.counters[counter].acknowledge(*number),
                    Ended::Refused(_) => {}
                    _ => memory.counters[counter].leave_uncertain(),
                }
                ended
            }
            Step::On(key, command) => {
                let called = shared.time();
                let ended = shared.ask(connection, &key.name, &command).await;
                key.note(Operation { command, called, outcome: outcome(ended.clone(), shared.time()) });
                ended
            }
        }
    }
}
