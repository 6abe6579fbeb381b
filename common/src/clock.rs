//! Vector clocks: which versions a version has seen.
//!
//! Incarnation id → counter (Fidge 1988, Mattern 1989; dots as in Preguiça et al., "Dotted Version Vectors"). A put's
//! dot is (owner's incarnation, seq), both of which its ballot names, and its clock is the partition's context joined
//! with that dot. Among chosen versions of a key, clock order equals ballot order.
//!
//! A partition gains an entry with each life of a frontend that writes to it, so entries have to go again. A clock
//! without an entry says nothing about that incarnation; it never says more than it did. So what is asked of a clock is
//! whether it has seen a *dot* ([`VectorClock::has_seen`]), which the lack of other entries does not disturb.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::{Ballot, Incarnation};

/// The most entries of a clock, here and on the wire. Owners prune long before ([`VectorClock::cut`]).
pub const CLOCK_ENTRIES_MAX: usize = 1_024;

/// A clock: entries sorted by incarnation, counters above zero, never more than [`CLOCK_ENTRIES_MAX`].
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

    /// Whether it has seen the version of this ballot, by its dot.
    pub fn has_seen(&self, ballot: Ballot) -> bool {
        ballot.seq > 0 && self.get(ballot.term.incarnation) >= ballot.seq
    }

    /// Raises one entry to at least `counter`. A full clock loses another entry for a new one.
    pub fn observe(&mut self, incarnation: Incarnation, counter: u64) {
        if counter == 0 {
            return;
        }
        match self.0.binary_search_by_key(&incarnation, |e| e.0) {
            Ok(i) => self.0[i].1 = self.0[i].1.max(counter),
            Err(i) => {
                self.0.insert(i, (incarnation, counter));
                self.cut(CLOCK_ENTRIES_MAX, incarnation);
            }
        }
    }

    /// Leaves at most `max` entries (one at least), that of `keep` among them. Incarnations are random numbers, so the
    /// lowest ones are a random choice, but the same one at everybody: what one clock lost, others lose too.
    pub fn cut(&mut self, max: usize, keep: Incarnation) {
        let mut over = self.0.len().saturating_sub(max.max(1));
        if over == 0 {
            return;
        }
        self.0.retain(|(incarnation, _)| {
            let goes = over > 0 && *incarnation != keep;
            over -= usize::from(goes);
            !goes
        });
    }

    /// The least clock that has seen all that either has seen, as long as that is not too many.
    pub fn join(&mut self, other: &Self) {
        for (incarnation, counter) in &other.0 {
            self.observe(*incarnation, *counter);
        }
    }

    /// As the vector of a replica, which is the clock of the `highest` version that it has stored; now it stores this one.
    ///
    /// That is enough to take over from: the owner who issued the highest had seen all that was chosen below it. And so
    /// the vector loses what owners prune, whatever comes late.
    pub fn follow(&mut self, highest: &mut Ballot, ballot: Ballot, clock: &Self) {
        match ballot.cmp(highest) {
            Ordering::Greater => {
                *highest = ballot;
                self.clone_from(clock);
            }
            Ordering::Equal => self.join(clock),
            Ordering::Less => {}
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few incarnations and small counters, so that clocks meet, cover each other and are concurrent, all of them often.
    fn clocks() -> impl Strategy<Value = VectorClock> {
        prop::collection::btree_map(0_u64..4, 1_u64..4, 0..4).prop_map(|entries| {
            VectorClock::from_entries(entries.into_iter().map(|(i, c)| (Incarnation(i), c))).unwrap()
        })
    }

    fn joined(a: &VectorClock, b: &VectorClock) -> VectorClock {
        let mut clock = a.clone();
        clock.join(b);
        clock
    }

    fn clock(entries: &[(u64, u64)]) -> Result<VectorClock, ClockError> {
        VectorClock::from_entries(entries.iter().map(|(i, c)| (Incarnation(*i), *c)))
    }

    proptest! {
        #[test]
        fn join_is_commutative_associative_and_idempotent(a in clocks(), b in clocks(), c in clocks()) {
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            prop_assert_eq!(joined(&a, &a), a);
        }

        #[test]
        fn join_is_the_least_clock_above_both(a in clocks(), b in clocks(), c in clocks()) {
            let join = joined(&a, &b);
            prop_assert!(join.covers(&a) && join.covers(&b));
            prop_assert!(!(c.covers(&a) && c.covers(&b)) || c.covers(&join));
        }

        #[test]
        fn covering_is_absorbing(a in clocks(), b in clocks()) {
            prop_assert_eq!(a.covers(&b), joined(&a, &b) == a);
        }

        #[test]
        fn order_is_partial(a in clocks(), b in clocks(), c in clocks()) {
            prop_assert_eq!(a == b, a <= b && b <= a, "antisymmetric");
            prop_assert!(!(a <= b && b <= c) || a <= c, "transitive");
            prop_assert_eq!(a.partial_cmp(&b), b.partial_cmp(&a).map(Ordering::reverse));
        }

        #[test]
        fn a_new_dot_makes_a_clock_strictly_newer(a in clocks(), incarnation in 0_u64..4, more in 1_u64..4) {
            let incarnation = Incarnation(incarnation);
            let counter = a.get(incarnation) + more;
            let next = a.with_dot(incarnation, counter);
            prop_assert!(next > a);
            prop_assert_eq!(next.get(incarnation), counter);
        }

        /// The form that is stored and sent: sorted, without zeros, so that equal clocks have equal bytes.
        #[test]
        fn every_clock_can_be_taken_from_its_entries(a in clocks(), b in clocks()) {
            let join = joined(&a, &b);
            prop_assert_eq!(VectorClock::from_entries(join.entries().iter().copied()), Ok(join));
        }
    }

    #[test]
    fn two_owners_of_one_base_are_concurrent() {
        let base = clock(&[(1, 5)]).unwrap();
        assert_eq!(base.with_dot(Incarnation(2), 1).partial_cmp(&base.with_dot(Incarnation(3), 1)), None);
    }

    #[test]
    fn a_dot_is_seen_whatever_else_the_clock_has_lost() {
        let term = crate::Term { n: 1, incarnation: Incarnation(3) };
        let ballot = |seq| crate::Promise { epoch: crate::Epoch(1), term }.ballot(seq);
        let mut seen = clock(&[(1, 9), (3, 5), (4, 2)]).unwrap();
        for _ in 0..2 {
            assert!(seen.has_seen(ballot(4)) && seen.has_seen(ballot(5)) && !seen.has_seen(ballot(6)));
            seen.cut(1, Incarnation(3));
        }
        assert_eq!(seen, clock(&[(3, 5)]).unwrap());
        assert!(!VectorClock::new().has_seen(Ballot::ZERO), "nobody issued it");
    }

    #[test]
    fn a_full_clock_takes_what_is_new() {
        let mut full =
            clock(&(1..=CLOCK_ENTRIES_MAX as u64).map(|i| (i * 2, 1)).collect::<Vec<_>>()).unwrap();
        for new in [1, 3, u64::MAX] {
            full.observe(Incarnation(new), 7);
            assert_eq!((full.entries().len(), full.get(Incarnation(new))), (CLOCK_ENTRIES_MAX, 7));
            assert!(full.entries().is_sorted_by(|a, b| a.0 < b.0));
        }
        full.join(&clock(&[(5, 1), (7, 1)]).unwrap());
        assert_eq!(full.entries().len(), CLOCK_ENTRIES_MAX);
    }

    #[test]
    fn malformed_entries_are_refused() {
        for entries in [&[(2, 1), (1, 1)][..], &[(1, 1), (1, 2)], &[(1, 0)]] {
            assert_eq!(clock(entries), Err(ClockError::Malformed), "{entries:?}");
        }
        let many: Vec<_> = (0..=CLOCK_ENTRIES_MAX as u64).map(|i| (i, 1)).collect();
        assert_eq!(clock(&many), Err(ClockError::TooLarge { len: many.len() }));
        assert!(clock(&many[1..]).is_ok());
    }
}
