//! What the held ring configuration makes of this worker.

use tercet_common::{Epoch, PartitionId, RingConfig, WorkerId};

/// What this worker is to a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Not one of its replicas.
    Stranger,
    /// It has all that it ever acknowledged of the partition.
    Replica,
    /// It comes with the change under way, and copies the partition: what it held before counts for nothing.
    Newcomer,
}

/// A partition in the held configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub epoch: Epoch,
    pub joint: bool,
    pub role: Role,
}

/// The places of a worker in one configuration. Before the first: none, and the worker takes part in every partition and
/// every epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership(Option<Held>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    number: Epoch,
    places: Box<[Place]>,
}

impl Membership {
    /// For the worker `id` over the data `uuid`.
    pub fn from_config(config: &RingConfig, id: &WorkerId, uuid: &str) -> Self {
        let me = config.index_of_identity(id, uuid).and_then(|index| u16::try_from(index).ok());
        let place = |partition| {
            let row = config.assignment(partition);
            let role = match me {
                Some(me) if row.replicas.contains(&me) => Role::Replica,
                Some(me) if row.newcomers().contains(&me) => Role::Newcomer,
                _ => Role::Stranger,
            };
            Place { epoch: row.epoch, joint: row.is_joint(), role }
        };
        Self(Some(Held { number: config.epoch, places: PartitionId::all().map(place).collect() }))
    }

    /// The number of the configuration.
    pub fn number(&self) -> Option<Epoch> {
        self.0.as_ref().map(|held| held.number)
    }

    pub fn place(&self, partition: PartitionId) -> Option<Place> {
        self.0.as_ref().map(|held| held.places[partition.index()])
    }

    /// Whether it is a replica, old or new.
    pub fn contains(&self, partition: PartitionId) -> bool {
        self.place(partition).is_none_or(|place| place.role != Role::Stranger)
    }
}
