//! The coordinator's metrics: handles made once, fed in batches.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use parking_lot::RwLock;
use tercet_common::{WorkerId, metrics as m};

use super::api::OpError;
use super::core::{CallKind, CallOutcome, Completion, Counts, Ended};
use super::status::PartitionStatus;

const KINDS: [&str; 4] = ["read", "blind", "update", "flush"];
const OUTCOMES: [&str; 6] = ["ok", "no_quorum", "uncertain", "busy", "unavailable", "refused"];

struct WorkerHandles {
    calls: Vec<[Counter; CallOutcome::NAMES.len()]>,
    seconds: [Histogram; CallKind::NAMES.len()],
}

pub(super) struct Instruments {
    operations: [[Counter; OUTCOMES.len()]; KINDS.len()],
    seconds: [Histogram; KINDS.len()],
    in_flight: Gauge,
    hits: Counter,
    misses: Counter,
    combined: Counter,
    repairs: [Counter; 2],
    hedged: [Counter; 3],
    remembered: [Counter; 2],
    takeovers: [Counter; 2],
    clock_conflicts: Counter,
    expired: Counter,
    owned: Gauge,
    under_replicated: Gauge,
    unavailable: Gauge,
    workers: RwLock<Vec<WorkerHandles>>,
}

fn outcome(error: Option<&OpError>) -> usize {
    match error {
        None => 0,
        Some(OpError::NoQuorum { .. }) => 1,
        Some(OpError::Uncertain) => 2,
        Some(OpError::Busy) => 3,
        Some(OpError::ReadUnavailable | OpError::Loading) => 4,
        Some(OpError::ValueTooLarge { .. }) => 5,
    }
}

impl Instruments {
    pub(super) fn new() -> Self {
        let operations = KINDS.map(|kind| OUTCOMES.map(|outcome| m::OPERATIONS.counter(&[kind, outcome])));
        Self {
            operations,
            seconds: KINDS.map(|kind| m::OPERATION_SECONDS.histogram(&[kind])),
            in_flight: m::OPERATIONS_IN_FLIGHT.gauge(&[]),
            hits: m::READ_RESULTS.counter(&["hit"]),
            misses: m::READ_RESULTS.counter(&["miss"]),
            combined: m::COMBINED.counter(&[]),
            repairs: ["replicated", "rewritten"].map(|result| m::READ_REPAIRS.counter(&[result])),
            hedged: ["unequal", "slow", "failed"].map(|reason| m::HEDGED_READS.counter(&[reason])),
            remembered: ["proven", "unproven"].map(|result| m::REMEMBERED_READS.counter(&[result])),
            takeovers: ["owned", "failed"].map(|outcome| m::TAKEOVERS.counter(&[outcome])),
            clock_conflicts: m::CLOCK_CONFLICTS.counter(&[]),
            expired: m::EXPIRED_KEYS.counter(&[]),
            owned: m::PARTITIONS_OWNED.gauge(&[]),
            under_replicated: m::PARTITIONS_UNDER_REPLICATED.gauge(&[]),
            unavailable: m::PARTITIONS_UNAVAILABLE.gauge(&[]),
            workers: RwLock::default(),
        }
    }

    /// Workers come in the order of their numbers.
    pub(super) fn add_worker(&self, id: &WorkerId) {
        self.workers.write().push(WorkerHandles {
            calls: CallKind::NAMES
                .map(|call| CallOutcome::NAMES.map(|o| m::REPLICA_CALLS.counter(&[id.as_str(), call, o])))
                .into(),
            seconds: CallKind::NAMES.map(|call| m::REPLICA_CALL_SECONDS.histogram(&[id.as_str(), call])),
        });
    }

    pub(super) fn completions(&self, completions: &[Completion], now: Duration, left: usize) {
        for completion in completions {
            let (kind, error, since) = match completion {
                Completion::Read { result, since, .. } => {
                    match result {
                        Ok(Some(_)) => self.hits.increment(1),
                        Ok(None) => self.misses.increment(1),
                        Err(_) => {}
                    }
                    (0, result.as_ref().err(), since)
                }
                Completion::Write { outcome, blind, since, .. } => {
                    (if *blind { 1 } else { 2 }, outcome.as_ref().err(), since)
                }
                Completion::Flush { result, since, .. } => (3, result.as_ref().err(), since),
                // No client's operation.
                Completion::Rewrite { .. } => continue,
            };
            self.operations[kind][outcome(error)].increment(1);
            self.seconds[kind].record(now.saturating_sub(*since).as_secs_f64());
        }
        self.in_flight.set(left as f64);
    }

    pub(super) fn calls(&self, ended: &[Ended]) {
        if ended.is_empty() {
            return;
        }
        let workers = self.workers.read();
        for call in ended {
            let Some(handles) = workers.get(usize::from(call.worker)) else { continue };
            handles.calls[call.kind as usize][call.outcome as usize].increment(1);
            handles.seconds[call.kind as usize].record(call.took.as_secs_f64());
        }
    }

    pub(super) fn counts(&self, counts: &Counts) {
        if *counts == Counts::default() {
            return;
        }
        self.combined.increment(counts.combined);
        self.repairs[0].increment(counts.repairs_replicated);
        self.repairs[1].increment(counts.repairs_rewritten);
        self.hedged[0].increment(counts.hedged_unequal);
        self.hedged[1].increment(counts.hedged_slow);
        self.hedged[2].increment(counts.hedged_failed);
        self.remembered[0].increment(counts.remembered);
        self.remembered[1].increment(counts.unproven);
        self.takeovers[0].increment(counts.takeovers);
        self.takeovers[1].increment(counts.takeovers_failed);
        self.clock_conflicts.increment(counts.clock_conflicts);
        self.expired.increment(counts.expired);
    }

    pub(super) fn partitions(&self, status: &PartitionStatus) {
        self.owned.set(status.owned as f64);
        self.under_replicated.set(status.under_replicated as f64);
        self.unavailable.set(status.unavailable as f64);
    }
}
