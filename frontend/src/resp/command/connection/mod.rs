//! Commands about the connection itself.

mod auth;
mod client;
mod hello;
mod ping;
mod quit;
mod select;

use super::{Flag, Handler, Keys, Spec};

pub const COMMANDS: &[Spec] = &[
    auth::AUTH,
    client::CLIENT,
    hello::HELLO,
    ping::ECHO,
    ping::PING,
    quit::QUIT,
    quit::RESET,
    select::SELECT,
];

/// What most rows here have in common.
const ROW: Spec = Spec {
    name: "",
    arity: 1,
    flags: &[Flag::NoScript, Flag::Loading, Flag::Stale],
    keys: Keys::NONE,
    group: "connection",
    summary: "",
    since: "",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Container,
};
