//! The commands: one file each (or one per family of thin variants), one row each in [`table::TABLE`].
//!
//! A row says what can be said without code: name, arity, flags, where the keys are, the help text. Arity checks,
//! routing of pipelines, metric labels, COMMAND and the documentation derive from it. The handler parses its
//! arguments first and acts after, so a bad argument never has a side effect.

mod access;
pub mod bits;
pub mod connection;
mod decimal;
pub mod generic;
mod help;
pub mod server;
pub mod string;
pub mod table;
#[cfg(test)]
mod testing;
mod ttl;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::gateway::Gateway;
use super::reply::Reply;
use super::session::Session;
use crate::coordinator::{Coordinator, OpError};

/// A row of the table.
pub struct Spec {
    /// Lower case; subcommands carry their own name only.
    pub name: &'static str,
    /// As in Redis: counts the command's name; negative means "at least".
    pub arity: i16,
    pub flags: &'static [Flag],
    pub keys: Keys,
    /// As COMMAND DOCS has it: `string`, `bitmap`, `generic`, `connection`, `server`.
    pub group: &'static str,
    pub summary: &'static str,
    pub since: &'static str,
    pub complexity: &'static str,
    /// Where the command departs from Redis, for its documentation; empty where it does not.
    pub notes: &'static str,
    pub subcommands: &'static [Spec],
    pub run: Handler,
}

/// How Redis's COMMAND INFO names them, lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    Write,
    ReadOnly,
    DenyOom,
    Admin,
    NoScript,
    Loading,
    Stale,
    Fast,
    NoAuth,
    AllowBusy,
    MovableKeys,
}

/// Positions of the keys among the arguments, the command's name at 0. `last` may count from the end (-1 is the last).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    pub first: i16,
    pub last: i16,
    pub step: i16,
}

impl Keys {
    pub const NONE: Self = Self { first: 0, last: 0, step: 0 };
    pub const FIRST: Self = Self { first: 1, last: 1, step: 1 };
    pub const ALL: Self = Self { first: 1, last: -1, step: 1 };
    pub const PAIRS: Self = Self { first: 1, last: -1, step: 2 };
}

/// A data command: parses, submits to the coordinator, and yields what is left to wait for.
///
/// It must have submitted its first coordinator operation when it returns (not only when the future is polled), so
/// that pipelined commands on one key keep their order.
pub type DataHandler = fn(&Coordinator, Args) -> Result<Pending, CommandError>;

/// Who runs a command.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Needs the coordinator only.
    Data(DataHandler),
    /// Needs the connection or the server; see `resp::connection`.
    Session(SessionHandler),
    /// Has subcommands only.
    Container,
}

/// A command of the connection or the server.
pub type SessionHandler = fn(&mut SessionContext<'_>, Args) -> Result<Pending, CommandError>;

/// What a [`SessionHandler`] may touch.
///
/// Changes to the session hold from the next command on: every command of this kind runs alone in its connection's
/// pipeline.
pub struct SessionContext<'a> {
    pub gateway: &'a Arc<Gateway>,
    pub session: &'a mut Session,
}

impl SessionContext<'_> {
    pub fn coordinator(&self) -> &Coordinator {
        &self.gateway.coordinator
    }
}

/// A command that has been parsed and started.
pub enum Pending {
    Ready(Reply),
    Later(BoxFuture<'static, Result<Reply, CommandError>>),
}

impl Pending {
    pub fn later(future: impl Future<Output = Result<Reply, CommandError>> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

/// Why a command failed. The one place where RESP error texts come from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Redis's own text, with its prefix (`ERR …`, `WRONGTYPE …`).
    #[error("{0}")]
    Text(Cow<'static, str>),
    #[error(transparent)]
    Op(#[from] OpError),
}

impl CommandError {
    pub const SYNTAX: Self = Self::Text(Cow::Borrowed("ERR syntax error"));
    pub const NOT_AN_INTEGER: Self = Self::Text(Cow::Borrowed("ERR value is not an integer or out of range"));
    pub const NOT_A_FLOAT: Self = Self::Text(Cow::Borrowed("ERR value is not a valid float"));
    pub const WRONG_TYPE: Self =
        Self::Text(Cow::Borrowed("WRONGTYPE Operation against a key holding the wrong kind of value"));

    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(text.into())
    }

    /// The error line without its leading `-`. CR and LF never get into it.
    pub fn line(&self) -> Cow<'static, str> {
        match self {
            Self::Text(text) => text.clone(),
            Self::Op(error) => {
                let prefix = match error {
                    OpError::NoQuorum { .. } => "NOREPLICAS",
                    OpError::Uncertain => "UNCERTAIN",
                    OpError::Busy => "BUSY",
                    OpError::ReadUnavailable => "CLUSTERDOWN",
                    OpError::Loading => "LOADING",
                    OpError::ValueTooLarge { .. } => "ERR",
                };
                Cow::Owned(format!("{prefix} {error}"))
            }
        }
    }
}

/// A cursor over a command's arguments. [`Args::finish`] refuses what was not asked for.
pub struct Args {
    name: &'static str,
    args: std::vec::IntoIter<Bytes>,
}

impl Args {
    /// `args` without the command's name (and subcommand's).
    pub fn new(name: &'static str, args: Vec<Bytes>) -> Self {
        Self { name, args: args.into_iter() }
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    pub fn is_empty(&self) -> bool {
        self.args.len() == 0
    }

    pub fn peek(&self) -> Option<&Bytes> {
        self.args.as_slice().first()
    }

    /// The rest, unparsed.
    pub fn rest(&mut self) -> Vec<Bytes> {
        self.args.by_ref().collect()
    }

    pub fn next_bytes(&mut self) -> Result<Bytes, CommandError> {
        self.args.next().ok_or_else(|| wrong_arity(self.name))
    }

    pub fn next_key(&mut self) -> Result<tercet_common::Key, CommandError> {
        key(self.next_bytes()?)
    }

    pub fn next_i64(&mut self) -> Result<i64, CommandError> {
        parse_i64(&self.next_bytes()?).ok_or(CommandError::NOT_AN_INTEGER)
    }

    /// Takes the next argument if it is this keyword, in any case.
    pub fn take_keyword(&mut self, keyword: &str) -> bool {
        let hit = self.peek().is_some_and(|arg| arg.eq_ignore_ascii_case(keyword.as_bytes()));
        if hit {
            self.args.next();
        }
        hit
    }

    /// Surplus arguments are a syntax error.
    pub fn finish(&self) -> Result<(), CommandError> {
        if self.is_empty() { Ok(()) } else { Err(CommandError::SYNTAX) }
    }
}

pub fn key(bytes: Bytes) -> Result<tercet_common::Key, CommandError> {
    tercet_common::Key::new(bytes).map_err(|e| CommandError::text(format!("ERR {e}")))
}

pub fn wrong_arity(name: &str) -> CommandError {
    CommandError::text(format!("ERR wrong number of arguments for '{name}' command"))
}

/// Surplus arguments of a subcommand that Redis lets through its table and refuses itself.
pub fn wrong_subcommand_arity(container: &str, subcommand: &str) -> CommandError {
    CommandError::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try {container} HELP."
    ))
}

/// How much of what a client sent an error quotes.
const QUOTED_BYTES_MAX: usize = 128;

/// A client's word as errors quote it: as C prints it, to the first NUL, and not more than its start.
pub fn quoted(word: &[u8]) -> Cow<'_, str> {
    quoted_to(word, QUOTED_BYTES_MAX)
}

fn quoted_to(word: &[u8], max: usize) -> Cow<'_, str> {
    let end = word.iter().position(|b| *b == 0).unwrap_or(word.len()).min(max);
    String::from_utf8_lossy(&word[..end])
}

/// Redis's `string2ll`: no spaces, no plus sign, no leading zeros, 64-bit signed.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical || text.len() > 20 {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_quote_the_start_of_a_word_only() {
        assert_eq!(quoted(b"a\0b"), "a");
        assert_eq!(quoted(&[b'x'; 1_000]).len(), QUOTED_BYTES_MAX);
        assert_eq!(quoted(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn integers_are_parsed_as_redis_does() {
        for (text, value) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(parse_i64(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "9223372036854775808", "1.0", "0x1"] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text}");
        }
    }
}
