//! Settings of a role: one table row per setting gives its flag, its environment variable, its key in the TOML file
//! and its help, so the three ways cannot drift apart.
//!
//! For the row `hedge-after`: `--hedge-after 50ms` beats `TERCET_HEDGE_AFTER=50ms` beats `hedge-after = "50ms"` in the
//! file given by `--config`, beats the default. A secret such as `password` has a twin, `password-file`, in all three,
//! for secrets that are mounted as files.
//!
//! Nothing stops at the first mistake: a [`Reader`] collects [`Problem`]s, and a role starts only when there are none.

pub(crate) mod frontend;
pub(crate) mod process;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// A configuration or secret file larger than this is taken for a mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const FILE_SUFFIX: &str = "-file";

/// One row of a role's table.
#[derive(Debug)]
pub(crate) struct Setting {
    /// In kebab case, as in `--hedge-after`.
    pub(crate) key: &'static str,
    /// What the value is, for `--help`.
    pub(crate) value: &'static str,
    /// As a person would write it; empty: none. A test holds it to the library's default.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
    pub(crate) secret: bool,
}

impl Setting {
    pub(crate) const fn new(
        key: &'static str,
        value: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { key, value, default, help, secret: false }
    }

    /// Adds the twin `KEY-file`; the value is never shown.
    pub(crate) const fn secret(key: &'static str, help: &'static str) -> Self {
        Self { key, value: "SECRET", default: "", help, secret: true }
    }
}

/// What a role can be told.
pub(crate) trait Role {
    /// Its own settings; those of [`process`] come on top.
    const SETTINGS: &'static [Setting];
}

fn rows<R: Role>() -> impl Iterator<Item = &'static Setting> {
    R::SETTINGS.iter().chain(process::SETTINGS)
}

/// The environment variable of a setting.
pub(crate) fn variable(key: &str) -> String {
    format!("TERCET_{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// Where environment variables come from, so that tests need not touch the process's own.
pub(crate) trait Environment {
    fn get(&self, name: &str) -> Option<String>;
}

/// The process's environment. What is not UTF-8 is read with replacement characters, and then refused by its parser.
#[derive(Debug)]
pub(crate) struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

impl Environment for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).map(|value| (*value).to_owned())
    }
}

/// The flags of a role, as text: they are judged together with the environment and the file.
#[derive(Clone, Debug)]
pub(crate) struct Flags<R> {
    values: BTreeMap<String, String>,
    config: Option<PathBuf>,
    role: PhantomData<R>,
}

impl<R: Role> clap::Args for Flags<R> {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        command = command.arg(
            clap::Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf)).help(
                "TOML file with any of the settings below, by the flag's name without the dashes [env: TERCET_CONFIG]",
            ),
        );
        for row in rows::<R>() {
            let mut help = format!("{} [env: {}]", row.help, variable(row.key));
            if !row.default.is_empty() {
                help.push_str(&format!(" [default: {}]", row.default));
            }
            command = command.arg(
                clap::Arg::new(row.key)
                    .long(row.key)
                    .value_name(row.value)
                    .allow_hyphen_values(true)
                    .help(help),
            );
            if row.secret {
                let twin: &'static str = twin_key(row.key);
                let help = format!(
                    "File that holds it, so that it shows in no process list [env: {}]",
                    variable(twin)
                );
                command = command.arg(clap::Arg::new(twin).long(twin).value_name("FILE").help(help));
            }
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<R: Role> clap::FromArgMatches for Flags<R> {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let mut values = BTreeMap::new();
        for row in rows::<R>() {
            let twin = row.secret.then(|| twin_key(row.key));
            for key in std::iter::once(row.key).chain(twin) {
                if let Some(value) = matches.get_one::<String>(key) {
                    values.insert(key.to_owned(), value.clone());
                }
            }
        }
        Ok(Self { values, config: matches.get_one::<PathBuf>("config").cloned(), role: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// clap wants names that live as long as the program; there are three secrets, so three small leaks per process.
fn twin_key(key: &'static str) -> &'static str {
    match key {
        "password" => "password-file",
        "cluster-secret" => "cluster-secret-file",
        "postgres-password" => "postgres-password-file",
        other => Box::leak(format!("{other}{FILE_SUFFIX}").into_boxed_str()),
    }
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
    File,
}

/// Something that keeps a role from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All of them, one a line.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Problems(Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a problem:")?,
            n => write!(f, "the configuration has {n} problems:")?,
        }
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

/// The setting in each of its three forms.
fn forms(key: &str) -> String {
    format!("--{key}, {}, or `{key}` in the file", variable(key))
}

/// Reads settings from flags, environment and file in that order, and keeps what is wrong with them.
pub(crate) struct Reader<'a> {
    flags: BTreeMap<String, String>,
    environment: &'a dyn Environment,
    file: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Opens the configuration file, if one is named, and notes what is wrong with it.
    pub(crate) fn new<R: Role>(flags: Flags<R>, environment: &'a dyn Environment) -> Self {
        let mut reader =
            Self { flags: flags.values, environment, file: BTreeMap::new(), problems: Vec::new() };
        let path = flags.config.or_else(|| environment.get("TERCET_CONFIG").map(PathBuf::from));
        if let Some(path) = path {
            match read_bounded(&path) {
                Ok(text) => reader.load::<R>(&path, &text),
                Err(error) => reader.problem(format!("--config {}: {error}", path.display())),
            }
        }
        reader
    }

    fn load<R: Role>(&mut self, path: &Path, text: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                return self.problem(format!("{}: {}", path.display(), error.to_string().trim_end()));
            }
        };
        for (key, value) in table {
            let known = rows::<R>()
                .any(|row| row.key == key || (row.secret && key.strip_suffix(FILE_SUFFIX) == Some(row.key)));
            if !known {
                self.problem(format!("{}: there is no setting `{key}`", path.display()));
            } else if let Some(text) = toml_text(&value) {
                self.file.insert(key, text);
            } else {
                self.problem(format!(
                    "{}: `{key}` is neither text, number, boolean nor a list of texts",
                    path.display()
                ));
            }
        }
    }

    pub(crate) fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(Problem(text.into()));
    }

    fn layer(&self, origin: Origin, key: &str) -> Option<String> {
        match origin {
            Origin::Flag => self.flags.get(key).cloned(),
            // Compose and Helm pass unset variables on as empty ones.
            Origin::Environment => self.environment.get(&variable(key)).filter(|value| !value.is_empty()),
            Origin::File => self.file.get(key).cloned(),
        }
    }

    /// The value of `key`, if it is set anywhere and makes sense.
    pub(crate) fn get<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (origin, text) = [Origin::Flag, Origin::Environment, Origin::File]
            .into_iter()
            .find_map(|origin| Some((origin, self.layer(origin, key)?)))?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let shown: String = text.chars().take(80).collect();
                let from = match origin {
                    Origin::Flag => "on the command line",
                    Origin::Environment => "in the environment",
                    Origin::File => "in the configuration file",
                };
                self.problem(format!("`{key}` is {shown:?} {from}, expected {expected} ({})", forms(key)));
                None
            }
        }
    }

    /// Overwrites a default.
    pub(crate) fn apply<T>(&mut self, key: &str, into: &mut T, parse: impl Fn(&str) -> Result<T, String>) {
        if let Some(value) = self.get(key, parse) {
            *into = value;
        }
    }

    /// A value without which the role cannot start.
    pub(crate) fn required<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let before = self.problems.len();
        let value = self.get(key, parse);
        if value.is_none() && self.problems.len() == before {
            self.problem(format!("`{key}` is missing ({})", forms(key)));
        }
        value
    }

    /// A secret, given itself or by its file. Both in one place is a contradiction.
    pub(crate) fn secret(&mut self, key: &str) -> Option<String> {
        let twin = format!("{key}{FILE_SUFFIX}");
        for origin in [Origin::Flag, Origin::Environment, Origin::File] {
            let secret = match (self.layer(origin, key), self.layer(origin, &twin)) {
                (None, None) => continue,
                (Some(_), Some(_)) => {
                    self.problem(format!("`{key}` and `{twin}` are both set; keep one of them"));
                    return None;
                }
                (Some(secret), None) => secret,
                (None, Some(path)) => match read_bounded(Path::new(&path)) {
                    Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                    Err(error) => {
                        self.problem(format!("`{twin}` {path}: {error} ({})", forms(&twin)));
                        return None;
                    }
                },
            };
            if secret.is_empty() {
                self.problem(format!("`{key}` is empty ({})", forms(key)));
                return None;
            }
            return Some(secret);
        }
        None
    }

    /// `value`, unless something was wrong.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(Problems(self.problems)),
        }
    }
}

fn read_bounded(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// A TOML value as a flag would give it; lists are joined with commas.
fn toml_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

/// The items of a comma-separated list; none twice, none empty.
pub(crate) fn list<T: PartialEq>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut items = Vec::new();
    for item in text.split(',') {
        let item = parse(item.trim())?;
        if items.contains(&item) {
            return Err("a list without repetitions".to_owned());
        }
        items.push(item);
    }
    Ok(items)
}

pub(crate) fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| "an address such as 127.0.0.1:6379, 0.0.0.0:6379 or [::1]:6379".to_owned())
}

/// `host:port`; the name is resolved when it is dialled.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    let ok = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    if ok { Ok(text.to_owned()) } else { Err("host:port, such as kv-controller:7379".to_owned()) }
}

pub(crate) fn yes_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err("yes or no".to_owned()),
    }
}

/// Text without a bound would end up in logs, metrics and on the wire.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let ok = text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if ok { Ok(text.to_owned()) } else { Err("at most 64 of a-z, A-Z, 0-9, `.`, `_`, `-`".to_owned()) }
}

/// A whole number of at least 1.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n >= 1).ok_or_else(|| "a whole number of at least 1".to_owned())
}

/// A duration that is not zero and not above a day.
pub(crate) fn timeout(text: &str) -> Result<std::time::Duration, String> {
    let day = std::time::Duration::from_secs(86_400);
    crate::units::duration(text)
        .and_then(|d| if !d.is_zero() && d <= day { Ok(d) } else { Err("between 1ms and 24h".to_owned()) })
}

/// A size that is not zero.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    crate::units::bytes(text).and_then(|n| if n > 0 { Ok(n) } else { Err("a size above 0".to_owned()) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Flags as the command line would give them.
    pub(crate) fn flags<R: Role>(pairs: &[(&str, &str)]) -> Flags<R> {
        let values = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Flags { values, config: None, role: PhantomData }
    }

    pub(crate) fn with_file<R: Role>(mut flags: Flags<R>, path: &Path) -> Flags<R> {
        flags.config = Some(path.to_owned());
        flags
    }

    #[derive(Debug, Clone)]
    struct Toy;
    impl Role for Toy {
        const SETTINGS: &'static [Setting] =
            &[Setting::new("hedge-after", "DURATION", "50ms", ""), Setting::secret("password", "")];
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn problems(reader: Reader<'_>) -> String {
        reader.finish(Some(())).map(|()| String::new()).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn flags_beat_environment_beats_file() {
        let file = file("hedge-after = \"3s\"");
        let with = |flag: &[(&str, &str)], env: &[(&'static str, &'static str)]| {
            let env: BTreeMap<&str, &str> = env.iter().copied().collect();
            let mut reader = Reader::new(with_file(flags::<Toy>(flag), file.path()), &env);
            reader.get("hedge-after", crate::units::duration).map(|d| d.as_secs())
        };
        assert_eq!(with(&[("hedge-after", "1s")], &[("TERCET_HEDGE_AFTER", "2s")]), Some(1));
        assert_eq!(with(&[], &[("TERCET_HEDGE_AFTER", "2s")]), Some(2));
        assert_eq!(with(&[], &[("TERCET_HEDGE_AFTER", "")]), Some(3), "an empty variable is an unset one");
        assert_eq!(with(&[], &[]), Some(3));
    }

    #[test]
    fn all_problems_are_told_with_every_form_of_the_setting() {
        let file = file("hedge-afterr = \"3s\"\npassword = { a = 1 }");
        let env = BTreeMap::from([("TERCET_HEDGE_AFTER", "5 parsecs")]);
        let mut reader = Reader::new(with_file(flags::<Toy>(&[]), file.path()), &env);
        assert_eq!(reader.get("hedge-after", crate::units::duration), None);
        let text = problems(reader);
        for part in [
            "3 problems",
            "no setting `hedge-afterr`",
            "`password` is neither",
            "\"5 parsecs\" in the environment",
            "--hedge-after, TERCET_HEDGE_AFTER, or `hedge-after` in the file",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn a_broken_file_and_a_missing_one_are_problems() {
        let empty = BTreeMap::new();
        let broken = file("hedge-after = ");
        assert!(
            problems(Reader::new(with_file(flags::<Toy>(&[]), broken.path()), &empty)).contains("problem")
        );
        let missing = Path::new("/nonexistent/tercet.toml");
        let text = problems(Reader::new(with_file(flags::<Toy>(&[]), missing), &empty));
        assert!(text.contains("/nonexistent/tercet.toml"), "{text}");
    }

    #[test]
    fn a_secret_comes_itself_or_by_its_file_but_not_both() {
        let secret = file("hunter2\n");
        let path = secret.path().to_str().unwrap().to_owned();
        let empty = BTreeMap::new();
        let read = |flag: &[(&str, &str)], env: &BTreeMap<&str, &str>| {
            let mut reader = Reader::new(flags::<Toy>(flag), env);
            let secret = reader.secret("password");
            (secret, problems(reader))
        };
        assert_eq!(read(&[("password", "a b")], &empty), (Some("a b".into()), String::new()));
        assert_eq!(read(&[("password-file", &path)], &empty), (Some("hunter2".into()), String::new()));
        let lower = BTreeMap::from([("TERCET_PASSWORD", "lower")]);
        assert_eq!(read(&[("password-file", &path)], &lower).0, Some("hunter2".into()), "the flag is nearer");
        let (secret, text) = read(&[("password-file", &path), ("password", "x1y2")], &empty);
        assert!(secret.is_none() && text.contains("both set") && !text.contains("x1y2"), "{text}");
        assert!(read(&[("password-file", "/nonexistent/p")], &empty).1.contains("TERCET_PASSWORD_FILE"));
        assert!(read(&[("password", "")], &empty).1.contains("empty"));
    }

    #[test]
    fn compose_sets_only_what_exists() {
        let rows = frontend::FrontendRole::SETTINGS.iter().chain(worker::WorkerRole::SETTINGS);
        let mut known: Vec<String> = rows
            .flat_map(|row| [variable(row.key), variable(&format!("{}{FILE_SUFFIX}", row.key))])
            .collect();
        known.push("TERCET_HEALTHCHECK_URL".to_owned());
        let files = [include_str!("../../compose.yaml"), include_str!("../../compose.password.yaml")];
        let set: Vec<&str> = files
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(|line| line.trim().split_once(": ").map(|(name, _)| name))
            .filter(|name| name.starts_with("TERCET_"))
            .collect();
        assert!(set.len() > 20, "{set:?}");
        for name in set {
            assert!(known.iter().any(|k| k == name), "{name}");
        }
    }

    #[test]
    fn lists_refuse_repetitions_and_nonsense() {
        assert_eq!(list("a:1, b:2", host_port), Ok(vec!["a:1".to_owned(), "b:2".to_owned()]));
        for text in ["", "a:1,,b:2", "a:1,a:1", "a", "a:0", ":1", "http://a:1"] {
            assert!(list(text, host_port).is_err(), "{text}");
        }
    }
}
