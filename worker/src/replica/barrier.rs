//! Which writes were accepted before a point in time, and whether they have all ended.
//!
//! A prepare is answered only once every write accepted before it has ended. Counting the writes under way is not
//! enough: under load the count never falls to zero. So they are counted in generations. A waiter closes the current
//! one; what is accepted later is counted in the next, and the waiter passes when all up to its own are empty:
//!
//! ```text
//! accepted:   a b │ c │ d e        two waiters, one behind b, one behind c
//! counts:      2    1    2         a ends, b ends: the first waiter passes, whatever c, d, e do
//! ```

use std::collections::VecDeque;

/// The generation in which a write was accepted. Handed back when the write ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Generation(u64);

/// What a waiter waits for: that every generation below it is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark(u64);

#[derive(Debug, Default)]
pub(super) struct Barrier {
    /// Number of the generation at the front of `counts`; all below are empty.
    first: u64,
    /// Writes under way per generation. The last one is open.
    counts: VecDeque<u32>,
}

impl Barrier {
    /// A write is accepted.
    pub(super) fn enter(&mut self) -> Generation {
        if self.counts.is_empty() {
            self.counts.push_back(0);
        }
        let last = self.counts.len() - 1;
        self.counts[last] += 1;
        Generation(self.first + last as u64)
    }

    /// A write has ended, whatever its outcome.
    pub(super) fn leave(&mut self, generation: Generation) {
        let index = (generation.0 - self.first) as usize;
        self.counts[index] -= 1;
        while self.counts.front() == Some(&0) {
            self.counts.pop_front();
            self.first += 1;
        }
    }

    /// Stands behind all that was accepted so far.
    pub(super) fn mark(&mut self) -> Mark {
        if self.counts.back().is_some_and(|open| *open > 0) {
            self.counts.push_back(0);
        }
        Mark(self.first + self.counts.len().saturating_sub(1) as u64)
    }

    /// Whether all that was accepted before the mark has ended.
    pub(super) fn passed(&self, mark: Mark) -> bool {
        self.first >= mark.0
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_barrier_is_passed_at_once() {
        let mut barrier = Barrier::default();
        let mark = barrier.mark();
        assert!(barrier.passed(mark));
        let write = barrier.enter();
        barrier.leave(write);
        let mark = barrier.mark();
        assert!(barrier.passed(mark) && barrier.is_idle());
    }

    #[test]
    fn a_mark_waits_for_earlier_writes_in_any_order_and_for_no_later_one() {
        let mut barrier = Barrier::default();
        let (a, b) = (barrier.enter(), barrier.enter());
        let first = barrier.mark();
        let c = barrier.enter();
        let second = barrier.mark();
        let again = barrier.mark();
        let late = barrier.enter();

        barrier.leave(c);
        barrier.leave(b);
        assert!(!barrier.passed(first) && !barrier.passed(second));
        barrier.leave(a);
        assert!(barrier.passed(first) && barrier.passed(second) && barrier.passed(again));
        assert!(!barrier.is_idle());
        barrier.leave(late);
        assert!(barrier.is_idle());
    }

    #[test]
    fn a_mark_taken_before_any_write_does_not_wait_for_one() {
        let mut barrier = Barrier::default();
        let mark = barrier.mark();
        let write = barrier.enter();
        assert!(barrier.passed(mark));
        barrier.leave(write);
    }
}
