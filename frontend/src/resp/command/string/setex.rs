//! `SETEX key seconds value`, `PSETEX key milliseconds value`, `SETNX key value`: SET's older spellings.

use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::update_row;
use crate::resp::command::ttl::{Base, Deadline, Unit};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;
use tercet_common::{Content, UnixMillis};

pub(super) const SETEX: Spec = Spec {
    name: "setex",
    arity: 4,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::FIRST,
    group: "string",
    summary: "Sets the string value and expiration time of a key. Creates the key if it doesn't exist.",
    since: "2.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(|coordinator, args| set_for(coordinator, args, Unit::Seconds, SETEX.name)),
};

pub(super) const PSETEX: Spec = Spec {
    name: "psetex",
    arity: 4,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::FIRST,
    group: "string",
    summary: "Sets both string value and expiration time in milliseconds of a key. The key is created if it \
              doesn't exist.",
    since: "2.6.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(|coordinator, args| set_for(coordinator, args, Unit::Millis, PSETEX.name)),
};

pub(super) const SETNX: Spec = Spec {
    name: "setnx",
    arity: 3,
    flags: &[Flag::Write, Flag::DenyOom, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Set the string value of a key only when the key doesn't exist.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(set_if_missing),
};

fn set_for(
    coordinator: &Coordinator,
    mut args: Args,
    unit: Unit,
    name: &str,
) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let number = args.next_bytes()?;
    let value = args.next_bytes()?;
    args.finish()?;
    let deadline = Deadline::parse(&number, unit, Base::Now, name)?;
    Ok(super::set::put(coordinator, key, value, Some(deadline)))
}

fn set_if_missing(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let value = args.next_bytes()?;
    args.finish()?;
    Ok(if_missing(coordinator, key, value))
}

/// Answers 1 if the key was missing and has the value now, else 0.
pub(super) fn if_missing(coordinator: &Coordinator, key: tercet_common::Key, value: bytes::Bytes) -> Pending {
    update_row(coordinator, key, move |row, _: UnixMillis| {
        Ok(match row {
            Some(_) => (Change::Keep, Reply::Integer(0)),
            None => (Change::Write(Content::string(value.clone(), None)), Reply::Integer(1)),
        })
    })
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn setex_and_psetex_set_with_a_time_to_live() {
        Gateway::check(
            r#"
            setex k 10 v => +OK
            get k => "v"
            pexpiretime k => :1700000010000
            psetex k 1500 w => +OK
            pexpiretime k => :1700000001500
            @advance 1500
            get k => nil
            setex k 0 v => -ERR invalid expire time in 'setex' command
            setex k -1 v => -ERR invalid expire time in 'setex' command
            psetex k 0 v => -ERR invalid expire time in 'psetex' command
            psetex k 9223372036854775807 v => -ERR invalid expire time in 'psetex' command
            setex k abc v => -ERR value is not an integer or out of range
            setex k 10 => -ERR wrong number of arguments for 'setex' command
            exists k => :0
            "#,
        );
    }

    #[test]
    fn setnx_sets_a_missing_key_only() {
        Gateway::check(
            r#"
            setnx k a => :1
            setnx k b => :0
            get k => "a"
            pexpire k 10 => :1
            @advance 10
            setnx k c => :1
            pexpiretime k => :-1
            "#,
        );
    }
}
