//! Operations on their way through a frontend, and what becomes of them.

use std::sync::{Arc, Mutex, PoisonError};

use tercet_common::{Ballot, Content, Key, Row, UnixMillis, VectorClock};
use tercet_frontend::coordinator::api::{
    Change, Found, Op, OpError, ReadLevel, ReadOp, Update, WriteLevel, WriteOp, Written,
};

use crate::agenda::{MILLISECOND, Time};
use crate::model::{Answer, Command};

/// The true time of day at which schedules begin.
const BEGAN: i64 = 1_700_000_000_000;

/// What a clock shows that is `skew` milliseconds ahead.
pub(crate) fn wall(now: Time, skew: i64) -> UnixMillis {
    UnixMillis(BEGAN + (now / MILLISECOND).cast_signed() + skew)
}

fn wall_of(time: Time) -> UnixMillis {
    wall(time, 0)
}

fn time_of(wall: UnixMillis) -> Time {
    (wall.0 - BEGAN).cast_unsigned() * MILLISECOND
}

/// How an operation ended.
pub(crate) struct Ended {
    pub operation: usize,
    pub result: Result<Told, OpError>,
}

pub(crate) struct Told {
    pub answer: Answer,
    /// The version that was read or written; `None` if no row stands for the answer.
    pub version: Option<(Ballot, VectorClock)>,
}

/// Where answers go. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<Vec<Ended>>>);

impl Answers {
    fn give(&self, operation: usize, result: Result<Told, OpError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Ended { operation, result });
    }

    pub(crate) fn take(&self) -> Vec<Ended> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the coordinator is asked for a flush.
    pub(crate) fn flushed(&self, operation: usize) -> Box<dyn FnOnce(Result<(), OpError>) + Send> {
        let answers = self.clone();
        Box::new(move |result| {
            answers.give(operation, result.map(|()| Told { answer: Answer::Done, version: None }));
        })
    }

    /// What the coordinator is asked for a command that is no flush.
    pub(crate) fn operation(&self, operation: usize, key: Key, command: Command, level: Level) -> Op {
        if command == Command::Get {
            let answers = self.clone();
            let done = Box::new(move |result: Result<Option<Found>, OpError>| {
                let told = result.map(|found| Told {
                    answer: Answer::Saw(found.as_ref().and_then(|found| number(&found.row))),
                    version: found.map(|found| (found.row.ballot, found.row.clock.clone())),
                });
                answers.give(operation, told);
            });
            return Op::Read(ReadOp { key, level: level.read(), done });
        }
        let update = Box::new(Running { operation, command, saw: None, answers: self.clone() });
        Op::Write(WriteOp { key, level: level.write(), blind: command.is_blind(), update })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    One,
    Quorum,
    All,
}

impl Level {
    fn read(self) -> ReadLevel {
        match self {
            Self::One => ReadLevel::One,
            Self::Quorum => ReadLevel::Quorum,
            Self::All => ReadLevel::All,
        }
    }

    fn write(self) -> WriteLevel {
        match self {
            Self::One | Self::Quorum => WriteLevel::Quorum,
            Self::All => WriteLevel::All,
        }
    }
}

/// The number that a row holds.
pub(crate) fn number(row: &Row) -> Option<u128> {
    match &row.content {
        Content::Tombstone => None,
        Content::Value { data, .. } => std::str::from_utf8(data).ok()?.parse().ok(),
    }
}

struct Running {
    operation: usize,
    command: Command,
    saw: Option<u128>,
    answers: Answers,
}

impl Update for Running {
    fn apply(&mut self, current: Option<&Row>, _: UnixMillis) -> Change {
        self.saw = current.and_then(number);
        let end = current.and_then(|row| row.content.expires_at()).map(time_of);
        match self.command.apply(self.saw) {
            Err(_) => Change::Keep,
            Ok(None) => Change::Write(Content::Tombstone),
            Ok(Some(value)) => {
                let end = self.command.expiry(end).map(wall_of);
                Change::Write(Content::string(value.to_string(), end))
            }
        }
    }

    fn finish(self: Box<Self>, outcome: Result<Written, OpError>) {
        let answer = if self.command.is_blind() { Answer::Done } else { Answer::Saw(self.saw) };
        let told =
            outcome.map(|Written { ballot, clock, .. }| Told { answer, version: Some((ballot, clock)) });
        self.answers.give(self.operation, told);
    }
}
