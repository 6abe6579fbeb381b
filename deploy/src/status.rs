//! `tercet status`: what a frontend knows of its cluster, as a table.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::{CellAlignment, Table, presets};
use tercet_frontend::coordinator::status::{Breaker, ClusterStatus, Health};

use crate::cli::StatusArgs;
use crate::http;
use crate::up::datadir::DataDir;

const PATH: &str = "/admin/status";
const TIMEOUT: Duration = Duration::from_secs(10);

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
    // Without --rest the local cluster is meant, if there is one; its directory then knows address and password.
    let local = match args.rest {
        Some(_) => None,
        None => DataDir::locate(args.place.data_dir.as_deref()).ok().filter(|dir| dir.running().is_some()),
    };
    let base = match (&args.rest, local.as_ref().and_then(DataDir::running)) {
        (Some(url), _) => http::base_url(url),
        (None, Some(running)) => http::base_url(&running.rest.to_string()),
        (None, None) if args.place.data_dir.is_some() => {
            bail!("no cluster runs in that directory: start it with `tercet up`")
        }
        (None, None) => "http://127.0.0.1:8080".to_owned(),
    };
    let password = match args.password.read()? {
        Some(password) => Some(password),
        None => local.and_then(|dir| dir.password()),
    };
    let url = format!("{base}{PATH}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime
        .block_on(http::get(&url, password.as_deref(), TIMEOUT))
        .with_context(|| format!("no frontend answers at {url}"))?;
    match status {
        200 => {}
        401 | 403 => bail!("{url} wants the clients' password: set TERCET_PASSWORD or --password-file"),
        other => bail!("{url} answered {other}: {}", String::from_utf8_lossy(&body[..body.len().min(512)])),
    }
    let parsed = serde_json::from_slice(&body)
        .with_context(|| format!("{url} answered something else than a status"))?;
    Ok((parsed, String::from_utf8_lossy(&body).into_owned()))
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
    for column in table.column_iter_mut().skip(7) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let _ = write!(out, "{table}");
    out
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
                  "disk_free_bytes":null,"keys":null,"version":null,"partitions":768,"primary_partitions":256}],
                "partitions":{"total":1024,"owned":5,"under_replicated":6,"unavailable":7}}"#,
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
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
