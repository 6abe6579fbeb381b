//! `SETBIT key offset value`, `GETBIT key offset`

use bytes::Bytes;

use super::{BITS_PER_BYTE, grown, parse_bit_offset};
use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::{Stored, read, update};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const SETBIT: Spec = Spec {
    name: "setbit",
    arity: 4,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::FIRST,
    group: "bitmap",
    summary: "Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist.",
    since: "2.2.0",
    complexity: "O(N) where N is the length of the resulting value.",
    notes: "The whole value is written again, so the cost is that of its length. The offset must lie inside the \
            largest allowed value.",
    subcommands: &[],
    run: Handler::Data(setbit),
};

pub(super) const GETBIT: Spec = Spec {
    name: "getbit",
    arity: 3,
    flags: &[Flag::ReadOnly, Flag::Fast],
    keys: Keys::FIRST,
    group: "bitmap",
    summary: "Returns a bit value by offset.",
    since: "2.2.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(getbit),
};

fn setbit(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let offset = parse_bit_offset(&args.next_bytes()?, coordinator.value_bytes_max())?;
    let bit = match &*args.next_bytes()? {
        b"0" => false,
        b"1" => true,
        _ => return Err(CommandError::text("ERR bit is not an integer or out of range")),
    };
    args.finish()?;
    Ok(update(coordinator, key, move |stored, _| {
        let old = stored.as_ref().map_or(Bytes::new(), |s| s.data.clone());
        let before = bit_at(&old, offset);
        let reply = Reply::boolean_integer(before);
        // Setting a zero behind the end makes the string longer, so it is a change.
        if before == bit && offset / BITS_PER_BYTE < old.len() {
            return Ok((Change::Keep, reply));
        }
        let mut data = grown(&old, offset / BITS_PER_BYTE + 1);
        let mask = 0x80 >> (offset % BITS_PER_BYTE);
        if bit {
            data[offset / BITS_PER_BYTE] |= mask;
        } else {
            data[offset / BITS_PER_BYTE] &= !mask;
        }
        Ok((Stored::rewrite(stored.as_ref(), data), reply))
    }))
}

fn getbit(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let offset = parse_bit_offset(&args.next_bytes()?, coordinator.value_bytes_max())?;
    args.finish()?;
    Ok(read(coordinator, key, move |stored| {
        Ok(Reply::boolean_integer(stored.is_some_and(|s| bit_at(&s.data, offset))))
    }))
}

/// Behind the end all bits are 0.
fn bit_at(data: &[u8], offset: usize) -> bool {
    let byte = data.get(offset / BITS_PER_BYTE).unwrap_or(&0);
    byte & (0x80 >> (offset % BITS_PER_BYTE)) != 0
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn setbit_and_getbit() {
        Gateway::check(
            r#"
            getbit k 0 => :0
            setbit k 7 1 => :0
            get k => "\x01"
            setbit k 7 0 => :1
            setbit k 7 0 => :0
            get k => "\x00"
            setbit k 17 1 => :0
            get k => "\x00\x00@"
            getbit k 17 => :1
            getbit k 100000 => :0
            setbit k 31 0 => :0
            strlen k => :4
            pexpire k 100 => :1
            setbit k 0 1 => :0
            pexpiretime k => :1700000000100
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            setbit k -1 1 => -ERR bit offset is not an integer or out of range
            setbit k abc 1 => -ERR bit offset is not an integer or out of range
            setbit k 4294967296 1 => -ERR bit offset is not an integer or out of range
            setbit k 9223372036854775807 1 => -ERR bit offset is not an integer or out of range
            setbit k 0 2 => -ERR bit is not an integer or out of range
            setbit k 0 -1 => -ERR bit is not an integer or out of range
            setbit k 0 x => -ERR bit is not an integer or out of range
            setbit k -1 x => -ERR bit offset is not an integer or out of range
            getbit k -1 => -ERR bit offset is not an integer or out of range
            getbit k 4294967296 => -ERR bit offset is not an integer or out of range
            exists k => :0
            "#,
        );
    }

    #[test]
    fn the_last_legal_offset_is_the_last_bit_of_the_largest_value() {
        let max = 64 * 1024 * 1024 * 8;
        Gateway::check(&format!(
            "getbit k {} => :0\ngetbit k {max} => -ERR bit offset is not an integer or out of range",
            max - 1
        ));
    }
}
