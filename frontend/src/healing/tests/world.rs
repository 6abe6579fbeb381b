//! Workers as maps that keep the rules of `tercet_common::sync`, an owner that puts to all who are up, and a hook that
//! lets a test act between any two requests.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tercet_common::message::Refusal;
use tercet_common::quorum::majority;
use tercet_common::sync::{Changes, Digest, DigestEntry, Memory, PartitionState, Summary};
use tercet_common::{
    Ballot, Content, Epoch, Incarnation, Key, KeyHash, PartitionId, Promise, Row, SyncReply, SyncRequest,
    Term, VectorClock,
};

use crate::coordinator::OpError;
use crate::coordinator::core::WorkerIx;
use crate::healing::{ChosenFlush, OwnerView, Peers, Stable, Unanswered};

type Hook = Box<dyn FnMut(&mut State, WorkerIx, &SyncRequest) + Send>;

/// See the module. Pages are small, so that a few keys make many of them.
pub(super) struct World(pub(super) Mutex<State>);

pub(super) struct State {
    pub(super) workers: Vec<Worker>,
    pub(super) groups: BTreeMap<PartitionId, Stable>,
    pub(super) term: u64,
    pub(super) seq: u64,
    pub(super) in_flight: Option<Ballot>,
    /// What was found equal, and under which promise.
    pub(super) passed: Vec<(PartitionId, Promise)>,
    pub(super) reading: Vec<KeyHash>,
    pub(super) owned: bool,
    /// Entries of a digest, and a quarter of the rows of a summary; rows of an answer.
    pub(super) page: usize,
    pub(super) fetch_rows: usize,
    hook: Option<Hook>,
    /// Rows fetched, rows installed or replicated, requests by name.
    pub(super) fetched: u64,
    pub(super) given: u64,
    pub(super) rewritten: u64,
    pub(super) asked: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
pub(super) struct Worker {
    pub(super) uuid: String,
    pub(super) down: bool,
    pub(super) partitions: BTreeMap<PartitionId, Held>,
    pub(super) journal: Vec<(u64, PartitionId, Option<KeyHash>)>,
    pub(super) seq: u64,
    pub(super) pruned_to: u64,
    pub(super) memory: Memory,
}

/// A partition in a worker.
#[derive(Default, Clone)]
pub(super) struct Held {
    pub(super) epoch: Epoch,
    pub(super) joining: bool,
    pub(super) copied_to: Option<KeyHash>,
    pub(super) complete: bool,
    pub(super) promise: Promise,
    pub(super) state: PartitionState,
    pub(super) rows: BTreeMap<KeyHash, Row>,
}

impl Held {
    fn is_hidden(&self, ballot: Ballot) -> bool {
        ballot < self.state.flush
    }

    /// What a read is answered with.
    pub(super) fn shown(&self, hash: &KeyHash) -> Option<&Row> {
        let row = self.rows.get(hash).filter(|row| !self.is_hidden(row.ballot))?;
        let passed = !self.joining || self.complete || self.copied_to.is_some_and(|to| *hash < to);
        (passed || row.ballot.epoch >= self.epoch).then_some(row)
    }

    /// What a digest shows.
    pub(super) fn visible(&self) -> BTreeMap<KeyHash, Ballot> {
        let rows = self.rows.iter().filter(|(_, row)| !self.is_hidden(row.ballot));
        rows.map(|(hash, row)| (*hash, row.ballot)).collect()
    }

    fn entries(&self, from: KeyHash) -> impl Iterator<Item = DigestEntry> {
        let entry = |(hash, row): (&KeyHash, &Row)| DigestEntry {
            hash: *hash,
            ballot: row.ballot,
            tombstone: row.content == Content::Tombstone,
        };
        self.rows.range(from..).filter(|(_, row)| !self.is_hidden(row.ballot)).map(entry)
    }

    /// A page of at most `limit` entries, and where the next one begins.
    fn page(&self, from: KeyHash, limit: usize) -> (Vec<DigestEntry>, Option<KeyHash>) {
        let mut entries: Vec<_> = self.entries(from).take(limit + 1).collect();
        let next = if entries.len() > limit { entries.pop().map(|entry| entry.hash) } else { None };
        (entries, next)
    }

    fn raise(&mut self, ballot: Ballot, clock: &VectorClock) {
        self.state.vector.follow(&mut self.state.highest, ballot, clock);
    }
}

impl Worker {
    fn journal(&mut self, partition: PartitionId, hash: Option<KeyHash>) {
        self.seq += 1;
        self.journal.push((self.seq, partition, hash));
    }

    pub(super) fn held(&mut self, partition: PartitionId) -> &mut Held {
        self.partitions.entry(partition).or_default()
    }

    /// The rule of puts; with `chosen`, of chosen rows.
    pub(super) fn put(&mut self, row: Row, chosen: bool) -> Result<(), Refusal> {
        let (partition, hash) = (row.key.partition(), row.key.hash());
        let held = self.held(partition);
        if !chosen && row.ballot.promise() < held.promise {
            return Err(Refusal::Promise { promised: held.promise });
        }
        match held.rows.get(&hash) {
            Some(there) if there.ballot >= row.ballot => return Ok(()),
            None if row.ballot <= held.state.floor => {
                return Err(Refusal::Floor { floor: held.state.floor });
            }
            _ => {}
        }
        if !chosen {
            held.promise = row.ballot.promise();
        }
        held.raise(row.ballot, &row.clock);
        held.rows.insert(hash, row);
        self.journal(partition, Some(hash));
        Ok(())
    }

    pub(super) fn flush(&mut self, partition: PartitionId, ballot: Ballot) {
        let held = self.held(partition);
        if ballot > held.state.flush {
            held.state.flush = ballot;
            held.raise(ballot, &VectorClock::new());
            self.journal(partition, None);
        }
    }

    fn obey(&mut self, request: SyncRequest, page: usize, fetch_rows: usize) -> Result<SyncReply, Refusal> {
        if let Some((partition, epoch)) = request.scope() {
            let held = self.held(partition);
            if epoch < held.epoch.max(held.promise.epoch) {
                return Err(Refusal::Epoch { current: held.epoch });
            }
        }
        Ok(match request {
            SyncRequest::Digest { partition, from, limit, .. } => {
                let held = self.held(partition);
                let (entries, next) = held.page(from, page.min(limit as usize));
                SyncReply::Digested(Digest { state: held.state.clone(), entries, next })
            }
            SyncRequest::Summary { partition, from, .. } => {
                let held = self.held(partition);
                let (entries, next) = held.page(from, page * 4);
                SyncReply::Summed(Summary {
                    state: held.state.clone(),
                    rows: entries.len() as u64,
                    tombstones: entries.iter().filter(|entry| entry.tombstone).count() as u64,
                    checksum: checksum(&entries),
                    next,
                })
            }
            SyncRequest::Look { partition, hashes, .. } => {
                let held = self.held(partition);
                let wanted: BTreeSet<_> = hashes.into_iter().collect();
                let entries = held.entries(KeyHash([0; 16])).filter(|entry| wanted.contains(&entry.hash));
                SyncReply::Digested(Digest {
                    state: held.state.clone(),
                    entries: entries.collect(),
                    next: None,
                })
            }
            SyncRequest::Fetch { partition, hashes, .. } => {
                let held = self.held(partition);
                let row = |hash| held.rows.get(hash).filter(|row| !held.is_hidden(row.ballot)).cloned();
                SyncReply::Rows(hashes.iter().take(fetch_rows).map(row).collect())
            }
            SyncRequest::Begin { partition, epoch, flush, flush_clock, .. } => {
                let held = self.held(partition);
                if held.complete {
                    return Ok(SyncReply::Whole);
                }
                if held.state.flush.epoch < epoch || flush > held.state.flush {
                    (held.state.flush, held.state.flush_clock) = (flush, flush_clock);
                }
                held.copied_to = None;
                SyncReply::Done
            }
            SyncRequest::Install { partition, rows, evict, copied_to, .. } => {
                let held = self.held(partition);
                for (hash, ballot) in evict {
                    if held.rows.get(&hash).is_some_and(|row| row.ballot == ballot) {
                        held.rows.remove(&hash);
                    }
                }
                for row in rows {
                    held.raise(row.ballot, &row.clock);
                    let hash = row.key.hash();
                    if held.rows.get(&hash).is_none_or(|there| there.ballot < row.ballot) {
                        held.rows.insert(hash, row);
                    }
                }
                held.copied_to = held.copied_to.max(copied_to);
                SyncReply::Done
            }
            SyncRequest::Finish { partition, floor, vector, highest, .. } => {
                let held = self.held(partition);
                held.state.floor = held.state.floor.max(floor);
                held.raise(highest, &vector);
                held.complete = true;
                SyncReply::Done
            }
            SyncRequest::Collect { partition, promise, floor, tombstones } => {
                let held = self.held(partition);
                if promise < held.promise {
                    return Err(Refusal::Promise { promised: held.promise });
                }
                held.state.floor = held.state.floor.max(floor);
                for (hash, ballot) in tombstones {
                    if held.rows.get(&hash).is_some_and(|row| row.ballot == ballot) {
                        held.rows.remove(&hash);
                    }
                }
                SyncReply::Done
            }
            SyncRequest::Changes { since, limit } => {
                if since < self.pruned_to {
                    return Ok(SyncReply::Changed(Changes {
                        upto: self.seq,
                        pruned: true,
                        ..Changes::default()
                    }));
                }
                let behind: Vec<_> = self.journal.iter().filter(|(seq, ..)| *seq > since).collect();
                let told = &behind[..behind.len().min(page).min(limit as usize)];
                let entries: BTreeSet<_> =
                    told.iter().filter_map(|(_, partition, hash)| Some((*partition, (*hash)?))).collect();
                let flushed: BTreeSet<_> = told
                    .iter()
                    .filter(|(.., hash)| hash.is_none())
                    .map(|(_, partition, _)| *partition)
                    .collect();
                SyncReply::Changed(Changes {
                    entries: entries.into_iter().collect(),
                    flushed: flushed.into_iter().collect(),
                    upto: told.last().map_or(since, |(seq, ..)| *seq),
                    more: told.len() < behind.len(),
                    pruned: false,
                })
            }
            SyncRequest::Remember { memory } => {
                for position in memory.positions {
                    self.memory
                        .positions
                        .retain(|kept| kept.peer != position.peer || kept.seq > position.seq);
                    if self.memory.positions.iter().all(|kept| kept.peer != position.peer) {
                        self.memory.positions.push(position);
                    }
                }
                SyncReply::Done
            }
            SyncRequest::Recall => SyncReply::Remembered(self.memory.clone()),
        })
    }
}

/// FNV-1a over (hash, ballot) of each entry: equal stretches, equal numbers.
fn checksum(entries: &[DigestEntry]) -> u64 {
    let bytes = |entry: &DigestEntry| {
        let Ballot { epoch, term, seq } = entry.ballot;
        let numbers = [epoch.0, term.n, term.incarnation.0, seq].map(u64::to_be_bytes).concat();
        entry.hash.0.into_iter().chain(numbers).collect::<Vec<_>>()
    };
    entries
        .iter()
        .flat_map(bytes)
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn name(request: &SyncRequest) -> &'static str {
    match request {
        SyncRequest::Digest { .. } => "digest",
        SyncRequest::Summary { .. } => "summary",
        SyncRequest::Look { .. } => "look",
        SyncRequest::Fetch { .. } => "fetch",
        SyncRequest::Begin { .. } => "begin",
        SyncRequest::Install { .. } => "install",
        SyncRequest::Finish { .. } => "finish",
        SyncRequest::Collect { .. } => "collect",
        SyncRequest::Changes { .. } => "changes",
        SyncRequest::Remember { .. } => "remember",
        SyncRequest::Recall => "recall",
    }
}

impl World {
    pub(super) fn new(workers: usize) -> Self {
        let worker = |n| Worker { uuid: format!("uuid-{n}"), ..Worker::default() };
        Self(Mutex::new(State {
            workers: (0..workers).map(worker).collect(),
            groups: BTreeMap::new(),
            term: 1,
            seq: 0,
            in_flight: None,
            passed: Vec::new(),
            reading: Vec::new(),
            owned: true,
            page: 3,
            fetch_rows: 2,
            hook: None,
            fetched: 0,
            given: 0,
            rewritten: 0,
            asked: BTreeMap::new(),
        }))
    }

    /// Runs before each request.
    pub(super) fn before_each(&self, hook: impl FnMut(&mut State, WorkerIx, &SyncRequest) + Send + 'static) {
        self.0.lock().hook = Some(Box::new(hook));
    }

    fn ask_now(&self, worker: WorkerIx, request: SyncRequest) -> Result<SyncReply, Unanswered> {
        let mut state = self.0.lock();
        if let Some(mut hook) = state.hook.take() {
            hook(&mut state, worker, &request);
            state.hook = Some(hook);
        }
        *state.asked.entry(name(&request)).or_default() += 1;
        if let SyncRequest::Install { rows, .. } = &request {
            state.given += rows.len() as u64;
        }
        let (page, fetch_rows) = (state.page, state.fetch_rows);
        let worker = &mut state.workers[usize::from(worker)];
        if worker.down {
            return Err(Unanswered::Lost);
        }
        let reply = worker.obey(request, page, fetch_rows).map_err(Unanswered::Refused)?;
        if let SyncReply::Rows(rows) = &reply {
            state.fetched += rows.len() as u64;
        }
        Ok(reply)
    }
}

impl State {
    pub(super) fn group(&mut self, epoch: u64, replicas: &[WorkerIx]) -> Stable {
        let group = Stable { partition: partition(), epoch: Epoch(epoch), replicas: replicas.to_vec() };
        self.groups.insert(group.partition, group.clone());
        group
    }

    pub(super) fn held(&mut self, worker: WorkerIx) -> &mut Held {
        self.workers[usize::from(worker)].held(partition())
    }

    pub(super) fn promise(&self, epoch: u64) -> Promise {
        promise(epoch, self.term)
    }

    /// A put of the owner that reaches these workers.
    pub(super) fn put(&mut self, epoch: u64, key: Key, content: Content, to: &[WorkerIx]) -> Row {
        self.seq += 1;
        let row =
            Row { key, ballot: self.promise(epoch).ballot(self.seq), clock: VectorClock::new(), content };
        for worker in to {
            // A refusal is as good as not having been reached.
            let _ = self.workers[usize::from(*worker)].put(row.clone(), false);
        }
        row
    }

    pub(super) fn visible(&mut self, worker: WorkerIx) -> BTreeMap<KeyHash, Ballot> {
        self.held(worker).visible()
    }

    fn rewrite(&mut self, key: Key) -> Result<(), OpError> {
        let Some(group) = self.groups.get(&key.partition()).cloned() else { return Err(OpError::Loading) };
        let up: Vec<_> = group
            .replicas
            .iter()
            .copied()
            .filter(|worker| !self.workers[usize::from(*worker)].down)
            .collect();
        if up.len() < majority(group.replicas.len()) {
            return Err(OpError::NoQuorum { needed: majority(group.replicas.len()), available: up.len() });
        }
        let hash = key.hash();
        let mut highest = (Ballot::ZERO, Content::Tombstone);
        for worker in &up {
            let held = self.workers[usize::from(*worker)].held(key.partition());
            let row = held.shown(&hash).map(|row| (row.ballot, row.content.clone()));
            let version = row.unwrap_or((held.state.flush, Content::Tombstone));
            if version.0 > highest.0 {
                highest = version;
            }
        }
        self.rewritten += 1;
        self.seq += 1;
        let ballot = self.promise(group.epoch.0).ballot(self.seq);
        let row = Row { key, ballot, clock: VectorClock::new(), content: highest.1 };
        for worker in up {
            self.workers[usize::from(worker)].put(row.clone(), false).map_err(|_| OpError::Uncertain)?;
        }
        Ok(())
    }
}

impl Peers for World {
    async fn ask(&self, worker: WorkerIx, request: SyncRequest) -> Result<SyncReply, Unanswered> {
        self.ask_now(worker, request)
    }

    async fn replicate(&self, worker: WorkerIx, row: Row, epoch: Epoch) -> Result<(), Unanswered> {
        let mut state = self.0.lock();
        assert!(row.ballot.epoch <= epoch);
        let holders = state.workers.iter().filter_map(|worker| {
            worker
                .partitions
                .get(&row.key.partition())?
                .rows
                .get(&row.key.hash())
                .filter(|there| **there == row)
        });
        let replicas = state.groups[&row.key.partition()].replicas.len();
        assert!(holders.count() >= majority(replicas), "only chosen rows are replicated");
        let worker = &mut state.workers[usize::from(worker)];
        if worker.down {
            return Err(Unanswered::Lost);
        }
        worker.put(row, true).map_err(Unanswered::Refused)?;
        state.given += 1;
        Ok(())
    }

    async fn replicate_flush(&self, worker: WorkerIx, flush: ChosenFlush) -> Result<(), Unanswered> {
        let mut state = self.0.lock();
        let held = |worker: &&Worker| {
            worker.partitions.get(&flush.partition).is_some_and(|held| held.state.flush == flush.ballot)
        };
        let replicas = state.groups[&flush.partition].replicas.len();
        assert!(
            state.workers.iter().filter(held).count() >= majority(replicas),
            "only chosen flushes are replicated"
        );
        let worker = &mut state.workers[usize::from(worker)];
        if worker.down {
            return Err(Unanswered::Lost);
        }
        worker.flush(flush.partition, flush.ballot);
        Ok(())
    }

    async fn rewrite(&self, key: Key) -> Result<(), OpError> {
        self.0.lock().rewrite(key)
    }

    fn owner_view(&self, partition: PartitionId) -> Option<OwnerView> {
        let state = self.0.lock();
        let epoch = state.groups.get(&partition)?.epoch;
        let view = OwnerView {
            promise: state.promise(epoch.0),
            lowest_in_flight: state.in_flight,
            reading: state.reading.clone(),
        };
        state.owned.then_some(view)
    }

    fn passed(&self, partition: PartitionId, promise: Promise) {
        self.0.lock().passed.push((partition, promise));
    }

    fn stable(&self, partition: PartitionId) -> Option<Stable> {
        self.0.lock().groups.get(&partition).cloned()
    }
}

/// The end of a procedure that never has to wait.
pub(super) fn run<T>(procedure: impl Future<Output = T>) -> T {
    procedure.now_or_never().expect("workers in memory answer at once")
}

/// Keys of one partition.
pub(super) fn key(n: usize) -> Key {
    Key::new(format!("{{tag}}{n}")).unwrap()
}

pub(super) fn hash(n: usize) -> KeyHash {
    key(n).hash()
}

pub(super) fn partition() -> PartitionId {
    key(0).partition()
}

pub(super) fn value(text: impl Into<String>) -> Content {
    Content::string(text.into(), None)
}

pub(super) fn promise(epoch: u64, n: u64) -> Promise {
    Promise { epoch: Epoch(epoch), term: Term { n, incarnation: Incarnation(7) } }
}

pub(super) fn row(n: usize, ballot: Ballot, content: Content) -> Row {
    Row { key: key(n), ballot, clock: VectorClock::new(), content }
}
