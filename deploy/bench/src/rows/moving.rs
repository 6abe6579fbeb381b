//! What clients keep of their throughput while replicas are given what they lack, and how fast that goes.
//!
//! Each round has a cluster of its own: keys are stored, a load of SET and GET finds its pace, and then the ring is
//! changed under it, or a worker comes back that was away for less than it takes to be believed dead. What counts is the
//! time from the begin of the change to its end, as the frontend reports it, when every partition has all its replicas
//! again; or from the worker's return until it has all that it missed.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::{Bench, CLIENTS, Report, WORKERS};
use crate::figure::{Figure, Target};
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::load::{self, Load};
use crate::sample::Sample;
use crate::systems::status::{Metrics, Moved, Status};
use crate::systems::tercet::Tercet;

/// From the order until the ring begins to change: a PostgreSQL is made, or a death is believed.
const BEGIN_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(1800);
/// Without clients.
const DELTA_DEADLINE: Duration = Duration::from_secs(300);
const STEADY: &str = "steady";
const MOVING: &str = "while data move";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Change {
    Add,
    Drain,
    Kill,
    /// Of one that was not away for long.
    Return,
}

/// Long enough to miss much, too short to be believed dead.
const AWAY: Duration = Duration::from_secs(3);

/// The worker that comes, with four there already, and one that goes.
const COMES: &str = "w5";
const GOES: &str = "w4";

impl Change {
    /// Before there are any keys.
    async fn settle(self, tercet: &Tercet) -> anyhow::Result<()> {
        if self == Self::Return {
            // A frontend that has just started does not know what workers have missed, and compares all they have.
            let settled =
                |metrics: &Metrics| metrics.delta_syncs() >= f64::from(WORKERS) && metrics.waiting() == 0.0;
            tercet.wait_for_metrics(END_DEADLINE, "no worker has missed anything", settled).await?;
        }
        Ok(())
    }

    /// What comes before the change, and is not measured.
    async fn prepare(self, tercet: &Tercet) -> anyhow::Result<()> {
        if self == Self::Return {
            tercet.tercet(&["node", "kill", GOES]).await?;
            tokio::time::sleep(AWAY).await;
        }
        Ok(())
    }

    async fn order(self, tercet: &Tercet) -> anyhow::Result<()> {
        let args: &[&str] = match self {
            Self::Add => &["node", "add"],
            Self::Drain => &["drain", GOES, "--no-wait"],
            Self::Kill => &["node", "kill", GOES],
            Self::Return => &["node", "start", GOES],
        };
        tercet.tercet(args).await.map(drop)
    }

    async fn begins(self, tercet: &Tercet) -> anyhow::Result<()> {
        if self == Self::Return {
            let is_back = |metrics: &Metrics| metrics.is_connected(GOES);
            return tercet.wait_for_metrics(BEGIN_DEADLINE, "the worker is back", is_back).await;
        }
        // Small data may have moved between two looks.
        let begins = |status: &Status| status.is_changing() || self.is_made(status);
        tercet.wait(BEGIN_DEADLINE, "the ring changes", begins).await
    }

    /// `before` was seen before the order.
    async fn ends(self, tercet: &Tercet, before: &Metrics) -> anyhow::Result<()> {
        if self == Self::Return {
            let has_all = |now: &Metrics| {
                now.comparisons() > before.comparisons() && now.missed() == 0.0 && now.waiting() == 0.0
            };
            tercet.wait_for_metrics(END_DEADLINE, "the worker has what it missed", has_all).await?;
        }
        tercet.wait(END_DEADLINE, "the ring has changed", |status| self.is_made(status)).await
    }

    /// Keys per second that delta sync has looked at. It needs longer than the rest, as it reads what clients write
    /// meanwhile, too. `None`: it has no part in this change.
    async fn delta_rate(
        self,
        tercet: &Tercet,
        before: &Metrics,
        begun: Instant,
    ) -> Option<anyhow::Result<f64>> {
        let has_ended = |now: &Metrics| now.delta_syncs() > before.delta_syncs();
        let rate = async {
            tercet.wait_for_metrics(DELTA_DEADLINE, "delta sync ends", has_ended).await?;
            let keys = tercet.metrics().await?.journal_keys() - before.journal_keys();
            Ok(keys / begun.elapsed().as_secs_f64())
        };
        if self == Self::Return { Some(rate.await) } else { None }
    }

    fn is_made(self, status: &Status) -> bool {
        let made = match self {
            Self::Add => status.holds(COMES) > 0,
            Self::Drain | Self::Kill => status.holds(GOES) == 0,
            Self::Return => status.holds(GOES) > 0,
        };
        made && status.is_whole()
    }
}

struct Round {
    steady: Sample,
    moving: Sample,
    moved: Moved,
    delta_rate: Option<anyhow::Result<f64>>,
}

impl Bench<'_> {
    pub(super) async fn moving(
        &mut self,
        change: Change,
        target: Target,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let work = Work { keys: self.settings.keys, ..Work::new(Command::Mixed, CLIENTS, 1, VALUE_BYTES) };
        let (mut seconds, mut keys, mut megabytes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut by_reads, mut delta_rates) = (Vec::new(), Vec::new());
        for n in 1..=self.settings.rounds {
            let Round { steady, moving, moved, delta_rate } = self.round(change, work, report.row).await?;
            let lasted = moving.seconds;
            self.progress.say(&format!(
                "{} {n}: {:.0}/s, then {:.0}/s for {lasted:.2} s, in which {} rows of {:.1} MB moved, and {} by reads",
                report.row,
                steady.per_second,
                moving.per_second,
                moved.rows,
                moved.bytes / 1e6,
                moved.by_reads
            ));
            report.sample(STEADY, steady);
            report.sample(MOVING, moving);
            seconds.push(lasted);
            keys.push(moved.rows / lasted);
            megabytes.push(moved.bytes / 1e6 / lasted);
            by_reads.push(moved.by_reads / lasted);
            match delta_rate {
                Some(Ok(rate)) => delta_rates.push(rate),
                Some(Err(error)) => report.failed.push(format!("{error:#}")),
                None => {}
            }
        }
        report.kept(STEADY, MOVING, target);
        report.figures.push(Figure::new("duration", "s", seconds));
        report.figures.push(Figure::new("keys moved", "1/s", keys));
        report.figures.push(Figure::new("data moved", "MB/s", megabytes));
        report.figures.push(Figure::new("keys repaired by reads", "1/s", by_reads));
        if !delta_rates.is_empty() {
            report.figures.push(Figure::new("keys that delta sync looked at", "1/s", delta_rates));
        }
        Ok(())
    }

    async fn round(&self, change: Change, work: Work, row: &str) -> anyhow::Result<Round> {
        let say = |what: &str| self.progress.say(&format!("{row}: {what}"));
        let mut tercet = Tercet::start(self.place, WORKERS).await?;
        tercet.check_durable().await?;
        change.settle(&tercet).await?;
        say("storing keys");
        load::fill(tercet.resp(), work).await?;
        let mut load = Load::start(tercet.resp(), work)?;
        tokio::time::sleep(self.settings.span.warm_up).await;
        let steady = load.section();
        tokio::time::sleep(self.settings.span.lasting).await;
        load.section();
        say("the change begins");
        change.prepare(&tercet).await?;
        let before = tercet.metrics().await?;
        let begun = async { change.begins(&tercet).await.map(|()| load.section()) };
        let (ordered, begun) = tokio::join!(change.order(&tercet), begun);
        ordered?;
        let moving = begun?;
        let begun = Instant::now();
        change.ends(&tercet, &before).await?;
        load.section();
        let moved = Moved::of(&tercet.metrics().await?).since(Moved::of(&before));
        let samples = load.finish().await?;
        say("all replicas are whole");
        let delta_rate = change.delta_rate(&tercet, &before, begun).await;
        tercet.check_durable().await?;
        tercet.end().await?;
        let of = |section: usize| samples.get(section - 1).cloned().context("the section was begun");
        let mut moving = of(moving)?;
        // What failed just before the ring began to change, or after it, failed all the same.
        for other in [&samples[steady], &samples[samples.len() - 1]] {
            moving.failures += other.failures;
            moving.failure = moving.failure.or_else(|| other.failure.clone());
        }
        Ok(Round { steady: of(steady)?, moving, moved, delta_rate })
    }
}
