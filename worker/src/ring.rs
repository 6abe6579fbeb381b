//! What a ring configuration means for one worker.

use tercet_common::{RingConfig, WorkerId};

use crate::replica::Membership;

/// The partitions of which the worker `me`, over the data `uuid`, is a replica, or is about to be one.
pub(crate) fn membership(config: &RingConfig, me: &WorkerId, uuid: &str) -> Membership {
    let mine = config.index_of_identity(me, uuid);
    Membership::from_fn(|partition| {
        let everyone = config.assignment(partition).everyone();
        mine.is_some_and(|mine| everyone.iter().any(|index| usize::from(*index) == mine))
    })
}

#[cfg(test)]
mod tests {
    use tercet_common::{Epoch, Member, PartitionId};

    use super::*;

    fn config(members: &[(&str, &str)]) -> RingConfig {
        let member = |(id, uuid): &(&str, &str)| Member {
            uuid: (*uuid).to_owned(),
            ..Member::named(WorkerId::new(id).unwrap(), 16, "")
        };
        RingConfig::new("c", Epoch(1), 3, members.iter().map(member).collect()).unwrap()
    }

    fn partitions(config: &RingConfig, me: &str, uuid: &str) -> usize {
        let membership = membership(config, &WorkerId::new(me).unwrap(), uuid);
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
