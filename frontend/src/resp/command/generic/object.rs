//! `OBJECT ENCODING | REFCOUNT | IDLETIME | FREQ key`, `OBJECT HELP`

use tercet_common::{Content, DataType, Row};

use crate::coordinator::Coordinator;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, parse_i64};
use crate::resp::reply::Reply;

pub(super) const OBJECT: Spec = Spec {
    name: "object",
    arity: -2,
    flags: &[],
    keys: Keys::NONE,
    group: "generic",
    summary: "A container for object introspection commands.",
    since: "2.2.3",
    complexity: "Depends on subcommand.",
    notes: "",
    subcommands: &[ENCODING, REFCOUNT, IDLETIME, FREQ, HELP],
    run: Handler::Container,
};

const ENCODING: Spec = Spec {
    name: "encoding",
    arity: 3,
    flags: &[Flag::ReadOnly],
    keys: Keys { first: 2, last: 2, step: 1 },
    group: "generic",
    summary: "Returns the internal encoding of an object.",
    since: "2.2.3",
    complexity: "O(1)",
    notes: "What Redis would use for this value: int, embstr or raw. Tercet stores all three the same way.",
    subcommands: &[],
    run: Handler::Data(|coordinator, args| inspect(coordinator, args, |row| Ok(Reply::bulk(encoding(row))))),
};

const REFCOUNT: Spec = Spec {
    name: "refcount",
    summary: "Returns the reference count of a value of a key.",
    notes: "Always 1.",
    run: Handler::Data(|coordinator, args| inspect(coordinator, args, |_| Ok(Reply::Integer(1)))),
    ..ENCODING
};

const IDLETIME: Spec = Spec {
    name: "idletime",
    summary: "Returns the time since the last access to a key.",
    notes: "Always 0: access times are not kept.",
    run: Handler::Data(|coordinator, args| inspect(coordinator, args, |_| Ok(Reply::Integer(0)))),
    ..ENCODING
};

const FREQ: Spec = Spec {
    name: "freq",
    summary: "Returns the logarithmic access frequency counter of a key.",
    since: "4.0.0",
    notes: "Always the error that Redis answers without an LFU policy.",
    run: Handler::Data(|coordinator, args| inspect(coordinator, args, |_| Err(NO_LFU))),
    ..ENCODING
};

const HELP: Spec = Spec {
    name: "help",
    arity: 2,
    flags: &[Flag::Loading, Flag::Stale],
    keys: Keys::NONE,
    summary: "Returns helpful text about the different subcommands.",
    since: "6.2.0",
    notes: "",
    run: Handler::Data(|_, args| {
        args.finish()?;
        Ok(Pending::Ready(super::help(HELP_LINES)))
    }),
    ..ENCODING
};

const NO_LFU: CommandError = CommandError::Text(std::borrow::Cow::Borrowed(
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
     between policies at runtime LRU and LFU data will take some time to adjust.",
));

const HELP_LINES: &[&str] = &[
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    The encoding that Redis would use for the value of <key>.",
    "FREQ <key>",
    "    An error: access frequencies are not kept.",
    "IDLETIME <key>",
    "    Always 0: access times are not kept.",
    "REFCOUNT <key>",
    "    Always 1.",
    "HELP",
    "    Prints this help.",
];

/// The longest string that Redis stores in one piece with its header.
const EMBSTR_BYTES_MAX: usize = 44;

fn inspect(
    coordinator: &Coordinator,
    mut args: Args,
    answer: fn(&Row) -> Result<Reply, CommandError>,
) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    let found = coordinator.get(key);
    Ok(Pending::later(async move { found.await?.as_deref().map_or(Ok(Reply::Null), answer) }))
}

fn encoding(row: &Row) -> &'static str {
    match &row.content {
        Content::Value { data_type: DataType::String, data, .. } => {
            if parse_i64(data).is_some() {
                "int"
            } else if data.len() <= EMBSTR_BYTES_MAX {
                "embstr"
            } else {
                "raw"
            }
        }
        Content::Tombstone => "raw",
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn what_an_object_says_of_itself() {
        Gateway::check(
            r#"
            object encoding missing => nil
            object freq missing => nil
            set k 9223372036854775807 => +OK
            object encoding k => "int"
            object refcount k => :1
            object idletime k => :0
            object freq k => -ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.
            set k 9223372036854775808 => +OK
            object encoding k => "embstr"
            set k 12345678901234567890123456789012345678901234 => +OK
            object encoding k => "embstr"
            set k 123456789012345678901234567890123456789012345 => +OK
            object ENCODING k => "raw"
            object encoding => -ERR wrong number of arguments for 'object|encoding' command
            object encoding a b => -ERR wrong number of arguments for 'object|encoding' command
            "#,
        );
    }
}
