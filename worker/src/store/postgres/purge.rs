//! Gives back the space of what was flushed.
//!
//! A flush writes one ballot; from its commit on, every row below it counts as absent. Here those rows are deleted, one
//! stretch of a partition after the other, beside the commits and below their pace. Nobody sees a difference: a row
//! below the flush is answered as a tombstone at the flush, whether it is there or not.
//!
//! What is due is kept in memory only. A store that opens walks through every partition that was ever flushed, because
//! it cannot know how far its predecessor came.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tercet_common::{Ballot, PartitionId};
use tokio_postgres::types::ToSql;

use super::super::{CommitBatch, PartitionChange, PartitionRecord, StoreError};
use super::Session;
use super::columns::{HashColumn, smallint};
use super::connect::within;

/// Rows that one statement looks at. How long that takes depends on their values, so the number adapts.
const STRETCH_ROWS_MAX: i64 = 2_000;
const STRETCH_ROWS_AT_FIRST: i64 = 50;
/// A commit may have to wait for a statement that deletes its key.
const SLOW: Duration = Duration::from_millis(200);
/// The pause after a statement, as a multiple of its duration: commits come first.
const PAUSE_FACTOR: u32 = 4;
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// `$1` partition, `$2` the hash to begin behind, `$3` rows. The flush is the durable one: it may have been lowered.
///
/// Locks rows in the order of commits. A row that a commit overwrites meanwhile is judged by what it has become.
const PURGE: &str = "WITH p AS MATERIALIZED ( \
       SELECT (flush).epoch, (flush).n, (flush).incarnation, (flush).seq FROM tercet.partition WHERE id = $1::smallint \
     ), stretch AS MATERIALIZED ( \
       SELECT key_hash, (epoch, n, incarnation, seq) < (SELECT p.epoch, p.n, p.incarnation, p.seq FROM p) AS dead \
       FROM tercet.entry WHERE partition = $1 AND key_hash > $2::bytea ORDER BY key_hash LIMIT $3 \
     ), dead AS MATERIALIZED ( \
       SELECT key_hash FROM tercet.entry \
       WHERE partition = $1 AND key_hash = ANY (ARRAY(SELECT key_hash FROM stretch WHERE dead)) \
         AND (epoch, n, incarnation, seq) < (SELECT p.epoch, p.n, p.incarnation, p.seq FROM p) \
       ORDER BY key_hash FOR UPDATE \
     ), gone AS ( \
       DELETE FROM tercet.entry AS e USING dead WHERE e.partition = $1 AND e.key_hash = dead.key_hash \
         AND (e.epoch, e.n, e.incarnation, e.seq) < (SELECT p.epoch, p.n, p.incarnation, p.seq FROM p) RETURNING 1 \
     ) SELECT (SELECT count(*) FROM gone), \
         (SELECT key_hash FROM stretch ORDER BY key_hash OFFSET $3::bigint - 1 LIMIT 1)";

/// What is to be deleted.
#[derive(Debug)]
pub(super) struct Purge {
    /// Durable, by partition index.
    flush: Vec<Ballot>,
    /// The highest of them: few rows are below it, so most are judged by one look.
    highest: Ballot,
    due: BTreeSet<PartitionId>,
}

impl Purge {
    pub(super) fn new(partitions: &[PartitionRecord]) -> Self {
        let flush: Vec<_> = partitions.iter().map(|record| record.flush).collect();
        let due = PartitionId::all().zip(&flush).filter(|(_, flush)| **flush > Ballot::ZERO);
        Self {
            due: due.map(|(id, _)| id).collect(),
            highest: flush.iter().copied().max().unwrap_or_default(),
            flush,
        }
    }

    /// Takes note of a commit, and says whether there is something to delete now. A row may have been accepted before a
    /// flush and be committed after it.
    pub(super) fn committed(&mut self, batch: &CommitBatch) -> bool {
        for (partition, ballot, _) in &batch.flushes {
            let flush = &mut self.flush[partition.index()];
            if ballot > flush {
                *flush = *ballot;
                self.highest = self.highest.max(*ballot);
                self.due.insert(*partition);
            }
        }
        self.wrote(batch.rows.iter().map(|write| (write.place.0, write.row.ballot)))
    }

    /// As [`Self::committed`], of rows that went to the table.
    pub(super) fn wrote(&mut self, rows: impl Iterator<Item = (PartitionId, Ballot)>) -> bool {
        for (partition, ballot) in rows.filter(|(_, ballot)| *ballot < self.highest) {
            if ballot < self.flush[partition.index()] {
                self.due.insert(partition);
            }
        }
        !self.due.is_empty()
    }

    /// The durable flush of a partition.
    pub(super) fn flush_of(&self, partition: PartitionId) -> Ballot {
        self.flush[partition.index()]
    }

    /// As [`Self::committed`]; the flush may be lower than before.
    pub(super) fn changed(&mut self, change: &PartitionChange) -> bool {
        let partition = change.partition;
        let flush = &mut self.flush[partition.index()];
        if let Some((ballot, _)) = &change.flush {
            *flush = *ballot;
            self.highest = self.highest.max(*ballot);
            if *ballot > Ballot::ZERO {
                self.due.insert(partition);
            }
        }
        if change.rows.iter().any(|row| row.ballot < *flush) {
            self.due.insert(partition);
        }
        !self.due.is_empty()
    }

    fn next(&mut self) -> Option<PartitionId> {
        self.due.pop_first()
    }
}

/// Until the session ends.
pub(super) async fn run(session: &Session) {
    loop {
        let next = session.purge.lock().next();
        let Some(partition) = next else {
            session.purge_due.notified().await;
            continue;
        };
        match purge(session, partition).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(%partition, rows, "flushed rows are deleted"),
            Err(_) if session.lost.check().is_err() => return,
            Err(error) => {
                tracing::warn!(%error, %partition, "flushed rows could not be deleted; will try again");
                session.purge.lock().due.insert(partition);
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Deletes all of a partition that is below the flush, and says how many rows that were.
async fn purge(session: &Session, partition: PartitionId) -> Result<u64, StoreError> {
    let id = smallint(partition);
    let (mut behind, mut rows): (Vec<u8>, u64) = (Vec::new(), 0);
    let mut rows_max = STRETCH_ROWS_AT_FIRST;
    loop {
        let params: [&(dyn ToSql + Sync); 3] = [&id, &behind, &rows_max];
        // A statement that began before the flush was lowered must have ended before rows below it come in.
        let turn = session.purge_turn.lock().await;
        let client = session.writers.get().await?;
        let began = Instant::now();
        // Not prepared for long: the plan is to follow the table, which may be about to shrink to nothing.
        let answer = within(session.patience, client.query_one(PURGE, &params)).await;
        drop(client);
        drop(turn);
        let took = began.elapsed();
        match answer {
            Ok(row) => {
                rows += row.get::<_, i64>(0).unsigned_abs();
                let Some(HashColumn(end)) = row.get(1) else { return Ok(rows) };
                behind = end.to_vec();
            }
            // Large values, one row of which is many in the table behind.
            Err(StoreError::Timeout(_)) if rows_max > 1 => {}
            Err(error) => return Err(error),
        }
        rows_max = if took > SLOW { (rows_max / 4).max(1) } else { (rows_max * 2).min(STRETCH_ROWS_MAX) };
        tokio::time::sleep(took * PAUSE_FACTOR).await;
    }
}
