//! Membership over real workers, whose disks are in memory and outlive them.

use std::collections::BTreeMap;

use tercet_worker::store::memory::MemoryDisk;
use tercet_worker::{Config as WorkerConfig, Worker as RealWorker};

use super::*;

/// Disks, and the workers over them that run.
struct Machines {
    disks: BTreeMap<&'static str, MemoryDisk>,
    running: BTreeMap<&'static str, RealWorker>,
    frontend: String,
}

impl Machines {
    fn new(ids: &[&'static str], frontend: SocketAddr) -> Self {
        let disks = ids.iter().map(|id| (*id, MemoryDisk::new(format!("disk-of-{id}")))).collect();
        Self { disks, running: BTreeMap::new(), frontend: frontend.to_string() }
    }

    async fn start(&mut self, worker: &'static str) {
        let config = WorkerConfig {
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_listen: None,
            frontends: vec![self.frontend.clone()],
            heartbeat_interval: Duration::from_millis(20),
            ..WorkerConfig::new(id(worker), "")
        };
        let store = Arc::new(self.disks[worker].store());
        self.running.insert(worker, RealWorker::start(config, store, None).await.unwrap());
    }

    async fn start_all(&mut self) {
        let ids: Vec<_> = self.disks.keys().copied().collect();
        for worker in ids {
            self.start(worker).await;
        }
    }

    async fn stop(&mut self, worker: &'static str) {
        self.running.remove(worker).unwrap().stop().await.unwrap();
    }

    async fn stop_all(mut self) {
        for worker in std::mem::take(&mut self.running).into_values() {
            worker.stop().await.unwrap();
        }
    }

    fn uuid(&self, worker: &str) -> String {
        self.running[worker].engine().identity().unwrap().worker_uuid
    }
}

/// Workers die soon, so that who comes back over other data need not wait long.
async fn quick_frontend(listed: &[&str], address: SocketAddr) -> MembershipHandle {
    let mut timing = timing();
    timing.heartbeat_timeout = Duration::from_millis(600);
    let mut config = config(listed);
    config.grpc_listen = address;
    start_with(&config, Incarnation(7), timing).await.unwrap()
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const THREE: [&str; 3] = ["w1", "w2", "w3"];

/// The configuration with one member more, no partition moved.
fn with_member(config: &RingConfig, worker: &str, uuid: String) -> RingConfig {
    let mut next = RingConfig { epoch: Epoch(config.epoch.0 + 1), ..config.clone() };
    next.members.push(Member { uuid, ..Member::named(id(worker), 128, "") });
    next
}

#[tokio::test]
async fn a_frontend_that_lost_its_state_finds_the_ring_with_the_workers() {
    let frontend = quick_frontend(&THREE, ANY_PORT).await;
    let address = frontend.local_addr();
    let mut machines = Machines::new(&["w1", "w2", "w3", "w4"], address);
    machines.start_all().await;
    let first = formed(&frontend).await;
    assert!(first.members.iter().all(|m| m.uuid == machines.uuid(m.id.as_str())));
    for worker in ["w1", "w2", "w3"] {
        stands(&frontend, worker, Standing::Member).await;
    }
    let next = with_member(&first, "w4", machines.uuid("w4"));
    within(frontend.membership().compare_and_swap(Epoch(1), next.clone())).await.unwrap();
    stands(&frontend, "w4", Standing::Member).await;
    frontend.shutdown().await;
    machines.stop("w3").await;

    let frontend = quick_frontend(&["w1"], address).await;
    assert_eq!(*formed(&frontend).await, next);
    for worker in ["w1", "w2", "w4"] {
        stands(&frontend, worker, Standing::Member).await;
    }
    frontend.shutdown().await;
    machines.stop_all().await;
}

#[tokio::test]
async fn a_restarted_worker_votes_again_and_a_wiped_one_does_not() {
    let frontend = quick_frontend(&THREE, ANY_PORT).await;
    let mut machines = Machines::new(&THREE, frontend.local_addr());
    machines.start_all().await;
    formed(&frontend).await;
    stands(&frontend, "w2", Standing::Member).await;
    machines.stop("w2").await;
    machines.start("w2").await;
    let second = |v: &MembersView| v.get(&id("w2")).unwrap().seen.clone().unwrap().identity.boot_generation == 2;
    sees(&frontend, second).await;
    stands(&frontend, "w2", Standing::Member).await;
    machines.stop("w2").await;
    machines.disks["w2"].wipe();
    machines.start("w2").await;
    stands(&frontend, "w2", Standing::Replaced).await;
    frontend.shutdown().await;
    machines.stop_all().await;
}

#[tokio::test]
async fn a_restored_disk_is_recognised_and_joins_under_a_new_identity() {
    let frontend = quick_frontend(&THREE, ANY_PORT).await;
    let mut machines = Machines::new(&THREE, frontend.local_addr());
    machines.start_all().await;
    let ring = formed(&frontend).await;
    stands(&frontend, "w3", Standing::Member).await;
    let backup = machines.disks["w3"].snapshot();
    let old = machines.uuid("w3");
    // Another start is enough to be ahead of the backup.
    for _ in 0..2 {
        machines.stop("w3").await;
        machines.start("w3").await;
        let generation = machines.running["w3"].engine().identity().unwrap().boot_generation;
        sees(&frontend, |v| {
            let w3 = v.get(&id("w3")).unwrap();
            let seen = w3.seen.as_ref().unwrap().identity.boot_generation;
            w3.standing == Standing::Member && seen == generation
        })
        .await;
    }
    machines.stop("w3").await;
    machines.disks["w3"].restore(&backup);
    machines.start("w3").await;
    stands(&frontend, "w3", Standing::Replaced).await;
    let new = machines.uuid("w3");
    assert_ne!(new, old);
    let next = with_member(&ring, "w3", new);
    let next = RingConfig { members: sorted(next.members.clone()), ..next };
    within(frontend.membership().compare_and_swap(Epoch(1), next)).await.unwrap();
    stands(&frontend, "w3", Standing::Member).await;
    frontend.shutdown().await;
    machines.stop_all().await;
}

fn sorted(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by(|a, b| (&a.id, &a.uuid).cmp(&(&b.id, &b.uuid)));
    members
}
