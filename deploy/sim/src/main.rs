//! Runs many simulated schedules, or shows one.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tercet_common::mutants::{self, Mutant};
use tercet_sim::{Campaign, Report, Totals, Trace, run_traced};

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// After so many violations there is something to look at.
const VIOLATIONS_MAX: usize = 10;

/// Runs seeded schedules of the real coordinator and replica through a simulated network, and judges every history.
#[derive(Parser)]
#[command(name = "tercet-sim", version)]
struct Arguments {
    /// How many schedules
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// End after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Threads; all cores unless told
    #[arg(long)]
    threads: Option<usize>,
    /// Break a rule: it should be noticed. `all`: each in turn, until it is noticed
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Name the rules that can be broken
    #[arg(long)]
    list_mutants: bool,
    /// Show everything that happens under this seed
    #[arg(long, value_name = "SEED")]
    trace: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list_mutants {
        return list_mutants();
    }
    let mutant = match arguments.mutant.as_deref() {
        None | Some("all") => None,
        Some(name) => match Mutant::ALL.iter().find(|mutant| mutant.name() == name) {
            Some(mutant) => Some(*mutant),
            None => return unknown(name),
        },
    };
    if let Some(seed) = arguments.trace {
        mutants::switch(mutant);
        return show(seed);
    }
    let threads = arguments.threads.or_else(|| Some(std::thread::available_parallelism().ok()?.get()));
    let campaign = Campaign {
        from: arguments.from,
        seeds: arguments.seeds,
        time: arguments.seconds.map(Duration::from_secs),
        threads: threads.unwrap_or(1),
        violations_max: VIOLATIONS_MAX,
    };
    if arguments.mutant.as_deref() == Some("all") {
        return kill_all(campaign);
    }
    conclude(&run(campaign, mutant, true))
}

/// Runs a campaign with a rule broken, or none, showing progress and, if wanted, each violation as it is found.
fn run(campaign: Campaign, mutant: Option<Mutant>, show_violations: bool) -> Totals {
    let mut progress = Progress::new(campaign.seeds);
    let mut shown = 0;
    let tell = |totals: &Totals| {
        if show_violations {
            totals.violations.iter().skip(shown).for_each(|report| progress.tell_violation(report));
            shown = totals.violations.len();
        }
        progress.tell(totals);
    };
    let totals = campaign.run(|| mutants::switch(mutant), tell);
    progress.end();
    totals
}

/// Breaks one rule after the other and says when it is noticed.
#[expect(clippy::print_stdout, reason = "the output of a command")]
fn kill_all(campaign: Campaign) -> ExitCode {
    // What they do makes some of them panic; that is told as what it is.
    std::panic::set_hook(Box::new(|_| ()));
    let mut survivors = 0;
    println!("{:<28} {:>10} {:>12}  first violation", "mutant", "schedules", "seed");
    for mutant in Mutant::ALL {
        let totals = run(Campaign { violations_max: 1, ..campaign }, Some(*mutant), false);
        let first = totals.violations.first();
        survivors += u32::from(first.is_none());
        let seed = first.map_or_else(|| "survives".to_owned(), |report| report.seed.to_string());
        let what = first.and_then(|report| report.violation.as_deref()).and_then(|what| what.lines().next());
        let what: String = what.unwrap_or_default().chars().take(90).collect();
        println!("{:<28} {:>10} {seed:>12}  {what}", mutant.name(), totals.schedules);
    }
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn list_mutants() -> ExitCode {
    for mutant in Mutant::ALL {
        println!("{}", mutant.name());
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the output of a command")]
fn unknown(name: &str) -> ExitCode {
    eprintln!("there is no mutant `{name}`; --list-mutants names them");
    ExitCode::FAILURE
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn show(seed: u64) -> ExitCode {
    let (report, _) = run_traced(seed, Trace::Print);
    println!("{report:?}");
    if report.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn conclude(totals: &Totals) -> ExitCode {
    println!("{}", line(totals));
    if totals.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(totals: &Totals) -> String {
    format!(
        "{} schedules in {:.1} s ({:.0} per second): {} events, {} operations answered, {} uncertain, {} violations",
        totals.schedules,
        totals.took.as_secs_f64(),
        totals.per_second(),
        totals.events,
        totals.answered,
        totals.uncertain,
        totals.violations.len(),
    )
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    fn new(seeds: u64) -> Self {
        let style =
            ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {per_sec} {eta} left {msg}");
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(seeds));
        let bar = bar.map(|bar| style.map(|style| bar.clone().with_style(style)).unwrap_or(bar));
        Self { bar, last_line: Instant::now() }
    }

    #[expect(clippy::print_stdout, reason = "the output of a command")]
    fn tell(&mut self, totals: &Totals) {
        if let Some(bar) = &self.bar {
            bar.set_position(totals.schedules);
            bar.set_message(format!("{} violations", totals.violations.len()));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            println!("{}", line(totals));
        }
    }

    #[expect(clippy::print_stdout, reason = "the output of a command")]
    fn tell_violation(&self, report: &Report) {
        let violation = report.violation.as_deref().unwrap_or_default();
        let print = || println!("seed {}: {violation}", report.seed);
        self.bar.as_ref().map_or_else(print, |bar| bar.suspend(print));
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
