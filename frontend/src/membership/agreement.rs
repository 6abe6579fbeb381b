//! How the cluster's configuration is agreed on: a plain struct that takes what each member says it holds.
//!
//! A worker keeps the first configuration of an epoch that it is given, durably, and never another one of that epoch.
//! So the configuration of an epoch is a register that is written once: what a majority of its members holds is
//! decided, and no second frontend, and no frontend that was started with another list, can decide differently.
//!
//! ```text
//!  given w1 w2 w3 as epoch 1      w1: holds it   w2: holds it              → formed (w3 is configured when it appears)
//!  given w1 w2 w3 w4 by mistake   w1: holds w1 w2 w3                       → refused, naming both lists
//!  given w1 w2 w3 as epoch 1      w1: holds epoch 4 of w1 w2 w5            → ask w1 w2 w5 whether they hold epoch 4
//! ```
//!
//! One member that holds something else stops the forming, even if a majority would agree: more likely than a broken
//! worker is a list that was edited, and then part of the data would silently be out of reach. For the same reason
//! a majority waits a moment for the others before it forms. After that, a worker that differs is only kept out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tercet_common::quorum::majority;
use tercet_common::{RingConfig, WorkerId};

use super::beat::described;

/// Where the forming stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many members have confirmed, so many are needed.
    Forming {
        confirmed: usize,
        needed: usize,
    },
    Formed,
    Refused(Mismatch),
}

/// What one answer meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The member holds the candidate.
    Confirmed,
    /// The member holds a later configuration, which is the candidate now: its members are to be asked.
    Adopted,
    /// The member is still at an earlier epoch and did not take the candidate. It does not count.
    Behind,
    Mismatch(Mismatch),
}

/// A member that holds another configuration than ours at the same epoch, or one of another cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "worker {worker} holds another configuration of epoch {epoch}: it was formed with [{held}], this frontend has \
     [{ours}]. Start the frontend with the members that the workers hold, or give a new cluster empty databases"
)]
pub struct Mismatch {
    pub worker: WorkerId,
    pub epoch: u64,
    pub held: String,
    pub ours: String,
}

/// See the module.
#[derive(Debug)]
pub struct Agreement {
    candidate: RingConfig,
    formed: bool,
    /// Members that hold the candidate, and since when they are a majority.
    confirmed: BTreeSet<WorkerId>,
    majority_since: Option<Duration>,
    mismatches: BTreeMap<WorkerId, Mismatch>,
    grace: Duration,
}

impl Agreement {
    /// `grace` is how long a majority waits for the other members before it forms.
    pub fn new(candidate: RingConfig, grace: Duration) -> Self {
        Self {
            candidate,
            formed: false,
            confirmed: BTreeSet::new(),
            majority_since: None,
            mismatches: BTreeMap::new(),
            grace,
        }
    }

    /// What members are to be given.
    pub fn candidate(&self) -> &RingConfig {
        &self.candidate
    }

    /// A worker was given a configuration and says that it holds `held`.
    pub fn answer(&mut self, worker: &WorkerId, held: RingConfig, now: Duration) -> Outcome {
        let same_cluster = held.cluster_id == self.candidate.cluster_id;
        if held == self.candidate {
            self.mismatches.remove(worker);
            self.count(worker, now);
            return Outcome::Confirmed;
        }
        self.confirmed.remove(worker);
        if same_cluster && held.epoch > self.candidate.epoch && !self.formed {
            let (grace, candidate) = (self.grace, held);
            *self = Self::new(candidate, grace);
            self.count(worker, now);
            return Outcome::Adopted;
        }
        if same_cluster && held.epoch < self.candidate.epoch {
            return Outcome::Behind;
        }
        let mismatch = Mismatch {
            worker: worker.clone(),
            epoch: held.epoch.0,
            held: described(&held),
            ours: described(&self.candidate),
        };
        self.mismatches.insert(worker.clone(), mismatch.clone());
        Outcome::Mismatch(mismatch)
    }

    /// A worker that a later configuration has left behind may know it, and yet has no vote in it.
    fn count(&mut self, worker: &WorkerId, now: Duration) {
        if self.candidate.index_of(worker).is_some() {
            self.confirmed.insert(worker.clone());
        }
        if self.confirmed.len() >= majority(self.candidate.members.len()) {
            self.majority_since.get_or_insert(now);
        }
    }

    /// Once formed, it stays formed.
    pub fn progress(&mut self, now: Duration) -> Progress {
        if self.formed {
            return Progress::Formed;
        }
        if let Some(mismatch) = self.mismatches.values().next() {
            return Progress::Refused(mismatch.clone());
        }
        let members = self.candidate.members.len();
        let (confirmed, needed) = (self.confirmed.len(), majority(members));
        let waited = self.majority_since.is_some_and(|since| now.saturating_sub(since) >= self.grace);
        if confirmed == members || (confirmed >= needed && waited) {
            self.formed = true;
            return Progress::Formed;
        }
        Progress::Forming { confirmed, needed }
    }

    /// When [`Agreement::progress`] may change without an answer.
    pub fn wakes_at(&self) -> Option<Duration> {
        let waits = !self.formed && self.mismatches.is_empty();
        self.majority_since.filter(|_| waits).map(|since| since.saturating_add(self.grace))
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Epoch, Member, REPLICAS};

    use super::*;

    const GRACE: Duration = Duration::from_secs(1);
    const NOW: Duration = Duration::ZERO;

    fn config(epoch: u64, ids: &[&str]) -> RingConfig {
        let member = |id: &&str| Member::named(worker(id), 128, "");
        RingConfig::new("c", Epoch(epoch), REPLICAS, ids.iter().map(member).collect()).unwrap()
    }

    fn worker(id: &str) -> WorkerId {
        WorkerId::new(id).unwrap()
    }

    fn four() -> (RingConfig, Agreement) {
        let config = config(1, &["w1", "w2", "w3", "w4"]);
        (config.clone(), Agreement::new(config, GRACE))
    }

    #[test]
    fn all_members_form_at_once_and_a_majority_after_the_grace() {
        let (config, mut agreement) = four();
        for id in ["w1", "w2"] {
            assert_eq!(agreement.answer(&worker(id), config.clone(), NOW), Outcome::Confirmed);
        }
        assert_eq!(agreement.progress(GRACE * 9), Progress::Forming { confirmed: 2, needed: 3 });
        assert_eq!(agreement.wakes_at(), None);
        agreement.answer(&worker("w3"), config.clone(), NOW);
        assert_eq!(agreement.progress(NOW), Progress::Forming { confirmed: 3, needed: 3 });
        assert_eq!(agreement.wakes_at(), Some(GRACE));
        assert_eq!(agreement.progress(GRACE), Progress::Formed);

        let (config, mut agreement) = four();
        for id in ["w1", "w2", "w3", "w4"] {
            agreement.answer(&worker(id), config.clone(), NOW);
        }
        assert_eq!(agreement.progress(NOW), Progress::Formed);
    }

    #[test]
    fn the_same_member_counts_once() {
        let (config, mut agreement) = four();
        for _ in 0..4 {
            agreement.answer(&worker("w1"), config.clone(), NOW);
        }
        assert_eq!(agreement.progress(NOW), Progress::Forming { confirmed: 1, needed: 3 });
    }

    #[test]
    fn one_member_with_another_list_refuses_and_both_lists_are_named() {
        let (ours, mut agreement) = four();
        for id in ["w1", "w2", "w3"] {
            agreement.answer(&worker(id), ours.clone(), NOW);
        }
        agreement.answer(&worker("w4"), config(1, &["w2", "w4", "w5"]), NOW);
        let Progress::Refused(mismatch) = agreement.progress(GRACE) else { panic!("must refuse") };
        let text = mismatch.to_string();
        assert!(
            text.contains("worker w4") && text.contains("w2, w4, w5;") && text.contains("w1, w2, w3, w4;"),
            "{text}"
        );
    }

    #[test]
    fn a_mismatch_that_is_mended_no_longer_refuses() {
        let (ours, mut agreement) = four();
        agreement.answer(&worker("w4"), config(1, &["w4"]), NOW);
        for id in ["w1", "w2", "w3", "w4"] {
            agreement.answer(&worker(id), ours.clone(), NOW);
        }
        assert_eq!(agreement.progress(NOW), Progress::Formed);
    }

    #[test]
    fn other_weights_or_another_cluster_are_a_mismatch_too() {
        let (ours, mut agreement) = four();
        let mut weights = ours.clone();
        weights.members[0].virtual_nodes = 64;
        let Outcome::Mismatch(mismatch) = agreement.answer(&worker("w1"), weights, NOW) else { panic!() };
        assert!(mismatch.to_string().contains("w1 (64 virtual nodes)"));
        let elsewhere = RingConfig { cluster_id: "other".to_owned(), epoch: Epoch(7), ..ours };
        assert!(matches!(agreement.answer(&worker("w2"), elsewhere, NOW), Outcome::Mismatch(_)));
    }

    #[test]
    fn a_later_configuration_is_adopted_once_its_own_majority_agrees() {
        let (ours, mut agreement) = four();
        agreement.answer(&worker("w1"), ours.clone(), NOW);
        agreement.answer(&worker("w2"), ours.clone(), NOW);
        let later = config(4, &["w3", "w5", "w6"]);
        assert_eq!(agreement.answer(&worker("w3"), later.clone(), NOW), Outcome::Adopted);
        assert_eq!(agreement.candidate(), &later);
        assert_eq!(agreement.progress(GRACE), Progress::Forming { confirmed: 1, needed: 2 });
        assert_eq!(agreement.answer(&worker("w1"), ours, NOW), Outcome::Behind);
        agreement.answer(&worker("w5"), later, NOW);
        assert_eq!(agreement.progress(GRACE), Progress::Formed);
    }

    #[test]
    fn a_worker_that_was_left_behind_knows_the_later_configuration_without_a_vote_in_it() {
        let (_, mut agreement) = four();
        let later = config(2, &["w1", "w2", "w3"]);
        assert_eq!(agreement.answer(&worker("w4"), later.clone(), NOW), Outcome::Adopted);
        assert_eq!(agreement.progress(NOW), Progress::Forming { confirmed: 0, needed: 2 });
        assert_eq!(agreement.answer(&worker("w4"), later, NOW), Outcome::Confirmed);
        assert_eq!(agreement.progress(NOW), Progress::Forming { confirmed: 0, needed: 2 });
    }

    #[test]
    fn after_the_forming_a_worker_that_differs_is_only_kept_out() {
        let (ours, mut agreement) = four();
        for id in ["w1", "w2", "w3"] {
            agreement.answer(&worker(id), ours.clone(), NOW);
        }
        assert_eq!(agreement.progress(GRACE), Progress::Formed);
        assert!(matches!(agreement.answer(&worker("w4"), config(2, &["w4"]), GRACE), Outcome::Mismatch(_)));
        assert_eq!(agreement.progress(GRACE), Progress::Formed);
        assert_eq!(agreement.candidate(), &ours);
    }
}
