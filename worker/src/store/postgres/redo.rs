//! From the redo log to the table.
//!
//! A row over what is known is committed to `tercet.redo`, as one value with the others of its commit, and kept in the
//! memtable. Here it is brought into `tercet.entry`: when the store has been quiet for a moment, when it has waited long,
//! or when there is much. Then the log's old end is deleted. What is in the log when a store opens is applied before
//! anything is answered.
//!
//! What reads rows by their keys looks into the memtable first. A row leaves it only once the table has it, so a key that
//! is not found there is found in the table by a look that begins later. What walks the table takes the rows of the
//! memtable along, and holds [`super::Session::table`] meanwhile, so that none leaves in between. What cannot take them along
//! has them applied first: [`settle`].
//!
//! A row may be applied twice, and an older version after a newer one: only a lower ballot is written over. But nothing
//! says so of a row that was evicted. So a change of a partition settles it, and notes in the partition up to which seq
//! the log has nothing more to say about it; no row of the partition goes to the log meanwhile
//! ([`super::super::Write::known`]).

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use futures_util::{TryStreamExt, pin_mut};
use tercet_common::{PARTITIONS, PartitionId, Row};
use tokio::sync::oneshot;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::super::codec::decode_rows;
use super::super::memtable::Memtable;
use super::super::{Place, StoreError, place_of};
use super::Session;
use super::columns::{RowColumns, signed, unsigned};
use super::commit::{prepared, upsert_rows};
use super::connect::within;
use super::error::{is_clean_abort, statement_error};

/// Rows of one statement; the last commit's are taken whole.
const APPLY_ROWS: usize = 1_000;
/// Commits of which one statement deletes what the log has.
const TRIM_ROWS_MAX: i64 = 500;
/// So many are deleted together, unless all are.
const TRIM_ROWS_MIN: u64 = 64;
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A start that applies so many rows says so.
const MANY_ROWS: usize = 10_000;

static APPLY: LazyLock<String> = LazyLock::new(upsert_rows);

const TRIM: &str = "DELETE FROM tercet.redo WHERE seq IN \
     (SELECT seq FROM tercet.redo WHERE seq < $1::bigint ORDER BY seq LIMIT $2::bigint)";

/// Partitions whose rows somebody wants to have in the table.
pub(super) struct Settle {
    partitions: Vec<PartitionId>,
    settled: oneshot::Sender<Result<(), StoreError>>,
}

/// Returns once the table has all that is committed of these partitions, and nothing older is on its way there.
/// Cancel-safe.
pub(super) async fn settle(session: &Session, partitions: &[PartitionId]) -> Result<(), StoreError> {
    let unsettled: Vec<_> = {
        let memtable = session.memtable.lock();
        partitions.iter().copied().filter(|id| !memtable.is_settled(*id)).collect()
    };
    if unsettled.is_empty() {
        return Ok(());
    }
    let (sender, settled) = oneshot::channel();
    session.settling.lock().push(Settle { partitions: unsettled, settled: sender });
    session.apply_due.notify_one();
    let settled = tokio::select! {
        settled = tokio::time::timeout(session.patience, settled) => settled,
        () = session.lost.wait() => return Err(session.lost.check().err().unwrap_or_else(gone)),
    };
    match settled {
        Ok(settled) => settled.unwrap_or_else(|_| Err(gone())),
        Err(_) => Err(StoreError::Timeout("the table does not follow the log".to_owned())),
    }
}

fn gone() -> StoreError {
    StoreError::Unreachable("the connection was lost".to_owned())
}

/// Until the session ends.
pub(super) async fn run(session: &Session) {
    let mut trimmed = 0;
    loop {
        let outcome = step(session, &mut trimmed).await;
        if session.lost.check().is_err() {
            return;
        }
        if let Err(error) = outcome {
            tracing::warn!(%error, "rows of the log could not be brought into the table; will try again");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Does what is due, or waits until something may be.
async fn step(session: &Session, trimmed: &mut u64) -> Result<(), StoreError> {
    if settle_some(session).await? {
        return Ok(());
    }
    let due = session.memtable.lock().due_at();
    if due.is_none_or(|due| due > Instant::now()) {
        trim(session, trimmed).await?;
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = session.apply_due.notified() => {}
            () = due => {}
        }
        return Ok(());
    }
    let batch = session.memtable.lock().oldest(APPLY_ROWS);
    apply(session, &batch).await?;
    trim(session, trimmed).await
}

/// Settles a few partitions for the one who wants fewest, so that nobody waits for a count of everything. `false`: nobody
/// wants any.
async fn settle_some(session: &Session) -> Result<bool, StoreError> {
    let next = {
        let mut settling = session.settling.lock();
        // Who asked may have gone.
        settling.retain(|settle| !settle.settled.is_closed());
        let fewest = (0..settling.len()).min_by_key(|at| settling[*at].partitions.len());
        fewest.map(|at| settling.swap_remove(at))
    };
    let Some(Settle { mut partitions, settled }) = next else { return Ok(false) };
    let batch = {
        let mut memtable = session.memtable.lock();
        let (mut some, mut rows) = (Vec::new(), 0);
        while rows < APPLY_ROWS
            && let Some(partition) = partitions.pop()
        {
            rows += memtable.len_of(partition);
            some.push(partition);
        }
        memtable.all_of(&some)
    };
    let outcome = apply(session, &batch).await;
    if outcome.is_ok() && !partitions.is_empty() {
        session.settling.lock().push(Settle { partitions, settled });
    } else {
        let _ = settled.send(outcome.clone());
    }
    outcome.map(|()| true)
}

/// Brings rows into the table and takes them out of the memtable. An error means that nothing has happened, or that the
/// store is lost: a statement that may still be running must not land behind a change.
async fn apply(session: &Session, batch: &[(Place, Row)]) -> Result<(), StoreError> {
    if let Err(error) = write(session, batch).await {
        session.memtable.lock().not_applied(batch, Instant::now());
        return Err(error);
    }
    let _alone = session.table.write().await;
    session.memtable.lock().applied(batch);
    Ok(())
}

async fn write(session: &Session, batch: &[(Place, Row)]) -> Result<(), StoreError> {
    if batch.is_empty() {
        return Ok(());
    }
    let rows = RowColumns::new(batch.iter().map(|(place, row)| (*place, row)))?;
    let (client, statement) = prepared(session, &APPLY).await?;
    let params = rows.params();
    let written = client.execute(&statement, &params);
    let error = match tokio::time::timeout(session.patience, written).await {
        Ok(Ok(_)) => {
            session.metrics.applied_rows.increment(batch.len() as u64);
            if session.purge.lock().wrote(batch.iter().map(|(place, row)| (place.0, row.ballot))) {
                session.purge_due.notify_one();
            }
            return Ok(());
        }
        Ok(Err(error)) if is_clean_abort(&error) => return Err(statement_error(&error)),
        Ok(Err(error)) => statement_error(&error),
        Err(_) => StoreError::Timeout(format!("no answer within {:?}", session.patience)),
    };
    session.lost.lose(&error.to_string());
    drop(Object::take(client));
    Err(error)
}

/// Deletes what the log has of commits all of whose rows are in the table.
async fn trim(session: &Session, trimmed: &mut u64) -> Result<(), StoreError> {
    // In this order: a commit is in the memtable before it no longer counts as under way.
    let open = session.ledger.lock().settled_seq() + 1;
    let (oldest, empty) = {
        let memtable = session.memtable.lock();
        session.metrics.redo_rows.set(memtable.len() as f64);
        session.metrics.redo_bytes.set(memtable.log_bytes() as f64);
        (memtable.oldest_seq(), memtable.is_empty())
    };
    let below = oldest.map_or(open, |oldest| oldest.min(open));
    if below < *trimmed + if empty { 1 } else { TRIM_ROWS_MIN } {
        return Ok(());
    }
    let params: [&(dyn ToSql + Sync); 2] = [&signed(below)?, &TRIM_ROWS_MAX];
    loop {
        let client = session.writers.get().await?;
        let statement = within(session.patience, client.prepare_cached(TRIM)).await?;
        let deleted = client.execute(&statement, &params);
        if within(session.patience, deleted).await? < TRIM_ROWS_MAX as u64 {
            *trimmed = below;
            return Ok(());
        }
    }
}

/// Applies all that the log holds: before anything is read from the table. `applied` is up to which seq it says nothing of
/// each partition any more.
pub(super) async fn replay(client: &Client, applied: &[u64], patience: Duration) -> Result<(), StoreError> {
    debug_assert_eq!(applied.len(), usize::from(PARTITIONS));
    const LOG: &str = "SELECT seq, rows FROM tercet.redo ORDER BY seq";
    let (mut memtable, now) = (Memtable::new(), Instant::now());
    let log = within(patience, client.query_raw(LOG, std::iter::empty::<i64>())).await?;
    pin_mut!(log);
    while let Some(stored) = within(patience, log.try_next()).await? {
        let (seq, bytes): (i64, &[u8]) = (stored.get(0), stored.get(1));
        let seq = unsigned(seq)?;
        let rows = decode_rows(bytes)?.into_iter().map(|row| (place_of(&row), row));
        let rows = rows.filter(|(place, _)| seq > applied[place.0.index()]);
        memtable.insert(seq, rows, bytes.len(), now);
    }
    let rows = memtable.len();
    if rows == 0 {
        return Ok(());
    }
    if rows >= MANY_ROWS {
        tracing::info!(rows, "bringing into the table what the log holds");
    }
    let statement = within(patience, client.prepare(&APPLY)).await?;
    let all: Vec<_> = PartitionId::all().collect();
    for part in memtable.all_of(&all).chunks(APPLY_ROWS) {
        let rows = RowColumns::new(part.iter().map(|(place, row)| (*place, row)))?;
        within(patience, client.execute(&statement, &rows.params())).await?;
    }
    tracing::debug!(rows, took = ?now.elapsed(), "the table has what the log held");
    Ok(())
}
