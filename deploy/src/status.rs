//! `tercet status`: what a frontend knows of its cluster, as a table.

use std::fmt::Write;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use tercet_frontend::coordinator::status::{Breaker, ClusterStatus, Health, Role};

use crate::cli::StatusArgs;
use crate::frontend::Frontend;

pub(crate) fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    match ask(&args) {
        Ok((status, raw)) => {
            let text = if args.json { raw } else { render(&status) };
            // A reader that went away (`| head`) is no failure.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.trim_end().as_bytes());
            let _ = std::io::Write::write_all(&mut std::io::stdout(), b"\n");
            Ok(ExitCode::from(if status.ready { 0 } else { crate::FAILED }))
        }
        Err(error) => {
            eprintln!("tercet: {error:#}");
            Ok(ExitCode::from(crate::UNUSABLE))
        }
    }
}

fn ask(args: &StatusArgs) -> anyhow::Result<(ClusterStatus, String)> {
    let frontend = Frontend::find(&args.frontend)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(frontend.cluster_status())?
}

fn render(status: &ClusterStatus) -> String {
    let p = &status.partitions;
    let mut out = String::new();
    let head = [
        ("cluster", status.cluster_id.clone()),
        (
            "health",
            if status.ready {
                "ready: every key can be read and written".to_owned()
            } else {
                "NOT READY".to_owned()
            },
        ),
        ("epoch", status.epoch.to_string()),
        (
            "ring",
            format!(
                "{} partitions × {} replicas; {} under-replicated, {} unavailable, {} owned by this frontend",
                p.total, status.replicas, p.under_replicated, p.unavailable, p.owned
            ),
        ),
        ("change", change(status)),
        ("repair", repair(status)),
        ("next", next_failure(status)),
        ("frontend", format!("incarnation {}, up {}", status.incarnation, age(status.uptime_seconds * 1000))),
    ];
    for (name, value) in head {
        let _ = writeln!(out, "{name:<9} {value}");
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "worker",
        "address",
        "zone",
        "role",
        "health",
        "requests",
        "heartbeat",
        "database",
        "commit",
        "backlog",
        "keys",
        "partitions",
        "primary",
    ]);
    for w in &status.workers {
        table.add_row([
            w.id.to_string(),
            or_dash(w.address.as_deref().map(str::to_owned)),
            or_dash(Some(w.zone.clone()).filter(|zone| !zone.is_empty())),
            role(w.role, w.health).to_owned(),
            health(w.health).to_owned(),
            breaker(w.breaker).to_owned(),
            or_dash(w.heartbeat_age_ms.map(|ms| format!("{} ago", age(ms)))),
            or_dash(w.database_commits.map(|ok| if ok { "commits" } else { "DOES NOT COMMIT" }.to_owned())),
            or_dash(w.commit_micros.map(|us| format!("{:.1} ms", us as f64 / 1000.0))),
            or_dash(w.write_backlog.map(|n| n.to_string())),
            or_dash(w.keys.map(|n| n.to_string())),
            w.partitions.to_string(),
            w.primary_partitions.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(8) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let _ = write!(out, "{table}");
    out
}

fn change(status: &ClusterStatus) -> String {
    match (&status.ring.change, &status.ring.waiting) {
        (Some(change), _) => format!(
            "{}: {} of {} partitions copied, {} rows, {:.1} MB, for {}",
            change.what,
            change.copied,
            change.copies,
            change.rows,
            change.bytes as f64 / 1e6,
            age(change.since_seconds * 1000),
        ),
        (None, Some(why)) => format!("none; waiting: {why}"),
        (None, None) => "none".to_owned(),
    }
}

fn repair(status: &ClusterStatus) -> String {
    let healing = &status.healing;
    let compared = match healing.oldest_compare_seconds {
        Some(seconds) => format!("all replicas compared within the last {}", age(seconds * 1000)),
        None => "not all replicas compared yet".to_owned(),
    };
    format!(
        "{} missed keys wait, {} partitions to compare; {compared}",
        healing.missed_keys, healing.suspect_partitions
    )
}

fn next_failure(status: &ClusterStatus) -> String {
    match &status.next_failure.worker {
        None => "any one worker may fail, and every key can still be read and written".to_owned(),
        Some(worker) => {
            format!(
                "if {worker} failed, {} more partitions would be unavailable",
                status.next_failure.partitions
            )
        }
    }
}

fn role(role: Role, health: Health) -> &'static str {
    match role {
        // Nobody to fall back on.
        Role::Spare if health == Health::Dead => "gone",
        Role::Member => "member",
        Role::Joining => "joining",
        Role::Leaving => "leaving",
        Role::Spare => "spare",
        Role::Replaced => "REPLACED",
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Alive => "alive",
        Health::Suspect => "SUSPECT",
        Health::Dead => "DEAD",
        Health::Unknown => "not seen",
    }
}

fn breaker(breaker: Breaker) -> &'static str {
    match breaker {
        Breaker::Closed => "flow",
        Breaker::Open => "held back",
        Breaker::HalfOpen => "probing",
        Breaker::Disconnected => "no link",
    }
}

/// `350 ms`, `12 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_who_is_dead_and_what_is_unknown() {
        let status: ClusterStatus = serde_json::from_str(
            r#"{"cluster_id":"tercet","ready":false,"epoch":1,"incarnation":"ab","uptime_seconds":125,"replicas":3,
                "workers":[{"id":"w1","address":"127.0.0.1:7","zone":"a","health":"alive","breaker":"closed",
                  "heartbeat_age_ms":350,"last_heartbeat_ms":1,"database_commits":true,"commit_micros":1234,
                  "write_backlog":0,"disk_free_bytes":1,"keys":7,"version":"0","partitions":768,"primary_partitions":256},
                 {"id":"w2","address":null,"zone":"","health":"dead","breaker":"open","heartbeat_age_ms":null,
                  "last_heartbeat_ms":null,"database_commits":null,"commit_micros":null,"write_backlog":null,
                  "disk_free_bytes":null,"keys":null,"version":null,"partitions":768,"primary_partitions":256},
                 {"id":"w3","address":null,"zone":"","health":"dead","breaker":"disconnected","role":"spare",
                  "heartbeat_age_ms":null,"last_heartbeat_ms":null,"database_commits":null,"commit_micros":null,
                  "write_backlog":null,"disk_free_bytes":null,"keys":null,"version":null,"partitions":0,
                  "primary_partitions":0}],
                "partitions":{"total":1024,"owned":5,"under_replicated":6,"unavailable":7},
                "ring":{"change":{"what":"w2 goes out","copies":768,"copied":12,"rows":345,"bytes":2500000,
                  "since_seconds":4},"waiting":null},
                "healing":{"missed_keys":8,"suspect_partitions":9,"oldest_compare_seconds":null},
                "next_failure":{"worker":"w1","partitions":10}}"#,
        )
        .unwrap();
        let text = render(&status);
        for part in [
            "NOT READY",
            "6 under-replicated, 7 unavailable",
            "up 2 min",
            "350 ms ago",
            "1.2 ms",
            "DEAD",
            "held back",
            "no link",
            "gone",
            "w2 goes out: 12 of 768 partitions copied, 345 rows, 2.5 MB, for 4 s",
            "8 missed keys wait, 9 partitions to compare; not all",
            "if w1 failed, 10 more",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
