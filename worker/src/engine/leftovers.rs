//! Rows of partitions that the worker no longer holds.
//!
//! After a ring change they are of no use where they were, but for one case: the worker comes back soon, as one that was
//! only restarted does, and then need not be sent again what it has. So they are hidden at once, and deleted once the
//! configuration has been at rest for a while.

use std::time::{Duration, Instant};

use tercet_common::{Epoch, PartitionId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Engine;
use crate::replica::{Membership, Role};

/// How long a configuration has to be at rest.
const REST: Duration = Duration::from_secs(60);
/// Rows of one statement, and the pause behind it as a multiple of its duration: clients come first.
const ROWS_MAX: usize = 1_000;
const PAUSE_FACTOR: u32 = 4;

/// The partitions of which nothing should be here. None while a partition changes hands, or before there is a ring; nor
/// while the ring knows the worker by other data: a ring change has not copied yet what is here.
fn partitions(membership: &Membership) -> Vec<PartitionId> {
    let places = || PartitionId::all().filter_map(|id| Some((id, membership.place(id)?)));
    if membership.is_displaced() || places().any(|(_, place)| place.joint) {
        return Vec::new();
    }
    places().filter(|(_, place)| place.role == Role::Stranger).map(|(id, _)| id).collect()
}

impl Engine {
    /// Deletes leftovers until `stop`.
    pub(super) async fn drop_leftovers_until(&self, stop: &CancellationToken) {
        let (mut seen, mut dropped) = (None, None);
        while stop.run_until_cancelled(tokio::time::sleep(REST)).await.is_some() {
            let number = self.with(|replica| replica.membership().number());
            let at_rest = std::mem::replace(&mut seen, number) == number;
            let Some(now) = number.filter(|_| at_rest && dropped != number) else { continue };
            match stop.run_until_cancelled(self.drop_leftovers(now)).await {
                Some(true) => dropped = number,
                Some(false) => {}
                None => return,
            }
        }
    }

    /// `true`: none are left of those that this configuration leaves.
    async fn drop_leftovers(&self, number: Epoch) -> bool {
        let mut rows = 0;
        loop {
            let began = Instant::now();
            match self.drop_some_leftovers(number).await {
                Some(0) => break,
                Some(more) => rows += more,
                None => return false,
            }
            tokio::time::sleep(began.elapsed() * PAUSE_FACTOR).await;
        }
        if rows > 0 {
            info!(rows, "rows of partitions that this worker no longer holds are deleted");
        }
        true
    }

    /// How many rows were deleted; `None`: it cannot be done now, or the configuration is another one.
    async fn drop_some_leftovers(&self, number: Epoch) -> Option<u64> {
        // No other configuration may come in between, and give back what is being deleted.
        let _register = self.register.lock().await;
        let is_current = |membership: &Membership| membership.number() == Some(number);
        let partitions =
            self.with(|replica| is_current(replica.membership()).then(|| partitions(replica.membership())))?;
        if partitions.is_empty() {
            return Some(0);
        }
        let _gate = self.pass().ok()?;
        let outcome = self.store.drop_leftovers(partitions.clone(), ROWS_MAX).await;
        // Also after an error: a part of it may have been done.
        self.with(|replica| replica.dropped(&partitions));
        match outcome {
            Ok(rows) => Some(rows),
            Err(error) => {
                debug!(%error, "leftovers could not be deleted; will try again");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Member, REPLICAS, RingConfig, WorkerId};

    use super::*;

    #[test]
    fn leftovers_are_what_the_worker_is_no_replica_of_in_a_ring_at_rest() {
        let id = |name: &str| WorkerId::new(name).unwrap();
        let members = ["w1", "w2", "w3", "w4"].map(|name| Member::named(id(name), 16, ""));
        let mut config = RingConfig::new("c", Epoch(1), REPLICAS, members.to_vec()).unwrap();
        let of = |config: &RingConfig| partitions(&Membership::from_config(config, &id("w1"), ""));
        let left = of(&config);
        assert!(!left.is_empty());
        assert!(left.iter().all(|p| !config.assignment(*p).replicas.contains(&0)));
        assert_eq!(partitions(&Membership::default()), [], "before there is a ring");
        let mut renewed = config.clone();
        renewed.members[0].uuid = "what the ring knows it by".to_owned();
        let other = Membership::from_config(&renewed, &id("w1"), "drawn anew");
        assert_eq!(partitions(&other), [], "nobody has copied it yet");
        config.partitions[0].next = Some([1, 2, 3].into_iter().collect());
        assert_eq!(of(&config), [], "while a partition changes hands");
    }
}
