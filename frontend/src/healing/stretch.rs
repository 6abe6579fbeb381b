//! Digests of several workers side by side.
//!
//! All are asked from the same hash on; the answers end at different hashes, and what lies behind the nearest end is
//! cut off and read again with the next stretch. Where the workers hold about the same, little is read twice.
//!
//! ```text
//! w1  a b c d │ e        ends at e
//! w2  a b   d │          ends at e
//! w3  a   c d │ f g      ends at g: f and g are cut off
//! ```

use futures_util::future::join_all;
use smallvec::SmallVec;
use tercet_common::sync::{Digest, DigestEntry, SYNC_ENTRIES_MAX};
use tercet_common::{KeyHash, SyncReply, SyncRequest};

use super::{HealError, Part, Peers, Scope};
use crate::coordinator::core::WorkerIx;

pub(super) const START: KeyHash = KeyHash([0; 16]);

pub(super) struct Stretch {
    /// In the order in which the workers were named.
    pub(super) parts: Vec<Part>,
    /// Where the next stretch begins; `None` at the end of the partition.
    pub(super) next: Option<KeyHash>,
}

/// What each part has of one hash.
pub(super) type Across = SmallVec<[Option<DigestEntry>; 4]>;

impl Stretch {
    /// The stretch that begins at `from`, of all these workers or of none.
    pub(super) async fn read<P: Peers>(
        peers: &P,
        scope: Scope,
        workers: &[WorkerIx],
        from: KeyHash,
    ) -> Result<Self, HealError> {
        let limit = SYNC_ENTRIES_MAX as u32;
        let answers = join_all(workers.iter().map(|worker| digest(peers, scope, *worker, from, limit))).await;
        let mut parts = Vec::with_capacity(workers.len());
        let mut next: Option<KeyHash> = None;
        for (worker, answer) in workers.iter().zip(answers) {
            let digest = answer?;
            next = [next, digest.next].into_iter().flatten().min();
            parts.push(Part { worker: *worker, state: digest.state, entries: digest.entries });
        }
        let mut stretch = Self { parts, next: None };
        stretch.cut(next);
        Ok(stretch)
    }

    /// Drops what lies at or behind `end`, unless the stretch ends before it anyway.
    pub(super) fn cut(&mut self, end: Option<KeyHash>) {
        let Some(end) = end else { return };
        if self.next.is_some_and(|next| next <= end) {
            return;
        }
        for part in &mut self.parts {
            part.entries.truncate(part.entries.partition_point(|entry| entry.hash < end));
        }
        self.next = Some(end);
    }

    /// Every hash that any part has, in order.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (KeyHash, Across)> {
        across(&self.parts)
    }
}

/// Every hash that any of the parts has, in order, with what each of them has of it.
pub(super) fn across(parts: &[Part]) -> impl Iterator<Item = (KeyHash, Across)> {
    let mut rest: SmallVec<[&[DigestEntry]; 4]> = parts.iter().map(|part| &part.entries[..]).collect();
    std::iter::from_fn(move || {
        let hash = rest.iter().filter_map(|entries| Some(entries.first()?.hash)).min()?;
        let take = |entries: &mut &[DigestEntry]| {
            let (first, behind) = entries.split_first().filter(|(first, _)| first.hash == hash)?;
            *entries = behind;
            Some(*first)
        };
        Some((hash, rest.iter_mut().map(take).collect()))
    })
}

/// One worker's digest, checked: in order, inside its bounds, and such that asking on comes to an end.
pub(super) async fn digest<P: Peers>(
    peers: &P,
    scope: Scope,
    worker: WorkerIx,
    from: KeyHash,
    limit: u32,
) -> Result<Digest, HealError> {
    let Scope { partition, epoch } = scope;
    let digest = match peers.ask(worker, SyncRequest::Digest { partition, epoch, from, limit }).await {
        Ok(SyncReply::Digested(digest)) => digest,
        Ok(_) => return Err(HealError::Malformed { worker }),
        Err(why) => return Err(HealError::of(worker, why)),
    };
    let entries = &digest.entries;
    let ordered = entries.is_sorted_by(|a, b| a.hash < b.hash)
        && entries.first().is_none_or(|first| first.hash >= from)
        && digest.next.is_none_or(|next| next > from && entries.last().is_none_or(|last| last.hash < next));
    if ordered { Ok(digest) } else { Err(HealError::Malformed { worker }) }
}
