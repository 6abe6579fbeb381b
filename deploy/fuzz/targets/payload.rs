//! RESTORE's payloads: any bytes in a sound envelope. What is taken can be read, dumped and restored again.
//!
//! Input: one byte of switches, then the payload without (or, by a switch, with) version and checksum.

#![no_main]

use std::cell::LazyCell;

use bytes::Bytes;
use crc::{CRC_64_REDIS, Crc, Table};
use libfuzzer_sys::fuzz_target;
use tercet_frontend::resp::reply::Reply;
use tercet_fuzz::store::{Store, VALUE_BYTES_MAX};

const CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

thread_local! {
    static STORE: LazyCell<Store> = LazyCell::new(Store::default);
}

fuzz_target!(|input: &[u8]| {
    let [switches, body @ ..] = input else { return };
    let mut payload = body.to_vec();
    if switches & 1 == 0 {
        payload.extend_from_slice(&u16::from(switches >> 1 & 15).to_le_bytes());
        let crc = CRC64.checksum(&payload);
        payload.extend_from_slice(&crc.to_le_bytes());
    }
    STORE.with(|store| {
        store.clear();
        if let Reply::Error(_) = store.call(&[b"RESTORE", b"k", b"0", &payload]) {
            assert_eq!(store.call(&[b"EXISTS", b"k"]), Reply::Integer(0));
            return;
        }
        let value = bulk(store.call(&[b"GET", b"k"]));
        assert!(value.len() <= VALUE_BYTES_MAX);
        let dumped = bulk(store.call(&[b"DUMP", b"k"]));
        assert_eq!(store.call(&[b"RESTORE", b"k", b"0", &dumped, b"REPLACE"]), Reply::OK);
        assert_eq!(bulk(store.call(&[b"GET", b"k"])), value);
    });
});

fn bulk(reply: Reply) -> Bytes {
    match reply {
        Reply::Bulk(bytes) => bytes,
        other => panic!("a bulk string, not {other:?}"),
    }
}
