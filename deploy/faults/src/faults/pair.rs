//! Two faults at once.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::{Act, Fault, KINDS, Kind, Needs};
use crate::cluster::Cluster;

/// The second comes this long after the first, at most: at once, or while others take notice of the first.
const GAP_MS: u64 = 8_000;

struct Pair {
    faults: Vec<Box<dyn Fault>>,
    gap: Duration,
    /// The first ends last.
    nested: bool,
}

fn of_workers_and_links(kind: &&Kind) -> bool {
    matches!(kind.needs, Needs::Nothing | Needs::Links) && !kind.name.starts_with("pair")
}

pub(super) fn any(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    pair(rng, workers, |kind| !kind.loses_data)
}

pub(super) fn with_lost_data(rng: &mut StdRng, workers: &[String]) -> Box<dyn Fault> {
    pair(rng, workers, |kind| kind.loses_data)
}

/// One of the wanted, and one that loses no data.
fn pair(rng: &mut StdRng, workers: &[String], wanted: fn(&Kind) -> bool) -> Box<dyn Fault> {
    let all: Vec<&Kind> = KINDS.iter().filter(of_workers_and_links).collect();
    let wanted: Vec<&Kind> = all.iter().copied().filter(|kind| wanted(kind)).collect();
    let harmless: Vec<&Kind> = all.into_iter().filter(|kind| !kind.loses_data).collect();
    let kinds = [wanted.choose(rng).copied(), harmless.choose(rng).copied()];
    let faults = kinds.into_iter().flatten().map(|kind| (kind.draw)(rng, workers)).collect();
    Box::new(Pair { faults, gap: Duration::from_millis(rng.random_range(0..GAP_MS)), nested: rng.random() })
}

impl Fault for Pair {
    fn says(&self) -> String {
        let says: Vec<String> = self.faults.iter().map(|fault| fault.says()).collect();
        format!("{} ({} ms apart)", says.join(" + "), self.gap.as_millis())
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            for (n, fault) in self.faults.iter_mut().enumerate() {
                if n > 0 {
                    tokio::time::sleep(self.gap).await;
                }
                fault.inject(cluster).await?;
            }
            Ok(())
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a> {
        Box::pin(async move {
            if self.nested {
                self.faults.reverse();
            }
            for fault in &mut self.faults {
                fault.heal(cluster).await?;
            }
            Ok(())
        })
    }
}
