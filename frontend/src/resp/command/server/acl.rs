//! ACL WHOAMI, MODULE LIST: what can be answered truly of things that Tercet does not have.

use super::{HELP, ROW};
use crate::resp::command::help::help;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::gateway::USER;
use crate::resp::reply::Reply;

pub(super) const ACL: Spec = Spec {
    name: "acl",
    arity: -2,
    flags: &[],
    summary: "A container for Access List Control commands.",
    since: "6.0.0",
    complexity: "Depends on subcommand.",
    subcommands: &[
        Spec { run: Handler::Session(acl_help), ..HELP },
        Spec {
            name: "whoami",
            arity: 2,
            flags: &[Flag::NoScript, Flag::Loading, Flag::Stale],
            summary: "Returns the authenticated username of the current connection.",
            since: "6.0.0",
            run: Handler::Session(whoami),
            ..ROW
        },
    ],
    ..ROW
};

pub(super) const MODULE: Spec = Spec {
    name: "module",
    arity: -2,
    flags: &[],
    summary: "A container for module commands.",
    since: "4.0.0",
    complexity: "Depends on subcommand.",
    subcommands: &[
        Spec { run: Handler::Session(module_help), ..HELP },
        Spec {
            name: "list",
            arity: 2,
            flags: &[Flag::Admin, Flag::NoScript],
            summary: "Returns all loaded modules: there are none.",
            since: "4.0.0",
            run: Handler::Session(module_list),
            ..ROW
        },
    ],
    ..ROW
};

fn acl_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "acl")
}

fn whoami(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    Ok(Pending::Ready(Reply::bulk(USER)))
}

fn module_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "module")
}

fn module_list(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    Ok(Pending::Ready(Reply::Array(Vec::new())))
}
