//! A worker process over a disk that outlives it: what the engine does, on the agenda of the schedule.
//!
//! Store calls have two moments, as with a real database: when they take effect and when the worker hears of it.
//!
//! ```text
//!   commit    begun ──── durable (CommitEnds) ── told (CommitTold)      several at once, in any order
//!   change    the same
//!   read      begun ──── snapshot (Look) ─────── told (Looked)
//!   scan      begun ──── snapshot (Scan) ─────── told (Scanned)
//!   promises  begun ──── durable (Keep) ──────── told (Kept)            one at a time
//!   register  the same, see `acceptor`
//! ```

mod identity;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tercet_common::ring_proposer::Voter;
use tercet_common::ring_register::RegisterState;
use tercet_common::{KeyHash, PartitionId, Promise, RingConfig, Row};
use tercet_worker::engine::scans;
use tercet_worker::replica::{
    Answer, Arrival, ChangeId, CommitId, Limits, Membership, ReadId, Replica, ScanId, ScanJob, ScanResult,
};
use tercet_worker::store::memory::Fault;
use tercet_worker::store::{CommitOutcome, MemoryDisk, MemoryStore, Store, StoreError};

use crate::acceptor::{Acceptor, Archive};
use crate::agenda::{MILLISECOND, Time};
use crate::calls::Parcel;
use crate::random::Random;

/// Look-ups of one worker under way at once.
const READERS: usize = 2;

const LIMITS: Limits = Limits {
    queue_len_max: 256,
    queue_bytes_max: 1024 * 1024,
    cache_bytes: 64 * 1024,
    value_bytes_max: 1_024,
    batch_rows_max: 8,
    batch_bytes_max: 16 * 1024,
};

/// What a worker does next, of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    CommitEnds(u64),
    CommitTold(u64),
    Look(u64),
    Looked(u64),
    Scan(u64),
    Scanned(u64),
    Keep,
    Kept,
    KeepRegister,
    RegisterKept,
    /// The database connection is gone, and nobody asked for anything.
    NoticeLoss,
    Reopen,
    Probe,
}

impl Step {
    /// It is the database's, and goes on although the worker is stopped.
    pub(crate) fn is_of_database(self) -> bool {
        matches!(self, Self::CommitEnds(_) | Self::Look(_) | Self::Scan(_) | Self::Keep | Self::KeepRegister)
    }
}

/// How the database treats what it is asked, for now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub writers: usize,
    pub commit_time: Time,
    /// Of 1,000 commits.
    pub failing: u64,
}

struct Reading {
    id: ReadId,
    keys: Vec<(PartitionId, KeyHash)>,
    rows: Option<Result<Vec<Option<Row>>, StoreError>>,
}

struct Scanning {
    id: ScanId,
    job: Option<ScanJob>,
    outcome: Option<Result<ScanResult, StoreError>>,
}

/// Whose transaction it is.
#[derive(Clone, Copy)]
enum Ending {
    Commit(CommitId),
    Change(ChangeId),
}

struct Keeping {
    promises: Vec<(PartitionId, Promise)>,
    outcome: Option<Result<(), StoreError>>,
}

struct Process {
    // Before the store: dropped, they leave their commits without a client.
    commits: BTreeMap<u64, (Ending, BoxFuture<'static, CommitOutcome>)>,
    store: Arc<MemoryStore>,
    replica: Replica,
    reads: BTreeMap<u64, Reading>,
    scans: BTreeMap<u64, Scanning>,
    last_read: u64,
    keeping: Option<Keeping>,
    acceptor: Acceptor,
    reopening: bool,
    probing: bool,
}

/// See the module.
pub(crate) struct Worker {
    pub disk: MemoryDisk,
    /// Steps of earlier lives are void.
    pub life: u64,
    process: Option<Process>,
    /// Its id, and whose data it has.
    pub voter: Voter,
    /// Of the store, and what its journal came to when it was opened last.
    generation: u64,
    opened_seq: u64,
    /// Part of its disk.
    archive: Archive,
    /// Its data is lost; whoever comes under its id now is somebody else, in another slot.
    pub is_gone: bool,
    /// The slot is kept for somebody.
    pub is_reserved: bool,
    /// Its disk was set back: what was on it before, and the slot that is kept for whom it becomes.
    pub set_back: Option<(MemoryDisk, usize)>,
    pub paused_until: Time,
    pub database_down_until: Time,
    pub disk_full: bool,
    /// Steps to put on the agenda: after how long, and what.
    pub planned: Vec<(Time, Step)>,
    /// Answers of the register that are to be sent.
    pub decided: Vec<(Parcel, RegisterState)>,
}

impl Worker {
    pub(crate) fn new(voter: Voter, partitions: usize) -> Self {
        Self {
            disk: new_disk(&voter.uuid, partitions),
            life: 0,
            process: None,
            voter,
            generation: 0,
            opened_seq: 0,
            archive: Archive::default(),
            is_gone: false,
            is_reserved: false,
            set_back: None,
            paused_until: 0,
            database_down_until: 0,
            disk_full: false,
            planned: Vec::new(),
            decided: Vec::new(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Its store is open.
    pub(crate) fn is_open(&self) -> bool {
        let open = |p: &Process| p.replica.is_open() && p.store.lost().now_or_never().is_none();
        self.process.as_ref().is_some_and(open)
    }

    /// Running, open, and with nothing under way.
    pub(crate) fn is_idle(&self) -> bool {
        if self.is_gone || self.life == 0 {
            return true;
        }
        let idle = |p: &Process| {
            let replica = &p.replica;
            replica.is_open() && !replica.stats().read_only && !p.has_calls() && !replica.work().commit
        };
        self.process.as_ref().is_some_and(idle)
    }

    pub(crate) fn start(&mut self, partitions: usize) {
        self.life += 1;
        self.process = Some(Process {
            commits: BTreeMap::new(),
            store: Arc::new(self.disk.store()),
            replica: Replica::with_partitions(LIMITS, partitions),
            reads: BTreeMap::new(),
            scans: BTreeMap::new(),
            last_read: 0,
            keeping: None,
            acceptor: Acceptor::default(),
            reopening: true,
            probing: false,
        });
        self.planned.push((0, Step::Reopen));
    }

    /// Commits under way go on without their client.
    pub(crate) fn kill(&mut self) {
        self.process = None;
        self.life += 1;
    }

    pub(crate) fn submit(&mut self, arrival: Arrival) {
        if let Some(process) = &mut self.process {
            process.replica.submit(arrival);
        }
    }

    /// The database connections break.
    pub(crate) fn lose_database(&mut self) {
        self.disk.lose();
        let Some(process) = &self.process else { return };
        self.planned.push((MILLISECOND, Step::NoticeLoss));
        self.planned.extend(process.commits.keys().map(|seq| (MILLISECOND / 2, Step::CommitTold(*seq))));
    }

    pub(crate) fn step(&mut self, now: Time, step: Step, pace: Pace, random: &mut Random) {
        let Some(process) = &mut self.process else { return };
        match step {
            Step::CommitEnds(seq) => {
                let fails = !self.disk_full && random.permille(pace.failing);
                let fault = fails.then(|| match random.below(5) {
                    0 => Fault::Abort(StoreError::Failed("serialization".to_owned())),
                    1 => Fault::UnknownLost,
                    2 => Fault::UnknownApplied,
                    _ => Fault::Orphaned,
                });
                let told = random.spread(20, MILLISECOND);
                let lost = fault.as_ref().is_some_and(|fault| !matches!(fault, Fault::Abort(_)));
                fault.into_iter().for_each(|fault| self.disk.fail_next(fault));
                self.disk.release(seq);
                if lost {
                    // Those beside it have lost their connection too.
                    self.planned.extend(process.commits.keys().map(|seq| (told, Step::CommitTold(*seq))));
                } else {
                    self.planned.push((told, Step::CommitTold(seq)));
                }
            }
            Step::CommitTold(seq) => {
                if let Some((id, mut commit)) = process.commits.remove(&seq) {
                    match (&mut commit).now_or_never() {
                        Some(outcome) => process.ended(id, outcome),
                        None => _ = process.commits.insert(seq, (id, commit)),
                    }
                }
            }
            Step::Look(nth) => {
                if let Some(reading) = process.reads.get_mut(&nth) {
                    reading.rows = process.store.read(std::mem::take(&mut reading.keys)).now_or_never();
                    self.planned.push((random.spread(20, MILLISECOND * 4), Step::Looked(nth)));
                }
            }
            Step::Looked(nth) => {
                if let Some(Reading { id, rows: Some(rows), .. }) = process.reads.remove(&nth) {
                    process.replica.on_read(id, rows);
                }
            }
            Step::Scan(nth) => {
                if let Some(scanning) = process.scans.get_mut(&nth)
                    && let Some(job) = scanning.job.take()
                {
                    scanning.outcome = scans::run(&*process.store, job).now_or_never();
                    self.planned.push((random.spread(20, MILLISECOND * 4), Step::Scanned(nth)));
                }
            }
            Step::Scanned(nth) => {
                if let Some(Scanning { id, outcome: Some(outcome), .. }) = process.scans.remove(&nth) {
                    process.replica.on_scan(id, outcome);
                }
            }
            Step::Keep => {
                let fails = random.permille(pace.failing);
                if let Some(keeping) = &mut process.keeping {
                    let promises = std::mem::take(&mut keeping.promises);
                    let timeout = Err(StoreError::Timeout("keeping promises".to_owned()));
                    // After an error they may be durable or not.
                    let kept = if fails && random.percent(50) {
                        None
                    } else {
                        process.store.keep_promises(promises).now_or_never()
                    };
                    keeping.outcome = Some(kept.filter(|_| !fails).unwrap_or(timeout));
                    self.planned.push((random.spread(20, MILLISECOND), Step::Kept));
                }
            }
            Step::Kept => {
                if let Some(Keeping { outcome: Some(outcome), .. }) = process.keeping.take() {
                    process.replica.on_promises(outcome);
                }
            }
            Step::KeepRegister => {
                let fails = random.permille(pace.failing).then(|| random.percent(50));
                process.acceptor.keep(&process.store, &mut self.archive, fails);
                self.planned.push((random.spread(20, MILLISECOND), Step::RegisterKept));
            }
            Step::RegisterKept => {
                if let Some(ring) = process.acceptor.kept(&mut self.decided) {
                    process.replica.set_membership(membership(&ring, &self.voter));
                }
            }
            Step::NoticeLoss => {
                if process.store.lost().now_or_never().is_some() {
                    process.replica.lose();
                }
            }
            Step::Reopen => {
                if now < self.database_down_until {
                    self.planned.push((self.database_down_until - now, Step::Reopen));
                    return;
                }
                // As no two starts are at one time, data that was set back comes to no generation that there was.
                self.disk.skip_generations(now);
                if let Some(Ok(loaded)) = process.store.open().now_or_never() {
                    process.reopening = false;
                    self.generation = loaded.identity.boot_generation;
                    self.opened_seq = loaded.identity.journal_seq;
                    if let Some(ring) = process.acceptor.load(&self.archive, &loaded.identity.register) {
                        process.replica.set_membership(membership(&ring, &self.voter));
                    }
                    process.replica.open(loaded.partitions);
                } else {
                    self.planned.push((5 * MILLISECOND, Step::Reopen));
                }
            }
            Step::Probe => {
                process.probing = false;
                let outcome = process.store.prove_commit().now_or_never().unwrap_or(Ok(()));
                process.replica.on_probe(outcome.is_ok());
                if let Err(StoreError::Unreachable(_) | StoreError::Refused(_)) = outcome {
                    process.replica.lose();
                }
            }
        }
    }

    /// Starts what can be started, and takes the answers out.
    pub(crate) fn pump(&mut self, pace: Pace, random: &mut Random) -> Vec<Answer> {
        let Some(process) = &mut self.process else { return Vec::new() };
        let changes = |process: &Process| {
            process.commits.values().filter(|(ending, _)| matches!(ending, Ending::Change(_))).count()
        };
        while process.commits.len() - changes(process) < pace.writers {
            let Some((id, batch)) = process.replica.next_commit() else { break };
            let store = process.store.clone();
            let mut commit: BoxFuture<'static, CommitOutcome> =
                Box::pin(async move { store.commit(batch).await });
            match (&mut commit).now_or_never() {
                Some(outcome) => process.replica.on_commit(id, outcome),
                None => {
                    let seq = self.disk.held().last().copied().unwrap_or_default();
                    process.commits.insert(seq, (Ending::Commit(id), commit));
                    let time = random.spread(100, pace.commit_time);
                    self.planned.push((time, Step::CommitEnds(seq)));
                }
            }
        }
        while let Some((id, change)) = process.replica.next_change() {
            let store = process.store.clone();
            let mut work: BoxFuture<'static, CommitOutcome> =
                Box::pin(async move { store.change(change).await });
            match (&mut work).now_or_never() {
                Some(outcome) => process.replica.on_change(id, outcome),
                None => {
                    let seq = self.disk.held().last().copied().unwrap_or_default();
                    process.commits.insert(seq, (Ending::Change(id), work));
                    let time = random.spread(100, pace.commit_time);
                    self.planned.push((time, Step::CommitEnds(seq)));
                }
            }
        }
        while process.scans.len() < READERS {
            let Some((id, job)) = process.replica.next_scan() else { break };
            process.last_read += 1;
            process.scans.insert(process.last_read, Scanning { id, job: Some(job), outcome: None });
            self.planned.push((random.spread(50, 4 * MILLISECOND), Step::Scan(process.last_read)));
        }
        while process.reads.len() < READERS {
            let Some((id, keys)) = process.replica.next_read() else { break };
            process.last_read += 1;
            process.reads.insert(process.last_read, Reading { id, keys, rows: None });
            self.planned.push((random.spread(50, 4 * MILLISECOND), Step::Look(process.last_read)));
        }
        if process.keeping.is_none()
            && let Some(promises) = process.replica.next_promises()
        {
            process.keeping = Some(Keeping { promises, outcome: None });
            self.planned.push((random.spread(100, pace.commit_time), Step::Keep));
        }
        if !process.replica.is_open() {
            process.acceptor.refuse();
        } else if !process.acceptor.is_keeping() {
            process.acceptor.go_on(&self.voter.uuid, &mut self.decided);
            if process.acceptor.is_keeping() {
                self.planned.push((random.spread(100, pace.commit_time), Step::KeepRegister));
            }
        }
        if process.replica.work().reopen && !process.reopening && !process.has_calls() {
            process.reopening = true;
            self.planned.push((random.spread(MILLISECOND, 100 * MILLISECOND), Step::Reopen));
        }
        if !process.probing && process.replica.stats().read_only {
            process.probing = true;
            self.planned.push((random.spread(5 * MILLISECOND, 100 * MILLISECOND), Step::Probe));
        }
        process.replica.take_answers()
    }
}

fn new_disk(name: &str, partitions: usize) -> MemoryDisk {
    let disk = MemoryDisk::with_partitions(name, partitions);
    disk.hold_commits(true);
    disk
}

/// What a configuration makes of a worker.
fn membership(ring: &RingConfig, voter: &Voter) -> Membership {
    Membership::from_config(ring, &voter.id, &voter.uuid)
}

impl Process {
    fn ended(&mut self, ending: Ending, outcome: CommitOutcome) {
        match ending {
            Ending::Commit(id) => self.replica.on_commit(id, outcome),
            Ending::Change(id) => self.replica.on_change(id, outcome),
        }
    }

    /// Some call to the store has not ended.
    fn has_calls(&self) -> bool {
        let kept = self.keeping.is_some() || self.acceptor.is_keeping();
        kept || !self.commits.is_empty() || !self.reads.is_empty() || !self.scans.is_empty()
    }
}
