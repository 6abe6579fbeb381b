//! What it costs to put a batch of puts on the wire, and to take it off again.

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use prost::Message;
use tercet_common::{Ballot, Content, Epoch, Incarnation, Key, ReplicaRequest, Row, Term, VectorClock};
use tercet_proto::convert::{request_from_wire, request_to_wire};
use tercet_proto::v1;

const VALUE_BYTES: usize = 64;
/// Puts in a batch: a lonely client's, and what waits under load.
const BATCHES: [usize; 3] = [1, 16, 512];

fn main() {
    divan::main();
}

fn puts(len: usize) -> Vec<ReplicaRequest> {
    let incarnation = Incarnation(0x5eed);
    let put = |seq: u64| {
        let ballot = Ballot { epoch: Epoch(3), term: Term { n: 7, incarnation }, seq };
        let clock = VectorClock::new().with_dot(incarnation, seq);
        let content = Content::string(Bytes::from(vec![b'v'; VALUE_BYTES]), None);
        let key = Key::new(format!("user:{seq}:session")).expect("a short key");
        ReplicaRequest::Put { row: Row { key, ballot, clock, content } }
    };
    (1..=len as u64).map(put).collect()
}

fn to_wire(puts: Vec<ReplicaRequest>) -> v1::RequestBatch {
    v1::RequestBatch { requests: (0..).zip(puts).map(|(id, put)| request_to_wire(id, put)).collect() }
}

/// Domain to bytes, as a link to a replica does.
#[divan::bench(args = BATCHES)]
fn encode(bencher: Bencher<'_, '_>, len: usize) {
    let bencher = bencher.counter(ItemsCount::new(len));
    bencher.with_inputs(|| puts(len)).bench_local_values(|puts| to_wire(puts).encode_to_vec());
}

/// Bytes to domain, with all checks, as a worker does.
#[divan::bench(args = BATCHES)]
fn decode(bencher: Bencher<'_, '_>, len: usize) {
    let bytes = Bytes::from(to_wire(puts(len)).encode_to_vec());
    bencher.counter(ItemsCount::new(len)).bench_local(|| {
        let batch = v1::RequestBatch::decode(black_box(bytes.clone())).expect("it was encoded");
        batch.requests.into_iter().map(request_from_wire).collect::<Vec<_>>()
    });
}
