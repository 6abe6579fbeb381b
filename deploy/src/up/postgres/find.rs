//! Finding PostgreSQL's programs on the machine.
//!
//! Every place is looked at and the newest version wins, because Debian keeps several beside each other and a
//! `postgres` on the PATH may be an old one. Data, once made, needs the major version that made it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest major version that PostgreSQL's community supported when this was written.
pub(in crate::up) const MAJOR_MIN: u32 = 13;

/// Where packages put `initdb` and `postgres`. One `*` stands for the rest of a directory's name.
const PLACES: &[&str] = &[
    "/usr/lib/postgresql/*/bin",                      // Debian, Ubuntu
    "/usr/pgsql-*/bin",                               // PGDG on Fedora, RHEL
    "/usr/libexec/postgresql*",                       // Alpine
    "/usr/lib/postgresql*/bin",                       // openSUSE
    "/opt/homebrew/opt/postgresql*/bin",              // Homebrew on Apple silicon
    "/usr/local/opt/postgresql*/bin",                 // Homebrew on Intel
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin", // Homebrew on Linux
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin", // from source
];

/// PostgreSQL's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::up) struct Installation {
    pub(in crate::up) bin: PathBuf,
    pub(in crate::up) version: Version,
}

/// As in `15.13`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::up) struct Version {
    pub(in crate::up) major: u32,
    pub(in crate::up) minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Installation {
    pub(in crate::up) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Why no installation will do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::up) enum NotFound {
    #[error("there is no PostgreSQL on this machine")]
    Nowhere,
    #[error("PostgreSQL {0} is too old: {MAJOR_MIN} is the oldest that will do")]
    TooOld(Version),
    #[error(
        "the data was made by PostgreSQL {wanted}, which no other major version can read, and this machine has {found}"
    )]
    OtherMajor { wanted: u32, found: Version },
    #[error("{0} has no programs of PostgreSQL (initdb, postgres)")]
    NotThere(PathBuf),
}

/// Looks at the machine. `explicit`, if given, is the only place; `fetched` is where earlier downloads went; `major` is
/// that of existing data.
pub(in crate::up) fn find(
    explicit: Option<&Path>,
    fetched: &Path,
    major: Option<u32>,
) -> Result<Installation, NotFound> {
    if let Some(dir) = explicit {
        let version = probe(dir).ok_or_else(|| NotFound::NotThere(dir.to_owned()))?;
        return choose(vec![Installation { bin: dir.to_owned(), version }], major);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = candidates(pg_config_bindir(), std::env::split_paths(&path), fetched)
        .into_iter()
        .filter_map(|bin| probe(&bin).map(|version| Installation { bin, version }))
        .collect();
    choose(found, major)
}

/// All places worth a look, each once.
fn candidates(
    pg_config: Option<PathBuf>,
    path: impl Iterator<Item = PathBuf>,
    fetched: &Path,
) -> Vec<PathBuf> {
    let places = PLACES.iter().flat_map(|pattern| expand(pattern));
    let fetched = expand(&format!("{}/*/bin", fetched.display()));
    let mut all: Vec<PathBuf> = Vec::new();
    for dir in pg_config.into_iter().chain(places).chain(path).chain(fetched) {
        // PATH entries are often links into one of the other places.
        let real = dir.join("postgres").canonicalize().ok().and_then(|p| Some(p.parent()?.to_owned()));
        if let Some(real) = real.filter(|real| real.join("initdb").is_file() && !all.contains(real)) {
            all.push(real);
        }
    }
    all
}

/// The newest that fits; the first of equals.
fn choose(found: Vec<Installation>, major: Option<u32>) -> Result<Installation, NotFound> {
    let Some(newest) = found.iter().map(|i| i.version).max() else { return Err(NotFound::Nowhere) };
    let fits = |version: Version| match major {
        Some(major) => version.major == major,
        None => version.major >= MAJOR_MIN,
    };
    let best = found.into_iter().rev().filter(|i| fits(i.version)).max_by_key(|i| i.version);
    best.ok_or(match major {
        Some(wanted) => NotFound::OtherMajor { wanted, found: newest },
        None => NotFound::TooOld(newest),
    })
}

/// The directories that a pattern with at most one `*` names.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![pattern.into()] };
    let (dir, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let after = after.trim_start_matches('/');
    let mut matches: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| if after.is_empty() { entry.path() } else { entry.path().join(after) })
        .collect();
    matches.sort();
    matches
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

fn probe(bin: &Path) -> Option<Version> {
    if !bin.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(bin.join("postgres")).arg("--version").stdin(Stdio::null()).output().ok()?;
    version(&String::from_utf8_lossy(&output.stdout))
}

/// From `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`, also `17beta2`.
fn version(text: &str) -> Option<Version> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major = parts.next()?.ok()?;
    let minor = if number.contains('.') { parts.next().and_then(Result::ok).unwrap_or(0) } else { 0 };
    Some(Version { major, minor })
}

/// The command that installs PostgreSQL, from the text of `/etc/os-release`.
pub(in crate::up) fn package_hint(os_release: &str, macos: bool, major: Option<u32>) -> String {
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
            .unwrap_or_default()
    };
    let ids = format!("{} {}", field("ID"), field("ID_LIKE"));
    let is = |id: &str| ids.split_whitespace().any(|word| word == id);
    let number = major.map(|m| m.to_string()).unwrap_or_default();
    if macos {
        format!("brew install postgresql@{}", major.unwrap_or(super::fetch::MAJOR))
    } else if is("debian") || is("ubuntu") {
        match major {
            Some(major) => format!("sudo apt install postgresql-{major}"),
            None => "sudo apt install postgresql".to_owned(),
        }
    } else if is("fedora") || is("rhel") || is("centos") {
        match major {
            Some(major) => format!("sudo dnf install postgresql{major}-server"),
            None => "sudo dnf install postgresql-server".to_owned(),
        }
    } else if is("alpine") {
        format!(
            "doas apk add postgresql{}",
            if number.is_empty() { super::fetch::MAJOR.to_string() } else { number }
        )
    } else if is("arch") {
        "sudo pacman -S postgresql".to_owned()
    } else if is("suse") || is("opensuse") {
        format!("sudo zypper install postgresql{number}-server")
    } else {
        format!("install the package of the PostgreSQL {number} server with your system's package manager")
            .replace("  ", " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bin: &str, major: u32, minor: u32) -> Installation {
        Installation { bin: bin.into(), version: Version { major, minor } }
    }

    #[test]
    fn versions_as_postgres_prints_them() {
        for (text, major, minor) in [
            ("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n", 15, 13),
            ("postgres (PostgreSQL) 17beta2", 17, 0),
            ("postgres (PostgreSQL) 18devel", 18, 0),
            ("postgres (PostgreSQL) 9.6.24", 9, 6),
        ] {
            assert_eq!(version(text), Some(Version { major, minor }), "{text}");
        }
        assert_eq!(version("command not found"), None);
    }

    #[test]
    fn the_newest_wins_unless_data_wants_its_own() {
        let all = || vec![at("/a", 14, 9), at("/b", 16, 2), at("/c", 16, 2), at("/d", 15, 1)];
        assert_eq!(choose(all(), None), Ok(at("/b", 16, 2)));
        assert_eq!(choose(all(), Some(15)), Ok(at("/d", 15, 1)));
        let found = Version { major: 16, minor: 2 };
        assert_eq!(choose(all(), Some(17)), Err(NotFound::OtherMajor { wanted: 17, found }));
        assert_eq!(
            choose(vec![at("/a", 12, 1)], None),
            Err(NotFound::TooOld(Version { major: 12, minor: 1 }))
        );
        assert_eq!(choose(vec![], Some(15)), Err(NotFound::Nowhere));
    }

    #[test]
    fn candidates_are_directories_with_both_programs_each_once() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let make = |dir: &str, programs: &[&str]| {
            let dir = root.join(dir);
            std::fs::create_dir_all(&dir).unwrap();
            for program in programs {
                std::fs::write(dir.join(program), "").unwrap();
            }
            dir
        };
        let real = make("real", &["initdb", "postgres"]);
        let client_only = make("client", &["psql", "postgres"]);
        let fetched = make("fetched/17.2.0/bin", &["initdb", "postgres"]);
        let link = root.join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let all = candidates(Some(real.clone()), [link, client_only].into_iter(), &root.join("fetched"));
        let ours: Vec<_> = all.into_iter().filter(|dir| dir.starts_with(&root)).collect();
        assert_eq!(ours, [real, fetched]);
    }

    #[test]
    fn the_hint_names_the_package_of_the_system() {
        for (os_release, major, command) in [
            ("ID=debian\nVERSION_ID=\"12\"", None, "sudo apt install postgresql"),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"", Some(15), "sudo apt install postgresql-15"),
            ("ID=fedora", None, "sudo dnf install postgresql-server"),
            ("ID=alpine", Some(16), "doas apk add postgresql16"),
            ("ID=arch", None, "sudo pacman -S postgresql"),
            (
                "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"",
                Some(15),
                "sudo zypper install postgresql15-server",
            ),
        ] {
            assert_eq!(package_hint(os_release, false, major), command, "{os_release}");
        }
        assert_eq!(package_hint("", true, Some(16)), "brew install postgresql@16");
        assert!(package_hint("", false, None).contains("the PostgreSQL server"));
    }

    #[test]
    fn an_explicit_directory_without_postgres_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let missing = temp.path().to_owned();
        assert_eq!(find(Some(&missing), &missing, None), Err(NotFound::NotThere(missing.clone())));
    }
}
