//! CLIENT REPLY, NO-EVICT, NO-TOUCH.

use std::sync::atomic::Ordering;

use super::super::ROW;
use super::ADMIN;
use crate::resp::command::{Args, CommandError, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;
use crate::resp::session::ReplyMode;

pub(super) const REPLY: Spec = Spec {
    name: "reply",
    arity: 3,
    summary: "Instructs the server whether to reply to commands.",
    since: "3.2.0",
    run: Handler::Session(reply),
    ..ROW
};

pub(super) const NO_EVICT: Spec = Spec {
    name: "no-evict",
    arity: 3,
    flags: ADMIN,
    summary: "Sets the client eviction mode of the connection.",
    since: "7.0.0",
    notes: "Clients are not evicted; the mode is only shown.",
    run: Handler::Session(no_evict),
    ..ROW
};

pub(super) const NO_TOUCH: Spec = Spec {
    name: "no-touch",
    arity: 3,
    summary: "Controls whether commands sent by the client affect the LRU/LFU of accessed keys.",
    since: "7.2.0",
    notes: "Keys have no LRU or LFU; the mode is only shown.",
    run: Handler::Session(no_touch),
    ..ROW
};

fn reply(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let mode = &mut context.session.reply_mode;
    if args.take_keyword("ON") {
        *mode = ReplyMode::On;
    } else if args.take_keyword("OFF") {
        *mode = ReplyMode::Off;
    } else if args.take_keyword("SKIP") {
        if *mode != ReplyMode::Off {
            *mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(CommandError::SYNTAX);
    }
    // Sent after ON only: the connection looks at the mode after this.
    Ok(Pending::Ready(Reply::OK))
}

fn no_evict(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let on = on_or_off(&mut args)?;
    context.session.client.no_evict.store(on, Ordering::Relaxed);
    Ok(Pending::Ready(Reply::OK))
}

fn no_touch(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let on = on_or_off(&mut args)?;
    context.session.client.no_touch.store(on, Ordering::Relaxed);
    Ok(Pending::Ready(Reply::OK))
}

fn on_or_off(args: &mut Args) -> Result<bool, CommandError> {
    if args.take_keyword("ON") {
        Ok(true)
    } else if args.take_keyword("OFF") {
        Ok(false)
    } else {
        Err(CommandError::SYNTAX)
    }
}
