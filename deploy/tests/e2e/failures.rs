//! Parts die, hang and come back; clients are served, and nothing that was acknowledged is lost.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::AsyncCommands;
use tokio::task::JoinSet;

use crate::support::http::{acknowledgement, value_and_source};
use crate::support::load::{Load, Tolerance};
use crate::support::resp::Reply;
use crate::support::{Cluster, alone, eventually};

/// Commands that must be answered between two events, so that each of them happens under way.
const STRETCH: u64 = 400;
const CLIENTS: usize = 16;

/// A process that hangs until this is dropped.
struct Hung(Pid);

impl Hung {
    fn new(pid: i32) -> Self {
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).expect("the part runs");
        Self(pid)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The story that the original project tells of itself, word for word with its API.
#[tokio::test(flavor = "multi_thread")]
async fn the_failure_story() {
    let cluster = alone().await;
    let rest = cluster.rest();
    let stored = rest.post("/api/kv/story", "Hello Distributed World").await;
    let primary = acknowledgement("Stored", stored.text()).synchronous[0].clone();
    cluster.node("kill", &primary).await;

    let read = rest.get("/api/kv/story").await;
    assert_eq!(read.status, 200, "{}", read.text());
    let (value, source) = value_and_source(read.text());
    assert_eq!(value, "Hello Distributed World");
    assert_ne!(source, primary, "the dead cannot be the source");
    let stored = rest.post("/api/kv/story", "Hello again").await;
    let replicas = acknowledgement("Stored", stored.text());
    assert!(!replicas.synchronous.contains(&primary), "{}", stored.text());

    cluster.node("start", &primary).await;
    cluster.wait_until_whole().await;
    for _ in 0..10 {
        assert_eq!(value_and_source(rest.get("/api/kv/story").await.text()).0, "Hello again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_count_to_fifty_thousand_while_a_worker_dies() {
    const EACH: usize = 1_000;
    let cluster = alone().await;
    let stored = cluster.rest().post("/api/kv/count", "0").await;
    let primary = acknowledgement("Stored", stored.text()).synchronous[0].clone();
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let mut redis = cluster.redis().await;
        clients.spawn(async move {
            let mut numbers = Vec::with_capacity(EACH);
            for _ in 0..EACH {
                numbers.push(redis.incr::<_, _, i64>("count", 1).await.expect("no increment fails"));
            }
            numbers
        });
    }
    let mut watcher = cluster.redis().await;
    eventually("a third is counted", async || {
        let counted: i64 = watcher.get("count").await.expect("no read fails");
        (counted > 15_000).then_some(())
    })
    .await;
    cluster.node("kill", &primary).await;
    let mut numbers: Vec<i64> = clients.join_all().await.into_iter().flatten().collect();
    assert_eq!(watcher.get::<_, i64>("count").await.unwrap(), 50_000);
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=50_000), "every number was given out once");
    cluster.node("start", &primary).await;
    cluster.wait_until_whole().await;
    assert_eq!(watcher.get::<_, i64>("count").await.unwrap(), 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_fails_while_workers_die_hang_and_stop() {
    let cluster = alone().await;
    let mut load = Load::start(cluster.resp(), "workers", CLIENTS, Tolerance::Nothing);
    load.proceed(STRETCH).await;
    for id in ["w1", "w2", "w3", "w4"] {
        let end = if id == "w2" { "stop" } else { "kill" };
        cluster.node(end, id).await;
        load.proceed(STRETCH).await;
        cluster.node("start", id).await;
        cluster.wait_until_whole().await;
        load.proceed(STRETCH).await;
    }
    let hung = Hung::new(cluster.part_pid("w3").await);
    load.proceed(STRETCH).await;
    cluster
        .wait_for_status("the hung worker is noticed", |status| status.partitions.under_replicated > 0)
        .await;
    load.proceed(STRETCH).await;
    drop(hung);
    cluster.wait_until_whole().await;
    load.proceed(STRETCH).await;
    load.finish("workers").await.verify(cluster.resp()).await;
}

/// Listings and flushes concern every worker, also one that is there and does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn listing_and_flushing_do_not_wait_for_a_hung_worker() {
    const KEYS: usize = 100;
    let cluster = alone().await;
    let mut client = cluster.client().await;
    assert_eq!(client.command("FLUSHALL").await, Reply::ok());
    let pairs = (0..KEYS).flat_map(|i| [format!("hung:{i}"), "v".to_owned()]);
    let mset: Vec<String> = std::iter::once("MSET".to_owned()).chain(pairs).collect();
    assert_eq!(client.call(&mset).await, Reply::ok());
    for id in ["w1", "w4"] {
        let hung = Hung::new(cluster.part_pid(id).await);
        let Reply::Array(keys) = client.command("KEYS hung:*").await else { panic!("KEYS fails") };
        assert_eq!(keys.len(), KEYS, "while {id} hangs");
        assert_eq!(client.command("DBSIZE").await.to_string(), KEYS.to_string(), "while {id} hangs");
        assert!(matches!(client.command("RANDOMKEY").await, Reply::Bulk(_)), "while {id} hangs");
        drop(hung);
        cluster.wait_until_whole().await;
    }
    let _hung = Hung::new(cluster.part_pid("w2").await);
    assert_eq!(client.command("FLUSHALL").await, Reply::ok());
    assert_eq!(client.command("KEYS *").await, Reply::Array(Vec::new()));
}

/// A worker outlives its PostgreSQL, and is back when that is.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_fails_while_a_database_dies_and_its_worker_heals_by_itself() {
    let cluster = alone().await;
    let worker = cluster.part_pid("w2").await;
    let mut load = Load::start(cluster.resp(), "databases", CLIENTS, Tolerance::Nothing);
    load.proceed(STRETCH).await;
    for end in ["kill", "stop"] {
        cluster.node(end, "w2-db").await;
        load.proceed(STRETCH).await;
        cluster
            .wait_for_status("the worker is missed", |status| status.partitions.under_replicated > 0)
            .await;
        load.proceed(STRETCH).await;
        cluster.node("start", "w2-db").await;
        cluster.wait_until_whole().await;
        load.proceed(STRETCH).await;
    }
    load.finish("databases").await.verify(cluster.resp()).await;
    assert_eq!(cluster.part_pid("w2").await, worker, "the worker was never restarted");
}

/// Its clients' connections break, which leaves their last writes unknown; nothing else is lost.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_the_frontend() {
    let cluster = alone().await;
    let mut load = Load::start(cluster.resp(), "frontend", CLIENTS, Tolerance::FrontendDies);
    load.proceed(STRETCH).await;
    for end in ["kill", "stop", "kill"] {
        cluster.node(end, "frontend").await;
        cluster.node("start", "frontend").await;
        load.proceed(STRETCH).await;
    }
    // And together with a worker.
    cluster.node("kill", "w4").await;
    cluster.node("kill", "frontend").await;
    cluster.node("start", "frontend").await;
    load.proceed(STRETCH).await;
    cluster.node("start", "w4").await;
    cluster.wait_until_whole().await;
    load.proceed(STRETCH).await;
    load.finish("frontend").await.verify(cluster.resp()).await;
}

/// Reads must not fall for the copies of a worker that slept through the deletion.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_flushed_or_deleted_does_not_come_back_with_a_worker() {
    const KEYS: usize = 200;
    let cluster = alone().await;
    let mut client = cluster.client().await;
    let keys: Vec<String> = (0..KEYS).map(|i| format!("gone:{i}")).collect();
    let mget: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    let nothing = Reply::Array(vec![Reply::Null; KEYS]);
    for delete in ["FLUSHALL", "DEL"] {
        let mset: Vec<&str> =
            std::iter::once("MSET").chain(keys.iter().flat_map(|key| [key.as_str(), "v"])).collect();
        assert_eq!(client.call(&mset).await, Reply::ok());
        cluster.node("kill", "w2").await;
        match delete {
            "FLUSHALL" => assert_eq!(client.command("FLUSHALL").await, Reply::ok()),
            _ => {
                let del: Vec<&str> = std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
                assert_eq!(client.call(&del).await.to_string(), KEYS.to_string());
            }
        }
        assert_eq!(client.call(&mget).await, nothing, "{delete}, while the worker is down");
        cluster.node("start", "w2").await;
        cluster.wait_until_whole().await;
        // Another worker leaves, so that quorums need the one that missed it.
        cluster.node("kill", "w3").await;
        assert_eq!(client.call(&mget).await, nothing, "{delete}, with the worker that missed it");
        assert_eq!(client.command("EXISTS gone:0 gone:1").await, Reply::Integer(0));
        cluster.node("start", "w3").await;
        cluster.wait_until_whole().await;
        assert_eq!(client.call(&mget).await, nothing, "{delete}, in the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_that_stopped_finds_its_data_again() {
    let dir = crate::support::cluster::directory();
    let cluster = Cluster::start_in(dir.path(), &["--workers=3"]).await;
    let mut load = Load::start(cluster.resp(), "restart", CLIENTS, Tolerance::FrontendDies);
    load.proceed(4 * STRETCH).await;
    let memories = load.finish("restart").await;
    let mut redis = cluster.redis().await;
    let () = redis.set_ex("expires", "later", 10_000).await.unwrap();
    cluster.stop().await;

    let cluster = Cluster::start_in(dir.path(), &[]).await;
    memories.verify(cluster.resp()).await;
    let mut redis = cluster.redis().await;
    assert_eq!(redis.get::<_, String>("expires").await.unwrap(), "later");
    assert!((1..=10_000).contains(&redis.ttl::<_, i64>("expires").await.unwrap()));
    // Counting goes on where it was.
    let before: i64 = redis.get("restart:counter:0").await.unwrap();
    assert_eq!(redis.incr::<_, _, i64>("restart:counter:0", 1).await.unwrap(), before + 1);
    cluster.stop().await;
}
