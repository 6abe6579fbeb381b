//! The workers that this frontend has to do with, by number, and the configuration in terms of these numbers.
//!
//! A worker gets its number, and its link, when it first appears in a configuration, and keeps both for as long as the
//! frontend lives: what cores, links and repair queues say of a number never means somebody else.

use std::sync::Arc;

use parking_lot::RwLock;
use tercet_common::{PartitionId, RingConfig, WorkerId};

use super::core::{Group, Replicas, WorkerIx};
use crate::replica::link::Link;

/// A worker over certain data: see `tercet_common::Member`.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) ix: WorkerIx,
    pub(crate) id: WorkerId,
    /// Whose data it is.
    pub(crate) uuid: String,
    pub(crate) link: Arc<Link>,
}

#[derive(Default)]
pub(super) struct Roster(RwLock<Vec<Peer>>);

impl Roster {
    pub(super) fn get(&self, worker: WorkerIx) -> Option<Peer> {
        self.0.read().get(usize::from(worker)).cloned()
    }

    pub(super) fn find(&self, id: &WorkerId, uuid: &str) -> Option<WorkerIx> {
        let peers = self.0.read();
        // The newest of them: one whose data was not known when it came counts for any.
        let found = peers.iter().rposition(|p| p.id == *id && (p.uuid.is_empty() || p.uuid == uuid));
        found.map(|ix| ix as WorkerIx)
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

    pub(super) fn member_of(&self, worker: WorkerIx) -> Option<usize> {
        self.workers.iter().position(|ix| *ix == worker)
    }
}
