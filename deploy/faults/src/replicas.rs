//! Are the three copies of every key equal, row by row, in SQL?
//!
//! The highest ballot that any of a key's replicas holds is what all of them must hold, to the byte. For a tombstone some
//! may have collected it already: absent is as good. A row below its partition's flush counts as absent (worker/SCHEMA.md).
//! What a worker has in its redo log is not in the table yet, so it is waited for.
//!
//! Which workers are the replicas is what the newest ring configuration says that any of their databases holds. What
//! others have left over does not count.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use prost::Message;
use tercet_common::PartitionId;
use tercet_common::ring_config::RingConfig;
use tercet_proto::v1;
use tokio::time::Instant;

use crate::cluster::Cluster;

const POLL: Duration = Duration::from_millis(500);

const ROWS: &str = "SELECT e.partition, e.key, e.kind, e.epoch, e.n, e.incarnation, e.seq, e.expires_at,
        md5(e.value) AS value, md5(e.clock) AS clock
    FROM tercet.entry e JOIN tercet.partition p ON p.id = e.partition
    WHERE ROW(e.epoch, e.n, e.incarnation, e.seq)::tercet.ballot >= p.flush";

const LOGGED: &str = "SELECT EXISTS (SELECT FROM tercet.redo)";

const RING: &str = "SELECT ring FROM tercet.identity WHERE ring IS NOT NULL";

const TOMBSTONE: i16 = 0;

type Ballot = (i64, i64, i64, i64);
type Id = (i16, Vec<u8>);

/// One version of one key, as a worker holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    ballot: Ballot,
    kind: i16,
    expires_at: Option<i64>,
    value: Option<String>,
    clock: String,
}

type Copies = BTreeMap<Id, BTreeMap<String, Row>>;

/// What a comparison showed.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    /// Keys that any worker holds.
    pub(crate) keys: usize,
    /// Of all workers.
    pub(crate) rows: usize,
    /// Since it was begun; it was repeated as long as there were differences and time.
    pub(crate) took: Duration,
    pub(crate) differences: Vec<Difference>,
}

/// A key whose copies differ.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) key: String,
    pub(crate) text: String,
}

/// Compares until all copies are equal, or time is up.
pub(crate) async fn wait_until_equal(cluster: &Cluster, patience: Duration) -> anyhow::Result<Comparison> {
    let begun = Instant::now();
    loop {
        // A worker that settles ends our connection; then we ask again.
        match look(cluster).await {
            Ok((ring, copies)) => {
                let (differences, took) = (compare(&ring, &copies), begun.elapsed());
                if differences.is_empty() || took > patience {
                    let rows = copies.values().map(BTreeMap::len).sum();
                    return Ok(Comparison { keys: copies.len(), rows, took, differences });
                }
            }
            Err(error) if begun.elapsed() > patience => return Err(error.context("comparing copies")),
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The ring, and what every worker holds.
async fn look(cluster: &Cluster) -> anyhow::Result<(RingConfig, Copies)> {
    let reads = cluster.databases().iter().map(async |(worker, database)| {
        let client = database.connect().await?;
        let ring = ring(&client).await.with_context(|| format!("reading the ring of {worker}"))?;
        let logged: bool = client.query_one(LOGGED, &[]).await?.try_get(0)?;
        ensure!(!logged, "the table of {worker} is behind its log");
        let rows = client.query(ROWS, &[]).await.with_context(|| format!("reading the rows of {worker}"))?;
        anyhow::Ok((worker.clone(), ring, parse(&rows)?))
    });
    let (mut newest, mut copies) = (None::<RingConfig>, Copies::new());
    for (worker, ring, rows) in try_join_all(reads).await? {
        newest = newest.into_iter().chain(ring).max_by_key(|ring| ring.epoch);
        for (id, row) in rows {
            copies.entry(id).or_default().insert(worker.clone(), row);
        }
    }
    Ok((newest.context("no worker knows of a ring")?, copies))
}

async fn ring(client: &tokio_postgres::Client) -> anyhow::Result<Option<RingConfig>> {
    let Some(row) = client.query_opt(RING, &[]).await? else { return Ok(None) };
    decided(row.try_get(0)?)
}

/// The newest configuration that a worker knows to be decided, from what it keeps.
fn decided(bytes: &[u8]) -> anyhow::Result<Option<RingConfig>> {
    let record = v1::RegisterRecord::decode(bytes)?;
    let config = match (record.decided, record.vote) {
        (Some(config), _) => config,
        // It voted for the first one, and has not heard.
        (None, Some(_)) => return Ok(None),
        // From before configurations could change: there is nothing but the configuration.
        (None, None) => v1::RingConfiguration::decode(bytes)?,
    };
    Ok(Some(config.try_into()?))
}

/// What every worker holds of one key, as evidence.
pub(crate) async fn rows_of(cluster: &Cluster, key: &str) -> String {
    let mut text = String::new();
    for (worker, database) in cluster.databases() {
        let found = async {
            let client = database.connect().await?;
            let rows = client.query(&format!("{ROWS} AND e.key = $1"), &[&key.as_bytes()]).await?;
            parse(&rows)
        };
        let line = match found.await {
            Ok(rows) => rows.iter().map(|(_, row)| described(worker, row)).collect(),
            Err(error) => format!("{worker} cannot be asked: {error:#}"),
        };
        text.push_str(&format!(
            "  {}\n",
            if line.is_empty() { format!("{worker} has nothing") } else { line }
        ));
    }
    text
}

fn parse(rows: &[tokio_postgres::Row]) -> anyhow::Result<Vec<(Id, Row)>> {
    rows.iter()
        .map(|row| {
            let id = (row.try_get("partition")?, row.try_get("key")?);
            let ballot =
                (row.try_get("epoch")?, row.try_get("n")?, row.try_get("incarnation")?, row.try_get("seq")?);
            let kind = row.try_get("kind")?;
            let (expires_at, value) = (row.try_get("expires_at")?, row.try_get("value")?);
            Ok((id, Row { ballot, kind, expires_at, value, clock: row.try_get("clock")? }))
        })
        .collect()
}

fn compare(ring: &RingConfig, copies: &Copies) -> Vec<Difference> {
    let flaws = copies.iter().filter_map(|((partition, key), rows)| {
        let text = match u16::try_from(*partition).ok().and_then(PartitionId::new) {
            Some(id) => flaw(&replicas(ring, id), rows)?,
            None => "there is no such partition".to_owned(),
        };
        let key = key.escape_ascii().to_string();
        Some(Difference { text: format!("partition {partition}: {text}"), key })
    });
    flaws.collect()
}

/// Old and new ones, while a partition is changing hands.
fn replicas(ring: &RingConfig, partition: PartitionId) -> Vec<&str> {
    let everyone = ring.assignment(partition).everyone();
    everyone.iter().map(|member| ring.members[usize::from(*member)].id.as_str()).collect()
}

/// Why the copies of one key are not equal.
fn flaw(replicas: &[&str], rows: &BTreeMap<String, Row>) -> Option<String> {
    let highest = replicas.iter().filter_map(|worker| rows.get(*worker)).max_by_key(|row| row.ballot)?;
    let lacks = |worker: &&&str| match rows.get(**worker) {
        Some(row) => row != highest,
        None => highest.kind != TOMBSTONE,
    };
    let lacking: Vec<&str> = replicas.iter().filter(lacks).copied().collect();
    if lacking.is_empty() {
        return None;
    }
    let each: Vec<String> = rows.iter().map(|(worker, row)| described(worker, row)).collect();
    Some(format!("of {} not {}: {}", replicas.join(" "), lacking.join(" "), each.join("; ")))
}

fn described(worker: &str, row: &Row) -> String {
    let (epoch, n, incarnation, seq) = row.ballot;
    let kind = if row.kind == TOMBSTONE { "tombstone" } else { "value" };
    let value = row.value.as_deref().unwrap_or("–");
    let expires = row.expires_at.map(|at| format!(" expires {at}")).unwrap_or_default();
    let clock = &row.clock;
    format!("{worker} has {kind} {epoch}.{n}.{incarnation:x}.{seq} md5 {value}{expires} clock {clock}")
}

#[cfg(test)]
mod tests {
    use tercet_common::ring_config::Member;
    use tercet_common::{Epoch, WorkerId};

    use super::*;

    fn row(seq: i64, kind: i16) -> Row {
        let value = (kind != TOMBSTONE).then(|| format!("v{seq}"));
        Row { ballot: (1, 1, 7, seq), kind, expires_at: None, value, clock: format!("c{seq}") }
    }

    const REPLICAS: [&str; 3] = ["w1", "w2", "w3"];

    /// Rows of w1, w2 and so on, of which the first three are the replicas.
    fn flawed(rows: &[Row]) -> bool {
        let rows = rows.iter().zip(1..).map(|(row, n)| (format!("w{n}"), row.clone()));
        flaw(&REPLICAS, &rows.collect()).is_some()
    }

    #[test]
    fn values_must_be_on_all_replicas_and_equal() {
        assert!(!flawed(&[row(2, 1), row(2, 1), row(2, 1)]));
        assert!(flawed(&[row(2, 1), row(2, 1)]), "one copy is missing");
        assert!(flawed(&[row(2, 1), row(2, 1), row(1, 1)]), "one is old");
        let mut other = row(2, 1);
        other.value = Some("else".to_owned());
        assert!(flawed(&[row(2, 1), row(2, 1), other]), "same ballot, other value");
        let expiring = Row { expires_at: Some(5), ..row(2, 1) };
        assert!(flawed(&[row(2, 1), row(2, 1), expiring]), "same ballot, other expiry");
    }

    #[test]
    fn what_a_worker_left_over_does_not_count() {
        assert!(!flawed(&[row(2, 1), row(2, 1), row(2, 1), row(1, 1)]));
        assert!(flawed(&[row(2, 1), row(2, 1), row(1, 1), row(2, 1)]), "nor makes it up for a replica");
        let rows = BTreeMap::from([("w4".to_owned(), row(1, 1))]);
        assert_eq!(flaw(&REPLICAS, &rows), None, "collected by all replicas");
    }

    #[test]
    fn a_tombstone_may_be_collected_but_hides_no_value() {
        assert!(!flawed(&[row(2, 0), row(2, 0), row(2, 0)]));
        assert!(!flawed(&[row(2, 0)]));
        assert!(flawed(&[row(2, 0), row(2, 0), row(1, 1)]), "the dead may rise");
        assert!(flawed(&[row(2, 1), row(2, 1), row(1, 0)]), "a value that one has not heard of");
    }

    #[test]
    fn the_ring_is_read_as_workers_keep_it() {
        let ring = |epoch| {
            let members = REPLICAS.map(|id| Member::named(WorkerId::new(id).unwrap(), 128, ""));
            RingConfig::new("c", Epoch(epoch), 3, members.to_vec()).unwrap()
        };
        let record = |decided: Option<u64>, vote: Option<u64>| {
            let wire = |epoch| v1::RingConfiguration::from(&ring(epoch));
            v1::RegisterRecord { voted: None, vote: vote.map(wire), decided: decided.map(wire) }
                .encode_to_vec()
        };
        assert_eq!(decided(&record(Some(3), Some(4))).unwrap(), Some(ring(3)));
        assert_eq!(decided(&record(None, Some(1))).unwrap(), None);
        let alone = v1::RingConfiguration::from(&ring(1)).encode_to_vec();
        assert_eq!(decided(&alone).unwrap(), Some(ring(1)));
    }

    #[test]
    fn a_difference_names_key_and_workers() {
        let members = REPLICAS.map(|id| Member::named(WorkerId::new(id).unwrap(), 128, ""));
        let ring = RingConfig::new("c", Epoch(1), 3, members.to_vec()).unwrap();
        let rows = BTreeMap::from([("w1".to_owned(), row(2, 1)), ("w3".to_owned(), row(1, 0))]);
        let copies = Copies::from([((9, b"k\n".to_vec()), rows)]);
        let found = compare(&ring, &copies);
        assert_eq!(found[0].key, "k\\n");
        let text = &found[0].text;
        for part in ["partition 9: of ", "w1 has value 1.1.7.2", "w3 has tombstone 1.1.7.1"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
