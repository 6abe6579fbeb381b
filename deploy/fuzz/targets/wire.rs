//! Messages between frontend and workers: any bytes → protobuf → domain, no panic; and what is valid survives
//! domain → protobuf → bytes → protobuf → domain unchanged.
//!
//! Input: one byte that picks the message, then its bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tercet_common::{Ballot, Promise, RingConfig, Row, VectorClock};
use tercet_proto::convert::{
    partition_from_wire, reply_from_wire, reply_to_wire, request_from_wire, request_to_wire,
};
use tercet_proto::v1;

fuzz_target!(|input: &[u8]| {
    let [kind, bytes @ ..] = input else { return };
    match kind % 7 {
        0 => request(bytes),
        1 => reply(bytes),
        2 => value::<v1::Row, Row>(bytes, |row| row.clone().into()),
        3 => value::<v1::RingConfiguration, RingConfig>(bytes, |config| config.into()),
        4 => value::<v1::VectorClock, VectorClock>(bytes, |clock| clock.into()),
        5 => value::<v1::Ballot, Ballot>(bytes, |ballot| (*ballot).into()),
        _ => {
            value::<v1::Promise, Promise>(bytes, |promise| (*promise).into());
            if let Some((id, _)) = bytes.split_first_chunk() {
                let id = u32::from_le_bytes(*id);
                assert_eq!(
                    partition_from_wire(id).ok().map(|p| u32::from(p.get())),
                    (id < 1024).then_some(id)
                );
            }
        }
    }
});

fn value<W, D>(bytes: &[u8], to_wire: impl Fn(&D) -> W)
where
    W: Message + Default,
    D: TryFrom<W> + PartialEq + std::fmt::Debug,
    D::Error: std::fmt::Debug,
{
    let Ok(wire) = W::decode(bytes) else { return };
    let Ok(domain) = D::try_from(wire) else { return };
    let again = W::decode(&*to_wire(&domain).encode_to_vec()).expect("what is encoded can be decoded");
    assert_eq!(D::try_from(again).expect("what was valid stays valid"), domain);
}

fn request(bytes: &[u8]) {
    let Ok(wire) = v1::Request::decode(bytes) else { return };
    let id = wire.id;
    let (same, request) = request_from_wire(wire);
    assert_eq!(same, id);
    let Ok(request) = request else { return };
    let again = request_to_wire(id, request.clone()).encode_to_vec();
    let again = v1::Request::decode(&*again).expect("what is encoded can be decoded");
    assert_eq!(request_from_wire(again), (id, Ok(request)));
}

fn reply(bytes: &[u8]) {
    let Ok(wire) = v1::Reply::decode(bytes) else { return };
    let id = wire.id;
    let (same, reply) = reply_from_wire(wire);
    assert_eq!(same, id);
    let Ok(reply) = reply else { return };
    let again = reply_to_wire(id, reply.clone()).encode_to_vec();
    let again = v1::Reply::decode(&*again).expect("what is encoded can be decoded");
    assert_eq!(reply_from_wire(again), (id, Ok(reply)));
}
