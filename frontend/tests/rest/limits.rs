//! What is refused, and that the refusal arrives.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tercet_frontend::coordinator::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Gateway, start, start_with};

async fn small() -> Gateway {
    start_with("127.0.0.1:0", |config| config.value_bytes_max = 1_000, None).await
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_the_body() {
    let gateway = small().await;
    // Not one byte of the body is ever sent.
    let head = "POST /api/kv/k HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n";
    let refused = gateway.raw(format!("{head}content-length: 1001\r\n\r\n").as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    assert!(refused.contains("application/problem+json") && refused.contains("1001 bytes"), "{refused}");
    let refused = gateway.raw(format!("{head}content-length: {}\r\n\r\n", i64::MAX).as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
}

#[tokio::test]
async fn a_client_that_sends_a_large_body_all_the_same_reads_why_it_was_refused() {
    let gateway = small().await;
    let refused = gateway.post("/api/kv/k", vec![0; 16 << 20]).await;
    refused.problem(413, "value-too-large");
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused_on_the_way() {
    let gateway = small().await;
    let chunk = || Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(&[b'x'; 100])));
    let endless = StreamBody::new(stream::repeat_with(chunk));
    let answer = gateway.open(Request::post("/api/kv/k"), endless).await;
    assert_eq!(answer.status(), 413);
    assert_eq!(gateway.post("/api/kv/k", vec![0; 1_000]).await.status, 200);
}

#[tokio::test]
async fn bodies_in_flight_share_a_bounded_memory() {
    let gateway = start_with("127.0.0.1:0", |config| config.operation_bytes_max = 64 * 1024, None).await;
    gateway.post("/api/kv/k", vec![0; 65 * 1024]).await.problem(503, "busy");
    assert_eq!(gateway.post("/api/kv/k", vec![0; 64 * 1024]).await.status, 200);
    // The memory is there again for the answer.
    assert_eq!(gateway.get("/api/kv/k").await.status, 200);
}

#[tokio::test]
async fn heads_are_bounded() {
    let gateway = start().await;
    let long = gateway.raw(format!("GET /api/kv/{} HTTP/1.1\r\n\r\n", "k".repeat(70_000)).as_bytes()).await;
    assert!(long.starts_with("HTTP/1.1 414 "), "{long}");
    let wide = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let wide = gateway.raw(wide.as_bytes()).await;
    assert!(wide.starts_with("HTTP/1.1 431 "), "{wide}");
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    let many = gateway.raw(many.as_bytes()).await;
    assert!(many.starts_with("HTTP/1.1 431 "), "{many}");
}

#[tokio::test]
async fn the_longest_target_is_a_key() {
    let gateway = start().await;
    let target = format!("/api/kv/{}", "k".repeat(65_000));
    assert_eq!(gateway.post(&target, "v").await.status, 200);
    assert_eq!(gateway.get(&target).await.text(), "Value: v (Source: w1)");
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let gateway = start().await;
    for nonsense in [
        b"*1\r\n$4\r\nPING\r\n".as_slice(),
        b"GET /api/kv/k HTTP/9.9\r\n\r\n",
        b"POST /api/kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        &[0xff; 64],
    ] {
        let answer = gateway.raw(nonsense).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // A chunk size that is none ends the request in the middle of its body.
    let broken = b"POST /api/kv/k HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let answer = gateway.raw(broken).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    gateway.get("/api/kv/k").await.problem(404, "key-not-found");
}

#[tokio::test]
async fn a_client_beyond_the_limit_is_told_so() {
    let gateway = start_with("127.0.0.1:0", |config| config.clients_max = 1, None).await;
    let mut first = TcpStream::connect(gateway.address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");

    let mut second = TcpStream::connect(gateway.address).await.unwrap();
    let mut refusal = String::new();
    second.read_to_string(&mut refusal).await.unwrap();
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("too many connections"), "{refusal}");

    drop(first);
    // The slot is free once the gateway has seen the first client leave.
    loop {
        let mut third = TcpStream::connect(gateway.address).await.unwrap();
        let asked = third.write_all(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n").await;
        let mut answer = String::new();
        let read = third.read_to_string(&mut answer).await;
        if asked.is_ok() && read.is_ok() && answer.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
}

#[tokio::test]
async fn shutdown_lets_requests_end_and_nothing_new_begin() {
    let mut gateway = start().await;
    let (address, engine) = (gateway.address, gateway.engine.clone());
    *engine.silent.lock() = Some(Vec::new());
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /api/kv/k HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // Until the engine has the operation.
    let held = loop {
        let held = engine.silent.lock().as_mut().and_then(Vec::pop);
        if let Some(op) = held {
            break op;
        }
        tokio::task::yield_now().await;
    };
    gateway.shutdown.cancel();
    // Until the listener is gone.
    while TcpStream::connect(address).await.is_ok() {}
    assert!(futures_util::poll!(&mut gateway.task).is_pending(), "the gateway ended under an open request");
    engine.memory.submit(held);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close"), "{answer}");
    drop(client);
    (&mut gateway.task).await.unwrap();
}

#[tokio::test]
async fn only_a_few_listings_run_at_once() {
    let gateway = start().await;
    crate::listing::fill(&gateway, 20_000, 1_000).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        // Far more than sockets buffer, so each runs until it is read.
        let listing = gateway.open(Request::get("/api/kv/worker/w1"), http_body_util::Empty::new()).await;
        assert_eq!(listing.status(), 200);
        open.push(listing);
    }
    let refused = gateway.get("/api/kv/worker/w1").await;
    refused.problem(429, "too-many-listings");
    assert!(refused.header("retry-after").is_some());
    gateway.get("/api/kv/worker/w1?limit=1").await.problem(429, "too-many-listings");

    let pages = gateway.engine.pages.load(Ordering::SeqCst);
    assert!(pages < 4 * 40, "unread listings were fetched to the end: {pages} pages");
    open.pop().unwrap().into_body().collect().await.unwrap();
    // The place is free once the gateway has dropped the listing that was read.
    while gateway.get("/api/kv/worker/w1?limit=1").await.status == 429 {}
}
