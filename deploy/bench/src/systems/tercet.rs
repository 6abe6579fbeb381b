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
use super::status::Status;

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// How exactly the begin and the end of a ring change are known.
const POLL: Duration = Duration::from_millis(25);
/// After a start.
const WHOLE_DEADLINE: Duration = Duration::from_secs(60);

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

    /// As `/metrics` shows them.
    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        self.get("/metrics").await
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
        let begun = Instant::now();
        loop {
            let status = self.status().await?;
            if is(&status) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < patience,
                "{wanted}: not within {} s: {}",
                patience.as_secs(),
                status.says()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Of every worker's PostgreSQL. A worker ends foreign connections when it starts, so it must have started.
    pub(crate) async fn check_durable(&self) -> anyhow::Result<()> {
        for part in
            self.up.parts().await?.into_iter().filter(|part| part.kind == "database" && part.pid.is_some())
        {
            let mut config = tokio_postgres::Config::new();
            config.host_path(Path::new(&part.address)).port(5432).user("tercet").dbname("postgres");
            durable::check_postgres(&part.id, &config, Promise::OwnDisk).await?;
        }
        Ok(())
    }

    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.up.end().await
    }
}
