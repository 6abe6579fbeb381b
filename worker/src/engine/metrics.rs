//! The engine's metric handles, looked up once. What concerns the database itself is measured by the store.

use metrics::{Counter, Gauge, Histogram};
use tercet_common::ReplicaReply;
use tercet_common::metrics as all;

use crate::replica::{Answer, Op, Stats};

#[derive(Clone, Copy)]
enum Outcome {
    Ok,
    Refused,
    Unknown,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Ok, Self::Refused, Self::Unknown];

    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }

    fn of(reply: &ReplicaReply) -> Self {
        match reply {
            ReplicaReply::Prepared { .. }
            | ReplicaReply::Stored
            | ReplicaReply::Version(_)
            | ReplicaReply::Promises(_)
            | ReplicaReply::Synced(_) => Self::Ok,
            ReplicaReply::Refused(_) => Self::Refused,
            ReplicaReply::Unknown => Self::Unknown,
        }
    }
}

pub(super) struct EngineMetrics {
    /// By [`Op`] and [`Outcome`].
    requests: [[Counter; 3]; Op::ALL.len()],
    request_seconds: [Histogram; Op::ALL.len()],
    queued_writes: Gauge,
    queued_reads: Gauge,
    cache_hits: Counter,
    cache_misses: Counter,
    cache_bytes: Gauge,
    cache_rows: Gauge,
    read_only: Gauge,
    /// Counted here as they are taken up: the frontend of the same process may count its own.
    pub(super) clock_conflicts: Counter,
}

impl EngineMetrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Op::ALL.map(|op| {
                Outcome::ALL.map(|outcome| all::WORKER_REQUESTS.counter(&[op.label(), outcome.label()]))
            }),
            request_seconds: Op::ALL.map(|op| all::WORKER_REQUEST_SECONDS.histogram(&[op.label()])),
            queued_writes: all::WORKER_QUEUE.gauge(&["commit"]),
            queued_reads: all::WORKER_QUEUE.gauge(&["read"]),
            cache_hits: all::CACHE_READS.counter(&["hit"]),
            cache_misses: all::CACHE_READS.counter(&["miss"]),
            cache_bytes: all::CACHE_BYTES.gauge(&[]),
            cache_rows: all::CACHE_ROWS.gauge(&[]),
            read_only: all::READ_ONLY.gauge(&[]),
            clock_conflicts: all::CLOCK_CONFLICTS.counter(&[]),
        }
    }

    /// Counts answers; requests of one kind that arrived in one batch are recorded together.
    pub(super) fn answered(&self, answers: &[Answer], now_us: u64) {
        let alike =
            |a: &Answer, b: &Answer| (a.ticket.op, a.ticket.arrived_us) == (b.ticket.op, b.ticket.arrived_us);
        let mut counts = [[0_u64; 3]; Op::ALL.len()];
        for run in answers.chunk_by(alike) {
            let op = run[0].ticket.op as usize;
            for answer in run {
                counts[op][Outcome::of(&answer.reply) as usize] += 1;
            }
            let micros = now_us.saturating_sub(run[0].ticket.arrived_us);
            self.request_seconds[op].record_many(micros as f64 / 1e6, run.len());
        }
        for (counters, counts) in self.requests.iter().zip(counts) {
            for (counter, n) in counters.iter().zip(counts).filter(|(_, n)| *n > 0) {
                counter.increment(n);
            }
        }
    }

    pub(super) fn publish(&self, stats: Stats) {
        self.queued_writes.set(stats.waiting_writes as f64);
        self.queued_reads.set(stats.waiting_reads as f64);
        self.cache_hits.absolute(stats.cache_hits);
        self.cache_misses.absolute(stats.cache_misses);
        self.cache_bytes.set(stats.cache_bytes as f64);
        self.cache_rows.set(stats.cache_rows as f64);
        self.read_only.set(f64::from(u8::from(stats.read_only)));
    }
}
