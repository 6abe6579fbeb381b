//! One test per rule, each of which fails when the rule is broken; at the end random schedules against a model.

use bytes::Bytes;
use smallvec::smallvec;
use tercet_common::message::Held;
use tercet_common::{
    Assignment, Content, Incarnation, Key, Member, RingConfig, Row, SyncReply, SyncRequest, Term,
    VectorClock, WorkerId,
};

use super::*;
use crate::store::{CommitBatch, CommitOutcome, Conflict, PartitionChange, RowOutcome, StoreError, Write};

mod collecting;
mod conflicts;
mod copying;
mod epochs;
mod mutants;
mod promises;
mod random;
mod random_sync;
mod reading;
mod scanning;
mod writing;

const LIMITS: Limits = Limits {
    queue_len_max: 100,
    queue_bytes_max: 100_000,
    cache_bytes: 1_000_000,
    value_bytes_max: 50_000,
    batch_rows_max: 50,
    batch_bytes_max: 10_000,
};

/// All keys of the tests share this tag, hence the partition.
const TAG: &str = "{t}";

fn key(name: &str) -> Key {
    Key::new(format!("{TAG}{name}")).unwrap()
}

fn partition() -> PartitionId {
    key("").partition()
}

/// A promise of epoch 1; terms are told apart by `n`.
fn term(n: u64) -> Promise {
    Promise { epoch: Epoch(1), term: Term { n, incarnation: Incarnation(n) } }
}

fn row_at(name: &str, ballot: Ballot) -> Row {
    let mut clock = VectorClock::new();
    clock.observe(ballot.term.incarnation, ballot.seq);
    Row { key: key(name), ballot, clock, content: Content::string(ballot.to_string(), None) }
}

fn put_at(name: &str, ballot: Ballot) -> ReplicaRequest {
    ReplicaRequest::Put { row: row_at(name, ballot) }
}

/// A put of term `n`.
fn put(name: &str, n: u64, seq: u64) -> ReplicaRequest {
    put_at(name, term(n).ballot(seq))
}

fn get(name: &str) -> ReplicaRequest {
    ReplicaRequest::Get { epoch: Epoch(1), key: key(name), digest: false }
}

fn prepare(promise: Promise) -> ReplicaRequest {
    ReplicaRequest::Prepare { partition: partition(), promise }
}

fn get_for_write(name: &str, promise: Promise) -> ReplicaRequest {
    ReplicaRequest::GetForWrite { promise, key: key(name) }
}

fn flush(ballot: Ballot) -> ReplicaRequest {
    let clock = VectorClock::new().with_dot(ballot.term.incarnation, ballot.seq);
    ReplicaRequest::Flush { partition: partition(), ballot, clock, chosen: None }
}

fn sync(request: SyncRequest) -> ReplicaRequest {
    ReplicaRequest::Sync(Box::new(request))
}

fn done() -> ReplicaReply {
    ReplicaReply::Synced(Box::new(SyncReply::Done))
}

fn refused(refusal: Refusal) -> ReplicaReply {
    ReplicaReply::Refused(refusal)
}

fn version(row: Row) -> ReplicaReply {
    ReplicaReply::Version(Held { ballot: row.ballot, row: Some(row), floor: Ballot::ZERO })
}

const ABSENT: ReplicaReply =
    ReplicaReply::Version(Held { ballot: Ballot::ZERO, row: None, floor: Ballot::ZERO });

fn lost() -> CommitOutcome {
    CommitOutcome::Unknown(StoreError::Unreachable("connection reset".into()))
}

fn aborted() -> CommitOutcome {
    CommitOutcome::Aborted(StoreError::Failed("deadlock detected".into()))
}

fn promise_in(epoch: u64, n: u64) -> Promise {
    Promise { epoch: Epoch(epoch), term: Term { n, incarnation: Incarnation(n) } }
}

/// What a configuration says of the partition of the tests.
enum Says {
    Others,
    Replica,
    /// It stays a replica while another is replaced.
    Stays,
    Newcomer,
}

/// A configuration of this number that last changed the partition.
fn membership(number: u64, says: &Says) -> Membership {
    // The worker is the last member.
    let (replicas, next) = match says {
        Says::Others => (smallvec![0, 1, 2], None),
        Says::Replica => (smallvec![0, 1, 4], None),
        Says::Stays => (smallvec![0, 1, 4], Some(smallvec![0, 3, 4])),
        Says::Newcomer => (smallvec![0, 1, 2], Some(smallvec![0, 1, 4])),
    };
    let members = ["w1", "w2", "w3", "w4", "w5"].map(|id| Member::named(WorkerId::new(id).unwrap(), 16, ""));
    let mut table = vec![
        Assignment { epoch: Epoch(1), replicas: smallvec![0, 1, 2], next: None };
        usize::from(tercet_common::PARTITIONS)
    ];
    table[partition().index()] = Assignment { epoch: Epoch(number), replicas, next };
    let config = RingConfig::from_table("c", Epoch(number), 3, members.to_vec(), table).unwrap();
    Membership::from_config(&config, &WorkerId::new("w5").unwrap(), "")
}

/// A replica and its requests, numbered in order from 1.
struct Rig {
    replica: Replica,
    last: u64,
}

impl Rig {
    fn with_limits(limits: Limits) -> Self {
        let mut rig = Self { replica: Replica::new(limits), last: 0 };
        rig.open(PartitionRecord::default());
        rig
    }

    /// Open, at the durable promise `term(1)`.
    fn new() -> Self {
        let mut rig = Self::with_limits(LIMITS);
        rig.open(PartitionRecord { promise: term(1), ..Default::default() });
        rig
    }

    fn open(&mut self, record: PartitionRecord) {
        let mut records = vec![PartitionRecord::default(); usize::from(tercet_common::PARTITIONS)];
        records[partition().index()] = record;
        self.replica.open(records);
    }

    fn submit(&mut self, request: ReplicaRequest) -> u64 {
        self.last += 1;
        self.replica.submit(Arrival::new(7, self.last, 0, request));
        self.last
    }

    /// The answers since the last call, sorted by request.
    fn answers(&mut self) -> Vec<(u64, ReplicaReply)> {
        let mut answers: Vec<_> =
            self.replica.take_answers().into_iter().map(|a| (a.ticket.id, a.reply)).collect();
        answers.sort_by_key(|a| a.0);
        answers
    }

    /// Submits, and takes the one answer that this gives at once.
    fn ask(&mut self, request: ReplicaRequest) -> ReplicaReply {
        let id = self.submit(request);
        match <[_; 1]>::try_from(self.answers()) {
            Ok([(answered, reply)]) if answered == id => reply,
            other => panic!("expected one answer to {id}, got {other:?}"),
        }
    }

    fn take(&mut self) -> (CommitId, CommitBatch) {
        self.replica.next_commit().expect("something waits for a commit")
    }

    /// Ends a batch, every row of which was stored.
    fn committed(&mut self, (id, batch): (CommitId, CommitBatch)) {
        let rows = vec![RowOutcome::Stored; batch.rows.len()];
        self.replica.on_commit(id, CommitOutcome::Committed { journal_seq: 1, rows });
    }

    /// Commits all that waits, in one batch.
    fn commit(&mut self) {
        let batch = self.take();
        self.committed(batch);
    }

    fn committed_as(&mut self, (id, _): (CommitId, CommitBatch), rows: Vec<RowOutcome>) {
        self.replica.on_commit(id, CommitOutcome::Committed { journal_seq: 1, rows });
    }

    fn keep_promises(&mut self) -> Vec<(PartitionId, Promise)> {
        let promises = self.replica.next_promises().expect("a promise waits to be kept");
        self.replica.on_promises(Ok(()));
        promises
    }

    fn hold(&mut self, number: u64, says: &Says) {
        self.replica.set_membership(membership(number, says));
    }

    fn change(&mut self) -> (ChangeId, PartitionChange) {
        self.replica.next_change().expect("a change waits")
    }

    /// Ends a change, every row of which was stored.
    fn changed(&mut self, (id, change): (ChangeId, PartitionChange)) {
        let rows = vec![RowOutcome::Stored; change.rows.len()];
        self.replica.on_change(id, CommitOutcome::Committed { journal_seq: 1, rows });
    }

    /// Ends the change that waits. One that changes nothing is not sent.
    fn make_change(&mut self) {
        assert!(self.replica.work().change, "a change waits");
        if let Some(change) = self.replica.next_change() {
            self.changed(change);
        }
    }

    /// Ends the one look-up that waits.
    fn read(&mut self, row: Option<Row>) {
        let (id, keys) = self.replica.next_read().expect("a read waits");
        assert_eq!(keys.len(), 1);
        self.replica.on_read(id, Ok(vec![row]));
    }
}

#[test]
fn nothing_is_answered_before_the_store_is_open() {
    let mut rig = Rig { replica: Replica::new(LIMITS), last: 0 };
    assert_eq!(rig.ask(get("a")), refused(Refusal::Unavailable));
    assert_eq!(rig.ask(put("a", 1, 1)), refused(Refusal::Unavailable));
    assert_eq!(rig.replica.work(), Work::default());
}

#[test]
fn older_epochs_are_refused_whatever_is_asked() {
    let mut rig = Rig::new();
    let promise = Promise { epoch: Epoch(3), ..term(1) };
    rig.open(PartitionRecord { promise, ..Default::default() });
    let old = Promise { epoch: Epoch(2), ..term(9) };
    let row = row_at("a", old.ballot(1));
    for request in [
        prepare(old),
        put_at("a", old.ballot(1)),
        ReplicaRequest::Get { epoch: Epoch(2), key: key("a"), digest: true },
        get_for_write("a", old),
        ReplicaRequest::Replicate { row, chosen: true, epoch: Epoch(2) },
        flush(old.ballot(1)),
    ] {
        assert_eq!(rig.ask(request), refused(Refusal::Epoch { current: Epoch(3) }));
    }
}

#[test]
fn a_lost_store_refuses_what_waits_and_what_comes_until_it_is_open_again() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.submit(put("b", 1, 2));
    rig.submit(get("c"));
    // Durable already: only the writes hold it back, and their refusal must not let it pass.
    rig.submit(prepare(term(1)));
    rig.submit(prepare(term(2)));
    rig.replica.lose();
    let expected: Vec<_> = (1..=5).map(|id| (id, refused(Refusal::Unavailable))).collect();
    assert_eq!(rig.answers(), expected);
    assert_eq!(rig.replica.work(), Work { reopen: true, ..Work::default() });
    assert_eq!(rig.ask(get("a")), refused(Refusal::Unavailable));
    assert_eq!((rig.replica.stats().waiting_writes, rig.replica.stats().waiting_reads), (0, 0));

    rig.open(PartitionRecord { promise: term(1), ..Default::default() });
    // The promise of term 2 was made, if not answered.
    assert_eq!(rig.ask(put("a", 1, 3)), refused(Refusal::Promise { promised: term(2) }));
    rig.submit(put("a", 2, 1));
    rig.commit();
    assert_eq!(rig.answers(), [(8, ReplicaReply::Stored)]);
}

#[test]
fn a_closed_replica_answers_what_is_under_way_and_refuses_the_rest() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let batch = rig.take();
    rig.submit(put("b", 1, 2));
    rig.replica.close();
    rig.committed(batch);
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored), (2, refused(Refusal::Unavailable))]);
    assert_eq!(rig.replica.work(), Work::default());
}
