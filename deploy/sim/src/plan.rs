//! What a seed decides before anything happens: how large the cluster is, how fast things go, what goes wrong.
//!
//! Schedules that do a bit of everything all look alike. So each seed leaves most kinds of trouble out and turns the
//! rest up ("swarm testing", Groce et al. 2012).

use std::time::Duration;

use tercet_frontend::coordinator::core::Tuning;

use crate::agenda::{MILLISECOND, SECOND, Time};
use crate::random::Random;

/// A kind of trouble, which comes at random moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A worker process dies at once, and comes back with its disk.
    WorkerCrash,
    /// A frontend process dies with all it knows, and comes back under a new incarnation.
    FrontendCrash,
    /// A link breaks, and both ends know.
    LinkReset,
    /// For a while nothing gets through, in one direction, and nobody is told.
    OneWayCut,
    /// A frontend takes a worker for dead for a while, as its circuit breaker does.
    Suspicion,
    /// A worker's disk has no room for a while.
    DiskFull,
    /// A worker loses its database connections; commits under way have no outcome, and may land.
    DatabaseLost,
    /// A worker hears nothing for a while, and then everything at once.
    Pause,
    /// Somebody wants the ring changed.
    RingChange,
    /// A worker's data is lost, or an old backup takes its place.
    LostDisk,
    /// A worker's disk is copied away, for a later [`Self::LostDisk`].
    Backup,
}

impl Trouble {
    pub(crate) const ALL: [Self; 11] = [
        Self::WorkerCrash,
        Self::FrontendCrash,
        Self::LinkReset,
        Self::OneWayCut,
        Self::Suspicion,
        Self::DiskFull,
        Self::DatabaseLost,
        Self::Pause,
        Self::RingChange,
        Self::LostDisk,
        Self::Backup,
    ];
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub workers: usize,
    /// Workers that may come later.
    pub spares: usize,
    pub frontends: usize,
    pub partitions: usize,
    /// All in the partitions, in turn.
    pub keys: usize,
    pub clients: usize,
    pub operations: usize,
    /// How long clients wait between their operations, at most.
    pub think_time: Time,
    /// Of a message: usual and worst.
    pub delay: (Time, Time),
    /// Of 1,000 messages.
    pub late: u64,
    pub lost: u64,
    /// Of 1,000 requests that are no puts.
    pub doubled: u64,
    /// Commits of one worker under way at once.
    pub writers: usize,
    /// How long a commit takes, at most.
    pub commit_time: Time,
    /// Of 1,000 commits, those that fail or end with an unknown outcome.
    pub failing_commits: u64,
    pub troubles: Vec<Trouble>,
    /// Between two troubles, at most.
    pub trouble_every: Time,
    pub trouble_lasts: Time,
    /// How far the clock of a frontend may be from the true time.
    pub skew: Time,
    pub tuning: Tuning,
    /// The first key is a counter that sees only INCR and GET.
    pub counter: bool,
    pub flushes: bool,
    /// Replicas are compared, tombstones collected and journals read all the time.
    pub chores: bool,
    /// Of 100 commands, those that delete.
    pub deletes: u64,
    pub expiry: bool,
    /// The real planner says how the ring changes; else any replica is replaced by any worker.
    pub planned: bool,
    /// Of 100 wishes to change the ring, those that come up at all frontends at once.
    pub rivals: u64,
    /// Between two heartbeats.
    pub pulse: Time,
    /// How long a majority of the first workers waits for the others.
    pub grace: Time,
    /// Of a worker, on the real ring.
    pub virtual_nodes: u32,
}

impl Plan {
    /// Rings change, disks are lost and tombstones are collected all the time.
    fn heal(&mut self, random: &mut Random) {
        self.troubles = vec![Trouble::RingChange, Trouble::RingChange, Trouble::Backup, Trouble::LostDisk];
        self.troubles.extend([Trouble::WorkerCrash].into_iter().filter(|_| random.percent(30)));
        (self.workers, self.spares) = (random.between(4, 5) as usize, 2);
        self.operations = random.between(30, 44) as usize;
        self.chores = true;
        self.deletes = 25;
        self.trouble_every = random.spread(10 * MILLISECOND, 80 * MILLISECOND);
        self.trouble_lasts = self.trouble_lasts.min(200 * MILLISECOND);
        self.think_time = random.spread(5 * MILLISECOND, 60 * MILLISECOND);
    }

    /// Several frontends want the ring changed all the time, each in its own way, and little else happens.
    fn quarrel(&mut self, random: &mut Random) {
        self.troubles = vec![Trouble::RingChange; 4];
        let beside = [Trouble::FrontendCrash, Trouble::WorkerCrash, Trouble::OneWayCut, Trouble::Pause];
        self.troubles.extend(beside.into_iter().filter(|_| random.percent(30)));
        if random.percent(40) {
            self.troubles.extend([Trouble::Backup, Trouble::LostDisk]);
            self.spares = 2;
        }
        (self.workers, self.frontends) = (random.between(4, 5) as usize, random.between(2, 3) as usize);
        self.operations = random.between(8, 16) as usize;
        self.think_time = random.spread(5 * MILLISECOND, 60 * MILLISECOND);
        (self.late, self.lost) = (random.between(20, 150), random.below(60));
        self.delay.1 = random.spread(10 * MILLISECOND, 300 * MILLISECOND);
        self.trouble_every = random.spread(3 * MILLISECOND, 40 * MILLISECOND);
        self.trouble_lasts = self.trouble_lasts.min(100 * MILLISECOND);
        (self.planned, self.rivals) = (random.percent(10), 100);
    }

    pub(crate) fn draw(random: &mut Random) -> Self {
        let trouble = random.percent(85);
        let mut troubles = Vec::new();
        if trouble {
            troubles.extend(Trouble::ALL.into_iter().filter(|_| random.percent(35)));
        }
        let changes = troubles.contains(&Trouble::RingChange);
        let delay = random.spread(200, 5 * MILLISECOND);
        let scale = *random.pick(&[10, 50, 100]);
        let milliseconds = |n: u64| Duration::from_millis(n);
        let partitions = 1 + usize::from(random.percent(20));
        let keys = partitions.max(random.between(1, 3) as usize);
        let mut plan = Self {
            workers: random.between(3, if changes || partitions > 1 { 5 } else { 3 }) as usize,
            spares: usize::from(troubles.contains(&Trouble::LostDisk)) * 2,
            frontends: random.between(1, 3) as usize,
            partitions,
            keys,
            clients: random.between(3, 6) as usize,
            operations: random.between(12, 36) as usize,
            think_time: random.spread(MILLISECOND, 60 * MILLISECOND),
            delay: (delay, random.spread(10 * MILLISECOND, SECOND)),
            late: if random.percent(60) { random.below(60) } else { 0 },
            lost: if random.percent(50) { random.below(80) } else { 0 },
            doubled: if random.percent(40) { random.below(80) } else { 0 },
            writers: random.between(1, 3) as usize,
            commit_time: random.spread(500, 40 * MILLISECOND),
            failing_commits: if random.percent(30) { random.below(60) } else { 0 },
            troubles,
            trouble_every: random.spread(10 * MILLISECOND, 400 * MILLISECOND),
            trouble_lasts: random.spread(10 * MILLISECOND, 2 * SECOND),
            skew: random.below(8) * MILLISECOND,
            tuning: Tuning {
                hedge_after: milliseconds(scale / 2),
                replica_timeout: milliseconds(scale * 5),
                request_timeout: milliseconds(scale * random.between(10, 50)),
                quorum_grace: milliseconds(scale * 5),
                value_bytes_max: 1_024,
                memory_bytes: 1024 * 1024,
            },
            counter: random.percent(25),
            flushes: random.percent(40),
            chores: random.percent(40),
            deletes: 9,
            expiry: random.percent(50),
            planned: changes && random.percent(20),
            rivals: *random.pick(&[0, 50, 100]),
            pulse: random.between(60, 300) * MILLISECOND,
            grace: random.spread(20 * MILLISECOND, 500 * MILLISECOND),
            virtual_nodes: random.between(1, 6) as u32,
        };
        match random.below(100) {
            0..15 => plan.heal(random),
            15..25 => plan.quarrel(random),
            _ => {}
        }
        plan
    }
}
