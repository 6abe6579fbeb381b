//! `tercet drain`: has a worker hand over what it holds, and waits until it has.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use tercet_frontend::coordinator::status::ClusterStatus;

use crate::cli::{DrainArgs, FrontendAt};
use crate::frontend::Frontend;
use crate::progress::Progress;
use crate::up::control::{Request, ask};
use crate::up::datadir::DataDir;

/// How often the status is looked at.
const POLL: Duration = Duration::from_millis(500);
/// Looks in vain, one after the other, before it gives up: half a minute.
const SILENT_MAX: u32 = 60;

pub(crate) fn run(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let frontend = match Frontend::find(&args.frontend) {
        Ok(frontend) => frontend,
        Err(error) => return unusable(&error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(drain(args, &frontend)) {
        Ok(Ok(text)) => {
            tell_supervisor(&args.frontend);
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Err(refused)) => {
            eprintln!("tercet: {refused:#}");
            Ok(ExitCode::from(crate::FAILED))
        }
        Err(error) => unusable(&error),
    }
}

/// The supervisor of a local cluster keeps in mind who is drained before that one's data is removed. It looks by itself too,
/// now and then, so a failure is nothing to tell of.
fn tell_supervisor(at: &FrontendAt) {
    let local = at.rest.is_none().then(|| DataDir::locate(at.place.data_dir.as_deref()));
    if let Some(running) = local.and_then(Result::ok).and_then(|dir| dir.running()) {
        let _ = ask(&running.control, &Request::Look);
    }
}

fn unusable(error: &anyhow::Error) -> anyhow::Result<ExitCode> {
    eprintln!("tercet: {error:#}");
    Ok(ExitCode::from(crate::UNUSABLE))
}

/// The outer error: nobody answered; the inner one: somebody refused.
async fn drain(args: &DrainArgs, frontend: &Frontend) -> anyhow::Result<anyhow::Result<String>> {
    let worker = &args.worker;
    let path = format!("/admin/workers/{worker}/drain");
    let answer = if args.cancel { frontend.delete(&path).await? } else { frontend.post(&path).await? };
    if let Err(refused) = answer {
        return Ok(Err(refused));
    }
    if args.cancel {
        return Ok(Ok(format!("{worker} stays, and gets its share of the ring again")));
    }
    if args.no_wait {
        return Ok(Ok(format!("{worker} hands over what it holds: see `tercet status`")));
    }
    let progress = Progress::new();
    let (mut newest, mut silent) = (0, 0);
    loop {
        let status = match frontend.status().await {
            // A frontend that starts again does not know the ring yet; one that ends does not answer.
            Ok(status) if status.epoch >= newest.max(1) => status,
            Err(error) if silent >= SILENT_MAX => return Err(error),
            _ => {
                silent += 1;
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        (newest, silent) = (status.epoch, 0);
        let Some(holds) = holds(&status, worker) else {
            return Ok(Err(anyhow::anyhow!("{worker} is no longer in the ring")));
        };
        if holds == 0 && status.ring.change.is_none() {
            progress.finish();
            return Ok(Ok(format!(
                "{worker} holds nothing any more: it can be stopped and its data removed"
            )));
        }
        match (&status.ring.change, &status.ring.waiting) {
            (Some(change), _) => progress.change(change),
            (None, Some(why)) => {
                progress.news(&format!("{worker} still holds {holds} partitions; waiting: {why}"))
            }
            (None, None) => progress.news(&format!("{worker} still holds {holds} partitions")),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Partitions that it is a replica of; `None`: it is no member.
fn holds(status: &ClusterStatus, worker: &str) -> Option<usize> {
    status.workers.iter().find(|w| w.id.as_str() == worker).map(|w| w.partitions)
}

impl Frontend {
    async fn post(&self, path: &str) -> anyhow::Result<anyhow::Result<()>> {
        self.order(reqwest::Method::POST, path).await
    }

    async fn delete(&self, path: &str) -> anyhow::Result<anyhow::Result<()>> {
        self.order(reqwest::Method::DELETE, path).await
    }

    async fn order(&self, method: reqwest::Method, path: &str) -> anyhow::Result<anyhow::Result<()>> {
        let (status, body) = self.send(method, path).await?;
        Ok(match status {
            200..300 => Ok(()),
            _ => Err(self.refusal(path, status, &body)),
        })
    }

    async fn status(&self) -> anyhow::Result<ClusterStatus> {
        match self.cluster_status().await? {
            Ok((status, _)) => Ok(status),
            Err(refused) => bail!(refused),
        }
    }
}
