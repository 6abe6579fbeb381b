//! `/metrics`, `/healthz` and `/readyz`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::debug;

/// Scrapers and probes; one more waits.
const CONNECTIONS_MAX: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages are made of. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pages {
    metrics: Option<PrometheusHandle>,
    process: Option<Arc<metrics_process::Collector>>,
    open: watch::Receiver<bool>,
}

impl Pages {
    pub(crate) fn new(metrics: Option<PrometheusHandle>, open: watch::Receiver<bool>) -> Self {
        let process = metrics.as_ref().map(|_| {
            let collector = metrics_process::Collector::default();
            collector.describe();
            Arc::new(collector)
        });
        Self { metrics, process, open }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if *self.open.borrow() => text(StatusCode::OK, "ready\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "the database is not open\n"),
            "/metrics" => match &self.metrics {
                Some(metrics) => {
                    if let Some(process) = &self.process {
                        process.collect();
                    }
                    text(StatusCode::OK, metrics.render())
                }
                None => text(StatusCode::NOT_FOUND, "metrics are not collected\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Serves until it is dropped; connections under way end with the runtime.
pub(crate) async fn serve(listener: TcpListener, pages: Pages) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                let response = pages.answer(request.method(), request.uri().path());
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                debug!(%error, "an http connection broke off");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_store_and_health_does_not() {
        let open = watch::Sender::new(false);
        let pages = Pages::new(None, open.subscribe());
        let status = |path| pages.answer(&Method::GET, path).status();
        assert_eq!(
            (status("/healthz"), status("/readyz")),
            (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE)
        );
        open.send_replace(true);
        assert_eq!(status("/readyz"), StatusCode::OK);
        assert_eq!((status("/metrics"), status("/")), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND));
        assert_eq!(pages.answer(&Method::POST, "/readyz").status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
