//! Membership with real sockets: workers that beat when the test says so, and that keep the register.

mod real;

use std::net::SocketAddr;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tercet_common::WorkerId;
use tercet_common::ring_register::{Ask, RegisterState};
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

/// Number `number`, of these workers over the data that they have.
fn ring(number: u64, workers: &[&str]) -> Arc<RingConfig> {
    let member = |w: &&str| Member { uuid: format!("uuid-of-{w}"), ..Member::named(id(w), 128, "") };
    let members = workers.iter().map(member).collect();
    Arc::new(RingConfig::new("tercet", Epoch(number), REPLICAS, members).unwrap())
}

fn timing() -> Timing {
    let mut timing = Timing::new(Duration::from_secs(6));
    // What is to form without all members says so.
    timing.form_grace = PATIENCE;
    timing.tick = Duration::from_millis(10);
    timing.remind_interval = Duration::from_millis(10);
    timing
}

async fn frontend(workers: &[&str]) -> MembershipHandle {
    start_with(&config(workers), Incarnation(7), timing()).await.unwrap()
}

/// Keeps the register and what it is told of others, as the Replica service is documented.
#[derive(Default)]
struct FakeReplica {
    register: Mutex<RegisterState>,
    memory: Mutex<v1::SyncMemory>,
    renewed: Mutex<Option<String>>,
    secret: Option<&'static str>,
}

impl FakeReplica {
    fn check(&self, request: &Request<impl Sized>) -> Result<(), Status> {
        service::check_secret(self.secret.map(Secret::new).as_ref(), request.metadata())
    }
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

    async fn decide(&self, request: Request<v1::DecideRequest>) -> Result<Response<v1::DecideReply>, Status> {
        self.check(&request)?;
        let ask: Ask = request.into_inner().try_into().unwrap();
        let mut register = self.register.lock();
        if let Some(next) = register.step(&ask) {
            *register = next;
        }
        Ok(Response::new((&*register).into()))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        let worker_uuid = format!("not-{}", request.into_inner().worker_uuid);
        *self.renewed.lock() = Some(worker_uuid.clone());
        Ok(Response::new(v1::RenewReply { worker_uuid }))
    }

    async fn remember(&self, request: Request<v1::RememberRequest>) -> Result<Response<v1::Nothing>, Status> {
        self.check(&request)?;
        let told = request.into_inner().memory.unwrap().witnesses;
        let mut memory = self.memory.lock();
        memory.witnesses.retain(|w| told.iter().all(|t| t.worker != w.worker));
        memory.witnesses.extend(told);
        Ok(Response::new(v1::Nothing {}))
    }

    async fn recall(&self, request: Request<v1::RecallRequest>) -> Result<Response<v1::SyncMemory>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.memory.lock().clone()))
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

    async fn holding(id: &'static str, config: &Arc<RingConfig>) -> Self {
        let register = RegisterState { decided: Some(config.clone()), ..RegisterState::default() };
        Self::start_with(id, FakeReplica { register: Mutex::new(register), ..FakeReplica::default() }).await
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
            frontends: 1,
            health: Some(v1::WorkerHealth { database_commits: true, ..Default::default() }),
            ..Default::default()
        }
    }

    async fn register(&self, frontend: &MembershipHandle) -> Beating {
        beat_to(frontend, self.message(), None).await.unwrap()
    }

    /// The number of the configuration that it knows; 0: none.
    fn knows(&self) -> u64 {
        self.replica.register.lock().number().0
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
    assert_eq!(reply.incarnation, frontend.shared.incarnation.0);
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

async fn formed(frontend: &MembershipHandle) -> Arc<RingConfig> {
    let mut ring = frontend.ring();
    within(ring.wait_for(Option::is_some)).await.unwrap().clone().unwrap()
}

async fn sees(frontend: &MembershipHandle, what: impl Fn(&MembersView) -> bool) {
    within(frontend.subscribe().wait_for(|view| what(view))).await.unwrap();
}

async fn stands(frontend: &MembershipHandle, worker: &str, standing: Standing) {
    sees(frontend, |view| view.get(&id(worker)).is_some_and(|w| w.standing == standing)).await;
}

#[tokio::test]
async fn registered_members_form_the_cluster() {
    let frontend = frontend(&["w1", "w2", "w3"]).await;
    assert!(frontend.ring().borrow().is_none());
    let mut beating = Vec::new();
    let workers = [Worker::start("w1").await, Worker::start("w2").await, Worker::start("w3").await];
    for worker in &workers {
        beating.push(worker.register(&frontend).await);
    }
    let config = formed(&frontend).await;
    assert!(config == ring(1, &["w1", "w2", "w3"]), "with the data that they have");
    for worker in &workers {
        stands(&frontend, worker.id, Standing::Member).await;
        assert_eq!(worker.knows(), 1);
    }
    assert_eq!(beating[0].beat().await.unwrap().epoch, 1);
    assert_eq!(*frontend.formation().borrow(), Formation::Formed);
}

#[tokio::test]
async fn a_majority_forms_and_a_late_member_is_configured_when_it_appears() {
    let timing = Timing { form_grace: Duration::from_millis(20), ..timing() };
    let frontend = start_with(&config(&["w1", "w2", "w3"]), Incarnation(7), timing).await.unwrap();
    let (w1, w2, w3) = (Worker::start("w1").await, Worker::start("w2").await, Worker::start("w3").await);
    let _beating = (w1.register(&frontend).await, w2.register(&frontend).await);
    formed(&frontend).await;
    let unseen = frontend.members_now().get(&id("w3")).unwrap().clone();
    assert_eq!((unseen.health, unseen.standing, unseen.seen), (Health::Unknown, Standing::Joining, None));
    let _late = w3.register(&frontend).await;
    stands(&frontend, "w3", Standing::Member).await;
    // Its data was not known when the cluster formed.
    let named = ring(2, &["w1", "w2", "w3"]);
    let mut in_force = frontend.ring();
    let named_now = |ring: &Option<Arc<RingConfig>>| {
        ring.as_ref().is_some_and(|ring| ring.epoch == named.epoch && ring.members == named.members)
    };
    within(in_force.wait_for(named_now)).await.unwrap();
}

#[tokio::test]
async fn a_spare_is_seen_and_left_alone() {
    let frontend = frontend(&["w1", "w2", "w3"]).await;
    let w9 = Worker::start("w9").await;
    let _beating = w9.register(&frontend).await;
    let spare = frontend.members_now().get(&id("w9")).unwrap().clone();
    assert_eq!((spare.health, spare.standing), (Health::Alive, Standing::Spare));
    assert_eq!(w9.knows(), 0);
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
    sees(&frontend, |v| v.get(&id("w1")).unwrap().holds == Some(Epoch(1))).await;
    assert_eq!(moved.knows(), 1, "the new start was asked again, at its new address");
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
async fn what_the_workers_formed_is_used_instead_of_another_list() {
    let frontend = frontend(&["w1", "w2", "w3", "w4"]).await;
    let theirs = ring(1, &["w1", "w2", "w3"]);
    let (w1, w2) = (Worker::holding("w1", &theirs).await, Worker::holding("w2", &theirs).await);
    let w4 = Worker::start("w4").await;
    let _w4 = w4.register(&frontend).await;
    let _beating = (w1.register(&frontend).await, w2.register(&frontend).await);
    assert_eq!(formed(&frontend).await, theirs);
    stands(&frontend, "w1", Standing::Member).await;
    stands(&frontend, "w4", Standing::Spare).await;
    assert_eq!(w4.knows(), 0);
}

/// That it answers at all is what shows that calls to it get through: without it no ring change takes it in.
#[tokio::test]
async fn an_empty_worker_is_known_to_answer_calls() {
    let frontend = frontend(&["w1"]).await;
    let spare = Worker::start("w9").await;
    let _beating = spare.register(&frontend).await;
    sees(&frontend, |v| v.get(&id("w9")).is_some_and(|w| w.holds == Some(Epoch(0)))).await;
}

#[tokio::test]
async fn a_later_configuration_of_the_workers_is_used_and_told_to_its_members() {
    let frontend = frontend(&["w1", "w2", "w3"]).await;
    let later = ring(4, &["w1", "w2", "w5"]);
    let (w1, w2) = (Worker::holding("w1", &later).await, Worker::holding("w2", &later).await);
    let earlier = ring(3, &["w1", "w2", "w3"]);
    let (w3, w5) = (Worker::holding("w3", &earlier).await, Worker::start("w5").await);
    let mut beating = Vec::new();
    for worker in [&w1, &w2, &w3, &w5] {
        beating.push(worker.register(&frontend).await);
    }
    assert_eq!(formed(&frontend).await, later);
    stands(&frontend, "w5", Standing::Member).await;
    sees(&frontend, |v| v.get(&id("w3")).unwrap().holds == Some(Epoch(4))).await;
    stands(&frontend, "w3", Standing::Spare).await;
    assert_eq!((w3.knows(), w5.knows()), (4, 4), "who is no longer a member is told, too");
}

#[tokio::test]
async fn compare_and_swap_takes_the_next_number_and_refuses_what_is_not_so() {
    let frontend = frontend(&["w1"]).await;
    let membership = frontend.membership();
    let next = |number, workers: &[&str]| RingConfig::clone(&ring(number, workers));
    assert_eq!(
        membership.compare_and_swap(Epoch(0), next(1, &["w1"])).await,
        Err(MembershipError::NotFormed)
    );
    let (w1, w2) = (Worker::start("w1").await, Worker::start("w2").await);
    let _beating = (w1.register(&frontend).await, w2.register(&frontend).await);
    formed(&frontend).await;
    let stale = MembershipError::Stale { expected: Epoch(2), current: Epoch(1) };
    assert_eq!(membership.compare_and_swap(Epoch(2), next(3, &["w1"])).await, Err(stale));
    let not_next = MembershipError::NotNext { expected: Epoch(1), next: Epoch(3) };
    assert_eq!(membership.compare_and_swap(Epoch(1), next(3, &["w1"])).await, Err(not_next));
    assert_eq!(within(membership.compare_and_swap(Epoch(1), next(2, &["w1", "w2"]))).await, Ok(()));
    assert_eq!(membership.load().await.unwrap(), Some(ring(2, &["w1", "w2"])));
    stands(&frontend, "w2", Standing::Member).await;
    assert_eq!((w1.knows(), w2.knows()), (2, 2));
}

#[tokio::test]
async fn what_another_frontend_decides_is_heard_of() {
    let workers = ["w1", "w2", "w3"];
    let one = frontend(&workers).await;
    let other = start_with(&config(&workers), Incarnation(8), timing()).await.unwrap();
    let (mut running, mut beating) = (Vec::new(), Vec::new());
    for id in workers {
        let worker = Worker::start(id).await;
        beating.extend([worker.register(&one).await, worker.register(&other).await]);
        running.push(worker);
    }
    let first = formed(&one).await;
    assert_eq!(formed(&other).await, first);
    let mut next = RingConfig::clone(&first);
    next.epoch = Epoch(2);
    one.membership().compare_and_swap(Epoch(1), next.clone()).await.unwrap();
    let mut ring = other.ring();
    within(ring.wait_for(|ring| ring.as_deref() == Some(&next))).await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_nobody_waits_for_is_withdrawn() {
    let frontend = frontend(&["w1"]).await;
    let w1 = Worker::start("w1").await;
    let _beating = w1.register(&frontend).await;
    formed(&frontend).await;
    let next = RingConfig::clone(&ring(2, &["w1", "w2"]));
    // Proposes, and gives up before anyone was asked.
    assert_eq!(frontend.membership().compare_and_swap(Epoch(1), next).now_or_never(), None);
    assert!(frontend.embedded.is_idle());
}

#[tokio::test]
async fn members_are_told_of_each_other_and_hold_each_other_to_it() {
    let workers = ["w1", "w2", "w3"];
    let mut first = Vec::new();
    for id in workers {
        first.push(Worker::start(id).await);
    }
    {
        let frontend = frontend(&workers).await;
        let mut beating = Vec::new();
        for worker in &first {
            beating.push(worker.register(&frontend).await);
        }
        formed(&frontend).await;
        for beating in &mut beating[..2] {
            beating.message.journal_seq = 50;
            beating.beat().await.unwrap();
        }
        let knows = |worker: &Worker, other: &str| {
            let memory = worker.replica.memory.lock();
            memory.witnesses.iter().any(|w| w.worker == other && w.journal_seq == 50)
        };
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        within(async {
            while !knows(&first[1], "w1") || !knows(&first[0], "w2") {
                ticks.tick().await;
            }
        })
        .await;
    }
    // Another frontend, that has seen nothing; w1 comes with the disk of the day before, and w3 is dead.
    let frontend = frontend(&workers).await;
    let mut message = first[0].message();
    (message.boot_generation, message.journal_seq, message.opened_journal_seq) = (2, 40, 40);
    let _old = beat_to(&frontend, message.clone(), None).await.unwrap();
    let mut w2 = first[1].message();
    w2.journal_seq = 50;
    let _w2 = beat_to(&frontend, w2, None).await.unwrap();
    sees(&frontend, |view| view.get(&id("w1")).unwrap().standing == Standing::Lost).await;
    // It comes back as another worker, without waiting for the death of the one that it was.
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let _new = within(async {
        loop {
            ticks.tick().await;
            let renewed = first[0].replica.renewed.lock().clone();
            let Some(uuid) = renewed else { continue };
            message.worker_uuid = uuid;
            if let Ok(beating) = beat_to(&frontend, message.clone(), None).await {
                return beating;
            }
        }
    })
    .await;
    assert!(frontend.ring().borrow().is_none(), "w2 alone is no majority");
    let _w3 = first[2].register(&frontend).await;
    formed(&frontend).await;
    stands(&frontend, "w1", Standing::Replaced).await;
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
