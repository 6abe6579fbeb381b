//! A worker's PostgreSQL: its configuration and how it is started.
//!
//! **Who may connect.** There is no TCP listener. The socket is in a directory that only PostgreSQL's own user (and root)
//! may enter, and `peer` authentication asks the kernel who is calling: only the user that runs the workers becomes the
//! database's superuser. So no password exists that could leak, and other users of the machine are kept out twice.
//!
//! **Who may write the configuration.** It lies in our own directory rather than in the database's, so that root never
//! writes where another user could have planted a link.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::process::Command;

use super::create::scrub;
use super::find::Installation;
use crate::up::account::Account;
use crate::up::datadir::DataDir;
use crate::up::{death, welcome};

/// The database's superuser, as whom the worker connects.
pub(super) const SUPERUSER: &str = "tercet";
/// The database that initdb makes.
const DATABASE: &str = "postgres";
/// Only part of the socket's name: there is no TCP.
const PORT: u16 = 5432;
/// The longest path of a unix socket, without the closing zero (`sockaddr_un`: 108 on Linux, 104 on macOS).
pub(in crate::up) const SOCKET_PATH_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Where things of one worker's PostgreSQL are.
#[derive(Clone, Debug)]
pub(in crate::up) struct Server {
    pub(in crate::up) data: PathBuf,
    pub(in crate::up) socket_dir: PathBuf,
    config: PathBuf,
    hba: PathBuf,
    ident: PathBuf,
}

impl Server {
    pub(in crate::up) fn new(dir: &DataDir, run_dir: &Path, worker: &str) -> Self {
        let config = dir.config();
        Self {
            data: dir.databases().join(worker),
            socket_dir: run_dir.join(worker),
            config: config.join(format!("{worker}.conf")),
            hba: config.join("pg_hba.conf"),
            ident: config.join("pg_ident.conf"),
        }
    }

    /// The longest socket path that a run directory leads to.
    pub(in crate::up) fn socket_path(run_dir: &Path, worker: &str) -> PathBuf {
        run_dir.join(worker).join(format!(".s.PGSQL.{PORT}"))
    }

    /// What a worker connects with.
    pub(in crate::up) fn connection(&self) -> String {
        format!("host={} port={PORT} user={SUPERUSER} dbname={DATABASE}", quoted(&self.socket_dir))
    }

    /// What a person connects with.
    pub(in crate::up) fn psql(&self) -> String {
        let socket_dir = welcome::quote(&self.socket_dir.display().to_string());
        format!("psql -h {socket_dir} -U {SUPERUSER} {DATABASE}")
    }

    /// Writes the configuration, as it is at every start.
    pub(in crate::up) fn configure(&self, dir: &DataDir, account: &Account) -> anyhow::Result<()> {
        account.create_private_dir(&self.socket_dir)?;
        let relative = |path: &Path| {
            path.strip_prefix(dir.root())
                .map_or_else(|_| path.display().to_string(), |p| p.display().to_string())
        };
        dir.write(&relative(&self.config), settings(&self.socket_dir).as_bytes(), 0o644)?;
        dir.write(
            &relative(&self.hba),
            format!("local all {SUPERUSER} peer map=tercet\n").as_bytes(),
            0o644,
        )?;
        let ident = format!("tercet \"{}\" {SUPERUSER}\n", account.own_name);
        dir.write(&relative(&self.ident), ident.as_bytes(), 0o644)
    }

    /// `postgres` itself, not pg_ctl: the supervisor is its parent and knows when it ends.
    pub(in crate::up) fn command(&self, installation: &Installation, account: &Account) -> Command {
        let mut command = Command::new(installation.program("postgres"));
        command.arg("-D").arg(&self.data);
        for (name, path) in
            [("config_file", &self.config), ("hba_file", &self.hba), ("ident_file", &self.ident)]
        {
            command.arg("-c").arg(format!("{name}={}", path.display()));
        }
        scrub(&mut command);
        account.run(&mut command);
        command.stdin(Stdio::null()).process_group(0).current_dir("/");
        // An immediate shutdown: the supervisor is dead, nobody is left to wait for a checkpoint. It is safe: the next
        // start replays the log.
        death::with_parent(&mut command, Signal::SIGQUIT);
        command
    }
}

/// libpq's quoting of a value in a connection string.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The server's settings. What makes a commit durable (fsync, synchronous_commit, full_page_writes) is not touched: the
/// worker refuses a server without it.
fn settings(socket_dir: &Path) -> String {
    let socket_dir = socket_dir.display().to_string().replace('\'', "''");
    format!(
        "# Written by `tercet up` at every start. Use ALTER SYSTEM for settings of your own.

# Reachable through the socket only.
listen_addresses = ''
port = {PORT}
unix_socket_directories = '{socket_dir}'
unix_socket_permissions = 0700

# One worker's few connections, and a person's psql.
max_connections = 24

# Memory. Rows that are read often are in the worker's cache, so PostgreSQL needs little.
shared_buffers = 128MB
huge_pages = try
work_mem = 8MB
maintenance_work_mem = 64MB
effective_cache_size = 1GB

# The log. Tercet replicates by itself: nothing is shipped, nothing is archived.
wal_level = minimal
max_wal_senders = 0
wal_buffers = 16MB
min_wal_size = 64MB
max_wal_size = 1GB
# Each page's first change after a checkpoint is logged whole, so rare checkpoints save most of the log's volume.
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9

# Every key is one row that is updated over and over: vacuum early and without dawdling.
autovacuum_naptime = 15s
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_cost_delay = 1ms
autovacuum_max_workers = 2

# Short statements on few rows: planning for more would only cost.
jit = off
max_parallel_workers_per_gather = 0
random_page_cost = 1.1
# Would cost a system call per statement.
update_process_title = off

timezone = 'UTC'
lc_messages = 'C'
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] '
log_timezone = 'UTC'
log_checkpoints = off
log_autovacuum_min_duration = -1
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durable_settings_stay_untouched() {
        let text = settings(Path::new("/run/it's"));
        assert!(text.contains("unix_socket_directories = '/run/it''s'"));
        for name in ["fsync", "synchronous_commit", "full_page_writes", "commit_delay", "wal_sync_method"] {
            assert!(!text.lines().any(|line| line.starts_with(name)), "{name}");
        }
    }

    #[test]
    fn paths_are_quoted_for_libpq() {
        assert_eq!(quoted(Path::new(r"/a b/it's\")), r"'/a b/it\'s\\'");
    }
}
