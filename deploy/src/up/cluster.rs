//! The parts of the local cluster: what each is started with, and in which order.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tercet_frontend::coordinator::status::{ClusterStatus, Role};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::control::{LocalBoxFuture, Supervised};
use super::datadir::{DataDir, Manifest};
use super::part::{Action, Exited, Handle, Kind, Probe, Spec};
use super::ports::Ports;
use super::postgres::create;
use super::postgres::find::Installation;
use super::postgres::server::Server;
use super::{death, welcome};
use crate::http;
use crate::progress::Progress;

/// A database may have to replay much of its log after a crash.
const DATABASE_START: Duration = Duration::from_secs(300);
const ROLE_START: Duration = Duration::from_secs(30);
/// A fast shutdown writes a checkpoint; if that takes too long, the next start can replay the log instead.
const DATABASE_STOP: &[(Signal, Duration)] =
    &[(Signal::SIGINT, Duration::from_secs(20)), (Signal::SIGQUIT, Duration::from_secs(5))];
const ROLE_STOP: &[(Signal, Duration)] = &[(Signal::SIGTERM, Duration::from_secs(10))];
const READY_POLL: Duration = Duration::from_millis(50);
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// After this long without being ready it says what it waits for.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// All that the parts are made from.
pub(super) struct Plan {
    pub(super) dir: DataDir,
    pub(super) run_dir: PathBuf,
    pub(super) account: Account,
    pub(super) installation: Installation,
    pub(super) manifest: Manifest,
    /// Where further ones come from.
    pub(super) ports: Ports,
    pub(super) resp: SocketAddr,
    pub(super) rest: SocketAddr,
    pub(super) password: bool,
}

pub(super) struct Cluster {
    /// Those of workers that were added come behind.
    databases: RefCell<Vec<Handle>>,
    workers: RefCell<Vec<Handle>>,
    frontend: Handle,
    client: http::Client,
    ready_url: String,
    dir: DataDir,
    psql: String,
    maker: RefCell<Maker>,
    /// One addition at a time.
    adding: tokio::sync::Mutex<()>,
}

/// What further parts are made with.
struct Maker {
    plan: Plan,
    exe: PathBuf,
    grpc: SocketAddr,
    client: http::Client,
    hurry: CancellationToken,
    exits: mpsc::Sender<Exited>,
}

impl Maker {
    fn part(&self, spec: Spec) -> Handle {
        Handle::new(spec, self.hurry.clone(), self.exits.clone())
    }

    /// A worker's database and the worker.
    fn node(&mut self, id: &str) -> anyhow::Result<(Handle, Handle)> {
        let server = Server::new(&self.plan.dir, &self.plan.run_dir, id);
        server.configure(&self.plan.dir, &self.plan.account)?;
        let metrics = self.plan.ports.internal()?;
        let spec = worker(&self.plan, &self.exe, id, &server, self.grpc, metrics, self.client.clone());
        Ok((self.part(database(&self.plan, id, server)), self.part(spec)))
    }
}

impl Cluster {
    /// Makes the parts, starts none.
    pub(super) fn new(
        mut plan: Plan,
        hurry: &CancellationToken,
        exits: mpsc::Sender<Exited>,
    ) -> anyhow::Result<Self> {
        let client = http::Client::new("http:")?;
        let exe = std::env::current_exe().context("finding this program")?;
        // Chosen once: the workers are told, and a frontend that is started again must be found there.
        let grpc = plan.ports.internal()?;
        let ids = plan.manifest.workers.clone();
        let psql = ids.first().map(|id| Server::new(&plan.dir, &plan.run_dir, id).psql());
        let ready_url = format!("http://{}/readyz", welcome::dial(plan.rest));
        let dir = plan.dir.clone();
        let mut maker = Maker { plan, exe, grpc, client: client.clone(), hurry: hurry.clone(), exits };
        let nodes: Vec<_> = ids.iter().map(|id| maker.node(id)).collect::<anyhow::Result<_>>()?;
        let (databases, workers) = nodes.into_iter().unzip();
        let frontend = maker.part(frontend(&maker.plan, &maker.exe, grpc, client.clone()));
        Ok(Self {
            databases: RefCell::new(databases),
            workers: RefCell::new(workers),
            frontend,
            client,
            ready_url,
            dir,
            psql: psql.unwrap_or_default(),
            maker: RefCell::new(maker),
            adding: tokio::sync::Mutex::new(()),
        })
    }

    /// All parts, as `tercet node list` shows them.
    fn all_parts(&self) -> Vec<Handle> {
        let (workers, databases) = (self.workers.borrow(), self.databases.borrow());
        std::iter::once(&self.frontend).chain(workers.iter()).chain(databases.iter()).cloned().collect()
    }

    /// One more worker with a database of its own, started. The frontend hears of it by its heartbeats and gives it its
    /// share of the ring.
    async fn add_worker(&self, progress: &Progress) -> anyhow::Result<String> {
        let _one_at_a_time = self.adding.lock().await;
        let (dir, installation, account, id) = {
            let plan = &self.maker.borrow().plan;
            let id = plan.manifest.next_worker();
            (plan.dir.clone(), plan.installation.clone(), plan.account.clone(), id)
        };
        // An addition that was cut short may have left the database behind.
        let missing = create::missing(&dir, std::slice::from_ref(&id))?;
        if !missing.is_empty() {
            progress.step(&format!("making the database of {id}"));
            create::create(&dir, &installation, &account, &missing).await?;
        }
        let (database, worker) = {
            let mut maker = self.maker.borrow_mut();
            let node = maker.node(&id)?;
            let manifest = &mut maker.plan.manifest;
            manifest.workers.push(id.clone());
            dir.set_manifest(manifest)?;
            node
        };
        self.databases.borrow_mut().push(database.clone());
        self.workers.borrow_mut().push(worker.clone());
        for part in [database, worker] {
            part.act(Action::Start).await.map_err(|error| anyhow::anyhow!(error))?;
        }
        Ok(format!("{id} is added and started; it joins the ring and gets its share: see `tercet status`"))
    }

    /// How a person looks into the first worker's database.
    pub(super) fn psql(&self) -> String {
        self.psql.clone()
    }

    pub(super) fn logs(&self) -> Vec<PathBuf> {
        self.all_parts().iter().map(|part| part.status().log).collect()
    }

    /// Starts every part, a worker once its database is up, and waits until clients can read and write.
    pub(super) async fn start(&self, progress: &Progress) -> anyhow::Result<()> {
        let (databases, workers) = (self.databases.borrow().clone(), self.workers.borrow().clone());
        let (n, version) = (workers.len(), self.maker.borrow().plan.installation.version.to_string());
        progress.step(&format!("starting {n} PostgreSQL {version}, {n} workers and the frontend"));
        let mut starts = JoinSet::new();
        let frontend = self.frontend.clone();
        starts.spawn_local(async move { frontend.act(Action::Start).await.map(|text| vec![text]) });
        for (database, worker) in databases.into_iter().zip(workers) {
            starts.spawn_local(async move {
                let database = database.act(Action::Start).await?;
                Ok(vec![database, worker.act(Action::Start).await?])
            });
        }
        while let Some(outcome) = starts.join_next().await {
            let texts = outcome.context("starting a part")?.map_err(|error| anyhow::anyhow!(error))?;
            // Only what is out of the ordinary is worth a line.
            texts.iter().filter(|text| text.contains('(')).for_each(|text| progress.say(text));
        }
        progress.step("waiting until every key has a quorum");
        self.wait_until_ready(progress).await;
        Ok(())
    }

    /// What the frontend says of the ring; `None`: it does not answer, or does not know the ring. Who is drained is kept in
    /// mind, so that he may be missing at the next start.
    pub(super) async fn look(&self, progress: &Progress) -> Option<ClusterStatus> {
        let (url, password) = (self.ready_url.replace("/readyz", "/admin/status"), self.dir.password());
        let (code, body) = self.client.get(&url, password.as_deref(), READY_TIMEOUT).await.ok()?;
        let status: ClusterStatus = serde_json::from_slice(&body).ok().filter(|_| code == 200)?;
        if status.epoch == 0 {
            return None;
        }
        let mut maker = self.maker.borrow_mut();
        let manifest = &mut maker.plan.manifest;
        if note_drained(manifest, &status)
            && let Err(error) = self.dir.set_manifest(manifest)
        {
            progress.say(&format!("who is drained cannot be kept in mind: {error:#}"));
        }
        Some(status)
    }

    async fn wait_until_ready(&self, progress: &Progress) {
        let mut patience = tokio::time::Instant::now() + READY_PATIENCE;
        loop {
            let answer = self.client.get(&self.ready_url, None, READY_TIMEOUT).await;
            if matches!(answer, Ok((200, _))) {
                return;
            }
            if tokio::time::Instant::now() >= patience {
                let text = match answer {
                    Ok((status, body)) => {
                        format!("{status} {}", String::from_utf8_lossy(&body[..body.len().min(300)]))
                    }
                    Err(error) => error.to_string(),
                };
                progress.say(&format!("not ready yet; {} answers: {}", self.ready_url, text.trim()));
                patience += READY_PATIENCE;
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Clients' door first, data last.
    pub(super) async fn stop(&self, progress: &Progress) {
        let (databases, workers) = (self.databases.borrow().clone(), self.workers.borrow().clone());
        for group in [vec![self.frontend.clone()], workers, databases] {
            let mut stops = JoinSet::new();
            for part in group {
                stops.spawn_local(async move { part.act(Action::Stop).await });
            }
            while let Some(outcome) = stops.join_next().await {
                if let Ok(Ok(text) | Err(text)) = outcome
                    && text.contains("killed")
                {
                    progress.say(&text);
                }
            }
        }
    }
}

/// Whether the ring tells of a drained worker, or of one that stays after all.
fn note_drained(manifest: &mut Manifest, status: &ClusterStatus) -> bool {
    let mut news = false;
    for worker in &status.workers {
        news |= match (worker.role, worker.partitions) {
            (Role::Leaving, 0) => status.ring.change.is_none() && manifest.drained(worker.id.as_str()),
            (Role::Member, _) | (_, 1..) => manifest.stays(worker.id.as_str()),
            (Role::Joining | Role::Spare | Role::Replaced, 0) => false,
        };
    }
    news
}

/// The supervisor's end of the control socket.
pub(super) struct Desk {
    pub(super) cluster: Rc<Cluster>,
    pub(super) progress: Progress,
}

impl Supervised for Desk {
    fn parts(&self) -> Vec<Handle> {
        self.cluster.all_parts()
    }

    fn add_worker(&self) -> LocalBoxFuture<'_, Result<String, String>> {
        Box::pin(async {
            let added = self.cluster.add_worker(&self.progress).await;
            self.progress.finish();
            added.map_err(|error| format!("{error:#}"))
        })
    }

    fn look(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            self.cluster.look(&self.progress).await;
        })
    }

    fn said(&self, text: &str) {
        self.progress.say(text);
    }
}

fn database(plan: &Plan, id: &str, server: Server) -> Spec {
    let (installation, account) = (plan.installation.clone(), plan.account.clone());
    Spec {
        id: format!("{id}-db"),
        kind: Kind::Database,
        address: server.socket_dir.display().to_string(),
        log: plan.dir.logs().join(format!("{id}-db.log")),
        probe: Probe::Database(server.data.clone()),
        command: Box::new(move || server.command(&installation, &account)),
        start_deadline: DATABASE_START,
        stop: DATABASE_STOP,
    }
}

fn worker(
    plan: &Plan,
    exe: &std::path::Path,
    id: &str,
    server: &Server,
    frontend: SocketAddr,
    metrics: SocketAddr,
    client: http::Client,
) -> Spec {
    let mut args = vec![
        "worker".to_owned(),
        flag("id", id),
        flag("cluster-id", &plan.manifest.cluster_id),
        flag("cluster-secret-file", plan.dir.cluster_secret_file().display()),
        flag("postgres", server.connection()),
        // The frontend learns the port from heartbeats.
        flag("listen", "127.0.0.1:0"),
        flag("metrics-listen", metrics),
        flag("frontends", frontend),
    ];
    // Where all workers share few cores, fewer and larger commits are worth more than commits that overlap: on two cores
    // one writer each was measured 15 to 25 % faster than two (SET, 50 clients, no pipeline).
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores <= plan.manifest.workers.len() && std::env::var_os("TERCET_WRITERS").is_none() {
        args.push(flag("writers", 1));
    }
    role(plan, exe, id.to_owned(), Kind::Worker, args, metrics, client)
}

fn frontend(plan: &Plan, exe: &std::path::Path, grpc: SocketAddr, client: http::Client) -> Spec {
    let mut args = vec![
        "frontend".to_owned(),
        flag("cluster-id", &plan.manifest.cluster_id),
        flag("cluster-secret-file", plan.dir.cluster_secret_file().display()),
        flag("workers", plan.manifest.workers.join(",")),
        flag("resp", plan.resp),
        flag("rest", plan.rest),
        flag("listen", grpc),
    ];
    if plan.password {
        args.push(flag("password-file", plan.dir.password_file().display()));
    }
    role(plan, exe, "frontend".to_owned(), Kind::Frontend, args, welcome::dial(plan.rest), client)
}

fn flag(key: &str, value: impl std::fmt::Display) -> String {
    format!("--{key}={value}")
}

/// A part that is this program itself. Settings that are not flags here reach it through its TERCET_… variables.
fn role(
    plan: &Plan,
    exe: &std::path::Path,
    id: String,
    kind: Kind,
    args: Vec<String>,
    http_address: SocketAddr,
    client: http::Client,
) -> Spec {
    let exe = exe.to_owned();
    Spec {
        kind,
        address: format!("http://{http_address}"),
        log: plan.dir.logs().join(format!("{id}.log")),
        id,
        command: Box::new(move || {
            let mut command = Command::new(&exe);
            command.args(&args).arg("--exit-with-parent");
            // Meant for `up` itself, or for one role only.
            for name in [
                "TERCET_CONFIG",
                "TERCET_PASSWORD",
                "TERCET_PASSWORD_FILE",
                "TERCET_WORKERS",
                "TERCET_ADVERTISE",
            ] {
                command.env_remove(name);
            }
            command.stdin(Stdio::piped()).process_group(0);
            death::with_parent(&mut command, Signal::SIGKILL);
            command
        }),
        probe: Probe::Http(client, format!("http://{http_address}/healthz")),
        start_deadline: ROLE_START,
        stop: ROLE_STOP,
    }
}
