//! The queue of cache misses.
//!
//! Askers of one key share a look-up that has not started. They never join one that has: it may show a state from
//! before a write that was acknowledged before they asked.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use smallvec::SmallVec;
use tercet_common::Row;

use super::copying::Copying;
use super::read::Wanted;
use super::writes::Writer;
use super::{Slot, Ticket};

/// Who wants to know what is stored for a key.
#[derive(Debug)]
pub(super) enum Asker {
    Reader {
        ticket: Ticket,
        wanted: Wanted,
    },
    /// A write at or below the partition's floor: allowed only if the key has a row.
    FloorCheck {
        writer: Writer,
        row: Row,
    },
}

/// One key of a batch of look-ups.
#[derive(Debug)]
pub(super) struct LookUp {
    pub(super) slot: Slot,
    pub(super) askers: SmallVec<[Asker; 1]>,
    pub(super) began: Began,
}

/// How the partition stood when a look-up started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    /// Its count of ended commits.
    pub(super) commits_ended: u64,
    pub(super) copying: Option<Copying>,
}

pub(super) struct ReadQueue {
    waiting: HashMap<Slot, SmallVec<[Asker; 1]>>,
    order: VecDeque<Slot>,
    len: usize,
    batch_keys: usize,
}

/// What a batch of look-ups should bring back at most. Sizes are known only afterwards, so the number of keys adapts.
const BATCH_BYTES_TARGET: usize = 4 * 1024 * 1024;
const BATCH_KEYS_MAX: usize = 512;
const BATCH_KEYS_AT_FIRST: usize = 32;

impl Default for ReadQueue {
    fn default() -> Self {
        let (waiting, order) = Default::default();
        Self { waiting, order, len: 0, batch_keys: BATCH_KEYS_AT_FIRST }
    }
}

impl ReadQueue {
    /// Askers that wait for a look-up to start.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, slot: Slot, asker: Asker) {
        self.len += 1;
        let askers = self.waiting.entry(slot).or_default();
        if askers.is_empty() {
            self.order.push_back(slot);
        }
        askers.push(asker);
    }

    pub(super) fn take(&mut self, begins: impl Fn(&Slot) -> Began) -> Vec<LookUp> {
        let n = self.order.len().min(self.batch_keys);
        let slots = self.order.drain(..n);
        let look_ups: Vec<_> = slots
            .map(|slot| {
                let askers = self.waiting.remove(&slot).unwrap_or_default();
                LookUp { slot, askers, began: begins(&slot) }
            })
            .collect();
        self.len -= look_ups.iter().map(|look_up| look_up.askers.len()).sum::<usize>();
        look_ups
    }

    /// What could not be looked up yet goes first next time.
    pub(super) fn put_back(&mut self, look_ups: Vec<LookUp>) {
        for LookUp { slot, askers, .. } in look_ups.into_iter().rev() {
            self.len += askers.len();
            match self.waiting.entry(slot) {
                Entry::Occupied(waiting) => waiting.into_mut().extend(askers),
                Entry::Vacant(none) => {
                    none.insert(askers);
                    self.order.push_front(slot);
                }
            }
        }
    }

    /// Learns from what a batch brought back: large values, fewer keys next time.
    pub(super) fn brought(&mut self, bytes: usize) {
        self.batch_keys = if bytes > BATCH_BYTES_TARGET {
            (self.batch_keys / 4).max(1)
        } else {
            (self.batch_keys * 2).min(BATCH_KEYS_MAX)
        };
    }

    /// Takes out all who wait, oldest key first.
    pub(super) fn drain(&mut self) -> Vec<Asker> {
        self.len = 0;
        let mut askers = Vec::new();
        for slot in std::mem::take(&mut self.order) {
            askers.extend(self.waiting.remove(&slot).unwrap_or_default());
        }
        askers
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Epoch, Key};

    use super::*;
    use crate::replica::Op;

    const BEGAN: Began = Began { commits_ended: 0, copying: None };

    fn ask(queue: &mut ReadQueue, n: u64) {
        let key = Key::new(format!("key{n}")).unwrap();
        let ticket = Ticket { caller: 0, id: n, op: Op::Get, arrived_us: 0 };
        let slot = Slot::of(&key);
        let wanted = Wanted { epoch: Epoch(1), key, digest: false };
        queue.push(slot, Asker::Reader { ticket, wanted });
    }

    #[test]
    fn large_values_make_batches_small_and_small_ones_let_them_grow() {
        let mut queue = ReadQueue::default();
        (0..2_000).for_each(|n| ask(&mut queue, n));
        assert_eq!(queue.take(|_| BEGAN).len(), BATCH_KEYS_AT_FIRST);
        queue.brought(BATCH_BYTES_TARGET * 10);
        assert_eq!(queue.take(|_| BEGAN).len(), BATCH_KEYS_AT_FIRST / 4);
        (0..10).for_each(|_| queue.brought(BATCH_BYTES_TARGET * 10));
        assert_eq!(queue.take(|_| BEGAN).len(), 1);
        (0..20).for_each(|_| queue.brought(100));
        assert_eq!(queue.take(|_| BEGAN).len(), BATCH_KEYS_MAX);
        assert_eq!(queue.len(), 2_000 - BATCH_KEYS_AT_FIRST - BATCH_KEYS_AT_FIRST / 4 - 1 - BATCH_KEYS_MAX);
    }
}
