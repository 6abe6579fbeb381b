//! A worker's PostgreSQL: its files, and a look into it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::Command;
use tokio_postgres::NoTls;

use super::processes;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const STATEMENT_DEADLINE: Duration = Duration::from_secs(60);
/// As `tercet up` makes its databases.
const INITDB: &[&str] = &[
    "--username=tercet",
    "--encoding=UTF8",
    "--locale=C",
    "--auth-local=peer",
    "--auth-host=reject",
    "--data-checksums",
];

/// Where things of one worker's PostgreSQL are.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) data: PathBuf,
    pub(crate) socket_dir: PathBuf,
    /// PostgreSQL's programs.
    pub(crate) programs: PathBuf,
}

impl Database {
    /// A connection for reading while the worker is settled: when it starts or connects again, it ends all others.
    pub(crate) async fn connect(&self) -> anyhow::Result<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket_dir).port(5432).user("tercet").dbname("postgres");
        config.connect_timeout(CONNECT_DEADLINE);
        config.options(format!("-c statement_timeout={}", STATEMENT_DEADLINE.as_millis()));
        let connected = tokio::time::timeout(CONNECT_DEADLINE, config.connect(NoTls)).await;
        let (client, connection) = connected.context("connecting took too long")??;
        // Ends with the client.
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        processes::of_database(&self.data)
    }

    /// The user that owns the files, which is the one that PostgreSQL runs as.
    fn owner(&self) -> anyhow::Result<(u32, u32)> {
        let meta = self.data.metadata().with_context(|| self.data.display().to_string())?;
        Ok((meta.uid(), meta.gid()))
    }

    /// Makes `copy` a copy of the files. The server must not run.
    pub(crate) async fn copy_to(&self, copy: &Path) -> anyhow::Result<()> {
        run(Command::new("cp").arg("-a").arg(&self.data).arg(copy)).await
    }

    /// Puts the files of `copy` in the place of those that are there. The server must not run.
    pub(crate) async fn replace_by(&self, copy: &Path) -> anyhow::Result<()> {
        self.empty()?;
        run(Command::new("cp").arg("-a").arg(copy.join(".")).arg(&self.data)).await
    }

    /// Leaves what a new disk would hold: an empty database. The server must not run.
    pub(crate) async fn make_new(&self) -> anyhow::Result<()> {
        let (uid, gid) = self.owner()?;
        self.empty()?;
        let mut initdb = Command::new(self.programs.join("initdb"));
        initdb.arg("--pgdata").arg(&self.data).args(INITDB).current_dir("/");
        if nix::unistd::Uid::effective().is_root() {
            initdb.uid(uid).gid(gid);
        }
        run(&mut initdb).await
    }

    /// Puts the files on a file system of their own, of `mib` MiB. The server must not run.
    pub(crate) async fn mount_small(&self, mib: u64) -> anyhow::Result<()> {
        let (uid, gid) = self.owner()?;
        let aside = self.data.with_extension("aside");
        std::fs::rename(&self.data, &aside)?;
        std::fs::create_dir(&self.data)?;
        mount(&self.data, &format!("size={mib}m,mode=0700,uid={uid},gid={gid}")).await?;
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&self.data)).await?;
        std::fs::remove_dir_all(&aside)?;
        Ok(())
    }

    /// Removes what is in the directory, not itself: it may be a mount.
    fn empty(&self) -> anyhow::Result<()> {
        ensure!(self.pids().is_empty(), "a PostgreSQL still runs in {}", self.data.display());
        for entry in std::fs::read_dir(&self.data)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(entry.path())?,
                false => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }
}

async fn mount(place: &Path, options: &str) -> anyhow::Result<()> {
    run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place)).await
}

/// Whether this machine lets us mount; the error says why not.
pub(crate) async fn may_mount() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    mount(place.path(), "size=1m").await?;
    unmount(place.path());
    Ok(())
}

/// Lazily, so that it succeeds whatever still uses it.
pub(crate) fn unmount(place: &Path) {
    let _ = std::process::Command::new("umount").arg("--lazy").arg(place).stderr(Stdio::null()).status();
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let what = format!("{:?}", command.as_std().get_program());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context(what.clone())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}", error.trim());
    Ok(())
}
