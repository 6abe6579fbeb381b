//! Counters that many clients raise: too many operations for a search, but arithmetic will do.
//!
//! Every acknowledged INCR is in the final value, and nothing but INCRs that were acknowledged or uncertain: the value
//! is from *acknowledged* to *acknowledged + uncertain*. No two INCRs made the same number.

use std::collections::HashMap;

/// What all clients learnt of one counter that starts at 0 and only ever sees INCR and GET.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    /// How often each number was made; more than once is a fault.
    made: HashMap<i64, u64>,
    uncertain: u64,
}

/// How a counter contradicts its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CounterFault {
    MadeTwice { number: i64 },
    BelowAcknowledged { value: i64, acknowledged: i64 },
    AboveAllSent { value: i64, acknowledged: i64, uncertain: i64 },
}

impl std::fmt::Display for CounterFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MadeTwice { number } => write!(f, "two increments made {number}"),
            Self::BelowAcknowledged { value, acknowledged } => {
                write!(f, "the counter is {value} after {acknowledged} acknowledged increments")
            }
            Self::AboveAllSent { value, acknowledged, uncertain } => write!(
                f,
                "the counter is {value} after {acknowledged} acknowledged and {uncertain} uncertain increments"
            ),
        }
    }
}

impl Counter {
    pub fn acknowledge(&mut self, number: i64) {
        *self.made.entry(number).or_default() += 1;
    }

    pub fn leave_uncertain(&mut self) {
        self.uncertain += 1;
    }

    pub fn merge(&mut self, other: Self) {
        self.uncertain += other.uncertain;
        for (number, times) in other.made {
            *self.made.entry(number).or_default() += times;
        }
    }

    /// Holds the counter's final value (0 if it is absent) against what was learnt.
    pub fn faults(&self, value: i64) -> Vec<CounterFault> {
        let acknowledged = self.made.values().sum::<u64>().cast_signed();
        let uncertain = self.uncertain.cast_signed();
        let mut twice: Vec<i64> =
            self.made.iter().filter(|(_, times)| **times > 1).map(|(n, _)| *n).collect();
        twice.sort_unstable();
        let mut faults: Vec<_> = twice.into_iter().map(|number| CounterFault::MadeTwice { number }).collect();
        if value < acknowledged {
            faults.push(CounterFault::BelowAcknowledged { value, acknowledged });
        }
        if value > acknowledged + uncertain {
            faults.push(CounterFault::AboveAllSent { value, acknowledged, uncertain });
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(made: &[i64], uncertain: u64) -> Counter {
        let mut counter = Counter::default();
        made.iter().for_each(|&number| counter.acknowledge(number));
        (0..uncertain).for_each(|_| counter.leave_uncertain());
        counter
    }

    #[test]
    fn the_value_is_from_acknowledged_to_all_that_were_sent() {
        let counter = counter(&[1, 2, 4], 2);
        assert_eq!(counter.faults(2), [CounterFault::BelowAcknowledged { value: 2, acknowledged: 3 }]);
        for value in 3..=5 {
            assert_eq!(counter.faults(value), []);
        }
        assert_eq!(
            counter.faults(6),
            [CounterFault::AboveAllSent { value: 6, acknowledged: 3, uncertain: 2 }]
        );
    }

    #[test]
    fn a_number_is_made_once_whoever_made_it() {
        let mut one = counter(&[1, 2], 0);
        one.merge(counter(&[2], 0));
        assert_eq!(one.faults(3), [CounterFault::MadeTwice { number: 2 }]);
    }
}
