//! COMMAND GETKEYS, GETKEYSANDFLAGS: the keys of a whole command.

use bytes::Bytes;

use super::key_specs::{flag_set, flags_in};
use super::{FLAGS, ROW};
use crate::resp::command::table::Entry;
use crate::resp::command::{Args, CommandError, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

pub(super) const GETKEYS: Spec = Spec {
    name: "getkeys",
    arity: -3,
    flags: FLAGS,
    summary: "Extracts the key names from an arbitrary command.",
    since: "2.8.13",
    complexity: "O(N) where N is the number of arguments to the command",
    run: Handler::Session(keys),
    ..ROW
};

pub(super) const GETKEYSANDFLAGS: Spec = Spec {
    name: "getkeysandflags",
    arity: -3,
    flags: FLAGS,
    summary: "Extracts the key names and access flags for an arbitrary command.",
    since: "7.0.0",
    complexity: "O(N) where N is the number of arguments to the command",
    run: Handler::Session(keys_and_flags),
    ..ROW
};

fn keys(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let (_, keys) = find(context, &args.rest())?;
    Ok(Pending::Ready(Reply::Array(keys.into_iter().map(Reply::Bulk).collect())))
}

fn keys_and_flags(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let words = args.rest();
    let (entry, keys) = find(context, &words)?;
    let pairs = keys.into_iter().zip(flags_in(entry, &words));
    let pairs = pairs.map(|(key, flags)| Reply::Array(vec![Reply::Bulk(key), flag_set(flags)]));
    Ok(Pending::Ready(Reply::Array(pairs.collect())))
}

fn find<'a>(context: &SessionContext<'a>, words: &[Bytes]) -> Result<(&'a Entry, Vec<Bytes>), CommandError> {
    let table = context.gateway.table;
    if words.first().is_none_or(|name| table.find(name).is_none()) {
        return Err(CommandError::text("ERR Invalid command specified"));
    }
    let entry = table.resolve(words).map_err(|error| {
        if error.line().contains("unknown subcommand") {
            CommandError::text("ERR Invalid command specified")
        } else {
            CommandError::text("ERR Invalid number of arguments specified for command")
        }
    })?;
    let keys: Vec<_> = entry.key_places(words.len()).map(|place| words[place].clone()).collect();
    if keys.is_empty() {
        return Err(CommandError::text("ERR The command has no key arguments"));
    }
    Ok((entry, keys))
}
