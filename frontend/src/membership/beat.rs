//! One heartbeat, checked. What a worker says of itself goes into logs, metrics and dial attempts, so it is taken in
//! only within limits.

use http::uri::Authority;
use tercet_common::ring::{NAME_BYTES_MAX, VIRTUAL_NODES_MAX};
use tercet_common::worker_id::InvalidWorkerId;
use tercet_common::{RingConfig, WorkerId};
use tercet_proto::v1;

/// The longest address that a worker may announce: a host name of 253 bytes, a colon, a port.
pub const ADDRESS_BYTES_MAX: usize = 260;
/// The longest uuid and version text.
pub const TEXT_BYTES_MAX: usize = 64;

/// What a heartbeat says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub worker: WorkerId,
    pub identity: Identity,
    /// Where its Replica service is, `host:port`.
    pub address: String,
    /// The last journal seq that is durable, and that which was when it started.
    pub journal_seq: u64,
    pub opened_journal_seq: u64,
    /// How many frontends it beats to; 0 if it does not say.
    pub frontends: u32,
    pub zone: String,
    pub virtual_nodes: u32,
    pub version: String,
    pub report: Report,
}

/// Who the worker's data is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    /// Drawn when its database was first used.
    pub uuid: String,
    /// Grows with every start over the same data.
    pub boot_generation: u64,
}

/// How a worker says it fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Its PostgreSQL has committed for this very beat.
    pub database_commits: bool,
    pub commit_micros: u64,
    pub write_backlog: u64,
    pub disk_free_bytes: u64,
    pub disk_total_bytes: u64,
    pub pool_in_use: u32,
    pub pool_size: u32,
    pub read_only: bool,
    pub keys: u64,
}

/// Why a heartbeat is refused, whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeatError {
    #[error("this is a frontend of cluster `{ours}`, the worker belongs to cluster `{theirs}`")]
    OtherCluster { ours: String, theirs: String },
    #[error(transparent)]
    WorkerId(#[from] InvalidWorkerId),
    #[error("the address `{0}` cannot be dialled: it has to be `host:port`, as frontends reach the worker")]
    Address(String),
    #[error("the {what} has to be {min} to {max} bytes of printable ASCII without spaces")]
    Text { what: &'static str, min: usize, max: usize },
    #[error("{0} virtual nodes; 1 to {VIRTUAL_NODES_MAX} are allowed")]
    VirtualNodes(u32),
}

impl Beat {
    /// Checks a message from outside.
    pub fn from_wire(message: v1::HeartbeatRequest, cluster_id: &str) -> Result<Self, BeatError> {
        if message.cluster_id != cluster_id {
            let theirs = shown(&message.cluster_id);
            return Err(BeatError::OtherCluster { ours: cluster_id.to_owned(), theirs });
        }
        let worker = WorkerId::new(&message.worker_id)?;
        if !can_be_dialled(&message.address) {
            return Err(BeatError::Address(shown(&message.address)));
        }
        check_text("worker uuid", &message.worker_uuid, 1, TEXT_BYTES_MAX)?;
        check_text("version", &message.version, 0, TEXT_BYTES_MAX)?;
        check_text("zone", &message.zone, 0, NAME_BYTES_MAX)?;
        if !(1..=VIRTUAL_NODES_MAX).contains(&message.virtual_nodes) {
            return Err(BeatError::VirtualNodes(message.virtual_nodes));
        }
        let health = message.health.unwrap_or_default();
        Ok(Self {
            worker,
            identity: Identity { uuid: message.worker_uuid, boot_generation: message.boot_generation },
            address: message.address,
            journal_seq: message.journal_seq,
            opened_journal_seq: message.opened_journal_seq,
            frontends: message.frontends,
            zone: message.zone,
            virtual_nodes: message.virtual_nodes,
            version: message.version,
            report: Report {
                database_commits: health.database_commits,
                commit_micros: health.commit_micros,
                write_backlog: health.write_backlog,
                disk_free_bytes: health.disk_free_bytes,
                disk_total_bytes: health.disk_total_bytes,
                pool_in_use: health.pool_in_use,
                pool_size: health.pool_size,
                read_only: health.read_only,
                keys: health.keys,
            },
        })
    }
}

#[cfg(test)]
impl Beat {
    /// Of a worker to which nothing has happened yet.
    pub(super) fn plain(worker: &str, uuid: &str, boot_generation: u64) -> Self {
        Self {
            worker: WorkerId::new(worker).unwrap(),
            identity: Identity { uuid: uuid.to_owned(), boot_generation },
            address: format!("{worker}:7380"),
            journal_seq: 0,
            opened_journal_seq: 0,
            frontends: 1,
            zone: String::new(),
            virtual_nodes: 128,
            version: "1".to_owned(),
            report: Report { database_commits: true, ..Report::default() },
        }
    }
}

/// The beginning of a text from outside, for a message.
fn shown(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).collect()
}

fn check_text(what: &'static str, text: &str, min: usize, max: usize) -> Result<(), BeatError> {
    let ok = (min..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if ok { Ok(()) } else { Err(BeatError::Text { what, min, max }) }
}

/// `host:port`, not the unspecified address that a careless configuration announces.
fn can_be_dialled(address: &str) -> bool {
    if address.len() > ADDRESS_BYTES_MAX || address.contains('@') {
        return false;
    }
    let Ok(authority) = address.parse::<Authority>() else { return false };
    let host = authority.host().trim_matches(['[', ']']);
    let unspecified = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    !host.is_empty() && !unspecified && authority.port_u16().is_some_and(|port| port != 0)
}

/// A configuration in words that show how two of them differ: `w1, w2 (zone b), w3 (256 virtual nodes)`.
pub(super) fn described(config: &RingConfig) -> String {
    let usual = crate::Config::VIRTUAL_NODES;
    let member = |m: &tercet_common::Member| {
        let mut text = m.id.to_string();
        if m.virtual_nodes != usual {
            text += &format!(" ({} virtual nodes)", m.virtual_nodes);
        }
        if !m.zone.is_empty() {
            text += &format!(" (zone {})", m.zone);
        }
        text
    };
    let members: Vec<_> = config.members.iter().map(member).collect();
    format!("{}; {} replicas of cluster `{}`", members.join(", "), config.replicas, config.cluster_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            cluster_id: "tercet".to_owned(),
            worker_id: "w1".to_owned(),
            address: "db-1.example:7380".to_owned(),
            worker_uuid: "u-1".to_owned(),
            virtual_nodes: 128,
            ..Default::default()
        }
    }

    fn error(change: fn(&mut v1::HeartbeatRequest)) -> BeatError {
        let mut message = message();
        change(&mut message);
        Beat::from_wire(message, "tercet").unwrap_err()
    }

    #[test]
    fn a_plain_beat_is_taken() {
        let beat = Beat::from_wire(message(), "tercet").unwrap();
        assert_eq!((beat.worker.as_str(), beat.address.as_str()), ("w1", "db-1.example:7380"));
        assert!(!beat.report.database_commits, "no health report is no proof of a commit");
    }

    #[test]
    fn beats_over_a_limit_are_refused() {
        assert!(matches!(error(|m| m.cluster_id = "prod".to_owned()), BeatError::OtherCluster { .. }));
        assert!(matches!(error(|m| m.worker_id = "w 1".to_owned()), BeatError::WorkerId(_)));
        assert!(matches!(error(|m| m.worker_uuid = String::new()), BeatError::Text { .. }));
        assert!(matches!(error(|m| m.worker_uuid = "u".repeat(65)), BeatError::Text { .. }));
        assert!(matches!(error(|m| m.version = "1\n".to_owned()), BeatError::Text { .. }));
        assert!(matches!(error(|m| m.zone = "z".repeat(65)), BeatError::Text { .. }));
        assert_eq!(error(|m| m.virtual_nodes = 0), BeatError::VirtualNodes(0));
        assert_eq!(error(|m| m.virtual_nodes = 1 << 20), BeatError::VirtualNodes(1 << 20));
    }

    #[test]
    fn addresses_that_no_one_can_dial_are_refused() {
        for address in ["127.0.0.1:7380", "[::1]:7380", "worker:1"] {
            assert!(can_be_dialled(address), "{address}");
        }
        let long = format!("{}:1", "h".repeat(300));
        for address in ["", "host", "host:0", ":7380", "0.0.0.0:7380", "[::]:7380", "u@h:1", "h:1/p", &long] {
            assert!(!can_be_dialled(address), "{address}");
        }
    }
}
