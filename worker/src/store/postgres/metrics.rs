//! Handles of the metrics that the store keeps.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram};
use tercet_common::metrics::{
    COMMIT_ROWS, COMMIT_SECONDS, COMMITS, DISK_FREE_BYTES, JOURNAL_SEQ, POOL_CONNECTIONS, POOL_WAIT_SECONDS,
    POSTGRES_CONNECTED, POSTGRES_READ_SECONDS, POSTGRES_RECONNECTS, REDO_APPLIED_ROWS, REDO_BYTES, REDO_ROWS,
};

use super::super::Disk;

pub(super) struct Metrics {
    pub(super) commit_seconds: Histogram,
    pub(super) commit_rows: Histogram,
    pub(super) committed: Counter,
    pub(super) aborted: Counter,
    pub(super) unknown: Counter,
    pub(super) read_seconds: Histogram,
    pub(super) connected: Gauge,
    pub(super) reconnects: Counter,
    pub(super) pool_wait: Histogram,
    pub(super) pool_in_use: Gauge,
    pub(super) pool_idle: Gauge,
    pub(super) journal_seq: Gauge,
    pub(super) applied_rows: Counter,
    pub(super) redo_rows: Gauge,
    pub(super) redo_bytes: Gauge,
    /// Exported only where the disk is in sight: a zero would be an alarm.
    disk_free: OnceLock<Gauge>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            commit_seconds: COMMIT_SECONDS.histogram(&[]),
            commit_rows: COMMIT_ROWS.histogram(&[]),
            committed: COMMITS.counter(&["committed"]),
            aborted: COMMITS.counter(&["aborted"]),
            unknown: COMMITS.counter(&["unknown"]),
            read_seconds: POSTGRES_READ_SECONDS.histogram(&[]),
            connected: POSTGRES_CONNECTED.gauge(&[]),
            reconnects: POSTGRES_RECONNECTS.counter(&[]),
            pool_wait: POOL_WAIT_SECONDS.histogram(&[]),
            pool_in_use: POOL_CONNECTIONS.gauge(&["in_use"]),
            pool_idle: POOL_CONNECTIONS.gauge(&["idle"]),
            journal_seq: JOURNAL_SEQ.gauge(&[]),
            applied_rows: REDO_APPLIED_ROWS.counter(&[]),
            redo_rows: REDO_ROWS.gauge(&[]),
            redo_bytes: REDO_BYTES.gauge(&[]),
            disk_free: OnceLock::new(),
        }
    }

    pub(super) fn observe_disk(&self, disk: Disk) {
        self.disk_free.get_or_init(|| DISK_FREE_BYTES.gauge(&[])).set(disk.free_bytes as f64);
    }
}
