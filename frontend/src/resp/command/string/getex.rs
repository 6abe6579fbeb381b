//! `GETEX key [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT unix-milliseconds | PERSIST]`

use tercet_common::UnixMillis;

use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::{Stored, read, update};
use crate::resp::command::ttl::TtlOption;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const GETEX: Spec = Spec {
    name: "getex",
    arity: -2,
    flags: &[Flag::Write, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Returns the string value of a key after setting its expiration time.",
    since: "6.2.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let mut ttl = TtlOption::Unsaid;
    while !args.is_empty() {
        if !ttl.take_word(&mut args, "PERSIST", TtlOption::Persist)? && !ttl.take_deadline(&mut args)? {
            return Err(CommandError::SYNTAX);
        }
    }
    if ttl == TtlOption::Unsaid {
        return Ok(read(coordinator, key, |stored| Ok(Reply::bulk_or_null(stored.map(|s| s.data)))));
    }
    // As in Redis, a missing key is answered before a senseless deadline is.
    let deadline = ttl.deadline(GETEX.name);
    Ok(update(coordinator, key, move |stored, now| {
        let Some(stored) = stored else { return Ok((Change::Keep, Reply::Null)) };
        let expires_at = deadline.clone()?.map(|deadline| deadline.at(now));
        Ok((retime(&stored, expires_at, now), Reply::Bulk(stored.data)))
    }))
}

fn retime(stored: &Stored, expires_at: Option<UnixMillis>, now: UnixMillis) -> Change {
    if expires_at == stored.expires_at {
        return Change::Keep;
    }
    Change::Write(super::set::content(&stored.data, expires_at, now))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn getex_changes_the_expiry_only() {
        Gateway::check(
            r#"
            getex k ex 10 => nil
            set k v => +OK
            getex k => "v"
            pexpiretime k => :-1
            getex k ex 10 => "v"
            pexpiretime k => :1700000010000
            getex k => "v"
            pexpiretime k => :1700000010000
            getex k px 10 => "v"
            pexpiretime k => :1700000000010
            getex k exat 4000000000 => "v"
            pexpiretime k => :4000000000000
            getex k pxat 4000000000001 => "v"
            pexpiretime k => :4000000000001
            getex k persist => "v"
            pexpiretime k => :-1
            getex k persist => "v"
            getex k pxat 1 => "v"
            exists k => :0
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            getex missing ex 0 => nil
            getex missing ex abc => nil
            set k v => +OK
            getex k ex => -ERR syntax error
            getex k keepttl => -ERR syntax error
            getex k ex 10 persist => -ERR syntax error
            getex k persist ex 10 => -ERR syntax error
            getex k ex 10 px 10 => -ERR syntax error
            getex k ex 0 => -ERR invalid expire time in 'getex' command
            getex k ex abc => -ERR value is not an integer or out of range
            pexpiretime k => :-1
            "#,
        );
    }
}
