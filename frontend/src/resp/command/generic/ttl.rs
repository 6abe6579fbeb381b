//! `TTL key`, `PTTL key`, `EXPIRETIME key`, `PEXPIRETIME key`

use tercet_common::{Row, UnixMillis};

use crate::coordinator::Coordinator;
use crate::resp::command::access::read_row;
use crate::resp::command::ttl::{Base, Unit};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const TTL: Spec = Spec {
    name: "ttl",
    arity: 2,
    flags: &[Flag::ReadOnly, Flag::Fast],
    keys: Keys::FIRST,
    group: "generic",
    summary: "Returns the expiration time in seconds of a key.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Seconds, Base::Now)),
};

pub(super) const PTTL: Spec = Spec {
    name: "pttl",
    summary: "Returns the expiration time in milliseconds of a key.",
    since: "2.6.0",
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Millis, Base::Now)),
    ..TTL
};

pub(super) const EXPIRETIME: Spec = Spec {
    name: "expiretime",
    summary: "Returns the expiration time of a key as a Unix timestamp.",
    since: "7.0.0",
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Seconds, Base::Epoch)),
    ..TTL
};

pub(super) const PEXPIRETIME: Spec = Spec {
    name: "pexpiretime",
    summary: "Returns the expiration time of a key as a Unix milliseconds timestamp.",
    since: "7.0.0",
    run: Handler::Data(|coordinator, args| run(coordinator, args, Unit::Millis, Base::Epoch)),
    ..TTL
};

const NO_KEY: i64 = -2;
const NO_EXPIRY: i64 = -1;

fn run(coordinator: &Coordinator, mut args: Args, unit: Unit, base: Base) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    Ok(read_row(coordinator, key, move |row| Reply::Integer(answer(row, unit, base, UnixMillis::now()))))
}

fn answer(row: Option<&Row>, unit: Unit, base: Base, now: UnixMillis) -> i64 {
    match (row.map(|row| row.content.expires_at()), base) {
        (None, _) => NO_KEY,
        (Some(None), _) => NO_EXPIRY,
        (Some(Some(at)), Base::Epoch) => unit.of_millis(at.0),
        // The owner found it alive, so at worst it ends now.
        (Some(Some(at)), Base::Now) => unit.of_millis(at.0.saturating_sub(now.0).max(0)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tercet_common::{Ballot, Content, Key, VectorClock};

    use super::*;
    use crate::resp::command::testing::Gateway;

    #[test]
    fn no_key_and_no_expiry() {
        for command in ["ttl", "pttl", "expiretime", "pexpiretime"] {
            Gateway::check(&format!("{command} k => :-2\nset k v => +OK\n{command} k => :-1"));
        }
        Gateway::check(
            r#"
            set k v pxat 4000000000499 => +OK
            expiretime k => :4000000000
            set k v pxat 4000000000500 => +OK
            expiretime k => :4000000001
            pexpiretime k => :4000000000500
            "#,
        );
    }

    #[test]
    fn what_is_left() {
        let row = |at| Row {
            key: Key::new("k").unwrap(),
            ballot: Ballot::ZERO,
            clock: VectorClock::new(),
            content: Content::string(Bytes::new(), Some(UnixMillis(at))),
        };
        let left = |at, unit| answer(Some(&row(at)), unit, Base::Now, UnixMillis(10_000));
        assert_eq!(left(20_000, Unit::Seconds), 10);
        assert_eq!(left(20_499, Unit::Seconds), 10);
        assert_eq!(left(20_500, Unit::Seconds), 11);
        assert_eq!(left(20_499, Unit::Millis), 10_499);
        assert_eq!(left(10_001, Unit::Seconds), 0);
        assert_eq!(left(9_000, Unit::Millis), 0);
        assert_eq!(left(i64::MAX, Unit::Millis), i64::MAX - 10_000);
    }
}
