//! `tercet up`: a whole cluster on this machine.
//!
//! ```text
//! tercet up ─┬─ w1-db … wN-db    PostgreSQL, one per worker (as another user, if we are root)
//!            ├─ w1 … wN          tercet worker
//!            └─ frontend         tercet frontend
//! ```
//!
//! Everything runs on the main thread: one small event loop with a task per part. That is not only simple, it is needed:
//! the kernel ends a child when the *thread* that spawned it ends (see [`death`]).
//!
//! Children are process groups of their own, so Ctrl-C on the terminal reaches the supervisor alone, which then stops
//! frontend, workers and databases in that order, each with a deadline. A second Ctrl-C cuts the deadlines short.

mod account;
mod cluster;
pub(crate) mod control;
pub(crate) mod datadir;
mod death;
mod logs;
pub(crate) mod part;
mod ports;
mod postgres;
mod welcome;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tercet_frontend::coordinator::status::ChangeStatus;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::account::Account;
use self::cluster::{Cluster, Desk, Plan};
use self::datadir::{DataDir, Manifest, Running};
use self::part::Exited;
use self::ports::Ports;
use self::postgres::find::{self, Installation, NotFound};
use self::postgres::server::{SOCKET_PATH_MAX, Server};
use self::postgres::{create, fetch};
use self::welcome::Call;
use crate::cli::{PasswordArgs, UpArgs};
use crate::progress::Progress;

/// Exits that may wait to be printed.
const EXITS: usize = 64;
/// How often log files are looked at.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// How often the frontend is asked what the ring does.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a cluster until SIGINT, SIGTERM or SIGHUP.
pub(crate) fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let progress = Progress::new();
    let result = runtime.block_on(local.run_until(Box::pin(up(args, &progress))));
    progress.finish();
    result.map(|()| ExitCode::SUCCESS)
}

/// First signal: stop in order. Second: at once.
#[derive(Clone, Debug, Default)]
struct Interrupt {
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Interrupt {
    fn watch(&self) -> anyhow::Result<()> {
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut stream = signal(kind).context("watching for signals")?;
            let this = self.clone();
            tokio::task::spawn_local(async move {
                while stream.recv().await.is_some() {
                    if this.stop.is_cancelled() {
                        this.hurry.cancel();
                    }
                    this.stop.cancel();
                }
            });
        }
        Ok(())
    }
}

async fn up(args: UpArgs, progress: &Progress) -> anyhow::Result<()> {
    let begun = Instant::now();
    let interrupt = Interrupt::default();
    interrupt.watch()?;

    // Everything that can be refused is refused before anything is started.
    let password = args.password.read()?;
    if args.resp == args.rest && args.resp.port() != 0 {
        bail!("--resp and --rest are both {}: RESP and REST need a port each", args.resp);
    }
    let mut ports = Ports::default();
    let resp = ports.for_clients(args.resp, "--resp")?;
    let rest = ports.for_clients(args.rest, "--rest")?;
    let ephemeral = match args.ephemeral {
        true => Some(
            tempfile::Builder::new().prefix("tercet-").tempdir().context("creating a temporary directory")?,
        ),
        false => None,
    };
    let dir = match &ephemeral {
        Some(temp) => DataDir::at(&temp.path().canonicalize()?)?,
        None => DataDir::locate(args.place.data_dir.as_deref())?,
    };
    let account = Account::choose(&dir.databases())?;
    let _lock = dir.take(account.passage_mode())?;
    account.check_passage(dir.root())?;
    if let Some(name) = account.lent_name() {
        progress.say(&format!("running as root: PostgreSQL, which refuses to, runs as the user `{name}`"));
    }
    let manifest = dir.manifest()?;
    let workers = dir.agree_on_workers(manifest.as_ref(), args.workers)?;
    dir.ensure_cluster_secret()?;
    dir.set_password(password.as_deref())?;
    let run_dir = RunDir::choose(&dir, &account, &workers)?;

    let prepared = tokio::select! {
        prepared = prepare(&args, &dir, &account, manifest, &workers, progress) => prepared?,
        () = interrupt.stop.cancelled() => bail!("interrupted"),
    };
    let (installation, manifest) = prepared;
    for id in &manifest.drained {
        let data = dir.databases().join(id);
        if data.exists() {
            progress.say(&format!("{id} was drained and is not started: {} can be removed", data.display()));
        }
    }

    let (exits, mut exited) = mpsc::channel(EXITS);
    let plan = Plan {
        dir: dir.clone(),
        run_dir: run_dir.path.clone(),
        account,
        installation,
        manifest,
        ports,
        resp,
        rest,
        password: password.is_some(),
    };
    let cluster = Rc::new(Cluster::new(plan, &interrupt.hurry, exits)?);
    let control = run_dir.path.join("control.sock");
    let listener = control::listen(&control)?;
    let desk = Desk { cluster: Rc::clone(&cluster), progress: progress.clone() };
    let server = tokio::task::spawn_local(control::serve(listener, Rc::new(desk)));
    dir.set_running(&Running {
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        control,
        run_dir: run_dir.path.clone(),
        resp: welcome::dial(resp),
        rest: welcome::dial(rest),
    })?;

    let started = tokio::select! {
        started = cluster.start(progress) => started,
        Some(exit) = exited.recv() => Err(anyhow::anyhow!("{}", report(&exit, None))),
        () = interrupt.stop.cancelled() => Ok(()),
    };
    if started.is_ok() && !interrupt.stop.is_cancelled() {
        progress.finish();
        progress.say(&welcome::ready_line(begun.elapsed(), resp, rest, dir.root()));
        let psql = cluster.psql();
        let call = Call::new(&args, &dir);
        progress.say(&welcome::welcome(resp, rest, &call, &psql, password.is_some()));
        watch_over(&cluster, &interrupt, &mut exited, &call, progress).await;
    }
    progress.say("stopping");
    server.abort();
    cluster.stop(progress).await;
    dir.clear_running();
    if started.is_ok() {
        progress.say("stopped");
    }
    started
}

/// Finds PostgreSQL and makes what databases are missing.
async fn prepare(
    args: &UpArgs,
    dir: &DataDir,
    account: &Account,
    manifest: Option<Manifest>,
    workers: &[String],
    progress: &Progress,
) -> anyhow::Result<(Installation, Manifest)> {
    let missing = create::missing(dir, workers)?;
    if manifest.is_some() && !missing.is_empty() {
        // An empty database in its place would answer for data that it does not have.
        bail!(
            "the database of {} is not in {}: put it back, or start with another --data-dir",
            missing.join(", "),
            dir.databases().display()
        );
    }
    let existing = workers.iter().find(|id| !missing.contains(id));
    let major = existing.map(|id| create::major_of(&dir.databases().join(id))).transpose()?;
    let installation = installation(args.postgres_bin.as_deref(), &dir.programs(), major, progress).await?;
    account.check_passage(&installation.bin)?;
    if !missing.is_empty() {
        progress.step(&format!(
            "making {} databases with PostgreSQL {}",
            missing.len(),
            installation.version
        ));
        create::create(dir, &installation, account, &missing).await?;
    }
    let manifest = match manifest {
        Some(manifest) => manifest,
        None => {
            let manifest = Manifest::new(workers.to_vec(), installation.version.major);
            dir.set_manifest(&manifest)?;
            manifest
        }
    };
    Ok((installation, manifest))
}

/// PostgreSQL on the machine, or else fetched.
async fn installation(
    explicit: Option<&Path>,
    programs: &Path,
    major: Option<u32>,
    progress: &Progress,
) -> anyhow::Result<Installation> {
    match find::find(explicit, programs, major) {
        Ok(installation) => Ok(installation),
        Err(error @ NotFound::NotThere(_)) => Err(error).context("--postgres-bin"),
        Err(error) if explicit.is_some() => Err(error).context("--postgres-bin"),
        Err(error) => {
            let wanted = major.unwrap_or(fetch::MAJOR);
            progress.step(&format!("{error}; fetching PostgreSQL {wanted} (about 12 MB, once)"));
            fetch::fetch(programs, major).await
        }
    }
}

/// Until somebody wants it to end. A part that exits is reported; what to do about it is the user's choice.
async fn watch_over(
    cluster: &Cluster,
    interrupt: &Interrupt,
    exited: &mut mpsc::Receiver<Exited>,
    call: &Call,
    progress: &Progress,
) {
    let mut tick = tokio::time::interval(LOG_INTERVAL);
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changing = None;
    loop {
        tokio::select! {
            () = interrupt.stop.cancelled() => return,
            _ = look.tick() => if let Some(status) = cluster.look(progress).await {
                show_change(status.ring.change, &mut changing, progress);
            },
            Some(exit) = exited.recv() => progress.say(&report(&exit, Some(call))),
            _ = tick.tick() => {
                for log in cluster.logs() {
                    if let Err(error) = logs::bound(&log) {
                        progress.say(&format!("{} cannot be kept small: {error}", log.display()));
                    }
                }
            }
        }
    }
}

/// Tells of a ring change: when it begins, how far it is where that can be shown, and when it is over.
fn show_change(change: Option<ChangeStatus>, shown: &mut Option<String>, progress: &Progress) {
    match (change, shown.take()) {
        (Some(change), before) => {
            if before.as_ref() != Some(&change.what) {
                progress.say(&format!("{}: {} copies of partitions to be made", change.what, change.copies));
            }
            if progress.is_live() {
                progress.change(&change);
            }
            *shown = Some(change.what);
        }
        (None, Some(what)) => {
            progress.finish();
            progress.say(&format!("{what}: done"));
        }
        (None, None) => {}
    }
}

fn report(exit: &Exited, call: Option<&Call>) -> String {
    let mut text = format!("{} {}; the end of {}:", exit.id, exit.how, exit.log.display());
    for line in &exit.tail {
        text.push_str("\n    ");
        text.push_str(line);
    }
    if let Some(call) = call {
        text.push_str(&format!(
            "\n  start it again: {} node start {}{}",
            call.program, exit.id, call.options
        ));
    }
    text
}

impl Call {
    fn new(args: &UpArgs, dir: &DataDir) -> Self {
        let invoked_as = std::env::args().next();
        let exe = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("tercet"));
        let cwd = std::env::current_dir().ok();
        let program = welcome::call(invoked_as.as_deref(), &exe, cwd.as_deref());
        let is_default = !args.ephemeral && DataDir::default_root().is_ok_and(|root| root == dir.root());
        let options = match is_default {
            true => String::new(),
            false => format!(" --data-dir {}", welcome::quote(&dir.root().display().to_string())),
        };
        Self { program, options }
    }
}

/// Where sockets are: in the data directory, or in a short private directory under /tmp if its path is too long.
#[derive(Debug)]
struct RunDir {
    path: PathBuf,
    /// Removed at the end.
    _short: Option<tempfile::TempDir>,
}

impl RunDir {
    fn choose(dir: &DataDir, account: &Account, workers: &[String]) -> anyhow::Result<Self> {
        // A run that was killed could not remove its own.
        if let Some(last) = dir.last_run().filter(|last| last.run_dir != dir.run_dir()) {
            let ours = last.run_dir.parent() == Some(Path::new("/tmp"))
                && last
                    .run_dir
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("tercet-run-"));
            if ours {
                let _ = std::fs::remove_dir_all(&last.run_dir);
            }
        }
        let fits = |run_dir: &Path| {
            workers.iter().all(|id| Server::socket_path(run_dir, id).as_os_str().len() <= SOCKET_PATH_MAX)
        };
        let (path, short) = match dir.run_dir() {
            path if fits(&path) => (path, None),
            _ => {
                let short = tempfile::Builder::new().prefix("tercet-run-").tempdir_in("/tmp")?;
                (short.path().to_owned(), Some(short))
            }
        };
        account::create_dir(&path, account.passage_mode())?;
        Ok(Self { path, _short: short })
    }
}

impl PasswordArgs {
    /// The password, however it was given.
    pub(crate) fn read(&self) -> anyhow::Result<Option<String>> {
        let password = match (&self.password, &self.password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(path)) => {
                let text = datadir::read_text(path)
                    .with_context(|| format!("--password-file {}", path.display()))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            (None, None) => None,
        };
        if password.as_deref() == Some("") && self.password_file.is_some() {
            bail!("the password file is empty");
        }
        // An empty variable is an unset one.
        Ok(password.filter(|password| !password.is_empty()))
    }
}
