//! How the cost of a command changes with the number of workers, of keys and of clients, and with the size of values.
//!
//! A rate says what a machine can do; what a command costs says why, and is what carries over to other machines: the
//! processor time of the frontend, of all workers together and of all their PostgreSQL, for one command.

use std::time::Duration;

use super::{Bench, CLIENTS, KIB, Report, Settings, WORKERS};
use crate::figure::Figure;
use crate::load;
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::machine::allow_files;
use crate::sample::Sample;
use crate::systems::tercet::Tercet;
use crate::systems::usage::Cpu;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Workers,
    Keys,
    Values,
    Clients,
}

const PIPELINE: usize = 16;
const WORKER_NUMBERS: &[u16] = &[3, 4, 8];
const KEY_NUMBERS: &[u64] = &[10_000, 100_000, 1_000_000];
const VALUE_SIZES: &[usize] = &[VALUE_BYTES, KIB, 16 * KIB, 64 * KIB, 1024 * KIB];
const CLIENT_NUMBERS: &[usize] = &[1, 10, CLIENTS, 200, 1000];
const COMMANDS: &[(Command, &str)] = &[(Command::Set, "SET"), (Command::Get, "GET")];

const MIB: f64 = (1 << 20) as f64;

/// One place on the axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    name: String,
    workers: u16,
    work: Work,
}

impl Axis {
    pub(super) fn points(self, settings: &Settings) -> Vec<Point> {
        let point = |name: String, workers: u16, work: Work| Point { name, workers, work };
        let work = |clients, pipeline, value_bytes| {
            Work::new(Command::Set, clients, pipeline, value_bytes).among(settings.keys)
        };
        let busy = work(CLIENTS, PIPELINE, VALUE_BYTES);
        match self {
            Self::Workers => {
                let all = WORKER_NUMBERS.iter();
                all.map(|workers| point(format!("{workers} workers"), *workers, busy)).collect()
            }
            Self::Keys => {
                let most = KEY_NUMBERS[KEY_NUMBERS.len() - 1];
                let more = Some(settings.keys).filter(|keys| *keys > most);
                let all = KEY_NUMBERS.iter().copied().chain(more);
                all.map(|keys| point(format!("{keys} keys"), WORKERS, Work { keys, ..busy })).collect()
            }
            Self::Values => {
                let all = VALUE_SIZES.iter();
                all.map(|bytes| point(format!("{bytes} bytes"), WORKERS, work(CLIENTS, 1, *bytes))).collect()
            }
            Self::Clients => {
                let all = CLIENT_NUMBERS.iter();
                all.map(|clients| {
                    point(format!("{clients} clients"), WORKERS, work(*clients, 1, VALUE_BYTES))
                })
                .collect()
            }
        }
    }

    /// Whether every point has a cluster of its own.
    fn is_of_clusters(self) -> bool {
        matches!(self, Self::Workers | Self::Keys)
    }

    /// Clusters that it starts.
    pub(super) fn clusters(self, settings: &Settings) -> usize {
        if self.is_of_clusters() { self.points(settings).len() } else { 1 }
    }

    /// Of one round.
    pub(super) fn measurements(self, settings: &Settings) -> usize {
        self.points(settings).len() * COMMANDS.len()
    }
}

/// What one point has shown with one command, a value per round.
#[derive(Default)]
struct Costs {
    per_second: Vec<f64>,
    median_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    /// Microseconds of processor time for a command: frontend, workers, databases.
    cpu_us: [Vec<f64>; 3],
    /// MiB in memory at the end: frontend, largest worker.
    memory: [Vec<f64>; 2],
}

impl Bench<'_> {
    pub(super) async fn growth(&mut self, axis: Axis, report: &mut Report) -> anyhow::Result<()> {
        let points = axis.points(&self.settings);
        allow_files(points.iter().map(|point| point.work.clients).max().unwrap_or_default())?;
        let mut clusters = Vec::new();
        for point in points.iter().take(axis.clusters(&self.settings)) {
            let tercet = Tercet::start(self.place, point.workers).await?;
            tercet.check_durable().await?;
            clusters.push(tercet);
        }
        // The same cluster for all points, or the one of each.
        let of = |n: usize| if axis.is_of_clusters() { n } else { 0 };
        for (n, point) in points.iter().enumerate() {
            self.progress.say(&format!("{}: storing keys: {}", report.row, point.name));
            load::fill(clusters[of(n)].resp(), point.work).await?;
        }
        let mut seen: Vec<Vec<Costs>> =
            points.iter().map(|_| COMMANDS.iter().map(|_| Costs::default()).collect()).collect();
        for round in 1..=self.settings.rounds {
            for (n, (point, costs)) in points.iter().zip(&mut seen).enumerate() {
                for ((command, command_name), costs) in COMMANDS.iter().zip(costs) {
                    let work = Work { command: *command, ..point.work };
                    let name = format!("{}, {command_name}", point.name);
                    let sample = self.cost(&clusters[of(n)], work, costs).await?;
                    self.progress.say(&format!("{} {round}: {name}: {:.0}/s", report.row, sample.per_second));
                    report.sample(&name, sample);
                }
            }
        }
        for (command, (_, command_name)) in COMMANDS.iter().enumerate() {
            for (point, costs) in points.iter().zip(&mut seen) {
                let costs = std::mem::take(&mut costs[command]);
                report.figures.extend(costs.figures(&format!("{}, {command_name}", point.name)));
            }
        }
        report.wide = true;
        for mut tercet in clusters {
            tercet.check_durable().await?;
            tercet.end().await?;
        }
        Ok(())
    }

    /// One measurement, and the processor time that it took.
    async fn cost(&self, tercet: &Tercet, work: Work, costs: &mut Costs) -> anyhow::Result<Sample> {
        let pids = tercet.pids().await?;
        let (sample, [before, after]) =
            load::watch(tercet.resp(), work, self.settings.span, async || pids.cpu()).await?;
        let memory = [pids.frontend_memory()?, pids.worker_memory()?];
        costs.add(&sample, after.since(before), memory);
        Ok(sample)
    }
}

impl Costs {
    fn add(&mut self, sample: &Sample, used: Cpu, memory: [u64; 2]) {
        let latency = sample.latency.unwrap_or_default();
        self.per_second.push(sample.per_second);
        self.median_ms.push(latency.p50_us as f64 / 1e3);
        self.p99_ms.push(latency.p99_us as f64 / 1e3);
        let commands = sample.per_second * sample.seconds;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / commands;
        for (values, time) in self.cpu_us.iter_mut().zip([used.frontend, used.workers, used.databases]) {
            values.push(each(time));
        }
        for (values, bytes) in self.memory.iter_mut().zip(memory) {
            values.push(bytes as f64 / MIB);
        }
    }

    fn figures(self, name: &str) -> Vec<Figure> {
        let [frontend, workers, databases] = self.cpu_us;
        let [frontend_memory, worker_memory] = self.memory;
        let columns = [
            ("1/s", self.per_second),
            ("ms (median)", self.median_ms),
            ("ms (p99)", self.p99_ms),
            ("µs frontend", frontend),
            ("µs workers", workers),
            ("µs PostgreSQL", databases),
            ("MiB frontend", frontend_memory),
            ("MiB a worker", worker_memory),
        ];
        columns.into_iter().map(|(unit, values)| Figure::new(name, unit, values)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Latency, Span};

    fn settings(keys: u64) -> Settings {
        let span = Span { warm_up: Duration::ZERO, lasting: Duration::from_secs(1) };
        Settings { rounds: 1, span, keys, many_keys: 1, rate: None }
    }

    #[test]
    fn more_keys_than_the_usual_are_one_more_point() {
        let numbers = |keys| {
            let points = Axis::Keys.points(&settings(keys));
            points.iter().map(|point| point.work.keys).collect::<Vec<_>>()
        };
        assert_eq!(numbers(100_000), KEY_NUMBERS);
        assert_eq!(numbers(10_000_000), [KEY_NUMBERS, &[10_000_000]].concat());
    }

    #[test]
    fn only_one_thing_grows() {
        for axis in [Axis::Workers, Axis::Values, Axis::Clients] {
            let points = axis.points(&settings(1000));
            let same = |of: fn(&Point) -> u64| points.iter().all(|point| of(point) == of(&points[0]));
            let grows = [
                !same(|point| point.workers.into()),
                !same(|point| point.work.value_bytes as u64),
                !same(|point| point.work.clients as u64),
            ];
            assert_eq!(grows.iter().filter(|grows| **grows).count(), 1, "{axis:?}");
        }
    }

    #[test]
    fn costs_are_for_one_command() {
        let latency = Some(Latency { p50_us: 1500, p99_us: 9000, ..Latency::default() });
        let sample = Sample { seconds: 2.0, per_second: 500.0, latency, ..Sample::default() };
        let cpu = |frontend, workers, databases| {
            let ms = Duration::from_millis;
            Cpu { frontend: ms(frontend), workers: ms(workers), databases: ms(databases) }
        };
        let mut costs = Costs::default();
        costs.add(&sample, cpu(20, 30, 60), [3 << 20, 5 << 20]);
        let figures = costs.figures("x");
        let values: Vec<f64> = figures.iter().flat_map(|figure| figure.values.iter().copied()).collect();
        assert_eq!(values, [500.0, 1.5, 9.0, 20.0, 30.0, 60.0, 3.0, 5.0]);
    }
}
