//! The scripts that pgbench runs, and what it writes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use crate::load::work::{Command, Work};
use crate::sample;

/// The most that Linux takes as one argument is 128 KiB.
const CHUNK_BYTES: usize = 64 << 10;

/// The table of values of this size.
pub(super) fn table(value_bytes: usize) -> String {
    format!("kv_{value_bytes}")
}

/// A prepared statement for one command; variables as in [`variables`].
pub(super) fn script(work: &Work) -> anyhow::Result<String> {
    let (table, prefix) = (table(work.value_bytes), Work::prefix(work.value_bytes));
    let draw = "\\set k random(0, :keys - 1)\n";
    Ok(match work.command {
        Command::Get => format!("{draw}SELECT v FROM {table} WHERE k = '{prefix}' || :k;\n"),
        Command::Set => {
            let chunks = work.value_bytes.div_ceil(CHUNK_BYTES);
            let value = match chunks {
                1 => ":v0".to_owned(),
                _ => {
                    // One argument per chunk: the whole value must travel, as it does to the others.
                    let names: Vec<String> = (0..chunks).map(|n| format!(":v{n}::text")).collect();
                    format!("concat({})", names.join(", "))
                }
            };
            format!(
                "{draw}INSERT INTO {table} (k, v) VALUES ('{prefix}' || :k, {value}) \
                 ON CONFLICT (k) DO UPDATE SET v = excluded.v;\n"
            )
        }
        Command::Incr => "UPDATE counters SET n = n + 1 WHERE k = 'hot' RETURNING n;\n".to_owned(),
        Command::Mixed => anyhow::bail!("no script for a mix"),
    })
}

/// Definitions for its `-D`.
pub(super) fn variables(work: &Work, value: &[u8]) -> Vec<String> {
    let chunks = value.chunks(CHUNK_BYTES).enumerate();
    let values = chunks.map(|(n, chunk)| format!("v{n}={}", String::from_utf8_lossy(chunk)));
    std::iter::once(format!("keys={}", work.keys)).chain(values).collect()
}

/// Transactions per second, from what it wrote in the end.
pub(super) fn per_second(output: &str) -> anyhow::Result<f64> {
    let after = |prefix: &str| output.lines().find_map(|line| Some(line.strip_prefix(prefix)?.trim()));
    let failed =
        after("number of failed transactions:").and_then(|text| text.split(' ').next()).unwrap_or("0");
    ensure!(failed == "0", "{failed} transactions of pgbench failed");
    let tps = after("tps =").and_then(|text| text.split(' ').next());
    tps.and_then(|text| text.parse().ok()).context("pgbench ended no transaction in its time")
}

/// Adds the latencies of a log of its `-l`: the third field, in microseconds.
pub(super) fn read_log(log: &Path, histogram: &mut Histogram<u64>) -> anyhow::Result<()> {
    for line in std::fs::read_to_string(log)?.lines() {
        let us = line.split(' ').nth(2).and_then(|field| field.parse::<u64>().ok());
        let us = us.with_context(|| format!("a line of pgbench's log: {line}"))?;
        sample::record(histogram, Duration::from_micros(us));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
transaction type: /tmp/x
number of transactions actually processed: 6543
number of failed transactions: 0 (0.000%)
latency average = 3.210 ms
initial connection time = 55.612 ms
tps = 13123.456789 (without initial connection time)
";

    #[test]
    fn the_rate_is_read_and_failures_are_refused() {
        assert_eq!(per_second(OUTPUT).unwrap(), 13_123.456_789);
        assert!(per_second(&OUTPUT.replace("transactions: 0 (", "transactions: 7 (")).is_err());
        assert!(per_second("pgbench: error").is_err());
    }

    #[test]
    fn latencies_are_read_from_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.1");
        std::fs::write(&log, "0 1 812 0 1790000000 123456\n0 2 900 0 1790000000 124456\n").unwrap();
        let mut histogram = sample::histogram();
        read_log(&log, &mut histogram).unwrap();
        assert_eq!((histogram.len(), histogram.max()), (2, 900));
        std::fs::write(&log, "0 1 skipped\n").unwrap();
        assert!(read_log(&log, &mut histogram).is_err());
    }

    #[test]
    fn large_values_travel_in_chunks() {
        let work = Work::new(Command::Set, 1, 1, 130 << 10);
        let text = script(&work).unwrap();
        assert!(text.contains("concat(:v0::text, :v1::text, :v2::text)"), "{text}");
        let lengths: Vec<usize> = variables(&work, &vec![b'x'; 130 << 10]).iter().map(String::len).collect();
        assert_eq!(lengths, ["keys=1008".len(), 3 + (64 << 10), 3 + (64 << 10), 3 + (2 << 10)]);
        let small = script(&Work::new(Command::Set, 1, 1, 64)).unwrap();
        assert!(small.contains("VALUES ('v64:' || :k, :v0)"), "{small}");
    }
}
