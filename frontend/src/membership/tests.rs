//! Membership with real sockets: workers that beat, and that keep configurations as the Replica service says.

use std::net::SocketAddr;

use parking_lot::Mutex;
use tercet_common::WorkerId;
use tercet_proto::v1;
use tercet_proto::v1::controller_client::ControllerClient;
use tercet_proto::v1::replica_server::{Replica, ReplicaServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Response, Status, Streaming};

use super::*;
use crate::config::{RingWorker, Secret};
use crate::coordinator::status::Health;

/// Long enough for a loaded machine; only a failing test waits for its end.
const PATIENCE: Duration = Duration::from_secs(20);

fn id(id: &str) -> WorkerId {
    WorkerId::new(id).unwrap()
}

fn config(workers: &[&str]) -> Config {
    let worker = |w: &&str| RingWorker { id: id(w), virtual_nodes: 128, zone: String::new() };
    let mut config = Config::new(workers.iter().map(worker).collect());
    config.grpc_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config
}

fn timing() -> Timing {
    let mut timing = Timing::new(Duration::from_secs(6));
    timing.form_grace = Duration::from_millis(20);
    timing.tick = Duration::from_millis(10);
    timing
}

async fn frontend(workers: &[&str]) -> MembershipHandle {
    start_with(&config(workers), Incarnation(7), timing()).await.unwrap()
}

/// Keeps the first configuration of an epoch, and the highest epoch, as the Configure RPC is documented.
#[derive(Default)]
struct FakeReplica {
    held: Mutex<Option<v1::RingConfiguration>>,
    secret: Option<&'static str>,
}

#[tonic::async_trait]
impl Replica for FakeReplica {
    type ExchangeStream = tokio_stream::Empty<Result<v1::ReplyBatch, Status>>;

    async fn exchange(
        &self,
        _: Request<Streaming<v1::RequestBatch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(Status::unimplemented("no keys here"))
    }

    async fn configure(
        &self,
        request: Request<v1::RingConfiguration>,
    ) -> Result<Response<v1::ConfigureReply>, Status> {
        let secret = self.secret.map(Secret::new);
        service::check_secret(secret.as_ref(), request.metadata())?;
        let given = request.into_inner();
        let mut held = self.held.lock();
        if held.as_ref().is_none_or(|held| held.epoch < given.epoch) {
            *held = Some(given);
        }
        Ok(Response::new(v1::ConfigureReply { held: held.clone() }))
    }

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Result<Response<v1::ScanReply>, Status> {
        Err(Status::unimplemented("no keys here"))
    }

    async fn count(&self, _: Request<v1::CountRequest>) -> Result<Response<v1::CountReply>, Status> {
        Err(Status::unimplemented("no keys here"))
    }
}

/// A worker process: a Replica service, until it is dropped.
struct Worker {
    id: &'static str,
    address: SocketAddr,
    replica: Arc<FakeReplica>,
    _stop: DropGuard,
}

/// A heartbeat stream, until it is dropped.
struct Beating {
    beats: mpsc::Sender<v1::HeartbeatRequest>,
    replies: Streaming<v1::HeartbeatReply>,
    message: v1::HeartbeatRequest,
}

impl Worker {
    async fn start(id: &'static str) -> Self {
        Self::start_with(id, FakeReplica::default()).await
    }

    async fn holding(id: &'static str, epoch: u64, members: &[&str]) -> Self {
        let member = |m: &&str| Member::named(self::id(m), 128, "");
        let members = members.iter().map(member).collect();
        let config = RingConfig::new("tercet", Epoch(epoch), REPLICAS, members).unwrap();
        let held = Mutex::new(Some((&config).into()));
        Self::start_with(id, FakeReplica { held, secret: None }).await
    }

    async fn start_with(id: &'static str, replica: FakeReplica) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (replica, stop) = (Arc::new(replica), CancellationToken::new());
        let service = ReplicaServer::from_arc(replica.clone());
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
        tokio::spawn(server);
        Self { id, address, replica, _stop: stop.drop_guard() }
    }

    fn message(&self) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            cluster_id: "tercet".to_owned(),
            worker_id: self.id.to_owned(),
            address: self.address.to_string(),
            worker_uuid: format!("uuid-of-{}", self.id),
            boot_generation: 1,
            virtual_nodes: 128,
            health: Some(v1::WorkerHealth { database_commits: true, ..Default::default() }),
            ..Default::default()
        }
    }

    async fn register(&self, frontend: &MembershipHandle) -> Beating {
        beat_to(frontend, self.message(), None).await.unwrap()
    }

    fn holds_epoch(&self) -> Option<u64> {
        self.replica.held.lock().as_ref().map(|held| held.epoch)
    }
}

/// Opens a stream, registers, and waits for the reply.
async fn beat_to(
    frontend: &MembershipHandle,
    message: v1::HeartbeatRequest,
    authorization: Option<&'static str>,
) -> Result<Beating, Status> {
    let address = format!("http://{}", frontend.local_addr());
    let mut client = ControllerClient::connect(address).await.unwrap();
    let (beats, outbound) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(outbound));
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    let replies = client.heartbeat(request).await?.into_inner();
    let mut beating = Beating { beats, replies, message };
    let reply = beating.beat().await?;
    assert_eq!(reply.incarnation, 7);
    Ok(beating)
}

impl Beating {
    async fn beat(&mut self) -> Result<v1::HeartbeatReply, Status> {
        self.beats.send(self.message.clone()).await.unwrap();
        self.replies.message().await.map(|reply| reply.expect("an answer or an error"))
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("must happen")
}

async fn formed(frontend: &MembershipHandle) -> Arc<RingView> {
    let mut ring = frontend.ring();
    within(ring.wait_for(Option::is_some)).await.unwrap().clone().unwrap()
}

async fn refused(frontend: &MembershipHandle) -> String {
    let mut formation = frontend.formation();
    let refused = within(formation.wait_for(|f| matches!(f, Formation::Refused { .. }))).await.unwrap();
    let Formation::Refused { reason } = refused.clone() else { unreachable!() };
    reason
}

async fn sees(frontend: &MembershipHandle, what: impl Fn(&MembersView) -> bool) {
    within(frontend.subscribe().wait_for(|view| what(view))).await.unwrap();
}

async fn stands(frontend: &MembershipHandle, worker: &str, standing: Standing) {
    sees(frontend, |view| view.get(&id(worker)).is_some_and(|w| w.standing == standing)).await;
}

#[tokio::test]
async fn registered_members_are_configured_and_form_the_cluster() {
    let frontend = frontend(&["w1", "w2", "w3"]).await;
    assert!(frontend.ring().borrow().is_none());
    let mut beating = Vec::new();
    let workers = [Worker::start("w1").await, Worker::start("w2").await, Worker::start("w3").await];
    for worker in &workers {
        beating.push(worker.register(&frontend).await);
    }
    let view = formed(&frontend).await;
    assert_eq!((view.config.epoch, view.config.member_list()), (Epoch(1), "w1, w2, w3".to_owned()));
    for worker in &workers {
        stands(&frontend, worker.id, Standing::Member).await;
        assert_eq!(worker.holds_epoch(), Some(1));
    }
    assert_eq!(beating[0].beat().await.unwrap().epoch, 1);
    assert_eq!(*frontend.formation().borrow(), Formation::Formed);
}

#[tokio::test]
async fn a_majority_forms_and_a_late_member_is_configured_when_it_appears() {
    let frontend = frontend(&["w1", "w2", "w3"]).await;
    let (w1, w2, w3) = (Worker::start("w1").await, Worker::start("w2").await, Worker::start("w3").await);
    let _beating = (w1.register(&frontend).await, w2.register(&frontend).await);
    formed(&frontend).await;
    let unseen = frontend.members_now().get(&id("w3")).unwrap().clone();
    assert_eq!((unseen.health, unseen.standing, unseen.seen), (Health::Unknown, Standing::Joining, None));
    let _late = w3.register(&frontend).await;
    stands(&frontend, "w3", Standing::Member).await;
}

#[tokio::test]
async fn a_spare_is_seen_and_left_alone() {
    let frontend = frontend(&["w1", "w2", "w3"]).await;
    let w9 = Worker::start("w9").await;
    let _beating = w9.register(&frontend).await;
    let spare = frontend.members_now().get(&id("w9")).unwrap().clone();
    assert_eq!((spare.health, spare.standing), (Health::Alive, Standing::Spare));
    assert_eq!(w9.holds_epoch(), None);
}

#[tokio::test]
async fn a_worker_that_moved_is_found_at_its_new_address() {
    let frontend = frontend(&["w1"]).await;
    let w1 = Worker::start("w1").await;
    let mut old = w1.register(&frontend).await;
    stands(&frontend, "w1", Standing::Member).await;
    let moved = Worker::start("w1").await;
    let mut message = moved.message();
    message.boot_generation = 2;
    let _new = beat_to(&frontend, message, None).await.unwrap();
    sees(&frontend, |v| v.get(&id("w1")).unwrap().address() == Some(&moved.address.to_string())).await;
    stands(&frontend, "w1", Standing::Member).await;
    assert_eq!(moved.holds_epoch(), Some(1), "the new start was asked again, at its new address");
    assert_eq!(old.beat().await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn a_member_that_could_not_be_reached_is_asked_again() {
    let frontend = frontend(&["w1"]).await;
    let w1 = Worker::start("w1").await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut message = w1.message();
    message.address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let mut beating = beat_to(&frontend, message, None).await.unwrap();
    assert!(frontend.ring().borrow().is_none());
    beating.message.address = w1.address.to_string();
    beating.beat().await.unwrap();
    formed(&frontend).await;
}

#[tokio::test]
async fn another_cluster_is_refused_by_name() {
    let frontend = frontend(&["w1"]).await;
    let mut message = Worker::start("w1").await.message();
    message.cluster_id = "staging".to_owned();
    let status = beat_to(&frontend, message, None).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("`tercet`") && status.message().contains("`staging`"), "{status}");
    assert_eq!(frontend.members_now().get(&id("w1")).unwrap().seen, None);
}

#[tokio::test]
async fn malformed_and_oversized_beats_are_refused() {
    let frontend = frontend(&["w1"]).await;
    let worker = Worker::start("w1").await;
    let with = |change: fn(&mut v1::HeartbeatRequest)| {
        let mut message = worker.message();
        change(&mut message);
        beat_to(&frontend, message, None)
    };
    let code = |result: Result<Beating, Status>| result.err().unwrap().code();
    assert_eq!(code(with(|m| m.worker_id = "../w1".to_owned()).await), Code::InvalidArgument);
    assert_eq!(code(with(|m| m.address = "nowhere".to_owned()).await), Code::InvalidArgument);
    assert_eq!(code(with(|m| m.version = "v".repeat(HEARTBEAT_BYTES_MAX)).await), Code::OutOfRange);
}

#[tokio::test]
async fn two_workers_with_one_id_are_told_apart() {
    let frontend = frontend(&["w1"]).await;
    let (first, second) = (Worker::start("w1").await, Worker::start("w1").await);
    let mut beating = first.register(&frontend).await;
    let mut message = second.message();
    message.worker_uuid = "another".to_owned();
    let status = beat_to(&frontend, message, None).await.err().unwrap();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("uuid-of-w1") && status.message().contains("another"), "{status}");
    beating.beat().await.unwrap();
}

#[tokio::test]
async fn the_secret_is_demanded_and_sent() {
    let mut config = config(&["w1"]);
    config.cluster_secret = Some(Secret::new("sesame"));
    let frontend = start_with(&config, Incarnation(7), timing()).await.unwrap();
    let replica = FakeReplica { secret: Some("sesame"), ..FakeReplica::default() };
    let w1 = Worker::start_with("w1", replica).await;
    for wrong in [None, Some("Bearer"), Some("Bearer "), Some("Bearer sesam"), Some("Basic sesame")] {
        let status = beat_to(&frontend, w1.message(), wrong).await.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{wrong:?}");
    }
    let _beating = beat_to(&frontend, w1.message(), Some("Bearer sesame")).await.unwrap();
    formed(&frontend).await;
}

#[tokio::test]
async fn a_listener_for_everyone_demands_a_secret() {
    let mut config = config(&["w1"]);
    config.grpc_listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = start(&config, Incarnation(7)).await.err().unwrap();
    assert!(matches!(error, StartError::SecretMissing(_)), "{error}");
    config.cluster_secret = Some(Secret::new("sesame"));
    start(&config, Incarnation(7)).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = frontend(&["w1"]).await;
    let mut config = config(&["w1"]);
    config.grpc_listen = first.local_addr();
    let error = start(&config, Incarnation(7)).await.err().unwrap().to_string();
    assert!(error.contains(&first.local_addr().to_string()), "{error}");
}

#[tokio::test]
async fn another_list_than_the_workers_hold_is_refused_with_both_named() {
    let frontend = frontend(&["w1", "w2", "w3", "w4"]).await;
    let w1 = Worker::holding("w1", 1, &["w1", "w2", "w3"]).await;
    let _beating = w1.register(&frontend).await;
    let reason = refused(&frontend).await;
    assert!(reason.contains("[w1, w2, w3;") && reason.contains("[w1, w2, w3, w4;"), "{reason}");
    stands(&frontend, "w1", Standing::Conflict).await;
    assert!(frontend.ring().borrow().is_none());
}

#[tokio::test]
async fn a_later_configuration_of_the_workers_is_adopted() {
    let frontend = frontend(&["w1", "w2", "w3"]).await;
    let later = ["w1", "w2", "w5"];
    let (w1, w2) = (Worker::holding("w1", 4, &later).await, Worker::holding("w2", 4, &later).await);
    let (w3, w5) = (Worker::start("w3").await, Worker::start("w5").await);
    let mut beating = Vec::new();
    for worker in [&w1, &w2, &w3, &w5] {
        beating.push(worker.register(&frontend).await);
    }
    let view = formed(&frontend).await;
    assert_eq!((view.config.epoch, view.config.member_list()), (Epoch(4), "w1, w2, w5".to_owned()));
    stands(&frontend, "w5", Standing::Member).await;
    stands(&frontend, "w3", Standing::Spare).await;
    assert_eq!(w5.holds_epoch(), Some(4));
}

#[tokio::test]
async fn compare_and_swap_refuses_what_is_not_so() {
    let frontend = frontend(&["w1"]).await;
    let w1 = Worker::start("w1").await;
    let _beating = w1.register(&frontend).await;
    let config = formed(&frontend).await.config.clone();
    let next = RingConfig { epoch: Epoch(2), ..config.clone() };
    let membership: &dyn Membership = &*frontend.embedded;
    let stale = MembershipError::Stale { expected: Epoch(0), current: Epoch(1) };
    assert_eq!(membership.compare_and_swap(Epoch(0), next.clone()).await, Err(stale));
    assert_eq!(membership.compare_and_swap(Epoch(1), next).await, Err(MembershipError::CannotChange));
    assert_eq!(membership.load().await.unwrap().unwrap().config, config);
}

#[tokio::test]
async fn a_silent_worker_is_cut_and_dies() {
    let mut timing = timing();
    timing.heartbeat_timeout = Duration::from_millis(60);
    let frontend = start_with(&config(&["w1"]), Incarnation(7), timing).await.unwrap();
    let w1 = Worker::start("w1").await;
    let mut beating = w1.register(&frontend).await;
    sees(&frontend, |view| view.get(&id("w1")).unwrap().health == Health::Dead).await;
    let cut = within(beating.replies.message()).await.unwrap_err();
    assert_eq!(cut.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_stream_that_never_registers_is_cut() {
    let mut timing = timing();
    timing.first_beat = Duration::from_millis(20);
    let frontend = start_with(&config(&["w1"]), Incarnation(7), timing).await.unwrap();
    let mut client = ControllerClient::connect(format!("http://{}", frontend.local_addr())).await.unwrap();
    let (_silent, outbound) = mpsc::channel(1);
    let mut replies = client.heartbeat(ReceiverStream::new(outbound)).await.unwrap().into_inner();
    assert_eq!(within(replies.message()).await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn shutdown_ends_the_streams() {
    let frontend = frontend(&["w1"]).await;
    let w1 = Worker::start("w1").await;
    let mut beating = w1.register(&frontend).await;
    frontend.shutdown().await;
    assert_eq!(within(beating.replies.message()).await.unwrap_err().code(), Code::Unavailable);
}
