//! COMMAND: the table, as clients see it.

mod docs;
mod get_keys;
mod info;
mod key_specs;
mod list;

use super::{HELP, ROW};
use crate::resp::command::help::help;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

const FLAGS: &[Flag] = &[Flag::Loading, Flag::Stale];

pub(super) const COMMAND: Spec = Spec {
    name: "command",
    arity: -1,
    flags: FLAGS,
    summary: "Returns detailed information about all commands.",
    since: "2.8.13",
    complexity: "O(N) where N is the total number of commands",
    subcommands: &[
        Spec {
            name: "count",
            arity: 2,
            flags: FLAGS,
            summary: "Returns a count of commands.",
            since: "2.8.13",
            run: Handler::Session(count),
            ..ROW
        },
        docs::DOCS,
        get_keys::GETKEYS,
        get_keys::GETKEYSANDFLAGS,
        Spec { run: Handler::Session(show_help), ..HELP },
        info::INFO,
        list::LIST,
    ],
    run: Handler::Session(info::all),
    ..ROW
};

fn count(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let count = i64::try_from(context.gateway.table.commands().count()).unwrap_or(i64::MAX);
    Ok(Pending::Ready(Reply::Integer(count)))
}

fn show_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "command")
}
