//! What is left of the throughput when far more is asked for than can be done, and how soon it is calm afterwards.
//!
//! The peak is that of a closed loop with pipelines: an open loop over many connections is one too, as soon as answers
//! take longer. At the end of the flood its clients hang up, as people would; then a gentle load is offered, second by
//! second, until its median is what it was before.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Bench, CLIENTS, Report, Settings};
use crate::figure::{Figure, Target};
use crate::load;
use crate::load::open::{self, Offer, Outcome};
use crate::load::work::{Command, VALUE_BYTES, Work};
use crate::sample::Span;
use crate::systems::Kind;
use crate::systems::tercet::Tercet;

const PIPELINE: usize = 16;
/// So many that their pipelines together hold more than the frontend takes.
const FLOOD_CLIENTS: usize = 200;
/// As multiples of the peak.
pub(super) const FLOODS: &[f64] = &[2.0, 10.0];
/// Of the peak: what costs nobody any time.
const GENTLE: f64 = 0.2;
/// How far the median of the gentle load may be from what it was.
const CALM: f64 = 2.0;
/// Looked at in one go.
const WINDOW: Duration = Duration::from_secs(1);
/// From the end of a flood until it is calm.
const CALM_DEADLINE: Duration = Duration::from_secs(30);

const PEAK: &str = "peak";

impl Bench<'_> {
    pub(super) async fn overload(&mut self, target: Target, report: &mut Report) -> anyhow::Result<()> {
        let work = Work::new(Command::Set, CLIENTS, PIPELINE, VALUE_BYTES).among(self.settings.keys);
        let (Settings { rounds, span, .. }, progress) = (self.settings, self.progress);
        let tercet = self.tercet(Kind::Tercet4, work, report).await?;
        let mut floods: Vec<Flood> = FLOODS.iter().map(|times| Flood::new(*times)).collect();
        for n in 1..=rounds {
            let peak = load::measure(tercet.resp(), work, span).await?;
            let rate = peak.per_second;
            progress.say(&format!("{} {n}: {PEAK}: {rate:.0}/s", report.row));
            report.sample(PEAK, peak);
            for flood in &mut floods {
                let before = gentle(tercet, work, rate, span).await?;
                let before = median_ms(&before).context("a gentle load was answered")?;
                let all = Work { clients: FLOOD_CLIENTS, ..work };
                // Its begin is a part of it, and who has asked for too much does not wait for the rest.
                let span = Span { warm_up: Duration::ZERO, ..span };
                let offer = Offer { rate: rate * flood.times, span, patience: Duration::ZERO };
                let outcome = open::measure(tercet.resp(), all, offer).await?;
                let calm = until_calm(tercet, work, rate, before).await?;
                let Outcome { offered, sample, refused, unanswered } = outcome;
                let p99 = sample.latency.unwrap_or_default().p99_us as f64 / 1e3;
                let calm_says = calm.map_or("not calm in time".to_owned(), |after| {
                    format!("calm after {:.1} s", after.as_secs_f64())
                });
                progress.say(&format!(
                    "{} {n}: {offered:.0}/s offered: {:.0}/s done, p99 {p99:.0} ms, {refused} refused as BUSY, \
                     {unanswered} unanswered; {calm_says}",
                    report.row, sample.per_second
                ));
                match calm {
                    Some(after) => flood.calm.push(after.as_secs_f64()),
                    None => report.failed.push(format!(
                        "{}: the latency was not back within {} s",
                        flood.name,
                        CALM_DEADLINE.as_secs()
                    )),
                }
                flood.refused.push(refused as f64 / sample.seconds);
                flood.unanswered.push(unanswered as f64);
                flood.p99.push(p99);
                report.sample(&flood.name, sample);
            }
        }
        let peak = report.figure(PEAK, "1/s", |sample| Some(sample.per_second));
        for Flood { name, refused, unanswered, p99, calm, .. } in floods {
            let goodput = report.figure(&name, "1/s", |sample| Some(sample.per_second));
            report.ratio(&goodput, &peak, Some(target));
            report.figures.push(Figure::new(&name, "1/s refused as BUSY", refused));
            report.figures.push(Figure::new(&name, "unanswered in the end", unanswered));
            report.figures.push(Figure::new(&name, "ms (p99)", p99));
            report.figures.push(Figure::new(&name, "s until it is calm", calm));
        }
        tercet.check_durable().await
    }
}

/// What was seen of one rate, a value per round.
struct Flood {
    times: f64,
    name: String,
    /// Per second.
    refused: Vec<f64>,
    unanswered: Vec<f64>,
    /// Milliseconds, of what was done.
    p99: Vec<f64>,
    /// Seconds.
    calm: Vec<f64>,
}

impl Flood {
    fn new(times: f64) -> Self {
        let name = format!("done at {times} × the peak");
        Self { times, name, refused: Vec::new(), unanswered: Vec::new(), p99: Vec::new(), calm: Vec::new() }
    }
}

async fn gentle(tercet: &Tercet, work: Work, peak: f64, span: Span) -> anyhow::Result<Outcome> {
    open::measure(tercet.resp(), work, Offer { rate: peak * GENTLE, span, patience: WINDOW }).await
}

fn median_ms(outcome: &Outcome) -> Option<f64> {
    let Outcome { sample, refused: 0, unanswered: 0, .. } = outcome else { return None };
    Some(sample.latency?.p50_us as f64 / 1e3).filter(|_| sample.failures == 0)
}

/// How long it took until a window began that was as before; `None`: too long.
async fn until_calm(
    tercet: &Tercet,
    work: Work,
    peak: f64,
    before_ms: f64,
) -> anyhow::Result<Option<Duration>> {
    let over = Instant::now();
    let span = Span { warm_up: Duration::ZERO, lasting: WINDOW };
    while over.elapsed() < CALM_DEADLINE {
        let after = over.elapsed();
        let outcome = gentle(tercet, work, peak, span).await?;
        if median_ms(&outcome).is_some_and(|median| median <= before_ms * CALM) {
            return Ok(Some(after));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Latency, Sample};

    #[test]
    fn a_window_with_anything_but_answers_is_not_calm() {
        let latency = Some(Latency { p50_us: 1500, ..Latency::default() });
        let sample = Sample { latency, ..Sample::default() };
        let calm = Outcome { offered: 9.0, sample, refused: 0, unanswered: 0 };
        assert_eq!(median_ms(&calm), Some(1.5));
        assert_eq!(median_ms(&Outcome { refused: 1, ..calm.clone() }), None);
        assert_eq!(median_ms(&Outcome { unanswered: 1, ..calm.clone() }), None);
        let failed = Sample { failures: 1, ..calm.sample.clone() };
        assert_eq!(median_ms(&Outcome { sample: failed, ..calm }), None);
    }
}
