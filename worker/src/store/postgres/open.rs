//! Becoming the only writer of a database, and reading what the worker keeps in memory.
//!
//! The order matters. The advisory lock keeps out a living worker; it is asked for before anything is ended, so two
//! live workers never end each other's backends in turns. Then the boot generation grows, and only then the other
//! backends are ended and waited for: a connection that a former worker makes later finds the new generation and is
//! turned away, one that it made earlier is ended here. So once the rows are read, no commit of a former life can land.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use tercet_common::{Ballot, Epoch, Incarnation, PARTITIONS, Promise, Term};
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::super::codec::{FORMAT_VERSION, decode_advances, decode_clock};
use super::super::ledger::{Ledger, Seen};
use super::super::{Identity, Loaded, PartitionRecord, RingRegister, StoreError};
use super::columns::{ballot_at, promise_at, unsigned};
use super::connect::{APPLICATION, Target, within};
use super::error::statement_error;
use super::redo;

/// `pg_advisory_lock` key: "tercet" in ASCII.
const LOCK_KEY: i64 = 0x7465_7263_6574;
const SERVER_VERSION_MIN: i32 = 130_000;
/// How often a condition on the server's side is looked at again; PostgreSQL has no event for it.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

mod migrations {
    refinery::embed_migrations!("migrations");
}

/// Who the configuration says this is.
pub(super) struct Owner {
    pub(super) worker_id: String,
    pub(super) cluster_id: String,
}

/// The settings that "acknowledged means durable" rests on. Asked before the session changes any.
pub(super) async fn check_server(client: &Client, patience: Duration) -> Result<(), StoreError> {
    const SETTINGS: &str = "SELECT current_setting('server_version_num')::int, current_setting('server_version'), \
         current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), \
         pg_is_in_recovery()";
    let row = within(patience, client.query_one(SETTINGS, &[])).await?;
    let refuse =
        |reason: String| Err(StoreError::Refused(format!("the database must not be used: {reason}")));
    if row.get::<_, i32>(0) < SERVER_VERSION_MIN {
        return refuse(format!("PostgreSQL {} is older than 13", row.get::<_, &str>(1)));
    }
    for (name, column) in [("fsync", 2), ("full_page_writes", 3), ("synchronous_commit", 4)] {
        let value: &str = row.get(column);
        // `remote_apply` is `on` and more; `local` and `remote_write` do less than a standby was configured for.
        if value != "on" && !(name == "synchronous_commit" && value == "remote_apply") {
            return refuse(format!("{name} is {value} and must be on, or acknowledged writes could be lost"));
        }
    }
    if row.get(5) {
        return refuse("the server is a standby".to_owned());
    }
    Ok(())
}

/// Takes the lock, which is held until the connection ends. A crashed predecessor's backend goes once PostgreSQL sees
/// its socket closed, so another holder gets `lock_patience` to go.
pub(super) async fn lock(
    client: &Client,
    target: &Target,
    lock_patience: Duration,
) -> Result<(), StoreError> {
    const HOLDER: &str = "SELECT a.pid, a.application_name FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
         AND (l.classid::bigint << 32 | l.objid::bigint) = $1 AND a.datname = current_database()";
    let patience = target.patience();
    let deadline = Instant::now() + lock_patience;
    loop {
        let take = client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK_KEY]);
        if within(patience, take).await?.get(0) {
            return Ok(());
        }
        let holder = within(patience, client.query_opt(HOLDER, &[&LOCK_KEY])).await?;
        let holder = holder.map(|row| (row.get::<_, i32>(0), row.get::<_, String>(1)));
        if let Some((pid, name)) = holder.as_ref()
            && name.starts_with(&target.instance)
        {
            // Our own, from before the connection was lost.
            within(patience, client.query_one("SELECT pg_terminate_backend($1)", &[pid])).await?;
        }
        if Instant::now() >= deadline {
            let who = holder.map_or_else(String::new, |(pid, name)| format!(": `{name}`, backend {pid}"));
            return Err(StoreError::Refused(format!("another worker uses this database{who}")));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Ends every other backend of this role or of any worker in this database, and waits until they are gone, and with
/// them their transactions. Sessions of other roles are left alone: no commit of a worker comes from them.
pub(super) async fn end_other_backends(client: &Client, patience: Duration) -> Result<(), StoreError> {
    const END: &str = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() \
         AND coalesce(backend_type, 'client backend') = 'client backend' \
         AND (usename = current_user OR starts_with(application_name, $1))";
    let end = within(patience, client.prepare(END)).await?;
    let deadline = Instant::now() + patience;
    loop {
        let others = within(patience, client.query(&end, &[&APPLICATION])).await?;
        if others.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let pids: Vec<i32> = others.iter().map(|row| row.get(0)).collect();
            return Err(StoreError::Timeout(format!("other backends of this database do not end: {pids:?}")));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Brings the schema up to date, or refuses one from the future.
pub(super) async fn migrate(client: &mut Client, patience: Duration) -> Result<(), StoreError> {
    let mut runner = migrations::migrations::runner();
    runner.set_migration_table_name("tercet.schema_history");
    let known = runner.get_migrations().iter().map(|m| m.version()).max().unwrap_or_default();

    let exists =
        "SELECT to_regnamespace('tercet') IS NOT NULL, to_regclass('tercet.schema_history') IS NOT NULL";
    let exists = within(patience, client.query_one(exists, &[])).await?;
    if !exists.get::<_, bool>(0) {
        within(patience, client.batch_execute("CREATE SCHEMA tercet")).await?;
    }
    if exists.get(1) {
        let version = "SELECT coalesce(max(version), 0) FROM tercet.schema_history";
        let found: i32 = within(patience, client.query_one(version, &[])).await?.get(0);
        if i64::from(found) > i64::from(known) {
            return Err(StoreError::Refused(format!(
                "the database has schema version {found}, this binary knows up to {known}"
            )));
        }
    }
    runner.run_async(client).await.map(drop).map_err(|error| {
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            if let Some(cause) = cause.downcast_ref::<tokio_postgres::Error>() {
                return statement_error(cause);
            }
            source = cause.source();
        }
        StoreError::Refused(format!("the database's schema is not one that this binary knows: {error}"))
    })
}

/// Starts a new boot generation of the database, which is `owner`'s from the first time on.
///
/// Generations grow by a random number. Data that was set back starts again from an earlier one, and must not come to a
/// generation that the lost starts had: others would take it for the start that they know.
pub(super) async fn start_generation(
    client: &Client,
    owner: &Owner,
    patience: Duration,
) -> Result<i64, StoreError> {
    const START: &str = "INSERT INTO tercet.identity AS i (worker_id, cluster_id, format_version, boot_generation) \
         VALUES ($1, $2, $3, 1) \
         ON CONFLICT (one) DO UPDATE SET boot_generation = i.boot_generation + 1 + floor(random() * 4294967296)::bigint \
         WHERE (i.worker_id, i.cluster_id, i.format_version) = ($1, $2, $3) RETURNING boot_generation";
    let params: [&(dyn ToSql + Sync); 3] = [&owner.worker_id, &owner.cluster_id, &FORMAT_VERSION];
    if let Some(row) = within(patience, client.query_opt(START, &params)).await? {
        return Ok(row.get(0));
    }
    let found = "SELECT worker_id, cluster_id, format_version FROM tercet.identity";
    let found = within(patience, client.query_one(found, &[])).await?;
    let (worker, cluster, format) =
        (found.get::<_, &str>(0), found.get::<_, &str>(1), found.get::<_, i32>(2));
    Err(StoreError::Refused(format!(
        "the database belongs to worker `{worker}` of cluster `{cluster}` (format version {format}), \
         this is worker `{}` of cluster `{}` (format version {FORMAT_VERSION})",
        owner.worker_id, owner.cluster_id
    )))
}

/// Reads the partitions as of the last checkpoint and joins what the journal says happened since. Brings into the table
/// what the redo log holds.
pub(super) async fn load(client: &Client, patience: Duration) -> Result<(Loaded, Ledger), StoreError> {
    const IDENTITY: &str = "SELECT worker_uuid::text, boot_generation, checkpoint_seq, \
         coalesce((SELECT max(seq) FROM tercet.journal), 0), \
         (register_promised).n, (register_promised).incarnation, \
         (register_accepted).n, (register_accepted).incarnation, ring_epoch, ring FROM tercet.identity";
    const PARTITION_ROWS: &str = "SELECT id, vector, \
         (promised).epoch, (promised).n, (promised).incarnation, \
         (floor).epoch, (floor).n, (floor).incarnation, (floor).seq, \
         (flush).epoch, (flush).n, (flush).incarnation, (flush).seq, \
         (highest).epoch, (highest).n, (highest).incarnation, (highest).seq, flush_clock, copied, applied_seq \
         FROM tercet.partition ORDER BY id";
    const JOURNAL: &str = "SELECT seq, advances FROM tercet.journal WHERE seq > $1 ORDER BY seq";

    let identity = within(patience, client.query_one(IDENTITY, &[])).await?;
    let checkpoint: i64 = identity.get(2);
    let last_seq = unsigned(identity.get::<_, i64>(3).max(checkpoint))?;

    let rows = within(patience, client.query(PARTITION_ROWS, &[])).await?;
    if rows.len() != usize::from(PARTITIONS) {
        return Err(StoreError::Refused(format!(
            "the database has {} partitions, not {PARTITIONS}",
            rows.len()
        )));
    }
    let mut partitions = rows.iter().map(partition).collect::<Result<Vec<_>, _>>()?;
    let applied = rows.iter().map(|row| unsigned(row.get(19))).collect::<Result<Vec<_>, _>>()?;
    redo::replay(client, &applied, patience).await?;

    let mut replayed = BTreeSet::new();
    let replay = async {
        let journal = client.query_raw(JOURNAL, [checkpoint]).await.map_err(|e| statement_error(&e))?;
        pin_mut!(journal);
        while let Some(row) = journal.try_next().await.map_err(|e| statement_error(&e))? {
            for advance in decode_advances(row.get(1))? {
                let record = &mut partitions[advance.partition.index()];
                record.vector.follow(&mut record.highest, advance.highest, &advance.vector);
                replayed.insert(advance.partition);
            }
        }
        Ok(())
    };
    let replayed_in_time = tokio::time::timeout(patience, replay).await;
    replayed_in_time.map_err(|_| StoreError::Timeout("reading the journal".to_owned()))??;

    let seen = |record: &PartitionRecord| Seen { vector: record.vector.clone(), highest: record.highest };
    let seen = partitions.iter().map(seen).collect();
    let ledger = Ledger::new(last_seq, unsigned(checkpoint)?, seen, replayed);
    let identity = Identity {
        worker_uuid: identity.get(0),
        boot_generation: unsigned(identity.get(1))?,
        journal_seq: last_seq,
        register: register(&identity)?,
    };
    Ok((Loaded { identity, partitions }, ledger))
}

/// From the columns 4 to 9 of the identity.
fn register(identity: &Row) -> Result<RingRegister, StoreError> {
    let number = |column| unsigned(identity.get(column));
    let term = |column: usize| -> Result<Term, StoreError> {
        Ok(Term { n: number(column)?, incarnation: Incarnation(number(column + 1)?) })
    };
    let ring = match (identity.get::<_, Option<i64>>(8), identity.get(9)) {
        (Some(epoch), Some(ring)) => Some((Epoch(unsigned(epoch)?), ring)),
        _ => None,
    };
    Ok(RingRegister { promised: term(4)?, accepted: term(6)?, ring })
}

fn partition(row: &Row) -> Result<PartitionRecord, StoreError> {
    let promise: Promise = promise_at(row, 2)?;
    let ballot = |column| -> Result<Ballot, StoreError> { ballot_at(row, column) };
    Ok(PartitionRecord {
        promise,
        floor: ballot(5)?,
        flush: ballot(9)?,
        highest: ballot(13)?,
        vector: decode_clock(row.get(1))?,
        flush_clock: decode_clock(row.get(17))?,
        copied: Epoch(unsigned(row.get(18))?),
    })
}
