//! How far Tercet is from the ceiling: what three bare PostgreSQL do with the same rows in batches of the same size, and
//! in large ones.

use super::{Bench, CLIENTS, Report, Settings};
use crate::figure::Figure;
use crate::load;
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::systems::Kind;
use crate::systems::bare::Bare;

const PIPELINE: usize = 16;
/// Beyond which a batch costs more time than it saves.
const LARGE: usize = 512;

impl Bench<'_> {
    pub(super) async fn ceiling(&mut self, report: &mut Report) -> anyhow::Result<()> {
        let work = Work::new(Command::Set, CLIENTS, PIPELINE, VALUE_BYTES).among(self.settings.keys);
        // Of three workers, each stores every row.
        let (Settings { rounds, span, .. }, progress, place) = (self.settings, self.progress, self.place);
        let tercet = self.tercet(Kind::Tercet3, work, report).await?;
        let mut bare = Bare::start(place).await?;
        bare.check_durable().await?;
        bare.fill(work).await?;
        let (ours, same, large) = (
            Kind::Tercet3.name(),
            "three PostgreSQL, batches of that size".to_owned(),
            format!("three PostgreSQL, batches of {LARGE}"),
        );
        let mut sizes = Vec::new();
        for n in 1..=rounds {
            let (sample, [before, after]) =
                load::watch(tercet.resp(), work, span, async || tercet.commits().await).await?;
            let size = (sample.per_second * sample.seconds / (after - before).max(1.0)).max(1.0);
            sizes.push(size);
            let say = |name: &str, rows: usize, per_second: f64| {
                progress
                    .say(&format!("{} {n}: {name}: {per_second:.0} rows/s, {rows} per commit", report.row));
            };
            let size = size.round() as usize;
            say(ours, size, sample.per_second);
            let with_same = bare.measure(work, size, span).await?;
            say(&same, size, with_same.per_second);
            let with_large = bare.measure(work, LARGE, span).await?;
            say(&large, LARGE, with_large.per_second);
            report.sample(ours, sample);
            report.sample(&same, with_same);
            report.sample(&large, with_large);
        }
        tercet.check_durable().await?;
        bare.check_durable().await?;
        let mut figure = |name: &str| report.figure(name, "rows/s", |sample| Some(sample.per_second));
        let (ours, same, large) = (figure(ours), figure(&same), figure(&large));
        report.ratio(&ours, &same, None);
        report.ratio(&ours, &large, None);
        report.figures.push(Figure::new(&ours.name, "rows per commit", sizes));
        Ok(())
    }
}
