//! A Tercet cluster of this machine.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tercet_harness::http;
use tercet_harness::up::Up;
use tokio::time::Instant;

use super::Place;
use super::durable::{self, Promise};
use super::status::{Metrics, Status};
use super::usage::Pids;

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// How exactly the begin and the end of a ring change are known.
const POLL: Duration = Duration::from_millis(25);
/// After a start.
const WHOLE_DEADLINE: Duration = Duration::from_secs(60);
/// A frontend that has just started looks at all replicas, and again once no call of another one can be under way. Within this
/// time both have begun. What is written meanwhile is looked at, too, and would count as work of clients.
const FIRST_LOOKS: Duration = Duration::from_secs(12);

#[derive(Debug)]
pub(crate) struct Tercet {
    up: Up,
    http: reqwest::Client,
    /// Sizes of values of which all keys are stored.
    pub(super) filled: Vec<usize>,
}

impl Tercet {
    pub(crate) async fn start(place: &Place, workers: u16) -> anyhow::Result<Self> {
        let up = Up::start(&place.tercet, workers, &place.dir, "tercet-").await?;
        let http = http::builder().timeout(HTTP_TIMEOUT).build()?;
        let tercet = Self { up, http, filled: Vec::new() };
        tercet.wait(WHOLE_DEADLINE, "it is whole", Status::is_whole).await?;
        let began = Instant::now();
        let rests = |metrics: &Metrics| began.elapsed() >= FIRST_LOOKS && metrics.is_at_rest();
        tercet.wait_for_metrics(WHOLE_DEADLINE, "it has looked at all replicas", rests).await?;
        Ok(tercet)
    }

    pub(crate) fn resp(&self) -> SocketAddr {
        self.up.resp()
    }

    /// `tercet` with these arguments, about this cluster.
    pub(crate) async fn tercet(&self, args: &[&str]) -> anyhow::Result<String> {
        self.up.tercet(args).await
    }

    pub(crate) async fn status(&self) -> anyhow::Result<Status> {
        serde_json::from_str(&self.get("/admin/status").await?).context("reading /admin/status")
    }

    /// As they run now.
    pub(crate) async fn pids(&self) -> anyhow::Result<Pids> {
        Ok(Pids::of(&self.up.parts().await?))
    }

    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        Ok(Metrics(self.get("/metrics").await?))
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.http.get(format!("http://{}{path}", self.up.rest())).send().await?;
        ensure!(answer.status().is_success(), "{path} answered {}", answer.status());
        Ok(answer.text().await?)
    }

    /// Looks at the status until it is as wanted.
    pub(crate) async fn wait(
        &self,
        patience: Duration,
        wanted: &str,
        is: impl Fn(&Status) -> bool,
    ) -> anyhow::Result<()> {
        until(patience, wanted, async || {
            let status = self.status().await?;
            Ok(if is(&status) { Ok(()) } else { Err(status.says()) })
        })
        .await
    }

    /// Looks at the metrics until they are as wanted.
    pub(crate) async fn wait_for_metrics(
        &self,
        patience: Duration,
        wanted: &str,
        are: impl Fn(&Metrics) -> bool,
    ) -> anyhow::Result<()> {
        until(patience, wanted, async || {
            let metrics = self.metrics().await?;
            let says = || {
                let (missed, waiting, deltas) = (metrics.missed(), metrics.waiting(), metrics.delta_syncs());
                format!("{missed} keys are missed, {waiting} tasks wait, {deltas} delta syncs have ended")
            };
            Ok(if are(&metrics) { Ok(()) } else { Err(says()) })
        })
        .await
    }

    /// Every worker's PostgreSQL. A worker ends foreign connections when it starts, so it must have started.
    async fn databases(&self) -> anyhow::Result<Vec<(String, tokio_postgres::Config)>> {
        let parts = self.up.parts().await?.into_iter();
        let databases = parts.filter(|part| part.kind == "database" && part.pid.is_some()).map(|part| {
            let mut config = tokio_postgres::Config::new();
            config.host_path(Path::new(&part.address)).port(5432).user("tercet").dbname("postgres");
            (part.id, config)
        });
        Ok(databases.collect())
    }

    pub(crate) async fn check_durable(&self) -> anyhow::Result<()> {
        for (id, config) in self.databases().await? {
            durable::check_postgres(&id, &config, Promise::OwnDisk).await?;
        }
        Ok(())
    }

    /// Group commits of a worker since its database was made, on average.
    pub(crate) async fn commits(&self) -> anyhow::Result<f64> {
        let databases = self.databases().await?;
        let mut sum = 0;
        for (id, config) in &databases {
            let client = durable::connect(config).await.with_context(|| format!("asking {id}"))?;
            // The worker numbers them.
            let row = client.query_one("SELECT coalesce(max(seq), 0) FROM tercet.journal", &[]).await?;
            sum += row.get::<_, i64>(0);
        }
        ensure!(!databases.is_empty(), "no database runs");
        Ok(sum as f64 / databases.len() as f64)
    }

    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.up.end().await
    }
}

/// Looks until all is well; else what was seen instead goes into the error.
async fn until(
    patience: Duration,
    wanted: &str,
    look: impl AsyncFn() -> anyhow::Result<Result<(), String>>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while let Err(says) = look().await? {
        ensure!(begun.elapsed() < patience, "{wanted}: not within {} s: {says}", patience.as_secs());
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
