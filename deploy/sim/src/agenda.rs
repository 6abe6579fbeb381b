//! What is to happen, in the order of simulated time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Microseconds since the start of the schedule.
pub type Time = u64;

pub const MILLISECOND: Time = 1_000;
pub const SECOND: Time = 1_000 * MILLISECOND;

/// Of events at the same time the one that was planned first comes first.
pub struct Agenda<E> {
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    /// Large events stay where they are while the heap moves.
    events: Vec<Option<E>>,
    free: Vec<usize>,
    planned: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), planned: 0 }
    }
}

impl<E> Agenda<E> {
    pub fn plan(&mut self, at: Time, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.planned += 1;
        self.order.push(Reverse((at, self.planned, place)));
    }

    pub fn take_next(&mut self) -> Option<(Time, E)> {
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        Some((at, self.events[place].take()?))
    }

    pub fn next_time(&self) -> Option<Time> {
        self.order.peek().map(|Reverse((at, ..))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_and_then_of_planning() {
        let mut agenda = Agenda::default();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            agenda.plan(at, event);
        }
        assert_eq!(agenda.take_next(), Some((1, 'a')));
        agenda.plan(5, 'e');
        let rest: String = std::iter::from_fn(|| agenda.take_next().map(|(_, event)| event)).collect();
        assert_eq!(rest, "bcde");
    }
}
