//! COMMAND LIST.

use bytes::Bytes;

use super::info::categories;
use super::{FLAGS, ROW};
use crate::resp::command::table::Entry;
use crate::resp::command::{Args, CommandError, Handler, Pending, SessionContext, Spec};
use crate::resp::glob::glob_match;
use crate::resp::reply::Reply;

pub(super) const LIST: Spec = Spec {
    name: "list",
    arity: -2,
    flags: FLAGS,
    summary: "Returns a list of command names.",
    since: "7.0.0",
    complexity: "O(N) where N is the total number of commands",
    run: Handler::Session(run),
    ..ROW
};

enum Filter {
    /// There are no modules.
    Module,
    Category(Bytes),
    Pattern(Bytes),
}

fn run(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let table = context.gateway.table;
    let names: Vec<Reply> = if args.is_empty() {
        table.commands().map(|entry| Reply::bulk(entry.name)).collect()
    } else {
        let filter = parse(&mut args)?;
        // With a filter, subcommands are listed too.
        table.entries().iter().filter(|e| filter.fits(e)).map(|e| Reply::bulk(e.name)).collect()
    };
    Ok(Pending::Ready(Reply::Array(names)))
}

fn parse(args: &mut Args) -> Result<Filter, CommandError> {
    if args.len() != 3 || !args.take_keyword("FILTERBY") {
        return Err(CommandError::SYNTAX);
    }
    if args.take_keyword("MODULE") {
        args.next_bytes()?;
        Ok(Filter::Module)
    } else if args.take_keyword("ACLCAT") {
        Ok(Filter::Category(args.next_bytes()?))
    } else if args.take_keyword("PATTERN") {
        Ok(Filter::Pattern(args.next_bytes()?))
    } else {
        Err(CommandError::SYNTAX)
    }
}

impl Filter {
    fn fits(&self, entry: &Entry) -> bool {
        match self {
            Self::Module => false,
            Self::Category(name) => {
                categories(entry).iter().any(|category| name.eq_ignore_ascii_case(category.as_bytes()))
            }
            Self::Pattern(pattern) => glob_match(pattern, entry.name.as_bytes(), true),
        }
    }
}
