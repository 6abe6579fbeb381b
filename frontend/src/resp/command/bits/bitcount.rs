//! `BITCOUNT key [start end [BYTE | BIT]]`

use super::range::{BitRange, Unit};
use crate::coordinator::Coordinator;
use crate::resp::command::access::read;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const BITCOUNT: Spec = Spec {
    name: "bitcount",
    arity: -2,
    flags: &[Flag::ReadOnly],
    keys: Keys::FIRST,
    group: "bitmap",
    summary: "Counts the number of set bits (population counting) in a string.",
    since: "2.6.0",
    complexity: "O(N)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let range = match args.len() {
        0 => None,
        2 | 3 => Some((args.next_i64()?, args.next_i64()?, Unit::parse(&mut args)?)),
        _ => return Err(CommandError::SYNTAX),
    };
    Ok(read(coordinator, key, move |stored| {
        let Some(stored) = stored else { return Ok(Reply::Integer(0)) };
        let range = match range {
            None => BitRange::all(stored.data.len()),
            Some((start, end, _)) if start < 0 && end < 0 && start > end => return Ok(Reply::Integer(0)),
            Some((start, end, unit)) => BitRange::clamp(start, end, unit, stored.data.len()),
        };
        let ones = range.bytes(&stored.data).map(|(_, byte, mask)| i64::from((byte & mask).count_ones()));
        Ok(Reply::Integer(ones.sum()))
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn counting_bits() {
        Gateway::check(
            r#"
            bitcount missing => :0
            bitcount missing 0 -1 => :0
            set k foobar => +OK
            bitcount k => :26
            bitcount k 0 0 => :4
            bitcount k 1 1 => :6
            bitcount k 1 1 byte => :6
            bitcount k 5 30 BIT => :17
            bitcount k 0 -1 bit => :26
            bitcount k -6 -7 => :0
            bitcount k -7 -100 => :0
            bitcount k -100 -7 => :4
            bitcount k 4 2 => :0
            bitcount k 100 200 => :0
            bitcount k -9223372036854775808 9223372036854775807 => :26
            bitcount k 9223372036854775807 9223372036854775807 bit => :0
            bitcount k -2 -2 bit => :1
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            set k v => +OK
            bitcount k 0 => -ERR syntax error
            bitcount k 0 1 hello => -ERR syntax error
            bitcount k 0 1 bit more => -ERR syntax error
            bitcount k a b bit more => -ERR syntax error
            bitcount k a 1 => -ERR value is not an integer or out of range
            bitcount k 0 b => -ERR value is not an integer or out of range
            "#,
        );
    }
}
