//! Collects tombstones: deletes the rows of deleted keys (design 7).
//!
//! A tombstone keeps every older version of its key from coming back. It may go once no older version is left, neither
//! in a replica nor on its way to one:
//!
//! - All replicas of a **stable** epoch hold it, at that exact ballot. One that has nothing and a floor at or above it
//!   has collected it already: a collection that ended half-way is finished by the next one.
//! - What is still on its way is refused: with the deletion, each replica raises its **floor** to the highest ballot
//!   collected, and takes no put at or below it for a key that it has no row of.
//! - So that this refuses nothing that the owner is just writing, only tombstones *below* its lowest ballot in flight are
//!   collected, and none of a key whose base it is just reading; whatever it issues later is higher than all that was
//!   seen. The owner is asked before and behind the digests: what is in flight at either time counts.
//!
//! A row that a replica missed, and that is now at or below the floor, is refused when it is re-sent, and goes to the
//! owner, who puts it again ([`super::compare`]).

use futures_util::future::join_all;
use smallvec::SmallVec;
use tercet_common::mutants::{self, Mutant};
use tercet_common::sync::{DigestEntry, PartitionState};
use tercet_common::{Ballot, KeyHash, Promise, SyncRequest};

use super::stretch::{START, Stretch};
use super::{HealError, OwnerView, Peers, Stable, order};

/// What a collection has found and done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Tombstones that no replica has any more.
    pub collected: u64,
    /// Tombstones that could not go yet.
    pub left: u64,
}

/// Collects what can go. All replicas have to answer. `done` is what was done, also after an error; what a replica has
/// collected by then is harmless, and the next run finishes it.
pub async fn collect<P: Peers>(peers: &P, group: &Stable, done: &mut Collected) -> Result<(), HealError> {
    let mut from = START;
    loop {
        let before = view(peers, group)?;
        let stretch = Stretch::read(peers, group.scope(), &group.replicas, from).await?;
        let behind = view(peers, group)?;
        if behind.promise != before.promise {
            return Err(HealError::NotOwned);
        }
        let bound = Bound::of(&before, &behind);
        let states: SmallVec<[&PartitionState; 3]> = stretch.parts.iter().map(|part| &part.state).collect();
        let mut tombstones: Vec<(KeyHash, Ballot)> = Vec::new();
        for (hash, across) in stretch.hashes() {
            match tombstone(&across, &states) {
                Some(ballot) if bound.allows(hash, ballot) => tombstones.push((hash, ballot)),
                _ => done.left += u64::from(across.iter().flatten().any(|entry| entry.tombstone)),
            }
        }
        if let Some(floor) = tombstones.iter().map(|(_, ballot)| *ballot).max() {
            let count = tombstones.len() as u64;
            let request = SyncRequest::Collect {
                partition: group.partition,
                promise: behind.promise,
                floor,
                tombstones,
            };
            let answers =
                join_all(group.replicas.iter().map(|worker| order(peers, *worker, request.clone()))).await;
            answers.into_iter().collect::<Result<(), _>>()?;
            done.collected += count;
        }
        match stretch.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

fn view<P: Peers>(peers: &P, group: &Stable) -> Result<OwnerView, HealError> {
    let view = peers.owner_view(group.partition).ok_or(HealError::NotOwned)?;
    if view.promise.epoch == group.epoch { Ok(view) } else { Err(HealError::Moved) }
}

/// Which tombstones may go.
struct Bound {
    promise: Promise,
    lowest_in_flight: Option<Ballot>,
    reading: Vec<KeyHash>,
}

impl Bound {
    fn of(before: &OwnerView, behind: &OwnerView) -> Self {
        let lowest_in_flight = [before.lowest_in_flight, behind.lowest_in_flight].into_iter().flatten().min();
        let reading = [before.reading.as_slice(), &behind.reading].concat();
        Self { promise: behind.promise, lowest_in_flight, reading }
    }

    /// A tombstone above the owner's own promise is another owner's business.
    fn allows(&self, hash: KeyHash, ballot: Ballot) -> bool {
        let settled = self.lowest_in_flight.is_none_or(|lowest| ballot < lowest);
        ballot.promise() <= self.promise && settled && !self.reading.contains(&hash)
    }
}

/// The tombstone of a key that every replica holds or has collected.
fn tombstone(across: &[Option<DigestEntry>], states: &[&PartitionState]) -> Option<Ballot> {
    let ballot = across.iter().flatten().map(|entry| entry.ballot).max()?;
    let gone = |(entry, state): (&Option<DigestEntry>, &&PartitionState)| match entry {
        Some(entry) => entry.tombstone && entry.ballot == ballot,
        None => state.floor >= ballot,
    };
    if mutants::on(Mutant::CollectWithoutAll) {
        let held = across.iter().zip(states).filter(|part| gone(*part)).count();
        return (held > across.len() / 2).then_some(ballot);
    }
    across.iter().zip(states).all(gone).then_some(ballot)
}
