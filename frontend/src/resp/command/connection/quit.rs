//! QUIT, RESET.

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

const FLAGS: &[Flag] =
    &[Flag::NoScript, Flag::Loading, Flag::Stale, Flag::Fast, Flag::NoAuth, Flag::AllowBusy];

pub(super) const QUIT: Spec = Spec {
    name: "quit",
    arity: -1,
    flags: FLAGS,
    summary: "Closes the connection.",
    since: "1.0.0",
    run: Handler::Session(quit),
    ..ROW
};

pub(super) const RESET: Spec = Spec {
    name: "reset",
    arity: 1,
    flags: FLAGS,
    summary: "Resets the connection.",
    since: "6.2.0",
    run: Handler::Session(reset),
    ..ROW
};

fn quit(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    context.session.close = true;
    Ok(Pending::Ready(Reply::OK))
}

fn reset(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    context.session.reset(!context.gateway.demands_password());
    Ok(Pending::Ready(Reply::Simple("RESET".into())))
}
