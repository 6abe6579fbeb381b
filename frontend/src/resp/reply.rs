//! What a command answers, before it is put into RESP2 or RESP3.

use std::borrow::Cow;

use bytes::Bytes;

/// A reply in RESP3 terms. The encoder narrows it for RESP2 clients: maps and sets become arrays, doubles bulk
/// strings, booleans integers, nulls the null bulk string.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// `+OK`
    Simple(Cow<'static, str>),
    /// `-ERR …`: prefix and text, without CR or LF.
    Error(Cow<'static, str>),
    Integer(i64),
    Bulk(Bytes),
    /// `_` in RESP3, `$-1` in RESP2.
    Null,
    /// `_` in RESP3, `*-1` in RESP2.
    NullArray,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
    Double(f64),
    Boolean(bool),
    /// Text that a client shows as it is (`txt`).
    Verbatim(Bytes),
    /// Out of band, RESP3 only.
    Push(Vec<Reply>),
}

impl Reply {
    pub const OK: Self = Self::Simple(Cow::Borrowed("OK"));

    pub fn bulk(bytes: impl Into<Bytes>) -> Self {
        Self::Bulk(bytes.into())
    }

    /// A bulk string, or null.
    pub fn bulk_or_null(bytes: Option<Bytes>) -> Self {
        bytes.map_or(Self::Null, Self::Bulk)
    }

    pub fn boolean_integer(value: bool) -> Self {
        Self::Integer(value.into())
    }
}
