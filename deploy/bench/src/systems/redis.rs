//! One redis-server that has every command on the disk before it answers.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tercet_harness::ports::free_port;
use tokio::process::Child;

use super::Place;
use super::command::{command, end};
use super::durable::refusal;

const PROGRAM: &str = "redis-server";
const START_DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// What it must be set to.
const DURABLE: &[(&str, &str)] =
    &[("appendonly", "yes"), ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")];

#[derive(Debug)]
pub(crate) struct Redis {
    at: SocketAddr,
    /// Sizes of values of which all keys are stored.
    pub(super) filled: Vec<usize>,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Redis {
    /// `None`: it is not installed.
    pub(super) async fn start(place: &Place) -> anyhow::Result<Option<Self>> {
        let dir = tempfile::Builder::new().prefix("tercet-bench-redis-").tempdir_in(&place.dir)?;
        let at = free_port()?;
        let mut redis = command(PROGRAM);
        redis.args(["--bind", &at.ip().to_string(), "--port", &at.port().to_string(), "--save", ""]);
        redis.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(dir.path());
        redis.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = match redis.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(PROGRAM),
        };
        let begun = Instant::now();
        while let Err(error) = check(at).await {
            ensure!(child.try_wait()?.is_none(), "{PROGRAM} ended");
            if begun.elapsed() > START_DEADLINE {
                return Err(error.context(format!("{PROGRAM} does not start")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Some(Self { at, filled: Vec::new(), child, _dir: dir }))
    }

    pub(super) fn resp(&self) -> SocketAddr {
        self.at
    }

    pub(super) async fn check_durable(&self) -> anyhow::Result<()> {
        check(self.at).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        end(&mut self.child, Signal::SIGKILL);
    }
}

async fn check(at: SocketAddr) -> anyhow::Result<()> {
    let client = redis::Client::open(format!("redis://{at}"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    for (name, wanted) in DURABLE {
        let pair: Vec<String> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut connection).await?;
        let value = pair.get(1).map_or("unknown", String::as_str);
        ensure!(value == *wanted, refusal("Redis", &format!("{name} is {value}")));
    }
    Ok(())
}
