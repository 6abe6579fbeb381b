//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::faults::{KINDS, Kind};

#[derive(Debug, Parser)]
#[command(
    name = "tercet-faults",
    version,
    about = "Breaks a local Tercet cluster under load and checks that nothing is lost",
    long_about = "Starts a cluster of its own with `tercet up` for each kind of fault, has many clients work on hot and \
                  cold keys, breaks parts and heals them, and then checks: every key's history is linearizable, \
                  counters hold what was acknowledged, nothing acknowledged is lost, and all copies are equal row by \
                  row in SQL.\n\nExit code 0: nothing was violated; 1: something was; 2: it could not be tried.",
    after_long_help = "\
Examples:
  cargo run --release -p tercet-faults -- --minutes-per-fault 5
  cargo run --release -p tercet-faults -- --only kill-worker,pair --seed 7 --json faults.json
  cargo run --release -p tercet-faults -- --list"
)]
pub(crate) struct Args {
    /// How long each kind of fault is tried, over and over
    #[arg(long, value_name = "MINUTES", default_value = "5", value_parser = minutes)]
    pub(crate) minutes_per_fault: Duration,
    /// Only these kinds of fault [default: all]
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',', hide_possible_values = true,
          value_parser = PossibleValuesParser::new(KINDS.iter().map(|kind| kind.name)))]
    pub(crate) only: Vec<String>,
    /// Decides what clients send, and which fault comes when and where [default: a new one each time]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) clients: u16,
    /// Commands per second, of all clients together, at most
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(3..=16))]
    pub(crate) workers: u16,
    /// Write the results there, too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where histories and logs go if something is violated [default: tercet-faults in the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) evidence: Option<PathBuf>,
    /// The program under test [default: the one of this workspace, built first if cargo runs this]
    #[arg(long, value_name = "FILE", env = "TERCET_BIN")]
    pub(crate) tercet: Option<PathBuf>,
    /// Show the kinds of fault
    #[arg(long)]
    pub(crate) list: bool,
}

impl Args {
    /// The kinds that are wanted, in the order of the table.
    pub(crate) fn kinds(&self) -> Vec<&'static Kind> {
        let wanted = |kind: &&Kind| self.only.is_empty() || self.only.iter().any(|name| name == kind.name);
        KINDS.iter().filter(wanted).collect()
    }
}

const MINUTES_MAX: f64 = 24.0 * 60.0;

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match minutes > 0.0 && minutes <= MINUTES_MAX {
        true => Ok(Duration::from_secs_f64(minutes * 60.0)),
        false => Err(format!("more than 0 and at most {MINUTES_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("tercet-faults").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn kinds_are_chosen_by_name() {
        assert_eq!(parse("").unwrap().kinds().len(), KINDS.len());
        let args = parse("--only pair,kill-worker --minutes-per-fault 0.5 --seed 7").unwrap();
        let names: Vec<_> = args.kinds().iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["kill-worker", "pair"]);
        assert_eq!(args.minutes_per_fault, Duration::from_secs(30));
        assert_eq!(args.seed, Some(7));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "--only flood",
            "--minutes-per-fault 0",
            "--minutes-per-fault NaN",
            "--minutes-per-fault 1e9",
            "--clients 0",
            "--workers 2",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
