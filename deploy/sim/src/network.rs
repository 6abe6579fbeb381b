//! The network between frontends and workers, and what workers do with what they get.

use tercet_common::{ReplicaReply, ReplicaRequest};
use tercet_frontend::coordinator::core::{CallId, WorkerIx};
use tercet_worker::replica::Arrival;

use crate::agenda::Time;
use crate::tasks::is_ask;
use crate::trace::{show_reply, show_request};
use crate::worker::{Pace, Step};
use crate::world::{Event, World};

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

impl World {
    /// How long a message is on its way. Messages overtake each other.
    pub(crate) fn delay(&mut self) -> Time {
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
        let (stream, worker_life) = (self.frontends[frontend].stream(frontend, worker), link.worker_life);
        let lost = link.cut_to > self.now || !self.calm && self.random.permille(self.plan.lost);
        self.trace.say(self.now, || {
            let lost = if lost { "  LOST" } else { "" };
            format!("f{}→w{} {} {}{lost}", frontend + 1, worker + 1, call.raw(), show_request(&request))
        });
        if lost {
            return;
        }
        // A stream carries nothing twice, and for what a client wants put that counts: one copy refused and the other stored
        // would be told as not applied. Frontends themselves send such things again, where no answer came.
        let once = matches!(request, ReplicaRequest::Put { .. } | ReplicaRequest::Flush { chosen: None, .. });
        if !self.calm && self.random.permille(self.plan.doubled) && !once {
            let at = self.now + self.delay() * 2;
            self.agenda.plan(at, Event::Request { stream, worker_life, call, request: request.clone() });
        }
        let at = self.now + self.delay();
        self.agenda.plan(at, Event::Request { stream, worker_life, call, request });
    }

    /// A connection ends with the process that it was made to.
    pub(crate) fn deliver_request(
        &mut self,
        stream: Stream,
        worker_life: u64,
        call: CallId,
        request: ReplicaRequest,
    ) {
        let worker = &mut self.workers[stream.worker];
        if worker.paused_until > self.now {
            return self
                .agenda
                .plan(worker.paused_until, Event::Request { stream, worker_life, call, request });
        }
        if worker.is_running() && worker.life == worker_life {
            self.trace.say(self.now, || {
                format!("  w{} takes {} of f{}", stream.worker + 1, call.raw(), stream.frontend + 1)
            });
            worker.submit(Arrival::new(stream.pack(), call.raw(), self.now, request));
            self.pump(stream.worker);
        }
    }

    pub(crate) fn deliver_reply(&mut self, stream: Stream, call: CallId, reply: ReplicaReply) {
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

    pub(crate) fn worker_step(&mut self, nth: usize, life: u64, step: Step) {
        let (now, pace) = (self.now, self.pace());
        let worker = &mut self.workers[nth];
        if worker.life != life {
            return;
        }
        if worker.paused_until > now && !step.is_of_database() {
            return self.agenda.plan(worker.paused_until, Event::Worker { worker: nth, life, step });
        }
        worker.step(now, step, pace, &mut self.random);
        let opens = step == Step::Reopen && worker.is_open();
        self.trace.say(now, || format!("  w{} {step:?}", nth + 1));
        self.pump(nth);
        if opens {
            self.opened(nth);
        }
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
        self.send_decided(nth);
    }

    /// A message does not arrive.
    pub(crate) fn is_lost(&mut self, cut: bool) -> bool {
        cut || !self.calm && self.random.permille(self.plan.lost)
    }
}
