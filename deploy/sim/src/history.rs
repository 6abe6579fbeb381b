//! All operations of a schedule, and the histories of its keys.

use std::collections::BTreeSet;

use tercet_check::{Operation, Outcome};
use tercet_common::{Ballot, PartitionId, Promise, VectorClock};
use tercet_frontend::coordinator::core::WorkerIx;

use crate::agenda::Time;
use crate::client::Level;
use crate::model::{Answer, Command};

/// Who wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Client(usize),
    /// The repair queue reads a key that this worker missed.
    Repair(WorkerIx),
    /// After all trouble has ended, everything must be answered.
    Final,
}

/// An operation that was given to a frontend.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub purpose: Purpose,
    pub frontend: usize,
    /// Of the frontend.
    pub life: u64,
    /// For a flush, any key of its partition.
    pub key: usize,
    pub command: Command,
    pub level: Level,
    pub called: Time,
    /// `None` while it is under way.
    pub outcome: Option<Outcome<Answer>>,
}

impl Issued {
    /// Whether its answer must be explained. Repair reads are too many, and level ONE promises nothing.
    fn counts(&self) -> bool {
        let weak = self.level == Level::One && self.command == Command::Get;
        !weak && !matches!(self.purpose, Purpose::Repair(_))
    }
}

/// A version that a client was told of: chosen.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub key: usize,
    pub ballot: Ballot,
    pub clock: VectorClock,
}

#[derive(Default)]
pub(crate) struct Record {
    pub issued: Vec<Issued>,
    pub versions: Vec<Version>,
    /// Where entries of clocks were given up, and under which promise.
    pub pruned: BTreeSet<(PartitionId, Promise)>,
    unanswered: usize,
}

impl Record {
    pub(crate) fn begin(&mut self, issued: Issued) -> usize {
        self.unanswered += 1;
        self.issued.push(issued);
        self.issued.len() - 1
    }

    /// `false`: it had ended before.
    pub(crate) fn end(&mut self, operation: usize, outcome: Outcome<Answer>) -> bool {
        let before = self.issued[operation].outcome.replace(outcome);
        self.unanswered -= usize::from(before.is_none());
        before.is_none()
    }

    /// Writes of a key that may yet take effect.
    pub(crate) fn uncertain(&self, concerns: impl Fn(&Issued) -> bool) -> usize {
        let open = |o: &&Issued| matches!(o.outcome, Some(Outcome::Uncertain)) && concerns(o);
        self.issued.iter().filter(open).count()
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Operations under way at a frontend's life.
    pub(crate) fn open_at(&self, frontend: usize, life: u64) -> Vec<usize> {
        let open = |o: &Issued| o.outcome.is_none() && o.frontend == frontend && o.life == life;
        (0..self.issued.len()).filter(|&i| open(&self.issued[i])).collect()
    }

    /// What clients saw of a key. `flushes`: those of its partition, by what `same_partition` says of keys.
    pub(crate) fn history(
        &self,
        key: usize,
        same_partition: impl Fn(usize) -> bool,
    ) -> Vec<Operation<Command, Answer>> {
        let concerns = |o: &&Issued| match o.command {
            Command::Flush => same_partition(o.key),
            _ => o.key == key && o.counts(),
        };
        let operation = |o: &Issued| Operation {
            command: o.command,
            called: o.called,
            outcome: o.outcome.clone().unwrap_or(Outcome::Uncertain),
        };
        self.issued.iter().filter(concerns).map(operation).collect()
    }
}
