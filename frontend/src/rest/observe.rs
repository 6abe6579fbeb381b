//! What is measured of a request. Labels are closed sets, so clients cannot make series.

use std::time::Instant;

use metrics::{Counter, Histogram};
use tercet_common::metrics::{COMMAND_SECONDS, COMMANDS};

pub(super) const PROTOCOL: &str = "rest";

/// The resources, as the label `command` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    KvPut,
    KvGet,
    KvDelete,
    Workers,
    Worker,
    Healthz,
    Readyz,
    Metrics,
    AdminStatus,
    AdminDrain,
    Help,
    /// No such path, or not with this method.
    Unknown,
}

impl Endpoint {
    const ALL: [(Self, &'static str); 12] = [
        (Self::KvPut, "kv_put"),
        (Self::KvGet, "kv_get"),
        (Self::KvDelete, "kv_delete"),
        (Self::Workers, "kv_workers"),
        (Self::Worker, "kv_worker"),
        (Self::Healthz, "healthz"),
        (Self::Readyz, "readyz"),
        (Self::Metrics, "metrics"),
        (Self::AdminStatus, "admin_status"),
        (Self::AdminDrain, "admin_drain"),
        (Self::Help, "help"),
        (Self::Unknown, "unknown"),
    ];

    /// Whether it answers without a password: the two that orchestrators ask.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Healthz | Self::Readyz)
    }
}

/// How a request ended, as the label `outcome` names it. A response carries it among its extensions; one
/// without is [`Outcome::Ok`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    NotFound,
    /// The client's mistake, or its precondition that did not hold.
    Refused,
    Unauthorized,
    Busy,
    NoQuorum,
    Unavailable,
    Uncertain,
    Loading,
    /// The client left before the answer.
    Cancelled,
}

impl Outcome {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Ok, "ok"),
        (Self::NotFound, "not_found"),
        (Self::Refused, "refused"),
        (Self::Unauthorized, "unauthorized"),
        (Self::Busy, "busy"),
        (Self::NoQuorum, "no_quorum"),
        (Self::Unavailable, "unavailable"),
        (Self::Uncertain, "uncertain"),
        (Self::Loading, "loading"),
        (Self::Cancelled, "cancelled"),
    ];
}

/// The handles of all endpoints, made once.
pub(super) struct RequestMetrics {
    endpoints: [EndpointMetrics; Endpoint::ALL.len()],
}

struct EndpointMetrics {
    seconds: Histogram,
    outcomes: [Counter; Outcome::ALL.len()],
}

impl RequestMetrics {
    pub(super) fn new() -> Self {
        let endpoints = Endpoint::ALL.map(|(_, command)| EndpointMetrics {
            seconds: COMMAND_SECONDS.histogram(&[PROTOCOL, command]),
            outcomes: Outcome::ALL.map(|(_, outcome)| COMMANDS.counter(&[PROTOCOL, command, outcome])),
        });
        Self { endpoints }
    }

    /// Starts the clock of one request.
    pub(super) fn start(&self, endpoint: Endpoint) -> Observation<'_> {
        let metrics = &self.endpoints[endpoint as usize];
        Observation { metrics, started: Instant::now(), outcome: Outcome::Cancelled }
    }
}

/// A request under way. Counts it when dropped, so that one whose client left is counted too.
pub(super) struct Observation<'a> {
    metrics: &'a EndpointMetrics,
    started: Instant,
    outcome: Outcome,
}

impl Observation<'_> {
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        self.metrics.outcomes[self.outcome as usize].increment(1);
        self.metrics.seconds.record(self.started.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_the_order_of_the_enums() {
        for (i, (endpoint, _)) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, i, "{endpoint:?}");
        }
        for (i, (outcome, _)) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, i, "{outcome:?}");
        }
    }
}
