//! One batch, one statement, one round trip, one transaction.
//!
//! PostgreSQL runs a lone statement as a transaction of its own and answers after the commit is durable. The statement
//! inserts the journal row, raises promises and flushes where the batch has some, and upserts the rows, each only over
//! a lower ballot of the same key. It answers nothing when every row was written, else the hashes of those that were;
//! a second look, which only late repairs need, then finds what stood in the way of the others.
//!
//! Concurrent commits do not deadlock: all lock rows in one order (entries by partition and hash, then partitions by
//! id), because arrays are unnested in order and the entries come first.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Instant;

use deadpool_postgres::{Client, Object};
use tercet_common::Row;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::super::codec::encode_advances;
use super::super::ledger::Seen;
use super::super::{CommitBatch, CommitOutcome, RowOutcome, StoreError};
use super::Session;
use super::columns::{HashColumn, PartitionColumns, RowColumns, ballot_at, flushed};
use super::connect::within;
use super::error::{is_clean_abort, statement_error};
use super::flight::InFlight;

/// Parameters `$1` to `$11` are [`RowColumns::params`]; then seq, flushed, advances.
const JOURNAL_PARAM: usize = 12;
pub(super) const MORE_PARAM: usize = 15;

pub(super) static COMMIT_ROWS: LazyLock<String> = LazyLock::new(|| commit_statement(""));
static COMMIT_ALL: LazyLock<String> = LazyLock::new(|| {
    commit_statement(&format!(", raised AS ({})", params_from(MORE_PARAM, RAISE_PARTITIONS)))
});

/// Upserts rows, each only over a lower ballot of the same key, and answers the hashes of those that were written. Its
/// parameters are [`RowColumns::params`].
pub(super) fn upsert_rows() -> String {
    "INSERT INTO tercet.entry AS e \
       (partition, key_hash, key, epoch, n, incarnation, seq, clock, kind, value, expires_at) \
     SELECT unnest($1::smallint[]), unnest($2::bytea[]), unnest($3::bytea[]), unnest($4::bigint[]), \
       unnest($5::bigint[]), unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bytea[]), \
       unnest($9::smallint[]), unnest($10::bytea[]), unnest($11::bigint[]) \
     ON CONFLICT (partition, key_hash) DO UPDATE SET \
       epoch = excluded.epoch, n = excluded.n, incarnation = excluded.incarnation, seq = excluded.seq, \
       clock = excluded.clock, kind = excluded.kind, value = excluded.value, \
       expires_at = excluded.expires_at \
     WHERE e.key = excluded.key AND (e.epoch, e.n, e.incarnation, e.seq) \
       < (excluded.epoch, excluded.n, excluded.incarnation, excluded.seq) \
     RETURNING e.key_hash"
        .to_owned()
}

/// The upsert and the journal row, and what `more` adds behind them; its parameters begin at [`MORE_PARAM`].
pub(super) fn commit_statement(more: &str) -> String {
    let (seq, flushed, advances) = (JOURNAL_PARAM, JOURNAL_PARAM + 1, JOURNAL_PARAM + 2);
    let upsert = upsert_rows();
    format!(
        "WITH written AS ({upsert} \
         ), journal AS ( \
           INSERT INTO tercet.journal (seq, partitions, key_hashes, flushed, advances) \
           VALUES (${seq}, $1, $2, ${flushed}, ${advances}) \
         ){more} \
         SELECT CASE WHEN count(*) < cardinality($1) THEN coalesce(array_agg(key_hash), '{{}}') END FROM written"
    )
}

/// Raises promises and flushes and never lowers them. Its parameters are [`PartitionColumns::params`]. All partitions exist,
/// so the insertion always turns into the update; it is there for the order of the array.
pub(super) const RAISE_PARTITIONS: &str = "INSERT INTO tercet.partition AS p (id, promised, flush, flush_clock) \
     SELECT u.id, ROW(u.pe, u.pn, u.pi)::tercet.promise, ROW(u.fe, u.fn, u.fi, u.fs)::tercet.ballot, u.clock \
     FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
       $7::bigint[], $8::bigint[], $9::bytea[]) AS u (id, pe, pn, pi, fe, fn, fi, fs, clock) \
     ON CONFLICT (id) DO UPDATE SET \
       promised = GREATEST(p.promised, excluded.promised), \
       flush = GREATEST(p.flush, excluded.flush), \
       flush_clock = CASE WHEN excluded.flush > p.flush THEN excluded.flush_clock ELSE p.flush_clock END";

/// A statement as part of another: its `$1` becomes `$first`, and so on.
pub(super) fn params_from(first: usize, sql: &str) -> String {
    let mut pieces = sql.split('$');
    let mut moved = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (number, rest) = piece.split_at(piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len()));
        let number: usize = number.parse().expect("our statements have a number behind each $");
        moved += &format!("${}{rest}", number + first - 1);
    }
    moved
}

/// What stands where a row was not written.
const STANDING: &str = "SELECT k.ord, e.key = k.key, e.epoch, e.n, e.incarnation, e.seq \
     FROM unnest($1::smallint[], $2::bytea[], $3::bytea[]) WITH ORDINALITY AS k (partition, hash, key, ord) \
     CROSS JOIN LATERAL (SELECT * FROM tercet.entry AS e \
       WHERE e.partition = k.partition AND e.key_hash = k.hash LIMIT 1) AS e";

pub(super) async fn commit(session: &Session, batch: &CommitBatch) -> CommitOutcome {
    let started = Instant::now();
    let outcome = run(session, batch).await.unwrap_or_else(CommitOutcome::Aborted);
    let metrics = &session.metrics;
    match &outcome {
        CommitOutcome::Committed { .. } => {
            metrics.committed.increment(1);
            metrics.commit_seconds.record(started.elapsed());
            metrics.commit_rows.record(batch.rows.len() as f64);
            if session.purge.lock().committed(batch) {
                session.purge_due.notify_one();
            }
        }
        CommitOutcome::Aborted(_) => metrics.aborted.increment(1),
        CommitOutcome::Unknown(_) => metrics.unknown.increment(1),
    }
    outcome
}

/// An error means that nothing was sent.
async fn run(session: &Session, batch: &CommitBatch) -> Result<CommitOutcome, StoreError> {
    let rows = RowColumns::new(&batch.rows)?;
    debug_assert!(rows.is_sorted(), "rows must be sorted by (partition, key hash), each key once");
    let raised = PartitionColumns::new(&batch.promises, &batch.flushes)?;
    let sql: &str = if raised.id.is_empty() { &COMMIT_ROWS } else { &COMMIT_ALL };
    let (client, statement) = prepared(session, sql).await?;
    let flight = InFlight::begin(session, Seen::sums_of(batch))?;
    let seq = flight.seq();
    let (flushed, advances) = (flushed(batch), encode_advances(flight.advances()));
    let mut params = rows.params();
    let journal: [&(dyn ToSql + Sync); 3] = [&seq, &flushed, &advances];
    params.extend(journal);
    if !raised.id.is_empty() {
        params.extend(raised.params());
    }
    Ok(execute(session, client, &statement, &params, flight, (&batch.rows, &rows)).await)
}

/// Sends a statement that [`commit_statement`] made, and says what became of it and of its rows.
pub(super) async fn execute(
    session: &Session,
    client: Client,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
    flight: InFlight<'_>,
    (batch, rows): (&[Row], &RowColumns<'_>),
) -> CommitOutcome {
    let answer = tokio::time::timeout(session.patience, client.query_one(statement, params)).await;
    let written: Option<Vec<HashColumn>> = match answer {
        Ok(Ok(row)) => row.get(0),
        Ok(Err(error)) if is_clean_abort(&error) => {
            flight.aborted();
            return CommitOutcome::Aborted(statement_error(&error));
        }
        Ok(Err(error)) => return unknown(client, flight, statement_error(&error)),
        Err(_) => {
            let error = StoreError::Timeout(format!("no answer to a commit within {:?}", session.patience));
            return unknown(client, flight, error);
        }
    };
    let journal_seq = flight.committed();
    let Some(written) = written else {
        return CommitOutcome::Committed { journal_seq, rows: vec![RowOutcome::Stored; batch.len()] };
    };
    match outcomes(session, &client, batch, rows, written.into_iter().collect()).await {
        Ok(rows) => CommitOutcome::Committed { journal_seq, rows },
        // Durable, but which rows it wrote cannot be said any more.
        Err(error) => {
            session.lost.lose(&error.to_string());
            CommitOutcome::Unknown(error)
        }
    }
}

/// A connection's statement. One that cannot be had takes its connection along: the next commit must not queue behind
/// whatever keeps this one.
pub(super) async fn prepared(session: &Session, sql: &str) -> Result<(Client, Statement), StoreError> {
    let client = session.writers.get().await?;
    match within(session.patience, client.prepare_cached(sql)).await {
        Ok(statement) => Ok((client, statement)),
        Err(error) => {
            drop(Object::take(client));
            Err(error)
        }
    }
}

/// The connection is not used again: the statement may still be running on it.
fn unknown(client: Client, flight: InFlight<'_>, error: StoreError) -> CommitOutcome {
    let error = flight.unknown(error);
    drop(Object::take(client));
    CommitOutcome::Unknown(error)
}

/// A row that was not written stays so: what stands there now has its ballot or a higher one, or is another key.
pub(super) async fn outcomes(
    session: &Session,
    client: &Client,
    batch: &[Row],
    rows: &RowColumns<'_>,
    written: HashSet<HashColumn>,
) -> Result<Vec<RowOutcome>, StoreError> {
    let statement = within(session.patience, client.prepare_cached(STANDING)).await?;
    let params: [&(dyn ToSql + Sync); 3] = [&rows.partition, &rows.hash, &rows.key];
    let standing = within(session.patience, client.query(&statement, &params)).await?;
    let mut outcomes = vec![RowOutcome::Stored; batch.len()];
    for found in standing {
        let at = usize::try_from(found.get::<_, i64>(0)).unwrap_or_default().saturating_sub(1);
        let (Some(row), Some(outcome)) = (batch.get(at), outcomes.get_mut(at)) else { continue };
        if written.contains(&rows.hash[at]) {
            continue;
        }
        let ballot = ballot_at(&found, 2)?;
        *outcome = match found.get(1) {
            false => RowOutcome::KeyCollision,
            true if ballot == row.ballot => RowOutcome::Stored,
            true => RowOutcome::Superseded { ballot },
        };
    }
    Ok(outcomes)
}
