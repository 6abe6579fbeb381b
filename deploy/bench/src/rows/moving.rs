//! What clients keep of their throughput while partitions change hands, and how fast the data move.
//!
//! Each round has a cluster of its own: keys are stored, a load of SET and GET finds its pace, and then the ring is
//! changed under it. What counts is the time from the begin of the ring change to its end, as the frontend reports it,
//! when every partition has all its replicas again.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::{Bench, CLIENTS, Report};
use crate::figure::{Figure, Target};
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::load::{self, Load};
use crate::sample::Sample;
use crate::systems::status::{Moved, Status};
use crate::systems::tercet::Tercet;
use crate::systems::{Kind, System};

/// From the order until the ring begins to change: a PostgreSQL is made, or a death is believed.
const BEGIN_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(1800);
const STEADY: &str = "steady";
const MOVING: &str = "while data move";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Change {
    Add,
    Drain,
    Kill,
}

/// The worker that comes, with four there already, and one that goes.
const COMES: &str = "w5";
const GOES: &str = "w4";

impl Change {
    async fn order(self, tercet: &Tercet) -> anyhow::Result<()> {
        let args: &[&str] = match self {
            Self::Add => &["node", "add"],
            Self::Drain => &["drain", GOES, "--no-wait"],
            Self::Kill => &["node", "kill", GOES],
        };
        tercet.tercet(args).await.map(drop)
    }

    fn is_made(self, status: &Status) -> bool {
        let made = match self {
            Self::Add => status.holds(COMES) > 0,
            Self::Drain | Self::Kill => status.holds(GOES) == 0,
        };
        made && status.is_whole()
    }
}

struct Round {
    steady: Sample,
    moving: Sample,
    moved: Moved,
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
        for n in 1..=self.settings.rounds {
            let Round { steady, moving, moved } = self.round(change, work).await?;
            let lasted = moving.seconds;
            self.progress.say(&format!(
                "{} {n}: {:.0}/s, then {:.0}/s for {lasted:.2} s, in which {} rows of {:.1} MB moved",
                report.row,
                steady.per_second,
                moving.per_second,
                moved.rows,
                moved.bytes / 1e6
            ));
            report.sample(STEADY, steady);
            report.sample(MOVING, moving);
            seconds.push(lasted);
            keys.push(moved.rows / lasted);
            megabytes.push(moved.bytes / 1e6 / lasted);
        }
        report.kept(STEADY, MOVING, target);
        report.figures.push(Figure::new("duration", "s", seconds));
        report.figures.push(Figure::new("keys moved", "1/s", keys));
        report.figures.push(Figure::new("data moved", "MB/s", megabytes));
        Ok(())
    }

    async fn round(&self, change: Change, work: Work) -> anyhow::Result<Round> {
        let system = System::start(Kind::Tercet4, self.place).await?;
        let Some(System::Tercet(mut tercet)) = system else { anyhow::bail!("this row is about Tercet") };
        tercet.check_durable().await?;
        load::fill(tercet.resp(), work).await?;
        let mut load = Load::start(tercet.resp(), work)?;
        tokio::time::sleep(self.settings.span.warm_up).await;
        let steady = load.section();
        tokio::time::sleep(self.settings.span.lasting).await;
        load.section();
        let before = Moved::of(&tercet.metrics().await?);
        let begun = async {
            // Small data may have moved between two looks.
            let begins = |status: &Status| status.is_changing() || change.is_made(status);
            tercet.wait(BEGIN_DEADLINE, "the ring changes", begins).await.map(|()| load.section())
        };
        let (ordered, begun) = tokio::join!(change.order(&tercet), begun);
        ordered?;
        let moving = begun?;
        tercet.wait(END_DEADLINE, "the ring has changed", |status| change.is_made(status)).await?;
        load.section();
        let moved = Moved::of(&tercet.metrics().await?).since(before);
        let samples = load.finish().await?;
        tercet.check_durable().await?;
        tercet.end().await?;
        let of = |section: usize| samples.get(section - 1).cloned().context("the section was begun");
        let mut moving = of(moving)?;
        // What failed just before the ring began to change, or after it, failed all the same.
        for other in [&samples[steady], &samples[samples.len() - 1]] {
            moving.failures += other.failures;
            moving.failure = moving.failure.or_else(|| other.failure.clone());
        }
        Ok(Round { steady: of(steady)?, moving, moved })
    }
}
