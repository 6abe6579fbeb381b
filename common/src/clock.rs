//! Vector clocks: which versions a version has seen.
//!
//! Incarnation id → counter (Fidge 1988, Mattern 1989; dots as in Preguiça et al., "Dotted Version Vectors"). A put's
//! dot is (owner's incarnation, seq) and its clock is the partition's context joined with that dot. Among chosen
//! versions of a key, clock order equals ballot order.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::Incarnation;

/// The most entries a clock from outside may hold; a partition gains one per frontend life and old ones are pruned.
pub const CLOCK_ENTRIES_MAX: usize = 1_024;

/// A clock: entries sorted by incarnation, counters above zero.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct VectorClock(SmallVec<[(Incarnation, u64); 2]>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    #[error("clock entries must be sorted by incarnation, each once, with counters above zero")]
    Malformed,
    #[error("clock of {len} entries is larger than {CLOCK_ENTRIES_MAX}")]
    TooLarge { len: usize },
}

impl VectorClock {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes entries from outside: checks order, duplicates, zeros and number.
    pub fn from_entries(
        entries: impl ExactSizeIterator<Item = (Incarnation, u64)>,
    ) -> Result<Self, ClockError> {
        if entries.len() > CLOCK_ENTRIES_MAX {
            return Err(ClockError::TooLarge { len: entries.len() });
        }
        let entries: SmallVec<_> = entries.collect();
        let sorted = entries.is_sorted_by(|a: &(Incarnation, u64), b| a.0 < b.0);
        if !sorted || entries.iter().any(|e| e.1 == 0) {
            return Err(ClockError::Malformed);
        }
        Ok(Self(entries))
    }

    pub fn entries(&self) -> &[(Incarnation, u64)] {
        &self.0
    }

    pub fn get(&self, incarnation: Incarnation) -> u64 {
        self.0.binary_search_by_key(&incarnation, |e| e.0).map_or(0, |i| self.0[i].1)
    }

    /// Raises one entry to at least `counter`.
    pub fn observe(&mut self, incarnation: Incarnation, counter: u64) {
        if counter == 0 {
            return;
        }
        match self.0.binary_search_by_key(&incarnation, |e| e.0) {
            Ok(i) => self.0[i].1 = self.0[i].1.max(counter),
            Err(i) => self.0.insert(i, (incarnation, counter)),
        }
    }

    /// The least clock that has seen all that either has seen.
    pub fn join(&mut self, other: &Self) {
        for (incarnation, counter) in &other.0 {
            self.observe(*incarnation, *counter);
        }
    }

    /// This clock joined with one dot: the clock of the put that the dot names.
    #[must_use]
    pub fn with_dot(&self, incarnation: Incarnation, counter: u64) -> Self {
        let mut clock = self.clone();
        clock.observe(incarnation, counter);
        clock
    }

    /// Whether this clock has seen all that `other` has.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(incarnation, counter)| self.get(*incarnation) >= *counter)
    }
}

/// `Some(Less)` is "older", `Some(Greater)` is "newer", `None` is "concurrent".
impl PartialOrd for VectorClock {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.covers(other), other.covers(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }
}
