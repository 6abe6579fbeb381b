//! `MSET key value [key value …]`, `MSETNX key value [key value …]`

use std::collections::BTreeMap;

use bytes::Bytes;
use tercet_common::{Content, Key};

use crate::coordinator::Coordinator;
use crate::resp::command::access::{all_writes, check_key_count};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, wrong_arity};
use crate::resp::reply::Reply;

pub(super) const MSET: Spec = Spec {
    name: "mset",
    arity: -3,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::PAIRS,
    group: "string",
    summary: "Creates or modifies the string values of one or more keys.",
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys to set.",
    notes: "Independent SETs, not atomic: others may see some of the keys set and others not yet. If only some could \
            be written the answer is an UNCERTAIN error that says how many.",
    subcommands: &[],
    run: Handler::Data(mset),
};

pub(super) const MSETNX: Spec = Spec {
    name: "msetnx",
    arity: -3,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys::PAIRS,
    group: "string",
    summary: "Modifies the string values of one or more keys only when all keys don't exist.",
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys to set.",
    notes: "Takes one key only, which may be repeated; several keys are an error, because writes that are atomic \
            across partitions do not exist yet.",
    subcommands: &[],
    run: Handler::Data(msetnx),
};

fn pairs(args: &mut Args, name: &str) -> Result<Vec<(Key, Bytes)>, CommandError> {
    if args.is_empty() || !args.len().is_multiple_of(2) {
        return Err(wrong_arity(name));
    }
    check_key_count(args.len() / 2)?;
    let mut pairs = Vec::with_capacity(args.len() / 2);
    while !args.is_empty() {
        pairs.push((args.next_key()?, args.next_bytes()?));
    }
    Ok(pairs)
}

fn mset(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let pairs = pairs(&mut args, MSET.name)?;
    // Submitted in the order given, so of a repeated key the last value stays.
    let set = |(key, value): (Key, Bytes)| coordinator.set(key, Content::string(value, None));
    let writes: Vec<_> = pairs.into_iter().map(set).collect();
    Ok(Pending::later(async move {
        all_writes(writes).await?;
        Ok(Reply::OK)
    }))
}

fn msetnx(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let distinct: BTreeMap<Key, Bytes> = pairs(&mut args, MSETNX.name)?.into_iter().collect();
    let mut distinct = distinct.into_iter();
    match (distinct.next(), distinct.next()) {
        (Some((key, value)), None) => Ok(super::setex::if_missing(coordinator, key, value)),
        _ => Err(CommandError::text(
            "ERR MSETNX over several keys is not supported: it would have to be atomic across partitions. \
             Use one key, or SETNX each key",
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn mset_sets_each_key() {
        Gateway::check(
            r#"
            set a old px 100 => +OK
            mset a 1 b "\x00" => +OK
            mget a b => ["1", "\x00"]
            pexpiretime a => :-1
            mset a 1 a 2 a 3 => +OK
            get a => "3"
            mset a 1 b => -ERR wrong number of arguments for 'mset' command
            mset a => -ERR wrong number of arguments for 'mset' command
            get a => "3"
            @fail busy
            mset a 1 b 2 => -BUSY too many operations are in flight; nothing was done
            "#,
        );
    }

    #[test]
    fn msetnx_takes_one_key() {
        Gateway::check(
            r#"
            msetnx a 1 a 2 => :1
            get a => "2"
            msetnx a 3 => :0
            get a => "2"
            msetnx a 1 b => -ERR wrong number of arguments for 'msetnx' command
            "#,
        );
    }

    #[test]
    fn msetnx_over_several_keys_sets_none() {
        Gateway::check(
            "msetnx a 1 b 2 => -ERR MSETNX over several keys is not supported: it would have to be atomic across \
             partitions. Use one key, or SETNX each key
             exists a b => :0",
        );
    }
}
