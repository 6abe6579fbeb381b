//! From replies to bytes, in RESP2 or RESP3.
//!
//! What nearly every reply consists of (`+OK`, integers, bulk strings, nulls, array headers) is written without an
//! allocation. Errors, booleans and verbatim strings go through the redis-protocol crate; so do not its maps, which are
//! hash maps and would shuffle the fields of INFO-like answers.

use bytes::{BufMut, BytesMut};
use redis_protocol::resp2::encode as resp2;
use redis_protocol::resp2::types::BorrowedFrame as Resp2;
use redis_protocol::resp3::encode::complete as resp3;
use redis_protocol::resp3::types::{BorrowedFrame as Resp3, VerbatimStringFormat};

use super::reply::Reply;

/// What HELLO chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    #[default]
    Resp2,
    Resp3,
}

impl Version {
    pub fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Appends one reply.
pub fn encode(reply: &Reply, version: Version, out: &mut BytesMut) {
    match reply {
        Reply::Simple(text) => line(b'+', text.as_bytes(), out),
        Reply::Error(text) => error(text, out),
        Reply::Integer(n) => integer(b':', *n, out),
        Reply::Bulk(bytes) => bulk(bytes, out),
        Reply::Null if version == Version::Resp2 => out.put_slice(b"$-1\r\n"),
        Reply::NullArray if version == Version::Resp2 => out.put_slice(b"*-1\r\n"),
        Reply::Null | Reply::NullArray => out.put_slice(b"_\r\n"),
        Reply::Array(items) => aggregate(b'*', items, version, out),
        Reply::Set(items) => aggregate(narrow(version, b'~'), items, version, out),
        Reply::Push(items) => aggregate(narrow(version, b'>'), items, version, out),
        Reply::Map(fields) => {
            let width = if version == Version::Resp2 { 2 } else { 1 };
            length(narrow(version, b'%'), fields.len() * width, out);
            for (name, value) in fields {
                encode(name, version, out);
                encode(value, version, out);
            }
        }
        Reply::Double(value) if version == Version::Resp2 => bulk(double(*value).as_bytes(), out),
        Reply::Double(value) => line(b',', double(*value).as_bytes(), out),
        Reply::Boolean(value) if version == Version::Resp2 => integer(b':', (*value).into(), out),
        Reply::Boolean(value) => {
            through_resp3(&Resp3::Boolean { data: *value, attributes: None }, out);
        }
        Reply::Verbatim(text) if version == Version::Resp2 => bulk(text, out),
        Reply::Verbatim(text) => {
            let format = VerbatimStringFormat::Text;
            through_resp3(&Resp3::VerbatimString { data: text, format, attributes: None }, out);
        }
    }
}

/// An error line is the same in both versions. Texts may quote what a client sent, so CR and LF are taken out here,
/// once for all.
fn error(text: &str, out: &mut BytesMut) {
    let clean = if text.contains(['\r', '\n']) {
        std::borrow::Cow::Owned(text.replace(['\r', '\n'], " "))
    } else {
        text.into()
    };
    if resp2::extend_encode_borrowed(out, &Resp2::Error(&clean), false).is_err() {
        // The crate fails only for frames that a version cannot say; this one it can.
        line(b'-', clean.as_bytes(), out);
    }
}

fn through_resp3(frame: &Resp3<'_>, out: &mut BytesMut) {
    let encoded = resp3::extend_encode_borrowed(out, frame, false);
    debug_assert!(encoded.is_ok(), "scalars always encode: {encoded:?}");
}

/// RESP2 has one aggregate.
fn narrow(version: Version, kind: u8) -> u8 {
    if version == Version::Resp2 { b'*' } else { kind }
}

fn aggregate(kind: u8, items: &[Reply], version: Version, out: &mut BytesMut) {
    length(kind, items.len(), out);
    for item in items {
        encode(item, version, out);
    }
}

fn bulk(bytes: &[u8], out: &mut BytesMut) {
    // The length line takes at most 23 bytes.
    out.reserve(bytes.len() + 32);
    length(b'$', bytes.len(), out);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn line(kind: u8, text: &[u8], out: &mut BytesMut) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

fn integer(kind: u8, n: i64, out: &mut BytesMut) {
    line(kind, itoa::Buffer::new().format(n).as_bytes(), out);
}

fn length(kind: u8, n: usize, out: &mut BytesMut) {
    line(kind, itoa::Buffer::new().format(n).as_bytes(), out);
}

/// The shortest digits that read back as the same number, laid out as Redis does: plain up to 21 digits, an exponent
/// beyond.
fn double(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-7..1e21).contains(&magnitude) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn text(reply: &Reply, version: Version) -> String {
        let mut out = BytesMut::new();
        encode(reply, version, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_reply_in_both_versions() {
        for (reply, two, three) in [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::Error("ERR a\r\nb".into()), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (Reply::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (Reply::bulk("ab"), "$2\r\nab\r\n", "$2\r\nab\r\n"),
            (Reply::bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (Reply::NullArray, "*-1\r\n", "_\r\n"),
            (Reply::Array(vec![Reply::Null]), "*1\r\n$-1\r\n", "*1\r\n_\r\n"),
            (
                Reply::Map(vec![(Reply::bulk("a"), 1.into())]),
                "*2\r\n$1\r\na\r\n:1\r\n",
                "%1\r\n$1\r\na\r\n:1\r\n",
            ),
            (Reply::Set(vec![1.into()]), "*1\r\n:1\r\n", "~1\r\n:1\r\n"),
            (Reply::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (Reply::Double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
            (Reply::Boolean(true), ":1\r\n", "#t\r\n"),
            (Reply::Boolean(false), ":0\r\n", "#f\r\n"),
            (Reply::Verbatim("hi".into()), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (Reply::Push(vec![]), "*0\r\n", ">0\r\n"),
        ] {
            assert_eq!(text(&reply, Version::Resp2), two, "{reply:?}");
            assert_eq!(text(&reply, Version::Resp3), three, "{reply:?}");
        }
    }

    #[test]
    fn doubles_look_as_in_redis() {
        for (value, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e20, "100000000000000000000"),
            (1e300, "1e+300"),
            (1e-9, "1e-9"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    impl From<i64> for Reply {
        fn from(n: i64) -> Self {
            Self::Integer(n)
        }
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Reply::Integer),
            prop::collection::vec(any::<u8>(), 0..16).prop_map(|b| Reply::Bulk(Bytes::from(b))),
            "[ -~\r\n]{0,16}".prop_map(|t| Reply::Error(t.into())),
            Just(Reply::Null),
            Just(Reply::NullArray),
            Just(Reply::OK),
            any::<bool>().prop_map(Reply::Boolean),
            any::<f64>().prop_map(Reply::Double),
            "[ -~]{0,16}".prop_map(|t| Reply::Verbatim(t.into())),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Reply::Array),
                prop::collection::vec("[a-z]{0,8}".prop_map(Reply::bulk), 0..4).prop_map(Reply::Set),
                prop::collection::vec(("[a-z]{0,8}".prop_map(Reply::bulk), inner), 0..4).prop_map(Reply::Map),
            ]
        })
    }

    proptest! {
        /// The crate reads back exactly one frame, as long as what was written.
        #[test]
        fn the_redis_protocol_crate_reads_it(reply in any_reply()) {
            let mut out = BytesMut::new();
            encode(&reply, Version::Resp2, &mut out);
            let (_, used) = redis_protocol::resp2::decode::decode(&out).unwrap().unwrap();
            prop_assert_eq!(used, out.len());
            out.clear();
            encode(&reply, Version::Resp3, &mut out);
            let (_, used) = redis_protocol::resp3::decode::complete::decode(&out).unwrap().unwrap();
            prop_assert_eq!(used, out.len());
        }
    }
}
