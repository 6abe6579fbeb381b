//! Compares Tercet with the Redis that is installed: see the library.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use tercet_differential::{Options, run};

#[derive(Debug, Parser)]
#[command(
    about = "Sends the same random commands to a private redis-server and to Tercet; their replies must be equal",
    after_help = "The exit status is 0 if nothing differed but what differs on purpose, 1 otherwise."
)]
struct Arguments {
    /// Commands to compare
    #[arg(long, default_value_t = 100_000)]
    commands: u64,
    /// Where the dice start; the same seed draws the same commands. Random if not given
    #[arg(long)]
    seed: Option<u64>,
    /// A running Tercet, without keys and without a password, instead of one over an engine in memory
    #[arg(long, value_name = "IP:PORT")]
    tercet: Option<SocketAddr>,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { commands, seed, tercet } = Arguments::parse();
    let seed = seed.unwrap_or_else(rand::random);
    println!("seed                 {seed}");
    let report = run(&Options { commands, seed, tercet })?;
    let report = report.ok_or_else(|| anyhow::anyhow!("redis-server is not installed"))?;
    print!("{report}");
    Ok(if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
