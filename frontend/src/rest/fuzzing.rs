//! The gateway without sockets, for the fuzz target `rest` alone.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::Config;
use crate::coordinator::Coordinator;

/// Routes, decodes and answers requests as the server does once hyper has parsed them.
#[derive(Clone)]
pub struct Gateway(Router);

impl Gateway {
    pub fn new(config: &Config, coordinator: Coordinator) -> Self {
        Self(super::router(Arc::new(super::App::new(config, None, coordinator, None))))
    }

    /// The whole answer; a body that breaks off is an error.
    pub async fn answer(&self, request: Request<Body>) -> Result<Response<Bytes>, axum::Error> {
        let Ok(response) = self.0.clone().oneshot(request).await;
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}
