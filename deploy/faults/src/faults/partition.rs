//! The network between workers and the frontend: cut both ways, cut one way, slow.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::{Act, Fault, any_worker};
use crate::cluster::Cluster;
use crate::proxy::Condition;

struct Cut {
    workers: Vec<String>,
    towards: Condition,
    from: Condition,
    /// Connections that met the cut are found dead at its end, instead of delivering late.
    reset: bool,
}

pub(super) fn both_ways(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    let worker = any_worker(rng, workers);
    cut(rng, vec![worker], Condition::Cut, Condition::Cut)
}

pub(super) fn towards(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    let worker = any_worker(rng, workers);
    cut(rng, vec![worker], Condition::Cut, Condition::Flows)
}

pub(super) fn from(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    let worker = any_worker(rng, workers);
    cut(rng, vec![worker], Condition::Flows, Condition::Cut)
}

pub(super) fn slow(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    let slow = Condition::Slow(Duration::from_millis(rng.random_range(10..400)));
    let worker = any_worker(rng, workers);
    cut(rng, vec![worker], slow, slow)
}

pub(super) fn frontend(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    cut(rng, workers.to_vec(), Condition::Cut, Condition::Cut)
}

fn cut(rng: &mut StdRng, workers: Vec<String>, towards: Condition, from: Condition) -> Box<dyn Fault> {
    Box::new(Cut { workers, towards, from, reset: rng.random() })
}

impl Fault for Cut {
    fn says(&self) -> String {
        let end = if self.reset { "then dead" } else { "then late" };
        format!("{}: to {:?}, from {:?}, {end}", self.workers.join(" "), self.towards, self.from)
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            for worker in &self.workers {
                let link = cluster.link(worker)?;
                link.towards_worker.set(self.towards);
                link.from_worker.set(self.from);
            }
            Ok(())
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            for worker in &self.workers {
                let link = cluster.link(worker)?;
                link.towards_worker.heal(self.reset);
                link.from_worker.heal(self.reset);
            }
            Ok(())
        })
    }
}
