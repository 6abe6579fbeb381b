//! A replica that follows the rules of design 4 and 6, without a database.

use std::collections::{HashMap, HashSet};

use tercet_common::message::{Held, Promises};
use tercet_common::{
    Ballot, Epoch, Key, PartitionId, Promise, Refusal, ReplicaReply, ReplicaRequest, Row, Term, VectorClock,
};

use super::super::{Group, WorkerIx};

#[derive(Default)]
pub(super) struct Replica {
    me: WorkerIx,
    pub(super) promises: HashMap<PartitionId, Promise>,
    /// How many times a promise was raised, and which time it was for each.
    raised: u64,
    raised_at: HashMap<PartitionId, u64>,
    pub(super) rows: HashMap<Key, Row>,
    /// Tombstones up to it may be collected.
    pub(super) floor: Ballot,
    /// Highest ballot stored, and its clock.
    pub(super) vectors: HashMap<PartitionId, (Ballot, VectorClock)>,
    flushes: HashMap<PartitionId, Ballot>,
    /// The configuration that it holds. A partition without one may be spoken of in any epoch.
    groups: HashMap<PartitionId, Group>,
    joining: HashMap<PartitionId, Joining>,
    /// Refuse everything so, while set.
    pub(super) refusing: Option<Refusal>,
}

/// What a newcomer may show of its own from before the joint epoch: what its copy has passed.
struct Joining {
    epoch: Epoch,
    flush: bool,
    keys: HashSet<Key>,
}

/// What a source of a copy holds of a partition. The join of several is what their majority knows.
#[derive(Clone, Default)]
pub(super) struct Snapshot {
    rows: HashMap<Key, Row>,
    flush: Ballot,
    vector: (Ballot, VectorClock),
}

impl Snapshot {
    pub(super) fn join(&mut self, other: Self) {
        self.flush = self.flush.max(other.flush);
        follow(&mut self.vector, other.vector.0, &other.vector.1);
        for (key, row) in other.rows {
            if self.rows.get(&key).is_none_or(|held| held.ballot < row.ballot) {
                self.rows.insert(key, row);
            }
        }
    }
}

fn follow((highest, vector): &mut (Ballot, VectorClock), ballot: Ballot, clock: &VectorClock) {
    vector.follow(highest, ballot, clock);
}

#[expect(clippy::result_large_err, reason = "a model, not a hot path")]
impl Replica {
    pub(super) fn new(me: WorkerIx) -> Self {
        Self { me, ..Self::default() }
    }

    /// The configuration says this of the partition: from now on older epochs are refused.
    pub(super) fn configure(&mut self, partition: PartitionId, group: Group) {
        let epoch = group.epoch;
        if self.epoch(partition).is_some_and(|held| held >= epoch) {
            return;
        }
        let fence = Promise { epoch, term: Term::default() };
        let _ = self.raise(partition, fence);
        self.joining.remove(&partition);
        if group.stays(self.me) && !group.replicas.contains(&self.me) {
            self.joining.insert(partition, Joining { epoch, flush: false, keys: HashSet::new() });
        }
        self.groups.insert(partition, group);
    }

    /// The epoch of the configuration that it holds.
    pub(super) fn epoch(&self, partition: PartitionId) -> Option<Epoch> {
        self.groups.get(&partition).map(|group| group.epoch)
    }

    pub(super) fn snapshot(&self, partition: PartitionId) -> Snapshot {
        let rows = self.rows.iter().filter(|(key, _)| key.partition() == partition);
        Snapshot {
            rows: rows.map(|(key, row)| (key.clone(), row.clone())).collect(),
            flush: self.flushes.get(&partition).copied().unwrap_or(Ballot::ZERO),
            vector: self.vectors.get(&partition).cloned().unwrap_or_default(),
        }
    }

    /// The first step of a copy: its own flush from before the joint epoch gives way to that of the sources.
    pub(super) fn copy_flush(&mut self, partition: PartitionId, from: &Snapshot) {
        let Some(joining) = self.joining.get_mut(&partition) else { return };
        joining.flush = true;
        let flush = self.flushes.entry(partition).or_default();
        *flush = if flush.epoch < joining.epoch { from.flush } else { from.flush.max(*flush) };
        follow(self.vectors.entry(partition).or_default(), from.vector.0, &from.vector.1);
    }

    /// The copy passes a key: what it holds of it from before the joint epoch gives way to what the sources hold.
    pub(super) fn copy_key(&mut self, key: &Key, from: &Snapshot) {
        let Some(joining) = self.joining.get_mut(&key.partition()) else { return };
        joining.keys.insert(key.clone());
        if self.rows.get(key).is_some_and(|row| row.ballot.epoch < joining.epoch) {
            self.rows.remove(key);
        }
        if let Some(row) = from.rows.get(key) {
            self.install(row.clone());
        }
    }

    fn check(&self, partition: PartitionId, epoch: Epoch) -> Result<(), ReplicaReply> {
        let promised = self.promises.get(&partition).map_or(Epoch(0), |promise| promise.epoch);
        if epoch < promised {
            return Err(ReplicaReply::Refused(Refusal::Epoch { current: promised }));
        }
        match self.groups.get(&partition) {
            Some(group) if epoch > group.epoch => Err(ReplicaReply::Refused(Refusal::Unavailable)),
            Some(group) if !group.contains(self.me) => Err(ReplicaReply::Refused(Refusal::NotMember)),
            _ => Ok(()),
        }
    }

    fn raise(&mut self, partition: PartitionId, promise: Promise) -> Result<(), ReplicaReply> {
        let held = self.promises.entry(partition).or_default();
        if promise < *held {
            return Err(ReplicaReply::Refused(Refusal::Promise { promised: *held }));
        }
        if promise > *held {
            *held = promise;
            self.raised += 1;
            self.raised_at.insert(partition, self.raised);
        }
        Ok(())
    }

    fn held(&self, key: &Key, digest: bool) -> ReplicaReply {
        let joining = self.joining.get(&key.partition());
        let flush = self.flushes.get(&key.partition()).copied().unwrap_or(Ballot::ZERO);
        let shows_flush = joining.is_none_or(|j| j.flush || flush.epoch >= j.epoch);
        let flush = if shows_flush { flush } else { Ballot::ZERO };
        let shows = |row: &Row| joining.is_none_or(|j| row.ballot.epoch >= j.epoch || j.keys.contains(key));
        let row = self.rows.get(key).filter(|row| row.ballot > flush && shows(row));
        let ballot = row.map_or(flush, |row| row.ballot);
        ReplicaReply::Version(Held {
            ballot,
            row: row.filter(|_| !digest).cloned(),
            floor: if row.is_none() { self.floor } else { Ballot::ZERO },
        })
    }

    fn install(&mut self, row: Row) {
        follow(self.vectors.entry(row.key.partition()).or_default(), row.ballot, &row.clock);
        if self.rows.get(&row.key).is_none_or(|old| old.ballot < row.ballot) {
            self.rows.insert(row.key.clone(), row);
        }
    }

    pub(super) fn handle(&mut self, request: ReplicaRequest) -> ReplicaReply {
        if let Some(refusal) = &self.refusing {
            return ReplicaReply::Refused(refusal.clone());
        }
        self.apply(request).unwrap_or_else(|refused| refused)
    }

    fn apply(&mut self, request: ReplicaRequest) -> Result<ReplicaReply, ReplicaReply> {
        if let Some((partition, epoch)) = request.scope() {
            self.check(partition, epoch)?;
        }
        Ok(match request {
            ReplicaRequest::Prepare { partition, promise } => {
                self.raise(partition, promise)?;
                let (highest, vector) = self.vectors.get(&partition).cloned().unwrap_or_default();
                ReplicaReply::Prepared { vector, highest }
            }
            ReplicaRequest::Put { row } | ReplicaRequest::Replicate { row, chosen: false, .. } => {
                self.raise(row.key.partition(), row.ballot.promise())?;
                if let Some(old) = self.rows.get(&row.key)
                    && old.ballot > row.ballot
                    && old.ballot.promise() != row.ballot.promise()
                {
                    return Err(ReplicaReply::Refused(Refusal::Superseded { ballot: old.ballot }));
                }
                self.install(row);
                ReplicaReply::Stored
            }
            ReplicaRequest::Replicate { row, chosen: true, .. } => {
                self.install(row);
                ReplicaReply::Stored
            }
            ReplicaRequest::Get { key, digest, .. } => self.held(&key, digest),
            ReplicaRequest::GetForWrite { promise, key } => {
                self.raise(key.partition(), promise)?;
                self.held(&key, false)
            }
            ReplicaRequest::Flush { partition, ballot, clock, chosen } => {
                if chosen.is_none() {
                    self.raise(partition, ballot.promise())?;
                }
                let flush = self.flushes.entry(partition).or_default();
                *flush = (*flush).max(ballot);
                follow(self.vectors.entry(partition).or_default(), ballot, &clock);
                ReplicaReply::Stored
            }
            ReplicaRequest::Promises { since } => {
                let news = self.raised_at.iter().filter(|(_, at)| **at > since);
                let raised = news.map(|(id, _)| (*id, self.promises[id])).collect();
                ReplicaReply::Promises(Promises { since, upto: self.raised, raised })
            }
            // The core asks for none.
            ReplicaRequest::Sync(_) => ReplicaReply::Refused(Refusal::Invalid),
        })
    }
}
