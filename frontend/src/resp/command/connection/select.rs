//! SELECT.

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

pub(super) const SELECT: Spec = Spec {
    name: "select",
    arity: 2,
    flags: &[Flag::Loading, Flag::Stale, Flag::Fast],
    summary: "Changes the selected database.",
    since: "1.0.0",
    notes: "There is one database, 0.",
    run: Handler::Session(run),
    ..ROW
};

const NO_INT: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";

fn run(_: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    match args.next_i64()? {
        0 => Ok(Pending::Ready(Reply::OK)),
        index if i32::try_from(index).is_err() => Err(CommandError::text(NO_INT)),
        _ => Err(CommandError::text("ERR DB index is out of range")),
    }
}
