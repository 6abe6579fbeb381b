//! A run: draws commands, asks both, compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::comparison::Exchange;
use crate::differences;
use crate::generator::{Command, Generator, KEYS};
use crate::peer::{Peer, Reply, shown};
use crate::redis::Redis;
use crate::tercet::Tercet;

/// Values of an own Tercet and its Redis. The least that Redis takes for a limit.
const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Commands between two comparisons of everything; the stores are emptied then.
const ROUND: u64 = 300;
/// After so many unexplained differences a run ends.
const DIFFERENCES_MAX: usize = 20;
/// Commands shown before one that went wrong.
const HISTORY_SHOWN: usize = 15;
/// One command in so many lets a key expire.
const EXPIRY_ONE_IN: u32 = 400;
/// A pipeline ends after a command with this chance.
const PIPELINE_ENDS_ONE_IN: u32 = 4;
/// One round in so many ends with FLUSHALL or FLUSHDB.
const FLUSH_ONE_IN: u32 = 10;
/// Beyond the longest time to live that [`Run::expire`] sets.
const EXPIRY_WAIT: Duration = Duration::from_millis(20);
/// Until a cluster must have counted what was written.
const COUNTS_MAX: usize = 100;
const COUNT_PAUSE: Duration = Duration::from_millis(20);
/// A scan of a few keys that takes more calls never ends.
const SCAN_CALLS_MAX: usize = 10_000;

#[derive(Debug, Clone)]
pub struct Options {
    pub commands: u64,
    pub seed: u64,
    /// A running Tercet without keys; `None`: one of an engine in memory is started.
    pub tercet: Option<SocketAddr>,
}

/// What a run saw. Its `Display` is a table for people.
#[derive(Debug, Default)]
pub struct Report {
    pub commands: u64,
    pub errors: u64,
    pub by_name: BTreeMap<String, u64>,
    /// How often each deliberate difference was met.
    pub deliberate: BTreeMap<&'static str, u64>,
    /// Unexplained ones, described.
    pub differences: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commands, errors, by_name, deliberate, differences } = self;
        for difference in differences {
            writeln!(f, "{difference}")?;
        }
        let rarest = by_name.iter().min_by_key(|(_, count)| **count);
        let (name, count) = rarest.map_or(("", 0), |(name, count)| (name.as_str(), *count));
        writeln!(
            f,
            "commands             {commands} of {} names, the rarest {name}: {count}",
            by_name.len()
        )?;
        writeln!(f, "answered by an error {errors}")?;
        writeln!(f, "different            {}", differences.len())?;
        writeln!(f, "different on purpose {}", deliberate.values().sum::<u64>())?;
        for difference in differences::DELIBERATE {
            let count = deliberate.get(difference.about).unwrap_or(&0);
            writeln!(f, "  {count:8}  {}: {}", difference.about, difference.reason)?;
        }
        Ok(())
    }
}

/// Runs; `None`: redis-server is not installed. Blocks the thread.
pub fn run(options: &Options) -> anyhow::Result<Option<Report>> {
    let own = match options.tercet {
        None => Some(Tercet::start(VALUE_BYTES_MAX)?),
        Some(_) => None,
    };
    let address = options.tercet.or(own.as_ref().map(|own| own.address)).context("one of them is there")?;
    let mut tercet = Peer::tcp(address).with_context(|| format!("connecting to {address}"))?;
    ensure!(
        tercet.call(&["DBSIZE"])? == Reply::Integer(0),
        "the Tercet at {address} holds keys, and this test deletes everything: give it an empty one"
    );
    let value_bytes_max = limit(&mut tercet)?;
    let Some(server) = Redis::start(value_bytes_max)? else { return Ok(None) };
    let mut run = Run {
        generator: Generator::new(options.seed, value_bytes_max),
        redis: server.connect()?,
        tercet,
        counts_max: if own.is_some() { 1 } else { COUNTS_MAX },
        history: Vec::new(),
        report: Report::default(),
    };
    while run.report.commands < options.commands && run.report.differences.len() < DIFFERENCES_MAX {
        run.round(options.commands)?;
    }
    Ok(Some(run.report))
}

fn limit(tercet: &mut Peer) -> anyhow::Result<usize> {
    let reply = tercet.call(&["CONFIG", "GET", "proto-max-bulk-len"])?;
    let text = match &reply {
        Reply::Array(pair) => match pair.as_slice() {
            [_, Reply::Bulk(text)] => std::str::from_utf8(text).ok(),
            _ => None,
        },
        _ => None,
    };
    text.and_then(|text| text.parse().ok()).with_context(|| format!("no limit of values: {reply}"))
}

struct Run {
    generator: Generator,
    redis: Peer,
    tercet: Peer,
    /// How often DBSIZE may be asked until it is right.
    counts_max: usize,
    /// Since both were empty.
    history: Vec<Command>,
    report: Report,
}

impl Run {
    /// Some commands on stores that begin empty and are compared as a whole at the end.
    fn round(&mut self, commands_max: u64) -> anyhow::Result<()> {
        let until = commands_max.min(self.report.commands + ROUND);
        while self.report.commands < until {
            if !self.some()? {
                return self.empty();
            }
        }
        if self.compare_everything()? && self.generator.one_in(FLUSH_ONE_IN) {
            let commands =
                [&["FLUSHALL"][..], &["FLUSHALL", "ASYNC"], &["FLUSHDB", "SYNC"], &["FLUSHDB", "NOW"]];
            for command in commands {
                self.same(words(command))?;
            }
        }
        self.empty()
    }

    /// Random commands, some of them pipelined. `false`: the stores may hold different things now.
    fn some(&mut self) -> anyhow::Result<bool> {
        if self.generator.one_in(EXPIRY_ONE_IN) {
            return self.expire();
        }
        let mut pipelined = Vec::new();
        loop {
            let command = self.generator.command();
            let name = command[0].to_ascii_lowercase();
            if !matches!(&*name, b"scan" | b"dump" | b"dbsize") {
                pipelined.push(command);
                if self.generator.one_in(PIPELINE_ENDS_ONE_IN) {
                    return self.pipelined(pipelined);
                }
                continue;
            }
            if !self.pipelined(pipelined)? {
                return Ok(false);
            }
            return match &*name {
                b"scan" => self.scan(command),
                b"dump" => self.dump(command),
                _ => self.count(command),
            };
        }
    }

    /// Both get all the commands before a reply is read. What follows a difference is not compared.
    fn pipelined(&mut self, commands: Vec<Command>) -> anyhow::Result<bool> {
        for command in &commands {
            self.redis.send(command).context("sending to Redis")?;
            self.tercet.send(command).context("sending to Tercet")?;
        }
        let mut sound = true;
        for command in commands {
            let replies = self.replies(&command)?;
            sound = sound && self.compare(command, &replies)?;
        }
        Ok(sound)
    }

    /// Both get the command; their replies are compared.
    fn same(&mut self, command: Command) -> anyhow::Result<bool> {
        let replies = self.ask(&command, &command)?;
        self.compare(command, &replies)
    }

    fn ask(&mut self, to_redis: &[Vec<u8>], to_tercet: &[Vec<u8>]) -> anyhow::Result<(Reply, Reply)> {
        self.redis.send(to_redis).context("sending to Redis")?;
        self.tercet.send(to_tercet).context("sending to Tercet")?;
        self.replies(to_redis)
    }

    fn replies(&mut self, command: &[Vec<u8>]) -> anyhow::Result<(Reply, Reply)> {
        let redis = self.redis.reply().with_context(|| format!("Redis's reply to {}", line(command)))?;
        let tercet = self.tercet.reply().with_context(|| format!("Tercet's reply to {}", line(command)))?;
        Ok((redis, tercet))
    }

    fn compare(&mut self, command: Command, (redis, tercet): &(Reply, Reply)) -> anyhow::Result<bool> {
        let exchange = Exchange { command: &command, redis, tercet };
        self.report.commands += 1;
        *self.report.by_name.entry(exchange.name()).or_default() += 1;
        self.report.errors += u64::from(matches!(redis, Reply::Error(_)));
        let sound = exchange.is_equal()
            || match differences::explanation(&exchange) {
                Some(difference) => {
                    *self.report.deliberate.entry(difference.about).or_default() += 1;
                    // A command that only reads leaves the stores equal.
                    matches!(&*exchange.name(), "object" | "memory" | "scan" | "bitcount" | "bitpos")
                }
                None => {
                    self.differ(&command, &format!("Redis:  {redis}\n  Tercet: {tercet}"));
                    false
                }
            };
        self.history.push(command);
        Ok(sound)
    }

    fn differ(&mut self, command: &[Vec<u8>], what: &str) {
        // What was said about the same keys.
        let keys: BTreeSet<&[u8]> =
            command.iter().map(Vec::as_slice).filter(|word| KEYS.contains(word)).collect();
        let related =
            self.history.iter().rev().filter(|earlier| earlier.iter().any(|w| keys.contains(w.as_slice())));
        let mut before: Vec<String> = related.take(HISTORY_SHOWN).map(|earlier| line(earlier)).collect();
        before.reverse();
        let before = before.iter().map(|line| format!("    {line}\n")).collect::<String>();
        let command = line(command);
        self.report.differences.push(format!("{before}  ▶ {command}\n  {what}\n"));
    }

    /// A key that lives a moment, and is gone.
    fn expire(&mut self) -> anyhow::Result<bool> {
        let key = self.generator.key();
        let sound =
            self.same(vec![b"SET".to_vec(), key.clone(), b"v".to_vec(), b"PX".to_vec(), b"5".to_vec()])?;
        // No event says that a key has expired.
        std::thread::sleep(EXPIRY_WAIT);
        Ok(sound && self.same(vec![b"GET".to_vec(), key])?)
    }

    /// In a cluster one replica of a partition counts, which may be a write behind for a moment.
    fn count(&mut self, command: Command) -> anyhow::Result<bool> {
        // Redis counts expired keys until it meets them, and a scan meets all.
        self.redis.call(&["SCAN", "0", "COUNT", "1000"])?;
        let mut counts = self.ask(&command, &command)?;
        for _ in 1..self.counts_max {
            if counts.0 == counts.1 {
                break;
            }
            std::thread::sleep(COUNT_PAUSE);
            counts = self.ask(&command, &command)?;
        }
        self.compare(command, &counts)
    }

    /// Whole scans must see the same keys, in whatever order and pages.
    fn scan(&mut self, command: Command) -> anyhow::Result<bool> {
        let first = self.ask(&command, &command)?;
        let (Reply::Array(_), Reply::Array(_)) = &first else { return self.compare(command, &first) };
        if command[1] != b"0" {
            // Cursors mean nothing to the other store.
            return Ok(true);
        }
        let whole =
            (scan_on(&mut self.redis, &command, first.0)?, scan_on(&mut self.tercet, &command, first.1)?);
        self.compare(command, &whole)
    }

    /// Each store takes the other's payload, to the same effect.
    fn dump(&mut self, command: Command) -> anyhow::Result<bool> {
        let payloads = self.ask(&command, &command)?;
        let sound = self.compare(command, &payloads)?;
        let (Reply::Bulk(from_redis), Reply::Bulk(from_tercet)) = payloads else { return Ok(sound) };
        let key = self.generator.key();
        let restore =
            |payload| vec![b"RESTORE".to_vec(), key.clone(), b"0".to_vec(), payload, b"REPLACE".to_vec()];
        let (to_redis, to_tercet) = (restore(from_tercet), restore(from_redis));
        let replies = self.ask(&to_redis, &to_tercet)?;
        Ok(sound && self.compare(to_redis, &replies)? && self.same(vec![b"GET".to_vec(), key])?)
    }

    fn compare_everything(&mut self) -> anyhow::Result<bool> {
        let mut sound = self.same(words(&["KEYS", "*"]))?;
        for key in KEYS {
            for command in ["GET", "PEXPIRETIME"] {
                sound &= self.same(vec![command.into(), key.to_vec()])?;
            }
        }
        Ok(sound)
    }

    fn empty(&mut self) -> anyhow::Result<()> {
        for peer in [&mut self.redis, &mut self.tercet] {
            let keys = match peer.call(&["KEYS", "*"])? {
                Reply::Array(keys) => keys,
                other => anyhow::bail!("KEYS * was answered by {other}"),
            };
            let mut del = words(&["DEL"]);
            del.extend(keys.into_iter().filter_map(|key| match key {
                Reply::Bulk(key) => Some(key),
                _ => None,
            }));
            if del.len() > 1 {
                peer.call(&del)?;
            }
        }
        self.history.clear();
        Ok(())
    }
}

/// The members that a scan finds from its first page on, each once, in order.
fn scan_on(peer: &mut Peer, command: &[Vec<u8>], first: Reply) -> anyhow::Result<Reply> {
    let (mut members, mut page) = (BTreeSet::new(), first);
    for _ in 0..SCAN_CALLS_MAX {
        let Reply::Array(parts) = page else { anyhow::bail!("a scan went wrong half way: {page}") };
        let [Reply::Bulk(cursor), Reply::Array(keys)] = parts.as_slice() else {
            anyhow::bail!("no page of a scan")
        };
        members.extend(keys.iter().cloned());
        if cursor == b"0" {
            return Ok(Reply::Array(members.into_iter().collect()));
        }
        let mut next = command.to_vec();
        next[1].clone_from(cursor);
        page = peer.call(&next)?;
    }
    anyhow::bail!("a scan does not end")
}

fn words(words: &[&str]) -> Command {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn line(command: &[Vec<u8>]) -> String {
    command.iter().map(|word| shown(word)).collect::<Vec<_>>().join(" ")
}
