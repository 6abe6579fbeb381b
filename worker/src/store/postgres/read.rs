//! Rows by key, pages in the order of (partition, hash), and counts. All on read-only connections.

use std::time::Instant;

use deadpool_postgres::Client;
use tercet_common::{KeyHash, PartitionId, Row, UnixMillis};
use tokio_postgres::Row as Stored;
use tokio_postgres::types::ToSql;

use super::super::{Count, Page, ScanFrom, ScanOptions, StoreError};
use super::Session;
use super::columns::{HashColumn, ROW_COLUMNS, row_at, smallint, unsigned};
use super::connect::within;

/// Keys of one statement. The answer's bytes are bounded by the caller, who knows what it asked for.
const READ_KEYS_MAX: usize = 1_024;
/// Rows of one page.
const SCAN_ROWS_MAX: usize = 10_000;
/// Rows that one page may look at for each that it may return. A page over a stretch of tombstones comes back short or
/// empty, but soon, and says where to go on.
const EXAMINED_PER_ROW: usize = 4;
const EXAMINED_MIN: usize = 1_000;

const NOT_FLUSHED: &str = "(e.epoch, e.n, e.incarnation, e.seq) >= ((p.flush).epoch, (p.flush).n, (p.flush).incarnation, (p.flush).seq)";

pub(super) async fn read(
    session: &Session,
    keys: &[(PartitionId, KeyHash)],
) -> Result<Vec<Option<Row>>, StoreError> {
    let started = Instant::now();
    // The lateral join with a limit leaves the planner one choice: one index look-up per key.
    let sql = format!(
        "SELECT k.ord, e.value, {ROW_COLUMNS} \
         FROM unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS k (partition, hash, ord) \
         CROSS JOIN LATERAL (SELECT * FROM tercet.entry AS e \
           WHERE e.partition = k.partition AND e.key_hash = k.hash LIMIT 1) AS e"
    );
    let mut found = vec![None; keys.len()];
    for (chunk, found) in keys.chunks(READ_KEYS_MAX).zip(found.chunks_mut(READ_KEYS_MAX)) {
        let partitions: Vec<i16> = chunk.iter().map(|key| smallint(key.0)).collect();
        let hashes: Vec<HashColumn> = chunk.iter().map(|key| HashColumn(key.1.0)).collect();
        for stored in query(session, &sql, &[&partitions, &hashes]).await? {
            let at = unsigned(stored.get(0))?.saturating_sub(1) as usize;
            if let Some(slot) = found.get_mut(at) {
                *slot = Some(row_at(&stored, 2, stored.get(1))?);
            }
        }
    }
    session.metrics.read_seconds.record(started.elapsed());
    Ok(found)
}

/// One statement examines a bounded stretch, weighs the rows that are wanted, and sends values for those that fit. The
/// weights come from lengths alone, which PostgreSQL knows without reading a large value. Its last row, wanted or not,
/// may be one too many: it tells where the next page begins.
pub(super) async fn scan(
    session: &Session,
    from: ScanFrom,
    options: ScanOptions,
) -> Result<Page, StoreError> {
    let limit = options.limit.clamp(1, SCAN_ROWS_MAX);
    let examine = (limit * EXAMINED_PER_ROW).max(EXAMINED_MIN);
    let stretch = match options.expired_by {
        None => {
            "SELECT * FROM tercet.entry AS e WHERE (e.partition, e.key_hash) >= ($1::smallint, $2::bytea) \
             AND e.partition <= $3::smallint AND $8::bigint IS NULL \
             ORDER BY e.partition, e.key_hash LIMIT $4"
        }
        // Partition by partition through the partial index: nothing is touched that has not expired. The join keeps
        // the order of the series, and stops at the limit.
        Some(_) => {
            "SELECT e.* FROM generate_series($1::smallint::int, $3::smallint::int) AS g (id) \
             CROSS JOIN LATERAL (SELECT * FROM tercet.entry AS e \
               WHERE e.partition = g.id::smallint AND e.expires_at <= $8::bigint \
               AND (g.id > $1 OR e.key_hash >= $2::bytea) ORDER BY e.key_hash LIMIT $4) AS e LIMIT $4"
        }
    };
    let weight = "160 + octet_length(e.key) + coalesce(octet_length(e.value), 0)";
    let sql = format!(
        "SELECT wanted AND nth <= $5 AND (total <= $6 OR nth = 1), e.partition, e.key_hash, \
           CASE WHEN wanted AND nth <= $5 AND (total <= $6 OR nth = 1) AND $7::boolean THEN e.value END, \
           {ROW_COLUMNS} \
         FROM (SELECT e.*, (e.kind <> 0 OR $9::boolean) AND {NOT_FLUSHED} AS wanted, \
             row_number() OVER stretch AS examined, \
             count(*) FILTER (WHERE (e.kind <> 0 OR $9::boolean) AND {NOT_FLUSHED}) OVER stretch AS nth, \
             sum({weight}) FILTER (WHERE (e.kind <> 0 OR $9::boolean) AND {NOT_FLUSHED}) OVER stretch AS total \
           FROM ({stretch}) AS e JOIN tercet.partition AS p ON p.id = e.partition \
           WINDOW stretch AS (ORDER BY e.partition, e.key_hash ROWS UNBOUNDED PRECEDING)) AS e \
         WHERE (wanted AND nth <= $5 + 1) OR examined = $4 \
         ORDER BY e.partition, e.key_hash"
    );
    let partition = smallint(from.partition);
    let last_partition = smallint(options.last_partition);
    let examine = examine as i64;
    let limit = limit as i64;
    let bytes_max = i64::try_from(options.bytes_max).unwrap_or(i64::MAX);
    let expired_by = options.expired_by.map(|at| at.0);
    let params: [&(dyn ToSql + Sync); 9] = [
        &partition,
        &HashColumn(from.hash.0),
        &last_partition,
        &examine,
        &limit,
        &bytes_max,
        &options.with_data,
        &expired_by,
        &options.with_tombstones,
    ];
    let mut page = Page::default();
    for stored in query(session, &sql, &params).await? {
        if !stored.get::<_, bool>(0) {
            page.next = Some(place(&stored)?);
            break;
        }
        page.rows.push(row_at(&stored, 4, stored.get(3))?);
    }
    Ok(page)
}

fn place(stored: &Stored) -> Result<(PartitionId, KeyHash), StoreError> {
    let partition = PartitionId::new(stored.get::<_, i16>(1).cast_unsigned());
    let partition =
        partition.ok_or_else(|| StoreError::Failed("a stored partition is out of range".to_owned()))?;
    Ok((partition, KeyHash(stored.get::<_, HashColumn>(2).0)))
}

pub(super) async fn count(
    session: &Session,
    partitions: &[PartitionId],
    now: UnixMillis,
) -> Result<Count, StoreError> {
    let sql = format!(
        "SELECT count(*), count(e.expires_at) FROM tercet.entry AS e JOIN tercet.partition AS p ON p.id = e.partition \
         WHERE e.partition = ANY ($1::smallint[]) AND e.kind <> 0 \
         AND (e.expires_at IS NULL OR e.expires_at > $2) AND {NOT_FLUSHED}"
    );
    let partitions: Vec<i16> = partitions.iter().copied().map(smallint).collect();
    let counted = query(session, &sql, &[&partitions, &now.0]).await?;
    let Some(row) = counted.first() else { return Ok(Count::default()) };
    Ok(Count { live: unsigned(row.get(0))?, expiring: unsigned(row.get(1))? })
}

/// Runs a query, on another connection if the first one turns out to be dead: reading twice does no harm.
async fn query(
    session: &Session,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Stored>, StoreError> {
    match query_once(session, sql, params).await {
        Err(StoreError::Unreachable(_)) => {
            session.lost.check()?;
            query_once(session, sql, params).await
        }
        result => result,
    }
}

async fn query_once(
    session: &Session,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Stored>, StoreError> {
    let client: Client = session.readers.get().await?;
    let rows = async {
        let statement = client.prepare_cached(sql).await?;
        client.query(&statement, params).await
    };
    let result = within(session.patience, rows).await;
    if matches!(result, Err(StoreError::Timeout(_))) {
        // Whatever it still sends is nobody's.
        drop(Client::take(client));
    }
    result
}
