//! Moves workers' positions in their peers' journals while they miss nothing, without reading a journal.
//!
//! A put is sent to all replicas at once. So if the frontend saw a peer's journal at seq `s` at time `t`, every put up to
//! `s` had been sent to the target as well by then, and its call ends by `t` plus the longest life of a call. If no call
//! to the target has failed until then, the target has all that the journal says up to `s`.
//!
//! ```text
//!  t0: w1 is at 4711      t0 + life: nothing was missed → the target's position for w1 is 4711
//!  t1: a call fails       → nothing moves any more, a delta sync is due
//!  t2: a delta sync that began a life after the last miss has ended → positions move again
//! ```
//!
//! A call may have failed at once (the worker is not connected) whose put a peer commits up to a life later. So a delta
//! sync that begins earlier than that brings the target nearly up to date, and is followed by another one.

use std::collections::BTreeMap;
use std::time::Duration;

use tercet_common::sync::Position;

use crate::coordinator::core::WorkerIx;

/// What is known of one worker as a target.
#[derive(Default)]
struct Target {
    last_missed: Option<Duration>,
    /// When the last complete delta sync began.
    synced: Option<Duration>,
    /// By peer: the seq that is waiting to be confirmed, and when it was seen.
    seen: BTreeMap<String, (u64, Duration)>,
    /// Confirmed and not yet told to the target.
    confirmed: BTreeMap<String, u64>,
}

/// See the module. Times are those of one clock that only goes forward.
pub struct Positions {
    call_life: Duration,
    targets: BTreeMap<WorkerIx, Target>,
}

impl Positions {
    /// `call_life`: no put is committed by any replica later than this after it was sent, nor answered later.
    pub fn new(call_life: Duration) -> Self {
        Self { call_life, targets: BTreeMap::new() }
    }

    /// A worker that is to be kept up to date. It is due for a delta sync, as this frontend does not know what it missed
    /// before.
    /// What a former frontend still has under way counts as missed now.
    pub fn add(&mut self, target: WorkerIx, now: Duration) {
        let last_missed = Some(now);
        self.targets.entry(target).or_insert_with(|| Target { last_missed, ..Target::default() });
    }

    pub fn remove(&mut self, target: WorkerIx) {
        self.targets.remove(&target);
    }

    /// A heartbeat told how far a peer's journal is.
    pub fn observe(&mut self, peer: WorkerIx, uuid: &str, seq: u64, now: Duration) {
        let call_life = self.call_life;
        for (_, target) in self.targets.iter_mut().filter(|(worker, _)| **worker != peer) {
            if !target.is_clean(call_life) {
                continue;
            }
            match target.seen.get(uuid) {
                Some((_, at)) if now < *at + call_life => continue,
                Some((seen, _)) => {
                    target.confirmed.insert(uuid.to_owned(), *seen);
                }
                None => {}
            }
            target.seen.insert(uuid.to_owned(), (seq, now));
        }
    }

    /// A put or flush did not reach the target, or may not have.
    pub fn missed(&mut self, target: WorkerIx, now: Duration) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.last_missed = Some(now);
            target.seen.clear();
        }
    }

    /// Whether a delta sync of the target should begin now: it missed something since the last one began, or that one
    /// began too early to have seen all.
    pub fn is_due(&self, target: WorkerIx, now: Duration) -> bool {
        let Some(target) = self.targets.get(&target) else { return false };
        match (target.synced, target.last_missed) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(synced), Some(missed)) => {
                missed >= synced || (synced < missed + self.call_life && now >= missed + self.call_life)
            }
        }
    }

    /// A delta sync that began at `began` has ended, with all peers.
    pub fn synced(&mut self, target: WorkerIx, began: Duration) {
        if let Some(target) = self.targets.get_mut(&target) {
            target.synced = target.synced.max(Some(began));
        }
    }

    /// Positions that were confirmed since the last call: to be remembered by the targets. What is lost on the way is
    /// made good by later ones.
    pub fn take_confirmed(&mut self) -> Vec<(WorkerIx, Vec<Position>)> {
        let positions = |(worker, target): (&WorkerIx, &mut Target)| {
            let confirmed = std::mem::take(&mut target.confirmed).into_iter();
            (*worker, confirmed.map(|(peer, seq)| Position { peer, seq }).collect::<Vec<_>>())
        };
        self.targets.iter_mut().map(positions).filter(|(_, positions)| !positions.is_empty()).collect()
    }
}

impl Target {
    /// All that was missed has been made good.
    fn is_clean(&self, call_life: Duration) -> bool {
        self.synced.is_some_and(|synced| self.last_missed.is_none_or(|missed| missed + call_life <= synced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(2);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn confirmed(positions: &mut Positions) -> Vec<u64> {
        positions.take_confirmed().into_iter().flat_map(|(_, p)| p.into_iter().map(|p| p.seq)).collect()
    }

    /// Worker 1, in step with worker 2 since second 10.
    fn in_step() -> Positions {
        let mut positions = Positions::new(LIFE);
        positions.add(1, at(0));
        assert!(positions.is_due(1, at(10)), "nobody knows what it missed before");
        positions.synced(1, at(10));
        assert!(!positions.is_due(1, at(11)));
        positions
    }

    #[test]
    fn a_seq_is_confirmed_once_every_call_of_its_time_has_ended() {
        let mut positions = in_step();
        positions.observe(2, "w2", 100, at(11));
        positions.observe(2, "w2", 150, at(12));
        assert!(confirmed(&mut positions).is_empty(), "calls from second 11 may still fail");
        positions.observe(2, "w2", 200, at(13));
        assert_eq!(confirmed(&mut positions), [100]);
        positions.observe(2, "w2", 300, at(15));
        assert_eq!(confirmed(&mut positions), [200]);
    }

    #[test]
    fn a_miss_takes_back_what_was_not_confirmed() {
        let mut positions = in_step();
        positions.observe(2, "w2", 100, at(11));
        positions.missed(1, at(12));
        assert!(positions.is_due(1, at(12)));
        (13..40).for_each(|second| positions.observe(2, "w2", 1_000 + second, at(second)));
        assert!(confirmed(&mut positions).is_empty());
    }

    /// A peer may commit a put a life after the call to the target failed: behind what the sync has read.
    #[test]
    fn a_sync_that_began_early_is_followed_by_another_one() {
        let mut positions = in_step();
        positions.missed(1, at(20));
        positions.synced(1, at(21));
        positions.observe(2, "w2", 100, at(22));
        positions.observe(2, "w2", 100, at(30));
        assert!(confirmed(&mut positions).is_empty());
        assert!(!positions.is_due(1, at(21)) && positions.is_due(1, at(22)));
        positions.synced(1, at(22));
        assert!(!positions.is_due(1, at(30)));
        positions.observe(2, "w2", 100, at(31));
        positions.observe(2, "w2", 200, at(33));
        assert_eq!(confirmed(&mut positions), [100]);
    }

    #[test]
    fn a_miss_during_a_sync_makes_the_next_one_due() {
        let mut positions = in_step();
        positions.missed(1, at(20));
        positions.missed(1, at(26));
        positions.synced(1, at(25));
        assert!(positions.is_due(1, at(26)));
    }

    #[test]
    fn a_worker_has_no_position_in_its_own_journal_and_a_new_one_is_due_again() {
        let mut positions = in_step();
        positions.observe(1, "w1", 100, at(11));
        positions.observe(1, "w1", 200, at(20));
        assert!(confirmed(&mut positions).is_empty());
        positions.remove(1);
        assert!(!positions.is_due(1, at(21)));
        positions.add(1, at(0));
        assert!(positions.is_due(1, at(21)));
    }
}
