//! The cluster under test, run as a person would run it: `tercet up`, `tercet node`, `tercet status`.

pub(crate) mod database;
mod guest;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tercet_harness::up::{Part, Up};
pub(crate) use tercet_harness::{binary, processes};
use tokio::time::Instant;

use self::binary::Binary;
use self::database::Database;
use self::guest::Guest;
use self::status::Status;
use crate::proxy::Link;

const POLL: Duration = Duration::from_millis(100);
/// How soon a part that ended by itself is started again.
const SUPERVISION: Duration = Duration::from_secs(3);
/// So that PostgreSQL's log fits on a small disk.
const SMALL_LOG: &str = "ALTER SYSTEM SET max_wal_size = '96MB'";
/// Clients come in here.
pub(crate) const FRONTEND: &str = "frontend";

/// A running `tercet up` in a temporary directory. Dropped, nothing of it stays behind.
pub(crate) struct Cluster {
    binary: Binary,
    up: Up,
    workers: Vec<String>,
    databases: BTreeMap<String, Database>,
    /// Workers that have left for good.
    retired: BTreeSet<String>,
    /// Workers behind a proxy, which `tercet up` does not know of.
    guests: BTreeMap<String, Guest>,
    mounts: Vec<PathBuf>,
}

impl Cluster {
    pub(crate) async fn start(binary: &Binary, workers: u16) -> anyhow::Result<Self> {
        let up = Up::start(binary, workers, &std::env::temp_dir(), "tercet-faults-").await?;
        let mut cluster = Self {
            binary: binary.clone(),
            up,
            workers: Vec::new(),
            databases: BTreeMap::new(),
            retired: BTreeSet::new(),
            guests: BTreeMap::new(),
            mounts: Vec::new(),
        };
        cluster.look_around().await?;
        Ok(cluster)
    }

    /// Learns which workers there are. Their databases must run.
    pub(crate) async fn look_around(&mut self) -> anyhow::Result<()> {
        let mut parts = self.up.parts().await?;
        parts.retain(|part| !self.retired.contains(part.id.trim_end_matches("-db")));
        (self.workers, self.databases) = (Vec::new(), BTreeMap::new());
        for part in parts {
            match part.kind.as_str() {
                "worker" => self.workers.push(part.id),
                "database" => self.learn(part)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Stops a worker that has handed over what it held, for good.
    pub(crate) async fn retire(&mut self, worker: &str) -> anyhow::Result<()> {
        self.stop(worker).await?;
        self.stop(&format!("{worker}-db")).await?;
        self.retired.insert(worker.to_owned());
        self.workers.retain(|other| other != worker);
        self.databases.remove(worker);
        Ok(())
    }

    pub(crate) async fn knows(&self, command: &[&str]) -> bool {
        self.binary.knows(command).await
    }

    /// Where a PostgreSQL is; it must run.
    fn learn(&mut self, part: Part) -> anyhow::Result<()> {
        let pid = part.pid.with_context(|| format!("{} does not run", part.id))?;
        let programs = processes::program(pid).and_then(|program| Some(program.parent()?.to_owned()));
        let worker = part.id.trim_end_matches("-db").to_owned();
        let database = Database {
            data: self.up.dir().join("databases").join(&worker),
            socket_dir: part.address.into(),
            programs: programs.with_context(|| format!("the program of {}", part.id))?,
        };
        self.databases.insert(worker, database);
        Ok(())
    }

    pub(crate) fn resp(&self) -> SocketAddr {
        self.up.resp()
    }

    pub(crate) fn workers(&self) -> &[String] {
        &self.workers
    }

    pub(crate) fn databases(&self) -> &BTreeMap<String, Database> {
        &self.databases
    }

    pub(crate) fn database(&self, worker: &str) -> anyhow::Result<&Database> {
        self.databases.get(worker).with_context(|| format!("no database of {worker}"))
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.up.dir().join("logs")
    }

    /// A place for copies on the same file system.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.up.dir().join("run").join(name)
    }

    /// `tercet` with these arguments, about this cluster.
    pub(crate) async fn tercet(&self, args: &[&str]) -> anyhow::Result<String> {
        self.up.tercet(args).await
    }

    /// SIGKILL, to a PostgreSQL with all its backends. One that does not run is dead enough.
    pub(crate) async fn kill(&mut self, part: &str) -> anyhow::Result<()> {
        if self.pids(part).await?.is_empty() {
            return Ok(());
        }
        match self.guests.get_mut(part) {
            Some(guest) => guest.kill().await,
            None => drop(self.tercet(&["node", "kill", part]).await?),
        }
        Ok(())
    }

    /// An orderly end.
    pub(crate) async fn stop(&mut self, part: &str) -> anyhow::Result<()> {
        match self.guests.get_mut(part) {
            Some(guest) => guest.kill().await,
            None => drop(self.tercet(&["node", "stop", part]).await?),
        }
        Ok(())
    }

    /// Starts a part; one that runs is left alone.
    pub(crate) async fn revive(&mut self, part: &str) -> anyhow::Result<()> {
        if !self.pids(part).await?.is_empty() {
            return Ok(());
        }
        match self.guests.get_mut(part) {
            Some(guest) => guest.start()?,
            None => drop(self.tercet(&["node", "start", part]).await?),
        }
        Ok(())
    }

    /// A part's processes, of a PostgreSQL all.
    pub(crate) async fn pids(&self, part: &str) -> anyhow::Result<Vec<i32>> {
        if let Some(guest) = self.guests.get(part) {
            return Ok(guest.pid().into_iter().collect());
        }
        if let Some(database) = part.strip_suffix("-db").and_then(|worker| self.databases.get(worker)) {
            return Ok(database.pids());
        }
        let parts = self.up.parts().await?;
        let part = parts.iter().find(|it| it.id == part).with_context(|| format!("no part {part}"))?;
        Ok(part.pid.into_iter().collect())
    }

    /// Puts every worker behind a [`Link`].
    pub(crate) async fn put_behind_links(&mut self) -> anyhow::Result<()> {
        for worker in self.workers.clone() {
            let pids = self.pids(&worker).await?;
            let pid = *pids.first().with_context(|| format!("{worker} does not run"))?;
            let log = self.logs().join(format!("{worker}-behind-link.log"));
            let guest = Guest::new(&self.binary, &processes::arguments(pid), log).await?;
            self.stop(&worker).await?;
            self.guests.insert(worker.clone(), guest);
            self.revive(&worker).await?;
        }
        Ok(())
    }

    pub(crate) fn link(&self, worker: &str) -> anyhow::Result<&Link> {
        let guest = self.guests.get(worker).with_context(|| format!("{worker} is behind no link"))?;
        Ok(&guest.link)
    }

    /// Puts every worker's data on a small file system of its own.
    pub(crate) async fn put_on_small_disks(&mut self, mib: u64) -> anyhow::Result<()> {
        for worker in self.workers.clone() {
            let part = format!("{worker}-db");
            let database = self.database(&worker)?.clone();
            database.connect().await?.batch_execute(SMALL_LOG).await?;
            self.stop(&worker).await?;
            self.stop(&part).await?;
            self.mounts.push(database.data.clone());
            database.mount_small(mib).await?;
            self.revive(&part).await?;
            self.revive(&worker).await?;
        }
        Ok(())
    }

    /// Why the cluster is not whole; `None` if every worker is alive and asked, and every key has all its replicas.
    async fn flaw(&self) -> Option<String> {
        let dir = self.up.dir().display().to_string();
        // Its exit status tells whether the cluster is ready; the answer tells more.
        let output = self.binary.output(&["status", "--json", "--data-dir", &dir]).await;
        let status = output.ok().and_then(|output| serde_json::from_slice::<Status>(&output.stdout).ok());
        let unanswered = || Some("the frontend does not answer".to_owned());
        status.map_or_else(unanswered, |status| status.flaw(&self.retired))
    }

    /// Until the cluster is whole; how long it took. Parts that ended by themselves are started, as a supervisor would.
    pub(crate) async fn wait_until_whole(&mut self, patience: Duration) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let mut looked = Instant::now();
        loop {
            let Some(flaw) = self.flaw().await else { return Ok(begun.elapsed()) };
            ensure!(begun.elapsed() < patience, "not whole within {} s: {flaw}", patience.as_secs());
            if looked.elapsed() > SUPERVISION {
                self.revive_all().await.context(flaw)?;
                looked = Instant::now();
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Undoes whatever a fault that failed half-way may have left: everything runs, nothing hangs, every link flows.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
        processes::signal(&processes::of_cluster(self.up.dir()), Signal::SIGCONT);
        for guest in self.guests.values() {
            guest.link.towards_worker.heal(false);
            guest.link.from_worker.heal(false);
        }
        self.revive_all().await
    }

    async fn revive_all(&mut self) -> anyhow::Result<()> {
        self.revive(FRONTEND).await?;
        for worker in self.workers.clone() {
            self.revive(&format!("{worker}-db")).await?;
            self.revive(&worker).await?;
        }
        Ok(())
    }

    /// Copies the logs to `to`, as evidence.
    pub(crate) fn copy_logs(&self, to: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(self.logs())? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Ends in order.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        for guest in self.guests.values_mut() {
            guest.kill().await;
        }
        self.up.end().await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.up.kill();
        for place in &self.mounts {
            database::unmount(place);
        }
    }
}
