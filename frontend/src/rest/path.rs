//! From a request's target to a key.
//!
//! Keys are bytes, so the path is taken apart as it came: everything behind `/api/kv/`, slashes included,
//! with `%XX` decoded once and `+` left alone.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tercet_common::Key;

use super::problem::{Kind, Problem};

pub(super) const KV: &str = "/api/kv/";

/// What stands as it is in a path segment: the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The key that a target names. An escape that is none is refused rather than taken literally.
pub(super) fn key_of(target: &Uri) -> Result<Key, Problem> {
    let raw = target.path().strip_prefix(KV).unwrap_or_default();
    let malformed = raw.match_indices('%').find(|(at, _)| {
        let digits = raw.as_bytes().get(at + 1..at + 3);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if let Some((at, _)) = malformed {
        return Err(Problem::bad_request(format!(
            "the `%` at byte {at} of the key is not followed by two hexadecimal digits; write a percent sign as %25"
        )));
    }
    let bytes: Vec<u8> = percent_decode_str(raw).collect();
    Key::new(bytes).map_err(|e| Problem::new(Kind::KeyTooLong, e.to_string()))
}

pub(super) fn encode_segment(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, SEGMENT)
}

/// Query parameters, or what is wrong with them.
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(parsed)| parsed).map_err(|e| Problem::bad_request(e.body_text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(target: &str) -> Result<Vec<u8>, Kind> {
        key_of(&target.parse().unwrap()).map(|key| key.as_bytes().to_vec()).map_err(|p| p.kind)
    }

    #[test]
    fn the_path_is_decoded_once_and_to_bytes() {
        assert_eq!(key("/api/kv/greeting"), Ok(b"greeting".to_vec()));
        assert_eq!(key("/api/kv/a/b//c?ttl=1"), Ok(b"a/b//c".to_vec()));
        assert_eq!(key("/api/kv/a%2Fb"), Ok(b"a/b".to_vec()));
        assert_eq!(key("/api/kv/a+b%20c"), Ok(b"a+b c".to_vec()));
        assert_eq!(key("/api/kv/%2541"), Ok(b"%41".to_vec()));
        assert_eq!(key("/api/kv/%00%ff%FE"), Ok(vec![0, 0xff, 0xfe]));
        assert_eq!(key("http://localhost/api/kv/k"), Ok(b"k".to_vec()));
    }

    #[test]
    fn a_bad_escape_is_refused() {
        for target in ["/api/kv/%", "/api/kv/a%2", "/api/kv/%zz", "/api/kv/%2", "/api/kv/%%41", "/api/kv/%+1"]
        {
            assert_eq!(key(target), Err(Kind::BadRequest), "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_key_can_be_written_as_a_path(bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..200)) {
            let target = format!("{KV}{}", percent_encoding::percent_encode(&bytes, SEGMENT));
            proptest::prop_assert_eq!(key(&target), Ok(bytes));
        }
    }
}
