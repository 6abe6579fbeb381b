//! The contract of [`Store`] as tests, for every implementation. `suite::tests!(fixture)` makes a test of each, and
//! `suite::tests!(knowing; fixture)` one in which rows are said to be known that are.

use std::cell::Cell;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tercet_common::sync::{Changes, DigestEntry, Memory, Position, Witness};
use tercet_common::{
    Ballot, Content, Epoch, Incarnation, Key, KeyHash, PartitionId, Promise, Row, Term, UnixMillis,
    VectorClock, WorkerId,
};

use super::{
    CONFLICTS_MAX, CommitBatch, CommitOutcome, Conflict, Count, Loaded, Page, PartitionChange,
    PartitionRecord, RingRegister, RowOutcome, ScanFrom, ScanOptions, Store, StoreError, Stretch, Write,
    place_of,
};

/// One empty database of its own.
pub(crate) trait Fixture: Send + Sync {
    /// A store over the database, not open yet.
    fn store(&self) -> Arc<dyn Store>;
    /// Puts a row under a hash that is not its key's.
    fn plant(&self, row: Row, hash: KeyHash) -> BoxFuture<'_, ()>;
}

thread_local! {
    /// Whether a write is said to be known where it is.
    static KNOWING: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn set_knowing(knowing: bool) {
    KNOWING.set(knowing);
}

macro_rules! tests {
    ($fixture:expr) => {
        $crate::store::suite::tests!(@all false, $fixture);
    };
    (knowing; $fixture:expr) => {
        $crate::store::suite::tests!(@all true, $fixture);
    };
    (@all $knowing:literal, $fixture:expr) => {
        $crate::store::suite::tests!(@each $knowing, $fixture;
            a_row_is_written_only_over_a_lower_ballot
            ballots_compare_part_by_part
            an_equal_ballot_counts_as_stored
            a_batch_is_judged_row_by_row
            another_key_under_the_same_hash_is_refused
            every_commit_has_a_journal_seq
            promises_are_never_lowered
            promises_of_both_ways_and_flushes_meet_in_one_batch
            a_flush_hides_what_is_below_it
            pages_follow_the_order_and_miss_nothing
            a_page_is_bounded_in_bytes
            a_page_may_leave_out_data_and_tombstones
            the_sweeper_sees_only_what_has_expired
            the_count_minds_expiry_deletion_and_flush
            all_is_there_after_a_restart
            vectors_and_highest_ballots_survive_a_restart
            the_boot_generation_grows
            concurrent_commits_of_the_same_keys_all_end
            large_values_and_any_bytes_survive
            numbers_beyond_63_bits_are_refused_whole
            the_register_is_kept_as_it_is_sent
            an_identity_is_renewed_for_good
            a_change_writes_only_over_lower_ballots
            a_change_evicts_only_exact_ballots
            a_row_takes_the_place_of_a_higher_one_that_is_evicted
            a_change_sets_the_flush_exactly_and_raises_the_rest
            a_change_is_refused_whole
            changes_and_commits_at_once_all_end
            a_digest_walks_a_partition_in_stretches
            a_look_finds_what_is_there
            the_journal_tells_what_was_written
            a_stretch_of_the_journal_is_bounded_and_never_torn
            what_is_remembered_only_grows
            leftovers_are_dropped_bit_by_bit
            conflicts_are_kept_once_and_not_without_end
            a_second_store_is_refused_while_the_first_lives
            a_closed_store_answers_unreachable
            a_loss_is_told
        );
    };
    (@each $knowing:literal, $fixture:expr; $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            $crate::store::suite::set_knowing($knowing);
            $crate::store::suite::$name(&$fixture).await;
        })*
    };
}
pub(crate) use tests;

const OWNER: Incarnation = Incarnation(0x7abc_def0_1234_5678);

pub(crate) fn promise(epoch: u64, n: u64, incarnation: u64) -> Promise {
    Promise { epoch: Epoch(epoch), term: Term { n, incarnation: Incarnation(incarnation) } }
}

pub(crate) fn ballot(seq: u64) -> Ballot {
    promise(1, 1, OWNER.0).ballot(seq)
}

pub(crate) fn row(key: &str, seq: u64, value: &str) -> Row {
    Row {
        key: Key::new(key.to_owned()).unwrap(),
        ballot: ballot(seq),
        clock: VectorClock::new().with_dot(OWNER, seq),
        content: Content::string(value.to_owned(), None),
    }
}

fn tombstone(key: &str, seq: u64) -> Row {
    Row { content: Content::Tombstone, ..row(key, seq, "") }
}

fn expiring(key: &str, seq: u64, at: i64) -> Row {
    Row { content: Content::string("v", Some(UnixMillis(at))), ..row(key, seq, "") }
}

pub(crate) fn batch(rows: impl IntoIterator<Item = Row>) -> CommitBatch {
    let mut rows: Vec<_> = rows.into_iter().map(Write::from).collect();
    rows.sort_by_key(|write| write.place);
    CommitBatch { rows, ..CommitBatch::default() }
}

async fn opened(fixture: &dyn Fixture) -> (Arc<dyn Store>, Loaded) {
    let store = fixture.store();
    let loaded = store.open().await.unwrap();
    (store, loaded)
}

/// Nothing else may write to the store meanwhile.
async fn outcomes(store: &dyn Store, mut batch: CommitBatch) -> Vec<RowOutcome> {
    if KNOWING.get() {
        let standing = store.read(batch.rows.iter().map(|write| write.place).collect()).await.unwrap();
        for (write, standing) in batch.rows.iter_mut().zip(standing) {
            let lower = |held: Row| held.key == write.row.key && held.ballot < write.row.ballot;
            write.known = standing.is_none_or(lower);
        }
    }
    match store.commit(batch).await {
        CommitOutcome::Committed { rows, .. } => rows,
        other => panic!("{other:?}"),
    }
}

async fn put(store: &dyn Store, rows: impl IntoIterator<Item = Row>) {
    let outcomes = outcomes(store, batch(rows)).await;
    assert!(outcomes.iter().all(|outcome| *outcome == RowOutcome::Stored), "{outcomes:?}");
}

pub(crate) async fn read_one(store: &dyn Store, key: &str) -> Option<Row> {
    let mut rows = store.read(vec![place_of(&row(key, 0, ""))]).await.unwrap();
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

pub(crate) async fn a_row_is_written_only_over_a_lower_ballot(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    assert_eq!(read_one(&*store, "k").await, None);
    put(&*store, [row("k", 5, "five")]).await;
    let late = outcomes(&*store, batch([row("k", 4, "four")])).await;
    assert_eq!(late, [RowOutcome::Superseded { ballot: ballot(5) }]);
    assert_eq!(read_one(&*store, "k").await, Some(row("k", 5, "five")));
    put(&*store, [tombstone("k", 6)]).await;
    assert_eq!(read_one(&*store, "k").await, Some(tombstone("k", 6)));
    put(&*store, [expiring("k", 7, 99)]).await;
    assert_eq!(read_one(&*store, "k").await, Some(expiring("k", 7, 99)));
}

pub(crate) async fn ballots_compare_part_by_part(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let ascending = [
        promise(1, 1, 1).ballot(9),
        promise(1, 1, 2).ballot(1),
        promise(1, 2, 1).ballot(0),
        promise(2, 0, 0).ballot(0),
        promise(2, 0, 0).ballot(1),
    ];
    for ballot in ascending {
        put(&*store, [Row { ballot, ..row("k", 0, "v") }]).await;
        assert_eq!(read_one(&*store, "k").await.unwrap().ballot, ballot);
    }
    for ballot in &ascending[..4] {
        let late = outcomes(&*store, batch([Row { ballot: *ballot, ..row("k", 0, "late") }])).await;
        assert_eq!(late, [RowOutcome::Superseded { ballot: ascending[4] }]);
    }
}

pub(crate) async fn an_equal_ballot_counts_as_stored(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    put(&*store, [row("k", 5, "first")]).await;
    put(&*store, [row("k", 5, "again")]).await;
    assert_eq!(read_one(&*store, "k").await, Some(row("k", 5, "first")));
}

pub(crate) async fn a_batch_is_judged_row_by_row(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    put(&*store, [row("same", 5, "v"), row("newer", 9, "v")]).await;
    let batch = batch([row("same", 5, "v"), row("newer", 5, "v"), row("absent", 5, "v")]);
    let keys: Vec<_> = batch.rows.iter().map(|write| write.row.key.clone()).collect();
    for (key, outcome) in keys.iter().zip(outcomes(&*store, batch).await) {
        let expected = match key.as_bytes() {
            b"newer" => RowOutcome::Superseded { ballot: ballot(9) },
            _ => RowOutcome::Stored,
        };
        assert_eq!(outcome, expected, "{key:?}");
    }
    assert_eq!(read_one(&*store, "absent").await, Some(row("absent", 5, "v")));
}

pub(crate) async fn another_key_under_the_same_hash_is_refused(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let wanted = row("{t}wanted", 7, "v");
    let squatter = row("{t}squatter", 3, "mine");
    fixture.plant(squatter.clone(), wanted.key.hash()).await;
    let outcomes = outcomes(&*store, batch([wanted.clone(), row("{t}other", 7, "v")])).await;
    let collisions = outcomes.iter().filter(|o| **o == RowOutcome::KeyCollision).count();
    assert_eq!((collisions, outcomes.len()), (1, 2), "{outcomes:?}");
    assert_eq!(store.read(vec![place_of(&wanted)]).await.unwrap(), [Some(squatter)]);
    assert_eq!(read_one(&*store, "{t}other").await, Some(row("{t}other", 7, "v")));
}

pub(crate) async fn every_commit_has_a_journal_seq(fixture: &dyn Fixture) {
    let (store, loaded) = opened(fixture).await;
    assert_eq!(loaded.identity.journal_seq, 0);
    for expected in 1..=3 {
        let outcome = store.commit(batch([row("k", expected, "v")])).await;
        assert!(matches!(outcome, CommitOutcome::Committed { journal_seq, .. } if journal_seq == expected));
    }
    assert_eq!(store.open().await.unwrap().identity.journal_seq, 3);
    store.keep_promises(vec![(tagged(), promise(1, 1, 1))]).await.unwrap();
    assert_eq!(store.usage().journal_seq, 4, "that of a promise too");
    assert_eq!(store.open().await.unwrap().identity.journal_seq, 4);
    let outcome = store.commit(CommitBatch::default()).await;
    assert_eq!(outcome, CommitOutcome::Committed { journal_seq: 5, rows: Vec::new() });
}

pub(crate) async fn promises_are_never_lowered(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let [a, b, c] = [0, 1, 1023].map(|id| PartitionId::new(id).unwrap());
    store.keep_promises(vec![(b, promise(2, 5, 9)), (a, promise(2, 5, 9))]).await.unwrap();
    store.keep_promises(vec![(a, promise(2, 5, 8)), (b, promise(2, 6, 1))]).await.unwrap();
    let promises = vec![(b, promise(1, 9, 9)), (c, promise(1, 0, 0)), (a, promise(2, 5, 10))];
    outcomes(&*store, CommitBatch { promises, ..batch([]) }).await;
    let loaded = store.open().await.unwrap();
    let promised = |partition: PartitionId| loaded.partitions[partition.index()].promise;
    assert_eq!(promised(a), promise(2, 5, 10));
    assert_eq!(promised(b), promise(2, 6, 1));
    assert_eq!(promised(c), promise(1, 0, 0));
    assert_eq!(loaded.partitions[2].promise, Promise::ZERO);
}

pub(crate) async fn promises_of_both_ways_and_flushes_meet_in_one_batch(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let written = row("k", 3, "v");
    let partition = written.key.partition();
    let clock = VectorClock::new().with_dot(OWNER, 8);
    let outcomes = outcomes(
        &*store,
        CommitBatch {
            promises: vec![(partition, promise(1, 1, 5)), (partition, promise(1, 1, OWNER.0))],
            flushes: vec![(partition, ballot(8), clock.clone()), (partition, ballot(2), VectorClock::new())],
            rows: vec![written.into()],
        },
    );
    assert_eq!(outcomes.await, [RowOutcome::Stored]);
    let loaded = store.open().await.unwrap();
    let record = &loaded.partitions[partition.index()];
    assert_eq!((record.promise, record.flush), (promise(1, 1, OWNER.0), ballot(8)));
    assert_eq!((&record.vector, record.highest), (&clock, ballot(8)));
}

pub(crate) async fn a_flush_hides_what_is_below_it(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    put(&*store, [row("{t}below", 4, "v"), row("{t}above", 6, "v"), row("{t}at", 5, "v")]).await;
    let partition = row("{t}", 0, "").key.partition();
    let flush = |seq| CommitBatch {
        flushes: vec![(partition, ballot(seq), VectorClock::new().with_dot(OWNER, seq))],
        ..CommitBatch::default()
    };
    outcomes(&*store, flush(5)).await;
    outcomes(&*store, flush(3)).await;
    let mut keys: Vec<_> = all_pages(&*store, everything()).await.into_iter().map(|row| row.key).collect();
    keys.sort();
    assert_eq!(keys, [row("{t}above", 0, "").key, row("{t}at", 0, "").key]);
    assert_eq!(store.open().await.unwrap().partitions[partition.index()].flush, ballot(5));
}

pub(crate) fn everything() -> ScanOptions {
    ScanOptions {
        last_partition: PartitionId::new(1023).unwrap(),
        limit: 1_000,
        bytes_max: usize::MAX,
        with_data: true,
        with_tombstones: true,
        expired_by: None,
    }
}

const START: KeyHash = KeyHash([0; 16]);

async fn page(store: &dyn Store, from: (PartitionId, KeyHash), options: ScanOptions) -> Page {
    store.scan(ScanFrom { partition: from.0, hash: from.1 }, options).await.unwrap()
}

/// All rows, page by page, each page within its limit.
pub(crate) async fn all_pages(store: &dyn Store, options: ScanOptions) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut from = (PartitionId::new(0).unwrap(), START);
    loop {
        let page = page(store, from, options).await;
        assert!(page.rows.len() <= options.limit);
        rows.extend(page.rows);
        match page.next {
            Some(next) => {
                assert!(next > from, "a page goes on where it ended");
                from = next;
            }
            None => return rows,
        }
    }
}

/// All of a partition's digest, stretch by stretch, each within its limit.
pub(crate) async fn all_entries(store: &dyn Store, partition: PartitionId, limit: usize) -> Vec<DigestEntry> {
    let (mut entries, mut from) = (Vec::new(), Some(START));
    while let Some(start) = from {
        let stretch = store.digest(partition, start, limit).await.unwrap();
        assert!(stretch.entries.len() <= limit);
        assert!(stretch.next.is_none_or(|next| next > start), "it goes on where it ended");
        entries.extend(stretch.entries);
        from = stretch.next;
    }
    entries
}

pub(crate) async fn pages_follow_the_order_and_miss_nothing(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let mut rows: Vec<_> = (1..=60).map(|i| row(&format!("{{t{}}}{i}", i % 7), i, "v")).collect();
    put(&*store, rows.clone()).await;
    rows.sort_by_key(place_of);
    for limit in [1, 7, 59, 60, 61] {
        assert_eq!(all_pages(&*store, ScanOptions { limit, ..everything() }).await, rows, "limit {limit}");
    }
    let (first, last) = (rows[0].key.partition(), rows[59].key.partition());
    let inner = ScanOptions { last_partition: first, ..everything() };
    let expected: Vec<_> = rows.iter().filter(|row| row.key.partition() == first).cloned().collect();
    assert_eq!(page(&*store, (first, START), inner).await, Page { rows: expected, next: None });
    let rest: Vec<_> = rows.iter().filter(|row| row.key.partition() == last).cloned().collect();
    assert_eq!(page(&*store, (last, START), everything()).await.rows, rest);
    assert_eq!(
        page(&*store, place_of(&rows[30]), everything()).await.rows,
        rows[30..],
        "from a row, that row first"
    );
}

pub(crate) async fn a_page_is_bounded_in_bytes(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let value = "x".repeat(10_000);
    let mut rows: Vec<_> = (1..=6).map(|i| row(&format!("{{t}}{i}"), i, &value)).collect();
    put(&*store, rows.clone()).await;
    rows.sort_by_key(place_of);
    let from = (rows[0].key.partition(), START);
    let two = page(&*store, from, ScanOptions { bytes_max: 25_000, ..everything() }).await;
    assert_eq!(two, Page { rows: rows[..2].to_vec(), next: Some(place_of(&rows[2])) });
    let one = page(&*store, from, ScanOptions { bytes_max: 1, ..everything() }).await;
    assert_eq!(one, Page { rows: rows[..1].to_vec(), next: Some(place_of(&rows[1])) });
    assert_eq!(all_pages(&*store, ScanOptions { bytes_max: 25_000, ..everything() }).await, rows);
}

pub(crate) async fn a_page_may_leave_out_data_and_tombstones(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    put(&*store, [row("{t}live", 1, "value"), tombstone("{t}dead", 2)]).await;
    let bare =
        all_pages(&*store, ScanOptions { with_data: false, with_tombstones: false, ..everything() }).await;
    assert_eq!(bare, [row("{t}live", 1, "")]);
    assert_eq!(all_pages(&*store, everything()).await.len(), 2);
    let many: Vec<_> = (0..3_000).map(|i| tombstone(&format!("{{t}}{i}"), 3)).collect();
    put(&*store, many).await;
    put(&*store, [tombstone("{t}live", 4)]).await;
    let live = ScanOptions { with_tombstones: false, limit: 10, ..everything() };
    assert_eq!(all_pages(&*store, live).await, [], "pages of tombstones come to an end");
}

pub(crate) async fn the_sweeper_sees_only_what_has_expired(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let mut due: Vec<_> = (1..=40).map(|i| expiring(&format!("{{t{}}}{i}", i % 5), i, 1_000)).collect();
    let other = [row("never", 50, "v"), expiring("later", 51, 1_001), tombstone("gone", 52)];
    put(&*store, due.iter().cloned().chain(other)).await;
    due.sort_by_key(place_of);
    for limit in [1, 7, 100] {
        let options = ScanOptions { expired_by: Some(UnixMillis(1_000)), limit, ..everything() };
        assert_eq!(all_pages(&*store, options).await, due, "limit {limit}");
    }
    let none = ScanOptions { expired_by: Some(UnixMillis(999)), ..everything() };
    assert_eq!(all_pages(&*store, none).await, []);
}

pub(crate) async fn the_count_minds_expiry_deletion_and_flush(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let rows = [row("{t}a", 1, "v"), row("{t}b", 5, "v"), expiring("{t}c", 5, 100), tombstone("{t}d", 5)];
    put(&*store, rows).await;
    let here = row("{t}", 0, "").key.partition();
    let count = async |partitions: &[PartitionId], now| {
        let counted = store.count(partitions.to_vec(), UnixMillis(now)).await.unwrap();
        (counted.live, counted.expiring)
    };
    assert_eq!(count(&[here], 99).await, (3, 1));
    assert_eq!(count(&[here], 100).await, (2, 0), "gone from the millisecond it names");
    assert_eq!(count(&[], 0).await, (0, 0));
    let flushes = vec![(here, ballot(5), VectorClock::new())];
    outcomes(&*store, CommitBatch { flushes, ..CommitBatch::default() }).await;
    assert_eq!(count(&PartitionId::all().collect::<Vec<_>>(), 99).await, (2, 1));
    assert_eq!(store.count(vec![], UnixMillis(0)).await, Ok(Count::default()));
}

pub(crate) async fn all_is_there_after_a_restart(fixture: &dyn Fixture) {
    let (store, before) = opened(fixture).await;
    put(&*store, [row("a", 1, "v"), tombstone("b", 2)]).await;
    let register =
        RingRegister { ring: Some((Epoch(3), b"ring".to_vec())), ..before.identity.register.clone() };
    store.keep_register(register.clone()).await.unwrap();
    store.close().await;
    drop(store);
    let (store, after) = opened(fixture).await;
    assert_eq!(read_one(&*store, "a").await, Some(row("a", 1, "v")));
    assert_eq!(read_one(&*store, "b").await, Some(tombstone("b", 2)));
    assert_eq!(after.identity.worker_uuid, before.identity.worker_uuid);
    assert_eq!(after.identity.register, register);
}

pub(crate) async fn vectors_and_highest_ballots_survive_a_restart(fixture: &dyn Fixture) {
    let (store, loaded) = opened(fixture).await;
    let partition = row("{t}", 0, "").key.partition();
    assert_eq!(loaded.partitions[partition.index()], Default::default());
    let other = promise(1, 2, 77).ballot(1);
    // A left-over of a deposed owner, overwritten by a version that has not seen it; and a row that comes late.
    put(&*store, [row("{t}a", 40, "left over")]).await;
    let unaware = VectorClock::new().with_dot(Incarnation(77), 1);
    put(&*store, [Row { ballot: other, clock: unaware, ..row("{t}a", 0, "v") }]).await;
    put(&*store, [row("{t}b", 41, "v"), row("elsewhere", 2, "v")]).await;
    for _ in 0..2 {
        let loaded = store.open().await.unwrap();
        let record = &loaded.partitions[partition.index()];
        let expected = VectorClock::new().with_dot(Incarnation(77), 1);
        assert_eq!((&record.vector, record.highest), (&expected, other), "the clock of the highest");
        let elsewhere = &loaded.partitions[row("elsewhere", 0, "").key.partition().index()];
        assert_eq!(elsewhere.highest, ballot(2));
    }
}

pub(crate) async fn the_boot_generation_grows(fixture: &dyn Fixture) {
    let (store, loaded) = opened(fixture).await;
    assert_eq!(loaded.identity.boot_generation, 1);
    let second = store.open().await.unwrap().identity.boot_generation;
    assert!(second > 1);
    store.close().await;
    assert!(opened(fixture).await.1.identity.boot_generation > second);
}

pub(crate) async fn concurrent_commits_of_the_same_keys_all_end(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let partition = row("{t}", 0, "").key.partition();
    // Overlapping stretches of the same keys, higher and lower ballots at once, promises with some of them.
    let commits = (1..=40u64).map(|seq| {
        let keys = (seq % 5)..(seq % 5 + 20);
        let promises = if seq % 3 == 0 { vec![(partition, promise(1, seq, 1))] } else { Vec::new() };
        let batch = batch(keys.map(|key| row(&format!("{{t{}}}{key}", key % 3), seq, "v")));
        store.commit(CommitBatch { promises, ..batch })
    });
    let mut seqs = Vec::new();
    for outcome in join_all(commits).await {
        let CommitOutcome::Committed { journal_seq, .. } = outcome else { panic!("{outcome:?}") };
        seqs.push(journal_seq);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
    for key in 0..24 {
        let highest = (1..=40).filter(|seq| (seq % 5..seq % 5 + 20).contains(&key)).max().unwrap();
        let stored = read_one(&*store, &format!("{{t{}}}{key}", key % 3)).await.unwrap();
        assert_eq!(stored.ballot, ballot(highest), "key {key}");
    }
    assert_eq!(store.open().await.unwrap().partitions[partition.index()].promise, promise(1, 39, 1));
}

pub(crate) async fn large_values_and_any_bytes_survive(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(1024 * 1024).collect();
    let keys = [Vec::new(), vec![0], vec![0xff, 0, 0xfe], bytes[..64 * 1024].to_vec()];
    let rows: Vec<_> = keys
        .into_iter()
        .zip([&bytes[..], b"", &[0xff, 0], b"v"])
        .map(|(key, value)| Row {
            key: Key::new(key).unwrap(),
            content: Content::string(value.to_vec(), Some(UnixMillis(i64::MAX))),
            ..row("", 1, "")
        })
        .collect();
    put(&*store, rows.clone()).await;
    let places = rows.iter().map(place_of).collect();
    assert_eq!(store.read(places).await.unwrap(), rows.into_iter().map(Some).collect::<Vec<_>>());
}

pub(crate) async fn numbers_beyond_63_bits_are_refused_whole(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let highest = Row { ballot: promise(1, 1, i64::MAX as u64).ballot(i64::MAX as u64), ..row("a", 1, "v") };
    put(&*store, [highest.clone()]).await;
    let beyond = Row { ballot: promise(1, 1, 1).ballot(1 << 63), ..row("b", 1, "v") };
    let outcome = store.commit(batch([beyond, row("c", 1, "v")])).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Failed(_))), "{outcome:?}");
    assert_eq!(read_one(&*store, "c").await, None);
    assert_eq!(read_one(&*store, "a").await, Some(highest), "the store is still good");
}

pub(crate) async fn the_register_is_kept_as_it_is_sent(fixture: &dyn Fixture) {
    let (store, loaded) = opened(fixture).await;
    assert_eq!(loaded.identity.register, RingRegister::default());
    let term = |n| Term { n, incarnation: Incarnation(n + 1) };
    let promised = RingRegister { promised: term(5), ..RingRegister::default() };
    let ring = |epoch, bytes: &[u8]| Some((Epoch(epoch), bytes.to_vec()));
    let accepted = RingRegister { promised: term(6), accepted: term(6), ring: ring(2, b"two") };
    let lower = RingRegister { promised: term(1), accepted: term(1), ring: ring(1, b"one") };
    for (nth, register) in [promised, accepted, lower].into_iter().enumerate() {
        store.keep_register(register.clone()).await.unwrap();
        let identity = store.open().await.unwrap().identity;
        assert_eq!((identity.register, identity.journal_seq), (register, nth as u64 + 1));
    }
    let beyond = RingRegister { promised: term(1 << 63), ..RingRegister::default() };
    assert!(matches!(store.keep_register(beyond).await, Err(StoreError::Failed(_))));
    assert_eq!(store.open().await.unwrap().identity.register.promised, term(1), "the store is still good");
}

pub(crate) async fn an_identity_is_renewed_for_good(fixture: &dyn Fixture) {
    let (store, loaded) = opened(fixture).await;
    put(&*store, [row("k", 1, "v")]).await;
    let first = store.renew_identity().await.unwrap();
    let second = store.renew_identity().await.unwrap();
    assert!(first != loaded.identity.worker_uuid && second != first);
    assert_eq!(store.open().await.unwrap().identity.worker_uuid, second);
    assert_eq!(read_one(&*store, "k").await, Some(row("k", 1, "v")), "the data stays");
}

/// The partition of all keys with the tag `{t}`.
fn tagged() -> PartitionId {
    row("{t}", 0, "").key.partition()
}

fn hash(key: &str) -> KeyHash {
    row(key, 0, "").key.hash()
}

fn change(rows: impl IntoIterator<Item = Row>, evict: &[(&str, u64)]) -> PartitionChange {
    let mut change = PartitionChange::none(tagged());
    change.rows = batch(rows).rows.into_iter().map(|write| write.row).collect();
    change.evict = evict.iter().map(|(key, seq)| (hash(key), ballot(*seq))).collect();
    change.evict.sort_unstable();
    change
}

async fn changed(store: &dyn Store, change: PartitionChange) -> Vec<RowOutcome> {
    match store.change(change).await {
        CommitOutcome::Committed { rows, .. } => rows,
        other => panic!("{other:?}"),
    }
}

async fn record(store: &dyn Store) -> PartitionRecord {
    store.open().await.unwrap().partitions.swap_remove(tagged().index())
}

pub(crate) async fn a_change_writes_only_over_lower_ballots(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    put(&*store, [row("{t}low", 1, "old"), row("{t}same", 5, "old"), row("{t}high", 9, "old")]).await;
    let rows = ["{t}low", "{t}same", "{t}high", "{t}absent"].map(|key| row(key, 5, "new"));
    let sent = change(rows, &[]);
    for (row, outcome) in sent.rows.clone().iter().zip(changed(&*store, sent).await) {
        let expected = match row.key.as_bytes() {
            b"{t}high" => RowOutcome::Superseded { ballot: ballot(9) },
            _ => RowOutcome::Stored,
        };
        assert_eq!(outcome, expected, "{:?}", row.key);
    }
    assert_eq!(read_one(&*store, "{t}low").await, Some(row("{t}low", 5, "new")));
    assert_eq!(read_one(&*store, "{t}same").await, Some(row("{t}same", 5, "old")));
    assert_eq!(read_one(&*store, "{t}high").await, Some(row("{t}high", 9, "old")));
    assert_eq!(read_one(&*store, "{t}absent").await, Some(row("{t}absent", 5, "new")));
    fixture.plant(row("{t}squatter", 1, "mine"), hash("{t}wanted")).await;
    let outcomes = changed(&*store, change([row("{t}wanted", 7, "v")], &[])).await;
    assert_eq!(outcomes, [RowOutcome::KeyCollision]);
}

pub(crate) async fn a_change_evicts_only_exact_ballots(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let keys = ["{t}lower", "{t}exact", "{t}dead", "{t}higher"];
    let rows = [row(keys[0], 4, "v"), row(keys[1], 5, "v"), tombstone(keys[2], 5), row(keys[3], 6, "v")];
    put(&*store, rows.clone()).await;
    let evict = ["{t}lower", "{t}exact", "{t}dead", "{t}higher", "{t}absent"].map(|key| (key, 5));
    let sent = change([row("{t}beside", 1, "v")], &evict);
    assert_eq!(changed(&*store, sent.clone()).await, [RowOutcome::Stored]);
    for (key, row) in keys.iter().zip(rows) {
        let kept = matches!(*key, "{t}lower" | "{t}higher").then_some(row);
        assert_eq!(read_one(&*store, key).await, kept, "{key}");
    }
    assert_eq!(read_one(&*store, "{t}absent").await, None);
    assert_eq!(changed(&*store, sent).await, [RowOutcome::Stored], "all of it again");
    assert_eq!(all_pages(&*store, everything()).await.len(), 3);
    let record = record(&*store).await;
    assert_eq!(record.highest, ballot(6), "what was evicted still counts, what was not there does not");
}

pub(crate) async fn a_row_takes_the_place_of_a_higher_one_that_is_evicted(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    put(&*store, [row("{t}never chosen", 9, "v"), row("{t}overtaken", 10, "v"), row("{t}other", 1, "v")])
        .await;
    let keys = ["{t}never chosen", "{t}overtaken", "{t}gone"];
    let sent = change(keys.map(|key| row(key, 5, "chosen")), &keys.map(|key| (key, 9)));
    for (row, outcome) in sent.rows.clone().iter().zip(changed(&*store, sent).await) {
        let expected = match row.key.as_bytes() {
            b"{t}overtaken" => RowOutcome::Superseded { ballot: ballot(10) },
            _ => RowOutcome::Stored,
        };
        assert_eq!(outcome, expected, "{:?}", row.key);
    }
    for key in ["{t}never chosen", "{t}gone"] {
        assert_eq!(read_one(&*store, key).await, Some(row(key, 5, "chosen")), "{key}");
    }
    assert_eq!(
        changed(&*store, change([row("{t}other", 2, "v")], &[("{t}other", 2)])).await,
        [RowOutcome::Stored]
    );
    assert_eq!(
        read_one(&*store, "{t}other").await,
        Some(row("{t}other", 2, "v")),
        "evicted before, not after"
    );
}

pub(crate) async fn a_change_sets_the_flush_exactly_and_raises_the_rest(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let clock = |seq| VectorClock::new().with_dot(OWNER, seq);
    let flush = |seq| PartitionChange { flush: Some((ballot(seq), clock(seq))), ..change([], &[]) };
    put(&*store, [row("{t}above", 30, "v"), row("{t}below", 3, "v")]).await;
    changed(&*store, flush(20)).await;
    assert_eq!(all_pages(&*store, everything()).await, [row("{t}above", 30, "v")]);
    let state = PartitionChange {
        floor: ballot(7),
        vector: VectorClock::new().with_dot(Incarnation(3), 8),
        highest: ballot(40),
        promise: promise(1, 2, 3),
        copied: Epoch(5),
        ..flush(10)
    };
    changed(&*store, state).await;
    changed(&*store, PartitionChange { floor: ballot(6), promise: promise(1, 1, 1), ..change([], &[]) })
        .await;
    changed(&*store, PartitionChange { copied: Epoch(4), ..change([], &[]) }).await;
    // Rows between the old flush and the new one are there to stay, also when all that is due has been deleted.
    let installed = [row("{t}installed", 15, "v"), row("{t}gone", 9, "v")];
    changed(&*store, change(installed, &[])).await;
    for _ in 0..2 {
        let record = record(&*store).await;
        assert_eq!((record.flush, &record.flush_clock), (ballot(10), &clock(10)));
        assert_eq!((record.floor, record.highest), (ballot(7), ballot(40)));
        assert_eq!((record.promise, record.copied), (promise(1, 2, 3), Epoch(5)));
        assert_eq!(record.vector, VectorClock::new().with_dot(Incarnation(3), 8));
        let keys: Vec<_> = all_pages(&*store, everything()).await.into_iter().map(|row| row.key).collect();
        let mut expected = ["{t}above", "{t}installed"].map(|key| row(key, 0, "").key);
        expected.sort_by_key(|key| key.hash());
        assert_eq!(keys, expected);
    }
    let lower = CommitBatch { flushes: vec![(tagged(), ballot(8), clock(8))], ..CommitBatch::default() };
    outcomes(&*store, lower).await;
    assert_eq!(record(&*store).await.flush_clock, clock(10), "a flush that raises nothing leaves the clock");
    let higher = CommitBatch { flushes: vec![(tagged(), ballot(12), clock(12))], ..CommitBatch::default() };
    outcomes(&*store, higher).await;
    let record = record(&*store).await;
    assert_eq!((record.flush, record.flush_clock), (ballot(12), clock(12)));
}

pub(crate) async fn a_change_is_refused_whole(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    put(&*store, [row("{t}k", 5, "v")]).await;
    let beyond = promise(1, 1, 1).ballot(1 << 63);
    let sound = || change([row("{t}new", 1, "v")], &[("{t}k", 5)]);
    let mut evicting = sound();
    evicting.evict[0].1 = beyond;
    let writing = change([Row { ballot: beyond, ..row("{t}new", 1, "v") }], &[("{t}k", 5)]);
    for refused in [
        evicting,
        writing,
        PartitionChange { floor: beyond, ..sound() },
        PartitionChange { highest: beyond, ..sound() },
        PartitionChange { flush: Some((beyond, VectorClock::new())), ..sound() },
        PartitionChange { promise: promise(1, 1 << 63, 1), ..sound() },
    ] {
        let outcome = store.change(refused).await;
        assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Failed(_))), "{outcome:?}");
    }
    assert_eq!(read_one(&*store, "{t}new").await, None);
    assert_eq!(read_one(&*store, "{t}k").await, Some(row("{t}k", 5, "v")), "the store is still good");
    let none = store.change(PartitionChange::none(tagged())).await;
    assert!(matches!(none, CommitOutcome::Committed { rows, .. } if rows.is_empty()), "only a journal row");
}

pub(crate) async fn changes_and_commits_at_once_all_end(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    // The same keys in all of them, written, evicted where they are not and where they are, and flushed.
    let key = |n: u64| format!("{{t}}{n}");
    let works = (1..=40u64).map(|seq| {
        let store = &store;
        async move {
            let keys = (seq % 5)..(seq % 5 + 20);
            let rows: Vec<_> = keys.map(|n| row(&key(n), seq, "v")).collect();
            match seq % 4 {
                0 => {
                    let (odd, even): (Vec<_>, Vec<_>) =
                        rows.into_iter().partition(|row| row.key.hash().0[0] % 2 == 1);
                    let mut sent = change(odd, &[]);
                    sent.evict =
                        batch(even).rows.iter().map(|write| (write.place.1, ballot(seq - 1))).collect();
                    sent.flush = (seq % 8 == 0).then(|| (Ballot::ZERO, VectorClock::new()));
                    sent.promise = promise(1, seq, 1);
                    store.change(sent).await
                }
                1 => {
                    store
                        .commit(CommitBatch { promises: vec![(tagged(), promise(1, seq, 1))], ..batch(rows) })
                        .await
                }
                _ => store.commit(batch(rows)).await,
            }
        }
    });
    let mut seqs = Vec::new();
    for outcome in join_all(works).await {
        let CommitOutcome::Committed { journal_seq, .. } = outcome else { panic!("{outcome:?}") };
        seqs.push(journal_seq);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
    assert_eq!(record(&*store).await.promise, promise(1, 40, 1));
}

fn entry(row: &Row) -> DigestEntry {
    DigestEntry { hash: row.key.hash(), ballot: row.ballot, tombstone: row.content == Content::Tombstone }
}

pub(crate) async fn a_digest_walks_a_partition_in_stretches(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    assert_eq!(store.digest(tagged(), START, 10).await, Ok(Stretch::default()));
    let mut rows: Vec<_> = (1..=30).map(|i| row(&format!("{{t}}{i}"), i, "v")).collect();
    rows.extend((1..=9).map(|i| tombstone(&format!("{{t}}dead {i}"), 30 + i)));
    put(&*store, rows.iter().cloned().chain([row("elsewhere", 1, "v")])).await;
    rows.sort_by_key(place_of);
    let mut expected: Vec<_> = rows.iter().map(entry).collect();
    for flush in [0, 10] {
        let flushes = vec![(tagged(), ballot(flush), VectorClock::new())];
        outcomes(&*store, CommitBatch { flushes, ..CommitBatch::default() }).await;
        expected.retain(|entry| entry.ballot >= ballot(flush));
        for limit in [1, 7, 39, 40, 1_000] {
            let (mut found, mut from) = (Vec::new(), Some(START));
            while let Some(start) = from {
                let stretch = store.digest(tagged(), start, limit).await.unwrap();
                assert!(stretch.entries.len() <= limit);
                assert!(stretch.next.is_none_or(|next| next > start), "it goes on where it ended");
                found.extend(stretch.entries);
                from = stretch.next;
            }
            assert_eq!(found, expected, "limit {limit}, flush {flush}");
        }
    }
    let from = store.digest(tagged(), rows[35].key.hash(), 10).await.unwrap();
    assert_eq!(from.entries.first(), expected.iter().find(|entry| entry.hash >= rows[35].key.hash()));
}

pub(crate) async fn a_look_finds_what_is_there(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let mut rows =
        [row("{t}a", 5, "v"), tombstone("{t}b", 6), row("{t}flushed", 1, "v"), row("{t}c", 2, "v")];
    put(&*store, rows.iter().cloned()).await;
    let flushes = vec![(tagged(), ballot(2), VectorClock::new())];
    outcomes(&*store, CommitBatch { flushes, ..CommitBatch::default() }).await;
    let hashes = ["{t}c", "{t}absent", "{t}flushed", "{t}b", "{t}a", "{t}b"].map(hash);
    rows.sort_by_key(place_of);
    let expected: Vec<_> = rows.iter().filter(|row| row.ballot > ballot(1)).map(entry).collect();
    assert_eq!(store.look(tagged(), hashes.to_vec()).await, Ok(expected));
    assert_eq!(store.look(tagged(), Vec::new()).await, Ok(Vec::new()));
}

pub(crate) async fn the_journal_tells_what_was_written(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    assert_eq!(store.changes(0, 10).await, Ok(Changes::default()));
    put(&*store, [row("{t}a", 1, "v"), row("elsewhere", 1, "v")]).await;
    put(&*store, [row("{t}a", 2, "v")]).await;
    store.keep_promises(vec![(tagged(), promise(1, 1, 1))]).await.unwrap();
    let flushed =
        PartitionChange { flush: Some((ballot(1), VectorClock::new())), ..change([], &[("{t}b", 1)]) };
    changed(&*store, flushed).await;
    let seen = async |since| {
        let mut changes = store.changes(since, 100).await.unwrap();
        changes.entries.sort_unstable();
        changes
    };
    let mut places =
        [place_of(&row("{t}a", 0, "")), place_of(&row("elsewhere", 0, "")), (tagged(), hash("{t}b"))];
    places.sort_unstable();
    let all = seen(0).await;
    assert_eq!((all.entries.as_slice(), &all.flushed, all.upto), (&places[..], &vec![tagged()], 4));
    assert!(!all.more && !all.pruned);
    assert_eq!(seen(1).await.entries.len(), 2);
    assert_eq!(seen(2).await.entries, [(tagged(), hash("{t}b"))]);
    assert_eq!(seen(4).await, Changes { upto: 4, ..Changes::default() });
    assert_eq!(seen(9).await, Changes { upto: 9, ..Changes::default() });
    // A refused one takes a seq at most; what follows is told all the same.
    let beyond = Row { ballot: promise(1, 1, 1).ballot(1 << 63), ..row("{t}z", 1, "v") };
    store.commit(batch([beyond])).await;
    assert_eq!(seen(4).await.upto, 4);
    store.open().await.unwrap();
    put(&*store, [row("{t}last", 3, "v")]).await;
    assert_eq!(seen(4).await.entries, [(tagged(), hash("{t}last"))], "also after a restart");
}

pub(crate) async fn a_stretch_of_the_journal_is_bounded_and_never_torn(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    // More rows of the journal than one statement reads, some naming many keys, some none.
    for seq in 1..=200u64 {
        let keys = if seq % 50 == 0 { 30 } else { seq % 3 };
        put(&*store, (0..keys).map(|key| row(&format!("{{t}}{seq}/{key}"), seq, "v"))).await;
    }
    for limit in [1, 10, 29, 1_000] {
        let (mut since, mut found, mut commits) = (0, Vec::new(), 0);
        loop {
            let changes = store.changes(since, limit).await.unwrap();
            assert!(changes.entries.len() <= limit.max(30), "limit {limit}");
            found.extend(changes.entries);
            since = changes.upto;
            commits += 1;
            if !changes.more {
                break;
            }
        }
        found.sort_unstable();
        let expected: Vec<_> = all_pages(&*store, everything()).await.iter().map(place_of).collect();
        assert_eq!((since, found.len()), (200, expected.len()), "each once, limit {limit}");
        assert_eq!(found, expected);
        assert!(limit == 1_000 || commits > 10, "limit {limit}: {commits} answers");
    }
}

pub(crate) async fn what_is_remembered_only_grows(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    assert_eq!(store.recall().await, Ok(Memory::default()));
    let position = |peer: &str, seq| Position { peer: peer.to_owned(), seq };
    let witness = |worker: &str, uuid: &str, boot_generation, journal_seq| Witness {
        worker: WorkerId::new(worker).unwrap(),
        uuid: uuid.to_owned(),
        boot_generation,
        journal_seq,
    };
    let positions = vec![position("b", 5), position("B", 1), position("a", 7)];
    let witnesses = vec![witness("w2", "u2", 3, 30), witness("w1", "u1", 1, 10)];
    store.remember(Memory { positions, witnesses }).await.unwrap();
    let positions = vec![position("a", 6), position("b", 8), position("b", 7)];
    let witnesses = vec![witness("w1", "u1", 2, 9), witness("w2", "other", 1, 2)];
    store.remember(Memory { positions, witnesses }).await.unwrap();
    store.remember(Memory::default()).await.unwrap();
    let expected = Memory {
        positions: vec![position("B", 1), position("a", 7), position("b", 8)],
        witnesses: vec![witness("w1", "u1", 2, 10), witness("w2", "other", 1, 2)],
    };
    assert_eq!(store.recall().await, Ok(expected.clone()));
    store.open().await.unwrap();
    assert_eq!(store.recall().await, Ok(expected));
}

pub(crate) async fn leftovers_are_dropped_bit_by_bit(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let rows = (0..700).map(|i| row(&format!("{{t}}{i}"), 1, "v"));
    put(&*store, rows.chain([row("elsewhere", 1, "v"), row("{other}", 1, "v")])).await;
    let partitions = vec![row("{other}", 0, "").key.partition(), tagged(), tagged()];
    assert_eq!(store.drop_leftovers(partitions.clone(), 600).await, Ok(600));
    assert_eq!(store.drop_leftovers(partitions.clone(), 600).await, Ok(101));
    assert_eq!(store.drop_leftovers(partitions, 600).await, Ok(0));
    assert_eq!(all_pages(&*store, everything()).await, [row("elsewhere", 1, "v")]);
    assert_eq!(record(&*store).await.highest, ballot(1), "the partition's record stays");
}

pub(crate) async fn a_second_store_is_refused_while_the_first_lives(fixture: &dyn Fixture) {
    let (first, _) = opened(fixture).await;
    let second = fixture.store();
    assert!(matches!(second.open().await, Err(StoreError::Refused(_))));
    put(&*first, [row("k", 1, "still the first's")]).await;
    first.close().await;
    second.open().await.unwrap();
    assert_eq!(read_one(&*second, "k").await, Some(row("k", 1, "still the first's")));
    assert!(matches!(first.open().await, Err(StoreError::Refused(_))));
}

pub(crate) async fn a_loss_is_told(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    assert!(store.lost().now_or_never().is_none());
    futures_util::future::join(store.lost(), store.close()).await;
    store.lost().await;
    store.open().await.unwrap();
    assert!(store.lost().now_or_never().is_none());
}

pub(crate) async fn a_closed_store_answers_unreachable(fixture: &dyn Fixture) {
    let unopened = fixture.store();
    assert!(matches!(unopened.prove_commit().await, Err(StoreError::Unreachable(_))));
    let (store, _) = opened(fixture).await;
    store.prove_commit().await.unwrap();
    store.close().await;
    assert!(matches!(store.prove_commit().await, Err(StoreError::Unreachable(_))));
    assert!(matches!(store.read(vec![]).await, Err(StoreError::Unreachable(_))));
    let outcome = store.commit(batch([row("k", 1, "v")])).await;
    assert!(matches!(outcome, CommitOutcome::Aborted(StoreError::Unreachable(_))), "nothing was sent");
    store.open().await.unwrap();
    assert_eq!(read_one(&*store, "k").await, None);
}

pub(crate) async fn conflicts_are_kept_once_and_not_without_end(fixture: &dyn Fixture) {
    let (store, _) = opened(fixture).await;
    let conflict =
        |key: &str, higher| Conflict { higher: row(key, higher, "higher"), lower: row(key, 1, "lower") };
    assert_eq!(store.keep_conflict(conflict("a", 2)).await, Ok(true));
    assert_eq!(store.keep_conflict(conflict("a", 2)).await, Ok(false), "the same again");
    assert_eq!(store.keep_conflict(conflict("a", 3)).await, Ok(true), "another version");
    assert_eq!(store.keep_conflict(conflict("b", 2)).await, Ok(true), "another key");
    let mut kept = 3;
    while store.keep_conflict(conflict("c", kept as u64)).await.unwrap() {
        kept += 1;
    }
    assert_eq!(kept, CONFLICTS_MAX);
    assert_eq!(all_pages(&*store, everything()).await, [], "none of it is data");
}
