//! `BITFIELD key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] (SET type offset value | INCRBY type offset increment) …]`
//! and `BITFIELD_RO key [GET type offset …]`

use bytes::Bytes;

use super::field::{FieldType, Overflow};
use super::{BIT_OFFSET, BITS_PER_BYTE, bit_offset, grown};
use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::{Stored, read, update};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, parse_i64};
use crate::resp::reply::Reply;

pub(super) const BITFIELD: Spec = Spec {
    name: "bitfield",
    arity: -2,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::FIRST,
    group: "bitmap",
    summary: "Performs arbitrary bitfield integer operations on strings.",
    since: "3.2.0",
    complexity: "O(N) where N is the length of the resulting value plus the number of operations.",
    notes: "One command is one atomic change of the whole value. With GET alone it is a read.",
    subcommands: &[],
    run: Handler::Data(bitfield),
};

pub(super) const BITFIELD_RO: Spec = Spec {
    name: "bitfield_ro",
    flags: &[Flag::ReadOnly, Flag::Fast],
    summary: "Performs arbitrary read-only bitfield integer operations on strings.",
    since: "6.0.0",
    notes: "",
    run: Handler::Data(bitfield_ro),
    ..BITFIELD
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operation {
    field: FieldType,
    /// Of the field's first bit.
    offset: usize,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Get,
    Set(i64, Overflow),
    Increment(i64, Overflow),
}

impl Operation {
    fn parse_all(args: &mut Args, value_bytes_max: usize) -> Result<Vec<Self>, CommandError> {
        let mut operations = Vec::new();
        let mut overflow = Overflow::default();
        while !args.is_empty() {
            if args.len() >= 3 && args.take_keyword("GET") {
                operations.push(Self::parse(args, value_bytes_max, |_| Ok(Action::Get))?);
            } else if args.len() >= 4 && args.take_keyword("SET") {
                let set = |args: &mut Args| Ok(Action::Set(args.next_i64()?, overflow));
                operations.push(Self::parse(args, value_bytes_max, set)?);
            } else if args.len() >= 4 && args.take_keyword("INCRBY") {
                let increment = |args: &mut Args| Ok(Action::Increment(args.next_i64()?, overflow));
                operations.push(Self::parse(args, value_bytes_max, increment)?);
            } else if args.len() >= 2 && args.take_keyword("OVERFLOW") {
                overflow = parse_overflow(args)?;
            } else {
                return Err(CommandError::SYNTAX);
            }
        }
        Ok(operations)
    }

    /// Type and offset, and then what `action` takes.
    fn parse(
        args: &mut Args,
        value_bytes_max: usize,
        action: impl FnOnce(&mut Args) -> Result<Action, CommandError>,
    ) -> Result<Self, CommandError> {
        let field = FieldType::parse(&args.next_bytes()?)?;
        let offset = parse_field_offset(&args.next_bytes()?, field, value_bytes_max)?;
        Ok(Self { field, offset, action: action(args)? })
    }

    fn end(self) -> usize {
        self.offset + self.field.bits()
    }

    fn apply(self, data: &mut [u8]) -> Reply {
        let old = self.field.get(data, self.offset);
        let (new, answer) = match self.action {
            Action::Get => return Reply::Integer(old),
            Action::Set(value, overflow) => {
                let new = self.field.fit_value(value, overflow);
                (new, new.map(|_| old))
            }
            Action::Increment(increment, overflow) => {
                let new = self.field.fit_sum(old, increment, overflow);
                (new, new)
            }
        };
        if let Some(new) = new {
            self.field.set(data, self.offset, new);
        }
        answer.map_or(Reply::Null, Reply::Integer)
    }
}

fn parse_overflow(args: &mut Args) -> Result<Overflow, CommandError> {
    if args.take_keyword("WRAP") {
        Ok(Overflow::Wrap)
    } else if args.take_keyword("SAT") {
        Ok(Overflow::Saturate)
    } else if args.take_keyword("FAIL") {
        Ok(Overflow::Fail)
    } else {
        Err(CommandError::text("ERR Invalid OVERFLOW type specified"))
    }
}

/// `17` is a bit, `#17` the field number 17 of this width.
fn parse_field_offset(text: &[u8], field: FieldType, value_bytes_max: usize) -> Result<usize, CommandError> {
    let (text, width) = match text.strip_prefix(b"#") {
        Some(number) => (number, i64::try_from(field.bits()).map_err(|_| BIT_OFFSET)?),
        None => (text, 1),
    };
    let number = parse_i64(text).and_then(|number| number.checked_mul(width)).ok_or(BIT_OFFSET)?;
    bit_offset(number, value_bytes_max)
}

fn bitfield(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let operations = Operation::parse_all(&mut args, coordinator.value_bytes_max())?;
    let writes = operations.iter().filter(|operation| operation.action != Action::Get);
    // As in Redis, even a write that fails on overflow makes the string as long as it would need.
    let Some(bits) = writes.map(|operation| operation.end()).max() else {
        return Ok(get_all(coordinator, key, operations));
    };
    Ok(update(coordinator, key, move |stored, _| {
        let old = stored.as_ref().map_or(Bytes::new(), |s| s.data.clone());
        let mut data = grown(&old, bits.div_ceil(BITS_PER_BYTE));
        let replies = operations.iter().map(|operation| operation.apply(&mut data)).collect();
        let change = if data == old { Change::Keep } else { Stored::rewrite(stored.as_ref(), data) };
        Ok((change, Reply::Array(replies)))
    }))
}

fn bitfield_ro(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let operations = Operation::parse_all(&mut args, coordinator.value_bytes_max())?;
    if operations.iter().any(|operation| operation.action != Action::Get) {
        return Err(CommandError::text("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    Ok(get_all(coordinator, key, operations))
}

fn get_all(coordinator: &Coordinator, key: tercet_common::Key, operations: Vec<Operation>) -> Pending {
    read(coordinator, key, move |stored| {
        let data = stored.map_or(Bytes::new(), |s| s.data);
        let get = |operation: &Operation| Reply::Integer(operation.field.get(&data, operation.offset));
        Ok(Reply::Array(operations.iter().map(get).collect()))
    })
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn reading_and_writing_fields() {
        Gateway::check(
            r#"
            bitfield k => []
            bitfield k get u8 0 get i8 #3 => [:0, :0]
            exists k => :0
            bitfield k set i8 0 -100 set u8 #1 200 get u16 0 => [:0, :0, :40136]
            get k => "\x9c\xc8"
            bitfield k set u8 #1 7 incrby i5 100 1 get u4 0 => [:200, :1, :9]
            strlen k => :14
            bitfield_ro k get i8 0 get u8 8 get i64 8 => [:-100, :7, :504403158265495552]
            bitfield_ro missing get i8 16 => [:0]
            bitfield_ro k => []
            bitfield k SET i64 0 -9223372036854775808 GET i64 0 => [:-7203789078955819008, :-9223372036854775808]
            pexpire k 100 => :1
            bitfield k incrby u8 0 1 => [:129]
            pexpiretime k => :1700000000100
            "#,
        );
    }

    #[test]
    fn overflow() {
        Gateway::check(
            r#"
            bitfield k incrby u2 100 1 OVERFLOW SAT incrby u2 102 1 => [:1, :1]
            bitfield k incrby u2 100 1 OVERFLOW SAT incrby u2 102 1 => [:2, :2]
            bitfield k incrby u2 100 1 OVERFLOW SAT incrby u2 102 1 => [:3, :3]
            bitfield k incrby u2 100 1 OVERFLOW SAT incrby u2 102 1 => [:0, :3]
            bitfield k overflow fail incrby u2 102 1 => [nil]
            bitfield k overflow fail set u8 0 256 overflow wrap set u8 0 257 => [nil, :0]
            bitfield k get u8 0 => [:1]
            bitfield k overflow sat set u8 0 -1 get u8 0 => [:1, :255]
            bitfield k overflow sat set i8 0 -200 get i8 0 => [:-1, :-128]
            bitfield k overflow sat incrby i8 0 -1 overflow wrap incrby i8 0 -1 => [:-128, :127]
            bitfield grown overflow fail incrby u1 7 2 => [nil]
            get grown => "\x00"
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            bitfield k get => -ERR syntax error
            bitfield k get u8 => -ERR syntax error
            bitfield k set u8 0 => -ERR syntax error
            bitfield k nonsense => -ERR syntax error
            bitfield k overflow => -ERR syntax error
            bitfield k overflow nonsense => -ERR Invalid OVERFLOW type specified
            bitfield k get u64 0 => -ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.
            bitfield k get u8 -1 => -ERR bit offset is not an integer or out of range
            bitfield k get u8 #-1 => -ERR bit offset is not an integer or out of range
            bitfield k get u8 x => -ERR bit offset is not an integer or out of range
            bitfield k get u8 4294967296 => -ERR bit offset is not an integer or out of range
            bitfield k get i64 #9223372036854775807 => -ERR bit offset is not an integer or out of range
            bitfield k set u8 0 x => -ERR value is not an integer or out of range
            bitfield k set u8 0 1 get => -ERR syntax error
            bitfield_ro k set u8 0 1 => -ERR BITFIELD_RO only supports the GET subcommand
            bitfield_ro k get u8 0 incrby u8 0 1 => -ERR BITFIELD_RO only supports the GET subcommand
            exists k => :0
            "#,
        );
    }
}
