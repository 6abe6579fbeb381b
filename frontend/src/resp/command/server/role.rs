//! ROLE, WAIT: what the words of Redis replication mean over a quorum.

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec, parse_i64};
use crate::resp::reply::Reply;

pub(super) const ROLE: Spec = Spec {
    name: "role",
    flags: &[Flag::NoScript, Flag::Loading, Flag::Stale, Flag::Fast],
    summary: "Returns the replication role.",
    since: "2.8.12",
    notes: "Always a master without replicas of the Redis kind: copies are kept by workers.",
    run: Handler::Session(role),
    ..ROW
};

pub(super) const WAIT: Spec = Spec {
    name: "wait",
    arity: 3,
    flags: &[Flag::NoScript],
    group: "generic",
    summary: "Returns the number of further copies that every acknowledged write has.",
    since: "3.0.0",
    notes: "Never blocks: a write is acknowledged only when a quorum of W replicas has committed it, so the answer \
            is W - 1, whatever is asked for.",
    run: Handler::Session(wait),
    ..ROW
};

fn role(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let role = vec![Reply::bulk("master"), Reply::Integer(0), Reply::Array(Vec::new())];
    Ok(Pending::Ready(Reply::Array(role)))
}

fn wait(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    args.next_i64()?;
    let timeout = parse_i64(&args.next_bytes()?)
        .ok_or(CommandError::text("ERR timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(CommandError::text("ERR timeout is negative"));
    }
    let quorum = context.coordinator().status().replicas / 2 + 1;
    Ok(Pending::Ready(Reply::Integer(i64::try_from(quorum - 1).unwrap_or(i64::MAX))))
}
