//! `APPEND key value`, `STRLEN key`

use bytes::{Bytes, BytesMut};

use super::check_length;
use crate::coordinator::Coordinator;
use crate::resp::command::access::{Stored, read, update};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};

pub(super) const APPEND: Spec = Spec {
    name: "append",
    arity: 3,
    flags: &[Flag::Write, Flag::DenyOom, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Appends a string to the value of a key. Creates the key if it doesn't exist.",
    since: "2.0.0",
    complexity: "O(N) where N is the length of the resulting value.",
    notes: "The whole value is written again, so the cost is that of its length, not of the appended part.",
    subcommands: &[],
    run: Handler::Data(append),
};

pub(super) const STRLEN: Spec = Spec {
    name: "strlen",
    arity: 2,
    flags: &[Flag::ReadOnly, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Returns the length of a string value.",
    since: "2.2.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(strlen),
};

fn append(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let tail = args.next_bytes()?;
    args.finish()?;
    let max = coordinator.value_bytes_max();
    Ok(update(coordinator, key, move |stored, _| {
        let data = joined(stored.as_ref().map_or(&[], |s| &s.data), &tail, max)?;
        let reply = super::length(&data);
        Ok((Stored::rewrite(stored.as_ref(), data), reply))
    }))
}

fn joined(head: &[u8], tail: &Bytes, max: usize) -> Result<Bytes, CommandError> {
    check_length(head.len(), tail.len(), max)?;
    if head.is_empty() {
        return Ok(tail.clone());
    }
    let mut data = BytesMut::with_capacity(head.len() + tail.len());
    data.extend_from_slice(head);
    data.extend_from_slice(tail);
    Ok(data.freeze())
}

fn strlen(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    Ok(read(coordinator, key, |stored| Ok(super::length(&stored.map_or(Bytes::new(), |s| s.data)))))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::joined;
    use crate::resp::command::testing::Gateway;

    #[test]
    fn append_and_strlen() {
        Gateway::check(
            r#"
            strlen k => :0
            append k "a\x00" => :2
            append k "" => :2
            append k "\xff" => :3
            strlen k => :3
            get k => "a\x00\xff"
            append empty "" => :0
            exists empty => :1
            pexpire k 100 => :1
            append k z => :4
            pexpiretime k => :1700000000100
            @advance 100
            strlen k => :0
            append k z => :1
            pexpiretime k => :-1
            "#,
        );
    }

    #[test]
    fn append_stops_at_the_largest_value() {
        let text = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
        assert_eq!(joined(b"abc", &Bytes::from_static(b"de"), 5), Ok(Bytes::from_static(b"abcde")));
        assert_eq!(joined(b"abc", &Bytes::from_static(b"def"), 5).unwrap_err().line(), text);
    }
}
