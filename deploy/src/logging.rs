//! Logs go to standard error: coloured text on a terminal, plain text in a file, JSON for collectors.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::settings::process::{LogFormat, Process};

/// Installs the process's subscriber. The filter was checked when it was read.
pub(crate) fn install(process: &Process) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&process.log)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match process.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("installing the logger: {error}"))
}
