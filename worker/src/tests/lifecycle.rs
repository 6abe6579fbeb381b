use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::*;

/// Waits until the store was lost and is open again.
pub(super) async fn reopened(worker: &Worker, store: &ScriptedStore) {
    let mut open = worker.engine().watch_open();
    while store.state.lock().generation < 2 || !*open.borrow_and_update() {
        open.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_reopens_the_store_and_is_told_as_unknown() {
    for applied in [false, true] {
        let (store, _) = ScriptedStore::new();
        store.state.lock().fates.push_back(Fate::Lose { applied });
        store.state.lock().openings.clear();
        let worker = start(&store).await;
        store.state.lock().openings.push_back(StoreError::Unreachable("starting up".into()));
        let mut stream = Exchange::open(&worker).await;
        assert_eq!(stream.ask(put("a", 1)).await, ReplicaReply::Unknown);
        reopened(&worker, &store).await;
        // The same ballot, re-sent.
        assert_eq!(stream.ask(put("a", 1)).await, ReplicaReply::Stored);
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn the_store_is_opened_again_only_when_every_commit_has_ended() {
    let (store, mut begins) = ScriptedStore::new();
    let (go, hold) = oneshot::channel();
    store.state.lock().fates.extend([Fate::Hold(hold), Fate::Lose { applied: false }]);
    let worker = start(&store).await;
    let mut stream = Exchange::open(&worker).await;
    stream.send([put("slow", 1)]).await;
    begins.recv().await.unwrap();
    let mut other = Exchange::open(&worker).await;
    assert_eq!(other.ask(put("lost", 2)).await, ReplicaReply::Unknown);
    assert!(!worker.engine().is_open());
    assert_eq!(other.ask(get("lost")).await, refused(Refusal::Unavailable));
    assert_eq!(store.state.lock().generation, 1, "a commit is still under way");
    go.send(()).unwrap();
    assert_eq!(stream.receive(1).await, [ReplicaReply::Stored]);
    reopened(&worker, &store).await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_store_that_says_it_is_lost_is_not_answered_from_the_cache() {
    let (store, _) = ScriptedStore::new();
    // No probe will find out: there is one at once, and then none for an hour.
    let hour = std::time::Duration::from_secs(3_600);
    let worker =
        Worker::start(Config { heartbeat_interval: hour, ..config() }, store.clone(), None).await.unwrap();
    let mut stream = Exchange::open(&worker).await;
    assert_eq!(stream.ask(put("a", 1)).await, ReplicaReply::Stored);
    let mut open = worker.engine().watch_open();
    store.state.lock().openings.push_back(StoreError::Unreachable("starting up".into()));
    store.loss.notify_one();
    open.wait_for(|open| !open).await.unwrap();
    reopened(&worker, &store).await;
    assert!(matches!(stream.ask(get("a")).await, ReplicaReply::Version(_)));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn another_database_in_the_place_of_the_first_is_not_used() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let mut stream = Exchange::open(&worker).await;
    assert_eq!(stream.ask(put("a", 1)).await, ReplicaReply::Stored);

    type Spoil = fn(&mut scripted::State);
    let spoils: [Spoil; 2] = [|state| state.uuid = "two".into(), |state| state.journal_seq = 0];
    for spoil in spoils {
        let (uuid, journal_seq) = {
            let mut state = store.state.lock();
            let was = (state.uuid.clone(), state.journal_seq);
            spoil(&mut state);
            was
        };
        let error = worker.engine().open().await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(_)), "{error}");
        let mut state = store.state.lock();
        (state.uuid, state.journal_seq) = (uuid, journal_seq);
    }
    worker.engine().open().await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_database_of_another_cluster_is_refused_at_start() {
    let (store, _) = ScriptedStore::new();
    let member = v1::RingMember { id: "w1".into(), virtual_nodes: 1, ..Default::default() };
    let theirs = v1::RingConfiguration {
        cluster_id: "other".into(),
        epoch: 1,
        replicas: 1,
        members: vec![member],
        ..Default::default()
    };
    let record = v1::RegisterRecord { decided: Some(theirs), ..Default::default() };
    let ring = Some((tercet_common::Epoch(1), prost::Message::encode_to_vec(&record)));
    store.state.lock().register = crate::store::RingRegister { ring, ..Default::default() };
    let error = Worker::start(config(), store, None).await.err().unwrap();
    let text = "cannot use the database: the data belongs to cluster `other`, not to `tercet`";
    assert_eq!(error.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn a_late_database_is_waited_for_and_an_unfit_one_is_not() {
    let (store, _) = ScriptedStore::new();
    let late = StoreError::Unreachable("connection refused".into());
    store.state.lock().openings.extend(vec![late; 5]);
    start(&store).await.stop().await.unwrap();
    assert!(store.state.lock().closed);

    let unfit = StoreError::Refused("fsync is off".into());
    store.state.lock().openings.push_back(unfit.clone());
    let error = Worker::start(config(), store, None).await.err().unwrap();
    assert!(matches!(error, RunError::Store(e) if e == unfit));
}

#[tokio::test]
async fn a_worker_that_others_can_reach_demands_a_secret() {
    let (store, _) = ScriptedStore::new();
    let open = Config { grpc_listen: ([0, 0, 0, 0], 0).into(), ..config() };
    let error = Worker::start(open.clone(), store.clone(), None).await.err().unwrap();
    assert!(matches!(error, RunError::SecretMissing { .. }));
    let guarded = Config { cluster_secret: Some("s3cret".into()), ..open };
    Worker::start(guarded, store, None).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let config = Config { grpc_listen: worker.local_addr(), ..config() };
    let error = Worker::start(config, store, None).await.err().unwrap().to_string();
    assert!(error.contains(&worker.local_addr().to_string()) && error.contains("gRPC"), "{error}");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_answers_what_is_under_way_and_closes_the_store() {
    let (store, mut begins) = ScriptedStore::new();
    let (go, hold) = oneshot::channel();
    store.state.lock().fates.push_back(Fate::Hold(hold));
    let worker = start(&store).await;
    let mut stream = Exchange::open(&worker).await;
    stream.send([put("a", 1)]).await;
    begins.recv().await.unwrap();
    let stopping = tokio::spawn(worker.stop());
    go.send(()).unwrap();
    assert_eq!(stream.receive(1).await, [ReplicaReply::Stored]);
    assert!(stream.replies.next().await.is_none(), "then the stream ends");
    stopping.await.unwrap().unwrap();
    assert!(store.state.lock().closed);
}

#[tokio::test]
async fn run_ends_at_its_token() {
    let (store, _) = ScriptedStore::new();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(crate::run(config(), store.clone(), None, shutdown.clone()));
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn pages_are_served_over_http() {
    let (store, _) = ScriptedStore::new();
    let config = Config { metrics_listen: Some(([127, 0, 0, 1], 0).into()), ..config() };
    let worker = Worker::start(config, store, None).await.unwrap();
    let mut socket = tokio::net::TcpStream::connect(worker.metrics_addr().unwrap()).await.unwrap();
    socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("ready\n"), "{response}");
    worker.stop().await.unwrap();
}
