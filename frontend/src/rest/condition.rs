//! ETags and conditional requests (RFC 9110, 8.8.3 and 13).
//!
//! A version's ETag is its ballot: opaque to clients, never used twice for one key. Writes hand their
//! conditions to the coordinator, which judges them against the version that the write would replace, so
//! nothing gets between.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tercet_common::{Ballot, VectorClock};

use super::problem::Problem;

pub(super) const CLOCK: HeaderName = HeaderName::from_static("x-tercet-clock");
/// Clients stop at 8 KiB or so of headers; a clock longer than this is left out.
const CLOCK_HEADER_ENTRIES_MAX: usize = 64;

/// The conditions of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`: any version.
    Any,
    Listed(Vec<Tag>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    opaque: String,
    weak: bool,
}

/// What conditions say of the version that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Proceed,
    /// `If-Match` names another version.
    Changed,
    /// `If-None-Match` names this version: 304 for a read, 412 for a write.
    Same,
}

impl Conditions {
    /// A condition that cannot be understood is refused: to ignore it would make the write unconditional.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            if_match: parse(headers, header::IF_MATCH)?,
            if_none_match: parse(headers, header::IF_NONE_MATCH)?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    pub(super) fn judge(&self, current: Option<Ballot>) -> Verdict {
        let current = current.map(|ballot| ballot.to_string());
        let named = |tags: &Tags, weak_too: bool| match (tags, &current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Listed(tags), Some(current)) => {
                tags.iter().any(|tag| tag.opaque == *current && (weak_too || !tag.weak))
            }
        };
        if self.if_match.as_ref().is_some_and(|tags| !named(tags, false)) {
            return Verdict::Changed;
        }
        if self.if_none_match.as_ref().is_some_and(|tags| named(tags, true)) {
            return Verdict::Same;
        }
        Verdict::Proceed
    }
}

fn parse(headers: &HeaderMap, name: HeaderName) -> Result<Option<Tags>, Problem> {
    let mut tags = None;
    for value in headers.get_all(&name) {
        let parsed = value.to_str().ok().and_then(parse_line);
        let Some(parsed) = parsed else {
            return Err(Problem::bad_request(format!(
                "`{name}` must be `*` or a list of ETags, each in double quotes as the ETag header has it"
            )));
        };
        tags = match (tags, parsed) {
            (Some(Tags::Listed(mut all)), Tags::Listed(more)) => {
                all.extend(more);
                Some(Tags::Listed(all))
            }
            (None, parsed) => Some(parsed),
            _ => Some(Tags::Any),
        };
    }
    Ok(tags)
}

fn parse_line(line: &str) -> Option<Tags> {
    let mut rest = line.trim();
    if rest == "*" {
        return Some(Tags::Any);
    }
    let mut tags = Vec::new();
    loop {
        let weak = rest.starts_with("W/");
        let (opaque, tail) = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        tags.push(Tag { opaque: opaque.to_owned(), weak });
        let tail = tail.trim_start();
        if tail.is_empty() {
            return Some(Tags::Listed(tags));
        }
        rest = tail.strip_prefix(',')?.trim_start();
    }
}

/// Puts a version's ETag and clock into a response.
pub(super) fn describe(headers: &mut HeaderMap, ballot: Ballot, clock: &VectorClock) {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{ballot}\"")) {
        headers.insert(header::ETAG, tag);
    }
    if clock.entries().len() <= CLOCK_HEADER_ENTRIES_MAX {
        let entries = clock.entries().iter().map(|(incarnation, n)| format!("{:x}:{n}", incarnation.0));
        if let Ok(text) = HeaderValue::try_from(entries.collect::<Vec<_>>().join(",")) {
            headers.insert(CLOCK, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Epoch, Incarnation, Term};

    use super::*;

    fn ballot(seq: u64) -> Ballot {
        Ballot { epoch: Epoch(1), term: Term { n: 2, incarnation: Incarnation(0xab) }, seq }
    }

    fn conditions(headers: &[(HeaderName, &'static str)]) -> Result<Conditions, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        Conditions::of(&map)
    }

    #[test]
    fn if_match_wants_that_very_version() {
        for (value, verdict) in [
            ("\"1.2.ab.7\"", Verdict::Proceed),
            ("\"x\" , \"1.2.ab.7\"", Verdict::Proceed),
            ("*", Verdict::Proceed),
            ("\"1.2.ab.8\"", Verdict::Changed),
            ("W/\"1.2.ab.7\"", Verdict::Changed),
        ] {
            let conditions = conditions(&[(header::IF_MATCH, value)]).unwrap();
            assert_eq!(conditions.judge(Some(ballot(7))), verdict, "{value}");
            assert_eq!(conditions.judge(None), Verdict::Changed, "{value}");
        }
    }

    #[test]
    fn if_none_match_wants_any_other() {
        for (value, verdict) in [
            ("\"1.2.ab.7\"", Verdict::Same),
            ("W/\"1.2.ab.7\"", Verdict::Same),
            ("*", Verdict::Same),
            ("\"1.2.ab.8\"", Verdict::Proceed),
        ] {
            let conditions = conditions(&[(header::IF_NONE_MATCH, value)]).unwrap();
            assert_eq!(conditions.judge(Some(ballot(7))), verdict, "{value}");
            assert_eq!(conditions.judge(None), Verdict::Proceed, "{value}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let two = conditions(&[(header::IF_MATCH, "\"a\""), (header::IF_MATCH, "\"1.2.ab.7\"")]).unwrap();
        assert_eq!(two.judge(Some(ballot(7))), Verdict::Proceed);
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for value in ["", "1.2.ab.7", "\"a", "\"a\" \"b\"", "\"a\",", "w/\"a\"", "*, \"a\""] {
            assert!(conditions(&[(header::IF_MATCH, value)]).is_err(), "{value}");
        }
        assert!(conditions(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_long_clock_stays_out_of_the_headers() {
        let mut headers = HeaderMap::new();
        let mut clock = VectorClock::new();
        clock.observe(Incarnation(0xab), 7);
        clock.observe(Incarnation(0xcd), 1);
        describe(&mut headers, ballot(7), &clock);
        assert_eq!(headers[header::ETAG], "\"1.2.ab.7\"");
        assert_eq!(headers[CLOCK], "ab:7,cd:1");
        headers.clear();
        (0..100).for_each(|i| clock.observe(Incarnation(i), 1));
        describe(&mut headers, ballot(7), &clock);
        assert!(!headers.contains_key(CLOCK));
    }
}
