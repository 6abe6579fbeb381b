//! COMMAND, COMMAND INFO: ten fields per command.

use super::key_specs::{self, status_set};
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
        status_set(categories(entry).into_iter().map(|category| format!("@{category}"))),
        // Tips: none.
        Reply::Set(Vec::new()),
        key_specs::describe(entry),
        Reply::Set(entry.subcommands(table).map(|sub| describe(sub, table)).collect()),
    ])
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
pub(super) fn categories(entry: &Entry) -> Vec<&'static str> {
    let spec = entry.spec;
    let has = |flag| spec.flags.contains(&flag);
    let command = entry.name.split('|').next().unwrap_or_default();
    // COMMAND and WAIT are about the connection too; CLIENT itself does nothing, its subcommands do.
    let connection =
        spec.group == "connection" && entry.name != "client" || matches!(command, "command" | "wait");
    [
        (
            "keyspace",
            spec.group == "generic" && !matches!(command, "memory" | "wait") && entry.name != "object"
                || WHOLE_KEYSPACE.contains(&entry.name),
        ),
        ("read", has(Flag::ReadOnly)),
        ("write", has(Flag::Write)),
        ("string", spec.group == "string"),
        ("bitmap", spec.group == "bitmap"),
        ("admin", has(Flag::Admin) || entry.name == "role"),
        ("fast", has(Flag::Fast)),
        ("slow", !has(Flag::Fast)),
        ("dangerous", has(Flag::Admin) || DANGEROUS.contains(&entry.name)),
        ("connection", connection),
    ]
    .into_iter()
    .filter_map(|(category, is_one)| is_one.then_some(category))
    .collect()
}

/// Commands on all keys that are not of the group `generic`.
const WHOLE_KEYSPACE: &[&str] = &["dbsize", "flushall", "flushdb"];
/// What may do harm or tell too much, beside administration.
const DANGEROUS: &[&str] = &["flushall", "flushdb", "info", "keys", "restore", "role"];
