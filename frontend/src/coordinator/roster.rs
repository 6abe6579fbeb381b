//! The workers that this frontend has to do with, by number, and the configuration in terms of these numbers.
//!
//! A worker gets its number, and its link, when it first appears in a configuration, and keeps both for as long as the
//! frontend lives: what cores, links and repair queues say of a number never means somebody else.

use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use tercet_common::{PartitionId, RingConfig, WorkerId};

use super::core::{Group, Replicas, WorkerIx};
use crate::replica::link::Link;

/// A worker over certain data: see `tercet_common::Member`.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) ix: WorkerIx,
    pub(crate) id: WorkerId,
    /// Whose data it is; empty until the configuration names it.
    uuid: Arc<OnceLock<String>>,
    pub(crate) link: Arc<Link>,
}

impl Peer {
    pub(crate) fn new(ix: WorkerIx, id: WorkerId, uuid: &str, link: Arc<Link>) -> Self {
        let peer = Self { ix, id, uuid: Arc::default(), link };
        peer.name(uuid);
        peer
    }

    /// A member whose data was not known gets it named, once and for all.
    fn name(&self, uuid: &str) {
        if !uuid.is_empty() {
            // It has a name already, and is found by it.
            let _ = self.uuid.set(uuid.to_owned());
        }
    }

    /// Whether this data is meant: any, as long as it is not known.
    pub(crate) fn is_over(&self, uuid: &str) -> bool {
        self.uuid.get().is_none_or(|own| own == uuid)
    }
}

#[derive(Default)]
pub(super) struct Roster(RwLock<Vec<Peer>>);

impl Roster {
    pub(super) fn get(&self, worker: WorkerIx) -> Option<Peer> {
        self.0.read().get(usize::from(worker)).cloned()
    }

    /// The number of a worker over this data, if it has one.
    pub(super) fn find(&self, id: &WorkerId, uuid: &str) -> Option<WorkerIx> {
        let peers = self.0.read();
        let is_it = |p: &&Peer| p.id == *id && p.uuid.get().is_some_and(|own| own == uuid);
        peers.iter().find(is_it).map(|peer| peer.ix)
    }

    /// The number of a member of a configuration. One that had none by its data takes the place of the one under its name
    /// whose data was not known, and makes it known: two identities never share a number.
    pub(super) fn find_member(&self, id: &WorkerId, uuid: &str) -> Option<WorkerIx> {
        if let Some(known) = self.find(id, uuid) {
            return Some(known);
        }
        let peers = self.0.read();
        let unnamed = peers.iter().find(|p| p.id == *id && p.uuid.get().is_none())?;
        unnamed.name(uuid);
        Some(unnamed.ix)
    }

    pub(super) fn add(&self, make: impl FnOnce(WorkerIx) -> Peer) -> Peer {
        let mut peers = self.0.write();
        let peer = make(peers.len() as WorkerIx);
        peers.push(peer.clone());
        peer
    }

    pub(super) fn all(&self) -> Vec<Peer> {
        self.0.read().clone()
    }

    /// Does something with the link of each worker, under the lock: no more than a look or a push.
    pub(super) fn with_links<T>(&self, f: impl FnOnce(&[Peer]) -> T) -> T {
        f(&self.0.read())
    }
}

/// A configuration in force, and the number of each of its members.
pub(super) struct RingState {
    pub(super) config: Arc<RingConfig>,
    pub(super) workers: Vec<WorkerIx>,
}

impl RingState {
    pub(super) fn group(&self, partition: PartitionId) -> Group {
        let row = self.config.assignment(partition);
        let numbers = |set: &tercet_common::ring_config::Replicas| -> Replicas {
            set.iter().map(|member| self.workers[usize::from(*member)]).collect()
        };
        Group { epoch: row.epoch, replicas: numbers(&row.replicas), next: row.next.as_ref().map(numbers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(roster: &Roster, id: &str, uuid: &str) -> WorkerIx {
        let id = WorkerId::new(id).unwrap();
        roster.add(|ix| Peer::new(ix, id.clone(), uuid, Link::new(ix, id.clone(), None, 1))).ix
    }

    #[test]
    fn a_member_that_was_named_late_does_not_share_its_number_with_who_replaces_it() {
        let (roster, w3) = (Roster::default(), WorkerId::new("w3").unwrap());
        let unnamed = add(&roster, "w3", "");
        assert_eq!(roster.find(&w3, "first"), None);
        assert_eq!(roster.find_member(&w3, "first"), Some(unnamed));
        assert_eq!(roster.find(&w3, "first"), Some(unnamed));
        assert_eq!(roster.find_member(&w3, "second"), None, "other data is somebody else");
        let second = add(&roster, "w3", "second");
        assert_eq!((roster.find(&w3, "first"), roster.find(&w3, "second")), (Some(unnamed), Some(second)));
    }
}
