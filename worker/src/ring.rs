//! What a ring configuration means for one worker.

use prost::Message;
use tercet_common::{Epoch, Member, RingConfig, RingError, WorkerId};
use tercet_proto::v1;

use crate::replica::Membership;

/// Why a configuration is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigureError {
    #[error("this worker belongs to cluster `{held}`, not to `{sent}`")]
    OtherCluster { held: String, sent: String },
    #[error("the ring configuration is invalid: {0}")]
    Ring(#[from] RingError),
    #[error("the ring configuration is invalid: {0}")]
    Malformed(String),
}

/// Checks a configuration, and derives from it which partitions `me` is a replica of.
pub(crate) fn membership(
    configuration: &v1::RingConfiguration,
    cluster_id: &str,
    me: &WorkerId,
) -> Result<Membership, ConfigureError> {
    if configuration.cluster_id != cluster_id {
        let sent = configuration.cluster_id.chars().take(80).collect();
        return Err(ConfigureError::OtherCluster { held: cluster_id.to_owned(), sent });
    }
    let malformed = |what: &dyn std::fmt::Display| ConfigureError::Malformed(what.to_string());
    let epoch = i64::try_from(configuration.epoch).map_err(|e| malformed(&e))?;
    let replicas = usize::try_from(configuration.replicas).map_err(|e| malformed(&e))?;
    let members = configuration.members.iter().map(|member| {
        let id = WorkerId::new(&member.id).map_err(|e| malformed(&e))?;
        Ok(Member::named(id, member.virtual_nodes, member.zone.clone()))
    });
    let members = members.collect::<Result<Vec<_>, ConfigureError>>()?;
    let config = RingConfig::new(cluster_id, Epoch(epoch.unsigned_abs()), replicas, members)?;
    Ok(Membership::from_config(&config, me, ""))
}

pub(crate) fn decode(bytes: &[u8]) -> Result<v1::RingConfiguration, ConfigureError> {
    v1::RingConfiguration::decode(bytes).map_err(|e| ConfigureError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use tercet_common::PartitionId;

    use super::*;

    fn configuration(members: &[&str]) -> v1::RingConfiguration {
        let member = |id: &&str| v1::RingMember { id: (*id).into(), virtual_nodes: 16, ..Default::default() };
        let members = members.iter().map(member).collect();
        v1::RingConfiguration { cluster_id: "c".into(), epoch: 1, replicas: 3, members, ..Default::default() }
    }

    fn partitions(configuration: &v1::RingConfiguration, me: &str) -> usize {
        let membership = membership(configuration, "c", &WorkerId::new(me).unwrap()).unwrap();
        PartitionId::all().filter(|p| membership.contains(*p)).count()
    }

    #[test]
    fn the_members_share_all_replicas_of_all_partitions() {
        let all = ["w1", "w2", "w3", "w4"];
        let configuration = configuration(&all);
        let sum: usize = all.iter().map(|me| partitions(&configuration, me)).sum();
        assert_eq!(sum, 3 * usize::from(tercet_common::PARTITIONS));
        assert_eq!(partitions(&configuration, "w5"), 0);
    }

    #[test]
    fn a_configuration_of_another_cluster_or_a_broken_one_is_refused() {
        let me = WorkerId::new("w1").unwrap();
        let error = membership(&configuration(&["w1"]), "d", &me).unwrap_err();
        assert_eq!(error.to_string(), "this worker belongs to cluster `d`, not to `c`");
        for broken in [
            configuration(&[]),
            configuration(&["w1", "w1"]),
            configuration(&["no spaces"]),
            v1::RingConfiguration { epoch: u64::MAX, ..configuration(&["w1"]) },
            v1::RingConfiguration { replicas: 0, ..configuration(&["w1"]) },
        ] {
            assert!(membership(&broken, "c", &me).is_err(), "{broken:?}");
        }
        assert!(decode(&[0xff; 5]).is_err());
    }
}
