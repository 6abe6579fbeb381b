//! A gateway over an engine in memory, whose operations can be held back, and a client of raw bytes.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tercet_common::Content;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Config;
use crate::config::Secret;
use crate::coordinator::memory::MemoryEngine;
use crate::coordinator::status::ClusterStatus;
use crate::coordinator::{
    Coordinator, DrainError, Engine, KeyCount, Op, OpError, ScanFilter, ScanPage, ScanPosition,
    WorkerReadError,
};
use crate::resp::clients::Peer;
use crate::resp::command::table::CommandTable;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, connection, server};
use crate::resp::connection::{Connection, End};
use crate::resp::gateway::Gateway;
use crate::resp::reply::Reply;

/// A wait that ends only when a test has failed.
const HANG: Duration = Duration::from_secs(30);

/// An engine that can keep operations waiting.
pub(super) struct GatedEngine {
    inner: Arc<MemoryEngine>,
    held: Mutex<Option<VecDeque<Op>>>,
    submitted: watch::Sender<usize>,
}

impl GatedEngine {
    pub(super) fn hold(&self) {
        self.held.lock().get_or_insert_default();
    }

    /// Lets the oldest operation through.
    pub(super) fn release_one(&self) {
        let op = self.held.lock().as_mut().and_then(VecDeque::pop_front);
        self.inner.submit(op.expect("an operation is held"));
    }

    pub(super) fn release(&self) {
        let held = self.held.lock().take();
        for op in held.into_iter().flatten() {
            self.inner.submit(op);
        }
    }

    pub(super) fn submitted(&self) -> usize {
        *self.submitted.borrow()
    }

    /// Waits until this many operations have been submitted in all.
    pub(super) async fn until_submitted(&self, count: usize) {
        let mut submitted = self.submitted.subscribe();
        let wait = submitted.wait_for(|n| *n >= count);
        tokio::time::timeout(HANG, wait).await.expect("operations are submitted").unwrap();
    }
}

impl Engine for GatedEngine {
    fn submit(&self, op: Op) {
        let mut held = self.held.lock();
        match &mut *held {
            Some(queue) => queue.push_back(op),
            None => self.inner.submit(op),
        }
        drop(held);
        self.submitted.send_modify(|n| *n += 1);
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), OpError>> {
        self.inner.flush()
    }

    fn scan(&self, from: ScanPosition, filter: ScanFilter) -> BoxFuture<'static, Result<ScanPage, OpError>> {
        self.inner.scan(from, filter)
    }

    fn count(&self) -> BoxFuture<'static, Result<KeyCount, OpError>> {
        self.inner.count()
    }

    fn worker_page(
        &self,
        worker: &str,
        from: ScanPosition,
        limit: usize,
    ) -> BoxFuture<'static, Result<ScanPage, WorkerReadError>> {
        self.inner.worker_page(worker, from, limit)
    }

    fn drain(&self, worker: &str, leaving: bool) -> BoxFuture<'static, Result<(), DrainError>> {
        self.inner.drain(worker, leaving)
    }

    fn status(&self) -> ClusterStatus {
        self.inner.status()
    }

    fn value_bytes_max(&self) -> usize {
        self.inner.value_bytes_max()
    }
}

/// The smallest data commands with which a pipeline can be tested.
static DATA: &[Spec] = &[
    Spec { name: "get", arity: 2, flags: &[Flag::ReadOnly], run: Handler::Data(get), ..ROW },
    Spec { name: "set", arity: 3, flags: &[Flag::Write], run: Handler::Data(set), ..ROW },
    Spec {
        name: "mget",
        arity: -2,
        flags: &[Flag::ReadOnly],
        keys: Keys::ALL,
        run: Handler::Data(mget),
        ..ROW
    },
];

const ROW: Spec = Spec {
    name: "",
    arity: 2,
    flags: &[],
    keys: Keys::FIRST,
    group: "string",
    summary: "",
    since: "",
    complexity: "",
    notes: "",
    subcommands: &[],
    run: Handler::Container,
};

pub(super) static TABLE: LazyLock<CommandTable> =
    LazyLock::new(|| CommandTable::new(&[DATA, connection::COMMANDS, server::COMMANDS]).unwrap());

fn get(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let read = coordinator.get(args.next_key()?);
    Ok(Pending::later(async move {
        Ok(Reply::bulk_or_null(read.await?.map(|row| crate::coordinator::api::data_of(&row))))
    }))
}

fn set(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let written = coordinator.set(args.next_key()?, Content::string(args.next_bytes()?, None));
    Ok(Pending::later(async move {
        written.await?;
        Ok(Reply::OK)
    }))
}

fn mget(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let mut reads = Vec::new();
    while !args.is_empty() {
        let read = coordinator.get(args.next_key()?);
        reads.push(async move { Ok(read.await?.map(|row| crate::coordinator::api::data_of(&row))) });
    }
    Ok(Pending::later(async move {
        let values: Result<Vec<_>, OpError> = join_all(reads).await.into_iter().collect();
        Ok(Reply::Array(values?.into_iter().map(Reply::bulk_or_null).collect()))
    }))
}

/// A gateway to which clients connect by pipes.
pub(super) struct TestServer {
    pub(super) engine: Arc<GatedEngine>,
    pub(super) gateway: Arc<Gateway>,
}

impl TestServer {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with_password(password: &str) -> Self {
        Self::with(|config| config.password = Some(Secret::new(password)))
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let (engine, coordinator) = engine();
        let mut config = Config::new(Vec::new());
        change(&mut config);
        let gateway = Arc::new(Gateway::new(Arc::new(config), coordinator, &TABLE, 6379));
        Self { engine, gateway }
    }

    pub(super) fn connect(&self) -> TestClient {
        let (connection, stream) = self.connection();
        TestClient { stream, task: tokio::spawn(connection.run()) }
    }

    pub(super) fn connection(&self) -> (Connection<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let peer = Peer { remote: "127.0.0.1:5000".into(), local: "127.0.0.1:6379".into(), fd: 8 };
        let registration = self.gateway.clients.enter(peer);
        (Connection::new(theirs, self.gateway.clone(), registration), ours)
    }
}

pub(super) fn engine() -> (Arc<GatedEngine>, Coordinator) {
    let engine = Arc::new(GatedEngine {
        inner: MemoryEngine::new(),
        held: Mutex::default(),
        submitted: watch::Sender::new(0),
    });
    (engine.clone(), Coordinator::new(engine))
}

/// A client of raw bytes.
pub(super) struct TestClient {
    pub(super) stream: DuplexStream,
    task: JoinHandle<End>,
}

impl TestClient {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next bytes must be these.
    pub(super) async fn expect(&mut self, reply: impl AsRef<[u8]>) {
        let mut got = vec![0; reply.as_ref().len()];
        let read = tokio::time::timeout(HANG, self.stream.read_exact(&mut got)).await;
        let ended = read.unwrap_or_else(|_| panic!("no reply; expected {}", reply.as_ref().escape_ascii()));
        assert!(ended.is_ok(), "the connection ended; expected {}", reply.as_ref().escape_ascii());
        assert_eq!(got.escape_ascii().to_string(), reply.as_ref().escape_ascii().to_string());
    }

    /// Sends a line and expects a reply.
    pub(super) async fn ask(&mut self, line: &str, reply: &str) {
        self.send(format!("{line}\r\n")).await;
        self.expect(reply).await;
    }

    /// Sends a line; the bulk string or verbatim text that comes back.
    pub(super) async fn ask_text(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n") {
            let byte = tokio::time::timeout(HANG, self.stream.read_u8()).await.expect("a reply");
            header.push(byte.unwrap());
        }
        let header = String::from_utf8(header).unwrap();
        let len: usize = header[1..].trim().parse().unwrap_or_else(|_| panic!("{header}"));
        let mut body = vec![0; len + 2];
        self.stream.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap().trim_end_matches("\r\n").to_owned()
    }

    /// Closes the sending half and reads all that still comes.
    pub(super) async fn finish(mut self) -> (String, End) {
        self.stream.shutdown().await.unwrap();
        self.closed().await
    }

    /// Reads all until the server closes.
    pub(super) async fn closed(mut self) -> (String, End) {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(HANG, self.stream.read_to_end(&mut rest)).await;
        read.expect("the connection ends").unwrap();
        drop(self.stream);
        (String::from_utf8_lossy(&rest).replace("\r\n", "\n"), self.task.await.unwrap())
    }
}
