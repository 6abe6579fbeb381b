//! COMMAND DOCS. redis-cli asks for it at start and asserts its shape: names and texts are bulk strings, the documents
//! maps (flat arrays in RESP2).

use super::{FLAGS, ROW};
use crate::resp::command::table::{CommandTable, Entry};
use crate::resp::command::{Args, CommandError, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

pub(super) const DOCS: Spec = Spec {
    name: "docs",
    arity: -2,
    flags: FLAGS,
    summary: "Returns documentary information about one, multiple or all commands.",
    since: "7.0.0",
    complexity: "O(N) where N is the number of commands to look up",
    run: Handler::Session(run),
    ..ROW
};

fn run(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let table = context.gateway.table;
    let document = |entry: &Entry| (Reply::bulk(entry.name), document(entry, table));
    let documents = if args.is_empty() {
        table.commands().map(document).collect()
    } else {
        args.rest().iter().filter_map(|name| table.find(name)).map(document).collect()
    };
    Ok(Pending::Ready(Reply::Map(documents)))
}

fn document(entry: &Entry, table: &CommandTable) -> Reply {
    let spec = entry.spec;
    let texts = [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group),
        ("complexity", spec.complexity),
    ];
    let mut fields: Vec<_> = texts.map(|(name, text)| (Reply::bulk(name), Reply::bulk(text))).into();
    let subcommands: Vec<_> =
        entry.subcommands(table).map(|sub| (Reply::bulk(sub.name), document(sub, table))).collect();
    if !subcommands.is_empty() {
        fields.push((Reply::bulk("subcommands"), Reply::Map(subcommands)));
    }
    Reply::Map(fields)
}
