//! The metrics of healing: handles made once, fed with what the procedures report.

use metrics::{Counter, Gauge};
use tercet_common::metrics as m;

use super::collect::Collected;
use super::compare::Compared;
use super::copy::Copied;
use super::delta::Delta;
use super::schedule::{Backlog, Ended, Kind};

const OUTCOMES: [&str; 3] = ["done", "failed", "obsolete"];

pub struct Instruments {
    tasks: [[Counter; OUTCOMES.len()]; Kind::ALL.len()],
    backlog: [Gauge; Kind::ALL.len()],
    under_way: Gauge,
    oldest_compare: Gauge,
    /// Sent, kept, evicted.
    copied_rows: [Counter; 3],
    copied_bytes: Counter,
    /// Equal, repaired.
    compared: [Counter; 2],
    compared_rows: Counter,
    compared_stretches: Counter,
    /// Replicated, rewritten.
    repaired_rows: [Counter; 2],
    repaired_bytes: Counter,
    repaired_flushes: Counter,
    journal_keys: Counter,
    collected: Counter,
}

impl Default for Instruments {
    fn default() -> Self {
        let outcomes = |kind: Kind| OUTCOMES.map(|outcome| m::HEALING_TASKS.counter(&[kind.name(), outcome]));
        Self {
            tasks: Kind::ALL.map(outcomes),
            backlog: Kind::ALL.map(|kind| m::HEALING_BACKLOG.gauge(&[kind.name()])),
            under_way: m::HEALING_UNDER_WAY.gauge(&[]),
            oldest_compare: m::HEALING_OLDEST_COMPARE.gauge(&[]),
            copied_rows: ["sent", "kept", "evicted"].map(|result| m::COPIED_ROWS.counter(&[result])),
            copied_bytes: m::COPIED_BYTES.counter(&[]),
            compared: ["equal", "repaired"].map(|result| m::COMPARED_PARTITIONS.counter(&[result])),
            compared_rows: m::COMPARED_ROWS.counter(&[]),
            compared_stretches: m::COMPARED_STRETCHES.counter(&[]),
            repaired_rows: ["replicated", "rewritten"].map(|result| m::REPAIRED_ROWS.counter(&[result])),
            repaired_bytes: m::REPAIRED_BYTES.counter(&[]),
            repaired_flushes: m::REPAIRED_FLUSHES.counter(&[]),
            journal_keys: m::JOURNAL_KEYS.counter(&[]),
            collected: m::COLLECTED_TOMBSTONES.counter(&[]),
        }
    }
}

impl Instruments {
    pub fn ended(&self, kind: Kind, how: Ended) {
        let outcome = match how {
            Ended::Done => 0,
            Ended::Failed => 1,
            Ended::Obsolete => 2,
        };
        self.tasks[kind as usize][outcome].increment(1);
    }

    pub fn backlog(&self, backlog: &Backlog) {
        for kind in Kind::ALL {
            self.backlog[kind as usize].set(backlog.of(kind) as f64);
        }
        self.under_way.set(backlog.under_way as f64);
        self.oldest_compare.set(backlog.oldest_compare.unwrap_or_default().as_secs_f64());
    }

    /// A copy has come from `before` to `now`: its progress is shown while it goes on.
    pub fn copied(&self, before: &Copied, now: &Copied) {
        let counts = |copied: &Copied| [copied.rows, copied.kept, copied.evicted];
        for ((counter, before), now) in self.copied_rows.iter().zip(counts(before)).zip(counts(now)) {
            counter.increment(now.saturating_sub(before));
        }
        self.copied_bytes.increment(now.bytes.saturating_sub(before.bytes));
    }

    /// A comparison of one whole partition has ended without an error.
    pub fn compared(&self, compared: &Compared) {
        self.compared[usize::from(!compared.was_equal())].increment(1);
        self.repaired(compared);
    }

    /// A comparison has ended, with an error or of some keys only.
    pub fn repaired(&self, compared: &Compared) {
        self.compared_rows.increment(compared.rows);
        self.compared_stretches.increment(compared.stretches_read);
        self.repaired_rows[0].increment(compared.replicated);
        self.repaired_rows[1].increment(compared.rewritten);
        self.repaired_bytes.increment(compared.bytes);
        self.repaired_flushes.increment(compared.flushes);
    }

    pub fn delta(&self, delta: &Delta) {
        self.journal_keys.increment(delta.keys);
        self.repaired(&delta.compared);
    }

    pub fn collected(&self, collected: &Collected) {
        self.collected.increment(collected.collected);
    }
}
