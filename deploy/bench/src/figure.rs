//! Figures and what is made of them: medians, spreads, ratios of pairs.

use serde::Serialize;

/// The median of some values, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of no values, or of one that is no number.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Some(Self { median, min, max })
    }
}

/// What a ratio is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(crate) fn reached(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// How much more (or less) one thing is than another: of each round the ratio, of these the median.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Ratio {
    pub(crate) of: String,
    pub(crate) to: String,
    pub(crate) ratio: Spread,
    pub(crate) target: Option<Target>,
    /// `None`: there is no target.
    pub(crate) reached: Option<bool>,
}

impl Ratio {
    /// Of values of the same rounds. `None`: there are not as many of the one as of the other, or none, or a zero.
    pub(crate) fn of_pairs(of: &Figure, to: &Figure, target: Option<Target>) -> Option<Self> {
        if of.values.len() != to.values.len() || to.values.contains(&0.0) {
            return None;
        }
        let ratios: Vec<f64> = of.values.iter().zip(&to.values).map(|(of, to)| of / to).collect();
        let ratio = Spread::of(&ratios)?;
        let reached = target.map(|target| target.reached(ratio.median));
        Some(Self { of: of.name.clone(), to: to.name.clone(), ratio, target, reached })
    }
}

/// Something measured once per round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) values: Vec<f64>,
    pub(crate) spread: Option<Spread>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { name: name.into(), unit, spread: Spread::of(&values), values }
    }
}

/// A number as people read it: `12.3k`, `0.85`.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size >= 10_000_000.0 => format!("{:.1}M", value / 1e6),
        _ if size >= 10_000.0 => format!("{:.1}k", value / 1e3),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(values: &[f64]) -> Figure {
        Figure::new("x", "1/s", values.to_vec())
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let spread = |values: &[f64]| Spread::of(values).map(|s| (s.median, s.min, s.max));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(spread(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_ratio_is_the_median_of_the_pairs_not_of_the_sides() {
        let ratio =
            Ratio::of_pairs(&figure(&[10.0, 40.0, 90.0]), &figure(&[10.0, 10.0, 30.0]), None).unwrap();
        assert_eq!(ratio.ratio, Spread { median: 3.0, min: 1.0, max: 4.0 });
        assert_eq!(ratio.reached, None);
    }

    #[test]
    fn targets_are_bounds_from_below_or_above() {
        let reached =
            |target| Ratio::of_pairs(&figure(&[2.0]), &figure(&[2.0]), Some(target)).unwrap().reached;
        assert_eq!(reached(Target::AtLeast(1.0)), Some(true));
        assert_eq!(reached(Target::AtLeast(1.1)), Some(false));
        assert_eq!(reached(Target::AtMost(1.0)), Some(true));
        assert_eq!(reached(Target::AtMost(0.9)), Some(false));
    }

    #[test]
    fn there_is_no_ratio_without_pairs() {
        assert_eq!(Ratio::of_pairs(&figure(&[1.0]), &figure(&[]), None), None);
        assert_eq!(Ratio::of_pairs(&figure(&[]), &figure(&[]), None), None);
        assert_eq!(Ratio::of_pairs(&figure(&[1.0]), &figure(&[0.0]), None), None);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.851, 9.999, 12.34, 123.4, 12_345.0, 12_345_678.0].map(short);
        assert_eq!(texts, ["0.85", "10.00", "12.3", "123", "12.3k", "12.3M"]);
    }
}
