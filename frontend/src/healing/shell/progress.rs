//! What healing shows of itself: to status, metrics and logs.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::coordinator::status::{ChangeStatus, HealingStatus, RingStatus};
use crate::healing::copy::Copied;

/// Counters that procedures feed, and the present state in words.
pub(crate) struct Progress(Mutex<State>);

#[derive(Default)]
struct State {
    change: Option<Change>,
    waiting: Option<String>,
    healing: HealingStatus,
}

struct Change {
    what: String,
    since: Instant,
    copies: usize,
    copied: usize,
    sent: Copied,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    pub(super) fn status(&self) -> (RingStatus, HealingStatus) {
        let state = self.0.lock();
        let change = state.change.as_ref().map(|change| ChangeStatus {
            what: change.what.clone(),
            copies: change.copies,
            copied: change.copied,
            rows: change.sent.rows,
            bytes: change.sent.bytes,
            since_seconds: change.since.elapsed().as_secs(),
        });
        (RingStatus { change, waiting: state.waiting.clone() }, state.healing.clone())
    }

    /// A ring change begins, or is found under way.
    pub(super) fn began(&self, what: String, copies: usize) {
        let change = Change { what, since: Instant::now(), copies, copied: 0, sent: Copied::default() };
        self.0.lock().change = Some(change);
    }

    pub(super) fn is_changing(&self) -> bool {
        self.0.lock().change.is_some()
    }

    /// One more copy is made.
    pub(super) fn copied(&self) {
        if let Some(change) = &mut self.0.lock().change {
            change.copied += 1;
        }
    }

    /// A copy has sent more.
    pub(super) fn sent(&self, rows: u64, bytes: u64) {
        if let Some(change) = &mut self.0.lock().change {
            change.sent.rows += rows;
            change.sent.bytes += bytes;
        }
    }

    /// The change is over: what it was, how long it took, and what was sent for it.
    pub(super) fn ended(&self) -> Option<(String, Duration, usize, Copied)> {
        let change = self.0.lock().change.take()?;
        Some((change.what, change.since.elapsed(), change.copied, change.sent))
    }

    /// Why nothing begins although something is to be done. `true`: that is news.
    pub(super) fn waits(&self, why: Option<String>) -> bool {
        let mut state = self.0.lock();
        let news = state.waiting != why;
        state.waiting = why;
        news
    }

    pub(super) fn heals(&self, status: HealingStatus) {
        self.0.lock().healing = status;
    }
}
