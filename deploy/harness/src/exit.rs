//! How a program ends.

use std::process::ExitCode;

/// The exit code of what `program` did; an error goes to standard error and is the code `failed`.
pub fn code(program: &str, failed: u8, outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::from(failed)
    })
}
