//! Cases by name, and random schedules: several frontends, loss, late and doubled answers, crashes, a disk set back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::mutants::{fails_without, switch};
use crate::{Member, REPLICAS};

const GRACE: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

fn voter(n: usize) -> Voter {
    Voter { id: WorkerId::new(&format!("w{n}")).unwrap(), uuid: format!("u{n}") }
}

/// Number `epoch`, of these workers.
fn config(epoch: u64, workers: &[usize]) -> Arc<RingConfig> {
    let member = |n: &usize| Member { uuid: voter(*n).uuid, ..Member::named(voter(*n).id, 1, "") };
    Arc::new(RingConfig::new("c", Epoch(epoch), REPLICAS, workers.iter().map(member).collect()).unwrap())
}

fn list(workers: &[usize]) -> RingConfig {
    let member = |n: &usize| Member::named(voter(*n).id, 1, "");
    RingConfig::new("c", Epoch(1), REPLICAS, workers.iter().map(member).collect()).unwrap()
}

/// A frontend, and the workers that it can reach.
struct Cluster {
    proposer: Proposer,
    workers: BTreeMap<usize, RegisterState>,
    now: Duration,
}

impl Cluster {
    fn new(listed: &[usize], workers: &[usize]) -> Self {
        let mut cluster = Self::without_workers(1, listed);
        workers.iter().for_each(|n| cluster.join(*n, RegisterState::default()));
        cluster
    }

    fn without_workers(incarnation: u64, listed: &[usize]) -> Self {
        let proposer = Proposer::new(Incarnation(incarnation), Some(Arc::new(list(listed))), GRACE);
        Self { proposer, workers: BTreeMap::new(), now: NOW }
    }

    fn join(&mut self, n: usize, state: RegisterState) {
        self.workers.insert(n, state);
        self.proposer.met(voter(n));
        self.proposer.trust(&voter(n), true, self.now);
    }

    fn leave(&mut self, n: usize) -> RegisterState {
        self.proposer.parted(&voter(n));
        self.workers.remove(&n).unwrap()
    }

    /// Asks and answers until nothing is to be asked. How many asks that took.
    fn settle(&mut self) -> usize {
        let mut asks = 0;
        loop {
            let before = asks;
            for (n, state) in &mut self.workers {
                while let Some(ask) = self.proposer.ask_of(&voter(*n)) {
                    asks += 1;
                    assert!(asks < 1_000, "asks without end");
                    *state = state.step(&ask).unwrap_or_else(|| state.clone());
                    self.proposer.answered(&voter(*n), state.clone(), self.now);
                }
            }
            if asks == before {
                return asks;
            }
        }
    }

    /// Settles, and lets time pass where something waits for it.
    fn work(&mut self) {
        for _ in 0..10 {
            self.settle();
            let Some(at) = self.proposer.wakes_at() else { return };
            self.now = self.now.max(at);
            self.proposer.tick(self.now);
        }
    }

    fn in_force(&self) -> Option<(u64, String)> {
        self.proposer.in_force().map(|config| (config.epoch.0, config.member_list()))
    }

    fn propose(&mut self, config: Arc<RingConfig>) -> Result<(), StaleProposal> {
        self.proposer.propose(config, self.now)
    }
}

fn force(number: u64, members: &str) -> Option<(u64, String)> {
    Some((number, members.to_owned()))
}

#[test]
fn all_listed_workers_form_at_once_with_the_data_that_they_have() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1, 2, 3, 9]);
    cluster.settle();
    assert_eq!(cluster.in_force(), force(1, "w1, w2, w3"));
    assert_eq!(**cluster.proposer.in_force().unwrap(), *config(1, &[1, 2, 3]));
    assert_eq!(cluster.workers[&3].number(), Epoch(1));
    assert_eq!(cluster.workers[&9], RegisterState::default(), "a spare is left alone");
}

#[test]
fn a_majority_forms_after_the_grace_and_the_rest_is_told_later() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1]);
    cluster.settle();
    assert_eq!(cluster.proposer.wakes_at(), None, "one is no majority");
    assert_eq!(cluster.proposer.progress().confirmed, 1);
    cluster.join(2, RegisterState::default());
    cluster.settle();
    assert_eq!((cluster.in_force(), cluster.proposer.wakes_at()), (None, Some(GRACE)));
    cluster.work();
    assert_eq!(cluster.in_force(), force(1, "w1, w2, w3"));
    assert_eq!(cluster.proposer.in_force().unwrap().members[2].uuid, "", "nobody knows its data");
    cluster.join(3, RegisterState::default());
    cluster.settle();
    assert_eq!(cluster.workers[&3].number(), Epoch(1));
}

/// A vote from before the former holder of the seat voted otherwise, and one of its successor, are no majority.
#[test]
fn a_new_holder_of_a_nameless_seat_does_not_complete_an_old_attempt() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[2, 3]);
    cluster.settle();
    cluster.now = GRACE;
    cluster.proposer.tick(cluster.now);
    for n in [2, 3, 2] {
        let ask = cluster.proposer.ask_of(&voter(n)).unwrap();
        let state = cluster.workers[&n].step(&ask).unwrap();
        cluster.workers.insert(n, state.clone());
        cluster.proposer.answered(&voter(n), state, cluster.now);
    }
    assert!(cluster.workers[&2].vote_for(Epoch(1)).is_some());
    cluster.leave(3);
    // Another frontend has the first one under this id decide with w3, tells w2, and then that one's data is lost.
    let mut other = RingConfig::clone(&config(1, &[1, 2, 3]));
    other.members[0].uuid = "lost".to_owned();
    let known = Ask { known: Some(Arc::new(other.clone())), ..Ask::default() };
    let told = cluster.workers[&2].step(&known).unwrap();
    cluster.workers.insert(2, told);
    cluster.join(1, RegisterState::default());
    cluster.work();
    assert_eq!(cluster.proposer.decided().map(|config| &**config), Some(&other));
}

#[test]
fn what_any_worker_knows_is_used_instead_of_the_list() {
    let known = RegisterState { decided: Some(config(4, &[1, 2, 5])), ..RegisterState::default() };
    let mut cluster = Cluster::new(&[1, 2, 3], &[2, 3]);
    cluster.join(9, known.clone());
    cluster.settle();
    assert_eq!(cluster.in_force(), None, "of its members, only w2 is there");
    assert_eq!(cluster.proposer.progress().missing, [voter(1).id, voter(5).id]);
    cluster.join(1, known);
    assert!(cluster.settle() <= 3);
    assert_eq!(cluster.in_force(), force(4, "w1, w2, w5"));
    assert_eq!(cluster.workers[&3], RegisterState::default());
}

#[test]
fn a_restart_finds_the_configuration_with_one_question_to_each() {
    let mut first = Cluster::new(&[1, 2, 3], &[1, 2, 3]);
    first.settle();
    let mut second = Cluster::without_workers(2, &[1, 2, 3]);
    for n in [1, 2] {
        second.join(n, first.leave(n));
    }
    assert_eq!(second.settle(), 2);
    assert_eq!(second.in_force(), force(1, "w1, w2, w3"));
}

#[test]
fn what_another_frontend_decides_is_heard_of_by_reading_any_worker_again() {
    let mut first = Cluster::new(&[1, 2, 3], &[1, 2, 3]);
    first.settle();
    let mut second = Cluster::without_workers(2, &[1, 2, 3]);
    (1..=3).for_each(|n| second.join(n, first.workers[&n].clone()));
    second.settle();
    second.propose(config(2, &[1, 2, 3])).unwrap();
    second.settle();
    first.workers = second.workers;
    assert_eq!((first.settle(), first.in_force()), (0, force(1, "w1, w2, w3")), "nobody is asked anything");
    first.proposer.revisit(&voter(2));
    first.settle();
    assert_eq!(first.in_force(), force(2, "w1, w2, w3"));
}

#[test]
fn a_change_is_decided_by_old_and_new_and_told_to_both() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1, 2, 3, 4]);
    cluster.settle();
    cluster.propose(config(2, &[1, 2, 4])).unwrap();
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w2, w4"));
    assert!(cluster.workers.values().all(|state| state.number() == Epoch(2)), "who left is told too");
    let stale = StaleProposal { current: Epoch(2), proposed: Epoch(2) };
    assert_eq!(cluster.propose(config(2, &[1, 2, 3])), Err(stale));
}

#[test]
fn without_a_majority_of_the_new_members_nothing_is_decided() {
    let mut cluster = Cluster::new(&[1], &[1]);
    cluster.settle();
    cluster.propose(config(2, &[1, 2])).unwrap();
    cluster.settle();
    assert_eq!(cluster.in_force(), force(1, "w1"));
    cluster.join(2, RegisterState::default());
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w2"));
}

#[test]
fn without_a_majority_of_the_old_members_nothing_is_decided() {
    let mut cluster = Cluster::new(&[1, 2, 3, 4], &[1, 2, 3, 4]);
    cluster.settle();
    cluster.leave(4);
    cluster.propose(config(2, &[1, 2, 3])).unwrap();
    for n in [1, 2, 3] {
        let ask = cluster.proposer.ask_of(&voter(n)).unwrap();
        assert_eq!(ask.accept, None, "promises first");
        let state = cluster.workers[&n].step(&ask).unwrap();
        cluster.proposer.answered(&voter(n), state.clone(), NOW);
        cluster.workers.insert(n, state);
    }
    let w3 = cluster.leave(3);
    cluster.settle();
    assert_eq!(cluster.in_force(), force(1, "w1, w2, w3, w4"), "two are a majority of the new members only");
    cluster.join(3, w3);
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w2, w3"));
}

/// Number 2: w9 is to replace w2 in the ring of w1, w2, w3.
fn replacing() -> Arc<RingConfig> {
    let mut joint = RingConfig::clone(&config(1, &[1, 2, 3]));
    joint.epoch = Epoch(2);
    joint.members.push(Member { uuid: voter(9).uuid, ..Member::named(voter(9).id, 1, "") });
    for row in &mut joint.partitions {
        let next = row.replicas.iter().map(|ix| if *ix == 1 { 3 } else { *ix }).collect();
        (row.epoch, row.next) = (Epoch(2), Some(next));
    }
    Arc::new(joint)
}

#[test]
fn a_newcomer_that_dies_too_can_be_given_up() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1, 2, 3, 9]);
    cluster.settle();
    let _dead = cluster.leave(2);
    cluster.propose(replacing()).unwrap();
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w2, w3, w9"));
    assert_eq!(cluster.workers[&9].number(), Epoch(2), "it is told, to copy");
    assert_eq!(cluster.workers[&9].promised, Term::default(), "and has no vote");
    let _dead = cluster.leave(9);
    cluster.propose(config(3, &[1, 2, 3])).unwrap();
    cluster.settle();
    assert_eq!(cluster.in_force(), force(3, "w1, w2, w3"));
}

#[test]
fn a_joint_configuration_is_found_again_without_the_dead_and_the_newcomer() {
    let known = || RegisterState { decided: Some(replacing()), ..RegisterState::default() };
    let mut cluster = Cluster::without_workers(1, &[1, 2, 3]);
    cluster.join(1, known());
    cluster.join(9, known());
    cluster.settle();
    assert_eq!(cluster.in_force(), None, "a newcomer does not make it two");
    assert_eq!(cluster.proposer.progress().missing, [voter(2).id, voter(3).id]);
    cluster.leave(9);
    cluster.join(3, known());
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w2, w3, w9"));
}

#[test]
fn a_member_that_holds_nothing_has_no_vote() {
    let mut drained = RingConfig::clone(&config(2, &[1, 2, 3]));
    drained.members.push(Member { uuid: voter(4).uuid, ..Member::named(voter(4).id, 1, "") });
    let drained = Arc::new(drained);
    let known = || RegisterState { decided: Some(drained.clone()), ..RegisterState::default() };
    let mut cluster = Cluster::without_workers(1, &[1, 2, 3]);
    [2, 3].into_iter().for_each(|n| cluster.join(n, known()));
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w2, w3, w4"));
}

#[test]
fn what_a_minority_has_voted_for_is_completed() {
    let mut first = Cluster::new(&[1, 2, 3], &[1, 2, 3]);
    first.settle();
    let begun = config(2, &[1, 2, 3]);
    let vote = Ask { term: Term { n: 7, incarnation: Incarnation(1) }, known: None, accept: Some(begun) };
    let w2 = first.leave(2).step(&vote).unwrap();
    let mut second = Cluster::without_workers(2, &[1, 2, 3]);
    second.join(2, w2);
    second.join(3, first.leave(3));
    second.settle();
    assert_eq!(second.in_force(), force(2, "w1, w2, w3"));
    assert!(second.workers[&2].promised.n > 7);
}

#[test]
fn a_vote_of_one_who_is_silent_since_is_completed_and_does_not_cost_terms_for_ever() {
    let mut first = Cluster::new(&[1, 2, 3], &[1, 2, 3]);
    first.settle();
    let vote = Ask {
        term: Term { n: 7, incarnation: Incarnation(1) },
        known: None,
        accept: Some(config(2, &[1, 2, 3])),
    };
    let w3 = first.leave(3).step(&vote).unwrap();
    let mut second = Cluster::without_workers(2, &[1, 2, 3]);
    second.proposer.met(voter(3));
    second.proposer.trust(&voter(3), true, NOW);
    second.proposer.answered(&voter(3), w3, NOW);
    for n in [1, 2] {
        second.join(n, first.leave(n));
    }
    assert!(second.settle() < 10);
    assert_eq!(second.in_force(), force(2, "w1, w2, w3"));
}

#[test]
fn what_is_withdrawn_before_anyone_could_vote_is_not_decided_later() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1, 2, 3, 4]);
    cluster.settle();
    let away = [2, 3].map(|n| (n, cluster.leave(n)));
    let next = config(2, &[1, 2, 4]);
    cluster.propose(next.clone()).unwrap();
    cluster.settle();
    cluster.proposer.withdraw(&next);
    assert!(cluster.proposer.is_idle());
    away.into_iter().for_each(|(n, state)| cluster.join(n, state));
    cluster.work();
    assert_eq!(cluster.in_force(), force(1, "w1, w2, w3"));
    cluster.propose(config(2, &[1, 3, 4])).unwrap();
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w3, w4"));
}

#[test]
fn what_a_worker_was_asked_to_vote_for_is_not_withdrawn() {
    let mut cluster = Cluster::new(&[1], &[1]);
    cluster.settle();
    let next = config(2, &[1, 2]);
    cluster.propose(next.clone()).unwrap();
    cluster.settle();
    cluster.proposer.withdraw(&next);
    cluster.join(2, RegisterState::default());
    cluster.settle();
    assert_eq!(cluster.in_force(), force(2, "w1, w2"));
}

#[test]
fn a_completed_vote_makes_the_own_proposal_stale() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1, 2, 3, 4]);
    cluster.settle();
    let vote = Ask {
        term: Term { n: 7, incarnation: Incarnation(9) },
        known: None,
        accept: Some(config(2, &[1, 2, 3])),
    };
    for n in [1, 2, 3] {
        let state = cluster.workers.get_mut(&n).unwrap();
        *state = state.step(&vote).unwrap();
    }
    cluster.propose(config(2, &[1, 2, 4])).unwrap();
    cluster.work();
    assert_eq!(cluster.in_force(), force(2, "w1, w2, w3"));
}

#[test]
fn answers_of_workers_that_are_not_trusted_do_not_count() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1, 2, 3]);
    cluster.proposer.trust(&voter(2), false, NOW);
    cluster.proposer.trust(&voter(3), false, NOW);
    cluster.work();
    assert_eq!(cluster.in_force(), None);
    cluster.proposer.trust(&voter(3), true, NOW);
    cluster.work();
    assert_eq!(cluster.in_force(), force(1, "w1, w2, w3"));
}

#[test]
fn a_member_over_other_data_has_no_vote() {
    let mut first = Cluster::new(&[1, 2, 3], &[1, 2, 3]);
    first.settle();
    let mut second = Cluster::without_workers(2, &[1, 2, 3]);
    second.join(1, first.leave(1));
    let other = Voter { uuid: "other".to_owned(), ..voter(2) };
    second.proposer.met(other.clone());
    second.proposer.trust(&other, true, NOW);
    second.proposer.answered(&other, RegisterState::default(), NOW);
    second.settle();
    assert_eq!(second.in_force(), None);
}

#[test]
fn an_answer_from_before_does_not_undo_a_later_one() {
    let mut cluster = Cluster::new(&[1, 2, 3], &[1, 2, 3]);
    cluster.settle();
    cluster.proposer.answered(&voter(1), RegisterState::default(), NOW);
    assert_eq!(cluster.proposer.knows(&voter(1)), Some(Epoch(1)));
}

/// What happens next in a random schedule; the numbers choose among what there is.
#[derive(Clone, Debug)]
enum Event {
    /// A frontend asks a worker, and has the answer.
    Exchange {
        frontend: usize,
        worker: usize,
    },
    /// A frontend asks a worker, and the ask is under way.
    Send {
        frontend: usize,
        worker: usize,
    },
    /// A frontend asks a worker; the worker answers at once, and the answer is under way.
    Ask {
        frontend: usize,
        worker: usize,
    },
    /// An ask that the worker never sees, or one whose answer is lost: the worker may have taken the step.
    LoseAnswer {
        frontend: usize,
        worker: usize,
    },
    /// An ask or an answer that is under way arrives, in any order, and perhaps not for the last time.
    Deliver {
        which: usize,
        again: bool,
    },
    Propose {
        frontend: usize,
        change: usize,
    },
    Withdraw {
        frontend: usize,
    },
    /// A frontend dies, and another one comes that knows nothing.
    Crash {
        frontend: usize,
    },
    /// A worker is away for a frontend, or there again.
    Cut {
        frontend: usize,
        worker: usize,
    },
    /// A copy of a worker's disk is made, or takes the place of the disk. Whoever was ever set back is not trusted.
    SetBack {
        worker: usize,
    },
    Wait,
}

const FRONTENDS: usize = 3;
const WORKERS: usize = 5;

fn event() -> impl Strategy<Value = Event> {
    let (frontend, worker) = (0..FRONTENDS, 1..=WORKERS);
    prop_oneof![
        40 => (frontend.clone(), worker.clone())
            .prop_map(|(frontend, worker)| Event::Exchange { frontend, worker }),
        6 => (frontend.clone(), worker.clone()).prop_map(|(frontend, worker)| Event::Ask { frontend, worker }),
        2 => (frontend.clone(), worker.clone())
            .prop_map(|(frontend, worker)| Event::LoseAnswer { frontend, worker }),
        6 => (frontend.clone(), worker.clone())
            .prop_map(|(frontend, worker)| Event::Send { frontend, worker }),
        9 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(which, again)| Event::Deliver { which, again }),
        6 => (frontend.clone(), 0..WORKERS).prop_map(|(frontend, change)| Event::Propose { frontend, change }),
        1 => frontend.clone().prop_map(|frontend| Event::Withdraw { frontend }),
        1 => frontend.clone().prop_map(|frontend| Event::Crash { frontend }),
        1 => (frontend, worker.clone()).prop_map(|(frontend, worker)| Event::Cut { frontend, worker }),
        1 => worker.prop_map(|worker| Event::SetBack { worker }),
        2 => Just(Event::Wait),
    ]
}

/// What is under way between a frontend's incarnation and a worker.
#[derive(Clone, Debug)]
struct Packet {
    frontend: u64,
    worker: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Ask(Ask),
    Answer(RegisterState),
}

struct World {
    frontends: Vec<Proposer>,
    workers: BTreeMap<usize, RegisterState>,
    backup: Option<(usize, RegisterState)>,
    /// At most one: who has forgotten something.
    forgetful: Option<usize>,
    wire: Vec<Packet>,
    incarnations: u64,
    now: Duration,
    /// Every number that anyone took for decided.
    decided: BTreeMap<Epoch, Arc<RingConfig>>,
}

impl World {
    fn new() -> Self {
        let workers = (1..=WORKERS).map(|n| (n, RegisterState::default())).collect();
        let mut world = Self {
            frontends: Vec::new(),
            workers,
            backup: None,
            forgetful: None,
            wire: Vec::new(),
            incarnations: 0,
            now: NOW,
            decided: BTreeMap::new(),
        };
        world.frontends = (0..FRONTENDS).map(|_| world.fresh_frontend()).collect();
        world
    }

    fn fresh_frontend(&mut self) -> Proposer {
        self.incarnations += 1;
        let mut frontend =
            Proposer::new(Incarnation(self.incarnations), Some(Arc::new(list(&[1, 2, 3]))), GRACE);
        for n in 1..=WORKERS {
            frontend.met(voter(n));
            frontend.trust(&voter(n), self.forgetful != Some(n), self.now);
        }
        frontend
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Exchange { frontend, worker } => {
                if let Some(state) = self.ask(frontend, worker) {
                    self.frontends[frontend].answered(&voter(worker), state, self.now);
                }
            }
            Event::Send { frontend, worker } => {
                let frontend = &self.frontends[frontend];
                if let Some(ask) = frontend.ask_of(&voter(worker)) {
                    let frontend = frontend.incarnation.0;
                    self.wire.push(Packet { frontend, worker, what: What::Ask(ask) });
                }
            }
            Event::Ask { frontend, worker } => {
                if let Some(state) = self.ask(frontend, worker) {
                    let frontend = self.frontends[frontend].incarnation.0;
                    self.wire.push(Packet { frontend, worker, what: What::Answer(state) });
                }
            }
            Event::LoseAnswer { frontend, worker } => drop(self.ask(frontend, worker)),
            Event::Deliver { which, again } => {
                if self.wire.is_empty() {
                    return;
                }
                let which = which % self.wire.len();
                let Packet { frontend, worker, what } = self.wire[which].clone();
                if !again {
                    self.wire.swap_remove(which);
                }
                match what {
                    What::Ask(ask) => {
                        let what = What::Answer(self.take_step(worker, &ask));
                        self.wire.push(Packet { frontend, worker, what });
                    }
                    What::Answer(state) => {
                        let asked = self.frontends.iter_mut().find(|f| f.incarnation.0 == frontend);
                        if let Some(frontend) = asked {
                            frontend.answered(&voter(worker), state, self.now);
                        }
                    }
                }
            }
            Event::Propose { frontend, change } => {
                let frontend = &mut self.frontends[frontend];
                let Some(base) = frontend.in_force() else { return };
                let mut members: Vec<usize> = (1..=WORKERS).filter(|n| voter(*n).is_member(base)).collect();
                let worker = change + 1;
                match members.iter().position(|n| *n == worker) {
                    Some(at) if members.len() > 1 => drop(members.remove(at)),
                    Some(_) => return,
                    None => members.push(worker),
                }
                let next = config(base.epoch.0 + 1, &members);
                // Stale where something newer is known already.
                let _ = frontend.propose(next, self.now);
            }
            Event::Withdraw { frontend } => {
                let frontend = &mut self.frontends[frontend];
                if let Some(config) = frontend.proposal.as_ref().map(|proposal| proposal.config.clone()) {
                    frontend.withdraw(&config);
                }
            }
            Event::Crash { frontend } => self.frontends[frontend] = self.fresh_frontend(),
            Event::Cut { frontend, worker } => {
                let (now, frontend) = (self.now, &mut self.frontends[frontend]);
                let voter = voter(worker);
                if frontend.voters.contains_key(&voter) {
                    frontend.parted(&voter);
                } else {
                    frontend.met(voter.clone());
                    frontend.trust(&voter, self.forgetful != Some(worker), now);
                }
            }
            Event::SetBack { worker } => match self.backup.take_if(|(of, _)| *of == worker) {
                Some((_, state)) if self.forgetful.is_none() => {
                    self.forgetful = Some(worker);
                    self.workers.insert(worker, state);
                    // Its answers from before are void: who meets it finds out first whether it is to be trusted.
                    self.wire.retain(|packet| packet.worker != worker);
                    for frontend in &mut self.frontends {
                        frontend.met(voter(worker));
                    }
                }
                _ => self.backup = Some((worker, self.workers[&worker].clone())),
            },
            Event::Wait => {
                self.now += GRACE / 2;
                self.frontends.iter_mut().for_each(|frontend| frontend.tick(self.now));
            }
        }
        self.check();
    }

    /// The worker's answer.
    fn ask(&mut self, frontend: usize, worker: usize) -> Option<RegisterState> {
        let ask = self.frontends[frontend].ask_of(&voter(worker))?;
        Some(self.take_step(worker, &ask))
    }

    fn take_step(&mut self, worker: usize, ask: &Ask) -> RegisterState {
        let state = self.workers.get_mut(&worker).unwrap();
        if let Some(next) = state.step(ask) {
            assert!(next.promised >= state.promised && next.number() >= state.number());
            *state = next;
        }
        state.clone()
    }

    /// Never two for one number.
    fn check(&mut self) {
        let frontends = self.frontends.iter().filter_map(Proposer::decided);
        let workers = self.workers.values().filter_map(|state| state.decided.as_ref());
        for config in frontends.chain(workers) {
            let first = self.decided.entry(config.epoch).or_insert_with(|| config.clone());
            assert!(first == config, "two configurations of number {}", config.epoch.0);
        }
    }

    /// One frontend that reaches everyone, and no more faults: it ends with what was decided last, or later.
    fn heal(&mut self) -> Epoch {
        self.wire.clear();
        self.frontends = vec![self.fresh_frontend()];
        for _ in 0..25 {
            for worker in 1..=WORKERS {
                self.happen(Event::Ask { frontend: 0, worker });
            }
            while !self.wire.is_empty() {
                self.happen(Event::Deliver { which: 0, again: false });
            }
            self.happen(Event::Wait);
        }
        number(self.frontends[0].in_force())
    }
}

/// Runs a schedule, and heals what it leaves.
fn run(events: Vec<Event>) {
    let mut world = World::new();
    for event in events {
        world.happen(event);
    }
    // Two of two voters may be needed, and one of them forgetful: then nothing more is decided.
    if world.forgetful.is_none() {
        let last = world.decided.keys().next_back().copied().unwrap_or_default();
        let healed = world.heal();
        assert!(healed >= last.max(Epoch(1)), "{last:?} was decided, {healed:?} is in force");
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_number_is_decided_twice_and_nothing_decided_is_lost(events in events()) {
        run(events);
    }
}

/// Each rule can be broken, and the test that is named for it notices.
#[test]
fn every_broken_rule_is_noticed() {
    let noticed_by: &[(Mutant, fn())] = &[
        (Mutant::VoteWithoutPromises, without_a_majority_of_the_old_members_nothing_is_decided),
        (Mutant::VoteUnbound, a_completed_vote_makes_the_own_proposal_stale),
        (Mutant::DecideWithoutElectors, without_a_majority_of_the_old_members_nothing_is_decided),
        (Mutant::CountForgetful, answers_of_workers_that_are_not_trusted_do_not_count),
    ];
    for (mutant, test) in noticed_by {
        assert!(fails_without(*mutant, *test), "{mutant:?} goes unnoticed");
    }
}

/// The same, in schedules that nobody thought of, for the rules whose break they come to soon.
#[test]
fn random_schedules_notice_broken_rules() {
    const SCHEDULES_MAX: u64 = 200;
    let schedule = |seed: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        events().new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).unwrap().current()
    };
    for mutant in [Mutant::VoteWithoutPromises, Mutant::VoteUnbound] {
        let breaks = |seed: u64| {
            let events = schedule(seed);
            switch(Some(mutant));
            let outcome = std::panic::catch_unwind(|| run(events));
            switch(None);
            outcome.is_err()
        };
        assert!((0..SCHEDULES_MAX).any(breaks), "{mutant:?} goes unnoticed");
    }
}
