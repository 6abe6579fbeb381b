//! One key that holds a string or nothing, with expiry: the commands of Redis that the fault tests send.
//!
//! Times to live are in the unit of the history's clock. An expiry is judged by a clock that the checker does not see, the owner's; so it knows a
//! range: a time to live that was set between call and return ends between *call + ttl* and *return + ttl*, give or take
//! the [tolerance](StringModel::tolerance). An operation that can only fall before that range must see the value, one
//! that can only fall behind it must not, one within may do either; but what has been seen to be gone stays gone.

use std::sync::Arc;

use crate::history::Span;
use crate::search::Model;

/// A command on the key of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Get,
    /// SET, with PX if there is a time to live.
    Set {
        value: Vec<u8>,
        ttl: Option<u64>,
    },
    SetNx {
        value: Vec<u8>,
    },
    Append {
        tail: Vec<u8>,
    },
    Incr,
    Del,
    /// EXPIRE or PEXPIRE.
    Expire {
        ttl: u64,
    },
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// OK to SET.
    Done,
    /// The answer to GET.
    Value(Option<Vec<u8>>),
    /// The answer to INCR and APPEND, and 0 or 1 to SETNX, DEL and EXPIRE.
    Number(i64),
    /// INCR on a text, or on the highest number: an error that changes nothing.
    NotAnInteger,
}

/// The value of a key, if it has one.
pub type StringState = Option<Stored>;

/// A value and when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    value: Arc<[u8]>,
    expires: Option<Expiry>,
}

/// The range in which a value ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Expiry {
    earliest: u64,
    latest: u64,
}

/// The commands above on a key that starts absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct StringModel {
    /// How far the clock that judges expiry may be from the clients', and how exact both are.
    /// `u64::MAX` makes every expiry possible at any time after it was set.
    pub tolerance: u64,
}

impl Stored {
    fn new(value: &[u8]) -> Self {
        Self { value: value.into(), expires: None }
    }

    fn with_value(&self, value: &[u8]) -> Self {
        Self { value: value.into(), expires: self.expires }
    }

    fn can_live(&self, span: Span) -> bool {
        self.expires.is_none_or(|expiry| span.called <= expiry.latest)
    }

    fn can_be_gone(&self, span: Span) -> bool {
        self.expires.is_some_and(|expiry| expiry.earliest <= span.returned)
    }
}

impl StringModel {
    fn expiry(self, ttl: u64, span: Span) -> Expiry {
        Expiry {
            earliest: span.called.saturating_add(ttl).saturating_sub(self.tolerance),
            latest: span.returned.saturating_add(ttl).saturating_add(self.tolerance),
        }
    }

    /// What the command answers to `state`, and what it leaves.
    fn apply(self, state: &StringState, command: &Command, span: Span) -> (Answer, StringState) {
        let existed = Answer::Number(i64::from(state.is_some()));
        match command {
            Command::Get => {
                (Answer::Value(state.as_ref().map(|stored| stored.value.to_vec())), state.clone())
            }
            Command::Set { value, ttl } => {
                let expires = ttl.map(|ttl| self.expiry(ttl, span));
                (Answer::Done, Some(Stored { value: value.as_slice().into(), expires }))
            }
            Command::SetNx { value } => match state {
                Some(_) => (Answer::Number(0), state.clone()),
                None => (Answer::Number(1), Some(Stored::new(value))),
            },
            Command::Append { tail } => {
                let old = state.clone().unwrap_or_else(|| Stored::new(b""));
                let value = [&old.value, tail.as_slice()].concat();
                (Answer::Number(value.len().cast_signed() as i64), Some(old.with_value(&value)))
            }
            Command::Incr => {
                let old = state.clone().unwrap_or_else(|| Stored::new(b"0"));
                match number(&old.value).and_then(|n| n.checked_add(1)) {
                    Some(next) => (Answer::Number(next), Some(old.with_value(next.to_string().as_bytes()))),
                    None => (Answer::NotAnInteger, state.clone()),
                }
            }
            Command::Del => (existed, None),
            Command::Expire { ttl: 0 } => (existed, None),
            Command::Expire { ttl } => {
                let expires = Some(self.expiry(*ttl, span));
                (existed, state.clone().map(|stored| Stored { expires, ..stored }))
            }
        }
    }
}

/// Only what INCR writes itself: no sign but a leading minus, no zeros in front.
fn number(value: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == value).then_some(number)
}

impl Model for StringModel {
    type Command = Command;
    type Answer = Answer;
    type State = StringState;

    fn initial(&self) -> StringState {
        None
    }

    fn interchangeable(&self, one: &Command, other: &Command) -> bool {
        // The end of a time to live depends on when it was set.
        let timed = matches!(one, Command::Set { ttl: Some(_), .. } | Command::Expire { ttl: 1.. });
        one == other && !timed
    }

    fn step(
        &self,
        state: &StringState,
        command: &Command,
        answer: Option<&Answer>,
        span: Span,
    ) -> Vec<StringState> {
        let alive = state.as_ref().is_none_or(|stored| stored.can_live(span)).then(|| state.clone());
        let gone = state.as_ref().is_some_and(|stored| stored.can_be_gone(span)).then_some(None);
        let befores = alive.into_iter().chain(gone);
        befores
            .map(|before| self.apply(&before, command, span))
            .filter(|(made, _)| answer.is_none_or(|answer| answer == made))
            .map(|(_, after)| after)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Operation, Outcome};
    use crate::search::{Verdict, check};

    type Event = Operation<Command, Answer>;

    /// Answered within one millisecond.
    fn at(time: u64, command: Command, answer: Answer) -> Event {
        Operation::answered(command, time, answer, time + 1)
    }

    fn set(value: &str) -> Command {
        Command::Set { value: value.into(), ttl: None }
    }

    fn set_px(value: &str, ttl: u64) -> Command {
        Command::Set { value: value.into(), ttl: Some(ttl) }
    }

    fn set_nx(value: &str) -> Command {
        Command::SetNx { value: value.into() }
    }

    fn append(tail: &str) -> Command {
        Command::Append { tail: tail.into() }
    }

    fn sees(time: u64, value: Option<&str>) -> Event {
        at(time, Command::Get, Answer::Value(value.map(Into::into)))
    }

    fn number(time: u64, command: Command, answer: i64) -> Event {
        at(time, command, Answer::Number(answer))
    }

    fn done(time: u64, command: Command) -> Event {
        at(time, command, Answer::Done)
    }

    fn fits(history: &[Event]) -> bool {
        match check(&StringModel { tolerance: 5 }, history, 100_000) {
            Verdict::Linearizable { .. } => true,
            Verdict::Violation { .. } => false,
            undecided @ Verdict::Undecided { .. } => panic!("{undecided:?}"),
        }
    }

    #[test]
    fn every_command_in_order() {
        assert!(fits(&[
            sees(0, None),
            number(10, Command::Incr, 1),
            number(20, Command::Incr, 2),
            number(30, append("0"), 2),
            number(40, Command::Incr, 21),
            number(50, set_nx("no"), 0),
            number(60, Command::Del, 1),
            number(70, Command::Del, 0),
            number(80, Command::Expire { ttl: 50 }, 0),
            number(90, set_nx("a"), 1),
            number(100, append("b"), 2),
            sees(110, Some("ab")),
            at(120, Command::Incr, Answer::NotAnInteger),
            done(130, set("7")),
            number(140, Command::Incr, 8),
            number(150, Command::Expire { ttl: 0 }, 1),
            sees(160, None),
        ]));
    }

    #[test]
    fn wrong_answers_are_rejected() {
        assert!(!fits(&[done(0, set("a")), sees(10, Some("b"))]), "a value that nobody wrote");
        assert!(!fits(&[done(0, set("a")), sees(10, None)]), "an acknowledged write lost");
        assert!(!fits(&[number(0, Command::Incr, 1), number(10, Command::Incr, 1)]), "an increment lost");
        assert!(!fits(&[number(0, Command::Incr, 2)]), "an increment done twice");
        assert!(!fits(&[done(0, set("a")), number(10, append("b"), 1)]), "a base lost");
        assert!(!fits(&[number(0, set_nx("a"), 1), number(10, set_nx("b"), 1)]), "a lock held twice");
        assert!(!fits(&[number(0, set_nx("a"), 0)]), "a lock that nobody holds");
        assert!(!fits(&[done(0, set("a")), number(10, Command::Del, 0)]), "a delete that missed");
        assert!(
            !fits(&[done(0, set("a")), number(10, Command::Del, 1), sees(20, Some("a"))]),
            "risen from the dead"
        );
        assert!(
            !fits(&[done(0, set("a")), number(10, Command::Expire { ttl: 9 }, 0)]),
            "an expiry that missed"
        );
        assert!(!fits(&[done(0, set("a")), at(10, Command::Incr, Answer::Number(1))]), "a text is no number");
        assert!(!fits(&[done(0, set("4")), at(10, Command::Incr, Answer::NotAnInteger)]), "a number is one");
    }

    #[test]
    fn reads_never_go_back() {
        let write = Operation::answered(set("b"), 10, Answer::Done, 100);
        let history = |first, then| [done(0, set("a")), write.clone(), sees(20, first), sees(30, then)];
        assert!(fits(&history(Some("a"), Some("b"))));
        assert!(!fits(&history(Some("b"), Some("a"))));
    }

    #[test]
    fn a_value_ends_within_the_range_of_its_expiry() {
        // Ends between 100 and 101, give or take 5.
        let history = |event| [done(0, set_px("a", 100)), event];
        assert!(!fits(&history(sees(90, None))), "too early");
        assert!(fits(&history(sees(95, None))));
        assert!(fits(&history(sees(106, Some("a")))));
        assert!(!fits(&history(sees(107, Some("a")))), "too late");
        assert!(fits(&history(number(200, set_nx("b"), 1))));
        assert!(!fits(&history(number(200, Command::Del, 1))));
    }

    #[test]
    fn what_has_expired_stays_gone() {
        assert!(fits(&[done(0, set_px("a", 100)), sees(97, Some("a")), sees(101, None)]));
        assert!(!fits(&[done(0, set_px("a", 100)), sees(97, None), sees(101, Some("a"))]));
    }

    #[test]
    fn writes_treat_the_expiry_as_redis_does() {
        let expiring = || [done(0, set_px("1", 100))];
        let kept = |command: Command, answer| {
            let mut history = expiring().to_vec();
            history.extend([at(10, command, answer), sees(200, None)]);
            fits(&history)
        };
        assert!(kept(Command::Incr, Answer::Number(2)));
        assert!(kept(append("0"), Answer::Number(2)));
        assert!(!kept(set("1"), Answer::Done), "a plain SET ends the expiry");
        assert!(!kept(Command::Expire { ttl: 500 }, Answer::Number(1)), "a new one replaces it");
    }

    #[test]
    fn an_unknown_expiry_may_end_the_value_or_not() {
        let unknown = Operation::uncertain(Command::Expire { ttl: 100 }, 10);
        let history = |event| [done(0, set("a")), unknown.clone(), event];
        assert!(fits(&history(sees(300, Some("a")))));
        assert!(fits(&history(sees(300, None))));
        assert!(!fits(&history(sees(50, None))), "nor before its time");
    }

    #[test]
    fn unknown_increments_count_once_each_or_not_at_all() {
        let unknown = |called| Operation::uncertain(Command::Incr, called);
        let history = |made| [unknown(0), unknown(1), number(10, Command::Incr, made)];
        for made in 1..=3 {
            assert!(fits(&history(made)));
        }
        assert!(!fits(&history(4)));
    }

    #[test]
    fn a_refused_append_leaves_no_trace() {
        let refused = || Operation { command: append("x"), called: 10, outcome: Outcome::NotApplied };
        assert!(fits(&[done(0, set("a")), refused(), sees(20, Some("a"))]));
        assert!(!fits(&[done(0, set("a")), refused(), sees(20, Some("ax"))]));
    }
}
