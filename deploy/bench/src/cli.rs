//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::load::work::KEYS;
use crate::rows::{ROWS, Row, Settings};
use crate::sample::Span;

#[derive(Debug, Parser)]
#[command(
    name = "tercet-bench",
    version,
    about = "Measures Tercet against the databases that people would use instead",
    long_about = "Starts Tercet and its rivals on this machine, has them do the same work in turn, again and again, and \
                  prints medians and ratios. All servers must be durable, before and after: where one is not, the run is \
                  refused.\n\nExit code 0: everything was measured as asked, whether or not targets were reached; 1: \
                  something could not be.",
    after_long_help = "\
Examples:
  cargo run --release -p tercet-bench
  cargo run --release -p tercet-bench -- --only set,get --rounds 7 --json bench.json
  cargo run --release -p tercet-bench -- --only half-peak --svg latency.svg
  cargo run --release -p tercet-bench -- --only growth-workers,growth-values,growth-clients
  cargo run --release -p tercet-bench -- --only growth-keys --keys 10000000
  cargo run --release -p tercet-bench -- --list"
)]
pub(crate) struct Args {
    /// Only these rows [default: all]
    #[arg(long, value_name = "ROW,…", value_delimiter = ',', hide_possible_values = true,
          value_parser = PossibleValuesParser::new(ROWS.iter().map(|row| row.name)))]
    pub(crate) only: Vec<String>,
    /// How often each system takes its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// How long each measurement lasts; it is preceded by a warm-up of a quarter of that
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Keys that are stored and worked on; fewer if their values are large. Beyond a million, growth-keys tries them too
    #[arg(long, value_name = "N", default_value_t = KEYS, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Keys that are stored in the row `many`; ten million take some 6 GB of disk
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) many_keys: u64,
    /// Commands per second that the open loop offers in each round [default: half of the peak]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Write the results there, too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw throughput and latency against load there; needs the row half-peak
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Where servers keep their data, which must be a disk [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The program under test [default: the one of this workspace, built first if cargo runs this]
    #[arg(long, value_name = "FILE", env = "TERCET_BIN")]
    pub(crate) tercet: Option<PathBuf>,
    /// Directory with PostgreSQL's programs [default: the newest of /usr/lib/postgresql, else the one of pg_config]
    #[arg(long, value_name = "DIR", env = "TERCET_POSTGRES_BIN")]
    pub(crate) postgres_bin: Option<PathBuf>,
    /// Show the rows
    #[arg(long)]
    pub(crate) list: bool,
}

impl Args {
    /// The rows that are wanted, in the order of the table.
    pub(crate) fn rows(&self) -> Vec<&'static Row> {
        let wanted = |row: &&Row| self.only.is_empty() || self.only.iter().any(|name| name == row.name);
        ROWS.iter().filter(wanted).collect()
    }

    pub(crate) fn settings(&self) -> Settings {
        let lasting = Duration::from_secs(self.seconds.into());
        // pgbench knows whole seconds only.
        let warm_up = Duration::from_secs(u64::from(self.seconds).div_ceil(4));
        Settings {
            rounds: self.rounds.into(),
            span: Span { warm_up, lasting },
            keys: self.keys,
            many_keys: self.many_keys,
            rate: self.rate.map(f64::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("tercet-bench").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn rows_are_chosen_by_name() {
        assert_eq!(parse("").unwrap().rows().len(), ROWS.len());
        let args = parse("--only set,add --seconds 2 --rounds 3 --rate 500").unwrap();
        let names: Vec<_> = args.rows().iter().map(|row| row.name).collect();
        assert_eq!(names, ["add", "set"]);
        let settings = args.settings();
        let span = Span { warm_up: Duration::from_secs(1), lasting: Duration::from_secs(2) };
        assert_eq!(settings.span, span);
        assert_eq!((settings.rounds, settings.rate), (3, Some(500.0)));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["--only flood", "--seconds 0", "--rounds 0", "--keys 0", "--rate 0", "--rate x"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
