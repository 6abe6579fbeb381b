//! Answers on their way to one stream.
//!
//! The engine pushes whatever became ready; the stream's sender takes all that is there as one batch. While the
//! transport is busy, answers gather, so batches grow with the load and no timer is needed.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tercet_common::{ReplicaReply, Row, SyncReply};
use tercet_proto::convert::reply_to_wire;
use tercet_proto::{BATCH_BYTES_TARGET, BATCH_LEN_MAX, v1};
use tokio::sync::Notify;

/// Requests of one stream that may be without an answer; one more is answered BUSY.
pub(crate) const UNANSWERED_MAX: usize = 32_768;
/// Answers and bytes of answers that may wait for a slow stream; above it no further requests are read from it.
const BACKLOG_LEN_MAX: usize = UNANSWERED_MAX;
const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a reply without a row counts for.
const REPLY_WEIGHT: usize = 64;
/// What an entry of a digest, a journal or a memory counts for.
const ENTRY_WEIGHT: usize = 64;

#[derive(Default)]
struct State {
    ready: VecDeque<(u64, ReplicaReply)>,
    bytes: usize,
    /// Requests taken in whose answers have not been taken out.
    unanswered: usize,
    /// No more requests will come.
    finished: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.bytes > BACKLOG_BYTES_MAX || self.ready.len() > BACKLOG_LEN_MAX
    }
}

#[derive(Default)]
pub(crate) struct ReplyQueue {
    state: Mutex<State>,
    /// Wakes the one sender.
    ready: Notify,
    /// Wakes the one receiver, when answers have left.
    room: Notify,
}

impl ReplyQueue {
    /// Counts requests that came in, and says how many of them are within the bound.
    pub(crate) fn expect(&self, requests: usize) -> usize {
        let mut state = self.state.lock();
        let room = UNANSWERED_MAX.saturating_sub(state.unanswered);
        state.unanswered += requests;
        room.min(requests)
    }

    pub(crate) fn push(&self, replies: impl Iterator<Item = (u64, ReplicaReply)>) {
        {
            let mut state = self.state.lock();
            for (id, reply) in replies {
                state.bytes += weight(&reply);
                state.ready.push_back((id, reply));
            }
        }
        self.ready.notify_one();
    }

    /// No more requests will come: once all are answered, [`Self::next_batch`] ends.
    pub(crate) fn finish(&self) {
        self.state.lock().finished = true;
        self.ready.notify_one();
    }

    /// All that is ready, up to the bounds of a batch. Cancel-safe. For one task at a time.
    pub(crate) async fn next_batch(&self) -> Option<v1::ReplyBatch> {
        loop {
            if let Some(batch) = self.take() {
                self.room.notify_one();
                let replies = batch.into_iter().map(|(id, reply)| reply_to_wire(id, reply)).collect();
                return Some(v1::ReplyBatch { replies });
            }
            if self.is_done() {
                return None;
            }
            self.ready.notified().await;
        }
    }

    fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.finished && state.unanswered == 0
    }

    fn take(&self) -> Option<Vec<(u64, ReplicaReply)>> {
        let mut state = self.state.lock();
        let (mut n, mut bytes) = (0, 0);
        for (_, reply) in state.ready.iter().take(BATCH_LEN_MAX) {
            let weight = weight(reply);
            if n > 0 && bytes + weight > BATCH_BYTES_TARGET {
                break;
            }
            n += 1;
            bytes += weight;
        }
        if n == 0 {
            return None;
        }
        state.bytes -= bytes;
        state.unanswered -= n;
        Some(state.ready.drain(..n).collect())
    }

    /// Waits until the stream has taken enough of its answers. Cancel-safe. For one task at a time.
    pub(crate) async fn wait_for_room(&self) {
        while self.state.lock().is_full() {
            self.room.notified().await;
        }
    }
}

fn weight(reply: &ReplicaReply) -> usize {
    match reply {
        ReplicaReply::Version(held) => REPLY_WEIGHT + held.row.as_ref().map_or(0, Row::weight),
        ReplicaReply::Promises(told) => REPLY_WEIGHT + told.raised.len() * ENTRY_WEIGHT,
        ReplicaReply::Synced(reply) => REPLY_WEIGHT + sync_weight(reply),
        _ => REPLY_WEIGHT,
    }
}

fn sync_weight(reply: &SyncReply) -> usize {
    match reply {
        SyncReply::Digested(digest) => digest.entries.len() * ENTRY_WEIGHT,
        SyncReply::Rows(rows) => rows.iter().map(|row| row.as_ref().map_or(1, Row::weight)).sum(),
        SyncReply::Changed(changes) => (changes.entries.len() + changes.flushed.len()) * ENTRY_WEIGHT,
        SyncReply::Remembered(memory) => (memory.positions.len() + memory.witnesses.len()) * 2 * ENTRY_WEIGHT,
        SyncReply::Summed(_) | SyncReply::Done | SyncReply::Whole => 0,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tercet_common::message::Held;
    use tercet_common::{Content, Key, Promise, VectorClock};

    use super::*;

    fn large(bytes: usize) -> ReplicaReply {
        let row = Row {
            key: Key::new("k").unwrap(),
            ballot: Promise::ZERO.ballot(1),
            clock: VectorClock::new(),
            content: Content::string(vec![0; bytes], None),
        };
        ReplicaReply::Version(Held { ballot: row.ballot, row: Some(row), floor: tercet_common::Ballot::ZERO })
    }

    fn next(queue: &ReplyQueue) -> Option<Option<usize>> {
        queue.next_batch().now_or_never().map(|batch| batch.map(|batch| batch.replies.len()))
    }

    #[test]
    fn a_batch_takes_all_that_is_ready_within_its_bounds() {
        let queue = ReplyQueue::default();
        let n = BATCH_LEN_MAX + 3;
        assert_eq!(queue.expect(n + 3), n + 3);
        assert_eq!(next(&queue), None);
        queue.push((0..n as u64).map(|id| (id, ReplicaReply::Stored)));
        assert_eq!(next(&queue), Some(Some(BATCH_LEN_MAX)));
        assert_eq!(next(&queue), Some(Some(3)));
        queue.push([BATCH_BYTES_TARGET * 2, BATCH_BYTES_TARGET / 2, 100].into_iter().map(|b| (1, large(b))));
        assert_eq!(next(&queue), Some(Some(1)), "one alone may be larger");
        assert_eq!(next(&queue), Some(Some(2)));
    }

    #[test]
    fn a_finished_stream_ends_only_when_all_is_answered() {
        let queue = ReplyQueue::default();
        queue.expect(1);
        queue.finish();
        assert_eq!(next(&queue), None);
        queue.push([(1, ReplicaReply::Stored)].into_iter());
        assert_eq!(next(&queue), Some(Some(1)));
        assert_eq!(next(&queue), Some(None));
    }

    #[test]
    fn a_stream_may_leave_only_so_much_unanswered() {
        let queue = ReplyQueue::default();
        assert_eq!(queue.expect(UNANSWERED_MAX - 1), UNANSWERED_MAX - 1);
        assert_eq!(queue.expect(3), 1);
        assert_eq!(queue.expect(1), 0);
    }

    /// A refusal costs the caller nothing, so a caller that takes no answers could pile them up without end.
    #[test]
    fn refusals_that_nobody_takes_fill_the_queue_too() {
        let queue = ReplyQueue::default();
        let n = BACKLOG_LEN_MAX + 1;
        queue.expect(n);
        queue.push((0..n as u64).map(|id| (id, ReplicaReply::Unknown)));
        assert_eq!(queue.wait_for_room().now_or_never(), None);
        assert!(next(&queue).is_some());
        assert_eq!(queue.wait_for_room().now_or_never(), Some(()));
    }

    #[test]
    fn a_slow_stream_is_not_read_from_until_its_answers_have_left() {
        let queue = ReplyQueue::default();
        queue.expect(2);
        queue.push([(1, large(BACKLOG_BYTES_MAX)), (2, large(10))].into_iter());
        assert_eq!(queue.wait_for_room().now_or_never(), None);
        assert_eq!(next(&queue), Some(Some(1)));
        assert_eq!(queue.wait_for_room().now_or_never(), Some(()));
    }
}
