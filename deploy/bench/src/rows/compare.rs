//! The same work on several systems, in turn: A B C A B C …, so that whatever the machine does meanwhile, it does to all.
//!
//! The systems that wait for their turn run on and cost little; what they still had to write is done by the warm-up.

use super::{Bench, Measure, Report, Rival};
use crate::figure::Figure;
use crate::load::work::Work;
use crate::sample::Sample;
use crate::systems::Kind;

impl Measure {
    fn unit(self) -> &'static str {
        match self {
            Self::PerSecond => "1/s",
            Self::BytesPerSecond => "MB/s",
            Self::MedianLatency => "ms (median)",
        }
    }

    fn of(self, sample: &Sample, work: Work) -> Option<f64> {
        match self {
            Self::PerSecond => Some(sample.per_second),
            Self::BytesPerSecond => Some(sample.per_second * work.value_bytes as f64 / 1e6),
            Self::MedianLatency => Some(sample.latency?.p50_us as f64 / 1e3),
        }
    }
}

impl Bench<'_> {
    pub(super) async fn compare(
        &mut self,
        work: Work,
        measure: Measure,
        of: &[Kind],
        to: &[Rival],
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let work = work.among(self.settings.keys);
        let mut rivals = Vec::new();
        for rival in to {
            if self.have(rival.kind, report).await? {
                rivals.push(rival);
            }
        }
        if rivals.is_empty() {
            return Ok(());
        }
        for kind in of {
            self.have(*kind, report).await?;
        }
        let kinds: Vec<Kind> = of.iter().copied().chain(rivals.iter().map(|rival| rival.kind)).collect();
        for kind in &kinds {
            if let Some(system) = self.running.get_mut(kind) {
                system.check_durable().await?;
                self.progress.say(&format!("{}: storing keys: {}", report.row, kind.name()));
                system.fill(work).await?;
            }
        }
        for n in 1..=self.settings.rounds {
            for kind in &kinds {
                let Some(system) = self.running.get(kind) else { continue };
                let sample = system.measure(work, self.settings.span).await?;
                let value = measure.of(&sample, work).unwrap_or(f64::NAN);
                let unit = measure.unit();
                self.progress.say(&format!("{} {n}: {}: {value:.2} {unit}", report.row, kind.name()));
                report.sample(kind.name(), sample);
            }
        }
        for kind in &kinds {
            if let Some(system) = self.running.get(kind) {
                system.check_durable().await?;
            }
        }
        let mut figure = |kind: Kind| report.figure(kind.name(), measure.unit(), |it| measure.of(it, work));
        let ours: Vec<Figure> = of.iter().map(|kind| figure(*kind)).collect();
        let theirs: Vec<Figure> = rivals.iter().map(|rival| figure(rival.kind)).collect();
        for (rival, theirs) in rivals.iter().zip(&theirs) {
            for (n, ours) in ours.iter().enumerate() {
                report.ratio(ours, theirs, rival.target.filter(|_| n == 0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::work::Command;
    use crate::sample::Latency;

    #[test]
    fn a_sample_is_read_by_its_measure() {
        let latency = Some(Latency { p50_us: 1500, ..Latency::default() });
        let sample = Sample { per_second: 2000.0, latency, ..Sample::default() };
        let work = Work::new(Command::Set, 1, 1, 1 << 10);
        assert_eq!(Measure::PerSecond.of(&sample, work), Some(2000.0));
        assert_eq!(Measure::BytesPerSecond.of(&sample, work), Some(2.048));
        assert_eq!(Measure::MedianLatency.of(&sample, work), Some(1.5));
        assert_eq!(Measure::MedianLatency.of(&Sample::default(), work), None);
    }
}
