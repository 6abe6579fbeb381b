//! SLOWLOG.

use super::{HELP, ROW};
use crate::resp::command::help::help;
use crate::resp::command::{
    Args, CommandError, Flag, Handler, Pending, SessionContext, Spec, parse_i64, wrong_subcommand_arity,
};
use crate::resp::reply::Reply;
use crate::resp::slowlog::Entry;

const FLAGS: &[Flag] = &[Flag::Admin, Flag::Loading, Flag::Stale];
/// What SLOWLOG GET returns when it is not told how many.
const GET_DEFAULT: usize = 10;

pub(super) const SLOWLOG: Spec = Spec {
    name: "slowlog",
    arity: -2,
    flags: &[],
    summary: "A container for slow log commands.",
    since: "2.2.12",
    complexity: "Depends on subcommand.",
    subcommands: &[
        Spec {
            name: "get",
            arity: -2,
            flags: FLAGS,
            summary: "Returns the slow log's entries.",
            since: "2.2.12",
            complexity: "O(N) where N is the number of entries returned",
            notes: "A duration reaches from a command's start to its answer, with the network to the replicas and \
                    the wait for earlier commands of its pipeline.",
            run: Handler::Session(get),
            ..ROW
        },
        Spec { run: Handler::Session(show_help), ..HELP },
        Spec {
            name: "len",
            arity: 2,
            flags: FLAGS,
            summary: "Returns the number of entries in the slow log.",
            since: "2.2.12",
            run: Handler::Session(len),
            ..ROW
        },
        Spec {
            name: "reset",
            arity: 2,
            flags: FLAGS,
            summary: "Clears all entries from the slow log.",
            since: "2.2.12",
            complexity: "O(N) where N is the number of entries in the slowlog",
            run: Handler::Session(reset),
            ..ROW
        },
    ],
    ..ROW
};

fn get(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let count = if args.is_empty() {
        GET_DEFAULT
    } else {
        let text = args.next_bytes()?;
        if !args.is_empty() {
            return Err(wrong_subcommand_arity("SLOWLOG", "GET"));
        }
        let count = parse_i64(&text).filter(|count| *count >= -1);
        let count = count.ok_or(CommandError::text("ERR count should be greater than or equal to -1"))?;
        usize::try_from(count).unwrap_or(usize::MAX)
    };
    let entries = context.gateway.slowlog.newest(count);
    Ok(Pending::Ready(Reply::Array(entries.into_iter().map(describe).collect())))
}

fn describe(entry: Entry) -> Reply {
    Reply::Array(vec![
        Reply::Integer(entry.id),
        Reply::Integer(entry.at.0 / 1000),
        Reply::Integer(i64::try_from(entry.took.as_micros()).unwrap_or(i64::MAX)),
        Reply::Array(entry.words.into_iter().map(Reply::Bulk).collect()),
        Reply::bulk(entry.client),
        Reply::bulk(entry.client_name),
    ])
}

fn len(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let len = i64::try_from(context.gateway.slowlog.len()).unwrap_or(i64::MAX);
    Ok(Pending::Ready(Reply::Integer(len)))
}

fn reset(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    context.gateway.slowlog.clear();
    Ok(Pending::Ready(Reply::OK))
}

fn show_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "slowlog")
}
