//! Changes of the ring on purpose. That a dead worker is replaced needs no kind of its own: other faults cause it.

use rand::rngs::StdRng;

use super::{Act, Fault, any_worker};
use crate::cluster::Cluster;

struct Drain {
    worker: String,
}

struct Add {
    added: Vec<String>,
}

pub(super) fn drain(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    Box::new(Drain { worker: any_worker(rng, workers) })
}

pub(super) fn add(_: &mut StdRng, _: &[String]) -> Box<dyn Fault> {
    Box::new(Add { added: Vec::new() })
}

impl Fault for Drain {
    fn says(&self) -> String {
        format!("drain {}", self.worker)
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move { cluster.tercet(&["drain", &self.worker]).await.map(drop) })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move { cluster.tercet(&["drain", "--cancel", &self.worker]).await.map(drop) })
    }
}

impl Fault for Add {
    fn says(&self) -> String {
        "add a worker".to_owned()
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            let before = cluster.workers().to_vec();
            cluster.tercet(&["node", "add"]).await?;
            cluster.look_around().await?;
            self.added = cluster.workers().iter().filter(|id| !before.contains(id)).cloned().collect();
            Ok(())
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            if !cluster.knows(&["drain"]).await {
                return Ok(());
            }
            for worker in &self.added {
                cluster.tercet(&["drain", worker]).await?;
                cluster.retire(worker).await?;
            }
            Ok(())
        })
    }
}
