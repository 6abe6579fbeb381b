//! A stretch of a partition as one number: folded from digests, so that no store needs to know the rule.

use tercet_common::KeyHash;
use tercet_common::sync::{SUMMARY_ROWS_MAX, SYNC_ENTRIES_MAX, Summary};

use crate::store::Stretch;

/// Stretches of one summary. Those of a store may come short, where it meets rows below the flush; this bounds the
/// work all the same.
const STRETCHES_MAX: usize = 4 * SUMMARY_ROWS_MAX / SYNC_ENTRIES_MAX;

/// Folds the stretches that [`Self::wants`] asks for, one after the other, into a [`Summary`].
///
/// The checksum is the first 64 bits (big-endian) of BLAKE3 over each row's hash and ballot, the ballot as its four
/// numbers (epoch, n, incarnation, seq) of eight bytes, big-endian.
pub struct SummaryFold {
    hasher: blake3::Hasher,
    rows: usize,
    tombstones: u64,
    stretches: usize,
    next: Option<KeyHash>,
}

impl SummaryFold {
    /// Of the rows at or after `from`.
    pub fn new(from: KeyHash) -> Self {
        Self { hasher: blake3::Hasher::new(), rows: 0, tombstones: 0, stretches: 0, next: Some(from) }
    }

    /// The stretch to read next: where it begins and its limit. `None`: the summary is complete.
    pub fn wants(&self) -> Option<(KeyHash, usize)> {
        let limit = SUMMARY_ROWS_MAX.saturating_sub(self.rows).min(SYNC_ENTRIES_MAX);
        self.next.filter(|_| limit > 0 && self.stretches < STRETCHES_MAX).map(|from| (from, limit))
    }

    pub fn add(&mut self, stretch: &Stretch) {
        for entry in &stretch.entries {
            let ballot = entry.ballot;
            self.hasher.update(&entry.hash.0);
            for number in [ballot.epoch.0, ballot.term.n, ballot.term.incarnation.0, ballot.seq] {
                self.hasher.update(&number.to_be_bytes());
            }
            self.tombstones += u64::from(entry.tombstone);
        }
        self.rows += stretch.entries.len();
        self.stretches += 1;
        self.next = stretch.next;
    }

    /// Without the partition's state, which the replica adds.
    pub fn finish(self) -> Summary {
        let mut first = [0; 8];
        first.copy_from_slice(&self.hasher.finalize().as_bytes()[..8]);
        Summary {
            rows: self.rows as u64,
            tombstones: self.tombstones,
            checksum: u64::from_be_bytes(first),
            next: self.next,
            ..Summary::default()
        }
    }
}
