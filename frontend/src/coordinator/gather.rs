//! Gathers what the status shows: from membership, links, cores and healing.

use tercet_common::breaker::BreakerState;
use tercet_common::{PARTITIONS, PartitionId, RingConfig};

use super::cluster::{Cluster, Formed};
use super::core::{Group, WorkerIx};
use super::roster::RingState;
use super::status::{Breaker, ClusterStatus, NextFailure, PartitionStatus, Role, WorkerStatus};
use crate::membership::{Standing, WorkerView};

pub(super) fn status(cluster: &Cluster) -> ClusterStatus {
    let formed = cluster.formed();
    let ring = formed.map(Formed::ring);
    let mut workers: Vec<WorkerStatus> =
        cluster.membership.members_now().workers.into_iter().map(worker).collect();
    let mut survey = Survey::default();
    if let (Some(formed), Some(ring)) = (formed, &ring) {
        survey = Survey::of(formed, ring);
        let ownership = ring.config.ownership();
        for worker in &mut workers {
            let Some(member) = ring.config.index_of(&worker.id) else { continue };
            if let Some(link) = formed.link(ring, member) {
                worker.breaker = match link.breaker_state() {
                    _ if !link.is_connected() => Breaker::Disconnected,
                    BreakerState::Closed => Breaker::Closed,
                    BreakerState::Open => Breaker::Open,
                    BreakerState::HalfOpen => Breaker::HalfOpen,
                };
            }
            if worker.role == Role::Member && ring.config.members[member].leaving {
                worker.role = Role::Leaving;
            }
            worker.partitions = ownership[member].replicas;
            worker.primary_partitions = ownership[member].primaries;
        }
    }
    let config = ring.as_ref().map(|ring| &ring.config);
    let (ring_status, healing) = cluster.healing.status();
    ClusterStatus {
        cluster_id: cluster.config.cluster_id.clone(),
        ready: formed.is_some() && survey.partitions.unavailable == 0,
        epoch: config.map_or(0, |config| config.epoch.0),
        incarnation: format!("{:016x}", cluster.me.0),
        uptime_seconds: cluster.origin.elapsed().as_secs(),
        expired_keys: cluster.expired_keys(),
        replicas: config.map_or(tercet_common::ring::REPLICAS, |config| config.replicas),
        workers,
        partitions: survey.partitions,
        ring: ring_status,
        healing,
        next_failure: survey.next_failure,
    }
}

/// What of the partitions is in reach.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) partitions: PartitionStatus,
    pub(super) next_failure: NextFailure,
}

impl Survey {
    pub(super) fn of(formed: &Formed, ring: &RingState) -> Self {
        let up = formed.up(ring);
        let mut survey = Self::count(&ring.config, &up);
        survey.partitions.owned = formed.owned();
        survey
    }

    /// `up`: which members can be asked.
    fn count(config: &RingConfig, up: &[bool]) -> Self {
        let mut status = PartitionStatus { total: usize::from(PARTITIONS), ..PartitionStatus::default() };
        let mut lost = vec![0; config.members.len()];
        let reaches = |ix: &u16| up[usize::from(*ix)];
        for id in PartitionId::all() {
            let row = config.assignment(id);
            let group = Group { epoch: row.epoch, replicas: row.replicas.clone(), next: row.next.clone() };
            status.moving += usize::from(row.is_joint());
            let copies = row.replicas.iter().filter(|ix| reaches(ix)).count();
            status.under_replicated += usize::from(copies < config.replicas.min(config.members.len()));
            if !group.is_quorum(|ix| reaches(&ix)) {
                status.unavailable += 1;
                continue;
            }
            for ix in group.everyone().iter().filter(|ix| reaches(ix)) {
                let without = |other: WorkerIx| other != *ix && reaches(&other);
                lost[usize::from(*ix)] += usize::from(!group.is_quorum(without));
            }
        }
        let worst = (0..lost.len()).max_by_key(|ix| (lost[*ix], std::cmp::Reverse(*ix)));
        let next_failure = match worst.filter(|ix| lost[*ix] > 0) {
            Some(ix) => NextFailure { worker: Some(config.members[ix].id.clone()), partitions: lost[ix] },
            None => NextFailure::default(),
        };
        Self { partitions: status, next_failure }
    }
}

/// What membership knows of a worker; placement and breaker are filled in by those who know them.
fn worker(worker: WorkerView) -> WorkerStatus {
    let seen = worker.seen.as_ref();
    WorkerStatus {
        address: seen.map(|s| s.address.clone()),
        zone: seen.map(|s| s.zone.clone()).unwrap_or_default(),
        health: worker.health,
        breaker: Breaker::Disconnected,
        heartbeat_age_ms: seen.map(|s| s.age.as_millis() as u64),
        last_heartbeat_ms: seen.map(|s| s.last_beat.0),
        database_commits: seen.map(|s| s.report.database_commits),
        commit_micros: seen.map(|s| s.report.commit_micros),
        write_backlog: seen.map(|s| s.report.write_backlog),
        disk_free_bytes: seen.filter(|s| s.report.disk_total_bytes > 0).map(|s| s.report.disk_free_bytes),
        keys: seen.map(|s| s.report.keys),
        version: seen.map(|s| s.version.clone()),
        role: role(worker.standing),
        partitions: 0,
        primary_partitions: 0,
        id: worker.id,
    }
}

fn role(standing: Standing) -> Role {
    match standing {
        Standing::Spare => Role::Spare,
        Standing::Joining => Role::Joining,
        Standing::Member => Role::Member,
        Standing::Replaced | Standing::Lost => Role::Replaced,
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Epoch, WorkerId};

    use super::*;

    fn config() -> RingConfig {
        let member =
            |n: usize| tercet_common::Member::named(WorkerId::new(&format!("w{n}")).unwrap(), 32, "");
        RingConfig::new("c", Epoch(1), 3, (1..=4).map(member).collect()).unwrap()
    }

    #[test]
    fn the_cost_of_the_next_failure_is_told() {
        let config = config();
        let well = Survey::count(&config, &[true; 4]);
        assert_eq!((well.partitions.under_replicated, well.next_failure), (0, NextFailure::default()));

        let one_gone = Survey::count(&config, &[true, true, true, false]);
        let of_w4 = config.ownership()[3].replicas;
        assert_eq!((one_gone.partitions.under_replicated, one_gone.partitions.unavailable), (of_w4, 0));
        assert!(one_gone.next_failure.worker.is_some() && one_gone.next_failure.partitions > 0);

        let two_gone = Survey::count(&config, &[true, true, false, false]);
        assert!(two_gone.partitions.unavailable > 0);
    }

    #[test]
    fn a_joint_partition_needs_both_of_its_sets() {
        let mut config = config();
        config.partitions[0].replicas = [0, 1, 2].into_iter().collect();
        config.partitions[0].next = Some([0, 1, 3].into_iter().collect());
        let survey = Survey::count(&config, &[true, true, false, false]);
        let alone = |up: &[bool]| {
            let mut config = config.clone();
            config.partitions.iter_mut().skip(1).for_each(|row| row.replicas = [0].into_iter().collect());
            Survey::count(&config, up).partitions.unavailable
        };
        assert_eq!(survey.partitions.moving, 1);
        assert_eq!(alone(&[true, true, false, false]), 0);
        assert_eq!(alone(&[true, false, true, false]), 1, "one of the new set is not enough");
    }
}
