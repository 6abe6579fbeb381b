//! PING, ECHO.

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec, wrong_arity};
use crate::resp::reply::Reply;

pub(super) const PING: Spec = Spec {
    name: "ping",
    arity: -1,
    flags: &[Flag::Fast],
    summary: "Returns the server's liveliness response.",
    since: "1.0.0",
    run: Handler::Session(ping),
    ..ROW
};

pub(super) const ECHO: Spec = Spec {
    name: "echo",
    arity: 2,
    flags: &[Flag::Loading, Flag::Stale, Flag::Fast],
    summary: "Returns the given string.",
    since: "1.0.0",
    run: Handler::Session(echo),
    ..ROW
};

fn ping(_: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let reply = match args.len() {
        0 => Reply::Simple("PONG".into()),
        1 => Reply::Bulk(args.next_bytes()?),
        _ => return Err(wrong_arity("ping")),
    };
    Ok(Pending::Ready(reply))
}

fn echo(_: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    Ok(Pending::Ready(Reply::Bulk(args.next_bytes()?)))
}
