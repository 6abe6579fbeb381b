//! Ring configurations, and how they look from the simulation.
//!
//! They are the real ones ([`RingConfig`]), decided by the real register (`decide`), and behind an [`Arc`], for each has all
//! 1024 partitions. A schedule has keys in the first one or two only. In tables that are made by hand, row n is that of
//! partition n modulo these, so that who votes is who holds something.
//!
//! A worker is known by its *slot*, its place in the list of all; a worker whose data is lost never comes back to its slot, but
//! under its id in another one.

use std::borrow::Cow;
use std::sync::Arc;

use tercet_common::ring_config::Replicas as Indexes;
use tercet_common::ring_proposer::Voter;
use tercet_common::{Assignment, Epoch, Member, PARTITIONS, REPLICAS, RingConfig};
use tercet_frontend::coordinator::core::{Group, Replicas, WorkerIx};

use crate::random::Random;

/// Of every member.
const CLUSTER: &str = "simulated";

/// A configuration, and what it says of the partitions that have keys.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) ring: Arc<RingConfig>,
    pub(crate) groups: Vec<Group>,
    /// The slots of its members.
    slots: Vec<WorkerIx>,
    is_joint: bool,
}

impl Configuration {
    /// `voters`: who is in which slot.
    pub(crate) fn of(ring: Arc<RingConfig>, voters: &[Voter], partitions: usize) -> Self {
        let slots: Vec<WorkerIx> = ring.members.iter().map(|member| slot_of(member, voters)).collect();
        let named = |set: &Indexes| -> Replicas { set.iter().map(|ix| slots[usize::from(*ix)]).collect() };
        let group = |row: &Assignment| Group {
            epoch: row.epoch,
            replicas: named(&row.replicas),
            next: row.next.as_ref().map(named),
        };
        let groups = ring.partitions[..partitions].iter().map(group).collect();
        let is_joint = !ring.is_stable();
        Self { ring, groups, slots, is_joint }
    }

    pub(crate) fn number(&self) -> u64 {
        self.ring.epoch.0
    }

    pub(crate) fn has_member(&self, slot: WorkerIx) -> bool {
        self.slots.contains(&slot)
    }

    /// Of the partitions that have keys, or of any other.
    pub(crate) fn is_joint(&self) -> bool {
        self.is_joint
    }

    /// Whether a worker is a replica of any partition, also of those without keys.
    pub(crate) fn is_voter(&self, voter: &Voter) -> bool {
        let index = self.ring.index_of_identity(&voter.id, &voter.uuid);
        index.is_some_and(|index| {
            self.ring.partitions.iter().any(|row| row.replicas.contains(&(index as u16)))
        })
    }

    /// Of some member it is not known whose data it has.
    pub(crate) fn is_nameless(&self) -> bool {
        self.ring.members.iter().any(|member| member.uuid.is_empty())
    }
}

/// A member whose data is not known is the first one of its name.
fn slot_of(member: &Member, voters: &[Voter]) -> WorkerIx {
    let slot = voters.iter().position(|voter| member.is(&voter.id, &voter.uuid));
    slot.expect("every member has a slot") as WorkerIx
}

fn member(voter: &Voter, virtual_nodes: u32) -> Member {
    Member { uuid: voter.uuid.clone(), ..Member::named(voter.id.clone(), virtual_nodes, "") }
}

/// What the settings of all frontends say: number 1, of workers whose data nobody knows yet. `placed`: as the real
/// hash ring has it, which [`tercet_common::ring_change`] then leaves in peace; else anyhow.
pub(crate) fn first(
    voters: &[Voter],
    partitions: usize,
    virtual_nodes: u32,
    placed: bool,
    random: &mut Random,
) -> RingConfig {
    let named = |voter: &Voter| Member::named(voter.id.clone(), virtual_nodes, "");
    let members: Vec<Member> = voters.iter().map(named).collect();
    let ring = if placed {
        RingConfig::new(CLUSTER, Epoch(1), REPLICAS, members)
    } else {
        let mut draw = || -> Indexes {
            let mut all: Vec<u16> = (0..voters.len() as u16).collect();
            (0..REPLICAS).map(|_| all.swap_remove(random.index(all.len()))).collect()
        };
        let drawn: Vec<Indexes> = (0..partitions).map(|_| draw()).collect();
        let row = |replicas: &Indexes| Assignment { epoch: Epoch(1), replicas: replicas.clone(), next: None };
        let rows = drawn.iter().cycle().take(usize::from(PARTITIONS)).map(row).collect();
        RingConfig::from_table(CLUSTER, Epoch(1), REPLICAS, members, rows)
    };
    ring.expect("within every limit")
}

/// What is to become of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// One replica (an index among the replicas) hands over to this worker.
    Begin { out: usize, newcomer: Voter },
    /// The next replicas take over.
    Complete,
    /// What was begun is given up.
    Abort,
}

/// A table that is made by hand: `step` of one partition, and of all whose rows are like its. Row by row, for to clone a
/// table and to change it then would be a third of what a schedule takes.
pub(crate) fn after(ring: &RingConfig, partitions: usize, partition: usize, step: &Step) -> RingConfig {
    let epoch = Epoch(ring.epoch.0 + 1);
    let (mut base, mut newcomer) = (Cow::Borrowed(ring), None);
    if let Step::Begin { newcomer: voter, .. } = step {
        let index = ring.index_of_identity(&voter.id, &voter.uuid).map(|index| index as u16);
        newcomer = Some(index.unwrap_or_else(|| place(base.to_mut(), voter)));
    }
    let row = base.partitions[partition].clone();
    let changed = match (step, newcomer) {
        (Step::Begin { out, .. }, Some(newcomer)) => {
            let mut wanted = row.replicas.clone();
            wanted[*out] = newcomer;
            Assignment { epoch, replicas: row.replicas, next: Some(wanted) }
        }
        (Step::Complete, _) => Assignment { epoch, replicas: row.next.unwrap_or(row.replicas), next: None },
        _ => Assignment { epoch, replicas: row.replicas, next: None },
    };
    let copy = |row: &Assignment| Assignment {
        epoch: row.epoch,
        replicas: Indexes::from_slice(&row.replicas),
        next: row.next.as_deref().map(Indexes::from_slice),
    };
    let rows = base.partitions.iter().enumerate();
    let rows = rows.map(|(n, row)| copy(if n % partitions == partition { &changed } else { row })).collect();
    RingConfig {
        cluster_id: base.cluster_id.clone(),
        epoch,
        replicas: base.replicas,
        members: base.members.clone(),
        partitions: rows,
    }
}

/// Makes a worker a member, and says at which index.
fn place(ring: &mut RingConfig, voter: &Voter) -> u16 {
    let before = |member: &Member| (&member.id, &member.uuid) < (&voter.id, &voter.uuid);
    let at = ring.members.partition_point(before) as u16;
    let nodes = ring.members.first().map_or(1, |member| member.virtual_nodes);
    ring.members.insert(usize::from(at), member(voter, nodes));
    let shift = |set: &mut Indexes| set.iter_mut().filter(|ix| **ix >= at).for_each(|ix| *ix += 1);
    for row in &mut ring.partitions {
        shift(&mut row.replicas);
        row.next.iter_mut().for_each(shift);
    }
    at
}

/// Members that hold nothing and are gone are members no longer.
pub(crate) fn without(ring: &mut RingConfig, gone: impl Fn(&Member) -> bool) {
    for at in (0..ring.members.len()).rev() {
        let ix = at as u16;
        let holds = |set: &Indexes| set.contains(&ix);
        let held = |row: &Assignment| holds(&row.replicas) || row.next.as_ref().is_some_and(holds);
        if !gone(&ring.members[at]) || ring.partitions.iter().any(held) {
            continue;
        }
        ring.members.remove(at);
        let shift = |set: &mut Indexes| set.iter_mut().filter(|i| **i > ix).for_each(|i| *i -= 1);
        for row in &mut ring.partitions {
            shift(&mut row.replicas);
            row.next.iter_mut().for_each(shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::WorkerId;

    use super::*;

    fn voter(n: usize) -> Voter {
        Voter { id: WorkerId::new(&format!("w{n}")).expect("a name"), uuid: format!("u{n}") }
    }

    /// The real check of a table, such as bytes from outside have to pass.
    fn is_sound(ring: &RingConfig) -> bool {
        let RingConfig { cluster_id, epoch, replicas, members, partitions } = ring.clone();
        RingConfig::from_table(cluster_id, epoch, replicas, members, partitions).is_ok()
    }

    #[test]
    fn a_replica_is_replaced_and_its_rows_follow() {
        let voters: Vec<Voter> = [1, 3, 4].map(voter).to_vec();
        let first = first(&voters, 2, 1, false, &mut Random::new(7));
        assert!(is_sound(&first) && first.partitions.len() == usize::from(PARTITIONS));
        let begin = Step::Begin { out: 1, newcomer: voter(2) };
        let joint = after(&first, 2, 1, &begin);
        assert!(is_sound(&joint));
        let rows = |ring: &RingConfig| ring.partitions.iter().filter(|row| row.is_joint()).count();
        assert_eq!(rows(&joint), usize::from(PARTITIONS) / 2);
        assert_eq!(joint.member_list(), "w1, w2, w3, w4");
        let mut voters = voters;
        voters.push(voter(2));
        let seen = Configuration::of(Arc::new(joint.clone()), &voters, 2);
        assert!(seen.groups[1].next.as_ref().is_some_and(|next| next.contains(&3)), "slot 3 is w2");
        let left = seen.groups[1].replicas[1];
        let done = after(&joint, 2, 1, &Step::Complete);
        let seen = Configuration::of(Arc::new(done.clone()), &voters, 2);
        assert!(!seen.groups[1].contains(left) && seen.groups[1].contains(3) && !seen.is_joint());
        let mut given_up = after(&joint, 2, 1, &Step::Abort);
        without(&mut given_up, |member| member.id == voter(2).id);
        assert!(is_sound(&given_up));
        let old = Configuration::of(Arc::new(first), &voters, 2);
        let again = Configuration::of(Arc::new(given_up), &voters, 2);
        assert_eq!(again.groups[1].replicas, old.groups[1].replicas);
    }
}
