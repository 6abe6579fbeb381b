//! Ballots without values. On read-only connections, like all that only reads.

use std::sync::LazyLock;

use tercet_common::sync::{DigestEntry, SUMMARY_ROWS_MAX};
use tercet_common::{KeyHash, PartitionId};
use tokio_postgres::Row as Stored;
use tokio_postgres::types::ToSql;

use super::super::{StoreError, Stretch, merge};
use super::Session;
use super::columns::{HashColumn, ballot_at, smallint};
use super::read::{NOT_FLUSHED, Reading, query};

/// Rows that one call looks at.
const DIGEST_ROWS_MAX: usize = SUMMARY_ROWS_MAX;
/// Hashes of one statement.
const LOOK_HASHES_MAX: usize = 4_096;

/// The columns that [`entry`] expects.
const COLUMNS: &str = "e.epoch, e.n, e.incarnation, e.seq, e.key_hash, e.kind = 0";

/// `$1` partition, `$2` the hash to begin at, `$3` rows. Walks the primary key in its order. What it wants of a row stands
/// before the value, and a large value elsewhere, so no value is read.
pub(super) static DIGEST: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {COLUMNS}, {NOT_FLUSHED} FROM (SELECT * FROM tercet.entry AS e \
           WHERE e.partition = $1::smallint AND e.key_hash >= $2::bytea ORDER BY e.key_hash LIMIT $3::bigint) AS e \
         CROSS JOIN (SELECT flush FROM tercet.partition WHERE id = $1) AS p ORDER BY e.key_hash"
    )
});

/// `$1` partition, `$2` hashes. One index look-up per hash, as in [`super::read::READ`].
pub(super) static LOOK: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {COLUMNS} FROM unnest($2::bytea[]) AS k (hash) \
         CROSS JOIN (SELECT flush FROM tercet.partition WHERE id = $1::smallint) AS p \
         CROSS JOIN LATERAL (SELECT * FROM tercet.entry AS e \
           WHERE e.partition = $1 AND e.key_hash = k.hash LIMIT 1) AS e \
         WHERE {NOT_FLUSHED}"
    )
});

pub(super) async fn digest(
    session: &Session,
    partition: PartitionId,
    from: KeyHash,
    limit: usize,
) -> Result<Stretch, StoreError> {
    let limit = limit.clamp(1, DIGEST_ROWS_MAX);
    // One more tells where the next stretch begins.
    let (id, first, rows) = (smallint(partition), HashColumn(from.0), limit as i64 + 1);
    let params: [&(dyn ToSql + Sync); 3] = [&id, &first, &rows];
    let reading = Reading::begin(session).await;
    let found = query(session, &DIGEST, &params).await?;
    let mut stretch = Stretch::default();
    for (nth, stored) in found.iter().enumerate() {
        if nth == limit {
            stretch.next = Some(KeyHash(stored.get::<_, HashColumn>(4).0));
        } else if stored.get(6) {
            stretch.entries.push(entry(stored)?);
        }
    }
    Ok(reading.merged(stretch, |stretch, memtable, flush| {
        merge::stretch(stretch, (partition, from), limit, memtable, flush(partition))
    }))
}

pub(super) async fn look(
    session: &Session,
    partition: PartitionId,
    hashes: &[KeyHash],
) -> Result<Vec<DigestEntry>, StoreError> {
    let id = smallint(partition);
    let mut hashes: Vec<_> = hashes.iter().map(|hash| HashColumn(hash.0)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let reading = Reading::begin(session).await;
    let mut found = Vec::new();
    for chunk in hashes.chunks(LOOK_HASHES_MAX) {
        for stored in query(session, &LOOK, &[&id, &chunk]).await? {
            found.push(entry(&stored)?);
        }
    }
    found.sort_unstable_by_key(|entry| entry.hash);
    let hashes = hashes.iter().map(|hash| KeyHash(hash.0));
    Ok(reading.merged(found, |found, memtable, flush| {
        merge::entries(found, hashes, partition, memtable, flush(partition))
    }))
}

fn entry(stored: &Stored) -> Result<DigestEntry, StoreError> {
    let hash = KeyHash(stored.get::<_, HashColumn>(4).0);
    Ok(DigestEntry { hash, ballot: ballot_at(stored, 0)?, tombstone: stored.get(5) })
}
