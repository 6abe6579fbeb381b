//! The repair queue: what workers missed, and its repair once they are back.
//!
//! A put that a quorum acknowledged while a replica was down, or whose third acknowledgement never came, leaves its key
//! here. When the worker can be asked again, each key is read from all replicas, and the read repairs the one that lags
//! (design 4, replicate). The queue is a help, not a promise: it is bounded, and it dies with the frontend. What it
//! forgets is repaired when it is read.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use metrics::{Counter, Gauge};
use parking_lot::{Mutex, RwLock};
use tercet_common::{Ballot, Key, PartitionId, VectorClock, WorkerId, metrics as m};

use super::api::{Coordinator, ReadLevel};
use super::cluster::Cluster;
use super::core::{Missed, WorkerIx};

/// Keys that are remembered per worker, and their bytes.
const KEYS_MAX: usize = 200_000;
const KEY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often the queues are looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// Keys repaired in one go, and how many of them at once: below client traffic.
const ROUND: usize = 512;
const AT_ONCE: usize = 16;

#[derive(Default)]
struct Backlog {
    /// Its worker has left the ring: nothing waits for it any longer.
    is_closed: bool,
    keys: HashSet<Key>,
    key_bytes: usize,
    flushes: BTreeMap<PartitionId, (Ballot, VectorClock)>,
}

impl Backlog {
    fn len(&self) -> usize {
        self.keys.len() + self.flushes.len()
    }

    /// `false`: there was no room.
    fn add(&mut self, missed: Missed) -> bool {
        if self.is_closed {
            return true;
        }
        match missed {
            Missed::Key(key) => {
                let bytes = key.as_bytes().len();
                if self.keys.contains(&key) {
                    return true;
                }
                if self.keys.len() >= KEYS_MAX || self.key_bytes + bytes > KEY_BYTES_MAX {
                    return false;
                }
                self.key_bytes += bytes;
                // It may wait for hours: not along with the buffer that it came in.
                self.keys.insert(key.detached());
            }
            Missed::Flush { partition, ballot, clock } => {
                let held = self.flushes.entry(partition).or_default();
                if ballot > held.0 {
                    *held = (ballot, clock);
                }
            }
            // For the comparison.
            Missed::UncertainFlush(_) => {}
        }
        true
    }

    fn take_keys(&mut self, count: usize) -> Vec<Key> {
        let keys: Vec<Key> = self.keys.iter().take(count).cloned().collect();
        for key in &keys {
            self.keys.remove(key);
            self.key_bytes -= key.as_bytes().len();
        }
        keys
    }
}

struct Queue {
    backlog: Mutex<Backlog>,
    depth: Gauge,
    overflows: Counter,
}

/// One backlog per worker.
#[derive(Default)]
pub struct RepairQueue(RwLock<Vec<Queue>>);

impl RepairQueue {
    /// Workers come in the order of their numbers.
    pub fn add_worker(&self, id: &WorkerId) {
        self.0.write().push(Queue {
            backlog: Mutex::default(),
            depth: m::REPAIR_QUEUE.gauge(&[id.as_str()]),
            overflows: m::REPAIR_OVERFLOWS.counter(&[id.as_str()]),
        });
    }

    pub fn add(&self, missed: Vec<(WorkerIx, Missed)>) {
        if missed.is_empty() {
            return;
        }
        let queues = self.0.read();
        for (worker, missed) in missed {
            let Some(queue) = queues.get(usize::from(worker)) else { continue };
            let mut backlog = queue.backlog.lock();
            if !backlog.add(missed) {
                queue.overflows.increment(1);
            }
            queue.depth.set(backlog.len() as f64);
        }
    }

    /// Forgets what waits for workers that are no replicas any more: a ring change has copied it to others.
    pub fn retain(&self, is_member: impl Fn(WorkerIx) -> bool) {
        for (worker, queue) in self.0.read().iter().enumerate() {
            let mut backlog = queue.backlog.lock();
            if is_member(worker as WorkerIx) {
                // It may have left before, and come back as itself.
                backlog.is_closed = false;
            } else {
                *backlog = Backlog { is_closed: true, ..Backlog::default() };
                queue.depth.set(0.0);
            }
        }
    }

    /// What waits for all workers.
    pub fn len(&self) -> usize {
        self.0.read().iter().map(|queue| queue.backlog.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What waits for a worker.
    pub fn depth(&self, worker: usize) -> usize {
        self.0.read().get(worker).map_or(0, |queue| queue.backlog.lock().len())
    }

    /// Of which partitions workers missed something.
    pub fn missed(&self) -> Vec<(PartitionId, WorkerIx)> {
        let queues = self.0.read();
        let of = |(worker, queue): (usize, &Queue)| {
            let backlog = queue.backlog.lock();
            let partitions: HashSet<_> =
                backlog.keys.iter().map(Key::partition).chain(backlog.flushes.keys().copied()).collect();
            partitions.into_iter().map(move |id| (id, worker as WorkerIx))
        };
        queues.iter().enumerate().flat_map(of).collect()
    }

    /// The next round for one worker: all flushes, and some keys.
    fn take(&self, worker: usize) -> (BTreeMap<PartitionId, (Ballot, VectorClock)>, Vec<Key>) {
        let queues = self.0.read();
        let Some(queue) = queues.get(worker) else { return Default::default() };
        let mut backlog = queue.backlog.lock();
        let taken = (std::mem::take(&mut backlog.flushes), backlog.take_keys(ROUND));
        queue.depth.set(backlog.len() as f64);
        taken
    }
}

/// Repairs workers that can be asked, for as long as it is polled.
pub async fn run(cluster: &Cluster, coordinator: Coordinator) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        for worker in cluster.workers_to_repair() {
            let (flushes, keys) = cluster.repairs().map(|queue| queue.take(worker)).unwrap_or_default();
            for (partition, (ballot, clock)) in flushes {
                cluster.repair_flush(worker as WorkerIx, partition, ballot, clock);
            }
            let reads = keys.into_iter().map(|key| {
                let read = coordinator.read(key.clone(), ReadLevel::All);
                async move { (key, read.await) }
            });
            let failed: Vec<_> = stream::iter(reads)
                .buffer_unordered(AT_ONCE)
                .filter_map(|(key, result)| async move {
                    result.err().map(|_| (worker as WorkerIx, Missed::Key(key)))
                })
                .collect()
                .await;
            if let Some(queue) = cluster.repairs() {
                queue.add(failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> RepairQueue {
        let queue = RepairQueue::default();
        queue.add_worker(&WorkerId::new("w1").unwrap());
        queue
    }

    fn missed(key: &str) -> (WorkerIx, Missed) {
        (0, Missed::Key(Key::new(key.to_owned()).unwrap()))
    }

    #[test]
    fn a_key_waits_once_and_is_taken_once() {
        let queue = queue();
        queue.add(vec![missed("a"), missed("b"), missed("a")]);
        assert_eq!(queue.depth(0), 2);
        assert_eq!(queue.take(0).1.len(), 2);
        assert_eq!((queue.depth(0), queue.0.read()[0].backlog.lock().key_bytes), (0, 0));
    }

    #[test]
    fn it_is_known_of_which_partitions_something_waits() {
        let queue = queue();
        let (worker, key) = missed("a");
        let of_key = Key::new("a").unwrap().partition();
        let flushed = PartitionId::all().find(|id| *id != of_key).unwrap();
        let ballot = Ballot { seq: 1, ..Ballot::ZERO };
        let flush = Missed::Flush { partition: flushed, ballot, clock: VectorClock::new() };
        queue.add(vec![(worker, key), (worker, flush)]);
        assert_eq!(HashSet::from_iter(queue.missed()), HashSet::from([(of_key, worker), (flushed, worker)]));
    }

    #[test]
    fn the_bound_holds() {
        let queue = queue();
        let key = "k".repeat(60_000);
        queue.add((0..2_000).map(|n| missed(&format!("{n}{key}"))).collect());
        let queues = queue.0.read();
        let backlog = queues[0].backlog.lock();
        assert!(backlog.key_bytes <= KEY_BYTES_MAX && backlog.keys.len() > 1_000);
    }

    #[test]
    fn what_waits_for_a_worker_goes_with_it() {
        let queue = queue();
        queue.add(vec![missed("a")]);
        queue.retain(|worker| worker == 0);
        assert_eq!(queue.len(), 1);
        queue.retain(|_| false);
        assert!(queue.is_empty());
        queue.add(vec![missed("b")]);
        assert!(queue.is_empty(), "its repair was under way, and failed");
        queue.retain(|worker| worker == 0);
        queue.add(vec![missed("c")]);
        assert_eq!(queue.len(), 1, "it has come back");
    }

    #[test]
    fn of_two_flushes_the_later_is_kept() {
        let queue = queue();
        let flush = |seq| {
            let ballot = Ballot { seq, ..Ballot::ZERO };
            let partition = PartitionId::new(7).unwrap();
            (0, Missed::Flush { partition, ballot, clock: VectorClock::new() })
        };
        queue.add(vec![flush(5), flush(3)]);
        let kept: Vec<u64> = queue.take(0).0.values().map(|(ballot, _)| ballot.seq).collect();
        assert_eq!(kept, [5]);
    }
}
