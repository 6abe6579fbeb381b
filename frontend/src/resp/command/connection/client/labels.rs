//! CLIENT SETNAME, GETNAME, SETINFO: what a client says of itself.

use super::super::ROW;
use crate::resp::command::{Args, CommandError, Handler, Pending, SessionContext, Spec, quoted};
use crate::resp::reply::Reply;

/// The longest name, library name or version. Redis has no limit; what a client may store here has one.
const LABEL_BYTES_MAX: usize = 1_024;

pub(super) const SETNAME: Spec = Spec {
    name: "setname",
    arity: 3,
    summary: "Sets the connection name.",
    since: "2.6.9",
    run: Handler::Session(set_name),
    ..ROW
};

pub(super) const GETNAME: Spec = Spec {
    name: "getname",
    arity: 2,
    summary: "Returns the name of the connection.",
    since: "2.6.9",
    run: Handler::Session(get_name),
    ..ROW
};

pub(super) const SETINFO: Spec = Spec {
    name: "setinfo",
    arity: 4,
    summary: "Sets information specific to the client or connection.",
    since: "7.2.0",
    run: Handler::Session(set_info),
    ..ROW
};

fn set_name(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let name = checked_name(&args.next_bytes()?)?;
    context.session.client.labels.lock().name = name;
    Ok(Pending::Ready(Reply::OK))
}

fn get_name(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let name = context.session.client.labels.lock().name.clone();
    Ok(Pending::Ready(if name.is_empty() { Reply::Null } else { Reply::bulk(name) }))
}

fn set_info(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let (option, value) = (args.next_bytes()?, args.next_bytes()?);
    let is_lib_name = option.eq_ignore_ascii_case(b"lib-name");
    if !is_lib_name && !option.eq_ignore_ascii_case(b"lib-ver") {
        let option = quoted(&option);
        return Err(CommandError::text(format!("ERR Unrecognized option '{option}'")));
    }
    let kind = if is_lib_name { "lib-name" } else { "lib-ver" };
    let value = checked(&value, kind)?;
    let mut labels = context.session.client.labels.lock();
    *(if is_lib_name { &mut labels.lib_name } else { &mut labels.lib_ver }) = value;
    Ok(Pending::Ready(Reply::OK))
}

/// A name that keeps CLIENT LIST parseable.
pub(in super::super) fn checked_name(name: &[u8]) -> Result<String, CommandError> {
    checked(name, "Client names")
}

fn checked(label: &[u8], kind: &str) -> Result<String, CommandError> {
    let printable = label.iter().all(|b| (b'!'..=b'~').contains(b));
    if printable && label.len() <= LABEL_BYTES_MAX {
        return Ok(String::from_utf8_lossy(label).into_owned());
    }
    Err(CommandError::text(format!("ERR {kind} cannot contain spaces, newlines or special characters.")))
}
