//! Healing procedures that begin at any time, at any frontend.

use tercet_frontend::coordinator::core::WorkerIx;
use tercet_frontend::healing::Stable;
use tercet_frontend::healing::delta::{DeltaJob, Peer};

use crate::agenda::MILLISECOND;
use crate::tasks::Job;
use crate::world::{Event, World};

/// How often replicas may be compared before they are equal.
const COMPARISONS_MAX: u32 = 8;

impl World {
    pub(crate) fn plan_chore(&mut self) {
        let at = self.now + self.random.spread(5 * MILLISECOND, 200 * MILLISECOND);
        self.agenda.plan(at, Event::Chore);
    }

    pub(crate) fn chore(&mut self) {
        if self.calm {
            return;
        }
        let frontend = self.random.index(self.frontends.len());
        let partition = self.random.index(self.plan.partitions);
        if let Some(group) = self.stable(frontend, partition) {
            let job = match self.random.below(10) {
                0..3 => Job::Compare(group),
                3..7 => Job::Collect(group),
                _ => Job::Delta(self.delta(&group)),
            };
            self.start_task(frontend, job);
        }
        self.plan_chore();
    }

    /// The partition, if the frontend takes it for stable.
    fn stable(&self, frontend: usize, partition: usize) -> Option<Stable> {
        let frontend = &self.frontends[frontend];
        frontend.core.as_ref()?;
        let group = &frontend.configuration.as_ref()?.groups[partition];
        let id = self.partition_id(partition);
        (!group.is_joint()).then(|| Stable {
            partition: id,
            epoch: group.epoch,
            replicas: group.replicas.to_vec(),
        })
    }

    fn delta(&mut self, group: &Stable) -> DeltaJob {
        let target = *self.random.pick(&group.replicas);
        let peer = |worker: &WorkerIx| {
            let of = &self.workers[usize::from(*worker)];
            Peer { worker: *worker, uuid: of.voter.uuid.clone(), journal_seq: of.disk.journal_seq() }
        };
        DeltaJob { target, peers: group.replicas.iter().filter(|w| **w != target).map(peer).collect() }
    }

    /// After trouble: the replicas are compared until they are equal.
    pub(crate) fn make_equal(&mut self) {
        for _ in 0..COMPARISONS_MAX {
            self.equal = true;
            for partition in 0..self.plan.partitions {
                match self.stable(0, partition) {
                    Some(group) => self.start_task(0, Job::Compare(group)),
                    None => return self.violate(format!("partition {partition} is still changing hands")),
                }
            }
            self.settle("while comparing");
            if self.equal || self.violation.is_some() {
                return;
            }
        }
        self.violate(format!("replicas differ after {COMPARISONS_MAX} comparisons"));
    }

    pub(crate) fn collect_all(&mut self) {
        for partition in 0..self.plan.partitions {
            if let Some(group) = self.stable(0, partition) {
                self.start_task(0, Job::Collect(group));
            }
        }
        self.settle("while collecting");
    }
}
