//! Commands that exist so that their refusal is clear: SHUTDOWN, CLUSTER.

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};

pub(super) const SHUTDOWN: Spec = Spec {
    name: "shutdown",
    arity: -1,
    flags: &[Flag::Admin, Flag::NoScript, Flag::Loading, Flag::Stale, Flag::AllowBusy],
    summary: "Is refused: a client does not stop a cluster.",
    since: "1.0.0",
    notes: "Always an error.",
    run: Handler::Session(shutdown),
    ..ROW
};

/// Clients ask whether they speak to a Redis Cluster; this text, to the letter, says no.
pub(super) const CLUSTER: Spec = Spec {
    name: "cluster",
    arity: -2,
    flags: &[Flag::Stale],
    group: "cluster",
    summary: "Is refused: any frontend serves any key, so clients need no map of the cluster.",
    since: "3.0.0",
    notes: "Always an error.",
    run: Handler::Session(cluster),
    ..ROW
};

fn shutdown(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    Err(CommandError::text("ERR SHUTDOWN is disabled: stop the frontend's process with SIGTERM"))
}

fn cluster(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    Err(CommandError::text("ERR This instance has cluster support disabled"))
}
