//! Workers, health, metrics, and the paths that lead nowhere.

use http::Request;
use tercet_frontend::coordinator::OpError;
use tercet_frontend::coordinator::status::Health;

use crate::harness::{start, start_with, worker};

#[tokio::test]
async fn the_active_workers_are_an_object() {
    let gateway = start().await;
    gateway.engine.status.lock().workers = vec![
        worker("w2", Some("127.0.0.1:7381"), Health::Suspect, Some(1_700_000_000_001)),
        worker("w1", Some("127.0.0.1:7380"), Health::Alive, Some(1_700_000_000_000)),
        worker("w3", Some("127.0.0.1:7382"), Health::Dead, Some(1_600_000_000_000)),
        worker("w4", None, Health::Unknown, None),
    ];
    let answer = gateway.get("/api/kv/workers").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.text(),
        r#"{"w2":{"address":"127.0.0.1","port":7381,"lastHeartbeat":1700000000001},"w1":{"address":"127.0.0.1","port":7380,"lastHeartbeat":1700000000000}}"#
    );
}

#[tokio::test]
async fn health_and_readiness_are_two_things() {
    let gateway = start().await;
    assert_eq!(gateway.get("/readyz").await.text(), r#"{"ready":true,"reasons":[]}"#);
    {
        let mut status = gateway.engine.status.lock();
        status.ready = false;
        status.partitions.unavailable = 3;
    }
    let not_ready = gateway.get("/readyz").await;
    assert_eq!(not_ready.status, 503);
    assert_eq!(not_ready.json()["reasons"][0], "3 of 1024 partitions have no reachable quorum");
    assert_eq!(gateway.get("/healthz").await.status, 200);
    assert_eq!(gateway.get("/admin/status").await.json()["partitions"]["unavailable"], 3);
}

#[tokio::test]
async fn the_index_and_the_problems_explain() {
    let gateway = start().await;
    assert!(gateway.get("/").await.text().contains("/api/kv/{key}"));
    gateway.engine.memory.fail_with(Some(OpError::Uncertain));
    let problem = gateway.post("/api/kv/k", "v").await.json();
    let page = gateway.get(problem["type"].as_str().unwrap()).await;
    assert!(page.text().starts_with("uncertain (504"), "{}", page.text());
    assert!(gateway.get("/problems").await.text().contains("no-quorum"));
    gateway.get("/problems/none").await.problem(404, "unknown-path");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let gateway = start().await;
    for target in ["/api", "/api/kv", "/api/kv/", "/api/kv?k=v", "/favicon.ico", "/API/KV/k"] {
        gateway.get(target).await.problem(404, "unknown-path");
    }
    for (method, target, allow) in [
        ("PATCH", "/api/kv/k", "GET,HEAD,POST,PUT,DELETE"),
        ("OPTIONS", "/api/kv/workers", "GET,HEAD,POST,PUT,DELETE"),
        ("POST", "/healthz", "GET,HEAD"),
        ("DELETE", "/", "GET,HEAD"),
    ] {
        let answer = gateway.send(Request::builder().method(method).uri(target), "").await;
        answer.problem(405, "method-not-allowed");
        let mut methods: Vec<_> = answer.header("allow").unwrap().split(',').collect();
        let mut expected: Vec<_> = allow.split(',').collect();
        methods.sort_unstable();
        expected.sort_unstable();
        assert_eq!(methods, expected, "{method} {target}");
    }
}

#[tokio::test]
async fn without_a_recorder_there_are_no_metrics() {
    start().await.get("/metrics").await.problem(404, "unknown-path");
}

/// The recorder is the process's, so other tests of this binary count into it too: the test looks for growth.
#[tokio::test]
async fn requests_are_measured() {
    let handle = tercet_common::metrics::install().unwrap();
    let gateway = start_with("127.0.0.1:0", |_| {}, Some(handle)).await;
    let count = |page: &str, series: &str| {
        let line = page.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |n| n.parse::<f64>().unwrap())
    };
    let series = |command, outcome| {
        format!("tercet_commands_total{{protocol=\"rest\",command=\"{command}\",outcome=\"{outcome}\"}}")
    };
    let before = gateway.get("/metrics").await.text().to_owned();
    gateway.post("/api/kv/k", "v").await;
    gateway.get("/api/kv/none").await;
    let after = gateway.get("/metrics").await;
    assert!(after.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let after = after.text();
    for series in [
        series("kv_put", "ok"),
        series("kv_get", "not_found"),
        series("metrics", "ok"),
        "tercet_command_duration_seconds_count{protocol=\"rest\",command=\"kv_put\"}".to_owned(),
        "tercet_client_bytes_total{protocol=\"rest\",direction=\"in\"}".to_owned(),
        "tercet_client_bytes_total{protocol=\"rest\",direction=\"out\"}".to_owned(),
        "tercet_clients_accepted_total{protocol=\"rest\"}".to_owned(),
    ] {
        assert!(count(after, &series) > count(&before, &series), "{series}\n{after}");
    }
    assert!(count(after, "tercet_clients{protocol=\"rest\"}") >= 1.0, "{after}");
    assert!(count(after, "process_resident_memory_bytes") > 0.0, "{after}");
}
