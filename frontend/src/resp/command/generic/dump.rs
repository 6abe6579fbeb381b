//! `DUMP key`, `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`

use bytes::Bytes;
use tercet_common::UnixMillis;

use super::payload;
use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::{read, update_row};
use crate::resp::command::string;
use crate::resp::command::ttl::{Base, Deadline, Unit};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, parse_i64};
use crate::resp::reply::Reply;

pub(super) const DUMP: Spec = Spec {
    name: "dump",
    arity: 2,
    flags: &[Flag::ReadOnly],
    keys: Keys::FIRST,
    group: "generic",
    summary: "Returns a serialized representation of the value stored at a key.",
    since: "2.6.0",
    complexity: "O(N) where N is the length of the value.",
    notes: "Redis's RDB format, never compressed; Redis 5 and later restore it.",
    subcommands: &[],
    run: Handler::Data(dump),
};

pub(super) const RESTORE: Spec = Spec {
    name: "restore",
    arity: -4,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::FIRST,
    group: "generic",
    summary: "Creates a key from the serialized representation of a value.",
    since: "2.6.0",
    complexity: "O(N) where N is the length of the value.",
    notes: "Takes strings of RDB versions up to 11 (Redis 7.2), compressed or not. IDLETIME and FREQ are checked and \
            not kept.",
    subcommands: &[],
    run: Handler::Data(restore),
};

fn dump(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    Ok(read(coordinator, key, |stored| {
        Ok(stored.map_or(Reply::Null, |stored| Reply::bulk(payload::dump_string(&stored.data))))
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Options {
    replace: bool,
    absolute_ttl: bool,
}

impl Options {
    fn parse(args: &mut Args) -> Result<Self, CommandError> {
        let mut options = Self::default();
        let (mut idle_time, mut frequency) = (false, false);
        while !args.is_empty() {
            if args.take_keyword("REPLACE") {
                options.replace = true;
            } else if args.take_keyword("ABSTTL") {
                options.absolute_ttl = true;
            } else if !frequency && args.len() >= 2 && args.take_keyword("IDLETIME") {
                idle_time = true;
                if args.next_i64()? < 0 {
                    return Err(CommandError::text("ERR Invalid IDLETIME value, must be >= 0"));
                }
            } else if !idle_time && args.len() >= 2 && args.take_keyword("FREQ") {
                frequency = true;
                if !(0..=255).contains(&args.next_i64()?) {
                    return Err(CommandError::text("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
            } else {
                return Err(CommandError::SYNTAX);
            }
        }
        Ok(options)
    }
}

fn restore(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let ttl = args.next_bytes()?;
    let payload = args.next_bytes()?;
    let options = Options::parse(&mut args)?;
    let parsed = parse(&ttl, &payload, options, coordinator.value_bytes_max());
    if options.replace {
        let (value, deadline) = parsed?;
        return Ok(string::put(coordinator, key, value, deadline));
    }
    // As in Redis, a key in the way is reported before a wrong payload is.
    Ok(update_row(coordinator, key, move |row, now: UnixMillis| {
        if row.is_some() {
            return Err(CommandError::text("BUSYKEY Target key name already exists."));
        }
        let (value, deadline) = parsed.clone()?;
        let content = string::content(&value, deadline.map(|d| d.at(now)), now);
        Ok((Change::Write(content), Reply::OK))
    }))
}

/// The value, and when it ends.
fn parse(
    ttl: &[u8],
    payload: &Bytes,
    options: Options,
    value_bytes_max: usize,
) -> Result<(Bytes, Option<Deadline>), CommandError> {
    let ttl = parse_i64(ttl).ok_or(CommandError::NOT_AN_INTEGER)?;
    if ttl < 0 {
        return Err(CommandError::text("ERR Invalid TTL value, must be >= 0"));
    }
    let base = if options.absolute_ttl { Base::Epoch } else { Base::Now };
    let deadline = if ttl == 0 { None } else { Some(Deadline::new(ttl, Unit::Millis, base, RESTORE.name)?) };
    let value = payload::restore_string(payload, value_bytes_max)
        .map_err(|error| CommandError::text(format!("ERR {error}")))?;
    Ok((value, deadline))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::resp::command::testing::Gateway;

    #[test]
    fn restoring_what_redis_dumped() {
        // Dumped by Redis: "v" by 2.6, the others by 7.0.
        Gateway::check(
            r#"
            restore k 0 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" => +OK
            get k => "v"
            restore k 0 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" => -BUSYKEY Target key name already exists.
            restore k 0 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" replace => +OK
            restore k 5000 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" replace => +OK
            pexpiretime k => :1700000005000
            restore k 4000000000000 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" replace absttl => +OK
            pexpiretime k => :4000000000000
            restore k 1 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" replace absttl => +OK
            exists k => :0
            restore k 0 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" IDLETIME 1000 => +OK
            restore k 0 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" freq 255 REPLACE => +OK
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            restore k 0 junk => -ERR DUMP payload version or checksum are wrong
            restore k 0 "\x00\x01w\x06\x00\x07\xe5\xa62\xecm\xb6]" => -ERR DUMP payload version or checksum are wrong
            restore k -1 "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" => -ERR Invalid TTL value, must be >= 0
            restore k x "\x00\x01v\x06\x00\x07\xe5\xa62\xecm\xb6]" => -ERR value is not an integer or out of range
            restore k 0 junk nonsense => -ERR syntax error
            restore k 0 junk idletime => -ERR syntax error
            restore k 0 junk idletime -1 => -ERR Invalid IDLETIME value, must be >= 0
            restore k 0 junk idletime x => -ERR value is not an integer or out of range
            restore k 0 junk freq 256 => -ERR Invalid FREQ value, must be >= 0 and <= 255
            restore k 0 junk idletime 1 freq 1 => -ERR syntax error
            exists k => :0
            set k v => +OK
            restore k 0 junk => -BUSYKEY Target key name already exists.
            restore k 0 junk replace => -ERR DUMP payload version or checksum are wrong
            get k => "v"
            "#,
        );
    }

    #[test]
    fn a_dump_restores_to_the_same_value() {
        let gateway = Gateway::new();
        let run = |words: &[&[u8]]| {
            gateway.run(&words.iter().map(|w| Bytes::copy_from_slice(w)).collect::<Vec<_>>())
        };
        for value in [&b""[..], b"v", b"\x00\xff", b"-128", b"32767", b"2147483648", &[b'x'; 20_000]] {
            run(&[b"set", b"k", value]);
            let Reply::Bulk(dumped) = run(&[b"dump", b"k"]) else { panic!("no dump") };
            assert_eq!(run(&[b"restore", b"copy", b"0", &dumped, b"replace"]), Reply::OK);
            assert_eq!(run(&[b"get", b"copy"]), Reply::Bulk(Bytes::copy_from_slice(value)));
        }
        assert_eq!(run(&[b"dump", b"missing"]), Reply::Null);
    }
}
