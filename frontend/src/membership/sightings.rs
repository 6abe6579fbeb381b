//! What a plan for ring changes is told of the workers: the registry's view, and since when each has been as it is. A plain
//! struct.

use std::collections::BTreeMap;
use std::time::Duration;

use tercet_common::WorkerId;
use tercet_common::detector::Verdict;
use tercet_common::ring_change::Sighting;

use super::members::{MembersView, Seen, Standing, WorkerView};
use crate::coordinator::status::Health;

/// See the module.
#[derive(Debug, Default)]
pub struct Sightings {
    /// Since when each worker has been alive over the same data.
    uptimes: BTreeMap<WorkerId, (String, Duration)>,
    /// Since when calls to a worker have not got through.
    unreachable: BTreeMap<WorkerId, Duration>,
}

impl Sightings {
    /// All who have registered. `is_connected`: whether the link to a member works; `None`, if there is no such link.
    pub fn look(
        &mut self,
        view: &MembersView,
        is_connected: impl Fn(&WorkerView, &Seen) -> Option<bool>,
        now: Duration,
    ) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        for worker in &view.workers {
            let Some(seen) = &worker.seen else { continue };
            let link = (worker.standing == Standing::Member).then(|| is_connected(worker, seen)).flatten();
            // A member has a link; of any other, that it has said what configuration it holds shows that calls get through.
            let reached = link.unwrap_or(worker.holds.is_some());
            sightings.push(self.sighting(worker, seen, reached, now));
        }
        self.uptimes.retain(|id, _| sightings.iter().any(|s| s.id == *id));
        self.unreachable.retain(|id, _| sightings.iter().any(|s| s.id == *id));
        sightings
    }

    fn sighting(&mut self, worker: &WorkerView, seen: &Seen, reached: bool, now: Duration) -> Sighting {
        let uuid = &seen.identity.uuid;
        let verdict = match worker.health {
            // Its data has lost something: it is to come back as somebody else.
            _ if worker.standing == Standing::Lost => Verdict::Suspect,
            Health::Alive => Verdict::Alive,
            Health::Suspect => Verdict::Suspect,
            Health::Dead => Verdict::Dead,
            Health::Unknown => Verdict::Unknown,
        };
        let up_since = self.uptimes.entry(worker.id.clone()).or_insert_with(|| (uuid.clone(), now));
        if verdict != Verdict::Alive || up_since.0 != *uuid {
            *up_since = (uuid.clone(), now);
        }
        if reached {
            self.unreachable.remove(&worker.id);
        }
        let unreachable = (!reached).then(|| *self.unreachable.entry(worker.id.clone()).or_insert(now));
        // Not zero while it lasts, also at the very first look.
        let lasts = |since| now.saturating_sub(since).max(Duration::from_millis(1));
        Sighting {
            id: worker.id.clone(),
            uuid: uuid.clone(),
            verdict,
            up_for: now.saturating_sub(up_since.1),
            unreachable_for: unreachable.map_or(Duration::ZERO, lasts),
            returns: worker.returns,
            virtual_nodes: seen.virtual_nodes,
            zone: seen.zone.clone(),
        }
    }
}
