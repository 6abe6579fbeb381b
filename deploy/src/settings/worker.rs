//! The settings of `tercet worker`.

use tercet_common::WorkerId;
use tercet_worker::Config;

use super::frontend::{cluster_id, value_bytes, virtual_nodes};
use super::process::Process;
use super::{
    Environment, Flags, Problems, Reader, Role, Setting, address, count, host_port, list, name, size, timeout,
};

/// More connections than this to one PostgreSQL make it slower, not faster.
const CONNECTIONS_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct WorkerRole;

impl Role for WorkerRole {
    const SETTINGS: &'static [Setting] = &[
        Setting::new("id", "NAME", "", "The worker's name in the ring, such as `w1`"),
        Setting::new(
            "postgres",
            "CONNECTION",
            "",
            "Its own PostgreSQL, which nobody else writes: `host=/run/postgresql user=tercet dbname=tercet` or a \
             postgresql:// URL",
        ),
        Setting::secret("postgres-password", "Beats the password in `postgres`"),
        Setting::new("frontends", "HOST:PORT,…", "127.0.0.1:7379", "Frontends to send heartbeats to"),
        Setting::new(
            "listen",
            "IP:PORT",
            "127.0.0.1:7380",
            "Where frontends connect (gRPC); port 0 takes a free one",
        ),
        Setting::new("advertise", "HOST:PORT", "", "What frontends are told to dial, if it is not `listen`"),
        Setting::new(
            "metrics-listen",
            "IP:PORT|off",
            "127.0.0.1:9380",
            "Where /metrics, /healthz and /readyz are served",
        ),
        Setting::new(
            "cluster-id",
            "NAME",
            "tercet",
            "Keeps clusters apart: a frontend of another is refused",
        ),
        Setting::secret(
            "cluster-secret",
            "Shared by all parts; a must where `listen` is not a loopback address",
        ),
        Setting::new("writers", "N", "2", "Connections that commit: one fsync overlaps the next batch"),
        Setting::new("readers", "N", "4", "Connections for reads and scans"),
        Setting::new("cache-bytes", "SIZE", "256MiB", "Memory for recent rows; 0 keeps none"),
        Setting::new("queue-bytes-max", "SIZE", "256MiB", "Bytes that may wait for a commit; above it BUSY"),
        Setting::new("queue-len-max", "N", "65536", "Requests that may wait for a commit; above it BUSY"),
        Setting::new("statement-timeout", "DURATION", "10s", "When a statement or commit ends"),
        Setting::new("connect-timeout", "DURATION", "3s", "When connecting to PostgreSQL ends"),
        Setting::new("heartbeat-interval", "DURATION", "2s", "How often it proves a commit and reports"),
        Setting::new("value-bytes-max", "SIZE", "64MiB", "Largest value, at most 512MiB; as on the frontend"),
        Setting::new("virtual-nodes", "N", "128", "Its weight on the ring"),
        Setting::new("zone", "NAME", "", "Failure zone; copies are spread over zones"),
    ];
}

/// The worker's configuration, or everything that is wrong with it.
pub(crate) fn read(
    flags: Flags<WorkerRole>,
    environment: &dyn Environment,
) -> Result<(Config, Process), Problems> {
    let mut r = Reader::new(flags, environment);
    let id = r.required("id", |text| WorkerId::new(text).map_err(|e| e.to_string()));
    let postgres = r.required("postgres", not_empty);
    // The rest is read even if one of these is missing, so that all problems are told at once.
    let missing = id.is_none() || postgres.is_none();
    let stand_in = || WorkerId::new("w").map_err(|error| error.to_string());
    let Ok(id) = id.map_or_else(stand_in, Ok) else { return r.finish(None) };
    let mut c = Config::new(id, postgres.unwrap_or_default());
    c.postgres_password = r.secret("postgres-password");
    r.apply("frontends", &mut c.frontends, |text| list(text, host_port));
    r.apply("listen", &mut c.grpc_listen, address);
    c.advertise = r.get("advertise", host_port);
    r.apply("metrics-listen", &mut c.metrics_listen, |text| match text {
        "off" => Ok(None),
        text => address(text).map(Some).map_err(|expected| format!("{expected}, or off")),
    });
    r.apply("cluster-id", &mut c.cluster_id, cluster_id);
    c.cluster_secret = r.secret("cluster-secret");
    r.apply("writers", &mut c.writers, connections);
    r.apply("readers", &mut c.readers, connections);
    r.apply("cache-bytes", &mut c.cache_bytes, crate::units::bytes);
    r.apply("queue-bytes-max", &mut c.queue_bytes_max, size);
    r.apply("queue-len-max", &mut c.queue_len_max, count);
    r.apply("statement-timeout", &mut c.statement_timeout, timeout);
    r.apply("connect-timeout", &mut c.connect_timeout, timeout);
    r.apply("heartbeat-interval", &mut c.heartbeat_interval, timeout);
    r.apply("value-bytes-max", &mut c.value_bytes_max, value_bytes);
    r.apply("virtual-nodes", &mut c.virtual_nodes, virtual_nodes);
    r.apply("zone", &mut c.zone, name);
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
    if c.grpc_listen.ip().is_unspecified() && c.advertise.is_none() {
        r.problem(format!(
            "`listen` is {}, which nobody can dial: set `advertise` (--advertise, TERCET_ADVERTISE) to the host:port \
             that frontends reach this worker by",
            c.grpc_listen
        ));
    }
    if c.queue_bytes_max < c.value_bytes_max {
        r.problem(
            "`queue-bytes-max` must be at least `value-bytes-max`, or the largest values are always BUSY",
        );
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("a connection string".to_owned()) } else { Ok(text.to_owned()) }
}

fn connections(text: &str) -> Result<usize, String> {
    count(text)
        .and_then(|n| if n <= CONNECTIONS_MAX { Ok(n) } else { Err(format!("1 to {CONNECTIONS_MAX}")) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::flags;
    use super::*;

    const LEAST: [(&str, &str); 2] = [("id", "w1"), ("postgres", "host=/x")];

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, String> {
        read(flags(pairs), &BTreeMap::new()).map(|(config, _)| config).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_in_the_help_are_the_library_s() {
        let mut pairs = LEAST.to_vec();
        pairs.extend(
            WorkerRole::SETTINGS.iter().filter(|s| !s.default.is_empty()).map(|s| (s.key, s.default)),
        );
        let library = Config::new(WorkerId::new("w1").unwrap(), "host=/x");
        assert_eq!(format!("{:?}", parse(&pairs).unwrap()), format!("{library:?}"));
        assert_eq!(format!("{:?}", parse(&LEAST).unwrap()), format!("{library:?}"));
    }

    #[test]
    fn every_setting_reaches_the_configuration() {
        let other = [
            ("id", "w9"),
            ("postgres", "host=/y"),
            ("postgres-password", "p"),
            ("frontends", "a:1,b:2"),
            ("listen", "0.0.0.0:1"),
            ("advertise", "w9:1"),
            ("metrics-listen", "off"),
            ("cluster-id", "c1"),
            ("cluster-secret", "s"),
            ("writers", "3"),
            ("readers", "5"),
            ("cache-bytes", "0"),
            ("queue-bytes-max", "1GiB"),
            ("queue-len-max", "9"),
            ("statement-timeout", "1s"),
            ("connect-timeout", "1s"),
            ("heartbeat-interval", "1s"),
            ("value-bytes-max", "1kB"),
            ("virtual-nodes", "64"),
            ("zone", "z"),
        ];
        assert_eq!(other.len(), WorkerRole::SETTINGS.len());
        let text = format!("{:?}", parse(&other).unwrap());
        for (i, pair) in other.iter().enumerate() {
            // Without `pair` the outcome differs, or the two that are required are missing.
            let rest: Vec<_> = other.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| *p).collect();
            assert_ne!(parse(&rest).map(|c| format!("{c:?}")).unwrap_or_default(), text, "{pair:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_all_at_once() {
        let text =
            parse(&[("id", "ü"), ("listen", "0.0.0.0:1"), ("writers", "65"), ("queue-bytes-max", "1")])
                .unwrap_err();
        for part in [
            "6 problems",
            "`id`",
            "`postgres` is missing",
            "cluster-secret",
            "advertise",
            "writers",
            "queue-bytes-max",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
