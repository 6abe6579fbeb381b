//! Commands about the server.

mod acl;
mod commands;
mod config;
mod debug;
mod info;
mod latency;
mod lolwut;
mod refused;
mod role;
mod slowlog;
mod time;

use super::{Flag, Handler, Keys, Spec};

pub const COMMANDS: &[Spec] = &[
    acl::ACL,
    refused::CLUSTER,
    commands::COMMAND,
    config::CONFIG,
    debug::DEBUG,
    info::INFO,
    latency::LATENCY,
    lolwut::LOLWUT,
    acl::MODULE,
    role::ROLE,
    refused::SHUTDOWN,
    slowlog::SLOWLOG,
    time::TIME,
    role::WAIT,
];

/// What most rows here have in common.
const ROW: Spec = Spec {
    name: "",
    arity: 1,
    flags: &[Flag::Admin, Flag::NoScript, Flag::Loading, Flag::Stale],
    keys: Keys::NONE,
    group: "server",
    summary: "",
    since: "",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Container,
};

/// The row of a container's HELP.
const HELP: Spec = Spec {
    name: "help",
    arity: 2,
    flags: &[Flag::Loading, Flag::Stale],
    summary: "Returns helpful text about the different subcommands.",
    since: "5.0.0",
    ..ROW
};
