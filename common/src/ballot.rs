//! Ballots: the total order in which versions of a key are decided.
//!
//! A ballot is `(epoch, term, seq)` and holds no clock time (design: CASPaxos, Rystsov, arXiv 1802.07000, with the
//! promise held per partition). `epoch` belongs to the partition and grows when its replicas change; `term` is a
//! frontend's claim to own the partition; `seq` counts that owner's puts and never restarts within an incarnation.

use std::fmt;

/// A partition's configuration number. A new epoch voids terms and owner state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Epoch(pub u64);

/// One life of one frontend process, drawn at random (63 bits, so that it fits a PostgreSQL `bigint`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Incarnation(pub u64);

/// A claim to own a partition, ordered by `n`, then by incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Term {
    pub n: u64,
    pub incarnation: Incarnation,
}

/// What a replica promises per partition: to refuse every put and prepare below it. Compared whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Promise {
    pub epoch: Epoch,
    pub term: Term,
}

impl Promise {
    pub const ZERO: Self = Self { epoch: Epoch(0), term: Term { n: 0, incarnation: Incarnation(0) } };

    pub const fn ballot(self, seq: u64) -> Ballot {
        Ballot { epoch: self.epoch, term: self.term, seq }
    }
}

/// The name and the rank of one put.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Ballot {
    pub epoch: Epoch,
    pub term: Term,
    pub seq: u64,
}

impl Ballot {
    /// Below every ballot that was ever issued: the ballot of a key that a replica knows nothing of.
    pub const ZERO: Self = Promise::ZERO.ballot(0);

    pub const fn promise(self) -> Promise {
        Promise { epoch: self.epoch, term: self.term }
    }
}

/// `epoch.n.incarnation.seq`, for logs and status.
impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:x}.{}", self.epoch.0, self.term.n, self.term.incarnation.0, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(epoch: u64, n: u64, incarnation: u64, seq: u64) -> Ballot {
        Promise { epoch: Epoch(epoch), term: Term { n, incarnation: Incarnation(incarnation) } }.ballot(seq)
    }

    #[test]
    fn order_is_epoch_then_n_then_incarnation_then_seq() {
        let ascending = [
            Ballot::ZERO,
            ballot(1, 1, 1, 9),
            ballot(1, 1, 2, 1),
            ballot(1, 2, 1, 0),
            ballot(2, 0, 0, 0),
            ballot(2, 0, 0, 1),
        ];
        assert!(ascending.is_sorted_by(|a, b| a < b));
    }
}
