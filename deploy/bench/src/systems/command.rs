//! Running other people's programs.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

const END_DEADLINE: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(20);

/// A program that no variable of whoever runs us leads astray.
pub(super) fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["PG", "LC_", "ETCD_", "TERCET_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    // Its messages in one language; a process group of its own, as Ctrl-C is for us to handle.
    command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true).process_group(0).current_dir("/");
    command
}

/// Runs it to its end, which must be a success, and returns what it wrote.
pub(super) async fn finish(command: &mut Command, deadline: Duration) -> anyhow::Result<String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = tokio::time::timeout(deadline, command.output()).await;
    let output =
        output.with_context(|| format!("{program} took too long"))?.with_context(|| program.clone())?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program}: {}: {}", output.status, error.trim());
    Ok(out.into_owned())
}

/// Ends a server at once and waits until it is gone, so that its directory can be removed.
pub(super) fn end(child: &mut Child, signal: Signal) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), signal);
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < END_DEADLINE {
        std::thread::sleep(END_POLL);
    }
}
