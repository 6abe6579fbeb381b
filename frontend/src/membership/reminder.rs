//! Passes on what heartbeats say: every member is told how far the others have come, for them to be held to it after a
//! crash (see [`super::witnesses`]). One call per member and interval, and only with what changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tercet_common::WorkerId;
use tercet_common::sync::Witness;
use tokio::time::MissedTickBehavior;

use super::members::{Registered, Standing};
use super::shared::Shared;

/// What a member was told, in this start of it.
struct Told {
    boot_generation: u64,
    uuid: String,
    witnesses: BTreeMap<WorkerId, Witness>,
}

/// Runs until the frontend stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut told: HashMap<WorkerId, Told> = HashMap::new();
    let mut ticks = tokio::time::interval(shared.timing.remind_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        tokio::select! {
            () = remind(&shared, &mut told) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Every call ends within its own deadline.
async fn remind(shared: &Shared, told: &mut HashMap<WorkerId, Told>) {
    let mut members = shared.read(|members, _| members.registered());
    // Of those only who may vote has said what it must be held to.
    members.retain(|worker| worker.standing == Standing::Member);
    told.retain(|id, _| members.iter().any(|member| member.witness.worker == *id));
    let mut calls = FuturesUnordered::new();
    for Registered { witness: to, address, .. } in &members {
        let known = told.get(&to.worker);
        let known = known.filter(|t| t.uuid == to.uuid && t.boot_generation == to.boot_generation);
        let others = members.iter().map(|member| &member.witness).filter(|other| other.worker != to.worker);
        let is_news = |other: &&Witness| known.is_none_or(|t| t.witnesses.get(&other.worker) != Some(*other));
        let news: Vec<Witness> = others.filter(is_news).cloned().collect();
        if !news.is_empty() {
            calls.push(async move { (to, news.clone(), shared.peers.remember(address, news).await) });
        }
    }
    while let Some((to, news, outcome)) = calls.next().await {
        if let Err(error) = outcome {
            tracing::debug!(worker = %to.worker, %error, "worker was not told of the others");
            continue;
        }
        let fresh = || Told { boot_generation: 0, uuid: String::new(), witnesses: BTreeMap::new() };
        let entry = told.entry(to.worker.clone()).or_insert_with(fresh);
        if entry.uuid != to.uuid || entry.boot_generation != to.boot_generation {
            *entry = fresh();
            (entry.uuid, entry.boot_generation) = (to.uuid.clone(), to.boot_generation);
        }
        entry.witnesses.extend(news.into_iter().map(|witness| (witness.worker.clone(), witness)));
    }
}
