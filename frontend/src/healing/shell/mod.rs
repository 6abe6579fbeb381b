//! The shell around healing: runs what the rules decide, over the real links, below the traffic of clients.
//!
//! ```text
//! changes      watches workers and configuration; decides ring changes, has newcomers copy
//! background   compares replicas, catches up workers that were away, collects tombstones
//! peers        requests over the links, with a throttle
//! progress     what status and metrics show of it
//! ```

pub(crate) mod changes;
mod peers;
pub(crate) mod progress;

use tercet_common::WorkerId;
use tokio::sync::{mpsc, oneshot};

use self::progress::Progress;
use crate::coordinator::DrainError;
use crate::coordinator::status::{HealingStatus, RingStatus};

/// Orders that may wait.
const ORDERS: usize = 16;

/// A person's order: a worker is to leave, or to stay after all.
pub(crate) struct Order {
    pub(crate) worker: WorkerId,
    pub(crate) leaving: bool,
    pub(crate) decided: oneshot::Sender<Result<(), DrainError>>,
}

/// What the rest of the frontend sees of healing.
pub(crate) struct Healing {
    pub(crate) progress: Progress,
    orders: mpsc::Sender<Order>,
    /// Taken by the one who carries them out.
    queue: parking_lot::Mutex<Option<mpsc::Receiver<Order>>>,
}

impl Healing {
    pub(crate) fn new() -> Self {
        let (orders, queue) = mpsc::channel(ORDERS);
        Self { progress: Progress::new(), orders, queue: parking_lot::Mutex::new(Some(queue)) }
    }

    pub(crate) fn status(&self) -> (RingStatus, HealingStatus) {
        self.progress.status()
    }

    /// Has a worker hand over what it holds, or stay. Returns once that is decided.
    pub(crate) async fn drain(&self, worker: String, leaving: bool) -> Result<(), DrainError> {
        let Ok(id) = WorkerId::new(&worker) else { return Err(DrainError::Unknown(worker)) };
        let (decided, decision) = oneshot::channel();
        let busy = || DrainError::Undecided("too many orders at once".to_owned());
        self.orders.try_send(Order { worker: id, leaving, decided }).map_err(|_| busy())?;
        decision.await.unwrap_or_else(|_| Err(DrainError::Undecided("the frontend is stopping".to_owned())))
    }
}
