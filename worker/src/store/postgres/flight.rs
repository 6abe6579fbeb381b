//! A transaction with a journal row, between the draw of its seq and its end.

use std::collections::BTreeMap;

use tercet_common::PartitionId;

use super::super::StoreError;
use super::super::codec::Advance;
use super::super::ledger::Seen;
use super::Session;
use super::columns::signed;
use super::maintain::CHECKPOINT_EVERY;

/// Dropped without a word about its end, its outcome is unknown.
pub(super) struct InFlight<'a> {
    session: &'a Session,
    seq: i64,
    number: u64,
    advances: Vec<Advance>,
    ended: bool,
}

impl<'a> InFlight<'a> {
    /// `sums` is what the transaction adds to its partitions.
    pub(super) fn begin(session: &'a Session, sums: BTreeMap<PartitionId, Seen>) -> Result<Self, StoreError> {
        let (number, advances) = session.ledger.lock().begin(sums);
        Ok(Self { session, seq: signed(number)?, number, advances, ended: false })
    }

    pub(super) fn seq(&self) -> i64 {
        self.seq
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn advances(&self) -> &[Advance] {
        &self.advances
    }

    /// The server itself said that nothing of it happened.
    pub(super) fn aborted(mut self) {
        self.ended = true;
        self.session.ledger.lock().aborted(self.number);
    }

    /// Answers its seq.
    pub(super) fn committed(mut self) -> u64 {
        self.ended = true;
        let mut ledger = self.session.ledger.lock();
        ledger.committed(self.number, &self.advances);
        if ledger.since_checkpoint() >= CHECKPOINT_EVERY {
            self.session.checkpoint_due.notify_one();
        }
        self.session.metrics.journal_seq.set(self.number as f64);
        self.number
    }

    /// Nobody knows: the store is lost, for this reason.
    pub(super) fn unknown(self, error: StoreError) -> StoreError {
        self.session.lost.lose(&error.to_string());
        error
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.session.lost.lose("a commit ended without an outcome");
        }
    }
}
