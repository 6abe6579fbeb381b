//! How the ring configuration is decided: a register of consensus, kept by the workers themselves.
//!
//! Configurations form a chain: number 1 is the bootstrap, each later one is decided by the members of the one before
//! **and** its own, a majority of each. Deciding one number is Paxos (Lamport, "Paxos Made Simple", 2001) among the members of the
//! configuration before; that the next number's own majority holds it too hands the chain over to them. A worker
//! keeps only the highest configuration that it accepted, so whoever asks a majority of an outdated set of members sees
//! a later number and goes on there.
//!
//! ```text
//! frontend          w1                 w2                 w3 (no answer)
//!  prepare(t5) ───▶ promised t5        promised t5
//!             ◀──── holds #7 by t4     holds #7 by t4       → #7 is decided: a majority holds it under one term
//!  accept(t5, #8) ▶ holds #8 by t5     holds #8 by t5       → #8 is decided
//! ```
//!
//! Terms are not those of partitions: this register has its own. A promise covers all numbers.

use crate::{RingConfig, Term};

/// What a worker keeps of the register. Durable before any answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegisterState {
    /// Lower terms are refused.
    pub promised: Term,
    /// The term under which `held` was accepted.
    pub accepted: Term,
    pub held: Option<RingConfig>,
}

impl RegisterState {
    /// One step of a frontend: with `accept` to accept a configuration, else to promise. `Some` is the new state, to be
    /// kept before it is answered; `None`: nothing changes. Either way the state that is then kept is the answer:
    /// the step was refused if it has promised a term above `term`, or holds a later number than `accept`'s.
    #[must_use]
    pub fn step(&self, term: Term, accept: Option<&RingConfig>) -> Option<Self> {
        if term < self.promised {
            return None;
        }
        let Some(config) = accept else {
            return (term > self.promised).then(|| Self { promised: term, ..self.clone() });
        };
        if self.held.as_ref().is_some_and(|held| held.epoch > config.epoch) {
            return None;
        }
        let next = Self { promised: term, accepted: term, held: Some(config.clone()) };
        (next != *self).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Incarnation, Member, REPLICAS, WorkerId};

    fn term(n: u64) -> Term {
        Term { n, incarnation: Incarnation(1) }
    }

    fn config(epoch: u64) -> RingConfig {
        let members = ["w1", "w2", "w3"].map(|id| Member::named(WorkerId::new(id).unwrap(), 16, ""));
        RingConfig::new("c", Epoch(epoch), REPLICAS, members.to_vec()).unwrap()
    }

    #[test]
    fn a_promise_refuses_lower_terms_and_what_is_accepted_stays() {
        let state = RegisterState::default().step(term(2), None).unwrap();
        assert_eq!(state.step(term(1), Some(&config(1))), None);
        let state = state.step(term(2), Some(&config(1))).unwrap();
        assert_eq!((state.accepted, state.held.clone()), (term(2), Some(config(1))));
        let promised = state.step(term(3), None).unwrap();
        assert_eq!((promised.promised, promised.accepted), (term(3), term(2)));
        assert_eq!(promised.step(term(2), Some(&config(2))), None);
    }

    #[test]
    fn an_earlier_number_never_replaces_a_later_one() {
        let state = RegisterState::default().step(term(1), Some(&config(5))).unwrap();
        assert_eq!(state.step(term(9), Some(&config(4))), None);
        let again = state.step(term(9), Some(&config(5))).unwrap();
        assert_eq!((again.accepted, again.promised), (term(9), term(9)));
        assert_eq!(again.step(term(9), Some(&config(5))), None, "nothing to keep twice");
    }
}
