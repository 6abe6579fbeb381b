//! `/api/kv/worker/{id}`: every pair that one worker itself holds.
//!
//! ```text
//! worker ──page──▶ rows ──encode──▶ chunk ──▶ socket
//!    ▲                                │
//!    └──── the next page, once the chunks of this one are taken
//! ```
//!
//! The listing is a stream pulled by the client's socket: no more than one page and one chunk are in memory,
//! however many keys there are and however slowly the client reads. It is weak, as every scan: a pair that is
//! there all the time is listed once; one that comes or goes meanwhile may or may not be.
//!
//! The first page is fetched before the answer begins, so an unknown worker is a 404. A failure later breaks
//! the connection off: the last chunk never comes, and the object is not closed.

mod encode;

use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use serde::Deserialize;
use tercet_common::{KeyHash, PartitionId, Row};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use self::encode::Format;
use super::problem::{Kind, Problem};
use super::{App, path};
use crate::coordinator::{Coordinator, ScanPage, ScanPosition, WorkerReadError};

/// Listings that may run at once. Each holds a page of at most the size that a worker sends.
pub(super) const LISTINGS_MAX: usize = 4;
/// Rows asked of a worker at a time while streaming. The worker stops earlier where values are large.
const PAGE_ROWS: usize = 500;
/// Rows that a client may ask for in one page.
const LIMIT_MAX: usize = 10_000;
/// Encoded bytes handed to the socket at a time; a single larger row makes a larger chunk.
const CHUNK_BYTES: usize = 64 * 1024;

const FIRST_PARTITION: PartitionId = PartitionId::new(0).expect("there are partitions");
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-tercet-next-cursor");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    format: Option<String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
    version: Version,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(id) = id.map_err(|e| Problem::bad_request(e.body_text()))?;
    let ListQuery { limit, cursor, format } = path::query(query)?;
    if limit.is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit)) {
        return Err(Problem::bad_request(format!("`limit` is a number from 1 to {LIMIT_MAX}")));
    }
    let from = match cursor {
        None => ScanPosition::start_of(FIRST_PARTITION),
        Some(text) => {
            parse_cursor(&text).ok_or_else(|| Problem::bad_request("`cursor` is not one of ours"))?
        }
    };
    let format = Format::choose(format.as_deref(), &headers)
        .ok_or_else(|| Problem::bad_request("`format` is `json` or `ndjson`"))?;
    if format == Format::Lines && limit.is_none() && version < Version::HTTP_11 {
        return Err(Problem::new(Kind::Unsupported, "HTTP/1.0 cannot show that a stream of lines broke off"));
    }
    let permit = app.listings.clone().try_acquire_owned().map_err(|_| {
        Problem::new(Kind::TooManyListings, format!("{LISTINGS_MAX} listings are running already"))
    })?;

    let source = Source { coordinator: app.coordinator.clone(), id, page_time: app.answer_time };
    let first = source.page(from, limit.unwrap_or(PAGE_ROWS)).await?;
    let mut response = match limit {
        Some(limit) => one_page(first, limit, &source.id, format)?,
        None => Body::from_stream(Listing::start(source, first, format, permit).stream()).into_response(),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, format.content_type());
    Ok(response)
}

fn one_page(page: ScanPage, limit: usize, id: &str, format: Format) -> Result<Response, Problem> {
    let mut body = Vec::new();
    format
        .whole(&page.rows, &mut body)
        .map_err(|e| Problem::new(Kind::WorkerFailed, format!("a row could not be written: {e}")))?;
    let mut response = body.into_response();
    if let Some(next) = page.next {
        let (cursor, id, name) = (cursor_text(next), path::encode_segment(id), format.name());
        let link =
            format!("<{}worker/{id}?limit={limit}&format={name}&cursor={cursor}>; rel=\"next\"", path::KV);
        let texts = [(header::LINK, link), (NEXT_CURSOR, cursor)];
        for (name, text) in texts {
            if let Ok(value) = HeaderValue::try_from(text) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    Ok(response)
}

/// `partition-hash`, the hash in 32 hexadecimal digits. Opaque to clients.
fn cursor_text(at: ScanPosition) -> String {
    format!("{}-{:032x}", at.partition, u128::from_be_bytes(at.hash.0))
}

fn parse_cursor(text: &str) -> Option<ScanPosition> {
    let (partition, hash) = text.split_once('-')?;
    let digits = hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let hash = u128::from_str_radix(hash, 16).ok().filter(|_| digits)?;
    let partition = PartitionId::new(partition.parse().ok()?)?;
    Some(ScanPosition { partition, hash: KeyHash(hash.to_be_bytes()) })
}

/// Where pages come from.
struct Source {
    coordinator: Coordinator,
    id: String,
    /// What one page may take.
    page_time: Duration,
}

impl Source {
    async fn page(&self, from: ScanPosition, limit: usize) -> Result<ScanPage, WorkerReadError> {
        let page = self.coordinator.worker_page(&self.id, from, limit);
        let late = |_| WorkerReadError::Failed(self.id.clone(), "no page came in time".to_owned());
        timeout(self.page_time, page).await.map_err(late)?
    }
}

/// A listing under way.
struct Listing {
    source: Source,
    format: Format,
    rows: std::vec::IntoIter<Row>,
    next: Option<ScanPosition>,
    /// Rows written so far.
    written: u64,
    opened: bool,
    closed: bool,
    _permit: OwnedSemaphorePermit,
}

impl Listing {
    fn start(source: Source, first: ScanPage, format: Format, permit: OwnedSemaphorePermit) -> Self {
        let (rows, next) = (first.rows.into_iter(), first.next);
        Self { source, format, rows, next, written: 0, opened: false, closed: false, _permit: permit }
    }

    fn stream(self) -> impl futures_util::Stream<Item = Result<Bytes, BoxError>> + Send {
        stream::try_unfold(self, |mut listing| async move {
            let chunk = listing.chunk().await.inspect_err(|error| {
                let worker = listing.source.id.as_str();
                tracing::warn!(%error, worker, "listing of a worker broke off");
            })?;
            Ok(chunk.map(|chunk| (chunk, listing)))
        })
    }

    /// The next chunk; `None` after the one that closes the listing.
    async fn chunk(&mut self) -> Result<Option<Bytes>, BoxError> {
        if self.closed {
            return Ok(None);
        }
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.opened, true) {
            self.format.open(&mut out);
        }
        loop {
            while out.len() < CHUNK_BYTES
                && let Some(row) = self.rows.next()
            {
                self.format.row(&row, self.written == 0, &mut out)?;
                self.written += 1;
            }
            if out.len() >= CHUNK_BYTES {
                return Ok(Some(out.into()));
            }
            let Some(from) = self.next.take() else { break };
            let page = self.source.page(from, PAGE_ROWS).await?;
            (self.rows, self.next) = (page.rows.into_iter(), page.next);
        }
        self.format.close(&mut out);
        self.closed = true;
        Ok(Some(out.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for (partition, hash) in [(0, [0; 16]), (1023, [0xff; 16]), (7, [1; 16])] {
            let at = ScanPosition { partition: PartitionId::new(partition).unwrap(), hash: KeyHash(hash) };
            assert_eq!(parse_cursor(&cursor_text(at)), Some(at));
        }
    }

    #[test]
    fn a_foreign_cursor_is_refused() {
        let zeros = "0".repeat(32);
        let bad = ["", "-", "0", "0-", "0-00", &format!("1024-{zeros}"), &format!("0-+{}", &zeros[1..])];
        for text in bad {
            assert_eq!(parse_cursor(text), None, "{text}");
        }
    }
}
