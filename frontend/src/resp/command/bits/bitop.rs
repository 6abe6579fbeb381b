//! `BITOP AND | OR | XOR | NOT destkey key [key …]`

use bytes::Bytes;
use tercet_common::Content;

use crate::coordinator::Coordinator;
use crate::resp::command::access::{Stored, all_reads, keys};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const BITOP: Spec = Spec {
    name: "bitop",
    arity: -4,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: Keys { first: 2, last: -1, step: 1 },
    group: "bitmap",
    summary: "Performs bitwise operations on multiple strings, and stores the result.",
    since: "2.6.0",
    complexity: "O(N)",
    notes: "Not atomic: the sources are read one by one, and the destination is written afterwards.",
    subcommands: &[],
    run: Handler::Data(run),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

impl Operation {
    fn parse(args: &mut Args) -> Result<Self, CommandError> {
        let names = [("AND", Self::And), ("OR", Self::Or), ("XOR", Self::Xor), ("NOT", Self::Not)];
        let found = names.into_iter().find(|(name, _)| args.take_keyword(name));
        found.map(|(_, operation)| operation).ok_or(CommandError::SYNTAX)
    }

    /// As long as the longest source; shorter ones count as padded with zeros.
    fn apply(self, sources: &[Bytes]) -> Vec<u8> {
        let len = sources.iter().map(Bytes::len).max().unwrap_or(0);
        let mut result = sources.first().map_or(Vec::new(), |first| first.to_vec());
        result.resize(len, 0);
        if self == Self::Not {
            result.iter_mut().for_each(|byte| *byte = !*byte);
        }
        for source in sources.iter().skip(1) {
            for (byte, other) in result.iter_mut().zip(source.iter().chain(std::iter::repeat(&0))) {
                match self {
                    Self::And => *byte &= other,
                    Self::Or => *byte |= other,
                    Self::Xor => *byte ^= other,
                    Self::Not => {}
                }
            }
        }
        result
    }
}

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let operation = Operation::parse(&mut args)?;
    let destination = args.next_key()?;
    let sources = keys(&mut args)?;
    if operation == Operation::Not && sources.len() != 1 {
        return Err(CommandError::text("ERR BITOP NOT must be called with a single source key."));
    }
    let reads: Vec<_> = sources.into_iter().map(|key| coordinator.get(key)).collect();
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        let rows = all_reads(reads).await?;
        let sources = rows
            .iter()
            .map(|row| Ok(Stored::of(row.as_deref())?.map_or(Bytes::new(), |stored| stored.data)))
            .collect::<Result<Vec<_>, CommandError>>()?;
        let result = operation.apply(&sources);
        let len = i64::try_from(result.len()).unwrap_or(i64::MAX);
        let content = if result.is_empty() { Content::Tombstone } else { Content::string(result, None) };
        coordinator.set(destination, content).await?;
        Ok(Reply::Integer(len))
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn combining_strings() {
        Gateway::check(
            r#"
            mset a foobar b abcdef short "\xff" => +OK
            bitop and d a b => :6
            get d => "`bc`ab"
            bitop OR d a b => :6
            get d => "goofev"
            bitop xor d a b => :6
            get d => "\x07\r\x0c\x06\x04\x14"
            bitop not d short => :1
            get d => "\x00"
            bitop and d a short => :6
            get d => "f\x00\x00\x00\x00\x00"
            bitop or d a missing short => :6
            get d => "\xffoobar"
            bitop and d a => :6
            get d => "foobar"
            set d v px 100 => +OK
            bitop and d missing other => :0
            exists d => :0
            set d v ex 100 => +OK
            bitop and d d => :1
            pexpiretime d => :-1
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            bitop nonsense d a => -ERR syntax error
            bitop not d a b => -ERR BITOP NOT must be called with a single source key.
            bitop and d => -ERR wrong number of arguments for 'bitop' command
            "#,
        );
    }
}
