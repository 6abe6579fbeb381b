//! REST, as curl sees it. The texts of the original API are quoted here to the letter.

use reqwest::Method;
use tercet_frontend::coordinator::status::ClusterStatus;
use tokio::task::JoinSet;

use crate::support::http::{self, Rest, acknowledgement, value_and_source};
use crate::support::resp::{Client, Reply};
use crate::support::{alone, shared, tercet};

const WORKERS: [&str; 4] = ["w1", "w2", "w3", "w4"];

#[tokio::test(flavor = "multi_thread")]
async fn the_original_texts_to_the_letter() {
    let cluster = shared().await;
    let rest = cluster.rest();
    let stored = rest.post("/api/kv/greeting", "Hello Distributed World").await;
    assert_eq!(stored.status, 200);
    let replicas = acknowledgement("Stored", stored.text());
    assert_eq!(replicas.synchronous.len(), 2, "{}", stored.text());
    let mut all = replicas.synchronous.clone();
    all.extend(replicas.asynchronous.clone());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 3, "three different replicas: {}", stored.text());
    assert!(all.iter().all(|id| WORKERS.contains(&id.as_str())), "{}", stored.text());

    let read = rest.get("/api/kv/greeting").await;
    let (value, source) = value_and_source(read.text());
    assert_eq!((read.status.as_u16(), value.as_str()), (200, "Hello Distributed World"));
    assert!(all.contains(&source), "{source} is none of {all:?}");

    let workers = rest.get("/api/kv/workers").await.json();
    for id in WORKERS {
        let worker = &workers[id];
        assert_eq!(worker["address"], "127.0.0.1", "{workers}");
        assert!(worker["port"].as_u64().is_some_and(|port| port > 0), "{workers}");
        assert!(worker["lastHeartbeat"].as_i64().is_some_and(|at| at > 1_700_000_000_000), "{workers}");
    }

    let deleted = rest.delete("/api/kv/greeting").await;
    assert_eq!(acknowledgement("Deleted", deleted.text()).synchronous.len(), 2);
    rest.get("/api/kv/greeting").await.assert_problem(404, "key-not-found");
    rest.delete("/api/kv/greeting").await.assert_problem(404, "key-not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_see_the_same_keys() {
    let cluster = shared().await;
    let (rest, mut client) = (cluster.rest(), cluster.client().await);
    rest.post("/api/kv/both:a", "from REST").await;
    assert_eq!(client.command("GET both:a").await, Reply::bulk("from REST"));
    assert_eq!(client.command("INCR both:n").await, Reply::Integer(1));
    assert_eq!(value_and_source(rest.get("/api/kv/both:n").await.text()).0, "1");
    client.command("DEL both:a").await;
    assert_eq!(rest.get("/api/kv/both:a").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_are_values_and_keys() {
    let cluster = shared().await;
    let (rest, mut client) = (cluster.rest(), cluster.client().await);
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(rest.post("/api/kv/bytes%2F%00%FF%20+", bytes.clone()).await.status, 200);
    let got = rest.get("/api/kv/bytes%2F%00%FF%20+").await;
    let value = got.body.strip_prefix(b"Value: ").expect("the original's words");
    assert_eq!(value[..256], bytes);
    assert!(value[256..].starts_with(b" (Source: w"), "{}", value.escape_ascii());
    assert_eq!(client.call(&[&b"GET"[..], b"bytes/\x00\xff +"]).await, Reply::Bulk(bytes));
    assert_eq!(rest.post("/api/kv/empty", "").await.status, 200);
    assert_eq!(value_and_source(rest.get("/api/kv/empty").await.text()).0, "");
    rest.get("/api/kv/%zz").await.assert_problem(400, "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_conditions() {
    let cluster = shared().await;
    let rest = cluster.rest();
    let conditional = async |method: Method, header: &'static str, tag: &str, body: &'static str| {
        let request = rest.request(method, "/api/kv/versions").header(header, tag).body(body);
        http::send(request).await.unwrap()
    };
    assert_eq!(conditional(Method::PUT, "if-none-match", "*", "one").await.status, 200);
    conditional(Method::PUT, "if-none-match", "*", "two").await.assert_problem(412, "precondition-failed");
    let read = rest.get("/api/kv/versions").await;
    let tag = read.header("etag").expect("answers about a key carry a version").to_owned();
    assert!(read.header("x-tercet-clock").is_some());
    assert_eq!(conditional(Method::GET, "if-none-match", &tag, "").await.status, 304);
    assert_eq!(conditional(Method::PUT, "if-match", &tag, "three").await.status, 200);
    conditional(Method::PUT, "if-match", &tag, "four").await.assert_problem(412, "precondition-failed");
    conditional(Method::DELETE, "if-match", &tag, "").await.assert_problem(412, "precondition-failed");
    assert_eq!(value_and_source(rest.get("/api/kv/versions").await.text()).0, "three");

    let expiring = http::send(rest.request(Method::PUT, "/api/kv/versions?ttl=100").body("x")).await.unwrap();
    assert_eq!(expiring.status, 200);
    let left: u64 = rest.get("/api/kv/versions").await.header("x-tercet-ttl").unwrap().parse().unwrap();
    assert!((1..=100).contains(&left));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_lists_what_it_holds() {
    const KEYS: usize = 1_200;
    let cluster = alone().await;
    let (rest, mut client) = (cluster.rest(), cluster.client().await);
    assert_eq!(client.command("FLUSHALL").await, Reply::ok());
    let mset: Vec<String> = std::iter::once("MSET".to_owned())
        .chain((0..KEYS).flat_map(|i| [format!("listed:{i}"), format!("value {i}")]))
        .collect();
    assert_eq!(client.call(&mset).await, Reply::ok());
    client.call(&[&b"SET"[..], b"\xff\xfe", b"\x00\xff"]).await;

    // Every pair is on at least two of the workers, and three in the end; together they hold all.
    let mut copies = std::collections::HashMap::<String, usize>::new();
    for id in WORKERS {
        let listing = rest.get(&format!("/api/kv/worker/{id}")).await;
        assert_eq!(listing.status, 200);
        for (key, value) in listing.json().as_object().expect("an object of pairs") {
            if let Some(number) = key.strip_prefix("listed:") {
                assert_eq!(value, &format!("value {number}"));
            }
            *copies.entry(key.clone()).or_default() += 1;
        }
    }
    assert_eq!(copies.len(), KEYS + 1, "the pairs, and the one that is no text");
    assert!(copies.values().all(|n| (2..=3).contains(n)), "{copies:?}");

    // In pages, too.
    let mut path = "/api/kv/worker/w1?limit=100".to_owned();
    let mut paged = 0;
    loop {
        let page = rest.get(&path).await;
        paged += page.json().as_object().expect("an object").len();
        match page.header("x-tercet-next-cursor") {
            Some(cursor) => path = format!("/api/kv/worker/w1?limit=100&cursor={cursor}"),
            None => break,
        }
    }
    let whole = rest.get("/api/kv/worker/w1").await.json().as_object().expect("an object").len();
    assert_eq!(paged, whole);

    let missing = rest.get("/api/kv/worker/w9").await;
    missing.assert_problem(404, "worker-not-found");
    assert!(missing.text().contains("Worker not found or offline"), "{}", missing.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_help() {
    let cluster = shared().await;
    let rest = cluster.rest();
    assert_eq!(rest.get("/healthz").await.status, 200);
    let ready = rest.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["ready"].as_bool()), (200, Some(true)));
    let metrics = rest.get("/metrics").await;
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    assert!(metrics.text().contains("\ntercet_commands_total{"), "commands are counted");
    let status: ClusterStatus = serde_json::from_slice(&rest.get("/admin/status").await.body).unwrap();
    assert!(status.ready && status.workers.len() == 4);
    assert!(rest.get("/").await.text().contains("/api/kv/{key}"));
    rest.get("/nothing/here").await.assert_problem(404, "unknown-path");
    let refused = http::send(rest.request(Method::PATCH, "/api/kv/k")).await.unwrap();
    refused.assert_problem(405, "method-not-allowed");
    assert!(refused.header("allow").is_some());
    assert!(rest.get("/problems/key-not-found").await.text().contains("404"));
}

/// One worker dead: every write is acknowledged as before, only that nobody is left to follow.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_its_third_replica_says_so() {
    let cluster = alone().await;
    let rest = cluster.rest();
    let first = acknowledgement("Stored", rest.post("/api/kv/third", "one").await.text());
    let dead = first.asynchronous.expect("a whole cluster has a third replica");
    cluster.node("kill", &dead).await;
    cluster.wait_for_status("the frontend knows", |status| status.partitions.under_replicated > 0).await;
    let second = rest.post("/api/kv/third", "two").await;
    let now = acknowledgement("Stored", second.text());
    assert_eq!((now.synchronous.len(), now.asynchronous), (2, None), "{}", second.text());
    assert!(
        second.text().ends_with("{Asynchronous Replica: None (Quorum fallback used)}"),
        "{}",
        second.text()
    );
    cluster.node("start", &dead).await;
    cluster.wait_until_whole().await;
}

/// Two of four workers dead: a key that lost its quorum is refused with 503 and is never "not found"; all others are
/// served.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_read_is_never_not_found() {
    const KEYS: u64 = 40;
    let cluster = alone().await;
    let rest = cluster.rest();
    let mut lost = Vec::new();
    for i in 0..KEYS {
        let stored = rest.post(&format!("/api/kv/lost:{i}"), i.to_string()).await;
        let replicas = acknowledgement("Stored", stored.text());
        let ids = replicas.synchronous.iter().chain(&replicas.asynchronous);
        lost.push(ids.filter(|id| ["w3", "w4"].contains(&id.as_str())).count() == 2);
    }
    assert!(lost.contains(&true) && lost.contains(&false), "some keys are to lose two replicas, some not");
    cluster.node("kill", "w3").await;
    cluster.node("kill", "w4").await;

    let mut checks = JoinSet::new();
    for (i, lost) in (0..).zip(&lost) {
        let (rest, client) = (rest.clone(), cluster.client().await);
        checks.spawn(match lost {
            true => Box::pin(expect_refusals(rest, client, i)) as BoxedCheck,
            false => Box::pin(expect_service(rest, client, i)),
        });
    }
    checks.join_all().await;
    let ready = rest.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.json()["reasons"][0].as_str().is_some_and(|why| why.contains("partitions")),
        "{}",
        ready.text()
    );
    let dir = cluster.data_dir().display().to_string();
    assert_eq!(tercet(&["status", "--data-dir", &dir]).await.status.code(), Some(1));

    cluster.node("start", "w3").await;
    cluster.node("start", "w4").await;
    cluster.wait_until_whole().await;
    for (i, lost) in (0..).zip(lost) {
        let read = rest.get(&format!("/api/kv/lost:{i}")).await;
        let value: u64 = value_and_source(read.text()).0.parse().unwrap();
        // An INCR of unknown outcome may have been applied; nothing else may have happened to it.
        assert!(value == i || (lost && value == i + 1), "lost:{i} is {value}");
    }
}

type BoxedCheck = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn expect_refusals(rest: Rest, mut client: Client, i: u64) {
    let path = format!("/api/kv/lost:{i}");
    let read = rest.get(&path).await;
    read.assert_problem(503, "read-unavailable");
    assert!(read.header("retry-after").is_some());
    let write = rest.post(&path, i.to_string()).await;
    // A write that was sent to the one replica left may yet be found there: 504.
    assert!([503, 504].contains(&write.status.as_u16()), "{}", write.text());
    let refused = client.command(&format!("GET lost:{i}")).await;
    assert!(refused.expect_error().starts_with("CLUSTERDOWN "), "{refused}");
    let refused = client.command(&format!("INCR lost:{i}")).await;
    let prefix = refused.expect_error().split(' ').next().unwrap_or_default();
    assert!(["NOREPLICAS", "UNCERTAIN"].contains(&prefix), "{refused}");
}

async fn expect_service(rest: Rest, mut client: Client, i: u64) {
    let path = format!("/api/kv/lost:{i}");
    assert_eq!(value_and_source(rest.get(&path).await.text()).0, i.to_string());
    let write = rest.post(&path, i.to_string()).await;
    assert_eq!(write.status, 200, "{}", write.text());
    assert_eq!(client.command(&format!("GET lost:{i}")).await, Reply::bulk(i.to_string()));
}
