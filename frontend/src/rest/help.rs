//! What is not about keys: health, metrics, status, and pages that explain.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::App;
use super::kv::TEXT;
use super::problem::{Kind, Problem};
use crate::coordinator::status::ClusterStatus;

const INDEX: &str = "\
Tercet: a distributed, fault-tolerant key-value store. Redis clients: port 6379. This is the REST gateway.

  POST   /api/kv/{key}         store the body (PUT does the same; ?ttl=SECONDS lets it expire)
  GET    /api/kv/{key}         read
  DELETE /api/kv/{key}         delete
  GET    /api/kv/workers       active workers
  GET    /api/kv/worker/{id}   every pair that a worker holds (?limit=, ?cursor=, ?format=ndjson)

  GET    /healthz              this process lives
  GET    /readyz               every key can be read and written
  GET    /metrics              for Prometheus
  GET    /admin/status         the cluster as JSON
  POST   /admin/workers/{id}/drain   have a worker hand over what it holds (DELETE: let it stay)
  GET    /problems             the errors, explained

  curl -X POST http://127.0.0.1:8080/api/kv/greeting -d 'Hello Distributed World'
  curl http://127.0.0.1:8080/api/kv/greeting
";

fn text(text: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, TEXT)], text).into_response()
}

pub(super) async fn index() -> Response {
    text(INDEX)
}

pub(super) async fn problems() -> Response {
    let mut page = String::new();
    for kind in Kind::ALL {
        explain(kind, &mut page);
    }
    text(page)
}

/// The page that a problem document's `type` points to.
pub(super) async fn problem(Path(name): Path<String>) -> Result<Response, Problem> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.facts().name == name);
    let kind = kind.ok_or_else(|| Problem::new(Kind::UnknownPath, "`GET /problems` lists the problems"))?;
    let mut page = String::new();
    explain(kind, &mut page);
    Ok(text(page))
}

fn explain(kind: Kind, page: &mut String) {
    let facts = kind.facts();
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{} ({})\n{}\n{}\n", facts.name, facts.status, facts.title, facts.meaning);
}

pub(super) async fn healthz() -> Response {
    text("ok\n")
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Why not.
    reasons: Vec<String>,
}

pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let readiness = Readiness::of(&app.coordinator.status());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

impl Readiness {
    fn of(status: &ClusterStatus) -> Self {
        let partitions = status.partitions;
        let mut reasons = Vec::new();
        if !status.ready {
            if status.epoch == 0 {
                reasons.push("the cluster has not formed: workers have yet to register".to_owned());
            }
            if partitions.unavailable > 0 {
                reasons.push(format!(
                    "{} of {} partitions have no reachable quorum",
                    partitions.unavailable, partitions.total
                ));
            }
            if reasons.is_empty() {
                reasons.push("not every partition has a reachable quorum".to_owned());
            }
        }
        Self { ready: status.ready, reasons }
    }
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    const EXPOSITION: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let Some(prometheus) = &app.prometheus else {
        return Err(Problem::new(Kind::UnknownPath, "this process exports no metrics"));
    };
    app.process.collect();
    Ok(([(header::CONTENT_TYPE, EXPOSITION)], prometheus.render()).into_response())
}

pub(super) async fn admin_status(State(app): State<Arc<App>>) -> Response {
    Json(app.coordinator.status()).into_response()
}

pub(super) async fn unknown_path() -> Problem {
    Problem::new(Kind::UnknownPath, "`GET /` lists what there is")
}

/// The router adds `Allow`.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(Kind::MethodNotAllowed, "the `Allow` header lists the methods that this resource knows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::status::{HealingStatus, NextFailure, PartitionStatus, RingStatus};

    #[test]
    fn readiness_says_why_not() {
        let mut status = ClusterStatus {
            cluster_id: "t".to_owned(),
            ready: true,
            epoch: 1,
            incarnation: "1".to_owned(),
            uptime_seconds: 1,
            expired_keys: 0,
            replicas: 3,
            workers: Vec::new(),
            partitions: PartitionStatus { total: 1024, under_replicated: 9, ..PartitionStatus::default() },
            ring: RingStatus::default(),
            healing: HealingStatus::default(),
            next_failure: NextFailure::default(),
        };
        assert!(Readiness::of(&status).ready && Readiness::of(&status).reasons.is_empty());
        status.ready = false;
        assert_eq!(Readiness::of(&status).reasons.len(), 1);
        status.epoch = 0;
        status.partitions.unavailable = 7;
        let reasons = Readiness::of(&status).reasons;
        assert!(reasons[0].contains("not formed") && reasons[1].starts_with("7 of 1024"), "{reasons:?}");
    }
}
