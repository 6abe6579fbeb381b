//! The listener: connections in, each with its limits, until shutdown.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::Gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tercet_common::metrics::{CLIENTS, CLIENTS_ACCEPTED, CLIENTS_REFUSED};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::observe::PROTOCOL;
use super::socket::{ClientSocket, SocketMetrics};
use super::{App, router};
use crate::Config;
use crate::coordinator::Coordinator;

/// Request line and headers together. The target alone is at most 65,534 bytes (414 above).
const HEADER_BYTES_MAX: usize = 96 * 1024;
const HEADERS_MAX: usize = 100;
/// hyper's buffer per connection; must hold a whole head.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// A request's head must arrive within this, counted from the end of the answer before: it ends idle
/// connections too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A pause after `accept` failed, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client beyond `clients_max` reads before it is closed.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 102\r\n\r\n\
{\"type\":\"/problems/busy\",\"status\":503,\"title\":\"Too much is in flight\",\"detail\":\"too many connections\"}";

/// Serves REST on `listener` until `shutdown`; returns when the open requests have ended, or after the time
/// that a request may take. `prometheus` is what `/metrics` renders (404 without). Install the metrics
/// recorder before.
///
/// Dropping the future stops accepting; connections that are open go on until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    config: Arc<Config>,
    coordinator: Coordinator,
    prometheus: Option<PrometheusHandle>,
    shutdown: CancellationToken,
) {
    let address = listener.local_addr();
    let app = Arc::new(App::new(&config, address.ok().map(|a| a.ip()), coordinator, prometheus));
    let grace = app.answer_time + app.body_time;
    let server = Arc::new(Server {
        router: router(app),
        sockets: SocketMetrics::new(),
        clients: CLIENTS.gauge(&[PROTOCOL]),
        shutdown: shutdown.clone(),
        abandon: CancellationToken::new(),
    });
    let accepted = CLIENTS_ACCEPTED.counter(&[PROTOCOL]);
    let refused = CLIENTS_REFUSED.counter(&["limit"]);
    let slots = Arc::new(Semaphore::new(config.clients_max.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            stream = listener.accept() => stream,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) if concerns_one_client(&error) => continue,
            Err(error) => {
                tracing::error!(%error, "cannot accept REST clients");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        accepted.increment(1);
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            refused.increment(1);
            // As far as the socket's empty buffer takes it; a full server does not wait for clients.
            let _ = stream.try_write(FULL);
            continue;
        };
        let server = server.clone();
        connections.spawn(async move {
            server.connection(stream).await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    if timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "REST connections are cut at shutdown");
        server.abandon.cancel();
        connections.wait().await;
    }
}

/// Whether `accept` failed for the client's sake, not for the listener's.
fn concerns_one_client(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::ConnectionAborted | E::ConnectionReset | E::ConnectionRefused | E::Interrupted)
}

/// What all connections share.
struct Server {
    router: Router,
    sockets: SocketMetrics,
    clients: Gauge,
    /// Ends connections between requests.
    shutdown: CancellationToken,
    /// Ends them at once.
    abandon: CancellationToken,
}

impl Server {
    async fn connection(&self, stream: TcpStream) {
        let _open = OpenGauge::new(&self.clients);
        // Small answers must not wait for the client's acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let io = TokioIo::new(ClientSocket::new(stream, self.sockets.clone()));
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            self.router.clone().oneshot(request.map(Body::new))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEADER_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    () = self.abandon.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            // Clients come and go as they like.
            tracing::debug!(%error, "REST connection ended");
        }
    }
}

/// Counts a connection for as long as it lives.
struct OpenGauge<'a>(&'a Gauge);

impl<'a> OpenGauge<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for OpenGauge<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_full_server_is_well_formed() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 503);
    }
}
