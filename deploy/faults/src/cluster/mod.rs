//! The cluster under test, run as a person would run it: `tercet up`, `tercet node`, `tercet status`.

pub(crate) mod binary;
pub(crate) mod database;
mod guest;
pub(crate) mod processes;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::binary::Binary;
use self::database::Database;
use self::guest::Guest;
use self::status::Status;
use crate::proxy::Link;

const START_DEADLINE: Duration = Duration::from_secs(120);
/// In which each PostgreSQL writes a last checkpoint.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// How soon a part that ended by itself is started again.
const SUPERVISION: Duration = Duration::from_secs(3);
/// So that PostgreSQL's log fits on a small disk.
const SMALL_LOG: &str = "ALTER SYSTEM SET max_wal_size = '96MB'";
/// Clients come in here.
pub(crate) const FRONTEND: &str = "frontend";

/// A part, as `tercet node list --json` shows it.
#[derive(Clone, Debug, Deserialize)]
struct Part {
    id: String,
    kind: String,
    pid: Option<i32>,
    address: String,
}

/// A running `tercet up` in a temporary directory. Dropped, nothing of it stays behind.
pub(crate) struct Cluster {
    binary: Binary,
    up: Child,
    resp: SocketAddr,
    dir: tempfile::TempDir,
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
        use std::os::unix::fs::PermissionsExt;
        // A PostgreSQL of another user must pass.
        let mode = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("tercet-faults-").permissions(mode).tempdir()?;
        let mut command = binary.command(&["up", "--resp=127.0.0.1:0", "--rest=127.0.0.1:0"]);
        command.arg(format!("--workers={workers}")).arg("--data-dir").arg(dir.path());
        // Ctrl-C is for us to handle.
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut up = command.spawn().context("starting tercet up")?;
        let resp = ready(&mut up).await?;
        let mut cluster = Self {
            binary: binary.clone(),
            up,
            resp,
            dir,
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
        let mut parts = self.parts().await?;
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
            data: self.dir.path().join("databases").join(&worker),
            socket_dir: part.address.into(),
            programs: programs.with_context(|| format!("the program of {}", part.id))?,
        };
        self.databases.insert(worker, database);
        Ok(())
    }

    pub(crate) fn resp(&self) -> SocketAddr {
        self.resp
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
        self.dir.path().join("logs")
    }

    /// A place for copies on the same file system.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join("run").join(name)
    }

    async fn parts(&self) -> anyhow::Result<Vec<Part>> {
        let text = self.tercet(&["node", "list", "--json"]).await?;
        serde_json::from_str(&text).context("reading tercet node list --json")
    }

    /// `tercet` with these arguments, about this cluster.
    pub(crate) async fn tercet(&self, args: &[&str]) -> anyhow::Result<String> {
        let dir = self.dir.path().display().to_string();
        let args: Vec<&str> = args.iter().copied().chain(["--data-dir", &dir]).collect();
        self.binary.call(&args).await
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
        let parts = self.parts().await?;
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
        let dir = self.dir.path().display().to_string();
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
        processes::signal(&processes::of_cluster(self.dir.path()), Signal::SIGCONT);
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
        let pid = self.up.id().and_then(|pid| i32::try_from(pid).ok()).context("tercet up has ended")?;
        processes::signal(&[pid], Signal::SIGTERM);
        let ended = tokio::time::timeout(STOP_DEADLINE, self.up.wait()).await;
        let status = ended.context("tercet up does not end")??;
        ensure!(status.success(), "tercet up: {status}");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Whatever still names or uses our own directory is ours; what hangs would not notice its end.
        let left = processes::of_cluster(self.dir.path());
        processes::signal(&left, Signal::SIGKILL);
        for place in &self.mounts {
            database::unmount(place);
        }
    }
}

/// Waits for the `ready` line, and reads on afterwards: `tercet up` must never wait for us.
async fn ready(up: &mut Child) -> anyhow::Result<SocketAddr> {
    let (lines, mut seen) = mpsc::unbounded_channel();
    let stdout = up.stdout.take().context("its output is piped")?;
    let stderr = up.stderr.take().context("its output is piped")?;
    for output in [Box::pin(stdout) as std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>, Box::pin(stderr)]
    {
        let lines = lines.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(output).lines();
            while let Ok(Some(line)) = from.next_line().await {
                // Once it is ready nobody listens.
                let _ = lines.send(line);
            }
        });
    }
    drop(lines);
    let mut said = String::new();
    let ready = async {
        while let Some(line) = seen.recv().await {
            if let Some(resp) = ready_line(&line) {
                return Ok(resp);
            }
            said.push_str(&line);
            said.push('\n');
        }
        bail!("tercet up ended")
    };
    match tokio::time::timeout(START_DEADLINE, ready).await {
        Ok(Ok(resp)) => Ok(resp),
        Ok(Err(error)) => Err(error.context(said)),
        Err(_) => bail!("tercet up was not ready within {} s:\n{said}", START_DEADLINE.as_secs()),
    }
}

/// `ready in=… resp=IP:PORT rest=… data-dir=…`
fn ready_line(line: &str) -> Option<SocketAddr> {
    let fields = line.strip_prefix("ready in=")?;
    fields.split(' ').find_map(|field| field.strip_prefix("resp=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_address() {
        let line = "ready in=2.5s resp=127.0.0.1:20001 rest=127.0.0.1:20002 data-dir=/tmp/x";
        assert_eq!(ready_line(line), Some("127.0.0.1:20001".parse().unwrap()));
        assert_eq!(ready_line("starting 4 PostgreSQL"), None);
    }
}
