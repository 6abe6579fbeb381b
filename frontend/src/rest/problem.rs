//! Errors as RFC 9457 problem documents: one table of kinds, one mapping from the coordinator's errors.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, Uri, header};
use problem_details::ProblemDetails;

use super::observe::Outcome;
use crate::coordinator::{DrainError, OpError, WorkerReadError};

/// What a client may wait before it tries again after a refusal for load, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A problem's `type`, and all that follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    BadRequest,
    Unauthorized,
    ProtectedMode,
    CrossSite,
    KeyNotFound,
    WorkerNotFound,
    UnknownPath,
    MethodNotAllowed,
    BodyTimeout,
    PreconditionFailed,
    ValueTooLarge,
    KeyTooLong,
    TooManyListings,
    Unsupported,
    NoQuorum,
    ReadUnavailable,
    Loading,
    Busy,
    WorkerFailed,
    Uncertain,
}

/// What is known of a kind.
pub(super) struct Facts {
    pub(super) status: StatusCode,
    /// The last segment of the `type`, which `GET /problems/{name}` explains.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// For a person: what it means and what to do.
    pub(super) meaning: &'static str,
    pub(super) outcome: Outcome,
}

impl Kind {
    pub(super) const ALL: [Self; 20] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::ProtectedMode,
        Self::CrossSite,
        Self::KeyNotFound,
        Self::WorkerNotFound,
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::PreconditionFailed,
        Self::ValueTooLarge,
        Self::KeyTooLong,
        Self::TooManyListings,
        Self::Unsupported,
        Self::NoQuorum,
        Self::ReadUnavailable,
        Self::Loading,
        Self::Busy,
        Self::WorkerFailed,
        Self::Uncertain,
    ];

    pub(super) fn facts(self) -> Facts {
        use StatusCode as S;
        let (status, name, title, outcome, meaning) = match self {
            Self::BadRequest => (
                S::BAD_REQUEST,
                "bad-request",
                "The request is malformed",
                Outcome::Refused,
                "The detail names what could not be understood. Nothing was done.",
            ),
            Self::Unauthorized => (
                S::UNAUTHORIZED,
                "unauthorized",
                "A password is needed",
                Outcome::Unauthorized,
                "Send `Authorization: Bearer <password>` with the cluster's password.",
            ),
            Self::ProtectedMode => (
                S::FORBIDDEN,
                "protected-mode",
                "Protected mode refuses clients",
                Outcome::Unauthorized,
                "This server listens on an address that is not loopback, and has no password. Set a password \
                 (TERCET_PASSWORD or `password` in the configuration file), listen on 127.0.0.1, or, on a \
                 network that is private beyond doubt, turn `protected_mode` off.",
            ),
            Self::CrossSite => (
                S::FORBIDDEN,
                "cross-site",
                "A browser sent this on behalf of another site",
                Outcome::Unauthorized,
                "Without a password, writes that a web page of another site makes a browser send are refused, \
                 and so is every request for a foreign host name at a loopback address (DNS rebinding). Set a \
                 password to serve browsers, or name the server by its address or as localhost.",
            ),
            Self::KeyNotFound => (
                S::NOT_FOUND,
                "key-not-found",
                "There is no such key",
                Outcome::NotFound,
                "A quorum of the key's replicas agrees that it has no value. Never sent for a failed read.",
            ),
            Self::WorkerNotFound => (
                S::NOT_FOUND,
                "worker-not-found",
                "There is no such worker, or it is offline",
                Outcome::NotFound,
                "`GET /api/kv/workers` lists the active workers.",
            ),
            Self::UnknownPath => (
                S::NOT_FOUND,
                "unknown-path",
                "There is nothing at this path",
                Outcome::Refused,
                "`GET /` lists what there is.",
            ),
            Self::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This resource does not know the method",
                Outcome::Refused,
                "The `Allow` header lists the methods that it knows.",
            ),
            Self::BodyTimeout => (
                S::REQUEST_TIMEOUT,
                "body-timeout",
                "The body arrived too slowly",
                Outcome::Refused,
                "The value was not received in time. Nothing was stored.",
            ),
            Self::PreconditionFailed => (
                S::PRECONDITION_FAILED,
                "precondition-failed",
                "The key's version is not the one named",
                Outcome::Refused,
                "`If-Match` or `If-None-Match` did not hold when the change was to be applied. Nothing was \
                 done. Read the key again, and decide anew.",
            ),
            Self::ValueTooLarge => (
                S::PAYLOAD_TOO_LARGE,
                "value-too-large",
                "The value is too large",
                Outcome::Refused,
                "The value is larger than the setting `value_bytes_max`. Nothing was stored.",
            ),
            Self::KeyTooLong => (
                S::URI_TOO_LONG,
                "key-too-long",
                "The key is too long",
                Outcome::Refused,
                "Keys are at most 64 KiB long.",
            ),
            Self::TooManyListings => (
                S::TOO_MANY_REQUESTS,
                "too-many-listings",
                "Too many listings run at once",
                Outcome::Busy,
                "Listing a worker is heavy, so only a few run at once. Try again when one has ended.",
            ),
            Self::Unsupported => (
                S::HTTP_VERSION_NOT_SUPPORTED,
                "http-version",
                "This needs HTTP/1.1",
                Outcome::Refused,
                "HTTP/1.0 cannot tell a complete stream of lines from one that broke. Ask for pages with \
                 `?limit=`, or use HTTP/1.1.",
            ),
            Self::NoQuorum => (
                S::SERVICE_UNAVAILABLE,
                "no-quorum",
                "Too few replicas can be reached",
                Outcome::NoQuorum,
                "The write was not applied and never will be. Safe to try again.",
            ),
            Self::ReadUnavailable => (
                S::SERVICE_UNAVAILABLE,
                "read-unavailable",
                "Too few replicas answered the read",
                Outcome::Unavailable,
                "Whether the key has a value is unknown. Safe to try again.",
            ),
            Self::Loading => (
                S::SERVICE_UNAVAILABLE,
                "loading",
                "The cluster is starting",
                Outcome::Loading,
                "Not enough workers have registered yet. Nothing was done. Safe to try again.",
            ),
            Self::Busy => (
                S::SERVICE_UNAVAILABLE,
                "busy",
                "Too much is in flight",
                Outcome::Busy,
                "The request was shed before any effect. Safe to try again after a moment.",
            ),
            Self::WorkerFailed => (
                S::SERVICE_UNAVAILABLE,
                "worker-failed",
                "The worker did not answer",
                Outcome::Unavailable,
                "The worker is known, and did not send its keys. Safe to try again.",
            ),
            Self::Uncertain => (
                S::GATEWAY_TIMEOUT,
                "uncertain",
                "The outcome is unknown",
                Outcome::Uncertain,
                "The write may have been applied, or may be applied later. Read the key, or repeat the write \
                 if repeating does no harm.",
            ),
        };
        Facts { status, name, title, meaning, outcome }
    }
}

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    /// For a person, about this very request.
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadRequest, detail)
    }
}

impl From<OpError> for Problem {
    fn from(error: OpError) -> Self {
        let kind = match error {
            OpError::NoQuorum { .. } => Kind::NoQuorum,
            OpError::Uncertain => Kind::Uncertain,
            OpError::Busy => Kind::Busy,
            OpError::ReadUnavailable => Kind::ReadUnavailable,
            OpError::Loading => Kind::Loading,
            OpError::ValueTooLarge { .. } => Kind::ValueTooLarge,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<WorkerReadError> for Problem {
    fn from(error: WorkerReadError) -> Self {
        match &error {
            // The words of the API that this one replaces.
            WorkerReadError::Unknown(id) => {
                Self::new(Kind::WorkerNotFound, format!("Worker not found or offline: {id}"))
            }
            WorkerReadError::Failed(..) => Self::new(Kind::WorkerFailed, error.to_string()),
        }
    }
}

impl From<DrainError> for Problem {
    fn from(error: DrainError) -> Self {
        let kind = match &error {
            DrainError::Unknown(_) => Kind::WorkerNotFound,
            DrainError::Undecided(_) => Kind::Uncertain,
        };
        Self::new(kind, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Facts { status, name, title, outcome, .. } = self.kind.facts();
        let mut document =
            ProblemDetails::new().with_status(status).with_title(title).with_detail(self.detail);
        if let Ok(uri) = Uri::try_from(format!("/problems/{name}")) {
            document = document.with_type(uri);
        }
        let mut response = document.into_response();
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"tercet\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(outcome);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_type_of_its_own_and_is_an_error() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.facts().name).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let facts = kind.facts();
            assert!(facts.status.is_client_error() || facts.status.is_server_error(), "{kind:?}");
            assert_ne!(facts.outcome, Outcome::Ok, "{kind:?}");
            assert!(Uri::try_from(format!("/problems/{}", facts.name)).is_ok(), "{kind:?}");
        }
    }

    #[test]
    fn a_failed_read_is_never_not_found() {
        for error in [OpError::ReadUnavailable, OpError::Loading, OpError::Busy, OpError::Uncertain] {
            assert!(Problem::from(error).kind.facts().status.is_server_error());
        }
    }
}
