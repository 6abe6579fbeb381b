//! The user that PostgreSQL runs as: ourselves, unless that is root, whom it refuses.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use nix::unistd::{Gid, Uid, User, chown};
use tokio::process::Command;

#[derive(Clone, Copy, Debug)]
pub(super) struct Account(Option<(Uid, Gid)>);

impl Account {
    /// Root lends it `postgres` or `nobody`.
    pub(super) fn choose() -> anyhow::Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        let user = User::from_name("postgres")?.or(User::from_name("nobody")?);
        let user =
            user.context("PostgreSQL refuses to run as root, and there is no `postgres` or `nobody`")?;
        Ok(Self(Some((user.uid, user.gid))))
    }

    pub(super) fn run(self, command: &mut Command) {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
    }

    /// Gives a file or a directory to it, and to nobody else.
    pub(super) fn own(self, path: &Path, mode: u32) -> anyhow::Result<()> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        match self.0 {
            Some((uid, gid)) => Ok(chown(path, Some(uid), Some(gid))?),
            None => Ok(()),
        }
    }
}
