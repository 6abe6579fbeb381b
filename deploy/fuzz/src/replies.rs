//! Reads replies of both protocol versions as strictly as a client may, without recursion.

/// How many whole replies these bytes are; `None` if they are anything else.
pub fn count(mut bytes: &[u8]) -> Option<usize> {
    let mut replies = 0;
    while !bytes.is_empty() {
        // Values of aggregates still to come, and this reply itself.
        let mut missing: u64 = 1;
        while missing > 0 {
            let (line, rest) = line(bytes)?;
            bytes = rest;
            missing -= 1;
            let (kind, text) = line.split_first()?;
            match kind {
                b'+' | b'-' if !text.contains(&b'\r') && !text.contains(&b'\n') => {}
                b':' => {
                    number(text)?;
                }
                b'$' | b'*' if text == b"-1" => {}
                b'$' | b'=' => {
                    let len = usize::try_from(number(text)?).ok()?;
                    let (body, rest) = bytes.split_at_checked(len)?;
                    if *kind == b'=' && body.get(3) != Some(&b':') {
                        return None;
                    }
                    bytes = rest.strip_prefix(b"\r\n")?;
                }
                b'*' | b'~' | b'>' => missing = missing.checked_add(u64::try_from(number(text)?).ok()?)?,
                b'%' => missing = missing.checked_add(u64::try_from(number(text)?).ok()?.checked_mul(2)?)?,
                b'_' if text.is_empty() => {}
                b'#' if matches!(text, b"t" | b"f") => {}
                b',' => {
                    std::str::from_utf8(text).ok()?.parse::<f64>().ok()?;
                }
                _ => return None,
            }
        }
        replies += 1;
    }
    Some(replies)
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn replies_are_counted_and_nonsense_is_not() {
        assert_eq!(count(b""), Some(0));
        assert_eq!(count(b"+OK\r\n$3\r\na\r\n\r\n*2\r\n:1\r\n%1\r\n$-1\r\n_\r\n,1.5\r\n"), Some(4));
        for bytes in
            [&b"+OK"[..], b"$3\r\nab\r\n", b"*1\r\n", b"-ERR a\rb\r\n", b"?\r\n", b"\r\n", b"*-2\r\n"]
        {
            assert_eq!(count(bytes), None, "{}", bytes.escape_ascii());
        }
    }
}
