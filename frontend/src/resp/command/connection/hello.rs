//! HELLO: version of the protocol, authentication and name in one round trip.

use super::ROW;
use super::auth::WRONG_PASSWORD;
use super::client::labels::checked_name;
use crate::resp::command::{
    Args, CommandError, Flag, Handler, Pending, SessionContext, Spec, parse_i64, quoted,
};
use crate::resp::encode::Version;
use crate::resp::gateway::REDIS_VERSION;
use crate::resp::reply::Reply;

pub(super) const HELLO: Spec = Spec {
    name: "hello",
    arity: -1,
    flags: &[Flag::NoScript, Flag::Loading, Flag::Stale, Flag::Fast, Flag::NoAuth, Flag::AllowBusy],
    summary: "Handshakes with the server.",
    since: "6.0.0",
    run: Handler::Session(run),
    ..ROW
};

const NO_VERSION: &str = "ERR Protocol version is not an integer or out of range";
const UNSUPPORTED: &str = "NOPROTO unsupported protocol version";
const NOT_AUTHENTICATED: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
     HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
     version at the same time";

fn run(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let version = if args.is_empty() { None } else { Some(version(&mut args)?) };
    let mut credentials = None;
    let mut name = None;
    while let Some(option) = args.peek().cloned() {
        if args.len() >= 3 && args.take_keyword("AUTH") {
            credentials = Some((args.next_bytes()?, args.next_bytes()?));
        } else if args.len() >= 2 && args.take_keyword("SETNAME") {
            name = Some(checked_name(&args.next_bytes()?)?);
        } else {
            let option = quoted(&option);
            return Err(CommandError::text(format!("ERR Syntax error in HELLO option '{option}'")));
        }
    }
    if let Some((user, password)) = credentials {
        if !context.gateway.admits(&user, &password) {
            return Err(WRONG_PASSWORD);
        }
        context.session.authenticated = true;
    }
    if !context.session.authenticated {
        return Err(CommandError::text(NOT_AUTHENTICATED));
    }
    if let Some(name) = name {
        context.session.client.labels.lock().name = name;
    }
    if let Some(version) = version {
        context.session.set_version(version);
    }
    Ok(Pending::Ready(greeting(context)))
}

fn version(args: &mut Args) -> Result<Version, CommandError> {
    match parse_i64(&args.next_bytes()?) {
        Some(2) => Ok(Version::Resp2),
        Some(3) => Ok(Version::Resp3),
        Some(_) => Err(CommandError::text(UNSUPPORTED)),
        None => Err(CommandError::text(NO_VERSION)),
    }
}

fn greeting(context: &SessionContext<'_>) -> Reply {
    let session = &context.session;
    let id = i64::try_from(session.client.id).unwrap_or(i64::MAX);
    let fields = [
        ("server", Reply::bulk("redis")),
        ("version", Reply::bulk(REDIS_VERSION)),
        ("proto", Reply::Integer(session.version().number())),
        ("id", Reply::Integer(id)),
        ("mode", Reply::bulk("standalone")),
        ("role", Reply::bulk("master")),
        ("modules", Reply::Array(Vec::new())),
    ];
    Reply::Map(fields.map(|(name, value)| (Reply::bulk(name), value)).into())
}
