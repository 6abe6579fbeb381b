//! The cluster of one schedule: frontends, workers, the network between them, and the clients.
//!
//! One event after the other is taken from the agenda and carried out; whatever follows from it is planned for a time
//! that the seed decides. Nothing else moves: a seed replays exactly.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tercet_common::ring_proposer::Voter;
use tercet_common::{PartitionId, ReplicaReply, ReplicaRequest, RingConfig, WorkerId};
use tercet_frontend::coordinator::core::{CallId, Core, WorkerIx};
use tercet_frontend::membership::council::{Errand, Reply};

use crate::agenda::{Agenda, MILLISECOND, SECOND, Time};
use crate::calls::Parcel;
use crate::client::Answers;
use crate::council::Council;
use crate::decide::Ledger;
use crate::frontend::Frontend;
use crate::history::Record;
use crate::keys::{SimKey, keys};
use crate::loss::Backup;
use crate::network::Stream;
use crate::plan::Plan;
use crate::random::Random;
use crate::ring::first;
use crate::trace::Trace;
use crate::worker::{Step, Worker};

/// After so many pulses without trouble, everybody has been heard of again.
const PULSES_TO_STEADY: u64 = 8;

pub(crate) enum Event {
    Client(usize),
    Request {
        stream: Stream,
        /// The start of the worker that the stream was opened to.
        worker_life: u64,
        call: CallId,
        request: ReplicaRequest,
    },
    Reply {
        stream: Stream,
        call: CallId,
        reply: ReplicaReply,
    },
    Tick {
        frontend: usize,
        life: u64,
    },
    Worker {
        worker: usize,
        life: u64,
        step: Step,
    },
    Repair {
        frontend: usize,
        life: u64,
    },
    /// A frontend finds a link up again.
    LinkUp {
        frontend: usize,
        life: u64,
        worker: usize,
    },
    /// A frontend learns that a worker's life has ended.
    LinkDown {
        frontend: usize,
        life: u64,
        worker: usize,
        worker_life: u64,
    },
    StartWorker(usize),
    StartFrontend(usize),
    EndFull(usize),
    LandOrphans(usize),
    /// A heartbeat of a worker comes to a frontend.
    Beat {
        frontend: usize,
        life: u64,
        worker: usize,
    },
    /// Heartbeats of all.
    Pulse {
        frontend: usize,
        life: u64,
    },
    /// What a worker as a whole is asked, and says.
    Call(Parcel),
    Answer(Box<(Parcel, Reply)>),
    CallTimeout {
        frontend: usize,
        life: u64,
        errand: Arc<Errand>,
    },
    /// A frontend looks at what it knows of workers and configurations, and at what it is changing.
    Attend {
        frontend: usize,
        life: u64,
    },
    Drive {
        frontend: usize,
        life: u64,
    },
    /// Of a procedure's request.
    AskTimeout {
        frontend: usize,
        life: u64,
        ask: u64,
    },
    /// Some healing procedure begins somewhere.
    Chore,
    Trouble,
}

/// See the module.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) keys: Vec<SimKey>,
    pub(crate) names: Vec<WorkerId>,
    /// What the settings of all frontends say of the ring.
    first: Arc<RingConfig>,
    /// What anybody knows to be decided.
    pub(crate) ledger: Ledger,
    /// Of each worker's disk, perhaps an old copy.
    pub(crate) backups: Vec<Option<Backup>>,
    /// Comparisons since this was set have found all equal.
    pub(crate) equal: bool,
    pub(crate) frontends: Vec<Frontend>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) answers: Answers,
    pub(crate) record: Record,
    /// Operations that clients have not begun yet.
    pub(crate) to_issue: usize,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
    /// Then the last message has arrived that was sent before the calm.
    pub(crate) quiet_at: Time,
    /// Then everybody has been heard of since, by everybody.
    pub(crate) steady_at: Time,
    pub(crate) events: u64,
    pub(crate) trace: Trace,
    /// The first thing that must not be.
    pub(crate) violation: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let names: Vec<WorkerId> =
            (1..=plan.workers + plan.spares).filter_map(|n| WorkerId::new(&format!("w{n}")).ok()).collect();
        let voter = |id: &WorkerId| Voter { id: id.clone(), uuid: id.to_string() };
        let voters: Vec<Voter> = names.iter().map(voter).collect();
        let listed = &voters[..plan.workers];
        let first = first(listed, plan.partitions, plan.virtual_nodes, plan.planned, &mut random);
        let workers = voters.into_iter().map(|voter| Worker::new(voter, plan.partitions)).collect();
        let skew = (plan.skew / MILLISECOND).cast_signed();
        let mut frontend = |_| {
            Frontend::new(
                plan.workers + plan.spares,
                random.between(0, 2 * skew.unsigned_abs()).cast_signed() - skew,
            )
        };
        let frontends = (0..plan.frontends).map(&mut frontend).collect();
        let mut world = Self {
            now: 0,
            agenda: Agenda::default(),
            keys: keys(plan.keys, plan.partitions),
            names,
            first: Arc::new(first),
            ledger: Ledger::default(),
            equal: true,
            backups: vec![None; plan.workers + plan.spares],
            frontends,
            workers,
            answers: Answers::default(),
            record: Record::default(),
            to_issue: plan.operations,
            calm: false,
            quiet_at: 0,
            steady_at: 0,
            events: 0,
            trace,
            violation: None,
            random,
            plan,
        };
        world.trace.say(0, || format!("{:?}", world.plan));
        world.begin();
        world
    }

    fn begin(&mut self) {
        for worker in 0..self.plan.workers {
            self.start_worker(worker);
        }
        for frontend in 0..self.frontends.len() {
            self.start_frontend(frontend);
        }
        if self.plan.chores {
            self.plan_chore();
        }
        for client in 0..self.plan.clients {
            let at = self.random.below(self.plan.think_time);
            self.agenda.plan(at, Event::Client(client));
        }
        if !self.plan.troubles.is_empty() {
            self.plan_trouble();
        }
    }

    /// Says that something is that must not be. The schedule ends.
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.trace.say(self.now, || format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    /// Carries events out until `done`, or `until`, or something is wrong. `false`: not done.
    pub(crate) fn run(&mut self, until: Time, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if self.violation.is_some() {
                return false;
            }
            if done(self) {
                return true;
            }
            let Some((at, event)) = self.agenda.take_next() else { return false };
            if at > until {
                self.agenda.plan(at, event);
                self.now = self.now.max(until);
                return false;
            }
            self.now = self.now.max(at);
            self.events += 1;
            self.carry_out(event);
        }
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Client(client) => self.client_turn(client),
            Event::Request { stream, worker_life, call, request } => {
                self.deliver_request(stream, worker_life, call, request);
            }
            Event::Reply { stream, call, reply } => self.deliver_reply(stream, call, reply),
            Event::Tick { frontend, life } => {
                if self.frontends[frontend].life == life && self.frontends[frontend].tick_at == Some(self.now)
                {
                    self.frontends[frontend].tick_at = None;
                    self.with_core(frontend, Core::tick);
                }
            }
            Event::Worker { worker, life, step } => self.worker_step(worker, life, step),
            Event::Repair { frontend, life } if self.frontends[frontend].life == life => {
                self.repair(frontend);
            }
            Event::Repair { .. } => {}
            Event::LinkUp { frontend, life, worker } if self.frontends[frontend].life == life => {
                self.set_link(frontend, worker, true);
            }
            Event::LinkDown { frontend, life, worker, worker_life } => {
                let is_same = self.workers[worker].life == worker_life;
                if is_same && self.frontends[frontend].life == life {
                    self.set_link(frontend, worker, false);
                }
            }
            Event::LinkUp { .. } => {}
            Event::StartWorker(worker) => self.start_worker(worker),
            Event::StartFrontend(frontend) => self.start_frontend(frontend),
            Event::EndFull(worker) => self.set_disk_full(worker, false),
            Event::LandOrphans(worker) => self.land_orphans(worker),
            Event::Beat { frontend, life, worker } if self.frontends[frontend].life == life => {
                self.beat(frontend, worker);
            }
            Event::Pulse { frontend, life } if self.lives(frontend, life) => self.pulse(frontend),
            Event::Call(parcel) => self.deliver_call(parcel),
            Event::Answer(answer) => {
                let (parcel, reply) = *answer;
                self.call_answered(&parcel, reply);
            }
            Event::CallTimeout { frontend, life, errand } if self.lives(frontend, life) => {
                self.call_failed(frontend, &errand);
            }
            Event::Attend { frontend, life } if self.lives(frontend, life) => self.attend(frontend),
            Event::Drive { frontend, life } if self.lives(frontend, life) => self.drive(frontend),
            Event::Beat { .. } | Event::Pulse { .. } | Event::CallTimeout { .. } => {}
            Event::Attend { .. } | Event::Drive { .. } => {}
            Event::AskTimeout { frontend, life, ask } if self.frontends[frontend].life == life => {
                self.ask_timeout(frontend, ask);
            }
            Event::AskTimeout { .. } => {}
            Event::Chore => self.chore(),
            Event::Trouble => self.trouble(),
        }
    }

    /// The process of a frontend that something was planned for still runs.
    fn lives(&self, frontend: usize, life: u64) -> bool {
        self.frontends[frontend].life == life && self.frontends[frontend].is_running()
    }

    /// Transactions without a client reach the disk. Not behind the back of a worker that has opened it since.
    fn land_orphans(&mut self, nth: usize) {
        let disk = &self.workers[nth].disk;
        let held = || {
            (disk.journal_seq(), self.keys.iter().map(|k| disk.peek(k.partition, k.hash)).collect::<Vec<_>>())
        };
        let before = held();
        disk.land_orphans();
        if held() != before && self.workers[nth].is_open() {
            self.violate(format!("a transaction of an earlier life landed at w{}", nth + 1));
        }
    }

    pub(crate) fn start_worker(&mut self, worker: usize) {
        if self.workers[worker].is_running() || self.workers[worker].is_gone {
            return;
        }
        self.trace.say(self.now, || format!("w{} starts", worker + 1));
        self.workers[worker].start(self.plan.partitions);
        self.pump(worker);
        for frontend in 0..self.frontends.len() {
            let life = self.frontends[frontend].life;
            let at = self.now + self.random.spread(100, 20 * MILLISECOND);
            self.agenda.plan(at, Event::LinkUp { frontend, life, worker });
        }
    }

    pub(crate) fn start_frontend(&mut self, nth: usize) {
        if self.frontends[nth].is_running() {
            return;
        }
        let grace = Duration::from_micros(self.plan.grace);
        let first = self.first.clone();
        self.frontends[nth].start(nth, self.now, first, grace, self.plan.pulse);
        let life = self.frontends[nth].life;
        self.trace.say(self.now, || format!("f{} starts its life {life}", nth + 1));
        for worker in 0..self.workers.len() {
            let at = self.now + self.random.spread(50, 5 * MILLISECOND);
            self.agenda.plan(at, Event::LinkUp { frontend: nth, life, worker });
        }
        self.plan_pulse(nth);
    }

    pub(crate) fn set_link(&mut self, frontend: usize, worker: usize, up: bool) {
        let up = up && self.workers[worker].is_running();
        let (now, worker_life) = (self.now, self.workers[worker].life);
        let life = self.frontends[frontend].life;
        let link = &mut self.frontends[frontend].links[worker];
        if up && link.suspected_until > now {
            return self.agenda.plan(link.suspected_until, Event::LinkUp { frontend, life, worker });
        }
        // Also if the worker died and came back before anybody saw that it was away.
        let broke = link.up && (!up || link.worker_life != worker_life);
        link.worker_life = worker_life;
        link.up = up;
        link.generation += u32::from(broke);
        self.trace
            .say(now, || format!("f{}-w{} is {}", frontend + 1, worker + 1, if up { "up" } else { "down" }));
        if broke {
            self.frontends[frontend].tasks.link_lost(worker as WorkerIx);
        }
        if broke {
            self.frontends[frontend].links[worker].usable = false;
            self.with_core(frontend, |core| {
                core.peer(worker as WorkerIx, false);
                core.link_lost(worker as WorkerIx);
            });
        }
        self.beat(frontend, worker);
        self.look_at_peers(frontend);
        self.plan_attend(frontend, now);
    }

    /// Does something with a core, then carries out what it decides.
    pub(crate) fn with_core(&mut self, nth: usize, event: impl FnOnce(&mut Core)) {
        let frontend = &mut self.frontends[nth];
        frontend.set_time(self.now);
        let Some(core) = &mut frontend.core else { return };
        event(core);
        if core.out.proof_due {
            core.prove();
        }
        let out = std::mem::take(&mut core.out);
        let next = core.next_timer();
        if out.counts.clock_conflicts > 0 {
            self.violate("clock order contradicts ballot order");
        }
        self.plan_tick(nth, next.map(|at| at.as_micros() as Time));
        for (worker, call, request) in out.sends {
            self.send(nth, worker, call, request);
        }
        if !out.missed.is_empty() {
            self.frontends[nth].note_missed(out.missed);
            self.plan_repair(nth);
        }
        for completion in out.completions {
            completion.deliver();
        }
        for ended in self.answers.take() {
            self.conclude(ended);
        }
        self.poll_tasks(nth);
    }

    fn plan_tick(&mut self, nth: usize, next: Option<Time>) {
        let frontend = &mut self.frontends[nth];
        let Some(next) = next else { return };
        let at = next.max(self.now + 1);
        if frontend.tick_at.is_none_or(|planned| at < planned) {
            frontend.tick_at = Some(at);
            self.agenda.plan(at, Event::Tick { frontend: nth, life: frontend.life });
        }
    }

    /// Ends all trouble: from now on the network is whole and everybody runs.
    pub(crate) fn calm_down(&mut self) {
        self.trace.say(self.now, || "all trouble ends".to_owned());
        self.calm = true;
        self.to_issue = 0;
        let now = self.now;
        // Doubles take twice as long, and who was paused hears them a bit later.
        self.quiet_at = now + 2 * self.plan.delay.1 + 2 * MILLISECOND;
        self.steady_at = now + PULSES_TO_STEADY * self.plan.pulse;
        for worker in 0..self.workers.len() {
            let paused = &mut self.workers[worker];
            paused.paused_until = paused.paused_until.min(now + MILLISECOND);
            paused.database_down_until = now;
            self.set_disk_full(worker, false);
            if was_started(&self.workers[worker]) {
                self.start_worker(worker);
            }
        }
        for nth in 0..self.frontends.len() {
            for link in &mut self.frontends[nth].links {
                (link.cut_to, link.cut_from, link.suspected_until) = (now, now, now);
            }
            self.start_frontend(nth);
            self.frontends[nth].driver.wish = None;
            self.plan_drive(nth, now + 1);
            for worker in 0..self.workers.len() {
                self.set_link(nth, worker, true);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let newest = self.ledger.newest().map_or(0, |ring| ring.epoch.0);
        self.record.unanswered() == 0
            && (self.now > self.steady_at || !self.plan.planned)
            && self.frontends.iter().all(|f| f.is_idle() && f.number() == newest)
            && self.workers.iter().all(Worker::is_idle)
            && self.frontends.iter().all(|frontend| self.uses_all(frontend))
    }

    /// The frontend may ask every member for data.
    fn uses_all(&self, frontend: &Frontend) -> bool {
        let Some(configuration) = &frontend.configuration else { return false };
        let mut members = (0..self.workers.len()).filter(|slot| {
            let worker = &self.workers[*slot];
            worker.is_running() && worker.voter.is_member(&configuration.ring)
        });
        members.all(|slot| frontend.links[slot].usable)
    }

    /// What is still under way, in words.
    pub(crate) fn left(&self) -> String {
        let mut left = format!("{} operations unanswered;", self.record.unanswered());
        for (nth, frontend) in self.frontends.iter().enumerate() {
            let core = frontend.core.as_ref().map(|core| (core.in_flight(), core.waiting()));
            let missed = (frontend.missed_keys.len(), frontend.missed_flushes.len());
            let council = frontend.council.as_ref().is_some_and(Council::is_at_rest);
            let ring = (frontend.number(), council, frontend.driver.rests, frontend.tasks.is_idle());
            let _ = write!(left, " f{}: {core:?}, missed {missed:?}, ring {ring:?};", nth + 1);
        }
        for (nth, worker) in self.workers.iter().enumerate() {
            let _ = write!(left, " w{}: {};", nth + 1, if worker.is_idle() { "idle" } else { "busy" });
        }
        left
    }

    /// Partitions have the lowest numbers; see [`crate::keys`].
    pub(crate) fn partition_id(&self, nth: usize) -> PartitionId {
        self.keys.iter().map(|key| key.partition).find(|id| id.index() == nth).unwrap_or(PartitionId::MIN)
    }

    /// Longer than any operation may take.
    pub(crate) fn patience(&self) -> Time {
        20 * SECOND
    }
}

/// Whether a worker was ever started.
fn was_started(worker: &Worker) -> bool {
    worker.life > 0
}
