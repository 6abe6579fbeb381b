//! TIME.

use std::time::{SystemTime, UNIX_EPOCH};

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;

pub(super) const TIME: Spec = Spec {
    name: "time",
    flags: &[Flag::Loading, Flag::Stale, Flag::Fast],
    summary: "Returns the server time.",
    since: "2.6.0",
    run: Handler::Session(run),
    ..ROW
};

fn run(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let parts = [now.as_secs().to_string(), now.subsec_micros().to_string()];
    Ok(Pending::Ready(Reply::Array(parts.map(Reply::bulk).into())))
}
