//! What clients cost the frontend in memory: many that do nothing, and some that ask on and on and never read.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Bench, CLIENTS, KIB, Report, WORKERS};
use crate::figure::{Figure, Target};
use crate::load;
use crate::load::wire::encode;
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::machine::allow_files;
use crate::systems::tercet::Tercet;
use crate::systems::usage::Pids;

/// As many as the frontend takes unless it is told otherwise.
const IDLE: usize = 10_000;
const IDLE_MIB_MAX: f64 = 200.0;
const OPEN_DEADLINE: Duration = Duration::from_secs(120);
/// Until what a load has left behind is given back, as far as it is.
const SETTLE: Duration = Duration::from_secs(2);

const DEAF: usize = CLIENTS;
const DEAF_VALUE_BYTES: usize = 64 * KIB;
const DEAF_KEY: &str = "deaf";
/// Commands written at a time.
const DEAF_COMMANDS: usize = 256;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

const MIB: f64 = (1 << 20) as f64;

impl Bench<'_> {
    pub(super) async fn idle(&mut self, report: &mut Report) -> anyhow::Result<()> {
        allow_files(IDLE)?;
        let (mut before, mut cost, mut each) = (Vec::new(), Vec::new(), Vec::new());
        for n in 1..=self.settings.rounds {
            // A cluster of its own: memory that was used once is not always given back.
            let (mut tercet, pids) = self.warm_tercet().await?;
            let alone = pids.frontend_memory()? as f64;
            let opening = tokio::time::timeout(OPEN_DEADLINE, connections(tercet.resp(), IDLE));
            let held = opening.await.context("opening connections took too long")??;
            tokio::time::sleep(SETTLE).await;
            let costs = pids.frontend_memory()? as f64 - alone;
            drop(held);
            let one = costs / IDLE as f64 / KIB as f64;
            self.progress.say(&format!(
                "{} {n}: {:.0} MiB, and {:.0} MiB for {IDLE} connections: {one:.1} KiB each",
                report.row,
                alone / MIB,
                costs / MIB
            ));
            before.push(alone / MIB);
            cost.push(costs / MIB);
            each.push(one);
            tercet.end().await?;
        }
        let allowed = Figure::new("allowed", "MiB", vec![IDLE_MIB_MAX; cost.len()]);
        let cost = Figure::new(format!("{IDLE} idle connections"), "MiB", cost);
        report.ratio(&cost, &allowed, Some(Target::AtMost(1.0)));
        report.figures.push(Figure::new("frontend before", "MiB", before));
        report.figures.push(cost);
        report.figures.push(Figure::new("each of them", "KiB", each));
        Ok(())
    }

    pub(super) async fn deaf(&mut self, target: Target, report: &mut Report) -> anyhow::Result<()> {
        let lasting = self.settings.span.lasting;
        let (mut before, mut early, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for n in 1..=self.settings.rounds {
            let (mut tercet, pids) = self.warm_tercet().await?;
            let at = tercet.resp();
            set(at, DEAF_KEY, &vec![b'v'; DEAF_VALUE_BYTES]).await?;
            let alone = pids.frontend_memory()?;
            // They end with the round.
            let mut all = JoinSet::new();
            for _ in 0..DEAF {
                all.spawn(ask_on(at));
            }
            let full = most_memory(&pids, lasting).await?;
            let most = most_memory(&pids, lasting).await?;
            drop(all);
            let mib = |bytes: u64| bytes as f64 / MIB;
            self.progress.say(&format!(
                "{} {n}: {:.0} MiB, at first {:.0} MiB, later {:.0} MiB",
                report.row,
                mib(alone),
                mib(full),
                mib(most)
            ));
            before.push(mib(alone));
            early.push(mib(full));
            late.push(mib(most));
            tercet.end().await?;
        }
        let early = Figure::new(format!("with {DEAF} that never read, at first"), "MiB", early);
        let late = Figure::new("later", "MiB", late);
        report.ratio(&late, &early, Some(target));
        report.figures.push(Figure::new("frontend before", "MiB", before));
        report.figures.extend([early, late]);
        Ok(())
    }

    /// A cluster that has done some work: what a frontend takes once and for all is not what its clients cost.
    async fn warm_tercet(&self) -> anyhow::Result<(Tercet, Pids)> {
        let tercet = Tercet::start(self.place, WORKERS).await?;
        tercet.check_durable().await?;
        let work = Work::new(Command::Mixed, CLIENTS, 1, VALUE_BYTES).among(self.settings.keys);
        load::fill(tercet.resp(), work).await?;
        load::measure(tercet.resp(), work, self.settings.span).await?;
        tokio::time::sleep(SETTLE).await;
        let pids = tercet.pids().await?;
        Ok((tercet, pids))
    }
}

/// Each of them has been served once.
async fn connections(at: SocketAddr, number: usize) -> anyhow::Result<Vec<TcpStream>> {
    const PONG: &[u8] = b"+PONG\r\n";
    let mut all = Vec::with_capacity(number);
    for n in 1..=number {
        let said = async {
            let mut stream = TcpStream::connect(at).await?;
            stream.write_all(b"PING\r\n").await?;
            let mut answer = [0; PONG.len()];
            stream.read_exact(&mut answer).await?;
            ensure!(answer == PONG, "PING answered {}", answer.escape_ascii());
            anyhow::Ok(stream)
        };
        all.push(said.await.with_context(|| format!("connection {n} of {number}"))?);
    }
    Ok(all)
}

async fn set(at: SocketAddr, key: &str, value: &[u8]) -> anyhow::Result<()> {
    let client = redis::Client::open(format!("redis://{at}"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    Ok(redis::cmd("SET").arg(key).arg(value).query_async(&mut connection).await?)
}

/// Asks for the value as long as the server takes questions, and reads no answer.
async fn ask_on(at: SocketAddr) {
    let mut commands = Vec::new();
    for _ in 0..DEAF_COMMANDS {
        encode(&mut commands, &[b"GET", DEAF_KEY.as_bytes()]);
    }
    let Ok(mut stream) = TcpStream::connect(at).await else { return };
    // An error: it was cut off, which is what a server may do with it.
    while stream.write_all(&commands).await.is_ok() {}
}

/// The most that the frontend had in this time.
async fn most_memory(pids: &Pids, lasting: Duration) -> anyhow::Result<u64> {
    let until = tokio::time::Instant::now() + lasting;
    let mut most = 0;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_INTERVAL).await;
        most = most.max(pids.frontend_memory()?);
    }
    Ok(most)
}
