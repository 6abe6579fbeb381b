//! What a key does, one operation at a time: the model against which histories are judged.
//!
//! Every operation but SET and FLUSH answers what it saw, which is more than its Redis command tells and leaves the
//! search less to guess. Values are numbers, so that INCR and APPEND (of a digit) always succeed, and SETs write numbers
//! that nothing else makes.

use tercet_check::{Model, Span};

use crate::agenda::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Get,
    /// `expires_at`: by the clock of the frontend that took the command.
    Set {
        value: u128,
        expires_at: Option<Time>,
    },
    SetNx {
        value: u128,
    },
    Append {
        digit: u8,
    },
    Incr,
    Del,
    Expire {
        at: Time,
    },
    /// Of all keys of the partition.
    Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// What was there before.
    Saw(Option<u128>),
}

impl Command {
    pub(crate) fn is_blind(self) -> bool {
        matches!(self, Self::Set { .. } | Self::Flush)
    }

    /// What it makes of a live value: the new one, and whether that keeps the old one's end. `Err`: it changes nothing.
    pub(crate) fn apply(self, before: Option<u128>) -> Result<Option<u128>, Unchanged> {
        match (self, before) {
            (Self::Get, _) | (Self::SetNx { .. }, Some(_)) | (Self::Del | Self::Expire { .. }, None) => {
                Err(Unchanged)
            }
            (Self::Set { value, .. } | Self::SetNx { value }, _) => Ok(Some(value)),
            (Self::Append { digit }, _) => Ok(Some(before.unwrap_or(0) * 10 + u128::from(digit))),
            (Self::Incr, _) => Ok(Some(before.unwrap_or(0) + 1)),
            (Self::Del | Self::Flush, _) => Ok(None),
            (Self::Expire { .. }, Some(value)) => Ok(Some(value)),
        }
    }

    /// When what it makes ends, given when the value before ended.
    pub(crate) fn expiry(self, before: Option<Time>) -> Option<Time> {
        match self {
            Self::Set { expires_at, .. } => expires_at,
            Self::Expire { at } => Some(at),
            _ => before,
        }
    }
}

/// An operation that leaves the key as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unchanged;

/// A key under frontends whose clocks differ by up to `skew`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register {
    pub skew: Time,
}

/// The value, and when it ends.
pub(crate) type State = Option<(u128, Option<Time>)>;

impl Model for Register {
    type Command = Command;
    type Answer = Answer;
    type State = State;

    fn initial(&self) -> State {
        None
    }

    fn interchangeable(&self, one: &Command, other: &Command) -> bool {
        one == other
    }

    fn step(&self, state: &State, command: &Command, answer: Option<&Answer>, span: Span) -> Vec<State> {
        let end = state.and_then(|(_, end)| end);
        let can_live = end.is_none_or(|end| span.called <= end.saturating_add(self.skew));
        let can_be_gone = end.is_some_and(|end| span.returned >= end.saturating_sub(self.skew));
        let befores = [can_live.then_some(*state), can_be_gone.then_some(None)];
        let mut afters = Vec::with_capacity(1);
        for before in befores.into_iter().flatten() {
            let value = before.map(|(value, _)| value);
            if matches!(answer, Some(Answer::Saw(saw)) if *saw != value) {
                continue;
            }
            afters.push(match command.apply(value) {
                Err(Unchanged) => before,
                Ok(after) => after.map(|value| (value, command.expiry(before.and_then(|(_, end)| end)))),
            });
        }
        afters
    }
}

#[cfg(test)]
mod tests {
    use tercet_check::{Operation, check};

    use super::*;

    fn fits(history: &[(Command, Answer, Time)]) -> bool {
        let operation = |(command, answer, at): &(Command, Answer, Time)| {
            Operation::answered(*command, *at, *answer, at + 1)
        };
        let history: Vec<_> = history.iter().map(operation).collect();
        check(&Register { skew: 10 }, &history, 10_000).is_linearizable()
    }

    fn set(value: u128, expires_at: Option<Time>) -> Command {
        Command::Set { value, expires_at }
    }

    #[test]
    fn commands_in_order() {
        let saw = |value| Answer::Saw(Some(value));
        assert!(fits(&[
            (Command::Incr, Answer::Saw(None), 0),
            (Command::Append { digit: 7 }, saw(1), 10),
            (Command::SetNx { value: 5 }, saw(17), 20),
            (Command::Del, saw(17), 30),
            (Command::SetNx { value: 5 }, Answer::Saw(None), 40),
            (set(9, None), Answer::Done, 50),
            (Command::Get, saw(9), 60),
            (Command::Flush, Answer::Done, 70),
            (Command::Get, Answer::Saw(None), 80),
        ]));
        assert!(!fits(&[(Command::Incr, Answer::Saw(None), 0), (Command::Get, saw(2), 10)]));
        assert!(!fits(&[(Command::Flush, Answer::Done, 0), (Command::Del, saw(2), 10)]));
    }

    #[test]
    fn a_value_ends_at_its_time_give_or_take_the_clocks_and_stays_gone() {
        let put = (set(1, Some(100)), Answer::Done, 0);
        let sees = |at| (Command::Get, Answer::Saw(Some(1)), at);
        let gone = |at| (Command::Get, Answer::Saw(None), at);
        assert!(fits(&[put, sees(50), sees(110), gone(111)]));
        assert!(fits(&[put, gone(90)]));
        assert!(!fits(&[put, gone(80)]));
        assert!(!fits(&[put, sees(111)]));
        assert!(!fits(&[put, gone(95), sees(97)]));
        assert!(fits(&[put, (Command::Incr, Answer::Saw(Some(1)), 50), gone(120)]), "INCR keeps the end");
    }
}
