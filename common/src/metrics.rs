//! Every metric of Tercet, defined once: name with unit, kind, labels, help, buckets.
//!
//! Code asks for handles with [`Metric::counter`], [`Metric::gauge`], [`Metric::histogram`] and keeps them: a look-up
//! by name does not belong on the hot path. Label values come from closed sets (commands, workers, reasons), never from
//! clients, so the number of series is bounded. The dashboards may only use what stands here; a test holds them to it.

use metrics::{Counter, Gauge, Histogram, Label};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With upper bounds in the metric's unit, as in [`Metric::buckets`].
    Histogram,
}

/// One metric family.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub buckets: &'static [f64],
}

/// From 100 µs, a cache hit on loopback, to 10 s, twice a request's deadline.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Powers of four up to the largest batch.
const ITEMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

macro_rules! metrics {
    ($( $(#[$doc:meta])* $ident:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal $(, $buckets:ident)? ;)*) => {
        $( $(#[$doc])* pub const $ident: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
            buckets: metrics!(@buckets $($buckets)?),
        }; )*
        /// All of them.
        pub const ALL: &[&Metric] = &[$(&$ident),*];
    };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
}

metrics! {
    // Frontend: clients.
    COMMANDS = Counter "tercet_commands_total" ["protocol", "command", "outcome"]
        "Commands answered, by protocol (resp, rest), command and outcome (ok, or the error's class).";
    COMMAND_SECONDS = Histogram "tercet_command_duration_seconds" ["protocol", "command"]
        "Time from a command's arrival to its answer.", SECONDS;
    CLIENTS = Gauge "tercet_clients" ["protocol"] "Connected clients.";
    CLIENTS_ACCEPTED = Counter "tercet_clients_accepted_total" ["protocol"] "Connections accepted.";
    CLIENTS_REFUSED = Counter "tercet_clients_refused_total" ["reason"]
        "Connections closed by Tercet, by reason (limit, protocol, protected, slow_reader).";
    CLIENT_BYTES = Counter "tercet_client_bytes_total" ["protocol", "direction"] "Bytes from (in) and to (out) clients.";

    // Frontend: coordinator.
    OPERATIONS = Counter "tercet_operations_total" ["kind", "outcome"]
        "Coordinator operations by kind (read, blind, update, flush) and outcome (ok, no_quorum, uncertain, busy, unavailable, refused).";
    OPERATION_SECONDS = Histogram "tercet_operation_duration_seconds" ["kind"]
        "Time from an operation's submission to its outcome.", SECONDS;
    OPERATIONS_IN_FLIGHT = Gauge "tercet_operations_in_flight" [] "Operations submitted and not answered.";
    COMBINED = Counter "tercet_combined_operations_total" []
        "Operations that shared another operation's put of the same key.";
    READ_REPAIRS = Counter "tercet_read_repairs_total" ["result"]
        "Stale replicas found by reads: replicated (a quorum held the version), rewritten (none did).";
    REPAIR_QUEUE = Gauge "tercet_repair_queue" ["worker"]
        "Keys and flushes that a quorum has and the worker missed, which wait to be repaired.";
    REPAIR_OVERFLOWS = Counter "tercet_repair_overflows_total" ["worker"]
        "Missed keys that the repair queue had no room for: they are repaired when they are read.";
    HEDGED_READS = Counter "tercet_hedged_reads_total" ["reason"]
        "Reads that asked the third replica, by reason (unequal, slow, failed).";
    REMEMBERED_READS = Counter "tercet_remembered_reads_total" ["result"]
        "Reads of keys that the owner remembers: proven (answered from memory), unproven (the replicas were asked after all).";
    TAKEOVERS = Counter "tercet_partition_takeovers_total" ["outcome"] "Partition take-overs that ended, by outcome (owned, failed).";
    PARTITIONS_OWNED = Gauge "tercet_partitions_owned" [] "Partitions that this frontend owns.";
    PARTITIONS_UNDER_REPLICATED = Gauge "tercet_partitions_under_replicated" [] "Partitions with an unreachable replica.";
    PARTITIONS_UNAVAILABLE = Gauge "tercet_partitions_unavailable" [] "Partitions without a reachable quorum.";
    CLOCK_CONFLICTS = Counter "tercet_clock_conflicts_total" []
        "Versions whose clock order contradicts their ballot order. Anything above zero is an alarm.";
    EXPIRED_KEYS = Counter "tercet_expired_keys_total" [] "Keys turned into tombstones at expiry.";
    READ_RESULTS = Counter "tercet_read_results_total" ["result"] "Reads by result (hit, miss).";

    // Frontend: replicas.
    REPLICA_CALLS = Counter "tercet_replica_calls_total" ["worker", "call", "outcome"]
        "Calls to replicas, by call (put, get, get_for_write, prepare, replicate, flush) and outcome (ok, refused, timeout, unreachable, unknown).";
    REPLICA_CALL_SECONDS = Histogram "tercet_replica_call_duration_seconds" ["worker", "call"]
        "Time from a replica call's submission to its reply.", SECONDS;
    REPLICA_BATCH = Histogram "tercet_replica_batch_requests" ["worker"] "Requests per batch sent to a replica.", ITEMS;
    REPLICA_CONNECTED = Gauge "tercet_replica_connected" ["worker"] "1 while the stream to the worker is up.";
    BREAKER_OPEN = Gauge "tercet_breaker_open" ["worker"] "1 while the circuit breaker keeps requests from the worker, 0.5 while it probes.";
    WORKER_HEALTH = Gauge "tercet_worker_health" ["worker"] "Failure detector's verdict: 3 alive, 2 suspect, 1 dead, 0 never seen.";
    WORKER_HEARTBEAT_AGE = Gauge "tercet_worker_heartbeat_age_seconds" ["worker"] "Time since the worker's last heartbeat.";
    RING_EPOCH = Gauge "tercet_ring_epoch" [] "Configuration number of the ring.";
    RING_OWNERSHIP = Gauge "tercet_ring_ownership_ratio" ["worker"] "Share of all replicas that the worker is to hold.";

    // Frontend: healing.
    HEALING_TASKS = Counter "tercet_healing_tasks_total" ["kind", "outcome"]
        "Healing tasks that ended, by kind (copy, touched, delta, collect, scrub) and outcome (done, failed, obsolete).";
    HEALING_BACKLOG = Gauge "tercet_healing_backlog" ["kind"]
        "Healing tasks that wait, by kind; for scrub, the partitions that this frontend has never compared.";
    HEALING_UNDER_WAY = Gauge "tercet_healing_tasks_under_way" [] "Healing tasks under way.";
    HEALING_OLDEST_COMPARE = Gauge "tercet_healing_oldest_compare_age_seconds" []
        "Time since the partition was compared that was compared longest ago.";
    COPIED_ROWS = Counter "tercet_copied_rows_total" ["result"]
        "Rows of partitions copied to new replicas, by result: sent, kept (the new replica had them), evicted (it had to give them up).";
    COPIED_BYTES = Counter "tercet_copied_bytes_total" [] "Bytes of rows sent to new replicas.";
    COMPARED_PARTITIONS = Counter "tercet_compared_partitions_total" ["result"]
        "Comparisons of all replicas of a partition, by result: equal, repaired.";
    COMPARED_ROWS = Counter "tercet_compared_rows_total" [] "Rows that comparisons of whole partitions looked at.";
    COMPARED_STRETCHES = Counter "tercet_compared_stretches_total" []
        "Stretches of partitions that were read row by row because their checksums differed.";
    REPAIRED_ROWS = Counter "tercet_repaired_rows_total" ["result"]
        "Rows that replicas lacked: replicated (a quorum held the version), rewritten (by the owner, as none did).";
    REPAIRED_BYTES = Counter "tercet_repaired_bytes_total" [] "Bytes of rows given to replicas that lacked them.";
    REPAIRED_FLUSHES = Counter "tercet_repaired_flushes_total" [] "Flushes given to replicas that lacked them.";
    JOURNAL_KEYS = Counter "tercet_journal_keys_total" [] "Keys that delta syncs found in the journals of peers.";
    COLLECTED_TOMBSTONES = Counter "tercet_collected_tombstones_total" [] "Tombstones deleted from all replicas.";

    // Worker.
    WORKER_REQUESTS = Counter "tercet_worker_requests_total" ["op", "outcome"]
        "Requests of frontends, by op (put, get, get_for_write, prepare, replicate, flush) and outcome (ok, refused, unknown).";
    WORKER_REQUEST_SECONDS = Histogram "tercet_worker_request_duration_seconds" ["op"]
        "Time from a request's arrival to its reply.", SECONDS;
    WORKER_QUEUE = Gauge "tercet_worker_queued_requests" ["queue"] "Requests that wait for a commit or a read.";
    COMMIT_SECONDS = Histogram "tercet_postgres_commit_duration_seconds" [] "Time of one group commit.", SECONDS;
    COMMIT_ROWS = Histogram "tercet_postgres_commit_rows" [] "Rows per group commit.", ITEMS;
    COMMITS = Counter "tercet_postgres_commits_total" ["outcome"] "Group commits by outcome (committed, aborted, unknown).";
    REDO_ROWS = Gauge "tercet_postgres_redo_rows" [] "Committed rows that are in the redo log and not in the table yet.";
    REDO_BYTES = Gauge "tercet_postgres_redo_bytes" [] "Length of the redo log that a restart would apply.";
    REDO_APPLIED_ROWS = Counter "tercet_postgres_redo_applied_rows_total" [] "Rows that went from the redo log to the table.";
    POSTGRES_READ_SECONDS = Histogram "tercet_postgres_read_duration_seconds" [] "Time of one batch of cache misses.", SECONDS;
    POSTGRES_CONNECTED = Gauge "tercet_postgres_connected" [] "1 while the worker may use its database.";
    POSTGRES_RECONNECTS = Counter "tercet_postgres_reconnects_total" [] "Times the worker lost its database and connected again.";
    POOL_CONNECTIONS = Gauge "tercet_postgres_pool_connections" ["state"] "Connections of the pool, by state (idle, in_use).";
    POOL_WAIT_SECONDS = Histogram "tercet_postgres_pool_wait_seconds" [] "Time spent waiting for a pooled connection.", SECONDS;
    CACHE_READS = Counter "tercet_worker_cache_reads_total" ["result"] "Row look-ups in the cache by result (hit, miss).";
    CACHE_BYTES = Gauge "tercet_worker_cache_bytes" [] "Bytes of rows in the cache.";
    CACHE_ROWS = Gauge "tercet_worker_cache_rows" [] "Rows in the cache.";
    JOURNAL_SEQ = Gauge "tercet_worker_journal_seq" [] "Last durable journal seq.";
    DISK_FREE_BYTES = Gauge "tercet_worker_disk_free_bytes" [] "Free bytes where PostgreSQL keeps its data, if the worker can see it.";
    READ_ONLY = Gauge "tercet_worker_read_only" [] "1 while the worker refuses writes (disk full).";

    // Both.
    BUILD_INFO = Gauge "tercet_build_info" ["version", "role"] "Always 1; the labels say what runs.";
}

impl Metric {
    fn key(&self, kind: Kind, values: &[&str]) -> metrics::Key {
        debug_assert_eq!(self.kind, kind, "{}", self.name);
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        let labels = self.labels.iter().zip(values).map(|(k, v)| Label::new(*k, (*v).to_owned()));
        metrics::Key::from_parts(self.name, labels.collect::<Vec<_>>())
    }

    /// A handle; `values` in the order of [`Metric::labels`].
    pub fn counter(&self, values: &[&str]) -> Counter {
        metrics::with_recorder(|r| r.register_counter(&self.key(Kind::Counter, values), &METADATA))
    }

    pub fn gauge(&self, values: &[&str]) -> Gauge {
        metrics::with_recorder(|r| r.register_gauge(&self.key(Kind::Gauge, values), &METADATA))
    }

    pub fn histogram(&self, values: &[&str]) -> Histogram {
        metrics::with_recorder(|r| r.register_histogram(&self.key(Kind::Histogram, values), &METADATA))
    }
}

const METADATA: metrics::Metadata<'static> =
    metrics::Metadata::new("tercet", metrics::Level::INFO, Some(module_path!()));

/// Installs the process's recorder and describes every metric. The caller runs [`PrometheusHandle::run_upkeep`] every
/// few seconds and renders the handle at `/metrics`. A second call in one process fails.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL.iter().filter(|m| m.kind == Kind::Histogram) {
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), metric.buckets)?;
    }
    let handle = builder.install_recorder()?;
    for metric in ALL {
        metrics::with_recorder(|r| {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => r.describe_counter(name, None, help),
                Kind::Gauge => r.describe_gauge(name, None, help),
                Kind::Histogram => r.describe_histogram(name, None, help),
            }
        });
    }
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_their_unit() {
        let names: HashSet<_> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Histogram, !metric.buckets.is_empty(), "{}", metric.name);
            assert!(metric.buckets.is_sorted(), "{}", metric.name);
            assert!(metric.help.ends_with('.') && metric.name.starts_with("tercet_"), "{}", metric.name);
        }
    }
}
