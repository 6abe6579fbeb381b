//! What clients noted down.

/// How an operation ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    Answered {
        answer: A,
        /// When the answer was there; not before the call.
        at: u64,
    },
    /// The store promised that it has not taken effect and never will.
    NotApplied,
    /// It may have taken effect, or may yet.
    Uncertain,
}

/// One operation of one client. Times are of any one clock that all clients share, in any unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<C, A> {
    pub command: C,
    pub called: u64,
    pub outcome: Outcome<A>,
}

/// The time in which an operation took effect, if it did: not before `called`, not after `returned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub called: u64,
    /// `u64::MAX`: no answer, so at any time.
    pub returned: u64,
}

impl<C, A> Operation<C, A> {
    pub fn answered(command: C, called: u64, answer: A, at: u64) -> Self {
        Self { command, called, outcome: Outcome::Answered { answer, at } }
    }

    pub fn uncertain(command: C, called: u64) -> Self {
        Self { command, called, outcome: Outcome::Uncertain }
    }

    pub fn span(&self) -> Span {
        let returned = match self.outcome {
            Outcome::Answered { at, .. } => at,
            Outcome::NotApplied | Outcome::Uncertain => u64::MAX,
        };
        Span { called: self.called, returned }
    }

    pub fn answer(&self) -> Option<&A> {
        match &self.outcome {
            Outcome::Answered { answer, .. } => Some(answer),
            Outcome::NotApplied | Outcome::Uncertain => None,
        }
    }
}
