//! Makes the replicas of a partition in a stable epoch equal: all of it, or some of its keys.
//!
//! ```text
//! summaries, side by side      equal: on to the next stretch
//! digests of the stretch       the hashes at which the replicas differ
//! look at these once more      what was only being written is equal by now
//! for each that still differs
//!   a majority holds the highest ballot   → fetched once, given to those who lack it
//!   no majority does                      → the owner puts the highest again under a fresh ballot
//! ```
//!
//! What the owner has under way is left alone: its calls end within their deadline, and then the replicas are equal or
//! the key is known to be missed. It is reported as unsettled.
//!
//! **Flushes.** A flush that a majority holds is chosen, and is given to those who lack it before any row is compared.
//! Of a flush that only a minority holds, only the effect on each key is made equal, by rewriting those keys: the flush
//! itself cannot be put again, neither at its own ballot (the owner has read keys since that it would hide) nor at a
//! fresh one (it would delete what was written since). The replicas then hold the same rows, and different flushes below
//! them.
//!
//! **Collected tombstones.** A replica without the row and with a floor at or above a tombstone's ballot has collected
//! it, or need not have it: a version below the floor cannot come back there. That is no difference; [`super::collect`]
//! finishes it.

use futures_util::future::join_all;
use smallvec::SmallVec;
use tercet_common::message::Refusal;
use tercet_common::quorum::majority;
use tercet_common::sync::{DigestEntry, PartitionState, Summary};
use tercet_common::{Ballot, Key, KeyHash, Row, SyncReply, SyncRequest};

use super::stretch::{START, Stretch, across};
use super::{
    CALLS_AT_ONCE, ChosenFlush, HASHES_MAX, HealError, Peers, Scope, Stable, Unanswered, fetch, look,
};
use crate::coordinator::core::WorkerIx;

/// How often keys that are being written are looked at before they are reported as unsettled.
const LOOKS_MAX: u32 = 3;

/// What a comparison has found and done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// Rows of the replica that has most, as far as stretches were compared; of these, the tombstones.
    pub rows: u64,
    pub tombstones: u64,
    /// Stretches that were read because their summaries differed.
    pub stretches_read: u64,
    /// Rows given to replicas that lacked them, and their bytes.
    pub replicated: u64,
    pub bytes: u64,
    /// Keys put again by the owner.
    pub rewritten: u64,
    pub flushes: u64,
    /// Keys that differ and are being written.
    pub unsettled: Vec<KeyHash>,
}

impl Compared {
    /// The replicas were found equal, and nothing had to be done.
    pub fn was_equal(&self) -> bool {
        self.replicated + self.rewritten + self.flushes == 0 && self.unsettled.is_empty()
    }

    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.tombstones += other.tombstones;
        self.stretches_read += other.stretches_read;
        self.replicated += other.replicated;
        self.bytes += other.bytes;
        self.rewritten += other.rewritten;
        self.flushes += other.flushes;
        self.unsettled.extend(other.unsettled);
    }
}

/// Compares a whole partition. All replicas have to answer. `done` is what was done, also after an error.
pub async fn compare<P: Peers>(peers: &P, group: &Stable, done: &mut Compared) -> Result<(), HealError> {
    let promise = || Some(peers.owner_view(group.partition)?.promise);
    let began = promise();
    let mut from = START;
    let mut flushed = false;
    loop {
        let summaries = summaries(peers, group, from).await?;
        if !flushed {
            flushed = true;
            let states = group.replicas.iter().copied().zip(summaries.iter().map(|summary| &summary.state));
            if settle_flush(peers, group, states, done).await? {
                // Other rows are hidden now.
                continue;
            }
        }
        let end = summaries.iter().filter_map(|summary| summary.next).min();
        if !same(&summaries) {
            compare_stretch(peers, group, from, end, done).await?;
        }
        done.rows += summaries.iter().map(|summary| summary.rows).max().unwrap_or(0);
        done.tombstones += summaries.iter().map(|summary| summary.tombstones).max().unwrap_or(0);
        match end {
            Some(next) => from = next,
            None => break,
        }
    }
    if let Some(promise) = began.filter(|began| done.was_equal() && promise() == Some(*began)) {
        peers.passed(group.partition, promise);
    }
    Ok(())
}

/// Compares some keys of a partition. All replicas have to answer. `done` is what was done, also after an error.
pub async fn compare_keys<P: Peers>(
    peers: &P,
    group: &Stable,
    mut hashes: Vec<KeyHash>,
    done: &mut Compared,
) -> Result<(), HealError> {
    hashes.sort_unstable();
    hashes.dedup();
    settle(peers, group, hashes, done).await
}

/// Compares the flush of a partition. All replicas have to answer.
pub async fn compare_flush<P: Peers>(
    peers: &P,
    group: &Stable,
    done: &mut Compared,
) -> Result<(), HealError> {
    let parts = look(peers, group.scope(), &group.replicas, &[]).await?;
    settle_flush(peers, group, parts.iter().map(|part| (part.worker, &part.state)), done).await?;
    Ok(())
}

async fn summaries<P: Peers>(
    peers: &P,
    group: &Stable,
    from: KeyHash,
) -> Result<SmallVec<[Summary; 3]>, HealError> {
    let Scope { partition, epoch } = group.scope();
    let ask = |worker: &WorkerIx| peers.ask(*worker, SyncRequest::Summary { partition, epoch, from });
    let answers = join_all(group.replicas.iter().map(ask)).await;
    let mut summaries = SmallVec::new();
    for (worker, answer) in group.replicas.iter().copied().zip(answers) {
        match answer {
            Ok(SyncReply::Summed(summary)) if summary.next.is_none_or(|next| next > from) => {
                summaries.push(summary);
            }
            Ok(_) => return Err(HealError::Malformed { worker }),
            Err(why) => return Err(HealError::of(worker, why)),
        }
    }
    Ok(summaries)
}

fn same(summaries: &[Summary]) -> bool {
    let told = |summary: &Summary| (summary.rows, summary.checksum, summary.next);
    summaries.windows(2).all(|pair| told(&pair[0]) == told(&pair[1]))
}

/// Gives the highest flush that a majority holds to those who lack it. `true`: somebody lacked it.
async fn settle_flush<'a, P: Peers>(
    peers: &P,
    group: &Stable,
    states: impl Iterator<Item = (WorkerIx, &'a PartitionState)>,
    done: &mut Compared,
) -> Result<bool, HealError> {
    let states: SmallVec<[(WorkerIx, &PartitionState); 3]> = states.collect();
    let holders = |ballot| states.iter().filter(|(_, state)| state.flush == ballot).count();
    let chosen =
        states.iter().map(|(_, state)| state.flush).filter(|flush| holders(*flush) >= majority(states.len()));
    let Some(ballot) = chosen.max() else { return Ok(false) };
    let Some((_, holder)) = states.iter().find(|(_, state)| state.flush == ballot) else { return Ok(false) };
    let mut given = false;
    for (worker, _) in states.iter().filter(|(_, state)| state.flush < ballot) {
        let Scope { partition, epoch } = group.scope();
        let flush = ChosenFlush { partition, epoch, ballot, clock: holder.flush_clock.clone() };
        peers.replicate_flush(*worker, flush).await.map_err(|why| HealError::of(*worker, why))?;
        done.flushes += 1;
        given = true;
    }
    Ok(given)
}

async fn compare_stretch<P: Peers>(
    peers: &P,
    group: &Stable,
    mut from: KeyHash,
    end: Option<KeyHash>,
    done: &mut Compared,
) -> Result<(), HealError> {
    loop {
        let mut stretch = Stretch::read(peers, group.scope(), &group.replicas, from).await?;
        stretch.cut(end);
        done.stretches_read += 1;
        let states: SmallVec<[&PartitionState; 3]> = stretch.parts.iter().map(|part| &part.state).collect();
        let differ = stretch.hashes().filter(|(_, across)| judge(across, &states, None) != Verdict::Equal);
        let differ = differ.map(|(hash, _)| hash).collect();
        settle(peers, group, differ, done).await?;
        match stretch.next {
            Some(next) if end.is_none_or(|end| next < end) => from = next,
            _ => return Ok(()),
        }
    }
}

/// What is to be done about one key.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    Equal,
    /// The version is chosen; of the parts, `to` lack it.
    Replicate {
        ballot: Ballot,
        from: usize,
        to: SmallVec<[usize; 3]>,
    },
    /// No majority holds the highest version. The key's bytes can be had `from` this part.
    Rewrite {
        from: usize,
    },
    /// It differs because the owner is at it.
    UnderWay,
}

/// `across`: what each part has of the key. `in_flight`: the owner's lowest ballot under way.
fn judge(across: &[Option<DigestEntry>], states: &[&PartitionState], in_flight: Option<Ballot>) -> Verdict {
    let row = |part: usize| across[part].map_or(Ballot::ZERO, |entry| entry.ballot);
    // A key below the flush counts as deleted by it.
    let version = |part: usize| row(part).max(states[part].flush);
    let parts = 0..across.len().min(states.len());
    let Some(highest) = parts.clone().map(version).max() else { return Verdict::Equal };
    let Some(from) = parts.clone().filter(|part| across[*part].is_some()).max_by_key(|part| row(*part))
    else {
        return Verdict::Equal;
    };
    let is_tombstone = across[from].is_some_and(|entry| entry.tombstone && entry.ballot == highest);
    let collected = |part: usize| is_tombstone && across[part].is_none() && states[part].floor >= highest;
    let lacking: SmallVec<[usize; 3]> =
        parts.clone().filter(|part| version(*part) < highest && !collected(*part)).collect();
    if lacking.is_empty() {
        return Verdict::Equal;
    }
    if in_flight.is_some_and(|lowest| lowest <= highest) {
        return Verdict::UnderWay;
    }
    let holders = parts.clone().filter(|part| row(*part) == highest).count();
    if holders >= majority(across.len()) {
        Verdict::Replicate { ballot: highest, from, to: lacking }
    } else {
        Verdict::Rewrite { from }
    }
}

/// Makes the replicas equal at these hashes (sorted).
async fn settle<P: Peers>(
    peers: &P,
    group: &Stable,
    mut hashes: Vec<KeyHash>,
    done: &mut Compared,
) -> Result<(), HealError> {
    for _ in 0..LOOKS_MAX {
        if hashes.is_empty() {
            return Ok(());
        }
        let mut under_way = Vec::new();
        for chunk in hashes.chunks(HASHES_MAX) {
            // On both sides of the look: a put that it saw half done was in flight at one of them.
            let in_flight = || peers.owner_view(group.partition)?.lowest_in_flight;
            let before = in_flight();
            let parts = look(peers, group.scope(), &group.replicas, chunk).await?;
            let in_flight = [before, in_flight()].into_iter().flatten().min();
            let states: SmallVec<[&PartitionState; 3]> = parts.iter().map(|part| &part.state).collect();
            let mut work = Work { peers, group, chosen: Vec::new(), minority: Vec::new() };
            for (hash, across) in across(&parts) {
                match judge(&across, &states, in_flight) {
                    Verdict::Equal => {}
                    Verdict::Replicate { ballot, from, to } => work.chosen.push((from, hash, ballot, to)),
                    Verdict::Rewrite { from } => work.minority.push((from, hash)),
                    Verdict::UnderWay => under_way.push(hash),
                }
            }
            work.run(&mut under_way, done).await?;
        }
        under_way.sort_unstable();
        hashes = under_way;
    }
    done.unsettled.extend(hashes);
    Ok(())
}

/// What was decided of some keys, by position of the replica from which they can be had.
struct Work<'a, P> {
    peers: &'a P,
    group: &'a Stable,
    chosen: Vec<(usize, KeyHash, Ballot, SmallVec<[usize; 3]>)>,
    minority: Vec<(usize, KeyHash)>,
}

impl<P: Peers> Work<'_, P> {
    /// Keys that have changed meanwhile go to `again`.
    async fn run(self, again: &mut Vec<KeyHash>, done: &mut Compared) -> Result<(), HealError> {
        let mut keys = Vec::new();
        for from in 0..self.group.replicas.len() {
            let chosen: Vec<_> = self.chosen.iter().filter(|(of, ..)| *of == from).collect();
            let hashes: Vec<KeyHash> = chosen.iter().map(|(_, hash, ..)| *hash).collect();
            let mut at = 0;
            while at < hashes.len() {
                let rows = self.fetch(from, &hashes[at..]).await?;
                let mut calls = Vec::new();
                for (row, (_, hash, ballot, to)) in rows.into_iter().zip(&chosen[at..]) {
                    at += 1;
                    match row.filter(|row| row.ballot == *ballot) {
                        Some(row) => calls.extend(to.iter().map(|to| (*to, row.clone()))),
                        None => again.push(*hash),
                    }
                }
                self.replicate(calls, &mut keys, done).await?;
            }
            let of_it = self.minority.iter().filter(|(of, _)| *of == from);
            let hashes: Vec<KeyHash> = of_it.map(|(_, hash)| *hash).collect();
            let mut at = 0;
            while at < hashes.len() {
                for row in self.fetch(from, &hashes[at..]).await? {
                    match row {
                        Some(row) => keys.push(row.key),
                        None => again.push(hashes[at]),
                    }
                    at += 1;
                }
            }
        }
        self.rewrite(keys, done).await
    }

    async fn fetch(&self, from: usize, hashes: &[KeyHash]) -> Result<Vec<Option<Row>>, HealError> {
        fetch(self.peers, self.group.scope(), self.group.replicas[from], hashes).await
    }

    /// Rows that are refused for their floor go to `rewrite`: only the owner may bring them back.
    async fn replicate(
        &self,
        calls: Vec<(usize, Row)>,
        rewrite: &mut Vec<Key>,
        done: &mut Compared,
    ) -> Result<(), HealError> {
        for calls in calls.chunks(CALLS_AT_ONCE) {
            let call = |(to, row): &(usize, Row)| {
                self.peers.replicate(self.group.replicas[*to], row.clone(), self.group.epoch)
            };
            let answers = join_all(calls.iter().map(call)).await;
            for ((to, row), answer) in calls.iter().zip(answers) {
                match answer {
                    Ok(()) => {
                        done.replicated += 1;
                        done.bytes += row.weight() as u64;
                    }
                    Err(Unanswered::Refused(Refusal::Floor { .. })) => rewrite.push(row.key.clone()),
                    // It has a higher version by now.
                    Err(Unanswered::Refused(Refusal::Superseded { .. })) => {}
                    Err(why) => return Err(HealError::of(self.group.replicas[*to], why)),
                }
            }
        }
        Ok(())
    }

    async fn rewrite(&self, mut keys: Vec<Key>, done: &mut Compared) -> Result<(), HealError> {
        keys.sort_unstable();
        keys.dedup();
        for keys in keys.chunks(CALLS_AT_ONCE) {
            for answer in join_all(keys.iter().map(|key| self.peers.rewrite(key.clone()))).await {
                answer?;
                done.rewritten += 1;
            }
        }
        Ok(())
    }
}
