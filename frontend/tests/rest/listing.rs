//! What a worker holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tercet_common::{Content, Key};
use tercet_frontend::coordinator::Coordinator;
use tokio::net::TcpSocket;

use crate::harness::{Gateway, open_on, start};

/// `k0` to `k(count-1)`, each with as many bytes.
pub(crate) async fn fill(gateway: &Gateway, count: usize, value_bytes: usize) {
    let coordinator = Coordinator::new(gateway.engine.memory.clone());
    let value = Bytes::from(vec![b'v'; value_bytes]);
    for i in 0..count {
        let key = Key::new(format!("k{i}")).unwrap();
        coordinator.set(key, Content::string(value.clone(), None)).await.unwrap();
    }
}

#[tokio::test]
async fn a_worker_lists_its_pairs_as_one_object() {
    let gateway = start().await;
    let empty = gateway.get("/api/kv/worker/w1").await;
    assert_eq!((empty.status.as_u16(), empty.text()), (200, "{}"));
    gateway.post("/api/kv/greeting", "Hello Distributed World").await;
    let one = gateway.get("/api/kv/worker/w2").await;
    assert_eq!(one.text(), r#"{"greeting":"Hello Distributed World"}"#);
    assert_eq!(one.header("content-type"), Some("application/json"));
    gateway.post("/api/kv/%ff", vec![0, 0xfe]).await;
    let two = gateway.get("/api/kv/worker/w2").await.json();
    assert_eq!(two["data:;base64,/w=="], "data:;base64,AP4=");
    assert_eq!(two.as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_not_found() {
    let gateway = start().await;
    let detail = gateway.get("/api/kv/worker/w9").await.problem(404, "worker-not-found");
    assert_eq!(detail, "Worker not found or offline: w9");
}

#[tokio::test]
async fn lines_carry_versions() {
    let gateway = start().await;
    gateway.post("/api/kv/a?ttl=1000", "1").await;
    gateway.post("/api/kv/%ff", "2").await;
    let accept = Request::get("/api/kv/worker/w1").header("accept", "application/x-ndjson");
    for answer in [gateway.send(accept, "").await, gateway.get("/api/kv/worker/w1?format=ndjson").await] {
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        let lines: Vec<serde_json::Value> =
            answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        let text = lines.iter().find(|line| line["key"] == "a").unwrap();
        assert_eq!(text["value"], "1");
        assert!(text["expires_at_ms"].is_i64() && text["ballot"].is_string() && text["clock"].is_object());
        let bytes = lines.iter().find(|line| line["key_base64"] == "/w==").unwrap();
        assert!(bytes["expires_at_ms"].is_null() && bytes.get("key").is_none());
    }
}

#[tokio::test]
async fn pages_lead_to_all_keys_once() {
    let gateway = start().await;
    fill(&gateway, 100, 1).await;
    let mut seen = BTreeSet::new();
    let mut target = "/api/kv/worker/w1?limit=7".to_owned();
    loop {
        let page = gateway.get(&target).await;
        let pairs: BTreeMap<String, String> = serde_json::from_slice(&page.body).unwrap();
        assert!(pairs.len() <= 7 && page.header("content-length").is_some());
        for key in pairs.into_keys() {
            assert!(seen.insert(key), "listed twice");
        }
        let Some(cursor) = page.header("x-tercet-next-cursor") else {
            assert_eq!(page.header("link"), None);
            break;
        };
        let link = page.header("link").unwrap().strip_prefix('<').unwrap();
        let (next, relation) = link.split_once('>').unwrap();
        assert_eq!(relation, "; rel=\"next\"");
        assert!(next.ends_with(cursor), "{next}");
        target = next.to_owned();
    }
    assert_eq!(seen.len(), 100);

    for bad in ["limit=0", "limit=10001", "limit=x", "limit=-1", "cursor=x", "format=xml", "lim=1"] {
        gateway.get(&format!("/api/kv/worker/w1?{bad}")).await.problem(400, "bad-request");
    }
}

#[tokio::test]
async fn a_listing_goes_at_the_reader_s_pace() {
    const COUNT: usize = 50_000;
    const VALUE_BYTES: usize = 1_000;
    // What the gateway may have fetched and the reader not seen: both sockets' buffers and a page.
    const AHEAD_BYTES_MAX: usize = 12 << 20;
    let gateway = start().await;
    fill(&gateway, COUNT, VALUE_BYTES).await;

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let stream = socket.connect(gateway.address).await.unwrap();
    let mut listing =
        open_on(stream, Request::get("/api/kv/worker/w1"), Empty::new()).await.unwrap().into_body();
    let mut text = Vec::new();
    while let Some(frame) = listing.frame().await {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        let fetched = gateway.engine.pages.load(Ordering::SeqCst) * 500 * VALUE_BYTES;
        assert!(fetched < text.len() + AHEAD_BYTES_MAX, "{fetched} fetched, {} read", text.len());
    }
    let pairs: BTreeMap<String, String> = serde_json::from_slice(&text).unwrap();
    assert_eq!(pairs.len(), COUNT);
    assert!((0..COUNT).all(|i| pairs.contains_key(&format!("k{i}"))));
}

#[tokio::test]
async fn a_failure_in_the_middle_never_looks_complete() {
    let gateway = start().await;
    fill(&gateway, 2_000, 100).await;
    gateway.engine.pages_fail_from.store(2, Ordering::SeqCst);
    for format in ["json", "ndjson"] {
        gateway.engine.pages.store(0, Ordering::SeqCst);
        let target = format!("/api/kv/worker/w1?format={format}");
        let ended = gateway.try_send(Request::get(&target), "").await;
        assert!(ended.is_err(), "{format}: {ended:?}");
        gateway.engine.pages.store(0, Ordering::SeqCst);
        let head = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let raw = gateway.raw(head.as_bytes()).await;
        assert!(!raw.contains("\r\n0\r\n"), "{format}");
    }
    // Before the answer has begun, a failure is a problem like any other.
    gateway.get("/api/kv/worker/w1").await.problem(503, "worker-failed");
}

#[tokio::test]
async fn lines_over_http_1_0_need_a_limit() {
    let gateway = start().await;
    gateway.post("/api/kv/a", "1").await;
    let refused = gateway.raw(b"GET /api/kv/worker/w1?format=ndjson HTTP/1.0\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.0 505 "), "{refused}");
    let page = gateway.raw(b"GET /api/kv/worker/w1?format=ndjson&limit=9 HTTP/1.0\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.0 200 ") && page.contains("\"key\":\"a\""), "{page}");
    let object = gateway.raw(b"GET /api/kv/worker/w1 HTTP/1.0\r\n\r\n").await;
    assert!(object.ends_with(r#"{"a":"1"}"#), "{object}");
}
