//! What only PostgreSQL can do to a store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tercet_common::{Key, KeyHash, Row, VectorClock, WorkerId};

use super::super::suite::{self, Fixture, ballot, batch, read_one, row};
use super::super::{CommitOutcome, Store, StoreError};
use super::PostgresStore;
use super::columns::smallint;
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

async fn connect(database: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
