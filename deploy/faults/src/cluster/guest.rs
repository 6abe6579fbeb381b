//! A worker that reaches its frontend, and is reached, through a [`Link`] only.
//!
//! `tercet up` starts a worker with addresses of its own choice. So that worker is stopped, and one with the same
//! arguments is started in its place: it listens on a port that the link knows, tells the frontend the link's address
//! instead, and sends its heartbeats to the link.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use tercet_harness::ports::free_port;
use tokio::process::{Child, ChildStdin};

use super::binary::Binary;
use crate::proxy::Link;

pub(super) struct Guest {
    pub(super) link: Link,
    binary: Binary,
    args: Vec<String>,
    log: PathBuf,
    process: Option<(Child, Option<ChildStdin>)>,
}

impl Guest {
    /// For a worker that was started with `args` (its program first). Does not start it.
    pub(super) async fn new(binary: &Binary, args: &[String], log: PathBuf) -> anyhow::Result<Self> {
        let frontend = value(args, "--frontends").context("the worker was not told where the frontend is")?;
        let frontend = frontend.parse().with_context(|| format!("--frontends={frontend}"))?;
        let listen = free_port()?;
        let link = Link::new(listen, frontend).await.context("opening a proxy")?;
        let args = rewired(&args[1..], listen, &link);
        Ok(Self { link, binary: binary.clone(), args, log, process: None })
    }

    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.binary.command(&self.args);
        // It ends when its standard input does: with us.
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().context("starting a worker")?;
        let stdin = child.stdin.take();
        self.process = Some((child, stdin));
        Ok(())
    }

    pub(super) async fn kill(&mut self) {
        if let Some((mut child, _)) = self.process.take() {
            let _ = child.kill().await;
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        i32::try_from(self.process.as_ref()?.0.id()?).ok()
    }
}

fn value<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    args.iter().find_map(|arg| arg.strip_prefix(flag)?.strip_prefix('='))
}

fn rewired(args: &[String], listen: SocketAddr, link: &Link) -> Vec<String> {
    let ours = [
        ("--listen", listen.to_string()),
        ("--advertise", link.calls.to_string()),
        ("--frontends", link.heartbeats.to_string()),
    ];
    let kept = args.iter().filter(|arg| !ours.iter().any(|(flag, _)| arg.starts_with(&format!("{flag}="))));
    kept.cloned().chain(ours.iter().map(|(flag, value)| format!("{flag}={value}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_is_rewired_and_keeps_its_other_arguments() {
        let args = ["worker", "--id=w1", "--listen=127.0.0.1:0", "--frontends=127.0.0.1:9", "--writers=1"];
        let args = args.map(str::to_owned);
        let link = Link::new("127.0.0.1:5".parse().unwrap(), "127.0.0.1:9".parse().unwrap()).await.unwrap();
        assert_eq!(
            rewired(&args, "127.0.0.1:5".parse().unwrap(), &link),
            [
                "worker".to_owned(),
                "--id=w1".to_owned(),
                "--writers=1".to_owned(),
                "--listen=127.0.0.1:5".to_owned(),
                format!("--advertise={}", link.calls),
                format!("--frontends={}", link.heartbeats),
            ]
        );
    }
}
