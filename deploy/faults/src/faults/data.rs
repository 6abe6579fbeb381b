//! A worker that lost its data: an empty disk, or an old backup of it.

use std::path::PathBuf;

use rand::rngs::StdRng;

use super::{Act, Fault, any_worker};
use crate::cluster::Cluster;

struct Wipe {
    worker: String,
}

struct Restore {
    worker: String,
    copy: Option<PathBuf>,
}

pub(super) fn wipe(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    Box::new(Wipe { worker: any_worker(rng, workers) })
}

pub(super) fn restore(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    Box::new(Restore { worker: any_worker(rng, workers), copy: None })
}

async fn stop(cluster: &mut Cluster, worker: &str) -> anyhow::Result<()> {
    cluster.stop(worker).await?;
    cluster.stop(&format!("{worker}-db")).await
}

async fn start(cluster: &mut Cluster, worker: &str) -> anyhow::Result<()> {
    cluster.revive(&format!("{worker}-db")).await?;
    cluster.revive(worker).await
}

impl Fault for Wipe {
    fn says(&self) -> String {
        format!("wipe the data of {}", self.worker)
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            stop(cluster, &self.worker).await?;
            cluster.database(&self.worker)?.make_new().await
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(start(cluster, &self.worker))
    }
}

impl Fault for Restore {
    fn says(&self) -> String {
        format!("put {} back to an old copy of its data", self.worker)
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            stop(cluster, &self.worker).await?;
            let copy = cluster.place(&format!("{}-copy", self.worker));
            cluster.database(&self.worker)?.copy_to(&copy).await?;
            self.copy = Some(copy);
            start(cluster, &self.worker).await
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            if let Some(copy) = self.copy.take() {
                stop(cluster, &self.worker).await?;
                cluster.database(&self.worker)?.replace_by(&copy).await?;
                std::fs::remove_dir_all(&copy)?;
            }
            start(cluster, &self.worker).await
        })
    }
}
