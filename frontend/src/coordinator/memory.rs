//! An engine of one map, for tests of the gateways.
//!
//! It keeps the contract of [`super::api::Engine`] (order per key, expiry, scans in hash order) without replicas. Time
//! can be moved by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tercet_common::{Ballot, Content, Key, KeyHash, PartitionId, Row, UnixMillis, VectorClock, WorkerId};

use super::api::{
    Change, DrainError, Engine, Found, KeyCount, Op, OpError, ReadOp, ScanFilter, ScanPage, ScanPosition,
    WorkerReadError, WriteOp, Written,
};
use super::status::{ClusterStatus, HealingStatus, NextFailure, PartitionStatus, RingStatus};

/// See the module.
pub struct MemoryEngine {
    rows: Mutex<BTreeMap<(PartitionId, KeyHash), Row>>,
    /// Zero: the machine's clock.
    frozen_now: AtomicI64,
    seq: AtomicI64,
    failure: Mutex<Option<OpError>>,
    value_bytes_max: usize,
}

impl MemoryEngine {
    pub fn new() -> Arc<Self> {
        Self::with_value_bytes_max(64 * 1024 * 1024)
    }

    /// An engine that refuses longer values.
    pub fn with_value_bytes_max(value_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            frozen_now: AtomicI64::new(0),
            seq: AtomicI64::new(0),
            failure: Mutex::default(),
            value_bytes_max,
        })
    }

    /// Stops the clock at `now`.
    pub fn set_now(&self, now: UnixMillis) {
        self.frozen_now.store(now.0, Ordering::SeqCst);
    }

    /// Every later operation fails so; `None` ends that.
    pub fn fail_with(&self, failure: Option<OpError>) {
        *self.failure.lock() = failure;
    }

    fn now(&self) -> UnixMillis {
        match self.frozen_now.load(Ordering::SeqCst) {
            0 => UnixMillis::now(),
            at => UnixMillis(at),
        }
    }

    fn workers() -> [WorkerId; 3] {
        ["w1", "w2", "w3"].map(|id| WorkerId::new(id).expect("a legal id"))
    }

    fn read(&self, op: ReadOp) {
        if let Some(failure) = self.failure.lock().clone() {
            return (op.done)(Err(failure));
        }
        let now = self.now();
        let found = self.rows.lock().get(&place(&op.key)).filter(|row| row.content.is_live(now)).cloned();
        let [source, ..] = Self::workers();
        (op.done)(Ok(found.map(|row| Found { row: Arc::new(row), source })));
    }

    fn write(&self, mut op: WriteOp) {
        if let Some(failure) = self.failure.lock().clone() {
            return op.update.finish(Err(failure));
        }
        let now = self.now();
        let written = {
            let mut rows = self.rows.lock();
            let live = rows.get(&place(&op.key)).filter(|row| row.content.is_live(now));
            let change = op.update.apply(if op.blind { None } else { live }, now);
            let ballot = match change {
                Change::Keep => live.map_or(Ballot::ZERO, |row| row.ballot),
                Change::Write(content) if content.data_len() > self.value_bytes_max => {
                    let (len, max) = (content.data_len(), self.value_bytes_max);
                    drop(rows);
                    return op.update.finish(Err(OpError::ValueTooLarge { len, max }));
                }
                Change::Write(content) => {
                    let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
                    let ballot = Ballot { seq: seq.unsigned_abs(), ..Ballot::ZERO };
                    let row = Row { key: op.key.clone(), ballot, clock: VectorClock::new(), content };
                    rows.insert(place(&op.key), row);
                    ballot
                }
            };
            let [w1, w2, w3] = Self::workers();
            Written { ballot, clock: VectorClock::new(), synchronous: vec![w1, w2], asynchronous: Some(w3) }
        };
        op.update.finish(Ok(written));
    }

    fn page(&self, from: ScanPosition, filter: ScanFilter) -> ScanPage {
        let now = self.now();
        let rows = self.rows.lock();
        let mut page = ScanPage::default();
        for ((partition, hash), row) in rows.range((from.partition, from.hash)..) {
            if page.rows.len() >= filter.limit.max(1) {
                page.next = Some(ScanPosition { partition: *partition, hash: *hash });
                break;
            }
            let wanted = match filter.expired_by {
                None => row.content.is_live(now),
                Some(by) => row.content.expires_at().is_some_and(|at| at <= by),
            };
            if wanted {
                let mut row = row.clone();
                if let (false, Content::Value { data, .. }) = (filter.with_data, &mut row.content) {
                    *data = Bytes::new();
                }
                page.rows.push(row);
            }
        }
        page
    }
}

fn place(key: &Key) -> (PartitionId, KeyHash) {
    (key.partition(), key.hash())
}

impl Engine for MemoryEngine {
    fn submit(&self, op: Op) {
        match op {
            Op::Read(op) => self.read(op),
            Op::Write(op) => self.write(op),
        }
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), OpError>> {
        self.rows.lock().clear();
        Box::pin(async { Ok(()) })
    }

    fn scan(&self, from: ScanPosition, filter: ScanFilter) -> BoxFuture<'static, Result<ScanPage, OpError>> {
        let page = self.page(from, filter);
        Box::pin(async move { Ok(page) })
    }

    fn count(&self) -> BoxFuture<'static, Result<KeyCount, OpError>> {
        let now = self.now();
        let rows = self.rows.lock();
        let live = rows.values().filter(|row| row.content.is_live(now));
        let mut count = KeyCount::default();
        for row in live {
            count.live += 1;
            count.expiring += u64::from(row.content.expires_at().is_some());
        }
        Box::pin(async move { Ok(count) })
    }

    fn worker_page(
        &self,
        worker: &str,
        from: ScanPosition,
        limit: usize,
    ) -> BoxFuture<'static, Result<ScanPage, WorkerReadError>> {
        let known = Self::workers().iter().any(|id| id.as_str() == worker);
        let page = self.page(from, ScanFilter { limit, with_data: true, expired_by: None });
        let worker = worker.to_owned();
        Box::pin(async move { if known { Ok(page) } else { Err(WorkerReadError::Unknown(worker)) } })
    }

    fn drain(&self, worker: &str, _leaving: bool) -> BoxFuture<'static, Result<(), DrainError>> {
        let unknown = DrainError::Unknown(worker.to_owned());
        let known = Self::workers().iter().any(|id| id.as_str() == worker);
        Box::pin(async move { if known { Ok(()) } else { Err(unknown) } })
    }

    fn status(&self) -> ClusterStatus {
        ClusterStatus {
            cluster_id: "memory".to_owned(),
            ready: self.failure.lock().is_none(),
            epoch: 1,
            incarnation: "1".to_owned(),
            uptime_seconds: 1,
            expired_keys: 0,
            replicas: 3,
            workers: Vec::new(),
            partitions: PartitionStatus { total: 1024, owned: 1024, ..PartitionStatus::default() },
            ring: RingStatus::default(),
            healing: HealingStatus::default(),
            next_failure: NextFailure::default(),
        }
    }

    fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }
}
