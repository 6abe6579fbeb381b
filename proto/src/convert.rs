//! Wire ⇄ domain. Everything that arrives is checked here, once.

use std::sync::Arc;

use bytes::Bytes;
use tercet_common::clock::ClockError;
use tercet_common::key::KeyTooLong;
use tercet_common::message::{Held, Promises};
use tercet_common::ring::{MEMBERS_MAX, REPLICAS_MAX};
use tercet_common::ring_config::Replicas;
use tercet_common::ring_register::{Ask, RegisterState, Vote};
use tercet_common::worker_id::InvalidWorkerId;
use tercet_common::{
    Assignment, Ballot, Content, DataType, Epoch, Incarnation, Key, Member, PARTITIONS, PartitionId, Promise,
    Refusal, ReplicaReply, ReplicaRequest, RingConfig, RingError, Row, Term, UnixMillis, VectorClock,
    WorkerId,
};

use crate::v1;

/// The longest uuid on the wire, in bytes; a real one has 36.
pub(crate) const UUID_BYTES_MAX: usize = 64;

/// Why a message could not be understood. Answered as INVALID_ARGUMENT or [`Refusal::Invalid`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("field {0} is missing")]
    Missing(&'static str),
    #[error("there is no partition {0}")]
    Partition(u32),
    #[error("there is no data type {0}")]
    DataType(u32),
    #[error("a number is larger than 63 bits")]
    TooLarge,
    #[error("{0} are malformed or too many")]
    Malformed(&'static str),
    #[error(transparent)]
    Key(#[from] KeyTooLong),
    #[error(transparent)]
    Clock(#[from] ClockError),
    #[error(transparent)]
    WorkerId(#[from] InvalidWorkerId),
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// PostgreSQL's `bigint` is signed, so every counter on the wire fits 63 bits.
pub(crate) fn bounded(value: u64) -> Result<u64, WireError> {
    if value > i64::MAX as u64 { Err(WireError::TooLarge) } else { Ok(value) }
}

pub fn partition_from_wire(id: u32) -> Result<PartitionId, WireError> {
    u16::try_from(id).ok().and_then(PartitionId::new).ok_or(WireError::Partition(id))
}

impl From<Promise> for v1::Promise {
    fn from(p: Promise) -> Self {
        Self { epoch: p.epoch.0, n: p.term.n, incarnation: p.term.incarnation.0 }
    }
}

impl TryFrom<v1::Promise> for Promise {
    type Error = WireError;
    fn try_from(p: v1::Promise) -> Result<Self, WireError> {
        let term = Term { n: bounded(p.n)?, incarnation: Incarnation(bounded(p.incarnation)?) };
        Ok(Self { epoch: Epoch(bounded(p.epoch)?), term })
    }
}

impl From<Ballot> for v1::Ballot {
    fn from(b: Ballot) -> Self {
        Self { epoch: b.epoch.0, n: b.term.n, incarnation: b.term.incarnation.0, seq: b.seq }
    }
}

impl TryFrom<v1::Ballot> for Ballot {
    type Error = WireError;
    fn try_from(b: v1::Ballot) -> Result<Self, WireError> {
        let promise = Promise::try_from(v1::Promise { epoch: b.epoch, n: b.n, incarnation: b.incarnation })?;
        Ok(promise.ballot(bounded(b.seq)?))
    }
}

impl From<&VectorClock> for v1::VectorClock {
    fn from(clock: &VectorClock) -> Self {
        let (incarnations, counters) = clock.entries().iter().map(|(i, c)| (i.0, *c)).unzip();
        Self { incarnations, counters }
    }
}

impl TryFrom<v1::VectorClock> for VectorClock {
    type Error = WireError;
    fn try_from(clock: v1::VectorClock) -> Result<Self, WireError> {
        if clock.incarnations.len() != clock.counters.len() {
            return Err(ClockError::Malformed.into());
        }
        for n in clock.incarnations.iter().chain(&clock.counters) {
            bounded(*n)?;
        }
        let entries = clock.incarnations.into_iter().map(Incarnation).zip(clock.counters);
        Ok(Self::from_entries(entries)?)
    }
}

impl From<Promises> for v1::Promises {
    fn from(Promises { since, upto, raised }: Promises) -> Self {
        let (partitions, promises) =
            raised.into_iter().map(|(id, promise)| (u32::from(id.get()), v1::Promise::from(promise))).unzip();
        Self { since, upto, partitions, promises }
    }
}

impl TryFrom<v1::Promises> for Promises {
    type Error = WireError;
    fn try_from(wire: v1::Promises) -> Result<Self, WireError> {
        if wire.partitions.len() != wire.promises.len() || wire.partitions.len() > usize::from(PARTITIONS) {
            return Err(WireError::Malformed("promises"));
        }
        let raised = wire.partitions.into_iter().zip(wire.promises);
        let raised = raised.map(|(id, promise)| Ok((partition_from_wire(id)?, promise.try_into()?)));
        let raised = raised.collect::<Result<_, WireError>>()?;
        Ok(Self { since: bounded(wire.since)?, upto: bounded(wire.upto)?, raised })
    }
}

const TOMBSTONE: u32 = 0;

impl From<Row> for v1::Row {
    fn from(row: Row) -> Self {
        let (data_type, data, expires_at) = match row.content {
            Content::Tombstone => (TOMBSTONE, Bytes::new(), None),
            Content::Value { data_type, data, expires_at } => (u32::from(data_type.code()), data, expires_at),
        };
        Self {
            key: row.key.bytes(),
            ballot: Some(row.ballot.into()),
            clock: Some((&row.clock).into()),
            data_type,
            data,
            expires_at_ms: expires_at.map(|at| at.0),
        }
    }
}

impl TryFrom<v1::Row> for Row {
    type Error = WireError;
    fn try_from(row: v1::Row) -> Result<Self, WireError> {
        let content = if row.data_type == TOMBSTONE {
            Content::Tombstone
        } else {
            let data_type = u8::try_from(row.data_type).ok().and_then(DataType::from_code);
            let data_type = data_type.ok_or(WireError::DataType(row.data_type))?;
            Content::Value { data_type, data: row.data, expires_at: row.expires_at_ms.map(UnixMillis) }
        };
        Ok(Self {
            key: Key::new(row.key)?,
            ballot: row.ballot.ok_or(WireError::Missing("ballot"))?.try_into()?,
            clock: row.clock.unwrap_or_default().try_into()?,
            content,
        })
    }
}

/// Puts an id on a request.
pub fn request_to_wire(id: u64, request: ReplicaRequest) -> v1::Request {
    use v1::request::Op;
    let op = match request {
        ReplicaRequest::Prepare { partition, promise } => {
            Op::Prepare(v1::Prepare { partition: partition.get().into(), promise: Some(promise.into()) })
        }
        ReplicaRequest::Put { row } => Op::Put(row.into()),
        ReplicaRequest::Get { epoch, key, digest } => {
            Op::Get(v1::Get { epoch: epoch.0, key: key.bytes(), digest })
        }
        ReplicaRequest::GetForWrite { promise, key } => {
            Op::GetForWrite(v1::GetForWrite { promise: Some(promise.into()), key: key.bytes() })
        }
        ReplicaRequest::Replicate { row, chosen, epoch } => {
            Op::Replicate(v1::Replicate { row: Some(row.into()), chosen, epoch: epoch.0 })
        }
        ReplicaRequest::Flush { partition, ballot, clock, chosen } => Op::Flush(v1::Flush {
            partition: partition.get().into(),
            ballot: Some(ballot.into()),
            clock: Some((&clock).into()),
            chosen: chosen.is_some(),
            epoch: chosen.unwrap_or_default().0,
        }),
        ReplicaRequest::Promises { since } => Op::Promises(v1::PromisesRequest { since }),
        ReplicaRequest::Sync(request) => Op::Sync(Box::new((*request).into())),
    };
    v1::Request { id, op: Some(op) }
}

/// The id is usable even where the request is not, so that it can be refused.
pub fn request_from_wire(request: v1::Request) -> (u64, Result<ReplicaRequest, WireError>) {
    (request.id, request.op.ok_or(WireError::Missing("op")).and_then(op_from_wire))
}

fn op_from_wire(op: v1::request::Op) -> Result<ReplicaRequest, WireError> {
    use v1::request::Op;
    Ok(match op {
        Op::Prepare(p) => ReplicaRequest::Prepare {
            partition: partition_from_wire(p.partition)?,
            promise: p.promise.ok_or(WireError::Missing("promise"))?.try_into()?,
        },
        Op::Put(row) => ReplicaRequest::Put { row: row.try_into()? },
        Op::Get(g) => {
            ReplicaRequest::Get { epoch: Epoch(bounded(g.epoch)?), key: Key::new(g.key)?, digest: g.digest }
        }
        Op::GetForWrite(g) => ReplicaRequest::GetForWrite {
            promise: g.promise.ok_or(WireError::Missing("promise"))?.try_into()?,
            key: Key::new(g.key)?,
        },
        Op::Replicate(r) => ReplicaRequest::Replicate {
            row: r.row.ok_or(WireError::Missing("row"))?.try_into()?,
            chosen: r.chosen,
            epoch: Epoch(bounded(r.epoch)?),
        },
        Op::Flush(f) => {
            let ballot: Ballot = f.ballot.ok_or(WireError::Missing("ballot"))?.try_into()?;
            let epoch = if f.epoch == 0 { ballot.epoch } else { Epoch(bounded(f.epoch)?) };
            ReplicaRequest::Flush {
                partition: partition_from_wire(f.partition)?,
                ballot,
                clock: f.clock.unwrap_or_default().try_into()?,
                chosen: f.chosen.then_some(epoch),
            }
        }
        Op::Promises(p) => ReplicaRequest::Promises { since: bounded(p.since)? },
        Op::Sync(sync) => ReplicaRequest::Sync(Box::new((*sync).try_into()?)),
    })
}

pub fn reply_to_wire(id: u64, reply: ReplicaReply) -> v1::Reply {
    use v1::refused::Reason;
    use v1::reply::Result as R;
    let nothing = v1::Nothing {};
    let result = match reply {
        ReplicaReply::Prepared { vector, highest } => {
            R::Prepared(v1::Prepared { vector: Some((&vector).into()), highest: Some(highest.into()) })
        }
        ReplicaReply::Stored => R::Stored(v1::Stored {}),
        ReplicaReply::Version(held) => R::Version(v1::Version {
            ballot: Some(held.ballot.into()),
            row: held.row.map(Into::into),
            floor: Some(held.floor.into()),
        }),
        ReplicaReply::Promises(promises) => R::Promises(promises.into()),
        ReplicaReply::Unknown => R::Unknown(v1::Unknown {}),
        ReplicaReply::Synced(reply) => R::Synced(Box::new((*reply).into())),
        ReplicaReply::Refused(refusal) => R::Refused(v1::Refused {
            reason: Some(match refusal {
                Refusal::Promise { promised } => Reason::Promised(promised.into()),
                Refusal::Floor { floor } => Reason::Floor(floor.into()),
                Refusal::Superseded { ballot } => Reason::Superseded(ballot.into()),
                Refusal::Epoch { current } => Reason::Epoch(v1::Epoch { value: current.0 }),
                Refusal::NotMember => Reason::NotMember(nothing),
                Refusal::KeyCollision => Reason::KeyCollision(nothing),
                Refusal::Busy => Reason::Busy(nothing),
                Refusal::Unavailable => Reason::Unavailable(nothing),
                Refusal::Invalid => Reason::Invalid(nothing),
            }),
        }),
    };
    v1::Reply { id, result: Some(result) }
}

pub fn reply_from_wire(reply: v1::Reply) -> (u64, Result<ReplicaReply, WireError>) {
    (reply.id, reply.result.ok_or(WireError::Missing("result")).and_then(result_from_wire))
}

fn result_from_wire(result: v1::reply::Result) -> Result<ReplicaReply, WireError> {
    use v1::refused::Reason;
    use v1::reply::Result as R;
    Ok(match result {
        R::Prepared(p) => ReplicaReply::Prepared {
            vector: p.vector.unwrap_or_default().try_into()?,
            highest: p.highest.unwrap_or_default().try_into()?,
        },
        R::Promises(promises) => ReplicaReply::Promises(promises.try_into()?),
        R::Stored(_) => ReplicaReply::Stored,
        R::Version(v) => ReplicaReply::Version(Held {
            ballot: v.ballot.unwrap_or_default().try_into()?,
            row: v.row.map(TryInto::try_into).transpose()?,
            floor: v.floor.unwrap_or_default().try_into()?,
        }),
        R::Unknown(_) => ReplicaReply::Unknown,
        R::Synced(reply) => ReplicaReply::Synced(Box::new((*reply).try_into()?)),
        R::Refused(refused) => {
            ReplicaReply::Refused(match refused.reason.ok_or(WireError::Missing("reason"))? {
                Reason::Promised(p) => Refusal::Promise { promised: p.try_into()? },
                Reason::Floor(b) => Refusal::Floor { floor: b.try_into()? },
                Reason::Superseded(b) => Refusal::Superseded { ballot: b.try_into()? },
                Reason::Epoch(e) => Refusal::Epoch { current: Epoch(bounded(e.value)?) },
                Reason::NotMember(_) => Refusal::NotMember,
                Reason::KeyCollision(_) => Refusal::KeyCollision,
                Reason::Busy(_) => Refusal::Busy,
                Reason::Unavailable(_) => Refusal::Unavailable,
                Reason::Invalid(_) => Refusal::Invalid,
            })
        }
    })
}

impl From<Term> for v1::Term {
    fn from(term: Term) -> Self {
        Self { n: term.n, incarnation: term.incarnation.0 }
    }
}

impl TryFrom<v1::Term> for Term {
    type Error = WireError;
    fn try_from(term: v1::Term) -> Result<Self, WireError> {
        Ok(Self { n: bounded(term.n)?, incarnation: Incarnation(bounded(term.incarnation)?) })
    }
}

impl From<&RingConfig> for v1::RingConfiguration {
    fn from(config: &RingConfig) -> Self {
        let member = |m: &Member| v1::RingMember {
            id: m.id.as_str().to_owned(),
            virtual_nodes: m.virtual_nodes,
            zone: m.zone.clone(),
            uuid: m.uuid.clone(),
            leaving: m.leaving,
        };
        let indexes = |set: &Replicas| set.iter().map(|m| u32::from(*m)).collect();
        let assignment = |a: &Assignment| v1::RingAssignment {
            epoch: a.epoch.0,
            replicas: indexes(&a.replicas),
            next: a.next.as_ref().map(indexes).unwrap_or_default(),
        };
        Self {
            cluster_id: config.cluster_id.clone(),
            epoch: config.epoch.0,
            replicas: u32::try_from(config.replicas).unwrap_or(u32::MAX),
            members: config.members.iter().map(member).collect(),
            partitions: config.partitions.iter().map(assignment).collect(),
        }
    }
}

impl TryFrom<v1::RingConfiguration> for RingConfig {
    type Error = WireError;
    fn try_from(config: v1::RingConfiguration) -> Result<Self, WireError> {
        if config.members.len() > MEMBERS_MAX {
            return Err(RingError::Members(config.members.len()).into());
        }
        let member = |m: v1::RingMember| {
            let (id, virtual_nodes, zone) = (WorkerId::new(&m.id)?, m.virtual_nodes, m.zone);
            if m.uuid.len() > UUID_BYTES_MAX {
                return Err(WireError::Malformed("uuids"));
            }
            Ok(Member { id, uuid: m.uuid, virtual_nodes, zone, leaving: m.leaving })
        };
        let members: Vec<_> = config.members.into_iter().map(member).collect::<Result<_, WireError>>()?;
        let replicas = usize::try_from(config.replicas).unwrap_or(usize::MAX);
        let epoch = Epoch(bounded(config.epoch)?);
        if config.partitions.is_empty() {
            return Ok(Self::new(config.cluster_id, epoch, replicas, members)?);
        }
        if config.partitions.len() != usize::from(PARTITIONS) {
            return Err(RingError::Partitions(config.partitions.len()).into());
        }
        let table = config.partitions.into_iter().map(assignment_from_wire).collect::<Result<_, _>>()?;
        Ok(Self::from_table(config.cluster_id, epoch, replicas, members, table)?)
    }
}

fn configuration_to_wire(config: Option<&Arc<RingConfig>>) -> Option<v1::RingConfiguration> {
    config.map(|config| config.as_ref().into())
}

fn configuration_from_wire(
    config: Option<v1::RingConfiguration>,
) -> Result<Option<Arc<RingConfig>>, WireError> {
    config.map(|config| Ok(Arc::new(config.try_into()?))).transpose()
}

/// Addresses a step of the register to a worker.
pub fn ask_to_wire(cluster_id: &str, worker_uuid: &str, ask: &Ask) -> v1::DecideRequest {
    v1::DecideRequest {
        cluster_id: cluster_id.to_owned(),
        worker_uuid: worker_uuid.to_owned(),
        term: Some(ask.term.into()),
        accept: configuration_to_wire(ask.accept.as_ref()),
        known: configuration_to_wire(ask.known.as_ref()),
    }
}

impl TryFrom<v1::DecideRequest> for Ask {
    type Error = WireError;
    fn try_from(request: v1::DecideRequest) -> Result<Self, WireError> {
        Ok(Self {
            term: request.term.unwrap_or_default().try_into()?,
            known: configuration_from_wire(request.known)?,
            accept: configuration_from_wire(request.accept)?,
        })
    }
}

fn vote_from_wire(
    term: Option<v1::Term>,
    config: Option<v1::RingConfiguration>,
) -> Result<Option<Vote>, WireError> {
    let term = term.unwrap_or_default().try_into()?;
    Ok(configuration_from_wire(config)?.map(|config| Vote { term, config }))
}

impl From<&RegisterState> for v1::DecideReply {
    fn from(state: &RegisterState) -> Self {
        let v1::RegisterRecord { voted, vote, decided } = state.into();
        Self { promised: Some(state.promised.into()), voted, vote, decided }
    }
}

impl TryFrom<v1::DecideReply> for RegisterState {
    type Error = WireError;
    fn try_from(reply: v1::DecideReply) -> Result<Self, WireError> {
        Ok(Self {
            promised: reply.promised.unwrap_or_default().try_into()?,
            decided: configuration_from_wire(reply.decided)?,
            vote: vote_from_wire(reply.voted, reply.vote)?,
        })
    }
}

impl From<&RegisterState> for v1::RegisterRecord {
    fn from(state: &RegisterState) -> Self {
        Self {
            voted: state.vote.as_ref().map(|vote| vote.term.into()),
            vote: configuration_to_wire(state.vote.as_ref().map(|vote| &vote.config)),
            decided: configuration_to_wire(state.decided.as_ref()),
        }
    }
}

/// What a worker kept, with its promise.
pub fn register_from_record(promised: Term, record: v1::RegisterRecord) -> Result<RegisterState, WireError> {
    let v1::RegisterRecord { voted, vote, decided } = record;
    let vote = vote_from_wire(voted, vote)?;
    Ok(RegisterState { promised, decided: configuration_from_wire(decided)?, vote })
}

fn assignment_from_wire(row: v1::RingAssignment) -> Result<Assignment, WireError> {
    let set = |indexes: Vec<u32>| {
        let malformed = || WireError::Malformed("replicas");
        if indexes.len() > REPLICAS_MAX {
            return Err(malformed());
        }
        indexes
            .into_iter()
            .map(|ix| u16::try_from(ix).map_err(|_| malformed()))
            .collect::<Result<Replicas, _>>()
    };
    let next = if row.next.is_empty() { None } else { Some(set(row.next)?) };
    Ok(Assignment { epoch: Epoch(bounded(row.epoch)?), replicas: set(row.replicas)?, next })
}
