//! `INCR key`, `DECR key`, `INCRBY key increment`, `DECRBY key decrement`

use bytes::Bytes;
use tercet_common::Key;

use crate::coordinator::Coordinator;
use crate::resp::command::access::{Stored, update};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, parse_i64};
use crate::resp::reply::Reply;

pub(super) const INCR: Spec = Spec {
    name: "incr",
    arity: 2,
    flags: &[Flag::Write, Flag::DenyOom, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(|coordinator, mut args| {
        let key = args.next_key()?;
        args.finish()?;
        Ok(add(coordinator, key, 1))
    }),
};

pub(super) const DECR: Spec = Spec {
    name: "decr",
    summary: "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.",
    run: Handler::Data(|coordinator, mut args| {
        let key = args.next_key()?;
        args.finish()?;
        Ok(add(coordinator, key, -1))
    }),
    ..INCR
};

pub(super) const INCRBY: Spec = Spec {
    name: "incrby",
    arity: 3,
    summary: "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist.",
    run: Handler::Data(|coordinator, mut args| {
        let (key, increment) = key_and_number(&mut args)?;
        Ok(add(coordinator, key, increment))
    }),
    ..INCR
};

pub(super) const DECRBY: Spec = Spec {
    name: "decrby",
    arity: 3,
    summary: "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist.",
    run: Handler::Data(|coordinator, mut args| {
        let (key, decrement) = key_and_number(&mut args)?;
        let increment = decrement.checked_neg().ok_or(CommandError::text("ERR decrement would overflow"))?;
        Ok(add(coordinator, key, increment))
    }),
    ..INCR
};

fn key_and_number(args: &mut Args) -> Result<(Key, i64), CommandError> {
    let key = args.next_key()?;
    let number = args.next_i64()?;
    args.finish()?;
    Ok((key, number))
}

fn add(coordinator: &Coordinator, key: Key, increment: i64) -> Pending {
    update(coordinator, key, move |stored, _| {
        let old = match &stored {
            None => 0,
            Some(stored) => parse_i64(&stored.data).ok_or(CommandError::NOT_AN_INTEGER)?,
        };
        let new = old
            .checked_add(increment)
            .ok_or(CommandError::text("ERR increment or decrement would overflow"))?;
        let text = Bytes::copy_from_slice(itoa::Buffer::new().format(new).as_bytes());
        Ok((Stored::rewrite(stored.as_ref(), text), Reply::Integer(new)))
    })
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn counting() {
        Gateway::check(
            r#"
            incr k => :1
            incrby k 41 => :42
            decr k => :41
            decrby k 42 => :-1
            decrby k -2 => :1
            get k => "1"
            pexpire k 100 => :1
            incr k => :2
            pexpiretime k => :1700000000100
            @advance 100
            decr k => :-1
            pexpiretime k => :-1
            "#,
        );
    }

    #[test]
    fn the_ends_of_64_bits() {
        Gateway::check(
            r#"
            set k 9223372036854775806 => +OK
            incr k => :9223372036854775807
            incr k => -ERR increment or decrement would overflow
            incrby k 9223372036854775807 => -ERR increment or decrement would overflow
            get k => "9223372036854775807"
            set k -9223372036854775808 => +OK
            decr k => -ERR increment or decrement would overflow
            decrby k -9223372036854775808 => -ERR decrement would overflow
            incrby k -9223372036854775808 => -ERR increment or decrement would overflow
            incrby k 9223372036854775807 => :-1
            "#,
        );
    }

    #[test]
    fn what_is_no_integer() {
        Gateway::check(
            r#"
            incrby k 1.0 => -ERR value is not an integer or out of range
            incrby k "" => -ERR value is not an integer or out of range
            incrby k 9223372036854775808 => -ERR value is not an integer or out of range
            exists k => :0
            set k " 1" => +OK
            incr k => -ERR value is not an integer or out of range
            set k 01 => +OK
            incr k => -ERR value is not an integer or out of range
            set k "" => +OK
            incr k => -ERR value is not an integer or out of range
            set k "1\x00" => +OK
            incr k => -ERR value is not an integer or out of range
            get k => "1\x00"
            "#,
        );
    }
}
