//! One cluster for all tests that need a usual one: four workers, nothing special.
//!
//! Tests that mind their own keys run side by side ([`shared`]). A test that empties the store, counts keys or kills
//! parts is the only one while it runs ([`alone`]), and leaves the cluster whole. If it fails before it could, the
//! cluster is thrown away and the next test gets a new one. The cluster ends with the last test that uses it.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Cluster;

static CLUSTER: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
static TURN: RwLock<()> = RwLock::const_new(());

/// The cluster, together with other tests.
pub(crate) struct Shared {
    cluster: Arc<Cluster>,
    _turn: RwLockReadGuard<'static, ()>,
}

/// The cluster, to oneself.
pub(crate) struct Alone {
    cluster: Option<Arc<Cluster>>,
    _turn: RwLockWriteGuard<'static, ()>,
}

pub(crate) async fn shared() -> Shared {
    let turn = TURN.read().await;
    Shared { cluster: cluster().await, _turn: turn }
}

pub(crate) async fn alone() -> Alone {
    // Kept while waiting, so that it does not end between two tests.
    let _kept = CLUSTER.lock().await.upgrade();
    let turn = TURN.write().await;
    Alone { cluster: Some(cluster().await), _turn: turn }
}

/// The machine, to oneself: for tests with clusters of their own that keep it busy. No other cluster's test runs meanwhile.
pub(crate) async fn turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}

async fn cluster() -> Arc<Cluster> {
    let mut slot = CLUSTER.lock().await;
    if let Some(cluster) = slot.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(Cluster::start(&[]).await);
    *slot = Arc::downgrade(&cluster);
    cluster
}

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Deref for Alone {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster.as_ref().expect("held until dropped")
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Here and not at the cluster's end: it may be in the hands of one who waits for the turn.
            self.print_logs();
            // Others wait for the turn, so the slot is free, or taken by one that finds the old cluster still good.
            if let Ok(mut slot) = CLUSTER.try_lock() {
                *slot = Weak::new();
            }
        }
        self.cluster = None;
    }
}
