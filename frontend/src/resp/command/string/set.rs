//! `SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT unix-milliseconds | KEEPTTL]`

use bytes::Bytes;
use tercet_common::{Content, Key, Row, UnixMillis};

use crate::coordinator::{Change, Coordinator, WriteLevel};
use crate::resp::command::access::{Stored, update_row};
use crate::resp::command::ttl::{Deadline, TtlOption};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const SET: Spec = Spec {
    name: "set",
    arity: -3,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::FIRST,
    group: "string",
    summary: "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "Without NX, XX, GET and KEEPTTL it costs one round trip to the replicas and no read.",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let value = args.next_bytes()?;
    let (options, ttl) = Options::parse(&mut args)?;
    let deadline = ttl.deadline(SET.name)?;
    if options == Options::default() {
        return Ok(put(coordinator, key, value, deadline));
    }
    Ok(update_row(coordinator, key, move |row, now| options.decide(row, &value, deadline, now)))
}

/// Replaces the key whatever it holds. A deadline that has passed leaves no key.
pub(in crate::resp::command) fn put(
    coordinator: &Coordinator,
    key: Key,
    value: Bytes,
    deadline: Option<Deadline>,
) -> Pending {
    let written = coordinator.write(key, WriteLevel::Quorum, true, move |_, now| {
        (Change::Write(content(&value, deadline.map(|d| d.at(now)), now)), ())
    });
    Pending::later(async move { Ok(written.await.map(|_| Reply::OK)?) })
}

/// The value, or a tombstone where its time has passed already.
pub(in crate::resp::command) fn content(
    value: &Bytes,
    expires_at: Option<UnixMillis>,
    now: UnixMillis,
) -> Content {
    let content = Content::string(value.clone(), expires_at);
    if content.is_live(now) { content } else { Content::Tombstone }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Options {
    condition: Condition,
    /// Answers the old value.
    get: bool,
    keep_ttl: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Condition {
    #[default]
    Always,
    IfMissing,
    IfPresent,
}

impl Options {
    fn parse(args: &mut Args) -> Result<(Self, TtlOption), CommandError> {
        let mut options = Self::default();
        let mut ttl = TtlOption::Unsaid;
        while !args.is_empty() {
            if args.take_keyword("NX") {
                options.restrict(Condition::IfMissing)?;
            } else if args.take_keyword("XX") {
                options.restrict(Condition::IfPresent)?;
            } else if args.take_keyword("GET") {
                options.get = true;
            } else if ttl.take_word(args, "KEEPTTL", TtlOption::Keep)? {
                options.keep_ttl = true;
            } else if !ttl.take_deadline(args)? {
                return Err(CommandError::SYNTAX);
            }
        }
        Ok((options, ttl))
    }

    fn restrict(&mut self, condition: Condition) -> Result<(), CommandError> {
        if self.condition != Condition::Always && self.condition != condition {
            return Err(CommandError::SYNTAX);
        }
        self.condition = condition;
        Ok(())
    }

    fn decide(
        self,
        row: Option<&Row>,
        value: &Bytes,
        deadline: Option<Deadline>,
        now: UnixMillis,
    ) -> Result<(Change, Reply), CommandError> {
        // Only GET looks at the old value, so only GET minds its type.
        let old = if self.get { Stored::of(row)? } else { None };
        let allowed = match self.condition {
            Condition::Always => true,
            Condition::IfMissing => row.is_none(),
            Condition::IfPresent => row.is_some(),
        };
        let reply = match (self.get, allowed) {
            (true, _) => Reply::bulk_or_null(old.map(|stored| stored.data)),
            (false, true) => Reply::OK,
            (false, false) => Reply::Null,
        };
        if !allowed {
            return Ok((Change::Keep, reply));
        }
        let kept = row.filter(|_| self.keep_ttl).and_then(|row| row.content.expires_at());
        let expires_at = deadline.map(|d| d.at(now)).or(kept);
        Ok((Change::Write(content(value, expires_at, now)), reply))
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn conditions() {
        Gateway::check(
            r#"
            set k a xx => nil
            get k => nil
            set k a nx => +OK
            set k b NX => nil
            get k => "a"
            set k c Xx => +OK
            set k d nx get => "c"
            get k => "c"
            set k d xx get => "c"
            get k => "d"
            set new v nx get => nil
            get new => "v"
            set newer v xx get => nil
            exists newer => :0
            set k e get => "d"
            set k f nx nx => nil
            "#,
        );
    }

    #[test]
    fn times_to_live() {
        Gateway::check(
            r#"
            set k v ex 10 => +OK
            pexpiretime k => :1700000010000
            set k v px 1500 => +OK
            pexpiretime k => :1700000001500
            set k v exat 4000000000 => +OK
            pexpiretime k => :4000000000000
            set k v PXAT 4000000000001 => +OK
            pexpiretime k => :4000000000001
            set k w keepttl => +OK
            pexpiretime k => :4000000000001
            set k w keepttl get => "w"
            pexpiretime k => :4000000000001
            set k w => +OK
            pexpiretime k => :-1
            set k w px 100 => +OK
            @advance 99
            get k => "w"
            @advance 1
            get k => nil
            set k w keepttl => +OK
            pexpiretime k => :-1
            set k w nx px 10 => nil
            set k w xx px 10 => +OK
            @advance 10
            set k w xx => nil
            set k w ex 1 ex 20 => +OK
            expiretime k => :1700000020
            "#,
        );
    }

    #[test]
    fn a_deadline_in_the_past_leaves_no_key() {
        Gateway::check(
            r#"
            set k v => +OK
            set k w exat 1 => +OK
            exists k => :0
            set k v => +OK
            set k w xx get pxat 1 => "v"
            exists k => :0
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            set k => -ERR wrong number of arguments for 'set' command
            set k v ex => -ERR syntax error
            set k v ex 1 px 1 => -ERR syntax error
            set k v ex 1 exat 1 => -ERR syntax error
            set k v ex 1 keepttl => -ERR syntax error
            set k v keepttl ex 1 => -ERR syntax error
            set k v persist => -ERR syntax error
            set k v nx xx => -ERR syntax error
            set k v xx nx => -ERR syntax error
            set k v nonsense => -ERR syntax error
            set k v ex abc => -ERR value is not an integer or out of range
            set k v ex 1.5 => -ERR value is not an integer or out of range
            set k v ex abc nonsense => -ERR syntax error
            set k v ex 0 => -ERR invalid expire time in 'set' command
            set k v px -1 => -ERR invalid expire time in 'set' command
            set k v exat 0 => -ERR invalid expire time in 'set' command
            set k v ex 9223372036854775807 => -ERR invalid expire time in 'set' command
            set k v px 9223372036854775807 => -ERR invalid expire time in 'set' command
            set k v ex 9223372036854776 => -ERR invalid expire time in 'set' command
            exists k => :0
            "#,
        );
    }

    #[test]
    fn a_failed_write_says_how_it_failed() {
        Gateway::check(
            r#"
            @fail uncertain
            set k v => -UNCERTAIN the write may or may not have been applied: not enough replicas answered in time
            set k v nx => -UNCERTAIN the write may or may not have been applied: not enough replicas answered in time
            "#,
        );
    }
}
