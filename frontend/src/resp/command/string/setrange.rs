//! `SETRANGE key offset value`

use bytes::{Bytes, BytesMut};

use super::{check_length, length};
use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::{Stored, update};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};

pub(super) const SETRANGE: Spec = Spec {
    name: "setrange",
    arity: 4,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::FIRST,
    group: "string",
    summary: "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.",
    since: "2.2.0",
    complexity: "O(N) where N is the length of the resulting value.",
    notes: "The whole value is written again, so the cost is that of its length, not of the part.",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let offset = args.next_i64()?;
    let part = args.next_bytes()?;
    args.finish()?;
    let offset = usize::try_from(offset).map_err(|_| CommandError::text("ERR offset is out of range"))?;
    let max = coordinator.value_bytes_max();
    Ok(update(coordinator, key, move |stored, _| {
        let old = stored.as_ref().map_or(Bytes::new(), |s| s.data.clone());
        if part.is_empty() {
            return Ok((Change::Keep, length(&old)));
        }
        let data = overwritten(&old, offset, &part, max)?;
        let reply = length(&data);
        Ok((Stored::rewrite(stored.as_ref(), data), reply))
    }))
}

/// `old` with `part` at `offset`; a gap between them is filled with zeros.
fn overwritten(old: &[u8], offset: usize, part: &[u8], max: usize) -> Result<Bytes, CommandError> {
    check_length(offset, part.len(), max)?;
    let end = offset + part.len();
    let mut data = BytesMut::zeroed(old.len().max(end));
    data[..old.len()].copy_from_slice(old);
    data[offset..end].copy_from_slice(part);
    Ok(data.freeze())
}

#[cfg(test)]
mod tests {
    use super::overwritten;
    use crate::resp::command::testing::Gateway;

    #[test]
    fn setrange_overwrites_and_pads() {
        Gateway::check(
            r#"
            setrange k 5 "" => :0
            exists k => :0
            setrange k 2 ab => :4
            get k => "\x00\x00ab"
            setrange k 0 xy => :4
            get k => "xyab"
            setrange k 3 "12" => :5
            setrange k 100 "" => :5
            get k => "xya12"
            pexpire k 100 => :1
            setrange k 7 z => :8
            pexpiretime k => :1700000000100
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            setrange k -1 v => -ERR offset is out of range
            setrange k abc v => -ERR value is not an integer or out of range
            setrange k 536870912 v => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
            setrange k 9223372036854775807 v => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
            setrange k 536870912 "" => :0
            exists k => :0
            "#,
        );
    }

    #[test]
    fn the_limit_is_on_the_result() {
        assert!(overwritten(b"", 3, b"ab", 5).is_ok());
        assert!(overwritten(b"", 4, b"ab", 5).is_err());
        assert!(overwritten(b"", usize::MAX, b"ab", usize::MAX).is_err());
    }
}
