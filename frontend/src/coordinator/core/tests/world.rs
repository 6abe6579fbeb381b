//! Frontends (real cores), replicas (the rules of design 4, modelled), and a network between them that the test holds
//! in its hand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tercet_common::{
    Content, Epoch, Incarnation, Key, PartitionId, ReplicaReply, ReplicaRequest, Row, UnixMillis, WorkerId,
};

use super::super::super::api::{
    Change, Found, Op, OpError, ReadLevel, ReadOp, Update, WriteLevel, WriteOp, Written,
};
use super::super::{CallId, Core, Group, Tuning, WorkerIx};
use super::replica::Replica;

pub(super) const TUNING: Tuning = Tuning {
    hedge_after: Duration::from_millis(50),
    replica_timeout: Duration::from_millis(500),
    request_timeout: Duration::from_secs(5),
    quorum_grace: Duration::from_millis(500),
    value_bytes_max: 1024,
    memory_bytes: 0,
};

/// A request or reply on its way.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    Request { frontend: usize, worker: WorkerIx, call: CallId, request: ReplicaRequest },
    Reply { frontend: usize, call: CallId, reply: ReplicaReply },
}

pub(super) struct World {
    pub(super) cores: Vec<Core>,
    pub(super) replicas: Vec<Replica>,
    pub(super) wire: Vec<Packet>,
    pub(super) now: Duration,
    pub(super) wall: UnixMillis,
}

impl World {
    /// Replicas 0, 1, 2 hold every partition. Nobody remembers anything, so that the replicas are asked.
    pub(super) fn new(frontends: usize) -> Self {
        Self::with_workers(frontends, 3, 0)
    }

    /// The same with memory.
    pub(super) fn remembering(frontends: usize) -> Self {
        Self::with_workers(frontends, 3, 1024 * 1024)
    }

    /// The same; workers beyond those three hold nothing yet.
    pub(super) fn with_workers(frontends: usize, workers: WorkerIx, memory_bytes: usize) -> Self {
        Self::tuned(frontends, workers, &Tuning { memory_bytes, ..TUNING })
    }

    pub(super) fn tuned(frontends: usize, workers: WorkerIx, tuning: &Tuning) -> Self {
        let names: Vec<WorkerId> = (1..=workers).map(|n| WorkerId::new(&format!("w{n}")).unwrap()).collect();
        let core = |n: usize| {
            let partitions = PartitionId::all().map(|id| (id, Group::stable(Epoch(1), 0..3)));
            let mut core = Core::new(Incarnation(100 + n as u64), tuning.clone(), names.clone(), partitions);
            (0..workers).for_each(|worker| core.peer(worker, true));
            core
        };
        Self {
            cores: (0..frontends).map(core).collect(),
            replicas: (0..workers).map(Replica::new).collect(),
            wire: Vec::new(),
            now: Duration::ZERO,
            wall: UnixMillis(1_000_000),
        }
    }

    /// Feeds one core, and puts what it sends on the wire.
    pub(super) fn with(&mut self, frontend: usize, event: impl FnOnce(&mut Core)) {
        let core = &mut self.cores[frontend];
        core.at(self.now, self.wall);
        event(core);
        if std::mem::take(&mut core.out.proof_due) {
            core.prove();
        }
        for (worker, call, request) in core.out.sends.drain(..) {
            self.wire.push(Packet::Request { frontend, worker, call, request });
        }
        let completions = std::mem::take(&mut core.out.completions);
        completions.into_iter().for_each(|completion| completion.deliver());
    }

    pub(super) fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Request { frontend, worker, call, request } => {
                let reply = self.replicas[usize::from(worker)].handle(request);
                self.wire.push(Packet::Reply { frontend, call, reply });
            }
            Packet::Reply { frontend, call, reply } => self.with(frontend, |core| core.reply(call, reply)),
        }
    }

    /// Delivers everything, in order, except what `lost` says is lost.
    pub(super) fn run(&mut self, mut lost: impl FnMut(&Packet) -> bool) {
        while !self.wire.is_empty() {
            let packet = self.wire.remove(0);
            if !lost(&packet) {
                self.deliver(packet);
            }
        }
    }

    /// Delivers everything, in order, until such a packet comes; that one stays on the wire.
    pub(super) fn run_until(&mut self, mut stop: impl FnMut(&Packet) -> bool) {
        while self.wire.first().is_some_and(|packet| !stop(packet)) {
            let packet = self.wire.remove(0);
            self.deliver(packet);
        }
    }

    pub(super) fn run_all(&mut self) {
        self.run(|_| false);
    }

    /// Lets time pass, firing timers on the way and delivering what they send.
    pub(super) fn pass(&mut self, time: Duration, mut lost: impl FnMut(&Packet) -> bool) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + Duration::from_millis(10)).min(end);
            for frontend in 0..self.cores.len() {
                self.with(frontend, Core::tick);
            }
            self.run(&mut lost);
        }
    }

    pub(super) fn set(&mut self, frontend: usize, key: &str, value: &str) -> Answer<Written> {
        let content = Content::string(value.to_owned(), None);
        self.write(frontend, key, true, move |_, _| Change::Write(content.clone()))
    }

    pub(super) fn write(
        &mut self,
        frontend: usize,
        key: &str,
        blind: bool,
        f: impl FnMut(Option<&Row>, UnixMillis) -> Change + Send + 'static,
    ) -> Answer<Written> {
        let answer = Answer::default();
        let update = Box::new(Recorded { f, answer: answer.clone() });
        let op = WriteOp { key: self::key(key), level: WriteLevel::Quorum, blind, update };
        self.with(frontend, |core| core.submit(Op::Write(op)));
        answer
    }

    /// An increment; its answer is the number that it made.
    pub(super) fn incr(&mut self, frontend: usize, key: &str) -> (Answer<Written>, Arc<Mutex<i64>>) {
        let made = Arc::new(Mutex::new(0));
        let result = made.clone();
        let answer = self.write(frontend, key, false, move |current, _| {
            let next = current.map_or(0, number) + 1;
            *result.lock().unwrap() = next;
            Change::Write(Content::string(next.to_string(), None))
        });
        (answer, made)
    }

    pub(super) fn get(&mut self, frontend: usize, key: &str) -> Answer<Option<Found>> {
        self.read(frontend, key, ReadLevel::Quorum)
    }

    pub(super) fn read(&mut self, frontend: usize, key: &str, level: ReadLevel) -> Answer<Option<Found>> {
        let answer = Answer::default();
        let given = answer.clone();
        let done = Box::new(move |result| given.give(result));
        let op = ReadOp { key: self::key(key), level, done };
        self.with(frontend, |core| core.submit(Op::Read(op)));
        answer
    }
}

pub(super) fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

pub(super) fn text(row: &Row) -> String {
    match &row.content {
        Content::Tombstone => "(deleted)".to_owned(),
        Content::Value { data, .. } => String::from_utf8(data.to_vec()).unwrap(),
    }
}

pub(super) fn number(row: &Row) -> i64 {
    text(row).parse().unwrap()
}

/// What an operation came to; empty while it is under way. Giving it twice is a failure of the core.
pub(super) struct Answer<T>(Arc<Mutex<Option<Result<T, OpError>>>>);

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Answer<T> {
    fn give(&self, result: Result<T, OpError>) {
        let before = self.0.lock().unwrap().replace(result);
        assert!(before.is_none(), "an operation was answered twice");
    }

    pub(super) fn take(&self) -> Option<Result<T, OpError>> {
        self.0.lock().unwrap().take()
    }

    pub(super) fn is_given(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }
}

struct Recorded<F> {
    f: F,
    answer: Answer<Written>,
}

impl<F: FnMut(Option<&Row>, UnixMillis) -> Change + Send> Update for Recorded<F> {
    fn apply(&mut self, current: Option<&Row>, now: UnixMillis) -> Change {
        (self.f)(current, now)
    }

    fn finish(self: Box<Self>, outcome: Result<Written, OpError>) {
        self.answer.give(outcome);
    }
}
