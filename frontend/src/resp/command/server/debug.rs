//! DEBUG SLEEP.

use std::time::Duration;

use super::{HELP, ROW};
use crate::resp::command::help::help;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

/// A longer sleep is refused.
const SLEEP_MAX_SECONDS: f64 = 60.0;

pub(super) const DEBUG: Spec = Spec {
    name: "debug",
    arity: -2,
    summary: "A container for debugging commands.",
    since: "1.0.0",
    complexity: "Depends on subcommand.",
    subcommands: &[
        Spec { run: Handler::Session(show_help), ..HELP },
        Spec {
            name: "sleep",
            arity: 3,
            flags: &[Flag::Admin, Flag::NoScript, Flag::Loading, Flag::Stale],
            summary: "Holds up the connection for this many seconds.",
            since: "1.0.0",
            notes: "At most a minute, and other connections go on: in Redis they do not.",
            run: Handler::Session(sleep),
            ..ROW
        },
    ],
    ..ROW
};

fn show_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "debug")
}

fn sleep(_: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let text = args.next_bytes()?;
    let seconds = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.filter(|s| s.is_finite()).ok_or(CommandError::NOT_A_FLOAT)?;
    if seconds > SLEEP_MAX_SECONDS {
        return Err(CommandError::text(format!("ERR DEBUG SLEEP is limited to {SLEEP_MAX_SECONDS} seconds")));
    }
    let duration = Duration::from_secs_f64(seconds.max(0.0));
    Ok(Pending::later(async move {
        tokio::time::sleep(duration).await;
        Ok(Reply::OK)
    }))
}
