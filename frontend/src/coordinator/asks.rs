//! Requests that no core makes: those of healing, each with somebody who awaits the reply.

use hashbrown::HashMap;
use parking_lot::Mutex;
use tercet_common::ReplicaReply;
use tokio::sync::oneshot;

use super::core::{CallId, WorkerIx};

/// The top byte of their ids on a link; cores have those from 0.
const MARK: u64 = 0xfe << CallId::BITS;

struct Ask {
    worker: WorkerIx,
    reply: oneshot::Sender<ReplicaReply>,
}

/// Who awaits what. An ask ends with its reply, with the link that it went to, or when nobody awaits it any more.
#[derive(Default)]
pub(super) struct Asks(Mutex<(u64, HashMap<u64, Ask>)>);

impl Asks {
    /// An id for a request to this worker, and where its reply will come. Without one: it is lost.
    pub(super) fn register(&self, worker: WorkerIx) -> (u64, oneshot::Receiver<ReplicaReply>) {
        let (reply, receiver) = oneshot::channel();
        let (last, asks) = &mut *self.0.lock();
        *last += 1;
        let id = MARK | *last;
        asks.insert(id, Ask { worker, reply });
        (id, receiver)
    }

    /// Whether an id is of this kind.
    pub(super) fn owns(id: u64) -> bool {
        id >> CallId::BITS == MARK >> CallId::BITS
    }

    pub(super) fn reply(&self, id: u64, reply: ReplicaReply) {
        if let Some(ask) = self.forget(id) {
            // Whoever asked may have given up.
            let _ = ask.reply.send(reply);
        }
    }

    fn forget(&self, id: u64) -> Option<Ask> {
        self.0.lock().1.remove(&id)
    }

    /// Nobody awaits it any more.
    pub(super) fn give_up(&self, id: u64) {
        drop(self.forget(id));
    }

    /// The link to a worker broke.
    pub(super) fn lost(&self, worker: WorkerIx) {
        self.0.lock().1.retain(|_, ask| ask.worker != worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_goes_to_who_asked_and_a_broken_link_ends_the_wait() {
        let asks = Asks::default();
        let (first, mut a) = asks.register(1);
        let (second, mut b) = asks.register(2);
        assert!(first != second && Asks::owns(first) && !Asks::owns(7));
        asks.reply(first, ReplicaReply::Stored);
        asks.reply(first, ReplicaReply::Unknown);
        assert_eq!(a.try_recv(), Ok(ReplicaReply::Stored));
        asks.lost(1);
        assert_eq!(b.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        asks.lost(2);
        assert_eq!(b.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        let (third, _) = asks.register(3);
        asks.give_up(third);
        assert!(asks.0.lock().1.is_empty());
    }
}
