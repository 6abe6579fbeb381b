//! How configurations come to be decided, and who learns of them: councils and workers, and the network between them.
//!
//! ```text
//!  pulse ─▶ beats ─┐
//!  answers ────────┴▶ attend: look ─▶ adopt what is in force ─▶ calls ─▶ network ─▶ worker ─▶ network ─▶ answer
//! ```
//!
//! Frontends act on the configuration that their own proposer has in force, workers on the newest that their register knows to
//! be decided. What anybody takes for decided is held against what anybody else did, all the time: of one number
//! there is one configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use tercet_common::RingConfig;
use tercet_frontend::coordinator::core::{Core, WorkerIx};
use tercet_frontend::membership::beat::Beat;
use tercet_frontend::membership::council::{Call, Errand, Reply};

use crate::agenda::{MILLISECOND, Time};
use crate::calls::Parcel;
use crate::council::{Council, address, slot_of};
use crate::network::Stream;
use crate::ring::Configuration;
use crate::world::{Event, World};

/// All configurations that anybody took for decided, by number: each copy that was met, for to compare two takes long.
#[derive(Default)]
pub(crate) struct Ledger(BTreeMap<u64, Vec<Arc<RingConfig>>>);

impl Ledger {
    /// `false`: another one of this number was decided.
    fn note(&mut self, ring: &Arc<RingConfig>) -> bool {
        let copies = self.0.entry(ring.epoch.0).or_default();
        let is_known = copies.iter().any(|copy| Arc::ptr_eq(copy, ring));
        let is_same = is_known || copies.first().is_none_or(|first| first == ring);
        if is_same && !is_known {
            copies.push(ring.clone());
        }
        is_same
    }

    pub(crate) fn newest(&self) -> Option<&Arc<RingConfig>> {
        self.0.last_key_value().and_then(|(_, copies)| copies.first())
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
        let frontend = &mut self.frontends[nth];
        if frontend.attend_at.take_if(|at| *at <= self.now).is_none() {
            return;
        }
        let Some(council) = &mut frontend.council else { return };
        council.look(self.now);
        let (decided, in_force) = (council.decided().cloned(), council.in_force().cloned());
        decided.iter().chain(&in_force).for_each(|ring| self.note_decided(ring));
        if let Some(ring) = in_force {
            self.adopt(nth, &ring);
        }
        self.look_at_peers(nth);
        self.make_calls(nth);
        let wakes_at = self.frontends[nth].council.as_ref().and_then(Council::wakes_at);
        if let Some(at) = wakes_at {
            self.plan_attend(nth, at.max(self.now + 1));
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
            let council = frontend.council.as_ref();
            let member = council.is_some_and(|council| council.is_member_since(worker, generation));
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
        let (now, life) = (self.now, self.frontends[nth].life);
        let patience = self.plan.tuning.replica_timeout.as_micros() as Time * 4;
        let due = self.frontends[nth].council.as_mut().map(|council| council.due(now)).unwrap_or_default();
        for errand in due.into_iter().map(Arc::new) {
            let Some(worker) = slot_of(&errand.to.address) else { continue };
            let frontend = &mut self.frontends[nth];
            if let Some(council) = frontend.council.as_mut().filter(|_| !frontend.links[worker].up) {
                // Nobody is there.
                council.answered(&errand, None, now);
                continue;
            }
            let gives_up = Event::CallTimeout { frontend: nth, life, errand: errand.clone() };
            self.agenda.plan(now + patience, gives_up);
            let stream = self.frontends[nth].stream(nth, worker);
            self.send_parcel(Parcel { stream, errand });
        }
    }

    fn send_parcel(&mut self, parcel: Parcel) {
        let Stream { frontend, worker, .. } = parcel.stream;
        let cut = self.frontends[frontend].links[worker].cut_to > self.now;
        let lost = self.is_lost(cut);
        self.trace.say(self.now, || {
            let lost = if lost { "  LOST" } else { "" };
            format!("f{}→w{} !{} {}{lost}", frontend + 1, worker + 1, parcel.nr(), show_call(parcel.call()))
        });
        if lost {
            return;
        }
        if !self.calm && self.random.permille(self.plan.doubled) {
            let at = self.now + self.delay() * 2;
            self.agenda.plan(at, Event::Call(parcel.clone()));
        }
        let at = self.now + self.delay();
        self.agenda.plan(at, Event::Call(parcel));
    }

    /// A call reaches whoever is at the worker's address; what is meant for another life of it is refused.
    pub(crate) fn deliver_call(&mut self, parcel: Parcel) {
        let slot = parcel.stream.worker;
        let worker = &mut self.workers[slot];
        if worker.paused_until > self.now {
            return self.agenda.plan(worker.paused_until, Event::Call(parcel));
        }
        if !worker.is_open() || parcel.life() != worker.life_of_data() {
            return;
        }
        let reply = match parcel.call() {
            Call::Decide(_) => {
                worker.decide(parcel);
                return self.pump(slot);
            }
            Call::Recall => worker.recall().map(Reply::Memory),
            Call::Remember(witnesses) => worker.remember(witnesses.clone()).map(|()| Reply::Remembered),
            Call::Renew => self.renew(slot).map(Reply::NewUuid),
        };
        if let Some(reply) = reply {
            self.send_answer(parcel, reply);
        }
    }

    pub(crate) fn send_answer(&mut self, parcel: Parcel, reply: Reply) {
        let Stream { frontend, worker, .. } = parcel.stream;
        let cut = self.frontends[frontend].links[worker].cut_from > self.now;
        let lost = self.is_lost(cut);
        self.trace.say(self.now, || {
            let lost = if lost { "  LOST" } else { "" };
            format!("w{}→f{} !{} {}{lost}", worker + 1, frontend + 1, parcel.nr(), show_reply(&reply))
        });
        if !lost {
            let at = self.now + self.delay();
            self.agenda.plan(at, Event::Answer(Box::new((parcel, reply))));
        }
    }

    /// Nobody waits for an answer any longer.
    pub(crate) fn call_failed(&mut self, nth: usize, errand: &Errand) {
        let now = self.now;
        let council = self.frontends[nth].council.as_mut();
        if council.is_some_and(|council| council.answered(errand, None, now)) {
            self.plan_attend(nth, now);
        }
    }

    pub(crate) fn call_answered(&mut self, parcel: &Parcel, reply: Reply) {
        let Stream { frontend: nth, life, .. } = parcel.stream;
        let now = self.now;
        let frontend = &mut self.frontends[nth];
        let Some(council) = frontend.council.as_mut().filter(|_| frontend.life == life) else { return };
        if !council.answered(&parcel.errand, Some(reply), now) {
            return;
        }
        if let Some(ring) = council.decided().cloned() {
            self.note_decided(&ring);
        }
        self.plan_attend(nth, now);
    }

    /// What a worker has decided by now is on its way, and known.
    pub(crate) fn send_decided(&mut self, slot: usize) {
        for (parcel, state) in std::mem::take(&mut self.workers[slot].decided) {
            if let Some(ring) = &state.decided {
                self.note_decided(ring);
            }
            self.send_answer(parcel, Reply::State(state));
        }
    }

    /// A heartbeat of a worker comes to a frontend, if it can come.
    pub(crate) fn beat(&mut self, nth: usize, worker: usize) {
        let Some(beat) = self.heartbeat(nth, worker) else { return };
        let now = self.now;
        let stream = (self.frontends[nth].links[worker].generation, self.workers[worker].life);
        if let Some(council) = &mut self.frontends[nth].council {
            council.hear(worker, stream, beat, now);
            self.plan_attend(nth, now);
        }
    }

    fn heartbeat(&mut self, nth: usize, worker: usize) -> Option<Beat> {
        let frontends = self.frontends.len() as u32;
        let link = &self.frontends[nth].links[worker];
        let through = link.up && link.cut_from <= self.now && self.workers[worker].paused_until <= self.now;
        if !through {
            return None;
        }
        let beat = self.workers[worker].beat(address(worker), frontends, self.plan.virtual_nodes)?;
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

fn show_reply(reply: &Reply) -> String {
    match reply {
        Reply::State(state) => {
            let vote = state.vote.as_ref().map(|vote| {
                format!(", votes t{}.{} {}", vote.term.n, vote.term.incarnation.0, show(&vote.config))
            });
            let promised = format!("t{}.{}", state.promised.n, state.promised.incarnation.0);
            format!("promised {promised}, knows #{}{}", state.number().0, vote.unwrap_or_default())
        }
        reply => format!("{reply:?}"),
    }
}
