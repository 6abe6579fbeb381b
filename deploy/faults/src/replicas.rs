//! Are the three copies of every key equal, row by row, in SQL?
//!
//! The highest ballot that any worker holds for a key is what all its replicas must hold, to the byte. For a value that
//! means three workers. For a tombstone, some may have collected it already: absent is as good. A row below its
//! partition's flush counts as absent (worker/SCHEMA.md).
//!
//! Which workers are a key's replicas is not asked: a value must be on enough workers, and no worker may hold an older row.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::database::Database;

/// Copies of every key.
const REPLICAS: usize = 3;
const POLL: Duration = Duration::from_millis(500);

const ROWS: &str = "SELECT e.partition, e.key, e.kind, e.epoch, e.n, e.incarnation, e.seq, e.expires_at,
        md5(e.value) AS value, md5(e.clock) AS clock
    FROM tercet.entry e JOIN tercet.partition p ON p.id = e.partition
    WHERE ROW(e.epoch, e.n, e.incarnation, e.seq)::tercet.ballot >= p.flush";

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
        match copies(cluster).await {
            Ok(copies) => {
                let (differences, took) = (compare(&copies), begun.elapsed());
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

async fn copies(cluster: &Cluster) -> anyhow::Result<Copies> {
    let reads = cluster.databases().iter().map(async |(worker, database)| {
        let rows = rows(database).await.with_context(|| format!("reading the rows of {worker}"))?;
        anyhow::Ok((worker.clone(), rows))
    });
    let mut copies = Copies::new();
    for (worker, rows) in try_join_all(reads).await? {
        for (id, row) in rows {
            copies.entry(id).or_default().insert(worker.clone(), row);
        }
    }
    Ok(copies)
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

async fn rows(database: &Database) -> anyhow::Result<Vec<(Id, Row)>> {
    parse(&database.connect().await?.query(ROWS, &[]).await?)
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

fn compare(copies: &Copies) -> Vec<Difference> {
    let flaws = copies.iter().filter_map(|((partition, key), rows)| {
        let text = flaw(rows)?;
        let key = key.escape_ascii().to_string();
        Some(Difference { text: format!("partition {partition}: {text}"), key })
    });
    flaws.collect()
}

/// Why the copies of one key are not equal.
fn flaw(rows: &BTreeMap<String, Row>) -> Option<String> {
    let highest = rows.values().max_by_key(|row| row.ballot)?;
    let all_equal = rows.values().all(|row| row == highest);
    let enough = highest.kind == TOMBSTONE || rows.len() >= REPLICAS;
    if all_equal && enough {
        return None;
    }
    let each = rows.iter().map(|(worker, row)| described(worker, row));
    Some(each.collect::<Vec<_>>().join("; "))
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
    use super::*;

    fn row(seq: i64, kind: i16) -> Row {
        let value = (kind != TOMBSTONE).then(|| format!("v{seq}"));
        Row { ballot: (1, 1, 7, seq), kind, expires_at: None, value, clock: format!("c{seq}") }
    }

    fn flawed(rows: &[Row]) -> bool {
        let rows = rows.iter().enumerate().map(|(n, row)| (format!("w{n}"), row.clone()));
        flaw(&rows.collect()).is_some()
    }

    #[test]
    fn values_must_be_on_three_workers_and_equal() {
        assert!(!flawed(&[row(2, 1), row(2, 1), row(2, 1)]));
        assert!(flawed(&[row(2, 1), row(2, 1)]), "one copy is missing");
        assert!(flawed(&[row(2, 1), row(2, 1), row(1, 1)]), "one is old");
        assert!(flawed(&[row(2, 1), row(2, 1), row(2, 1), row(1, 1)]), "an old one is left over");
        let mut other = row(2, 1);
        other.value = Some("else".to_owned());
        assert!(flawed(&[row(2, 1), row(2, 1), other]), "same ballot, other value");
        let expiring = Row { expires_at: Some(5), ..row(2, 1) };
        assert!(flawed(&[row(2, 1), row(2, 1), expiring]), "same ballot, other expiry");
    }

    #[test]
    fn a_tombstone_may_be_collected_but_hides_no_value() {
        assert!(!flawed(&[row(2, 0), row(2, 0), row(2, 0)]));
        assert!(!flawed(&[row(2, 0)]));
        assert!(flawed(&[row(2, 0), row(2, 0), row(1, 1)]), "the dead may rise");
        assert!(flawed(&[row(2, 1), row(2, 1), row(1, 0)]), "a value that one has not heard of");
    }

    #[test]
    fn a_difference_names_key_and_workers() {
        let rows = BTreeMap::from([("w1".to_owned(), row(2, 1)), ("w3".to_owned(), row(1, 0))]);
        let copies = Copies::from([((9, b"k\n".to_vec()), rows)]);
        let found = compare(&copies);
        assert_eq!(found[0].key, "k\\n");
        let text = &found[0].text;
        assert!(text.starts_with("partition 9: w1 has value 1.1.7.2"), "{text}");
        assert!(text.contains("w3 has tombstone 1.1.7.1"), "{text}");
    }
}
