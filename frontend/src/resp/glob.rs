//! Redis's glob patterns (KEYS, SCAN MATCH, CONFIG GET, COMMAND LIST): `*`, `?`, `[a-z]`, `[^a-z]`, `\x`.
//!
//! Every token but `*` matches exactly one byte, so on a mismatch it is enough to let the *last* star take one byte
//! more: what an earlier star could still give is covered by the last one. One point to go back to therefore bounds
//! the work by `pattern × text`, where the usual recursion is exponential in the number of stars.

/// Whether `text` matches `pattern`, byte by byte; `ignore_case` folds ASCII letters.
///
/// As in Redis, an unclosed class ends with the pattern and a final lone `\` stands for itself.
pub fn glob_match(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star, and the text it has not yet taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if let Some(next) = match_one(pattern, p, text[t], ignore_case) {
            p = next;
            t += 1;
            continue;
        }
        let Some((after_star, taken)) = star else { return false };
        star = Some((after_star, taken + 1));
        p = after_star;
        t = taken + 1;
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Matches the token at `p` (no star) against one byte; the place of the next token if it does.
fn match_one(pattern: &[u8], p: usize, byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |b: u8| if ignore_case { b.to_ascii_lowercase() } else { b };
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => match_class(pattern, p + 1, byte, fold),
        b'\\' if p + 1 < pattern.len() => (fold(pattern[p + 1]) == fold(byte)).then_some(p + 2),
        literal => (fold(literal) == fold(byte)).then_some(p + 1),
    }
}

fn match_class(pattern: &[u8], mut p: usize, byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let byte = fold(byte);
    let mut hit = false;
    loop {
        match pattern[p..] {
            [] => break,
            [b']', ..] => {
                p += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                hit |= fold(escaped) == byte;
                p += 2;
            }
            [from, b'-', to, ..] => {
                let (low, high) = (fold(from.min(to)), fold(from.max(to)));
                hit |= (low..=high).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                hit |= fold(literal) == byte;
                p += 1;
            }
        }
    }
    (hit != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("h?llo", "hallo"),
            ("h*llo", "heeeello"),
            ("h*llo", "hllo"),
            ("h[ae]llo", "hello"),
            ("h[^e]llo", "hallo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("h\\*llo", "h*llo"),
            ("[\\]]x", "]x"),
            ("a*b*c", "a-b-b-c"),
            ("[abc", "c"),
            ("x\\", "x\\"),
            ("a**b", "ab"),
        ] {
            assert!(glob_match(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("?", ""),
            ("h?llo", "hllo"),
            ("h[ae]llo", "hillo"),
            ("h[^e]llo", "hello"),
            ("a*b", "a-b-"),
            ("h\\*llo", "hello"),
            ("Hello", "hello"),
            ("[]", "]"),
        ] {
            assert!(!glob_match(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
    }

    #[test]
    fn case_is_folded_on_request() {
        assert!(glob_match(b"MAX*", b"maxmemory", true));
        assert!(glob_match(b"[A-Z]x", b"qX", true));
        assert!(!glob_match(b"[A-Z]x", b"qx", false));
    }

    #[test]
    fn many_stars_do_not_blow_up() {
        // Exponential for a recursive matcher: it would not end within the life of the machine.
        let pattern = "a*".repeat(200) + "b";
        assert!(!glob_match(pattern.as_bytes(), "a".repeat(20_000).as_bytes(), false));
    }

    proptest::proptest! {
        /// Against the definition, written as a recursion.
        #[test]
        fn agrees_with_the_recursive_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            fn naive(p: &[u8], t: &[u8]) -> bool {
                match (p, t) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => naive(rest, t) || !t.is_empty() && naive(p, &t[1..]),
                    ([b'?', p @ ..], [_, t @ ..]) => naive(p, t),
                    ([a, p @ ..], [b, t @ ..]) => a == b && naive(p, t),
                    _ => false,
                }
            }
            let (p, t) = (pattern.as_bytes(), text.as_bytes());
            proptest::prop_assert_eq!(glob_match(p, t, false), naive(p, t));
        }
    }
}
