//! What frontend and worker say to each other to make replicas equal: copies for ring changes, delta sync, scrub, the
//! collection of tombstones. Rare beside [`crate::message`], and larger.
//!
//! The frontend compares and decides; a worker tells what it holds and stores what it is told, by these rules:
//!
//! - What concerns a partition carries its epoch, and is answered like a get in that epoch: only once the epoch is kept
//!   and every write that was accepted before has ended. So a digest is a snapshot taken after the fence (design 6).
//! - A **newcomer** (in the new set of a joint epoch, not in the old one) shows no row of its own from before that epoch
//!   until the copy has passed it: see [`SyncRequest::Begin`]. What it holds may be a value that was deleted, and
//!   whose tombstone was collected, while it was no replica.

use crate::row::Row;
use crate::{Ballot, Epoch, KeyHash, PartitionId, Promise, VectorClock, WorkerId};

/// The most hashes, rows or entries in one message.
pub const SYNC_ENTRIES_MAX: usize = 4_096;
/// The most rows that a [`SyncRequest::Summary`] looks at; a larger partition is summed up in stretches.
pub const SUMMARY_ROWS_MAX: usize = 65_536;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncRequest {
    /// The ballots of a stretch of a partition, tombstones too, in the order of hashes. → [`SyncReply::Digested`]
    Digest { partition: PartitionId, epoch: Epoch, from: KeyHash, limit: u32 },
    /// The same of up to [`SUMMARY_ROWS_MAX`] rows, as one checksum. → [`SyncReply::Summed`]
    Summary { partition: PartitionId, epoch: Epoch, from: KeyHash },
    /// The ballots of these hashes, of those that are there. → [`SyncReply::Digested`]
    Look { partition: PartitionId, epoch: Epoch, hashes: Vec<KeyHash> },
    /// The rows of these hashes. → [`SyncReply::Rows`]
    Fetch { partition: PartitionId, epoch: Epoch, hashes: Vec<KeyHash> },
    /// To a newcomer: the copy begins. Its flush becomes exactly this one (what it had may never have been chosen), and
    /// its rows from before the epoch are hidden until the copy has passed them. → [`SyncReply::Done`], or
    /// [`SyncReply::Whole`] and nothing is changed, when a copy of this epoch has finished: the next configuration may be
    /// decided on the strength of that one at any time.
    ///
    /// `copy` names the copy, here and below: what an earlier one still sends is refused. A second copy of one epoch never
    /// lowers the flush that the first one set: what that left out may be explained by nothing else.
    Begin { partition: PartitionId, epoch: Epoch, copy: u64, flush: Ballot, flush_clock: VectorClock },
    /// To a newcomer: stores rows over lower ballots, without promise and floor check; deletes rows that stand at
    /// exactly the given ballots; from then on, shows all rows below `copied_to` (`None`: as far as before).
    /// → [`SyncReply::Done`]
    Install {
        partition: PartitionId,
        epoch: Epoch,
        copy: u64,
        rows: Vec<Row>,
        evict: Vec<(KeyHash, Ballot)>,
        copied_to: Option<KeyHash>,
    },
    /// To a newcomer: the copy is complete, also over restarts. Raises floor, vector and highest; shows all rows.
    /// → [`SyncReply::Done`]
    Finish {
        partition: PartitionId,
        epoch: Epoch,
        copy: u64,
        floor: Ballot,
        vector: VectorClock,
        highest: Ballot,
    },
    /// Deletes tombstones that stand at exactly these ballots, and raises the floor. Obeys the promise. Only in a stable
    /// epoch. → [`SyncReply::Done`]
    Collect { partition: PartitionId, promise: Promise, floor: Ballot, tombstones: Vec<(KeyHash, Ballot)> },
    /// What the journal says was written behind the seq `since`, up to the first commit that is still under way.
    /// → [`SyncReply::Changed`]
    Changes { since: u64, limit: u32 },
    /// Keeps what others may ask for after a crash; numbers only grow. → [`SyncReply::Done`]
    Remember { memory: Memory },
    /// → [`SyncReply::Remembered`]
    Recall,
}

impl SyncRequest {
    /// The partition that it concerns, and its epoch; `None`: the worker as a whole.
    pub fn scope(&self) -> Option<(PartitionId, Epoch)> {
        match self {
            Self::Digest { partition, epoch, .. }
            | Self::Summary { partition, epoch, .. }
            | Self::Look { partition, epoch, .. }
            | Self::Fetch { partition, epoch, .. }
            | Self::Begin { partition, epoch, .. }
            | Self::Install { partition, epoch, .. }
            | Self::Finish { partition, epoch, .. } => Some((*partition, *epoch)),
            Self::Collect { partition, promise, .. } => Some((*partition, promise.epoch)),
            Self::Changes { .. } | Self::Remember { .. } | Self::Recall => None,
        }
    }

    /// Roughly what the request costs in memory, for byte bounds.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 128;
        const ENTRY: usize = 64;
        FIXED
            + match self {
                Self::Look { hashes, .. } | Self::Fetch { hashes, .. } => hashes.len() * ENTRY,
                Self::Install { rows, evict, .. } => {
                    rows.iter().map(Row::weight).sum::<usize>() + evict.len() * ENTRY
                }
                Self::Collect { tombstones, .. } => tombstones.len() * ENTRY,
                Self::Remember { memory } => (memory.positions.len() + memory.witnesses.len()) * ENTRY * 2,
                _ => 0,
            }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncReply {
    Digested(Digest),
    Summed(Summary),
    /// The rows of the first of the hashes that were asked for, `None` where there is none. It may stop early, after at
    /// least one, where values are large.
    Rows(Vec<Option<Row>>),
    /// Durable.
    Done,
    /// A copy of this epoch has finished before: the newcomer has all that it needs.
    Whole,
    Changed(Changes),
    Remembered(Memory),
}

/// What a replica holds of a partition beside its rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionState {
    pub flush: Ballot,
    pub flush_clock: VectorClock,
    pub floor: Ballot,
    pub vector: VectorClock,
    pub highest: Ballot,
}

/// A stretch of a replica's rows. Rows below the flush are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    pub state: PartitionState,
    /// In the order of hashes, each once.
    pub entries: Vec<DigestEntry>,
    /// Where the next stretch begins; `None` at the end of the partition.
    pub next: Option<KeyHash>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestEntry {
    pub hash: KeyHash,
    pub ballot: Ballot,
    pub tombstone: bool,
}

/// A stretch of a replica's rows as one number. Equal stretches have equal checksums.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub state: PartitionState,
    pub rows: u64,
    pub tombstones: u64,
    /// The first 64 bits of BLAKE3 over (hash, ballot) of each row, in order.
    pub checksum: u64,
    pub next: Option<KeyHash>,
}

/// A stretch of a journal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Each once; in no particular order.
    pub entries: Vec<(PartitionId, KeyHash)>,
    pub flushed: Vec<PartitionId>,
    /// All that was committed behind `since` up to this seq is told.
    pub upto: u64,
    /// There is more behind `upto`.
    pub more: bool,
    /// The journal no longer reaches back to `since`: nothing is told, compare digests.
    pub pruned: bool,
}

/// What a worker keeps for recovery (design 7).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// How far this worker has all that its peers' journals say.
    pub positions: Vec<Position>,
    /// What is known of the other workers.
    pub witnesses: Vec<Witness>,
}

/// A place in a peer's journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    /// Whose journal: the uuid of the peer's data.
    pub peer: String,
    pub seq: u64,
}

/// How far a worker is known to have come. One that comes back with less has lost something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witness {
    pub worker: WorkerId,
    pub uuid: String,
    pub boot_generation: u64,
    pub journal_seq: u64,
}
