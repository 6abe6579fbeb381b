//! CLIENT KILL, in its old form (an address) and its new one (filters).

use super::super::ROW;
use super::ADMIN;
use super::list::is_normal_type;
use crate::resp::clients::Client;
use crate::resp::command::{Args, CommandError, Handler, Pending, SessionContext, Spec, parse_i64, quoted};
use crate::resp::gateway::USER;
use crate::resp::reply::Reply;

pub(super) const KILL: Spec = Spec {
    name: "kill",
    arity: -3,
    flags: ADMIN,
    summary: "Terminates open connections.",
    since: "2.4.0",
    complexity: "O(N) where N is the number of client connections",
    run: Handler::Session(run),
    ..ROW
};

/// All that are given must fit.
#[derive(Default)]
struct Filter {
    id: Option<u64>,
    addr: Option<Vec<u8>>,
    laddr: Option<Vec<u8>>,
    /// Of the wrong type or user: nobody fits.
    nobody: bool,
    include_me: bool,
}

fn run(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    if args.len() == 1 {
        let addr = args.next_bytes()?.to_vec();
        let filter = Filter { addr: Some(addr), include_me: true, ..Filter::default() };
        return match kill(context, &filter) {
            0 => Err(CommandError::text("ERR No such client")),
            _ => Ok(Pending::Ready(Reply::OK)),
        };
    }
    let filter = parse(&mut args)?;
    let killed = kill(context, &filter);
    Ok(Pending::Ready(Reply::Integer(killed)))
}

fn parse(args: &mut Args) -> Result<Filter, CommandError> {
    let mut filter = Filter::default();
    while !args.is_empty() {
        if args.len() < 2 {
            return Err(CommandError::SYNTAX);
        }
        if args.take_keyword("ID") {
            let id = parse_i64(&args.next_bytes()?).filter(|id| *id >= 1);
            let id = id.ok_or(CommandError::text("ERR client-id should be greater than 0"))?;
            filter.id = Some(id.unsigned_abs());
        } else if args.take_keyword("TYPE") {
            filter.nobody |= !is_normal_type(&args.next_bytes()?)?;
        } else if args.take_keyword("ADDR") {
            filter.addr = Some(args.next_bytes()?.to_vec());
        } else if args.take_keyword("LADDR") {
            filter.laddr = Some(args.next_bytes()?.to_vec());
        } else if args.take_keyword("USER") {
            let user = args.next_bytes()?;
            if user != USER.as_bytes() {
                let user = quoted(&user);
                return Err(CommandError::text(format!("ERR No such user '{user}'")));
            }
        } else if args.take_keyword("SKIPME") {
            filter.include_me = if args.take_keyword("NO") {
                true
            } else if args.take_keyword("YES") {
                false
            } else {
                return Err(CommandError::SYNTAX);
            };
        } else {
            return Err(CommandError::SYNTAX);
        }
    }
    Ok(filter)
}

impl Filter {
    fn fits(&self, client: &Client) -> bool {
        !self.nobody
            && self.id.is_none_or(|id| id == client.id)
            && self.addr.as_ref().is_none_or(|addr| addr == client.peer.remote.as_bytes())
            && self.laddr.as_ref().is_none_or(|laddr| laddr == client.peer.local.as_bytes())
    }
}

/// The number of clients that fitted. The caller's own connection ends after the reply.
fn kill(context: &mut SessionContext<'_>, filter: &Filter) -> i64 {
    let me = context.session.client.id;
    let mut killed = 0;
    for client in context.gateway.clients.all().iter().filter(|client| filter.fits(client)) {
        if client.id != me {
            client.kill();
        } else if filter.include_me {
            context.session.close = true;
        } else {
            continue;
        }
        killed += 1;
    }
    killed
}
