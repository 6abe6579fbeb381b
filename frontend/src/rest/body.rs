//! Bodies: values coming in, within limits of size, time and memory, and values going out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::problem::{Kind, Problem};
use crate::coordinator::OpError;

/// A body may take this long per byte on top of its fixed time: what a slow line still manages.
const BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
const KIB: usize = 1024;

/// The memory that bodies may hold in all requests together. What does not fit is shed, not queued.
#[derive(Clone)]
pub(super) struct Budget(Arc<Semaphore>);

/// Held for as long as the bytes are; gives them back when dropped.
pub(super) struct Reserved(Option<OwnedSemaphorePermit>);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / KIB).min(Semaphore::MAX_PERMITS))))
    }

    pub(super) fn reserve(&self, bytes: usize) -> Result<Reserved, OpError> {
        let mut reserved = Reserved(None);
        reserved.grow(self, bytes.div_ceil(KIB))?;
        Ok(reserved)
    }
}

impl Reserved {
    fn kib(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn grow(&mut self, budget: &Budget, kib: usize) -> Result<(), OpError> {
        let missing = u32::try_from(kib.saturating_sub(self.kib())).map_err(|_| OpError::Busy)?;
        let more = budget.0.clone().try_acquire_many_owned(missing).map_err(|_| OpError::Busy)?;
        match &mut self.0 {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// A value that was received whole.
pub(super) struct Received {
    pub(super) value: Bytes,
    pub(super) reserved: Reserved,
}

/// Reads a body of at most `bytes_max`. A declared length above that is refused before the first byte is read
/// (and before `100 Continue` is sent); memory is reserved as bytes arrive, not as they are promised.
pub(super) async fn receive(
    mut body: Body,
    bytes_max: usize,
    time: Duration,
    budget: &Budget,
) -> Result<Received, Problem> {
    let started = Instant::now();
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let check = |len| match len > bytes_max {
        true => Err(Problem::from(OpError::ValueTooLarge { len, max: bytes_max })),
        false => Ok(()),
    };
    check(declared)?;
    let mut reserved = Reserved(None);
    let mut value = Vec::new();
    loop {
        let earned = Duration::from_secs(value.len() as u64 / BYTES_PER_SECOND_MIN);
        let frame = match timeout_at(started + time + earned, body.frame()).await {
            Err(_) => return Err(too_slow(value.len())),
            Ok(None) => break,
            Ok(Some(Err(e))) => return Err(Problem::bad_request(format!("the body broke off: {e}"))),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers carry nothing that matters here.
        let Ok(data) = frame.into_data() else { continue };
        let len = value.len().saturating_add(data.len());
        check(len)?;
        reserved.grow(budget, len.div_ceil(KIB))?;
        value.extend_from_slice(&data);
    }
    Ok(Received { value: value.into_boxed_slice().into(), reserved })
}

fn too_slow(received: usize) -> Problem {
    Problem::new(Kind::BodyTimeout, format!("only {received} bytes of the body arrived in time"))
}

/// A body of pieces whose whole length is known, so that a large value is not copied to be framed by text.
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    left: u64,
    _reserved: Reserved,
}

impl Pieces {
    pub(super) fn new<const N: usize>(pieces: [Bytes; N], reserved: Reserved) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.into_iter().filter(|p| !p.is_empty()).collect(), left, _reserved: reserved }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn chunked(chunks: &[&'static [u8]]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok::<_, std::io::Error>(Bytes::from_static(c))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    async fn kind_of(body: Body, bytes_max: usize, time: Duration, budget: &Budget) -> Option<Kind> {
        receive(body, bytes_max, time, budget).await.err().map(|problem| problem.kind)
    }

    #[tokio::test]
    async fn chunks_become_one_value() {
        let budget = Budget::new(1 << 20);
        let received = receive(chunked(&[b"ab", b"", b"c"]), 3, LONG, &budget).await.ok().unwrap();
        assert_eq!(received.value, "abc");
        assert_eq!(received.reserved.kib(), 1);
        drop(received);
        assert_eq!(budget.0.available_permits(), 1024);
    }

    #[tokio::test]
    async fn a_value_over_the_limit_is_refused_declared_or_not() {
        let budget = Budget::new(1 << 20);
        assert_eq!(kind_of(Body::from("abcd"), 3, LONG, &budget).await, Some(Kind::ValueTooLarge));
        assert_eq!(kind_of(chunked(&[b"ab", b"cd"]), 3, LONG, &budget).await, Some(Kind::ValueTooLarge));
        assert_eq!(kind_of(Body::from("abc"), 3, LONG, &budget).await, None);
    }

    #[tokio::test]
    async fn what_does_not_fit_in_memory_is_shed() {
        let budget = Budget::new(4 * KIB);
        let held = budget.reserve(3 * KIB).unwrap();
        assert_eq!(kind_of(Body::from(vec![0; 2 * KIB]), 1 << 20, LONG, &budget).await, Some(Kind::Busy));
        drop(held);
        assert_eq!(kind_of(Body::from(vec![0; 2 * KIB]), 1 << 20, LONG, &budget).await, None);
    }

    #[tokio::test]
    async fn a_body_that_never_comes_ends_in_a_timeout() {
        let budget = Budget::new(1 << 20);
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(kind_of(silent, 3, Duration::ZERO, &budget).await, Some(Kind::BodyTimeout));
    }
}
