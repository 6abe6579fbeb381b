//! What runs beside the commits: checkpoints and the pruning of the journal behind them, when enough commits have
//! passed; the deletion of flushed rows; the redo log's way into the table; and an estimate of the rows, now and then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_postgres::types::ToSql;

use super::super::StoreError;
use super::super::codec::encode_clock;
use super::super::ledger::Checkpoint;
use super::Session;
use super::columns::{Ballots, signed, smallint, unsigned};
use super::connect::within;
use super::{purge, redo};

/// Commits between two checkpoints. A restart replays at most about this many journal rows.
pub(super) const CHECKPOINT_EVERY: u64 = 2_048;
/// Journal rows that are kept behind a checkpoint, so that a peer which was away for a while is served from them.
pub(super) const JOURNAL_ROWS_KEPT: u64 = 100_000;
/// The most journal rows that one statement deletes.
const PRUNE_ROWS_MAX: i64 = 5_000;

/// The insertion always turns into the update, as in `RAISE_PARTITIONS`; here too it is there for the order of locks.
const CHECKPOINT: &str = "WITH sums AS ( \
       INSERT INTO tercet.partition AS p (id, vector, highest) \
       SELECT u.id, u.vector, ROW(u.e, u.n, u.i, u.s)::tercet.ballot \
       FROM unnest($2::smallint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) \
         AS u (id, vector, e, n, i, s) \
       ON CONFLICT (id) DO UPDATE SET vector = excluded.vector, highest = excluded.highest \
     ) UPDATE tercet.identity SET checkpoint_seq = $1";
/// Only behind the checkpoint, whatever the caller believes. How far the journal reaches is noted in the same transaction.
const PRUNE: &str = "WITH gone AS ( \
       DELETE FROM tercet.journal WHERE seq IN ( \
         SELECT seq FROM tercet.journal \
         WHERE seq <= least($1, (SELECT checkpoint_seq FROM tercet.identity)) ORDER BY seq LIMIT $2) \
       RETURNING seq \
     ), noted AS ( \
       UPDATE tercet.identity SET pruned_seq = GREATEST(pruned_seq, (SELECT max(seq) FROM gone)) \
       WHERE EXISTS (SELECT FROM gone) \
     ) SELECT count(*) FROM gone";

const ESTIMATE_EVERY: Duration = Duration::from_secs(5);

/// What PostgreSQL believes, without looking. The first number survives a crash, the second is the newer one.
const ESTIMATE: &str = "SELECT greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0) \
     FROM pg_class AS c WHERE c.oid = 'tercet.entry'::regclass";

/// Until the session ends.
pub(super) async fn run(session: Arc<Session>) {
    tokio::join!(
        make_checkpoints(&session),
        purge::run(&session),
        redo::run(&session),
        estimate_rows(&session)
    );
}

async fn estimate_rows(session: &Session) {
    let mut ticks = tokio::time::interval(ESTIMATE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match estimate(session).await {
            Ok(rows) => session.rows.store(rows, Ordering::Relaxed),
            // A number for people, and an old one will do.
            Err(error) => tracing::debug!(%error, "the rows could not be estimated"),
        }
    }
}

async fn estimate(session: &Session) -> Result<u64, StoreError> {
    let client = session.readers.get().await?;
    let row = within(session.patience, client.query_one(ESTIMATE, &[])).await?;
    unsigned(row.get(0))
}

async fn make_checkpoints(session: &Session) {
    loop {
        session.checkpoint_due.notified().await;
        if let Err(error) = pass(session, JOURNAL_ROWS_KEPT).await {
            // Nothing is lost by it but a longer journal; the next pass does the work of this one.
            tracing::warn!(%error, "a checkpoint of the journal failed");
        }
    }
}

/// One checkpoint, then deletes what is more than `keep` rows behind it.
pub(super) async fn pass(session: &Session, keep: u64) -> Result<(), StoreError> {
    let checkpoint = session.ledger.lock().checkpoint();
    if let Err(error) = write(session, &checkpoint).await {
        session.ledger.lock().not_checkpointed(checkpoint);
        return Err(error);
    }
    session.ledger.lock().checkpointed(&checkpoint);
    let up_to = signed(checkpoint.seq.saturating_sub(keep))?;
    loop {
        let client = session.writers.get().await?;
        let deleted = within(session.patience, client.query_one(PRUNE, &[&up_to, &PRUNE_ROWS_MAX])).await?;
        if deleted.get::<_, i64>(0) < PRUNE_ROWS_MAX {
            return Ok(());
        }
    }
}

async fn write(session: &Session, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let ids: Vec<i16> = checkpoint.partitions.iter().map(|p| smallint(p.0)).collect();
    let vectors: Vec<Vec<u8>> = checkpoint.partitions.iter().map(|p| encode_clock(&p.1.vector)).collect();
    let mut highest = Ballots::default();
    checkpoint.partitions.iter().try_for_each(|p| highest.push(p.1.highest))?;
    let seq = signed(checkpoint.seq)?;
    let params: [&(dyn ToSql + Sync); 7] =
        [&seq, &ids, &vectors, &highest.epoch, &highest.n, &highest.incarnation, &highest.seq];
    let client = session.writers.get().await?;
    within(session.patience, client.execute(CHECKPOINT, &params)).await.map(drop)
}
