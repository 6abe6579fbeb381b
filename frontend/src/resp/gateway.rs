//! What all RESP connections of a frontend share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tercet_common::UnixMillis;

use super::clients::Clients;
use super::command::table::CommandTable;
use super::latency::Monitor;
use super::pause::Pause;
use super::scanner::Limits;
use super::slowlog::Slowlog;
use super::stats::Stats;
use crate::Config;
use crate::coordinator::Coordinator;
use crate::coordinator::status::ClusterStatus;

/// The Redis release whose commands and texts are followed, as INFO and HELLO name it.
pub const REDIS_VERSION: &str = "7.2.4";
/// The one user there is.
pub const USER: &str = "default";

/// How old the cluster's state in INFO may be.
const STATUS_AGE_MAX: Duration = Duration::from_secs(1);

/// A command of several values (MSET) may be this many times as long as the longest value, and at most 1 GiB.
const VALUES_PER_COMMAND: usize = 4;

pub struct Gateway {
    pub config: Arc<Config>,
    pub coordinator: Coordinator,
    pub table: &'static CommandTable,
    pub clients: Arc<Clients>,
    pub stats: Stats,
    pub slowlog: Slowlog,
    pub latency: Monitor,
    pub pause: Pause,
    pub started_at: Instant,
    /// Where clients connect.
    pub port: u16,
    /// 40 hexadecimal digits, new at each start.
    pub run_id: String,
    status: Mutex<Option<(Instant, Arc<ClusterStatus>)>>,
    draining: AtomicBool,
    partial_bytes: AtomicUsize,
    http_warned_at: AtomicI64,
}

impl Gateway {
    pub fn new(
        config: Arc<Config>,
        coordinator: Coordinator,
        table: &'static CommandTable,
        port: u16,
    ) -> Self {
        Self {
            config,
            coordinator,
            table,
            clients: Arc::default(),
            stats: Stats::new(table),
            slowlog: Slowlog::default(),
            latency: Monitor::default(),
            pause: Pause::default(),
            started_at: Instant::now(),
            port,
            run_id: format!("{:032x}{:08x}", rand::random::<u128>(), rand::random::<u32>()),
            status: Mutex::default(),
            draining: AtomicBool::new(false),
            partial_bytes: AtomicUsize::new(0),
            http_warned_at: AtomicI64::new(0),
        }
    }

    pub fn limits(&self, authenticated: bool) -> Limits {
        let bulk_bytes_max = self.config.value_bytes_max;
        let command_bytes_max =
            (bulk_bytes_max.saturating_mul(VALUES_PER_COMMAND)).min(2 * Config::VALUE_BYTES_CEILING);
        Limits { authenticated, bulk_bytes_max, command_bytes_max }
    }

    /// The cluster as it was at most [`STATUS_AGE_MAX`] ago. To look at it costs a walk over all partitions, and many
    /// clients begin with INFO.
    pub fn recent_status(&self, now: Instant) -> Arc<ClusterStatus> {
        let mut kept = self.status.lock();
        match &*kept {
            Some((at, status)) if now.saturating_duration_since(*at) < STATUS_AGE_MAX => status.clone(),
            _ => {
                let status = Arc::new(self.coordinator.status());
                *kept = Some((now, status.clone()));
                status
            }
        }
    }

    /// Whether a new connection must authenticate.
    pub fn demands_password(&self) -> bool {
        self.config.password.is_some()
    }

    /// Without a password setting, the default user has none, and any will do (as in Redis).
    pub fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        let known = user == USER.as_bytes();
        known && self.config.password.as_ref().is_none_or(|secret| secret.matches(password))
    }

    /// From now on connections finish what is in flight and end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.clients.wake_all();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Bytes of incomplete commands, of all clients.
    pub fn partial_bytes(&self) -> usize {
        self.partial_bytes.load(Ordering::Relaxed)
    }

    /// One client's part of them was `before` and is `after`.
    pub fn change_partial_bytes(&self, before: usize, after: usize) {
        if after >= before {
            self.partial_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.partial_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Whether to warn of HTTP on the RESP port now: as in Redis, once a minute, for every page load makes many.
    pub fn may_warn_of_http(&self) -> bool {
        let (now, last) = (unix_seconds(), self.http_warned_at.load(Ordering::Relaxed));
        let claim =
            || self.http_warned_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        now - last >= 60 && claim()
    }
}

/// Unix time in seconds, for people.
pub fn unix_seconds() -> i64 {
    UnixMillis::now().0 / 1000
}
