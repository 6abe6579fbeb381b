//! CLIENT ID, INFO, LIST.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::super::ROW;
use super::ADMIN;
use crate::resp::clients::Client;
use crate::resp::command::{Args, CommandError, Handler, Pending, SessionContext, Spec, parse_i64, quoted};
use crate::resp::gateway::{Gateway, USER};
use crate::resp::reply::Reply;

pub(super) const ID: Spec = Spec {
    name: "id",
    arity: 2,
    summary: "Returns the unique client ID of the connection.",
    since: "5.0.0",
    run: Handler::Session(id),
    ..ROW
};

pub(super) const INFO: Spec = Spec {
    name: "info",
    arity: 2,
    summary: "Returns information about the connection.",
    since: "6.2.0",
    run: Handler::Session(info),
    ..ROW
};

pub(super) const LIST: Spec = Spec {
    name: "list",
    arity: -2,
    flags: ADMIN,
    summary: "Lists open connections.",
    since: "2.4.0",
    complexity: "O(N) where N is the number of client connections",
    run: Handler::Session(list),
    ..ROW
};

fn id(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let id = i64::try_from(context.session.client.id).unwrap_or(i64::MAX);
    Ok(Pending::Ready(Reply::Integer(id)))
}

fn info(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let mut out = String::new();
    describe(&context.session.client, context.gateway, &mut out);
    Ok(Pending::Ready(Reply::Verbatim(out.into())))
}

fn list(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let clients = &context.gateway.clients;
    let chosen = if args.is_empty() {
        clients.all()
    } else if args.len() == 2 && args.take_keyword("TYPE") {
        if is_normal_type(&args.next_bytes()?)? { clients.all() } else { Vec::new() }
    } else if args.len() >= 2 && args.take_keyword("ID") {
        let ids = args.rest().iter().map(|id| parse_id(id)).collect::<Result<Vec<_>, _>>()?;
        ids.into_iter().filter_map(|id| clients.get(id)).collect()
    } else {
        return Err(CommandError::SYNTAX);
    };
    let mut out = String::new();
    for client in chosen {
        describe(&client, context.gateway, &mut out);
    }
    Ok(Pending::Ready(Reply::Verbatim(out.into())))
}

fn parse_id(text: &[u8]) -> Result<u64, CommandError> {
    let id = parse_i64(text).and_then(|id| u64::try_from(id).ok());
    id.ok_or(CommandError::text("ERR Invalid client ID"))
}

/// All clients here are normal ones: there are no replicas and no subscribers.
pub(super) fn is_normal_type(name: &[u8]) -> Result<bool, CommandError> {
    const OTHERS: [&[u8]; 4] = [b"master", b"replica", b"slave", b"pubsub"];
    if name.eq_ignore_ascii_case(b"normal") {
        return Ok(true);
    }
    if OTHERS.iter().any(|other| name.eq_ignore_ascii_case(other)) {
        return Ok(false);
    }
    let name = quoted(name);
    Err(CommandError::text(format!("ERR Unknown client type '{name}'")))
}

/// Redis's line of a client, with its newline.
fn describe(client: &Client, gateway: &Gateway, out: &mut String) {
    let labels = client.labels.lock().clone();
    let (age, idle) = (client.age().as_secs(), client.idle().as_secs());
    let flags = match (client.no_evict.load(Ordering::Relaxed), client.no_touch.load(Ordering::Relaxed)) {
        (false, false) => "N",
        (true, false) => "e",
        (false, true) => "T",
        (true, true) => "eT",
    };
    let command = client.last_command().map_or("NULL", |id| gateway.table.entries()[id].name);
    let input = client.input_bytes.load(Ordering::Relaxed);
    let output = client.output_bytes.load(Ordering::Relaxed);
    let memory = std::mem::size_of::<Client>() + input + output;
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "id={} addr={} laddr={} fd={} name={} age={age} idle={idle} flags={flags} db=0 sub=0 psub=0 ssub=0 \
         multi=-1 qbuf={input} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={output} oll=0 omem={output} \
         tot-mem={memory} events=r cmd={command} user={USER} redir=-1 resp={} lib-name={} lib-ver={}",
        client.id,
        client.peer.remote,
        client.peer.local,
        client.peer.fd,
        labels.name,
        client.resp.load(Ordering::Relaxed),
        labels.lib_name,
        labels.lib_ver,
    );
}
