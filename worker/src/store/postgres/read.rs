//! Rows by key, pages in the order of (partition, hash), and counts. All on read-only connections.

use std::sync::LazyLock;
use std::time::Instant;

use deadpool_postgres::Client;
use tercet_common::{Ballot, KeyHash, PartitionId, Row, UnixMillis};
use tokio::sync::RwLockReadGuard;
use tokio_postgres::Row as Stored;
use tokio_postgres::types::ToSql;

use super::super::memtable::{Since, View};
use super::super::{Count, Page, ScanFrom, ScanOptions, StoreError, merge};
use super::Session;
use super::columns::{HashColumn, ROW_COLUMNS, partition_id, row_at, smallint, unsigned};
use super::connect::within;
use super::redo;

/// Keys of one statement.
const READ_KEYS_MAX: usize = 1_024;
/// A value up to this is sent at once; a larger one is asked for alone, if there is still room for it.
const AT_ONCE_BYTES_MAX: i32 = 32 * 1024;
/// Large values of one call, unless one alone is above it.
const LARGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Rows of one page.
const SCAN_ROWS_MAX: usize = 10_000;
/// Rows that one page may look at for each that it may return. A page over a stretch of tombstones comes back short or
/// empty, but soon, and says where to go on.
const EXAMINED_PER_ROW: usize = 4;
const EXAMINED_MIN: usize = 1_000;

pub(super) const NOT_FLUSHED: &str = "(e.epoch, e.n, e.incarnation, e.seq) >= ((p.flush).epoch, (p.flush).n, (p.flush).incarnation, (p.flush).seq)";

/// The lateral join with a limit leaves the planner one choice: one index look-up per key.
pub(super) static READ: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT k.ord, CASE WHEN octet_length(e.value) <= $3::int THEN e.value END, {ROW_COLUMNS}, \
           octet_length(e.value) \
         FROM unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS k (partition, hash, ord) \
         CROSS JOIN LATERAL (SELECT * FROM tercet.entry AS e \
           WHERE e.partition = k.partition AND e.key_hash = k.hash LIMIT 1) AS e"
    )
});

pub(super) static SCAN: LazyLock<String> = LazyLock::new(|| {
    scan_statement(
        "SELECT * FROM tercet.entry AS e \
         WHERE (e.partition, e.key_hash) >= ($1::smallint, $2::bytea) AND e.partition <= $3::smallint \
         AND $8::bigint IS NULL ORDER BY e.partition, e.key_hash LIMIT $4",
    )
});

/// Partition by partition through the partial index, so that nothing is touched that has not expired. The join keeps
/// the order of the series and stops at the limit. `OFFSET 0` keeps the planner from walking the primary key instead,
/// which has the order that is wanted, and every row.
pub(super) static SCAN_EXPIRED: LazyLock<String> = LazyLock::new(|| {
    scan_statement(
        "SELECT e.* FROM generate_series($1::smallint::int, $3::smallint::int) AS g (id) \
         CROSS JOIN LATERAL (SELECT * FROM (SELECT * FROM tercet.entry AS e \
             WHERE e.partition = g.id::smallint AND e.expires_at <= $8::bigint OFFSET 0) AS e \
           WHERE g.id > $1 OR e.key_hash >= $2::bytea ORDER BY e.key_hash LIMIT $4) AS e LIMIT $4",
    )
});

static COUNT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT count(*), count(e.expires_at) \
         FROM tercet.entry AS e JOIN tercet.partition AS p ON p.id = e.partition \
         WHERE e.partition = ANY ($1::smallint[]) AND e.kind <> 0 \
         AND (e.expires_at IS NULL OR e.expires_at > $2) AND {NOT_FLUSHED}"
    )
});

/// One statement examines a bounded stretch of rows, weighs the wanted ones, and sends values for those that fit. The
/// weights come from lengths alone, which PostgreSQL knows without reading a large value. The last row that it answers
/// may be one too many: it tells where the next page begins.
///
/// `$1` partition and `$2` hash to begin at, `$3` last partition, `$4` rows to examine, `$5` limit, `$6` bytes,
/// `$7` with data, `$8` expired by, `$9` with tombstones.
fn scan_statement(stretch: &str) -> String {
    const WANTED: &str = "(e.kind <> 0 OR $9::boolean)";
    // As `Row::weight`.
    const WEIGHT: &str = "160 + octet_length(e.key) + coalesce(octet_length(e.value), 0)";
    const FITS: &str = "wanted AND nth <= $5 AND (total <= $6 OR nth = 1)";
    format!(
        "SELECT {FITS}, e.partition, e.key_hash, CASE WHEN {FITS} AND $7::boolean THEN e.value END, {ROW_COLUMNS} \
         FROM (SELECT e.*, row_number() OVER stretch AS examined, \
             count(*) FILTER (WHERE wanted) OVER stretch AS nth, \
             sum(weight) FILTER (WHERE wanted) OVER stretch AS total \
           FROM (SELECT e.*, {WANTED} AND {NOT_FLUSHED} AS wanted, {WEIGHT} AS weight \
             FROM ({stretch}) AS e JOIN tercet.partition AS p ON p.id = e.partition) AS e \
           WINDOW stretch AS (ORDER BY e.partition, e.key_hash ROWS UNBOUNDED PRECEDING)) AS e \
         WHERE (wanted AND nth <= $5 + 1) OR examined = $4 \
         ORDER BY e.partition, e.key_hash"
    )
}

pub(super) async fn read(
    session: &Session,
    keys: &[(PartitionId, KeyHash)],
) -> Result<Vec<Option<Row>>, StoreError> {
    let started = Instant::now();
    let mut found: Vec<Option<Row>> = {
        let memtable = session.memtable.lock();
        keys.iter().map(|key| memtable.get(key).cloned()).collect()
    };
    let missing: Vec<usize> = (0..keys.len()).filter(|at| found[*at].is_none()).collect();
    let mut large: Vec<(usize, usize)> = Vec::new();
    for chunk in missing.chunks(READ_KEYS_MAX) {
        let partitions: Vec<i16> = chunk.iter().map(|at| smallint(keys[*at].0)).collect();
        let hashes: Vec<HashColumn> = chunk.iter().map(|at| HashColumn(keys[*at].1.0)).collect();
        for stored in query(session, &READ, &[&partitions, &hashes, &AT_ONCE_BYTES_MAX]).await? {
            let nth = unsigned(stored.get(0))?.saturating_sub(1) as usize;
            let Some(at) = chunk.get(nth).copied() else { continue };
            match stored.get::<_, Option<i32>>(10) {
                Some(bytes) if bytes > AT_ONCE_BYTES_MAX => large.push((at, bytes as usize)),
                _ => found[at] = Some(row_at(&stored, 2, stored.get(1))?),
            }
        }
    }
    large.sort_unstable();
    let mut room = LARGE_BYTES_MAX;
    for (nth, (at, bytes)) in large.into_iter().enumerate() {
        if nth > 0 && bytes > room {
            found.truncate(at);
            break;
        }
        room = room.saturating_sub(bytes);
        let (partition, hash) = (smallint(keys[at].0), HashColumn(keys[at].1.0));
        let stored = query(session, &READ, &[&[partition].as_slice(), &[hash].as_slice(), &i32::MAX]).await?;
        found[at] = stored.first().map(|stored| row_at(stored, 2, stored.get(1))).transpose()?;
    }
    session.metrics.read_seconds.record(started.elapsed());
    Ok(found)
}

pub(super) async fn scan(
    session: &Session,
    from: ScanFrom,
    options: ScanOptions,
) -> Result<Page, StoreError> {
    let limit = options.limit.clamp(1, SCAN_ROWS_MAX);
    let examine = (limit * EXAMINED_PER_ROW).max(EXAMINED_MIN) as i64;
    let limit = limit as i64;
    let (first, last) = (smallint(from.partition), smallint(options.last_partition));
    let hash = HashColumn(from.hash.0);
    let bytes_max = i64::try_from(options.bytes_max).unwrap_or(i64::MAX);
    let expired_by = options.expired_by.map(|at| at.0);
    let params: [&(dyn ToSql + Sync); 9] = [
        &first,
        &hash,
        &last,
        &examine,
        &limit,
        &bytes_max,
        &options.with_data,
        &expired_by,
        &options.with_tombstones,
    ];
    let sql: &str = if expired_by.is_some() { &SCAN_EXPIRED } else { &SCAN };
    let mut page = Page::default();
    let reading = Reading::begin(session).await;
    for stored in query(session, sql, &params).await? {
        if !stored.get::<_, bool>(0) {
            page.next = Some(place(&stored)?);
            break;
        }
        page.rows.push(row_at(&stored, 4, stored.get(3))?);
    }
    Ok(reading.merged(page, |page, memtable, flush| merge::page(page, from, options, memtable, flush)))
}

/// A look at the table that takes the rows of the memtable along: none leaves it before the look has ended.
pub(super) struct Reading<'a> {
    session: &'a Session,
    since: Since,
    _no_row_leaves: RwLockReadGuard<'a, ()>,
}

impl<'a> Reading<'a> {
    pub(super) async fn begin(session: &'a Session) -> Self {
        let guard = session.table.read().await;
        Self { session, since: session.memtable.lock().now(), _no_row_leaves: guard }
    }

    /// What was read, with what the table does not have yet. `merge` is told each partition's flush.
    pub(super) fn merged<T>(
        self,
        read: T,
        merge: impl FnOnce(T, View<'_>, &dyn Fn(PartitionId) -> Ballot) -> T,
    ) -> T {
        let memtable = self.session.memtable.lock();
        if memtable.is_empty() {
            return read;
        }
        let purge = self.session.purge.lock();
        merge(read, memtable.since(self.since), &|partition| purge.flush_of(partition))
    }
}

fn place(stored: &Stored) -> Result<(PartitionId, KeyHash), StoreError> {
    Ok((partition_id(stored.get(1))?, KeyHash(stored.get::<_, HashColumn>(2).0)))
}

pub(super) async fn count(
    session: &Session,
    partitions: &[PartitionId],
    now: UnixMillis,
) -> Result<Count, StoreError> {
    redo::settle(session, partitions).await?;
    let partitions: Vec<i16> = partitions.iter().copied().map(smallint).collect();
    let counted = query(session, &COUNT, &[&partitions, &now.0]).await?;
    let Some(row) = counted.first() else { return Ok(Count::default()) };
    Ok(Count { live: unsigned(row.get(0))?, expiring: unsigned(row.get(1))? })
}

/// Runs a query, on another connection if the first one turns out to be dead: reading twice does no harm.
pub(super) async fn query(
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
    let result = tokio::select! {
        result = within(session.patience, rows) => result,
        // Nobody wants it any more, and the store is not opened again before it has ended.
        () = session.lost.wait() => Err(StoreError::Unreachable("the connection was lost".to_owned())),
    };
    if matches!(result, Err(StoreError::Timeout(_) | StoreError::Unreachable(_))) {
        // Whatever it still sends is nobody's.
        drop(Client::take(client));
    }
    result
}
