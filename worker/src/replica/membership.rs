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
    /// The configuration names the worker's id over other data: what is here may be the last copy of something.
    displaced: bool,
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
                Some(me) if row.next.as_ref().is_some_and(|next| next.contains(&me)) => Role::Newcomer,
                _ => Role::Stranger,
            };
            Place { epoch: row.epoch, joint: row.is_joint(), role }
        };
        let displaced = config.members.iter().any(|member| member.id == *id && !member.is(id, uuid));
        Self(Some(Held { number: config.epoch, displaced, places: PartitionId::all().map(place).collect() }))
    }

    /// Of the first partitions only, for a replica that has no others.
    pub fn from_places(number: Epoch, places: impl IntoIterator<Item = Place>) -> Self {
        Self(Some(Held { number, displaced: false, places: places.into_iter().collect() }))
    }

    /// The number of the configuration.
    pub fn number(&self) -> Option<Epoch> {
        self.0.as_ref().map(|held| held.number)
    }

    pub fn is_displaced(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.displaced)
    }

    pub fn place(&self, partition: PartitionId) -> Option<Place> {
        self.0.as_ref().map(|held| held.places[partition.index()])
    }

    /// Whether it is a replica, old or new.
    pub fn contains(&self, partition: PartitionId) -> bool {
        self.place(partition).is_none_or(|place| place.role != Role::Stranger)
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::Member;

    use super::*;

    fn config(members: &[(&str, &str)]) -> RingConfig {
        let member = |(id, uuid): &(&str, &str)| Member {
            uuid: (*uuid).to_owned(),
            ..Member::named(WorkerId::new(id).unwrap(), 16, "")
        };
        RingConfig::new("c", Epoch(1), 3, members.iter().map(member).collect()).unwrap()
    }

    fn partitions(config: &RingConfig, me: &str, uuid: &str) -> usize {
        let membership = Membership::from_config(config, &WorkerId::new(me).unwrap(), uuid);
        PartitionId::all().filter(|p| membership.contains(*p)).count()
    }

    #[test]
    fn the_members_share_all_replicas_of_all_partitions() {
        let all = [("w1", "1"), ("w2", "2"), ("w3", "3"), ("w4", "")];
        let config = config(&all);
        let sum: usize = all.iter().map(|(me, uuid)| partitions(&config, me, uuid)).sum();
        assert_eq!(sum, 3 * usize::from(tercet_common::PARTITIONS));
        assert_eq!(partitions(&config, "w5", "5"), 0);
        assert_eq!(partitions(&config, "w1", "other data"), 0);
        assert!(partitions(&config, "w4", "data that was not known") > 0);
    }

    #[test]
    fn a_replica_to_be_holds_the_partition_too() {
        let mut config = config(&[("w1", "1"), ("w2", "2"), ("w3", "3")]);
        for row in &mut config.partitions {
            (row.replicas, row.next) = ([0, 1].into_iter().collect(), Some([1, 2].into_iter().collect()));
        }
        for (me, uuid) in [("w1", "1"), ("w3", "3")] {
            assert_eq!(partitions(&config, me, uuid), usize::from(tercet_common::PARTITIONS));
        }
    }
}
