//! CONFIG: the settings that Redis clients ask for, as far as they are true here.

use bytes::Bytes;

use super::{HELP, ROW};
use crate::Config;
use crate::resp::command::help::help;
use crate::resp::command::{
    Args, CommandError, Flag, Handler, Pending, SessionContext, Spec, parse_i64, quoted,
};
use crate::resp::gateway::Gateway;
use crate::resp::glob::glob_match;
use crate::resp::reply::Reply;
use crate::resp::{server, slowlog};

const FLAGS: &[Flag] = &[Flag::Admin, Flag::NoScript, Flag::Loading, Flag::Stale];

pub(super) const CONFIG: Spec = Spec {
    name: "config",
    arity: -2,
    flags: &[],
    summary: "A container for server configuration commands.",
    since: "2.0.0",
    complexity: "Depends on subcommand.",
    subcommands: &[
        Spec {
            name: "get",
            arity: -3,
            flags: FLAGS,
            summary: "Returns the effective values of configuration parameters.",
            since: "2.0.0",
            complexity: "O(N) when N is the number of configuration parameters provided",
            notes: "The password is not shown.",
            run: Handler::Session(get),
            ..ROW
        },
        Spec { run: Handler::Session(show_help), ..HELP },
        Spec {
            name: "resetstat",
            arity: 2,
            flags: FLAGS,
            summary: "Resets the server's statistics.",
            since: "2.0.0",
            run: Handler::Session(reset_stat),
            ..ROW
        },
        Spec {
            name: "rewrite",
            arity: 2,
            flags: FLAGS,
            summary: "Is refused: settings are kept outside the server.",
            since: "2.8.0",
            notes: "Always an error.",
            run: Handler::Session(rewrite),
            ..ROW
        },
        Spec {
            name: "set",
            arity: -4,
            flags: FLAGS,
            summary: "Sets configuration parameters in-flight.",
            since: "2.0.0",
            complexity: "O(N) when N is the number of configuration parameters provided",
            notes: "Holds for one frontend, until it ends. Other settings are changed where it is started.",
            run: Handler::Session(set),
            ..ROW
        },
    ],
    ..ROW
};

struct Parameter {
    name: &'static str,
    get: fn(&Gateway) -> String,
    set: Set,
}

impl Parameter {
    /// What the answer calls it if the pattern means it. As in Redis, a plain name comes back as the client spelt it.
    fn named_by(&self, pattern: &Bytes) -> Option<Bytes> {
        if !pattern.iter().any(|b| b"*?[".contains(b)) {
            return pattern.eq_ignore_ascii_case(self.name.as_bytes()).then(|| pattern.clone());
        }
        glob_match(pattern, self.name.as_bytes(), true).then(|| Bytes::from_static(self.name.as_bytes()))
    }
}

/// A checked pair of CONFIG SET.
struct Change {
    name: &'static str,
    apply: fn(&Gateway, i64),
    value: i64,
}

#[derive(Clone, Copy)]
enum Set {
    Never,
    Integer { min: i64, max: i64, apply: fn(&Gateway, i64) },
}

const fn fixed(name: &'static str, get: fn(&Gateway) -> String) -> Parameter {
    Parameter { name, get, set: Set::Never }
}

const fn integer(
    name: &'static str,
    get: fn(&Gateway) -> String,
    (min, max): (i64, i64),
    apply: fn(&Gateway, i64),
) -> Parameter {
    Parameter { name, get, set: Set::Integer { min, max, apply } }
}

fn text(value: &str) -> String {
    value.to_owned()
}

/// Sorted by name.
const PARAMETERS: &[Parameter] = &[
    // Every acknowledged write is committed with fsync; this is how Redis would call it.
    fixed("appendfsync", |_| text("always")),
    fixed("appendonly", |_| text("yes")),
    fixed("bind", |g| g.config.resp_listen.ip().to_string()),
    fixed("cluster-enabled", |_| text("no")),
    fixed("databases", |_| text("1")),
    integer(
        "latency-monitor-threshold",
        |g| g.latency.threshold_ms().to_string(),
        (0, i64::MAX),
        |g, millis| g.latency.set_threshold_ms(millis),
    ),
    fixed("latency-tracking", |_| text("yes")),
    fixed("latency-tracking-info-percentiles", |_| text("50 99 99.9")),
    fixed("maxclients", |g| g.config.clients_max.to_string()),
    fixed("maxmemory", |_| text("0")),
    fixed("maxmemory-policy", |_| text("noeviction")),
    fixed("notify-keyspace-events", |_| text("")),
    fixed("port", |g| g.port.to_string()),
    fixed("protected-mode", |g| yes_no(g.config.protected_mode)),
    fixed("proto-max-bulk-len", |g| g.config.value_bytes_max.min(Config::VALUE_BYTES_CEILING).to_string()),
    fixed("replica-read-only", |_| text("yes")),
    fixed("requirepass", |_| text("")),
    fixed("save", |_| text("")),
    fixed("slave-read-only", |_| text("yes")),
    integer(
        "slowlog-log-slower-than",
        |g| g.slowlog.slower_than_us().to_string(),
        (-1, i64::MAX),
        |g, micros| g.slowlog.set_slower_than_us(micros),
    ),
    integer(
        "slowlog-max-len",
        |g| g.slowlog.len_max().to_string(),
        (0, slowlog::LEN_MAX),
        |g, len| g.slowlog.set_len_max(len),
    ),
    fixed("tcp-keepalive", |_| server::KEEPALIVE.as_secs().to_string()),
    fixed("timeout", |_| text("0")),
];

/// Known, so that setting it is refused for the right reason, and never shown.
const HIDDEN: &str = "requirepass";

fn yes_no(value: bool) -> String {
    text(if value { "yes" } else { "no" })
}

fn get(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let patterns = args.rest();
    let fields = PARAMETERS.iter().filter(|parameter| parameter.name != HIDDEN).filter_map(|parameter| {
        let name = patterns.iter().find_map(|pattern| parameter.named_by(pattern))?;
        Some((Reply::Bulk(name), Reply::bulk((parameter.get)(context.gateway))))
    });
    Ok(Pending::Ready(Reply::Map(fields.collect())))
}

/// All or nothing: every pair is checked before the first one is applied.
fn set(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    if !args.len().is_multiple_of(2) {
        return Err(CommandError::SYNTAX);
    }
    let mut changes: Vec<Change> = Vec::new();
    while !args.is_empty() {
        let (name, value) = (args.next_bytes()?, args.next_bytes()?);
        let known = PARAMETERS.iter().find(|p| name.eq_ignore_ascii_case(p.name.as_bytes()));
        let Some(parameter) = known else {
            let name = quoted(&name);
            return Err(CommandError::text(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            )));
        };
        if changes.iter().any(|change| change.name == parameter.name) {
            return Err(failed(parameter, "duplicate parameter"));
        }
        let Set::Integer { min, max, apply } = parameter.set else {
            return Err(failed(parameter, "can't set immutable config"));
        };
        let value = parse_i64(&value)
            .ok_or_else(|| failed(parameter, "argument couldn't be parsed into an integer"))?;
        if !(min..=max).contains(&value) {
            return Err(failed(parameter, &format!("argument must be between {min} and {max} inclusive")));
        }
        changes.push(Change { name: parameter.name, apply, value });
    }
    for change in changes {
        (change.apply)(context.gateway, change.value);
    }
    Ok(Pending::Ready(Reply::OK))
}

fn failed(parameter: &Parameter, reason: &str) -> CommandError {
    let name = parameter.name;
    CommandError::text(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"))
}

fn reset_stat(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    context.gateway.stats.clear();
    Ok(Pending::Ready(Reply::OK))
}

fn rewrite(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    Err(CommandError::text("ERR The server is running without a config file"))
}

fn show_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "config")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_sorted_and_unique() {
        assert!(PARAMETERS.is_sorted_by(|a, b| a.name < b.name));
    }
}
