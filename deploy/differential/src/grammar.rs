//! What commands look like, and a reader for that.
//!
//! ```text
//! SET <key> <value> [NX|XX] {…}
//!
//! <slot>       a random argument of that kind, see the generator
//! [a|b c]      none of them or one
//! (a|b)        one of them
//! {a b}        one to four times
//! ```

/// Every command on keys and values. A line more than once is drawn more often.
pub const COMMANDS: &[&str] = &[
    "APPEND <key> <value>",
    "BITCOUNT <key>",
    "BITCOUNT <key> <index> <index> [BYTE|BIT]",
    "BITFIELD <key> {(GET <field> <place>|SET <field> <place> <integer>|INCRBY <field> <place> <integer>|\
     OVERFLOW (WRAP|SAT|FAIL))}",
    "BITFIELD_RO <key> {GET <field> <place>}",
    "BITOP (AND|OR|XOR) <key> {<key>}",
    "BITOP NOT <key> <key>",
    "BITPOS <key> <bit> [<index>|<index> <index>|<index> <index> BYTE|<index> <index> BIT]",
    "COPY <key> <key> [DB 0|DB 1] [REPLACE]",
    "DBSIZE",
    "DECR <key>",
    "DECRBY <key> <integer>",
    "DEL {<key>}",
    "DUMP <key>",
    "EXISTS {<key>}",
    "EXPIRE <key> <seconds> [NX|XX|GT|LT|XX GT|XX LT|NX GT|GT LT]",
    "EXPIREAT <key> <second> [NX|XX|GT|LT]",
    "EXPIRETIME <key>",
    "GET <key>",
    "GET <key>",
    "GET <key>",
    "GETBIT <key> <bit-offset>",
    "GETDEL <key>",
    "GETEX <key> [EX <seconds>|PX <millis>|EXAT <second>|PXAT <milli>|PERSIST|KEEPTTL] [PERSIST]",
    "GETRANGE <key> <index> <index>",
    "GETSET <key> <value>",
    "INCR <key>",
    "INCRBY <key> <integer>",
    "INCRBYFLOAT <key> <float>",
    "KEYS <pattern>",
    "LCS <key> <key> [LEN] [IDX] [MINMATCHLEN <index>] [WITHMATCHLEN]",
    "MEMORY USAGE <key> [SAMPLES <index>]",
    "MGET {<key>}",
    "MSET {<key> <value>}",
    "MSETNX <key> <value> [<key> <value>]",
    "OBJECT (ENCODING|FREQ|IDLETIME|REFCOUNT|NONSENSE) <key>",
    "PERSIST <key>",
    "PEXPIRE <key> <millis> [NX|XX|GT|LT]",
    "PEXPIREAT <key> <milli> [NX|XX|GT|LT|XX GT|XX LT]",
    "PEXPIRETIME <key>",
    "PSETEX <key> <millis> <value>",
    "PTTL <key>",
    "RANDOMKEY",
    "RENAME <key> <key>",
    "RENAMENX <key> <key>",
    "RESTORE <key> <millis> <payload> [REPLACE] [ABSTTL] [IDLETIME <index>|FREQ <index>]",
    "SCAN 0 [MATCH <pattern>] [COUNT <count>] [TYPE string|TYPE hash]",
    "SET <key> <value>",
    "SET <key> <value>",
    "SET <key> <value> [NX|XX] [GET] [EX <seconds>|PX <millis>|EXAT <second>|PXAT <milli>|KEEPTTL] [GET]",
    "SETBIT <key> <bit-offset> <bit>",
    "SETEX <key> <seconds> <value>",
    "SETNX <key> <value>",
    "SETRANGE <key> <offset> <value>",
    "STRLEN <key>",
    "SUBSTR <key> <index> <index>",
    "TOUCH {<key>}",
    "TTL <key>",
    "TYPE <key>",
    "UNLINK {<key>}",
];

#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Word(&'static str),
    Slot(&'static str),
    Optional(Vec<Vec<Item>>),
    Choice(Vec<Vec<Item>>),
    Repeated(Vec<Item>),
}

/// A line of [`COMMANDS`], understood.
///
/// # Panics
///
/// If it is not in the notation; the lines are constants, and a test reads them all.
pub fn parse(line: &'static str) -> Vec<Item> {
    let (mut alternatives, rest) = alternatives(line);
    assert!(rest.is_empty() && alternatives.len() == 1, "a bracket too many: {line}");
    alternatives.remove(0)
}

/// Up to the closing bracket of the group that has been opened, or the end.
fn alternatives(mut rest: &'static str) -> (Vec<Vec<Item>>, &'static str) {
    let mut alternatives = vec![Vec::new()];
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return (alternatives, rest) };
        let item = match first {
            '|' => {
                alternatives.push(Vec::new());
                rest = &rest[1..];
                continue;
            }
            ']' | ')' | '}' => return (alternatives, rest),
            '[' | '(' | '{' => {
                let (mut inner, tail) = self::alternatives(&rest[1..]);
                rest = &tail[1..];
                match first {
                    '[' => Item::Optional(inner),
                    '(' => Item::Choice(inner),
                    _ => Item::Repeated(inner.remove(0)),
                }
            }
            '<' => {
                let (name, tail) = rest[1..].split_once('>').expect("a slot is closed");
                rest = tail;
                Item::Slot(name)
            }
            _ => {
                let end = rest.find([' ', '|', ']', ')', '}']).unwrap_or(rest.len());
                let (word, tail) = rest.split_at(end);
                rest = tail;
                Item::Word(word)
            }
        };
        alternatives.last_mut().expect("there is one from the start").push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::Item::{Choice, Optional, Repeated, Slot, Word};
    use super::*;

    #[test]
    fn the_notation_is_read() {
        let read = parse("A <x> [B|C <y>] {(D|E)}");
        let repeated = Repeated(vec![Choice(vec![vec![Word("D")], vec![Word("E")]])]);
        let optional = Optional(vec![vec![Word("B")], vec![Word("C"), Slot("y")]]);
        assert_eq!(read, [Word("A"), Slot("x"), optional, repeated]);
    }

    #[test]
    fn every_data_command_is_there() {
        use tercet_frontend::resp::command::Handler;
        use tercet_frontend::resp::command::table::TABLE;
        for line in COMMANDS {
            parse(line);
        }
        let there =
            |name: &str| COMMANDS.iter().any(|line| line.split(' ').next() == Some(&name.to_uppercase()));
        for entry in TABLE.commands().filter(|entry| matches!(entry.spec.run, Handler::Data(_))) {
            // The runs themselves begin with FLUSHALL.
            assert!(there(entry.name) || entry.name.starts_with("flush"), "{} is never drawn", entry.name);
        }
    }
}
