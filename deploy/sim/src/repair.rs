//! A frontend's queue of what replicas missed.

use tercet_frontend::coordinator::core::WorkerIx;

use crate::agenda::{MILLISECOND, Time};
use crate::client::Level;
use crate::history::Purpose;
use crate::model::Command;
use crate::world::{Event, World};

/// Between two rounds of a frontend's repair queue.
const REPAIR_EVERY: Time = 200 * MILLISECOND;
/// The repair reads of one round.
const REPAIR_ROUND: usize = 16;

impl World {
    pub(crate) fn plan_repair(&mut self, nth: usize) {
        let frontend = &mut self.frontends[nth];
        if !std::mem::replace(&mut frontend.repair_planned, true) {
            self.agenda.plan(self.now + REPAIR_EVERY, Event::Repair { frontend: nth, life: frontend.life });
        }
    }

    /// A round of the repair queue, as the shell does it: flushes are sent again, keys are read from all replicas.
    pub(crate) fn repair(&mut self, nth: usize) {
        let frontend = &mut self.frontends[nth];
        frontend.repair_planned = false;
        let is_gone = |worker: WorkerIx| self.workers[usize::from(worker)].is_gone;
        frontend.missed_keys.retain(|(worker, _)| !is_gone(*worker));
        frontend.missed_flushes.retain(|(worker, _), _| !is_gone(*worker));
        let is_up = |worker: WorkerIx| frontend.links[usize::from(worker)].usable;
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
}
