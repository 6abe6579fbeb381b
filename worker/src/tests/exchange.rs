use tercet_common::PartitionId;
use tercet_common::message::Held;
use tokio::sync::oneshot;
use tonic::Code;

use super::*;

#[tokio::test]
async fn puts_gets_and_prepares_travel_over_one_stream() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let mut stream = Exchange::open(&worker).await;
    let prepares = PartitionId::all()
        .map(|partition| ReplicaRequest::Prepare { partition, promise: promise(1) })
        .collect::<Vec<_>>();
    let n = prepares.len();
    stream.send(prepares).await;
    let replies = stream.receive(n).await;
    assert!(replies.iter().all(|reply| matches!(reply, ReplicaReply::Prepared { .. })));
    assert!(store.state.lock().partitions.iter().all(|p| p.promise == promise(1)));

    assert_eq!(stream.ask(put("a", 1)).await, ReplicaReply::Stored);
    let held = row("a", promise(1).ballot(1));
    let version = ReplicaReply::Version(Held { ballot: held.ballot, row: Some(held) });
    assert_eq!(stream.ask(get("a")).await, version);
    let absent = ReplicaReply::Version(Held::default());
    assert_eq!(stream.ask(get("b")).await, absent);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn what_waits_while_a_commit_is_under_way_becomes_one_commit() {
    let (store, mut begins) = ScriptedStore::new();
    let (go, hold) = oneshot::channel();
    store.state.lock().fates.push_back(Fate::Hold(hold));
    let worker = Worker::start(Config { writers: 1, ..config() }, store.clone(), None).await.unwrap();
    let mut stream = Exchange::open(&worker).await;
    stream.send([put("first", 1)]).await;
    assert_eq!(begins.recv().await, Some(1));
    for batch in 0..10 {
        stream.send((0..50).map(|n| put(&format!("{batch}.{n}"), 2 + batch * 50 + n))).await;
    }
    // Answered at once, so all before it has been taken in.
    let nobodys = ReplicaRequest::Put { row: row("nobody's", Ballot::ZERO) };
    assert!(matches!(stream.ask(nobodys).await, ReplicaReply::Refused(_)));
    go.send(()).unwrap();
    assert!(stream.receive(501).await.iter().all(|reply| *reply == ReplicaReply::Stored));
    assert_eq!(store.state.lock().batches, [1, 500]);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn malformed_requests_are_refused_one_by_one() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let mut stream = Exchange::open(&worker).await;
    let broken = v1::Request { id: 0, op: None };
    let no_partition = v1::Prepare { partition: 1_024, promise: Some(promise(1).into()) };
    let no_partition = v1::Request { id: 1, op: Some(v1::request::Op::Prepare(no_partition)) };
    let sound = request_to_wire(2, put("a", 1));
    stream.requests.send(v1::RequestBatch { requests: vec![broken, no_partition, sound] }).await.unwrap();
    let invalid = refused(Refusal::Invalid);
    assert_eq!(stream.receive(3).await, [invalid.clone(), invalid, ReplicaReply::Stored]);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_batch_beyond_the_agreed_length_ends_the_stream() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let mut stream = Exchange::open(&worker).await;
    stream.send((0..=tercet_proto::BATCH_LEN_MAX as u64).map(|n| put("a", n + 1))).await;
    assert!(stream.replies.next().await.is_none());
    assert!(store.state.lock().batches.is_empty());
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn two_streams_get_their_own_answers() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let mut first = Exchange::open(&worker).await;
    let mut second = Exchange::open(&worker).await;
    first.send((1..=20).map(|n| put(&format!("a{n}"), n))).await;
    second.send((1..=10).map(|n| ReplicaRequest::Put { row: row(&format!("b{n}"), Ballot::ZERO) })).await;
    assert_eq!(first.receive(20).await, vec![ReplicaReply::Stored; 20]);
    let replies = second.receive(10).await;
    assert!(replies.iter().all(|reply| matches!(reply, ReplicaReply::Refused(_))), "{replies:?}");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_caller_without_the_secret_is_turned_away() {
    let (store, _) = ScriptedStore::new();
    let config = Config { cluster_secret: Some("s3cret".into()), ..config() };
    let worker = Worker::start(config, store.clone(), None).await.unwrap();
    let count = v1::CountRequest { partitions: vec![1], now_ms: 0 };
    let error = client(&worker).await.count(count.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let mut request = tonic::Request::new(count);
    request.metadata_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
    client(&worker).await.count(request).await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn scans_come_in_pages_and_counts_are_counted() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let mut stream = Exchange::open(&worker).await;
    stream.send((1..=25).map(|n| put(&n.to_string(), n))).await;
    stream.receive(25).await;
    let mut client = client(&worker).await;
    let mut request = v1::ScanRequest { last_partition: 1_023, limit: 10, ..Default::default() };
    let mut pages = Vec::new();
    loop {
        let page = client.scan(request.clone()).await.unwrap().into_inner();
        pages.push(page.rows.len());
        let Some(next) = page.next else { break };
        (request.first_partition, request.from_hash) = (next.partition, next.hash);
    }
    assert_eq!(pages, [10, 10, 5]);
    let count = v1::CountRequest { partitions: (0..1_024).collect(), now_ms: 0 };
    assert_eq!(client.count(count).await.unwrap().into_inner().live, 25);

    for invalid in [
        v1::ScanRequest { first_partition: 1_024, ..request.clone() },
        v1::ScanRequest { last_partition: u32::MAX, ..request.clone() },
        v1::ScanRequest { from_hash: vec![0; 15].into(), ..request },
    ] {
        assert_eq!(client.scan(invalid).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for partitions in [vec![1_024], vec![0; 1_025]] {
        let count = v1::CountRequest { partitions, now_ms: 0 };
        assert_eq!(client.count(count).await.unwrap_err().code(), Code::InvalidArgument);
    }
    worker.stop().await.unwrap();
}
