//! `tercet`: one binary for every part of the store.
//!
//! | Command | What it does |
//! |---|---|
//! | `tercet` or `tercet up` | a whole cluster on this machine: workers, their PostgreSQLs, a frontend |
//! | `tercet node list\|stop\|kill\|start ID` | acts on a part of the cluster that `up` runs |
//! | `tercet status` | workers, ring, epoch and health of any cluster |
//! | `tercet frontend`, `tercet worker` | the two roles, for real deployments |
//! | `tercet healthcheck` | asks `/readyz`, for containers |
//! | `tercet completions SHELL` | completions |
//!
//! # What scripts may rely on
//!
//! - `tercet up` prints to standard output. Once clients can read and write it prints one line
//!   `ready in=SECONDS resp=IP:PORT rest=IP:PORT data-dir=DIR` (`data-dir` is last and takes the rest of the line), and
//!   runs until SIGINT or SIGTERM, then stops frontend, workers and databases in that order and exits with 0. With
//!   `--resp 127.0.0.1:0 --rest 127.0.0.1:0` it picks free ports. It exits with 1 if it could not start.
//! - However it ends, by SIGKILL too, its parts end with it (on Linux; elsewhere a PostgreSQL may be left behind, which
//!   the next start stops).
//! - `tercet node … ID` takes `w1`, `w2`, … (workers), `w1-db`, … (their PostgreSQLs) and `frontend`; `stop` and `kill`
//!   return once the part is gone, `start` once it runs. `node list --json` prints
//!   `[{"id","kind","pid","state","address","since","log","detail"}]`; states are `starting`, `running`, `stopping`,
//!   `stopped`, `killed` and `exited` (by itself).
//! - `tercet status --json` prints the frontend's `/admin/status` as it is. Exit code 0: ready; 1: not; 2: not reached.
//! - Logs are in `DATA/logs/ID.log`.
//! - Exit codes: 0 done, 1 failed or not ready, 2 wrong usage, settings, or nobody there.

mod cli;
mod drain;
mod frontend;
mod healthcheck;
mod http;
mod logging;
mod node;
mod progress;
mod role;
mod settings;
mod status;
mod units;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};
use crate::settings::{Problems, ProcessEnvironment};

/// Commands and rows are many small allocations that are freed by another task than made them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Failed, or not ready.
const FAILED: u8 = 1;
/// Wrong usage or settings (as clap has it), or nobody answers.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().command.unwrap_or_else(|| Command::Up(Box::new(cli::default_up()))) {
        Command::Up(args) => up::run(*args),
        Command::Node(args) => node::run(args),
        Command::Status(args) => status::run(args),
        Command::Drain(args) => drain::run(&args),
        Command::Frontend(args) => {
            role::frontend(args.flags, &ProcessEnvironment, args.exit_with_parent).map(done)
        }
        Command::Worker(args) => {
            role::worker(args.flags, &ProcessEnvironment, args.exit_with_parent).map(done)
        }
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tercet", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("tercet: {error:#}");
        ExitCode::from(if error.is::<Problems>() { UNUSABLE } else { FAILED })
    })
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
