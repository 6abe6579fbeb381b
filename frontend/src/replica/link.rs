//! A link to one worker: bidirectional streams that carry batches, kept up for as long as the frontend lives.
//!
//! ```text
//! core ── push ──▶ queue ── everything that waits, one batch ──▶ stream ──▶ worker
//!      ◀────────────────── replies, one lock per batch ──────────────────┘
//! ```
//!
//! A batch is whatever has come together while the previous one was being handed over: no timer delays a lonely request,
//! and a loaded link makes large batches by itself. Large values have a lane of their own, so that small requests do not
//! wait behind them. Nothing here is retried: a broken stream loses its requests, and the core decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics::{Gauge, Histogram};
use parking_lot::Mutex;
use tercet_common::backoff::BackoffPolicy;
use tercet_common::breaker::{Breaker, BreakerConfig, BreakerState, FailureKind};
use tercet_common::{Epoch, Key, Refusal, ReplicaReply, ReplicaRequest, WorkerId, metrics as m};
use tercet_proto::v1::replica_client::ReplicaClient;
use tercet_proto::v1::{self, RequestBatch};
use tercet_proto::{BATCH_BYTES_TARGET, BATCH_LEN_MAX, MESSAGE_BYTES_MAX, convert, life};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::config::Secret;
use crate::coordinator::core::WorkerIx;

/// Requests larger than this travel on the bulk lane.
const BULK_BYTES: usize = 128 * 1024;
/// Bytes that may wait in a lane; beyond it requests are refused as busy.
const QUEUE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Requests that may wait in a lane.
const QUEUE_LEN_MAX: usize = 262_144;
/// Batches that may be on their way into the stream.
const BATCHES_AHEAD: usize = 2;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that answers no ping for interval + timeout is dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Waits between attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_millis(500);
/// Calls in a row without an answer, after which the worker is not asked any more.
const FAILURES_TO_OPEN: u32 = 3;
/// How long it is left alone before a probe.
const BREAKER_OPEN_MIN: Duration = Duration::from_millis(100);
const BREAKER_OPEN_MAX: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// The id of requests that the link itself sends, to see whether a worker answers again.
const PROBE: u64 = u64::MAX;

/// Where a worker is, and which life of which data is meant. Another one refuses the streams: until the frontend has let
/// it vote, nothing may be asked of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub address: String,
    pub uuid: String,
    pub boot_generation: u64,
}

/// What a link tells its owner. Called from the link's tasks, never under the link's locks.
pub trait Events: Send + Sync + 'static {
    /// Replies of one batch, in the order of arrival. Ids are those given to [`Link::push`].
    fn replies(&self, worker: WorkerIx, replies: Vec<(u64, ReplicaReply)>);
    /// Everything that was pushed and not answered is lost.
    fn lost(&self, worker: WorkerIx);
    /// Whether the worker may be asked.
    fn available(&self, worker: WorkerIx, available: bool);
}

/// The queue is full; nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Default)]
struct Queue {
    requests: Vec<(u64, ReplicaRequest)>,
    bytes: usize,
}

#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    filled: Notify,
}

impl Lane {
    fn clear(&self) {
        *self.queue.lock() = Queue::default();
    }

    /// The next batch: all that waits, within the bounds of a message.
    async fn next_batch(&self) -> Vec<(u64, ReplicaRequest)> {
        loop {
            if self.queue.lock().requests.is_empty() {
                self.filled.notified().await;
            }
            // Whoever pushed the first one woke this task, which would run at once and send it alone. So everybody else who is
            // ready has their turn before: what they push goes along.
            tokio::task::yield_now().await;
            let batch = take_batch(&mut self.queue.lock());
            if !batch.is_empty() {
                return batch;
            }
        }
    }
}

fn take_batch(queue: &mut Queue) -> Vec<(u64, ReplicaRequest)> {
    let mut bytes = 0;
    let mut len = 0;
    for (_, request) in queue.requests.iter().take(BATCH_LEN_MAX) {
        bytes += request.weight();
        if len > 0 && bytes > BATCH_BYTES_TARGET {
            bytes -= request.weight();
            break;
        }
        len += 1;
    }
    if len == queue.requests.len() {
        queue.bytes = 0;
        return std::mem::take(&mut queue.requests);
    }
    queue.bytes = queue.bytes.saturating_sub(bytes);
    queue.requests.drain(..len).collect()
}

/// What the link's owner knows of it.
#[derive(Default)]
struct Told {
    available: bool,
    /// Somebody is just telling. Whoever has news meanwhile leaves them to it.
    telling: bool,
}

/// See the module.
pub struct Link {
    worker: WorkerIx,
    id: WorkerId,
    lanes: [Lane; 2],
    connected: AtomicBool,
    /// The worker's own word that its database does not commit.
    healthy: AtomicBool,
    told: Mutex<Told>,
    breaker: Mutex<Breaker>,
    breaker_changed: Notify,
    origin: Instant,
    channel: Mutex<Option<Channel>>,
    secret: Option<Secret>,
    batch_sizes: Histogram,
    connected_gauge: Gauge,
    breaker_gauge: Gauge,
}

impl Link {
    /// `seed` spreads retries.
    pub fn new(worker: WorkerIx, id: WorkerId, secret: Option<Secret>, seed: u64) -> Arc<Self> {
        let breaker = BreakerConfig {
            failures_to_open: FAILURES_TO_OPEN,
            backoff: backoff(BREAKER_OPEN_MIN, BREAKER_OPEN_MAX),
            probe_timeout: PROBE_TIMEOUT,
        };
        let name = id.as_str().to_owned();
        Arc::new(Self {
            worker,
            id,
            lanes: Default::default(),
            connected: AtomicBool::new(false),
            healthy: AtomicBool::new(true),
            told: Mutex::default(),
            breaker: Mutex::new(Breaker::new(breaker, seed)),
            breaker_changed: Notify::new(),
            origin: Instant::now(),
            channel: Mutex::new(None),
            secret,
            batch_sizes: m::REPLICA_BATCH.histogram(&[&name]),
            connected_gauge: m::REPLICA_CONNECTED.gauge(&[&name]),
            breaker_gauge: m::BREAKER_OPEN.gauge(&[&name]),
        })
    }

    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Queues a request. [`Link::wake`] must follow once a round of pushes is done.
    pub fn push(&self, id: u64, request: ReplicaRequest) -> Result<(), Full> {
        let weight = request.weight();
        // What heals is never in a hurry, and its replies are large.
        let bulk = weight > BULK_BYTES || matches!(request, ReplicaRequest::Sync(_));
        let mut queue = self.lanes[usize::from(bulk)].queue.lock();
        if queue.bytes + weight > QUEUE_BYTES_MAX || queue.requests.len() >= QUEUE_LEN_MAX {
            return Err(Full);
        }
        queue.bytes += weight;
        queue.requests.push((id, request));
        Ok(())
    }

    /// Sends what was pushed.
    pub fn wake(&self) {
        for lane in &self.lanes {
            if !lane.queue.lock().requests.is_empty() {
                lane.filled.notify_one();
            }
        }
    }

    /// A call got no answer in time.
    pub fn timed_out(&self, events: &dyn Events) {
        self.breaker.lock().on_failure(self.origin.elapsed(), FailureKind::Timeout);
        self.breaker_changed.notify_one();
        self.tell(events);
    }

    /// The worker says whether its database commits.
    pub fn set_healthy(&self, healthy: bool, events: &dyn Events) {
        self.healthy.store(healthy, Ordering::SeqCst);
        self.tell(events);
    }

    pub fn breaker_state(&self) -> BreakerState {
        self.breaker.lock().state(self.origin.elapsed())
    }

    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    pub fn is_available(&self) -> bool {
        self.is_connected()
            && self.healthy.load(Ordering::SeqCst)
            && self.breaker_state() == BreakerState::Closed
    }

    /// A client for the unary calls, while the link is up.
    pub fn client(&self) -> Option<ReplicaClient<Channel>> {
        self.channel.lock().clone().map(client)
    }

    /// Puts the cluster secret on a request.
    pub fn authorize<T>(&self, message: T) -> tonic::Request<T> {
        authorize(message, self.secret.as_ref())
    }

    fn tell(&self, events: &dyn Events) {
        let state = self.breaker_state();
        self.breaker_gauge.set(match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 0.5,
            BreakerState::Open => 1.0,
        });
        // One at a time and never under the lock, as telling may bring more news. Two that told at once could arrive in
        // the wrong order, and nobody would correct that.
        loop {
            let available = {
                let mut told = self.told.lock();
                let available = self.is_available();
                if told.telling || told.available == available {
                    return;
                }
                *told = Told { available, telling: true };
                available
            };
            tracing::info!(worker = %self.id, available, ?state, "worker availability changed");
            events.available(self.worker, available);
            self.told.lock().telling = false;
        }
    }

    /// Keeps the link up until `shutdown`. `address` is where the worker says it is.
    pub async fn run(
        self: Arc<Self>,
        mut address: watch::Receiver<Option<Target>>,
        events: Arc<dyn Events>,
        shutdown: CancellationToken,
    ) {
        let mut backoff =
            backoff(RECONNECT_MIN, RECONNECT_MAX).start(self.origin.elapsed().as_nanos() as u64 | 1);
        loop {
            let target = tokio::select! {
                () = shutdown.cancelled() => return,
                target = wait_for_address(&mut address) => target,
            };
            let Some(target) = target else { return };
            let started = Instant::now();
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A worker that came back elsewhere: the old address is of no use.
                _ = address.changed() => {}
                end = self.connect_and_serve(&target, &*events) => {
                    if let Err(error) = end {
                        tracing::debug!(worker = %self.id, target = target.address, %error, "link ended");
                    }
                }
            }
            self.disconnected(&*events);
            if started.elapsed() > Duration::from_secs(5) {
                backoff.reset();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = address.changed() => backoff.reset(),
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    fn disconnected(&self, events: &dyn Events) {
        *self.channel.lock() = None;
        if self.connected.swap(false, Ordering::SeqCst) {
            self.connected_gauge.set(0.0);
            tracing::warn!(worker = %self.id, "link to worker lost");
        }
        self.tell(events);
        for lane in &self.lanes {
            lane.clear();
        }
        events.lost(self.worker);
    }

    async fn connect_and_serve(&self, target: &Target, events: &dyn Events) -> Result<(), LinkError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", target.address))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        // A connection per lane: a large value must not hold up the small ones in the socket either.
        let small = endpoint.connect().await?;
        let bulk = endpoint.connect().await?;
        *self.channel.lock() = Some(bulk.clone());
        let [small_lane, bulk_lane] = &self.lanes;
        for lane in &self.lanes {
            lane.clear();
        }
        let mut small_stream = self.open(small, target).await?;
        let mut bulk_stream = self.open(bulk, target).await?;
        self.breaker.lock().reset();
        self.connected.store(true, Ordering::SeqCst);
        self.connected_gauge.set(1.0);
        tracing::info!(worker = %self.id, target = target.address, "link to worker up");
        self.tell(events);
        tokio::select! {
            end = self.send(small_lane, &small_stream.0) => end,
            end = self.send(bulk_lane, &bulk_stream.0) => end,
            end = self.receive(&mut small_stream.1, events) => end,
            end = self.receive(&mut bulk_stream.1, events) => end,
            end = self.probe(small_lane) => end,
        }
    }

    async fn open(
        &self,
        channel: Channel,
        target: &Target,
    ) -> Result<(mpsc::Sender<RequestBatch>, tonic::Streaming<v1::ReplyBatch>), LinkError> {
        let (tx, rx) = mpsc::channel(BATCHES_AHEAD);
        let mut request = self.authorize(ReceiverStream::new(rx));
        life::name_life(request.metadata_mut(), &target.uuid, target.boot_generation);
        let mut client = client(channel);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, client.exchange(request)).await;
        Ok((tx, stream.map_err(|_| LinkError::Silent)??.into_inner()))
    }

    async fn send(&self, lane: &Lane, stream: &mpsc::Sender<RequestBatch>) -> Result<(), LinkError> {
        loop {
            // Room first, so that everything that comes together meanwhile makes one batch.
            let room = stream.reserve().await.map_err(|_| LinkError::Closed)?;
            let batch = lane.next_batch().await;
            self.batch_sizes.record(batch.len() as f64);
            let requests = batch.into_iter().map(|(id, request)| convert::request_to_wire(id, request));
            room.send(RequestBatch { requests: requests.collect() });
        }
    }

    async fn receive(
        &self,
        stream: &mut tonic::Streaming<v1::ReplyBatch>,
        events: &dyn Events,
    ) -> Result<(), LinkError> {
        while let Some(batch) = stream.message().await? {
            let mut replies = Vec::with_capacity(batch.replies.len());
            for reply in batch.replies {
                match convert::reply_from_wire(reply) {
                    (PROBE, Ok(ReplicaReply::Refused(Refusal::Unavailable | Refusal::Busy))) => {}
                    (PROBE, _) => {
                        self.breaker.lock().on_success(self.origin.elapsed());
                        self.tell(events);
                    }
                    (id, Ok(reply)) => replies.push((id, reply)),
                    (id, Err(error)) => {
                        tracing::warn!(worker = %self.id, id, %error, "reply not understood");
                    }
                }
            }
            {
                let mut breaker = self.breaker.lock();
                if breaker.state(self.origin.elapsed()) == BreakerState::Closed {
                    breaker.on_success(self.origin.elapsed());
                }
            }
            if !replies.is_empty() {
                events.replies(self.worker, replies);
            }
        }
        Err(LinkError::Closed)
    }

    /// While the breaker is not closed, tries the worker with a read of our own, so that no client's request is the guinea pig.
    async fn probe(&self, lane: &Lane) -> Result<(), LinkError> {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        loop {
            if self.breaker_state() == BreakerState::Closed {
                self.breaker_changed.notified().await;
                continue;
            }
            if self.breaker.lock().allow(self.origin.elapsed()) {
                let Ok(key) = Key::new(&b""[..]) else { return Err(LinkError::Closed) };
                // Epoch 0 is older than every real one: the worker answers with a refusal, which is answer enough.
                let request = ReplicaRequest::Get { epoch: Epoch(0), key, digest: true };
                lane.queue.lock().requests.push((PROBE, request));
                lane.filled.notify_one();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn client(channel: Channel) -> ReplicaClient<Channel> {
    ReplicaClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn authorize<T>(message: T, secret: Option<&Secret>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(value) = secret.and_then(|s| format!("Bearer {}", s.expose()).parse().ok()) {
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn backoff(min: Duration, max: Duration) -> BackoffPolicy {
    BackoffPolicy::new(min, max, 0.3).expect("constants in range")
}

/// The next address; `None` when nobody will ever give one.
async fn wait_for_address(address: &mut watch::Receiver<Option<Target>>) -> Option<Target> {
    let known = address.wait_for(Option::is_some).await.ok()?;
    known.clone()
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("cannot connect: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("the worker ended the stream: {0}")]
    Status(#[from] tonic::Status),
    #[error("the worker accepted the connection but not the stream")]
    Silent,
    #[error("the stream was closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Believes what it is told, but is slow: by the time it does, the worker's health is another.
    struct Slow {
        link: Arc<Link>,
        believes: Mutex<Vec<bool>>,
    }

    impl Events for Slow {
        fn replies(&self, _: WorkerIx, _: Vec<(u64, ReplicaReply)>) {}

        fn lost(&self, _: WorkerIx) {}

        fn available(&self, _: WorkerIx, available: bool) {
            if available {
                self.link.set_healthy(false, self);
            }
            self.believes.lock().push(available);
        }
    }

    #[test]
    fn the_last_thing_told_is_what_is_so() {
        let link = Link::new(0, WorkerId::new("w1").unwrap(), None, 1);
        let events = Slow { link: link.clone(), believes: Mutex::default() };
        link.connected.store(true, Ordering::SeqCst);
        link.tell(&events);
        assert!(!link.is_available());
        assert_eq!(*events.believes.lock(), [true, false]);
    }
}
