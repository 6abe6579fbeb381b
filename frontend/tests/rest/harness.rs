//! A gateway on a free port over an engine in memory, and small clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Builder;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use tercet_common::WorkerId;
use tercet_frontend::config::Config;
use tercet_frontend::coordinator::memory::MemoryEngine;
use tercet_frontend::coordinator::status::{Breaker, ClusterStatus, Health, Role, WorkerStatus};
use tercet_frontend::coordinator::{
    Coordinator, DrainError, Engine, KeyCount, Op, OpError, ScanFilter, ScanPage, ScanPosition,
    WorkerReadError,
};
use tercet_frontend::rest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The engine in memory, with what tests want to see and to break.
pub(crate) struct TestEngine {
    pub(crate) memory: Arc<MemoryEngine>,
    /// Pages that were asked for.
    pub(crate) pages: AtomicUsize,
    /// Pages from this one on fail.
    pub(crate) pages_fail_from: AtomicUsize,
    pub(crate) status: Mutex<ClusterStatus>,
    /// Operations are kept here and never answered.
    pub(crate) silent: Mutex<Option<Vec<Op>>>,
    pub(crate) value_bytes_max: usize,
}

impl Engine for TestEngine {
    fn submit(&self, op: Op) {
        match &mut *self.silent.lock() {
            Some(kept) => kept.push(op),
            None => self.memory.submit(op),
        }
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), OpError>> {
        self.memory.flush()
    }

    fn scan(&self, from: ScanPosition, filter: ScanFilter) -> BoxFuture<'static, Result<ScanPage, OpError>> {
        self.memory.scan(from, filter)
    }

    fn count(&self) -> BoxFuture<'static, Result<KeyCount, OpError>> {
        self.memory.count()
    }

    fn worker_page(
        &self,
        worker: &str,
        from: ScanPosition,
        limit: usize,
    ) -> BoxFuture<'static, Result<ScanPage, WorkerReadError>> {
        let page = self.pages.fetch_add(1, Ordering::SeqCst);
        if page < self.pages_fail_from.load(Ordering::SeqCst) {
            return self.memory.worker_page(worker, from, limit);
        }
        let error = WorkerReadError::Failed(worker.to_owned(), "it burns".to_owned());
        Box::pin(async move { Err(error) })
    }

    fn drain(&self, worker: &str, leaving: bool) -> BoxFuture<'static, Result<(), DrainError>> {
        self.memory.drain(worker, leaving)
    }

    fn status(&self) -> ClusterStatus {
        self.status.lock().clone()
    }

    fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }
}

pub(crate) fn worker(
    id: &str,
    address: Option<&str>,
    health: Health,
    last_heartbeat_ms: Option<i64>,
) -> WorkerStatus {
    WorkerStatus {
        id: WorkerId::new(id).unwrap(),
        address: address.map(str::to_owned),
        zone: String::new(),
        health,
        breaker: Breaker::Closed,
        heartbeat_age_ms: Some(1),
        last_heartbeat_ms,
        database_commits: Some(true),
        commit_micros: None,
        write_backlog: None,
        disk_free_bytes: None,
        keys: None,
        version: None,
        role: Role::Member,
        partitions: 0,
        primary_partitions: 0,
    }
}

/// A running gateway. It ends when dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Arc<TestEngine>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    _stop: DropGuard,
}

pub(crate) async fn start() -> Gateway {
    start_with("127.0.0.1:0", |_| {}, None).await
}

pub(crate) async fn start_with(
    listen: &str,
    configure: impl FnOnce(&mut Config),
    prometheus: Option<PrometheusHandle>,
) -> Gateway {
    let memory = MemoryEngine::new();
    let mut config = Config::new(Vec::new());
    configure(&mut config);
    let engine = Arc::new(TestEngine {
        status: Mutex::new(memory.status()),
        memory,
        pages: AtomicUsize::new(0),
        pages_fail_from: AtomicUsize::new(usize::MAX),
        silent: Mutex::new(None),
        value_bytes_max: config.value_bytes_max,
    });
    let listener = TcpListener::bind(listen).await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let shutdown = CancellationToken::new();
    let coordinator = Coordinator::new(engine.clone());
    let served = rest::serve(listener, Arc::new(config), coordinator, prometheus, shutdown.clone());
    let task = tokio::spawn(served);
    Gateway { address, engine, _stop: shutdown.clone().drop_guard(), shutdown, task }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks that this is the problem document of that type, and returns its detail.
    pub(crate) fn problem(&self, status: u16, name: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["status"], status);
        assert_eq!(document["type"], format!("/problems/{name}"));
        assert!(document["title"].is_string());
        document["detail"].as_str().unwrap().to_owned()
    }
}

impl Gateway {
    /// Sends a request on a connection of its own; the answer's body is not read yet.
    pub(crate) async fn open(&self, request: Builder, body: impl TestBody) -> http::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        open_on(stream, request, body).await.unwrap()
    }

    /// A whole answer, or how it broke.
    pub(crate) async fn try_send(
        &self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Result<Answer, hyper::Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (head, body) = open_on(stream, request, Full::new(body.into())).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    pub(crate) async fn send(&self, request: Builder, body: impl Into<Bytes>) -> Answer {
        self.try_send(request, body).await.unwrap()
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(Request::get(target), "").await
    }

    pub(crate) async fn post(&self, target: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post(target), body).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Answer {
        self.send(Request::delete(target), "").await
    }

    /// Sends bytes as they are, and reads until the gateway closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

/// What can be sent.
pub(crate) trait TestBody:
    Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static
{
}

impl<B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static> TestBody for B {}

pub(crate) async fn open_on(
    stream: TcpStream,
    request: Builder,
    body: impl TestBody,
) -> Result<http::Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = request.body(Box::pin(body)).unwrap();
    request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("localhost"));
    sender.send_request(request).await
}
