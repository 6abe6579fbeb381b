//! Digests, summaries, look-ups of ballots, rows, journals and memories.

use tercet_common::sync::{
    Changes, Digest, DigestEntry, Memory, PartitionState, Position, SYNC_ENTRIES_MAX, Summary,
};

use super::*;
use crate::store::Stretch;

const FROM: KeyHash = KeyHash([7; 16]);

fn digest(limit: u32) -> ReplicaRequest {
    sync(SyncRequest::Digest { partition: partition(), epoch: Epoch(1), from: FROM, limit })
}

fn fetch(names: &[&str]) -> ReplicaRequest {
    let hashes = names.iter().map(|name| key(name).hash()).collect();
    sync(SyncRequest::Fetch { partition: partition(), epoch: Epoch(1), hashes })
}

fn look(hashes: usize) -> ReplicaRequest {
    let hashes = vec![FROM; hashes];
    sync(SyncRequest::Look { partition: partition(), epoch: Epoch(1), hashes })
}

fn remember() -> ReplicaRequest {
    let memory = Memory { positions: vec![Position { peer: "p".into(), seq: 3 }], witnesses: vec![] };
    sync(SyncRequest::Remember { memory })
}

fn synced(reply: SyncReply) -> ReplicaReply {
    ReplicaReply::Synced(Box::new(reply))
}

fn entry(row: &Row) -> DigestEntry {
    DigestEntry { hash: row.key.hash(), ballot: row.ballot, tombstone: false }
}

fn failed() -> StoreError {
    StoreError::Timeout("statement timeout".into())
}

fn rig_with_state() -> (Rig, PartitionState) {
    let state = PartitionState {
        flush: term(1).ballot(4),
        flush_clock: VectorClock::new().with_dot(Incarnation(1), 4),
        floor: term(1).ballot(2),
        vector: VectorClock::new().with_dot(Incarnation(1), 9),
        highest: term(1).ballot(9),
    };
    let mut rig = Rig::new();
    let PartitionState { flush, flush_clock, floor, vector, highest } = state.clone();
    rig.open(PartitionRecord {
        promise: term(1),
        floor,
        flush,
        flush_clock,
        vector,
        highest,
        ..Default::default()
    });
    (rig, state)
}

impl Rig {
    fn scan(&mut self) -> (ScanId, ScanJob) {
        self.replica.next_scan().expect("a scan waits")
    }

    /// Submits, ends the scan with this, and takes the answer.
    fn scan_as(&mut self, request: ReplicaRequest, result: ScanResult) -> ReplicaReply {
        let id = self.submit(request);
        let (scan, _) = self.scan();
        self.replica.on_scan(scan, Ok(result));
        let answers = self.answers();
        assert_eq!((answers.len(), answers[0].0), (1, id));
        answers[0].1.clone()
    }
}

#[test]
fn digests_come_with_the_state_of_the_partition() {
    let (mut rig, state) = rig_with_state();
    let entries = vec![entry(&row_at("a", term(1).ballot(5)))];
    let stretch = Stretch { entries: entries.clone(), next: Some(FROM) };
    let digested = Digest { state: state.clone(), entries: entries.clone(), next: Some(FROM) };
    assert_eq!(rig.scan_as(digest(10), ScanResult::Stretch(stretch)), synced(SyncReply::Digested(digested)));
    let digested = Digest { state: state.clone(), entries: entries.clone(), next: None };
    assert_eq!(rig.scan_as(look(3), ScanResult::Present(entries)), synced(SyncReply::Digested(digested)));
    let summary = sync(SyncRequest::Summary { partition: partition(), epoch: Epoch(1), from: FROM });
    let summed = Summary { rows: 3, tombstones: 1, checksum: 77, next: Some(FROM), ..Default::default() };
    assert_eq!(
        rig.scan_as(summary, ScanResult::Summed(summed.clone())),
        synced(SyncReply::Summed(Summary { state, ..summed }))
    );
}

#[test]
fn the_state_is_that_of_the_end_of_the_scan() {
    let mut rig = Rig::new();
    rig.submit(digest(10));
    let (scan, _) = rig.scan();
    rig.submit(flush(term(1).ballot(4)));
    rig.commit();
    rig.answers();
    rig.replica.on_scan(scan, Ok(ScanResult::Stretch(Stretch::default())));
    let ReplicaReply::Synced(reply) = rig.answers().remove(0).1 else { panic!("a digest") };
    let SyncReply::Digested(digest) = *reply else { panic!("a digest") };
    assert_eq!(digest.state.flush, term(1).ballot(4));
    assert_eq!(digest.state.flush_clock, VectorClock::new().with_dot(Incarnation(1), 4));
}

#[test]
fn what_a_scan_may_ask_of_the_store_is_bounded() {
    let mut rig = Rig::new();
    for (limit, asked) in [(0, 1), (10, 10), (u32::MAX, SYNC_ENTRIES_MAX)] {
        rig.submit(digest(limit));
        let (_, job) = rig.scan();
        assert_eq!(job, ScanJob::Digest { partition: partition(), from: FROM, limit: asked });
    }
    let too_many = vec![FROM; SYNC_ENTRIES_MAX + 1];
    assert_eq!(rig.ask(look(too_many.len())), refused(Refusal::Invalid));
    let request = SyncRequest::Fetch { partition: partition(), epoch: Epoch(1), hashes: too_many };
    assert_eq!(rig.ask(sync(request)), refused(Refusal::Invalid));
}

#[test]
fn fetched_rows_leave_out_what_is_flushed_and_may_stop_early_but_not_at_once() {
    let (mut rig, _) = rig_with_state();
    let (old, new) = (row_at("a", term(1).ballot(3)), row_at("b", term(1).ballot(5)));
    let rows = ScanResult::Rows(vec![Some(old), Some(new.clone())]);
    let reply = rig.scan_as(fetch(&["a", "b", "c"]), rows);
    assert_eq!(reply, synced(SyncReply::Rows(vec![None, Some(new)])));
    let unavailable = refused(Refusal::Unavailable);
    assert_eq!(rig.scan_as(fetch(&["a"]), ScanResult::Rows(vec![])), unavailable);
    assert_eq!(rig.scan_as(fetch(&["a"]), ScanResult::Rows(vec![None, None])), unavailable);
    assert_eq!(rig.scan_as(fetch(&[]), ScanResult::Rows(vec![])), synced(SyncReply::Rows(vec![])));
    assert_eq!(rig.scan_as(fetch(&["a"]), ScanResult::Remembered), unavailable, "no answer to the question");
}

#[test]
fn what_concerns_the_whole_worker_asks_for_no_membership() {
    let mut rig = Rig::new();
    rig.hold(3, &Says::Others);
    let changes = Changes { upto: 5, ..Default::default() };
    let request = sync(SyncRequest::Changes { since: 3, limit: 0 });
    rig.submit(request.clone());
    assert_eq!(rig.scan().1, ScanJob::Changes { since: 3, limit: 1 });
    assert_eq!(
        rig.scan_as(request, ScanResult::Changed(changes.clone())),
        synced(SyncReply::Changed(changes))
    );
    assert_eq!(rig.scan_as(remember(), ScanResult::Remembered), done());
    let memory = Memory::default();
    let recalled = rig.scan_as(sync(SyncRequest::Recall), ScanResult::Recalled(memory.clone()));
    assert_eq!(recalled, synced(SyncReply::Remembered(memory)));
}

#[test]
fn a_failed_scan_is_refused_and_a_memory_may_have_been_kept() {
    let mut rig = Rig::new();
    let (first, second) = (rig.submit(digest(10)), rig.submit(remember()));
    for _ in 0..2 {
        let (scan, _) = rig.scan();
        rig.replica.on_scan(scan, Err(failed()));
    }
    assert_eq!(rig.answers(), [(first, refused(Refusal::Unavailable)), (second, ReplicaReply::Unknown)]);
    assert!(rig.replica.is_open());
    rig.submit(digest(10));
    let (scan, _) = rig.scan();
    rig.replica.on_scan(scan, Err(StoreError::Unreachable("gone".into())));
    assert_eq!(rig.answers(), [(3, refused(Refusal::Unavailable))]);
    assert!(rig.replica.work().reopen);
}

#[test]
fn a_lost_store_answers_every_errand_once() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.submit(digest(10));
    let floor = term(1).ballot(1);
    let collect =
        |promise| sync(SyncRequest::Collect { partition: partition(), promise, floor, tombstones: vec![] });
    rig.submit(collect(term(1)));
    rig.submit(collect(term(2)));
    rig.submit(remember());
    rig.submit(sync(SyncRequest::Recall));
    let (under_way, job) = rig.scan();
    assert!(matches!(job, ScanJob::Remember { .. }));
    rig.replica.lose();
    let unavailable = refused(Refusal::Unavailable);
    let expected: Vec<_> = [1, 2, 3, 4, 6].map(|id| (id, unavailable.clone())).into();
    assert_eq!(rig.answers(), expected);
    rig.replica.on_scan(under_way, Ok(ScanResult::Remembered));
    assert_eq!(rig.answers(), [(5, done())], "it was kept, whatever became of the store");
    assert_eq!(rig.replica.stats().errands, 0);
    rig.open(PartitionRecord { promise: term(1), ..Default::default() });
    assert_eq!(rig.replica.work(), Work::default());
}

#[test]
fn a_digest_that_outlived_the_store_is_not_answered() {
    let mut rig = Rig::new();
    rig.submit(digest(10));
    let (scan, _) = rig.scan();
    rig.replica.lose();
    rig.replica.on_scan(scan, Ok(ScanResult::Stretch(Stretch::default())));
    assert_eq!(rig.answers(), [(1, refused(Refusal::Unavailable))]);
}

#[test]
fn errands_are_bounded_in_number_and_bytes_until_they_have_ended() {
    let mut rig = Rig::with_limits(Limits { queue_len_max: 2, ..LIMITS });
    rig.open(PartitionRecord { promise: term(1), ..Default::default() });
    rig.submit(digest(10));
    rig.submit(remember());
    assert_eq!(rig.ask(digest(10)), refused(Refusal::Busy));
    let (scan, _) = rig.scan();
    assert_eq!(rig.ask(sync(SyncRequest::Recall)), refused(Refusal::Busy), "under way counts");
    rig.replica.on_scan(scan, Err(failed()));
    rig.answers();
    rig.submit(digest(10));
    assert_eq!(rig.answers(), []);

    let mut rig = Rig::with_limits(Limits { queue_bytes_max: 1_000, ..LIMITS });
    rig.open(PartitionRecord { promise: term(1), ..Default::default() });
    rig.submit(look(100));
    assert_eq!(rig.answers(), [], "one alone may be larger");
    assert_eq!(rig.ask(digest(10)), refused(Refusal::Busy));
}

fn sum(stretches: &[Stretch]) -> Summary {
    let mut fold = SummaryFold::new(FROM);
    for stretch in stretches {
        assert!(fold.wants().is_some());
        fold.add(stretch);
    }
    fold.finish()
}

#[test]
fn a_checksum_depends_on_the_rows_and_not_on_how_they_are_cut() {
    let entries: Vec<_> = (1..=4)
        .map(|n| DigestEntry { hash: KeyHash([n; 16]), ballot: term(1).ballot(n.into()), tombstone: n == 2 })
        .collect();
    let stretch =
        |entries: &[DigestEntry], next: Option<KeyHash>| Stretch { entries: entries.to_vec(), next };
    let whole = sum(&[stretch(&entries, None)]);
    assert_eq!((whole.rows, whole.tombstones, whole.next), (4, 1, None));
    let cut = sum(&[
        stretch(&entries[..1], Some(entries[1].hash)),
        stretch(&[], Some(entries[1].hash)),
        stretch(&entries[1..], None),
    ]);
    assert_eq!(whole, cut);
    let mut other = entries.clone();
    other[3].ballot = term(1).ballot(5);
    assert_ne!(sum(&[stretch(&other, None)]).checksum, whole.checksum);
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| {
            let numbers = [1, 1, 1, entry.ballot.seq].map(u64::to_be_bytes);
            [&entry.hash.0[..], numbers.as_flattened()].concat()
        })
        .collect();
    let first = blake3::hash(&bytes).as_bytes()[..8].try_into().unwrap();
    assert_eq!(whole.checksum, u64::from_be_bytes(first));
}

#[test]
fn a_summary_ends_at_its_bound() {
    let stretch = Stretch {
        entries: vec![
            DigestEntry { hash: FROM, ballot: term(1).ballot(1), tombstone: false };
            SYNC_ENTRIES_MAX - 1
        ],
        next: Some(FROM),
    };
    let mut fold = SummaryFold::new(FROM);
    let mut wanted = Vec::new();
    while let Some((_, limit)) = fold.wants() {
        wanted.push(limit);
        let entries = stretch.entries[..limit.min(SYNC_ENTRIES_MAX - 1)].to_vec();
        fold.add(&Stretch { entries, ..stretch.clone() });
    }
    assert_eq!((wanted[0], wanted.last()), (SYNC_ENTRIES_MAX, Some(&16)));
    assert_eq!(fold.finish().rows, tercet_common::sync::SUMMARY_ROWS_MAX as u64);

    let mut fold = SummaryFold::new(FROM);
    let nothing = Stretch { entries: vec![], next: Some(FROM) };
    let calls = std::iter::from_fn(|| fold.wants().inspect(|_| fold.add(&nothing))).take(1_000).count();
    assert!(calls < 1_000, "a store that brings nothing does not hold it for ever");
}
