//! What a PostgreSQL must promise before its figures count.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_postgres::NoTls;

const DEADLINE: Duration = Duration::from_secs(10);

/// Where a commit must be before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// On the server's own disk.
    OwnDisk,
    /// And on that of one of so many standbys.
    Standbys(usize),
}

const QUERY: &str = "SELECT name, setting FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names')";

pub(super) async fn connect(config: &tokio_postgres::Config) -> anyhow::Result<tokio_postgres::Client> {
    let connected = tokio::time::timeout(DEADLINE, config.connect(NoTls)).await;
    let (client, connection) = connected.context("connecting took too long")??;
    // Ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// Asks a running server.
pub(super) async fn check_postgres(
    name: &str,
    config: &tokio_postgres::Config,
    promise: Promise,
) -> anyhow::Result<()> {
    let client = connect(config).await.with_context(|| format!("asking {name} whether it is durable"))?;
    let rows = client.query(QUERY, &[]).await?;
    let settings: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    judge(&settings, promise).map_err(|why| refusal(name, &why))?;
    if let Promise::Standbys(number) = promise {
        let query =
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum' AND state = 'streaming'";
        let standbys: i64 = client.query_one(query, &[]).await?.get(0);
        ensure!(
            standbys == number as i64,
            refusal(name, &format!("{standbys} of {number} standbys follow it"))
        );
    }
    Ok(())
}

/// Of a run whose figures would be worth nothing.
pub(super) fn refusal(server: &str, why: &str) -> anyhow::Error {
    anyhow::anyhow!("{server} is not durable, so the run is refused: {why}")
}

/// The error says which setting is off.
fn judge(settings: &[(String, String)], promise: Promise) -> Result<(), String> {
    let of = |name: &str| settings.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
    // `local` and `remote_write` sound like promises, and are weaker ones than are wanted here.
    for (name, allowed) in [
        ("fsync", &["on"][..]),
        ("full_page_writes", &["on"]),
        ("synchronous_commit", &["on", "remote_apply"]),
    ] {
        match of(name) {
            Some(value) if allowed.contains(&value) => {}
            value => return Err(format!("{name} is {}", value.unwrap_or("unknown"))),
        }
    }
    let names = of("synchronous_standby_names").unwrap_or_default();
    match promise {
        Promise::Standbys(_) if !names.starts_with("ANY 1 (") => {
            Err(format!("synchronous_standby_names is '{names}'"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(change: (&str, &str), promise: Promise) -> Result<(), String> {
        let mut settings = vec![
            ("fsync".to_owned(), "on".to_owned()),
            ("full_page_writes".to_owned(), "on".to_owned()),
            ("synchronous_commit".to_owned(), "on".to_owned()),
            ("synchronous_standby_names".to_owned(), "ANY 1 (s1, s2)".to_owned()),
        ];
        settings.iter_mut().filter(|(name, _)| name == change.0).for_each(|it| it.1 = change.1.to_owned());
        judge(&settings, promise)
    }

    #[test]
    fn every_weaker_setting_is_refused_by_name() {
        let own = Promise::OwnDisk;
        assert_eq!(judged(("", ""), own), Ok(()));
        assert_eq!(judged(("synchronous_commit", "remote_apply"), own), Ok(()));
        for (name, value) in [
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "off"),
            ("synchronous_commit", "local"),
            ("synchronous_commit", "remote_write"),
        ] {
            assert_eq!(judged((name, value), own), Err(format!("{name} is {value}")));
        }
        assert_eq!(judge(&[], own), Err("fsync is unknown".to_owned()));
    }

    #[test]
    fn a_trio_must_wait_for_a_standby() {
        let trio = Promise::Standbys(2);
        assert_eq!(judged(("", ""), trio), Ok(()));
        assert!(judged(("synchronous_standby_names", ""), trio).is_err());
        assert_eq!(judged(("synchronous_standby_names", ""), Promise::OwnDisk), Ok(()));
    }
}
