//! What clients do: which command, on which of how many keys, with values of which size.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use serde::Serialize;

use super::wire::{decimal, encode};

/// Keys in the store, unless it is told otherwise, or their values would take more than [`DATA_BYTES_MAX`].
pub(crate) const KEYS: u64 = 100_000;
/// Of all values of one size, before they are replicated.
const DATA_BYTES_MAX: u64 = 128 << 20;
pub(crate) const VALUE_BYTES: usize = 64;
/// All clients count on this one.
pub(crate) const HOT_KEY: &str = "hot";
/// Values are stretches of a random text that is so much longer, from a random place on.
const SLACK_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Command {
    Set,
    Get,
    /// Of [`HOT_KEY`].
    Incr,
    /// SET and GET, as often the one as the other.
    Mixed,
}

/// What is done, by every system alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Work {
    pub(crate) command: Command,
    /// Connections.
    pub(crate) clients: usize,
    /// Commands that each of them keeps under way.
    pub(crate) pipeline: usize,
    pub(crate) value_bytes: usize,
    /// Keys are drawn uniformly from so many.
    pub(crate) keys: u64,
}

impl Work {
    /// On [`KEYS`] keys, or as many as values of this size allow.
    pub(crate) const fn new(command: Command, clients: usize, pipeline: usize, value_bytes: usize) -> Self {
        Self { command, clients, pipeline, value_bytes, keys: 0 }.among(KEYS)
    }

    /// On so many keys, or as many as values of this size allow.
    pub(crate) const fn among(self, keys: u64) -> Self {
        let most = DATA_BYTES_MAX / self.value_bytes as u64;
        Self { keys: if most < keys { most } else { keys }, ..self }
    }

    /// Keys of different sizes have different names, so that every value read is of the size that is meant.
    pub(crate) fn prefix(value_bytes: usize) -> String {
        format!("v{value_bytes}:")
    }
}

/// Which commands come next.
pub(crate) struct Source {
    work: Work,
    prefix: Vec<u8>,
    text: Vec<u8>,
    fill: Option<AtomicU64>,
}

impl Source {
    /// Commands without end.
    pub(crate) fn endless(work: Work) -> Self {
        let mut rng: SmallRng = rand::make_rng();
        let text = random_text(&mut rng, work.value_bytes + SLACK_BYTES);
        Self { work, prefix: Work::prefix(work.value_bytes).into_bytes(), text, fill: None }
    }

    /// A SET of every key, once.
    pub(crate) fn filling(work: Work) -> Self {
        Self { fill: Some(AtomicU64::new(0)), ..Self::endless(work) }
    }

    /// Appends a command; `false`: there are no more. `key` is a buffer to work in.
    pub(crate) fn next(&self, out: &mut Vec<u8>, key: &mut Vec<u8>, rng: &mut SmallRng) -> bool {
        let mut command = self.work.command;
        let number = match &self.fill {
            None => rng.random_range(0..self.work.keys),
            Some(next) => {
                command = Command::Set;
                next.fetch_add(1, Ordering::Relaxed)
            }
        };
        if number >= self.work.keys {
            return false;
        }
        if command == Command::Mixed {
            command = if rng.next_u32() & 1 == 0 { Command::Set } else { Command::Get };
        }
        key.clear();
        key.extend_from_slice(&self.prefix);
        decimal(key, number);
        match command {
            Command::Get => encode(out, &[b"GET", key]),
            Command::Incr => encode(out, &[b"INCR", HOT_KEY.as_bytes()]),
            Command::Set | Command::Mixed => {
                let from = rng.random_range(0..SLACK_BYTES);
                encode(out, &[b"SET", key, &self.text[from..from + self.work.value_bytes]]);
            }
        }
        true
    }
}

/// Letters and digits, which no database can compress much.
pub(crate) fn random_text(rng: &mut impl Rng, bytes: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    (0..bytes).map(|_| LETTERS[rng.random_range(0..LETTERS.len())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(source: &Source) -> Option<String> {
        let (mut out, mut rng) = (Vec::new(), rand::make_rng());
        let more = source.next(&mut out, &mut Vec::new(), &mut rng);
        more.then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_filling_source_sets_every_key_once() {
        let source = Source::filling(Work { keys: 3, ..Work::new(Command::Get, 1, 1, 8) });
        let names: Vec<String> = std::iter::from_fn(|| next(&source))
            .map(|command| {
                assert!(command.starts_with("*3\r\n$3\r\nSET\r\n"), "{command}");
                command.lines().nth(4).unwrap().to_owned()
            })
            .collect();
        assert_eq!(names, ["v8:0", "v8:1", "v8:2"]);
    }

    #[test]
    fn an_endless_source_sends_what_the_work_says() {
        let of = |command| next(&Source::endless(Work { keys: 1, ..Work::new(command, 1, 1, 8) })).unwrap();
        assert_eq!(of(Command::Get), "*2\r\n$3\r\nGET\r\n$4\r\nv8:0\r\n");
        assert_eq!(of(Command::Incr), "*2\r\n$4\r\nINCR\r\n$3\r\nhot\r\n");
        let set = of(Command::Set);
        assert!(set.starts_with("*3\r\n$3\r\nSET\r\n$4\r\nv8:0\r\n$8\r\n") && set.len() == 37, "{set}");
    }

    #[test]
    fn large_values_have_fewer_keys() {
        let keys = |bytes| Work::new(Command::Set, 1, 1, bytes).keys;
        assert_eq!([keys(64), keys(1 << 10), keys(64 << 10), keys(1 << 20)], [KEYS, KEYS, 2048, 128]);
    }
}
