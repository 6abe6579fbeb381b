//! CLIENT and its subcommands.
//!
//! TRACKING, CACHING, GETREDIR and MAINT_NOTIFICATIONS are missing on purpose: a client must not believe in
//! notifications that never come, and clients take the error for "not supported".

mod kill;
pub(super) mod labels;
mod list;
mod modes;
mod pause;

use super::ROW;
use crate::resp::command::help::help;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};

pub(super) const CLIENT: Spec = Spec {
    name: "client",
    arity: -2,
    flags: &[],
    summary: "A container for client connection commands.",
    since: "2.4.0",
    complexity: "Depends on subcommand.",
    subcommands: &[
        labels::GETNAME,
        Spec {
            name: "help",
            arity: 2,
            flags: &[Flag::Loading, Flag::Stale],
            summary: "Returns helpful text about the different subcommands.",
            since: "5.0.0",
            run: Handler::Session(show_help),
            ..ROW
        },
        list::ID,
        list::INFO,
        kill::KILL,
        list::LIST,
        modes::NO_EVICT,
        modes::NO_TOUCH,
        pause::PAUSE,
        modes::REPLY,
        labels::SETINFO,
        labels::SETNAME,
        pause::UNPAUSE,
    ],
    ..ROW
};

/// Flags of the subcommands for operators.
const ADMIN: &[Flag] = &[Flag::Admin, Flag::NoScript, Flag::Loading, Flag::Stale];

fn show_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "client")
}
