//! Glob patterns: as the definition has it on small inputs, and no blow-up on large ones (libFuzzer's time-out).
//!
//! Input: one byte of switches, the pattern, a line end, the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tercet_frontend::resp::glob::glob_match;

/// The definition is exponential in the number of stars.
const ORACLE_STARS_MAX: usize = 5;
const ORACLE_BYTES_MAX: usize = 24;

fuzz_target!(|input: &[u8]| {
    let [switches, rest @ ..] = input else { return };
    let ignore_case = switches & 1 == 1;
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (pattern, text) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let matched = glob_match(pattern, text, ignore_case);

    let stars = pattern.iter().filter(|byte| **byte == b'*').count();
    if stars <= ORACLE_STARS_MAX && text.len() <= ORACLE_BYTES_MAX {
        assert_eq!(matched, defined(&tokens(pattern), text, ignore_case));
    }
    // What is escaped matches itself.
    let escaped: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
    assert!(glob_match(&escaped, text, ignore_case));
    let around = [b"*", &escaped[..], b"*"].concat();
    assert!(glob_match(&around, &[b"<", text, b">"].concat(), ignore_case));
    assert!(glob_match(b"*", text, ignore_case));
    // A star more never loses a match.
    assert!(!matched || glob_match(&[b"*", pattern].concat(), text, ignore_case));
});

enum Token {
    Star,
    Any,
    /// Ranges of bytes; whether it matches what is in none of them.
    Class(Vec<(u8, u8)>, bool),
}

/// As Redis's `stringmatchlen` reads a pattern.
fn tokens(mut pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let [first, rest @ ..] = pattern {
        pattern = rest;
        tokens.push(match (first, rest) {
            (b'*', _) => Token::Star,
            (b'?', _) => Token::Any,
            (b'\\', [escaped, rest @ ..]) => {
                pattern = rest;
                Token::Class(vec![(*escaped, *escaped)], false)
            }
            (b'[', _) => class(&mut pattern),
            (literal, _) => Token::Class(vec![(*literal, *literal)], false),
        });
    }
    tokens
}

fn class(pattern: &mut &[u8]) -> Token {
    let negated = pattern.first() == Some(&b'^');
    if negated {
        *pattern = &pattern[1..];
    }
    let mut ranges = Vec::new();
    loop {
        let (range, used) = match pattern {
            [] => return Token::Class(ranges, negated),
            [b']', rest @ ..] => {
                *pattern = rest;
                return Token::Class(ranges, negated);
            }
            [b'\\', escaped, ..] => ((*escaped, *escaped), 2),
            [from, b'-', to, ..] => ((*from.min(to), *from.max(to)), 3),
            [literal, ..] => ((*literal, *literal), 1),
        };
        ranges.push(range);
        *pattern = &pattern[used..];
    }
}

fn defined(tokens: &[Token], text: &[u8], ignore_case: bool) -> bool {
    let fold = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
    match (tokens, text) {
        ([], []) => true,
        ([Token::Star, rest @ ..], _) => {
            defined(rest, text, ignore_case) || !text.is_empty() && defined(tokens, &text[1..], ignore_case)
        }
        ([Token::Any, tokens @ ..], [_, text @ ..]) => defined(tokens, text, ignore_case),
        ([Token::Class(ranges, negated), tokens @ ..], [byte, text @ ..]) => {
            // Redis folds the ends of a range, and orders them before it does.
            let hit = ranges.iter().any(|(low, high)| (fold(*low)..=fold(*high)).contains(&fold(*byte)));
            hit != *negated && defined(tokens, text, ignore_case)
        }
        _ => false,
    }
}
