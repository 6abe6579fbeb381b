//! A part of the local cluster: one process, and the task that starts, watches and ends it.
//!
//! ```text
//!            start            probe answers
//! stopped ──────────▶ starting ──────────▶ running ──stop──▶ stopping ──▶ stopped
//!    ▲                   │                  │  │
//!    └─ stop, kill,      └──── exits ───────┘  └──kill──▶ killed
//!       exited, killed ◀────  exited
//! ```
//!
//! The task owns the child. Others ask it through a bounded channel, one action after the other, and read its state from
//! a watch. All tasks run on the main thread, from which every child is spawned (see [`super::death`]).

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::logs;
use super::postgres::postmaster;
use crate::http;

/// Actions that may wait for a part.
const QUEUE: usize = 8;
const POLL: Duration = Duration::from_millis(20);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of its log explains why a part ended.
const TAIL_LINES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Database,
    Worker,
    Frontend,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Worker => "worker",
            Self::Frontend => "frontend",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Starting,
    Running,
    Stopping,
    Stopped,
    Killed,
    /// By itself.
    Exited,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Exited => "exited",
        }
    }
}

/// What `tercet node list` shows of a part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PartStatus {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) pid: Option<u32>,
    pub(crate) state: State,
    pub(crate) address: String,
    /// Unix time in milliseconds at which it got into this state.
    pub(crate) since: u64,
    pub(crate) log: PathBuf,
    /// How it ended, if it did so by itself.
    pub(crate) detail: Option<String>,
}

impl PartStatus {
    /// Milliseconds in this state.
    pub(crate) fn age_ms(&self) -> u64 {
        now_ms().saturating_sub(self.since)
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Start,
    Stop,
    Kill,
}

/// How a part shows that it runs.
#[derive(Clone, Debug)]
pub(super) enum Probe {
    /// `postmaster.pid` in this directory says so.
    Database(PathBuf),
    /// Anything answers there.
    Http(http::Client, String),
}

impl Probe {
    async fn answers(&self, pid: u32) -> bool {
        match self {
            Self::Database(dir) => postmaster::is_ready(dir, pid),
            Self::Http(client, url) => client.get(url, None, PROBE_TIMEOUT).await.is_ok(),
        }
    }
}

/// How a part is started and ended.
pub(super) struct Spec {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) address: String,
    pub(super) log: PathBuf,
    /// The command; its output goes to the log.
    pub(super) command: Box<dyn Fn() -> Command>,
    pub(super) probe: Probe,
    /// A start that shows nothing for so long has failed.
    pub(super) start_deadline: Duration,
    /// Signals of an orderly end, each with the time that it gets; then comes SIGKILL.
    pub(super) stop: &'static [(Signal, Duration)],
}

/// Something that nobody asked for.
#[derive(Debug)]
pub(super) struct Exited {
    pub(super) id: String,
    pub(super) how: String,
    pub(super) log: PathBuf,
    pub(super) tail: Vec<String>,
}

type Reply = oneshot::Sender<Result<String, String>>;

/// The way to a part's task.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    id: String,
    actions: mpsc::Sender<(Action, Reply)>,
    status: watch::Receiver<PartStatus>,
}

impl Handle {
    /// Starts the task, not yet the process. `hurry` cuts every wait short.
    pub(super) fn new(spec: Spec, hurry: CancellationToken, exits: mpsc::Sender<Exited>) -> Self {
        let (actions, queue) = mpsc::channel(QUEUE);
        let (status, seen) = watch::channel(PartStatus {
            id: spec.id.clone(),
            kind: spec.kind,
            pid: None,
            state: State::Stopped,
            address: spec.address.clone(),
            since: now_ms(),
            log: spec.log.clone(),
            detail: None,
        });
        let id = spec.id.clone();
        tokio::task::spawn_local(Part { spec, hurry, exits, status, process: None }.run(queue));
        Self { id, actions, status: seen }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn status(&self) -> PartStatus {
        self.status.borrow().clone()
    }

    /// Has the task act and waits for the outcome: a sentence either way.
    pub(super) async fn act(&self, action: Action) -> Result<String, String> {
        let (reply, outcome) = oneshot::channel();
        let ended = || format!("{} is no longer looked after", self.id);
        self.actions.send((action, reply)).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}

struct Process {
    child: Child,
    pid: u32,
    /// Its end tells a role that the supervisor is gone; never written to.
    _stdin: Option<ChildStdin>,
}

struct Part {
    spec: Spec,
    hurry: CancellationToken,
    exits: mpsc::Sender<Exited>,
    status: watch::Sender<PartStatus>,
    process: Option<Process>,
}

impl Part {
    async fn run(mut self, mut queue: mpsc::Receiver<(Action, Reply)>) {
        loop {
            let exit = async {
                match &mut self.process {
                    Some(process) => process.child.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                exit = exit => {
                    let how = describe(&exit);
                    self.process = None;
                    self.set(State::Exited, Some(how.clone()));
                    let tail = logs::tail(&self.spec.log, TAIL_LINES);
                    // A full queue means that nobody reads any more; the state says it too.
                    let (id, log) = (self.spec.id.clone(), self.spec.log.clone());
                    let _ = self.exits.try_send(Exited { id, how, log, tail });
                }
                action = queue.recv() => {
                    let Some((action, reply)) = action else { return };
                    let outcome = match action {
                        Action::Start => self.start().await,
                        Action::Stop => self.stop().await,
                        Action::Kill => self.kill().await,
                    };
                    let _ = reply.send(outcome);
                }
            }
        }
    }

    fn set(&self, state: State, detail: Option<String>) {
        let pid = self.process.as_ref().map(|process| process.pid);
        self.status.send_modify(|status| {
            status.state = state;
            status.pid = pid;
            status.since = now_ms();
            status.detail = detail;
        });
    }

    async fn start(&mut self) -> Result<String, String> {
        let id = self.spec.id.clone();
        if let Some(process) = &self.process {
            return Err(format!("{id} runs already (process {})", process.pid));
        }
        let noted = match &self.spec.probe {
            Probe::Database(dir) => postmaster::make_way(dir).await.map_err(|error| format!("{error:#}"))?,
            Probe::Http(..) => None,
        };
        let pid = self.spawn().map_err(|error| format!("{id} could not be started: {error}"))?;
        self.set(State::Starting, None);
        let outcome = self.wait_until_running(pid).await;
        match outcome {
            Ok(()) => {
                self.set(State::Running, None);
                let noted = noted.map(|text| format!(" ({text})")).unwrap_or_default();
                Ok(format!("{id} runs as process {pid}{noted}"))
            }
            Err(why) => {
                // It either exited or says nothing; in both cases what is left of it must not linger.
                self.end_at_once().await;
                self.set(State::Exited, Some(why.clone()));
                let tail = logs::tail(&self.spec.log, TAIL_LINES);
                let quoted: String = tail.iter().map(|line| format!("\n    {line}")).collect();
                Err(format!("{id} did not start: {why}; the end of {}:{quoted}", self.spec.log.display()))
            }
        }
    }

    fn spawn(&mut self) -> std::io::Result<u32> {
        logs::bound(&self.spec.log)?;
        let log = logs::open(&self.spec.log)?;
        let mut command = (self.spec.command)();
        command.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().unwrap_or_default();
        let stdin = child.stdin.take();
        self.process = Some(Process { child, pid, _stdin: stdin });
        Ok(pid)
    }

    /// Until the probe answers; the error says why it will not.
    async fn wait_until_running(&mut self, pid: u32) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Err("it has no process".to_owned()) };
        let probe = async {
            while !self.spec.probe.answers(pid).await {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            biased;
            exit = process.child.wait() => Err(describe(&exit)),
            () = probe => Ok(()),
            () = self.hurry.cancelled() => Err("interrupted".to_owned()),
            () = tokio::time::sleep(self.spec.start_deadline) => {
                Err(format!("no sign of life within {} s", self.spec.start_deadline.as_secs()))
            }
        }
    }

    async fn stop(&mut self) -> Result<String, String> {
        let id = self.spec.id.clone();
        if self.process.is_none() {
            self.set(State::Stopped, None);
            return Ok(format!("{id} does not run"));
        }
        self.set(State::Stopping, None);
        for (signal, patience) in self.spec.stop {
            if self.hurry.is_cancelled() {
                break;
            }
            let Some(process) = &mut self.process else { break };
            send(process.pid, *signal);
            tokio::select! {
                biased;
                _ = process.child.wait() => {
                    self.process = None;
                    self.set(State::Stopped, None);
                    return Ok(format!("{id} stopped"));
                }
                () = self.hurry.cancelled() => {}
                () = tokio::time::sleep(*patience) => {}
            }
        }
        self.end_at_once().await;
        self.set(State::Stopped, None);
        Ok(format!("{id} did not stop in time and was killed"))
    }

    async fn kill(&mut self) -> Result<String, String> {
        let id = self.spec.id.clone();
        let Some(process) = &self.process else { return Err(format!("{id} does not run")) };
        let pid = process.pid;
        self.end_at_once().await;
        self.set(State::Killed, None);
        Ok(format!("{id} killed (process {pid})"))
    }

    /// SIGKILL, and until nothing is left.
    async fn end_at_once(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        match &self.spec.probe {
            Probe::Database(dir) => {
                postmaster::kill_all(dir, process.pid);
                let _ = process.child.wait().await;
                if !postmaster::gone(dir).await {
                    tracing::warn!(part = self.spec.id, "processes of the database are still there");
                }
            }
            Probe::Http(..) => {
                send(process.pid, Signal::SIGKILL);
                let _ = process.child.wait().await;
            }
        }
    }
}

/// To a child that has not been waited for: its process id cannot be another's yet.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn describe(exit: &std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match exit {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (_, Some(signal)) => match Signal::try_from(signal) {
                Ok(signal) => format!("ended by {signal}"),
                Err(_) => format!("ended by signal {signal}"),
            },
            _ => "ended".to_owned(),
        },
        Err(error) => format!("lost: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const STOP: &[(Signal, Duration)] = &[(Signal::SIGTERM, Duration::from_secs(60))];

    /// Says that it runs the way PostgreSQL does, then does `then`.
    fn running(then: &str) -> String {
        format!("printf '%s\\n\\n\\n\\n\\n\\n\\nready\\n' $$ > postmaster.pid; {then}")
    }

    fn fake(dir: &Path, script: &str) -> Spec {
        let script = script.to_owned();
        let place = dir.to_owned();
        Spec {
            id: "w1-db".to_owned(),
            kind: Kind::Database,
            address: "nowhere".to_owned(),
            log: dir.join("w1-db.log"),
            command: Box::new(move || {
                let mut command = Command::new("sh");
                command.arg("-c").arg(&script).current_dir(&place).process_group(0);
                super::super::death::with_parent(&mut command, Signal::SIGKILL);
                command
            }),
            probe: Probe::Database(dir.to_owned()),
            start_deadline: Duration::from_secs(60),
            stop: STOP,
        }
    }

    async fn with<F: AsyncFnOnce(Handle, CancellationToken, mpsc::Receiver<Exited>)>(script: &str, body: F) {
        let dir = tempfile::tempdir().unwrap();
        let (exits, seen) = mpsc::channel(8);
        let hurry = CancellationToken::new();
        let spec = fake(dir.path(), script);
        let local = tokio::task::LocalSet::new();
        local.run_until(async { body(Handle::new(spec, hurry.clone(), exits), hurry, seen).await }).await;
    }

    #[tokio::test]
    async fn starts_stops_and_starts_again() {
        with(&running("exec sleep 1000"), async |part, _, _| {
            assert_eq!(part.status().state, State::Stopped);
            part.act(Action::Start).await.unwrap();
            assert_eq!(part.status().state, State::Running);
            let first = part.status().pid.unwrap();
            assert!(part.act(Action::Start).await.unwrap_err().contains("runs already"));
            assert_eq!(part.act(Action::Stop).await.unwrap(), "w1-db stopped");
            assert_eq!((part.status().state, part.status().pid), (State::Stopped, None));
            assert!(part.act(Action::Kill).await.is_err());
            part.act(Action::Start).await.unwrap();
            assert_ne!(part.status().pid.unwrap(), first);
            part.act(Action::Kill).await.unwrap();
            assert_eq!(part.status().state, State::Killed);
        })
        .await;
    }

    #[tokio::test]
    async fn an_exit_that_nobody_asked_for_is_reported_with_the_end_of_the_log() {
        with(&running("echo no memory; read line < go; exit 7"), async |part, _, mut exits| {
            let log = part.status().log;
            let dir = log.parent().unwrap();
            nix::unistd::mkfifo(&dir.join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            part.act(Action::Start).await.unwrap();
            tokio::fs::write(dir.join("go"), "\n").await.unwrap();
            let exited = exits.recv().await.unwrap();
            assert_eq!(
                (exited.how.as_str(), exited.tail),
                ("exited with code 7", vec!["no memory".to_owned()])
            );
            assert_eq!(part.status().state, State::Exited);
            assert_eq!(part.status().detail.as_deref(), Some("exited with code 7"));
        })
        .await;
    }

    #[tokio::test]
    async fn a_failed_start_says_why() {
        with("echo FATAL: out of luck; exit 1", async |part, _, _| {
            let error = part.act(Action::Start).await.unwrap_err();
            assert!(error.contains("code 1") && error.contains("out of luck"), "{error}");
            assert_eq!(part.status().state, State::Exited);
        })
        .await;
    }

    #[tokio::test]
    async fn hurry_ends_a_part_that_ignores_its_signal() {
        with(&running("trap '' TERM; while :; do sleep 1000; done"), async |part, hurry, _| {
            part.act(Action::Start).await.unwrap();
            let (outcome, ()) = tokio::join!(part.act(Action::Stop), async { hurry.cancel() });
            assert!(outcome.unwrap().contains("was killed"));
            assert_eq!(part.status().state, State::Stopped);
        })
        .await;
    }
}
