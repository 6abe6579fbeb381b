//! The cluster heals itself: dead workers are replaced, returning ones are let in again, workers come and go on order,
//! and nothing that was acknowledged is lost meanwhile.

use redis::AsyncCommands;
use serde_json::Value;
use tercet_frontend::coordinator::status::Role;

use crate::support::http::{acknowledgement, value_and_source};
use crate::support::load::{Load, Tolerance};
use crate::support::{Cluster, eventually, tercet, turn};

/// Commands that must be answered between two events, so that each of them happens under way.
const STRETCH: u64 = 200;
const CLIENTS: usize = 3;

/// What a worker itself holds.
async fn listing(cluster: &Cluster, worker: &str) -> Option<Value> {
    let answer = cluster.rest().get(&format!("/api/kv/worker/{worker}")).await;
    (answer.status == 200).then(|| answer.json())
}

/// Until the ring is at rest with these members, each partition has all its replicas, and nobody is missing.
async fn wait_for_ring(cluster: &Cluster, members: &[&str]) {
    cluster
        .wait_for_status(&format!("the ring is {members:?}"), |status| {
            let holders: Vec<&str> =
                status.workers.iter().filter(|w| w.partitions > 0).map(|w| w.id.as_str()).collect();
            let settled = status.ring.change.is_none() && status.partitions.under_replicated == 0;
            settled && status.ready && holders == members
        })
        .await;
}

/// Until each of these keys is shown with this value by exactly its three replicas.
async fn wait_for_three_copies(cluster: &Cluster, keys: &[(String, String)], workers: &[&str]) {
    eventually("every key has its three copies", async || {
        let mut copies = vec![0; keys.len()];
        for worker in workers {
            let held = listing(cluster, worker).await?;
            for (n, (key, value)) in keys.iter().enumerate() {
                copies[n] += usize::from(held[key] == Value::String(value.clone()));
            }
        }
        copies.iter().all(|n| *n == 3).then_some(())
    })
    .await;
}

/// The story that the original project tells of its proactive re-replication, and what comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_is_replaced_and_a_second_failure_costs_nothing() {
    let _turn = turn().await;
    let cluster = Cluster::start(&[]).await;
    let rest = cluster.rest();
    let stored = rest.post("/api/kv/story", "Persistent Data").await;
    let replicas = acknowledgement("Stored", stored.text());
    let primary = replicas.synchronous[0].clone();
    let all = ["w1", "w2", "w3", "w4"];
    let holders: Vec<String> = replicas.synchronous.into_iter().chain(replicas.asynchronous).collect();
    let spare = all.into_iter().find(|id| !holders.iter().any(|h| h == id)).expect("three of four hold it");
    assert!(listing(&cluster, spare).await.unwrap()["story"].is_null(), "it holds nothing of the key");

    let mut load = Load::start(cluster.resp(), "story", CLIENTS, Tolerance::Nothing);
    load.proceed(STRETCH).await;
    cluster.node("kill", &primary).await;
    let read = rest.get("/api/kv/story").await;
    assert_eq!(read.status, 200, "{}", read.text());
    assert_eq!(value_and_source(read.text()).0, "Persistent Data");

    eventually("the spare worker holds the key", async || {
        let held = listing(&cluster, spare).await?;
        (held["story"] == "Persistent Data").then_some(())
    })
    .await;
    let left: Vec<&str> = all.into_iter().filter(|id| *id != primary).collect();
    wait_for_ring(&cluster, &left).await;
    let log = std::fs::read_to_string(cluster.data_dir().join("logs/frontend.log")).unwrap();
    assert!(log.contains("starting proactive re-replication"), "{log}");
    load.proceed(STRETCH).await;

    // One more, and nothing is unavailable; but with two left nobody is let go.
    let second = left[0];
    cluster.node("kill", second).await;
    load.proceed(STRETCH).await;
    cluster.wait_for_status("nobody can be let go", |status| status.ring.waiting.is_some()).await;
    load.proceed(STRETCH).await;

    for id in [second, primary.as_str()] {
        cluster.node("start", id).await;
    }
    wait_for_ring(&cluster, &all).await;
    load.proceed(STRETCH).await;
    load.finish("story").await.verify(cluster.resp()).await;
    wait_for_three_copies(&cluster, &[("story".to_owned(), "Persistent Data".to_owned())], &all).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_and_go_on_order_and_clients_notice_nothing() {
    let _turn = turn().await;
    const KEYS: usize = 300;
    let cluster = Cluster::start(&["--workers", "3"]).await;
    let mut redis = cluster.redis().await;
    let keys: Vec<(String, String)> = (0..KEYS).map(|n| (format!("kept:{n}"), n.to_string())).collect();
    for (key, value) in &keys {
        redis.set::<_, _, ()>(key, value).await.unwrap();
    }
    for n in 0..KEYS {
        redis.set::<_, _, ()>(format!("gone:{n}"), "x").await.unwrap();
        redis.del::<_, i64>(format!("gone:{n}")).await.unwrap();
    }
    let dir = cluster.data_dir().display().to_string();
    let mut load = Load::start(cluster.resp(), "moving", CLIENTS, Tolerance::Nothing);
    load.proceed(STRETCH).await;

    let refused = tercet(&["drain", "w9", "--data-dir", &dir]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");

    let added = tercet(&["node", "add", "--data-dir", &dir]).await;
    assert!(added.status.success(), "{added:?}");
    wait_for_ring(&cluster, &["w1", "w2", "w3", "w4"]).await;
    load.proceed(STRETCH).await;

    let drained = tercet(&["drain", "w2", "--data-dir", &dir]).await;
    assert!(drained.status.success(), "{drained:?}");
    let status = cluster.status().await.unwrap();
    let w2 = status.workers.iter().find(|w| w.id.as_str() == "w2").unwrap();
    assert_eq!((w2.partitions, w2.role), (0, Role::Leaving));
    assert_eq!(listing(&cluster, "w2").await.unwrap(), serde_json::json!({}), "it holds nothing any more");
    cluster.node("stop", "w2").await;
    load.proceed(STRETCH).await;
    load.finish("moving").await.verify(cluster.resp()).await;

    for (key, value) in &keys {
        assert_eq!(redis.get::<_, String>(key).await.unwrap(), *value);
    }
    for n in 0..KEYS {
        assert_eq!(redis.exists::<_, i64>(format!("gone:{n}")).await.unwrap(), 0, "gone:{n} came back");
    }
    wait_for_three_copies(&cluster, &keys, &["w1", "w3", "w4"]).await;

    // It is let in again when it may stay, over what it still has. The ring has forgotten it and its order by then.
    cluster
        .wait_for_status("w2 is out of the ring", |status| {
            status.workers.iter().all(|w| w.id.as_str() != "w2" || w.role == Role::Spare)
        })
        .await;
    cluster.node("start", "w2").await;
    let stays = tercet(&["drain", "w2", "--cancel", "--data-dir", &dir]).await;
    assert!(stays.status.success(), "{stays:?}");
    wait_for_ring(&cluster, &["w1", "w2", "w3", "w4"]).await;
    for n in 0..KEYS {
        assert_eq!(redis.exists::<_, i64>(format!("gone:{n}")).await.unwrap(), 0, "gone:{n} came back");
    }
    wait_for_three_copies(&cluster, &keys, &["w1", "w2", "w3", "w4"]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_restarts_reads_the_ring_back_from_the_workers() {
    let _turn = turn().await;
    let cluster = Cluster::start(&[]).await;
    let mut redis = cluster.redis().await;
    redis.set::<_, _, ()>("kept", "1").await.unwrap();
    cluster.node("kill", "w3").await;
    wait_for_ring(&cluster, &["w1", "w2", "w4"]).await;
    let number = cluster.status().await.unwrap().epoch;
    assert!(number > 1);
    cluster.node("kill", "frontend").await;
    cluster.node("start", "frontend").await;
    wait_for_ring(&cluster, &["w1", "w2", "w4"]).await;
    assert!(cluster.status().await.unwrap().epoch >= number);
    let mut redis = cluster.redis().await;
    assert_eq!(redis.get::<_, String>("kept").await.unwrap(), "1");
    cluster.node("start", "w3").await;
    wait_for_ring(&cluster, &["w1", "w2", "w3", "w4"]).await;
    cluster.stop().await;
}

/// A worker that comes back over an empty database is somebody else: it votes only once it has copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_is_noticed_and_filled_again() {
    let _turn = turn().await;
    const KEYS: usize = 200;
    for with_frontend in [false, true] {
        let cluster = Cluster::start(&["--workers", "3"]).await;
        let mut redis = cluster.redis().await;
        let keys: Vec<(String, String)> = (0..KEYS).map(|n| (format!("kept:{n}"), n.to_string())).collect();
        for (key, value) in &keys {
            redis.set::<_, _, ()>(key, value).await.unwrap();
        }
        wait_for_three_copies(&cluster, &keys, &["w1", "w2", "w3"]).await;
        cluster.node("stop", "w3").await;
        if with_frontend {
            cluster.node("kill", "frontend").await;
        }
        empty_database(&cluster, "w3").await;
        if with_frontend {
            cluster.node("start", "frontend").await;
        }
        cluster.node("start", "w3").await;
        wait_for_ring(&cluster, &["w1", "w2", "w3"]).await;
        wait_for_three_copies(&cluster, &keys, &["w1", "w2", "w3"]).await;
        let mut redis = cluster.redis().await;
        for (key, value) in &keys {
            assert_eq!(redis.get::<_, String>(key).await.unwrap(), *value);
        }
        cluster.stop().await;
    }
}

/// As a disk that was replaced: nothing of the worker's tables is left.
async fn empty_database(cluster: &Cluster, worker: &str) {
    let sockets = cluster.part(&format!("{worker}-db")).await.address;
    let connection = format!("host={sockets} user=tercet dbname=postgres");
    let (client, driver) =
        tokio_postgres::connect(&connection, tokio_postgres::NoTls).await.expect("its database runs");
    let driver = tokio::spawn(driver);
    client.batch_execute("DROP SCHEMA tercet CASCADE").await.expect("nobody uses it");
    drop(client);
    driver.await.expect("no panic").expect("ends in order");
}
