//! What a frontend is about to change in the ring, and what it knows of the change under way.

use std::collections::BTreeSet;
use std::sync::Arc;

use tercet_common::ring_change::Planner;
use tercet_common::{Epoch, RingConfig, WorkerId};
use tercet_frontend::coordinator::core::WorkerIx;
use tercet_frontend::membership::sightings::Sightings;

use crate::agenda::Time;

/// A copy: of which partition, in which joint epoch, to whom.
pub(crate) type CopyName = (usize, Epoch, WorkerIx);

/// What somebody who runs the cluster has come up with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// A replica of a partition is to be replaced, whatever for.
    Replace { partition: usize },
    /// A worker is told to hand over and leave, or to stay after all.
    Mark { worker: WorkerId, leaving: bool },
}

/// A configuration that was proposed.
#[derive(Clone, Debug)]
pub(crate) struct Deciding {
    pub next: Arc<RingConfig>,
    /// Partitions whose puts are held meanwhile.
    pub held: Vec<usize>,
    /// Then it is withdrawn.
    pub until: Time,
}

/// See the module. One for each life of a frontend.
#[derive(Default)]
pub(crate) struct Driver {
    pub wish: Option<Wish>,
    pub deciding: Option<Deciding>,
    /// In the configuration in force: copies that have ended well, and that run.
    pub copied: BTreeSet<CopyName>,
    pub running: BTreeSet<CopyName>,
    /// Copies that have not ended well, or could not begin.
    pub failed: u32,
    /// When it looks next.
    pub look_at: Option<Time>,
    /// When it looked last, there was nothing to do.
    pub rests: bool,
    /// The real one.
    pub planner: Planner,
    /// The real ones.
    pub sightings: Sightings,
}
