//! The RESP scanner: limits are kept, where the network cuts the stream makes no difference, what is announced is not
//! allocated, and flat arrays of bulk strings read as the redis-protocol crate reads them.
//!
//! Input: one byte of limits, one that seeds the cuts, then the stream.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};
use tercet_frontend::resp::scanner::{
    Limits, ProtocolError, Scanner, UNAUTHENTICATED_ARGS_MAX, UNAUTHENTICATED_BULK_BYTES_MAX,
};

type Outcome = (Vec<Vec<Bytes>>, Result<(), ProtocolError>);

fuzz_target!(|input: &[u8]| {
    let [switches, seed, stream @ ..] = input else { return };
    let limits = Limits {
        authenticated: switches & 1 == 0,
        bulk_bytes_max: if switches & 2 == 0 { 1024 * 1024 } else { 16 },
        command_bytes_max: if switches & 4 == 0 { 4 * 1024 * 1024 } else { 200 },
    };
    let whole = scan([stream], &limits);
    assert_eq!(scan(stream.chunks(1), &limits), whole, "byte by byte");
    assert_eq!(scan(cut(stream, *seed), &limits), whole, "cut with seed {seed}");
    let args = whole.0.iter().flatten();
    assert!(args.map(Bytes::len).sum::<usize>() <= stream.len(), "what came out went in");
    check_against_oracle(stream, &whole, &limits);
});

fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Outcome {
    let (mut scanner, mut buf, mut commands) = (Scanner::default(), BytesMut::new(), Vec::new());
    for chunk in chunks {
        buf.extend_from_slice(chunk);
        loop {
            match scanner.next(&mut buf, limits) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(error) => return (commands, Err(error)),
            }
        }
        assert!(scanner.held_bytes() <= limits.command_bytes_max);
    }
    (commands, Ok(()))
}

/// Pieces of one to eight bytes, drawn by a xorshift generator.
fn cut(mut stream: &[u8], seed: u8) -> Vec<&[u8]> {
    let (mut pieces, mut state) = (Vec::new(), u32::from(seed) + 1);
    while !stream.is_empty() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (piece, rest) = stream.split_at((1 + state as usize % 8).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

/// Reads whole flat arrays off the stream with the oracle, for as long as both should agree. Where one is over a
/// limit, the scanner must have stopped.
fn check_against_oracle(mut stream: &[u8], whole: &Outcome, limits: &Limits) {
    let mut commands = whole.0.iter();
    while let Some(len) = flat_array(stream) {
        let (frame, used) = decode(&stream[..len]).expect("a flat array").expect("a whole one");
        assert_eq!(used, len);
        let OwnedFrame::Array(items) = frame else { panic!("an array, not {frame:?}") };
        let items: Vec<Vec<u8>> = items.into_iter().map(bulk).collect();
        stream = &stream[len..];
        if !fits(&items, limits) {
            assert!(commands.next().is_none() && whole.1.is_err(), "a command over the limits");
            return;
        }
        if !items.is_empty() {
            let command = commands.next().expect("as many commands as the oracle sees");
            assert_eq!(&items, command);
        }
    }
}

fn bulk(frame: OwnedFrame) -> Vec<u8> {
    match frame {
        OwnedFrame::BulkString(bytes) => bytes,
        other => panic!("a bulk string, not {other:?}"),
    }
}

fn fits(items: &[Vec<u8>], limits: &Limits) -> bool {
    let weight: usize = items.iter().map(|item| item.len() + size_of::<Bytes>()).sum();
    let longest = items.iter().map(Vec::len).max().unwrap_or(0);
    let known = limits.authenticated
        || items.len() <= UNAUTHENTICATED_ARGS_MAX && longest <= UNAUTHENTICATED_BULK_BYTES_MAX;
    known && longest <= limits.bulk_bytes_max && weight <= limits.command_bytes_max
}

/// The length of the array of bulk strings at the start, in canonical numbers and whole. The oracle recurses into
/// nested arrays, and takes more than commands: it must only see what passes here.
fn flat_array(stream: &[u8]) -> Option<usize> {
    let (count, mut at) = header(stream, 0, b'*')?;
    if count > 64 {
        return None;
    }
    for _ in 0..count {
        let (len, body) = header(stream, at, b'$')?;
        let end = body.checked_add(len)?;
        if stream.get(end..end.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    Some(at)
}

/// The number of a header line, and where the line ends.
fn header(stream: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let line = stream.get(at..)?.strip_prefix(&[kind])?;
    let end = line.iter().take(8).position(|b| !b.is_ascii_digit())?;
    let digits = &line[..end];
    let canonical = digits == b"0" || digits.first().is_some_and(|d| *d != b'0');
    line[end..].starts_with(b"\r\n").then_some(())?;
    let number = std::str::from_utf8(digits).ok().filter(|_| canonical)?.parse().ok()?;
    Some((number, at + 1 + end + 2))
}
