//! CLIENT PAUSE, UNPAUSE.

use std::time::{Duration, Instant};

use super::super::ROW;
use super::ADMIN;
use crate::resp::command::{
    Args, CommandError, Handler, Pending, SessionContext, Spec, parse_i64, wrong_subcommand_arity,
};
use crate::resp::pause::{PAUSE_MAX, Scope};
use crate::resp::reply::Reply;

pub(super) const PAUSE: Spec = Spec {
    name: "pause",
    arity: -3,
    flags: ADMIN,
    summary: "Suspends commands processing.",
    since: "3.0.0",
    notes: "At most a day. Holds up the RESP clients of one frontend.",
    run: Handler::Session(pause),
    ..ROW
};

pub(super) const UNPAUSE: Spec = Spec {
    name: "unpause",
    arity: 2,
    flags: ADMIN,
    summary: "Resumes processing commands from paused clients.",
    since: "6.2.0",
    complexity: "O(N) where N is the number of client connections",
    notes: "Not held up itself, so it can end a pause of all commands.",
    run: Handler::Session(unpause),
    ..ROW
};

fn pause(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let timeout = args.next_bytes()?;
    if args.len() > 1 {
        return Err(wrong_subcommand_arity("CLIENT", "PAUSE"));
    }
    let scope = if args.is_empty() || args.take_keyword("ALL") {
        Scope::All
    } else if args.take_keyword("WRITE") {
        Scope::Writes
    } else {
        return Err(CommandError::text("ERR CLIENT PAUSE mode must be WRITE or ALL"));
    };
    let millis =
        parse_i64(&timeout).ok_or(CommandError::text("ERR timeout is not an integer or out of range"))?;
    let millis = u64::try_from(millis).map_err(|_| CommandError::text("ERR timeout is negative"))?;
    let timeout = Duration::from_millis(millis);
    if timeout > PAUSE_MAX {
        return Err(CommandError::text("ERR timeout is out of range"));
    }
    let now = Instant::now();
    context.gateway.pause.pause(scope, now + timeout, now);
    Ok(Pending::Ready(Reply::OK))
}

fn unpause(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    context.gateway.pause.unpause();
    context.gateway.clients.wake_all();
    Ok(Pending::Ready(Reply::OK))
}
