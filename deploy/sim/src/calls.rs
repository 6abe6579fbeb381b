//! What frontends ask of workers as a whole, and what workers say of themselves.

use std::sync::Arc;

use tercet_common::ring_proposer::Voter;
use tercet_common::ring_register::{Ask, RegisterState};
use tercet_common::sync::Witness;

use crate::network::Stream;

/// What a worker says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Beat {
    pub voter: Voter,
    pub generation: u64,
    /// What its journal came to when it opened, and what it has come to.
    pub opened_seq: u64,
    /// It beats to one frontend.
    pub has_one_frontend: bool,
    pub seq: u64,
}

impl Beat {
    /// The same start of the same worker.
    pub(crate) fn is_same_life(&self, other: &Self) -> bool {
        self.voter == other.voter && self.generation == other.generation
    }

    pub(crate) fn witness(&self) -> Witness {
        Witness {
            worker: self.voter.id.clone(),
            uuid: self.voter.uuid.clone(),
            boot_generation: self.generation,
            journal_seq: self.seq,
        }
    }
}

/// What a worker as a whole is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// A step of the register.
    Decide(Ask),
    /// What were you told of the others?
    Recall,
    /// Your data is older than what you once said: take another identity.
    Renew,
    /// So far have the others come.
    Remember(Vec<Witness>),
}

impl Call {
    pub(crate) const KINDS: usize = 4;

    pub(crate) fn kind(&self) -> usize {
        match self {
            Self::Decide(_) => 0,
            Self::Recall => 1,
            Self::Renew => 2,
            Self::Remember(_) => 3,
        }
    }
}

/// What it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    State(RegisterState),
    Memory(Vec<Witness>),
    Done,
}

/// A call on its way, with who made it and whom he takes the worker for.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    pub stream: Stream,
    pub nr: u64,
    pub who: Arc<Beat>,
    pub call: Call,
}
