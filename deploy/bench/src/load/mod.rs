//! Load for whatever speaks RESP: the closed loop of [`Load`], and the open loop of [`open`].
//!
//! All connections of a closed loop share one thread: on few cores, one that is always busy costs less than several that
//! wake each other. Each keeps a fixed number of commands under way and sends the next when an answer comes, so a slow
//! server is asked less; how it would fare when the world does not wait, only the open loop can tell.

mod client;
pub(crate) mod open;
pub(crate) mod wire;
pub(crate) mod work;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::work::{Source, Work};
use crate::sample::{self, Latency, Sample, Span};

/// In which the last answers must come.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// To store every key once.
const FILL_DEADLINE: Duration = Duration::from_secs(1800);
const FILLING_CLIENTS: usize = 32;
const FILLING_PIPELINE: usize = 32;
/// In all requests together that are under way while it is filled.
const FILLING_BYTES_MAX: usize = 4 << 20;
/// Answers of section 0 are not counted: it warms up.
const WARM_UP: usize = 0;
/// The section in which nothing is sent.
const OVER: usize = usize::MAX;

/// What the clients of a load have in common.
struct Shared {
    at: SocketAddr,
    pipeline: usize,
    source: Source,
    section: AtomicUsize,
    done: AtomicU64,
}

/// What clients saw in one section.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) failures: u64,
    /// The words of one of them.
    pub(crate) failure: Option<String>,
}

impl Seen {
    fn new() -> Self {
        Self { latency: sample::histogram(), failures: 0, failure: None }
    }

    fn took(&mut self, latency: Duration) {
        sample::record(&mut self.latency, latency);
    }

    fn failed(&mut self, words: impl FnOnce() -> String) {
        self.failures += 1;
        self.failure.get_or_insert_with(words);
    }

    fn merge(&mut self, other: Self) {
        // Both have the same bounds.
        let _ = self.latency.add(other.latency);
        self.failures += other.failures;
        self.failure = self.failure.take().or(other.failure);
    }
}

/// What clients saw, section by section. Short in sections that were not reached.
#[derive(Debug, Default)]
struct Sections(Vec<Seen>);

impl Sections {
    fn of(&mut self, section: usize) -> &mut Seen {
        while self.0.len() <= section {
            self.0.push(Seen::new());
        }
        &mut self.0[section]
    }

    /// As [`Sections::of`]; once it is over, the last one that there was.
    fn last(&mut self, section: usize) -> &mut Seen {
        let last = self.0.len().saturating_sub(1);
        self.of(if section == OVER { last } else { section })
    }

    fn merge(&mut self, other: Self) {
        for (section, seen) in other.0.into_iter().enumerate() {
            self.of(section).merge(seen);
        }
    }
}

/// Clients that work until [`Load::finish`]. Dropped, they stop too, but nobody waits for them.
pub(crate) struct Load {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<anyhow::Result<Sections>>,
    begun: Vec<(Instant, u64)>,
}

impl Load {
    /// Starts the clients; they warm up until the first [`Load::section`].
    pub(crate) fn start(at: SocketAddr, work: Work) -> anyhow::Result<Self> {
        Self::spawn(at, work.clients, work.pipeline, Source::endless(work))
    }

    fn spawn(at: SocketAddr, clients: usize, pipeline: usize, source: Source) -> anyhow::Result<Self> {
        let (section, done) = (AtomicUsize::new(WARM_UP), AtomicU64::new(0));
        let shared = Arc::new(Shared { at, pipeline, source, section, done });
        let (tell, ended) = oneshot::channel();
        let of_thread = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("load".to_owned())
            // Nobody may wait for it any more.
            .spawn(move || drop(tell.send(runtime.block_on(run(of_thread, clients)))))
            .context("starting a thread")?;
        Ok(Self { shared, ended, begun: Vec::new() })
    }

    /// From now on another section is counted; returns its number.
    pub(crate) fn section(&mut self) -> usize {
        self.begun.push((Instant::now(), self.shared.done.load(Ordering::Relaxed)));
        self.shared.section.store(self.begun.len(), Ordering::Relaxed);
        self.begun.len()
    }

    /// Ends the last section and the clients; the samples of all sections, the first being section 1.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<Sample>> {
        self.begun.push((Instant::now(), self.shared.done.load(Ordering::Relaxed)));
        self.shared.section.store(OVER, Ordering::Relaxed);
        let ended = tokio::time::timeout(DRAIN_DEADLINE, &mut self.ended).await;
        let mut sections = ended.context("the last answers did not come")?.context("the load failed")??;
        let mut samples: Vec<Sample> = self
            .begun
            .windows(2)
            .enumerate()
            .map(|(n, bounds)| {
                let [(from, before), (until, after)] = bounds else { unreachable!("windows of two") };
                let seconds = until.duration_since(*from).as_secs_f64();
                let seen = sections.of(n + 1);
                Sample {
                    seconds,
                    per_second: (after - before) as f64 / seconds,
                    latency: Some(Latency::of(&seen.latency)),
                    failures: seen.failures,
                    failure: seen.failure.clone(),
                }
            })
            .collect();
        if let Some(first) = samples.first_mut() {
            // What fails while it warms up has failed all the same.
            let warm_up = sections.of(WARM_UP);
            first.failures += warm_up.failures;
            first.failure = first.failure.take().or_else(|| warm_up.failure.clone());
        }
        Ok(samples)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.section.store(OVER, Ordering::Relaxed);
    }
}

async fn run(shared: Arc<Shared>, clients: usize) -> anyhow::Result<Sections> {
    let mut all = JoinSet::new();
    for _ in 0..clients {
        all.spawn(client::run(shared.clone()));
    }
    let mut sections = Sections::default();
    while let Some(ended) = all.join_next().await {
        sections.merge(ended.context("a client failed")??);
    }
    Ok(sections)
}

/// One closed loop, from its warm-up to its end.
pub(crate) async fn measure(at: SocketAddr, work: Work, span: Span) -> anyhow::Result<Sample> {
    Ok(watch(at, work, span, async || Ok(())).await?.0)
}

/// The same, and what there was to be seen when it began to count and when it ended.
pub(crate) async fn watch<T>(
    at: SocketAddr,
    work: Work,
    span: Span,
    look: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<(Sample, [T; 2])> {
    let mut load = Load::start(at, work)?;
    tokio::time::sleep(span.warm_up).await;
    let before = look().await?;
    load.section();
    tokio::time::sleep(span.lasting).await;
    let after = look().await?;
    let sample = load.finish().await?.pop().context("one section was begun")?;
    Ok((sample, [before, after]))
}

/// Sets every key of `work` once.
pub(crate) async fn fill(at: SocketAddr, work: Work) -> anyhow::Result<()> {
    let under_way = (FILLING_BYTES_MAX / work.value_bytes).clamp(1, FILLING_CLIENTS * FILLING_PIPELINE);
    let clients = under_way.min(FILLING_CLIENTS);
    let mut load = Load::spawn(at, clients, under_way / clients, Source::filling(work))?;
    let ended = tokio::time::timeout(FILL_DEADLINE, &mut load.ended).await;
    let mut sections = ended.context("filling took too long")?.context("the load failed")??;
    let seen = sections.of(WARM_UP);
    ensure!(seen.failures == 0, "filling failed: {}", seen.failure.as_deref().unwrap_or_default());
    let done = load.shared.done.load(Ordering::Relaxed);
    ensure!(done == work.keys, "{done} of {} keys were stored", work.keys);
    Ok(())
}
