//! A real PostgreSQL for tests: temporary, private, gone when the test process is gone.
//!
//! The server is started under a small shell that waits on a pipe from this process. However the process ends (exit,
//! panic, `kill -9`), the pipe closes, and the shell stops the server and removes its directory. Where there is no
//! PostgreSQL the tests fail with a message that says so: a store that was not tested is not a store that passed.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use tokio_postgres::NoTls;

/// The role that owns the databases of tests. Not a superuser: a worker must not need one.
pub const ROLE: &str = "tercet";
const SUPERUSER: &str = "postgres";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// `$1`: the server's directory, then the command that is the server. The shell holds the server until its own standard
/// input ends.
const SUPERVISOR: &str = r#"
    top=$1; shift
    "$@" & server=$!
    cat >/dev/null
    kill -QUIT "$server" 2>/dev/null
    wait "$server"
    [ -e "$top/keep" ] || rm -rf "$top"
"#;

/// A server with one superuser and the role [`ROLE`], listening on a Unix socket only. Dropping it stops it.
pub struct TestPostgres {
    bin: PathBuf,
    user: Option<User>,
    settings: Vec<&'static str>,
    supervisor: Option<Supervisor>,
    top: tempfile::TempDir,
}

struct Supervisor {
    shell: Child,
    stdin: Option<ChildStdin>,
    /// Ends with the last process of the server, because all of them write to the one log.
    log: Option<JoinHandle<()>>,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.shell.wait();
        let _ = self.log.take().map(JoinHandle::join);
    }
}

impl TestPostgres {
    /// The server that all tests of this process share. It ends with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<TestPostgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// A server of one's own, with `name=value` settings beside the defaults.
    ///
    /// # Panics
    /// Where there is no PostgreSQL or it does not start; the message says what to do.
    pub fn start(settings: &[&'static str]) -> Self {
        let bin = find_binaries().unwrap_or_else(|| {
            panic!("these tests need PostgreSQL's server programs (initdb, postgres): install `postgresql`")
        });
        let user = unprivileged_user();
        let top =
            tempfile::Builder::new().prefix("tercet-pg").tempdir_in("/tmp").expect("a directory in /tmp");
        if let Some(user) = &user {
            chown(top.path(), Some(user.uid), Some(user.gid)).expect("root may give a directory away");
        }
        let mut server = Self { bin, user, settings: settings.to_vec(), supervisor: None, top };
        server.initdb();
        server.resume();
        let create_role = format!("CREATE ROLE {ROLE} LOGIN");
        on_own_runtime(server.connection_string(SUPERUSER, "postgres"), create_role);
        server
    }

    /// A new database owned by [`ROLE`]; answers the connection string for it.
    pub fn create_database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name} OWNER {ROLE}");
        on_own_runtime(self.connection_string(SUPERUSER, "postgres"), create);
        self.connection_string(ROLE, &name)
    }

    /// The same database, as the superuser.
    pub fn as_superuser(&self, connection_string: &str) -> String {
        connection_string.replace(&format!("user={ROLE}"), &format!("user={SUPERUSER}"))
    }

    fn connection_string(&self, user: &str, database: &str) -> String {
        format!("host={} user={user} dbname={database}", self.top.path().display())
    }

    /// Kills the postmaster outright and every process of its with it, as a power cut would.
    pub fn kill(&mut self) {
        let pid_file = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server");
        let pid =
            pid_file.lines().next().and_then(|line| line.parse().ok()).expect("the pid is the first line");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the postmaster is ours");
        std::fs::write(self.top.path().join("keep"), "").expect("the directory is ours");
        self.supervisor = None;
    }

    /// Starts the server again after [`Self::kill`].
    pub fn resume(&mut self) {
        let _ = std::fs::remove_file(self.top.path().join("keep"));
        let started = self.try_start(Instant::now() + START_TIMEOUT);
        self.supervisor = Some(started.unwrap_or_else(|log| panic!("PostgreSQL did not start:\n{log}")));
    }

    fn data(&self) -> PathBuf {
        self.top.path().join("data")
    }

    fn initdb(&self) {
        let mut command = Command::new(self.bin.join("initdb"));
        command.args(["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        let output = self.unprivileged(command.arg(self.data())).output().expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits for the server's own word that it accepts connections. An error is its log.
    fn try_start(&self, deadline: Instant) -> Result<Supervisor, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SUPERVISOR, "sh"]).arg(self.top.path());
        command.arg(self.bin.join("postgres")).arg("-D").arg(self.data()).arg("-k").arg(self.top.path());
        command.args(["-c", "listen_addresses=", "-c", "lc_messages=C", "-c", "max_connections=200"]);
        command.args(["-c", "shared_buffers=32MB", "-c", "logging_collector=off"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        // A group of its own: an interrupt from the terminal must reach the shell through the pipe only.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut shell = self.unprivileged(&mut command).spawn().expect("/bin/sh runs");
        let stderr = BufReader::new(shell.stderr.take().expect("piped"));
        let (send, lines) = mpsc::channel();
        // Reads to the end: a server that cannot write its log stops.
        let log = std::thread::spawn(move || {
            stderr.lines().map_while(io::Result::ok).for_each(|l| drop(send.send(l)))
        });
        let supervisor = Supervisor { stdin: shell.stdin.take(), shell, log: Some(log) };

        let mut log = String::new();
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains("ready to accept connections") {
                return Ok(supervisor);
            }
            log.push_str(&line);
            log.push('\n');
            if line.contains("FATAL") {
                break;
            }
        }
        Err(log)
    }

    fn unprivileged<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.current_dir(self.top.path()).env("LC_ALL", "C");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

/// PostgreSQL refuses to run as root; `None` when we are not root.
fn unprivileged_user() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
    Some(user.expect("root runs PostgreSQL as `postgres` or `nobody`; there is neither"))
}

fn find_binaries() -> Option<PathBuf> {
    let configured = Command::new("pg_config").arg("--bindir").output().ok();
    let configured = configured.map(|out| PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()));
    let mut packaged: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.filter_map(|dir| Some(dir.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    packaged.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    configured
        .into_iter()
        .chain(packaged.into_iter().rev())
        .chain(std::env::split_paths(&path))
        .find(complete)
}

/// Runs one statement. A thread and runtime of its own, because callers are inside runtimes that may not block.
fn on_own_runtime(connection_string: String, sql: String) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&connection_string, NoTls).await.expect("connects");
            let connection = tokio::spawn(connection);
            client.batch_execute(&sql).await.expect("a statement that cannot fail");
            drop(client);
            connection.await.expect("no panic").expect("ends in order");
        });
    };
    std::thread::spawn(run).join().expect("a database for the test");
}
