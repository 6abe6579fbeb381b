//! Commands on keys whatever they hold, and on the whole store.

mod del;
mod dump;
mod exists;
mod expire;
mod flush;
mod keys;
mod memory;
mod object;
mod payload;
mod rename;
mod scan;
mod ttl;
mod type_of;

use super::{Reply, Spec};

/// The rows of this family.
pub const COMMANDS: &[Spec] = &[
    rename::COPY,
    keys::DBSIZE,
    del::DEL,
    dump::DUMP,
    exists::EXISTS,
    expire::EXPIRE,
    expire::EXPIREAT,
    ttl::EXPIRETIME,
    flush::FLUSHALL,
    flush::FLUSHDB,
    keys::KEYS,
    memory::MEMORY,
    object::OBJECT,
    expire::PERSIST,
    expire::PEXPIRE,
    expire::PEXPIREAT,
    ttl::PEXPIRETIME,
    ttl::PTTL,
    keys::RANDOMKEY,
    rename::RENAME,
    rename::RENAMENX,
    dump::RESTORE,
    scan::SCAN,
    exists::TOUCH,
    ttl::TTL,
    type_of::TYPE,
    del::UNLINK,
];

/// What a HELP subcommand answers.
fn help(lines: &'static [&'static str]) -> Reply {
    Reply::Array(lines.iter().map(|line| Reply::Simple((*line).into())).collect())
}
