//! Scans: errands that only read, or that concern the worker as a whole.

use std::collections::VecDeque;

use tercet_common::sync::{Changes, Digest, DigestEntry, Memory, PartitionState, Summary};
use tercet_common::{KeyHash, PartitionId, Refusal, ReplicaReply, Row, SyncReply};

use super::{Replica, Ticket};
use crate::store::{StoreError, Stretch};

/// Names a scan between [`Replica::next_scan`] and [`Replica::on_scan`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScanId(u64);

/// What to ask the store; each says which [`ScanResult`] answers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanJob {
    /// `Store::digest` → [`ScanResult::Stretch`]
    Digest { partition: PartitionId, from: KeyHash, limit: usize },
    /// As many digests as [`super::SummaryFold`] wants → [`ScanResult::Summed`]
    Summary { partition: PartitionId, from: KeyHash },
    /// `Store::look` → [`ScanResult::Present`]
    Look { partition: PartitionId, hashes: Vec<KeyHash> },
    /// `Store::read` → [`ScanResult::Rows`]
    Fetch { partition: PartitionId, hashes: Vec<KeyHash> },
    /// `Store::changes` → [`ScanResult::Changed`]
    Changes { since: u64, limit: usize },
    /// `Store::remember` → [`ScanResult::Remembered`]
    Remember { memory: Memory },
    /// `Store::recall` → [`ScanResult::Recalled`]
    Recall,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanResult {
    Stretch(Stretch),
    /// From [`super::SummaryFold::finish`].
    Summed(Summary),
    Present(Vec<DigestEntry>),
    /// Of the first of the hashes, in order; at least one.
    Rows(Vec<Option<Row>>),
    Changed(Changes),
    Remembered,
    Recalled(Memory),
}

/// An accepted errand that scans.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) ticket: Ticket,
    pub(super) weight: usize,
    pub(super) job: ScanJob,
}

#[derive(Debug, Default)]
pub(super) struct ScanQueue {
    waiting: VecDeque<Scan>,
}

impl ScanQueue {
    pub(super) fn push(&mut self, scan: Scan) {
        self.waiting.push_back(scan);
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// What the answer to a scan needs of its job.
#[derive(Debug)]
pub(super) struct Scanning {
    ticket: Ticket,
    weight: usize,
    about: About,
}

#[derive(Debug)]
enum About {
    Digest(PartitionId),
    Summary(PartitionId),
    Look(PartitionId),
    /// With the number of hashes.
    Fetch(PartitionId, usize),
    Changes,
    Remember,
    Recall,
}

impl Replica {
    /// The next scan; `None` when none waits. Several may be under way. Call [`Self::on_scan`] when it has ended.
    pub fn next_scan(&mut self) -> Option<(ScanId, ScanJob)> {
        if !self.work().scan {
            return None;
        }
        let Scan { ticket, weight, job } = self.scans.waiting.pop_front()?;
        let about = match &job {
            ScanJob::Digest { partition, .. } => About::Digest(*partition),
            ScanJob::Summary { partition, .. } => About::Summary(*partition),
            ScanJob::Look { partition, .. } => About::Look(*partition),
            ScanJob::Fetch { partition, hashes } => About::Fetch(*partition, hashes.len()),
            ScanJob::Changes { .. } => About::Changes,
            ScanJob::Remember { .. } => About::Remember,
            ScanJob::Recall => About::Recall,
        };
        let id = ScanId(self.next_id());
        self.scanning.insert(id, Scanning { ticket, weight, about });
        Some((id, job))
    }

    pub fn on_scan(&mut self, id: ScanId, outcome: Result<ScanResult, StoreError>) {
        let Some(Scanning { ticket, weight, about }) = self.scanning.remove(&id) else { return };
        if let Err(StoreError::Unreachable(_) | StoreError::Refused(_)) = outcome {
            self.lose();
        }
        let reply = match outcome {
            // What was read from a store that has been lost since may be out of date.
            Ok(result) if self.is_open() => self.scanned(&about, result),
            Ok(ScanResult::Remembered) if matches!(about, About::Remember) => Some(SyncReply::Done),
            _ => None,
        };
        match (reply, about) {
            (Some(reply), _) => self.synced(ticket, weight, reply),
            // It may have been kept.
            (None, About::Remember) => self.end_errand(ticket, weight, ReplicaReply::Unknown),
            (None, _) => self.refuse_scan(ticket, weight),
        }
    }

    /// `None` where the result does not answer the job.
    fn scanned(&self, about: &About, result: ScanResult) -> Option<SyncReply> {
        Some(match (about, result) {
            (About::Digest(id), ScanResult::Stretch(Stretch { entries, next })) => {
                SyncReply::Digested(Digest { state: self.state(*id), entries, next })
            }
            (About::Look(id), ScanResult::Present(entries)) => {
                SyncReply::Digested(Digest { state: self.state(*id), entries, next: None })
            }
            (About::Summary(id), ScanResult::Summed(summary)) => {
                SyncReply::Summed(Summary { state: self.state(*id), ..summary })
            }
            (About::Fetch(id, asked), ScanResult::Rows(mut rows)) => {
                if rows.len() > *asked || (rows.is_empty() && *asked > 0) {
                    return None;
                }
                let flush = self.partitions[id.index()].flush;
                for row in &mut rows {
                    row.take_if(|row| row.ballot < flush);
                }
                SyncReply::Rows(rows)
            }
            (About::Changes, ScanResult::Changed(changes)) => SyncReply::Changed(changes),
            (About::Remember, ScanResult::Remembered) => SyncReply::Done,
            (About::Recall, ScanResult::Recalled(memory)) => SyncReply::Remembered(memory),
            _ => return None,
        })
    }

    /// Taken when the scan has ended: a row that it missed because it was collected meanwhile is below this floor.
    fn state(&self, id: PartitionId) -> PartitionState {
        let partition = &self.partitions[id.index()];
        PartitionState {
            flush: partition.flush,
            flush_clock: partition.flush_clock.clone(),
            floor: partition.durable_floor,
            vector: partition.vector.clone(),
            highest: partition.highest,
        }
    }

    pub(super) fn refuse_scan(&mut self, ticket: Ticket, weight: usize) {
        self.end_errand(ticket, weight, ReplicaReply::Refused(Refusal::Unavailable));
    }

    pub(super) fn refuse_waiting_scans(&mut self) {
        for Scan { ticket, weight, .. } in std::mem::take(&mut self.scans.waiting) {
            self.refuse_scan(ticket, weight);
        }
    }
}
