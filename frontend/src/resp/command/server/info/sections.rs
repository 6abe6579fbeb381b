//! The sections and their fields. Fields are what monitoring tools and client libraries look for, where there is a true
//! answer; `tercet_*` fields are our own.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::process;
use crate::coordinator::KeyCount;
use crate::coordinator::status::ClusterStatus;
use crate::resp::gateway::{Gateway, REDIS_VERSION};

/// What the sections are made of.
pub(super) struct Facts<'a> {
    pub gateway: &'a Gateway,
    pub status: Arc<ClusterStatus>,
    pub keys: Option<KeyCount>,
}

pub(super) struct Section {
    pub name: &'static str,
    pub title: &'static str,
    /// Part of a bare INFO.
    pub by_default: bool,
    pub write: fn(&Facts<'_>, &mut String),
}

const fn section(
    name: &'static str,
    title: &'static str,
    by_default: bool,
    write: fn(&Facts<'_>, &mut String),
) -> Section {
    Section { name, title, by_default, write }
}

pub(super) const SECTIONS: &[Section] = &[
    section("server", "Server", true, server),
    section("clients", "Clients", true, clients),
    section("memory", "Memory", true, memory),
    section("persistence", "Persistence", true, persistence),
    section("stats", "Stats", true, stats),
    section("replication", "Replication", true, replication),
    section("cpu", "CPU", true, cpu),
    section("modules", "Modules", true, |_, _| {}),
    section("commandstats", "Commandstats", false, command_stats),
    section("errorstats", "Errorstats", true, error_stats),
    section("latencystats", "Latencystats", false, latency_stats),
    section("cluster", "Cluster", true, cluster),
    section("keyspace", "Keyspace", true, keyspace),
];

fn field(out: &mut String, name: &str, value: impl Display) {
    // Writing to a string does not fail.
    let _ = write!(out, "{name}:{value}\r\n");
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn server(facts: &Facts<'_>, out: &mut String) {
    let gateway = facts.gateway;
    let uptime = gateway.started_at.elapsed().as_secs();
    field(out, "redis_version", REDIS_VERSION);
    field(out, "tercet_version", env!("CARGO_PKG_VERSION"));
    field(out, "redis_mode", "standalone");
    field(out, "os", format_args!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    field(out, "arch_bits", usize::BITS);
    field(out, "multiplexing_api", "tokio");
    field(out, "process_id", std::process::id());
    field(out, "run_id", &gateway.run_id);
    field(out, "tcp_port", gateway.port);
    field(out, "server_time_usec", tercet_common::UnixMillis::now().0 * 1000);
    field(out, "uptime_in_seconds", uptime);
    field(out, "uptime_in_days", uptime / 86_400);
    field(out, "tercet_incarnation", &facts.status.incarnation);
}

fn clients(facts: &Facts<'_>, out: &mut String) {
    field(out, "connected_clients", facts.gateway.clients.len());
    field(out, "cluster_connections", 0);
    field(out, "maxclients", facts.gateway.config.clients_max);
    field(out, "blocked_clients", 0);
    field(out, "tracking_clients", 0);
}

fn memory(_: &Facts<'_>, out: &mut String) {
    let resident = process::resident_bytes();
    let human = human_bytes(resident);
    // The frontend holds no data: its own memory is all there is to report.
    field(out, "used_memory", resident);
    field(out, "used_memory_human", &human);
    field(out, "used_memory_rss", resident);
    field(out, "used_memory_rss_human", &human);
    field(out, "maxmemory", 0);
    field(out, "maxmemory_human", "0B");
    field(out, "maxmemory_policy", "noeviction");
}

fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if value < 1024.0 {
            return format!("{value:.2}{unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.2}T")
}

fn persistence(facts: &Facts<'_>, out: &mut String) {
    // Clients that wait for the end of loading wait for the cluster to form.
    field(out, "loading", u8::from(facts.status.epoch == 0));
    field(out, "async_loading", 0);
    field(out, "rdb_changes_since_last_save", 0);
    field(out, "rdb_bgsave_in_progress", 0);
    field(out, "rdb_last_bgsave_status", "ok");
    field(out, "aof_enabled", 1);
    field(out, "aof_rewrite_in_progress", 0);
    field(out, "aof_last_write_status", "ok");
}

fn stats(facts: &Facts<'_>, out: &mut String) {
    let stats = &facts.gateway.stats;
    let rates = stats.rates();
    field(out, "total_connections_received", load(&stats.connections));
    field(out, "total_commands_processed", load(&stats.processed));
    field(out, "instantaneous_ops_per_sec", format_args!("{:.0}", rates.ops));
    field(out, "total_net_input_bytes", load(&stats.bytes_in));
    field(out, "total_net_output_bytes", load(&stats.bytes_out));
    field(out, "instantaneous_input_kbps", format_args!("{:.2}", rates.bytes_in / 1024.0));
    field(out, "instantaneous_output_kbps", format_args!("{:.2}", rates.bytes_out / 1024.0));
    field(out, "rejected_connections", load(&stats.connections_rejected));
    field(out, "expired_keys", facts.status.expired_keys);
    field(out, "evicted_keys", 0);
    field(out, "keyspace_hits", load(&stats.hits));
    field(out, "keyspace_misses", load(&stats.misses));
    field(out, "pubsub_channels", 0);
    field(out, "pubsub_patterns", 0);
    field(out, "total_error_replies", load(&stats.errors));
}

fn replication(facts: &Facts<'_>, out: &mut String) {
    field(out, "role", "master");
    field(out, "connected_slaves", 0);
    field(out, "master_failover_state", "no-failover");
    field(out, "master_replid", &facts.gateway.run_id);
    field(out, "master_repl_offset", 0);
    field(out, "second_repl_offset", -1);
    field(out, "repl_backlog_active", 0);
    field(out, "tercet_replicas_per_key", facts.status.replicas);
}

fn cpu(_: &Facts<'_>, out: &mut String) {
    let (system, user) = process::cpu_times();
    field(out, "used_cpu_sys", format_args!("{:.6}", system.as_secs_f64()));
    field(out, "used_cpu_user", format_args!("{:.6}", user.as_secs_f64()));
}

fn cluster(facts: &Facts<'_>, out: &mut String) {
    let ClusterStatus { ready, epoch, workers, partitions, .. } = &*facts.status;
    field(out, "cluster_enabled", 0);
    field(out, "tercet_ready", u8::from(*ready));
    field(out, "tercet_ring_epoch", epoch);
    field(out, "tercet_workers", workers.len());
    field(out, "tercet_partitions_under_replicated", partitions.under_replicated);
    field(out, "tercet_partitions_unavailable", partitions.unavailable);
}

fn keyspace(facts: &Facts<'_>, out: &mut String) {
    if let Some(keys) = facts.keys.as_ref().filter(|keys| keys.live > 0) {
        field(out, "db0", format_args!("keys={},expires={},avg_ttl=0", keys.live, keys.expiring));
    }
}

fn command_stats(facts: &Facts<'_>, out: &mut String) {
    for entry in facts.gateway.table.entries() {
        let stats = facts.gateway.stats.command(entry.id);
        let (calls, micros) = (load(&stats.calls), load(&stats.micros));
        let (rejected, failed) = (load(&stats.rejected), load(&stats.failed));
        if calls + rejected + failed == 0 {
            continue;
        }
        let per_call = if calls == 0 { 0.0 } else { micros as f64 / calls as f64 };
        let numbers = format_args!(
            "calls={calls},usec={micros},usec_per_call={per_call:.2},rejected_calls={rejected},failed_calls={failed}"
        )
        .to_string();
        field(out, &format!("cmdstat_{}", entry.name), numbers);
    }
}

fn error_stats(facts: &Facts<'_>, out: &mut String) {
    for (prefix, count) in facts.gateway.stats.errors_by_prefix() {
        field(out, &format!("errorstat_{prefix}"), format_args!("count={count}"));
    }
}

fn latency_stats(facts: &Facts<'_>, out: &mut String) {
    for entry in facts.gateway.table.entries() {
        let stats = facts.gateway.stats.command(entry.id);
        let Some(histogram) = stats.histogram().filter(|histogram| histogram.count() > 0) else { continue };
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| histogram.percentile(share) as f64);
        let percentiles = format!("p50={p50:.3},p99={p99:.3},p99.9={p999:.3}");
        field(out, &format!("latency_percentiles_usec_{}", entry.name), percentiles);
    }
}
