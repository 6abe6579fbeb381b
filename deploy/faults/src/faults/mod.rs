//! The kinds of fault, as one table: what each does and how it is undone.
//!
//! A kind draws a fault for every round: which worker, which way. To add one, write its file and its line here.

mod data;
mod full;
mod hang;
mod kill;
mod pair;
mod partition;
mod ring;

use std::ops::Range;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::cluster::Cluster;
use crate::cluster::binary::Binary;
use crate::cluster::database;

pub(crate) type Act<'a> = BoxFuture<'a, anyhow::Result<()>>;

/// One fault of one round.
pub(crate) trait Fault: Send {
    /// What it does to whom, for the log.
    fn says(&self) -> String;
    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a>;
    /// Undoes it; only after [`Self::inject`].
    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Act<'a>;
}

/// What a kind demands of its cluster or of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// Every worker behind a proxy.
    Links,
    /// Every worker's data on a small file system of its own, which takes the right to mount.
    SmallDisks,
    /// A command of `tercet` that older versions do not have.
    Command(&'static [&'static str]),
}

pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) does: &'static str,
    pub(crate) undone: &'static str,
    pub(crate) needs: Needs,
    /// A worker loses data. The three copies must be equal again before another worker may lose any.
    pub(crate) loses_data: bool,
    /// Commands may fail meanwhile. A fault of a single worker is the cluster's own business.
    pub(crate) fails_commands: bool,
    /// Milliseconds until it is undone.
    hold: Range<u64>,
    draw: fn(&mut StdRng, &[String]) -> Box<dyn Fault>,
}

/// A kind without needs that loses no data: the most common sort.
const PLAIN: Kind = Kind {
    name: "",
    does: "",
    undone: "",
    needs: Needs::Nothing,
    loses_data: false,
    fails_commands: false,
    hold: 500..12_000,
    draw: kill::worker,
};

/// Shorter and longer than the time after which a worker counts as dead (6 s).
const HANG: Range<u64> = 1_000..40_000;
const CUT: Range<u64> = 1_000..20_000;

pub(crate) static KINDS: &[Kind] = &[
    Kind { name: "kill-worker", does: "kill -9 to a worker", undone: "it is started", ..PLAIN },
    Kind {
        name: "kill-postgres",
        does: "kill -9 to a worker's PostgreSQL and all its backends",
        undone: "it is started",
        draw: kill::postgres,
        ..PLAIN
    },
    Kind {
        name: "kill-frontend",
        does: "kill -9 to the frontend",
        undone: "it is started",
        hold: 0..500,
        fails_commands: true,
        draw: kill::frontend,
        ..PLAIN
    },
    Kind {
        name: "hang-worker",
        does: "SIGSTOP to a worker",
        undone: "SIGCONT",
        hold: HANG,
        draw: hang::worker,
        ..PLAIN
    },
    Kind {
        name: "hang-postgres",
        does: "SIGSTOP to a worker's PostgreSQL and all its backends",
        undone: "SIGCONT",
        hold: HANG,
        draw: hang::postgres,
        ..PLAIN
    },
    Kind {
        name: "hang-frontend",
        does: "SIGSTOP to the frontend",
        undone: "SIGCONT",
        hold: HANG,
        fails_commands: true,
        draw: hang::frontend,
        ..PLAIN
    },
    Kind {
        name: "partition",
        does: "nothing passes between a worker and the frontend",
        undone: "what was held arrives late, or connections die",
        needs: Needs::Links,
        hold: CUT,
        draw: partition::both_ways,
        ..PLAIN
    },
    Kind {
        name: "cut-to-worker",
        does: "nothing reaches a worker, what it says is heard",
        undone: "what was held arrives late, or connections die",
        needs: Needs::Links,
        hold: CUT,
        draw: partition::towards,
        ..PLAIN
    },
    Kind {
        name: "cut-from-worker",
        does: "a worker hears everything, nothing of it is heard",
        undone: "what was held arrives late, or connections die",
        needs: Needs::Links,
        hold: CUT,
        draw: partition::from,
        ..PLAIN
    },
    Kind {
        name: "slow-link",
        does: "10 to 400 ms each way between a worker and the frontend",
        undone: "no delay",
        needs: Needs::Links,
        hold: CUT,
        draw: partition::slow,
        ..PLAIN
    },
    Kind {
        name: "isolate-frontend",
        does: "nothing passes between the frontend and any worker",
        undone: "what was held arrives late, or connections die",
        needs: Needs::Links,
        hold: CUT,
        fails_commands: true,
        draw: partition::frontend,
        ..PLAIN
    },
    Kind {
        name: "disk-full",
        does: "a worker's PostgreSQL has no byte left on its disk",
        undone: "there is room again; what has ended is started",
        needs: Needs::SmallDisks,
        hold: 2_000..20_000,
        draw: full::disk,
        ..PLAIN
    },
    Kind {
        name: "wipe",
        does: "a worker and its PostgreSQL end, and their data is gone",
        undone: "both are started, with an empty database",
        loses_data: true,
        hold: 0..10_000,
        draw: data::wipe,
        ..PLAIN
    },
    Kind {
        name: "restore",
        does: "a worker's data is copied while it is stopped, then it runs on",
        undone: "it is stopped, gets the old copy back, and is started",
        loses_data: true,
        hold: 3_000..10_000,
        draw: data::restore,
        ..PLAIN
    },
    Kind {
        name: "drain",
        does: "tercet drain: a worker gives its data away and leaves",
        undone: "tercet drain --cancel: it gets its share again",
        needs: Needs::Command(&["drain"]),
        draw: ring::drain,
        ..PLAIN
    },
    Kind {
        name: "add-worker",
        does: "tercet node add: another worker joins",
        undone: "it is drained and stopped, if this version can",
        needs: Needs::Command(&["node", "add"]),
        draw: ring::add,
        ..PLAIN
    },
    Kind {
        name: "pair",
        does: "two of the above that lose no data, one while the other lasts",
        undone: "each as it would be, in any order",
        needs: Needs::Links,
        fails_commands: true,
        draw: pair::any,
        ..PLAIN
    },
    Kind {
        name: "pair-with-lost-data",
        does: "wipe or restore, and another that loses no data while it lasts",
        undone: "each as it would be, in any order",
        needs: Needs::Links,
        loses_data: true,
        fails_commands: true,
        draw: pair::with_lost_data,
        ..PLAIN
    },
];

impl Kind {
    /// What happens to whom in the next round, and for how long.
    pub(crate) fn draw(&self, rng: &mut StdRng, workers: &[String]) -> (Box<dyn Fault>, Duration) {
        let fault = (self.draw)(rng, workers);
        (fault, Duration::from_millis(rng.random_range(self.hold.clone())))
    }

    /// Why it cannot be tried here; `None` if it can.
    pub(crate) async fn obstacle(&self, binary: &Binary) -> Option<String> {
        match self.needs {
            Needs::Nothing | Needs::Links => None,
            Needs::SmallDisks => {
                let error = database::may_mount().await.err()?;
                Some(format!("no small file system can be mounted here: {error:#}"))
            }
            Needs::Command(command) => {
                let known = binary.knows(command).await;
                (!known).then(|| format!("this tercet does not know `{}`", command.join(" ")))
            }
        }
    }
}

/// Any of the workers.
fn any_worker(rng: &mut StdRng, workers: &[String]) -> String {
    workers.choose(rng).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::seed::Seed;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_says_what_it_does() {
        let names: HashSet<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for kind in KINDS {
            assert!(!kind.does.is_empty() && !kind.undone.is_empty(), "{}", kind.name);
        }
    }

    #[test]
    fn a_seed_decides_the_faults() {
        let workers: Vec<String> = (1..=4).map(|n| format!("w{n}")).collect();
        let rounds = |seed| {
            let all = KINDS.iter().flat_map(|kind| {
                let mut rng = Seed::new(seed, kind.name).rng("faults");
                let rounds = (0..5).map(|_| kind.draw(&mut rng, &workers)).collect::<Vec<_>>();
                rounds.into_iter().map(|(fault, hold)| format!("{} {hold:?}", fault.says()))
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(rounds(1), rounds(1));
        assert_ne!(rounds(1), rounds(2));
    }
}
