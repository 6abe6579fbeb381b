//! A frontend process: a council that says which configuration is in force, a core once there is one, its links, and the queue of
//! what replicas missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tercet_common::{Ballot, Incarnation, Key, PartitionId, RingConfig, VectorClock, WorkerId};
use tercet_frontend::coordinator::core::{Core, Group, Missed, Tuning, WorkerIx};

use crate::agenda::Time;
use crate::client::wall;
use crate::council::Council;
use crate::driver::Driver;
use crate::network::Stream;
use crate::ring::Configuration;
use crate::tasks::Tasks;

/// The stream between a frontend and a worker, as the frontend sees it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Link {
    /// Changes when the stream breaks: what an earlier one carried is not answered.
    pub generation: u32,
    pub up: bool,
    /// Up, and to a member of the ring over sound data: it may be asked for data.
    pub usable: bool,
    /// Of the worker, when this stream began.
    pub worker_life: u64,
    /// Until then nothing gets through to the worker,
    pub cut_to: Time,
    /// or from it.
    pub cut_from: Time,
    /// Until then the frontend takes the worker for dead.
    pub suspected_until: Time,
}

/// See the module.
pub(crate) struct Frontend {
    /// There is one while the process runs.
    pub council: Option<Council>,
    /// There is one once the cluster has formed, as far as the frontend knows.
    pub core: Option<Core>,
    incarnation: Incarnation,
    /// When this life began.
    pub began: Time,
    /// Counts the incarnations of this frontend.
    pub life: u64,
    /// How far its clock is ahead, in milliseconds.
    pub skew: i64,
    /// When the next tick is on the agenda.
    pub tick_at: Option<Time>,
    /// When it looks at its council next.
    pub attend_at: Option<Time>,
    pub driver: Driver,
    pub links: Vec<Link>,
    pub missed_keys: BTreeSet<(WorkerIx, Key)>,
    pub missed_flushes: BTreeMap<(WorkerIx, PartitionId), (Ballot, VectorClock)>,
    pub repair_planned: bool,
    /// What is in force, as far as it knows.
    pub(crate) configuration: Option<Arc<Configuration>>,
    pub tasks: Tasks,
}

impl Frontend {
    pub(crate) fn new(workers: usize, skew: i64) -> Self {
        Self {
            council: None,
            core: None,
            incarnation: Incarnation(0),
            began: 0,
            life: 0,
            skew,
            tick_at: None,
            attend_at: None,
            driver: Driver::default(),
            links: vec![Link::default(); workers],
            missed_keys: BTreeSet::new(),
            missed_flushes: BTreeMap::new(),
            repair_planned: false,
            configuration: None,
            tasks: Tasks::default(),
        }
    }

    /// Begins a new life under an incarnation that nobody ever had. `nth` tells frontends apart.
    /// `first` is what its settings say of the ring, and `pulse` how often workers beat.
    pub(crate) fn start(
        &mut self,
        nth: usize,
        now: Time,
        first: Arc<RingConfig>,
        grace: Duration,
        pulse: Time,
    ) {
        self.life += 1;
        self.began = now;
        (self.tick_at, self.attend_at) = (None, None);
        // Which of two incarnations is the higher must not tell which is the older.
        let rank = self.life.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        self.incarnation = Incarnation((rank << 16) | (self.life << 4) | (nth as u64 + 1));
        self.council = Some(Council::new(self.incarnation, first, grace, pulse, self.links.len()));
    }

    /// The cluster has formed.
    pub(crate) fn form(
        &mut self,
        tuning: Tuning,
        names: Vec<WorkerId>,
        groups: impl IntoIterator<Item = (PartitionId, Group)>,
    ) {
        self.core = Some(Core::new(self.incarnation, tuning, names, groups));
    }

    pub(crate) fn is_running(&self) -> bool {
        self.council.is_some()
    }

    /// The connection to a worker as it is now.
    pub(crate) fn stream(&self, nth: usize, worker: usize) -> Stream {
        Stream { frontend: nth, life: self.life, worker, generation: self.links[worker].generation }
    }

    pub(crate) fn kill(&mut self) {
        self.council = None;
        self.core = None;
        self.driver = Driver::default();
        self.missed_keys.clear();
        self.missed_flushes.clear();
        self.repair_planned = false;
        self.tasks = Tasks::default();
        self.configuration = None;
        for link in &mut self.links {
            (link.generation, link.up, link.usable) = (link.generation + 1, false, false);
        }
    }

    /// Of the configuration that it holds.
    pub(crate) fn number(&self) -> u64 {
        self.configuration.as_ref().map_or(0, |held| held.number())
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.missed_keys.is_empty()
            && self.missed_flushes.is_empty()
            && self.tasks.is_idle()
            && self.driver.rests
            && self.council.as_ref().is_some_and(Council::is_at_rest)
            && self.core.as_ref().is_some_and(|core| core.in_flight() == (0, 0, 0) && core.waiting() == 0)
    }

    /// Tells the core what time it is.
    pub(crate) fn set_time(&mut self, now: Time) {
        if let Some(core) = &mut self.core {
            core.at(Duration::from_micros(now), wall(now, self.skew));
        }
    }

    /// A ring change has copied to others what waits for workers that have left.
    pub(crate) fn forget_departed(&mut self) {
        let Some(ring) = &self.configuration else { return };
        self.missed_keys.retain(|(worker, _)| ring.has_member(*worker));
        self.missed_flushes.retain(|(worker, _), _| ring.has_member(*worker));
    }

    /// Keeps what replicas missed until the next round of repair.
    pub(crate) fn note_missed(&mut self, missed: Vec<(WorkerIx, Missed)>) {
        let ring = self.configuration.clone();
        let is_member = |worker: WorkerIx| ring.as_ref().is_some_and(|ring| ring.has_member(worker));
        for (worker, missed) in missed.into_iter().filter(|(worker, _)| is_member(*worker)) {
            match missed {
                Missed::Key(key) => _ = self.missed_keys.insert((worker, key)),
                Missed::Flush { partition, ballot, clock } => {
                    let held = self.missed_flushes.entry((worker, partition)).or_default();
                    if ballot > held.0 {
                        *held = (ballot, clock);
                    }
                }
                // The simulation compares all partitions, again and again.
                Missed::UncertainFlush(_) => {}
            }
        }
    }
}
