//! Latency of SET against load, in an open loop: first the peak of a closed loop, then half of it in each round, and in
//! the end a curve up to what is more than the peak.

use anyhow::Context;

use super::{Bench, CLIENTS, Report, Settings};
use crate::figure::Target;
use crate::load;
use crate::load::open::{self, Offer, Outcome};
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::sample::Sample;
use crate::systems::Kind;

/// Points of the curve, as parts of the peak.
pub(super) const LOADS: &[f64] = &[0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.2];
const HALF: f64 = 0.5;

impl Bench<'_> {
    pub(super) async fn half_peak(&mut self, target: Target, report: &mut Report) -> anyhow::Result<()> {
        let work = Work::new(Command::Set, CLIENTS, 1, VALUE_BYTES).among(self.settings.keys);
        let (Settings { rounds, span, rate, .. }, progress) = (self.settings, self.progress);
        let tercet = self.tercet(Kind::Tercet4, work, report).await?;
        let (closed, opened) = ("peak", "half of it");
        let mut peaks = Vec::new();
        for n in 1..=rounds {
            let peak = load::measure(tercet.resp(), work, span).await?;
            peaks.push(peak.per_second);
            let rate = rate.unwrap_or(peak.per_second * HALF);
            report.sample(closed, peak);
            let outcome = open::measure(tercet.resp(), work, Offer::new(rate, span)).await?;
            progress.say(&format!("{} {n}: {}", report.row, say(&outcome)));
            let lost = outcome.refused + outcome.unanswered;
            if lost > 0 {
                report.failed.push(format!("at {rate:.0}/s {lost} commands were refused or not answered"));
            }
            report.sample(opened, outcome.sample);
        }
        report.figure(closed, "1/s", |sample| Some(sample.per_second));
        report.figure(opened, "1/s", |sample| Some(sample.per_second));
        let mut p99 = report.figure(opened, "ms (p99)", |sample| Some(sample.latency?.p99_us as f64 / 1e3));
        let mut median =
            report.figure(opened, "ms (median)", |sample| Some(sample.latency?.p50_us as f64 / 1e3));
        // One sample gives both: the ratio is of two of its figures.
        (p99.name, median.name) = (format!("p99, {opened}"), format!("median, {opened}"));
        report.ratio(&p99, &median, Some(target));
        let peak = crate::figure::Spread::of(&peaks).context("there were rounds")?.median;
        for part in LOADS {
            let outcome = open::measure(tercet.resp(), work, Offer::new(peak * part, span)).await?;
            progress.say(&format!("{}: {}", report.row, say(&outcome)));
            report.curve.push(outcome);
        }
        tercet.check_durable().await
    }
}

fn say(outcome: &Outcome) -> String {
    let Outcome { offered, sample: Sample { per_second, latency, .. }, refused, unanswered } = outcome;
    let latency = latency.unwrap_or_default();
    format!(
        "{offered:.0}/s offered, {per_second:.0}/s done, median {} µs, p99 {} µs, {refused} refused, {unanswered} \
         unanswered",
        latency.p50_us, latency.p99_us
    )
}
