//! One partition put right, beside the group commits: one statement, or a transaction of five where rows are evicted.
//!
//! Commits lock entries by (partition, hash) and then partitions, and so must this. Deleting locks rows too, so rows and
//! evictions go through **one** upsert in the order of hashes: an eviction takes part as a placeholder of the lowest
//! ballot, which overwrites nothing, but locks the row that it meets. Then nothing is left to wait for, and the order
//! no longer matters: rows at the evicted ballots go, placeholders that met nothing go with them, and rows that an
//! evicted one stood in the way of are written again.

use std::collections::HashSet;
use std::sync::LazyLock;

use deadpool_postgres::{Client, Object};
use tercet_common::{Ballot, KeyHash};
use tokio_postgres::Error as DriverError;
use tokio_postgres::types::ToSql;

use super::super::codec::{encode_advances, encode_clock, encode_places};
use super::super::ledger::Seen;
use super::super::{CommitOutcome, PartitionChange, RowOutcome, StoreError};
use super::Session;
use super::columns::{Ballots, HashColumn, PLACEHOLDER, RowColumns, ballot_numbers, signed, smallint};
use super::commit::{COMMIT_ROWS, Part, execute, outcomes, prepared, together, upsert_rows};
use super::connect::within;
use super::error::{is_clean_abort, statement_error};
use super::flight::InFlight;
use super::redo;

/// `$1` partition, `$2` hashes, `$3` to `$6` the ballots. One index look-up per hash, whatever the planner believes of the
/// table; the rows are locked already, so they stay where they are found.
pub(super) static EVICT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "DELETE FROM tercet.entry WHERE ctid = ANY (ARRAY(SELECT e.ctid \
           FROM unnest($2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) \
             AS u (hash, epoch, n, incarnation, seq) \
           CROSS JOIN LATERAL (SELECT ctid, kind, epoch, n, incarnation, seq FROM tercet.entry \
             WHERE partition = $1::smallint AND key_hash = u.hash LIMIT 1) AS e \
           WHERE e.kind = {PLACEHOLDER} \
             OR (e.epoch, e.n, e.incarnation, e.seq) = (u.epoch, u.n, u.incarnation, u.seq)))"
    )
});

static WRITE_AGAIN: LazyLock<String> = LazyLock::new(upsert_rows);

/// A change that evicts nothing needs no order between statements: one statement, one round trip, as a group commit.
pub(super) static CHANGE_AT_ONCE: LazyLock<String> = LazyLock::new(|| {
    let placed = Part { name: "placed", sql: SET_PARTITION.to_owned(), params: 16 };
    together(&[Part::journal(), Part::rows(), placed])
});

/// `$1` partition, `$2` to `$4` the promise, `$5` to `$8` the floor, `$9` whether the flush is set, to `$10` to `$13`
/// with the clock `$14`; `$15` the epoch of a finished copy; `$16` the seq.
const SET_PARTITION: &str = "UPDATE tercet.partition SET \
       promised = GREATEST(promised, ROW($2::bigint, $3::bigint, $4::bigint)::tercet.promise), \
       floor = GREATEST(floor, ROW($5::bigint, $6::bigint, $7::bigint, $8::bigint)::tercet.ballot), \
       flush = CASE WHEN $9::boolean \
         THEN ROW($10::bigint, $11::bigint, $12::bigint, $13::bigint)::tercet.ballot ELSE flush END, \
       flush_clock = CASE WHEN $9 THEN $14::bytea ELSE flush_clock END, \
       copied = GREATEST(copied, $15::bigint), applied_seq = GREATEST(applied_seq, $16::bigint) \
     WHERE id = $1::smallint";

pub(super) async fn change(session: &Session, change: &PartitionChange) -> CommitOutcome {
    // What is in the table from here on is all there is of the partition: its writes are not known, and so do not go to
    // the redo log. What is in the log already counts no more.
    if let Err(error) = redo::settle(session, &[change.partition]).await {
        session.metrics.aborted.increment(1);
        return CommitOutcome::Aborted(error);
    }
    let _repair = session.repairs.acquire().await;
    // While rows below an old flush are deleted, the flush must not be lowered: rows that the change lets in would go
    // too. Before a connection is taken, because who deletes waits for one.
    let _turn = match change.flush {
        Some(_) => Some(session.purge_turn.lock().await),
        None => None,
    };
    let outcome = run(session, change).await.unwrap_or_else(CommitOutcome::Aborted);
    match &outcome {
        CommitOutcome::Committed { .. } => {
            session.metrics.committed.increment(1);
            if session.purge.lock().changed(change) {
                session.purge_due.notify_one();
            }
        }
        CommitOutcome::Aborted(_) => session.metrics.aborted.increment(1),
        CommitOutcome::Unknown(_) => session.metrics.unknown.increment(1),
    }
    outcome
}

/// An error means that nothing was committed.
async fn run(session: &Session, change: &PartitionChange) -> Result<CommitOutcome, StoreError> {
    debug_assert!(change.is_sorted(), "rows and evictions must be sorted by hash, each once");
    let statements = Statements::new(change)?;
    if change.evict.is_empty() {
        return statements.run_at_once(session).await;
    }
    let client: Client = session.writers.get().await?;
    let flight = InFlight::begin(session, Seen::sum_of(change))?;
    let rows = match statements.run(session, &client, &flight).await {
        Ok(rows) => rows,
        Err(error) => {
            // COMMIT was not sent, so nothing of it can happen. The transaction ends with its connection.
            flight.aborted();
            drop(Object::take(client));
            return Err(error);
        }
    };
    let error = match tokio::time::timeout(session.patience, client.batch_execute("COMMIT")).await {
        Ok(Ok(())) => return Ok(CommitOutcome::Committed { journal_seq: flight.committed(), rows }),
        Ok(Err(error)) if is_clean_abort(&error) => {
            flight.aborted();
            return Ok(CommitOutcome::Aborted(statement_error(&error)));
        }
        Ok(Err(error)) => statement_error(&error),
        Err(_) => StoreError::Timeout(format!("no answer to a commit within {:?}", session.patience)),
    };
    let error = flight.unknown(error);
    drop(Object::take(client));
    Ok(CommitOutcome::Unknown(error))
}

/// The change as parameters.
struct Statements<'a> {
    change: &'a PartitionChange,
    /// Rows and placeholders, in the order of hashes.
    all: RowColumns<'a>,
    evicted: Vec<HashColumn>,
    evicted_ballots: Ballots,
    /// Rows in whose place something may be evicted.
    again: RowColumns<'a>,
    partition: i16,
    /// Of all rows and evictions, for the journal.
    places: Vec<u8>,
    sets_flush: bool,
    /// The partition, if it is flushed: for the journal.
    flushed: Vec<i16>,
    promise: [i64; 4],
    floor: [i64; 4],
    flush: [i64; 4],
    flush_clock: Vec<u8>,
    copied: i64,
}

impl<'a> Statements<'a> {
    fn new(change: &'a PartitionChange) -> Result<Self, StoreError> {
        let evict: HashSet<_> = change.evict.iter().map(|evicted| evicted.0).collect();
        let mut evicted_ballots = Ballots::default();
        change.evict.iter().try_for_each(|evicted| evicted_ballots.push(evicted.1))?;
        let (flush, flush_clock) = match &change.flush {
            Some((ballot, clock)) => (*ballot, encode_clock(clock)),
            None => (Ballot::ZERO, Vec::new()),
        };
        ballot_numbers(change.highest)?;
        let all = RowColumns::with_placeholders(change.partition, &change.rows, &change.evict)?;
        let places = all.hash.iter().map(|hash| (change.partition, KeyHash(hash.0)));
        Ok(Self {
            change,
            places: encode_places(places),
            all,
            evicted: change.evict.iter().map(|evicted| HashColumn(evicted.0.0)).collect(),
            evicted_ballots,
            again: RowColumns::of_rows(change.rows.iter().filter(|row| evict.contains(&row.key.hash())))?,
            partition: smallint(change.partition),
            sets_flush: change.flush.is_some(),
            flushed: change.flush.iter().map(|_| smallint(change.partition)).collect(),
            promise: ballot_numbers(change.promise.ballot(0))?,
            floor: ballot_numbers(change.floor)?,
            flush: ballot_numbers(flush)?,
            flush_clock,
            copied: signed(change.copied.0)?,
        })
    }

    /// Without evictions. An error means that nothing was sent.
    async fn run_at_once(&self, session: &Session) -> Result<CommitOutcome, StoreError> {
        let (client, statement) = prepared(session, &CHANGE_AT_ONCE).await?;
        let flight = InFlight::begin(session, Seen::sum_of(self.change))?;
        let (seq, advances) = (flight.seq(), encode_advances(flight.advances()));
        let mut params = self.journal_params(&seq, &advances);
        params.extend(self.all.params());
        params.extend(self.partition_params(&seq));
        Ok(execute(session, client, &statement, &params, flight, &self.all, |_| {}).await)
    }

    /// All but the COMMIT. The outcomes are those of the change's rows.
    async fn run(
        &self,
        session: &Session,
        client: &Client,
        flight: &InFlight<'_>,
    ) -> Result<Vec<RowOutcome>, StoreError> {
        let patience = session.patience;
        within(patience, client.batch_execute("BEGIN")).await?;
        let (seq, advances) = (flight.seq(), encode_advances(flight.advances()));
        let mut params = self.journal_params(&seq, &advances);
        params.extend(self.all.params());
        let statement = within(patience, client.prepare_cached(&COMMIT_ROWS)).await?;
        let written = within(patience, client.query_one(&statement, &params)).await?;
        let written: Option<Vec<HashColumn>> = written.get(0);
        within(patience, self.evict(client)).await?;
        let again = within(patience, self.write_again(client)).await?;
        let rows = match written {
            None => vec![RowOutcome::Stored; self.change.rows.len()],
            Some(written) => {
                let written = written.into_iter().chain(again).collect();
                outcomes(session, client, &RowColumns::of_rows(&self.change.rows)?, written).await?
            }
        };
        within(patience, self.set_partition(client, seq)).await?;
        Ok(rows)
    }

    async fn evict(&self, client: &Client) -> Result<(), DriverError> {
        if self.evicted.is_empty() {
            return Ok(());
        }
        let Ballots { epoch, n, incarnation, seq } = &self.evicted_ballots;
        let partition = smallint(self.change.partition);
        let params: [&(dyn ToSql + Sync); 6] = [&partition, &self.evicted, epoch, n, incarnation, seq];
        let statement = client.prepare_cached(&EVICT).await?;
        client.execute(&statement, &params).await.map(drop)
    }

    /// Answers which of them were written.
    async fn write_again(&self, client: &Client) -> Result<Vec<HashColumn>, DriverError> {
        if self.again.partition.is_empty() {
            return Ok(Vec::new());
        }
        let statement = client.prepare_cached(&WRITE_AGAIN).await?;
        let written = client.query(&statement, &self.again.params()).await?;
        Ok(written.iter().map(|row| row.get(0)).collect())
    }

    async fn set_partition(&self, client: &Client, seq: i64) -> Result<(), DriverError> {
        let statement = client.prepare_cached(SET_PARTITION).await?;
        client.execute(&statement, &self.partition_params(&seq)).await.map(drop)
    }

    /// Those of [`Part::journal`].
    fn journal_params<'p>(&'p self, seq: &'p i64, advances: &'p Vec<u8>) -> Vec<&'p (dyn ToSql + Sync)> {
        vec![seq, &self.places, &self.flushed, advances]
    }

    /// Those of [`SET_PARTITION`].
    fn partition_params<'p>(&'p self, seq: &'p i64) -> Vec<&'p (dyn ToSql + Sync)> {
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&self.partition];
        params.extend(self.promise[..3].iter().map(as_param));
        params.extend(self.floor.iter().map(as_param));
        params.push(&self.sets_flush);
        params.extend(self.flush.iter().map(as_param));
        params.push(&self.flush_clock);
        params.push(&self.copied);
        params.push(seq);
        params
    }
}

fn as_param(number: &i64) -> &(dyn ToSql + Sync) {
    number
}
