//! Whether a worker has lost something that it once said: a restored disk, a commit that was not durable after all.
//!
//! Every start and every commit makes a worker's boot generation and journal seq grow. The frontend sees both in
//! heartbeats and passes them on, so that the other workers remember them durably. A worker that comes back with less
//! than anyone remembers is *lost*: it has forgotten promises, and must not vote under its old identity (design 7).
//!
//! A worker is *sound* once so many of the others were asked that they are a majority together with itself, and none
//! remembers more. (All others at three members would mean that one dead worker keeps the other two from starting.) What
//! this frontend has seen itself of a worker that it had let vote counts for all of them: nobody was told more.
//! A witness lags by a heartbeat: data that is older by less than that is not recognised.

use std::collections::BTreeMap;

use tercet_common::quorum::majority;
use tercet_common::ring_proposer::Voter;
use tercet_common::sync::Witness;
use tercet_common::{RingConfig, WorkerId};

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

/// What is remembered of workers.
#[derive(Debug, Default)]
pub struct Witnesses {
    /// What each of the others remembers.
    recalled: BTreeMap<Voter, Vec<Witness>>,
    /// What this frontend saw of workers that it let vote.
    seen: BTreeMap<WorkerId, Witness>,
}

impl Witnesses {
    pub fn recalled(&mut self, by: Voter, witnesses: Vec<Witness>) {
        self.recalled.insert(by, witnesses);
    }

    /// What it remembers is to be asked again.
    pub fn forget(&mut self, voter: &Voter) {
        self.recalled.remove(voter);
    }

    pub fn has_recalled(&self, voter: &Voter) -> bool {
        self.recalled.contains_key(voter)
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
    pub fn judge(&self, now: &Witness, config: Option<&RingConfig>) -> Soundness {
        let ours = self.seen.get(&now.worker);
        let theirs = self.recalled.values().flatten().filter(|witness| witness.worker == now.worker);
        let mut told = theirs.chain(ours);
        let has_more =
            |then: &Witness| then.boot_generation > now.boot_generation || then.journal_seq > now.journal_seq;
        if told.clone().any(|then| then.uuid == now.uuid && has_more(then)) {
            return Soundness::Lost;
        }
        let Some(config) = config else { return Soundness::Sound };
        let Some(index) = config.index_of_identity(&now.worker, &now.uuid) else { return Soundness::Sound };
        if config.members[index].uuid.is_empty() && told.any(|then| then.uuid != now.uuid) {
            return Soundness::Other;
        }
        let others = self.recalled.keys().filter(|by| by.id != now.worker && by.is_member(config)).count();
        let known = ours.is_some_and(|seen| seen.uuid == now.uuid);
        if known || others + 1 >= majority(config.members.len()) { Soundness::Sound } else { Soundness::Open }
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

    #[test]
    fn a_majority_together_with_itself_has_to_know_nothing_higher() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        let now = witness("w1", 3, 50);
        assert_eq!(witnesses.judge(&now, None), Soundness::Sound, "nobody is a member of anything");
        assert_eq!(witnesses.judge(&now, Some(&config)), Soundness::Open);
        witnesses.recalled(voter("w1"), vec![]);
        witnesses.recalled(voter("w9"), vec![]);
        assert_eq!(
            witnesses.judge(&now, Some(&config)),
            Soundness::Open,
            "neither itself nor a spare counts"
        );
        witnesses.recalled(voter("w2"), vec![witness("w1", 2, 50)]);
        assert_eq!(witnesses.judge(&now, Some(&config)), Soundness::Sound);
        assert_eq!(witnesses.judge(&witness("w9", 1, 0), Some(&config)), Soundness::Sound, "a spare");
    }

    #[test]
    fn one_who_remembers_more_is_enough_to_be_lost() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        witnesses.recalled(voter("w3"), vec![]);
        witnesses.recalled(voter("w2"), vec![witness("w1", 5, 50)]);
        assert_eq!(witnesses.judge(&witness("w1", 6, 49), Some(&config)), Soundness::Lost);
        assert_eq!(witnesses.judge(&witness("w1", 4, 50), Some(&config)), Soundness::Lost);
        assert_eq!(witnesses.judge(&witness("w1", 6, 50), Some(&config)), Soundness::Sound);
        let other = Witness { uuid: "fresh".to_owned(), ..witness("w1", 1, 0) };
        assert_eq!(witnesses.judge(&other, Some(&config)), Soundness::Sound, "another identity: no member");
    }

    #[test]
    fn what_this_frontend_saw_counts_for_all() {
        let (mut witnesses, config) = (Witnesses::default(), config());
        witnesses.saw(&witness("w1", 5, 50));
        assert_eq!(witnesses.judge(&witness("w1", 6, 50), Some(&config)), Soundness::Sound);
        assert_eq!(witnesses.judge(&witness("w1", 6, 40), Some(&config)), Soundness::Lost);
    }

    #[test]
    fn a_member_whose_data_was_not_known_is_recognised_by_what_others_remember() {
        let (mut witnesses, mut config) = (Witnesses::default(), config());
        config.members[0].uuid.clear();
        witnesses.recalled(voter("w2"), vec![witness("w1", 5, 50)]);
        let other = Witness { uuid: "fresh".to_owned(), ..witness("w1", 1, 0) };
        assert_eq!(witnesses.judge(&other, Some(&config)), Soundness::Other);
        assert_eq!(witnesses.judge(&witness("w1", 6, 50), Some(&config)), Soundness::Sound);
    }
}
