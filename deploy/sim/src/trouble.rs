//! What goes wrong, and when it ends.

use tercet_check::Outcome;

use crate::agenda::{MILLISECOND, Time};
use crate::history::Purpose;
use crate::model::Command;
use crate::plan::Trouble;
use crate::world::{Event, World};

impl World {
    pub(crate) fn plan_trouble(&mut self) {
        let at = self.now + self.random.between(MILLISECOND, self.plan.trouble_every);
        self.agenda.plan(at, Event::Trouble);
    }

    pub(crate) fn trouble(&mut self) {
        if self.calm {
            return;
        }
        let trouble = *self.random.pick(&self.plan.troubles);
        let worker = self.random.index(self.workers.len());
        let frontend = self.random.index(self.frontends.len());
        let lasts = self.random.spread(MILLISECOND, self.plan.trouble_lasts);
        let until = self.now + lasts;
        self.trace
            .say(self.now, || format!("{trouble:?} of w{} or f{} until {until}", worker + 1, frontend + 1));
        match trouble {
            Trouble::WorkerCrash => self.crash_worker(worker, until),
            Trouble::FrontendCrash => self.crash_frontend(frontend, until),
            Trouble::LinkReset => self.break_link(frontend, worker, until),
            Trouble::OneWayCut => {
                let to = self.random.percent(50);
                let link = &mut self.frontends[frontend].links[worker];
                *(if to { &mut link.cut_to } else { &mut link.cut_from }) = until;
            }
            Trouble::Suspicion => self.suspect(frontend, worker, until),
            Trouble::DiskFull => {
                self.set_disk_full(worker, true);
                self.agenda.plan(until, Event::EndFull(worker));
            }
            Trouble::DatabaseLost => {
                self.workers[worker].database_down_until = until;
                self.workers[worker].lose_database();
                self.plan_orphans(worker, lasts);
                self.pump(worker);
            }
            Trouble::RingChange => self.wish(),
            Trouble::LostDisk => self.lose_disk(worker, until),
            Trouble::Backup => self.back_up(worker),
            Trouble::Pause => self.workers[worker].paused_until = until,
        }
        self.plan_trouble();
    }

    pub(crate) fn set_disk_full(&mut self, worker: usize, full: bool) {
        self.workers[worker].disk.set_full(full);
        self.workers[worker].disk_full = full;
    }

    /// Commits without a client may land until somebody opens the database again.
    fn plan_orphans(&mut self, worker: usize, lasts: Time) {
        let at = self.now + self.random.below(2 * lasts);
        self.agenda.plan(at, Event::LandOrphans(worker));
    }

    pub(crate) fn crash_worker(&mut self, worker: usize, until: Time) {
        if !self.workers[worker].is_running() {
            return;
        }
        self.workers[worker].kill();
        self.plan_orphans(worker, until - self.now);
        self.agenda.plan(until, Event::StartWorker(worker));
        self.tell_of_death(worker);
    }

    /// Those who are connected to a worker that has died see it, sooner or later.
    pub(crate) fn tell_of_death(&mut self, worker: usize) {
        let worker_life = self.workers[worker].life;
        for frontend in 0..self.frontends.len() {
            let life = self.frontends[frontend].life;
            let at = self.now + self.random.spread(50, 100 * MILLISECOND);
            self.agenda.plan(at, Event::LinkDown { frontend, life, worker, worker_life });
        }
    }

    fn crash_frontend(&mut self, frontend: usize, until: Time) {
        if !self.frontends[frontend].is_running() || !self.can_spare(frontend) {
            return;
        }
        let life = self.frontends[frontend].life;
        self.frontends[frontend].kill();
        // Its clients see a broken connection: what they asked may have happened, or may yet.
        for operation in self.record.open_at(frontend, life) {
            let issued = &self.record.issued[operation];
            let read = issued.command == Command::Get;
            let purpose = issued.purpose;
            self.record.end(operation, if read { Outcome::NotApplied } else { Outcome::Uncertain });
            if let Purpose::Client(client) = purpose {
                self.let_think(client);
            }
        }
        self.agenda.plan(until, Event::StartFrontend(frontend));
    }

    fn break_link(&mut self, frontend: usize, worker: usize, until: Time) {
        self.set_link(frontend, worker, false);
        let life = self.frontends[frontend].life;
        self.agenda.plan(until, Event::LinkUp { frontend, life, worker });
    }

    /// As a circuit breaker does: what is under way goes on, and nothing new is asked.
    fn suspect(&mut self, frontend: usize, worker: usize, until: Time) {
        self.frontends[frontend].links[worker].suspected_until = until;
        self.look_at_peers(frontend);
        let life = self.frontends[frontend].life;
        self.agenda.plan(until, Event::LinkUp { frontend, life, worker });
    }
}
