//! What only PostgreSQL can do to a store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tercet_common::sync::Changes;
use tercet_common::{Content, Key, KeyHash, Row, UnixMillis, VectorClock, WorkerId};
use tokio_postgres::Client;

use super::super::suite::{self, Fixture, batch, promise, read_one, row};
use super::super::{
    CONFLICT_BYTES_MAX, CommitBatch, CommitOutcome, Conflict, MemoryDisk, PartitionChange, RowOutcome,
    ScanOptions, Store, StoreError, Write, place_of,
};
use super::columns::{HashColumn, RowColumns, smallint};
use super::{PostgresStore, change, commit, digest, leftovers, maintain, read};
use crate::Config;
use crate::testing::TestPostgres;

struct OnPostgres {
    server: &'static TestPostgres,
    database: String,
}

impl OnPostgres {
    fn new() -> Self {
        let server = TestPostgres::shared();
        Self { server, database: server.create_database() }
    }
}

impl Fixture for OnPostgres {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(store(&self.database))
    }

    fn plant(&self, row: Row, hash: KeyHash) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let client = connect(&self.server.as_superuser(&self.database)).await;
            let clock = super::super::codec::encode_clock(&row.clock);
            let (key, partition) = (row.key.as_bytes(), smallint(row.key.partition()));
            let (seq, n) = (row.ballot.seq.cast_signed(), row.ballot.term.n.cast_signed());
            let (epoch, incarnation) = (1i64, row.ballot.term.incarnation.0.cast_signed());
            let sql = "INSERT INTO tercet.entry (partition, key_hash, key, epoch, n, incarnation, seq, clock, kind, value) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, 'mine')";
            client
                .execute(sql, &[&partition, &&hash.0[..], &key, &epoch, &n, &incarnation, &seq, &clock])
                .await
                .unwrap();
        })
    }
}

suite::tests!(OnPostgres::new());

/// The same, where all rows go to the redo log that may.
mod by_the_log {
    use super::*;

    suite::tests!(knowing; OnPostgres::new());
}

fn config(database: &str) -> Config {
    let mut config = Config::new(WorkerId::new("w1").unwrap(), database);
    config.statement_timeout = Duration::from_secs(20);
    config
}

fn store(database: &str) -> PostgresStore {
    let mut store = PostgresStore::new(&config(database)).unwrap();
    store.lock_patience = Duration::from_millis(500);
    store
}

async fn connect(database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// An empty database on the shared server, and a superuser's connection to it.
async fn database() -> (String, Client) {
    let server = TestPostgres::shared();
    let database = server.create_database();
    let admin = connect(&server.as_superuser(&database)).await;
    (database, admin)
}

async fn opened(database: &str) -> PostgresStore {
    let store = store(database);
    store.open().await.unwrap();
    store
}

async fn put(store: &PostgresStore, row: Row) {
    let outcome = store.commit(batch([row])).await;
    let CommitOutcome::Committed { rows, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(rows, [RowOutcome::Stored]);
}

/// Rows over what is known.
fn known(rows: impl IntoIterator<Item = Row>) -> CommitBatch {
    let mut batch = batch(rows);
    batch.rows.iter_mut().for_each(|write| write.known = true);
    batch
}

async fn log(store: &PostgresStore, rows: impl IntoIterator<Item = Row>) {
    let outcome = store.commit(known(rows)).await;
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
}

async fn count(admin: &Client, table: &str) -> i64 {
    admin.query_one(&format!("SELECT count(*) FROM tercet.{table}"), &[]).await.unwrap().get(0)
}

/// Rows stay in the redo log until the transaction ends.
const HOLD_THE_TABLE_BACK: &str = "BEGIN; LOCK TABLE tercet.entry IN SHARE MODE";

/// As if the worker had crashed.
async fn end_backends(admin: &Client) {
    let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
         WHERE datname = current_database() AND usename = 'tercet'";
    admin.query(end, &[]).await.unwrap();
}

async fn refusal(store: &PostgresStore) -> String {
    match store.open().await {
        Err(StoreError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

/// Waits until a backend waits for a lock; PostgreSQL has no event for it.
async fn wait_until_blocked(admin: &Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const LOCK_ALL_ROWS: &str = "BEGIN; SELECT FROM tercet.entry FOR UPDATE";

#[tokio::test]
async fn a_server_killed_in_mid_commit_leaves_it_unknown_and_heals() {
    // Starting and killing blocks; the tasks of connections must go on meanwhile.
    let mut server = tokio::task::spawn_blocking(|| TestPostgres::start(&[])).await.unwrap();
    let database = server.create_database();
    let store = opened(&database).await;
    put(&store, row("k", 1, "durable")).await;

    let admin = connect(&server.as_superuser(&database)).await;
    admin.batch_execute(LOCK_ALL_ROWS).await.unwrap();
    let power_cut = async {
        wait_until_blocked(&admin).await;
        let killed = tokio::task::spawn_blocking(move || {
            server.kill();
            server
        });
        killed.await.unwrap()
    };
    let (outcome, mut server) = join(store.commit(batch([row("k", 2, "lost")])), power_cut).await;
    assert!(matches!(outcome, CommitOutcome::Unknown(_)), "{outcome:?}");
    assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))));
    let outcome = store.commit(batch([row("k", 3, "refused")])).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Unreachable(_))), "{outcome:?}");
    assert!(matches!(store.open().await, Err(StoreError::Unreachable(_))), "there is no server");

    let resumed = tokio::task::spawn_blocking(move || {
        server.resume();
        server
    });
    let _server = resumed.await.unwrap();
    let loaded = store.open().await.unwrap();
    assert!(loaded.identity.boot_generation > 1);
    assert_eq!(loaded.identity.journal_seq, 1);
    assert_eq!(read_one(&store, "k").await, Some(row("k", 1, "durable")));
    put(&store, row("k", 4, "healed")).await;
}

/// Both tell the client; but the one who is told that his connection ends cannot know how far the commit had come.
#[tokio::test]
async fn a_commit_that_is_cancelled_has_not_happened_and_one_whose_backend_is_ended_may_have() {
    for (end, aborted) in [("pg_cancel_backend", true), ("pg_terminate_backend", false)] {
        let (database, admin) = database().await;
        let store = opened(&database).await;
        put(&store, row("k", 1, "v")).await;
        admin.batch_execute(LOCK_ALL_ROWS).await.unwrap();
        let end_commit = async {
            wait_until_blocked(&admin).await;
            let sql = format!(
                "SELECT {end}(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'"
            );
            assert_eq!(admin.query(&sql, &[]).await.unwrap().len(), 1);
        };
        let (outcome, ()) = join(store.commit(batch([row("k", 2, "v")])), end_commit).await;
        assert_eq!(matches!(outcome, CommitOutcome::Aborted(StoreError::Timeout(_))), aborted, "{outcome:?}");
        assert_eq!(matches!(outcome, CommitOutcome::Unknown(_)), !aborted, "{outcome:?}");
        assert_eq!(store.lost().now_or_never().is_none(), aborted);
        admin.batch_execute("ROLLBACK").await.unwrap();
    }
}

/// A transaction of a former life of the worker, which has written and not committed.
async fn orphan(database: &str) -> (Client, Pid) {
    let orphan = connect(&format!("{database} application_name='tercet 0123456789abcdef w1'")).await;
    orphan.batch_execute("BEGIN; UPDATE tercet.entry SET value = 'orphaned', seq = 99").await.unwrap();
    let pid: i32 = orphan.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    (orphan, Pid::from_raw(pid))
}

#[tokio::test]
async fn an_orphaned_backend_is_ended_before_anything_is_read() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    put(&store, row("k", 1, "v")).await;
    let (orphan, _) = orphan(&database).await;
    store.open().await.unwrap();
    assert!(orphan.batch_execute("COMMIT").await.is_err());
    assert_eq!(read_one(&store, "k").await, Some(row("k", 1, "v")));
    admin.batch_execute("SELECT").await.expect("sessions of other roles are left alone");
}

#[tokio::test]
async fn a_backend_that_does_not_end_keeps_the_store_shut() {
    let (database, _) = database().await;
    let mut config = config(&database);
    config.statement_timeout = Duration::from_millis(500);
    let store = PostgresStore::new(&config).unwrap();
    store.open().await.unwrap();
    put(&store, row("k", 1, "v")).await;
    let (orphan, pid) = orphan(&database).await;
    kill(pid, Signal::SIGSTOP).unwrap();
    let stopped = store.open().await;
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(matches!(stopped, Err(StoreError::Timeout(_))), "{stopped:?}");
    store.open().await.unwrap();
    assert!(orphan.batch_execute("COMMIT").await.is_err());
    assert_eq!(read_one(&store, "k").await, Some(row("k", 1, "v")));
}

#[tokio::test]
async fn a_server_that_could_lose_commits_is_refused() {
    for setting in ["fsync", "full_page_writes"] {
        let off: &str = if setting == "fsync" { "fsync=off" } else { "full_page_writes=off" };
        let server = tokio::task::spawn_blocking(move || TestPostgres::start(&[off])).await.unwrap();
        let reason = refusal(&store(&server.create_database())).await;
        assert!(reason.contains(&format!("{setting} is off")), "{reason}");
    }
    let (database, admin) = database().await;
    let name: String = admin.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    for value in ["off", "local"] {
        let set = format!("ALTER DATABASE {name} SET synchronous_commit = {value}");
        admin.batch_execute(&set).await.unwrap();
        let reason = refusal(&store(&database)).await;
        assert!(reason.contains(&format!("synchronous_commit is {value}")), "{reason}");
    }
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let newer = "INSERT INTO tercet.schema_history (version, name, applied_on, checksum) \
                 VALUES (999, 'future', '2026-01-01T00:00:00Z', '1')";
    admin.batch_execute(newer).await.unwrap();
    let reason = refusal(&store).await;
    assert_eq!(reason, "the database has schema version 999, this binary knows up to 5");
}

#[tokio::test]
async fn a_database_of_another_worker_or_cluster_is_refused() {
    let (database, admin) = database().await;
    opened(&database).await.close().await;
    let generation = async || {
        let row = admin.query_one("SELECT boot_generation FROM tercet.identity", &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    let before = generation().await;
    let mut other_worker = config(&database);
    other_worker.id = WorkerId::new("w2").unwrap();
    let reason = refusal(&PostgresStore::new(&other_worker).unwrap()).await;
    assert!(reason.contains("belongs to worker `w1`"), "{reason}");
    let mut other_cluster = config(&database);
    other_cluster.cluster_id = "other".to_owned();
    refusal(&PostgresStore::new(&other_cluster).unwrap()).await;
    assert_eq!(generation().await, before, "a refusal leaves no trace");
}

#[tokio::test]
async fn what_waiting_cures_is_told_from_what_it_does_not() {
    let (database, _) = database().await;
    let nowhere = tempfile::tempdir().unwrap();
    let nobody = store(&format!("host={} user=tercet", nowhere.path().display()));
    assert!(matches!(nobody.open().await, Err(StoreError::Unreachable(_))));
    let reason = refusal(&store(&database.replace("dbname=", "dbname=no_"))).await;
    assert!(reason.contains("does not exist"), "{reason}");
    refusal(&store(&database.replace("user=tercet", "user=nobody_of_that_name"))).await;
    refusal(&store(&format!("{database} sslmode=require"))).await;
    assert!(matches!(PostgresStore::new(&config("port=many")), Err(StoreError::Refused(_))));
}

#[tokio::test]
async fn dead_pooled_connections_are_noticed() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    put(&store, row("k", 1, "v")).await;
    assert!(read_one(&store, "k").await.is_some());
    let end_pools = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
         WHERE datname = current_database() AND usename = 'tercet' \
         AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')";
    assert!(admin.query(end_pools, &[]).await.unwrap().len() >= 2, "a writer and a reader");
    assert!(read_one(&store, "k").await.is_some());
    put(&store, row("k", 2, "v")).await;
}

#[tokio::test]
async fn the_end_of_the_control_connection_is_the_end_of_the_store() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let end_control = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(admin.query(end_control, &[]).await.unwrap().len(), 1);
    // Nobody has to ask: the end itself is told.
    store.lost().await;
    let outcome = store.commit(batch([row("k", 1, "v")])).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Unreachable(_))), "{outcome:?}");
    store.open().await.unwrap();
    assert_eq!(store.lost().now_or_never(), None);
    put(&store, row("k", 2, "v")).await;
}

#[tokio::test]
async fn a_store_that_was_taken_over_makes_no_new_connection() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    admin.batch_execute("UPDATE tercet.identity SET boot_generation = boot_generation + 1").await.unwrap();
    let outcome = store.commit(batch([row("k", 1, "v")])).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Refused(_))), "{outcome:?}");
    assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))), "lost");
    store.open().await.unwrap();
    assert_eq!(read_one(&store, "k").await, None);
}

#[tokio::test]
async fn an_error_of_the_server_aborts_cleanly() {
    let (database, admin) = database().await;
    // The tables take their time; what follows is to be cut short.
    opened(&database).await.close().await;
    let mut config = config(&database);
    config.statement_timeout = Duration::from_secs(1);
    let store = PostgresStore::new(&config).unwrap();
    store.open().await.unwrap();
    put(&store, row("k", 1, "v")).await;
    admin.batch_execute(LOCK_ALL_ROWS).await.unwrap();
    let outcome = store.commit(batch([row("k", 2, "too late")])).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Timeout(_))), "{outcome:?}");
    admin.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(read_one(&store, "k").await, Some(row("k", 1, "v")));
    put(&store, row("k", 3, "the store is still good")).await;
}

#[tokio::test]
async fn what_a_flush_hides_is_deleted_in_the_end() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let partition = row("{t}", 0, "").key.partition();
    let elsewhere = row("elsewhere", 1, "v");
    assert_ne!(elsewhere.key.partition(), partition);
    let below = (0..4_500).map(|i| row(&format!("{{t}}{i}"), 5, "v"));
    store.commit(batch(below.chain([row("{t}above", 9, "v"), elsewhere.clone()]))).await;
    let stored =
        async || -> i64 { admin.query_one("SELECT count(*) FROM tercet.entry", &[]).await.unwrap().get(0) };
    let stored_become = async |expected: i64| {
        while stored().await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(stored().await, 4_502);
    let clock = VectorClock::new();
    let flush = |seq| CommitBatch {
        flushes: vec![(partition, row("", seq, "").ballot, clock.clone())],
        ..CommitBatch::default()
    };
    store.commit(flush(8)).await;
    stored_become(2).await;
    // Accepted before the flush, committed after it.
    put(&store, row("{t}late", 7, "v")).await;
    stored_become(2).await;
    assert!(read_one(&store, "{t}above").await.is_some());
    assert_eq!(read_one(&store, "elsewhere").await, Some(elsewhere));

    // Whatever the last life left behind.
    store.close().await;
    let left = "INSERT INTO tercet.entry (partition, kind, key_hash, epoch, n, incarnation, seq, key, clock) \
         VALUES ($1, 0, '\\x00112233445566778899aabbccddeeff', 1, 1, 1, 1, 'left', '')";
    admin.execute(left, &[&smallint(partition)]).await.unwrap();
    store.open().await.unwrap();
    stored_become(2).await;
}

/// The order of things: flushed rows are being deleted; the flush is lowered; a row between the two flushes comes in.
#[tokio::test]
async fn rows_below_a_flush_that_was_lowered_stay() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    put(&store, row("{t}flushed", 5, "v")).await;
    let none = PartitionChange::none(row("{t}", 0, "").key.partition());
    let flush = |seq| Some((row("", seq, "").ballot, VectorClock::new()));
    admin.batch_execute(LOCK_ALL_ROWS).await.unwrap();
    let raised = store.change(PartitionChange { flush: flush(20), ..none.clone() }).await;
    assert!(matches!(raised, CommitOutcome::Committed { .. }), "{raised:?}");
    wait_until_blocked(&admin).await;
    assert!(store.session().unwrap().purge_turn.try_lock().is_err(), "rows are being deleted below 20");
    let unblock = async { admin.batch_execute("ROLLBACK").await.unwrap() };
    let (lowered, ()) =
        join(store.change(PartitionChange { flush: flush(10), ..none.clone() }), unblock).await;
    assert!(matches!(lowered, CommitOutcome::Committed { .. }), "{lowered:?}");
    let rows = vec![row("{t}installed", 15, "v")];
    store.change(PartitionChange { rows, ..none.clone() }).await;
    // All of the partition is looked at again.
    put(&store, row("{t}late", 9, "v")).await;
    let stored = "SELECT count(*) FROM tercet.entry";
    while admin.query_one(stored, &[]).await.unwrap().get::<_, i64>(0) != 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read_one(&store, "{t}installed").await, Some(row("{t}installed", 15, "v")));
}

/// What happens at COMMIT happens in a trigger that waits for it.
async fn at_commit(admin: &Client, action: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION public.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN {action}; RETURN NULL; END $$; \
         DROP TRIGGER IF EXISTS at_commit ON tercet.entry; \
         CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON tercet.entry DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION public.at_commit()"
    );
    admin.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_change_whose_commit_is_not_answered_is_unknown_and_heals() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let partition = row("{t}", 0, "").key.partition();
    let change = |seq| PartitionChange {
        rows: vec![row(&format!("{{t}}{seq}"), seq, "v")],
        ..PartitionChange::none(partition)
    };
    put(&store, row("{t}k", 1, "v")).await;
    at_commit(&admin, "RAISE 'refused'").await;
    let outcome = store.change(change(2)).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Failed(_))), "{outcome:?}");
    at_commit(&admin, "PERFORM pg_terminate_backend(pg_backend_pid())").await;
    let outcome = store.change(change(3)).await;
    assert!(matches!(outcome, CommitOutcome::Unknown(_)), "{outcome:?}");
    assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))));
    store.open().await.unwrap();
    assert_eq!(read_one(&store, "{t}3").await, None);
    admin.batch_execute("DROP TRIGGER at_commit ON tercet.entry").await.unwrap();
    assert!(matches!(store.change(change(4)).await, CommitOutcome::Committed { .. }));
}

#[tokio::test]
async fn a_renewal_of_the_identity_whose_commit_is_not_answered_loses_the_store() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let before = store.open().await.unwrap().identity.worker_uuid;
    let at_renewal = |action: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION public.at_renewal() RETURNS trigger LANGUAGE plpgsql AS $$ \
             BEGIN {action}; RETURN NULL; END $$; \
             DROP TRIGGER IF EXISTS at_renewal ON tercet.identity; \
             CREATE CONSTRAINT TRIGGER at_renewal AFTER UPDATE OF worker_uuid ON tercet.identity \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.at_renewal()"
        )
    };
    admin.batch_execute(&at_renewal("RAISE 'refused'")).await.unwrap();
    assert!(matches!(store.renew_identity().await, Err(StoreError::Failed(_))));
    store.prove_commit().await.expect("nothing has happened");

    admin.batch_execute(&at_renewal("PERFORM pg_terminate_backend(pg_backend_pid())")).await.unwrap();
    assert!(matches!(store.renew_identity().await, Err(StoreError::Unreachable(_))));
    assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))));
    assert_eq!(store.open().await.unwrap().identity.worker_uuid, before);
    admin.batch_execute("DROP TRIGGER at_renewal ON tercet.identity").await.unwrap();
    let renewed = store.renew_identity().await.unwrap();
    assert_eq!(store.open().await.unwrap().identity.worker_uuid, renewed);
}

#[tokio::test]
async fn a_change_that_breaks_before_its_commit_never_happened() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    put(&store, row("{t}k", 1, "v")).await;
    admin.batch_execute(LOCK_ALL_ROWS).await.unwrap();
    let partition = row("{t}", 0, "").key.partition();
    let rows = vec![row("{t}k", 2, "v")];
    // With something to evict it is a transaction of several statements.
    let evict = vec![(Key::new("{t}x").unwrap().hash(), row("", 1, "").ballot)];
    let broken = store.change(PartitionChange { rows, evict, ..PartitionChange::none(partition) });
    let terminated = async {
        wait_until_blocked(&admin).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'";
        admin.query(end, &[]).await.unwrap();
    };
    let (outcome, ()) = join(broken, terminated).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Unreachable(_))), "{outcome:?}");
    admin.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(read_one(&store, "{t}k").await, Some(row("{t}k", 1, "v")));
    // The seq that it took is a gap now, which is not the same as a journal that was pruned.
    put(&store, row("{t}k", 3, "v")).await;
    let changes = store.changes(1, 10).await.unwrap();
    assert_eq!((changes.upto, changes.entries.len(), changes.pruned), (3, 1, false));
}

#[tokio::test]
async fn the_journal_is_told_up_to_what_is_under_way() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    put(&store, row("{t}a", 1, "v")).await;
    admin.batch_execute(LOCK_ALL_ROWS).await.unwrap();
    let seen = async || {
        let changes = store.changes(0, 100).await.unwrap();
        (changes.upto, changes.entries.len(), changes.more)
    };
    let behind = async {
        wait_until_blocked(&admin).await;
        put(&store, row("{t}b", 3, "v")).await;
        assert_eq!(seen().await, (1, 1, false));
        admin.batch_execute("ROLLBACK").await.unwrap();
    };
    let (outcome, ()) = join(store.commit(batch([row("{t}a", 2, "v")])), behind).await;
    assert!(matches!(outcome, CommitOutcome::Committed { journal_seq: 2, .. }), "{outcome:?}");
    assert_eq!(seen().await, (3, 2, false));
}

#[tokio::test]
async fn a_journal_that_was_pruned_says_so() {
    let (database, _) = database().await;
    let store = opened(&database).await;
    for seq in 1..=9 {
        put(&store, row(&format!("{{t}}{seq}"), seq, "v")).await;
    }
    let pruned = Changes { upto: 6, pruned: true, ..Changes::default() };
    maintain::pass(&store.session().unwrap(), 9).await.unwrap();
    assert_eq!(store.changes(0, 100).await.unwrap().entries.len(), 9, "nothing is gone yet");
    maintain::pass(&store.session().unwrap(), 2).await.unwrap();
    assert_eq!(store.changes(6, 100).await, Ok(pruned.clone()));
    assert_eq!(store.changes(7, 100).await.unwrap().entries.len(), 2);
    store.open().await.unwrap();
    assert_eq!(store.changes(6, 100).await, Ok(pruned.clone()));
    maintain::pass(&store.session().unwrap(), 0).await.unwrap();
    assert_eq!(store.changes(7, 100).await, Ok(Changes { upto: 7, ..pruned }), "the journal is empty");
    assert_eq!(store.changes(9, 100).await, Ok(Changes { upto: 9, ..Changes::default() }));
}

#[tokio::test]
async fn rows_are_estimated() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    store.commit(batch((0..100).map(|i| row(&i.to_string(), 1, "v")))).await;
    admin.batch_execute("ANALYZE tercet.entry").await.unwrap();
    store.open().await.unwrap();
    while store.usage().keys < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Hundreds of keys may be asked for at once, before anybody knows how large their values are.
#[tokio::test]
async fn large_values_come_as_many_at_once_as_there_is_room_for() {
    let (database, _) = database().await;
    let store = opened(&database).await;
    let value = "x".repeat(15 * 1024 * 1024);
    let rows: Vec<_> =
        (1..=4).map(|i| row(&i.to_string(), i, if i == 1 { "small" } else { &value })).collect();
    for row in &rows {
        put(&store, row.clone()).await;
    }
    let keys: Vec<_> = rows.iter().map(|row| (row.key.partition(), row.key.hash())).collect();
    let read = async |from: usize| store.read(keys[from..].to_vec()).await.unwrap();
    let wanted: Vec<_> = rows.into_iter().map(Some).collect();
    assert!(read(0).await == wanted[..3]);
    assert!(read(3).await == wanted[3..]);
}

/// Between a commit and the second look at it, another commit may have gone over its rows. They were stored all the same,
/// and may have been read.
#[tokio::test]
async fn a_row_that_was_written_counts_as_stored_whatever_came_after() {
    let (database, _) = database().await;
    let store = opened(&database).await;
    let mine = batch([row("{t}a", 5, "mine"), row("{t}b", 5, "mine")]);
    put(&store, row("{t}a", 9, "later")).await;
    put(&store, row("{t}b", 9, "earlier")).await;
    let session = store.session().unwrap();
    let client = session.writers.get().await.unwrap();
    let columns = RowColumns::new(mine.rows.iter().map(|write| (write.place, &write.row))).unwrap();
    let written = [HashColumn(row("{t}a", 0, "").key.hash().0)].into_iter().collect();
    let outcomes = commit::outcomes(&session, &client, &columns, written).await.unwrap();
    for (Write { row, .. }, outcome) in mine.rows.iter().zip(outcomes) {
        let was_written = row.key.as_bytes() == b"{t}a";
        assert_eq!(outcome == RowOutcome::Stored, was_written, "{row:?} {outcome:?}");
    }
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_loses_the_store() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    put(&store, row("k", 1, "v")).await;
    admin.batch_execute(LOCK_ALL_ROWS).await.unwrap();
    let mut abandoned = store.commit(batch([row("k", 2, "abandoned")]));
    tokio::select! {
        outcome = &mut abandoned => panic!("{outcome:?}"),
        () = wait_until_blocked(&admin) => {}
    }
    drop(abandoned);
    assert_eq!(store.prove_commit().now_or_never().map(|r| r.is_err()), Some(true));
    // It was still waiting for the lock; after the opening it cannot land any more.
    store.open().await.unwrap();
    admin.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(read_one(&store, "k").await, Some(row("k", 1, "v")));
}

#[tokio::test]
async fn a_checkpoint_lets_the_journal_be_pruned() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let incarnation = row("k", 1, "").ballot.term.incarnation;
    for seq in 1..=9 {
        put(&store, row(&format!("{{t}}{seq}"), seq, "v")).await;
    }
    maintain::pass(&store.session().unwrap(), 2).await.unwrap();
    let journal = async || -> Vec<i64> {
        let rows = admin.query("SELECT seq FROM tercet.journal ORDER BY seq", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(journal().await, [8, 9]);
    put(&store, row("{t}10", 10, "v")).await;

    let partition = row("{t}", 0, "").key.partition().index();
    for _ in 0..2 {
        let loaded = store.open().await.unwrap();
        assert_eq!(loaded.partitions[partition].vector, VectorClock::new().with_dot(incarnation, 10));
        assert_eq!(loaded.partitions[partition].highest, row("k", 10, "").ballot);
        assert_eq!(loaded.identity.journal_seq, 10);
        // What was replayed is part of the next checkpoint, and an empty journal loses nothing.
        maintain::pass(&store.session().unwrap(), 0).await.unwrap();
        assert_eq!(journal().await, [0i64; 0]);
    }
    let outcome = store.commit(CommitBatch::default()).await;
    assert!(matches!(outcome, CommitOutcome::Committed { journal_seq: 11, .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_checkpoint_beside_commits_loses_nothing() {
    let (database, _) = database().await;
    let store = opened(&database).await;
    let commits = async {
        for seq in 1..=60 {
            let promises = vec![(row("{t}", 0, "").key.partition(), promise(1, seq, 1))];
            store.commit(CommitBatch { promises, ..batch([row(&format!("{{t}}{seq}"), seq, "v")]) }).await;
        }
    };
    let checkpoints = async {
        for _ in 0..20 {
            maintain::pass(&store.session().unwrap(), 5).await.unwrap();
        }
    };
    join(commits, checkpoints).await;
    let loaded = store.open().await.unwrap();
    let record = &loaded.partitions[row("{t}", 0, "").key.partition().index()];
    assert_eq!((record.highest, record.promise), (row("k", 60, "").ballot, promise(1, 60, 1)));
}

/// The sweeper asks every second: what it does must not grow with the keys that have not expired.
#[tokio::test]
async fn every_statement_by_key_goes_through_its_index() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let many = "INSERT INTO tercet.entry SELECT i % 1024, 1, decode(md5(i::text), 'hex'), 1, 1, 1, i, \
                NULL, 'k', '', 'v' FROM generate_series(1, 20000) AS i";
    for state in ["before and", "after statistics"] {
        let session = store.session().unwrap();
        let reader = session.readers.get().await.unwrap();
        let writer = session.writers.get().await.unwrap();
        let (scan, read) =
            ("0::smallint, '', 1023::smallint, 1000, 250, 1000000, true", "'{1}', '{a}', 1000");
        let (digest, look) = ("1::smallint, '', 4096".to_owned(), "1::smallint, '{a}'".to_owned());
        let evict = "1::smallint, '{a}', '{1}', '{1}', '{1}', '{1}'".to_owned();
        for (client, name, sql, arguments, index) in [
            (&reader, "by_key", read::READ.as_str(), read.to_owned(), "entry_pkey"),
            (&reader, "scan", &read::SCAN, format!("{scan}, NULL, true"), "entry_pkey"),
            (&reader, "expired", &read::SCAN_EXPIRED, format!("{scan}, 5, true"), "entry_expiry"),
            (&reader, "digest", &digest::DIGEST, digest, "entry_pkey"),
            (&reader, "look", &digest::LOOK, look, "entry_pkey"),
            (&writer, "evict", &change::EVICT, evict, "entry_pkey"),
            (&writer, "drop", leftovers::DROP, "'{1,2}', 500".to_owned(), "entry_pkey"),
        ] {
            let _ = client.batch_execute(&format!("DEALLOCATE {name}")).await;
            client.batch_execute(&format!("PREPARE {name} AS {sql}")).await.unwrap();
            let plan = client.query(&format!("EXPLAIN EXECUTE {name} ({arguments})"), &[]).await.unwrap();
            let plan: String = plan.iter().map(|line| line.get::<_, &str>(0).to_owned() + "\n").collect();
            let other = if index == "entry_pkey" { "entry_expiry" } else { "entry_pkey" };
            assert!(plan.contains(index) && !plan.contains(other), "{state}: {plan}");
            assert!(!plan.contains("Seq Scan on entry"), "{state}: {plan}");
            assert!(
                name != "digest" || !plan.contains("Bitmap"),
                "in order, no further than the limit: {plan}"
            );
        }
        admin.batch_execute(many).await.unwrap();
        admin.batch_execute("ANALYZE tercet.entry; DELETE FROM tercet.entry").await.unwrap();
    }
}

#[tokio::test]
async fn the_view_shows_any_bytes_to_people() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    put(&store, row("gr\u{fc}n", 1, "wert")).await;
    put(&store, Row { content: Content::Tombstone, ..row("gone", 2, "") }).await;
    let at = |millis| Some(UnixMillis(millis));
    put(&store, Row { content: Content::string("v", at(86_400_000)), ..row("old", 3, "") }).await;
    put(&store, Row { content: Content::string("v", at(i64::MAX)), ..row("forever", 4, "") }).await;
    put(&store, Row { content: Content::string("v", at(i64::MIN)), ..row("never", 4, "") }).await;
    let bytes = Key::new(vec![0xff, 0x00]).unwrap();
    put(&store, Row { key: bytes, content: Content::string(vec![0x00], None), ..row("", 5, "") }).await;

    let sql =
        "SELECT key, value, kind, state, expires_at::text, clock, ballot FROM tercet.kv ORDER BY ballot, key";
    admin.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let rows = admin.query(sql, &[]).await.unwrap();
    let text = |row: usize, column: usize| rows[row].get::<_, Option<&str>>(column).unwrap_or("NULL");
    let shown = |row| [0, 1, 2, 3, 4].map(|column| text(row, column));
    assert_eq!(shown(0), ["gr\u{fc}n", "wert", "string", "live", "NULL"]);
    assert_eq!(shown(1), ["gone", "NULL", "tombstone", "deleted", "NULL"]);
    assert_eq!(shown(2), ["old", "v", "string", "expired", "1970-01-02 00:00:00+00"]);
    assert_eq!(shown(3), ["forever", "v", "string", "live", "infinity"]);
    assert_eq!(shown(4), ["never", "v", "string", "expired", "-infinity"]);
    assert_eq!(shown(5), ["\\xff00", "\\x00", "string", "live", "NULL"]);
    assert_eq!((text(0, 5), text(0, 6)), ("{7abcdef012345678:1}", "1.1.7abcdef012345678.1"));
}

#[tokio::test]
async fn a_conflict_is_two_rows_of_one_incident() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let large = Content::string(vec![b'v'; CONFLICT_BYTES_MAX], None);
    let tombstone = Row { content: Content::Tombstone, ..row("a", 1, "") };
    let conflict = Conflict { higher: Row { content: large, ..row("a", 2, "") }, lower: tombstone };
    assert_eq!(store.keep_conflict(conflict).await, Ok(true));
    let sql = "SELECT kept, kind, seq, octet_length(value), tercet.readable(key), tercet.readable_clock(clock) \
         FROM tercet.conflict ORDER BY seq";
    let rows = admin.query(sql, &[]).await.unwrap();
    let shown = |row: usize| {
        let row = &rows[row];
        let (kept, kind, seq): (bool, i16, i64) = (row.get(0), row.get(1), row.get(2));
        let (bytes, key, clock): (Option<i32>, &str, &str) = (row.get(3), row.get(4), row.get(5));
        (kept, kind, seq, bytes, key.to_owned(), clock.to_owned())
    };
    let clock = |seq: u64| format!("{{7abcdef012345678:{seq}}}");
    assert_eq!(shown(0), (false, 0, 1, None, "a".to_owned(), clock(1)));
    assert_eq!(shown(1), (true, 1, 2, Some(CONFLICT_BYTES_MAX as i32), "a".to_owned(), clock(2)));
    let incidents = "SELECT count(DISTINCT incident) FROM tercet.conflict";
    assert_eq!(admin.query_one(incidents, &[]).await.unwrap().get::<_, i64>(0), 1);
    let more = Conflict { higher: row("b", 2, ""), lower: row("b", 1, "") };
    assert_eq!(store.keep_conflict(more.clone()).await, Ok(false), "so many bytes are enough");
    admin.batch_execute("DELETE FROM tercet.conflict").await.unwrap();
    assert_eq!(store.keep_conflict(more).await, Ok(true), "whoever has looked may make room");
}

#[tokio::test]
async fn every_table_and_column_is_explained() {
    let (database, admin) = database().await;
    opened(&database).await;
    let sql = "SELECT c.relname || coalesce('.' || a.attname, '') \
         FROM pg_class AS c LEFT JOIN LATERAL (SELECT attname, attnum FROM pg_attribute \
           WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped UNION ALL SELECT NULL, 0) AS a ON true \
         WHERE c.relnamespace = 'tercet'::regnamespace AND c.relkind IN ('r', 'v') \
           AND c.relname <> 'schema_history' \
           AND col_description(c.oid, a.attnum) IS NULL AND (a.attnum > 0 OR obj_description(c.oid) IS NULL)";
    let missing: Vec<String> = admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(missing, [""; 0]);
}

/// Others would take it for the start that they know, and believe what it has forgotten.
#[tokio::test]
async fn data_that_was_set_back_starts_in_no_generation_that_there_was() {
    let (database, admin) = database().await;
    let generation = async || {
        let store = store(&database);
        let generation = store.open().await.unwrap().identity.boot_generation;
        store.close().await;
        generation
    };
    let (backup, lost) = (generation().await, generation().await);
    let set_back = format!("UPDATE tercet.identity SET boot_generation = {backup}");
    admin.batch_execute(&set_back).await.unwrap();
    assert_ne!(generation().await, lost);
}

#[tokio::test]
async fn rows_go_to_the_log_and_then_to_the_table_and_the_log_is_emptied() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    log(&store, [row("a", 1, "old"), row("b", 1, "v")]).await;
    log(&store, [row("a", 2, "new")]).await;
    assert_eq!(read_one(&store, "a").await, Some(row("a", 2, "new")));
    while (count(&admin, "entry").await, count(&admin, "redo").await) != (2, 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read_one(&store, "a").await, Some(row("a", 2, "new")), "from the table");
}

#[tokio::test]
async fn what_only_the_log_holds_survives_a_crash() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    admin.batch_execute(HOLD_THE_TABLE_BACK).await.unwrap();
    log(&store, [row("a", 1, "v"), row("b", 1, "v")]).await;
    log(&store, [row("a", 2, "w")]).await;
    drop(store);
    end_backends(&admin).await;
    assert_eq!(count(&admin, "entry").await, 0, "nothing was applied yet");
    admin.batch_execute("ROLLBACK").await.unwrap();
    let store = opened(&database).await;
    assert_eq!(count(&admin, "entry").await, 2, "before anything is answered");
    assert_eq!(read_one(&store, "a").await, Some(row("a", 2, "w")));
    assert_eq!(read_one(&store, "b").await, Some(row("b", 1, "v")));
    // The log may hold them still, and older versions never replace newer ones.
    put(&store, row("a", 3, "x")).await;
    store.open().await.unwrap();
    assert_eq!(read_one(&store, "a").await, Some(row("a", 3, "x")));
}

#[tokio::test]
async fn what_was_evicted_does_not_come_back_from_the_log() {
    let (database, admin) = database().await;
    let store = opened(&database).await;
    let elsewhere = row("elsewhere", 1, "v");
    let partition = row("{t}", 0, "").key.partition();
    assert_ne!(elsewhere.key.partition(), partition);
    // The log may keep a commit for the sake of another row. Here it is seen to that it does.
    admin.batch_execute(HOLD_THE_TABLE_BACK).await.unwrap();
    log(&store, [row("{t}dead", 5, "v"), row("{t}lives", 5, "v"), elsewhere.clone()]).await;
    admin.batch_execute("CREATE TABLE kept AS TABLE tercet.redo; COMMIT").await.unwrap();
    let dead = row("{t}dead", 5, "");
    let evict = vec![(dead.key.hash(), dead.ballot)];
    let outcome = store.change(PartitionChange { evict, ..PartitionChange::none(partition) }).await;
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
    log(&store, [row("{t}later", 6, "v")]).await;
    drop(store);
    end_backends(&admin).await;
    let keep = "INSERT INTO tercet.redo TABLE kept ON CONFLICT DO NOTHING";
    admin.batch_execute(keep).await.unwrap();
    assert!(count(&admin, "redo JOIN kept USING (seq)").await > 0);
    let store = opened(&database).await;
    assert_eq!(read_one(&store, "{t}dead").await, None);
    assert_eq!(read_one(&store, "{t}lives").await, Some(row("{t}lives", 5, "v")));
    assert_eq!(read_one(&store, "{t}later").await, Some(row("{t}later", 6, "v")));
    assert_eq!(read_one(&store, "elsewhere").await, Some(elsewhere));
}

#[tokio::test]
async fn a_row_that_goes_to_the_table_at_once_takes_the_place_of_the_one_in_the_log() {
    let (database, _) = database().await;
    let store = opened(&database).await;
    log(&store, [row("a", 1, "small")]).await;
    let large = row("a", 2, &"x".repeat(5_000));
    log(&store, [large.clone()]).await;
    assert_eq!(read_one(&store, "a").await, Some(large.clone()));
    // What stands in the log stands in the way as what stands in the table does.
    log(&store, [row("b", 5, "v")]).await;
    let outcome = store.commit(batch([row("a", 1, "late"), row("b", 4, "late"), row("b2", 1, "v")])).await;
    let CommitOutcome::Committed { rows, .. } = outcome else { panic!("{outcome:?}") };
    let superseded = |seq| RowOutcome::Superseded { ballot: suite::ballot(seq) };
    let mut expected = [("a", superseded(2)), ("b", superseded(5)), ("b2", RowOutcome::Stored)];
    expected.sort_by_key(|(key, _)| place_of(&row(key, 0, "")));
    assert_eq!(rows, expected.map(|(_, outcome)| outcome));
    store.open().await.unwrap();
    assert_eq!(read_one(&store, "a").await, Some(large));
    assert_eq!(read_one(&store, "b").await, Some(row("b", 5, "v")));
}

/// Against the store in memory, which has no log: whatever is asked, at any time, and after any crash.
#[tokio::test]
async fn the_log_makes_no_difference_to_anybody() {
    use rand::{RngExt, SeedableRng};
    let (database, _) = database().await;
    let (store, disk) = (opened(&database).await, MemoryDisk::new("model"));
    let model = disk.store();
    model.open().await.unwrap();
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let partition = row("{t}", 0, "").key.partition();
    let everything = suite::everything();
    for seq in 2..400 {
        let key = |n: usize| if n.is_multiple_of(3) { format!("k{n}") } else { format!("{{t}}{n}") };
        let picked = |rng: &mut rand::rngs::StdRng| key(rng.random_range(0..24));
        match rng.random_range(0..20) {
            0..12 => {
                let keys: std::collections::BTreeSet<_> =
                    (0..rng.random_range(1..6)).map(|_| picked(&mut rng)).collect();
                let mut sent = Vec::new();
                for name in keys {
                    let late = rng.random_range(0..6) == 0;
                    let mut new =
                        row(&name, if late { seq - 1 - rng.random_range(0..seq - 1) } else { seq }, "v");
                    match rng.random_range(0..6) {
                        0 => new.content = Content::Tombstone,
                        1 => new.content = Content::string("w", Some(UnixMillis(rng.random_range(0..9)))),
                        2 => new.content = Content::string("x".repeat(3_000), None),
                        _ => {}
                    }
                    let held = model.read(vec![place_of(&new)]).await.unwrap().remove(0);
                    let known = held.is_none_or(|held| held.ballot < new.ballot) && rng.random();
                    sent.push(Write { known, ..new.into() });
                }
                sent.sort_by_key(|write| write.place);
                let batch = CommitBatch { rows: sent, ..CommitBatch::default() };
                let outcome = store.commit(batch.clone()).await;
                let CommitOutcome::Committed { rows, .. } = outcome else { panic!("{outcome:?}") };
                let CommitOutcome::Committed { rows: expected, .. } = model.commit(batch).await else {
                    panic!()
                };
                assert_eq!(rows, expected);
            }
            12 => {
                let picked = row(&picked(&mut rng), 0, "");
                let held = model.read(vec![place_of(&picked)]).await.unwrap().remove(0);
                let evict = held.iter().filter(|held| held.key.partition() == partition);
                let evict = evict.map(|held| (held.key.hash(), held.ballot)).collect();
                let change = PartitionChange { evict, ..PartitionChange::none(partition) };
                store.change(change.clone()).await;
                model.change(change).await;
            }
            13 | 14 => drop(store.open().await.unwrap()),
            15 => {
                let limit = rng.random_range(1..9);
                let options = ScanOptions { limit, with_tombstones: rng.random(), ..everything };
                assert_eq!(suite::all_pages(&store, options).await, suite::all_pages(&model, options).await);
            }
            16 => {
                let by = Some(UnixMillis(rng.random_range(0..9)));
                let options = ScanOptions { expired_by: by, ..everything };
                assert_eq!(suite::all_pages(&store, options).await, suite::all_pages(&model, options).await);
            }
            17 => {
                let limit = rng.random_range(1..9);
                assert_eq!(
                    suite::all_entries(&store, partition, limit).await,
                    suite::all_entries(&model, partition, limit).await
                );
            }
            18 => {
                let hashes: Vec<_> = (0..24).map(|n| row(&key(n), 0, "").key.hash()).collect();
                let (found, expected) =
                    join(store.look(partition, hashes.clone()), model.look(partition, hashes)).await;
                assert_eq!(found, expected);
            }
            _ => {
                let all: Vec<_> = tercet_common::PartitionId::all().collect();
                let (counted, expected) =
                    join(store.count(all.clone(), UnixMillis(5)), model.count(all, UnixMillis(5))).await;
                assert_eq!(counted, expected);
            }
        }
    }
}
