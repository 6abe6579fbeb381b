//! A local cluster, run as a person would: `tercet up`, `tercet node`, `tercet status`.

use std::cell::RefCell;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tercet_frontend::coordinator::status::{Breaker, ClusterStatus, Health, Role};

use super::http::Rest;
use super::resp::Client;
use super::{DEADLINE, POLL, eventually, in_time, processes, within};

/// Time for an orderly end, in which a PostgreSQL may get 20 s for its last checkpoint.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// A ring change in a build for tests, on a machine that does much else, takes its time.
const RING_DEADLINE: Duration = Duration::from_secs(180);
/// A status looks at every partition: asked for all the time, in a build for tests, it takes the frontend from its clients.
const STATUS_POLL: Duration = Duration::from_millis(500);
/// Free ports on loopback, whatever else runs.
const FREE_PORTS: [&str; 2] = ["--resp=127.0.0.1:0", "--rest=127.0.0.1:0"];

/// `tercet` with these arguments, and none of the settings of whoever runs the tests.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tercet"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("TERCET_")) {
            command.env_remove(name);
        }
    }
    // The one setting that says where things are on this machine.
    if let Some(bin) = std::env::var_os("TERCET_POSTGRES_BIN") {
        command.env("TERCET_POSTGRES_BIN", bin);
    }
    command
}

/// Runs `tercet` to its end, which may be that of a ring change.
pub(crate) async fn tercet(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(command(args));
    command.kill_on_drop(true);
    let Ok(output) = tokio::time::timeout(RING_DEADLINE, command.output()).await else {
        panic!("waited {RING_DEADLINE:?} in vain: tercet {}", args.join(" "));
    };
    output.expect("tercet can be run")
}

/// A part, as `tercet node list --json` shows it.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Part {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) pid: Option<i32>,
    pub(crate) state: String,
    pub(crate) address: String,
    pub(crate) log: PathBuf,
}

/// A running `tercet up`. Dropped, it ends in order, and nothing of it may be left.
#[derive(Debug)]
pub(crate) struct Cluster {
    up: Child,
    resp: SocketAddr,
    rest: SocketAddr,
    data_dir: PathBuf,
    rest_client: Rest,
    /// Removed with the cluster.
    _own_dir: Option<tempfile::TempDir>,
}

/// A directory that a PostgreSQL of another user may pass through.
pub(crate) fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o711);
    tempfile::Builder::new()
        .prefix("tercet-test-")
        .permissions(mode)
        .tempdir()
        .expect("temporary directories can be made")
}

impl Cluster {
    /// A fresh cluster on free ports, in a directory of its own.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let dir = directory();
        let mut cluster = Self::start_in(dir.path(), args).await;
        cluster._own_dir = Some(dir);
        cluster
    }

    /// The cluster of `dir`, on free ports.
    pub(crate) async fn start_in(dir: &Path, args: &[&str]) -> Self {
        let dir = format!("--data-dir={}", dir.display());
        let args: Vec<&str> = FREE_PORTS.iter().chain([&dir.as_str()]).chain(args).copied().collect();
        match Self::try_start(&args, &[]).await {
            Ok(cluster) => cluster,
            Err(error) => panic!("the cluster did not come up: {error}"),
        }
    }

    /// `tercet up` with exactly these arguments and variables, up to its `ready` line. The error is what it printed.
    pub(crate) async fn try_start(args: &[&str], env: &[(&str, &str)]) -> Result<Self, String> {
        let mut command = command(&["up"]);
        command.args(args).envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut up = command.spawn().expect("tercet can be run");
        let (lines, seen) = mpsc::channel();
        read_lines(up.stdout.take().expect("piped"), lines.clone());
        read_lines(up.stderr.take().expect("piped"), lines);
        let begun = Instant::now();
        let mut output = String::new();
        loop {
            match seen.try_recv() {
                Ok(line) => {
                    if let Some(ready) = Ready::parse(&line) {
                        let Ready { resp, rest, data_dir } = ready;
                        let rest_client = Rest::new(rest);
                        return Ok(Self { up, resp, rest, data_dir, rest_client, _own_dir: None });
                    }
                    output.push_str(&line);
                    output.push('\n');
                }
                // Both outputs are closed: it has ended, or is about to.
                Err(mpsc::TryRecvError::Disconnected) => {
                    let status = up.wait().expect("it can be waited for");
                    return Err(format!("{output}{status}"));
                }
                Err(mpsc::TryRecvError::Empty) if begun.elapsed() < DEADLINE => {
                    tokio::time::sleep(POLL).await;
                }
                Err(mpsc::TryRecvError::Empty) => {
                    end(&mut up);
                    panic!("no ready line within {DEADLINE:?}:\n{output}");
                }
            }
        }
    }

    pub(crate) fn resp(&self) -> SocketAddr {
        self.resp
    }

    pub(crate) fn rest(&self) -> &Rest {
        &self.rest_client
    }

    pub(crate) fn rest_address(&self) -> SocketAddr {
        self.rest
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Of `tercet up` itself.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.up.id()).expect("process ids are small")
    }

    /// A raw RESP connection.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.resp).await
    }

    /// A connection of the redis crate, which does not connect again by itself.
    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        in_time("connecting", connect(self.resp)).await.expect("the frontend lets clients in")
    }

    /// `tercet node ACTION ID`, which must succeed.
    pub(crate) async fn node(&self, action: &str, id: &str) {
        let dir = self.data_dir.display().to_string();
        let output = tercet(&["node", action, id, "--data-dir", &dir]).await;
        assert!(output.status.success(), "node {action} {id}: {output:?}");
    }

    pub(crate) async fn parts(&self) -> Vec<Part> {
        let dir = self.data_dir.display().to_string();
        let output = tercet(&["node", "list", "--json", "--data-dir", &dir]).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("node list --json prints JSON")
    }

    pub(crate) async fn part(&self, id: &str) -> Part {
        let parts = self.parts().await;
        parts.into_iter().find(|part| part.id == id).unwrap_or_else(|| panic!("no part {id}"))
    }

    /// The process id of a part that runs.
    pub(crate) async fn part_pid(&self, id: &str) -> i32 {
        self.part(id).await.pid.unwrap_or_else(|| panic!("{id} does not run"))
    }

    /// What the frontend knows of the cluster; `None` while it does not answer.
    pub(crate) async fn status(&self) -> Option<ClusterStatus> {
        let request = self.rest_client.request(reqwest::Method::GET, "/admin/status");
        let answer = super::http::send(request).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    pub(crate) async fn wait_for_status(&self, what: &str, is_so: impl Fn(&ClusterStatus) -> bool) {
        let last = RefCell::new(None);
        let is_so = async || {
            let status = self.status().await;
            last.replace(status);
            let status = last.borrow();
            status.as_ref().is_some_and(&is_so).then_some(())
        };
        within(RING_DEADLINE, STATUS_POLL, || format!("{what}; {:#?}", last.borrow()), is_so).await;
    }

    /// Until every worker is alive, is asked, and every key has all its replicas.
    pub(crate) async fn wait_until_whole(&self) {
        self.wait_for_status("every worker is back", |status| {
            let flows = |worker: &tercet_frontend::coordinator::status::WorkerStatus| {
                let asked = worker.health == Health::Alive && worker.breaker == Breaker::Closed;
                asked && worker.role == Role::Member && worker.partitions > 0
            };
            let settled = status.ring.change.is_none() && status.ring.waiting.is_none();
            let whole = status.ready && status.partitions.under_replicated == 0;
            whole && settled && status.workers.iter().all(flows)
        })
        .await;
    }

    /// Ends `tercet up` with a signal and waits; its exit code, `None` if the signal ended it.
    pub(crate) async fn signal_and_wait(&mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.pid()), signal).expect("tercet up runs");
        let status = eventually("tercet up ends", async || self.up.try_wait().expect("it is a child")).await;
        status.code()
    }

    /// Ends in order and gives the directory back to be used again.
    pub(crate) async fn stop(mut self) {
        assert_eq!(self.signal_and_wait(Signal::SIGTERM).await, Some(0));
        self.wait_until_gone().await;
    }

    /// Until no process of the cluster is left.
    pub(crate) async fn wait_until_gone(&self) {
        let gone = async || processes::of_directory(&self.data_dir).is_empty().then_some(());
        eventually("no process is left", gone).await;
    }

    /// What the parts logged last, for a test that failed.
    pub(crate) fn print_logs(&self) {
        let logs = std::fs::read_dir(self.data_dir.join("logs")).into_iter().flatten().flatten();
        for log in logs {
            let text = std::fs::read(log.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains("checkpoint")).collect();
            eprintln!("== the end of {}", log.path().display());
            for line in &lines[lines.len().saturating_sub(15)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        end(&mut self.up);
        let left = processes::of_directory(&self.data_dir);
        if !left.is_empty() && !std::thread::panicking() {
            panic!("processes are left: {left:#?}");
        }
    }
}

/// In order if it can, and in any case.
fn end(up: &mut Child) {
    let begun = Instant::now();
    if let Ok(None) = up.try_wait() {
        let pid = Pid::from_raw(i32::try_from(up.id()).expect("process ids are small"));
        let _ = kill(pid, Signal::SIGTERM);
    }
    while let Ok(None) = up.try_wait() {
        if begun.elapsed() > STOP_DEADLINE {
            let _ = up.kill();
            let _ = up.wait();
            break;
        }
        std::thread::sleep(POLL);
    }
}

/// The `ready` line of the contract.
struct Ready {
    resp: SocketAddr,
    rest: SocketAddr,
    data_dir: PathBuf,
}

impl Ready {
    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("ready in=")?;
        let (fields, data_dir) = rest.split_once(" data-dir=")?;
        let field =
            |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let address = |name| field(name).and_then(|text| text.parse().ok());
        Some(Self { resp: address("resp")?, rest: address("rest")?, data_dir: data_dir.into() })
    }
}

fn read_lines(from: impl std::io::Read + Send + 'static, to: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        // Read on after the start, too: `tercet up` must never wait for us.
        for line in std::io::BufReader::new(from).lines().map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
}

/// A connection of the redis crate that waits as long as a command may take, and no longer.
pub(crate) async fn connect(resp: SocketAddr) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(Some(DEADLINE));
    let client = redis::Client::open(format!("redis://{resp}"))?;
    client.get_multiplexed_async_connection_with_config(&config).await
}
