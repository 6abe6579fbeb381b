//! etcd with three members: puts are on the disks of two of them before they are acknowledged, reads are linearizable.
//!
//! It is asked over gRPC, as its own clients do, with a connection per client and the clients spread over the members.
//! The messages are those of etcd's `rpc.proto`, as far as they are used here.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::SmallRng;
use tercet_harness::ports::free_port;
use tercet_harness::processes;
use tokio::process::Child;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::Place;
use super::command::{command, end};
use super::durable::refusal;
use crate::load::work::{Command, Work, random_text};
use crate::sample::{self, Latency, Sample, Span};

const PROGRAM: &str = "etcd";
const MEMBERS: usize = 3;
const START_DEADLINE: Duration = Duration::from_secs(60);
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Puts under way while it is filled.
const FILLING_CLIENTS: usize = 200;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Linearizable unless it says otherwise.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
    /// Pairs, not looked into.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    kvs: Vec<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<(SocketAddr, Child)>,
    /// Sizes of values of which all keys are stored.
    filled: Vec<usize>,
    dir: tempfile::TempDir,
}

impl Etcd {
    /// `None`: it is not installed.
    pub(super) async fn start(place: &Place) -> anyhow::Result<Option<Self>> {
        let dir = tempfile::Builder::new().prefix("tercet-bench-etcd-").tempdir_in(&place.dir)?;
        let url = |at: SocketAddr| format!("http://{at}");
        let mut places = Vec::new();
        for n in 0..MEMBERS {
            places.push((format!("member{n}"), url(free_port()?), free_port()?));
        }
        let cluster: Vec<String> = places.iter().map(|(name, peers, _)| format!("{name}={peers}")).collect();
        let cluster = cluster.join(",");
        let mut etcd = Self { members: Vec::new(), filled: Vec::new(), dir };
        for (name, peers, clients) in &places {
            let mut member = command(PROGRAM);
            member.arg("--name").arg(name).arg("--data-dir").arg(etcd.dir.path().join(name));
            member.args(["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]);
            let clients_url = url(*clients);
            member.args(["--listen-client-urls", &clients_url, "--advertise-client-urls", &clients_url]);
            member.args(["--initial-cluster", &cluster, "--initial-cluster-state", "new"]);
            member.args(["--log-level", "error"]).stdout(Stdio::null()).stderr(Stdio::null());
            match member.spawn() {
                Ok(child) => etcd.members.push((*clients, child)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).context(PROGRAM),
            }
        }
        etcd.wait().await?;
        Ok(Some(etcd))
    }

    /// Until every member takes a put.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for (at, child) in &mut self.members {
            loop {
                let attempt = async { Client::connect(*at).await?.put(Bytes::from("x"), Bytes::new()).await };
                let Err(error) = attempt.await else { break };
                ensure!(child.try_wait()?.is_none(), "a member of {PROGRAM} ended");
                if begun.elapsed() > START_DEADLINE {
                    return Err(error.context(format!("{PROGRAM} does not start")));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// It syncs unless an argument forbids it; variables are not handed on to it.
    pub(super) async fn check_durable(&self) -> anyhow::Result<()> {
        for (at, child) in &self.members {
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
            let arguments = processes::arguments(pid.with_context(|| format!("etcd at {at} has ended"))?);
            let unsafe_one = arguments.iter().find(|argument| argument.contains("unsafe"));
            if let Some(argument) = unsafe_one {
                bail!(refusal("etcd", &format!("it was started with {argument}")));
            }
        }
        Ok(())
    }

    pub(super) async fn fill(&mut self, work: Work) -> anyhow::Result<()> {
        if self.filled.contains(&work.value_bytes) {
            return Ok(());
        }
        let filling = Work { command: Command::Set, clients: FILLING_CLIENTS, ..work };
        let task = Task::new(filling, Some(AtomicU64::new(0)));
        self.run(task, async |task| {
            while !task.over() {
                tokio::time::sleep(POLL).await;
            }
        })
        .await?;
        self.filled.push(work.value_bytes);
        Ok(())
    }

    pub(super) async fn measure(&self, work: Work, span: Span) -> anyhow::Result<Sample> {
        let task = Task::new(work, None);
        let (mut seconds, mut done) = (0.0, 0);
        let histogram = self
            .run(task, async |task| {
                tokio::time::sleep(span.warm_up).await;
                let (begun, before) = (Instant::now(), task.done.load(Ordering::Relaxed));
                task.counts.store(true, Ordering::Relaxed);
                tokio::time::sleep(span.lasting).await;
                task.counts.store(false, Ordering::Relaxed);
                done = task.done.load(Ordering::Relaxed) - before;
                seconds = begun.elapsed().as_secs_f64();
            })
            .await?;
        let (per_second, latency) = (done as f64 / seconds, Some(Latency::of(&histogram)));
        Ok(Sample { seconds, per_second, latency, ..Sample::default() })
    }

    /// Clients work until `until` ends; any failure of theirs is one of the whole.
    async fn run(&self, task: Task, until: impl AsyncFnOnce(&Task)) -> anyhow::Result<Histogram<u64>> {
        let task = Arc::new(task);
        let mut all = JoinSet::new();
        for n in 0..task.work.clients {
            let (at, _) = self.members[n % self.members.len()];
            all.spawn(client(at, task.clone()));
        }
        until(&task).await;
        task.stop.store(true, Ordering::Relaxed);
        let mut sum = sample::histogram();
        while let Some(ended) = all.join_next().await {
            sum.add(ended.context("a client failed")??)?;
        }
        Ok(sum)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(|(_, child)| end(child, Signal::SIGKILL));
    }
}

/// What the clients have in common.
struct Task {
    work: Work,
    value: Bytes,
    /// The next key, if each is to be put once.
    next: Option<AtomicU64>,
    done: AtomicU64,
    counts: AtomicBool,
    stop: AtomicBool,
}

impl Task {
    fn new(work: Work, next: Option<AtomicU64>) -> Self {
        let value = random_text(&mut rand::rng(), work.value_bytes).into();
        let (counts, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { work, value, next, done: AtomicU64::new(0), counts, stop }
    }

    fn over(&self) -> bool {
        let all = self.next.as_ref().is_some_and(|next| next.load(Ordering::Relaxed) >= self.work.keys);
        all || self.stop.load(Ordering::Relaxed)
    }

    fn key(&self, rng: &mut SmallRng) -> Bytes {
        let number = match &self.next {
            Some(next) => next.fetch_add(1, Ordering::Relaxed) % self.work.keys,
            None => rng.random_range(0..self.work.keys),
        };
        format!("{}{number}", Work::prefix(self.work.value_bytes)).into()
    }
}

async fn client(at: SocketAddr, task: Arc<Task>) -> anyhow::Result<Histogram<u64>> {
    let mut client = Client::connect(at).await?;
    let mut histogram = sample::histogram();
    let mut rng = rand::make_rng();
    while !task.over() {
        let key = task.key(&mut rng);
        let begun = Instant::now();
        match task.work.command {
            Command::Set => client.put(key, task.value.clone()).await?,
            Command::Get => client.get(key).await?,
            other => bail!("etcd knows no {other:?}"),
        }
        task.done.fetch_add(1, Ordering::Relaxed);
        if task.counts.load(Ordering::Relaxed) {
            sample::record(&mut histogram, begun.elapsed());
        }
    }
    Ok(histogram)
}

struct Client(Grpc<Channel>);

impl Client {
    async fn connect(at: SocketAddr) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{at}"))?.tcp_nodelay(true);
        let endpoint = endpoint.connect_timeout(CALL_DEADLINE).timeout(CALL_DEADLINE);
        Ok(Self(Grpc::new(endpoint.connect().await?)))
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        let request = PutRequest { key, value };
        let _: PutResponse = self.call(request, "/etcdserverpb.KV/Put").await?;
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> anyhow::Result<()> {
        let answer: RangeResponse = self.call(RangeRequest { key }, "/etcdserverpb.KV/Range").await?;
        ensure!(answer.count == 1 && answer.kvs.len() == 1, "a key was absent");
        Ok(())
    }

    async fn call<Q, A>(&mut self, request: Q, path: &'static str) -> anyhow::Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        Ok(self.0.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }
}
