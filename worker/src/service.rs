//! The Replica service: wire to domain, and nothing else.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream;
use tercet_common::ring_register::Ask;
use tercet_common::{KeyHash, PartitionId, Refusal, ReplicaReply, UnixMillis};
use tercet_proto::convert::{WireError, partition_from_wire, request_from_wire};
use tercet_proto::v1::replica_server::Replica as ReplicaService;
use tercet_proto::{BATCH_BYTES_TARGET, BATCH_LEN_MAX, life, v1};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::engine::{Engine, Refused, Registration, ReplyQueue};
use crate::replica::Arrival;
use crate::store::{Page, ScanFrom, ScanOptions, StoreError};

/// Rows of one scan page.
const SCAN_ROWS_MAX: u32 = 10_000;
/// Scans and counts that may run or wait at once; one more is refused.
const SCANS_MAX: usize = 32;

pub(crate) struct Service {
    engine: Arc<Engine>,
    scans: Semaphore,
    /// Ends streams, once what they asked is answered.
    stop: CancellationToken,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>, stop: CancellationToken) -> Self {
        Self { engine, scans: Semaphore::new(SCANS_MAX), stop }
    }

    /// Whether it is this worker that is meant, over this data and in this life. A frontend that still believes in another one
    /// has not let this one vote: it may have lost what that one had promised.
    fn check_life(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let identity = self.engine.identity();
        if identity.is_some_and(|me| life::names_life(metadata, &me.worker_uuid, me.boot_generation)) {
            Ok(())
        } else {
            Err(Status::aborted("another life of this worker is meant"))
        }
    }

    fn scan_permit(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.scans.try_acquire().map_err(|_| Status::resource_exhausted("too many scans are under way"))
    }
}

#[tonic::async_trait]
impl ReplicaService for Service {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<v1::ReplyBatch, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::RequestBatch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        self.check_life(request.metadata())?;
        let registration = self.engine.register();
        let gone = CancellationToken::new();
        let receiver = Receiver {
            engine: self.engine.clone(),
            caller: registration.caller,
            replies: registration.replies.clone(),
        };
        tokio::spawn(receiver.run(request.into_inner(), self.stop.clone(), gone.clone()));
        let sender = Sender { registration, _gone: gone.drop_guard() };
        let replies = stream::unfold(sender, async |sender| {
            let batch = sender.registration.replies.next_batch().await?;
            Some((Ok(batch), sender))
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn decide(&self, request: Request<v1::DecideRequest>) -> Result<Response<v1::DecideReply>, Status> {
        self.check_life(request.metadata())?;
        let request = request.into_inner();
        self.engine.check_cluster(&request.cluster_id).map_err(refused_status)?;
        let worker_uuid = request.worker_uuid.clone();
        let ask: Ask = request.try_into().map_err(invalid)?;
        let state = self.engine.decide(&worker_uuid, &ask).await.map_err(refused_status)?;
        Ok(Response::new((&state).into()))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        self.check_life(request.metadata())?;
        let v1::RenewRequest { cluster_id, worker_uuid } = request.into_inner();
        self.engine.check_cluster(&cluster_id).map_err(refused_status)?;
        let worker_uuid = self.engine.renew(&worker_uuid).await.map_err(refused_status)?;
        Ok(Response::new(v1::RenewReply { worker_uuid }))
    }

    async fn remember(&self, request: Request<v1::RememberRequest>) -> Result<Response<v1::Nothing>, Status> {
        self.check_life(request.metadata())?;
        let v1::RememberRequest { cluster_id, memory } = request.into_inner();
        self.engine.check_cluster(&cluster_id).map_err(refused_status)?;
        let memory = memory.unwrap_or_default().try_into().map_err(invalid)?;
        self.engine.remember(memory).await.map_err(refused_status)?;
        Ok(Response::new(v1::Nothing {}))
    }

    async fn recall(&self, request: Request<v1::RecallRequest>) -> Result<Response<v1::SyncMemory>, Status> {
        self.check_life(request.metadata())?;
        self.engine.check_cluster(&request.into_inner().cluster_id).map_err(refused_status)?;
        let memory = self.engine.recall().await.map_err(refused_status)?;
        Ok(Response::new(memory.into()))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanReply>, Status> {
        let (from, options) = scan_from_wire(&request.into_inner())?;
        let _permit = self.scan_permit()?;
        let page = self.engine.scan(from, options).await.map_err(store_status)?;
        Ok(Response::new(page_to_wire(page)))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountReply>, Status> {
        let v1::CountRequest { partitions, now_ms } = request.into_inner();
        if partitions.len() > usize::from(tercet_common::PARTITIONS) {
            return Err(Status::invalid_argument("more partitions than there are"));
        }
        let partitions = partitions.into_iter().map(partition_from_wire);
        let mut partitions: Vec<PartitionId> = partitions.collect::<Result<_, _>>().map_err(invalid)?;
        partitions.sort_unstable();
        partitions.dedup();
        let _permit = self.scan_permit()?;
        let count = self.engine.count(partitions, UnixMillis(now_ms)).await.map_err(store_status)?;
        Ok(Response::new(v1::CountReply { live: count.live, expiring: count.expiring }))
    }
}

/// The half of a stream that takes answers out. Dropped when the caller is gone.
struct Sender {
    registration: Registration,
    _gone: DropGuard,
}

/// The half that takes requests in.
struct Receiver {
    engine: Arc<Engine>,
    caller: u64,
    replies: Arc<ReplyQueue>,
}

impl Receiver {
    async fn run(
        self,
        mut requests: Streaming<v1::RequestBatch>,
        stop: CancellationToken,
        gone: CancellationToken,
    ) {
        let take_in = async {
            loop {
                self.replies.wait_for_room().await;
                match requests.message().await {
                    Ok(Some(batch)) if batch.requests.len() <= BATCH_LEN_MAX => self.take(batch),
                    Ok(Some(batch)) => {
                        debug!(len = batch.requests.len(), "a batch holds too many requests");
                        return;
                    }
                    Ok(None) => return,
                    Err(status) => {
                        debug!(%status, "a stream of requests broke off");
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = take_in => {}
            () = stop.cancelled() => {}
            () = gone.cancelled() => {}
        }
        self.replies.finish();
    }

    fn take(&self, batch: v1::RequestBatch) {
        let arrived_us = self.engine.now_us();
        let accepted = self.replies.expect(batch.requests.len());
        let mut arrivals = Vec::with_capacity(accepted);
        let mut refused = Vec::new();
        for (n, request) in batch.requests.into_iter().enumerate() {
            match request_from_wire(request) {
                (id, Ok(_)) if n >= accepted => refused.push((id, ReplicaReply::Refused(Refusal::Busy))),
                (id, Ok(request)) => arrivals.push(Arrival::new(self.caller, id, arrived_us, request)),
                (id, Err(error)) => {
                    debug!(%error, "a request is malformed");
                    refused.push((id, ReplicaReply::Refused(Refusal::Invalid)));
                }
            }
        }
        if !refused.is_empty() {
            self.replies.push(refused.into_iter());
        }
        self.engine.submit(arrivals);
    }
}

fn scan_from_wire(request: &v1::ScanRequest) -> Result<(ScanFrom, ScanOptions), Status> {
    let partition = partition_from_wire(request.first_partition).map_err(invalid)?;
    let last_partition = partition_from_wire(request.last_partition).map_err(invalid)?;
    let hash = match &request.from_hash[..] {
        [] => KeyHash([0; 16]),
        bytes => KeyHash(bytes.try_into().map_err(|_| Status::invalid_argument("a key hash has 16 bytes"))?),
    };
    let options = ScanOptions {
        last_partition,
        limit: request.limit.clamp(1, SCAN_ROWS_MAX) as usize,
        bytes_max: BATCH_BYTES_TARGET,
        with_data: request.with_data,
        with_tombstones: request.with_tombstones,
        expired_by: request.expired_by_ms.map(UnixMillis),
    };
    Ok((ScanFrom { partition, hash }, options))
}

fn page_to_wire(page: Page) -> v1::ScanReply {
    let next = page.next.map(|(partition, hash)| v1::ScanPosition {
        partition: partition.get().into(),
        hash: hash.0.to_vec().into(),
    });
    v1::ScanReply { rows: page.rows.into_iter().map(Into::into).collect(), next }
}

fn invalid(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused_status(error: Refused) -> Status {
    match error {
        Refused::OtherCluster { .. } | Refused::OtherData { .. } => {
            Status::failed_precondition(error.to_string())
        }
        Refused::Malformed(error) => invalid(error),
        Refused::Store(error) => store_status(error),
    }
}

fn store_status(error: StoreError) -> Status {
    match error {
        StoreError::Unreachable(_) | StoreError::DiskFull(_) | StoreError::Refused(_) => {
            Status::unavailable(error.to_string())
        }
        StoreError::Timeout(_) => Status::deadline_exceeded(error.to_string()),
        StoreError::Failed(_) => Status::internal(error.to_string()),
    }
}
