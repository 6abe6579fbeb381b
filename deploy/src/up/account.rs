//! The user that PostgreSQL runs as.
//!
//! PostgreSQL refuses to run as root, so root lends it another user: the owner of an existing database, else `postgres`,
//! else `nobody`. Anybody else runs it as themselves.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::unistd::{Gid, Uid, User, chown};
use tokio::process::Command;

/// Who runs PostgreSQL, and who may connect to it.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// `None`: the supervisor's own user.
    lent: Option<Lent>,
    /// The supervisor's and the workers' user: the one that PostgreSQL lets in.
    pub(super) own_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lent {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// `databases` is where the databases are, if there are any.
    pub(super) fn choose(databases: &Path) -> anyhow::Result<Self> {
        let uid = Uid::effective();
        let owner = std::fs::read_dir(databases)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|meta| Uid::from_raw(meta.uid()))
            .find(|owner| !owner.is_root());
        if !uid.is_root() {
            if let Some(owner) = owner.filter(|owner| *owner != uid) {
                bail!(
                    "the databases in {} belong to {}: start as that user, or as root",
                    databases.display(),
                    name_of(owner)
                );
            }
            let own = User::from_uid(uid)?.with_context(|| {
                format!(
                    "user id {uid} has no name, which PostgreSQL demands: give it an entry in /etc/passwd"
                )
            })?;
            return Ok(Self { lent: None, own_name: own.name });
        }
        let user = match owner {
            Some(owner) => User::from_uid(owner)?,
            None => User::from_name("postgres")?.or(User::from_name("nobody")?),
        };
        let Some(user) = user else {
            bail!(
                "PostgreSQL refuses to run as root and there is no user `postgres` or `nobody` to lend it: start as \
                 another user"
            );
        };
        let own_name = User::from_uid(uid)?.map_or_else(|| "root".to_owned(), |own| own.name);
        Ok(Self { lent: Some(Lent { name: user.name, uid: user.uid, gid: user.gid }), own_name })
    }

    /// The user that is lent, for the output.
    pub(super) fn lent_name(&self) -> Option<&str> {
        self.lent.as_ref().map(|lent| lent.name.as_str())
    }

    /// Makes `command` run as this account.
    pub(super) fn run(&self, command: &mut Command) {
        if let Some(lent) = &self.lent {
            command.uid(lent.uid.as_raw()).gid(lent.gid.as_raw());
        }
    }

    /// The mode of directories that this account must pass through but not list.
    pub(super) fn passage_mode(&self) -> u32 {
        if self.lent.is_some() { 0o711 } else { 0o700 }
    }

    /// Creates `dir`, for this account alone.
    pub(super) fn create_private_dir(&self, dir: &Path) -> anyhow::Result<()> {
        create_dir(dir, 0o700)?;
        if let Some(lent) = &self.lent {
            chown(dir, Some(lent.uid), Some(lent.gid))
                .with_context(|| format!("giving {} away", dir.display()))?;
        }
        Ok(())
    }

    /// Says who keeps the account from reaching `path`.
    pub(super) fn check_passage(&self, path: &Path) -> anyhow::Result<()> {
        let Some(lent) = &self.lent else { return Ok(()) };
        let path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
        match blocked_at(&path, lent.uid, lent.gid)? {
            None => Ok(()),
            Some((dir, mode)) => bail!(
                "PostgreSQL runs as `{}`, because it refuses to run as root, and that user may not enter {} (mode \
                 {mode:04o}): choose another place with --data-dir, or `chmod o+x {}`",
                lent.name,
                dir.display(),
                dir.display(),
            ),
        }
    }
}

/// The first directory on the way that a user without further groups may not pass.
fn blocked_at(path: &Path, uid: Uid, gid: Gid) -> anyhow::Result<Option<(PathBuf, u32)>> {
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    for dir in ancestors {
        let meta = dir.metadata().with_context(|| format!("looking at {}", dir.display()))?;
        let shift = if meta.uid() == uid.as_raw() {
            6
        } else if meta.gid() == gid.as_raw() {
            3
        } else {
            0
        };
        if meta.is_dir() && (meta.mode() >> shift) & 1 == 0 {
            return Ok(Some((dir.to_owned(), meta.mode() & 0o7777)));
        }
    }
    Ok(None)
}

/// Creates `dir` and those above it; `dir` gets `mode` whatever the umask.
pub(super) fn create_dir(dir: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)))
        .with_context(|| format!("creating {}", dir.display()))
}

fn name_of(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("`{}`", user.name),
        _ => format!("user id {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().canonicalize().unwrap().join("closed");
        let inner = closed.join("open");
        create_dir(&inner, 0o711).unwrap();
        create_dir(&closed, 0o700).unwrap();
        create_dir(dir.path(), 0o711).unwrap();
        let stranger = (Uid::from_raw(4_242_424), Gid::from_raw(4_242_424));
        assert_eq!(blocked_at(&inner, stranger.0, stranger.1).unwrap(), Some((closed.clone(), 0o700)));
        create_dir(&closed, 0o711).unwrap();
        assert_eq!(blocked_at(&inner, stranger.0, stranger.1).unwrap(), None);
        create_dir(&closed, 0o700).unwrap();
        let meta = closed.metadata().unwrap();
        let owner = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
        assert_eq!(blocked_at(&inner, owner.0, owner.1).unwrap(), None);
    }
}
