//! What is measured: the table of all rows.

mod ceiling;
mod compare;
mod curve;
mod dead;
mod growth;
mod many;
mod memory;
mod moving;
mod overload;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tercet_harness::progress::Progress;

use self::growth::Axis;
use self::moving::Change;
use crate::figure::{Figure, Ratio, Target};
use crate::load::open::Outcome;
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::sample::{Sample, Span};
use crate::systems::tercet::Tercet;
use crate::systems::{Kind, Place, System};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) says: &'static str,
    pub(crate) does: Does,
}

#[derive(Debug)]
pub(crate) enum Does {
    /// The same work on several systems, in turn.
    Compare { work: Work, measure: Measure, of: &'static [Kind], to: &'static [Rival] },
    /// SET before and after a worker dies.
    OneDead(Target),
    /// SET with many keys stored, and with few.
    ManyKeys(Target),
    /// SET and GET before and while replicas are given what they lack.
    Moving(Change, Target),
    /// Memory for connections that do nothing.
    Idle,
    /// Memory for clients that never read, later to soon.
    Deaf(Target),
    /// What a command costs.
    Growth(Axis),
    /// SET against the same batches in bare databases.
    Ceiling,
    /// What is done of far too much, to the peak.
    Overload(Target),
    /// Latency of SET against load, in an open loop; p99 to the median at half of the peak.
    HalfPeak(Target),
}

/// What a sample is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    PerSecond,
    /// Of values.
    BytesPerSecond,
    MedianLatency,
}

/// What Tercet is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rival {
    pub(crate) kind: Kind,
    /// Of the first of the systems that are compared; the others are shown for comparison.
    pub(crate) target: Option<Target>,
}

const fn rival(kind: Kind, target: Target) -> Rival {
    Rival { kind, target: Some(target) }
}

/// Shown, but nothing to reach: it keeps one copy.
const REDIS: Rival = Rival { kind: Kind::Redis, target: None };
const BOTH: &[Kind] = &[Kind::Tercet4, Kind::Tercet3];
const CLIENTS: usize = 50;
/// Of a Tercet that a row has for itself.
const WORKERS: u16 = 4;
const KIB: usize = 1 << 10;

use Command::{Get, Incr, Set};
use Measure::{BytesPerSecond, MedianLatency, PerSecond};
use Target::{AtLeast, AtMost};

/// In an order in which systems are started as late and ended as early as can be.
#[rustfmt::skip] // A table.
pub(crate) const ROWS: &[Row] = &[
    moving("add", "SET and GET while an added worker gets its share", Change::Add),
    moving("drain", "SET and GET while a worker is emptied", Change::Drain),
    moving("replace", "SET and GET while a dead worker's share is copied anew", Change::Kill),
    moving("return", "SET and GET while a worker that was away is given what it missed", Change::Return),
    Row { name: "dead", says: "SET after one of four workers has died", does: Does::OneDead(AtLeast(0.8)) },
    Row { name: "many", says: "SET with many keys stored", does: Does::ManyKeys(AtLeast(0.7)) },
    Row { name: "idle", says: "memory for idle connections", does: Does::Idle },
    Row { name: "deaf", says: "memory for clients that never read", does: Does::Deaf(AtMost(1.1)) },
    growth("growth-workers", "SET and GET, 50 clients, pipeline 16, with more and more workers", Axis::Workers),
    growth("growth-keys", "SET and GET, 50 clients, pipeline 16, with more and more keys", Axis::Keys),
    growth("growth-values", "SET and GET, 50 clients, with larger and larger values", Axis::Values),
    growth("growth-clients", "SET and GET, with more and more clients", Axis::Clients),
    compare("get-16", "GET, 50 clients, pipeline 16", Work::new(Get, CLIENTS, 16, VALUE_BYTES), PerSecond, &[rival(Kind::Postgres, AtLeast(8.0)), REDIS]),
    compare("get", "GET, 50 clients", Work::new(Get, CLIENTS, 1, VALUE_BYTES), PerSecond, &[rival(Kind::Postgres, AtLeast(1.3)), rival(Kind::Etcd, AtLeast(10.0)), REDIS]),
    compare("set", "SET, 50 clients", Work::new(Set, CLIENTS, 1, VALUE_BYTES), PerSecond, &[rival(Kind::Trio, AtLeast(2.0)), rival(Kind::Etcd, AtLeast(5.0)), REDIS]),
    compare("set-16", "SET, 50 clients, pipeline 16", Work::new(Set, CLIENTS, 16, VALUE_BYTES), PerSecond, &[rival(Kind::Trio, AtLeast(6.0)), REDIS]),
    compare("set-1", "SET, 1 client", Work::new(Set, 1, 1, VALUE_BYTES), MedianLatency, &[rival(Kind::Trio, AtMost(1.0))]),
    compare("incr", "INCR of one key, 50 clients", Work::new(Incr, CLIENTS, 1, VALUE_BYTES), PerSecond, &[rival(Kind::Trio, AtLeast(20.0))]),
    compare("1k", "SET of 1 KiB, 50 clients", Work::new(Set, CLIENTS, 1, KIB), BytesPerSecond, &[rival(Kind::Trio, AtLeast(1.0))]),
    compare("64k", "SET of 64 KiB, 50 clients", Work::new(Set, CLIENTS, 1, 64 * KIB), BytesPerSecond, &[rival(Kind::Trio, AtLeast(1.0))]),
    compare("1m", "SET of 1 MiB, 50 clients", Work::new(Set, CLIENTS, 1, 1024 * KIB), BytesPerSecond, &[rival(Kind::Trio, AtLeast(1.0))]),
    Row { name: "ceiling", says: "SET, 50 clients, pipeline 16", does: Does::Ceiling },
    Row { name: "half-peak", says: "SET at half of the peak, open loop", does: Does::HalfPeak(AtMost(5.0)) },
    Row { name: "overload", says: "SET at a multiple of the peak, open loop", does: Does::Overload(AtLeast(0.8)) },
];

const fn compare(
    name: &'static str,
    says: &'static str,
    work: Work,
    measure: Measure,
    to: &'static [Rival],
) -> Row {
    Row { name, says, does: Does::Compare { work, measure, of: BOTH, to } }
}

const fn moving(name: &'static str, says: &'static str, change: Change) -> Row {
    Row { name, says, does: Does::Moving(change, AtLeast(0.7)) }
}

const fn growth(name: &'static str, says: &'static str, axis: Axis) -> Row {
    Row { name, says, does: Does::Growth(axis) }
}

/// How much of everything.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    /// Of each measurement.
    #[serde(flatten)]
    pub(crate) span: Span,
    /// Stored before anything is measured; fewer if values are large.
    pub(crate) keys: u64,
    /// Stored where many are.
    pub(crate) many_keys: u64,
    /// Offered by the open loop, instead of half of the peak.
    pub(crate) rate: Option<f64>,
}

impl Row {
    /// Systems that it shares with other rows, in the order in which they take their turns.
    pub(crate) fn systems(&self) -> Vec<Kind> {
        match &self.does {
            Does::Compare { of, to, .. } => {
                of.iter().copied().chain(to.iter().map(|rival| rival.kind)).collect()
            }
            Does::HalfPeak(_) | Does::Overload(_) => vec![Kind::Tercet4],
            Does::Ceiling => vec![Kind::Tercet3],
            Does::OneDead(_)
            | Does::ManyKeys(_)
            | Does::Moving(..)
            | Does::Idle
            | Does::Deaf(_)
            | Does::Growth(_) => Vec::new(),
        }
    }

    /// About how long it takes, for the progress bar.
    pub(crate) fn estimate(&self, settings: &Settings) -> Duration {
        const START: Duration = Duration::from_secs(8);
        const STORED_PER_START: u64 = 200_000;
        let one = settings.span.warm_up + settings.span.lasting;
        let (starts, measurements) = match &self.does {
            Does::Compare { .. } => (1, self.systems().len() * settings.rounds),
            Does::OneDead(_) => (settings.rounds, 2 * settings.rounds),
            Does::ManyKeys(_) => {
                let storing = usize::try_from(settings.many_keys / STORED_PER_START).unwrap_or(usize::MAX);
                (storing.saturating_add(2), 2 * settings.rounds)
            }
            Does::Moving(..) => (2 * settings.rounds, 2 * settings.rounds),
            Does::HalfPeak(_) => (1, 2 * settings.rounds + curve::LOADS.len()),
            Does::Idle | Does::Deaf(_) => (2 * settings.rounds, 2 * settings.rounds),
            Does::Growth(axis) => (axis.clusters(settings), axis.measurements(settings) * settings.rounds),
            Does::Ceiling => (2, 3 * settings.rounds),
            // A peak, and for each flood what is before it, and itself.
            Does::Overload(_) => (1, (1 + 2 * overload::FLOODS.len()) * settings.rounds),
        };
        let times = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        START * times(starts) + one * times(measurements)
    }
}

/// What a row showed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) row: &'static str,
    pub(crate) says: &'static str,
    pub(crate) figures: Vec<Figure>,
    pub(crate) ratios: Vec<Ratio>,
    /// Everything that was measured, by figure.
    pub(crate) samples: BTreeMap<String, Vec<Sample>>,
    /// Throughput and latency against load.
    pub(crate) curve: Vec<Outcome>,
    /// Its figures are many of many kinds: they are shown with a column for each.
    #[serde(skip)]
    pub(crate) wide: bool,
    /// What is not installed.
    pub(crate) skipped: Vec<String>,
    /// What could not be done as it was to be done.
    pub(crate) failed: Vec<String>,
}

impl Report {
    fn sample(&mut self, name: &str, sample: Sample) {
        if sample.failures > 0 {
            let words = sample.failure.as_deref().unwrap_or_default();
            self.failed.push(format!("{name}: {} commands failed, for example: {words}", sample.failures));
        }
        self.samples.entry(name.to_owned()).or_default().push(sample);
    }

    /// A figure of all samples of that name.
    fn figure(&mut self, name: &str, unit: &'static str, of: impl Fn(&Sample) -> Option<f64>) -> Figure {
        let samples = self.samples.get(name).map(Vec::as_slice).unwrap_or_default();
        let figure = Figure::new(name, unit, samples.iter().filter_map(of).collect());
        self.figures.push(figure.clone());
        figure
    }

    /// Throughput and latency of two samples, and what the second keeps of the first's throughput.
    fn kept(&mut self, before: &str, during: &str, target: Target) {
        let per_second = |sample: &Sample| Some(sample.per_second);
        let p99 = |sample: &Sample| Some(sample.latency?.p99_us as f64 / 1e3);
        let whole = self.figure(before, "1/s", per_second);
        let left = self.figure(during, "1/s", per_second);
        self.ratio(&left, &whole, Some(target));
        self.figure(before, "ms (p99)", p99);
        self.figure(during, "ms (p99)", p99);
    }

    fn ratio(&mut self, of: &Figure, to: &Figure, target: Option<Target>) {
        match Ratio::of_pairs(of, to, target) {
            Some(ratio) => self.ratios.push(ratio),
            None => self.failed.push(format!("no ratio of {} to {}", of.name, to.name)),
        }
    }
}

/// Runs rows, and keeps what they share.
pub(crate) struct Bench<'a> {
    pub(crate) place: &'a Place,
    pub(crate) settings: Settings,
    pub(crate) progress: &'a Progress,
    pub(crate) running: BTreeMap<Kind, System>,
    /// What this machine does not have.
    pub(crate) missing: Vec<Kind>,
}

impl Bench<'_> {
    /// Whatever goes wrong is in the report.
    pub(crate) async fn run(&mut self, row: &Row) -> Report {
        let mut report = Report { row: row.name, says: row.says, ..Report::default() };
        let outcome = match &row.does {
            Does::Compare { work, measure, of, to } => {
                self.compare(*work, *measure, of, to, &mut report).await
            }
            Does::ManyKeys(target) => self.many_keys(*target, &mut report).await,
            Does::OneDead(target) => self.one_dead(*target, &mut report).await,
            Does::Moving(change, target) => self.moving(*change, *target, &mut report).await,
            Does::HalfPeak(target) => self.half_peak(*target, &mut report).await,
            Does::Idle => self.idle(&mut report).await,
            Does::Deaf(target) => self.deaf(*target, &mut report).await,
            Does::Growth(axis) => self.growth(*axis, &mut report).await,
            Does::Ceiling => self.ceiling(&mut report).await,
            Does::Overload(target) => self.overload(*target, &mut report).await,
        };
        if let Err(error) = outcome {
            report.failed.push(format!("{error:#}"));
        }
        report
    }

    /// Has a system run; `false`: it is not installed.
    async fn have(&mut self, kind: Kind, report: &mut Report) -> anyhow::Result<bool> {
        if !self.running.contains_key(&kind) && !self.missing.contains(&kind) {
            self.progress.say(&format!("starting {}", kind.name()));
            match System::start(kind, self.place).await? {
                Some(system) => drop(self.running.insert(kind, system)),
                None => self.missing.push(kind),
            }
        }
        let there = self.running.contains_key(&kind);
        if !there {
            report.skipped.push(format!("{} is not installed", kind.name()));
        }
        Ok(there)
    }

    /// A Tercet that rows share, with all keys of the work stored.
    async fn tercet(&mut self, kind: Kind, work: Work, report: &mut Report) -> anyhow::Result<&Tercet> {
        self.have(kind, report).await?;
        let system = self.running.get_mut(&kind).context("it was just started")?;
        system.check_durable().await?;
        system.fill(work).await?;
        let System::Tercet(tercet) = system else { bail!("this row is about Tercet") };
        Ok(tercet)
    }

    /// Ends what none of the rows to come needs.
    pub(crate) async fn end_all_but(&mut self, needed: &[Kind]) -> anyhow::Result<()> {
        let over: Vec<Kind> = self.running.keys().copied().filter(|kind| !needed.contains(kind)).collect();
        for kind in over {
            if let Some(system) = self.running.remove(&kind) {
                system.end().await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own() {
        let names: std::collections::HashSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn a_failed_command_fails_its_row_and_is_told() {
        let mut report = Report::default();
        report.sample("x", Sample { per_second: 7.0, ..Sample::default() });
        assert!(report.failed.is_empty());
        let failure = Some("NOREPLICAS".to_owned());
        report.sample("x", Sample { per_second: 9.0, failures: 2, failure, ..Sample::default() });
        assert_eq!(report.failed, ["x: 2 commands failed, for example: NOREPLICAS"]);
        let figure = report.figure("x", "1/s", |sample| Some(sample.per_second));
        assert_eq!(figure.values, [7.0, 9.0]);
    }
}
