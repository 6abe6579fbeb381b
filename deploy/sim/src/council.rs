//! What one life of a frontend knows of workers and of configurations: the real registry and the real rules, with what the
//! shell of the real membership (`embedded`) does between them.
//!
//! ```text
//!  beats ─▶ registry ─▶ rules ─▶ due(): decide, recall, renew, remember ─▶ network ─▶ workers
//!           (Members)   (Council) ◀───────────────────────────────── answers
//!               └──────────┴──▶ is_member(slot), in_force() ─▶ the core, and its links
//! ```
//!
//! A worker is known by its id there, and by its slot here: the slot is in the address that it announces.

use std::sync::Arc;
use std::time::Duration;

use tercet_common::backoff::BackoffPolicy;
use tercet_common::detector::DetectorConfig;
use tercet_common::ring_proposer::StaleProposal;
use tercet_common::{Epoch, Incarnation, RingConfig, UnixMillis};
use tercet_frontend::membership::beat::Beat;
use tercet_frontend::membership::council::{CALLS_MAX, Council as Rules, Errand, Reply, Taken};
use tercet_frontend::membership::members::{Members, MembersView, Registered, Session, Standing};

use crate::agenda::Time;

/// The address of the worker in a slot, and back.
pub(crate) fn address(slot: usize) -> String {
    format!("slot-{slot}.example:1")
}

pub(crate) fn slot_of(address: &str) -> Option<usize> {
    address.strip_prefix("slot-")?.split('.').next()?.parse().ok()
}

/// A stream of heartbeats from one start of a worker: the connection's generation, and the worker's life.
pub(crate) type BeatStream = (u32, u64);

/// See the module.
#[derive(Debug)]
pub(crate) struct Council {
    rules: Rules,
    members: Members,
    /// Of the configuration that the registry has.
    number: Epoch,
    /// All who are registered, as of the last look,
    workers: Vec<Registered>,
    /// by slot,
    places: Vec<Option<usize>>,
    /// since when the registry has changed.
    stale: bool,
    /// By slot.
    streams: Vec<Option<(BeatStream, Session)>>,
}

impl Council {
    /// `pulse` is the time between two heartbeats; the other waits are to it as in the real membership.
    pub(crate) fn new(
        me: Incarnation,
        first: Arc<RingConfig>,
        grace: Duration,
        pulse: Time,
        slots: usize,
    ) -> Self {
        let pulse = Duration::from_micros(pulse);
        let detector = DetectorConfig::new(pulse, pulse * 3).expect("three beats fit");
        let retry = BackoffPolicy::new(pulse / 10, pulse * 5 / 2, 0.3).expect("constants in range");
        let members = Members::new(detector, first.clone());
        Self {
            rules: Rules::new(me, first, grace, retry),
            members,
            number: Epoch(0),
            workers: Vec::new(),
            places: vec![None; slots],
            stale: false,
            streams: vec![None; slots],
        }
    }

    /// A heartbeat: the first one of a stream registers. A worker that is refused begins another stream with its next one.
    pub(crate) fn hear(&mut self, slot: usize, stream: BeatStream, beat: Beat, now: Time) {
        let (at, wall) = (Duration::from_micros(now), UnixMillis((now / 1_000).cast_signed()));
        self.stale = true;
        let known = self.streams[slot].filter(|(known, _)| *known == stream);
        let session = match known {
            Some((_, session)) => self.members.beat(session, beat, at, wall).map(|()| session),
            None => self.members.register(beat, at, wall),
        };
        self.streams[slot] = session.ok().map(|session| (stream, session));
        if known.is_none() {
            // Links follow the registry at once.
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        self.workers = self.members.registered();
        self.places.fill(None);
        for (place, worker) in self.workers.iter().enumerate() {
            if let Some(slot) = slot_of(&worker.address) {
                self.places[slot] = Some(place);
            }
        }
        self.stale = false;
    }

    /// Looks at who is there, until nothing is news any more.
    pub(crate) fn look(&mut self, now: Time) {
        loop {
            if self.stale {
                self.refresh();
            }
            for (worker, findings) in self.rules.step(&self.workers, Duration::from_micros(now)) {
                self.stale |= self.members.found(&worker.witness, findings);
            }
            if let Some(ring) = self.rules.in_force().filter(|ring| ring.epoch > self.number) {
                self.number = ring.epoch;
                self.members.set_ring(ring.clone());
                self.stale = true;
            }
            if !self.stale {
                return;
            }
        }
    }

    fn worker(&self, slot: usize) -> Option<&Registered> {
        self.places[slot].map(|place| &self.workers[place])
    }

    /// The only standing in which a worker counts as a replica.
    pub(crate) fn is_member(&self, slot: usize) -> bool {
        self.worker(slot).is_some_and(|worker| worker.standing == Standing::Member)
    }

    /// As [`Self::is_member`], and it is this start of the worker.
    pub(crate) fn is_member_since(&self, slot: usize, generation: u64) -> bool {
        let is_it = |worker: &Registered| worker.witness.boot_generation == generation;
        self.worker(slot).is_some_and(is_it) && self.is_member(slot)
    }

    /// All workers as of now.
    pub(crate) fn view(&self, now: Time) -> MembersView {
        self.members.view(Duration::from_micros(now))
    }

    /// As happens now and then.
    pub(crate) fn remind(&mut self) {
        self.rules.remind();
    }

    /// The calls to make now.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Errand> {
        self.rules.due(&self.workers, CALLS_MAX, Duration::from_micros(now))
    }

    /// When it is to look again although nothing is heard.
    pub(crate) fn wakes_at(&self) -> Option<Time> {
        self.rules.wakes_at(true).map(|at| at.as_micros() as Time)
    }

    /// What became of a call; `None`: it failed. `true`: there may be something to do now.
    pub(crate) fn answered(&mut self, errand: &Errand, reply: Option<Reply>, now: Time) -> bool {
        let taken = self.rules.answered(errand, reply, Duration::from_micros(now));
        if let Taken::Renewed(_) = taken {
            self.members.renewed(&errand.to.witness);
            self.stale = true;
        }
        taken != Taken::Void
    }

    pub(crate) fn propose(&mut self, next: Arc<RingConfig>, now: Time) -> Result<(), StaleProposal> {
        self.rules.propose(next, Duration::from_micros(now))
    }

    pub(crate) fn withdraw(&mut self, config: &Arc<RingConfig>) {
        self.rules.withdraw(config);
    }

    pub(crate) fn in_force(&self) -> Option<&Arc<RingConfig>> {
        self.rules.in_force()
    }

    pub(crate) fn decided(&self) -> Option<&Arc<RingConfig>> {
        self.rules.decided()
    }

    /// Nothing is to be decided, and everybody who can be asked knows what was.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.rules.is_at_rest()
    }
}
