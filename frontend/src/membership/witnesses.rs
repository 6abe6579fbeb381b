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
//! With several frontends, others may have been told of a later beat of a worker, or of a later start, than any that came
//! here. So a beat that says less is not yet a loss; it is one if further beats of the same start say less, too.

use std::collections::{BTreeMap, BTreeSet};

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

/// What is remembered of workers. Judging one is asked for with every heartbeat, so what others tell is folded on arrival.
#[derive(Debug, Default)]
pub struct Witnesses {
    /// Who told all that it remembers.
    asked: BTreeSet<Voter>,
    /// The highest that anyone told of a worker id, by uuid. True for good, whatever becomes of who told it.
    told: BTreeMap<WorkerId, BTreeMap<String, Reached>>,
    identities: usize,
    /// What this frontend saw of workers that it let vote.
    seen: BTreeMap<WorkerId, Witness>,
    /// Who says less than others remember: in which boot generation, and since which beat.
    doubts: BTreeMap<Voter, (u64, u64)>,
    /// How many of those asked are members of the configuration of this number. `None`: to be counted.
    members_asked: Option<(Epoch, usize)>,
}

impl Witnesses {
    pub fn recalled(&mut self, by: Voter, witnesses: Vec<Witness>) {
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
        self.asked.insert(by);
        self.members_asked = None;
    }

    /// It may have been told more since: it is to be asked again.
    pub fn forget(&mut self, voter: &Voter) {
        self.doubts.remove(voter);
        if self.asked.remove(voter) {
            self.members_asked = None;
        }
    }

    pub fn has_recalled(&self, voter: &Voter) -> bool {
        self.asked.contains(voter)
    }

    /// How many members under other ids than this have told what they remember.
    fn others_asked(&mut self, config: &RingConfig, worker: &WorkerId) -> usize {
        let asked = &self.asked;
        let count = || asked.iter().filter(|by| by.is_member(config)).count();
        let known = self.members_asked.filter(|(number, _)| *number == config.epoch);
        let (_, all) = *self.members_asked.insert(known.unwrap_or_else(|| (config.epoch, count())));
        let first = Voter { id: worker.clone(), uuid: String::new() };
        let own = asked.range(first..).take_while(|by| by.id == *worker);
        all - own.filter(|by| by.is_member(config)).count()
    }

    /// A worker that votes has come as far as this.
    pub fn saw(&mut self, witness: &Witness) {
        let seen = self.seen.entry(witness.worker.clone()).or_insert_with(|| witness.clone());
        if seen.uuid != witness.uuid {
            *seen = witness.clone();
        }
        seen.boot_generation = seen.boot_generation.max(witness.boot_generation);
        seen.journal_seq = seen.journal_seq.max(witness.journal_seq);
    }

    /// `now` is what a worker says of itself; `config` the newest configuration that anyone knows.
    ///
    /// What is remembered of an earlier life of the worker is held against the journal that it started with: since then it
    /// may have grown by what was asked of it before it could be judged. `beats` counts those of this life.
    pub fn judge(
        &mut self,
        now: &Witness,
        opened_journal_seq: u64,
        beats: u64,
        config: Option<&RingConfig>,
    ) -> Soundness {
        let ours = self.seen.get(&now.worker);
        let saw =
            |seen: &Witness| Reached { boot_generation: seen.boot_generation, journal_seq: seen.journal_seq };
        let theirs = self.told.get(&now.worker);
        let told = theirs.and_then(|told| told.get(&now.uuid)).copied();
        let seen = ours.filter(|seen| seen.uuid == now.uuid).map(saw);
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
        let sound = seen.is_some()
            || continuous
            || others == 0
            || self.others_asked(config, &now.worker) >= majority(others);
        if sound { Soundness::Sound } else { Soundness::Open }
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

    /// Of a worker that has done nothing yet since it started.
    fn judge(witnesses: &mut Witnesses, now: &Witness, config: Option<&RingConfig>) -> Soundness {
        witnesses.judge(now, now.journal_seq, 0, config)
    }

    #[test]
    fn what_a_worker_has_done_since_it_started_hides_no_loss() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        for other in ["w2", "w3"] {
            witnesses.recalled(voter(other), vec![witness("w1", 5, 50)]);
        }
        let now = witness("w1", 6, 60);
        assert_eq!(witnesses.judge(&now, 49, 0, Some(&config)), Soundness::Lost);
        assert_eq!(witnesses.judge(&now, 50, 0, Some(&config)), Soundness::Sound);
        assert_eq!(
            witnesses.judge(&witness("w1", 5, 60), 10, 0, Some(&config)),
            Soundness::Sound,
            "the same life"
        );
    }

    #[test]
    fn a_beat_that_is_older_than_what_another_frontend_passed_on_is_no_loss() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        let tell = |witnesses: &mut Witnesses, journal_seq: u64| {
            for other in ["w2", "w3"] {
                witnesses.recalled(voter(other), vec![witness("w1", 5, journal_seq)]);
            }
        };
        tell(&mut witnesses, 60);
        let beat = |witnesses: &mut Witnesses, journal_seq: u64, nth: u64| {
            witnesses.judge(&witness("w1", 5, journal_seq), 40, nth, Some(&config))
        };
        assert_eq!(beat(&mut witnesses, 50, 7), Soundness::Open);
        assert_eq!(beat(&mut witnesses, 50, 7), Soundness::Open, "the same beat says nothing new");
        assert_eq!(beat(&mut witnesses, 60, 8), Soundness::Sound);
        witnesses.saw(&witness("w1", 5, 60));
        tell(&mut witnesses, 70);
        assert_eq!(beat(&mut witnesses, 65, 9), Soundness::Sound, "it has voted in this life");
        assert_eq!(beat(&mut witnesses, 55, 10), Soundness::Lost, "it said more itself");
    }

    #[test]
    fn a_later_start_that_another_frontend_passed_on_is_no_loss_of_the_one_that_is_over() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        witnesses.saw(&witness("w1", 5, 50));
        witnesses.recalled(voter("w2"), vec![witness("w1", 6, 55)]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 5, 50), Some(&config)), Soundness::Open);
        witnesses.forget(&voter("w1"));
        assert_eq!(witnesses.judge(&witness("w1", 6, 55), 50, 0, Some(&config)), Soundness::Sound);
    }

    #[test]
    fn a_worker_that_was_set_back_is_lost_though_its_boot_generation_is_as_high_as_before() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        witnesses.recalled(voter("w2"), vec![witness("w1", 5, 60)]);
        let beats = [0, 1, 2].map(|nth| witnesses.judge(&witness("w1", 5, 50), 40, nth, Some(&config)));
        assert_eq!(beats, [Soundness::Open, Soundness::Open, Soundness::Lost]);
    }

    #[test]
    fn a_majority_of_the_others_has_to_know_nothing_higher() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        let now = witness("w1", 3, 50);
        assert_eq!(judge(&mut witnesses, &now, None), Soundness::Sound, "nobody is a member of anything");
        assert_eq!(judge(&mut witnesses, &now, Some(&config)), Soundness::Open);
        witnesses.recalled(voter("w1"), vec![]);
        witnesses.recalled(voter("w9"), vec![]);
        assert_eq!(
            judge(&mut witnesses, &now, Some(&config)),
            Soundness::Open,
            "neither itself nor a spare counts"
        );
        witnesses.recalled(voter("w2"), vec![witness("w1", 2, 50)]);
        assert_eq!(judge(&mut witnesses, &now, Some(&config)), Soundness::Open, "w3 may remember more");
        witnesses.recalled(voter("w3"), vec![]);
        assert_eq!(judge(&mut witnesses, &now, Some(&config)), Soundness::Sound);
        assert_eq!(judge(&mut witnesses, &witness("w9", 1, 0), Some(&config)), Soundness::Sound, "a spare");
    }

    #[test]
    fn one_who_remembers_more_is_enough_to_be_lost() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        witnesses.recalled(voter("w3"), vec![]);
        witnesses.recalled(voter("w2"), vec![witness("w1", 5, 50)]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 49), Some(&config)), Soundness::Lost);
        let older = [0, 1, 2].map(|nth| witnesses.judge(&witness("w1", 4, 50), 50, nth, Some(&config)));
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
        witnesses.recalled(voter("w2"), vec![witness("w1", 5, 50)]);
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
        witnesses.recalled(voter("w2"), vec![witness("w1", 5, 50)]);
        witnesses.recalled(voter("w3"), vec![witness("w1", 4, 60)]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 60), Some(&config)), Soundness::Sound);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 59), Some(&config)), Soundness::Lost);
        witnesses.forget(&voter("w3"));
        assert_eq!(
            judge(&mut witnesses, &witness("w1", 6, 60), Some(&config)),
            Soundness::Open,
            "one of two"
        );
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 59), Some(&config)), Soundness::Lost);
        witnesses.recalled(voter("w3"), vec![]);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 60), Some(&config)), Soundness::Sound);
    }

    #[test]
    fn what_this_frontend_saw_counts_for_all() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        witnesses.saw(&witness("w1", 5, 50));
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 50), Some(&config)), Soundness::Sound);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 40), Some(&config)), Soundness::Lost);
    }

    #[test]
    fn a_member_whose_data_was_not_known_is_recognised_by_what_others_remember() {
        let (mut witnesses, mut config) = (Witnesses::default(), config());
        config.members[0].uuid.clear();
        witnesses.recalled(voter("w2"), vec![witness("w1", 5, 50)]);
        witnesses.recalled(voter("w3"), vec![]);
        let other = Witness { uuid: "fresh".to_owned(), ..witness("w1", 1, 0) };
        assert_eq!(judge(&mut witnesses, &other, Some(&config)), Soundness::Other);
        assert_eq!(judge(&mut witnesses, &witness("w1", 6, 50), Some(&config)), Soundness::Sound);
    }
}
