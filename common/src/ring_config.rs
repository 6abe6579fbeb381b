//! The ring configuration: what all parts of a cluster agree on.
//!
//! It is a table: for each partition its epoch and its replicas, and, while it changes hands, its next replicas. The
//! table and not the hash ring is the truth: [`Ring`] says where partitions *should* be for a set of members, and a ring
//! change (`ring_change`) moves the table there step by step.
//!
//! Configurations are numbered; each is decided once, by the workers (see `ring_register`). A partition's epoch is the
//! number of the configuration that last changed its replicas, so that it grows only for partitions that are concerned
//! (design 6), and one number never means two sets of replicas among configurations that were decided.
//!
//! ```text
//! configuration 1   partition 7  epoch 1  [w1 w2 w3]
//! configuration 2   partition 7  epoch 2  [w1 w2 w3] → [w1 w2 w4]   joint: a quorum is two of each
//! configuration 3   partition 7  epoch 3  [w1 w2 w4]
//! ```
//!
//! A [`Member`] is an identity, not only a name: a worker whose disk was lost comes back under its old id with other
//! data, and is another member.

use std::ops::Range;

use smallvec::SmallVec;

use crate::ring::{
    MEMBERS_MAX, NAME_BYTES_MAX, REPLICAS_MAX, Ring, VIRTUAL_NODES_MAX, check_members, check_name,
};
use crate::{Epoch, PARTITIONS, PartitionId, WorkerId};

/// A worker of the ring.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    pub id: WorkerId,
    /// Whose data it is: drawn when the worker's database was first used. Empty: not known yet.
    pub uuid: String,
    /// The worker's weight.
    pub virtual_nodes: u32,
    /// Its failure zone. Empty: none is known.
    pub zone: String,
    /// It is to hand over its partitions and go.
    pub leaving: bool,
}

impl Member {
    /// A member whose data is not known yet.
    pub fn named(id: WorkerId, virtual_nodes: u32, zone: impl Into<String>) -> Self {
        Self { id, uuid: String::new(), virtual_nodes, zone: zone.into(), leaving: false }
    }

    /// Whether this is the worker `id` over the data `uuid`. A member whose data is not known yet is any of its name.
    pub fn is(&self, id: &WorkerId, uuid: &str) -> bool {
        self.id == *id && (self.uuid.is_empty() || self.uuid == uuid)
    }
}

/// Replicas as indexes into [`RingConfig::members`], in preference order.
pub type Replicas = SmallVec<[u16; 3]>;

/// A partition's row of the table.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Assignment {
    pub epoch: Epoch,
    pub replicas: Replicas,
    /// The replicas after the change that is under way: the epoch is joint.
    pub next: Option<Replicas>,
}

impl Assignment {
    pub fn is_joint(&self) -> bool {
        self.next.is_some()
    }

    /// All replicas, old and new, each once, the old ones first.
    pub fn everyone(&self) -> Replicas {
        let mut all = self.replicas.clone();
        for member in self.next.iter().flatten() {
            if !all.contains(member) {
                all.push(*member);
            }
        }
        all
    }

    /// The replicas that come new with the change: they have to copy the partition.
    pub fn newcomers(&self) -> Replicas {
        self.next.iter().flatten().filter(|m| !self.replicas.contains(m)).copied().collect()
    }
}

/// See the module. Made by [`RingConfig::new`] or [`RingConfig::from_table`], which check it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingConfig {
    pub cluster_id: String,
    /// The number of the configuration.
    pub epoch: Epoch,
    /// Copies of every partition, where there are as many workers.
    pub replicas: usize,
    /// Sorted by id, then uuid; each identity once. While a worker over other data replaces one of the same id, both.
    pub members: Vec<Member>,
    /// One for each of the 1024 partitions, by index.
    pub partitions: Vec<Assignment>,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    #[error("a ring has 1 to {MEMBERS_MAX} workers, not {0}")]
    Members(usize),
    #[error("a ring keeps 1 to {REPLICAS_MAX} replicas of a partition, not {0}")]
    Replicas(usize),
    #[error("worker {0} is named twice")]
    Duplicate(WorkerId),
    #[error("worker {id} has {virtual_nodes} virtual nodes; 1 to {VIRTUAL_NODES_MAX} are allowed")]
    VirtualNodes { id: WorkerId, virtual_nodes: u32 },
    #[error("{what} `{name}` is not 1 to {NAME_BYTES_MAX} bytes of printable ASCII without spaces")]
    Name { what: &'static str, name: String },
    #[error("the table has {0} partitions, not {PARTITIONS}")]
    Partitions(usize),
    #[error("the table's row of partition {partition} is malformed: {what}")]
    Row { partition: PartitionId, what: &'static str },
}

impl RingConfig {
    /// Every partition where [`Ring::build`] places it, in the epoch of the configuration.
    pub fn new(
        cluster_id: impl Into<String>,
        epoch: Epoch,
        replicas: usize,
        mut members: Vec<Member>,
    ) -> Result<Self, RingError> {
        let cluster_id = cluster_id.into();
        check_name("the cluster id", &cluster_id)?;
        members.sort_by(|a, b| a.id.cmp(&b.id));
        let ring = Ring::build(&members, replicas)?;
        let place = |id| {
            let replicas = ring.preference_list(id).iter().map(|ix| *ix as u16).collect();
            Assignment { epoch, replicas, next: None }
        };
        let partitions = PartitionId::all().map(place).collect();
        Ok(Self { cluster_id, epoch, replicas, members, partitions })
    }

    /// A whole table, as decided before. Checks every limit and every index; does not sort.
    pub fn from_table(
        cluster_id: impl Into<String>,
        epoch: Epoch,
        replicas: usize,
        members: Vec<Member>,
        partitions: Vec<Assignment>,
    ) -> Result<Self, RingError> {
        let cluster_id = cluster_id.into();
        check_name("the cluster id", &cluster_id)?;
        check_members(&members, replicas)?;
        for pair in members.windows(2) {
            if (&pair[0].id, &pair[0].uuid) >= (&pair[1].id, &pair[1].uuid) {
                return Err(RingError::Duplicate(pair[1].id.clone()));
            }
        }
        if partitions.len() != usize::from(PARTITIONS) {
            return Err(RingError::Partitions(partitions.len()));
        }
        for (partition, row) in PartitionId::all().zip(&partitions) {
            let malformed = |what| RingError::Row { partition, what };
            if row.epoch > epoch {
                return Err(malformed("its epoch is above the configuration's"));
            }
            for set in std::iter::once(&row.replicas).chain(&row.next) {
                check_set(set, members.len(), replicas).map_err(malformed)?;
            }
        }
        Ok(Self { cluster_id, epoch, replicas, members, partitions })
    }

    pub fn assignment(&self, partition: PartitionId) -> &Assignment {
        &self.partitions[partition.index()]
    }

    /// The index of a worker among the members, if it is one. Of two members of one id, the first.
    pub fn index_of(&self, id: &WorkerId) -> Option<usize> {
        self.indexes_of(id).next()
    }

    /// The indexes of all members of this id: of none, of one, of two while one replaces the other.
    pub fn indexes_of(&self, id: &WorkerId) -> Range<usize> {
        let first = self.members.partition_point(|member| member.id < *id);
        let count = self.members[first..].iter().take_while(|member| member.id == *id).count();
        first..first + count
    }

    /// The index of the worker `id` over the data `uuid`.
    pub fn index_of_identity(&self, id: &WorkerId, uuid: &str) -> Option<usize> {
        self.indexes_of(id).find(|index| self.members[*index].is(id, uuid))
    }

    /// `w1, w2, w3`: for messages.
    pub fn member_list(&self) -> String {
        let ids: Vec<_> = self.members.iter().map(|m| m.id.as_str()).collect();
        ids.join(", ")
    }

    /// No partition is changing hands.
    pub fn is_stable(&self) -> bool {
        !self.partitions.iter().any(Assignment::is_joint)
    }

    pub fn joint_partitions(&self) -> impl Iterator<Item = PartitionId> {
        PartitionId::all().filter(|id| self.assignment(*id).is_joint())
    }

    /// Which members decide what follows, in the order of [`RingConfig::members`]: those that replicate a partition already.
    ///
    /// A mere newcomer has no vote, so that its death never stands in the way of giving it up; nor has a member that
    /// holds nothing, which may be stopped any time.
    pub fn voters(&self) -> Vec<bool> {
        let mut voters = vec![false; self.members.len()];
        for member in self.partitions.iter().flat_map(|row| &row.replicas) {
            voters[usize::from(*member)] = true;
        }
        voters
    }

    /// What each member holds, in the order of [`RingConfig::members`]. Newcomers hold what they copy.
    pub fn ownership(&self) -> Vec<Ownership> {
        let mut owned = vec![Ownership::default(); self.members.len()];
        let mut total = 0;
        for row in &self.partitions {
            if let Some(first) = row.replicas.first() {
                owned[usize::from(*first)].primaries += 1;
            }
            for member in row.everyone() {
                owned[usize::from(member)].replicas += 1;
                total += 1;
            }
        }
        for ownership in &mut owned {
            ownership.replica_share = ownership.replicas as f64 / f64::from(total.max(1));
            ownership.primary_share = ownership.primaries as f64 / f64::from(PARTITIONS);
        }
        owned
    }
}

/// What one member is to hold.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Ownership {
    /// Partitions of which it is a replica, and of those the ones where it comes first.
    pub replicas: usize,
    pub primaries: usize,
    /// The same as shares of all replicas and of all partitions, 0 to 1.
    pub replica_share: f64,
    pub primary_share: f64,
}

fn check_set(set: &Replicas, members: usize, replicas: usize) -> Result<(), &'static str> {
    if !(1..=replicas).contains(&set.len()) {
        return Err("too few or too many replicas");
    }
    if set.iter().any(|m| usize::from(*m) >= members) {
        return Err("a replica is no member");
    }
    let twice = set.iter().enumerate().any(|(i, m)| set[..i].contains(m));
    if twice { Err("a replica is named twice") } else { Ok(()) }
}
