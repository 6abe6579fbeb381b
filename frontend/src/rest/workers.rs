//! The workers: `/api/kv/workers` lists the active ones, `/admin/workers/{id}/drain` empties one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::ser::{Serialize, Serializer};

use super::App;
use super::kv::TEXT;
use super::problem::Problem;
use crate::coordinator::status::{ClusterStatus, Health, WorkerStatus};

pub(super) async fn list(State(app): State<Arc<App>>) -> Response {
    Json(Active(app.coordinator.status())).into_response()
}

/// Has a worker hand over all that it holds.
pub(super) async fn drain(state: State<Arc<App>>, id: Path<String>) -> Result<Response, Problem> {
    let text = "It hands over what it holds; GET /admin/status shows how far it is.\n";
    mark(state, id, true).await.map(|()| answer(text))
}

/// Lets it stay after all.
pub(super) async fn stay(state: State<Arc<App>>, id: Path<String>) -> Result<Response, Problem> {
    mark(state, id, false).await.map(|()| answer("It stays, and gets its share of the ring again.\n"))
}

fn answer(text: &'static str) -> Response {
    (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, TEXT)], text).into_response()
}

async fn mark(State(app): State<Arc<App>>, Path(id): Path<String>, leaving: bool) -> Result<(), Problem> {
    Ok(app.coordinator.drain(&id, leaving).await?)
}

/// An object from worker id to [`Entry`], in the order of the status.
struct Active(ClusterStatus);

/// One worker, with the names that the original API has.
#[derive(serde::Serialize)]
struct Entry<'a> {
    address: &'a str,
    port: Option<u16>,
    #[serde(rename = "lastHeartbeat")]
    last_heartbeat: Option<i64>,
}

impl Serialize for Active {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.workers.iter().filter_map(entry))
    }
}

fn entry(worker: &WorkerStatus) -> Option<(&str, Entry<'_>)> {
    let active = match worker.health {
        Health::Alive | Health::Suspect => true,
        Health::Dead | Health::Unknown => false,
    };
    let address = worker.address.as_deref().filter(|_| active)?;
    let (address, port) = host_and_port(address);
    Some((worker.id.as_str(), Entry { address, port, last_heartbeat: worker.last_heartbeat_ms }))
}

/// Takes `host:port` apart, with or without scheme, the host possibly an IPv6 address in brackets.
fn host_and_port(address: &str) -> (&str, Option<u16>) {
    let authority = address.split_once("://").map_or(address, |(_, rest)| rest);
    match authority.rsplit_once(':').map(|(host, port)| (host, port.parse().ok())) {
        Some((host, port @ Some(_))) => (host.trim_start_matches('[').trim_end_matches(']'), port),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(host_and_port("127.0.0.1:7380"), ("127.0.0.1", Some(7380)));
        assert_eq!(host_and_port("http://w1:7380"), ("w1", Some(7380)));
        assert_eq!(host_and_port("[::1]:7380"), ("::1", Some(7380)));
        assert_eq!(host_and_port("w1"), ("w1", None));
    }
}
