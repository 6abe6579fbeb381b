//! What must be so when all is quiet again.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use tercet_check::{Operation, Outcome, Verdict, check};
use tercet_common::{Content, Promise};
use tercet_frontend::coordinator::core::WorkerIx;
use tercet_worker::store::memory::Peeked;

use crate::agenda::MILLISECOND;
use crate::model::{Answer, Command, Register};
use crate::world::World;

/// Configurations that the search for an order may visit. Schedules are small enough that it never comes near.
const BUDGET: usize = 2_000_000;

impl World {
    /// Each key's replicas show the same: the same version, or all nothing.
    pub(crate) fn check_converged(&mut self) {
        let Some(configuration) = self.newest() else { return self.violate("the cluster has not formed") };
        for key in self.keys.clone() {
            let group = &configuration.groups[key.partition.index()];
            let peek =
                |worker: &WorkerIx| self.workers[usize::from(*worker)].disk.peek(key.partition, key.hash);
            let held: Vec<Peeked> = group.replicas.iter().map(peek).collect();
            // Of a tombstone or a flush, some may have collected it, or never heard of it.
            let live = |held: &Peeked| held.row.clone().filter(|row| row.content != Content::Tombstone);
            if held.windows(2).any(|pair| live(&pair[0]) != live(&pair[1])) {
                let name = String::from_utf8_lossy(key.key.as_bytes()).into_owned();
                return self.violate(format!("the replicas of {name} differ: {held:?}"));
            }
        }
    }

    /// Among chosen versions of a key, clock order equals ballot order: strictly, unless an owner between them has pruned, or a
    /// ring change lies between them, whose copy may have given a left-over of the older epoch to a majority after the owner
    /// had learnt what was chosen. Then at least the older one has not seen the newer.
    pub(crate) fn check_clocks(&mut self) {
        let mut versions = std::mem::take(&mut self.record.versions);
        versions.sort_by_key(|version| (version.key, version.ballot));
        for pair in versions.windows(2) {
            let [older, newer] = pair else { continue };
            let wanted = if older.ballot == newer.ballot { Ordering::Equal } else { Ordering::Less };
            let seen = older.clock.partial_cmp(&newer.clock) == Some(wanted);
            let pruned = || {
                let partition = self.keys[older.key].partition;
                // An owner keeps its own entry.
                let own = newer.clock.has_seen(older.ballot);
                let (from, to) = (older.ballot.promise(), newer.ballot.promise());
                let between = |by: &Promise| *by <= to && (*by > from || *by == from && own);
                self.record.pruned.iter().any(|(of, by)| *of == partition && between(by))
            };
            let excused = || {
                let moved = older.ballot.epoch < newer.ballot.epoch;
                !older.clock.has_seen(newer.ballot) && (moved || pruned())
            };
            if older.key == newer.key && !seen && !excused() {
                return self.violate(format!("clocks contradict ballots: {older:?} and {newer:?}"));
            }
        }
    }

    /// Some order of each key's operations explains all answers.
    pub(crate) fn check_histories(&mut self) {
        let model = Register { skew: self.plan.skew + MILLISECOND };
        for key in 0..self.keys.len() {
            let partition = self.keys[key].partition;
            let history = self.record.history(key, |other| self.keys[other].partition == partition);
            if self.is_counter(key) {
                self.check_counter(key, &history);
            }
            match check(&model, &history, BUDGET) {
                Verdict::Linearizable { .. } => {}
                Verdict::Violation { order, next } => {
                    let shown = show(&history, &order, &next);
                    self.violate(format!("no order explains what clients of key {key} saw\n{shown}"));
                }
                Verdict::Undecided { visited } => {
                    self.violate(format!("key {key} is undecided after {visited} configurations"));
                }
            }
        }
    }

    /// acked ≤ counter ≤ acked + uncertain, and no number is made twice.
    fn check_counter(&mut self, key: usize, history: &[Operation<Command, Answer>]) {
        let mut made: BTreeMap<u128, u32> = BTreeMap::new();
        let (mut uncertain, mut last) = (0, 0);
        for operation in history {
            match (&operation.command, &operation.outcome) {
                (Command::Incr, Outcome::Answered { answer: Answer::Saw(saw), .. }) => {
                    *made.entry(saw.unwrap_or(0) + 1).or_default() += 1;
                }
                (Command::Incr, Outcome::Uncertain) => uncertain += 1,
                // The last one is a read when all was quiet.
                (_, Outcome::Answered { answer: Answer::Saw(saw), .. }) => last = saw.unwrap_or(0),
                _ => {}
            }
        }
        let acknowledged = made.values().map(|n| u128::from(*n)).sum::<u128>();
        if made.values().any(|n| *n > 1) || last < acknowledged || last > acknowledged + uncertain {
            self.violate(format!(
                "counter {key} is {last} after {acknowledged} acknowledged and {uncertain} uncertain: {made:?}"
            ));
        }
    }
}

/// The history in the order of calls, with what the search made of it.
fn show(history: &[Operation<Command, Answer>], order: &[usize], next: &[usize]) -> String {
    let line = |(nth, operation): (usize, &Operation<Command, Answer>)| {
        let place = order.iter().position(|at| *at == nth).map(|place| format!("{:>3}.", place + 1));
        let place = place.unwrap_or_else(|| if next.contains(&nth) { "  ??".into() } else { "    ".into() });
        format!("{place} {:>9} {:?} {:?}", operation.called, operation.command, operation.outcome)
    };
    let mut indices: Vec<usize> = (0..history.len()).collect();
    indices.sort_by_key(|i| history[*i].called);
    indices.into_iter().map(|i| line((i, &history[i]))).collect::<Vec<_>>().join("\n")
}
