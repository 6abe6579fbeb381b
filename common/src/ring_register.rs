//! How the ring configuration is decided: a register of consensus, kept by the workers themselves. This is the worker's
//! part, the acceptor; the frontend's is in [`crate::ring_proposer`].
//!
//! Configurations form a chain: number 1 is the bootstrap, each later one is decided by the voters of the one before
//! **and** its own, a majority of each. Deciding one number is Paxos (Lamport, "Paxos Made Simple", 2001) among the
//! voters of the configuration before. What was decided is then announced to its own members; once a majority of its
//! voters knows it, it is in force, and they alone decide what follows. Who votes is a function of the configuration,
//! [`RingConfig::voters`]: not every member does.
//!
//! ```text
//! frontend             w1                  w2                  w3 (no answer)
//!  prepare(t5) ──────▶ promised t5         promised t5
//!              ◀────── knows #7            knows #7, vote t4 #8    → someone began #8: it has to be completed
//!  accept(t5, #8) ───▶ vote t5 #8          vote t5 #8              → #8 is decided
//!  known(#8) ────────▶ knows #8            knows #8                → #8 is in force
//! ```
//!
//! A worker votes only for the number behind the one that it knows to be decided, so two facts are all that it keeps:
//! the newest configuration that was decided, and its vote for the next. A vote is not a decision: only what is known to
//! be decided says which partitions the worker is a replica of.
//!
//! Whoever asks a majority of an outdated set of voters finds a vote for a later number or the number itself, and
//! goes on from there. Terms are not those of partitions: this register has its own, and a promise covers all numbers.

use std::sync::Arc;

use crate::mutants::{self, Mutant};
use crate::{Epoch, RingConfig, Term};

/// What a worker keeps of the register. Durable before any answer; and the answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegisterState {
    /// Lower terms are refused.
    pub promised: Term,
    /// The newest configuration that is known to be decided.
    pub decided: Option<Arc<RingConfig>>,
    /// For the number behind it.
    pub vote: Option<Vote>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vote {
    pub term: Term,
    pub config: Arc<RingConfig>,
}

/// One step that a frontend asks of a worker. The default only reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ask {
    /// Promise to refuse lower terms.
    pub term: Term,
    /// This was decided. True whatever the term.
    pub known: Option<Arc<RingConfig>>,
    /// Vote for it in `term`.
    pub accept: Option<Arc<RingConfig>>,
}

/// The number of a configuration that may not exist: 0 before the first.
pub fn number(config: Option<&Arc<RingConfig>>) -> Epoch {
    config.map_or(Epoch(0), |config| config.epoch)
}

impl RegisterState {
    /// Takes a step. `Some` is the new state, to be kept before it is answered; `None`: nothing changes. Either way the
    /// state that is then kept is the answer, and tells whether the step was refused: for a promise above the term, or
    /// for a number that is not the next.
    #[must_use]
    pub fn step(&self, ask: &Ask) -> Option<Self> {
        let mut next = self.clone();
        if let Some(known) = ask.known.as_ref().filter(|known| known.epoch > self.number()) {
            next.decided = Some(known.clone());
            next.vote = next.vote.filter(|vote| vote.config.epoch > known.epoch);
        }
        if ask.term >= next.promised || mutants::on(Mutant::VoteBelowPromise) {
            next.promised = next.promised.max(ask.term);
            let out_of_turn = mutants::on(Mutant::VoteOutOfTurn);
            let is_next = |config: &&Arc<RingConfig>| config.epoch.0 == next.number().0 + 1 || out_of_turn;
            if let Some(config) = ask.accept.as_ref().filter(is_next) {
                next.vote = Some(Vote { term: ask.term, config: config.clone() });
            }
        }
        (next != *self).then_some(next)
    }

    /// The number of the configuration that is known to be decided; 0 before the first.
    pub fn number(&self) -> Epoch {
        number(self.decided.as_ref())
    }

    /// The vote, if it is for the number `epoch`.
    pub fn vote_for(&self, epoch: Epoch) -> Option<&Vote> {
        self.vote.as_ref().filter(|vote| vote.config.epoch == epoch)
    }

    /// Whether this answer was given before `other`, by the same worker: every part only grows.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        let vote = |state: &Self| state.vote.as_ref().map_or(Term::default(), |vote| vote.term);
        let same = self.promised == other.promised && self.number() == other.number();
        self.promised < other.promised || self.number() < other.number() || (same && vote(self) < vote(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, Member, REPLICAS, WorkerId};

    fn term(n: u64) -> Term {
        Term { n, incarnation: Incarnation(1) }
    }

    fn config(epoch: u64) -> Arc<RingConfig> {
        let members = ["w1", "w2", "w3"].map(|id| Member::named(WorkerId::new(id).unwrap(), 16, ""));
        Arc::new(RingConfig::new("c", Epoch(epoch), REPLICAS, members.to_vec()).unwrap())
    }

    fn prepare(n: u64) -> Ask {
        Ask { term: term(n), ..Ask::default() }
    }

    fn accept(n: u64, epoch: u64) -> Ask {
        Ask { term: term(n), accept: Some(config(epoch)), known: None }
    }

    fn known(epoch: u64) -> Ask {
        Ask { known: Some(config(epoch)), ..Ask::default() }
    }

    #[test]
    fn a_promise_refuses_lower_terms_and_the_vote_stays() {
        let state = RegisterState::default().step(&prepare(2)).unwrap();
        assert_eq!(state.step(&accept(1, 1)), None);
        let state = state.step(&accept(2, 1)).unwrap();
        assert_eq!(state.vote_for(Epoch(1)).unwrap().term, term(2));
        assert_eq!(state.step(&accept(2, 1)), None, "nothing to keep twice");
        let promised = state.step(&prepare(3)).unwrap();
        assert_eq!((promised.promised, promised.vote.clone()), (term(3), state.vote));
        assert_eq!(promised.step(&accept(2, 1)), None);
    }

    #[test]
    fn a_vote_is_for_the_number_behind_the_one_that_is_known() {
        let state = RegisterState::default();
        assert_eq!(state.step(&accept(1, 2)).unwrap().vote, None, "a promise, and no vote");
        let state = state.step(&known(4)).unwrap();
        for other in [3, 4, 6] {
            assert_eq!(state.step(&accept(1, other)).unwrap().vote, None);
        }
        let state = state.step(&Ask { known: Some(config(6)), ..accept(1, 7) }).unwrap();
        assert_eq!((state.number(), state.vote_for(Epoch(7)).is_some()), (Epoch(6), true));
    }

    #[test]
    fn what_was_decided_is_true_in_any_term_and_ends_the_vote() {
        let state = RegisterState::default().step(&accept(9, 1)).unwrap();
        let state = state.step(&known(1)).unwrap();
        assert_eq!((state.promised, state.number(), state.vote.clone()), (term(9), Epoch(1), None));
        assert_eq!(state.step(&known(1)), None);
        let state = state.step(&known(3)).unwrap();
        assert_eq!(state.step(&known(2)), None, "an earlier number never replaces a later one");
    }

    #[test]
    fn a_read_changes_nothing() {
        assert_eq!(RegisterState::default().step(&Ask::default()), None);
    }

    #[test]
    fn every_broken_rule_is_noticed() {
        let noticed_by: [(Mutant, fn()); 2] = [
            (Mutant::VoteBelowPromise, a_promise_refuses_lower_terms_and_the_vote_stays),
            (Mutant::VoteOutOfTurn, a_vote_is_for_the_number_behind_the_one_that_is_known),
        ];
        for (mutant, test) in noticed_by {
            assert!(mutants::fails_without(mutant, test), "{mutant:?} goes unnoticed");
        }
    }
}
