use std::pin::Pin;

use futures_util::{Stream, stream};
use tercet_proto::v1::controller_server::{Controller, ControllerServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::*;

/// A frontend that passes on every beat, with the authorization of its stream.
struct Listening(mpsc::UnboundedSender<(Option<String>, v1::HeartbeatRequest)>);

#[tonic::async_trait]
impl Controller for Listening {
    type HeartbeatStream = Pin<Box<dyn Stream<Item = Result<v1::HeartbeatReply, Status>> + Send>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let shown = request.metadata().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        let beats = self.0.clone();
        let replies = request.into_inner().map(move |beat| {
            let _ = beats.send((shown.clone(), beat?));
            Ok(v1::HeartbeatReply { incarnation: 7, epoch: 1 })
        });
        // It ends when the worker's side does.
        Ok(Response::new(Box::pin(replies.chain(stream::empty()))))
    }
}

pub(super) type Beats = mpsc::UnboundedReceiver<(Option<String>, v1::HeartbeatRequest)>;

/// A frontend on a port; it is gone when the token is cancelled and its task has ended.
pub(super) async fn frontend(
    address: &str,
) -> (String, Beats, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, beats) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let server = Server::builder()
        .add_service(ControllerServer::new(Listening(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let task = tokio::spawn(async move {
        tokio::select! {
            result = server => result.unwrap(),
            () = stopped => {}
        }
    });
    (address, beats, stop, task)
}

#[tokio::test]
async fn a_worker_registers_with_its_real_address_and_shows_the_secret() {
    let (address, mut beats, ..) = frontend("127.0.0.1:0").await;
    let (store, _) = ScriptedStore::new();
    store.state.lock().keys = 42;
    let config = Config {
        frontends: vec![address],
        cluster_secret: Some("s3cret".into()),
        zone: "rack-1".into(),
        ..config()
    };
    let worker = Worker::start(config, store, None).await.unwrap();
    let (shown, beat) = beats.recv().await.unwrap();
    assert_eq!(shown.as_deref(), Some("Bearer s3cret"));
    assert_eq!(beat.address, worker.local_addr().to_string());
    assert_eq!((beat.worker_id.as_str(), beat.worker_uuid.as_str(), beat.boot_generation), ("w1", "one", 1));
    assert_eq!((beat.cluster_id.as_str(), beat.zone.as_str(), beat.virtual_nodes), ("tercet", "rack-1", 128));
    let health = beat.health.unwrap();
    assert!(health.database_commits && health.keys == 42);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_database_that_does_not_commit_is_told_with_the_next_beat() {
    let (address, mut beats, ..) = frontend("127.0.0.1:0").await;
    let (store, _) = ScriptedStore::new();
    let config = Config { frontends: vec![address], advertise: Some("w1.example:7380".into()), ..config() };
    let worker = Worker::start(config, store.clone(), None).await.unwrap();
    let mut next_with = async |committing: bool| {
        loop {
            let beat = beats.recv().await.unwrap().1;
            assert_eq!(beat.address, "w1.example:7380");
            if beat.health.unwrap().database_commits == committing {
                return;
            }
        }
    };
    next_with(true).await;
    store.state.lock().proofs.push_back(StoreError::Timeout("the disk hangs".into()));
    next_with(false).await;
    next_with(true).await;
    assert!(worker.engine().is_open(), "slow is not lost");
    store.state.lock().proofs.push_back(StoreError::Unreachable("connection reset".into()));
    next_with(false).await;
    next_with(true).await;
    assert_eq!(store.state.lock().generation, 2, "it was opened again");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_frontend_that_comes_back_hears_from_the_worker_again() {
    let (address, mut beats, stop, task) = frontend("127.0.0.1:0").await;
    let (store, _) = ScriptedStore::new();
    let config = Config { frontends: vec![address.clone()], ..config() };
    let worker = Worker::start(config, store, None).await.unwrap();
    beats.recv().await.unwrap();
    stop.cancel();
    task.await.unwrap();
    let (_, mut beats, ..) = frontend(&address).await;
    beats.recv().await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_told_and_ends_with_a_proof_that_commits() {
    let (address, mut beats, ..) = frontend("127.0.0.1:0").await;
    let (store, _) = ScriptedStore::new();
    let worker =
        Worker::start(Config { frontends: vec![address], ..config() }, store.clone(), None).await.unwrap();
    let mut stream = Exchange::open(&worker).await;
    let full = StoreError::DiskFull("no space left on device".into());
    store.state.lock().proofs.extend(vec![full.clone(); 100_000]);
    store.state.lock().fates.push_back(Fate::Abort(full));
    let mut next_with = async |read_only: bool| {
        while beats.recv().await.unwrap().1.health.unwrap().read_only != read_only {}
    };
    assert_eq!(stream.ask(put("a", 1)).await, refused(Refusal::Unavailable));
    next_with(true).await;
    assert_eq!(stream.ask(put("a", 2)).await, refused(Refusal::Unavailable));
    store.state.lock().proofs.clear();
    next_with(false).await;
    assert_eq!(stream.ask(put("a", 3)).await, ReplicaReply::Stored);
    worker.stop().await.unwrap();
}
