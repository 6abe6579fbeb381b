//! How a frontend decides ring configurations: the proposer of [`crate::ring_register`], as a plain struct.
//!
//! It is fed with who the workers are and with their answers, and says what each of them is to be asked next. That is
//! a function of the worker's last answer and of what is being attempted, so a call that is lost is simply made again,
//! and an answer that comes late or twice does no harm.
//!
//! ```text
//!  met, trusted, answered, propose, tick ──▶ Proposer ──▶ ask_of(worker): read, prepare, accept, announce
//!                                                    └──▶ in_force(): what the cluster works with
//! ```
//!
//! 1. **Find out.** Every worker is read. The newest configuration that any of them knows to be decided is the base.
//! 2. **Complete.** A vote for the next number may have been decided by a frontend that died: it is proposed again.
//! 3. **Decide.** Prepare at a majority of the base's voters; the vote of the highest term among their answers binds,
//!    else the proposal is free. Accept at a majority of the base's voters and of the next one's.
//! 4. **Announce.** In force is what a majority of its own voters knows. It goes on until every member knows.
//!
//! **The first number** has no base: its electors are its own voters. They come from the settings, with the data that
//! they registered with, once a majority of those workers says that it knows nothing and the others had a moment.
//!
//! **Who counts.** A worker whose data is older than what it once said (a restored disk) has forgotten promises and votes.
//! The caller says whom it trusts; others are read, and counted nowhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::{Backoff, BackoffPolicy};
use crate::mutants::{self, Mutant};
use crate::quorum::majority;
use crate::ring_register::{Ask, RegisterState, Vote, number};
use crate::{Epoch, Incarnation, RingConfig, Term, WorkerId};

/// A worker over certain data: who answers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Voter {
    pub id: WorkerId,
    pub uuid: String,
}

impl Voter {
    pub fn is_member(&self, config: &RingConfig) -> bool {
        config.index_of_identity(&self.id, &self.uuid).is_some()
    }
}

#[derive(Debug, Default)]
struct Seen {
    state: Option<RegisterState>,
    trusted: bool,
    /// It is to be read again: see [`Proposer::revisit`].
    revisit: bool,
}

/// A configuration, and which of its members vote: [`RingConfig::voters`] walks the whole table, and is asked often.
#[derive(Clone, Debug)]
struct Electorate {
    config: Arc<RingConfig>,
    voters: Arc<[bool]>,
}

impl Electorate {
    fn of(config: Arc<RingConfig>) -> Self {
        let voters = config.voters().into();
        Self { config, voters }
    }

    /// The member's index, if `voter` is one and votes.
    fn index_of(&self, voter: &Voter) -> Option<usize> {
        let index = self.config.index_of_identity(&voter.id, &voter.uuid)?;
        self.voters[index].then_some(index)
    }
}

/// What this frontend wants to come next.
#[derive(Debug)]
struct Proposal {
    config: Arc<RingConfig>,
    /// A worker may have been asked to vote for it: whether it is decided is no longer up to this frontend.
    offered: bool,
}

/// A term, and what it is used for.
#[derive(Debug)]
struct Attempt {
    term: Term,
    /// Who votes: the base, or the first configuration itself.
    electors: Electorate,
    /// `None` while promises are gathered.
    accept: Option<Electorate>,
}

/// Why a configuration is not taken as a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the configuration in force is number {}, and the next one cannot be number {}", current.0, proposed.0)]
pub struct StaleProposal {
    pub current: Epoch,
    pub proposed: Epoch,
}

/// How far the cluster is from having a configuration in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Of the members that vote, so many have done what is wanted now, so many must.
    pub confirmed: usize,
    pub needed: usize,
    /// Those that have not.
    pub missing: Vec<WorkerId>,
}

/// See the module.
#[derive(Debug)]
pub struct Proposer {
    incarnation: Incarnation,
    /// Number 1 as the settings say, without identities.
    bootstrap: Option<Electorate>,
    grace: Duration,
    voters: BTreeMap<Voter, Seen>,
    /// The newest that is known to be decided.
    decided: Option<Electorate>,
    in_force: Option<Arc<RingConfig>>,
    proposal: Option<Proposal>,
    attempt: Option<Attempt>,
    /// The highest `n` of a term that was seen or used.
    highest: u64,
    /// Since when a majority of the settings' workers knows nothing.
    blank_since: Option<Duration>,
    /// Two frontends that overtake each other wait, each its own time.
    backoff: Backoff,
    not_before: Duration,
}

impl Proposer {
    /// `bootstrap` is number 1, its members without identities; `None`: only what workers know is used. `grace` is how
    /// long a majority of its members waits for the others.
    pub fn new(incarnation: Incarnation, bootstrap: Option<Arc<RingConfig>>, grace: Duration) -> Self {
        let waits = BackoffPolicy::new(Duration::from_millis(20), Duration::from_secs(1), 0.8)
            .expect("constants in range");
        Self {
            incarnation,
            bootstrap: bootstrap.map(Electorate::of),
            grace,
            voters: BTreeMap::new(),
            decided: None,
            in_force: None,
            proposal: None,
            attempt: None,
            highest: 0,
            blank_since: None,
            backoff: waits.start(incarnation.0),
            not_before: Duration::ZERO,
        }
    }

    /// A worker can be asked: it has come, or has come back. What it said before is void.
    ///
    /// A seat that names nobody's data may have had another one on it, which has promised and voted since the attempt began.
    /// The attempt begins again, so that the promises of the others tell of that.
    pub fn met(&mut self, voter: Voter) {
        let takes_seat = |electors: &Electorate| {
            electors.index_of(&voter).is_some_and(|index| electors.config.members[index].uuid.is_empty())
        };
        self.attempt.take_if(|Attempt { electors, accept, .. }| {
            takes_seat(electors) || accept.as_ref().is_some_and(takes_seat)
        });
        self.voters.insert(voter, Seen::default());
    }

    /// A worker is not to be asked any longer.
    pub fn parted(&mut self, voter: &Voter) {
        self.voters.remove(voter);
    }

    /// Whether a worker's answers count.
    pub fn trust(&mut self, voter: &Voter, trusted: bool, now: Duration) {
        if let Some(seen) = self.voters.get_mut(voter).filter(|seen| seen.trusted != trusted) {
            seen.trusted = trusted;
            self.tick(now);
        }
    }

    /// A worker may have been told something by another frontend: it is read again, once. Whoever decides nothing himself
    /// hears of what others decide in no other way.
    pub fn revisit(&mut self, voter: &Voter) {
        if let Some(seen) = self.voters.get_mut(voter) {
            seen.revisit = true;
        }
    }

    /// A worker's answer, to whatever it was asked.
    pub fn answered(&mut self, voter: &Voter, state: RegisterState, now: Duration) {
        let Some(seen) = self.voters.get_mut(voter) else { return };
        seen.revisit = false;
        if seen.state.as_ref().is_some_and(|known| state.is_before(known)) {
            return;
        }
        self.highest = self.highest.max(state.promised.n);
        if let Some(decided) = state.decided.as_ref().filter(|decided| decided.epoch > self.base()) {
            self.learn(Electorate::of(decided.clone()));
        }
        if let Some(seen) = self.voters.get_mut(voter) {
            seen.state = Some(state);
        }
        self.tick(now);
    }

    /// Wants `next` to follow the configuration in force. It replaces a proposal that is not voted on yet. Whether it was
    /// decided shows [`Proposer::in_force`]; another one may be, that someone began before.
    pub fn propose(&mut self, next: Arc<RingConfig>, now: Duration) -> Result<(), StaleProposal> {
        let current = number(self.in_force.as_ref()).max(self.base());
        if next.epoch.0 != current.0 + 1 {
            return Err(StaleProposal { current, proposed: next.epoch });
        }
        self.proposal = Some(Proposal { config: next, offered: false });
        self.tick(now);
        Ok(())
    }

    /// Nobody waits for `config` any longer: it is not to be decided, if that can still be helped. Once a worker may have
    /// been asked to vote for it, it stays proposed. Otherwise it would be decided whenever enough voters are back,
    /// perhaps minutes later, in another world than it was made for.
    pub fn withdraw(&mut self, config: &Arc<RingConfig>) {
        let withdrawn = self.proposal.take_if(|p| p.config == *config && !p.offered);
        if withdrawn.is_some() && self.decided.is_some() && !self.has_business() {
            self.attempt = None;
        }
    }

    /// The configuration that the cluster works with: decided, and known to a majority of its voters.
    pub fn in_force(&self) -> Option<&Arc<RingConfig>> {
        self.in_force.as_ref()
    }

    /// The newest configuration that was decided; it may not be in force yet.
    pub fn decided(&self) -> Option<&Arc<RingConfig>> {
        self.decided.as_ref().map(|decided| &decided.config)
    }

    /// The number that a worker knows to be decided; `None` before it answered.
    pub fn knows(&self, voter: &Voter) -> Option<Epoch> {
        self.state_of(voter).map(RegisterState::number)
    }

    /// What a worker is to be asked now; `None`: nothing.
    pub fn ask_of(&self, voter: &Voter) -> Option<Ask> {
        let seen = self.voters.get(voter)?;
        let Some(state) = &seen.state else { return Some(Ask::default()) };
        let known = self.decided().cloned().filter(|decided| decided.epoch > state.number());
        let asked = seen.trusted || mutants::on(Mutant::CountForgetful);
        let attempt = self.attempt.as_ref().filter(|attempt| asked && state.promised <= attempt.term);
        let step = attempt.and_then(|attempt| attempt.step_of(voter, state));
        match step {
            Some((term, accept)) => Some(Ask { term, known, accept }),
            // Members have to know, and who was one, that it is none any longer.
            None => {
                let concerned =
                    |config: &Arc<RingConfig>| voter.is_member(config) || state.number() > Epoch(0);
                let known = known.filter(concerned);
                (known.is_some() || seen.revisit).then(|| Ask { known, ..Ask::default() })
            }
        }
    }

    /// Nothing is proposed or left to complete.
    pub fn is_idle(&self) -> bool {
        self.attempt.is_none() && !self.has_business()
    }

    /// When [`Proposer::tick`] may change something although nobody answered.
    pub fn wakes_at(&self) -> Option<Duration> {
        if self.attempt.is_some() {
            return None;
        }
        let bootstrap = self.blank_since.filter(|_| self.decided.is_none());
        let bootstrap = bootstrap.map(|since| (since + self.grace).max(self.not_before));
        let proposal = self.has_business().then_some(self.not_before);
        bootstrap.into_iter().chain(proposal).min()
    }

    pub fn progress(&self) -> Progress {
        let Some(wanted) = self.decided.as_ref().or(self.attempt.as_ref().map(|a| &a.electors)) else {
            let nobody = Progress { confirmed: 0, needed: 0, missing: vec![] };
            let listed = self.bootstrap.as_ref();
            return listed.map_or(nobody, |listed| self.count(listed, |state| state.decided.is_none()));
        };
        self.count(wanted, |state| state.number() >= wanted.config.epoch)
    }

    /// Draws the conclusions from what is known at `now`.
    pub fn tick(&mut self, now: Duration) {
        // Each round ends an attempt, begins one, or takes it a step on: three make a decision.
        for _ in 0..4 {
            self.announce();
            let before = self.stage();
            match &self.attempt {
                Some(_) => self.carry_on(now),
                None => self.begin(now),
            }
            if self.stage() == before {
                return;
            }
        }
    }

    fn stage(&self) -> (Epoch, Option<(Term, bool)>) {
        let attempt = self.attempt.as_ref().map(|attempt| (attempt.term, attempt.accept.is_some()));
        (self.base(), attempt)
    }

    fn state_of(&self, voter: &Voter) -> Option<&RegisterState> {
        self.voters.get(voter)?.state.as_ref()
    }

    /// The answers of those who vote, with their indexes among the members.
    fn answers<'a>(&'a self, electors: &'a Electorate) -> impl Iterator<Item = (usize, &'a RegisterState)> {
        let all = mutants::on(Mutant::CountForgetful);
        let trusted = self.voters.iter().filter(move |(_, seen)| seen.trusted || all);
        trusted.filter_map(|(voter, seen)| Some((electors.index_of(voter)?, seen.state.as_ref()?)))
    }

    fn count(&self, electors: &Electorate, done: impl Fn(&RegisterState) -> bool) -> Progress {
        let mut missing = electors.voters.to_vec();
        for (index, _) in self.answers(electors).filter(|(_, state)| done(state)) {
            missing[index] = false;
        }
        let named = electors.config.members.iter().zip(missing).filter(|(_, missing)| *missing);
        let missing: Vec<_> = named.map(|(member, _)| member.id.clone()).collect();
        let voters = electors.voters.iter().filter(|votes| **votes).count();
        Progress { confirmed: voters - missing.len(), needed: majority(voters), missing }
    }

    fn is_majority(&self, electors: &Electorate, done: impl Fn(&RegisterState) -> bool) -> bool {
        let Progress { confirmed, needed, .. } = self.count(electors, done);
        confirmed >= needed
    }

    fn learn(&mut self, decided: Electorate) {
        let number = decided.config.epoch;
        self.decided = Some(decided);
        self.attempt = None;
        self.proposal.take_if(|proposal| proposal.config.epoch <= number);
        self.backoff.reset();
    }

    fn announce(&mut self) {
        let Some(decided) = &self.decided else { return };
        let epoch = decided.config.epoch;
        if number(self.in_force.as_ref()) < epoch
            && self.is_majority(decided, |state| state.number() >= epoch)
        {
            self.in_force = Some(decided.config.clone());
        }
    }

    /// The number that is known to be decided.
    fn base(&self) -> Epoch {
        number(self.decided())
    }

    /// The number that is decided next.
    fn next(&self) -> Epoch {
        Epoch(self.base().0 + 1)
    }

    /// Something is proposed, or has been begun by someone.
    fn has_business(&self) -> bool {
        let next = self.next();
        let proposed = self.proposal.as_ref().is_some_and(|proposal| proposal.config.epoch == next);
        match &self.decided {
            Some(base) => proposed || self.answers(base).any(|(_, state)| state.vote_for(next).is_some()),
            None => self.begun_first().is_some(),
        }
    }

    /// A first configuration that someone has voted for: that of the highest term.
    fn begun_first(&self) -> Option<&Arc<RingConfig>> {
        let states = self.voters.values().filter(|seen| seen.trusted).filter_map(|seen| seen.state.as_ref());
        let votes = states.filter_map(|state| state.vote_for(Epoch(1)));
        votes.max_by_key(|vote| vote.term).map(|vote| &vote.config)
    }

    fn begin(&mut self, now: Duration) {
        let electors = match &self.decided {
            Some(base) => self.has_business().then(|| base.clone()),
            None => self.begun_first().cloned().or_else(|| self.bootstrap(now)).map(Electorate::of),
        };
        if now >= self.not_before
            && let Some(electors) = electors
        {
            self.start(electors);
        }
    }

    fn start(&mut self, electors: Electorate) {
        self.highest += 1;
        let term = Term { n: self.highest, incarnation: self.incarnation };
        self.attempt = Some(Attempt { term, electors, accept: None });
    }

    /// The first configuration, with the identities of those who are there, once it may be proposed.
    fn bootstrap(&mut self, now: Duration) -> Option<Arc<RingConfig>> {
        let listed = self.bootstrap.as_ref()?;
        let Progress { confirmed, needed, missing } = self.count(listed, |state| state.decided.is_none());
        if confirmed < needed {
            self.blank_since = None;
            return None;
        }
        let since = *self.blank_since.get_or_insert(now);
        if !missing.is_empty() && now < since.saturating_add(self.grace) {
            return None;
        }
        let mut config = RingConfig::clone(&listed.config);
        for member in &mut config.members {
            let there = |(voter, seen): &(&Voter, &Seen)| {
                voter.id == member.id && seen.trusted && seen.state.is_some()
            };
            if let Some((voter, _)) = self.voters.iter().find(there) {
                member.uuid = voter.uuid.clone();
            }
        }
        Some(Arc::new(config))
    }

    fn carry_on(&mut self, now: Duration) {
        let Some(Attempt { term, electors, accept }) = &self.attempt else { return };
        let (term, electors) = (*term, electors.clone());
        let refused = |state: &RegisterState| state.promised > term;
        let asked = [Some(&electors), accept.as_ref()];
        if asked.into_iter().flatten().any(|asked| self.answers(asked).any(|(_, state)| refused(state))) {
            self.attempt = None;
            self.not_before = now.saturating_add(self.backoff.next_wait());
            return;
        }
        match accept.clone() {
            None => self.gather_promises(term, electors),
            Some(next) => {
                let voted = |state: &RegisterState| {
                    let vote = state.vote_for(next.config.epoch);
                    vote.is_some_and(|vote| vote.term == term && vote.config == next.config)
                };
                let elected =
                    self.is_majority(&electors, voted) || mutants::on(Mutant::DecideWithoutElectors);
                if elected && self.is_majority(&next, voted) {
                    self.learn(next);
                }
            }
        }
    }

    fn gather_promises(&mut self, term: Term, electors: Electorate) {
        let base = self.base();
        let promised = |state: &RegisterState| state.promised == term && state.number() == base;
        if !self.is_majority(&electors, promised) && !mutants::on(Mutant::VoteWithoutPromises) {
            return;
        }
        let next = self.next();
        let promises = self.answers(&electors).map(|(_, state)| state).filter(|state| promised(state));
        let newest = |votes: &mut dyn Iterator<Item = &Vote>| {
            votes.max_by_key(|vote| vote.term).map(|vote| vote.config.clone())
        };
        let binding = newest(&mut promises.filter_map(|state| state.vote_for(next)));
        let binding = binding.filter(|_| !mutants::on(Mutant::VoteUnbound));
        // Of one who has not promised: it does not bind, but is as good as any, and asks for an end.
        let begun = newest(&mut self.answers(&electors).filter_map(|(_, state)| state.vote_for(next)));
        let is_first = self.decided.is_none();
        let proposal = self.proposal.as_ref().filter(|p| p.config.epoch == next);
        if let Some(first) = binding.as_ref().filter(|binding| is_first && **binding != electors.config) {
            // Its voters are others: it takes their promises to know which one binds.
            return self.start(Electorate::of(first.clone()));
        }
        let free =
            || if is_first { Some(electors.config) } else { proposal.map(|p| p.config.clone()).or(begun) };
        let accept = binding.or_else(free);
        match (accept, &mut self.attempt) {
            (Some(config), Some(attempt)) => {
                if let Some(proposal) = self.proposal.as_mut().filter(|p| p.config == config) {
                    proposal.offered = true;
                }
                attempt.accept = Some(Electorate::of(config));
            }
            // What was to be completed is not there any longer, and nothing is proposed.
            _ => self.attempt = None,
        }
    }
}

impl Attempt {
    /// What the attempt needs of a worker that has promised no higher term.
    fn step_of(&self, voter: &Voter, state: &RegisterState) -> Option<(Term, Option<Arc<RingConfig>>)> {
        let elector = self.electors.index_of(voter).is_some();
        let Some(next) = &self.accept else {
            return (elector && state.promised < self.term).then_some((self.term, None));
        };
        let concerned = elector || next.index_of(voter).is_some();
        let epoch = next.config.epoch;
        let open = state.number() < epoch;
        let voted = state.vote_for(epoch).is_some_and(|vote| vote.term == self.term);
        (concerned && open && !voted).then(|| (self.term, Some(next.config.clone())))
    }
}

#[cfg(test)]
mod tests;
