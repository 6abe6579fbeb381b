//! The command table: from a client's words to a row, checked once when it is built.

use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;
use hashbrown::HashMap;

use super::{
    CommandError, Flag, Handler, Keys, QUOTED_BYTES_MAX, Spec, bits, connection, generic, quoted, quoted_to,
    server, string, wrong_arity,
};

/// The rows of all commands. To add a family, add its slice.
static ROWS: &[&[Spec]] =
    &[string::COMMANDS, bits::COMMANDS, generic::COMMANDS, connection::COMMANDS, server::COMMANDS];

/// The table in use.
pub static TABLE: LazyLock<CommandTable> =
    LazyLock::new(|| CommandTable::new(ROWS).expect("the rows are tested to make a table"));

/// Longer names do not exist; this bounds the work on unknown ones.
const NAME_BYTES_MAX: usize = 32;

/// Commands over several keys of which each key is served on its own, so that they may overlap with others that touch
/// none of these keys. All other commands over several keys run alone.
const INDEPENDENT: &[&str] = &["del", "exists", "mget", "mset", "touch", "unlink"];

/// A command or subcommand.
pub struct Entry {
    /// Its place in [`CommandTable::entries`], for counters.
    pub id: usize,
    pub spec: &'static Spec,
    /// As Redis writes it: `get`, `client|kill`.
    pub name: &'static str,
    pub overlap: Overlap,
    /// Words that name the command: 1, or 2 for a subcommand.
    pub words: usize,
    subcommands: HashMap<&'static [u8], usize>,
}

/// How a command may share the pipeline with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// One operation on one key: the engine keeps the order.
    OneKey,
    /// Several keys, each on its own.
    Independent,
    /// Starts when all earlier ones are done, and later ones start when it is.
    Barrier,
}

impl Entry {
    pub fn has(&self, flag: Flag) -> bool {
        self.spec.flags.contains(&flag)
    }

    /// The places of the keys in `argc` words; none where the words do not reach.
    pub fn key_places(&self, argc: usize) -> impl Iterator<Item = usize> + use<> {
        let Keys { first, last, step } = self.spec.keys;
        let place = |at: i16| usize::try_from(at).ok();
        let end = match last {
            0 => 0,
            1.. => place(last).map_or(0, |at| (at + 1).min(argc)),
            _ => (argc + 1).saturating_sub(usize::from(last.unsigned_abs())),
        };
        (place(first).unwrap_or(0)..end).step_by(place(step).unwrap_or(1).max(1))
    }

    /// The subcommands, in the order of their rows.
    pub fn subcommands<'a>(&'a self, table: &'a CommandTable) -> impl Iterator<Item = &'a Entry> {
        self.spec
            .subcommands
            .iter()
            .filter_map(|spec| self.subcommands.get(spec.name.as_bytes()).map(|id| &table.entries[*id]))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.name)
            .field("overlap", &self.overlap)
            .finish_non_exhaustive()
    }
}

/// Why rows make no table. A mistake in the source, found by a test.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("`{0}` is no name for a command: 1 to {NAME_BYTES_MAX} of a-z, 0-9, `-`, `_`")]
    Name(String),
    #[error("two rows are named `{0}`")]
    Duplicate(String),
    #[error("`{0}` has an arity that its own name does not meet")]
    Arity(String),
    #[error("`{0}` has keys where there can be no arguments, or in no order")]
    Keys(String),
    #[error("`{0}` has neither handler nor subcommands, or subcommands of subcommands")]
    Subcommands(String),
}

/// See the module.
#[derive(Debug)]
pub struct CommandTable {
    entries: Vec<Entry>,
    names: HashMap<&'static [u8], usize>,
}

impl CommandTable {
    pub fn new(groups: &[&'static [Spec]]) -> Result<Self, TableError> {
        let mut table = Self { entries: Vec::new(), names: HashMap::new() };
        for spec in groups.iter().copied().flatten() {
            let id = table.add(spec, spec.name, 1)?;
            if table.names.insert(spec.name.as_bytes(), id).is_some() {
                return Err(TableError::Duplicate(spec.name.to_owned()));
            }
            for sub in spec.subcommands {
                // Names live as long as the table, which lives as long as the process.
                let full: &'static str = format!("{}|{}", spec.name, sub.name).leak();
                let sub_id = table.add(sub, full, 2)?;
                if table.entries[id].subcommands.insert(sub.name.as_bytes(), sub_id).is_some() {
                    return Err(TableError::Duplicate(full.to_owned()));
                }
            }
        }
        Ok(table)
    }

    fn add(&mut self, spec: &'static Spec, name: &'static str, words: usize) -> Result<usize, TableError> {
        check(spec, name, words)?;
        let id = self.entries.len();
        let overlap = overlap(spec);
        self.entries.push(Entry { id, spec, name, overlap, words, subcommands: HashMap::new() });
        Ok(id)
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Without subcommands.
    pub fn commands(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.words == 1)
    }

    /// By name in any case, `client` or `client|kill`.
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        let mut parts = name.splitn(2, |b| *b == b'|');
        let command = look_up(&self.names, parts.next()?)?;
        match parts.next() {
            None => Some(&self.entries[command]),
            Some(sub) => look_up(&self.entries[command].subcommands, sub).map(|id| &self.entries[id]),
        }
    }

    /// The command that these words (never none) name, with as many arguments as it takes.
    pub fn resolve(&self, words: &[Bytes]) -> Result<&Entry, CommandError> {
        let Some(command) = words.first().and_then(|name| look_up(&self.names, name)) else {
            return Err(unknown_command(words));
        };
        let mut entry = &self.entries[command];
        if let (false, Some(sub)) = (entry.subcommands.is_empty(), words.get(1)) {
            let Some(id) = look_up(&entry.subcommands, sub) else {
                return Err(unknown_subcommand(entry.spec.name, sub));
            };
            entry = &self.entries[id];
        }
        if arity_fits(entry.spec.arity, words.len()) { Ok(entry) } else { Err(wrong_arity(entry.name)) }
    }
}

fn look_up(names: &HashMap<&'static [u8], usize>, name: &[u8]) -> Option<usize> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    names.get(&*lower).copied()
}

fn arity_fits(arity: i16, words: usize) -> bool {
    let named = usize::from(arity.unsigned_abs());
    if arity >= 0 { words == named } else { words >= named }
}

fn overlap(spec: &Spec) -> Overlap {
    let Keys { first, last, .. } = spec.keys;
    match spec.run {
        Handler::Data(_) if spec.flags.contains(&Flag::MovableKeys) || first == 0 => Overlap::Barrier,
        Handler::Data(_) if first == last => Overlap::OneKey,
        Handler::Data(_) if INDEPENDENT.contains(&spec.name) => Overlap::Independent,
        _ => Overlap::Barrier,
    }
}

fn check(spec: &Spec, name: &str, words: usize) -> Result<(), TableError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    if spec.name.is_empty() || spec.name.len() > NAME_BYTES_MAX || !spec.name.bytes().all(legal) {
        return Err(TableError::Name(name.to_owned()));
    }
    let least = usize::from(spec.arity.unsigned_abs());
    if least < words {
        return Err(TableError::Arity(name.to_owned()));
    }
    let Keys { first, last, step } = spec.keys;
    let none = spec.keys == Keys::NONE;
    // The last fixed place of a key must be among the words that every call has.
    let reach = |at: i16| usize::try_from(at).is_ok_and(|at| at >= words && at < least);
    if !(none || step > 0 && reach(first) && (last < 0 || last >= first && reach(last))) {
        return Err(TableError::Keys(name.to_owned()));
    }
    let container = matches!(spec.run, Handler::Container);
    let nested = words == 2 && !spec.subcommands.is_empty();
    // COMMAND may be called bare as well, so a handler beside subcommands is fine.
    if nested || container && spec.subcommands.is_empty() {
        return Err(TableError::Subcommands(name.to_owned()));
    }
    Ok(())
}

fn unknown_command(words: &[Bytes]) -> CommandError {
    let name = words.first().map_or("".into(), |name| quoted(name));
    let mut text = format!("ERR unknown command '{name}', with args beginning with: ");
    let mut length = 0;
    for word in words.iter().skip(1) {
        if length >= QUOTED_BYTES_MAX {
            break;
        }
        let word = quoted_to(word, QUOTED_BYTES_MAX - length);
        length += word.len() + 3;
        text.push_str(&format!("'{word}' "));
    }
    CommandError::text(text)
}

fn unknown_subcommand(container: &str, sub: &[u8]) -> CommandError {
    let (sub, container) = (quoted(sub), container.to_ascii_uppercase());
    CommandError::text(format!("ERR unknown subcommand '{sub}'. Try {container} HELP."))
}

#[cfg(test)]
mod tests {
    use super::super::{Args, Pending, SessionContext};
    use super::*;
    use crate::resp::reply::Reply;

    fn run(_: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
        Ok(Pending::Ready(Reply::OK))
    }

    const ROW: Spec = Spec {
        name: "test",
        arity: -1,
        flags: &[],
        keys: Keys::NONE,
        group: "generic",
        summary: "",
        since: "1.0.0",
        complexity: "O(1)",
        notes: "",
        subcommands: &[],
        run: Handler::Session(run),
    };

    fn words(words: &[&'static str]) -> Vec<Bytes> {
        words.iter().map(|w| Bytes::from_static(w.as_bytes())).collect()
    }

    fn refusal(line: &[&'static str]) -> String {
        TABLE.resolve(&words(line)).unwrap_err().to_string()
    }

    #[test]
    fn the_rows_make_a_table() {
        let table = CommandTable::new(ROWS).unwrap();
        for entry in table.entries() {
            assert!(!entry.spec.summary.is_empty() && !entry.spec.since.is_empty(), "{}", entry.name);
            let independent = entry.overlap == Overlap::Independent;
            assert_eq!(independent, INDEPENDENT.contains(&entry.name), "{}", entry.name);
        }
    }

    #[test]
    fn impossible_rows_are_refused() {
        static TWICE: &[Spec] = &[ROW, ROW];
        assert_eq!(CommandTable::new(&[TWICE]).unwrap_err(), TableError::Duplicate("test".into()));
        static ARITY: &[Spec] = &[Spec { arity: 0, ..ROW }];
        assert_eq!(CommandTable::new(&[ARITY]).unwrap_err(), TableError::Arity("test".into()));
        static NAME: &[Spec] = &[Spec { name: "Test", ..ROW }];
        assert_eq!(CommandTable::new(&[NAME]).unwrap_err(), TableError::Name("Test".into()));
        static KEYS: &[Spec] = &[Spec { keys: Keys::FIRST, ..ROW }];
        assert_eq!(CommandTable::new(&[KEYS]).unwrap_err(), TableError::Keys("test".into()));
        static EMPTY: &[Spec] = &[Spec { run: Handler::Container, ..ROW }];
        assert_eq!(CommandTable::new(&[EMPTY]).unwrap_err(), TableError::Subcommands("test".into()));
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(TABLE.resolve(&words(&["pInG"])).unwrap().name, "ping");
        assert_eq!(TABLE.resolve(&words(&["CLIENT", "Id"])).unwrap().name, "client|id");
        assert_eq!(TABLE.find(b"CLIENT|ID").unwrap().name, "client|id");
        assert!(TABLE.find(&[b'x'; 1_000]).is_none());
    }

    #[test]
    fn the_unknown_is_named_as_redis_does() {
        assert_eq!(
            refusal(&["NOPE", "a", "b"]),
            "ERR unknown command 'NOPE', with args beginning with: 'a' 'b' "
        );
        assert_eq!(refusal(&["NOPE"]), "ERR unknown command 'NOPE', with args beginning with: ");
        assert_eq!(
            refusal(&["client", "TRACKING", "on"]),
            "ERR unknown subcommand 'TRACKING'. Try CLIENT HELP."
        );
        assert_eq!(refusal(&["client"]), "ERR wrong number of arguments for 'client' command");
        assert_eq!(refusal(&["CLIENT", "ID", "x"]), "ERR wrong number of arguments for 'client|id' command");
        let long = refusal(&[
            "NOPE",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "b",
        ]);
        assert!(long.len() < 220 && !long.contains("'b'"), "{long}");
    }

    #[test]
    fn key_places_follow_the_row() {
        let entry = |keys| Entry {
            id: 0,
            spec: Box::leak(Box::new(Spec { keys, arity: -3, ..ROW })),
            name: "test",
            overlap: Overlap::Barrier,
            words: 1,
            subcommands: HashMap::new(),
        };
        let places = |keys, argc| entry(keys).key_places(argc).collect::<Vec<_>>();
        assert_eq!(places(Keys::NONE, 5), [0_usize; 0]);
        assert_eq!(places(Keys::FIRST, 5), [1]);
        assert_eq!(places(Keys::ALL, 4), [1, 2, 3]);
        assert_eq!(places(Keys::PAIRS, 5), [1, 3]);
        assert_eq!(places(Keys { first: 1, last: -2, step: 1 }, 4), [1, 2]);
        assert_eq!(places(Keys::ALL, 1), [0_usize; 0]);
    }
}
