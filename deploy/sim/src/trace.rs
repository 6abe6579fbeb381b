//! What happened, in words.

use tercet_common::{Content, ReplicaReply, ReplicaRequest, Row};

use crate::agenda::{MILLISECOND, Time};

/// Where the words go.
pub enum Trace {
    Off,
    Print,
    Keep(Vec<String>),
}

impl Trace {
    pub fn say(&mut self, now: Time, what: impl FnOnce() -> String) {
        let line = |what: String| format!("{:>6}.{:03} {what}", now / MILLISECOND, now % MILLISECOND);
        match self {
            Self::Off => {}
            #[expect(clippy::print_stdout, reason = "this is what was asked for")]
            Self::Print => println!("{}", line(what())),
            Self::Keep(lines) => lines.push(line(what())),
        }
    }
}

fn show_row(row: &Row) -> String {
    let name = String::from_utf8_lossy(row.key.as_bytes()).into_owned();
    let content = match &row.content {
        Content::Tombstone => "deleted".to_owned(),
        Content::Value { data, expires_at, .. } => {
            let until = expires_at.map(|at| format!(" until {}", at.0 % 1_000_000)).unwrap_or_default();
            format!("{}{until}", String::from_utf8_lossy(data))
        }
    };
    format!("{name}@{}={content}", row.ballot)
}

pub fn show_request(request: &ReplicaRequest) -> String {
    let name = |key: &tercet_common::Key| String::from_utf8_lossy(key.as_bytes()).into_owned();
    match request {
        ReplicaRequest::Prepare { partition, promise } => {
            format!("prepare p{partition} {}", promise.ballot(0))
        }
        ReplicaRequest::Put { row } => format!("put {}", show_row(row)),
        ReplicaRequest::Get { key, digest, .. } => {
            format!("get {}{}", name(key), if *digest { " (digest)" } else { "" })
        }
        ReplicaRequest::GetForWrite { promise, key } => {
            format!("get-for-write {} {}", name(key), promise.ballot(0))
        }
        ReplicaRequest::Replicate { row, chosen, .. } => {
            format!("replicate {}{}", show_row(row), if *chosen { " (chosen)" } else { "" })
        }
        ReplicaRequest::Flush { partition, ballot, chosen, .. } => {
            format!("flush p{partition} {ballot}{}", if chosen.is_some() { " (chosen)" } else { "" })
        }
        ReplicaRequest::Promises { since } => format!("promises since {since}"),
        ReplicaRequest::Sync(request) => format!("{request:?}"),
    }
}

pub fn show_reply(reply: &ReplicaReply) -> String {
    match reply {
        ReplicaReply::Prepared { highest, .. } => format!("prepared, highest {highest}"),
        ReplicaReply::Stored => "stored".to_owned(),
        ReplicaReply::Version(held) => {
            held.row.as_ref().map_or_else(|| format!("holds {}", held.ballot), show_row)
        }
        ReplicaReply::Promises(promises) => {
            let raised = promises.raised.iter();
            let raised =
                raised.map(|(id, promise)| format!(" p{id} {}", promise.ballot(0))).collect::<String>();
            format!("promises up to {}:{raised}", promises.upto)
        }
        ReplicaReply::Synced(reply) => format!("{reply:?}"),
        ReplicaReply::Refused(refusal) => format!("refused: {refusal:?}"),
        ReplicaReply::Unknown => "unknown".to_owned(),
    }
}
