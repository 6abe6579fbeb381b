//! Domain → wire → bytes → wire → domain is the identity, and what is malformed is an error, never a panic.

// Helpers of tests are no tests to clippy, and a test may unwrap.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use tercet_common::clock::{CLOCK_ENTRIES_MAX, ClockError};
use tercet_common::key::KEY_BYTES_MAX;
use tercet_common::message::{Held, Promises};
use tercet_common::ring::{MEMBERS_MAX, REPLICAS_MAX, VIRTUAL_NODES_MAX};
use tercet_common::{
    Ballot, Content, DataType, Epoch, Incarnation, Key, Member, PARTITIONS, PartitionId, Promise, Refusal,
    ReplicaReply, ReplicaRequest, RingConfig, RingError, Row, Term, UnixMillis, VectorClock, WorkerId,
};
use tercet_proto::convert::{
    WireError, partition_from_wire, reply_from_wire, reply_to_wire, request_from_wire, request_to_wire,
};
use tercet_proto::v1;

const NUMBER_MAX: u64 = i64::MAX as u64;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..4, 0..=NUMBER_MAX]
}

fn promise() -> impl Strategy<Value = Promise> {
    (number(), number(), number()).prop_map(|(epoch, n, incarnation)| Promise {
        epoch: Epoch(epoch),
        term: Term { n, incarnation: Incarnation(incarnation) },
    })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (promise(), number()).prop_map(|(promise, seq)| promise.ballot(seq))
}

fn clock() -> impl Strategy<Value = VectorClock> {
    prop::collection::btree_map(number(), 1..=NUMBER_MAX, 0..5).prop_map(|entries| {
        VectorClock::from_entries(entries.into_iter().map(|(i, c)| (Incarnation(i), c))).unwrap()
    })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Key> {
    bytes().prop_map(|bytes| Key::new(bytes).unwrap())
}

fn partition() -> impl Strategy<Value = PartitionId> {
    (0..PARTITIONS).prop_map(|id| PartitionId::new(id).unwrap())
}

fn content() -> impl Strategy<Value = Content> {
    let value = (bytes(), any::<Option<i64>>()).prop_map(|(data, expires_at)| Content::Value {
        data_type: DataType::String,
        data,
        expires_at: expires_at.map(UnixMillis),
    });
    prop_oneof![Just(Content::Tombstone), value]
}

fn row() -> impl Strategy<Value = Row> {
    (key(), ballot(), clock(), content()).prop_map(|(key, ballot, clock, content)| Row {
        key,
        ballot,
        clock,
        content,
    })
}

fn request() -> impl Strategy<Value = ReplicaRequest> {
    let epoch = || number().prop_map(Epoch);
    prop_oneof![
        (partition(), promise())
            .prop_map(|(partition, promise)| ReplicaRequest::Prepare { partition, promise }),
        row().prop_map(|row| ReplicaRequest::Put { row }),
        (epoch(), key(), any::<bool>()).prop_map(|(epoch, key, digest)| ReplicaRequest::Get {
            epoch,
            key,
            digest
        }),
        (promise(), key()).prop_map(|(promise, key)| ReplicaRequest::GetForWrite { promise, key }),
        number().prop_map(|since| ReplicaRequest::Promises { since }),
        (row(), any::<bool>(), epoch()).prop_map(|(row, chosen, epoch)| ReplicaRequest::Replicate {
            row,
            chosen,
            epoch
        }),
        (partition(), ballot(), clock(), prop::option::of((1..=NUMBER_MAX).prop_map(Epoch))).prop_map(
            |(partition, ballot, clock, chosen)| ReplicaRequest::Flush { partition, ballot, clock, chosen }
        ),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        promise().prop_map(|promised| Refusal::Promise { promised }),
        ballot().prop_map(|floor| Refusal::Floor { floor }),
        ballot().prop_map(|ballot| Refusal::Superseded { ballot }),
        number().prop_map(|current| Refusal::Epoch { current: Epoch(current) }),
        Just(Refusal::NotMember),
        Just(Refusal::KeyCollision),
        Just(Refusal::Busy),
        Just(Refusal::Unavailable),
        Just(Refusal::Invalid),
    ]
}

fn reply() -> impl Strategy<Value = ReplicaReply> {
    let held = (ballot(), prop::option::of(row()), ballot())
        .prop_map(|(ballot, row, floor)| ReplicaReply::Version(Held { ballot, row, floor }));
    prop_oneof![
        (clock(), ballot()).prop_map(|(vector, highest)| ReplicaReply::Prepared { vector, highest }),
        Just(ReplicaReply::Stored),
        (number(), number(), prop::collection::vec((partition(), promise()), 0..5))
            .prop_map(|(since, upto, raised)| ReplicaReply::Promises(Promises { since, upto, raised })),
        held,
        refusal().prop_map(ReplicaReply::Refused),
        Just(ReplicaReply::Unknown),
    ]
}

fn ring_config() -> impl Strategy<Value = RingConfig> {
    let members = prop::collection::btree_map(
        "[a-z0-9][a-zA-Z0-9._-]{0,9}",
        (1..=VIRTUAL_NODES_MAX, "[a-z0-9-]{0,5}"),
        1..9,
    );
    ("[!-~]{1,64}", number(), 1..=REPLICAS_MAX, members).prop_map(|(cluster, epoch, replicas, members)| {
        let member = |(id, (virtual_nodes, zone)): (String, (u32, String))| {
            Member::named(WorkerId::new(&id).unwrap(), virtual_nodes, zone)
        };
        RingConfig::new(cluster, Epoch(epoch), replicas, members.into_iter().map(member).collect()).unwrap()
    })
}

/// Through the bytes too, so that a field the generated code would lose is noticed.
fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn requests(id: u64, request in request()) {
        let wire = request_to_wire(id, request.clone());
        prop_assert_eq!(request_from_wire(sent(&wire)), (id, Ok(request)));
    }

    #[test]
    fn replies(id: u64, reply in reply()) {
        let wire = reply_to_wire(id, reply.clone());
        prop_assert_eq!(reply_from_wire(sent(&wire)), (id, Ok(reply)));
    }

    #[test]
    fn ring_configurations(config in ring_config()) {
        let wire = v1::RingConfiguration::from(&config);
        prop_assert_eq!(RingConfig::try_from(sent(&wire)), Ok(config));
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = v1::Request::decode(bytes.as_slice()) {
            let _ = request_from_wire(wire);
        }
        if let Ok(wire) = v1::Reply::decode(bytes.as_slice()) {
            let _ = reply_from_wire(wire);
        }
        if let Ok(wire) = v1::RingConfiguration::decode(bytes.as_slice()) {
            let _ = RingConfig::try_from(wire);
        }
    }

    /// Valid messages with some bytes changed reach much deeper than random bytes do. What is still understood must
    /// say the same when it is sent on.
    #[test]
    fn damaged_messages_are_an_answer_or_an_error(
        request in request(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = request_to_wire(1, request).encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(wire) = v1::Request::decode(bytes.as_slice())
            && let (id, Ok(request)) = request_from_wire(wire)
        {
            prop_assert_eq!(request_from_wire(request_to_wire(id, request.clone())), (id, Ok(request)));
        }
    }
}

fn some_row() -> v1::Row {
    v1::Row { key: Bytes::from_static(b"k"), ballot: Some(v1::Ballot::default()), ..Default::default() }
}

fn request_error(op: v1::request::Op) -> WireError {
    request_from_wire(v1::Request { id: 1, op: Some(op) }).1.unwrap_err()
}

#[test]
fn malformed_requests_are_refused_and_keep_their_id() {
    use v1::request::Op;
    assert_eq!(request_from_wire(v1::Request { id: 9, op: None }), (9, Err(WireError::Missing("op"))));

    let prepare = v1::Prepare { partition: 1_024, promise: Some(v1::Promise::default()) };
    assert_eq!(request_error(Op::Prepare(prepare)), WireError::Partition(1_024));
    assert_eq!(request_error(Op::Prepare(v1::Prepare::default())), WireError::Missing("promise"));
    assert_eq!(request_error(Op::Replicate(v1::Replicate::default())), WireError::Missing("row"));
    assert_eq!(request_error(Op::GetForWrite(v1::GetForWrite::default())), WireError::Missing("promise"));
    let epoch = v1::Get { epoch: NUMBER_MAX + 1, ..Default::default() };
    assert_eq!(request_error(Op::Get(epoch)), WireError::TooLarge);

    let put = |change: fn(&mut v1::Row)| {
        let mut row = some_row();
        change(&mut row);
        request_error(Op::Put(row))
    };
    assert_eq!(put(|row| row.ballot = None), WireError::Missing("ballot"));
    assert_eq!(put(|row| row.data_type = 2), WireError::DataType(2));
    assert_eq!(put(|row| row.data_type = 257), WireError::DataType(257), "not cut to one byte");
    assert!(matches!(put(|row| row.key = vec![0; KEY_BYTES_MAX + 1].into()), WireError::Key(_)));
    assert_eq!(
        put(|row| row.ballot = Some(v1::Ballot { seq: u64::MAX, ..Default::default() })),
        WireError::TooLarge
    );
}

#[test]
fn malformed_clocks_are_refused() {
    let clock = |incarnations: Vec<u64>, counters: Vec<u64>| {
        VectorClock::try_from(v1::VectorClock { incarnations, counters }).unwrap_err()
    };
    assert_eq!(clock(vec![1], vec![]), ClockError::Malformed.into(), "arrays of different length");
    assert_eq!(clock(vec![2, 1], vec![1, 1]), ClockError::Malformed.into());
    assert_eq!(clock(vec![1], vec![0]), ClockError::Malformed.into());
    assert_eq!(clock(vec![u64::MAX], vec![1]), WireError::TooLarge);
    let many = CLOCK_ENTRIES_MAX + 1;
    let error = clock((0..many as u64).collect(), vec![1; many]);
    assert_eq!(error, ClockError::TooLarge { len: many }.into());
}

#[test]
fn malformed_replies_are_refused() {
    let error = |result| reply_from_wire(v1::Reply { id: 1, result }).1.unwrap_err();
    assert_eq!(error(None), WireError::Missing("result"));
    let refused = v1::reply::Result::Refused(v1::Refused { reason: None });
    assert_eq!(error(Some(refused)), WireError::Missing("reason"));
    let row = v1::Row { ballot: None, ..some_row() };
    let version = v1::Version { ballot: None, row: Some(row), floor: None };
    assert_eq!(error(Some(v1::reply::Result::Version(version))), WireError::Missing("ballot"));
}

#[test]
fn malformed_ring_configurations_are_refused() {
    let member = |id: &str| v1::RingMember { id: id.to_owned(), virtual_nodes: 128, ..Default::default() };
    let error = |members: Vec<v1::RingMember>| {
        let config = v1::RingConfiguration {
            cluster_id: "c".to_owned(),
            epoch: 1,
            replicas: 3,
            members,
            ..Default::default()
        };
        RingConfig::try_from(config).unwrap_err()
    };
    assert!(matches!(error(vec![member("no spaces")]), WireError::WorkerId(_)));
    assert!(matches!(error(vec![member("w1"), member("w1")]), WireError::Ring(RingError::Duplicate(_))));
    assert_eq!(error(vec![]), RingError::Members(0).into());
    assert_eq!(error(vec![member("w"); MEMBERS_MAX + 1]), RingError::Members(MEMBERS_MAX + 1).into());
}

#[test]
fn partitions_end_at_1024() {
    assert!(partition_from_wire(1_023).is_ok());
    assert_eq!(partition_from_wire(65_536), Err(WireError::Partition(65_536)), "not cut to 16 bits");
}
