//! The part of RESP that the generators speak: commands as arrays of bulk strings, and the replies to SET, GET and INCR.
//!
//! A reply's value is skipped, never copied: the generators must cost less than what they measure.

use memchr::memchr;

/// A status, a number or an error's text; none of ours is longer.
const LINE_BYTES_MAX: usize = 4096;
/// The largest value that a server may send.
const VALUE_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    /// `+OK`, or a number.
    Done,
    /// A value of so many bytes.
    Value(usize),
    /// There is no such key.
    Absent,
    Error(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan<'a> {
    /// A reply, and how many bytes it took.
    Whole(Reply<'a>, usize),
    /// It is at least so many bytes long.
    Incomplete(usize),
}

/// The bytes are no reply that the generators could have asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an answer that is not RESP, or not of this command")
    }
}

impl std::error::Error for Malformed {}

/// Appends a command.
pub(crate) fn encode(out: &mut Vec<u8>, parts: &[&[u8]]) {
    header(out, b'*', parts.len());
    for part in parts {
        header(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    decimal(out, count as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number without going through the formatter.
pub(crate) fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The first reply in `bytes`.
pub(crate) fn scan(bytes: &[u8]) -> Result<Scan<'_>, Malformed> {
    let Some(end) = memchr(b'\n', bytes) else {
        return if bytes.len() > LINE_BYTES_MAX {
            Err(Malformed)
        } else {
            Ok(Scan::Incomplete(bytes.len() + 1))
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let (kind, text) = line.split_first().ok_or(Malformed)?;
    let whole = end + 1;
    let reply = match kind {
        b'+' | b':' => Reply::Done,
        b'-' => Reply::Error(text),
        b'_' => Reply::Absent,
        b'$' if text == b"-1" => Reply::Absent,
        b'$' => {
            let length = std::str::from_utf8(text).ok().and_then(|text| text.parse::<usize>().ok());
            let length = length.filter(|length| *length <= VALUE_BYTES_MAX).ok_or(Malformed)?;
            let whole = whole + length + 2;
            return match bytes.get(whole - 2..whole) {
                Some(b"\r\n") => Ok(Scan::Whole(Reply::Value(length), whole)),
                Some(_) => Err(Malformed),
                None => Ok(Scan::Incomplete(whole)),
            };
        }
        _ => return Err(Malformed),
    };
    Ok(Scan::Whole(reply, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&mut out, &[b"SET", b"key:7", b"a\r\nb"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$5\r\nkey:7\r\n$4\r\na\r\nb\r\n");
        out.clear();
        decimal(&mut out, 0);
        decimal(&mut out, u64::MAX);
        assert_eq!(out, b"018446744073709551615");
    }

    #[test]
    fn every_kind_of_reply_is_told_apart() {
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], Reply::Done),
            (b":12\r\n", Reply::Done),
            (b"-BUSY try later\r\n", Reply::Error(b"BUSY try later")),
            (b"$-1\r\n", Reply::Absent),
            (b"_\r\n", Reply::Absent),
            (b"$0\r\n\r\n", Reply::Value(0)),
            (b"$4\r\na\r\nb\r\n", Reply::Value(4)),
        ] {
            let followed = [bytes, b"+OK\r\n"].concat();
            assert_eq!(scan(&followed), Ok(Scan::Whole(reply, bytes.len())), "{}", bytes.escape_ascii());
            for cut in 0..bytes.len() {
                let Ok(Scan::Incomplete(needs)) = scan(&bytes[..cut]) else {
                    panic!("{} of {}", cut, bytes.escape_ascii());
                };
                assert!(cut < needs && needs <= bytes.len(), "{cut} of {}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"+OK\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"$2\r\nabcd",
            b"*1\r\n",
        ] {
            assert_eq!(scan(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        assert_eq!(scan(&[b'+'; LINE_BYTES_MAX + 1]), Err(Malformed));
    }
}
