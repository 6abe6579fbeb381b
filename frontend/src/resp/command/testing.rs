//! Scripts for the tests of the data commands.
//!
//! A script is a list of lines, each a command, `=>` and the reply that it must get:
//!
//! ```text
//! set k "a\x00b" px 100   => +OK
//! get k                   => "a\x00b"
//! @advance 100
//! mget k other            => [nil, nil]
//! ```
//!
//! Replies read `+simple`, `-ERR text`, `:1`, `"bulk"`, `nil`, `nil-array`, `[array]`, `{map: value}`. Time stands
//! still but for `@advance MILLISECONDS`. `@fail busy` makes the engine refuse, `@fail none` ends that.

use std::sync::Arc;

use bytes::Bytes;
use tercet_common::UnixMillis;

use super::{Args, CommandError, Handler, Pending, Reply, Spec, bits, generic, string, wrong_arity};
use crate::coordinator::memory::MemoryEngine;
use crate::coordinator::{Coordinator, OpError};

/// Runs data commands on an engine of its own.
pub(super) struct Gateway {
    pub(super) engine: Arc<MemoryEngine>,
    pub(super) coordinator: Coordinator,
    now: UnixMillis,
    runtime: tokio::runtime::Runtime,
}

impl Gateway {
    /// When scripts begin: 2023-11-14T22:13:20Z.
    pub(super) const START: UnixMillis = UnixMillis(1_700_000_000_000);

    pub(super) fn new() -> Self {
        let engine = MemoryEngine::new();
        engine.set_now(Self::START);
        let coordinator = Coordinator::new(engine.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { engine, coordinator, now: Self::START, runtime }
    }

    /// Runs a script on an engine of its own.
    #[track_caller]
    pub(super) fn check(script: &str) {
        Self::new().script(script);
    }

    /// Runs a script on what earlier ones left.
    #[track_caller]
    pub(super) fn script(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.strip_prefix('@') {
                Some(directive) => self.direct(directive),
                None => {
                    let (command, expected) = line.split_once("=>").expect("a line is `command => reply`");
                    assert_eq!(show(&self.run(&words(command))), expected.trim(), "{line}");
                }
            }
        }
    }

    fn direct(&mut self, directive: &str) {
        match directive.split_once(' ').expect("a directive and its argument") {
            ("advance", millis) => {
                self.now.0 += millis.parse::<i64>().unwrap();
                self.engine.set_now(self.now);
            }
            ("fail", "none") => self.engine.fail_with(None),
            ("fail", "busy") => self.engine.fail_with(Some(OpError::Busy)),
            ("fail", "uncertain") => self.engine.fail_with(Some(OpError::Uncertain)),
            other => panic!("unknown directive {other:?}"),
        }
    }

    /// The reply to one command.
    pub(super) fn run(&self, command: &[Bytes]) -> Reply {
        let pending = self.start(command);
        self.finish(pending)
    }

    pub(super) fn start(&self, command: &[Bytes]) -> Result<Pending, CommandError> {
        // LCS starts a thread of the runtime.
        let _entered = self.runtime.enter();
        let tables = [string::COMMANDS, bits::COMMANDS, generic::COMMANDS].concat_refs();
        let name = String::from_utf8_lossy(&command[0]).to_ascii_lowercase();
        let mut spec = find(&tables, &name).unwrap_or_else(|| panic!("no command {name}"));
        let mut args = command[1..].to_vec();
        let mut full_name = name.clone();
        if matches!(spec.run, Handler::Container) {
            let sub = String::from_utf8_lossy(&args.remove(0)).to_ascii_lowercase();
            let subcommands: Vec<&Spec> = spec.subcommands.iter().collect();
            spec = find(&subcommands, &sub).unwrap_or_else(|| panic!("no subcommand {sub}"));
            full_name = format!("{full_name}|{sub}");
        }
        let count = i16::try_from(command.len()).unwrap();
        if if spec.arity < 0 { count < -spec.arity } else { count != spec.arity } {
            return Err(wrong_arity(&full_name));
        }
        let Handler::Data(handler) = spec.run else { panic!("{name} is no data command") };
        handler(&self.coordinator, Args::new(spec.name, args))
    }

    pub(super) fn finish(&self, pending: Result<Pending, CommandError>) -> Reply {
        let result = match pending {
            Ok(Pending::Ready(reply)) => Ok(reply),
            Ok(Pending::Later(future)) => self.runtime.block_on(future),
            Err(error) => Err(error),
        };
        result.unwrap_or_else(|error| Reply::Error(error.line().into_owned().into()))
    }
}

trait ConcatRefs {
    fn concat_refs(self) -> Vec<&'static Spec>;
}

impl ConcatRefs for [&'static [Spec]; 3] {
    fn concat_refs(self) -> Vec<&'static Spec> {
        self.into_iter().flatten().collect()
    }
}

fn find<'a>(specs: &[&'a Spec], name: &str) -> Option<&'a Spec> {
    specs.iter().copied().find(|spec| spec.name == name)
}

/// Splits a command at white space. `"…"` is one word, in which `\xNN`, `\r`, `\n`, `\t`, `\"`, `\\` are bytes.
pub(super) fn words(line: &str) -> Vec<Bytes> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(word.into());
        rest = after.trim_start();
    }
    words
}

fn unquote(quoted: &str) -> (Vec<u8>, &str) {
    let mut word = Vec::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (word, &quoted[at + 1..]),
            '\\' => match chars.next().expect("an escape").1 {
                'x' => {
                    let code: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                    word.push(u8::from_str_radix(&code, 16).expect("two hex digits"));
                }
                'r' => word.push(b'\r'),
                'n' => word.push(b'\n'),
                't' => word.push(b'\t'),
                other => word.push(u8::try_from(other).expect("an escaped ASCII character")),
            },
            c => word.extend(c.to_string().as_bytes()),
        }
    }
    panic!("unbalanced quotes: {quoted}")
}

/// A reply as scripts write it.
pub(super) fn show(reply: &Reply) -> String {
    let list = |items: &[Reply]| items.iter().map(show).collect::<Vec<_>>().join(", ");
    match reply {
        Reply::Simple(text) => format!("+{text}"),
        Reply::Error(text) => format!("-{text}"),
        Reply::Integer(number) => format!(":{number}"),
        Reply::Bulk(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Reply::Null => "nil".to_owned(),
        Reply::NullArray => "nil-array".to_owned(),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => format!("[{}]", list(items)),
        Reply::Map(pairs) => {
            let pairs = pairs.iter().map(|(k, v)| format!("{}: {}", show(k), show(v)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Reply::Double(number) => format!(",{number}"),
        Reply::Boolean(flag) => format!("#{flag}"),
        Reply::Verbatim(text) => format!("={}", text.escape_ascii()),
    }
}
