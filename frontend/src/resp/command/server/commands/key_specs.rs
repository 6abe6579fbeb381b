//! Where a command's keys are and what becomes of them, as COMMAND INFO and GETKEYSANDFLAGS tell it.
//!
//! Most of it follows from a row. What cannot (whether old values are read, whether keys end, commands that treat their
//! first key unlike the others) stands here, in the words of Redis's key specifications: RO, RW, OW (overwritten whatever
//! it holds), RM; and `access`, `update`, `insert`, `delete` for what happens to the value.

use bytes::Bytes;

use crate::resp::command::table::Entry;
use crate::resp::command::{Flag, Keys};
use crate::resp::reply::Reply;

pub(super) type Flags = &'static [&'static str];

const READ: Flags = &["RO", "access"];
/// Not the value, only that or what it is.
const LOOK: Flags = &["RO"];
const CHANGE: Flags = &["RW", "update"];
const READ_CHANGE: Flags = &["RW", "access", "update"];
const READ_REMOVE: Flags = &["RW", "access", "delete"];
const REMOVE: Flags = &["RM", "delete"];
const GROW: Flags = &["RW", "insert"];
const REPLACE: Flags = &["OW", "update"];
const CREATE: Flags = &["OW", "insert"];
/// The arguments tell which of the others.
const VARIABLE: Flags = &["RW", "access", "update", "variable_flags"];

/// One specification: keys from `first` to `last`.
struct KeySpec {
    notes: Option<&'static str>,
    flags: Flags,
    keys: Keys,
}

fn key_specs(entry: &Entry) -> Vec<KeySpec> {
    let keys = entry.spec.keys;
    if keys == Keys::NONE {
        return Vec::new();
    }
    let (flags, others) = flags_of(entry);
    let notes = match entry.name {
        "set" => Some("RW and ACCESS due to the optional `GET` argument"),
        "bitfield" => Some("This command allows both access and modification of the key"),
        "getex" => Some("RW and UPDATE because it changes the TTL"),
        _ => None,
    };
    match others {
        None => vec![KeySpec { notes, flags, keys }],
        Some(others) => vec![
            KeySpec { notes, flags, keys: Keys { last: keys.first, step: 1, ..keys } },
            KeySpec { notes: None, flags: others, keys: Keys { first: keys.first + 1, ..keys } },
        ],
    }
}

/// Of all keys, or of the first and of the others where these differ.
fn flags_of(entry: &Entry) -> (Flags, Option<Flags>) {
    let flags = match entry.name {
        "append" => GROW,
        "bitfield" | "set" => VARIABLE,
        "bitop" => return (REPLACE, Some(READ)),
        "copy" => return (READ, Some(REPLACE)),
        "rename" => return (READ_REMOVE, Some(REPLACE)),
        "renamenx" => return (READ_REMOVE, Some(CREATE)),
        "decr" | "decrby" | "getex" | "getset" | "incr" | "incrby" | "incrbyfloat" | "setbit" => READ_CHANGE,
        "del" | "unlink" => REMOVE,
        "getdel" => READ_REMOVE,
        "mset" | "psetex" | "restore" | "setex" => REPLACE,
        "msetnx" | "setnx" => CREATE,
        "exists" | "memory|usage" | "strlen" | "touch" | "type" => LOOK,
        name if name.starts_with("object|") => LOOK,
        _ if entry.has(Flag::Write) => CHANGE,
        _ => READ,
    };
    (flags, None)
}

/// The flags of each of the command's keys, in their order.
pub(super) fn flags_in(entry: &Entry, words: &[Bytes]) -> impl Iterator<Item = Flags> + use<> {
    // SET's value and BITFIELD's key are no options.
    let first_option = if entry.name == "set" { 3 } else { 2 };
    let has =
        |name: &str| words.iter().skip(first_option).any(|word| word.eq_ignore_ascii_case(name.as_bytes()));
    let (first, others) = match entry.name {
        "set" => (if has("GET") { READ_CHANGE } else { REPLACE }, None),
        "bitfield" => (if has("SET") || has("INCRBY") { READ_CHANGE } else { READ }, None),
        _ => flags_of(entry),
    };
    std::iter::once(first).chain(std::iter::repeat(others.unwrap_or(first)))
}

pub(super) fn status_set(names: impl Iterator<Item = String>) -> Reply {
    Reply::Set(names.map(|name| Reply::Simple(name.into())).collect())
}

pub(super) fn flag_set(flags: Flags) -> Reply {
    status_set(flags.iter().map(|flag| (*flag).to_owned()))
}

/// All specifications, as COMMAND INFO shows them.
pub(super) fn describe(entry: &Entry) -> Reply {
    Reply::Set(key_specs(entry).into_iter().map(|spec| spec.describe()).collect())
}

impl KeySpec {
    /// `lastkey` counts from the first key, or from the end where it is negative.
    fn describe(self) -> Reply {
        let field = |name: &'static str, value| (Reply::bulk(name), value);
        let number = |n: i16| Reply::Integer(n.into());
        let Keys { first, last, step } = self.keys;
        let last = if last < 0 { last } else { last - first };
        let index = vec![field("index", number(first))];
        let range =
            vec![field("lastkey", number(last)), field("keystep", number(step)), field("limit", number(0))];
        let typed = |kind: &'static str, spec| {
            Reply::Map(vec![field("type", Reply::bulk(kind)), field("spec", Reply::Map(spec))])
        };
        let notes = self.notes.map(|notes| field("notes", Reply::bulk(notes)));
        let rest = [
            field("flags", flag_set(self.flags)),
            field("begin_search", typed("index", index)),
            field("find_keys", typed("range", range)),
        ];
        Reply::Map(notes.into_iter().chain(rest).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command::table::TABLE;

    fn flags(line: &str) -> Vec<String> {
        let words: Vec<Bytes> = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let entry = TABLE.resolve(&words).unwrap();
        let keys = entry.key_places(words.len()).count();
        flags_in(entry, &words).take(keys).map(|flags| flags.join(" ")).collect()
    }

    #[test]
    fn every_key_is_told_what_becomes_of_it() {
        assert_eq!(flags("SET a 1"), ["OW update"]);
        assert_eq!(flags("SET get 1"), ["OW update"], "a key is no option");
        assert_eq!(flags("SET a 1 get"), ["RW access update"]);
        assert_eq!(flags("BITFIELD a GET u8 0"), ["RO access"]);
        assert_eq!(flags("BITFIELD a INCRBY u8 0 1"), ["RW access update"]);
        assert_eq!(flags("BITOP AND d a b"), ["OW update", "RO access", "RO access"]);
        assert_eq!(flags("COPY a b"), ["RO access", "OW update"]);
        assert_eq!(flags("DEL a b"), ["RM delete", "RM delete"]);
        assert_eq!(flags("OBJECT ENCODING a"), ["RO"]);
    }

    #[test]
    fn specifications_cover_the_keys_of_the_row() {
        for entry in TABLE.entries().iter().filter(|entry| entry.spec.keys != Keys::NONE) {
            let specs = key_specs(entry);
            let (first, last) = (specs[0].keys.first, specs[specs.len() - 1].keys.last);
            assert_eq!((first, last), (entry.spec.keys.first, entry.spec.keys.last), "{}", entry.name);
        }
    }
}
