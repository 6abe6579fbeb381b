//! Inline commands: a line of words, with the quoting of Redis's `sdssplitargs`.
//!
//! Words are parted by spaces. `"…"` knows `\n \r \t \b \a \xHH` and `\` before any other byte; `'…'` knows `\'` only.
//! A closing quote must end its word.

use bytes::Bytes;

/// The words of a line; `None` when a quote is not closed, or closed in the middle of a word.
pub(super) fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = word(rest)?;
        words.push(Bytes::from(word));
        rest = after;
    }
}

fn word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some((word, rest)),
            [quote @ (b'"' | b'\''), after @ ..] => {
                rest = quoted(*quote, after, &mut word)?;
                return rest.first().is_none_or(u8::is_ascii_whitespace).then_some((word, rest));
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

/// Appends the text up to the closing quote; what follows the quote.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [byte, after @ ..] if *byte == quote => return Some(after),
            [b'\\', b'\'', after @ ..] if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            [b'\\', b'x', high, low, after @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', escaped, after @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_redis_does() {
        for (line, words) in [
            (&b""[..], &[][..]),
            (b" \t ", &[]),
            (b"SET k  v", &[&b"SET"[..], b"k", b"v"]),
            (b"SET k \"a b\"", &[b"SET", b"k", b"a b"]),
            (b"\"\\x00\\xfF\\n\\q\"", &[b"\x00\xff\nq"]),
            (b"'it\\'s' '\\n'", &[b"it's", b"\\n"]),
            (b"\"\"", &[b""]),
            (b"ab\"cd\" e", &[b"abcd", b"e"]),
            (b"\"\\xg1\"", &[b"xg1"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{}", line.escape_ascii());
        }
        for line in ["\"", "'", "\"a\\\"", "\"a\"b", "'a'b", "k 'v"] {
            assert_eq!(split(line.as_bytes()), None, "{line}");
        }
    }
}
