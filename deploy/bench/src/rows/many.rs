//! SET with many keys stored, against SET with few: two clusters, which take turns.

use super::{Bench, CLIENTS, Report};
use crate::figure::Target;
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::sample::Sample;
use crate::systems::{Kind, System};

const FEW: u64 = 10_000;

impl Bench<'_> {
    pub(super) async fn many_keys(&mut self, target: Target, report: &mut Report) -> anyhow::Result<()> {
        let mut both = Vec::new();
        for keys in [self.settings.many_keys, FEW] {
            let work = Work { keys, ..Work::new(Command::Set, CLIENTS, 1, VALUE_BYTES) };
            // Clusters of their own: what others have stored must not count.
            let Some(mut system) = System::start(Kind::Tercet4, self.place).await? else { continue };
            system.check_durable().await?;
            self.progress.say(&format!("{}: storing {keys} keys", report.row));
            system.fill(work).await?;
            both.push((format!("{keys} keys"), system, work));
        }
        for n in 1..=self.settings.rounds {
            for (name, system, work) in &both {
                let sample = system.measure(*work, self.settings.span).await?;
                self.progress.say(&format!("{} {n}: {name}: {:.0}/s", report.row, sample.per_second));
                report.sample(name, sample);
            }
        }
        let mut figures = Vec::new();
        for (name, system, _) in both {
            system.check_durable().await?;
            system.end().await?;
            figures.push(report.figure(&name, "1/s", |sample: &Sample| Some(sample.per_second)));
        }
        if let [many, few] = &figures[..] {
            report.ratio(many, few, Some(target));
        }
        Ok(())
    }
}
