//! One key: the texts to the letter, bytes, versions, errors.

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tercet_common::UnixMillis;
use tercet_frontend::coordinator::OpError;

use crate::harness::start;

const STORED: &str = "Stored successfully. {Synchronous Replicas: [w1, w2]}, {Asynchronous Replica: w3}";
const DELETED: &str = "Deleted successfully. {Synchronous Replicas: [w1, w2]}, {Asynchronous Replica: w3}";

#[tokio::test]
async fn the_texts_are_to_the_letter() {
    let gateway = start().await;
    let form = Request::post("/api/kv/greeting").header("content-type", "application/x-www-form-urlencoded");
    let stored = gateway.send(form, "Hello Distributed World").await;
    assert_eq!((stored.status.as_u16(), stored.text()), (200, STORED));
    assert!(stored.header("content-type").unwrap().starts_with("text/plain"));

    let read = gateway.get("/api/kv/greeting").await;
    assert_eq!((read.status.as_u16(), read.text()), (200, "Value: Hello Distributed World (Source: w1)"));
    assert!(read.header("content-type").unwrap().starts_with("text/plain"));
    assert_eq!(read.header("content-length"), Some("43"));

    let put = gateway.send(Request::put("/api/kv/greeting"), "x").await;
    assert_eq!((put.status.as_u16(), put.text()), (200, STORED));

    let deleted = gateway.delete("/api/kv/greeting").await;
    assert_eq!((deleted.status.as_u16(), deleted.text()), (200, DELETED));
    assert!(deleted.header("content-type").unwrap().starts_with("text/plain"));

    gateway.get("/api/kv/greeting").await.problem(404, "key-not-found");
    gateway.delete("/api/kv/greeting").await.problem(404, "key-not-found");
}

#[tokio::test]
async fn values_are_bytes_of_any_length() {
    let gateway = start().await;
    let all: Vec<u8> = (0..=255).collect();
    let large = all.repeat(8 * 1024);
    assert!(large.len() > 1 << 20);
    for value in [Vec::new(), all, large] {
        assert_eq!(gateway.post("/api/kv/k", value.clone()).await.status, 200);
        let read = gateway.get("/api/kv/k").await;
        let inner = read.body.strip_prefix(b"Value: ".as_slice()).unwrap();
        assert_eq!(inner.strip_suffix(b" (Source: w1)".as_slice()).unwrap(), value);
    }
}

#[tokio::test]
async fn a_chunked_body_is_a_value_too() {
    let gateway = start().await;
    let chunk = Bytes::from(vec![b'x'; 100_000]);
    let chunks = (0..12).map(move |_| Ok::<_, std::convert::Infallible>(Frame::data(chunk.clone())));
    let answer = gateway.open(Request::post("/api/kv/k"), StreamBody::new(stream::iter(chunks))).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(gateway.get("/api/kv/k").await.body.len(), 1_200_000 + "Value:  (Source: w1)".len());
}

#[tokio::test]
async fn keys_are_bytes_of_the_path() {
    let gateway = start().await;
    for (target, same) in [
        ("/api/kv/a/b", "/api/kv/a%2Fb"),
        ("/api/kv/a+b", "/api/kv/a%2Bb"),
        ("/api/kv/%ff%00", "/api/kv/%FF%00"),
        ("/api/kv/gr%C3%BC%C3%9Fe%20an%20alle", "/api/kv/gr%c3%bc%c3%9fe%20%61n%20alle"),
        ("/api/kv/worker/a/b", "/api/kv/worker%2Fa%2Fb"),
    ] {
        gateway.post(target, target).await;
        assert_eq!(gateway.get(same).await.text(), format!("Value: {target} (Source: w1)"));
        assert_eq!(gateway.delete(same).await.status, 200, "{target}");
        gateway.get(target).await.problem(404, "key-not-found");
    }
    gateway.get("/api/kv/%zz").await.problem(400, "bad-request");
    gateway.post("/api/kv/a%4", "x").await.problem(400, "bad-request");
}

#[tokio::test]
async fn the_reserved_words_are_keys_for_all_but_get() {
    let gateway = start().await;
    gateway.post("/api/kv/workers", "1").await;
    gateway.post("/api/kv/worker/w1", "2").await;
    assert_eq!(gateway.get("/api/kv/workers").await.text(), "{}");
    assert_eq!(gateway.get("/api/kv/%77orkers").await.text(), "Value: 1 (Source: w1)");
    assert_eq!(gateway.get("/api/kv/worker%2Fw1").await.text(), "Value: 2 (Source: w1)");
    assert_eq!(gateway.delete("/api/kv/workers").await.text(), DELETED);
    assert_eq!(gateway.delete("/api/kv/worker/w1").await.text(), DELETED);
}

#[tokio::test]
async fn every_failure_has_its_status() {
    let gateway = start().await;
    for (error, status, name) in [
        (OpError::NoQuorum { needed: 2, available: 1 }, 503, "no-quorum"),
        (OpError::ReadUnavailable, 503, "read-unavailable"),
        (OpError::Loading, 503, "loading"),
        (OpError::Busy, 503, "busy"),
        (OpError::Uncertain, 504, "uncertain"),
        (OpError::ValueTooLarge { len: 2, max: 1 }, 413, "value-too-large"),
    ] {
        gateway.engine.memory.fail_with(Some(error.clone()));
        for answer in [
            gateway.get("/api/kv/k").await,
            gateway.post("/api/kv/k", "v").await,
            gateway.delete("/api/kv/k").await,
        ] {
            assert_eq!(answer.problem(status, name), error.to_string());
            assert_eq!(answer.header("retry-after").is_some(), status == 503, "{error}");
        }
    }
}

#[tokio::test]
async fn an_engine_that_never_answers_ends_in_the_right_problem() {
    let quick = |config: &mut tercet_frontend::Config| config.request_timeout = std::time::Duration::ZERO;
    let gateway = crate::harness::start_with("127.0.0.1:0", quick, None).await;
    *gateway.engine.silent.lock() = Some(Vec::new());
    let (read, deleted) = tokio::join!(gateway.get("/api/kv/k"), gateway.delete("/api/kv/k"));
    read.problem(503, "read-unavailable");
    deleted.problem(504, "uncertain");
}

#[tokio::test]
async fn a_conditional_write_needs_the_version_it_names() {
    let gateway = start().await;
    let tag = gateway.post("/api/kv/k", "one").await.header("etag").unwrap().to_owned();
    assert_eq!(gateway.get("/api/kv/k").await.header("etag"), Some(tag.as_str()));

    let matching = || Request::post("/api/kv/k").header("if-match", &tag);
    let second = gateway.send(matching(), "two").await;
    assert_eq!(second.text(), STORED);
    gateway.send(matching(), "three").await.problem(412, "precondition-failed");
    let delete = Request::delete("/api/kv/k").header("if-match", &tag);
    gateway.send(delete, "").await.problem(412, "precondition-failed");
    assert_eq!(gateway.get("/api/kv/k").await.text(), "Value: two (Source: w1)");

    let create = |key: &str| Request::post(format!("/api/kv/{key}")).header("if-none-match", "*");
    gateway.send(create("k"), "four").await.problem(412, "precondition-failed");
    assert_eq!(gateway.send(create("new"), "four").await.status, 200);

    let unquoted = Request::post("/api/kv/k").header("if-match", "1.1.1.1");
    gateway.send(unquoted, "five").await.problem(400, "bad-request");

    let tag = second.header("etag").unwrap();
    let delete = Request::delete("/api/kv/k").header("if-match", tag);
    assert_eq!(gateway.send(delete, "").await.text(), DELETED);
    let absent = Request::post("/api/kv/k").header("if-match", "*");
    gateway.send(absent, "six").await.problem(412, "precondition-failed");
}

#[tokio::test]
async fn a_read_of_the_same_version_is_not_sent_again() {
    let gateway = start().await;
    let tag = gateway.post("/api/kv/k", "v").await.header("etag").unwrap().to_owned();
    let known = || Request::get("/api/kv/k").header("if-none-match", &tag);
    let same = gateway.send(known(), "").await;
    assert_eq!((same.status.as_u16(), same.text()), (304, ""));
    assert_eq!(same.header("etag"), Some(tag.as_str()));
    assert!(same.header("x-tercet-clock").is_some());
    gateway.post("/api/kv/k", "w").await;
    assert_eq!(gateway.send(known(), "").await.text(), "Value: w (Source: w1)");
}

#[tokio::test]
async fn a_value_may_expire() {
    let gateway = start().await;
    let now = UnixMillis::now();
    gateway.engine.memory.set_now(now);
    assert_eq!(gateway.post("/api/kv/k?ttl=100", "v").await.status, 200);
    let read = gateway.get("/api/kv/k").await;
    assert_eq!(read.header("x-tercet-expires-at-ms"), Some((now.0 + 100_000).to_string().as_str()));
    let left: u64 = read.header("x-tercet-ttl").unwrap().parse().unwrap();
    assert!((1..=100).contains(&left), "{left}");

    gateway.engine.memory.set_now(UnixMillis(now.0 + 100_000));
    gateway.get("/api/kv/k").await.problem(404, "key-not-found");

    gateway.post("/api/kv/k", "v").await;
    assert_eq!(gateway.get("/api/kv/k").await.header("x-tercet-ttl"), None);
    for bad in ["ttl=0", "ttl=-1", "ttl=x", "ttl=", "ttl=99999999999", "ttl=1&ttl=2", "tll=5"] {
        gateway.post(&format!("/api/kv/k?{bad}"), "v").await.problem(400, "bad-request");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let gateway = start().await;
    gateway.post("/api/kv/k", "value").await;
    let head = gateway.send(Request::head("/api/kv/k"), "").await;
    assert_eq!((head.status.as_u16(), head.text()), (200, ""));
    assert_eq!(head.header("content-length"), Some("25"));
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order() {
    let gateway = start().await;
    let answers = gateway
        .raw(
            b"POST /api/kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n\
              1POST /api/kv/k HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\n\
              GET /api/kv/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert!(answers.ends_with("Value: 2 (Source: w1)"), "{answers}");
}
