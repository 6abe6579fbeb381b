//! What a frontend makes of its workers, as a plain struct: who of them may vote, which configuration is decided, and what
//! each is to be asked. Registrations, answers and `now` go in, findings and calls come out. The shell around it makes the
//! calls: that of the frontend (`embedded`), and that of the simulation.
//!
//! ```text
//!  Members::registered ─▶ step: who came and went, who is sound ─▶ findings ─▶ Members::found
//!  propose, withdraw ───▶ proposer, witnesses ─────────────────▶ in_force ─▶ Members::set_ring
//!                 remind ─┐      ▲
//!                         ▼      └─ answered ◀────────────────────┐
//!                        due ─▶ decide, recall, renew, remember ─▶ workers
//! ```
//!
//! There is at most one call of a kind to a worker at a time, and after a failure the next one only once its backoff has
//! passed. What is said in answer counts for the start of the worker that was called.
//!
//! **Reminders.** What heartbeats say is passed on: every member is told how far the others have come, for them to be held to
//! it after a crash (see [`super::witnesses`]). One call per member and [`Council::remind`], and only with what changed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tercet_common::backoff::{Backoff, BackoffPolicy};
use tercet_common::ring_proposer::{Progress, Proposer, StaleProposal, Voter};
use tercet_common::ring_register::{self, Ask, RegisterState};
use tercet_common::sync::Witness;
use tercet_common::{Epoch, Incarnation, RingConfig, WorkerId};

use super::members::{Findings, Registered, Standing};
use super::witnesses::{Soundness, Witnesses};

/// Calls at a time; the rest of a large cluster waits for its turn.
pub const CALLS_MAX: usize = 64;
/// Reminders among them: members that hang must not keep the others from deciding that they are replaced.
const REMINDERS_MAX: usize = CALLS_MAX / 2;

/// What a worker as a whole is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// A step of the ring register.
    Decide(Ask),
    /// What were you told of the others?
    Recall,
    /// Your data is older than what you once said: take another identity.
    Renew,
    /// So far have the others come.
    Remember(Vec<Witness>),
}

/// Of a call. There is at most one of each under way to a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Decide,
    Recall,
    Renew,
    Remember,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Decide, Self::Recall, Self::Renew, Self::Remember];
}

impl Call {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Decide(_) => Kind::Decide,
            Self::Recall => Kind::Recall,
            Self::Renew => Kind::Renew,
            Self::Remember(_) => Kind::Remember,
        }
    }
}

/// What a worker answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    State(RegisterState),
    Memory(Vec<Witness>),
    /// It is another worker now.
    NewUuid(String),
    /// It remembers what it was told.
    Remembered,
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Errand {
    /// No other one has this number.
    pub nr: u64,
    /// The worker as it is known: its answer is void when it has registered anew since.
    pub to: Registered,
    pub call: Call,
}

/// What became of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Taken {
    /// Nobody waits for it any longer.
    Void,
    Noted,
    /// The worker has taken this uuid. The registry is to be told: see [`super::members::Members::renewed`].
    Renewed(String),
}

/// Calls of one kind to one worker.
#[derive(Debug)]
struct Attempt {
    backoff: Backoff,
    not_before: Duration,
    under_way: Option<u64>,
}

/// One start of a worker at one address.
#[derive(Debug)]
struct Known {
    voter: Voter,
    boot_generation: u64,
    address: String,
    soundness: Soundness,
    /// The beat and the standing that it was judged by last.
    judged: Option<(u64, Standing)>,
    attempts: [Option<Attempt>; Kind::ALL.len()],
    /// It is to be told how far the others have come, and was told this.
    remind: bool,
    told: BTreeMap<WorkerId, Witness>,
}

impl Known {
    fn new(worker: &Registered) -> Self {
        Self {
            voter: worker.voter(),
            boot_generation: worker.witness.boot_generation,
            address: worker.address.clone(),
            soundness: Soundness::Open,
            judged: None,
            attempts: Default::default(),
            remind: false,
            told: BTreeMap::new(),
        }
    }

    fn is_same_start(&self, worker: &Registered) -> bool {
        let Witness { uuid, boot_generation, .. } = &worker.witness;
        self.voter.uuid == *uuid && self.boot_generation == *boot_generation
    }

    fn is(&self, worker: &Registered) -> bool {
        self.is_same_start(worker) && self.address == worker.address
    }

    fn is_lost(&self) -> bool {
        self.soundness == Soundness::Lost
    }

    fn has_under_way(&self, kind: Kind) -> bool {
        self.attempts[kind as usize].as_ref().is_some_and(|attempt| attempt.under_way.is_some())
    }

    /// The last call has failed just now.
    fn waits(&self, kind: Kind, now: Duration) -> bool {
        self.attempts[kind as usize].as_ref().is_some_and(|attempt| attempt.not_before > now)
    }

    fn begin(&mut self, kind: Kind, nr: u64, retry: BackoffPolicy, now: Duration) {
        let fresh =
            || Attempt { backoff: retry.start(now.as_nanos() as u64), not_before: now, under_way: None };
        let attempt = self.attempts[kind as usize].get_or_insert_with(fresh);
        attempt.under_way = Some(nr);
        // What is not told now is told after the next reminder.
        self.remind &= kind != Kind::Remember;
    }

    /// What has changed since it was told of the other members, if it is to be told. Only who may vote has said what it must
    /// be held to.
    fn reminder(&mut self, standing: Standing, workers: &[Registered]) -> Option<Vec<Witness>> {
        if !self.remind || standing != Standing::Member {
            return None;
        }
        let members = workers.iter().filter(|worker| worker.standing == Standing::Member);
        let others = members.map(|worker| &worker.witness).filter(|other| other.worker != self.voter.id);
        let news: Vec<_> =
            others.filter(|other| self.told.get(&other.worker) != Some(*other)).cloned().collect();
        self.remind = !news.is_empty();
        self.remind.then_some(news)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Council {
    proposer: Proposer,
    witnesses: Witnesses,
    retry: BackoffPolicy,
    known: BTreeMap<WorkerId, Known>,
    /// Something was heard, and this configuration decided, since all were judged.
    unjudged: bool,
    judged_by: Epoch,
    last_call: u64,
    /// How often a worker was read again.
    looked: usize,
}

impl Council {
    /// `first` is configuration number 1 as the settings say, and `grace` how long a majority of its members waits for the
    /// others. Calls that fail are made again by `retry`.
    pub fn new(me: Incarnation, first: Arc<RingConfig>, grace: Duration, retry: BackoffPolicy) -> Self {
        Self {
            proposer: Proposer::new(me, Some(first), grace),
            witnesses: Witnesses::default(),
            retry,
            known: BTreeMap::new(),
            unjudged: true,
            judged_by: Epoch(0),
            last_call: 0,
            looked: 0,
        }
    }

    /// Takes in who has registered, and what time it is. To be called when either may have changed something, before
    /// [`Council::due`]. What was found out goes to the registry; if that is news there, it is worth another step.
    pub fn step<'a>(&mut self, workers: &'a [Registered], now: Duration) -> Vec<(&'a Registered, Findings)> {
        if self.proposer.wakes_at().is_some_and(|at| at <= now) {
            self.proposer.tick(now);
        }
        self.follow(workers);
        let news = self.judge(workers, now);
        self.name_members(workers, now);
        news
    }

    /// Who came, who went, and who came back.
    fn follow(&mut self, workers: &[Registered]) {
        for worker in workers {
            let known = self.known.get(worker.id());
            if known.is_some_and(|known| known.is(worker)) {
                continue;
            }
            if !known.is_some_and(|known| known.is_same_start(worker)) {
                if let Some(voter) = known.map(|known| known.voter.clone()) {
                    self.parted(&voter);
                }
                self.proposer.met(worker.voter());
                self.witnesses.started(&worker.voter());
            }
            self.unjudged = true;
            self.known.insert(worker.id().clone(), Known::new(worker));
        }
        if self.known.len() > workers.len() {
            let there: HashSet<&WorkerId> = workers.iter().map(Registered::id).collect();
            let gone: Vec<_> = self.known.extract_if(.., |id, _| !there.contains(id)).collect();
            gone.iter().for_each(|(_, known)| self.parted(&known.voter));
        }
    }

    fn parted(&mut self, voter: &Voter) {
        self.unjudged = true;
        self.proposer.parted(voter);
        self.witnesses.parted(voter);
    }

    /// Finds out who may vote; the result is what the registry does not know yet.
    fn judge<'a>(&mut self, workers: &'a [Registered], now: Duration) -> Vec<(&'a Registered, Findings)> {
        let newest = self.proposer.decided().cloned();
        let number = ring_register::number(newest.as_ref());
        let all =
            std::mem::take(&mut self.unjudged) || std::mem::replace(&mut self.judged_by, number) != number;
        let mut news = Vec::new();
        for worker in workers {
            let Some(known) = self.known.get_mut(worker.id()) else { continue };
            let judged = Some((worker.beats, worker.standing));
            if std::mem::replace(&mut known.judged, judged) != judged || all {
                known.soundness = self.witnesses.judge(worker.claim(), newest.as_deref());
                let is_sound = known.soundness == Soundness::Sound;
                self.proposer.trust(&known.voter, is_sound, now);
                if worker.standing == Standing::Member && is_sound {
                    self.witnesses.saw(&worker.witness, worker.is_ours_alone);
                }
            }
            let holds = self.proposer.knows(&known.voter);
            let findings = Findings { soundness: known.soundness, holds };
            if findings != worker.findings {
                news.push((worker, findings));
            }
        }
        news
    }

    /// A member that was not there when the cluster formed has no identity in the configuration: it gets the one that it
    /// votes with, so that other data under its id is told apart from then on.
    fn name_members(&mut self, workers: &[Registered], now: Duration) {
        let is_nameless = |ring: &&Arc<RingConfig>| ring.members.iter().any(|member| member.uuid.is_empty());
        let ring = self.proposer.in_force().filter(is_nameless).filter(|_| self.proposer.is_idle());
        let Some(ring) = ring.cloned() else { return };
        let named = |id: &WorkerId| {
            let is_it = |worker: &&Registered| worker.standing == Standing::Member && worker.id() == id;
            workers.iter().find(is_it).map(|worker| &worker.witness.uuid)
        };
        let nameless = ring.members.iter().enumerate().filter(|(_, member)| member.uuid.is_empty());
        let names: Vec<_> = nameless.filter_map(|(nth, member)| Some((nth, named(&member.id)?))).collect();
        if names.is_empty() {
            return;
        }
        let mut next = RingConfig::clone(&ring);
        next.epoch = Epoch(ring.epoch.0 + 1);
        names.into_iter().for_each(|(nth, uuid)| next.members[nth].uuid.clone_from(uuid));
        // Stale: something newer was decided, and this is looked at again once that is in force.
        let _ = self.proposer.propose(Arc::new(next), now);
    }

    /// To be called now and then. Members are to be told how far the others have come. And another frontend may have decided
    /// or found out something: one worker after the other is read again.
    pub fn remind(&mut self) {
        self.known.values_mut().for_each(|known| known.remind = true);
        // Who still waits for what others remember says so again.
        self.unjudged = true;
        self.looked = self.looked.wrapping_add(1);
        if let Some(known) = self.known.values().nth(self.looked % self.known.len().max(1)) {
            self.proposer.revisit(&known.voter);
            self.witnesses.revisit(&known.voter);
        }
    }

    /// The calls to make now, at most `room`. `workers`: those of the last [`Council::step`].
    pub fn due(&mut self, workers: &[Registered], room: usize, now: Duration) -> Vec<Errand> {
        let mut due = Vec::new();
        let mut reminders = self.known.values().filter(|known| known.has_under_way(Kind::Remember)).count();
        for worker in workers {
            let Some(known) = self.known.get_mut(worker.id()) else { continue };
            for kind in Kind::ALL {
                if due.len() >= room {
                    return due;
                }
                // To put a reminder together takes long where there are many members.
                if known.has_under_way(kind) || kind == Kind::Remember && known.waits(kind, now) {
                    continue;
                }
                let call = match kind {
                    Kind::Renew => known.is_lost().then_some(Call::Renew),
                    Kind::Remember if reminders >= REMINDERS_MAX => None,
                    Kind::Remember => known.reminder(worker.standing, workers).map(Call::Remember),
                    _ if known.is_lost() => None,
                    Kind::Decide => self.proposer.ask_of(&known.voter).map(Call::Decide),
                    Kind::Recall => self.witnesses.wants_recall(&known.voter).then_some(Call::Recall),
                };
                let Some(call) = call else {
                    known.attempts[kind as usize] = None;
                    continue;
                };
                if known.waits(kind, now) {
                    continue;
                }
                self.last_call += 1;
                known.begin(kind, self.last_call, self.retry, now);
                reminders += usize::from(kind == Kind::Remember);
                if kind == Kind::Recall {
                    self.witnesses.asks(known.voter.clone());
                }
                due.push(Errand { nr: self.last_call, to: worker.clone(), call });
            }
        }
        due
    }

    /// The next moment at which something is due although nobody answered. `has_room`: for another call; without, that is when
    /// one ends.
    pub fn wakes_at(&self, has_room: bool) -> Option<Duration> {
        let attempts = self.known.values().flat_map(|known| known.attempts.iter().flatten());
        let waiting = attempts.filter(|attempt| has_room && attempt.under_way.is_none());
        waiting.map(|attempt| attempt.not_before).chain(self.proposer.wakes_at()).min()
    }

    /// What became of a call; `None`: it failed, or nobody waits any longer.
    pub fn answered(&mut self, errand: &Errand, reply: Option<Reply>, now: Duration) -> Taken {
        // Void when the worker has come back since, perhaps with less.
        let known = self.known.get_mut(errand.to.id()).filter(|known| known.is(&errand.to));
        let Some(known) = known else { return Taken::Void };
        let attempt = known.attempts[errand.call.kind() as usize].as_mut();
        let waiting = attempt.filter(|attempt| attempt.under_way == Some(errand.nr));
        let is_awaited = waiting.is_some();
        if let Some(attempt) = waiting {
            attempt.under_way = None;
            match &reply {
                Some(_) => attempt.backoff.reset(),
                None => attempt.not_before = now.saturating_add(attempt.backoff.next_wait()),
            }
        }
        match reply {
            // Late or twice does no harm here.
            Some(Reply::State(state)) => self.proposer.answered(&known.voter, state, now),
            _ if !is_awaited => return Taken::Void,
            Some(Reply::Memory(memory)) => {
                self.unjudged = true;
                self.witnesses.recalled(&known.voter, memory);
            }
            Some(Reply::NewUuid(uuid)) => return Taken::Renewed(uuid),
            Some(Reply::Remembered) => {
                if let Call::Remember(news) = &errand.call {
                    known.told.extend(news.iter().map(|news| (news.worker.clone(), news.clone())));
                }
            }
            None => {}
        }
        Taken::Noted
    }

    /// See [`Proposer::propose`].
    pub fn propose(&mut self, next: Arc<RingConfig>, now: Duration) -> Result<(), StaleProposal> {
        self.proposer.propose(next, now)
    }

    /// See [`Proposer::withdraw`].
    pub fn withdraw(&mut self, config: &Arc<RingConfig>) {
        self.proposer.withdraw(config);
    }

    /// See [`Proposer::in_force`].
    pub fn in_force(&self) -> Option<&Arc<RingConfig>> {
        self.proposer.in_force()
    }

    /// See [`Proposer::decided`].
    pub fn decided(&self) -> Option<&Arc<RingConfig>> {
        self.proposer.decided()
    }

    /// See [`Proposer::progress`].
    pub fn progress(&self) -> Progress {
        self.proposer.progress()
    }

    /// Nothing is proposed or left to complete.
    pub fn is_idle(&self) -> bool {
        self.proposer.is_idle()
    }

    /// Idle, and everybody who can be asked knows what was decided.
    pub fn is_at_rest(&self) -> bool {
        let knows = |known: &Known| !known.is_lost() && self.proposer.ask_of(&known.voter).is_none();
        self.is_idle() && self.known.values().all(knows)
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::detector::DetectorConfig;
    use tercet_common::{Member, REPLICAS, UnixMillis};

    use super::super::beat::Beat;
    use super::super::members::Members;
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn id(id: &str) -> WorkerId {
        WorkerId::new(id).unwrap()
    }

    /// A council and its registry, and the registers of workers that do what they are asked.
    struct Rig {
        council: Council,
        members: Members,
        workers: Vec<Registered>,
        registers: BTreeMap<WorkerId, RegisterState>,
        now: Duration,
    }

    impl Rig {
        /// `listed` members, none of which has registered.
        fn new(listed: &[&str]) -> Self {
            let members = listed.iter().map(|w| Member::named(id(w), 8, "")).collect();
            let first = Arc::new(RingConfig::new("c", Epoch(1), REPLICAS, members).unwrap());
            let retry = BackoffPolicy::new(ms(100), ms(400), 0.0).unwrap();
            Self {
                council: Council::new(Incarnation(1), first.clone(), ms(500), retry),
                members: Members::new(DetectorConfig::default(), first),
                workers: Vec::new(),
                registers: BTreeMap::new(),
                now: ms(0),
            }
        }

        /// The cluster has formed.
        fn formed(listed: &[&str]) -> Self {
            let mut rig = Self::new(listed);
            listed.iter().for_each(|worker| rig.registers(worker, 1, 0));
            rig.settle();
            assert!(rig.council.in_force().is_some());
            rig
        }

        fn registers(&mut self, worker: &str, boot_generation: u64, journal_seq: u64) {
            self.registers_at(worker, boot_generation, journal_seq, &format!("{worker}:1"));
        }

        fn registers_at(&mut self, worker: &str, boot_generation: u64, journal_seq: u64, address: &str) {
            let beat = Beat {
                address: address.to_owned(),
                journal_seq,
                opened_journal_seq: journal_seq,
                ..Beat::plain(worker, &format!("u-{worker}"), boot_generation)
            };
            self.members.register(beat, self.now, UnixMillis(0)).unwrap();
        }

        /// Steps until nothing is news; the calls to make then.
        fn due(&mut self, room: usize) -> Vec<Errand> {
            loop {
                self.workers = self.members.registered();
                for (worker, findings) in self.council.step(&self.workers, self.now) {
                    self.members.found(&worker.witness, findings);
                }
                if let Some(ring) = self.council.in_force() {
                    self.members.set_ring(ring.clone());
                }
                if self.members.registered() == self.workers {
                    return self.council.due(&self.workers, room, self.now);
                }
            }
        }

        fn reply(&mut self, errand: &Errand) -> Reply {
            match &errand.call {
                Call::Decide(ask) => {
                    let register = self.registers.entry(errand.to.id().clone()).or_default();
                    register.step(ask).into_iter().for_each(|next| *register = next);
                    Reply::State(register.clone())
                }
                Call::Recall => Reply::Memory(Vec::new()),
                Call::Renew => Reply::NewUuid("another".to_owned()),
                Call::Remember(_) => Reply::Remembered,
            }
        }

        fn answer(&mut self, errand: &Errand) -> Taken {
            let reply = self.reply(errand);
            self.council.answered(errand, Some(reply), self.now)
        }

        /// Everybody answers until nothing is left to be asked.
        fn settle(&mut self) {
            loop {
                let due = self.due(CALLS_MAX);
                if due.is_empty() {
                    return;
                }
                due.iter().for_each(|errand| _ = self.answer(errand));
            }
        }

        /// Who would be told of whom now.
        fn told(&mut self) -> Vec<(String, Vec<String>)> {
            let due = self.due(CALLS_MAX).into_iter().filter_map(|errand| {
                _ = self.answer(&errand);
                let Call::Remember(news) = errand.call else { return None };
                Some((errand.to.id().to_string(), news.iter().map(|w| w.worker.to_string()).collect()))
            });
            due.collect()
        }
    }

    #[test]
    fn a_call_is_made_once_and_again_after_its_backoff() {
        let mut rig = Rig::new(&["w1"]);
        rig.registers("w1", 1, 0);
        let first = rig.due(CALLS_MAX);
        assert_eq!(first.iter().map(|e| e.call.kind()).collect::<Vec<_>>(), [Kind::Decide, Kind::Recall]);
        assert!(rig.due(CALLS_MAX).is_empty(), "under way");
        assert_eq!(rig.council.answered(&first[0], None, rig.now), Taken::Noted);
        assert!(rig.due(CALLS_MAX).is_empty(), "it waits");
        assert_eq!(rig.council.wakes_at(true), Some(ms(100)));
        assert_eq!(rig.council.wakes_at(false), None, "no room: when a call ends");
        rig.now = ms(100);
        let again = rig.due(CALLS_MAX);
        assert_eq!(again.len(), 1);
        assert_eq!(rig.council.answered(&first[0], None, rig.now), Taken::Void, "it was given up before");
        assert!(rig.due(CALLS_MAX).is_empty(), "the second one is under way");
        _ = rig.council.answered(&again[0], None, rig.now);
        assert_eq!(rig.council.wakes_at(true), Some(ms(300)), "twice as long");
    }

    #[test]
    fn no_more_calls_are_made_than_there_is_room_for() {
        let mut rig = Rig::new(&["w1", "w2"]);
        rig.registers("w1", 1, 0);
        rig.registers("w2", 1, 0);
        assert_eq!(rig.due(0).len(), 0);
        assert_eq!([rig.due(3).len(), rig.due(3).len(), rig.due(3).len()], [3, 1, 0]);
    }

    #[test]
    fn an_answer_of_an_earlier_start_or_address_is_void() {
        let mut rig = Rig::new(&["w1"]);
        rig.registers("w1", 1, 0);
        let before = rig.due(CALLS_MAX);
        rig.registers_at("w1", 1, 0, "elsewhere:1");
        let moved = rig.due(CALLS_MAX);
        assert_eq!(moved.len(), 2, "it is asked at its new address");
        assert!(before.iter().all(|errand| rig.answer(errand) == Taken::Void));
        rig.registers("w1", 2, 0);
        assert_eq!(rig.due(CALLS_MAX).len(), 2);
        assert!(moved.iter().all(|errand| rig.answer(errand) == Taken::Void));
    }

    /// Else what it was asked first would count as what it said when it was asked last.
    #[test]
    fn what_a_worker_remembers_counts_for_the_call_that_is_under_way() {
        let mut rig = Rig::new(&["w1"]);
        rig.registers("w1", 1, 0);
        let before = rig.due(CALLS_MAX);
        rig.registers_at("w1", 1, 0, "elsewhere:1");
        rig.due(CALLS_MAX);
        rig.registers("w1", 1, 0);
        rig.due(CALLS_MAX);
        assert_eq!(rig.answer(&before[1]), Taken::Void, "back where it was, and asked again");
        assert_eq!(rig.answer(&before[0]), Taken::Noted, "a state of the register counts, early or late");
    }

    #[test]
    fn members_are_told_of_the_others_once_after_each_reminder() {
        let mut rig = Rig::formed(&["w1", "w2"]);
        let row = |to: &str, of: &str| (to.to_owned(), vec![of.to_owned()]);
        assert_eq!(rig.told(), [], "nobody reminded");
        rig.council.remind();
        assert_eq!(rig.told(), [row("w1", "w2"), row("w2", "w1")]);
        rig.council.remind();
        assert_eq!(rig.told(), [], "nothing has changed");
        rig.registers("w1", 1, 50);
        assert_eq!(rig.told(), [], "nobody reminded");
        rig.council.remind();
        assert_eq!(rig.told(), [row("w2", "w1")]);
        rig.registers("w2", 2, 0);
        rig.settle();
        rig.council.remind();
        assert_eq!(
            rig.told(),
            [row("w1", "w2"), row("w2", "w1")],
            "another start, and one that knows nothing"
        );
    }

    #[test]
    fn what_a_member_was_not_told_comes_with_the_next_reminder() {
        let mut rig = Rig::formed(&["w1", "w2"]);
        rig.council.remind();
        let due = rig.due(CALLS_MAX);
        let told: Vec<_> = due.iter().filter(|errand| errand.call.kind() == Kind::Remember).collect();
        assert_eq!(told.len(), 2);
        told.iter().for_each(|errand| _ = rig.council.answered(errand, None, rig.now));
        rig.settle();
        assert!(rig.due(CALLS_MAX).is_empty());
        rig.now += ms(500);
        rig.council.remind();
        assert_eq!(rig.told().len(), 2);
    }

    #[test]
    fn members_that_hang_on_reminders_leave_room_for_other_calls() {
        let names: Vec<String> = (0..CALLS_MAX).map(|n| format!("w{n}")).collect();
        let mut rig = Rig::formed(&names.iter().map(String::as_str).collect::<Vec<_>>());
        rig.council.remind();
        let hang = rig.due(CALLS_MAX);
        let reminders = hang.iter().filter(|errand| errand.call.kind() == Kind::Remember);
        assert_eq!(reminders.count(), REMINDERS_MAX);
        rig.council.remind();
        let more = rig.due(CALLS_MAX - hang.len());
        assert!(more.iter().all(|errand| errand.call.kind() != Kind::Remember));
        assert!(rig.council.wakes_at(true).is_none_or(|at| at > rig.now), "nothing is due that is not made");
    }

    #[test]
    fn who_has_lost_something_is_told_to_become_another_one_and_nothing_else() {
        let mut rig = Rig::formed(&["w1", "w2", "w3"]);
        rig.registers("w1", 1, 50);
        rig.settle();
        rig.registers("w1", 2, 40);
        let due = rig.due(CALLS_MAX);
        let to_w1: Vec<_> = due.iter().filter(|errand| *errand.to.id() == id("w1")).collect();
        assert_eq!(to_w1.iter().map(|e| e.call.clone()).collect::<Vec<_>>(), [Call::Renew]);
        assert!(!rig.council.is_at_rest());
        assert_eq!(rig.answer(to_w1[0]), Taken::Renewed("another".to_owned()));
    }

    #[test]
    fn a_member_that_came_late_is_named_once_the_cluster_is_idle() {
        let mut rig = Rig::new(&["w1", "w2", "w3"]);
        rig.registers("w1", 1, 0);
        rig.registers("w2", 1, 0);
        rig.settle();
        assert_eq!(rig.council.wakes_at(true), Some(ms(500)), "the third one has a moment");
        rig.now = ms(500);
        rig.settle();
        let uuids = |rig: &Rig| {
            let ring = rig.council.in_force().unwrap();
            (ring.epoch, ring.members.iter().map(|member| member.uuid.clone()).collect::<Vec<_>>())
        };
        assert_eq!(uuids(&rig), (Epoch(1), vec!["u-w1".to_owned(), "u-w2".to_owned(), String::new()]));
        rig.registers("w3", 1, 0);
        rig.settle();
        assert_eq!(uuids(&rig).0, Epoch(2));
        assert_eq!(uuids(&rig).1[2], "u-w3");
        assert!(rig.council.is_at_rest());
    }
}
