//! SIGKILL: a part is gone without a word.

use rand::rngs::StdRng;

use super::{Act, Fault, any_worker};
use crate::cluster::{Cluster, FRONTEND};

struct Kill {
    part: String,
}

pub(super) fn worker(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    Box::new(Kill { part: any_worker(rng, workers) })
}

pub(super) fn postgres(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    Box::new(Kill { part: format!("{}-db", any_worker(rng, workers)) })
}

pub(super) fn frontend(_: &mut StdRng, _: &[String]) -> Box<dyn Fault> {
    Box::new(Kill { part: FRONTEND.to_owned() })
}

impl Fault for Kill {
    fn says(&self) -> String {
        format!("kill -9 {}", self.part)
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(cluster.kill(&self.part))
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(cluster.revive(&self.part))
    }
}
