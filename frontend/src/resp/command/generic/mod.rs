//! Commands on keys whatever they hold.

mod del;
mod exists;
mod expire;
mod ttl;
mod type_of;

use super::Spec;

/// The rows of this family.
pub const COMMANDS: &[Spec] = &[
    del::DEL,
    exists::EXISTS,
    expire::EXPIRE,
    expire::EXPIREAT,
    ttl::EXPIRETIME,
    expire::PERSIST,
    expire::PEXPIRE,
    expire::PEXPIREAT,
    ttl::PEXPIRETIME,
    ttl::PTTL,
    exists::TOUCH,
    ttl::TTL,
    type_of::TYPE,
    del::UNLINK,
];
