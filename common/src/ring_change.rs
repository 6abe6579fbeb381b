//! Ring changes: what the next configuration is to be, and why there is none.
//!
//! A plain function of the configuration in force and of what is known of the workers. It is asked again and again; each
//! answer is one step, which is decided through `ring_register` and carried out before the next is asked for:
//!
//! ```text
//! stable ── a worker is dead, leaves or comes ──▶ joint (all partitions that are to move)
//! joint  ── newcomers have copied, or have died ─▶ joint (fewer) … ─▶ stable
//! ```
//!
//! One worker comes in or is drained at a time; the dead go out together, and first, because a missing replica is the more
//! urgent. The target is always [`Ring::build`] of the wanted members, so that a change which was given up half-way is simply planned anew.
//!
//! **Brakes** (design 6): no worker goes out unless enough others remain; nothing begins while more than one replica of
//! a partition is suspected, or more than a third of the workers. Then it is more likely that we do not see
//! well than that all of them died, and copying would only add to their load. **Damping**: a worker that has come
//! back from the dead waits twice as long each time before it may come in again; so does one that was given up because
//! it could not be reached, though it beat all the while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::detector::Verdict;
use crate::quorum::majority;
use crate::ring_config::{Assignment, Member, Replicas, RingConfig};
use crate::{Epoch, PartitionId, Ring, WorkerId};

/// How long a worker that came back once has to be alive before it comes in; doubles with every return.
pub const JOIN_AFTER: Duration = Duration::from_secs(2);
/// The most that a flapping worker has to wait.
pub const JOIN_AFTER_MAX: Duration = Duration::from_secs(600);
/// A member that this frontend has never heard of counts as dead after this long.
pub const UNHEARD_AFTER: Duration = Duration::from_secs(30);

/// A newcomer that cannot be called is given up after this long, whatever its heartbeats say: it copies nothing.
pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);

/// What is known of a worker that has registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    pub id: WorkerId,
    /// Whose data it has.
    pub uuid: String,
    pub verdict: Verdict,
    /// How long it has been alive without a break.
    pub up_for: Duration,
    /// How long it could not be called; zero while calls to this start of it get through.
    pub unreachable_for: Duration,
    /// How often it came back from the dead.
    pub returns: u32,
    pub virtual_nodes: u32,
    pub zone: String,
}

/// All that a plan is made from.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// The configuration in force.
    pub config: &'a RingConfig,
    pub workers: &'a [Sighting],
    /// How long somebody has been listening to heartbeats. Serves as the clock, too.
    pub listening_for: Duration,
    /// Whether a newcomer (an index into the members) has copied a joint partition in its present epoch.
    pub copied: &'a dyn Fn(PartitionId, u16) -> bool,
}

/// What to do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Everything is where it belongs.
    Rest,
    Wait(Wait),
    Change(Box<Change>),
}

/// A configuration to decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub next: RingConfig,
    pub what: What,
    /// Partitions whose row differs from the configuration before.
    pub partitions: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A dead worker's partitions are given to others.
    Out(WorkerId),
    /// A leaving worker's partitions are.
    Drain(WorkerId),
    /// A worker that waited gets its share.
    In(WorkerId),
    /// A worker came back over other data, and there is nobody else to take its place.
    Replace(WorkerId),
    /// Newcomers have copied: they take over from those who hand over.
    Complete,
    /// Newcomers have died: what they were to copy stays where it was.
    Abort,
    /// Partitions go where they belong after a change that was given up half-way.
    Tidy,
    /// A worker was told to leave, or may stay after all.
    Mark(WorkerId),
}

/// Why nothing begins although something is to be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Wait {
    #[error("{partitions} partitions are being copied")]
    Copying { partitions: usize },
    #[error("no spare worker: without {worker} only {left} would be left, and {replicas} replicas are kept")]
    NoSpare { worker: WorkerId, left: usize, replicas: usize },
    #[error("more than one replica of partition {partition} is suspected: {workers}")]
    Suspected { partition: PartitionId, workers: String },
    #[error("more than a third of the workers is suspected: {suspected} of {members}")]
    TooManySuspected { suspected: usize, members: usize },
    #[error(
        "{worker} has come back {returns} times; it comes in after {} s more without a break",
        left.as_secs_f64().ceil()
    )]
    Damped { worker: WorkerId, returns: u32, left: Duration },
    #[error("{worker} beats, but calls to it do not get through")]
    Unreachable { worker: WorkerId },
    #[error("the wanted ring cannot be built: {0}")]
    Ring(String),
}

/// How a member of the configuration is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    Suspect,
    /// Silent for too long, or its data is gone.
    Dead,
}

/// Plans again and again, and keeps what one look has to know of those before. A fresh one only forgets who was given up.
#[derive(Debug, Default)]
pub struct Planner {
    /// Newcomers that could not be reached. No more than there are workers.
    given_up: BTreeMap<WorkerId, GivenUp>,
    /// The last wanted ring: building one takes a hash per virtual node.
    ring: Option<Placement>,
}

#[derive(Debug)]
struct GivenUp {
    times: u32,
    /// By [`Situation::listening_for`].
    at: Duration,
    /// The configuration in which it was a newcomer.
    epoch: Epoch,
}

#[derive(Debug)]
struct Placement {
    replicas: usize,
    ring: Arc<Ring>,
}

/// The next step, by one who has never looked before.
pub fn plan(situation: &Situation<'_>) -> Decision {
    Planner::default().plan(situation)
}

impl Planner {
    /// The next step.
    pub fn plan(&mut self, situation: &Situation<'_>) -> Decision {
        let config = situation.config;
        self.given_up.retain(|id, _| situation.workers.iter().any(|w| w.id == *id));
        let states: Vec<State> = config.members.iter().map(|m| state(situation, m)).collect();
        if !config.is_stable() {
            return go_on(situation, &states, |newcomer| self.give_up(situation, newcomer));
        }
        let candidates = self.candidates(situation);
        let (wanted, what) = wanted_members(config, &candidates, &states);
        match self.begin(situation, &states, wanted, what) {
            Ok(None) => held_back(config, &candidates).map_or(Decision::Rest, Decision::Wait),
            Ok(Some(change)) => match brakes(config, &states, &change.what) {
                Some(wait) => Decision::Wait(wait),
                None => Decision::Change(Box::new(change)),
            },
            Err(wait) => Decision::Wait(wait),
        }
    }

    /// A newcomer could not be reached in this configuration.
    fn give_up(&mut self, situation: &Situation<'_>, newcomer: &Member) {
        let (epoch, at) = (situation.config.epoch, situation.listening_for);
        let fresh = || GivenUp { times: 0, at, epoch: Epoch(0) };
        let given_up = self.given_up.entry(newcomer.id.clone()).or_insert_with(fresh);
        if given_up.epoch != epoch {
            *given_up = GivenUp { times: given_up.times.saturating_add(1), at, epoch };
        }
    }

    /// Who is alive.
    fn candidates<'a>(&self, situation: &Situation<'a>) -> Vec<Candidate<'a>> {
        let alive = situation.workers.iter().filter(|seen| seen.verdict == Verdict::Alive);
        let candidate = |seen: &'a Sighting| {
            let given_up = self.given_up.get(&seen.id);
            let since = given_up.map_or(Duration::MAX, |g| situation.listening_for.saturating_sub(g.at));
            let times = given_up.map_or(0, |g| g.times);
            let left = wait_left(seen.returns, seen.up_for).max(wait_left(times, since));
            Candidate { seen, returns: seen.returns.saturating_add(times), left }
        };
        alive.map(candidate).collect()
    }

    fn ring(&mut self, members: Vec<Member>, replicas: usize) -> Result<Arc<Ring>, Wait> {
        let last = self.ring.take().filter(|p| p.replicas == replicas && p.ring.members() == members);
        let ring = match last {
            Some(last) => last.ring,
            None => Arc::new(Ring::build(&members, replicas).map_err(|e| Wait::Ring(e.to_string()))?),
        };
        self.ring = Some(Placement { replicas, ring: ring.clone() });
        Ok(ring)
    }
}

/// A worker that is alive, and may get partitions as soon as it has waited and can be reached.
struct Candidate<'a> {
    seen: &'a Sighting,
    /// How often it came back, from the dead or from where it could not be reached.
    returns: u32,
    /// How much longer it has to wait.
    left: Duration,
}

impl Candidate<'_> {
    fn is_ready(&self) -> bool {
        self.left.is_zero() && self.seen.unreachable_for.is_zero()
    }
}

/// Marks a member as leaving, or as staying; `None` where it is no member or so marked already. An order is for the id:
/// while a worker is being replaced by itself over other data, it holds for both of them.
pub fn mark(config: &RingConfig, worker: &WorkerId, leaving: bool) -> Option<Change> {
    let differs = |member: &Member| member.id == *worker && member.leaving != leaving;
    if !config.members.iter().any(differs) {
        return None;
    }
    let mut next = config.clone();
    next.epoch = after(config.epoch);
    for member in next.members.iter_mut().filter(|member| member.id == *worker) {
        member.leaving = leaving;
    }
    Some(Change { next, what: What::Mark(worker.clone()), partitions: 0 })
}

fn after(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 + 1)
}

fn state(situation: &Situation<'_>, member: &Member) -> State {
    let Some(seen) = situation.workers.iter().find(|w| w.id == member.id) else {
        return if situation.listening_for >= UNHEARD_AFTER { State::Dead } else { State::Suspect };
    };
    if !member.is(&seen.id, &seen.uuid) {
        return State::Dead;
    }
    match seen.verdict {
        Verdict::Alive => State::Alive,
        Verdict::Suspect | Verdict::Unknown => State::Suspect,
        Verdict::Dead => State::Dead,
    }
}

/// The members to place partitions on, and why.
fn wanted_members(
    config: &RingConfig,
    candidates: &[Candidate<'_>],
    states: &[State],
) -> (Vec<Member>, What) {
    let holds = holders(config);
    // A member that has handed over stays one, and gets nothing, until it is stopped or told to stay. One that lost its
    // partitions and is back has to wait like any other.
    let is_ready = |m: &Member| candidates.iter().any(|c| c.is_ready() && m.is(&c.seen.id, &c.seen.uuid));
    let may_hold = |ix: &usize| {
        let member = &config.members[*ix];
        holds[*ix] || (!member.leaving && is_ready(member))
    };
    let current: Vec<usize> = (0..states.len()).filter(may_hold).collect();
    let enough = |n: usize| n >= config.replicas.min(current.len());
    // Nothing is ever placed on a dead member, though it may be another's death that is dealt with.
    let placed = |out: Option<usize>| -> Vec<Member> {
        let stays = current.iter().filter(|ix| Some(**ix) != out && states[**ix] != State::Dead);
        stays.map(|ix| config.members[*ix].clone()).collect()
    };
    let newcomer = |s: &Sighting| Member {
        id: s.id.clone(),
        uuid: s.uuid.clone(),
        virtual_nodes: s.virtual_nodes,
        zone: s.zone.clone(),
        leaving: false,
    };
    let ready = candidates.iter().filter(|c| c.is_ready()).map(|c| c.seen);
    let mut waiting = ready.filter(|s| config.index_of_identity(&s.id, &s.uuid).is_none());
    let mut dead: Vec<usize> = (0..states.len()).filter(|ix| states[*ix] == State::Dead).collect();
    dead.sort_by_key(|ix| !holds[*ix]);
    if let Some(dead) = dead.first() {
        let (id, mut wanted) = (config.members[*dead].id.clone(), placed(None));
        if !enough(wanted.len())
            && let Some(other) = waiting.next()
        {
            wanted.push(newcomer(other));
            return (wanted, What::Replace(id));
        }
        return (wanted, What::Out(id));
    }
    let next = waiting.find(|s| config.index_of(&s.id).is_none());
    let leaving = current.iter().copied().find(|ix| config.members[*ix].leaving);
    if let Some(leaving) = leaving.filter(|_| enough(current.len() - 1) || next.is_none()) {
        return (placed(Some(leaving)), What::Drain(config.members[leaving].id.clone()));
    }
    if let Some(next) = next {
        let mut wanted = placed(None);
        wanted.push(newcomer(next));
        return (wanted, What::In(next.id.clone()));
    }
    let idle = current.iter().find(|ix| !holds[**ix]);
    let what = idle.map_or(What::Tidy, |ix| What::In(config.members[*ix].id.clone()));
    (placed(None), what)
}

/// Which members hold a partition, or are about to.
fn holders(config: &RingConfig) -> Vec<bool> {
    let mut holds = vec![false; config.members.len()];
    for row in &config.partitions {
        row.everyone().iter().for_each(|member| holds[usize::from(*member)] = true);
    }
    holds
}

/// How much longer a worker that was lost so many times has to wait, which has been back for `up_for`.
fn wait_left(times: u32, up_for: Duration) -> Duration {
    let Some(doublings) = times.checked_sub(1) else { return Duration::ZERO };
    let wait = JOIN_AFTER.saturating_mul(1 << doublings.min(16)).min(JOIN_AFTER_MAX);
    wait.saturating_sub(up_for)
}

/// Why a worker that could come in does not.
fn held_back(config: &RingConfig, candidates: &[Candidate<'_>]) -> Option<Wait> {
    let holds = holders(config);
    let could_come = |c: &&Candidate<'_>| {
        let index = config.index_of_identity(&c.seen.id, &c.seen.uuid);
        index.is_none_or(|ix| !holds[ix] && !config.members[ix].leaving)
    };
    let waiting = candidates.iter().filter(could_come).filter(|c| !c.is_ready());
    let next = waiting.min_by_key(|c| (!c.seen.unreachable_for.is_zero(), c.left))?;
    let worker = next.seen.id.clone();
    Some(if next.seen.unreachable_for.is_zero() {
        Wait::Damped { worker, returns: next.returns, left: next.left }
    } else {
        Wait::Unreachable { worker }
    })
}

fn brakes(config: &RingConfig, states: &[State], what: &What) -> Option<Wait> {
    let suspect = |ix: &u16| states[usize::from(*ix)] != State::Alive;
    let votes = config.voters();
    let members = votes.iter().filter(|votes| **votes).count();
    let suspected = votes.iter().zip(states).filter(|(votes, s)| **votes && **s != State::Alive).count();
    if suspected * 3 > members {
        return Some(Wait::TooManySuspected { suspected, members });
    }
    for partition in PartitionId::all() {
        let replicas = &config.assignment(partition).replicas;
        if replicas.iter().filter(|ix| suspect(ix)).count() > 1 {
            let names = replicas.iter().filter(|ix| suspect(ix));
            let names: Vec<_> = names.map(|ix| config.members[usize::from(*ix)].id.as_str()).collect();
            return Some(Wait::Suspected { partition, workers: names.join(", ") });
        }
    }
    // Somebody else's silence is no reason to put off a repair, but is one to put off what is only tidy.
    let optional = matches!(what, What::In(_) | What::Drain(_) | What::Tidy);
    (optional && suspected > 0).then_some(Wait::TooManySuspected { suspected, members })
}

impl Planner {
    /// The configuration in which all partitions that are not where they belong begin to move there, and members that are
    /// dead and hold nothing are gone. `None`: there is nothing to do. A partition that would come to a member that cannot
    /// be reached stays where it is for now.
    fn begin(
        &mut self,
        situation: &Situation<'_>,
        states: &[State],
        wanted: Vec<Member>,
        what: What,
    ) -> Result<Option<Change>, Wait> {
        let config = situation.config;
        if let What::Out(worker) | What::Drain(worker) | What::Replace(worker) = &what {
            let (left, replicas) = (wanted.len(), config.replicas.min(config.members.len()));
            if left < replicas {
                return Err(Wait::NoSpare { worker: worker.clone(), left, replicas: config.replicas });
            }
        }
        let ring = self.ring(wanted, config.replicas)?;
        let wanted = ring.members();
        let mut next = config.clone();
        next.epoch = after(config.epoch);
        next.members
            .extend(wanted.iter().filter(|w| config.index_of_identity(&w.id, &w.uuid).is_none()).cloned());
        let mut states = states.to_vec();
        states.resize(next.members.len(), State::Alive);
        let place = |ix: &usize| {
            let member = &wanted[*ix];
            next.members.iter().position(|m| m.id == member.id && m.uuid == member.uuid).unwrap_or(*ix) as u16
        };
        let targets: Vec<Replicas> =
            PartitionId::all().map(|id| ring.preference_list(id).iter().map(place).collect()).collect();
        let reached: Vec<bool> =
            next.members.iter().map(|m| unreachable_for(situation, m).is_zero()).collect();
        let (mut partitions, mut out_of_reach) = (0, None);
        for (row, target) in next.partitions.iter_mut().zip(targets) {
            if row.replicas == target {
                continue;
            }
            let comes_new = |member: &&u16| !row.replicas.contains(member) && !reached[usize::from(**member)];
            if let Some(member) = target.iter().find(comes_new) {
                out_of_reach = Some(*member);
                continue;
            }
            partitions += 1;
            if same_set(&row.replicas, &target) {
                // Only their order: no quorum changes with it, and no epoch.
                row.replicas = target;
            } else {
                *row = Assignment { epoch: next.epoch, replicas: row.replicas.clone(), next: Some(target) };
            }
        }
        let out_of_reach = out_of_reach.map(|member| next.members[usize::from(member)].id.clone());
        drop_idle_members(&mut next, &states);
        if partitions == 0 && next.members.len() == config.members.len() {
            return out_of_reach.map_or(Ok(None), |worker| Err(Wait::Unreachable { worker }));
        }
        sort_members(&mut next);
        Ok(Some(Change { next, what, partitions }))
    }
}

/// How long a member could not be called. One of whom nothing is seen is dead or suspected anyway.
fn unreachable_for(situation: &Situation<'_>, member: &Member) -> Duration {
    let seen = situation.workers.iter().find(|seen| member.is(&seen.id, &seen.uuid));
    seen.map_or(Duration::ZERO, |seen| seen.unreachable_for)
}

/// What becomes of a joint partition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Complete,
    Abort,
    Copy,
}

/// In a joint configuration: completes what was copied, gives up what cannot be.
///
/// As a rule each partition goes by itself. Where a newcomer takes a dead worker's place in a small ring, all go together:
/// half-way both would vote, and with three workers the newcomer's death would leave two of four, who cannot
/// decide anything any longer.
fn go_on(situation: &Situation<'_>, states: &[State], mut give_up: impl FnMut(&Member)) -> Decision {
    let config = situation.config;
    let mut states = states.to_vec();
    let newcomers: Vec<Replicas> = config.partitions.iter().map(Assignment::newcomers).collect();
    for newcomer in newcomers.iter().flatten().copied().collect::<BTreeSet<u16>>() {
        let (member, state) = (&config.members[usize::from(newcomer)], &mut states[usize::from(newcomer)]);
        if *state != State::Dead && unreachable_for(situation, member) >= UNREACHABLE_AFTER {
            give_up(member);
            *state = State::Dead;
        }
    }
    let dead = |newcomer: &u16| states[usize::from(*newcomer)] == State::Dead;
    let fate = |partition: PartitionId| {
        let newcomers = &newcomers[partition.index()];
        if newcomers.iter().any(dead) {
            Fate::Abort
        } else if newcomers.iter().all(|m| (situation.copied)(partition, *m)) {
            Fate::Complete
        } else {
            Fate::Copy
        }
    };
    let mut fates: Vec<_> = config.joint_partitions().map(|id| (id, fate(id))).collect();
    let count = |fates: &[(PartitionId, Fate)], of| fates.iter().filter(|(_, fate)| *fate == of).count();
    if goes_together(config, &states) && count(&fates, Fate::Complete) < fates.len() {
        let all = if count(&fates, Fate::Abort) > 0 { Fate::Abort } else { Fate::Copy };
        fates.iter_mut().for_each(|(_, fate)| *fate = all);
    }
    let [completed, aborted, copying] = [Fate::Complete, Fate::Abort, Fate::Copy].map(|of| count(&fates, of));
    if completed + aborted == 0 {
        return Decision::Wait(Wait::Copying { partitions: copying });
    }
    let mut next = config.clone();
    next.epoch = after(config.epoch);
    for (partition, fate) in fates.into_iter().filter(|(_, fate)| *fate != Fate::Copy) {
        let row = &mut next.partitions[partition.index()];
        row.epoch = next.epoch;
        let wanted = row.next.take().filter(|_| fate == Fate::Complete);
        row.replicas = wanted.unwrap_or_else(|| row.replicas.clone());
    }
    if copying == 0 {
        drop_idle_members(&mut next, &states);
    }
    let what = if aborted > 0 { What::Abort } else { What::Complete };
    Decision::Change(Box::new(Change { next, what, partitions: completed + aborted }))
}

/// Whether newcomers that get a vote with some of their partitions could, by dying, leave too few voters to decide on
/// giving up the others.
fn goes_together(config: &RingConfig, states: &[State]) -> bool {
    let (votes, holds) = (config.voters(), holders(config));
    let voters = votes.iter().filter(|votes| **votes).count();
    let newcomers = holds.iter().filter(|holds| **holds).count() - voters;
    let alive = votes.iter().zip(states).filter(|(votes, s)| **votes && **s == State::Alive).count();
    newcomers > 0 && alive < majority(voters + newcomers)
}

/// Members that are dead and hold nothing are members no longer.
fn drop_idle_members(config: &mut RingConfig, states: &[State]) {
    let holds = holders(config);
    let stays: Vec<bool> = holds.iter().zip(states).map(|(holds, s)| *holds || *s != State::Dead).collect();
    let mut place = Vec::with_capacity(stays.len());
    let mut kept = 0;
    for stays in &stays {
        place.push(kept);
        kept += u16::from(*stays);
    }
    let mut keep = stays.iter();
    config.members.retain(|_| *keep.next().unwrap_or(&true));
    renumber(config, &place);
}

fn sort_members(config: &mut RingConfig) {
    let mut order: Vec<usize> = (0..config.members.len()).collect();
    order.sort_by(|a, b| {
        let key = |ix: usize| (&config.members[ix].id, &config.members[ix].uuid);
        key(*a).cmp(&key(*b))
    });
    let mut place = vec![0u16; order.len()];
    for (to, from) in order.iter().enumerate() {
        place[*from] = to as u16;
    }
    config.members = order.iter().map(|ix| config.members[*ix].clone()).collect();
    renumber(config, &place);
}

fn renumber(config: &mut RingConfig, place: &[u16]) {
    for row in &mut config.partitions {
        let next = row.next.iter_mut().flatten();
        for member in row.replicas.iter_mut().chain(next) {
            *member = place[usize::from(*member)];
        }
    }
}

fn same_set(a: &Replicas, b: &Replicas) -> bool {
    a.len() == b.len() && a.iter().all(|member| b.contains(member))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::REPLICAS;

    fn id(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn alive(name: &str) -> Sighting {
        Sighting {
            id: id(name),
            uuid: format!("{name}-data"),
            verdict: Verdict::Alive,
            up_for: Duration::ZERO,
            unreachable_for: Duration::ZERO,
            returns: 0,
            virtual_nodes: 32,
            zone: String::new(),
        }
    }

    /// A cluster and what is seen of it.
    struct Rig {
        config: RingConfig,
        workers: Vec<Sighting>,
        copied: BTreeSet<(PartitionId, String)>,
        planner: RefCell<Planner>,
        now: Duration,
    }

    impl Rig {
        fn of(names: &[&str]) -> Self {
            Self::of_zones(&names.iter().map(|name| ("", *name)).collect::<Vec<_>>())
        }

        fn of_zones(names: &[(&str, &str)]) -> Self {
            let member = |(zone, name): &(&str, &str)| Member {
                uuid: format!("{name}-data"),
                ..Member::named(id(name), 32, *zone)
            };
            let members = names.iter().map(member).collect();
            Self {
                config: RingConfig::new("c", Epoch(1), REPLICAS, members).unwrap(),
                workers: names
                    .iter()
                    .map(|(zone, name)| Sighting { zone: (*zone).to_owned(), ..alive(name) })
                    .collect(),
                copied: BTreeSet::new(),
                planner: RefCell::default(),
                now: Duration::from_secs(10),
            }
        }

        fn worker(&mut self, name: &str) -> &mut Sighting {
            self.workers.iter_mut().find(|w| w.id == id(name)).unwrap()
        }

        fn plan(&self) -> Decision {
            self.planner.borrow_mut().plan(&Situation {
                config: &self.config,
                workers: &self.workers,
                listening_for: self.now,
                copied: &|partition, member| {
                    let uuid = self.config.members[usize::from(member)].uuid.clone();
                    self.copied.contains(&(partition, uuid))
                },
            })
        }

        /// Carries out what is planned, copies at once, and tells the steps.
        fn run(&mut self) -> Vec<What> {
            let mut steps = Vec::new();
            while let Decision::Change(change) = self.plan() {
                self.take(*change, &mut steps);
                self.copy_all();
                assert!(steps.len() < 20, "{steps:?}");
            }
            steps
        }

        fn take(&mut self, change: Change, steps: &mut Vec<What>) {
            follows(&self.config, &change.next);
            self.config = change.next;
            self.copied.clear();
            steps.push(change.what);
        }

        fn copy_all(&mut self) {
            for partition in PartitionId::all() {
                for member in self.config.assignment(partition).newcomers() {
                    let uuid = self.config.members[usize::from(member)].uuid.clone();
                    self.copied.insert((partition, uuid));
                }
            }
        }

        fn members(&self) -> String {
            self.config.member_list()
        }

        fn waits(&self) -> Wait {
            match self.plan() {
                Decision::Wait(wait) => wait,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whether one configuration may follow another: partition by partition, by identity.
    fn follows(before: &RingConfig, next: &RingConfig) {
        assert_eq!(next.epoch.0, before.epoch.0 + 1);
        let parts = (next.members.clone(), next.partitions.clone());
        RingConfig::from_table("c", next.epoch, next.replicas, parts.0, parts.1).unwrap();
        let who = |config: &RingConfig, set: &Replicas| -> BTreeSet<String> {
            set.iter().map(|m| config.members[usize::from(*m)].uuid.clone()).collect()
        };
        for partition in PartitionId::all() {
            let (old, new) = (before.assignment(partition), next.assignment(partition));
            let (was, is) = (who(before, &old.replicas), who(next, &new.replicas));
            let was_next = old.next.as_ref().map(|set| who(before, set));
            let is_next = new.next.as_ref().map(|set| who(next, set));
            if (&was, &was_next) == (&is, &is_next) {
                assert_eq!(old.epoch, new.epoch, "{partition}: the same replicas in another epoch");
                continue;
            }
            assert_eq!(new.epoch, next.epoch, "{partition}");
            match (was_next, is_next) {
                (None, Some(_)) => assert_eq!(was, is, "{partition}: joint from a stable epoch"),
                (Some(wanted), None) => assert!(is == wanted || is == was, "{partition}: new or old set"),
                other => panic!("{partition}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_dead_worker_goes_out_and_comes_back_in() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        assert_eq!(rig.plan(), Decision::Rest);
        rig.worker("w4").verdict = Verdict::Suspect;
        assert_eq!(rig.plan(), Decision::Rest, "suspicion moves nothing");
        rig.worker("w4").verdict = Verdict::Dead;
        assert_eq!(rig.run(), [What::Out(id("w4")), What::Complete]);
        assert_eq!(rig.members(), "w1, w2, w3");
        assert!(rig.config.partitions.iter().all(|row| row.replicas.len() == 3));

        let back = rig.worker("w4");
        (back.verdict, back.returns) = (Verdict::Alive, 1);
        assert!(matches!(rig.waits(), Wait::Damped { left, .. } if left == JOIN_AFTER));
        rig.worker("w4").up_for = JOIN_AFTER;
        assert_eq!(rig.run(), [What::In(id("w4")), What::Complete]);
        let fresh = Rig::of(&["w1", "w2", "w3", "w4"]);
        let sets =
            |config: &RingConfig| config.partitions.iter().map(|r| r.replicas.clone()).collect::<Vec<_>>();
        assert_eq!(sets(&rig.config), sets(&fresh.config), "all is where it was");
    }

    #[test]
    fn a_worker_that_is_back_before_it_is_out_waits_like_any_other() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.worker("w4").verdict = Verdict::Dead;
        let Decision::Change(change) = rig.plan() else { panic!() };
        rig.take(*change, &mut Vec::new());
        let back = rig.worker("w4");
        (back.verdict, back.returns) = (Verdict::Alive, 2);
        rig.copy_all();
        assert_eq!(rig.run(), [What::Complete]);
        assert_eq!(rig.members(), "w1, w2, w3, w4");
        assert_eq!(rig.waits(), Wait::Damped { worker: id("w4"), returns: 2, left: JOIN_AFTER * 2 });
        rig.worker("w4").up_for = JOIN_AFTER * 2;
        assert_eq!(rig.run(), [What::In(id("w4")), What::Complete]);
    }

    #[test]
    fn a_spare_that_cannot_be_reached_does_not_come_in() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.worker("w2").verdict = Verdict::Dead;
        rig.workers.push(Sighting { unreachable_for: Duration::from_secs(1), ..alive("w9") });
        assert!(matches!(rig.waits(), Wait::NoSpare { .. }));
        rig.worker("w2").verdict = Verdict::Alive;
        assert_eq!(rig.waits(), Wait::Unreachable { worker: id("w9") });
        rig.worker("w9").unreachable_for = Duration::ZERO;
        assert_eq!(rig.run(), [What::In(id("w9")), What::Complete]);
    }

    #[test]
    fn a_newcomer_that_cannot_be_reached_is_given_up_and_waits_longer_each_time() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.worker("w2").verdict = Verdict::Dead;
        rig.workers.push(alive("w9"));
        for wait in [JOIN_AFTER, JOIN_AFTER * 2] {
            let Decision::Change(change) = rig.plan() else { panic!() };
            rig.take(*change, &mut Vec::new());
            rig.worker("w9").unreachable_for = UNREACHABLE_AFTER - Duration::from_millis(1);
            assert!(matches!(rig.waits(), Wait::Copying { .. }));
            rig.worker("w9").unreachable_for = UNREACHABLE_AFTER;
            assert!(matches!(rig.plan(), Decision::Change(c) if c.what == What::Abort));
            assert_eq!(rig.run(), [What::Abort], "looking twice gives it up once");
            assert_eq!(rig.members(), "w1, w2, w3");
            rig.worker("w9").unreachable_for = Duration::ZERO;
            assert!(matches!(rig.waits(), Wait::NoSpare { .. }));
            rig.now += wait;
        }
        assert_eq!(rig.run(), [What::Replace(id("w2")), What::Complete]);
    }

    #[test]
    fn a_partition_does_not_come_to_a_member_that_cannot_be_reached() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.worker("w4").verdict = Verdict::Dead;
        rig.worker("w1").unreachable_for = UNREACHABLE_AFTER;
        let steps = rig.run();
        assert_eq!(steps, [What::Out(id("w4")), What::Complete], "what others take over goes on");
        assert_eq!(rig.waits(), Wait::Unreachable { worker: id("w1") });
        rig.worker("w1").unreachable_for = Duration::ZERO;
        assert_eq!(rig.run(), steps);
        assert_eq!(rig.members(), "w1, w2, w3");
    }

    #[test]
    fn the_wanted_ring_is_built_once_for_the_same_members() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        let ring = |rig: &Rig| rig.planner.borrow().ring.as_ref().unwrap().ring.clone();
        rig.plan();
        let first = ring(&rig);
        rig.plan();
        assert!(Arc::ptr_eq(&first, &ring(&rig)));
        rig.worker("w4").verdict = Verdict::Dead;
        rig.plan();
        assert_eq!(ring(&rig).members().len(), 3);
    }

    #[test]
    fn each_return_doubles_the_wait_up_to_a_bound() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        let mut flapping = alive("w4");
        for (returns, seconds) in [(1, 2), (2, 4), (5, 32), (9, 512), (10, 600), (u32::MAX, 600)] {
            flapping.returns = returns;
            rig.workers.truncate(3);
            rig.workers.push(flapping.clone());
            let expected = Duration::from_secs(seconds);
            assert!(matches!(rig.waits(), Wait::Damped { left, .. } if left == expected), "{returns}");
        }
    }

    #[test]
    fn nobody_goes_out_without_a_spare() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.worker("w2").verdict = Verdict::Dead;
        assert_eq!(rig.waits(), Wait::NoSpare { worker: id("w2"), left: 2, replicas: 3 });
        rig.workers.push(alive("w9"));
        assert_eq!(rig.run(), [What::Replace(id("w2")), What::Complete]);
        assert_eq!(rig.members(), "w1, w3, w9");
    }

    #[test]
    fn a_replacement_is_completed_at_once_or_not_at_all() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.worker("w2").verdict = Verdict::Dead;
        rig.workers.push(alive("w9"));
        let Decision::Change(change) = rig.plan() else { panic!() };
        rig.take(*change, &mut Vec::new());
        assert_eq!(rig.config.voters(), [true, true, true, false]);
        rig.copy_all();
        let last = rig.copied.pop_last().unwrap();
        assert_eq!(rig.waits(), Wait::Copying { partitions: usize::from(crate::PARTITIONS) });
        rig.worker("w9").verdict = Verdict::Dead;
        let given_up = rig.plan();
        assert!(matches!(given_up, Decision::Change(c) if c.what == What::Abort && c.next.is_stable()));
        rig.worker("w9").verdict = Verdict::Alive;
        rig.copied.insert(last);
        let Decision::Change(change) = rig.plan() else { panic!() };
        assert_eq!((&change.what, change.next.member_list()), (&What::Complete, "w1, w3, w9".to_owned()));
    }

    #[test]
    fn a_newcomer_gets_partition_after_partition_while_enough_others_are_well() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.workers.push(alive("w4"));
        let Decision::Change(change) = rig.plan() else { panic!() };
        rig.take(*change, &mut Vec::new());
        rig.copy_all();
        rig.copied.pop_last().unwrap();
        assert!(matches!(rig.plan(), Decision::Change(c) if c.what == What::Complete && !c.next.is_stable()));
        rig.worker("w1").verdict = Verdict::Suspect;
        assert!(matches!(rig.waits(), Wait::Copying { .. }), "w4 could take the majority with it");
    }

    #[test]
    fn a_silent_member_that_holds_nothing_brakes_nothing() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.config = mark(&rig.config, &id("w4"), true).unwrap().next;
        assert_eq!(rig.run(), [What::Drain(id("w4")), What::Complete]);
        rig.worker("w4").verdict = Verdict::Dead;
        rig.worker("w1").verdict = Verdict::Dead;
        assert!(matches!(rig.waits(), Wait::NoSpare { .. }));
        rig.workers.push(alive("w9"));
        assert_eq!(rig.run(), [What::Replace(id("w1")), What::Complete]);
        assert_eq!(rig.members(), "w2, w3, w9");
    }

    #[test]
    fn a_worker_over_other_data_replaces_itself_where_nobody_else_can() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.worker("w2").uuid = "new-data".to_owned();
        assert_eq!(rig.run(), [What::Replace(id("w2")), What::Complete]);
        assert_eq!(rig.members(), "w1, w2, w3");
        assert_eq!(rig.config.members[1].uuid, "new-data");
    }

    #[test]
    fn nothing_is_placed_on_another_dead_worker() {
        let mut rig =
            Rig::of_zones(&[("a", "w1"), ("a", "w2"), ("b", "w3"), ("b", "w4"), ("c", "w5"), ("c", "w6")]);
        for name in ["w5", "w6"] {
            rig.worker(name).verdict = Verdict::Dead;
        }
        assert_eq!(rig.run(), [What::Out(id("w5")), What::Complete]);
        assert_eq!(rig.members(), "w1, w2, w3, w4");
        assert!(rig.config.partitions.iter().all(|row| row.replicas.len() == 3));
    }

    #[test]
    fn two_suspects_stop_everything() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.worker("w4").verdict = Verdict::Dead;
        rig.worker("w1").verdict = Verdict::Suspect;
        assert_eq!(rig.waits(), Wait::TooManySuspected { suspected: 2, members: 4 });
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4", "w5", "w6", "w7"]);
        rig.worker("w4").verdict = Verdict::Dead;
        rig.worker("w1").verdict = Verdict::Suspect;
        assert!(matches!(rig.waits(), Wait::Suspected { .. }));
    }

    #[test]
    fn what_is_only_tidy_waits_until_all_are_well() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.workers.push(alive("w5"));
        rig.worker("w2").verdict = Verdict::Suspect;
        assert!(matches!(rig.waits(), Wait::TooManySuspected { .. }));
        rig.worker("w2").verdict = Verdict::Alive;
        assert_eq!(rig.run(), [What::In(id("w5")), What::Complete]);
        assert_eq!(rig.members(), "w1, w2, w3, w4, w5");
    }

    #[test]
    fn a_leaving_worker_hands_over_and_goes() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.config = mark(&rig.config, &id("w3"), true).unwrap().next;
        assert!(mark(&rig.config, &id("w3"), true).is_none());
        rig.workers.retain(|w| w.id != id("w3") || w.verdict == Verdict::Alive);
        let Decision::Change(change) = rig.plan() else { panic!() };
        assert_eq!(change.what, What::Drain(id("w3")));
        rig.take(*change, &mut Vec::new());
        assert_eq!(rig.waits(), Wait::Copying { partitions: rig.config.joint_partitions().count() });
        rig.copy_all();
        let Decision::Change(change) = rig.plan() else { panic!() };
        rig.take(*change, &mut Vec::new());
        assert_eq!(
            (rig.members().as_str(), rig.plan()),
            ("w1, w2, w3, w4", Decision::Rest),
            "idle, and not asked in again"
        );
        let holds = rig.config.ownership()[2].replicas;
        assert_eq!(holds, 0);
        rig.worker("w3").verdict = Verdict::Dead;
        assert_eq!(rig.run(), [What::Out(id("w3"))]);
        assert_eq!(rig.members(), "w1, w2, w4");
    }

    #[test]
    fn an_order_to_leave_reaches_the_worker_that_is_there_and_not_only_its_predecessor() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.worker("w2").uuid = "x-new".to_owned();
        let Decision::Change(change) = rig.plan() else { panic!() };
        rig.take(*change, &mut Vec::new());
        assert_eq!(rig.members(), "w1, w2, w2, w3");
        rig.config = mark(&rig.config, &id("w2"), true).unwrap().next;
        assert!(mark(&rig.config, &id("w2"), true).is_none());
        rig.copy_all();
        assert_eq!(rig.run(), [What::Complete]);
        let w2 = rig.config.members.iter().find(|m| m.id == id("w2")).unwrap();
        assert_eq!((w2.uuid.as_str(), w2.leaving), ("x-new", true));
    }

    #[test]
    fn a_worker_that_was_told_to_leave_may_stay_after_all() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.config = mark(&rig.config, &id("w3"), true).unwrap().next;
        rig.run();
        rig.config = mark(&rig.config, &id("w3"), false).unwrap().next;
        assert_eq!(rig.run(), [What::In(id("w3")), What::Complete]);
    }

    #[test]
    fn a_worker_cannot_leave_when_too_few_would_stay() {
        let mut rig = Rig::of(&["w1", "w2", "w3"]);
        rig.config = mark(&rig.config, &id("w3"), true).unwrap().next;
        assert!(matches!(rig.waits(), Wait::NoSpare { .. }));
        rig.workers.push(alive("w4"));
        assert_eq!(rig.run(), [What::In(id("w4")), What::Complete, What::Drain(id("w3")), What::Complete]);
        assert_eq!(rig.members(), "w1, w2, w3, w4");
        assert_eq!(rig.config.ownership()[2].replicas, 0);
    }

    #[test]
    fn a_newcomer_that_dies_leaves_its_partitions_where_they_were() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.workers.push(alive("w5"));
        let Decision::Change(change) = rig.plan() else { panic!() };
        rig.take(*change, &mut Vec::new());
        rig.worker("w5").verdict = Verdict::Dead;
        assert_eq!(rig.run(), [What::Abort]);
        assert_eq!(rig.members(), "w1, w2, w3, w4");
        assert!(rig.config.is_stable());
    }

    #[test]
    fn finished_partitions_do_not_wait_for_the_others() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.worker("w1").verdict = Verdict::Dead;
        let Decision::Change(change) = rig.plan() else { panic!() };
        rig.take(*change, &mut Vec::new());
        rig.copy_all();
        let kept: Vec<_> = rig.copied.iter().skip(10).cloned().collect();
        kept.iter().for_each(|done| assert!(rig.copied.remove(done)));
        let Decision::Change(change) = rig.plan() else { panic!() };
        assert_eq!((change.what.clone(), change.partitions), (What::Complete, 10));
        assert!(!change.next.is_stable());
        follows(&rig.config, &change.next);
    }

    #[test]
    fn a_member_never_heard_of_is_given_time() {
        let mut rig = Rig::of(&["w1", "w2", "w3", "w4"]);
        rig.workers.retain(|w| w.id != id("w4"));
        let planned = |listening_for| {
            plan(&Situation {
                config: &rig.config,
                workers: &rig.workers,
                listening_for,
                copied: &|_, _| false,
            })
        };
        assert_eq!(planned(UNHEARD_AFTER - Duration::from_millis(1)), Decision::Rest);
        assert!(matches!(planned(UNHEARD_AFTER), Decision::Change(c) if c.what == What::Out(id("w4"))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever happens to workers, each configuration may follow the one before, and in the end, with all of them
        /// well, everything is where the hash ring places it.
        #[test]
        fn every_step_may_follow(events in prop::collection::vec((0_usize..6, 0_u8..6), 1..40)) {
            let mut rig = Rig::of(&["w0", "w1", "w2", "w3"]);
            let mut steps = Vec::new();
            for (n, event) in events {
                let name = format!("w{n}");
                if !rig.workers.iter().any(|w| w.id == id(&name)) {
                    rig.workers.push(alive(&name));
                }
                match event {
                    0 => rig.worker(&name).verdict = Verdict::Dead,
                    1 | 2 => rig.worker(&name).verdict = Verdict::Alive,
                    3 => rig.worker(&name).uuid.push('x'),
                    4 => if let Some(change) = mark(&rig.config, &id(&name), n % 2 == 0)
                        && rig.config.is_stable() { rig.config = change.next },
                    _ => rig.copy_all(),
                }
                if let Decision::Change(change) = rig.plan() {
                    rig.take(*change, &mut steps);
                }
            }
            for worker in &mut rig.workers {
                worker.verdict = Verdict::Alive;
            }
            rig.copy_all();
            rig.run();
            prop_assert!(rig.config.is_stable());
            match rig.plan() {
                Decision::Rest => {}
                // Too many left, or the data of too many is gone.
                Decision::Wait(Wait::NoSpare { .. } | Wait::TooManySuspected { .. } | Wait::Suspected { .. }) => {
                    return Ok(());
                }
                other => prop_assert!(false, "{other:?}"),
            }
            let config = &rig.config;
            let holds = holders(config);
            let mut placed = config.members.clone();
            let mut held = holds.iter();
            placed.retain(|_| *held.next().unwrap());
            prop_assert!(config.members.iter().zip(&holds).all(|(m, holds)| m.leaving != *holds));
            let ring = Ring::build(&placed, config.replicas).unwrap();
            let place = |ix: &usize| config.index_of_identity(&placed[*ix].id, &placed[*ix].uuid).unwrap() as u16;
            for partition in PartitionId::all() {
                let placed: Replicas = ring.preference_list(partition).iter().map(place).collect();
                prop_assert_eq!(&placed, &config.assignment(partition).replicas);
            }
        }
    }
}
