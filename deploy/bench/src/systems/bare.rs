//! Three bare PostgreSQL that are fed batches of rows: the ceiling for three copies of which two must be durable, as
//! there is nothing around them. No protocol, no network but loopback, no checks, no journal; one connection each.
//!
//! The table is a worker's, without what a put does not touch. It stays as it is when the worker's changes, so that
//! ceilings of different days can be compared.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::Place;
use super::postgres::Postgres;
use crate::load::work::{Work, random_text};
use crate::sample::{self, Latency, Sample, Span};

const COPIES: usize = 3;
/// Commits that a batch waits for.
const QUORUM: usize = 2;
/// Batches that are sent and that no quorum has committed, so that no server waits for the next one.
const UNDER_WAY: usize = 2;
/// Batches that a server may be behind the quorum.
const BEHIND: usize = 8;
/// More than all servers together can have committed while nobody counts.
const COMMITS: usize = 4 * COPIES * (UNDER_WAY + BEHIND);
const FILLING_ROWS: u64 = 1_000;
/// For the last batches.
const END_DEADLINE: Duration = Duration::from_secs(30);

const TABLE: &str = "
    CREATE TABLE entry (
        partition   smallint NOT NULL,
        kind        smallint NOT NULL,
        key_hash    bytea    NOT NULL,
        epoch       bigint   NOT NULL,
        n           bigint   NOT NULL,
        incarnation bigint   NOT NULL,
        seq         bigint   NOT NULL,
        expires_at  bigint,
        key         bytea    NOT NULL,
        clock       bytea    NOT NULL,
        value       bytea,
        PRIMARY KEY (partition, key_hash)
    ) WITH (fillfactor = 85);
    ALTER TABLE entry ALTER COLUMN value SET STORAGE EXTERNAL";
const UPSERT: &str = "
    INSERT INTO entry AS e
        (partition, kind, key_hash, epoch, n, incarnation, seq, expires_at, key, clock, value)
    SELECT unnest($1::smallint[]), unnest($2::smallint[]), unnest($3::bytea[]), unnest($4::bigint[]),
        unnest($5::bigint[]), unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bigint[]),
        unnest($9::bytea[]), unnest($10::bytea[]), unnest($11::bytea[])
    ON CONFLICT (partition, key_hash) DO UPDATE SET
        kind = excluded.kind, epoch = excluded.epoch, n = excluded.n, incarnation = excluded.incarnation,
        seq = excluded.seq, expires_at = excluded.expires_at, clock = excluded.clock, value = excluded.value
    WHERE e.key = excluded.key
        AND (e.epoch, e.n, e.incarnation, e.seq)
            < (excluded.epoch, excluded.n, excluded.incarnation, excluded.seq)";

/// See the module. Dropped, the servers end.
#[derive(Debug)]
pub(crate) struct Bare {
    servers: Vec<Postgres>,
    /// Of the last row.
    seq: i64,
}

impl Bare {
    pub(crate) async fn start(place: &Place) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        for _ in 0..COPIES {
            let server = Postgres::start(place, 0).await?;
            server.connect().await?.batch_execute(TABLE).await?;
            servers.push(server);
        }
        Ok(Self { servers, seq: 0 })
    }

    pub(crate) async fn check_durable(&self) -> anyhow::Result<()> {
        for server in &self.servers {
            server.check_durable().await?;
        }
        Ok(())
    }

    /// Stores every key of the work.
    pub(crate) async fn fill(&mut self, work: Work) -> anyhow::Result<()> {
        for server in &self.servers {
            let client = server.connect().await?;
            let upsert = client.prepare(UPSERT).await?;
            for from in (0..work.keys).step_by(FILLING_ROWS as usize) {
                let numbers = (from..work.keys.min(from + FILLING_ROWS)).collect();
                Batch::new(numbers, &work, 1).store(&client, &upsert).await?;
            }
            client.batch_execute("VACUUM (ANALYZE) entry").await?;
            client.batch_execute("CHECKPOINT").await?;
        }
        self.seq = 1;
        Ok(())
    }

    /// Batches of `rows` on random keys; a row counts once a quorum has committed it.
    pub(crate) async fn measure(&mut self, work: Work, rows: usize, span: Span) -> anyhow::Result<Sample> {
        ensure!(rows > 0 && rows as u64 <= work.keys, "batches of {rows} rows of {} keys", work.keys);
        let (committed, mut commits) = mpsc::channel::<u64>(COMMITS);
        let (mut queues, mut all) = (Vec::new(), JoinSet::new());
        for server in &self.servers {
            let (queue, batches) = mpsc::channel(BEHIND);
            queues.push(queue);
            all.spawn(store_all(server.connect().await?, batches, committed.clone()));
        }
        drop(committed);
        let mut rng: SmallRng = rand::make_rng();
        let from = Instant::now() + span.warm_up;
        let until = from + span.lasting;
        let mut open: VecDeque<Open> = VecDeque::new();
        let (mut first, mut done, mut latency) = (0, 0, sample::histogram());
        'feed: while Instant::now() < until {
            while open.iter().filter(|batch| batch.commits < QUORUM).count() < UNDER_WAY {
                self.seq += 1;
                let batch = Arc::new(Batch::draw(rows, &work, self.seq, &mut rng));
                let number = first + open.len() as u64;
                open.push_back(Open { rows: batch.seq.len(), commits: 0, begun: Instant::now() });
                for queue in &queues {
                    if queue.send((number, batch.clone())).await.is_err() {
                        break 'feed;
                    }
                }
            }
            let Some(number) = commits.recv().await else { break };
            let batch = usize::try_from(number - first).ok().and_then(|at| open.get_mut(at));
            let batch = batch.context("a batch that was not sent")?;
            batch.commits += 1;
            let now = Instant::now();
            if batch.commits == QUORUM && now >= from && now < until {
                done += batch.rows;
                sample::record(&mut latency, now - batch.begun);
            }
            while open.front().is_some_and(|batch| batch.commits == COPIES) {
                open.pop_front();
                first += 1;
            }
        }
        // If a server ended before, its error is found here.
        drop((queues, commits));
        let end = async {
            while let Some(ended) = all.join_next().await {
                ended.context("a server failed")??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_DEADLINE, end).await.context("the last batches were not committed")??;
        let seconds = span.lasting.as_secs_f64();
        let (per_second, latency) = (done as f64 / seconds, Some(Latency::of(&latency)));
        Ok(Sample { seconds, per_second, latency, ..Sample::default() })
    }
}

/// A batch that not all servers have committed.
struct Open {
    rows: usize,
    commits: usize,
    begun: Instant,
}

/// One server's part, until there are no more batches or nobody counts any more.
async fn store_all(
    client: Client,
    mut batches: mpsc::Receiver<(u64, Arc<Batch>)>,
    committed: mpsc::Sender<u64>,
) -> anyhow::Result<()> {
    let upsert = client.prepare(UPSERT).await?;
    while let Some((number, batch)) = batches.recv().await {
        batch.store(&client, &upsert).await?;
        if committed.send(number).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Rows as a worker sends them to its database: an array per column, sorted by (partition, hash), each key once.
#[derive(Debug)]
struct Batch {
    partition: Vec<i16>,
    kind: Vec<i16>,
    key_hash: Vec<Vec<u8>>,
    epoch: Vec<i64>,
    n: Vec<i64>,
    incarnation: Vec<i64>,
    seq: Vec<i64>,
    expires_at: Vec<Option<i64>>,
    key: Vec<Vec<u8>>,
    clock: Vec<Vec<u8>>,
    value: Vec<Vec<u8>>,
}

impl Batch {
    fn draw(rows: usize, work: &Work, seq: i64, rng: &mut SmallRng) -> Self {
        Self::new((0..rows).map(|_| rng.random_range(0..work.keys)).collect(), work, seq)
    }

    fn new(numbers: Vec<u64>, work: &Work, seq: i64) -> Self {
        let mut keys: Vec<([u8; 16], u64)> =
            numbers.into_iter().map(|number| (hash(number), number)).collect();
        // The partition is the hash's begin, so this is the order of both.
        keys.sort_unstable();
        keys.dedup();
        let (len, prefix) = (keys.len(), Work::prefix(work.value_bytes));
        let value = random_text(&mut SmallRng::seed_from_u64(seq.unsigned_abs()), work.value_bytes);
        Self {
            partition: keys.iter().map(|(hash, _)| partition(hash)).collect(),
            kind: vec![1; len],
            key_hash: keys.iter().map(|(hash, _)| hash.to_vec()).collect(),
            epoch: vec![1; len],
            n: vec![1; len],
            incarnation: vec![i64::MAX; len],
            seq: vec![seq; len],
            expires_at: vec![None; len],
            key: keys.iter().map(|(_, number)| format!("{prefix}{number}").into_bytes()).collect(),
            clock: vec![vec![b'c'; 16]; len],
            value: vec![value; len],
        }
    }

    async fn store(&self, client: &Client, upsert: &Statement) -> anyhow::Result<()> {
        let Self { partition, kind, key_hash, epoch, n, incarnation, seq, expires_at, key, clock, value } =
            self;
        let params: [&(dyn ToSql + Sync); 11] =
            [partition, kind, key_hash, epoch, n, incarnation, seq, expires_at, key, clock, value];
        let written = client.execute(upsert, &params).await?;
        ensure!(written == seq.len() as u64, "{written} of {} rows were written", seq.len());
        Ok(())
    }
}

/// Spread as evenly as a hash of the key, and cheaper.
fn hash(number: u64) -> [u8; 16] {
    SmallRng::seed_from_u64(number).random()
}

/// One of 1024.
fn partition(hash: &[u8; 16]) -> i16 {
    (u16::from_be_bytes([hash[0], hash[1]]) >> 6).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::work::Command;

    #[test]
    fn batches_are_sorted_and_have_each_key_once() {
        let work = Work { keys: 50, ..Work::new(Command::Set, 1, 1, 8) };
        let batch = Batch::draw(200, &work, 7, &mut SmallRng::seed_from_u64(1));
        assert!(batch.seq.len() <= 50 && batch.seq.iter().all(|seq| *seq == 7));
        let order: Vec<_> = batch.partition.iter().zip(&batch.key_hash).collect();
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        assert!(batch.partition.iter().all(|partition| (0..1024).contains(partition)));
        assert!(batch.value.iter().all(|value| value.len() == 8));
    }
}
