//! AUTH.

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::gateway::USER;
use crate::resp::reply::Reply;

pub(super) const AUTH: Spec = Spec {
    name: "auth",
    arity: -2,
    flags: &[Flag::NoScript, Flag::Loading, Flag::Stale, Flag::Fast, Flag::NoAuth, Flag::AllowBusy],
    summary: "Authenticates the connection.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "There is one user, `default`.",
    run: Handler::Session(run),
    ..ROW
};

pub(super) const WRONG_PASSWORD: CommandError = CommandError::Text(std::borrow::Cow::Borrowed(
    "WRONGPASS invalid username-password pair or user is disabled.",
));

const NO_PASSWORD_SET: CommandError = CommandError::Text(std::borrow::Cow::Borrowed(
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
     configuration is correct?",
));

fn run(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let first = args.next_bytes()?;
    let admitted = if args.is_empty() {
        if !context.gateway.demands_password() {
            return Err(NO_PASSWORD_SET);
        }
        context.gateway.admits(USER.as_bytes(), &first)
    } else {
        let password = args.next_bytes()?;
        args.finish()?;
        context.gateway.admits(&first, &password)
    };
    if !admitted {
        return Err(WRONG_PASSWORD);
    }
    context.session.authenticated = true;
    Ok(Pending::Ready(Reply::OK))
}
