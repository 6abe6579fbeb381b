//! Delta sync: what a worker missed while it was away, from its peers' journals (design 7).
//!
//! The target remembers how far it has all that a peer's journal says: a position, which is a seq of that journal and
//! never a time. What the journal says behind it is compared, key by key, and only rows that the target lacks are sent:
//! the work is that of what was written, the traffic that of what was missed.
//!
//! ```text
//! target remembers   w1: 4711   w2: 830
//! journal of w1      4712 {a, b}  4713 {c}   → look at a, b, c on all replicas, give what is lacking → remember 4713
//! journal of w2      reaches back to 900 only → compare all partitions that both have                → remember
//! ```
//!
//! Keys are compared partition by partition, and a page of a journal names a few of each: so pages are gathered before they are
//! compared. A position moves only behind what was compared, so that a sync that breaks off goes on from there.
//! What cannot be compared now (a partition that is changing hands, a key that is being written) is handed back for a
//! comparison later. [`Positions`](super::positions::Positions) moves positions without reading journals while a worker
//! misses nothing.

use std::collections::{BTreeMap, BTreeSet};

use tercet_common::sync::{Changes, Memory, Position, SYNC_ENTRIES_MAX};
use tercet_common::{KeyHash, PartitionId, SyncReply, SyncRequest};

use super::compare::{Compared, compare, compare_flush, compare_keys};
use super::{HealError, Peers, Stable, order};
use crate::coordinator::core::WorkerIx;

/// Entries of a journal after which what was gathered is compared: some dozens for each partition. A page more may come.
const GATHERED_MAX: usize = 16 * SYNC_ENTRIES_MAX;

/// A worker whose journal is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub worker: WorkerIx,
    pub uuid: String,
    /// A seq of its journal that was durable before the sync began, as its heartbeats tell: how far it is to be read, and
    /// where the target is once all partitions have been compared.
    pub journal_seq: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeltaJob {
    pub target: WorkerIx,
    /// All workers that share a partition with the target.
    pub peers: Vec<Peer>,
}

/// What a delta sync has found and done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// Keys that journals named.
    pub keys: u64,
    pub pages: u64,
    pub compared: Compared,
    /// Partitions compared as a whole, because a journal did not reach back.
    pub partitions: u64,
    /// To be compared later: see the module.
    pub later: BTreeSet<PartitionId>,
}

/// Brings the target up to what its peers' journals say. A peer that fails does not keep the others from being read; its
/// error is returned at the end. `done` is what was done, also after an error.
pub async fn delta<P: Peers>(peers: &P, job: &DeltaJob, done: &mut Delta) -> Result<(), HealError> {
    let memory = recall(peers, job.target).await?;
    let mut outcome = Ok(());
    for peer in &job.peers {
        let position = memory.positions.iter().find(|position| position.peer == peer.uuid);
        let sync = Sync { peers, target: job.target, peer, done: &mut *done };
        match sync.run(position.map(|position| position.seq)).await {
            Err(error) if error.worker() == Some(job.target) => return Err(error),
            Err(error) if outcome.is_ok() => outcome = Err(error),
            _ => {}
        }
    }
    outcome
}

async fn recall<P: Peers>(peers: &P, worker: WorkerIx) -> Result<Memory, HealError> {
    match peers.ask(worker, SyncRequest::Recall).await {
        Ok(SyncReply::Remembered(memory)) => Ok(memory),
        Ok(_) => Err(HealError::Malformed { worker }),
        Err(why) => Err(HealError::of(worker, why)),
    }
}

/// What a journal says was written, by partition.
#[derive(Default)]
struct Gathered {
    upto: u64,
    entries: usize,
    partitions: BTreeMap<PartitionId, Named>,
}

#[derive(Default)]
struct Named {
    hashes: Vec<KeyHash>,
    flushed: bool,
}

impl Named {
    async fn compare<P: Peers>(
        self,
        peers: &P,
        group: &Stable,
        done: &mut Compared,
    ) -> Result<(), HealError> {
        if self.flushed {
            compare_flush(peers, group, done).await?;
        }
        compare_keys(peers, group, self.hashes, done).await
    }
}

impl Gathered {
    fn add(&mut self, changes: Changes) {
        self.upto = changes.upto;
        self.entries += changes.entries.len();
        for partition in changes.flushed {
            self.partitions.entry(partition).or_default().flushed = true;
        }
        for (partition, hash) in changes.entries {
            self.partitions.entry(partition).or_default().hashes.push(hash);
        }
    }
}

/// Why no more of a journal was gathered.
#[derive(PartialEq, Eq)]
enum End {
    Full,
    /// All that is to be read was.
    Reached,
    /// The journal does not reach back so far.
    Pruned,
}

/// The part of one peer.
struct Sync<'a, P> {
    peers: &'a P,
    target: WorkerIx,
    peer: &'a Peer,
    done: &'a mut Delta,
}

impl<P: Peers> Sync<'_, P> {
    async fn run(mut self, position: Option<u64>) -> Result<(), HealError> {
        let Some(mut since) = position else { return self.whole().await };
        loop {
            let mut gathered = Gathered { upto: since, ..Gathered::default() };
            let end = self.gather(&mut gathered).await?;
            if end == End::Pruned {
                return self.whole().await;
            }
            let upto = gathered.upto;
            self.compare(gathered).await?;
            if upto > since {
                self.remember(upto).await?;
            }
            if end == End::Reached {
                return Ok(());
            }
            since = upto;
        }
    }

    /// Reads the journal page by page.
    async fn gather(&mut self, gathered: &mut Gathered) -> Result<End, HealError> {
        loop {
            let changes = self.changes(gathered.upto).await?;
            if changes.pruned {
                return Ok(End::Pruned);
            }
            self.done.pages += 1;
            let more = changes.more;
            gathered.add(changes);
            // What clients write meanwhile is not missed, and there is no end to it.
            if !more || gathered.upto >= self.peer.journal_seq {
                return Ok(End::Reached);
            }
            if gathered.entries >= GATHERED_MAX {
                return Ok(End::Full);
            }
        }
    }

    async fn changes(&self, since: u64) -> Result<Changes, HealError> {
        let worker = self.peer.worker;
        let limit = SYNC_ENTRIES_MAX as u32;
        match self.peers.ask(worker, SyncRequest::Changes { since, limit }).await {
            // More without being further would never end.
            Ok(SyncReply::Changed(changes))
                if changes.pruned || changes.upto > since || (changes.upto == since && !changes.more) =>
            {
                Ok(changes)
            }
            Ok(_) => Err(HealError::Malformed { worker }),
            Err(why) => Err(HealError::of(worker, why)),
        }
    }

    /// The partition, if both are replicas of it. One that is changing hands is left for later.
    fn shared(&mut self, partition: PartitionId) -> Option<Stable> {
        let group = self.peers.stable(partition);
        if group.is_none() {
            self.done.later.insert(partition);
        }
        group.filter(|g| g.replicas.contains(&self.target) && g.replicas.contains(&self.peer.worker))
    }

    async fn compare(&mut self, gathered: Gathered) -> Result<(), HealError> {
        for (partition, named) in gathered.partitions {
            let Some(group) = self.shared(partition) else { continue };
            self.done.keys += named.hashes.len() as u64;
            let mut compared = Compared::default();
            let outcome = named.compare(self.peers, &group, &mut compared).await;
            self.end(partition, compared, outcome)?;
        }
        Ok(())
    }

    async fn whole(&mut self) -> Result<(), HealError> {
        for partition in PartitionId::all() {
            let Some(group) = self.shared(partition) else { continue };
            self.done.partitions += 1;
            let mut compared = Compared::default();
            let outcome = compare(self.peers, &group, &mut compared).await;
            self.end(partition, compared, outcome)?;
        }
        self.remember(self.peer.journal_seq).await
    }

    fn end(
        &mut self,
        partition: PartitionId,
        mut compared: Compared,
        outcome: Result<(), HealError>,
    ) -> Result<(), HealError> {
        if !compared.unsettled.is_empty() {
            compared.unsettled.clear();
            self.done.later.insert(partition);
        }
        self.done.compared.add(compared);
        match outcome {
            // A ring change came in between.
            Err(HealError::Moved) => {
                self.done.later.insert(partition);
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn remember(&self, seq: u64) -> Result<(), HealError> {
        let position = Position { peer: self.peer.uuid.clone(), seq };
        let memory = Memory { positions: vec![position], ..Memory::default() };
        order(self.peers, self.target, SyncRequest::Remember { memory }).await
    }
}
