//! The cluster of one schedule: frontends, workers, the network between them, and the clients.
//!
//! One event after the other is taken from the agenda and carried out; whatever follows from it is planned for a time
//! that the seed decides. Nothing else moves: a seed replays exactly.

use std::fmt::Write as _;
use std::sync::Arc;

use tercet_common::{Epoch, PartitionId, ReplicaReply, ReplicaRequest, WorkerId};
use tercet_frontend::coordinator::core::{CallId, Core, Group, Replicas, WorkerIx};
use tercet_worker::replica::Arrival;
use tercet_worker::store::memory::Snapshot;

use crate::agenda::{Agenda, MILLISECOND, SECOND, Time};
use crate::client::{Answers, Level};
use crate::frontend::Frontend;
use crate::history::{Purpose, Record};
use crate::keys::{SimKey, keys};
use crate::model::Command;
use crate::plan::Plan;
use crate::random::Random;
use crate::ring::{Change, ChangeStep, Configuration};
use crate::tasks::is_ask;
use crate::trace::{Trace, show_reply, show_request};
use crate::worker::{Pace, Step, Worker};

/// Between two rounds of a frontend's repair queue.
const REPAIR_EVERY: Time = 200 * MILLISECOND;
/// The repair reads of one round.
const REPAIR_ROUND: usize = 16;

pub(crate) enum Event {
    Client(usize),
    Request {
        stream: Stream,
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
    WorkerHolds {
        worker: usize,
        configuration: Arc<Configuration>,
    },
    FrontendHolds {
        frontend: usize,
        configuration: Arc<Configuration>,
    },
    Change {
        partition: usize,
        nth: u64,
        step: ChangeStep,
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

/// One connection of one frontend's life to one worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stream {
    pub(crate) frontend: usize,
    pub(crate) life: u64,
    pub(crate) worker: usize,
    pub(crate) generation: u32,
}

impl Stream {
    /// As the caller's number at the worker, which echoes it.
    fn pack(self) -> u64 {
        ((self.frontend as u64) << 56) | (self.life << 32) | u64::from(self.generation)
    }

    fn unpack(caller: u64, worker: usize) -> Self {
        let (frontend, life) = ((caller >> 56) as usize, (caller >> 32) & 0xff_ffff);
        Self { frontend, life, worker, generation: caller as u32 }
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) keys: Vec<SimKey>,
    pub(crate) names: Vec<WorkerId>,
    /// The one that was decided last.
    pub(crate) configuration: Arc<Configuration>,
    /// Of each partition the change under way.
    pub(crate) changes: Vec<Option<Change>>,
    pub(crate) changes_begun: u64,
    /// Of each worker's disk, perhaps an old copy.
    pub(crate) backups: Vec<Option<Snapshot>>,
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
    pub(crate) events: u64,
    pub(crate) trace: Trace,
    /// The first thing that must not be.
    pub(crate) violation: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let names =
            (1..=plan.workers + plan.spares).filter_map(|n| WorkerId::new(&format!("w{n}")).ok()).collect();
        let mut groups = Vec::new();
        for _ in 0..plan.partitions {
            let mut all: Vec<WorkerIx> = (0..plan.workers as WorkerIx).collect();
            let replicas: Replicas = (0..3).map(|_| all.swap_remove(random.index(all.len()))).collect();
            groups.push(Group::stable(Epoch(1), replicas));
        }
        let worker = |n: usize| Worker::new(&format!("w{}", n + 1), plan.partitions);
        let workers = (0..plan.workers + plan.spares).map(worker).collect();
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
            configuration: Arc::new(Configuration { number: 1, groups }),
            changes: vec![None; plan.partitions],
            changes_begun: 0,
            equal: true,
            backups: vec![None; plan.workers + plan.spares],
            frontends,
            workers,
            answers: Answers::default(),
            record: Record::default(),
            to_issue: plan.operations,
            calm: false,
            quiet_at: 0,
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
            Event::Request { stream, call, request } => self.deliver_request(stream, call, request),
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
            Event::WorkerHolds { worker, configuration } => {
                self.workers[worker].hold(configuration.membership(worker));
                self.pump(worker);
            }
            Event::FrontendHolds { frontend, configuration } => self.frontend_holds(frontend, &configuration),
            Event::Change { partition, nth, step } => self.change_step(partition, nth, step),
            Event::AskTimeout { frontend, life, ask } if self.frontends[frontend].life == life => {
                self.ask_timeout(frontend, ask);
            }
            Event::AskTimeout { .. } => {}
            Event::Chore => self.chore(),
            Event::Trouble => self.trouble(),
        }
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
        if self.workers[worker].life == 1 {
            // Who begins anew has registered, and holds the configuration of that time.
            self.workers[worker].hold(self.configuration.membership(worker));
        }
        self.pump(worker);
        self.tell_worker(worker);
        for frontend in 0..self.frontends.len() {
            let life = self.frontends[frontend].life;
            let at = self.now + self.random.spread(100, 20 * MILLISECOND);
            self.agenda.plan(at, Event::LinkUp { frontend, life, worker });
        }
    }

    pub(crate) fn start_frontend(&mut self, nth: usize) {
        if self.frontends[nth].core.is_some() {
            return;
        }
        let groups = self.configuration.groups.iter().enumerate();
        let ring: Vec<_> = groups.map(|(nth, group)| (self.partition_id(nth), group.clone())).collect();
        let (tuning, names) = (self.plan.tuning.clone(), self.names.clone());
        self.frontends[nth].start(nth, tuning, names, ring);
        self.frontends[nth].configuration = Some(self.configuration.clone());
        let life = self.frontends[nth].life;
        self.trace.say(self.now, || format!("f{} starts its life {life}", nth + 1));
        for worker in 0..self.workers.len() {
            let at = self.now + self.random.spread(50, 5 * MILLISECOND);
            self.agenda.plan(at, Event::LinkUp { frontend: nth, life, worker });
        }
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
        self.with_core(frontend, |core| {
            if broke {
                core.peer(worker as WorkerIx, false);
                core.link_lost(worker as WorkerIx);
            }
            core.peer(worker as WorkerIx, up);
        });
    }

    /// Does something with a core, then carries out what it decides.
    pub(crate) fn with_core(&mut self, nth: usize, event: impl FnOnce(&mut Core)) {
        let frontend = &mut self.frontends[nth];
        frontend.set_time(self.now);
        let Some(core) = &mut frontend.core else { return };
        event(core);
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

    /// How long a message is on its way. Messages overtake each other.
    fn delay(&mut self) -> Time {
        let (usual, worst) = self.plan.delay;
        if !self.calm && self.random.permille(self.plan.late) {
            self.random.between(usual, worst)
        } else {
            self.random.between(usual / 4, usual)
        }
    }

    pub(crate) fn send(&mut self, frontend: usize, worker: WorkerIx, call: CallId, request: ReplicaRequest) {
        let worker = usize::from(worker);
        let link = self.frontends[frontend].links[worker];
        let life = self.frontends[frontend].life;
        let stream = Stream { frontend, life, worker, generation: link.generation };
        let lost = link.cut_to > self.now || !self.calm && self.random.permille(self.plan.lost);
        self.trace.say(self.now, || {
            let lost = if lost { "  LOST" } else { "" };
            format!("f{}→w{} {} {}{lost}", frontend + 1, worker + 1, call.raw(), show_request(&request))
        });
        if lost {
            return;
        }
        if !self.calm && self.random.permille(self.plan.doubled) {
            let at = self.now + self.delay() * 2;
            self.agenda.plan(at, Event::Request { stream, call, request: request.clone() });
        }
        let at = self.now + self.delay();
        self.agenda.plan(at, Event::Request { stream, call, request });
    }

    fn deliver_request(&mut self, stream: Stream, call: CallId, request: ReplicaRequest) {
        let worker = &mut self.workers[stream.worker];
        if worker.paused_until > self.now {
            return self.agenda.plan(worker.paused_until, Event::Request { stream, call, request });
        }
        if worker.is_running() {
            self.trace.say(self.now, || {
                format!("  w{} takes {} of f{}", stream.worker + 1, call.raw(), stream.frontend + 1)
            });
            worker.submit(Arrival::new(stream.pack(), call.raw(), self.now, request));
            self.pump(stream.worker);
        }
    }

    fn deliver_reply(&mut self, stream: Stream, call: CallId, reply: ReplicaReply) {
        let frontend = &self.frontends[stream.frontend];
        if frontend.life == stream.life && frontend.links[stream.worker].generation == stream.generation {
            self.trace.say(self.now, || format!("  f{} hears {}", stream.frontend + 1, call.raw()));
            if is_ask(call) {
                self.ask_answered(stream.frontend, call, reply);
            } else {
                self.with_core(stream.frontend, |core| core.reply(call, reply));
            }
        }
    }

    fn worker_step(&mut self, nth: usize, life: u64, step: Step) {
        let (now, pace) = (self.now, self.pace());
        let worker = &mut self.workers[nth];
        if worker.life != life {
            return;
        }
        if worker.paused_until > now && !step.is_of_database() {
            return self.agenda.plan(worker.paused_until, Event::Worker { worker: nth, life, step });
        }
        worker.step(now, step, pace, &mut self.random);
        self.trace.say(now, || format!("  w{} {step:?}", nth + 1));
        self.pump(nth);
    }

    fn pace(&self) -> Pace {
        Pace {
            writers: self.plan.writers,
            commit_time: self.plan.commit_time,
            failing: if self.calm { 0 } else { self.plan.failing_commits },
        }
    }

    /// Lets a worker go on, sends its answers, and plans what it plans.
    pub(crate) fn pump(&mut self, nth: usize) {
        let pace = self.pace();
        let worker = &mut self.workers[nth];
        let answers = worker.pump(pace, &mut self.random);
        let life = worker.life;
        for (after, step) in std::mem::take(&mut worker.planned) {
            self.agenda.plan(self.now + after, Event::Worker { worker: nth, life, step });
        }
        for answer in answers {
            let stream = Stream::unpack(answer.ticket.caller, nth);
            let call = CallId::from_raw(answer.ticket.id);
            let cut = self.frontends[stream.frontend].links[nth].cut_from > self.now;
            let lost = cut || !self.calm && self.random.permille(self.plan.lost);
            self.trace.say(self.now, || {
                let (frontend, lost) = (stream.frontend + 1, if lost { "  LOST" } else { "" });
                format!("w{}→f{frontend} {} {}{lost}", nth + 1, call.raw(), show_reply(&answer.reply))
            });
            if !lost {
                let at = self.now + self.delay();
                self.agenda.plan(at, Event::Reply { stream, call, reply: answer.reply });
            }
        }
    }

    pub(crate) fn plan_repair(&mut self, nth: usize) {
        let frontend = &mut self.frontends[nth];
        if !std::mem::replace(&mut frontend.repair_planned, true) {
            self.agenda.plan(self.now + REPAIR_EVERY, Event::Repair { frontend: nth, life: frontend.life });
        }
    }

    /// A round of the repair queue, as the shell does it: flushes are sent again, keys are read from all replicas.
    fn repair(&mut self, nth: usize) {
        let frontend = &mut self.frontends[nth];
        frontend.repair_planned = false;
        let is_gone = |worker: WorkerIx| self.workers[usize::from(worker)].is_gone;
        frontend.missed_keys.retain(|(worker, _)| !is_gone(*worker));
        frontend.missed_flushes.retain(|(worker, _), _| !is_gone(*worker));
        let is_up = |worker: WorkerIx| frontend.links[usize::from(worker)].up;
        let flushes: Vec<_> =
            frontend.missed_flushes.extract_if(.., |(worker, _), _| is_up(*worker)).collect();
        let keys: Vec<_> = frontend
            .missed_keys
            .iter()
            .filter(|(worker, _)| is_up(*worker))
            .take(REPAIR_ROUND)
            .cloned()
            .collect();
        for missed in &keys {
            frontend.missed_keys.remove(missed);
        }
        for ((worker, partition), (ballot, clock)) in flushes {
            self.with_core(nth, |core| core.repair_flush(worker, partition, ballot, clock));
        }
        for (worker, key) in keys {
            if let Some(key) = self.keys.iter().position(|known| known.key == key) {
                self.issue(nth, Purpose::Repair(worker), key, Command::Get, Level::All);
            }
        }
        let frontend = &self.frontends[nth];
        if !(frontend.missed_flushes.is_empty() && frontend.missed_keys.is_empty()) {
            self.plan_repair(nth);
        }
    }

    /// Ends all trouble: from now on the network is whole and everybody runs.
    pub(crate) fn calm_down(&mut self) {
        self.trace.say(self.now, || "all trouble ends".to_owned());
        self.calm = true;
        let now = self.now;
        // Doubles take twice as long, and who was paused hears them a bit later.
        self.quiet_at = now + 2 * self.plan.delay.1 + 2 * MILLISECOND;
        for worker in 0..self.workers.len() {
            let paused = &mut self.workers[worker];
            paused.paused_until = paused.paused_until.min(now + MILLISECOND);
            paused.database_down_until = now;
            self.set_disk_full(worker, false);
            if was_started(&self.workers[worker]) {
                self.start_worker(worker);
                self.tell_worker(worker);
            }
        }
        for nth in 0..self.frontends.len() {
            for link in &mut self.frontends[nth].links {
                (link.cut_to, link.cut_from, link.suspected_until) = (now, now, now);
            }
            self.start_frontend(nth);
            let configuration = self.configuration.clone();
            self.frontend_holds(nth, &configuration);
            for worker in 0..self.workers.len() {
                self.set_link(nth, worker, true);
            }
        }
        self.replace_gone();
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.record.unanswered() == 0
            && self.changes.iter().all(Option::is_none)
            && self.frontends.iter().all(|f| f.is_idle() && f.number() == self.configuration.number)
            && self.workers.iter().all(Worker::is_idle)
    }

    /// What is still under way, in words.
    pub(crate) fn left(&self) -> String {
        let mut left = format!("{} operations unanswered;", self.record.unanswered());
        for (nth, frontend) in self.frontends.iter().enumerate() {
            let core = frontend.core.as_ref().map(|core| (core.in_flight(), core.waiting()));
            let missed = (frontend.missed_keys.len(), frontend.missed_flushes.len());
            let _ = write!(left, " f{}: {core:?}, missed {missed:?};", nth + 1);
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
