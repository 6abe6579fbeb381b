//! LATENCY.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::{HELP, ROW};
use crate::resp::command::help::help;
use crate::resp::command::table::Entry;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec, quoted};
use crate::resp::gateway::{Gateway, unix_seconds};
use crate::resp::latency::{Sample, Series};
use crate::resp::reply::Reply;

const FLAGS: &[Flag] = &[Flag::Admin, Flag::NoScript, Flag::Loading, Flag::Stale];

pub(super) const LATENCY: Spec = Spec {
    name: "latency",
    arity: -2,
    flags: &[],
    summary: "A container for latency diagnostics commands.",
    since: "2.8.13",
    complexity: "Depends on subcommand.",
    subcommands: &[
        Spec {
            name: "doctor",
            arity: 2,
            flags: FLAGS,
            summary: "Returns a human-readable latency analysis report.",
            since: "2.8.13",
            run: Handler::Session(doctor),
            ..ROW
        },
        Spec {
            name: "graph",
            arity: 3,
            flags: FLAGS,
            summary: "Returns a latency graph for an event.",
            since: "2.8.13",
            run: Handler::Session(graph),
            ..ROW
        },
        Spec { run: Handler::Session(show_help), ..HELP },
        Spec {
            name: "histogram",
            arity: -2,
            flags: FLAGS,
            summary: "Returns the cumulative distribution of latencies of a subset or all commands.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of commands with latency information being retrieved.",
            run: Handler::Session(histogram),
            ..ROW
        },
        Spec {
            name: "history",
            arity: 3,
            flags: FLAGS,
            summary: "Returns timestamp-latency samples for an event.",
            since: "2.8.13",
            run: Handler::Session(history),
            ..ROW
        },
        Spec {
            name: "latest",
            arity: 2,
            flags: FLAGS,
            summary: "Returns the latest latency samples for all events.",
            since: "2.8.13",
            run: Handler::Session(latest),
            ..ROW
        },
        Spec {
            name: "reset",
            arity: -2,
            flags: FLAGS,
            summary: "Resets the latency data for one or more events.",
            since: "2.8.13",
            run: Handler::Session(reset),
            ..ROW
        },
    ],
    ..ROW
};

fn count(n: u64) -> Reply {
    Reply::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn latest(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let rows = context.gateway.latency.series().into_iter().filter_map(|(event, series)| {
        let Sample { second, millis } = *series.samples.back()?;
        let numbers = [second, millis, series.worst_millis].map(Reply::Integer);
        Some(Reply::Array([Reply::bulk(event)].into_iter().chain(numbers).collect()))
    });
    Ok(Pending::Ready(Reply::Array(rows.collect())))
}

fn history(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let samples = find(context.gateway, &args.next_bytes()?).map(|(_, series)| series.samples);
    let pairs = samples
        .into_iter()
        .flatten()
        .map(|sample| Reply::Array([sample.second, sample.millis].map(Reply::Integer).into()));
    Ok(Pending::Ready(Reply::Array(pairs.collect())))
}

fn find(gateway: &Gateway, event: &[u8]) -> Option<(&'static str, Series)> {
    gateway.latency.series().into_iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(event))
}

fn reset(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let monitor = &context.gateway.latency;
    let forgotten = if args.is_empty() {
        monitor.reset(None)
    } else {
        args.rest().iter().map(|event| monitor.reset(Some(event))).sum()
    };
    Ok(Pending::Ready(count(forgotten as u64)))
}

fn histogram(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let table = context.gateway.table;
    let wanted: Vec<&Entry> = if args.is_empty() {
        table.entries().iter().collect()
    } else {
        let named = args.rest();
        let named = named.iter().filter_map(|name| table.find(name));
        named.flat_map(|entry| [entry].into_iter().chain(entry.subcommands(table))).collect()
    };
    let rows = wanted.into_iter().filter_map(|entry| {
        let stats = context.gateway.stats.command(entry.id);
        let bins = stats.histogram().map(crate::resp::latency::Histogram::cumulative)?;
        let calls = stats.calls.load(Ordering::Relaxed);
        if calls == 0 {
            return None;
        }
        let bins = bins.into_iter().map(|(bound, seen)| (count(bound), count(seen))).collect();
        let fields =
            vec![(Reply::bulk("calls"), count(calls)), (Reply::bulk("histogram_usec"), Reply::Map(bins))];
        Some((Reply::bulk(entry.name), Reply::Map(fields)))
    });
    Ok(Pending::Ready(Reply::Map(rows.collect())))
}

fn doctor(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    let monitor = &context.gateway.latency;
    let mut text = String::new();
    let series = monitor.series();
    if monitor.threshold_ms() == 0 {
        text.push_str(
            "Latency monitoring is disabled. Enable it with CONFIG SET latency-monitor-threshold <milliseconds>.\n",
        );
    } else if series.is_empty() {
        text.push_str("No latency spike was seen since the last reset.\n");
    }
    for (event, series) in series {
        let sum: i64 = series.samples.iter().map(|sample| sample.millis).sum();
        let number = i64::try_from(series.samples.len()).unwrap_or(i64::MAX);
        let average = sum / number.max(1);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{event}: {number} latency spikes (average {average}ms). Worst all time event {}ms. SLOWLOG GET names \
             commands; the metrics tercet_replica_call_duration_seconds and tercet_postgres_commit_duration_seconds \
             tell the network and the disks apart.",
            series.worst_millis
        );
    }
    Ok(Pending::Ready(Reply::Verbatim(text.into())))
}

/// Rows of a graph, from high to low.
const GRAPH_ROWS: i64 = 4;

fn graph(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let event = args.next_bytes()?;
    let Some((event, series)) = find(context.gateway, &event) else {
        let event = quoted(&event);
        return Err(CommandError::text(format!("ERR No samples available for event '{event}'")));
    };
    Ok(Pending::Ready(Reply::Verbatim(draw(event, &series, unix_seconds()).into())))
}

fn draw(event: &str, series: &Series, now: i64) -> String {
    let millis = || series.samples.iter().map(|sample| sample.millis);
    let (low, high) = (millis().min().unwrap_or(0), millis().max().unwrap_or(0));
    let worst = series.worst_millis;
    let mut text = format!("{event} - high {high} ms, low {low} ms (all time high {worst} ms)\n");
    text.push_str(&"-".repeat(80));
    text.push('\n');
    let span = (high - low).max(1);
    for row in (0..GRAPH_ROWS).rev() {
        text.extend(millis().map(|at| match (at - low) * GRAPH_ROWS / (span + 1) - row {
            0 => '#',
            1.. => '|',
            _ => ' ',
        }));
        text.push('\n');
    }
    if let Some(first) = series.samples.front() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\nThe first sample is {} seconds old.", now - first.second);
    }
    text
}

fn show_help(context: &mut SessionContext<'_>, _: Args) -> Result<Pending, CommandError> {
    help(context, "latency")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_shows_high_and_low() {
        let samples = [10, 20, 50].into_iter().zip(1..).map(|(millis, second)| Sample { second, millis });
        let text = draw("command", &Series { samples: samples.collect(), worst_millis: 70 }, 11);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "command - high 50 ms, low 10 ms (all time high 70 ms)");
        assert_eq!(lines[2..6], ["  #", "  |", "  |", "##|"]);
        assert_eq!(lines[7], "The first sample is 10 seconds old.");
    }
}
