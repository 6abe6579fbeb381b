//! Whether a worker has lost something that it once said: a restored disk, a commit that was not durable after all.
//!
//! Every start and every commit makes a worker's boot generation and journal seq grow. The frontend sees both in
//! heartbeats and passes them on, so that the other workers remember them durably. A worker that comes back with less
//! than anyone remembers is *lost*: it has forgotten promises, and must not vote under its old identity (design 7).
//!
//! A worker is *sound* when nobody who was asked remembers more, and one of these holds:
//!
//! - a majority of the others were asked. Fewer do not do: what one of them missed while it was away, the worker may have
//!   acknowledged together with one that is away now;
//! - somebody remembers it in the very life that it is in: it has not been started again since, so it has lost nothing;
//! - this frontend has let it vote before, and so has seen all that anyone could remember;
//! - it is in its first life.
//!
//! So a frontend may start again while workers are dead, and a worker may; but when both did, a majority of the other
//! workers has to be there. A witness lags by a heartbeat: data that is older by less than that is not recognised.
//!
//! **With several frontends**, another one may have let the worker vote until it stopped, and have told the others then. So
//! they are asked again when a worker has started: a majority of them by a frontend that has not let it vote, and by one that
//! has, as many as no majority is without: that finds out what a majority was told, and does not wait for one that is gone.
//! Others may also have been told of a later beat of a worker, or of a later start, than any that came here. So a beat that
//! says less is not yet a loss; it is one if further beats of the same start say less, too.

use std::collections::BTreeMap;

use tercet_common::quorum::majority;
use tercet_common::ring_proposer::Voter;
use tercet_common::sync::Witness;
use tercet_common::{Epoch, RingConfig, WorkerId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Soundness {
    /// Not enough of the others have been asked.
    #[default]
    Open,
    Sound,
    /// It has lost something.
    Lost,
    /// Its member's data was not known, and others remember another data's uuid.
    Other,
}

/// The most identities that others are heard of; beyond any number that workers really had.
const IDENTITIES_MAX: usize = 64 * super::members::WORKERS_MAX;

/// So many beats later a worker that still says less than others remember has lost something. The first of them may have
/// been under way when that was found.
const BEATS_DOUBTED: u64 = 2;

/// How far a worker is known to have come over certain data.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    boot_generation: u64,
    journal_seq: u64,
}

/// What a worker says of itself with a heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub now: &'a Witness,
    /// The journal seq that this life of it started with.
    pub opened_journal_seq: u64,
    /// Heartbeats of this life.
    pub beats: u64,
    /// It beats to this frontend and to no other.
    pub is_ours_alone: bool,
}

/// A moment, as the count of workers' starts until then.
type Start = u64;

/// When a worker was asked what it remembers.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    last: Start,
    /// The last time that it answered.
    answered: Option<Start>,
    /// It may have been told since what somebody waits for.
    again: bool,
}

/// What this frontend saw of a worker that it let vote.
#[derive(Debug)]
struct Saw {
    uuid: String,
    reached: Reached,
    /// No other frontend can have seen more.
    is_ours_alone: bool,
}

/// What is remembered of workers. Judging one is asked for with every heartbeat, so what others tell is folded on arrival.
#[derive(Debug, Default)]
pub struct Witnesses {
    starts: Start,
    /// When each worker that is there started.
    started: BTreeMap<WorkerId, Start>,
    asked: BTreeMap<Voter, Asked>,
    /// What others told before this is not enough to judge everybody who is there.
    wanted: Start,
    /// Somebody is judged by what others remember, and they do not say enough.
    somebody_waits: bool,
    /// The highest that anyone told of a worker id, by uuid. True for good, whatever becomes of who told it.
    told: BTreeMap<WorkerId, BTreeMap<String, Reached>>,
    identities: usize,
    seen: BTreeMap<WorkerId, Saw>,
    /// Who says less than others remember: in which boot generation, and since which beat.
    doubts: BTreeMap<Voter, (u64, u64)>,
    /// When those members of the configuration of this number that have told what they remember were asked, in order.
    /// `None`: to be found out.
    members_asked: Option<(Epoch, Vec<Start>)>,
}

impl Witnesses {
    /// A worker has registered: it is there for the first time, or again.
    pub fn started(&mut self, voter: &Voter) {
        self.forget(voter);
        self.starts += 1;
        self.started.insert(voter.id.clone(), self.starts);
    }

    /// It is not there any longer.
    pub fn parted(&mut self, voter: &Voter) {
        self.forget(voter);
        self.started.remove(&voter.id);
    }

    /// It may have been told more since: it is to be asked again.
    fn forget(&mut self, voter: &Voter) {
        self.doubts.remove(voter);
        if self.asked.remove(voter).is_some() {
            self.members_asked = None;
        }
    }

    /// Whether it is to be asked what it remembers.
    pub fn wants_recall(&self, voter: &Voter) -> bool {
        let asked = self.asked.get(voter).filter(|asked| !asked.again);
        asked.and_then(|asked| asked.answered).is_none_or(|answered| answered < self.wanted)
    }

    /// Has one asked again if that could help anybody. To be called of one after the other, now and then.
    pub fn revisit(&mut self, voter: &Voter) {
        if let Some(asked) = self.asked.get_mut(voter).filter(|_| self.somebody_waits) {
            asked.again = true;
        }
        self.somebody_waits = false;
    }

    /// It is asked now.
    pub fn asks(&mut self, voter: Voter) {
        self.asked.entry(voter).or_default().last = self.starts;
    }

    /// What it remembered when it was last asked. Nothing is made of what was not asked for.
    pub fn recalled(&mut self, by: &Voter, witnesses: Vec<Witness>) {
        let Some(asked) = self.asked.get_mut(by) else { return };
        (asked.answered, asked.again) = (Some(asked.last), false);
        self.members_asked = None;
        for Witness { worker, uuid, boot_generation, journal_seq } in witnesses {
            let known = self.told.get_mut(&worker).and_then(|told| told.get_mut(&uuid));
            let reached = match known {
                Some(known) => known,
                None if self.identities >= IDENTITIES_MAX => continue,
                None => {
                    self.identities += 1;
                    self.told.entry(worker).or_default().entry(uuid).or_default()
                }
            };
            reached.boot_generation = reached.boot_generation.max(boot_generation);
            reached.journal_seq = reached.journal_seq.max(journal_seq);
        }
    }

    /// How many members under other ids than this have told what they remember, and were asked `since`.
    fn others_asked(&mut self, config: &RingConfig, worker: &WorkerId, since: Start) -> usize {
        let answered = |(by, asked): (&Voter, &Asked)| asked.answered.filter(|_| by.is_member(config));
        let count = || {
            let mut asked: Vec<Start> = self.asked.iter().filter_map(answered).collect();
            asked.sort_unstable();
            (config.epoch, asked)
        };
        let known = self.members_asked.take().filter(|(number, _)| *number == config.epoch);
        let (_, asked) = self.members_asked.insert(known.unwrap_or_else(count));
        let all = asked.len() - asked.partition_point(|asked| *asked < since);
        let first = Voter { id: worker.clone(), uuid: String::new() };
        let own = self.asked.range(first..).take_while(|(by, _)| by.id == *worker);
        all - own.filter_map(answered).filter(|asked| *asked >= since).count()
    }

    /// A worker that votes has come as far as this.
    pub fn saw(&mut self, witness: &Witness, is_ours_alone: bool) {
        let fresh = || Saw { uuid: witness.uuid.clone(), reached: Reached::default(), is_ours_alone };
        let seen = self.seen.entry(witness.worker.clone()).or_insert_with(fresh);
        if seen.uuid != witness.uuid {
            *seen = fresh();
        }
        seen.is_ours_alone &= is_ours_alone;
        seen.reached.boot_generation = seen.reached.boot_generation.max(witness.boot_generation);
        seen.reached.journal_seq = seen.reached.journal_seq.max(witness.journal_seq);
    }

    /// `config` is the newest configuration that anyone knows.
    ///
    /// What is remembered of an earlier life of the worker is held against the journal that it started with: since then it
    /// may have grown by what was asked of it before it could be judged.
    pub fn judge(&mut self, claim: Claim<'_>, config: Option<&RingConfig>) -> Soundness {
        let Claim { now, opened_journal_seq, beats, is_ours_alone } = claim;
        let ours = self.seen.get(&now.worker);
        let theirs = self.told.get(&now.worker);
        let told = theirs.and_then(|told| told.get(&now.uuid)).copied();
        let ours_of_it = ours.filter(|seen| seen.uuid == now.uuid);
        let seen = ours_of_it.map(|seen| seen.reached);
        // Now, and when it was seen.
        let nobody_else = is_ours_alone && ours_of_it.is_none_or(|seen| seen.is_ours_alone);
        let saw_all = nobody_else && seen.is_some();
        let since = match nobody_else {
            true => 0,
            false => self.started.get(&now.worker).copied().unwrap_or(self.starts),
        };
        let same_data = || told.into_iter().chain(seen);
        let same_life = |then: Reached| then.boot_generation == now.boot_generation;
        // Its own start says what it began with.
        let began_with_less = |then: Reached| {
            then.boot_generation < now.boot_generation && then.journal_seq > opened_journal_seq
        };
        let is_behind =
            |then: Reached| (then.boot_generation, then.journal_seq) > (now.boot_generation, now.journal_seq);
        if same_data().any(began_with_less) || seen.is_some_and(is_behind) {
            return Soundness::Lost;
        }
        // One that this frontend has let vote in this life has lost nothing since.
        let votes = |then: Reached| same_life(then) && seen.is_some_and(same_life);
        let voter = Voter { id: now.worker.clone(), uuid: now.uuid.clone() };
        if told.is_some_and(|then| is_behind(then) && !votes(then)) {
            let doubt = self.doubts.entry(voter).or_insert((now.boot_generation, beats));
            if doubt.0 != now.boot_generation {
                *doubt = (now.boot_generation, beats);
            }
            return if beats >= doubt.1 + BEATS_DOUBTED { Soundness::Lost } else { Soundness::Open };
        }
        self.doubts.remove(&voter);
        let Some(config) = config else { return Soundness::Sound };
        let Some(index) = config.index_of_identity(&now.worker, &now.uuid) else { return Soundness::Sound };
        let mut uuids = theirs.into_iter().flat_map(BTreeMap::keys).chain(ours.map(|seen| &seen.uuid));
        if config.members[index].uuid.is_empty() && uuids.any(|uuid| *uuid != now.uuid) {
            return Soundness::Other;
        }
        let others = config.members.len() - config.indexes_of(&now.worker).len();
        let continuous = now.boot_generation <= 1 || same_data().any(same_life);
        if saw_all || continuous || others == 0 {
            return Soundness::Sound;
        }
        // As many as no majority of the others is without.
        let enough = if seen.is_some() { others - majority(others) + 1 } else { majority(others) };
        if self.others_asked(config, &now.worker, since) >= enough {
            return Soundness::Sound;
        }
        self.wanted = self.wanted.max(since);
        self.somebody_waits = true;
        Soundness::Open
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Epoch, Member, REPLICAS};

    use super::*;

    fn voter(id: &str) -> Voter {
        Voter { id: WorkerId::new(id).unwrap(), uuid: format!("u-{id}") }
    }

    fn config() -> RingConfig {
        let member = |id: &str| Member { uuid: voter(id).uuid, ..Member::named(voter(id).id, 8, "") };
        RingConfig::new("c", Epoch(1), REPLICAS, ["w1", "w2", "w3"].map(member).to_vec()).unwrap()
    }

    fn witness(id: &str, boot_generation: u64, journal_seq: u64) -> Witness {
        let Voter { id: worker, uuid } = voter(id);
        Witness { worker, uuid, boot_generation, journal_seq }
    }

    /// Of a worker that beats to several frontends.
    fn claim(now: &Witness, opened_journal_seq: u64, beats: u64) -> Claim<'_> {
        Claim { now, opened_journal_seq, beats, is_ours_alone: false }
    }

    /// Of a worker that has done nothing yet since it started.
    fn judge(witnesses: &mut Witnesses, now: &Witness, config: Option<&RingConfig>) -> Soundness {
        witnesses.judge(claim(now, now.journal_seq, 0), config)
    }

    /// Asks a worker what it remembers.
    fn recall(witnesses: &mut Witnesses, by: &str, memory: Vec<Witness>) {
        witnesses.asks(voter(by));
        witnesses.recalled(&voter(by), memory);
    }

    #[test]
    fn what_a_worker_has_done_since_it_started_hides_no_loss() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        for other in ["w2", "w3"] {
            recall(&mut witnesses, other, vec![witness("w1", 5, 50)]);
        }
        let now = witness("w1", 6, 60);
        assert_eq!(witnesses.judge(claim(&now, 49, 0), Some(&config)), Soundness::Lost);
        assert_eq!(witnesses.judge(claim(&now, 50, 0), Some(&config)), Soundness::Sound);
        assert_eq!(
            witnesses.judge(claim(&witness("w1", 5, 60), 10, 0), Some(&config)),
            Soundness::Sound,
            "the same life"
        );
    }

    #[test]
    fn a_beat_that_is_older_than_what_another_frontend_passed_on_is_no_loss() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        let tell = |witnesses: &mut Witnesses, journal_seq: u64| {
            for other in ["w2", "w3"] {
                recall(witnesses, other, vec![witness("w1", 5, journal_seq)]);
            }
        };
        tell(&mut witnesses, 60);
        let beat = |witnesses: &mut Witnesses, journal_seq: u64, nth: u64| {
            witnesses.judge(claim(&witness("w1", 5, journal_seq), 40, nth), Some(&config))
        };
        assert_eq!(beat(&mut witnesses, 50, 7), Soundness::Open);
        assert_eq!(beat(&mut witnesses, 50, 7), Soundness::Open, "the same beat says nothing new");
        assert_eq!(beat(&mut witnesses, 60, 8), Soundness::Sound);
        witnesses.saw(&witness("w1", 5, 60), false);
        tell(&mut witnesses, 70);
        assert_eq!(beat(&mut witnesses, 65, 9), Soundness::Sound, "it has voted in this life");
        assert_eq!(beat(&mut witnesses, 55, 10), Soundness::Lost, "it said more itself");
    }

    #[test]
    fn a_later_start_that_another_frontend_passed_on_is_no_loss_of_the_one_that_is_over() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        witnesses.saw(&witness("w1", 5, 50), false);
        recall(&mut witnesses, "w2", vec![witness("w1", 6, 55)]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 5, 50), Some(&config)), Soundness::Open);
        witnesses.started(&voter("w1"));
        assert_eq!(witnesses.judge(claim(&witness("w1", 6, 55), 50, 0), Some(&config)), Soundness::Sound);
    }

    #[test]
    fn a_worker_that_was_set_back_is_lost_though_its_boot_generation_is_as_high_as_before() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        recall(&mut witnesses, "w2", vec![witness("w1", 5, 60)]);
        let beats =
            [0, 1, 2].map(|nth| witnesses.judge(claim(&witness("w1", 5, 50), 40, nth), Some(&config)));
        assert_eq!(beats, [Soundness::Open, Soundness::Open, Soundness::Lost]);
    }

    #[test]
    fn a_majority_of_the_others_has_to_know_nothing_higher() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        let now = witness("w1", 3, 50);
        assert_eq!(judge(&mut witnesses, &now, None), Soundness::Sound, "nobody is a member of anything");
        assert_eq!(judge(&mut witnesses, &now, Some(&config)), Soundness::Open);
        recall(&mut witnesses, "w1", vec![]);
        recall(&mut witnesses, "w9", vec![]);
        assert_eq!(
            judge(&mut witnesses, &now, Some(&config)),
            Soundness::Open,
            "neither itself nor a spare counts"
        );
        recall(&mut witnesses, "w2", vec![witness("w1", 2, 50)]);
        assert_eq!(judge(&mut witnesses, &now, Some(&config)), Soundness::Open, "w3 may remember more");
        recall(&mut witnesses, "w3", vec![]);
        assert_eq!(judge(&mut witnesses, &now, Some(&config)), Soundness::Sound);
        assert_eq!(judge(&mut witnesses, &witness("w9", 1, 0), Some(&config)), Soundness::Sound, "a spare");
    }

    #[test]
    fn one_who_remembers_more_is_enough_to_be_lost() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        recall(&mut witnesses, "w3", vec![]);
        recall(&mut witnesses, "w2", vec![witness("w1", 5, 50)]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 49), Some(&config)), Soundness::Lost);
        let older =
            [0, 1, 2].map(|nth| witnesses.judge(claim(&witness("w1", 4, 50), 50, nth), Some(&config)));
        assert_eq!(older, [Soundness::Open, Soundness::Open, Soundness::Lost]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 50), Some(&config)), Soundness::Sound);
        let other = Witness { uuid: "fresh".to_owned(), ..witness("w1", 1, 0) };
        assert_eq!(
            judge(&mut witnesses, &other, Some(&config)),
            Soundness::Sound,
            "another identity: no member"
        );
    }

    #[test]
    fn a_worker_that_was_not_started_again_has_lost_nothing() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        recall(&mut witnesses, "w2", vec![witness("w1", 5, 50)]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 5, 60), Some(&config)), Soundness::Sound);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 60), Some(&config)), Soundness::Open);
        assert_eq!(
            judge(&mut witnesses, &witness("w3", 1, 0), Some(&config)),
            Soundness::Sound,
            "its first life"
        );
    }

    #[test]
    fn what_was_told_stays_true_and_a_majority_is_counted_anew() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        recall(&mut witnesses, "w2", vec![witness("w1", 5, 50)]);
        recall(&mut witnesses, "w3", vec![witness("w1", 4, 60)]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 60), Some(&config)), Soundness::Sound);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 59), Some(&config)), Soundness::Lost);
        witnesses.parted(&voter("w3"));
        assert_eq!(
            judge(&mut witnesses, &witness("w1", 6, 60), Some(&config)),
            Soundness::Open,
            "one of two"
        );
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 59), Some(&config)), Soundness::Lost);
        recall(&mut witnesses, "w3", vec![]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 60), Some(&config)), Soundness::Sound);
    }

    #[test]
    fn what_the_only_frontend_saw_counts_for_all() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        let (same, less) = (witness("w1", 6, 50), witness("w1", 6, 40));
        let alone = |now| Claim { is_ours_alone: true, ..claim(now, now.journal_seq, 0) };
        witnesses.saw(&witness("w1", 5, 50), true);
        assert_eq!(witnesses.judge(alone(&same), Some(&config)), Soundness::Sound);
        assert_eq!(witnesses.judge(alone(&less), Some(&config)), Soundness::Lost);
        assert_eq!(judge(&mut witnesses, &same, Some(&config)), Soundness::Open, "it has others by now");
        witnesses.saw(&witness("w1", 5, 50), false);
        assert_eq!(witnesses.judge(alone(&same), Some(&config)), Soundness::Open, "it had others then");
        assert_eq!(judge(&mut witnesses, &less, Some(&config)), Soundness::Lost, "what was seen was seen");
    }

    #[test]
    fn what_others_said_before_a_worker_started_again_does_not_clear_it() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        ["w1", "w2", "w3"].iter().for_each(|id| witnesses.started(&voter(id)));
        for other in ["w2", "w3"] {
            recall(&mut witnesses, other, vec![witness("w1", 5, 50)]);
        }
        assert_eq!(judge(&mut witnesses, &witness("w1", 5, 50), Some(&config)), Soundness::Sound);
        witnesses.saw(&witness("w1", 5, 50), false);
        assert!(!witnesses.wants_recall(&voter("w2")), "all that is wanted is known");
        // Another frontend lets it vote up to seq 80, and tells the others. Its disk is set back to seq 60.
        witnesses.asks(voter("w3"));
        witnesses.started(&voter("w1"));
        let set_back = witness("w1", 6, 60);
        assert_eq!(judge(&mut witnesses, &set_back, Some(&config)), Soundness::Open);
        witnesses.recalled(&voter("w3"), vec![]);
        assert!(witnesses.wants_recall(&voter("w3")), "it was asked before");
        assert!(witnesses.wants_recall(&voter("w2")));
        recall(&mut witnesses, "w2", vec![witness("w1", 5, 80)]);
        assert_eq!(judge(&mut witnesses, &set_back, Some(&config)), Soundness::Lost);
        let whole = witness("w1", 6, 80);
        assert_eq!(judge(&mut witnesses, &whole, Some(&config)), Soundness::Sound, "w3 may be gone");
        assert!(!witnesses.wants_recall(&voter("w2")));
    }

    #[test]
    fn others_are_asked_again_while_somebody_waits() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        ["w1", "w2"].iter().for_each(|id| witnesses.started(&voter(id)));
        recall(&mut witnesses, "w2", vec![witness("w1", 5, 50)]);
        let now = witness("w1", 6, 50);
        assert_eq!(judge(&mut witnesses, &now, Some(&config)), Soundness::Open, "w3 is gone");
        witnesses.revisit(&voter("w2"));
        assert!(witnesses.wants_recall(&voter("w2")));
        recall(&mut witnesses, "w2", vec![now.clone()]);
        assert_eq!(
            judge(&mut witnesses, &now, Some(&config)),
            Soundness::Sound,
            "another frontend found out"
        );
        witnesses.revisit(&voter("w2"));
        witnesses.revisit(&voter("w2"));
        assert!(!witnesses.wants_recall(&voter("w2")));
    }

    #[test]
    fn a_member_whose_data_was_not_known_is_recognised_by_what_others_remember() {
        let (mut witnesses, mut config) = (Witnesses::default(), config());
        config.members[0].uuid.clear();
        recall(&mut witnesses, "w2", vec![witness("w1", 5, 50)]);
        recall(&mut witnesses, "w3", vec![]);
        let other = Witness { uuid: "fresh".to_owned(), ..witness("w1", 1, 0) };
        assert_eq!(judge(&mut witnesses, &other, Some(&config)), Soundness::Other);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 50), Some(&config)), Soundness::Sound);
    }
}
