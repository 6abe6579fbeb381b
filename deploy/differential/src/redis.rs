//! A private redis-server: on a socket file, in memory, gone with its handle.

use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::peer::Peer;

pub const PROGRAM: &str = "redis-server";

pub struct Redis {
    child: Child,
    directory: TempDir,
}

impl Redis {
    /// `None`: it is not installed.
    pub fn start(value_bytes_max: usize) -> anyhow::Result<Option<Self>> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(PROGRAM);
        // No port, no files, no second database: as Tercet has it.
        command.args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no"]);
        command.args(["--databases", "1", "--proto-max-bulk-len", &value_bytes_max.to_string()]);
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(PROGRAM),
        };
        let mut redis = Self { child, directory };
        let output = redis.child.stdout.take().context("its output is piped")?;
        let mut lines = BufReader::new(output).lines();
        let mut log = String::new();
        loop {
            let Some(line) = lines.next().transpose()? else { bail!("{PROGRAM} ended:\n{log}") };
            if line.to_ascii_lowercase().contains("ready to accept connections") {
                break;
            }
            log = log + &line + "\n";
        }
        // A full pipe would stop it.
        std::thread::spawn(move || lines.take_while(Result::is_ok).for_each(drop));
        Ok(Some(redis))
    }

    pub fn connect(&self) -> std::io::Result<Peer> {
        Peer::unix(&self.directory.path().join("socket"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
