//! PostgreSQL's processes: is one up, did one stay behind, end them all.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::up::datadir::read_text;

const POLL: Duration = Duration::from_millis(20);
const FAST_SHUTDOWN: Duration = Duration::from_secs(30);
const IMMEDIATE_SHUTDOWN: Duration = Duration::from_secs(5);

/// `postmaster.pid`: who serves the directory, and whether it takes connections.
#[derive(Debug, PartialEq, Eq)]
struct PidFile {
    pid: i32,
    ready: bool,
}

/// The eighth line is the status, as pg_ctl reads it (PostgreSQL 10 and later).
fn pid_file(database: &Path) -> Option<PidFile> {
    let text = read_text(&database.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 1)?;
    Some(PidFile { pid, ready: lines.nth(6).is_some_and(|status| status.trim() == "ready") })
}

/// Whether the server with this process id takes connections.
pub(in crate::up) fn is_ready(database: &Path, pid: u32) -> bool {
    pid_file(database).is_some_and(|file| u32::try_from(file.pid) == Ok(pid) && file.ready)
}

/// Makes way for a start: a server that outlived its supervisor is stopped, a `postmaster.pid` that names a stranger's
/// process is removed (a dead process's is PostgreSQL's own business). Says what it did.
pub(in crate::up) async fn make_way(database: &Path) -> anyhow::Result<Option<String>> {
    let named = pid_file(database).map(|file| file.pid);
    let ours = processes(database, named);
    if ours.is_empty() {
        let Some(pid) = named.filter(|pid| alive(*pid)) else { return Ok(None) };
        // PostgreSQL would refuse to start as long as that process lives.
        std::fs::remove_file(database.join("postmaster.pid"))?;
        return Ok(Some(format!("removed a stale postmaster.pid: process {pid} is something else by now")));
    }
    let postmaster = named.filter(|pid| ours.contains(pid));
    let steps = [(Signal::SIGINT, FAST_SHUTDOWN), (Signal::SIGQUIT, IMMEDIATE_SHUTDOWN)];
    for (signal, patience) in steps {
        match postmaster {
            Some(pid) => send(pid, signal),
            // Its postmaster is gone; they are on their way out.
            None => processes(database, None).into_iter().for_each(|pid| send(pid, Signal::SIGQUIT)),
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if processes(database, postmaster).is_empty() {
                return Ok(Some(format!(
                    "stopped a PostgreSQL that an earlier run left behind ({} processes)",
                    ours.len()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    bail!(
        "another PostgreSQL serves {} and does not stop: processes {:?}",
        database.display(),
        processes(database, postmaster)
    )
}

/// Kills the server and everything under it. Its children are process groups of their own, so they are looked for.
pub(in crate::up) fn kill_all(database: &Path, postmaster: u32) {
    let Ok(postmaster) = i32::try_from(postmaster) else { return };
    // Stopped, it starts no more children between the look and the kill.
    send(postmaster, Signal::SIGSTOP);
    let all = processes(database, Some(postmaster));
    send(postmaster, Signal::SIGKILL);
    all.into_iter().filter(|pid| *pid != postmaster).for_each(|pid| send(pid, Signal::SIGKILL));
}

/// Waits, for a bounded time, until nothing of the server is left, so that a new one finds its shared memory free.
pub(in crate::up) async fn gone(database: &Path) -> bool {
    let deadline = Instant::now() + IMMEDIATE_SHUTDOWN;
    while Instant::now() < deadline {
        if processes(database, None).is_empty() {
            return true;
        }
        tokio::time::sleep(POLL).await;
    }
    false
}

/// The processes that work in the database's directory: every process of a PostgreSQL does.
#[cfg(target_os = "linux")]
fn processes(database: &Path, _postmaster: Option<i32>) -> Vec<i32> {
    let Ok(database) = database.canonicalize() else { return Vec::new() };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == database))
        .filter(|pid| is_postgres(*pid))
        .collect()
}

/// A person's shell may be in the directory too.
#[cfg(target_os = "linux")]
fn is_postgres(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim().starts_with("postgres"))
}

/// The postmaster, if `ps` says that it is one of this directory. Its children end by themselves once it is gone.
#[cfg(not(target_os = "linux"))]
fn processes(database: &Path, postmaster: Option<i32>) -> Vec<i32> {
    let Some(pid) = postmaster.or_else(|| Some(pid_file(database)?.pid)) else { return Vec::new() };
    let output =
        std::process::Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output();
    let command =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if command.contains("postgres") && command.contains(&*database.to_string_lossy()) {
        vec![pid]
    } else {
        Vec::new()
    }
}

fn alive(pid: i32) -> bool {
    matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

fn send(pid: i32, signal: Signal) {
    // It may be gone by now, which is what is wanted.
    let _ = kill(Pid::from_raw(pid), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(pid_file: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), pid_file).unwrap();
        dir
    }

    #[test]
    fn the_pid_file_says_who_and_whether_it_is_ready() {
        let text = |status: &str| format!("4711\n/d\n1\n5432\n/s\n\n  12 34\n{status}\n");
        let ready = database(&text("ready   "));
        assert!(is_ready(ready.path(), 4711) && !is_ready(ready.path(), 4712));
        assert!(!is_ready(database(&text("starting")).path(), 4711));
        assert!(!is_ready(database("4711\n/d\n").path(), 4711), "half written");
        assert_eq!(pid_file(database("").path()), None);
        assert_eq!(pid_file(database("-1\n").path()), None, "would signal everything");
    }

    #[tokio::test]
    async fn a_stranger_s_process_id_is_no_server() {
        let stranger = database(&format!("{}\n", std::process::id()));
        let said = make_way(stranger.path()).await.unwrap();
        assert!(said.is_some_and(|text| text.contains("stale")));
        assert!(!stranger.path().join("postmaster.pid").exists());
    }
}
