//! SIGSTOP: a part is there, keeps its connections, and does nothing; later it goes on as if no time had passed.

use nix::sys::signal::Signal;
use rand::rngs::StdRng;

use super::{Act, Fault, any_worker};
use crate::cluster::{Cluster, FRONTEND, processes};

/// A postmaster that was just being stopped may have started one more backend.
const SWEEPS: usize = 2;

struct Hang {
    part: String,
    stopped: Vec<i32>,
}

pub(super) fn worker(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    hang(any_worker(rng, workers))
}

pub(super) fn postgres(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    hang(format!("{}-db", any_worker(rng, workers)))
}

pub(super) fn frontend(_: &mut StdRng, _: &[String]) -> Box<dyn Fault> {
    hang(FRONTEND.to_owned())
}

fn hang(part: String) -> Box<dyn Fault> {
    Box::new(Hang { part, stopped: Vec::new() })
}

impl Fault for Hang {
    fn says(&self) -> String {
        format!("SIGSTOP {}", self.part)
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            for _ in 0..SWEEPS {
                self.stopped = cluster.pids(&self.part).await?;
                processes::signal(&self.stopped, Signal::SIGSTOP);
            }
            Ok(())
        })
    }

    fn heal<'a>(&'a mut self, _: &'a mut Cluster) -> Act<'a> {
        processes::signal(&self.stopped, Signal::SIGCONT);
        Box::pin(async { Ok(()) })
    }
}
