//! The procedures' way to the workers: over the links, each call with a deadline, and below the traffic of clients.

use std::time::{Duration, Instant};

use tercet_common::{
    Epoch, Key, PartitionId, Promise, Refusal, ReplicaReply, ReplicaRequest, Row, SyncReply, SyncRequest,
};

use super::super::{ChosenFlush, OwnerView, Peers, Stable, Unanswered};
use crate::coordinator::OpError;
use crate::coordinator::cluster::Cluster;
use crate::coordinator::core::WorkerIx;

/// A stretch of large values, or a database that is busy with clients, may take this long.
const PATIENCE: Duration = Duration::from_secs(20);
/// While clients have operations under way, a pause follows each request, as a multiple of what it took ...
const PAUSE_FACTOR: u32 = 1;
/// ... up to this: a request that took longer has waited, and not worked.
const PAUSE_MAX: Duration = Duration::from_millis(20);

impl Cluster {
    /// Leaves the machine to clients for a while after a request that took so long.
    async fn yield_to_clients(&self, began: Instant) {
        if self.load() > 0 {
            let pause = began.elapsed().saturating_mul(PAUSE_FACTOR).min(PAUSE_MAX);
            tokio::time::sleep(pause).await;
        }
    }

    async fn order(&self, worker: WorkerIx, request: ReplicaRequest) -> Result<ReplicaReply, Unanswered> {
        let began = Instant::now();
        let reply = self.ask(worker, request, PATIENCE).await;
        self.yield_to_clients(began).await;
        match reply {
            Some(ReplicaReply::Refused(refusal)) => Err(Unanswered::Refused(refusal)),
            Some(reply) => Ok(reply),
            None => Err(Unanswered::Lost),
        }
    }

    async fn store(&self, worker: WorkerIx, request: ReplicaRequest) -> Result<(), Unanswered> {
        match self.order(worker, request).await {
            // Something higher is there.
            Ok(ReplicaReply::Stored) | Err(Unanswered::Refused(Refusal::Superseded { .. })) => Ok(()),
            Ok(_) => Err(Unanswered::Lost),
            Err(why) => Err(why),
        }
    }
}

impl Peers for Cluster {
    async fn ask(&self, worker: WorkerIx, request: SyncRequest) -> Result<SyncReply, Unanswered> {
        match self.order(worker, ReplicaRequest::Sync(Box::new(request))).await? {
            ReplicaReply::Synced(reply) => Ok(*reply),
            _ => Err(Unanswered::Lost),
        }
    }

    async fn replicate(&self, worker: WorkerIx, row: Row, epoch: Epoch) -> Result<(), Unanswered> {
        self.store(worker, ReplicaRequest::Replicate { row, chosen: true, epoch }).await
    }

    async fn replicate_flush(&self, worker: WorkerIx, flush: ChosenFlush) -> Result<(), Unanswered> {
        let ChosenFlush { partition, epoch, ballot, clock } = flush;
        self.store(worker, ReplicaRequest::Flush { partition, ballot, clock, chosen: Some(epoch) }).await
    }

    async fn rewrite(&self, key: Key) -> Result<(), OpError> {
        Cluster::rewrite(self, key).await
    }

    fn owner_view(&self, partition: PartitionId) -> Option<OwnerView> {
        self.with_partition(partition, |core| {
            Some(OwnerView {
                promise: core.promise_of(partition)?,
                lowest_in_flight: core.lowest_in_flight(partition),
                reading: core.reading(partition),
            })
        })?
    }

    fn passed(&self, partition: PartitionId, promise: Promise) {
        self.with_partition(partition, |core| core.passed(partition, promise));
    }

    fn stable(&self, partition: PartitionId) -> Option<Stable> {
        let group = self.group(partition)?;
        let replicas = group.replicas.to_vec();
        group.next.is_none().then_some(Stable { partition, epoch: group.epoch, replicas })
    }
}
