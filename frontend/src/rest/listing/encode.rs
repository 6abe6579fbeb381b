//! Rows as JSON: one flat object, or a line each.
//!
//! The flat object is what the original API has. JSON knows text only, so bytes that are not UTF-8 become
//! `data:;base64,…`; text that happens to begin so is written that way too, which keeps decoding unambiguous.
//! Lines say everything: `key` or `key_base64`, `value` or `value_base64`, `ballot`, `clock`,
//! `expires_at_ms`.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, header};
use serde::ser::{Serialize, Serializer};
use tercet_common::{Row, VectorClock};

use crate::coordinator::api::data_of;

const DATA_URL: &str = "data:;base64,";
const NDJSON: &str = "application/x-ndjson";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Object,
    Lines,
}

impl Format {
    /// `?format=` decides, else `Accept`. `None`: there is no such format.
    pub(super) fn choose(parameter: Option<&str>, headers: &HeaderMap) -> Option<Self> {
        let accepted = |value: &HeaderValue| {
            let names = value.to_str().unwrap_or_default().split(',');
            names.map(|range| range.split(';').next().unwrap_or_default().trim()).any(|name| name == NDJSON)
        };
        match parameter {
            Some("json") => Some(Self::Object),
            Some("ndjson") => Some(Self::Lines),
            Some(_) => None,
            None if headers.get_all(header::ACCEPT).iter().any(accepted) => Some(Self::Lines),
            None => Some(Self::Object),
        }
    }

    /// As the parameter has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Object => "json",
            Self::Lines => "ndjson",
        }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Object => "application/json",
            Self::Lines => NDJSON,
        })
    }

    pub(super) fn open(self, out: &mut Vec<u8>) {
        match self {
            Self::Object => out.push(b'{'),
            Self::Lines => {}
        }
    }

    pub(super) fn row(self, row: &Row, first: bool, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let (key, data) = (row.key.as_bytes(), data_of(row));
        match self {
            Self::Object => {
                if !first {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, &as_text(key))?;
                out.push(b':');
                serde_json::to_writer(&mut *out, &as_text(&data))
            }
            Self::Lines => {
                serde_json::to_writer(&mut *out, &Line::new(row, key, &data))?;
                out.push(b'\n');
                Ok(())
            }
        }
    }

    pub(super) fn close(self, out: &mut Vec<u8>) {
        match self {
            Self::Object => out.push(b'}'),
            Self::Lines => {}
        }
    }

    pub(super) fn whole(self, rows: &[Row], out: &mut Vec<u8>) -> serde_json::Result<()> {
        self.open(out);
        for (i, row) in rows.iter().enumerate() {
            self.row(row, i == 0, out)?;
        }
        self.close(out);
        Ok(())
    }
}

fn as_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(DATA_URL) => Cow::Borrowed(text),
        _ => Cow::Owned(format!("{DATA_URL}{}", BASE64_STANDARD.encode(bytes))),
    }
}

#[derive(serde::Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    ballot: String,
    clock: Clock<'a>,
    expires_at_ms: Option<i64>,
}

impl<'a> Line<'a> {
    fn new(row: &'a Row, key: &'a [u8], data: &'a [u8]) -> Self {
        let (key, key_base64) = text_or_base64(key);
        let (value, value_base64) = text_or_base64(data);
        Self {
            key,
            key_base64,
            value,
            value_base64,
            ballot: row.ballot.to_string(),
            clock: Clock(&row.clock),
            expires_at_ms: row.content.expires_at().map(|at| at.0),
        }
    }
}

fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// `{"<incarnation>": counter}`, the incarnation in hexadecimal.
struct Clock<'a>(&'a VectorClock);

impl Serialize for Clock<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_map(self.0.entries().iter().map(|(incarnation, n)| (format!("{:x}", incarnation.0), n)))
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Ballot, Content, Incarnation, Key, UnixMillis};

    use super::*;

    fn row(key: &[u8], value: &[u8], expires_at: Option<UnixMillis>) -> Row {
        let content = Content::string(value.to_vec(), expires_at);
        let mut clock = VectorClock::new();
        clock.observe(Incarnation(0xab), 7);
        Row { key: Key::new(key.to_vec()).unwrap(), ballot: Ballot::ZERO, clock, content }
    }

    fn written(format: Format, rows: &[Row]) -> String {
        let mut out = Vec::new();
        format.whole(rows, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_object_holds_text_and_data_urls() {
        assert_eq!(written(Format::Object, &[]), "{}");
        let rows = [
            row(b"plain", "gr\u{fc}\u{df}e \"x\"\n".as_bytes(), None),
            row(&[0xff], &[0, 0xfe], None),
            row(b"data:;base64,AA==", b"data:text/plain,x", None),
        ];
        assert_eq!(
            written(Format::Object, &rows),
            "{\"plain\":\"gr\u{fc}\u{df}e \\\"x\\\"\\n\",\"data:;base64,/w==\":\"data:;base64,AP4=\",\
             \"data:;base64,ZGF0YTo7YmFzZTY0LEFBPT0=\":\"data:text/plain,x\"}"
        );
    }

    #[test]
    fn lines_say_everything() {
        let rows = [row(b"k", b"v", Some(UnixMillis(99))), row(&[0xff], &[0xfe], None)];
        assert_eq!(
            written(Format::Lines, &rows),
            "{\"key\":\"k\",\"value\":\"v\",\"ballot\":\"0.0.0.0\",\"clock\":{\"ab\":7},\"expires_at_ms\":99}\n\
             {\"key_base64\":\"/w==\",\"value_base64\":\"/g==\",\"ballot\":\"0.0.0.0\",\"clock\":{\"ab\":7},\
             \"expires_at_ms\":null}\n"
        );
    }

    #[test]
    fn the_parameter_goes_before_the_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(Format::choose(None, &headers), Some(Format::Object));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/html, application/x-ndjson;q=0.9"));
        assert_eq!(Format::choose(None, &headers), Some(Format::Lines));
        assert_eq!(Format::choose(Some("json"), &headers), Some(Format::Object));
        assert_eq!(Format::choose(Some("xml"), &headers), None);
    }
}
