//! LOLWUT.

use super::ROW;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::gateway::REDIS_VERSION;
use crate::resp::reply::Reply;

pub(super) const LOLWUT: Spec = Spec {
    name: "lolwut",
    arity: -1,
    flags: &[Flag::ReadOnly, Flag::Fast],
    summary: "Displays computer art and the version.",
    since: "5.0.0",
    run: Handler::Session(run),
    ..ROW
};

/// Three copies on a ring.
const ART: &str = "\
          . - o - .
       .             .
     o                 .
    .      t e r        .
    .      c e t        o
     .                 .
       .             .
          . - o - .
";

fn run(_: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    if args.len() >= 2 && args.take_keyword("VERSION") {
        // The versions differ in the picture only, and there is one picture.
        args.next_i64()?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{ART}\nTercet ver. {version} (speaks Redis ver. {REDIS_VERSION})\n");
    Ok(Pending::Ready(Reply::Verbatim(text.into())))
}
