//! The REST gateway: HTTP/1.1 over the coordinator.
//!
//! # The API
//!
//! The first five lines are those of an older service and stay to the letter, texts included.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST`, `PUT /api/kv/{key}` | stores the body's bytes: `Stored successfully. {Synchronous Replicas: [w1, …` |
//! | `GET /api/kv/{key}` | `Value: Hello (Source: w1)`, the value's bytes as they are; 404 |
//! | `DELETE /api/kv/{key}` | `Deleted successfully. {Synchronous …`; 404 |
//! | `GET /api/kv/workers` | `{"w1":{"address":"127.0.0.1","port":7380,"lastHeartbeat":1700000000000},…}` |
//! | `GET /api/kv/worker/{id}` | `{"key":"value",…}`: what the worker itself holds, streamed (`listing`) |
//! | `GET /healthz`, `/readyz` | the process lives; every partition has a quorum (503 with reasons otherwise) |
//! | `GET /metrics`, `/admin/status` | for Prometheus; the cluster as JSON |
//! | `POST`, `DELETE /admin/workers/{id}/drain` | has a worker hand over what it holds; lets it stay after all |
//! | `GET /`, `/problems`, `/problems/{name}` | what there is; the errors, explained |
//!
//! **Keys** are the path behind `/api/kv/`, percent-decoded once to bytes (`path`); slashes belong to the
//! key, `+` is a plus sign. The target of a request is at most 65,534 bytes long, so longer keys (up to 64
//! KiB) need RESP. For `GET` alone `workers` and `worker/{id}` are taken. Keys of those names can be stored
//! and deleted, and read where nothing on the way rewrites escapes: `/api/kv/%77orkers`,
//! `/api/kv/worker%2Fw1`.
//!
//! **Versions.** Answers about a key carry its `ETag` and, in `X-Tercet-Clock`, its vector clock as
//! `incarnation:counter,…`. `If-None-Match` gives 304 on `GET`; `If-Match` and `If-None-Match` on writes are
//! judged in the coordinator against the version to be replaced, and give 412 (`condition`). `?ttl=SECONDS`
//! on a write lets the value expire; `GET` then shows `X-Tercet-TTL` (seconds left) and
//! `X-Tercet-Expires-At-Ms`.
//!
//! **Errors** are problem documents of RFC 9457 (`problem`). A read that failed is 503, never 404; a write of
//! unknown outcome is 504. **Access** is by Bearer password (`access`); without one, browsers are kept from
//! writing for pages of other sites.
//!
//! # The way of a request
//!
//! ```text
//! server (connections, limits) ─▶ socket ─▶ hyper ─▶ router ─▶ gate (measure, admit) ─▶ handler ─▶ coordinator
//! ```

mod access;
mod body;
mod condition;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod help;
mod kv;
mod listing;
mod observe;
mod path;
mod problem;
mod server;
mod socket;
mod workers;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use http::{HeaderValue, header};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::access::Access;
use self::body::Budget;
use self::observe::{Endpoint, Outcome, RequestMetrics};
pub use self::server::serve;
use crate::Config;
use crate::coordinator::{Coordinator, OpError};

/// How much longer than the coordinator a request waits, so that the coordinator's own, better informed
/// answer at its deadline is the one that clients see.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// What handlers share.
struct App {
    coordinator: Coordinator,
    prometheus: Option<PrometheusHandle>,
    process: metrics_process::Collector,
    access: Access,
    requests: RequestMetrics,
    /// Memory for bodies.
    budget: Budget,
    /// Listings that may start.
    listings: Arc<Semaphore>,
    /// What a body may take on top of its size.
    body_time: Duration,
    /// What the coordinator may take.
    answer_time: Duration,
}

impl App {
    fn new(
        config: &Config,
        listener: Option<IpAddr>,
        coordinator: Coordinator,
        prometheus: Option<PrometheusHandle>,
    ) -> Self {
        let process = metrics_process::Collector::default();
        process.describe();
        Self {
            coordinator,
            prometheus,
            process,
            access: Access::new(config, listener),
            requests: RequestMetrics::new(),
            budget: Budget::new(config.operation_bytes_max),
            listings: Arc::new(Semaphore::new(listing::LISTINGS_MAX)),
            body_time: config.request_timeout,
            answer_time: config.request_timeout.saturating_add(ANSWER_MARGIN),
        }
    }

    /// Waits for the coordinator, which has its own deadline and should never be later than this.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, OpError>>,
        late: OpError,
    ) -> Result<T, OpError> {
        timeout(self.answer_time, answer).await.unwrap_or(Err(late))
    }
}

fn router(app: Arc<App>) -> Router {
    use Endpoint as E;
    let gated = |endpoint| from_fn_with_state((app.clone(), endpoint), gate);
    let write = || post(kv::write).put(kv::write).route_layer(gated(E::KvPut));
    let remove = || delete(kv::delete).route_layer(gated(E::KvDelete));
    // The methods of a key, with one of its own for GET.
    let key = |read: axum::routing::MethodRouter<Arc<App>>| read.merge(write()).merge(remove());
    Router::new()
        .route("/api/kv/workers", key(get(workers::list).route_layer(gated(E::Workers))))
        .route("/api/kv/worker/{id}", key(get(listing::list).route_layer(gated(E::Worker))))
        .route("/api/kv/{*key}", key(get(kv::read).route_layer(gated(E::KvGet))))
        .route("/healthz", get(help::healthz).route_layer(gated(E::Healthz)))
        .route("/readyz", get(help::readyz).route_layer(gated(E::Readyz)))
        .route("/metrics", get(help::metrics).route_layer(gated(E::Metrics)))
        .route("/admin/status", get(help::admin_status).route_layer(gated(E::AdminStatus)))
        .route(
            "/admin/workers/{id}/drain",
            post(workers::drain).delete(workers::stay).route_layer(gated(E::AdminDrain)),
        )
        .route("/", get(help::index).route_layer(gated(E::Help)))
        .route("/problems", get(help::problems).route_layer(gated(E::Help)))
        .route("/problems/{name}", get(help::problem).route_layer(gated(E::Help)))
        .fallback(help::unknown_path.layer(gated(E::Unknown)))
        .method_not_allowed_fallback(help::method_not_allowed.layer(gated(E::Unknown)))
        .with_state(app)
}

/// The one place that every request goes through: it is measured, and admitted or not.
async fn gate(State((app, endpoint)): State<(Arc<App>, Endpoint)>, request: Request, next: Next) -> Response {
    let observation = app.requests.start(endpoint);
    let admitted = match endpoint.is_open() {
        true => Ok(()),
        false => app.access.admit(request.method(), request.headers()),
    };
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    // Values are whatever clients stored: no browser shall guess that one is a page.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    observation.finish(response.extensions().get::<Outcome>().copied().unwrap_or(Outcome::Ok));
    response
}
