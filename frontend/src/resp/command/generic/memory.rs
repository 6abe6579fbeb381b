//! `MEMORY USAGE key [SAMPLES count]`, `MEMORY DOCTOR`, `MEMORY HELP`

use tercet_common::Row;

use crate::coordinator::Coordinator;
use crate::resp::command::access::read_row;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const MEMORY: Spec = Spec {
    name: "memory",
    arity: -2,
    flags: &[],
    keys: Keys::NONE,
    group: "server",
    summary: "A container for memory diagnostics commands.",
    since: "4.0.0",
    complexity: "Depends on subcommand.",
    notes: "",
    subcommands: &[USAGE, DOCTOR, HELP],
    run: Handler::Container,
};

const USAGE: Spec = Spec {
    name: "usage",
    arity: -3,
    flags: &[Flag::ReadOnly],
    keys: Keys { first: 2, last: 2, step: 1 },
    group: "server",
    summary: "Estimates the memory usage of a key.",
    since: "4.0.0",
    complexity: "O(1)",
    notes: "Key, value and what is kept beside them, for one of the three copies while it is in a worker's cache. \
            On disk PostgreSQL may take less or more.",
    subcommands: &[],
    run: Handler::Data(usage),
};

const DOCTOR: Spec = Spec {
    name: "doctor",
    arity: 2,
    keys: Keys::NONE,
    summary: "Outputs a memory problems report.",
    notes: "Refers to the metrics.",
    run: Handler::Data(|_, args| {
        args.finish()?;
        Ok(Pending::Ready(Reply::bulk(DOCTOR_TEXT)))
    }),
    ..USAGE
};

const HELP: Spec = Spec {
    name: "help",
    arity: 2,
    flags: &[Flag::Loading, Flag::Stale],
    keys: Keys::NONE,
    summary: "Returns helpful text about the different subcommands.",
    notes: "",
    run: Handler::Data(|_, args| {
        args.finish()?;
        Ok(Pending::Ready(super::help(HELP_LINES)))
    }),
    ..USAGE
};

const DOCTOR_TEXT: &str = "Nothing is kept in memory but bounded caches and what is in flight; see the metrics \
                           tercet_worker_cache_bytes and tercet_operations_in_flight.";

const HELP_LINES: &[&str] = &[
    "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Says where memory use can be seen.",
    "USAGE <key> [SAMPLES <count>]",
    "    Bytes that one copy of <key> and its value takes in a worker's cache. <count> changes nothing.",
    "HELP",
    "    Prints this help.",
];

fn usage(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    while !args.is_empty() {
        if args.len() < 2 || !args.take_keyword("SAMPLES") || args.next_i64()? < 0 {
            return Err(CommandError::SYNTAX);
        }
    }
    let answer = |row: &Row| Reply::Integer(i64::try_from(row.weight()).unwrap_or(i64::MAX));
    Ok(read_row(coordinator, key, move |row| row.map_or(Reply::Null, answer)))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::{Gateway, words};
    use crate::resp::reply::Reply;

    #[test]
    fn usage_grows_with_the_value() {
        let mut gateway = Gateway::new();
        gateway.script("memory usage k => nil\nset k 123 => +OK");
        let usage = |gateway: &Gateway| match gateway.run(&words("memory usage k samples 0")) {
            Reply::Integer(bytes) => bytes,
            other => panic!("{other:?}"),
        };
        let small = usage(&gateway);
        gateway.script("append k 4567 => :7");
        assert_eq!(usage(&gateway), small + 4);
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            set k v => +OK
            memory usage k samples -1 => -ERR syntax error
            memory usage k samples x => -ERR value is not an integer or out of range
            memory usage k samples => -ERR syntax error
            memory usage k nonsense 1 => -ERR syntax error
            memory usage => -ERR wrong number of arguments for 'memory|usage' command
            "#,
        );
    }
}
