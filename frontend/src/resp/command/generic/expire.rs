//! `EXPIRE key seconds [NX | XX | GT | LT]`, and `PEXPIRE`, `EXPIREAT`, `PEXPIREAT`; `PERSIST key`

use tercet_common::{Content, Row, UnixMillis};

use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::update_row;
use crate::resp::command::ttl::{Base, Deadline, Unit};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, quoted};
use crate::resp::reply::Reply;

pub(super) const EXPIRE: Spec = Spec {
    name: "expire",
    arity: -3,
    flags: &[Flag::Write, Flag::Fast],
    keys: Keys::FIRST,
    group: "generic",
    summary: "Sets the expiration time of a key in seconds.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Seconds, Base::Now, EXPIRE.name)),
};

pub(super) const PEXPIRE: Spec = Spec {
    name: "pexpire",
    summary: "Sets the expiration time of a key in milliseconds.",
    since: "2.6.0",
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Millis, Base::Now, PEXPIRE.name)),
    ..EXPIRE
};

pub(super) const EXPIREAT: Spec = Spec {
    name: "expireat",
    summary: "Sets the expiration time of a key to a Unix timestamp.",
    since: "1.2.0",
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Seconds, Base::Epoch, EXPIREAT.name)),
    ..EXPIRE
};

pub(super) const PEXPIREAT: Spec = Spec {
    name: "pexpireat",
    summary: "Sets the expiration time of a key to a Unix milliseconds timestamp.",
    since: "2.6.0",
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Millis, Base::Epoch, PEXPIREAT.name)),
    ..EXPIRE
};

pub(super) const PERSIST: Spec = Spec {
    name: "persist",
    arity: 2,
    summary: "Removes the expiration time of a key.",
    since: "2.2.0",
    run: Handler::Data(persist),
    ..EXPIRE
};

/// When the new time is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Condition {
    /// Only if the key has none.
    nx: bool,
    /// Only if the key has one.
    xx: bool,
    /// Only if it is later; none counts as the latest.
    gt: bool,
    /// Only if it is earlier.
    lt: bool,
}

impl Condition {
    fn parse(args: &mut Args) -> Result<Self, CommandError> {
        let mut this = Self::default();
        while let Some(option) = args.peek().cloned() {
            if args.take_keyword("NX") {
                this.nx = true;
            } else if args.take_keyword("XX") {
                this.xx = true;
            } else if args.take_keyword("GT") {
                this.gt = true;
            } else if args.take_keyword("LT") {
                this.lt = true;
            } else {
                return Err(CommandError::text(format!("ERR Unsupported option {}", quoted(&option))));
            }
        }
        if this.nx && (this.xx || this.gt || this.lt) {
            return Err(CommandError::text(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if this.gt && this.lt {
            return Err(CommandError::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(this)
    }

    fn allows(self, old: Option<UnixMillis>, new: UnixMillis) -> bool {
        let refused = self.nx && old.is_some()
            || self.xx && old.is_none()
            || self.gt && old.is_none_or(|old| new <= old)
            || self.lt && old.is_some_and(|old| new >= old);
        !refused
    }
}

fn run(
    coordinator: &Coordinator,
    mut args: Args,
    unit: Unit,
    base: Base,
    name: &str,
) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let number = args.next_bytes()?;
    let condition = Condition::parse(&mut args)?;
    let number = super::super::parse_i64(&number).ok_or(CommandError::NOT_AN_INTEGER)?;
    let deadline = Deadline::new(number, unit, base, name)?;
    Ok(update_row(coordinator, key, move |row, now| {
        let change = row.and_then(|row| retime(row, condition, deadline.at(now), now));
        Ok(answer(change))
    }))
}

/// A time that has passed deletes the key.
fn retime(row: &Row, condition: Condition, at: UnixMillis, now: UnixMillis) -> Option<Content> {
    let Content::Value { data_type, data, expires_at } = &row.content else { return None };
    if !condition.allows(*expires_at, at) {
        return None;
    }
    let content = Content::Value { data_type: *data_type, data: data.clone(), expires_at: Some(at) };
    Some(if content.is_live(now) { content } else { Content::Tombstone })
}

fn persist(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    Ok(update_row(coordinator, key, |row, _| {
        let change = match row.map(|row| &row.content) {
            Some(Content::Value { data_type, data, expires_at: Some(_) }) => {
                Some(Content::Value { data_type: *data_type, data: data.clone(), expires_at: None })
            }
            _ => None,
        };
        Ok(answer(change))
    }))
}

fn answer(change: Option<Content>) -> (Change, Reply) {
    match change {
        Some(content) => (Change::Write(content), Reply::Integer(1)),
        None => (Change::Keep, Reply::Integer(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command::testing::Gateway;

    #[test]
    fn four_ways_to_say_when() {
        Gateway::check(
            r#"
            expire k 10 => :0
            set k v => +OK
            expire k 10 => :1
            pexpiretime k => :1700000010000
            pexpire k 10 => :1
            pexpiretime k => :1700000000010
            expireat k 4000000000 => :1
            pexpiretime k => :4000000000000
            pexpireat k 4000000000001 => :1
            pexpiretime k => :4000000000001
            persist k => :1
            persist k => :0
            persist missing => :0
            pexpiretime k => :-1
            get k => "v"
            "#,
        );
    }

    #[test]
    fn a_time_in_the_past_deletes() {
        for command in
            ["expire k 0", "expire k -1", "pexpire k -9223372036854775808", "expireat k 1", "pexpireat k 0"]
        {
            Gateway::check(&format!("set k v => +OK\n{command} => :1\nexists k => :0\n{command} => :0"));
        }
    }

    #[test]
    fn conditions() {
        let (early, late) = (Some(UnixMillis(10)), Some(UnixMillis(20)));
        let none = Condition::default();
        for (condition, old, new, allowed) in [
            (none, None, 20, true),
            (none, late, 10, true),
            (Condition { nx: true, ..none }, None, 20, true),
            (Condition { nx: true, ..none }, early, 20, false),
            (Condition { xx: true, ..none }, None, 20, false),
            (Condition { xx: true, ..none }, early, 20, true),
            (Condition { gt: true, ..none }, early, 20, true),
            (Condition { gt: true, ..none }, late, 20, false),
            (Condition { gt: true, ..none }, None, 20, false),
            (Condition { lt: true, ..none }, late, 10, true),
            (Condition { lt: true, ..none }, early, 10, false),
            (Condition { lt: true, ..none }, None, 10, true),
            (Condition { xx: true, lt: true, ..none }, None, 10, false),
        ] {
            assert_eq!(condition.allows(old, UnixMillis(new)), allowed, "{condition:?} {old:?} {new}");
        }
        Gateway::check(
            r#"
            set k v => +OK
            expire k 10 xx => :0
            expire k 10 gt => :0
            expire k 10 nx => :1
            expire k 20 nx => :0
            expire k 20 lt => :0
            expire k 20 gt => :1
            pexpiretime k => :1700000020000
            expire k 15 xx LT => :1
            pexpiretime k => :1700000015000
            expire k -1 gt => :0
            expire k -1 lt => :1
            exists k => :0
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            set k v => +OK
            expire k => -ERR wrong number of arguments for 'expire' command
            expire k abc => -ERR value is not an integer or out of range
            expire k 10 nonsense => -ERR Unsupported option nonsense
            expire k abc "a\x00b" => -ERR Unsupported option a
            expire k 10 nx xx => -ERR NX and XX, GT or LT options at the same time are not compatible
            expire k 10 nx gt => -ERR NX and XX, GT or LT options at the same time are not compatible
            expire k 10 gt lt => -ERR GT and LT options at the same time are not compatible
            expire k 9223372036854775807 => -ERR invalid expire time in 'expire' command
            expire k 9223372036854775 => -ERR invalid expire time in 'expire' command
            expire k -9223372036854775808 => -ERR invalid expire time in 'expire' command
            pexpire k 9223372036854775807 => -ERR invalid expire time in 'pexpire' command
            expireat k 9223372036854775807 => -ERR invalid expire time in 'expireat' command
            pexpireat k 9223372036854775807 => :1
            "#,
        );
    }
}
