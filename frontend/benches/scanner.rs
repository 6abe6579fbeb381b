//! What it costs to find commands in the bytes that clients send.

use bytes::BytesMut;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tercet_frontend::resp::scanner::{Limits, Scanner};

const LIMITS: Limits = Limits { authenticated: true, bulk_bytes_max: 64 << 20, command_bytes_max: 512 << 20 };
/// Commands that have come together.
const PIPELINE: usize = 64;
/// What the network brings at a time, where it brings little.
const CHUNK_BYTES: usize = 1448;

fn main() {
    divan::main();
}

fn sets(value_bytes: usize) -> Vec<u8> {
    let value = "v".repeat(value_bytes);
    let one = |n: usize| {
        format!("*3\r\n$3\r\nSET\r\n$16\r\nuser:{n:03}:session\r\n${value_bytes}\r\n{value}\r\n").into_bytes()
    };
    (0..PIPELINE).flat_map(one).collect()
}

fn gets() -> Vec<u8> {
    let one = |n: usize| format!("*2\r\n$3\r\nGET\r\n$16\r\nuser:{n:03}:session\r\n").into_bytes();
    (0..PIPELINE).flat_map(one).collect()
}

/// Takes out all commands that are whole; how many they were.
fn scan(scanner: &mut Scanner, input: &mut BytesMut) -> usize {
    let mut commands = 0;
    while scanner.next(input, &LIMITS).expect("it is RESP").is_some() {
        commands += 1;
    }
    commands
}

fn measure(bencher: Bencher<'_, '_>, bytes: &[u8]) {
    let bencher = bencher.counter(ItemsCount::new(PIPELINE)).counter(BytesCount::new(bytes.len()));
    bencher.with_inputs(|| BytesMut::from(bytes)).bench_local_values(|mut input| {
        assert_eq!(scan(&mut Scanner::default(), &mut input), PIPELINE);
        input
    });
}

#[divan::bench]
fn pipelined_get(bencher: Bencher<'_, '_>) {
    measure(bencher, &gets());
}

#[divan::bench(args = [64, 1024, 128 << 10])]
fn pipelined_set(bencher: Bencher<'_, '_>, value_bytes: usize) {
    measure(bencher, &sets(value_bytes));
}

/// The same bytes, but in pieces: no byte may be looked at twice.
#[divan::bench(args = [1024, 128 << 10])]
fn set_in_pieces(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let bytes = sets(value_bytes);
    bencher.counter(ItemsCount::new(PIPELINE)).counter(BytesCount::new(bytes.len())).bench_local(|| {
        let (mut scanner, mut input) = (Scanner::default(), BytesMut::new());
        let pieces = bytes.chunks(CHUNK_BYTES).map(|piece| {
            input.extend_from_slice(piece);
            scan(&mut scanner, &mut input)
        });
        assert_eq!(pieces.sum::<usize>(), PIPELINE);
    });
}
