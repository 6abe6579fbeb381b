//! Versions whose clocks contradict their ballots (design 5): what must never be, kept for people to look at.
//!
//! A row that arrives is held against what is known to be stored for its key, before anything is decided about it: what
//! becomes of it afterwards follows its ballot, as ever. Only rows in the cache are known, since a put must not cost a
//! read; and the frontend that finds such a pair has just read them, and sends the higher to whoever holds the lower.

use std::collections::VecDeque;

use tercet_common::Row;

use super::{Replica, Slot};
use crate::store::Conflict;

/// The most that wait to be written; more of the same adds nothing.
const WAITING_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Conflicts {
    waiting: VecDeque<Conflict>,
    met: u64,
}

impl Conflicts {
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn met(&self) -> u64 {
        self.met
    }
}

impl Replica {
    /// A row has arrived.
    pub(super) fn meet(&mut self, slot: &Slot, row: &Row) {
        let Some(Some(stored)) = self.cache.peek(slot) else { return };
        if !row.contradicts(stored) {
            return;
        }
        self.conflicts.met += 1;
        if self.conflicts.waiting.len() < WAITING_MAX {
            let (higher, lower) = if row.ballot > stored.ballot { (row, stored) } else { (stored, row) };
            let conflict = Conflict { higher: higher.detached(), lower: lower.detached() };
            self.conflicts.waiting.push_back(conflict);
        }
    }

    /// Two versions to write to the store; nobody waits for that.
    pub fn next_conflict(&mut self) -> Option<Conflict> {
        self.conflicts.waiting.pop_front().filter(|_| self.is_open())
    }
}
