//! The data directory of a local cluster.
//!
//! ```text
//! DATA/tercet.json     what it is: format, workers by name, PostgreSQL's major version, cluster id (written last: until
//!                      then the directory is not in use)
//!      lock            held by the running `tercet up`
//!      running.json    how to reach it
//!      secrets/        cluster-secret, password (0700, files 0600)
//!      config/         PostgreSQL's configuration, written at every start
//!      databases/w1/   PostgreSQL's data
//!      postgresql/     PostgreSQL's programs, if they had to be fetched
//!      logs/           one per part
//!      run/            sockets, unless the path is too long for one
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};

use super::account::create_dir;

/// Raised when an older `tercet` could not read the directory any more.
const FORMAT: u32 = 2;
/// Told how many workers there were, which are w1 to that number.
const FORMAT_NUMBERED: u32 = 1;
pub(crate) const WORKERS_DEFAULT: u16 = 4;
const SECRET_CHARS: usize = 43; // 256 bits
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// All that we put there. A directory with anything else in it is somebody else's.
const ENTRIES: &[&str] =
    &["tercet.json", "lock", "running.json", "secrets", "config", "databases", "postgresql", "logs", "run"];

/// A data directory that may or may not exist.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// What the directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// Those to start. Each has its database here.
    pub(crate) workers: Vec<String>,
    /// Those that have handed over what they held. Their databases may be here still.
    pub(crate) drained: Vec<String>,
    postgres_major: u32,
    pub(crate) cluster_id: String,
}

impl Manifest {
    /// Of a new cluster.
    pub(super) fn new(workers: Vec<String>, postgres_major: u32) -> Self {
        let random = Alphanumeric.sample_string(&mut rand::rng(), 12);
        let cluster_id = format!("local-{random}");
        Self { format: FORMAT, workers, drained: Vec::new(), postgres_major, cluster_id }
    }

    /// A name that no worker has had.
    pub(super) fn next_worker(&self) -> String {
        let number = |id: &String| id.strip_prefix('w')?.parse::<u32>().ok();
        let last = self.workers.iter().chain(&self.drained).filter_map(number).max();
        format!("w{}", last.unwrap_or_default().saturating_add(1))
    }

    /// A worker holds nothing any more. Whether that is news.
    pub(super) fn drained(&mut self, id: &str) -> bool {
        Self::moved(&mut self.workers, &mut self.drained, id)
    }

    /// A worker that was drained stays after all. Whether that is news.
    pub(super) fn stays(&mut self, id: &str) -> bool {
        Self::moved(&mut self.drained, &mut self.workers, id)
    }

    fn moved(from: &mut Vec<String>, to: &mut Vec<String>, id: &str) -> bool {
        let Some(at) = from.iter().position(|known| known == id) else { return false };
        to.push(from.remove(at));
        // w10 comes behind w9.
        to.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        true
    }
}

/// The first `n` workers.
fn numbered(n: u16) -> Vec<String> {
    (1..=n).map(|n| format!("w{n}")).collect()
}

/// How to reach the `tercet up` that runs on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) control: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) resp: SocketAddr,
    pub(crate) rest: SocketAddr,
}

/// The right to use the directory; given back when dropped or when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl DataDir {
    pub(crate) fn at(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root).with_context(|| format!("finding {}", root.display()))?;
        // Paths reach PostgreSQL's configuration and connection strings, which are text.
        anyhow::ensure!(
            root.to_str().is_some_and(|text| !text.contains(['\n', '\r'])),
            "{root:?} is not plain text"
        );
        Ok(Self { root })
    }

    /// The named directory, or the user's own.
    pub(crate) fn locate(explicit: Option<&Path>) -> anyhow::Result<Self> {
        match explicit {
            Some(root) => Self::at(root),
            None => Self::at(&Self::default_root()?),
        }
    }

    pub(super) fn default_root() -> anyhow::Result<PathBuf> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        default_root(nix::unistd::Uid::effective().is_root(), variable("XDG_DATA_HOME"), variable("HOME"))
            .context("neither HOME nor XDG_DATA_HOME is set: say where the data goes with --data-dir")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    pub(super) fn databases(&self) -> PathBuf {
        self.root.join("databases")
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.root.join("postgresql")
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(super) fn cluster_secret_file(&self) -> PathBuf {
        self.root.join("secrets").join("cluster-secret")
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.root.join("secrets").join("password")
    }

    /// The running cluster's password, where the caller may read it.
    pub(crate) fn password(&self) -> Option<String> {
        read_text(&self.password_file()).ok()
    }

    /// The `tercet up` that runs on this directory: it answers on its socket. A process id would not do, since those
    /// are used again, and a killed process may linger as a zombie.
    pub(crate) fn running(&self) -> Option<Running> {
        self.last_run().filter(|run| std::os::unix::net::UnixStream::connect(&run.control).is_ok())
    }

    /// What an earlier run left, alive or not.
    pub(super) fn last_run(&self) -> Option<Running> {
        serde_json::from_str(&read_text(&self.root.join("running.json")).ok()?).ok()
    }

    pub(super) fn set_running(&self, running: &Running) -> anyhow::Result<()> {
        self.write("running.json", &serde_json::to_vec_pretty(running)?, 0o600)
    }

    pub(super) fn clear_running(&self) {
        let _ = std::fs::remove_file(self.root.join("running.json"));
    }

    /// Creates the directory if need be and takes it; refuses one that is not ours or is in use.
    pub(super) fn take(&self, mode: u32) -> anyhow::Result<Lock> {
        if self.root.exists() {
            for entry in
                std::fs::read_dir(&self.root).with_context(|| format!("reading {}", self.root.display()))?
            {
                let name = entry?.file_name();
                if !ENTRIES.iter().any(|known| name == *known) && name != "lost+found" {
                    bail!(
                        "{} is not a data directory of Tercet: it contains {name:?}. Choose an empty or new directory",
                        self.root.display()
                    );
                }
            }
        }
        create_dir(&self.root, mode)?;
        create_dir(&self.logs(), 0o700)?;
        create_dir(&self.root.join("secrets"), 0o700)?;
        create_dir(&self.config(), mode)?;
        create_dir(&self.databases(), mode)?;
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Lock { _file: file }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let who = self
                    .running()
                    .map_or_else(String::new, |r| format!(" (process {}, RESP on {})", r.pid, r.resp));
                bail!(
                    "another `tercet up` runs on {}{who}: stop it first, or start this one with another --data-dir \
                     and other ports",
                    self.root.display()
                )
            }
            Err((_, error)) => bail!("locking {}: {error}", path.display()),
        }
    }

    /// What the directory is; `None`: not in use yet.
    pub(super) fn manifest(&self) -> anyhow::Result<Option<Manifest>> {
        let path = self.root.join("tercet.json");
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        // The format is read first: a newer one may have other fields.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format =
            serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        #[derive(Deserialize)]
        struct Numbered {
            workers: u16,
            postgres_major: u32,
            cluster_id: String,
        }
        let manifest = match format.format {
            FORMAT => serde_json::from_str(&text),
            FORMAT_NUMBERED => serde_json::from_str(&text).map(|old: Numbered| Manifest {
                format: FORMAT,
                workers: numbered(old.workers),
                drained: Vec::new(),
                postgres_major: old.postgres_major,
                cluster_id: old.cluster_id,
            }),
            other => bail!(
                "{} has format {other}, this tercet knows {FORMAT}: use the version of tercet that wrote it",
                path.display(),
            ),
        };
        manifest.map(Some).with_context(|| format!("reading {}", path.display()))
    }

    /// Says durably what the directory is. Before the first time it is not in use: its databases may be incomplete.
    pub(super) fn set_manifest(&self, manifest: &Manifest) -> anyhow::Result<()> {
        self.write("tercet.json", &serde_json::to_vec_pretty(manifest)?, 0o644)
    }

    /// The workers to start: those that the directory has. `tercet node add` makes them more, `tercet drain` fewer.
    pub(super) fn agree_on_workers(
        &self,
        manifest: Option<&Manifest>,
        wanted: Option<u16>,
    ) -> anyhow::Result<Vec<String>> {
        let Some(Manifest { workers, .. }) = manifest else {
            return Ok(numbered(wanted.unwrap_or(WORKERS_DEFAULT)));
        };
        if let Some(wanted) = wanted.filter(|wanted| workers.len() != usize::from(*wanted)) {
            bail!(
                "the data in {} is that of {} workers, not {wanted}: leave --workers out and add workers to the running \
                 cluster with `tercet node add`, or use another --data-dir",
                self.root.display(),
                workers.len()
            );
        }
        Ok(workers.clone())
    }

    /// Keeps the clients' password where only the owner reads it; `None` removes it.
    pub(super) fn set_password(&self, password: Option<&str>) -> anyhow::Result<()> {
        match password {
            Some(password) => self.write("secrets/password", password.as_bytes(), 0o600),
            None => match std::fs::remove_file(self.password_file()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).context("removing the old password")
                }
                _ => Ok(()),
            },
        }
    }

    /// Draws the secret that the parts share, once.
    pub(super) fn ensure_cluster_secret(&self) -> anyhow::Result<()> {
        if read_text(&self.cluster_secret_file()).is_ok_and(|secret| !secret.trim().is_empty()) {
            return Ok(());
        }
        let secret = Alphanumeric.sample_string(&mut rand::rng(), SECRET_CHARS);
        self.write("secrets/cluster-secret", secret.as_bytes(), 0o600)
    }

    /// Replaces a file of ours: whole or not at all, durably.
    pub(super) fn write(&self, name: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        let path = self.root.join(name);
        let inner = || -> std::io::Result<()> {
            let dir = path.parent().unwrap_or(&self.root);
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(content)?;
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(dir)?.sync_all()
        };
        inner().with_context(|| format!("writing {}", path.display()))
    }
}

fn default_root(root: bool, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    if root {
        return Some("/var/lib/tercet".into());
    }
    // The XDG specification says that relative paths are to be ignored.
    let base = xdg.filter(|path| path.is_absolute()).or_else(|| Some(home?.join(".local/share")))?;
    Some(base.join("tercet"))
}

pub(super) fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::at(&temp.path().join("data")).unwrap();
        (temp, dir)
    }

    #[test]
    fn default_places() {
        let home = Some(PathBuf::from("/home/a"));
        assert_eq!(default_root(true, None, home.clone()), Some("/var/lib/tercet".into()));
        assert_eq!(default_root(false, None, home.clone()), Some("/home/a/.local/share/tercet".into()));
        assert_eq!(default_root(false, Some("/x".into()), home.clone()), Some("/x/tercet".into()));
        assert_eq!(default_root(false, Some("x".into()), home), Some("/home/a/.local/share/tercet".into()));
        assert_eq!(default_root(false, None, None), None);
    }

    #[test]
    fn a_directory_is_taken_once() {
        let (_temp, dir) = dir();
        let lock = dir.take(0o700).unwrap();
        let text = dir.take(0o700).unwrap_err().to_string();
        assert!(text.contains("another `tercet up` runs on"), "{text}");
        drop(lock);
        dir.take(0o700).unwrap();
    }

    #[test]
    fn somebody_else_s_directory_is_left_alone() {
        let (_temp, dir) = dir();
        std::fs::create_dir(dir.root()).unwrap();
        std::fs::write(dir.root().join("thesis.tex"), "x").unwrap();
        assert!(dir.take(0o700).unwrap_err().to_string().contains("thesis.tex"));
        assert_eq!(std::fs::read_dir(dir.root()).unwrap().count(), 1);
    }

    #[test]
    fn the_manifest_fixes_the_workers() {
        let (_temp, dir) = dir();
        let _lock = dir.take(0o700).unwrap();
        assert_eq!(dir.manifest().unwrap(), None);
        assert_eq!(dir.agree_on_workers(None, None).unwrap().len(), usize::from(WORKERS_DEFAULT));
        let five = dir.agree_on_workers(None, Some(5)).unwrap();
        assert_eq!(five, ["w1", "w2", "w3", "w4", "w5"]);
        let manifest = Manifest::new(five.clone(), 15);
        dir.set_manifest(&manifest).unwrap();
        assert_eq!(dir.manifest().unwrap().as_ref(), Some(&manifest));
        assert_eq!(dir.agree_on_workers(Some(&manifest), None).unwrap(), five);
        let text = dir.agree_on_workers(Some(&manifest), Some(4)).unwrap_err().to_string();
        assert!(text.contains("5 workers") && text.contains("tercet node add"), "{text}");
    }

    #[test]
    fn a_drained_worker_is_kept_in_mind_and_not_started() {
        let mut manifest = Manifest::new(numbered(10), 15);
        assert!(manifest.drained("w9") && manifest.drained("w10"));
        assert!(!manifest.drained("w9") && !manifest.drained("w11"), "no news");
        assert_eq!(manifest.workers, numbered(8));
        assert_eq!(manifest.next_worker(), "w11", "not the name of one whose data may be there still");
        assert!(manifest.stays("w10") && manifest.stays("w9"));
        assert!(!manifest.stays("w9") && !manifest.stays("w11"), "no news, or none of ours");
        assert_eq!((manifest.workers, manifest.drained), (numbered(10), Vec::new()));
    }

    #[test]
    fn a_manifest_that_tells_only_how_many_workers_there_are_is_understood() {
        let (_temp, dir) = dir();
        let _lock = dir.take(0o700).unwrap();
        let old = r#"{"format": 1, "workers": 3, "postgres_major": 15, "cluster_id": "local-x"}"#;
        std::fs::write(dir.root().join("tercet.json"), old).unwrap();
        let manifest = dir.manifest().unwrap().unwrap();
        assert_eq!(manifest, Manifest { cluster_id: "local-x".into(), ..Manifest::new(numbered(3), 15) });
        dir.set_manifest(&manifest).unwrap();
        assert_eq!(dir.manifest().unwrap(), Some(manifest));
    }

    #[test]
    fn a_newer_format_is_refused_and_a_broken_manifest_is_no_empty_directory() {
        let (_temp, dir) = dir();
        let _lock = dir.take(0o700).unwrap();
        std::fs::write(dir.root().join("tercet.json"), r#"{"format": 3, "shards": 9}"#).unwrap();
        assert!(dir.manifest().unwrap_err().to_string().contains("format 3"));
        std::fs::write(dir.root().join("tercet.json"), "").unwrap();
        assert!(dir.manifest().is_err());
    }

    #[test]
    fn secrets_are_private_and_stay() {
        use std::os::unix::fs::PermissionsExt;
        let (_temp, dir) = dir();
        let _lock = dir.take(0o711).unwrap();
        dir.ensure_cluster_secret().unwrap();
        let first = read_text(&dir.cluster_secret_file()).unwrap();
        dir.ensure_cluster_secret().unwrap();
        assert_eq!(read_text(&dir.cluster_secret_file()).unwrap(), first);
        assert_eq!(dir.cluster_secret_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        dir.set_password(Some("p")).unwrap();
        assert_eq!(dir.password().as_deref(), Some("p"));
        dir.set_password(None).unwrap();
        assert_eq!(dir.password(), None);
    }
}
