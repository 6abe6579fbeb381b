//! The disk that the database is on, where the worker can see it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio_postgres::Client;
use tokio_postgres::config::Host;

use super::super::{Disk, StoreError};
use super::connect::{Target, within};

/// Where the server keeps its data, if that is on this machine (it is spoken to through a socket file) and PostgreSQL
/// tells this role.
pub(super) async fn data_directory(
    client: &Client,
    target: &Target,
    patience: Duration,
) -> Result<Option<PathBuf>, StoreError> {
    let hosts = target.config.get_hosts();
    if hosts.is_empty() || !hosts.iter().all(|host| matches!(host, Host::Unix(_))) {
        return Ok(None);
    }
    // The view leaves out what a role may not see, where SHOW would fail.
    const SETTING: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'";
    let row = within(patience, client.query_opt(SETTING, &[])).await?;
    Ok(row.map(|row| row.get::<_, String>(0).into()))
}

/// Space on the file system of `directory`. An unprivileged worker may not enter the directory itself; then it is out of
/// sight.
pub(super) fn space(directory: &Path) -> Option<Disk> {
    let stat = statvfs(directory).ok()?;
    // Their widths differ between systems.
    let (unit, free, total) = (stat.fragment_size(), stat.blocks_available(), stat.blocks());
    #[allow(clippy::unnecessary_cast)]
    let bytes = |blocks: u64| blocks.saturating_mul(unit as u64);
    #[allow(clippy::unnecessary_cast)]
    Some(Disk { free_bytes: bytes(free as u64), total_bytes: bytes(total as u64) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_space_and_nothing_has_none() {
        let disk = space(&std::env::temp_dir()).unwrap();
        assert!(disk.total_bytes > 0 && disk.free_bytes <= disk.total_bytes, "{disk:?}");
        assert_eq!(space(Path::new("/nowhere/at/all")), None);
    }
}
