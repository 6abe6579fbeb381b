//! What every role can be told about its own process.

use super::{Reader, Setting, count};

pub(crate) const SETTINGS: &[Setting] = &[
    Setting::new(
        "threads",
        "N",
        "one, or two where there are more than two cores",
        "Threads that run the role",
    ),
    Setting::new(
        "log",
        "FILTER",
        "info",
        "What is logged: a level, or levels by module, such as `info,tercet_worker=debug`",
    ),
    Setting::new("log-format", "FORMAT", "text", "`text` for people, `json` for collectors"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) threads: usize,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
}

impl Process {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut process =
            Self { threads: default_threads(), log: "info".to_owned(), log_format: LogFormat::Text };
        reader.apply("threads", &mut process.threads, |text| {
            count(text).and_then(|n| if n <= 1024 { Ok(n) } else { Err("1 to 1024".to_owned()) })
        });
        reader.apply("log", &mut process.log, |text| match text.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err("a level (error, warn, info, debug, trace) or levels by module".to_owned()),
        });
        reader.apply("log-format", &mut process.log_format, |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("text or json".to_owned()),
        });
        process
    }
}

/// On two cores one thread in each process was measured faster than two: fewer wake-ups beat parallelism when the
/// parts of a cluster share the cores.
fn default_threads() -> usize {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        0..=2 => 1,
        _ => 2,
    }
}
