//! The queue of group commits.
//!
//! Writes of one key that wait are merged on arrival: only the highest ballot will be written, the others share its
//! fate. A key whose commit is under way waits for the next batch, so that no two group commits ever compete for a row.
//!
//! ```text
//! submit k1@5, k2@1, k1@7   →  waiting: k1@7 (answers 5 and 7), k2@1
//! take                      →  batch:   k1@7, k2@1            one transaction, one fsync
//! submit k1@9               →  waiting: k1@9, parked until the batch has ended
//! ```

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;
use smallvec::SmallVec;
use tercet_common::{Ballot, PartitionId, Row, VectorClock};

use super::barrier::Generation;
use super::{Slot, Ticket};

/// One accepted request that waits for a commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub(super) ticket: Ticket,
    pub(super) partition: PartitionId,
    pub(super) ballot: Ballot,
    pub(super) generation: Generation,
    pub(super) weight: usize,
}

/// The version to write, and all who wait for it or for a lower one of the same key.
#[derive(Debug)]
pub(super) struct KeyWrite {
    pub(super) slot: Slot,
    pub(super) row: Row,
    pub(super) writers: SmallVec<[Writer; 1]>,
}

/// The same for a partition's flush.
#[derive(Debug)]
pub(super) struct FlushWrite {
    pub(super) partition: PartitionId,
    pub(super) ballot: Ballot,
    pub(super) clock: VectorClock,
    pub(super) writers: SmallVec<[Writer; 1]>,
}

/// What goes into one transaction.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Sorted by slot, each once.
    pub(super) keys: Vec<KeyWrite>,
    /// Sorted by partition, each once.
    pub(super) flushes: Vec<FlushWrite>,
}

#[derive(Default)]
struct KeyState {
    in_flight: bool,
    waiting: Option<KeyWrite>,
}

#[derive(Default)]
pub(super) struct WriteQueue {
    /// Keys that wait, are in flight, or both.
    keys: HashMap<Slot, KeyState>,
    /// Keys that wait and are not in flight, oldest first.
    ready: VecDeque<Slot>,
    flushes: BTreeMap<PartitionId, FlushWrite>,
    /// Requests accepted and not ended, waiting or in flight, and their bytes.
    len: usize,
    bytes: usize,
}

impl WriteQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty() || !self.flushes.is_empty()
    }

    /// Counts a write that is accepted but cannot be queued yet. [`Self::ended`] counts it off.
    pub(super) fn accepted(&mut self, writer: &Writer) {
        self.len += 1;
        self.bytes += writer.weight;
    }

    pub(super) fn ended(&mut self, writer: &Writer) {
        self.len -= 1;
        self.bytes -= writer.weight;
    }

    /// Queues an accepted write. Hands the writer back when another key of the same hash waits: it cannot be merged.
    pub(super) fn push(&mut self, slot: Slot, row: Row, writer: Writer) -> Result<(), Writer> {
        let state = self.keys.entry(slot).or_default();
        match &mut state.waiting {
            Some(waiting) if waiting.row.key != row.key => return Err(writer),
            Some(waiting) => {
                if row.ballot > waiting.row.ballot {
                    waiting.row = row;
                }
                waiting.writers.push(writer);
            }
            None => {
                state.waiting = Some(KeyWrite { slot, row, writers: SmallVec::from_buf([writer]) });
                if !state.in_flight {
                    self.ready.push_back(slot);
                }
            }
        }
        Ok(())
    }

    pub(super) fn push_flush(&mut self, ballot: Ballot, clock: VectorClock, writer: Writer) {
        let partition = writer.partition;
        match self.flushes.get_mut(&partition) {
            Some(waiting) => {
                waiting.writers.push(writer);
                if ballot > waiting.ballot {
                    (waiting.ballot, waiting.clock) = (ballot, clock);
                }
            }
            None => {
                let writers = SmallVec::from_buf([writer]);
                self.flushes.insert(partition, FlushWrite { partition, ballot, clock, writers });
            }
        }
    }

    /// The next batch: all that waits, oldest first, up to the bounds. One row alone may be above `bytes_max`.
    pub(super) fn take(&mut self, rows_max: usize, bytes_max: usize) -> Taken {
        let mut keys = Vec::with_capacity(self.ready.len().min(rows_max));
        let mut bytes = 0;
        while keys.len() < rows_max {
            let Some(slot) = self.ready.front() else { break };
            let Some(state) = self.keys.get_mut(slot) else { break };
            let Some(write) = state.waiting.take_if(|w| bytes == 0 || bytes + w.row.weight() <= bytes_max)
            else {
                break;
            };
            state.in_flight = true;
            self.ready.pop_front();
            bytes += write.row.weight();
            keys.push(write);
        }
        keys.sort_unstable_by_key(|write| write.slot);
        Taken { keys, flushes: std::mem::take(&mut self.flushes).into_values().collect() }
    }

    /// The commit of a key has ended, and what waited behind it may go.
    pub(super) fn landed(&mut self, slot: &Slot) {
        let Some(state) = self.keys.get_mut(slot) else { return };
        state.in_flight = false;
        if state.waiting.is_some() {
            self.ready.push_back(*slot);
        } else {
            self.keys.remove(slot);
        }
    }

    /// Takes out all who wait, in the order of their tickets. What is in flight stays.
    pub(super) fn drain_waiting(&mut self) -> Vec<Writer> {
        self.ready.clear();
        let mut writers: Vec<Writer> = Vec::new();
        for flush in std::mem::take(&mut self.flushes).into_values() {
            writers.extend(flush.writers);
        }
        self.keys.retain(|_, state| {
            writers.extend(state.waiting.take().into_iter().flat_map(|write| write.writers));
            state.in_flight
        });
        writers.sort_unstable_by_key(|writer| writer.ticket);
        writers
    }
}
