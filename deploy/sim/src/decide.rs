//! How configurations come to be decided, and who learns of them: councils and workers, and the network between them.
//!
//! ```text
//!  pulse ─▶ beats ─┐
//!  answers ────────┴▶ attend: judge ─▶ adopt what is in force ─▶ calls ─▶ network ─▶ worker ─▶ network ─▶ answer
//! ```
//!
//! Frontends act on the configuration that their own proposer has in force, workers on the newest that their register knows to
//! be decided. What anybody takes for decided is held against what anybody else did, all the time: of one number
//! there is one configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tercet_common::RingConfig;
use tercet_frontend::coordinator::core::{Core, WorkerIx};

use crate::agenda::{MILLISECOND, Time};
use crate::calls::{Beat, Call, Errand, Said};
use crate::network::Stream;
use crate::ring::Configuration;
use crate::world::{Event, World};

/// All configurations that anybody took for decided, by number.
#[derive(Default)]
pub(crate) struct Ledger(BTreeMap<u64, Arc<RingConfig>>);

impl Ledger {
    /// `false`: another one of this number was decided.
    fn note(&mut self, ring: &Arc<RingConfig>) -> bool {
        *self.0.entry(ring.epoch.0).or_insert_with(|| ring.clone()) == *ring
    }

    pub(crate) fn newest(&self) -> Option<&Arc<RingConfig>> {
        self.0.last_key_value().map(|(_, ring)| ring)
    }
}

impl World {
    /// The newest configuration that anybody knows, as nobody in the schedule can see it.
    pub(crate) fn newest(&self) -> Option<Configuration> {
        self.ledger.newest().map(|ring| self.configuration(ring))
    }

    fn configuration(&self, ring: &Arc<RingConfig>) -> Configuration {
        let voters: Vec<_> = self.workers.iter().map(|worker| worker.voter.clone()).collect();
        Configuration::of(ring.clone(), &voters, self.plan.partitions)
    }

    fn note_decided(&mut self, ring: &Arc<RingConfig>) {
        if !self.ledger.note(ring) {
            self.violate(format!("two configurations of number {}", ring.epoch.0));
        }
    }

    /// The frontend looks at what it knows of workers and configurations, no later than `at`.
    pub(crate) fn plan_attend(&mut self, nth: usize, at: Time) {
        let frontend = &mut self.frontends[nth];
        if frontend.is_running() && frontend.attend_at.is_none_or(|planned| at < planned) {
            frontend.attend_at = Some(at);
            self.agenda.plan(at, Event::Attend { frontend: nth, life: frontend.life });
        }
    }

    pub(crate) fn attend(&mut self, nth: usize) {
        let now = Duration::from_micros(self.now);
        let frontend = &mut self.frontends[nth];
        if frontend.attend_at.take_if(|at| *at <= self.now).is_none() {
            return;
        }
        let Some(council) = &mut frontend.council else { return };
        if council.proposer.wakes_at().is_some_and(|at| at <= now) {
            council.proposer.tick(now);
        }
        council.judge(now);
        council.name_members(now);
        let (decided, in_force) = (council.proposer.decided().cloned(), council.proposer.in_force().cloned());
        decided.iter().chain(&in_force).for_each(|ring| self.note_decided(ring));
        if let Some(ring) = in_force {
            self.adopt(nth, &ring);
        }
        self.look_at_peers(nth);
        self.make_calls(nth);
        let wakes_at = self.frontends[nth].council.as_ref().and_then(|council| council.proposer.wakes_at());
        if let Some(at) = wakes_at {
            self.plan_attend(nth, (at.as_micros() as Time).max(self.now + 1));
        }
    }

    /// A configuration is in force: the core takes it, the first one or a later one.
    fn adopt(&mut self, nth: usize, ring: &Arc<RingConfig>) {
        if self.frontends[nth].number() >= ring.epoch.0 {
            return;
        }
        self.trace.say(self.now, || format!("f{} has {} in force", nth + 1, show(ring)));
        let configuration = Arc::new(self.configuration(ring));
        self.frontends[nth].configuration = Some(configuration.clone());
        let groups = configuration.groups.iter().enumerate();
        let groups: Vec<_> = groups.map(|(p, group)| (self.partition_id(p), group.clone())).collect();
        if self.frontends[nth].core.is_some() {
            for (id, group) in groups {
                self.with_core(nth, |core: &mut Core| core.reconfigure(id, group));
            }
            self.frontends[nth].forget_departed();
        } else {
            let (tuning, names) = (self.plan.tuning.clone(), self.names.clone());
            self.frontends[nth].form(tuning, names, groups);
        }
        let at = self.now + if self.calm { 1 } else { self.random.spread(50, 20 * MILLISECOND) };
        self.plan_drive(nth, at);
    }

    /// A worker may be asked for data while its link is up and it is a member over sound data.
    pub(crate) fn look_at_peers(&mut self, nth: usize) {
        for worker in 0..self.workers.len() {
            let now = self.now;
            let frontend = &mut self.frontends[nth];
            // Whoever connects is told which start of the worker is there.
            let generation = self.workers[worker].generation();
            let member = frontend
                .council
                .as_ref()
                .is_some_and(|council| council.is_member(worker) && council.knows_start(worker, generation));
            let link = &mut frontend.links[worker];
            let usable = link.up && link.suspected_until <= now && member && frontend.core.is_some();
            if std::mem::replace(&mut link.usable, usable) != usable {
                let shown = if usable { "uses" } else { "does not use" };
                self.trace.say(now, || format!("f{} {shown} w{}", nth + 1, worker + 1));
                self.with_core(nth, |core| core.peer(worker as WorkerIx, usable));
            }
        }
    }

    fn make_calls(&mut self, nth: usize) {
        let frontend = &mut self.frontends[nth];
        let (links, life) = (&frontend.links, frontend.life);
        let Some(council) = &mut frontend.council else { return };
        let due = council.due(|worker| links[worker].up);
        for (worker, nr, who, call) in due {
            let stream = self.frontends[nth].stream(nth, worker);
            let patience = self.plan.tuning.replica_timeout.as_micros() as Time * 4;
            let gives_up = Event::CallTimeout { frontend: nth, life, worker, kind: call.kind(), nr };
            self.agenda.plan(self.now + patience, gives_up);
            self.send_errand(Errand { stream, nr, who, call });
        }
    }

    fn send_errand(&mut self, errand: Errand) {
        let Stream { frontend, worker, .. } = errand.stream;
        let cut = self.frontends[frontend].links[worker].cut_to > self.now;
        let lost = self.is_lost(cut);
        self.trace.say(self.now, || {
            let lost = if lost { "  LOST" } else { "" };
            format!("f{}→w{} !{} {}{lost}", frontend + 1, worker + 1, errand.nr, show_call(&errand.call))
        });
        if lost {
            return;
        }
        if !self.calm && self.random.permille(self.plan.doubled) {
            let at = self.now + self.delay() * 2;
            self.agenda.plan(at, Event::Call(Box::new(errand.clone())));
        }
        let at = self.now + self.delay();
        self.agenda.plan(at, Event::Call(Box::new(errand)));
    }

    /// A call reaches whoever is at the worker's address; what is meant for other data is refused.
    pub(crate) fn deliver_call(&mut self, errand: Errand) {
        let slot = errand.stream.worker;
        let worker = &mut self.workers[slot];
        if worker.paused_until > self.now {
            return self.agenda.plan(worker.paused_until, Event::Call(Box::new(errand)));
        }
        if !worker.is_open() {
            return;
        }
        let meant = errand.who.voter == worker.voter;
        match &errand.call {
            Call::Decide(_) => {
                worker.decide(errand);
                self.pump(slot);
            }
            Call::Recall => {
                if let Some(memory) = worker.recall() {
                    self.send_answer(errand, Said::Memory(memory));
                }
            }
            Call::Remember(witnesses) => {
                if worker.remember(witnesses.clone()).is_some() {
                    self.send_answer(errand, Said::Done);
                }
            }
            Call::Renew if meant => self.renew(slot),
            Call::Renew => {}
        }
    }

    pub(crate) fn send_answer(&mut self, errand: Errand, said: Said) {
        let Stream { frontend, worker, .. } = errand.stream;
        let cut = self.frontends[frontend].links[worker].cut_from > self.now;
        let lost = self.is_lost(cut);
        self.trace.say(self.now, || {
            let lost = if lost { "  LOST" } else { "" };
            format!("w{}→f{} !{} {}{lost}", worker + 1, frontend + 1, errand.nr, show_said(&said))
        });
        if !lost {
            let at = self.now + self.delay();
            self.agenda.plan(at, Event::Answer(Box::new((errand, said))));
        }
    }

    pub(crate) fn call_timeout(&mut self, nth: usize, worker: usize, kind: usize, nr: u64) {
        let council = self.frontends[nth].council.as_mut();
        if council.is_some_and(|council| council.gave_up(worker, kind, nr)) {
            self.plan_attend(nth, self.now);
        }
    }

    pub(crate) fn call_answered(&mut self, errand: &Errand, said: Said) {
        let Stream { frontend: nth, life, worker, .. } = errand.stream;
        let now = self.now;
        let frontend = &mut self.frontends[nth];
        let Some(council) = frontend.council.as_mut().filter(|_| frontend.life == life) else { return };
        if !council.answered(worker, errand.nr, &errand.who, &errand.call, said, now) {
            return;
        }
        if let Some(ring) = council.proposer.decided().cloned() {
            self.note_decided(&ring);
        }
        self.plan_attend(nth, now);
    }

    /// What a worker has decided by now is on its way, and known.
    pub(crate) fn send_decided(&mut self, slot: usize) {
        for (errand, state) in std::mem::take(&mut self.workers[slot].decided) {
            if let Some(ring) = &state.decided {
                self.note_decided(ring);
            }
            self.send_answer(errand, Said::State(state));
        }
    }

    /// A heartbeat of a worker comes to a frontend, if it can come.
    pub(crate) fn beat(&mut self, nth: usize, worker: usize) {
        let Some(beat) = self.heartbeat(nth, worker) else { return };
        let now = self.now;
        if let Some(council) = &mut self.frontends[nth].council {
            council.hear(worker, beat, now);
            self.plan_attend(nth, now);
        }
    }

    fn heartbeat(&mut self, nth: usize, worker: usize) -> Option<Beat> {
        let one_frontend = self.frontends.len() == 1;
        let link = &self.frontends[nth].links[worker];
        let through = link.up && link.cut_from <= self.now && self.workers[worker].paused_until <= self.now;
        let beat = self.workers[worker].beat(one_frontend).filter(|_| through)?;
        (!self.is_lost(false)).then_some(beat)
    }

    /// Between two heartbeats of every worker.
    pub(crate) fn pulse(&mut self, nth: usize) {
        for worker in 0..self.workers.len() {
            self.beat(nth, worker);
        }
        if let Some(council) = &mut self.frontends[nth].council {
            council.remind();
        }
        self.plan_attend(nth, self.now);
        let looks = if self.calm { self.now <= self.steady_at } else { self.random.percent(10) };
        if self.plan.planned && looks {
            self.plan_drive(nth, self.now);
        }
        self.plan_pulse(nth);
    }

    pub(crate) fn plan_pulse(&mut self, nth: usize) {
        let life = self.frontends[nth].life;
        self.agenda.plan(self.now + self.plan.pulse, Event::Pulse { frontend: nth, life });
    }

    /// A worker has opened its data, and tells everyone.
    pub(crate) fn opened(&mut self, worker: usize) {
        for frontend in 0..self.frontends.len() {
            let life = self.frontends[frontend].life;
            let at = self.now + self.random.spread(50, 5 * MILLISECOND);
            self.agenda.plan(at, Event::Beat { frontend, life, worker });
        }
    }
}

fn show(ring: &RingConfig) -> String {
    let joint = ring.joint_partitions().count();
    format!("#{} of {}{}", ring.epoch.0, ring.member_list(), if joint > 0 { ", joint" } else { "" })
}

fn show_call(call: &Call) -> String {
    match call {
        Call::Decide(ask) => {
            let term = format!("t{}.{}", ask.term.n, ask.term.incarnation.0);
            let known = ask.known.as_ref().map(|ring| format!(" knows {}", show(ring)));
            let accept = ask.accept.as_ref().map(|ring| format!(" accept {}", show(ring)));
            format!("decide {term}{}{}", known.unwrap_or_default(), accept.unwrap_or_default())
        }
        call => format!("{call:?}"),
    }
}

fn show_said(said: &Said) -> String {
    match said {
        Said::State(state) => {
            let vote = state.vote.as_ref().map(|vote| {
                format!(", votes t{}.{} {}", vote.term.n, vote.term.incarnation.0, show(&vote.config))
            });
            let promised = format!("t{}.{}", state.promised.n, state.promised.incarnation.0);
            format!("promised {promised}, knows #{}{}", state.number().0, vote.unwrap_or_default())
        }
        said => format!("{said:?}"),
    }
}
