//! `tercet healthcheck`: the image needs no curl.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::HealthcheckArgs;

/// 0 if the part says that it is ready.
pub(crate) fn run(args: &HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime
        .block_on(crate::http::get(&args.url, None, args.timeout))
        .with_context(|| format!("asking {}", args.url))?;
    if status == 200 {
        return Ok(ExitCode::SUCCESS);
    }
    // The body goes to the container's health log, which keeps a few kilobytes.
    eprintln!(
        "{} answered {status}: {}",
        args.url,
        String::from_utf8_lossy(&body[..body.len().min(1024)]).trim()
    );
    Ok(ExitCode::from(crate::FAILED))
}
