//! From bytes to commands.
//!
//! Clients send flat arrays of bulk strings, or lines of text ("inline commands", for people with telnet); nothing else
//! is a command (RESP specification, "Sending commands to a Redis server"). The scanner accepts exactly these two. It
//! cannot nest, keeps its place between reads (no byte is looked at twice), allocates for what has arrived and never
//! for what was merely announced, and refuses what is over a limit before buffering it. Limits and error texts are
//! those of Redis 7.2; three departures are stricter: length lines and bulk strings must end in CRLF, a command has a
//! total bound, and at most a million arguments (Redis: 2^31 - 1).
//!
//! ```text
//! Start ──"*2\r\n"──▶ BulkHeader ──"$3\r\n"──▶ Bulk(3) ──"GET\r\n"──▶ BulkHeader ──▶ … ──▶ a command
//!   └──"PING\r\n"──▶ a command
//! ```

use bytes::{Buf, Bytes, BytesMut};

use super::command::parse_i64;
use super::inline;

/// The longest inline command and the longest length line.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// The most arguments of a command.
pub const ARGS_MAX: usize = 1024 * 1024;
/// The most arguments of a command before AUTH.
pub const UNAUTHENTICATED_ARGS_MAX: usize = 10;
/// The longest argument before AUTH.
pub const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16 * 1024;
/// Arguments from this size on share the read buffer; smaller ones are copied, so that a key that lives on for a while
/// does not keep a whole buffer alive.
const SHARED_BULK_BYTES_MIN: usize = 64 * 1024;
/// Arguments up to this size are copied into a chunk that they share: most commands are made of nothing else, and an
/// allocation for each word would cost more than all the rest of scanning. Whoever keeps such a word for long keeps a chunk.
const SMALL_BULK_BYTES_MAX: usize = 128;
const CHUNK_BYTES: usize = 512;
/// The most arguments that room is made for before they have come.
const ARGS_RESERVED_MAX: usize = 8;
/// What an argument costs beside its bytes.
const ARG_OVERHEAD_BYTES: usize = std::mem::size_of::<Bytes>();

/// What a connection may send now.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub authenticated: bool,
    pub bulk_bytes_max: usize,
    /// All arguments of one command together.
    pub command_bytes_max: usize,
}

/// The stream makes no sense from here on; the connection ends after this answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("ERR Protocol error: invalid multibulk length")]
    MultibulkLength,
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    #[error("ERR Protocol error: too big mbulk count string")]
    MultibulkLineTooLong,
    #[error("ERR Protocol error: expected '$', got '{got}'")]
    ExpectedBulk { got: char },
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    #[error("ERR Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("ERR Protocol error: too big bulk count string")]
    BulkLineTooLong,
    #[error("ERR Protocol error: bulk string without CRLF at its end")]
    BulkEnd,
    #[error("ERR Protocol error: command of more than {max} bytes")]
    CommandTooLong { max: usize },
    #[error("ERR Protocol error: too big inline request")]
    InlineTooLong,
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    BulkHeader,
    /// The argument's length.
    Bulk(usize),
}

/// See the module.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    args: Vec<Bytes>,
    /// Room for small arguments.
    chunk: BytesMut,
    /// Arguments of the current command still to come.
    missing: usize,
    /// Bytes at the buffer's start known to hold no line end.
    searched: usize,
    /// Bytes of the current command's arguments so far.
    weight: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            state: State::Start,
            args: Vec::new(),
            chunk: BytesMut::new(),
            missing: 0,
            searched: 0,
            weight: 0,
        }
    }
}

impl Scanner {
    /// The next command (its name first, never empty), taken off the buffer; `None`: more bytes are needed.
    ///
    /// After an error the stream is lost: do not call again.
    pub fn next(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            let complete = match self.state {
                State::Start => match buf.first() {
                    None => return Ok(None),
                    Some(b'*') => self.multibulk_header(buf, limits)?,
                    Some(_) => self.inline(buf)?,
                },
                State::BulkHeader => self.bulk_header(buf, limits)?,
                State::Bulk(len) => self.bulk(buf, len)?,
            };
            if !complete {
                return Ok(None);
            }
            if self.state == State::Start && !self.args.is_empty() {
                self.weight = 0;
                return Ok(Some(std::mem::take(&mut self.args)));
            }
        }
    }

    /// Bytes of arguments kept outside the buffer.
    pub fn held_bytes(&self) -> usize {
        self.weight
    }

    fn multibulk_header(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<bool, ProtocolError> {
        let Some(len) = self.line(buf, ProtocolError::MultibulkLineTooLong)? else { return Ok(false) };
        let count = parse_i64(&buf[1..len]).ok_or(ProtocolError::MultibulkLength)?;
        end_line(buf, len, ProtocolError::MultibulkLength)?;
        // Redis takes counts below one for an empty command.
        let count = usize::try_from(count).unwrap_or(0);
        if count > ARGS_MAX {
            return Err(ProtocolError::MultibulkLength);
        }
        if count > UNAUTHENTICATED_ARGS_MAX && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        self.missing = count;
        if count > 0 {
            self.state = State::BulkHeader;
        }
        Ok(true)
    }

    fn bulk_header(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<bool, ProtocolError> {
        let Some(len) = self.line(buf, ProtocolError::BulkLineTooLong)? else { return Ok(false) };
        if buf[0] != b'$' {
            return Err(ProtocolError::ExpectedBulk { got: char::from(buf[0]) });
        }
        let length = parse_i64(&buf[1..len]).and_then(|n| usize::try_from(n).ok());
        let length = length.filter(|n| *n <= limits.bulk_bytes_max).ok_or(ProtocolError::BulkLength)?;
        end_line(buf, len, ProtocolError::BulkLength)?;
        if length > UNAUTHENTICATED_BULK_BYTES_MAX && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        self.weight = self.weight.saturating_add(length + ARG_OVERHEAD_BYTES);
        if self.weight > limits.command_bytes_max {
            return Err(ProtocolError::CommandTooLong { max: limits.command_bytes_max });
        }
        self.state = State::Bulk(length);
        Ok(true)
    }

    fn bulk(&mut self, buf: &mut BytesMut, len: usize) -> Result<bool, ProtocolError> {
        let Some(end) = buf.get(len..len + 2) else { return Ok(false) };
        if end != b"\r\n" {
            return Err(ProtocolError::BulkEnd);
        }
        let arg = if len >= SHARED_BULK_BYTES_MIN {
            buf.split_to(len).freeze()
        } else {
            let copy = self.copy(&buf[..len]);
            buf.advance(len);
            copy
        };
        if self.args.is_empty() {
            // As many as are announced, but for commands that announce more than most have.
            self.args.reserve_exact(self.missing.min(ARGS_RESERVED_MAX));
        }
        self.args.push(arg);
        buf.advance(2);
        self.missing -= 1;
        self.state = if self.missing == 0 { State::Start } else { State::BulkHeader };
        Ok(true)
    }

    fn copy(&mut self, arg: &[u8]) -> Bytes {
        if arg.len() > SMALL_BULK_BYTES_MAX {
            return Bytes::copy_from_slice(arg);
        }
        if self.chunk.capacity() < arg.len() {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES);
        }
        self.chunk.extend_from_slice(arg);
        self.chunk.split().freeze()
    }

    fn inline(&mut self, buf: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some(end) = self.find(buf, b'\n', ProtocolError::InlineTooLong)? else { return Ok(false) };
        let line = &buf[..end];
        self.args =
            inline::split(line.strip_suffix(b"\r").unwrap_or(line)).ok_or(ProtocolError::UnbalancedQuotes)?;
        buf.advance(end + 1);
        Ok(true)
    }

    /// The length of the line at the buffer's start, once its CR and one byte more are there.
    fn line(&mut self, buf: &[u8], too_long: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let end = self.find(buf, b'\r', too_long)?;
        if let Some(cr) = end.filter(|cr| cr + 1 == buf.len()) {
            self.searched = cr;
            return Ok(None);
        }
        Ok(end)
    }

    fn find(
        &mut self,
        buf: &[u8],
        byte: u8,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let found = memchr::memchr(byte, &buf[self.searched..]).map(|at| self.searched + at);
        if found.unwrap_or(buf.len()) > LINE_BYTES_MAX {
            return Err(too_long);
        }
        self.searched = if found.is_some() { 0 } else { buf.len() };
        Ok(found)
    }
}

fn end_line(buf: &mut BytesMut, len: usize, error: ProtocolError) -> Result<(), ProtocolError> {
    if buf.get(len + 1) != Some(&b'\n') {
        return Err(error);
    }
    buf.advance(len + 2);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { authenticated: true, bulk_bytes_max: 1024 * 1024, command_bytes_max: 4 * 1024 * 1024 };
    const BEFORE_AUTH: Limits = Limits { authenticated: false, ..LIMITS };

    /// All commands of a stream that arrives in these chunks, and how it ended.
    fn scan<'a>(
        chunks: impl IntoIterator<Item = &'a [u8]>,
        limits: &Limits,
    ) -> (Vec<Vec<Bytes>>, Result<(), ProtocolError>) {
        let (mut scanner, mut buf, mut commands) = (Scanner::default(), BytesMut::new(), Vec::new());
        for chunk in chunks {
            buf.extend_from_slice(chunk);
            loop {
                match scanner.next(&mut buf, limits) {
                    Ok(Some(command)) => commands.push(command),
                    Ok(None) => break,
                    Err(e) => return (commands, Err(e)),
                }
            }
        }
        (commands, Ok(()))
    }

    fn refusal(input: &[u8], limits: &Limits) -> String {
        scan([input], limits).1.unwrap_err().to_string()
    }

    fn encode(command: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for arg in command {
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// Small arguments share chunks, others have buffers of their own; a chunk ends in the middle of a command.
    #[test]
    fn arguments_around_the_size_of_a_chunk_come_out_as_they_went_in() {
        let sizes =
            [0, 1, SMALL_BULK_BYTES_MAX - 1, SMALL_BULK_BYTES_MAX, SMALL_BULK_BYTES_MAX + 1, CHUNK_BYTES];
        let commands: Vec<Vec<Vec<u8>>> = (0..50u8)
            .map(|n| (1..=sizes.len()).map(|i| vec![n; sizes[(usize::from(n) + i) % sizes.len()]]).collect())
            .collect();
        let input: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        let (scanned, end) = scan(input.chunks(100), &LIMITS);
        assert_eq!(end, Ok(()));
        assert_eq!(scanned, commands);
    }

    #[test]
    fn arrays_and_lines_are_commands_and_empty_ones_are_skipped() {
        let input = b"*0\r\n*-1\r\n\r\n   \r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\nPING \"a b\"\nECHO x\r\n";
        let (commands, end) = scan([&input[..]], &LIMITS);
        assert_eq!(commands, [vec!["GET", ""], vec!["PING", "a b"], vec!["ECHO", "x"]]);
        assert_eq!(end, Ok(()));
    }

    #[test]
    fn nonsense_is_refused_with_the_texts_of_redis() {
        for (input, text) in [
            ("*x\r\n", "invalid multibulk length"),
            ("*\r\n", "invalid multibulk length"),
            ("*01\r\n", "invalid multibulk length"),
            ("*1048577\r\n", "invalid multibulk length"),
            ("*99999999999999999999\r\n", "invalid multibulk length"),
            ("*1\rX", "invalid multibulk length"),
            ("*1\r\n*1\r\n", "expected '$', got '*'"),
            ("*1\r\n:1\r\n", "expected '$', got ':'"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$1048577\r\n", "invalid bulk length"),
            ("*1\r\n$18446744073709551616\r\n", "invalid bulk length"),
            ("*1\r\n$1\r\nab\r\n", "bulk string without CRLF at its end"),
            ("SET \"k\r\n", "unbalanced quotes in request"),
        ] {
            assert_eq!(refusal(input.as_bytes(), &LIMITS), format!("ERR Protocol error: {text}"), "{input}");
        }
    }

    #[test]
    fn endless_lines_are_refused() {
        let long = "1".repeat(LINE_BYTES_MAX + 1);
        for (start, text) in [
            ("*", "too big mbulk count string"),
            ("*1\r\n$", "too big bulk count string"),
            ("PING ", "too big inline request"),
        ] {
            let input = format!("{start}{long}");
            assert_eq!(refusal(input.as_bytes(), &LIMITS), format!("ERR Protocol error: {text}"));
        }
    }

    #[test]
    fn limits_before_authentication_are_small() {
        assert_eq!(refusal(b"*11\r\n", &BEFORE_AUTH), "ERR Protocol error: unauthenticated multibulk length");
        assert_eq!(
            refusal(b"*1\r\n$16385\r\n", &BEFORE_AUTH),
            "ERR Protocol error: unauthenticated bulk length"
        );
        assert_eq!(scan([&b"*10\r\n$16384\r\n"[..]], &BEFORE_AUTH).1, Ok(()));
    }

    #[test]
    fn all_arguments_together_have_a_bound() {
        let limits = Limits { command_bytes_max: 1_000, ..LIMITS };
        let command = encode(&vec![b"x".to_vec(); 1_000]);
        assert_eq!(refusal(&command, &limits), "ERR Protocol error: command of more than 1000 bytes");
    }

    #[test]
    fn nothing_is_allocated_for_announced_sizes() {
        let (mut scanner, mut buf) = (Scanner::default(), BytesMut::from(&b"*1048576\r\n$1048576\r\n"[..]));
        let capacity = buf.capacity();
        assert_eq!(scanner.next(&mut buf, &LIMITS), Ok(None));
        assert!(scanner.args.capacity() == 0 && buf.capacity() <= capacity);
    }

    #[test]
    fn small_arguments_do_not_pin_the_buffer_and_large_ones_are_not_copied() {
        let large = vec![7; SHARED_BULK_BYTES_MIN];
        let mut buf = BytesMut::from(&encode(&[b"SET".to_vec(), large])[..]);
        let whole = buf.as_ptr_range();
        let args = Scanner::default().next(&mut buf, &LIMITS).unwrap().unwrap();
        assert!(!whole.contains(&args[0].as_ptr()));
        assert!(whole.contains(&args[1].as_ptr()));
    }

    proptest! {
        /// Where the network cuts the stream makes no difference, even to errors.
        #[test]
        fn splits_do_not_matter(
            commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 1..4), 0..4),
            tail in prop::sample::select(vec![&b""[..], b"*1\r\n+x\r\n", b"*x\r\n", b"a \"b\r\n", b"PING\r\n", b"*1\r\n$1\r"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut stream: Vec<u8> = commands.iter().flat_map(|c| encode(c)).collect();
            stream.extend_from_slice(tail);
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let whole = scan([&stream[..]], &LIMITS);
            prop_assert_eq!(&scan(cuts.windows(2).map(|w| &stream[w[0]..w[1]]), &LIMITS), &whole);
            prop_assert_eq!(&scan(stream.chunks(1), &LIMITS), &whole);
        }

        #[test]
        fn agrees_with_the_redis_protocol_crate(
            command in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 1..8),
        ) {
            use redis_protocol::resp2::{decode::decode, types::OwnedFrame};
            let bytes = encode(&command);
            let (frame, used) = decode(&bytes).unwrap().unwrap();
            let expected = OwnedFrame::Array(command.iter().cloned().map(OwnedFrame::BulkString).collect());
            prop_assert_eq!((frame, used), (expected, bytes.len()));
            prop_assert_eq!(scan([&bytes[..]], &LIMITS), (vec![command.into_iter().map(Bytes::from).collect()], Ok(())));
        }

        #[test]
        fn any_bytes_at_all_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let (_, whole) = scan([&bytes[..]], &LIMITS);
            let (_, pieces) = scan(bytes.chunks(3), &LIMITS);
            prop_assert_eq!(whole, pieces);
        }
    }
}
