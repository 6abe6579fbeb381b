//! COMMAND, COMMAND INFO: ten fields per command.

use super::{FLAGS, ROW};
use crate::resp::command::table::{CommandTable, Entry};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

pub(super) const INFO: Spec = Spec {
    name: "info",
    arity: -2,
    flags: FLAGS,
    summary: "Returns information about one, multiple or all commands.",
    since: "2.8.13",
    complexity: "O(N) where N is the number of commands to look up",
    run: Handler::Session(run),
    ..ROW
};

pub(super) fn all(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let table = context.gateway.table;
    Ok(Pending::Ready(Reply::Array(table.commands().map(|entry| describe(entry, table)).collect())))
}

fn run(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    if args.is_empty() {
        return all(context, args);
    }
    let table = context.gateway.table;
    let rows = args
        .rest()
        .into_iter()
        .map(|name| table.find(&name).map_or(Reply::Null, |entry| describe(entry, table)));
    Ok(Pending::Ready(Reply::Array(rows.collect())))
}

fn describe(entry: &Entry, table: &CommandTable) -> Reply {
    let spec = entry.spec;
    let Keys { first, last, step } = spec.keys;
    Reply::Array(vec![
        Reply::bulk(entry.name),
        Reply::Integer(spec.arity.into()),
        status_set(spec.flags.iter().map(|flag| flag_name(*flag).to_owned())),
        Reply::Integer(first.into()),
        Reply::Integer(last.into()),
        Reply::Integer(step.into()),
        status_set(categories(spec).into_iter().map(|category| format!("@{category}"))),
        // Tips: none.
        Reply::Set(Vec::new()),
        Reply::Array(key_specs(spec)),
        Reply::Array(entry.subcommands(table).map(|sub| describe(sub, table)).collect()),
    ])
}

fn status_set(names: impl Iterator<Item = String>) -> Reply {
    Reply::Set(names.map(|name| Reply::Simple(name.into())).collect())
}

/// As COMMAND INFO has them.
fn flag_name(flag: Flag) -> &'static str {
    match flag {
        Flag::Write => "write",
        Flag::ReadOnly => "readonly",
        Flag::DenyOom => "denyoom",
        Flag::Admin => "admin",
        Flag::NoScript => "noscript",
        Flag::Loading => "loading",
        Flag::Stale => "stale",
        Flag::Fast => "fast",
        Flag::NoAuth => "no_auth",
        Flag::AllowBusy => "allow_busy",
        Flag::MovableKeys => "movablekeys",
    }
}

/// ACL categories, without their `@`, in the order in which Redis names them.
pub(super) fn categories(spec: &Spec) -> Vec<&'static str> {
    let has = |flag| spec.flags.contains(&flag);
    [
        ("keyspace", spec.group == "generic" && spec.keys != Keys::NONE),
        ("read", has(Flag::ReadOnly)),
        ("write", has(Flag::Write)),
        ("string", spec.group == "string"),
        ("bitmap", spec.group == "bitmap"),
        ("admin", has(Flag::Admin)),
        ("fast", has(Flag::Fast)),
        ("slow", !has(Flag::Fast)),
        ("dangerous", has(Flag::Admin)),
        ("connection", spec.group == "connection"),
    ]
    .into_iter()
    .filter_map(|(category, is_one)| is_one.then_some(category))
    .collect()
}

/// Key specifications: where the first key is and how to find the rest. All rows here use one index and one range.
fn key_specs(spec: &Spec) -> Vec<Reply> {
    let Keys { first, last, step } = spec.keys;
    if first == 0 {
        return Vec::new();
    }
    let field = |name: &'static str, value| (Reply::bulk(name), value);
    let number = |n: i16| Reply::Integer(n.into());
    // Relative to the first key, unless it counts from the end.
    let last = if last < 0 { last } else { last - first };
    let index = vec![field("index", number(first))];
    let range =
        vec![field("lastkey", number(last)), field("keystep", number(step)), field("limit", number(0))];
    vec![Reply::Map(vec![
        field("flags", key_flags(spec)),
        field(
            "begin_search",
            Reply::Map(vec![field("type", Reply::bulk("index")), field("spec", Reply::Map(index))]),
        ),
        field(
            "find_keys",
            Reply::Map(vec![field("type", Reply::bulk("range")), field("spec", Reply::Map(range))]),
        ),
    ])]
}

pub(super) fn key_flags(spec: &Spec) -> Reply {
    let names: &[&str] =
        if spec.flags.contains(&Flag::Write) { &["RW", "update"] } else { &["RO", "access"] };
    status_set(names.iter().map(|name| (*name).to_owned()))
}
