//! Who holds a partition, and who of them makes a quorum. All counting of replicas in the core goes through here.

use smallvec::SmallVec;
use tercet_common::quorum::{QuorumTracker, majority};
use tercet_common::{Epoch, PartitionId};

use super::super::api::OpError;
use super::{Core, WorkerIx};

/// Replicas in preference order.
pub type Replicas = SmallVec<[WorkerIx; 3]>;

/// A partition's replicas in one epoch of it. While they change the epoch is joint: a quorum is then a majority of
/// `replicas` and a majority of `next` (design 6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    pub epoch: Epoch,
    pub replicas: Replicas,
    pub next: Option<Replicas>,
}

impl Group {
    pub fn stable(epoch: Epoch, replicas: impl IntoIterator<Item = WorkerIx>) -> Self {
        Self { epoch, replicas: replicas.into_iter().collect(), next: None }
    }

    pub fn is_joint(&self) -> bool {
        self.next.is_some()
    }

    fn sets(&self) -> impl Iterator<Item = &Replicas> {
        std::iter::once(&self.replicas).chain(&self.next)
    }

    pub fn contains(&self, worker: WorkerIx) -> bool {
        self.sets().any(|set| set.contains(&worker))
    }

    /// Whether the worker is a replica after the change, too.
    pub fn stays(&self, worker: WorkerIx) -> bool {
        self.next.as_ref().unwrap_or(&self.replicas).contains(&worker)
    }

    /// All replicas, each once, in the order in which they are best asked: members of both sets, then those that leave,
    /// and last the newcomers, who may have little to say while they copy.
    pub fn everyone(&self) -> Replicas {
        let Some(next) = &self.next else { return self.replicas.clone() };
        let both = next.iter().filter(|w| self.replicas.contains(w));
        let leaving = self.replicas.iter().filter(|w| !next.contains(w));
        let coming = next.iter().filter(|w| !self.replicas.contains(w));
        both.chain(leaving).chain(coming).copied().collect()
    }

    pub fn is_quorum(&self, of: impl Fn(WorkerIx) -> bool) -> bool {
        self.sets().all(|set| set.iter().filter(|w| of(**w)).count() >= majority(set.len()))
    }

    /// As few replicas as make a quorum, of those that can be asked; all of these if there is none.
    pub fn smallest_quorum(&self, can_be_asked: impl Fn(WorkerIx) -> bool) -> Replicas {
        let mut picked = Replicas::new();
        for worker in self.everyone().into_iter().filter(|w| can_be_asked(*w)) {
            let lacks = |set: &Replicas| {
                set.contains(&worker)
                    && set.iter().filter(|w| picked.contains(w)).count() < majority(set.len())
            };
            if self.sets().any(lacks) {
                picked.push(worker);
            }
        }
        picked
    }

    pub fn tracker(&self) -> QuorumTracker {
        match &self.next {
            None => QuorumTracker::new(&self.replicas),
            Some(next) => QuorumTracker::joint(&self.replicas, next),
        }
    }
}

impl Core {
    /// The partition's replicas, old and new; empty for a partition that is not this core's.
    pub(super) fn replicas(&self, id: PartitionId) -> Replicas {
        self.partition(id).map(|p| p.group.everyone()).unwrap_or_default()
    }

    /// As few replicas as make a quorum, of those in reach.
    pub(super) fn quorum_in_reach(&self, id: PartitionId) -> Replicas {
        let pick = |group: &Group| group.smallest_quorum(|w| self.is_available(w));
        self.partition(id).map(|p| pick(&p.group)).unwrap_or_default()
    }

    /// Whether a quorum is in reach.
    pub(super) fn is_reachable(&self, id: PartitionId) -> bool {
        self.is_quorum(id, |w| self.is_available(w))
    }

    pub(super) fn is_quorum(&self, id: PartitionId, of: impl Fn(WorkerIx) -> bool) -> bool {
        self.partition(id).is_some_and(|p| p.group.is_quorum(of))
    }

    pub(super) fn no_quorum(&self, id: PartitionId) -> OpError {
        let Some(partition) = self.partition(id) else {
            return OpError::NoQuorum { needed: 1, available: 0 };
        };
        let mut tracker = partition.group.tracker();
        partition
            .group
            .everyone()
            .into_iter()
            .filter(|w| !self.is_available(*w))
            .for_each(|w| tracker.fail(w));
        OpError::NoQuorum { needed: tracker.needed(), available: tracker.available() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint(old: &[WorkerIx], new: &[WorkerIx]) -> Group {
        Group { next: Some(new.iter().copied().collect()), ..Group::stable(Epoch(2), old.iter().copied()) }
    }

    #[test]
    fn members_of_both_sets_are_asked_first_and_newcomers_last() {
        assert_eq!(joint(&[1, 2, 3], &[4, 3, 2]).everyone().as_slice(), [3, 2, 1, 4]);
        assert_eq!(Group::stable(Epoch(1), [3, 1, 2]).everyone().as_slice(), [3, 1, 2]);
    }

    /// Old replicas, new replicas, those out of reach, those picked.
    type Picked = (&'static [WorkerIx], &'static [WorkerIx], &'static [WorkerIx], &'static [WorkerIx]);

    #[test]
    fn the_smallest_quorum_has_a_majority_of_both_sets() {
        let cases: [Picked; 5] = [
            (&[1, 2, 3], &[2, 3, 4], &[], &[2, 3]),
            (&[1, 2, 3], &[2, 3, 4], &[3], &[2, 1, 4]),
            (&[1, 2, 3], &[3, 4, 5], &[], &[3, 1, 4]),
            (&[1, 2, 3], &[4, 5, 6], &[1], &[2, 3, 4, 5]),
            (&[1, 2, 3], &[2, 3, 4], &[2, 3], &[1, 4]),
        ];
        for (old, new, down, picked) in cases {
            let group = joint(old, new);
            let found = group.smallest_quorum(|w| !down.contains(&w));
            assert_eq!(found.as_slice(), picked);
            assert_eq!(group.is_quorum(|w| found.contains(&w)), picked != [1, 4]);
        }
    }

    #[test]
    fn no_replicas_are_no_quorum() {
        assert!(!Group::stable(Epoch(1), []).is_quorum(|_| true));
        assert!(!joint(&[1, 2, 3], &[]).is_quorum(|_| true));
    }
}
