//! Throughput and latency against load, as SVG: two charts below each other, over the same load.

use std::fmt::Write;

use crate::load::open::Outcome;

const WIDTH: f64 = 720.0;
/// Of one chart.
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 64.0;

/// A line of a chart.
struct Series<'a> {
    name: &'a str,
    colour: &'a str,
    points: Vec<(f64, f64)>,
}

/// Where values are on an axis.
#[derive(Clone, Copy)]
struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    fn linear(most: f64) -> Self {
        Self { from: 0.0, to: if most > 0.0 { most * 1.05 } else { 1.0 }, logarithmic: false }
    }

    /// Over whole decades.
    fn logarithmic(values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let most = values.fold(0.0, f64::max);
        if !least.is_finite() {
            return Self { from: 1.0, to: 10.0, logarithmic: true };
        }
        let from = 10_f64.powf(least.log10().floor());
        Self { from, to: 10_f64.powf(most.log10().ceil()).max(from * 10.0), logarithmic: true }
    }

    /// From 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self.logarithmic {
            true => (value.max(self.from) / self.from).log10() / (self.to / self.from).log10(),
            false => (value - self.from) / (self.to - self.from),
        }
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.to / self.from).log10().round() as i32;
            return (0..=decades).map(|n| self.from * 10_f64.powi(n)).collect();
        }
        // 1, 2 or 5 times a power of ten, about five of them.
        let rough = (self.to - self.from) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.to).collect()
    }
}

/// `caption` stands above the charts.
pub(crate) fn svg(caption: &str, curve: &[Outcome]) -> String {
    let of = |value: &dyn Fn(&Outcome) -> Option<f64>| -> Vec<(f64, f64)> {
        curve.iter().filter_map(|point| Some((point.offered, value(point)?))).collect()
    };
    let done = of(&|point| Some(point.sample.per_second));
    let ms = |us: u64| us as f64 / 1e3;
    let throughput = [Series { name: "done", colour: "#1f77b4", points: done }];
    let latency = [
        Series {
            name: "p99.9",
            colour: "#d62728",
            points: of(&|point| Some(ms(point.sample.latency?.p999_us))),
        },
        Series {
            name: "p99",
            colour: "#ff7f0e",
            points: of(&|point| Some(ms(point.sample.latency?.p99_us))),
        },
        Series {
            name: "median",
            colour: "#2ca02c",
            points: of(&|point| Some(ms(point.sample.latency?.p50_us))),
        },
    ];
    let most =
        |series: &[Series]| series.iter().flat_map(|it| &it.points).map(|point| point.1).fold(0.0, f64::max);
    let x = Scale::linear(curve.iter().map(|point| point.offered).fold(0.0, f64::max));
    let values = latency.iter().flat_map(|it| &it.points).map(|point| point.1);
    let (total_width, total_height) = (WIDTH + 2.0 * MARGIN, 2.0 * HEIGHT + 3.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total_width}\" height=\"{total_height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut out, MARGIN, MARGIN / 2.0, "start", caption);
    chart(&mut out, MARGIN, "commands done per second", x, Scale::linear(most(&throughput)), &throughput);
    let below = 2.0 * MARGIN + HEIGHT;
    chart(&mut out, below, "latency in ms, from when it was due", x, Scale::logarithmic(values), &latency);
    text(&mut out, MARGIN + WIDTH / 2.0, total_height - 16.0, "middle", "commands offered per second");
    out.push_str("</svg>\n");
    out
}

fn chart(out: &mut String, top: f64, title: &str, x: Scale, y: Scale, series: &[Series]) {
    let across = |value: f64| MARGIN + x.place(value) * WIDTH;
    let up = |value: f64| top + (1.0 - y.place(value)) * HEIGHT;
    text(out, MARGIN, top - 8.0, "start", title);
    for tick in y.ticks() {
        let (left, at) = (MARGIN, up(tick));
        let right = MARGIN + WIDTH;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
        );
        text(out, left - 6.0, at + 4.0, "end", &number(tick));
    }
    for tick in x.ticks() {
        text(out, across(tick), top + HEIGHT + 18.0, "middle", &number(tick));
    }
    for (n, Series { name, colour, points }) in series.iter().enumerate() {
        let line: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
        let line = line.join(" ");
        let _ = writeln!(
            out,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        let at = top + 16.0 * (n as f64 + 1.0);
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            MARGIN + 8.0,
            at - 9.0
        );
        text(out, MARGIN + 24.0, at, "start", name);
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn number(value: f64) -> String {
    match value {
        _ if value >= 1000.0 => format!("{}k", value / 1000.0),
        // 0.30000000000000004 is no label.
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Latency, Sample};

    fn point(offered: f64, p50_us: u64) -> Outcome {
        let latency = Some(Latency { p50_us, p99_us: 3 * p50_us, p999_us: 9 * p50_us, max_us: 10 * p50_us });
        let sample = Sample { per_second: offered, latency, ..Sample::default() };
        Outcome { offered, sample, refused: 0, unanswered: 0 }
    }

    #[test]
    fn every_point_is_within_its_chart() {
        let text = svg("a < b", &[point(1000.0, 900), point(9000.0, 4000)]);
        assert!(text.contains("a &lt; b") && text.ends_with("</svg>\n"), "{text}");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(lines.len(), 4);
        for line in lines {
            let points = line.split('"').nth(1).unwrap();
            assert_eq!(points.split(' ').count(), 2, "{line}");
            for point in points.split([' ', ',']) {
                let at: f64 = point.parse().unwrap();
                assert!((0.0..=2.0 * HEIGHT + 2.0 * MARGIN).contains(&at) || at <= WIDTH + MARGIN, "{line}");
            }
        }
    }

    #[test]
    fn a_plot_of_nothing_has_axes_all_the_same() {
        let text = svg("", &[]);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(Scale::linear(100.0).ticks(), [0.0, 50.0, 100.0]);
        assert_eq!(Scale::linear(9000.0).ticks(), [0.0, 2000.0, 4000.0, 6000.0, 8000.0]);
        let scale = Scale::logarithmic([0.9, 36.0].into_iter());
        assert_eq!(scale.ticks().len(), 4);
        assert_eq!((scale.place(0.1), scale.place(100.0)), (0.0, 1.0));
    }
}
