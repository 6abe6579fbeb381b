//! PostgreSQL as people would use it instead: one server, or a primary whose commits wait for one of two standbys.
//!
//! Settings that decide speed but not durability are those that `tercet up` gives its own servers; clients come over TCP,
//! as to the other systems. It is driven by pgbench, with prepared statements and a thread per core.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tercet_harness::ports::free_port;
use tokio::process::{Child, Command};
use tokio_postgres::Client;

use super::Place;
use super::account::Account;
use super::command::{command, end, finish};
use super::durable::{self, Promise, connect};
use super::pgbench;
use crate::load::work::{self, HOT_KEY, Work};
use crate::sample::{self, Latency, Sample, Span};

const USER: &str = "bench";
const START_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// On top of the time that it is told to run.
const PGBENCH_DEADLINE: Duration = Duration::from_secs(60);
/// Durability is not touched: fsync, full_page_writes and synchronous_commit stay as they are by default, on.
const SETTINGS: &[&str] = &[
    "max_connections=200",
    "shared_buffers=128MB",
    "huge_pages=try",
    "work_mem=8MB",
    "maintenance_work_mem=64MB",
    "effective_cache_size=1GB",
    "wal_buffers=16MB",
    "min_wal_size=64MB",
    "max_wal_size=1GB",
    "checkpoint_timeout=15min",
    "autovacuum_naptime=15s",
    "autovacuum_vacuum_scale_factor=0.05",
    "autovacuum_vacuum_cost_delay=1ms",
    "jit=off",
    "max_parallel_workers_per_gather=0",
    "random_page_cost=1.1",
    "update_process_title=off",
];

#[derive(Debug)]
pub(crate) struct Postgres {
    programs: PathBuf,
    password: String,
    account: Account,
    /// The primary last: it is stopped last.
    servers: Vec<Server>,
    /// Sizes of values of which all keys are stored.
    filled: Vec<usize>,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Server {
    name: String,
    at: SocketAddr,
    child: Child,
}

impl Postgres {
    pub(super) async fn start(place: &Place, standbys: usize) -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // PostgreSQL's own user must pass.
        let mode = std::fs::Permissions::from_mode(0o711);
        let dir =
            tempfile::Builder::new().prefix("tercet-bench-pg-").permissions(mode).tempdir_in(&place.dir)?;
        let password = String::from_utf8(work::random_text(&mut rand::rng(), 24))?;
        let mut postgres = Self {
            programs: place.postgres.clone(),
            password,
            account: Account::choose()?,
            servers: Vec::new(),
            filled: Vec::new(),
            dir,
        };
        postgres.initdb().await.context("making a database")?;
        postgres.run("primary", if standbys == 0 { "minimal" } else { "replica" }).await?;
        let names: Vec<String> = (1..=standbys).map(|n| format!("standby{n}")).collect();
        for name in &names {
            postgres.copy_primary(name).await.with_context(|| format!("making {name}"))?;
            postgres.run(name, "replica").await?;
        }
        postgres.servers.rotate_left(1);
        if standbys > 0 {
            postgres.wait_for_standbys(&names).await?;
        }
        postgres.check_durable().await?;
        Ok(postgres)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = command(self.programs.join(name));
        command.env("PGPASSWORD", &self.password);
        command
    }

    fn create_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.data(name);
        std::fs::create_dir(&dir)?;
        self.account.own(&dir, 0o700)?;
        Ok(dir)
    }

    async fn initdb(&self) -> anyhow::Result<()> {
        let data = self.create_dir("primary")?;
        let secret = self.dir.path().join("password");
        std::fs::write(&secret, &self.password)?;
        self.account.own(&secret, 0o600)?;
        let mut initdb = self.program("initdb");
        initdb.arg("--pgdata").arg(data).arg("--pwfile").arg(&secret).arg(format!("--username={USER}"));
        // As `tercet up` makes its databases, but for who may connect. To be let in must not cost much: pgbench's clients
        // come anew for each measurement.
        initdb.args(["--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=md5"]);
        self.account.run(&mut initdb);
        finish(&mut initdb, START_DEADLINE).await?;
        Ok(std::fs::remove_file(&secret)?)
    }

    async fn copy_primary(&self, name: &str) -> anyhow::Result<()> {
        let data = self.create_dir(name)?;
        let at = self.primary()?.at;
        let mut copy = self.program("pg_basebackup");
        copy.arg(format!("--pgdata={}", data.display())).args(["--write-recovery-conf", "--checkpoint=fast"]);
        let (host, port, password) = (at.ip(), at.port(), &self.password);
        copy.arg(format!(
            "--dbname=host={host} port={port} user={USER} password={password} application_name={name}"
        ));
        self.account.run(&mut copy);
        finish(&mut copy, START_DEADLINE).await?;
        Ok(())
    }

    /// Starts a server over its data, and waits until it answers.
    async fn run(&mut self, name: &str, wal_level: &str) -> anyhow::Result<()> {
        let at = free_port()?;
        let mut postgres = self.program("postgres");
        postgres.arg("-D").arg(self.data(name));
        let senders = if wal_level == "minimal" { 0 } else { 10 };
        let own = [
            format!("listen_addresses={}", at.ip()),
            format!("port={}", at.port()),
            "unix_socket_directories=".to_owned(),
            format!("wal_level={wal_level}"),
            format!("max_wal_senders={senders}"),
        ];
        for setting in own.iter().map(String::as_str).chain(SETTINGS.iter().copied()) {
            postgres.arg("-c").arg(setting);
        }
        let log = self.dir.path().join(format!("{name}.log"));
        let file = std::fs::File::create(&log)?;
        postgres.stdout(file.try_clone()?).stderr(file);
        self.account.run(&mut postgres);
        let child = postgres.spawn().with_context(|| format!("starting {name}"))?;
        self.servers.push(Server { name: name.to_owned(), at, child });
        let begun = Instant::now();
        while let Err(error) = connect(&self.config(at)).await {
            let server = self.servers.last_mut().context("it was just started")?;
            let ended = server.child.try_wait()?.is_some();
            if ended || begun.elapsed() > START_DEADLINE {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(error.context(format!("PostgreSQL {name} does not start:\n{log}")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn primary(&self) -> anyhow::Result<&Server> {
        self.servers.iter().find(|server| server.name == "primary").context("there is no primary")
    }

    fn config(&self, at: SocketAddr) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(at.ip().to_string())
            .port(at.port())
            .user(USER)
            .password(&self.password)
            .dbname("postgres");
        config
    }

    /// To the primary.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        connect(&self.config(self.primary()?.at)).await
    }

    async fn wait_for_standbys(&self, names: &[String]) -> anyhow::Result<()> {
        let client = self.connect().await?;
        // Not in one go: each must be a statement of its own.
        let setting = format!("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({})'", names.join(", "));
        client.batch_execute(&setting).await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let begun = Instant::now();
        while let Err(error) = self.check_durable().await {
            if begun.elapsed() > START_DEADLINE {
                return Err(error);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Of all servers: what a standby acknowledges must be on its disk, too.
    pub(super) async fn check_durable(&self) -> anyhow::Result<()> {
        let standbys = self.servers.len() - 1;
        for server in &self.servers {
            let promise = match standbys > 0 && server.name == "primary" {
                true => Promise::Standbys(standbys),
                false => Promise::OwnDisk,
            };
            durable::check_postgres(&server.name, &self.config(server.at), promise).await?;
        }
        Ok(())
    }

    pub(super) async fn fill(&mut self, work: Work) -> anyhow::Result<()> {
        if self.filled.contains(&work.value_bytes) {
            return Ok(());
        }
        let client = self.connect().await?;
        let (table, prefix) = (pgbench::table(work.value_bytes), Work::prefix(work.value_bytes));
        let value = String::from_utf8(work::random_text(&mut rand::rng(), work.value_bytes))?;
        // Without an attempt at compression, which would be in vain and cost time.
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} (k text PRIMARY KEY, v text NOT NULL);
                 ALTER TABLE {table} ALTER v SET STORAGE EXTERNAL;
                 CREATE TABLE IF NOT EXISTS counters (k text PRIMARY KEY, n bigint NOT NULL);
                 INSERT INTO counters VALUES ('{HOT_KEY}', 0) ON CONFLICT DO NOTHING"
            ))
            .await?;
        let keys = i64::try_from(work.keys)?;
        let insert = format!(
            "INSERT INTO {table} SELECT '{prefix}' || n, $1 FROM generate_series(0, $2::bigint - 1) n"
        );
        client.execute(&insert, &[&value, &keys]).await?;
        client.batch_execute(&format!("VACUUM (ANALYZE) {table}")).await?;
        client.batch_execute("CHECKPOINT").await?;
        self.filled.push(work.value_bytes);
        Ok(())
    }

    pub(super) async fn measure(&self, work: Work, span: Span) -> anyhow::Result<Sample> {
        let dir = tempfile::tempdir()?;
        let script = dir.path().join("script.sql");
        std::fs::write(&script, pgbench::script(&work)?)?;
        let value = work::random_text(&mut rand::rng(), work.value_bytes);
        self.pgbench(&work, &value, &script, span.warm_up, None).await?;
        // Only where a client waits for every answer alone does a log cost nothing.
        let log = (work.clients == 1).then(|| dir.path().join("log"));
        let output = self.pgbench(&work, &value, &script, span.lasting, log.as_deref()).await?;
        let per_second = pgbench::per_second(&output)?;
        let mut latency = None;
        if log.is_some() {
            let mut histogram = sample::histogram();
            for entry in std::fs::read_dir(dir.path())? {
                let path = entry?.path();
                if path != script {
                    pgbench::read_log(&path, &mut histogram)?;
                }
            }
            ensure!(!histogram.is_empty(), "pgbench's log is empty");
            latency = Some(Latency::of(&histogram));
        }
        Ok(Sample { seconds: span.lasting.as_secs_f64(), per_second, latency, ..Sample::default() })
    }

    /// What it wrote.
    async fn pgbench(
        &self,
        work: &Work,
        value: &[u8],
        script: &Path,
        lasting: Duration,
        log: Option<&Path>,
    ) -> anyhow::Result<String> {
        let at = self.primary()?.at;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let seconds = lasting.as_secs_f64().ceil().max(1.0) as u64;
        let mut pgbench = self.program("pgbench");
        pgbench.args(["--no-vacuum", "--protocol=prepared", &format!("--username={USER}")]);
        pgbench.arg(format!("--host={}", at.ip())).arg(format!("--port={}", at.port()));
        pgbench.arg(format!("--client={}", work.clients)).arg(format!("--jobs={}", cores.min(work.clients)));
        pgbench.arg(format!("--time={seconds}")).arg("--file").arg(script);
        if let Some(log) = log {
            pgbench.arg("--log").arg("--log-prefix").arg(log);
        }
        for variable in pgbench::variables(work, value) {
            pgbench.arg("-D").arg(variable);
        }
        pgbench.arg("postgres").stdout(Stdio::piped());
        finish(&mut pgbench, lasting + PGBENCH_DEADLINE).await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // An immediate shutdown, of all its processes: nobody needs the data any more.
            end(&mut server.child, Signal::SIGQUIT);
        }
    }
}
