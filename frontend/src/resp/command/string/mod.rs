//! Strings: whole values, parts of them, and numbers in them.

mod append;
mod get;
mod getex;
mod getrange;
mod getset;
mod incr;
mod incrbyfloat;
mod lcs;
mod mget;
mod mset;
mod set;
mod setex;
mod setrange;

pub(super) use set::{content, put};

use super::{CommandError, Reply, Spec};

/// The rows of this family.
pub const COMMANDS: &[Spec] = &[
    append::APPEND,
    incr::DECR,
    incr::DECRBY,
    get::GET,
    getset::GETDEL,
    getex::GETEX,
    getrange::GETRANGE,
    getset::GETSET,
    incr::INCR,
    incr::INCRBY,
    incrbyfloat::INCRBYFLOAT,
    lcs::LCS,
    mget::MGET,
    mset::MSET,
    mset::MSETNX,
    setex::PSETEX,
    set::SET,
    setex::SETEX,
    setex::SETNX,
    setrange::SETRANGE,
    append::STRLEN,
    getrange::SUBSTR,
];

/// Refuses a string that would grow to more than `max` bytes, before anything is allocated for it.
fn check_length(head: usize, tail: usize, max: usize) -> Result<(), CommandError> {
    match head.checked_add(tail) {
        Some(len) if len <= max => Ok(()),
        _ => Err(CommandError::text("ERR string exceeds maximum allowed size (proto-max-bulk-len)")),
    }
}

fn length(data: &[u8]) -> Reply {
    // A slice is never longer than isize::MAX bytes.
    Reply::Integer(i64::try_from(data.len()).unwrap_or(i64::MAX))
}
