//! `/api/kv/{key}`: one value.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;
use tercet_common::{Content, UnixMillis};

use super::App;
use super::body::{Pieces, Received, receive};
use super::condition::{Conditions, Verdict, describe};
use super::path;
use super::problem::{Kind, Problem};
use crate::coordinator::api::data_of;
use crate::coordinator::{Change, OpError, ReadLevel, WriteLevel, Written};

pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Seconds that the value has left, rounded up.
const TTL: HeaderName = HeaderName::from_static("x-tercet-ttl");
/// When the value expires, in milliseconds since the Unix epoch.
const EXPIRES_AT: HeaderName = HeaderName::from_static("x-tercet-expires-at-ms");

/// About 317 years: far from overflow, and no one needs more.
const TTL_SECONDS_MAX: i64 = 10_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    /// Seconds until the value expires, at least 1.
    ttl: Option<i64>,
}

/// `POST` and `PUT`: the body, whatever its type says, becomes the value.
pub(super) async fn write(
    State(app): State<Arc<App>>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let key = path::key_of(request.uri())?;
    let ttl = path::query(query)?.ttl;
    if ttl.is_some_and(|seconds| !(1..=TTL_SECONDS_MAX).contains(&seconds)) {
        return Err(Problem::bad_request(format!(
            "`ttl` is a number of seconds from 1 to {TTL_SECONDS_MAX}"
        )));
    }
    let conditions = Conditions::of(request.headers())?;
    let Received { value, reserved: _held } =
        receive(request.into_body(), app.coordinator.value_bytes_max(), app.body_time, &app.budget).await?;

    let blind = conditions.is_empty();
    let room = async { Ok(app.coordinator.room().enter(value.len()).await) };
    let coordinator = app.coordinator.with_room(app.in_time(room, OpError::Busy).await?);
    let written = coordinator.write(key, WriteLevel::Quorum, blind, move |current, now| {
        match conditions.judge(current.map(|row| row.ballot)) {
            Verdict::Proceed => {
                let expires_at = ttl.map(|seconds| UnixMillis(now.0.saturating_add(seconds * 1_000)));
                (Change::Write(Content::string(value.clone(), expires_at)), true)
            }
            Verdict::Changed | Verdict::Same => (Change::Keep, false),
        }
    });
    match app.in_time(written, OpError::Uncertain).await? {
        (written, true) => Ok(acknowledge("Stored", &written)),
        (_, false) => Err(precondition_failed()),
    }
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    target: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = path::key_of(&target)?;
    let conditions = Conditions::of(&headers)?;
    let found = app.coordinator.read(key, ReadLevel::Quorum);
    let Some(found) = app.in_time(found, OpError::ReadUnavailable).await? else {
        return Err(not_found());
    };
    let row = found.row;
    let mut response = match conditions.judge(Some(row.ballot)) {
        Verdict::Changed => return Err(precondition_failed()),
        Verdict::Same => StatusCode::NOT_MODIFIED.into_response(),
        Verdict::Proceed => {
            let value = data_of(&row);
            let held = app.budget.reserve(value.len())?;
            let source = format!(" (Source: {})", found.source);
            let text = Pieces::new([Bytes::from_static(b"Value: "), value, source.into()], held);
            let mut response = Body::new(text).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
            response
        }
    };
    let headers = response.headers_mut();
    describe(headers, row.ballot, &row.clock);
    // A cache may keep the answer but must ask whether it still holds.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(at) = row.content.expires_at() {
        let left_ms = at.0.saturating_sub(UnixMillis::now().0).max(0).unsigned_abs();
        headers.insert(TTL, left_ms.div_ceil(1_000).into());
        headers.insert(EXPIRES_AT, at.0.into());
    }
    Ok(response)
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    target: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = path::key_of(&target)?;
    let conditions = Conditions::of(&headers)?;
    let written = app.coordinator.write(key, WriteLevel::Quorum, false, move |current, _| {
        match (conditions.judge(current.map(|row| row.ballot)), current) {
            (Verdict::Proceed, Some(_)) => (Change::Write(Content::Tombstone), Ok(())),
            (Verdict::Proceed, None) => (Change::Keep, Err(not_found())),
            (Verdict::Changed | Verdict::Same, _) => (Change::Keep, Err(precondition_failed())),
        }
    });
    let (written, outcome) = app.in_time(written, OpError::Uncertain).await?;
    outcome.map(|()| acknowledge("Deleted", &written))
}

fn not_found() -> Problem {
    Problem::new(Kind::KeyNotFound, "no value is stored under this key")
}

fn precondition_failed() -> Problem {
    Problem::new(
        Kind::PreconditionFailed,
        "the key's version is not the one that the request wants; nothing was done",
    )
}

fn acknowledge(done: &str, written: &Written) -> Response {
    let mut response = acknowledgement(done, written).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    if done == "Stored" {
        describe(response.headers_mut(), written.ballot, &written.clock);
    }
    response
}

/// The words of the API that this one replaces, to the letter.
fn acknowledgement(done: &str, written: &Written) -> String {
    let synchronous = written.synchronous.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
    let asynchronous = written.asynchronous.as_ref().map_or("None (Quorum fallback used)", |id| id.as_str());
    format!(
        "{done} successfully. {{Synchronous Replicas: [{synchronous}]}}, {{Asynchronous Replica: {asynchronous}}}"
    )
}

#[cfg(test)]
mod tests {
    use tercet_common::{Ballot, VectorClock, WorkerId};

    use super::*;

    #[test]
    fn the_acknowledgement_is_to_the_letter() {
        let id = |id| WorkerId::new(id).unwrap();
        let mut written = Written {
            ballot: Ballot::ZERO,
            clock: VectorClock::new(),
            synchronous: vec![id("w1"), id("w2")],
            asynchronous: Some(id("w3")),
        };
        assert_eq!(
            acknowledgement("Stored", &written),
            "Stored successfully. {Synchronous Replicas: [w1, w2]}, {Asynchronous Replica: w3}"
        );
        written.asynchronous = None;
        assert_eq!(
            acknowledgement("Stored", &written),
            "Stored successfully. {Synchronous Replicas: [w1, w2]}, {Asynchronous Replica: None (Quorum fallback used)}"
        );
    }
}
