//! What one life of a frontend knows of workers and of configurations.
//!
//! The real rules: [`Proposer`] decides configurations, [`Witnesses`] say who may vote. What `frontend/src/membership` has around
//! them is done here as it does it, without sockets: who has registered over which data, who of them counts as a member,
//! what is to be asked of whom.
//!
//! ```text
//!  beats, answers ─▶ Council ─▶ due(): decide, recall, renew, remember ─▶ network ─▶ workers
//!                        └────▶ in_force(), is_member(worker) ─▶ the core, and its links
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tercet_common::ring_proposer::{Proposer, Voter};
use tercet_common::sync::Witness;
use tercet_common::{Epoch, Incarnation, RingConfig, WorkerId};
use tercet_frontend::membership::Soundness;
use tercet_frontend::membership::witnesses::{Claim, Witnesses};

use crate::agenda::Time;
use crate::calls::{Beat, Call, Said};

/// A worker that has registered.
#[derive(Debug)]
struct Seen {
    beat: Arc<Beat>,
    /// Of the last beat.
    at: Time,
    /// Beats before the last one.
    beats: u64,
    soundness: Soundness,
    /// Sound, and has known a configuration while that was the newest.
    admitted: bool,
    /// Admitted, and named by the configuration in force.
    member: bool,
    /// The call under way of each kind.
    calls: [Option<u64>; Call::KINDS],
    /// What it was told of the others, by slot.
    told: BTreeMap<usize, Witness>,
}

/// See the module. Workers go by their slots.
#[derive(Debug)]
pub(crate) struct Council {
    pub(crate) proposer: Proposer,
    witnesses: Witnesses,
    seen: Vec<Option<Seen>>,
    last_call: u64,
    /// Something was heard since workers were judged, under this configuration.
    unjudged: bool,
    judged_by: Option<Arc<RingConfig>>,
    /// Others are to be told how far workers have come.
    reminds: bool,
    /// How often a worker was read again.
    looked: usize,
}

impl Council {
    pub(crate) fn new(me: Incarnation, first: RingConfig, grace: Duration, slots: usize) -> Self {
        Self {
            proposer: Proposer::new(me, Some(first), grace),
            witnesses: Witnesses::default(),
            seen: (0..slots).map(|_| None).collect(),
            last_call: 0,
            unjudged: true,
            judged_by: None,
            reminds: false,
            looked: 0,
        }
    }

    /// A heartbeat. Who begins another life registers; who comes under the id of another one takes its place.
    pub(crate) fn hear(&mut self, slot: usize, beat: Beat, now: Time) {
        let beat = Arc::new(beat);
        self.unjudged = true;
        if let Some(seen) = self.seen[slot].as_mut().filter(|seen| seen.beat.is_same_life(&beat)) {
            (seen.beat, seen.at) = (beat, now);
            seen.beats += 1;
            return;
        }
        for known in &mut self.seen {
            if let Some(old) = known.take_if(|known| known.beat.voter.id == beat.voter.id) {
                self.proposer.parted(&old.beat.voter);
                self.witnesses.parted(&old.beat.voter);
            }
        }
        self.proposer.met(beat.voter.clone());
        self.witnesses.started(&beat.voter);
        self.seen[slot] = Some(Seen {
            beat,
            at: now,
            beats: 0,
            soundness: Soundness::Open,
            admitted: false,
            member: false,
            calls: [None; Call::KINDS],
            told: BTreeMap::new(),
        });
    }

    /// Finds out who may vote, and who is a member.
    pub(crate) fn judge(&mut self, now: Duration) {
        let newest = self.proposer.decided().cloned();
        if std::mem::take(&mut self.unjudged) || self.judged_by != newest {
            self.judge_all(newest.as_deref(), now);
            self.judged_by = newest;
        }
        self.admit();
    }

    fn judge_all(&mut self, newest: Option<&RingConfig>, now: Duration) {
        for seen in self.seen.iter_mut().flatten() {
            let witness = seen.beat.witness();
            let claim = Claim {
                now: &witness,
                opened_journal_seq: seen.beat.opened_seq,
                beats: seen.beats,
                is_ours_alone: seen.beat.has_one_frontend,
            };
            seen.soundness = self.witnesses.judge(claim, newest);
            let sound = seen.soundness == Soundness::Sound;
            self.proposer.trust(&seen.beat.voter, sound, now);
            if seen.member && sound {
                self.witnesses.saw(&witness, seen.beat.has_one_frontend);
            }
            seen.admitted &= sound;
        }
    }

    /// A worker that knows the configuration in force durably is a member of it, if it is named there.
    fn admit(&mut self) {
        let Some(ring) = self.proposer.in_force() else { return };
        for seen in self.seen.iter_mut().flatten() {
            let knows = self.proposer.knows(&seen.beat.voter).is_some_and(|holds| holds >= ring.epoch);
            let sound = seen.soundness == Soundness::Sound;
            let named = seen.beat.voter.is_member(ring);
            seen.admitted |= sound && knows && named;
            let was_member = std::mem::replace(&mut seen.member, seen.admitted && named);
            if seen.member && !was_member {
                self.witnesses.saw(&seen.beat.witness(), seen.beat.has_one_frontend);
            }
        }
    }

    /// The only standing in which a worker counts as a replica.
    pub(crate) fn is_member(&self, slot: usize) -> bool {
        self.seen[slot].as_ref().is_some_and(|seen| seen.member)
    }

    /// Whether this is the start of the worker that has registered.
    pub(crate) fn knows_start(&self, slot: usize, generation: u64) -> bool {
        self.seen[slot].as_ref().is_some_and(|seen| seen.beat.generation == generation)
    }

    /// A member that was not there when the cluster formed gets its data named in the configuration.
    pub(crate) fn name_members(&mut self, now: Duration) {
        let nameless = |ring: &&Arc<RingConfig>| ring.members.iter().any(|member| member.uuid.is_empty());
        let ring = self.proposer.in_force().filter(nameless).filter(|_| self.proposer.is_idle());
        let Some(ring) = ring.cloned() else { return };
        let unnamed = |voter: &Voter| ring.members.iter().position(|m| m.id == voter.id && m.uuid.is_empty());
        let members = (0..self.seen.len()).filter(|slot| self.is_member(*slot));
        let voters = members.filter_map(|slot| Some(&self.seen[slot].as_ref()?.beat.voter));
        let names: Vec<_> = voters.filter_map(|voter| Some((unnamed(voter)?, voter.uuid.clone()))).collect();
        if names.is_empty() {
            return;
        }
        let mut next = RingConfig::clone(&ring);
        next.epoch = Epoch(ring.epoch.0 + 1);
        for (member, uuid) in names {
            next.members[member].uuid = uuid;
        }
        // Stale: something newer was decided, and this is looked at again once that is in force.
        let _ = self.proposer.propose(Arc::new(next), now);
    }

    /// As happens now and then: the members are told how far the others have come, and one worker is read again.
    pub(crate) fn remind(&mut self) {
        self.reminds = true;
        let known: Vec<&Voter> = self.seen.iter().flatten().map(|seen| &seen.beat.voter).collect();
        self.looked += 1;
        if let Some(voter) = known.get(self.looked % known.len().max(1)) {
            self.proposer.revisit(voter);
            self.witnesses.revisit(voter);
        }
    }

    /// The calls to make now, one of a kind to a worker at a time, to those that `can_be_called`: slot, number, whom the caller
    /// takes the worker for, and the call.
    pub(crate) fn due(
        &mut self,
        can_be_called: impl Fn(usize) -> bool,
    ) -> Vec<(usize, u64, Arc<Beat>, Call)> {
        let reminders = std::mem::take(&mut self.reminds);
        let members: Vec<usize> = (0..self.seen.len()).filter(|slot| self.is_member(*slot)).collect();
        let witness = |slot: &usize| Some((*slot, self.seen[*slot].as_ref()?.beat.witness()));
        let witnesses: Vec<_> =
            if reminders { members.iter().filter_map(witness).collect() } else { Vec::new() };
        let mut due = Vec::new();
        for slot in (0..self.seen.len()).filter(|slot| can_be_called(*slot)) {
            let Some(seen) = &mut self.seen[slot] else { continue };
            let voter = &seen.beat.voter;
            let lost = seen.soundness == Soundness::Lost;
            let recall = !lost && self.witnesses.wants_recall(voter);
            let ask = self.proposer.ask_of(voter).filter(|_| !lost);
            let is_news = |(other, witness): &&(usize, Witness)| {
                *other != slot && seen.told.get(other) != Some(witness)
            };
            let news: Vec<_> = match members.contains(&slot) {
                true => witnesses.iter().filter(is_news).map(|(_, witness)| witness.clone()).collect(),
                false => Vec::new(),
            };
            let wanted = [
                ask.map(Call::Decide),
                recall.then_some(Call::Recall),
                lost.then_some(Call::Renew),
                (!news.is_empty()).then_some(Call::Remember(news)),
            ];
            for call in wanted.into_iter().flatten() {
                let under_way = &mut seen.calls[call.kind()];
                if under_way.is_none() {
                    self.last_call += 1;
                    *under_way = Some(self.last_call);
                    if matches!(call, Call::Recall) {
                        self.witnesses.asks(voter.clone());
                    }
                    due.push((slot, self.last_call, seen.beat.clone(), call));
                }
            }
        }
        due
    }

    /// No answer is waited for any longer. `true`: one was.
    pub(crate) fn gave_up(&mut self, slot: usize, kind: usize, nr: u64) -> bool {
        let seen = self.seen[slot].as_mut();
        seen.is_some_and(|seen| seen.calls[kind].take_if(|waits| *waits == nr).is_some())
    }

    /// A call was answered. `who`: the worker as it was known when it was called; the answer is void if it has registered
    /// anew since, perhaps with less. `true`: there may be something to do now.
    pub(crate) fn answered(
        &mut self,
        slot: usize,
        nr: u64,
        who: &Beat,
        call: &Call,
        said: Said,
        now: Time,
    ) -> bool {
        let slot_by_id = |id: &WorkerId| {
            let is_it = |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| seen.beat.voter.id == *id);
            self.seen.iter().position(is_it)
        };
        let told: Vec<(usize, Witness)> = match call {
            Call::Remember(news) => {
                news.iter().filter_map(|news| Some((slot_by_id(&news.worker)?, news.clone()))).collect()
            }
            _ => Vec::new(),
        };
        let Some(seen) = self.seen[slot].as_mut().filter(|seen| seen.beat.is_same_life(who)) else {
            return false;
        };
        let waited_for = seen.calls[call.kind()].take_if(|waits| *waits == nr).is_some();
        match said {
            // Whoever answers late or twice does no harm.
            Said::State(state) => {
                self.proposer.answered(&who.voter, state, Duration::from_micros(now));
                return true;
            }
            Said::Memory(memory) if waited_for => {
                self.unjudged = true;
                self.witnesses.recalled(&who.voter, memory);
            }
            Said::Done if waited_for => {
                seen.told.extend(told);
                return false;
            }
            _ => {}
        }
        waited_for
    }

    /// Nothing is to be decided, and everybody who can be asked knows what was.
    pub(crate) fn is_idle(&self) -> bool {
        let asked = |seen: &Seen| {
            seen.soundness != Soundness::Lost && self.proposer.ask_of(&seen.beat.voter).is_none()
        };
        self.proposer.is_idle() && self.seen.iter().flatten().all(asked)
    }

    /// All who have registered.
    pub(crate) fn heard(&self) -> Vec<Heard<'_>> {
        let mut heard = Vec::with_capacity(self.seen.len());
        for (slot, seen) in self.seen.iter().enumerate() {
            let Some(Seen { beat, at, soundness, .. }) = seen else { continue };
            // A member has a link; of any other, that it has said what it holds shows that calls get through.
            let answers = self.is_member(slot) || self.proposer.knows(&beat.voter).is_some();
            let lost = *soundness == Soundness::Lost;
            heard.push(Heard { slot, voter: &beat.voter, at: *at, answers, lost });
        }
        heard
    }
}

/// A worker that has registered.
pub(crate) struct Heard<'a> {
    pub slot: usize,
    pub voter: &'a Voter,
    /// When its last heartbeat came.
    pub at: Time,
    pub answers: bool,
    /// It is to come back as somebody else.
    pub lost: bool,
}
