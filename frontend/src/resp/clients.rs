//! The connected clients: what CLIENT LIST shows, and the way to reach a connection from outside its task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Where a connection comes from and arrives.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub remote: String,
    pub local: String,
    /// The socket's file descriptor; -1 where there is none.
    pub fd: i32,
}

/// What a client says of itself.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    pub name: String,
    pub lib_name: String,
    pub lib_ver: String,
}

/// One connection, as others see it. The connection's task writes, everyone reads.
pub struct Client {
    pub id: u64,
    pub peer: Peer,
    pub connected_at: Instant,
    pub labels: Mutex<Labels>,
    /// Milliseconds after `connected_at`.
    active_after_ms: AtomicU64,
    /// Entry of the last command plus one; 0: none yet.
    command: AtomicUsize,
    pub no_evict: AtomicBool,
    pub no_touch: AtomicBool,
    pub resp: AtomicI64,
    /// Bytes read and not yet started; bytes answered and not yet sent.
    pub input_bytes: AtomicUsize,
    pub output_bytes: AtomicUsize,
    killed: AtomicBool,
    waker: AtomicWaker,
}

impl Client {
    fn new(id: u64, peer: Peer) -> Self {
        Self {
            id,
            peer,
            connected_at: Instant::now(),
            labels: Mutex::default(),
            active_after_ms: AtomicU64::new(0),
            command: AtomicUsize::new(0),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            resp: AtomicI64::new(2),
            input_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            killed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    pub fn started(&self, entry: usize, now: Instant) {
        let after = now.saturating_duration_since(self.connected_at).as_millis();
        self.active_after_ms.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.command.store(entry + 1, Ordering::Relaxed);
    }

    pub fn last_command(&self) -> Option<usize> {
        self.command.load(Ordering::Relaxed).checked_sub(1)
    }

    pub fn age(&self) -> Duration {
        self.connected_at.elapsed()
    }

    pub fn idle(&self) -> Duration {
        self.age().saturating_sub(Duration::from_millis(self.active_after_ms.load(Ordering::Relaxed)))
    }

    /// Ends the connection at its next step, without waiting for what is in flight.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Lets the connection look around: a pause ended, the server drains, it was killed.
    pub fn wake(&self) {
        self.waker.wake();
    }

    pub fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }
}

/// All connected clients, oldest first. Ids are never used twice.
pub struct Clients {
    last_id: AtomicU64,
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Default for Clients {
    fn default() -> Self {
        Self { last_id: AtomicU64::new(0), by_id: Mutex::default() }
    }
}

impl Clients {
    /// Enters a client; it leaves when the guard is dropped.
    pub fn enter(self: &Arc<Self>, peer: Peer) -> Registration {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, peer));
        self.by_id.lock().insert(id, client.clone());
        Registration { clients: self.clone(), client }
    }

    pub fn len(&self) -> usize {
        self.by_id.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id.lock().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Client>> {
        self.by_id.lock().values().cloned().collect()
    }

    pub fn wake_all(&self) {
        for client in self.all() {
            client.wake();
        }
    }

    pub fn kill_all(&self) {
        for client in self.all() {
            client.kill();
        }
    }
}

/// A client's membership in [`Clients`].
pub struct Registration {
    clients: Arc<Clients>,
    pub client: Arc<Client>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.clients.by_id.lock().remove(&self.client.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_and_go() {
        let clients = Arc::new(Clients::default());
        let first = clients.enter(Peer::default());
        let second = clients.enter(Peer::default());
        assert_eq!(clients.all().iter().map(|c| c.id).collect::<Vec<_>>(), [1, 2]);
        drop(first);
        assert!(clients.get(1).is_none() && clients.get(second.client.id).is_some());
        assert_eq!(clients.enter(Peer::default()).client.id, 3);
    }
}
