//! A disk without a free byte: a file takes all that is left on a worker's small file system.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::Context;
use rand::rngs::StdRng;

use super::{Act, Fault, any_worker};
use crate::cluster::Cluster;

const CHUNK: usize = 1024 * 1024;

struct Full {
    worker: String,
    ballast: Option<PathBuf>,
}

pub(super) fn disk(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    Box::new(Full { worker: any_worker(rng, workers), ballast: None })
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let chunk = vec![0; CHUNK];
    // Then what is left of the last chunk, byte by byte of a page.
    for size in [CHUNK, 4096, 1] {
        loop {
            match file.write(&chunk[..size]) {
                Ok(n) if n > 0 => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() != ErrorKind::StorageFull => return Err(error),
                _ => break,
            }
        }
    }
    Ok(())
}

impl Fault for Full {
    fn says(&self) -> String {
        format!("fill the disk of {}", self.worker)
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            let path = cluster.database(&self.worker)?.data.join("ballast");
            self.ballast = Some(path.clone());
            tokio::task::spawn_blocking(move || fill(&path)).await?.context("filling a disk")
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            if let Some(path) = self.ballast.take() {
                std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
            // PostgreSQL ends if it cannot write its log.
            cluster.revive(&format!("{}-db", self.worker)).await?;
            cluster.revive(&self.worker).await
        })
    }
}
