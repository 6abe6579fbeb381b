//! Random commands out of the grammar.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::grammar::{self, Item};

pub type Command = Vec<Vec<u8>>;

/// Few, so that commands meet. One is empty, one binary, two share a partition.
pub const KEYS: &[&[u8]] =
    &[b"a", b"b", b"c", b"{t}d", b"{t}e", b"", b"\x00\xff\r\n", b"long-key-of-some-length"];

const INTEGERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "7",
    "100",
    "-128",
    "255",
    "65536",
    "2147483647",
    "-2147483648",
    "4294967295",
    "9223372036854775806",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "01",
    "+1",
    " 1",
    "1 ",
    "-0",
    "",
    "1.0",
    "ten",
];
const INDEXES: &[&str] = &[
    "0",
    "0",
    "1",
    "2",
    "3",
    "5",
    "8",
    "40",
    "1000",
    "-1",
    "-1",
    "-2",
    "-4",
    "-40",
    "-1000",
    "9223372036854775807",
    "-9223372036854775808",
    "x",
];
/// Binary fractions and small numbers: on these, binary and decimal addition agree.
const FLOATS: &[&str] = &[
    "0", "1", "-1", "0.5", "-0.25", "3.0e3", "10.5", ".5", "1e-3", "200", "-1.5e2", "inf", "-inf", "nan",
    "1e5000", "x", "", " 1", "1 ", "1e", "--1", "0.1",
];
const SECONDS: &[&str] = &[
    "0",
    "-1",
    "-100000",
    "9223372036854775807",
    "9223372036854775",
    "9223372036854776",
    "-9223372036854775808",
    "-9223372036854775",
    "1.5",
    "x",
    "",
];
const MILLIS: &[&str] = &["0", "-1", "-100000000", "9223372036854775807", "-9223372036854775808", "x"];
/// Unix times long ago or far away.
const SECOND: &[&str] = &[
    "4000000000",
    "5000000000",
    "1",
    "1000000000",
    "0",
    "-1",
    "9223372036854775807",
    "9223372036854775",
    "-9223372036854775808",
    "x",
];
const MILLI: &[&str] = &[
    "4000000000000",
    "5000000000000",
    "1",
    "1000000000000",
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "x",
];
const PATTERNS: &[&str] = &[
    "*", "?", "", "{t}*", "[a-b]", "[^a]", "[b-a]", "*[!-~]", "long*", "\\a", "[", "[a", "*\\", "?*?", "**e",
    "[\\]a]", "a*b*c",
];
const FIELDS: &[&str] = &[
    "u1", "u4", "u8", "i8", "i5", "u16", "i16", "i32", "u32", "i63", "u63", "i64", "u64", "i65", "i0", "u",
    "f8", "i 8",
];
const PLACES: &[&str] = &[
    "0",
    "1",
    "7",
    "8",
    "13",
    "64",
    "100",
    "#0",
    "#1",
    "#2",
    "#9",
    "-1",
    "#-1",
    "#",
    "x",
    "34359738367",
    "#9223372036854775807",
];
const COUNTS: &[&str] = &["1", "2", "10", "1000", "0", "-1", "9223372036854775807", "x"];
/// What an argument may be turned into: nothing that makes a valid time close to now.
const JUNK: &[&[u8]] = &[
    b"",
    b"-1",
    b"junk",
    b"NX",
    b"GET",
    b"EX",
    b"REPLACE",
    b"\x00",
    b"9223372036854775808",
    b"-",
    b"*",
    b"nan",
    b"1e3",
];

/// Where values may be larger, none is made as large as they may be: in a cluster that takes seconds.
const FILLED_BYTES_MAX: usize = 1024 * 1024;

/// An argument out of this many commands is wrong on purpose.
const MISTAKE_ONE_IN: u32 = 12;

pub struct Generator {
    rng: StdRng,
    lines: Vec<Vec<Item>>,
    value_bytes_max: usize,
}

impl Generator {
    /// `value_bytes_max`: the limit that both stores have.
    pub fn new(seed: u64, value_bytes_max: usize) -> Self {
        let lines = grammar::COMMANDS.iter().map(|line| grammar::parse(line)).collect();
        Self { rng: StdRng::seed_from_u64(seed), lines, value_bytes_max }
    }

    pub fn command(&mut self) -> Command {
        let mut command = Vec::new();
        // Taken out and put back, because filling it in needs the rest of `self`.
        let lines = std::mem::take(&mut self.lines);
        let line = lines.choose(&mut self.rng).map_or(&[][..], Vec::as_slice);
        self.fill(line, &mut command);
        self.lines = lines;
        if self.one_in(MISTAKE_ONE_IN) {
            self.mistake(&mut command);
        }
        command
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    pub fn key(&mut self) -> Vec<u8> {
        self.pick(KEYS).to_vec()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("no list is empty")
    }

    fn fill(&mut self, items: &[Item], out: &mut Command) {
        for item in items {
            match item {
                Item::Word(word) => out.push(self.in_some_case(word)),
                Item::Slot(name) => {
                    let argument = self.argument(name);
                    out.push(argument);
                }
                Item::Optional(alternatives) => {
                    let which = self.rng.random_range(0..=alternatives.len());
                    if let Some(items) = alternatives.get(which) {
                        self.fill(items, out);
                    }
                }
                Item::Choice(alternatives) => {
                    let which = self.rng.random_range(0..alternatives.len());
                    self.fill(&alternatives[which], out);
                }
                Item::Repeated(items) => {
                    for _ in 0..self.rng.random_range(1..=4) {
                        self.fill(items, out);
                    }
                }
            }
        }
    }

    fn in_some_case(&mut self, word: &str) -> Vec<u8> {
        match self.rng.random_range(0..4) {
            0 => word.to_ascii_lowercase().into_bytes(),
            1 => {
                let rng = &mut self.rng;
                word.bytes().map(|b| if rng.random() { b.to_ascii_lowercase() } else { b }).collect()
            }
            _ => word.as_bytes().to_vec(),
        }
    }

    fn argument(&mut self, slot: &str) -> Vec<u8> {
        match slot {
            "key" => self.key(),
            "value" => self.value(),
            "integer" => self.integer(),
            "index" => self.pick(INDEXES).into(),
            "float" if self.one_in(50) => b"0x10".to_vec(),
            "float" => self.pick(FLOATS).into(),
            "bit" => self.pick(&["0", "1", "1", "2", "-1", "x"]).into(),
            "seconds" => self.relative(100_000, SECONDS),
            "millis" => self.relative(100_000_000, MILLIS),
            "second" => self.pick(SECOND).into(),
            "milli" => self.pick(MILLI).into(),
            "pattern" => self.pick(PATTERNS).into(),
            "field" => self.pick(FIELDS).into(),
            "place" => self.pick(PLACES).into(),
            "count" => self.pick(COUNTS).into(),
            "offset" => self.offset(1),
            "bit-offset" => self.offset(8),
            "payload" => self.payload(),
            other => panic!("the grammar has no slot {other}"),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..3) {
            0 => self.rng.random_range(-1000..1000).to_string().into(),
            1 => self.rng.random::<i64>().to_string().into(),
            _ => self.pick(INTEGERS).into(),
        }
    }

    /// A time from now on. Hardly ever the same twice, because GT and LT would compare two readings of the clock.
    fn relative(&mut self, least: u64, others: &[&str]) -> Vec<u8> {
        match self.rng.random_range(0..3) {
            0 => self.pick(others).into(),
            _ => (least + self.rng.random_range(0..least * 10)).to_string().into(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..10) {
            0..3 => self.integer(),
            3 => self.pick(FLOATS).into(),
            4 => self.bytes(0..20, 0..=255),
            // Two letters make for common subsequences.
            5..7 => self.bytes(0..30, b'a'..=b'b'),
            // Where Redis begins to store strings in another way.
            7 => self.bytes(43..47, b' '..=b'~'),
            8 => self.bytes(0..600, b'0'..=b'9'),
            _ => Vec::new(),
        }
    }

    fn bytes(&mut self, len: std::ops::Range<usize>, of: std::ops::RangeInclusive<u8>) -> Vec<u8> {
        let len = self.rng.random_range(len);
        (0..len).map(|_| self.rng.random_range(of.clone())).collect()
    }

    /// A place in a value, in units of which `per_byte` make a byte; sometimes at the limit.
    fn offset(&mut self, per_byte: usize) -> Vec<u8> {
        let end = self.value_bytes_max * per_byte;
        match self.rng.random_range(0..400) {
            0..300 => self.rng.random_range(0..40 * per_byte).to_string().into(),
            300..330 => (end + self.rng.random_range(0..3)).to_string().into(),
            // Makes the largest value there is.
            330 if self.value_bytes_max <= FILLED_BYTES_MAX => (end - 1).to_string().into(),
            _ => self
                .pick(&["-1", "x", "", "4294967296", "9223372036854775807", "-9223372036854775808", "01"])
                .into(),
        }
    }

    /// Mostly not in order; the run itself restores what was dumped.
    fn payload(&mut self) -> Vec<u8> {
        // "x" in RDB version 9.
        const SOUND: &[u8] = b"\x00\x01\x78\x09\x00\xf2\x72\xd7\x93\xe9\x6e\x2b\x61";
        match self.rng.random_range(0..3) {
            0 => SOUND.to_vec(),
            1 => self.bytes(0..20, 0..=255),
            _ => {
                let mut damaged = SOUND.to_vec();
                let at = self.rng.random_range(0..damaged.len());
                damaged[at] ^= 1 << self.rng.random_range(0..8);
                damaged
            }
        }
    }

    /// One argument too few, too many, or another than there should be.
    fn mistake(&mut self, command: &mut Command) {
        if command.len() < 2 {
            command.push(self.pick(JUNK).to_vec());
            return;
        }
        let at = self.rng.random_range(1..command.len());
        match self.rng.random_range(0..4) {
            0 => {
                command.remove(at);
            }
            1 => command.insert(at, command[at].clone()),
            2 => command.insert(at, self.pick(JUNK).to_vec()),
            _ => command[at] = self.pick(JUNK).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Generator;

    #[test]
    fn a_seed_replays_exactly() {
        let draw = |seed| {
            let mut generator = Generator::new(seed, 1 << 20);
            (0..1_000).map(|_| generator.command()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
