//! Deadlines. Nearly all are calls with the standard timeout, which come in order: a queue serves them. A heap serves
//! the rest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tercet_common::PartitionId;

use super::arena::Id;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// The call has no answer yet.
    Call(Id),
    /// A read is to ask again or give up.
    Read(Id),
    /// A slot is to do so, in this round.
    Slot(Id, u32),
    /// A take-over or flush is to do so.
    Partition(PartitionId),
    /// A flush is to give up.
    Flush(PartitionId),
    /// A round of proofs is to end.
    Proof(Id),
    /// A hold is to end.
    Hold(PartitionId),
}

#[derive(Default)]
pub(super) struct Timers {
    calls: VecDeque<(Duration, Id)>,
    others: BinaryHeap<Reverse<(Duration, Timer)>>,
}

impl Timers {
    /// `in_order`: the call has the standard timeout, so it ends after all earlier ones that do.
    pub(super) fn set_call(&mut self, at: Duration, id: Id, in_order: bool) {
        if in_order && self.calls.back().is_none_or(|(last, _)| *last <= at) {
            self.calls.push_back((at, id));
        } else {
            self.set(at, Timer::Call(id));
        }
    }

    pub(super) fn set(&mut self, at: Duration, timer: Timer) {
        self.others.push(Reverse((at, timer)));
    }

    pub(super) fn next(&self) -> Option<Duration> {
        let call = self.calls.front().map(|(at, _)| *at);
        let other = self.others.peek().map(|Reverse((at, _))| *at);
        match (call, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Timer> {
        if self.calls.front().is_some_and(|(at, _)| *at <= now) {
            return self.calls.pop_front().map(|(_, id)| Timer::Call(id));
        }
        if self.others.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            return self.others.pop().map(|Reverse((_, timer))| timer);
        }
        None
    }
}
