//! A running `tercet up` in a temporary directory.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::binary::Binary;
use crate::processes;

const START_DEADLINE: Duration = Duration::from_secs(120);
/// In which each PostgreSQL writes a last checkpoint.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// A part, as `tercet node list --json` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Part {
    pub id: String,
    pub kind: String,
    /// `None`: it does not run.
    pub pid: Option<i32>,
    /// Of a database the directory of its socket.
    pub address: String,
}

/// Dropped, nothing of it stays behind.
#[derive(Debug)]
pub struct Up {
    binary: Binary,
    child: Child,
    ready: Ready,
    dir: tempfile::TempDir,
}

/// Where clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ready {
    resp: SocketAddr,
    rest: SocketAddr,
}

impl Up {
    /// Its directory will be `within` the one named, and its name begin with `prefix`.
    pub async fn start(binary: &Binary, workers: u16, within: &Path, prefix: &str) -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // A PostgreSQL of another user must pass.
        let mode = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix(prefix).permissions(mode).tempdir_in(within);
        let dir = dir.with_context(|| within.display().to_string())?;
        let mut command = binary.command(&["up", "--resp=127.0.0.1:0", "--rest=127.0.0.1:0"]);
        command.arg(format!("--workers={workers}")).arg("--data-dir").arg(dir.path());
        // Ctrl-C is for us to handle.
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting tercet up")?;
        let ready = ready(&mut child).await?;
        Ok(Self { binary: binary.clone(), child, ready, dir })
    }

    pub fn resp(&self) -> SocketAddr {
        self.ready.resp
    }

    pub fn rest(&self) -> SocketAddr {
        self.ready.rest
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `tercet` with these arguments, about this cluster.
    pub async fn tercet(&self, args: &[&str]) -> anyhow::Result<String> {
        let dir = self.dir().display().to_string();
        let args: Vec<&str> = args.iter().copied().chain(["--data-dir", &dir]).collect();
        self.binary.call(&args).await
    }

    pub async fn parts(&self) -> anyhow::Result<Vec<Part>> {
        let text = self.tercet(&["node", "list", "--json"]).await?;
        serde_json::from_str(&text).context("reading tercet node list --json")
    }

    /// Ends in order.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).context("tercet up has ended")?;
        processes::signal(&[pid], Signal::SIGTERM);
        let ended = tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await;
        let status = ended.context("tercet up does not end")??;
        ensure!(status.success(), "tercet up: {status}");
        Ok(())
    }

    /// Ends at once whatever still names or uses the directory, which is ours; what hangs would not notice our end.
    pub fn kill(&self) {
        processes::signal(&processes::of_cluster(self.dir()), Signal::SIGKILL);
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for the `ready` line, and reads on afterwards: `tercet up` must never wait for us.
async fn ready(up: &mut Child) -> anyhow::Result<Ready> {
    let (lines, mut seen) = mpsc::unbounded_channel();
    let stdout = up.stdout.take().context("its output is piped")?;
    let stderr = up.stderr.take().context("its output is piped")?;
    for output in [Box::pin(stdout) as std::pin::Pin<Box<dyn AsyncRead + Send>>, Box::pin(stderr)] {
        let lines = lines.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(output).lines();
            while let Ok(Some(line)) = from.next_line().await {
                // Once it is ready nobody listens.
                let _ = lines.send(line);
            }
        });
    }
    drop(lines);
    let mut said = String::new();
    let ready = async {
        while let Some(line) = seen.recv().await {
            if let Some(ready) = ready_line(&line) {
                return Ok(ready);
            }
            said.push_str(&line);
            said.push('\n');
        }
        bail!("tercet up ended")
    };
    match tokio::time::timeout(START_DEADLINE, ready).await {
        Ok(Ok(ready)) => Ok(ready),
        Ok(Err(error)) => Err(error.context(said)),
        Err(_) => bail!("tercet up was not ready within {} s:\n{said}", START_DEADLINE.as_secs()),
    }
}

/// `ready in=… resp=IP:PORT rest=IP:PORT data-dir=…`
fn ready_line(line: &str) -> Option<Ready> {
    let fields = line.strip_prefix("ready in=")?;
    let field = |name: &str| fields.split(' ').find_map(|field| field.strip_prefix(name)?.parse().ok());
    Some(Ready { resp: field("resp=")?, rest: field("rest=")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_addresses() {
        let line = "ready in=2.5s resp=127.0.0.1:20001 rest=127.0.0.1:20002 data-dir=/tmp/x";
        let ready =
            Ready { resp: "127.0.0.1:20001".parse().unwrap(), rest: "127.0.0.1:20002".parse().unwrap() };
        assert_eq!(ready_line(line), Some(ready));
        assert_eq!(ready_line("starting 4 PostgreSQL"), None);
    }
}
