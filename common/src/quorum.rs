//! Counting the answers of a partition's replicas.
//!
//! A quorum is a majority of one replica set; while a ring change is under way the epoch is *joint*, and a quorum is a
//! majority of the old set **and** a majority of the new one (as in Raft's joint consensus, Ongaro and Ousterhout 2014,
//! section 6). Any two quorums of one epoch share a replica, which is all that the register protocol asks for.
//!
//! ```text
//! stable  {1,2,3}             reached by {1,2}         unreachable once two have failed
//! joint   {1,2,3} + {2,3,4}   reached by {2,3}, not by {1,2}: the new set has only 2
//! ```

use smallvec::SmallVec;

use crate::ring::REPLICAS_MAX;

/// How many of `n` replicas make a quorum. The only place that knows.
pub const fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// One replica set and who of it has answered, as bits by position.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Set {
    members: SmallVec<[u16; REPLICAS_MAX]>,
    acked: u8,
    failed: u8,
}

const _: () = assert!(REPLICAS_MAX <= u8::BITS as usize, "one bit per replica");

impl Set {
    fn new(members: &[u16]) -> Self {
        assert!(members.len() <= REPLICAS_MAX, "a ring keeps at most {REPLICAS_MAX} replicas");
        let mut set = Self { members: SmallVec::new(), acked: 0, failed: 0 };
        for member in members {
            if !set.members.contains(member) {
                set.members.push(*member);
            }
        }
        set
    }

    fn bit(&self, member: u16) -> u8 {
        self.members.iter().position(|m| *m == member).map_or(0, |i| 1 << i)
    }

    fn ack(&mut self, member: u16) {
        let bit = self.bit(member);
        self.acked |= bit;
        self.failed &= !bit;
    }

    fn fail(&mut self, member: u16) {
        self.failed |= self.bit(member) & !self.acked;
    }

    fn needed(&self) -> usize {
        majority(self.members.len())
    }

    fn got(&self) -> usize {
        self.acked.count_ones() as usize
    }

    /// Replicas that have acknowledged or still may.
    fn available(&self) -> usize {
        self.members.len() - self.failed.count_ones() as usize
    }

    fn has_acked(&self, member: u16) -> bool {
        self.acked & self.bit(member) != 0
    }
}

/// Takes answers one by one and says whether the quorum is reached, or can no longer be. Answers may come in any
/// order and more than once; those of replicas that are no members are ignored. Does not allocate.
///
/// Replicas are named by numbers that the caller chooses, such as indexes into the ring's members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorumTracker {
    set: Set,
    /// The new replicas, in a joint epoch.
    new: Option<Set>,
}

impl QuorumTracker {
    /// # Panics
    /// When there are more than [`REPLICAS_MAX`] members, which no ring has.
    pub fn new(members: &[u16]) -> Self {
        Self { set: Set::new(members), new: None }
    }

    /// For a joint epoch: a majority of `old` and a majority of `new`.
    ///
    /// # Panics
    /// When a set has more than [`REPLICAS_MAX`] members, which no ring has.
    pub fn joint(old: &[u16], new: &[u16]) -> Self {
        Self { set: Set::new(old), new: Some(Set::new(new)) }
    }

    fn sets(&self) -> impl Iterator<Item = &Set> {
        std::iter::once(&self.set).chain(&self.new)
    }

    fn sets_mut(&mut self) -> impl Iterator<Item = &mut Set> {
        std::iter::once(&mut self.set).chain(&mut self.new)
    }

    /// The replica did it. Counts even after [`QuorumTracker::fail`]: a late answer is an answer.
    pub fn ack(&mut self, member: u16) {
        self.sets_mut().for_each(|set| set.ack(member));
    }

    /// The replica refused, or is given up on. Without effect after [`QuorumTracker::ack`].
    pub fn fail(&mut self, member: u16) {
        self.sets_mut().for_each(|set| set.fail(member));
    }

    /// A majority (of both sets) has acknowledged. Once true, it stays true.
    pub fn reached(&self) -> bool {
        self.sets().all(|set| set.got() >= set.needed())
    }

    /// Too many have failed for a quorum. Becomes false again only if one of the failed acknowledges after all.
    pub fn unreachable(&self) -> bool {
        self.sets().any(|set| set.available() < set.needed())
    }

    /// Every replica (of both sets) has acknowledged: the write level ALL.
    pub fn all_acked(&self) -> bool {
        self.sets().all(|set| set.got() == set.members.len())
    }

    /// No answer is outstanding.
    pub fn all_answered(&self) -> bool {
        self.sets().all(|set| (set.acked | set.failed).count_ones() as usize == set.members.len())
    }

    pub fn has_acked(&self, member: u16) -> bool {
        self.sets().any(|set| set.has_acked(member))
    }

    /// Who has acknowledged, each once.
    pub fn acked(&self) -> impl Iterator<Item = u16> + '_ {
        self.members().filter(|m| self.has_acked(*m))
    }

    /// All replicas, each once.
    pub fn members(&self) -> impl Iterator<Item = u16> + '_ {
        let new = self.new.iter().flat_map(|set| &set.members).filter(|m| !self.set.members.contains(m));
        self.set.members.iter().chain(new).copied()
    }

    /// The set that is in most trouble: the one that error texts speak of.
    fn worst(&self) -> &Set {
        let margin = |set: &Set| (set.available() as isize - set.needed() as isize, set.got());
        match &self.new {
            Some(new) if margin(new) < margin(&self.set) => new,
            _ => &self.set,
        }
    }

    /// Acknowledgements that a quorum demands; in a joint epoch those of the set that is further from it.
    pub fn needed(&self) -> usize {
        self.worst().needed()
    }

    /// Replicas that have acknowledged or still may, of the set that [`QuorumTracker::needed`] speaks of.
    pub fn available(&self) -> usize {
        self.worst().available()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    /// `+1` acknowledges, `-1` fails.
    fn play(tracker: &mut QuorumTracker, answers: &[i32]) -> String {
        let mut trace = String::new();
        for answer in answers {
            let member = answer.unsigned_abs() as u16;
            if *answer > 0 {
                tracker.ack(member)
            } else {
                tracker.fail(member)
            }
            write!(trace, "{answer:+}{} ", verdict(tracker)).unwrap();
        }
        trace
    }

    fn verdict(tracker: &QuorumTracker) -> &'static str {
        match (tracker.reached(), tracker.unreachable()) {
            (true, false) => "=reached",
            (false, true) => "=unreachable",
            (false, false) => "",
            (true, true) => "=BOTH",
        }
    }

    /// Every order in which three replicas can answer, and every mix of answers.
    #[test]
    fn outcomes_of_three_replicas() {
        let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
        let mut table = String::new();
        for order in orders {
            for signs in 0..8 {
                let answers: Vec<i32> = order
                    .iter()
                    .enumerate()
                    .map(|(i, m)| if signs >> i & 1 == 0 { *m } else { -m })
                    .collect();
                writeln!(table, "{}", play(&mut QuorumTracker::new(&[1, 2, 3]), &answers).trim_end())
                    .unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    /// What it shows, old replicas, new replicas, answers.
    type JointExample = (&'static str, &'static [u16], &'static [u16], &'static [i32]);

    #[test]
    fn outcomes_in_joint_epochs() {
        let examples: [JointExample; 8] = [
            ("the shared two are enough", &[1, 2, 3], &[2, 3, 4], &[2, 3]),
            ("a majority of old only is not", &[1, 2, 3], &[2, 3, 4], &[1, 2]),
            ("one more of new makes it", &[1, 2, 3], &[2, 3, 4], &[1, 2, 4]),
            ("a majority of new only is not", &[1, 2, 3], &[2, 3, 4], &[4, 3]),
            ("old lost two", &[1, 2, 3], &[2, 3, 4], &[-1, 4, -2]),
            ("the shared two failed", &[1, 2, 3], &[2, 3, 4], &[1, 4, -2, -3]),
            ("no one shared", &[1, 2, 3], &[4, 5, 6], &[1, 2, 4, -5, 6]),
            ("same sets", &[1, 2, 3], &[3, 2, 1], &[1, -2, 3]),
        ];
        let mut table = String::new();
        for (what, old, new, answers) in examples {
            let mut tracker = QuorumTracker::joint(old, new);
            let trace = play(&mut tracker, answers);
            let acked: Vec<_> = tracker.acked().collect();
            writeln!(
                table,
                "{what}: {old:?} + {new:?}: {trace}acked {acked:?} needed {} available {}",
                tracker.needed(),
                tracker.available()
            )
            .unwrap();
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!((1..=7).map(majority).collect::<Vec<_>>(), [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn no_replicas_are_no_quorum() {
        let tracker = QuorumTracker::new(&[]);
        assert!(!tracker.reached() && tracker.unreachable());
    }

    #[test]
    fn duplicates_and_strangers_do_not_count() {
        let mut tracker = QuorumTracker::new(&[1, 2, 3]);
        play(&mut tracker, &[1, 1, 9, 1, -9]);
        assert!(!tracker.reached() && !tracker.unreachable());
        assert_eq!(tracker.acked().collect::<Vec<_>>(), [1]);
        play(&mut tracker, &[-2, -2, -2]);
        assert!(!tracker.unreachable());
        assert!(!QuorumTracker::new(&[4, 4, 4]).all_acked());
    }

    #[test]
    fn a_late_acknowledgement_counts_and_a_late_failure_does_not() {
        let mut tracker = QuorumTracker::new(&[1, 2, 3]);
        play(&mut tracker, &[-1, -2]);
        assert!(tracker.unreachable());
        play(&mut tracker, &[1, 2]);
        assert!(tracker.reached() && !tracker.unreachable());
        play(&mut tracker, &[-1, -2, -3]);
        assert!(tracker.reached() && tracker.all_answered() && !tracker.all_acked());
    }

    proptest! {
        /// What the protocol rests on: two quorums of one (joint) epoch have a replica in common.
        #[test]
        fn quorums_of_one_epoch_intersect(
            old in prop::collection::btree_set(0_u16..9, 1..=5),
            new in prop::collection::btree_set(0_u16..9, 1..=5),
            a in prop::collection::vec(0_u16..9, 0..9),
            b in prop::collection::vec(0_u16..9, 0..9),
        ) {
            let (old, new): (Vec<_>, Vec<_>) = (old.into_iter().collect(), new.into_iter().collect());
            let mut trackers = [QuorumTracker::joint(&old, &new), QuorumTracker::joint(&old, &new)];
            a.iter().for_each(|m| trackers[0].ack(*m));
            b.iter().for_each(|m| trackers[1].ack(*m));
            if trackers.iter().all(QuorumTracker::reached) {
                for set in [&old, &new] {
                    prop_assert!(set.iter().any(|m| trackers.iter().all(|t| t.has_acked(*m))));
                }
            }
        }

        /// The order of answers does not change the verdict, unless a replica gave two different ones.
        #[test]
        fn order_does_not_matter(answers in Just(vec![1, -2, 3, 4, -5]).prop_shuffle()) {
            let mut tracker = QuorumTracker::joint(&[1, 2, 3], &[3, 4, 5]);
            play(&mut tracker, &answers);
            prop_assert!(tracker.reached() && tracker.all_answered());
        }
    }
}
