//! One batch, one statement, one round trip, one transaction.
//!
//! PostgreSQL runs a lone statement as a transaction of its own and answers after the commit is durable. The statement
//! inserts the journal row and raises promises and flushes where the batch has some. Small rows over what is known go to
//! the redo log, all as one value (see [`super::redo`]). The others are upserted, each only over a lower ballot of the
//! same key. The statement answers nothing when every one of these was written, else the hashes of those that were; a
//! second look, which only late repairs need, then finds what stood in the way of the others.
//!
//! Concurrent commits do not deadlock: all lock rows in one order (entries by partition and hash, then partitions by
//! id), because arrays are unnested in order and the entries come first.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Instant;

use deadpool_postgres::{Client, Object};
use tercet_common::Ballot;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::super::codec::{encode_advances, encode_places, encode_rows};
use super::super::ledger::Seen;
use super::super::{CommitBatch, CommitOutcome, Place, RowOutcome, StoreError, Write};
use super::Session;
use super::columns::{HashColumn, PartitionColumns, RowColumns, ballot_at, ballot_numbers, flushed};
use super::connect::within;
use super::error::{is_clean_abort, statement_error};
use super::flight::InFlight;

/// The weight up to which a row may go to the redo log. To write the bytes of large values twice costs more than it saves.
const REDO_ROW_BYTES_MAX: usize = 2 * 1024;

/// A part of a statement that commits: a statement with parameters of its own, from `$1` on.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) sql: String,
    pub(super) params: usize,
}

impl Part {
    /// `$1` seq, `$2` places, `$3` flushed, `$4` advances.
    pub(super) fn journal() -> Self {
        let sql = "INSERT INTO tercet.journal (seq, places, flushed, advances) \
             VALUES ($1::bigint, $2::bytea, $3::smallint[], $4::bytea)";
        Self { name: "journal", sql: sql.to_owned(), params: 4 }
    }

    /// [`RowColumns::params`].
    pub(super) fn rows() -> Self {
        Self { name: WRITTEN, sql: upsert_rows(), params: 11 }
    }

    /// `$1` seq, `$2` rows.
    fn redo() -> Self {
        let sql = "INSERT INTO tercet.redo (seq, rows) VALUES ($1::bigint, $2::bytea)";
        Self { name: "redo", sql: sql.to_owned(), params: 2 }
    }

    /// [`PartitionColumns::params`].
    pub(super) fn raised() -> Self {
        Self { name: "raised", sql: RAISE_PARTITIONS.to_owned(), params: 9 }
    }
}

const WRITTEN: &str = "written";

/// All parts as one statement, their parameters one behind the other. It answers nothing when every row was written, else
/// the hashes of those that were.
pub(super) fn together(parts: &[Part]) -> String {
    let (mut next, mut answer, mut all) = (1, "SELECT NULL::bytea[]".to_owned(), Vec::new());
    for Part { name, sql, params } in parts {
        if *name == WRITTEN {
            answer = format!(
                "SELECT CASE WHEN count(*) < cardinality(${next}) THEN coalesce(array_agg(key_hash), '{{}}') END \
                 FROM {WRITTEN}"
            );
        }
        all.push(format!("{name} AS ({})", params_from(next, sql)));
        next += params;
    }
    format!("WITH {} {answer}", all.join(", "))
}

/// The statement of a batch, by what there is of it. All have a journal row.
fn commit_statement(rows: bool, redo: bool, raised: bool) -> &'static str {
    static ALL: LazyLock<[String; 8]> = LazyLock::new(|| {
        std::array::from_fn(|which| {
            let parts = [(1, Part::rows()), (2, Part::redo()), (4, Part::raised())];
            let parts = parts.into_iter().filter(|(bit, _)| which & bit != 0).map(|(_, part)| part);
            together(&std::iter::once(Part::journal()).chain(parts).collect::<Vec<_>>())
        })
    });
    &ALL[usize::from(rows) + 2 * usize::from(redo) + 4 * usize::from(raised)]
}

/// A journal row and rows: what evicting begins with.
pub(super) static COMMIT_ROWS: LazyLock<String> =
    LazyLock::new(|| together(&[Part::journal(), Part::rows()]));

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

/// Raises promises and flushes and never lowers them. Its parameters are [`PartitionColumns::params`]. All partitions exist,
/// so the insertion always turns into the update; it is there for the order of the array.
const RAISE_PARTITIONS: &str = "INSERT INTO tercet.partition AS p (id, promised, flush, flush_clock) \
     SELECT u.id, ROW(u.pe, u.pn, u.pi)::tercet.promise, ROW(u.fe, u.fn, u.fi, u.fs)::tercet.ballot, u.clock \
     FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
       $7::bigint[], $8::bigint[], $9::bytea[]) AS u (id, pe, pn, pi, fe, fn, fi, fs, clock) \
     ON CONFLICT (id) DO UPDATE SET \
       promised = GREATEST(p.promised, excluded.promised), \
       flush = GREATEST(p.flush, excluded.flush), \
       flush_clock = CASE WHEN excluded.flush > p.flush THEN excluded.flush_clock ELSE p.flush_clock END";

/// A statement as part of another: its `$1` becomes `$first`, and so on.
fn params_from(first: usize, sql: &str) -> String {
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

/// Where the rows of a batch go.
struct Routes<'a> {
    /// By index: `None` where the table has to say.
    outcomes: Vec<Option<RowOutcome>>,
    /// To the table, where they may meet anything.
    table: Vec<&'a Write>,
    /// To the redo log.
    redo: Vec<&'a Write>,
    /// Of those to the table, those that outdate a row which is not there yet.
    replaced: Vec<(Place, Ballot)>,
}

impl<'a> Routes<'a> {
    fn new(session: &Session, batch: &'a CommitBatch) -> Result<Self, StoreError> {
        let mut routes = Self {
            outcomes: Vec::with_capacity(batch.rows.len()),
            table: Vec::new(),
            redo: Vec::new(),
            replaced: Vec::new(),
        };
        let memtable = session.memtable.lock();
        let has_room = memtable.has_room();
        for write in &batch.rows {
            let Write { place, row, known } = write;
            ballot_numbers(row.ballot)?;
            if *known && has_room && row.weight() <= REDO_ROW_BYTES_MAX {
                routes.redo.push(write);
                routes.outcomes.push(Some(RowOutcome::Stored));
                continue;
            }
            let outcome = match memtable.get(place) {
                Some(held) if held.key != row.key => Some(RowOutcome::KeyCollision),
                Some(held) if held.ballot > row.ballot => {
                    Some(RowOutcome::Superseded { ballot: held.ballot })
                }
                Some(held) if held.ballot == row.ballot => Some(RowOutcome::Stored),
                held => {
                    routes.replaced.extend(held.map(|_| (*place, row.ballot)));
                    routes.table.push(write);
                    None
                }
            };
            routes.outcomes.push(outcome);
        }
        Ok(routes)
    }

    /// The outcomes of all rows, from those that the table gave.
    fn outcomes(self, table: Vec<RowOutcome>) -> Vec<RowOutcome> {
        let mut table = table.into_iter();
        let outcome = |known: Option<RowOutcome>| known.or_else(|| table.next());
        self.outcomes.into_iter().filter_map(outcome).collect()
    }
}

/// An error means that nothing was sent.
async fn run(session: &Session, batch: &CommitBatch) -> Result<CommitOutcome, StoreError> {
    debug_assert!(batch.is_sorted(), "rows must be sorted by their places, each once");
    let routes = Routes::new(session, batch)?;
    let rows = RowColumns::new(routes.table.iter().map(|write| (write.place, &write.row)))?;
    let redo = match routes.redo.is_empty() {
        true => Vec::new(),
        false => encode_rows(routes.redo.iter().map(|write| &write.row)),
    };
    let raised = PartitionColumns::new(&batch.promises, &batch.flushes)?;
    let sql = commit_statement(rows.len() > 0, !redo.is_empty(), !raised.id.is_empty());
    let (client, statement) = prepared(session, sql).await?;
    let flight = InFlight::begin(session, Seen::sums_of(batch))?;
    let seq = flight.seq();
    let places = encode_places(batch.rows.iter().map(|write| write.place));
    let (flushed, advances) = (flushed(batch), encode_advances(flight.advances()));
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&seq, &places, &flushed, &advances];
    if rows.len() > 0 {
        params.extend(rows.params());
    }
    if !redo.is_empty() {
        params.extend([&seq as &(dyn ToSql + Sync), &redo]);
    }
    if !raised.id.is_empty() {
        params.extend(raised.params());
    }
    let landed = |seq| {
        if !routes.replaced.is_empty() {
            let mut memtable = session.memtable.lock();
            routes.replaced.iter().for_each(|(place, ballot)| memtable.outdate(*place, *ballot));
        }
        if !routes.redo.is_empty() {
            let rows = routes.redo.iter().map(|write| (write.place, write.row.clone()));
            if session.memtable.lock().insert(seq, rows, redo.len(), std::time::Instant::now()) {
                session.apply_due.notify_one();
            }
        }
    };
    let outcome = execute(session, client, &statement, &params, flight, &rows, landed).await;
    let CommitOutcome::Committed { journal_seq, rows } = outcome else { return Ok(outcome) };
    Ok(CommitOutcome::Committed { journal_seq, rows: routes.outcomes(rows) })
}

/// Sends a statement that [`together`] made, and says what became of it and of its rows. `landed` is told its seq before
/// anybody else hears that it is committed.
pub(super) async fn execute(
    session: &Session,
    client: Client,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
    flight: InFlight<'_>,
    rows: &RowColumns<'_>,
    landed: impl FnOnce(u64),
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
    landed(flight.number());
    let journal_seq = flight.committed();
    let Some(written) = written else {
        return CommitOutcome::Committed { journal_seq, rows: vec![RowOutcome::Stored; rows.len()] };
    };
    match outcomes(session, &client, rows, written.into_iter().collect()).await {
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
    rows: &RowColumns<'_>,
    written: HashSet<HashColumn>,
) -> Result<Vec<RowOutcome>, StoreError> {
    let statement = within(session.patience, client.prepare_cached(STANDING)).await?;
    let params: [&(dyn ToSql + Sync); 3] = [&rows.partition, &rows.hash, &rows.key];
    let standing = within(session.patience, client.query(&statement, &params)).await?;
    let mut outcomes = vec![RowOutcome::Stored; rows.len()];
    for found in standing {
        let at = usize::try_from(found.get::<_, i64>(0)).unwrap_or_default().saturating_sub(1);
        let Some(outcome) = outcomes.get_mut(at) else { continue };
        if written.contains(&rows.hash[at]) {
            continue;
        }
        let ballot = ballot_at(&found, 2)?;
        *outcome = match found.get(1) {
            false => RowOutcome::KeyCollision,
            true if ballot_numbers(ballot)? == rows.ballot(at) => RowOutcome::Stored,
            true => RowOutcome::Superseded { ballot },
        };
    }
    Ok(outcomes)
}
