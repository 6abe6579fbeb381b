//! Wire ⇄ domain of what makes replicas equal: see `tercet_common::sync`.

use bytes::{BufMut, Bytes, BytesMut};
use tercet_common::sync::{
    Changes, Digest, DigestEntry, Memory, PartitionState, Position, SYNC_ENTRIES_MAX, Summary, Witness,
};
use tercet_common::{Ballot, Epoch, KeyHash, PartitionId, SyncReply, SyncRequest, VectorClock, WorkerId};

use crate::convert::{UUID_BYTES_MAX, WireError, bounded, partition_from_wire};
use crate::v1;

/// Workers that one memory may name; more than a ring has.
const MEMORY_ENTRIES_MAX: usize = 2_048;
/// Journal entries of one answer: a commit is never torn, and may hold this many more than were asked for.
const CHANGES_MAX: usize = 4 * SYNC_ENTRIES_MAX;

type Result<T> = std::result::Result<T, WireError>;

fn hashes_to_wire<'a>(hashes: impl ExactSizeIterator<Item = &'a KeyHash>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(hashes.len() * size_of::<KeyHash>());
    hashes.for_each(|hash| bytes.put_slice(&hash.0));
    bytes.freeze()
}

fn hashes_from_wire(bytes: &[u8], len_max: usize) -> Result<Vec<KeyHash>> {
    let (hashes, rest) = bytes.as_chunks();
    if !rest.is_empty() || hashes.len() > len_max {
        return Err(WireError::Malformed("key hashes"));
    }
    Ok(hashes.iter().map(|hash| KeyHash(*hash)).collect())
}

fn place_to_wire(hash: Option<KeyHash>) -> Bytes {
    hash.map(|hash| Bytes::copy_from_slice(&hash.0)).unwrap_or_default()
}

fn place_from_wire(bytes: &[u8]) -> Result<Option<KeyHash>> {
    Ok(hashes_from_wire(bytes, 1)?.pop())
}

fn ballot(wire: Option<v1::Ballot>) -> Result<Ballot> {
    wire.unwrap_or_default().try_into()
}

fn clock(wire: Option<v1::VectorClock>) -> Result<VectorClock> {
    wire.unwrap_or_default().try_into()
}

fn scope(partition: u32, epoch: u64) -> Result<(PartitionId, Epoch)> {
    Ok((partition_from_wire(partition)?, Epoch(bounded(epoch)?)))
}

fn versions_to_wire(versions: &[(KeyHash, Ballot)]) -> (Bytes, Vec<v1::Ballot>) {
    (hashes_to_wire(versions.iter().map(|v| &v.0)), versions.iter().map(|v| v.1.into()).collect())
}

fn versions_from_wire(hashes: &[u8], ballots: Vec<v1::Ballot>) -> Result<Vec<(KeyHash, Ballot)>> {
    let hashes = hashes_from_wire(hashes, SYNC_ENTRIES_MAX)?;
    if hashes.len() != ballots.len() {
        return Err(WireError::Malformed("versions"));
    }
    hashes.into_iter().zip(ballots).map(|(hash, ballot)| Ok((hash, ballot.try_into()?))).collect()
}

fn uuid(uuid: String) -> Result<String> {
    if uuid.len() > UUID_BYTES_MAX { Err(WireError::Malformed("uuid")) } else { Ok(uuid) }
}

impl From<SyncRequest> for v1::Sync {
    fn from(request: SyncRequest) -> Self {
        use v1::sync::Op;
        let p = |partition: PartitionId| u32::from(partition.get());
        let op = match request {
            SyncRequest::Digest { partition, epoch, from, limit } => {
                let from = place_to_wire(Some(from));
                Op::Digest(v1::SyncDigest { partition: p(partition), epoch: epoch.0, from, limit })
            }
            SyncRequest::Summary { partition, epoch, from } => {
                let from = place_to_wire(Some(from));
                Op::Summary(v1::SyncDigest { partition: p(partition), epoch: epoch.0, from, limit: 0 })
            }
            SyncRequest::Look { partition, epoch, hashes } => {
                let hashes = hashes_to_wire(hashes.iter());
                Op::Look(v1::SyncHashes { partition: p(partition), epoch: epoch.0, hashes })
            }
            SyncRequest::Fetch { partition, epoch, hashes } => {
                let hashes = hashes_to_wire(hashes.iter());
                Op::Fetch(v1::SyncHashes { partition: p(partition), epoch: epoch.0, hashes })
            }
            SyncRequest::Begin { partition, epoch, copy, flush, flush_clock } => Op::Begin(v1::SyncBegin {
                copy,
                partition: p(partition),
                epoch: epoch.0,
                flush: Some(flush.into()),
                flush_clock: Some((&flush_clock).into()),
            }),
            SyncRequest::Install { partition, epoch, copy, rows, evict, copied_to } => {
                let (evict_hashes, evict_ballots) = versions_to_wire(&evict);
                Op::Install(v1::SyncInstall {
                    copy,
                    partition: p(partition),
                    epoch: epoch.0,
                    rows: rows.into_iter().map(Into::into).collect(),
                    evict_hashes,
                    evict_ballots,
                    copied_to: place_to_wire(copied_to),
                })
            }
            SyncRequest::Finish { partition, epoch, copy, floor, vector, highest } => {
                Op::Finish(v1::SyncFinish {
                    copy,
                    partition: p(partition),
                    epoch: epoch.0,
                    floor: Some(floor.into()),
                    vector: Some((&vector).into()),
                    highest: Some(highest.into()),
                })
            }
            SyncRequest::Collect { partition, promise, floor, tombstones } => {
                let (hashes, ballots) = versions_to_wire(&tombstones);
                Op::Collect(v1::SyncCollect {
                    partition: p(partition),
                    promise: Some(promise.into()),
                    floor: Some(floor.into()),
                    hashes,
                    ballots,
                })
            }
            SyncRequest::Changes { since, limit } => Op::Changes(v1::SyncChanges { since, limit }),
            SyncRequest::Remember { memory } => Op::Remember(memory.into()),
            SyncRequest::Recall => Op::Recall(v1::Nothing {}),
        };
        Self { op: Some(op) }
    }
}

impl TryFrom<v1::Sync> for SyncRequest {
    type Error = WireError;
    fn try_from(sync: v1::Sync) -> Result<Self> {
        use v1::sync::Op;
        Ok(match sync.op.ok_or(WireError::Missing("op"))? {
            Op::Digest(d) => {
                let (partition, epoch) = scope(d.partition, d.epoch)?;
                let from = place_from_wire(&d.from)?.unwrap_or(KeyHash([0; 16]));
                Self::Digest { partition, epoch, from, limit: d.limit }
            }
            Op::Summary(d) => {
                let (partition, epoch) = scope(d.partition, d.epoch)?;
                let from = place_from_wire(&d.from)?.unwrap_or(KeyHash([0; 16]));
                Self::Summary { partition, epoch, from }
            }
            Op::Look(h) => {
                let (partition, epoch) = scope(h.partition, h.epoch)?;
                Self::Look { partition, epoch, hashes: hashes_from_wire(&h.hashes, SYNC_ENTRIES_MAX)? }
            }
            Op::Fetch(h) => {
                let (partition, epoch) = scope(h.partition, h.epoch)?;
                Self::Fetch { partition, epoch, hashes: hashes_from_wire(&h.hashes, SYNC_ENTRIES_MAX)? }
            }
            Op::Begin(b) => {
                let (partition, epoch) = scope(b.partition, b.epoch)?;
                let (flush, flush_clock) = (ballot(b.flush)?, clock(b.flush_clock)?);
                Self::Begin { partition, epoch, copy: b.copy, flush, flush_clock }
            }
            Op::Install(i) => {
                let (partition, epoch) = scope(i.partition, i.epoch)?;
                if i.rows.len() > SYNC_ENTRIES_MAX {
                    return Err(WireError::Malformed("rows"));
                }
                let rows = i.rows.into_iter().map(TryInto::try_into).collect::<Result<_>>()?;
                let evict = versions_from_wire(&i.evict_hashes, i.evict_ballots)?;
                let copied_to = place_from_wire(&i.copied_to)?;
                Self::Install { partition, epoch, copy: i.copy, rows, evict, copied_to }
            }
            Op::Finish(f) => {
                let (partition, epoch) = scope(f.partition, f.epoch)?;
                let (floor, highest) = (ballot(f.floor)?, ballot(f.highest)?);
                Self::Finish { partition, epoch, copy: f.copy, floor, vector: clock(f.vector)?, highest }
            }
            Op::Collect(c) => Self::Collect {
                partition: partition_from_wire(c.partition)?,
                promise: c.promise.ok_or(WireError::Missing("promise"))?.try_into()?,
                floor: ballot(c.floor)?,
                tombstones: versions_from_wire(&c.hashes, c.ballots)?,
            },
            Op::Changes(c) => Self::Changes { since: bounded(c.since)?, limit: c.limit },
            Op::Remember(m) => Self::Remember { memory: m.try_into()? },
            Op::Recall(_) => Self::Recall,
        })
    }
}

impl From<Memory> for v1::SyncMemory {
    fn from(memory: Memory) -> Self {
        let position = |p: Position| v1::SyncPosition { peer: p.peer, seq: p.seq };
        let witness = |w: Witness| v1::SyncWitness {
            worker: w.worker.as_str().to_owned(),
            uuid: w.uuid,
            boot_generation: w.boot_generation,
            journal_seq: w.journal_seq,
        };
        Self {
            positions: memory.positions.into_iter().map(position).collect(),
            witnesses: memory.witnesses.into_iter().map(witness).collect(),
        }
    }
}

impl TryFrom<v1::SyncMemory> for Memory {
    type Error = WireError;
    fn try_from(memory: v1::SyncMemory) -> Result<Self> {
        if memory.positions.len().max(memory.witnesses.len()) > MEMORY_ENTRIES_MAX {
            return Err(WireError::Malformed("memory"));
        }
        let position = |p: v1::SyncPosition| Ok(Position { peer: uuid(p.peer)?, seq: bounded(p.seq)? });
        let witness = |w: v1::SyncWitness| {
            Ok(Witness {
                worker: WorkerId::new(&w.worker)?,
                uuid: uuid(w.uuid)?,
                boot_generation: bounded(w.boot_generation)?,
                journal_seq: bounded(w.journal_seq)?,
            })
        };
        Ok(Self {
            positions: memory.positions.into_iter().map(position).collect::<Result<_>>()?,
            witnesses: memory.witnesses.into_iter().map(witness).collect::<Result<_>>()?,
        })
    }
}

impl From<PartitionState> for v1::SyncState {
    fn from(state: PartitionState) -> Self {
        Self {
            flush: Some(state.flush.into()),
            flush_clock: Some((&state.flush_clock).into()),
            floor: Some(state.floor.into()),
            vector: Some((&state.vector).into()),
            highest: Some(state.highest.into()),
        }
    }
}

impl TryFrom<v1::SyncState> for PartitionState {
    type Error = WireError;
    fn try_from(state: v1::SyncState) -> Result<Self> {
        Ok(Self {
            flush: ballot(state.flush)?,
            flush_clock: clock(state.flush_clock)?,
            floor: ballot(state.floor)?,
            vector: clock(state.vector)?,
            highest: ballot(state.highest)?,
        })
    }
}

impl From<SyncReply> for v1::Synced {
    fn from(reply: SyncReply) -> Self {
        use v1::synced::Result as R;
        let result = match reply {
            SyncReply::Digested(digest) => R::Digested(v1::SyncDigested {
                state: Some(digest.state.into()),
                hashes: hashes_to_wire(digest.entries.iter().map(|e| &e.hash)),
                ballots: digest.entries.iter().map(|e| e.ballot.into()).collect(),
                tombstones: digest.entries.iter().map(|e| u8::from(e.tombstone)).collect(),
                next: place_to_wire(digest.next),
            }),
            SyncReply::Summed(summary) => R::Summed(v1::SyncSummed {
                state: Some(summary.state.into()),
                rows: summary.rows,
                tombstones: summary.tombstones,
                checksum: summary.checksum,
                next: place_to_wire(summary.next),
            }),
            SyncReply::Rows(rows) => R::Rows(v1::SyncRows {
                rows: rows.into_iter().map(|row| v1::SyncRow { row: row.map(Into::into) }).collect(),
            }),
            SyncReply::Done => R::Done(v1::Nothing {}),
            SyncReply::Whole => R::Whole(v1::Nothing {}),
            SyncReply::Changed(changes) => R::Changed(v1::SyncChanged {
                partitions: changes.entries.iter().map(|e| e.0.get().into()).collect(),
                hashes: hashes_to_wire(changes.entries.iter().map(|e| &e.1)),
                flushed: changes.flushed.iter().map(|p| p.get().into()).collect(),
                upto: changes.upto,
                more: changes.more,
                pruned: changes.pruned,
            }),
            SyncReply::Remembered(memory) => R::Remembered(memory.into()),
        };
        Self { result: Some(result) }
    }
}

impl TryFrom<v1::Synced> for SyncReply {
    type Error = WireError;
    fn try_from(synced: v1::Synced) -> Result<Self> {
        use v1::synced::Result as R;
        Ok(match synced.result.ok_or(WireError::Missing("result"))? {
            R::Digested(d) => Self::Digested(digest(d)?),
            R::Summed(s) => Self::Summed(Summary {
                state: s.state.unwrap_or_default().try_into()?,
                rows: s.rows,
                tombstones: s.tombstones,
                checksum: s.checksum,
                next: place_from_wire(&s.next)?,
            }),
            R::Rows(rows) if rows.rows.len() <= SYNC_ENTRIES_MAX => {
                let row = |row: v1::SyncRow| row.row.map(TryInto::try_into).transpose();
                Self::Rows(rows.rows.into_iter().map(row).collect::<Result<_>>()?)
            }
            R::Rows(_) => return Err(WireError::Malformed("rows")),
            R::Done(_) => Self::Done,
            R::Whole(_) => Self::Whole,
            R::Changed(c) => Self::Changed(changes(c)?),
            R::Remembered(memory) => Self::Remembered(memory.try_into()?),
        })
    }
}

fn digest(wire: v1::SyncDigested) -> Result<Digest> {
    let versions = versions_from_wire(&wire.hashes, wire.ballots)?;
    let sorted = versions.is_sorted_by(|a, b| a.0 < b.0);
    if !sorted || wire.tombstones.len() != versions.len() {
        return Err(WireError::Malformed("digest"));
    }
    let entries = versions.into_iter().zip(wire.tombstones.iter());
    let entries = entries.map(|((hash, ballot), tombstone)| {
        let tombstone = *tombstone == 1;
        DigestEntry { hash, ballot, tombstone }
    });
    Ok(Digest {
        state: wire.state.unwrap_or_default().try_into()?,
        entries: entries.collect(),
        next: place_from_wire(&wire.next)?,
    })
}

fn changes(wire: v1::SyncChanged) -> Result<Changes> {
    let hashes = hashes_from_wire(&wire.hashes, CHANGES_MAX)?;
    if hashes.len() != wire.partitions.len() {
        return Err(WireError::Malformed("changes"));
    }
    let entries = wire.partitions.into_iter().zip(hashes);
    Ok(Changes {
        entries: entries.map(|(p, hash)| Ok((partition_from_wire(p)?, hash))).collect::<Result<_>>()?,
        flushed: wire.flushed.into_iter().map(partition_from_wire).collect::<Result<_>>()?,
        upto: bounded(wire.upto)?,
        more: wire.more,
        pruned: wire.pruned,
    })
}
