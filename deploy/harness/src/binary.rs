//! The `tercet` program: where it is, and one call of it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

/// A part may take this long to start after a crash; everything else is faster.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub struct Binary(PathBuf);

impl Binary {
    /// The named program; else the one of this workspace, which is built if it was cargo that started us.
    pub async fn locate(explicit: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(path) = explicit {
            let path = path.canonicalize().with_context(|| format!("--tercet {}", path.display()))?;
            return Ok(Self(path));
        }
        if let Some(cargo) = std::env::var_os("CARGO") {
            let mut build = Command::new(cargo);
            build.args(["build", "--package", "tercet", "--bin", "tercet"]);
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            let status = build.status().await.context("running cargo")?;
            anyhow::ensure!(status.success(), "building tercet failed");
        }
        let own = std::env::current_exe().context("finding this program")?;
        let beside = own.with_file_name("tercet");
        anyhow::ensure!(
            beside.exists(),
            "{} does not exist: build it with `cargo build --release`, or name it with --tercet",
            beside.display()
        );
        Ok(Self(beside))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// With these arguments, and none of the settings of whoever runs the tests.
    pub fn command<A: AsRef<std::ffi::OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            // The one setting that says where things are on this machine stays.
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("TERCET_") && name != "TERCET_POSTGRES_BIN" {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs it to its end, whatever its exit status.
    pub async fn output(&self, args: &[&str]) -> anyhow::Result<Output> {
        let call = || format!("tercet {}", args.join(" "));
        let output = tokio::time::timeout(CALL_DEADLINE, self.command(args).output()).await;
        output.with_context(|| format!("{} took too long", call()))?.with_context(call)
    }

    /// Runs it to its end, which must be a success.
    pub async fn call(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.output(args).await?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("tercet {}: {}", args.join(" "), error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether it knows a command; older versions do not know all.
    pub async fn knows(&self, command: &[&str]) -> bool {
        let args: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        self.output(&args).await.is_ok_and(|output| output.status.success())
    }
}
