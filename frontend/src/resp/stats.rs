//! What INFO counts. Metrics for Prometheus are kept beside it, with one handle per command.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tercet_common::metrics;

use super::command::Flag;
use super::command::table::{CommandTable, Entry};
use super::latency::Histogram;
use super::reply::Reply;

/// The label of commands that are in no table.
const UNKNOWN: &str = "unknown";
/// Outcome labels: the prefixes of error texts, in lower case. The first is for all others.
const OUTCOMES: [&str; 16] = [
    "err",
    "ok",
    "wrongtype",
    "noauth",
    "wrongpass",
    "noproto",
    "noperm",
    "noreplicas",
    "uncertain",
    "busy",
    "busykey",
    "clusterdown",
    "loading",
    "oom",
    "misconf",
    "readonly",
];
const OK: usize = 1;
/// Different error prefixes that INFO errorstats lists.
const ERROR_PREFIXES_MAX: usize = 128;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    Ok,
    /// The handler failed; the error line.
    Failed(&'a str),
    /// Refused before the handler ran; the error line.
    Rejected(&'a str),
}

impl Outcome<'_> {
    fn label(self) -> usize {
        match self {
            Self::Ok => OK,
            Self::Failed(line) | Self::Rejected(line) => {
                let prefix = prefix(line);
                OUTCOMES.iter().position(|o| o.eq_ignore_ascii_case(prefix)).unwrap_or(0)
            }
        }
    }
}

fn prefix(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// One command's numbers.
#[derive(Default)]
pub struct CommandStats {
    pub calls: AtomicU64,
    pub micros: AtomicU64,
    pub failed: AtomicU64,
    pub rejected: AtomicU64,
    histogram: OnceLock<Box<Histogram>>,
    counters: [OnceLock<::metrics::Counter>; OUTCOMES.len()],
    seconds: OnceLock<::metrics::Histogram>,
}

impl CommandStats {
    pub fn histogram(&self) -> Option<&Histogram> {
        self.histogram.get().map(|h| &**h)
    }

    fn record(&self, name: &str, took: Duration, outcome: Outcome<'_>) {
        let counter = || metrics::COMMANDS.counter(&["resp", name, OUTCOMES[outcome.label()]]);
        self.counters[outcome.label()].get_or_init(counter).increment(1);
        match outcome {
            Outcome::Rejected(_) => {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Outcome::Failed(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Ok => {}
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.histogram.get_or_init(Box::default).record(took);
        self.seconds.get_or_init(|| metrics::COMMAND_SECONDS.histogram(&["resp", name])).record(took);
    }

    fn clear(&self) {
        for counter in [&self.calls, &self.micros, &self.failed, &self.rejected] {
            counter.store(0, Ordering::Relaxed);
        }
        if let Some(histogram) = self.histogram.get() {
            histogram.clear();
        }
    }
}

/// All numbers since the start, or the last CONFIG RESETSTAT.
pub struct Stats {
    commands: Box<[CommandStats]>,
    unknown: CommandStats,
    pub connections: AtomicU64,
    pub connections_rejected: AtomicU64,
    pub processed: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub errors: AtomicU64,
    by_prefix: Mutex<BTreeMap<String, u64>>,
    rate: Mutex<Rate>,
    client_bytes_in: ::metrics::Counter,
    client_bytes_out: ::metrics::Counter,
}

/// The counters as they were at the last sample, and the rates since.
struct Rate {
    at: Instant,
    processed: u64,
    bytes_in: u64,
    bytes_out: u64,
    rates: Rates,
}

/// Per second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    pub ops: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
}

impl Stats {
    pub fn new(table: &CommandTable) -> Self {
        let zero = Rates::default();
        Self {
            commands: table.entries().iter().map(|_| CommandStats::default()).collect(),
            unknown: CommandStats::default(),
            connections: AtomicU64::new(0),
            connections_rejected: AtomicU64::new(0),
            processed: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            by_prefix: Mutex::default(),
            rate: Mutex::new(Rate {
                at: Instant::now(),
                processed: 0,
                bytes_in: 0,
                bytes_out: 0,
                rates: zero,
            }),
            client_bytes_in: metrics::CLIENT_BYTES.counter(&["resp", "in"]),
            client_bytes_out: metrics::CLIENT_BYTES.counter(&["resp", "out"]),
        }
    }

    /// Numbers of the table's entry `id`.
    pub fn command(&self, id: usize) -> &CommandStats {
        &self.commands[id]
    }

    /// Counts a command that has been answered; `entry`: id and name, none for an unknown one.
    pub fn record(&self, entry: Option<(usize, &str)>, took: Duration, outcome: Outcome<'_>) {
        let (stats, name) = entry.map_or((&self.unknown, UNKNOWN), |(id, name)| (&self.commands[id], name));
        stats.record(name, took, outcome);
        match outcome {
            Outcome::Ok => {}
            Outcome::Failed(line) | Outcome::Rejected(line) => self.count_error(line),
        }
        if !matches!(outcome, Outcome::Rejected(_)) {
            self.processed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_error(&self, line: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let prefix = prefix(line);
        let mut by_prefix = self.by_prefix.lock();
        if let Some(count) = by_prefix.get_mut(prefix) {
            *count += 1;
        } else if by_prefix.len() < ERROR_PREFIXES_MAX {
            by_prefix.insert(prefix.to_owned(), 1);
        }
    }

    /// Counts `keyspace_hits` and `keyspace_misses` of a read that succeeded, as far as its answer tells them.
    pub fn count_lookups(&self, entry: &Entry, reply: &Reply, keys: usize) {
        if keys == 0 || !entry.has(Flag::ReadOnly) {
            return;
        }
        let misses = match reply {
            Reply::Null | Reply::NullArray => 1,
            Reply::Array(values) => values.iter().filter(|value| **value == Reply::Null).count(),
            Reply::Integer(found) if keys > 1 || entry.name == "exists" => {
                keys.saturating_sub(usize::try_from(*found).unwrap_or(0))
            }
            _ => 0,
        };
        self.hits.fetch_add(keys.saturating_sub(misses) as u64, Ordering::Relaxed);
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
    }

    pub fn errors_by_prefix(&self) -> Vec<(String, u64)> {
        self.by_prefix.lock().iter().map(|(prefix, count)| (prefix.clone(), *count)).collect()
    }

    pub fn count_read(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        self.client_bytes_in.increment(bytes as u64);
    }

    pub fn count_written(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        self.client_bytes_out.increment(bytes as u64);
    }

    /// Called about once a second: INFO's `instantaneous_*` are the rates between the last two calls.
    pub fn sample(&self, now: Instant) {
        let mut last = self.rate.lock();
        let seconds = now.saturating_duration_since(last.at).as_secs_f64().max(0.001);
        let processed = self.processed.load(Ordering::Relaxed);
        let (bytes_in, bytes_out) =
            (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed));
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let rates = Rates {
            ops: rate(processed, last.processed),
            bytes_in: rate(bytes_in, last.bytes_in),
            bytes_out: rate(bytes_out, last.bytes_out),
        };
        *last = Rate { at: now, processed, bytes_in, bytes_out, rates };
    }

    pub fn rates(&self) -> Rates {
        self.rate.lock().rates
    }

    /// CONFIG RESETSTAT. Prometheus counters go on: they must not fall.
    pub fn clear(&self) {
        for counter in [
            &self.connections,
            &self.connections_rejected,
            &self.processed,
            &self.bytes_in,
            &self.bytes_out,
            &self.hits,
            &self.misses,
            &self.errors,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        self.by_prefix.lock().clear();
        for command in &self.commands {
            command.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command::table::TABLE;

    #[test]
    fn outcomes_have_labels_from_a_closed_set() {
        for (line, label) in
            [("WRONGTYPE x", "wrongtype"), ("ERR x", "err"), ("NEWKIND x", "err"), ("", "err")]
        {
            assert_eq!(OUTCOMES[Outcome::Failed(line).label()], label);
        }
        assert_eq!(OUTCOMES[Outcome::Ok.label()], "ok");
    }

    #[test]
    fn calls_failures_and_refusals_are_counted_apart() {
        let stats = Stats::new(&TABLE);
        let ping = TABLE.find(b"ping").unwrap();
        let entry = Some((ping.id, ping.name));
        stats.record(entry, Duration::from_micros(5), Outcome::Ok);
        stats.record(entry, Duration::from_micros(7), Outcome::Failed("ERR x"));
        stats.record(entry, Duration::ZERO, Outcome::Rejected("NOAUTH x"));
        stats.record(None, Duration::ZERO, Outcome::Rejected("ERR x"));
        let command = stats.command(ping.id);
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        assert_eq!((load(&command.calls), load(&command.micros)), (2, 12));
        assert_eq!((load(&command.failed), load(&command.rejected)), (1, 1));
        assert_eq!(stats.errors_by_prefix(), [("ERR".to_owned(), 2), ("NOAUTH".to_owned(), 1)]);
        stats.clear();
        assert_eq!((load(&command.calls), load(&stats.errors)), (0, 0));
    }
}
