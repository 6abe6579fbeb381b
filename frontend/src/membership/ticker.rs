//! Looks at the verdicts from time to time: logs what changed, tells watchers, sets the gauges.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::Gauge;
use tercet_common::detector::{Transition, Verdict};
use tercet_common::{WorkerId, metrics as m};
use tokio::time::MissedTickBehavior;

use super::members::MembersView;
use super::shared::Shared;
use crate::coordinator::status::Health;

/// Runs until the frontend stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut gauges = Gauges::default();
    let mut tick = tokio::time::interval(shared.timing.tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        let changes = shared.change_unseen(|members, now| members.changes(now));
        changes.iter().for_each(log);
        if !changes.is_empty() {
            shared.publish();
        }
        gauges.set(&shared.read(|members, now| members.view(now)));
    }
}

fn log(change: &Transition) {
    let Transition { worker, from, to } = change;
    match to {
        Verdict::Dead => tracing::warn!(%worker, ?from, "worker is dead: no heartbeat with a commit in time"),
        Verdict::Suspect => tracing::info!(%worker, ?from, "worker is suspect"),
        Verdict::Alive => tracing::info!(%worker, ?from, "worker is alive"),
        Verdict::Unknown => {}
    }
}

/// Handles by worker; workers are bounded by [`super::members::WORKERS_MAX`].
#[derive(Default)]
struct Gauges(HashMap<WorkerId, (Gauge, Gauge)>);

impl Gauges {
    fn set(&mut self, view: &MembersView) {
        for worker in &view.workers {
            if !self.0.contains_key(&worker.id) {
                let label = &[worker.id.as_str()];
                let handles = (m::WORKER_HEALTH.gauge(label), m::WORKER_HEARTBEAT_AGE.gauge(label));
                self.0.insert(worker.id.clone(), handles);
            }
            let (health, age) = &self.0[&worker.id];
            health.set(health_number(worker.health));
            if let Some(seen) = &worker.seen {
                age.set(seen.age.as_secs_f64());
            }
        }
    }
}

/// As the metric's help says.
fn health_number(health: Health) -> f64 {
    match health {
        Health::Alive => 3.0,
        Health::Suspect => 2.0,
        Health::Dead => 1.0,
        Health::Unknown => 0.0,
    }
}
