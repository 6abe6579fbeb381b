//! What makes replicas equal, over real gRPC and the store in memory.

use tercet_common::sync::{DigestEntry, Memory, Position};
use tercet_common::{KeyHash, PartitionId, SyncReply, SyncRequest};

use super::*;
use crate::store::MemoryDisk;

const FROM: KeyHash = KeyHash([0; 16]);

async fn ask(stream: &mut Exchange, request: SyncRequest) -> SyncReply {
    match stream.ask(ReplicaRequest::Sync(Box::new(request))).await {
        ReplicaReply::Synced(reply) => *reply,
        other => panic!("no sync reply: {other:?}"),
    }
}

fn scope() -> (PartitionId, Epoch) {
    (key("{t}").partition(), Epoch(1))
}

fn entry(row: &Row) -> DigestEntry {
    DigestEntry {
        hash: row.key.hash(),
        ballot: row.ballot,
        tombstone: matches!(row.content, Content::Tombstone),
    }
}

#[tokio::test]
async fn rows_are_compared_fetched_and_collected_through_the_store() {
    let worker = Worker::start(config(), Arc::new(MemoryDisk::new("one").store()), None).await.unwrap();
    let mut stream = Exchange::open(&worker).await;
    let live = row("{t}live", promise(1).ballot(1));
    let dead = Row { content: Content::Tombstone, ..row("{t}dead", promise(1).ballot(2)) };
    for row in [&live, &dead] {
        assert_eq!(stream.ask(ReplicaRequest::Put { row: row.clone() }).await, ReplicaReply::Stored);
    }
    let (partition, epoch) = scope();
    let digest = SyncRequest::Digest { partition, epoch, from: FROM, limit: 10 };
    let SyncReply::Digested(digested) = ask(&mut stream, digest.clone()).await else { panic!("a digest") };
    let mut entries = [entry(&live), entry(&dead)];
    entries.sort_by_key(|entry| entry.hash);
    assert_eq!((&digested.entries[..], digested.next), (&entries[..], None));
    assert_eq!(digested.state.highest, dead.ballot);
    let SyncReply::Summed(summed) =
        ask(&mut stream, SyncRequest::Summary { partition, epoch, from: FROM }).await
    else {
        panic!("a summary")
    };
    assert_eq!((summed.rows, summed.tombstones, summed.next), (2, 1, None));
    assert_eq!(summed.state, digested.state);

    let hashes = vec![dead.key.hash(), key("{t}nothing").hash(), live.key.hash()];
    let look = SyncRequest::Look { partition, epoch, hashes: hashes.clone() };
    let SyncReply::Digested(looked) = ask(&mut stream, look).await else { panic!("a digest") };
    assert_eq!(looked.entries, entries);
    let fetched = ask(&mut stream, SyncRequest::Fetch { partition, epoch, hashes }).await;
    assert_eq!(fetched, SyncReply::Rows(vec![Some(dead.clone()), None, Some(live.clone())]));

    let tombstones = vec![(dead.key.hash(), dead.ballot)];
    let collect = SyncRequest::Collect { partition, promise: promise(1), floor: dead.ballot, tombstones };
    assert_eq!(ask(&mut stream, collect).await, SyncReply::Done);
    let SyncReply::Digested(digested) = ask(&mut stream, digest).await else { panic!("a digest") };
    assert_eq!((digested.entries, digested.state.floor), (vec![entry(&live)], dead.ballot));
    let refusal = refused(Refusal::Floor { floor: dead.ballot });
    assert_eq!(stream.ask(ReplicaRequest::Put { row: dead }).await, refusal);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn journals_are_read_and_memories_kept_through_the_store() {
    let worker = Worker::start(config(), Arc::new(MemoryDisk::new("one").store()), None).await.unwrap();
    let mut stream = Exchange::open(&worker).await;
    assert_eq!(stream.ask(put("{t}a", 1)).await, ReplicaReply::Stored);
    let SyncReply::Changed(changes) = ask(&mut stream, SyncRequest::Changes { since: 0, limit: 10 }).await
    else {
        panic!("changes")
    };
    assert!(changes.entries.contains(&(scope().0, key("{t}a").hash())) && !changes.pruned, "{changes:?}");
    let memory = Memory { positions: vec![Position { peer: "two".into(), seq: 7 }], witnesses: vec![] };
    assert_eq!(ask(&mut stream, SyncRequest::Remember { memory: memory.clone() }).await, SyncReply::Done);
    assert_eq!(ask(&mut stream, SyncRequest::Recall).await, SyncReply::Remembered(memory));
    worker.stop().await.unwrap();
}
