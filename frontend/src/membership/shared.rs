//! The registry with a clock, a lock and watchers around it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tercet_common::{Epoch, Incarnation, RingConfig, UnixMillis};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Timing;
use super::members::{Members, MembersView};
use super::peers::Peers;
use crate::config::Secret;

/// What the tasks of membership share.
pub(super) struct Shared {
    pub(super) cluster_id: String,
    pub(super) secret: Option<Secret>,
    pub(super) incarnation: Incarnation,
    pub(super) timing: Timing,
    pub(super) stop: CancellationToken,
    pub(super) peers: Peers,
    pub(super) ring: watch::Sender<Option<Arc<RingConfig>>>,
    pub(super) view: watch::Sender<Arc<MembersView>>,
    members: Mutex<Members>,
    origin: Instant,
}

impl Shared {
    pub(super) fn new(
        cluster_id: String,
        secret: Option<Secret>,
        incarnation: Incarnation,
        timing: Timing,
        members: Members,
    ) -> Self {
        let view = watch::Sender::new(Arc::new(members.view(Duration::ZERO)));
        Self {
            peers: Peers::new(cluster_id.clone(), secret.clone(), timing.call_timeout),
            cluster_id,
            secret,
            incarnation,
            timing,
            stop: CancellationToken::new(),
            ring: watch::Sender::new(None),
            view,
            members: Mutex::new(members),
            origin: Instant::now(),
        }
    }

    /// What the rules call `now`.
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The moment that the rules call `at`.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.origin + at
    }

    /// Changes the registry and shows watchers the result.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut Members, Duration, UnixMillis) -> T) -> T {
        let mut members = self.members.lock();
        let now = self.now();
        let result = f(&mut members, now, UnixMillis::now());
        // Under the lock, so that views come in the order of changes.
        self.view.send_replace(Arc::new(members.view(now)));
        result
    }

    /// Changes the registry, and shows watchers the result if `f` says that there is one.
    pub(super) fn change_if(&self, f: impl FnOnce(&mut Members) -> bool) {
        let mut members = self.members.lock();
        if f(&mut members) {
            self.view.send_replace(Arc::new(members.view(self.now())));
        }
    }

    /// Changes what no view shows, such as which verdicts were told.
    pub(super) fn change_unseen<T>(&self, f: impl FnOnce(&mut Members, Duration) -> T) -> T {
        f(&mut self.members.lock(), self.now())
    }

    /// Shows watchers the registry as of now.
    pub(super) fn publish(&self) {
        self.change(|_, _, _| ());
    }

    pub(super) fn read<T>(&self, f: impl FnOnce(&Members, Duration) -> T) -> T {
        f(&self.members.lock(), self.now())
    }

    /// The number of the configuration in force; 0 before the first.
    pub(super) fn epoch(&self) -> Epoch {
        self.ring.borrow().as_ref().map_or(Epoch(0), |ring| ring.epoch)
    }
}
