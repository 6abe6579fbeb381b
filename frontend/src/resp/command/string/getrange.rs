//! `GETRANGE key start end`, and its old name `SUBSTR`.

use std::ops::Range;

use bytes::Bytes;

use crate::coordinator::Coordinator;
use crate::resp::command::access::read;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const GETRANGE: Spec = Spec {
    name: "getrange",
    arity: 4,
    flags: &[Flag::ReadOnly],
    keys: Keys::FIRST,
    group: "string",
    summary: "Returns a substring of the string stored at a key.",
    since: "2.4.0",
    complexity: "O(N) where N is the length of the value.",
    notes: "The whole value travels from a replica, and then a part of it to the client.",
    subcommands: &[],
    run: Handler::Data(run),
};

pub(super) const SUBSTR: Spec =
    Spec { name: "substr", summary: "Returns a substring from a string value.", since: "1.0.0", ..GETRANGE };

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let start = args.next_i64()?;
    let end = args.next_i64()?;
    args.finish()?;
    Ok(read(coordinator, key, move |stored| {
        let data = stored.map_or(Bytes::new(), |s| s.data);
        Ok(Reply::Bulk(data.slice(clamp(start, end, data.len()))))
    }))
}

/// Redis's inclusive range, in which negative indexes count from the end, as a range of bytes.
///
/// An index that lies before the first byte means the first byte, even as the end: `GETRANGE k -9 -8` of a shorter
/// string is its first byte. Only `start > end` as the client wrote them, both negative, is empty whatever the length.
fn clamp(start: i64, end: i64, len: usize) -> Range<usize> {
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let absolute = |index: i64| {
        let distance = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
        if index < 0 { len.saturating_sub(distance) } else { distance }
    };
    let (start, end) = (absolute(start), absolute(end).saturating_add(1).min(len));
    if start < end { start..end } else { 0..0 }
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn indexes() {
        Gateway::check(
            r#"
            getrange missing 0 -1 => ""
            set k "hello world" => +OK
            getrange k 0 4 => "hello"
            getrange k 0 -1 => "hello world"
            substr k -5 -1 => "world"
            getrange k -5 -2 => "worl"
            getrange k 5 5 => " "
            getrange k 5 4 => ""
            getrange k 11 20 => ""
            getrange k 10 20 => "d"
            getrange k -100 3 => "hell"
            getrange k -100 -50 => "h"
            getrange k -50 -100 => ""
            getrange k 3 -100 => ""
            getrange k 0 -100 => "h"
            getrange k -1 -5 => ""
            getrange k 0 9223372036854775807 => "hello world"
            getrange k -9223372036854775808 9223372036854775807 => "hello world"
            getrange k 9223372036854775807 9223372036854775807 => ""
            set k "" => +OK
            getrange k 0 -1 => ""
            getrange k 0 0 => ""
            getrange k a 0 => -ERR value is not an integer or out of range
            getrange k 0 1.0 => -ERR value is not an integer or out of range
            substr k 0 => -ERR wrong number of arguments for 'substr' command
            "#,
        );
    }
}
