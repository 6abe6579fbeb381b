//! The settings of `tercet frontend`.

use tercet_common::WorkerId;
use tercet_frontend::Config;
use tercet_frontend::config::{RingWorker, Secret};

use super::process::Process;
use super::{
    Environment, Flags, Problems, Reader, Role, Setting, address, count, list, name, size, timeout, yes_no,
};

/// Every key has three copies on different workers.
pub(crate) const WORKERS_MIN: usize = 3;
/// The ring has 1024 partitions; beyond this a worker would be first in none.
pub(crate) const WORKERS_MAX: usize = 1024;
const VIRTUAL_NODES_MAX: u32 = 4096;

#[derive(Clone, Debug)]
pub(crate) struct FrontendRole;

impl Role for FrontendRole {
    const SETTINGS: &'static [Setting] = &[
        Setting::new(
            "workers",
            "ID[=VNODES][@ZONE],…",
            "",
            "The workers of the first ring, at least three, e.g. `w1,w2,w3` or `w1=128@a,w2=128@b,w3=256@c`",
        ),
        Setting::new("resp", "IP:PORT", "127.0.0.1:6379", "Where Redis clients connect"),
        Setting::new(
            "rest",
            "IP:PORT",
            "127.0.0.1:8080",
            "Where REST clients, metrics and health checks connect",
        ),
        Setting::new("listen", "IP:PORT", "127.0.0.1:7379", "Where workers send heartbeats (gRPC)"),
        Setting::secret("password", "Demanded from clients: AUTH in Redis, `Authorization: Bearer` in REST"),
        Setting::new(
            "protected-mode",
            "YES|NO",
            "yes",
            "Without a password, refuse clients on an address that is not loopback",
        ),
        Setting::new(
            "cluster-id",
            "NAME",
            "tercet",
            "Keeps clusters apart: workers refuse a frontend of another",
        ),
        Setting::secret(
            "cluster-secret",
            "Shared by all parts; a must where `listen` is not a loopback address",
        ),
        Setting::new("clients-max", "N", "10000", "Client connections at once"),
        Setting::new("pipeline-max", "N", "1024", "Commands of one connection in flight at once"),
        Setting::new("value-bytes-max", "SIZE", "64MiB", "Largest value, at most 512MiB"),
        Setting::new("recall-bytes", "SIZE", "128MiB", "Memory for recent versions of keys; 0 keeps none"),
        Setting::new("hedge-after", "DURATION", "50ms", "When a read asks the third replica as well"),
        Setting::new(
            "replica-timeout",
            "DURATION",
            "500ms",
            "When a call to a replica ends, plus a second per 16 MiB of it",
        ),
        Setting::new("request-timeout", "DURATION", "5s", "When a client's command ends"),
        Setting::new("operations-max", "N", "100000", "Operations in flight; above it clients get BUSY"),
        Setting::new(
            "operation-bytes-max",
            "SIZE",
            "1GiB",
            "Bytes of operations in flight; above it clients get BUSY",
        ),
        Setting::new("heartbeat-timeout", "DURATION", "6s", "Silence after which a worker counts as dead"),
        Setting::new("sweep-interval", "DURATION", "1s", "How often expired keys are looked for"),
    ];
}

/// The frontend's configuration, or everything that is wrong with it.
pub(crate) fn read(
    flags: Flags<FrontendRole>,
    environment: &dyn Environment,
) -> Result<(Config, Process), Problems> {
    let mut r = Reader::new(flags, environment);
    let workers = r.required("workers", ring);
    let missing = workers.is_none();
    let mut c = Config::new(workers.unwrap_or_default());
    r.apply("resp", &mut c.resp_listen, address);
    r.apply("rest", &mut c.rest_listen, address);
    r.apply("listen", &mut c.grpc_listen, address);
    c.password = r.secret("password").map(Secret::new);
    r.apply("protected-mode", &mut c.protected_mode, yes_no);
    r.apply("cluster-id", &mut c.cluster_id, cluster_id);
    c.cluster_secret = r.secret("cluster-secret").map(Secret::new);
    r.apply("clients-max", &mut c.clients_max, count);
    r.apply("pipeline-max", &mut c.pipeline_max, count);
    r.apply("value-bytes-max", &mut c.value_bytes_max, value_bytes);
    r.apply("recall-bytes", &mut c.recall_bytes, crate::units::bytes);
    r.apply("hedge-after", &mut c.hedge_after, timeout);
    r.apply("replica-timeout", &mut c.replica_timeout, timeout);
    r.apply("request-timeout", &mut c.request_timeout, timeout);
    r.apply("operations-max", &mut c.operations_max, count);
    r.apply("operation-bytes-max", &mut c.operation_bytes_max, size);
    r.apply("heartbeat-timeout", &mut c.heartbeat_timeout, timeout);
    r.apply("sweep-interval", &mut c.sweep_interval, timeout);
    let process = Process::read(&mut r);
    relations(&mut r, &c);
    r.finish((!missing).then_some((c, process)))
}

/// What no setting can say alone.
fn relations(r: &mut Reader<'_>, c: &Config) {
    if !c.grpc_listen.ip().is_loopback() && c.cluster_secret.is_none() {
        r.problem(format!(
            "`listen` is {}, which other machines can reach: set `cluster-secret` (--cluster-secret-file, \
             TERCET_CLUSTER_SECRET_FILE) to the same text on every part",
            c.grpc_listen
        ));
    }
    if c.hedge_after >= c.replica_timeout {
        r.problem("`hedge-after` must be below `replica-timeout`, or the third replica is never asked");
    }
    if c.replica_timeout >= c.request_timeout {
        r.problem(
            "`replica-timeout` must be below `request-timeout`, or a hung replica costs clients an error",
        );
    }
    if c.operation_bytes_max < c.value_bytes_max {
        r.problem(
            "`operation-bytes-max` must be at least `value-bytes-max`, or the largest values are always BUSY",
        );
    }
    let listens = [("resp", c.resp_listen), ("rest", c.rest_listen), ("listen", c.grpc_listen)];
    for (i, (a, address)) in listens.iter().enumerate() {
        for (b, other) in &listens[i + 1..] {
            if address == other && address.port() != 0 {
                r.problem(format!("`{a}` and `{b}` are both {address}"));
            }
        }
    }
}

/// The cluster id is kept by workers, so it must be a name they accept.
pub(crate) fn cluster_id(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a name".to_owned()) } else { name(text) }
}

pub(crate) fn value_bytes(text: &str) -> Result<usize, String> {
    size(text)
        .and_then(|n| if n <= Config::VALUE_BYTES_CEILING { Ok(n) } else { Err("at most 512MiB".to_owned()) })
}

pub(crate) fn virtual_nodes(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=VIRTUAL_NODES_MAX).contains(n))
        .ok_or_else(|| format!("1 to {VIRTUAL_NODES_MAX} virtual nodes"))
}

fn ring(text: &str) -> Result<Vec<RingWorker>, String> {
    let workers = list(text, ring_worker)?;
    let distinct: std::collections::HashSet<_> = workers.iter().map(|w| &w.id).collect();
    if distinct.len() != workers.len() {
        return Err("every worker once".to_owned());
    }
    if !(WORKERS_MIN..=WORKERS_MAX).contains(&workers.len()) {
        return Err(format!(
            "{WORKERS_MIN} to {WORKERS_MAX} workers: every key has three copies on different ones"
        ));
    }
    Ok(workers)
}

fn ring_worker(text: &str) -> Result<RingWorker, String> {
    let (text, zone) = match text.split_once('@') {
        Some((text, zone)) => (text, name(zone)?),
        None => (text, String::new()),
    };
    let (id, virtual_nodes) = match text.split_once('=') {
        Some((id, number)) => (id, virtual_nodes(number)?),
        None => (text, Config::VIRTUAL_NODES),
    };
    let id = WorkerId::new(id).map_err(|error| error.to_string())?;
    Ok(RingWorker { id, virtual_nodes, zone })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::flags;
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, String> {
        read(flags(pairs), &BTreeMap::new()).map(|(config, _)| config).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_in_the_help_are_the_library_s() {
        let mut pairs = vec![("workers", "w1,w2,w3")];
        let texts =
            FrontendRole::SETTINGS.iter().filter(|s| !s.default.is_empty()).map(|s| (s.key, s.default));
        pairs.extend(texts);
        let library = parse(&[("workers", "w1,w2,w3")]).unwrap();
        assert_eq!(format!("{:?}", parse(&pairs).unwrap()), format!("{library:?}"));
        assert_eq!(format!("{library:?}"), format!("{:?}", Config::new(library.workers.clone())));
    }

    #[test]
    fn every_setting_reaches_the_configuration() {
        let other = [
            ("workers", "a=7@x,b,c"),
            ("resp", "[::1]:1"),
            ("rest", "[::1]:2"),
            ("listen", "[::1]:3"),
            ("password", "p"),
            ("protected-mode", "no"),
            ("cluster-id", "c1"),
            ("cluster-secret", "s"),
            ("clients-max", "4"),
            ("pipeline-max", "5"),
            ("value-bytes-max", "6kB"),
            ("recall-bytes", "0"),
            ("hedge-after", "7ms"),
            ("replica-timeout", "8ms"),
            ("request-timeout", "9ms"),
            ("operations-max", "10"),
            ("operation-bytes-max", "11kB"),
            ("heartbeat-timeout", "12s"),
            ("sweep-interval", "13s"),
        ];
        assert_eq!(other.len(), FrontendRole::SETTINGS.len());
        let before = format!("{:#?}", parse(&[("workers", "w1,w2,w3")]).unwrap());
        let config = parse(&other).unwrap();
        assert_eq!(config.workers[0].virtual_nodes, 7);
        assert_eq!(config.workers[0].zone, "x");
        let after = format!("{config:#?}");
        // Top-level fields of the pretty print: each one changed.
        let fields = |text: &str| -> Vec<String> {
            text.split("\n    ").filter(|l| !l.starts_with([' ', ']', ')'])).map(str::to_owned).collect()
        };
        for (b, a) in fields(&before).iter().zip(&fields(&after)).skip(1) {
            assert!(b != a || b.starts_with("workers"), "unchanged: {b}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_all_at_once() {
        let text = parse(&[
            ("listen", "0.0.0.0:7379"),
            ("hedge-after", "2s"),
            ("replica-timeout", "1s"),
            ("request-timeout", "1s"),
            ("value-bytes-max", "2GiB"),
            ("rest", "127.0.0.1:6379"),
            ("clients-max", "0"),
        ])
        .unwrap_err();
        for part in [
            "7 problems",
            "`workers` is missing",
            "cluster-secret",
            "third replica",
            "hung replica",
            "512MiB",
            "both 127.0.0.1:6379",
            "clients-max",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn rings() {
        assert_eq!(ring("w1, w2 ,w3").unwrap().len(), 3);
        for text in
            ["w1,w2", "w1,w2,w2", "w1,w2,w2=5", "w1,w2,-x", "w1,w2,w3=0", "w1,w2,w3=9999", "w1,w2,w3@ü", ""]
        {
            assert!(ring(text).is_err(), "{text}");
        }
    }
}
