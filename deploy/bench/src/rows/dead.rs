//! SET after one of four workers was killed, against SET before: the time begins with the kill, so that it holds what
//! clients pay until the death is believed, and the copying of what the dead worker held.

use anyhow::ensure;

use super::{Bench, CLIENTS, Report, WORKERS};
use crate::figure::Target;
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::load::{self, Load};
use crate::systems::tercet::Tercet;

const ALIVE: &str = "all alive";
const DEAD: &str = "one dead";

impl Bench<'_> {
    pub(super) async fn one_dead(&mut self, target: Target, report: &mut Report) -> anyhow::Result<()> {
        let work = Work::new(Command::Set, CLIENTS, 1, VALUE_BYTES).among(self.settings.keys);
        for n in 1..=self.settings.rounds {
            // A cluster of its own: who has died is let in again later and later.
            let mut tercet = Tercet::start(self.place, WORKERS).await?;
            tercet.check_durable().await?;
            load::fill(tercet.resp(), work).await?;
            let mut load = Load::start(tercet.resp(), work)?;
            tokio::time::sleep(self.settings.span.warm_up).await;
            load.section();
            tokio::time::sleep(self.settings.span.lasting).await;
            load.section();
            tercet.tercet(&["node", "kill", "w4"]).await?;
            tokio::time::sleep(self.settings.span.lasting).await;
            let samples = load.finish().await?;
            ensure!(samples.len() == 2, "two sections were begun");
            self.progress.say(&format!(
                "{} {n}: {:.0}/s, with one dead {:.0}/s",
                report.row, samples[0].per_second, samples[1].per_second
            ));
            for (name, sample) in [ALIVE, DEAD].into_iter().zip(samples) {
                report.sample(name, sample);
            }
            tercet.check_durable().await?;
            tercet.end().await?;
        }
        report.kept(ALIVE, DEAD, target);
        Ok(())
    }
}
