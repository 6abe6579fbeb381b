//! What a run showed: tables for people, JSON for programs.

use comfy_table::{CellAlignment, Table, presets};

use crate::figure::{Figure, Ratio, short};
use crate::rows::Report;

/// Every figure of rows that are not wide: its median, and how far it spreads.
pub(crate) fn figures(reports: &[Report]) -> Table {
    let header = ["row", "work", "of", "median", "min..max", "unit"];
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for report in reports.iter().filter(|report| !report.wide) {
        for Figure { name, unit, spread, .. } in &report.figures {
            let (median, range) = match spread {
                Some(spread) => {
                    (short(spread.median), format!("{}..{}", short(spread.min), short(spread.max)))
                }
                None => ("–".to_owned(), "–".to_owned()),
            };
            table.add_row([report.row, report.says, name, &median, &range, unit]);
        }
    }
    align(&mut table, &[3, 4]);
    table
}

/// The medians of a wide row: a line for each thing, a column for each unit.
pub(crate) fn wide(report: &Report) -> Table {
    let mut lines: Vec<(&str, Vec<&Figure>)> = Vec::new();
    let mut units: Vec<&str> = Vec::new();
    for figure in &report.figures {
        match lines.iter_mut().find(|(name, _)| *name == figure.name) {
            Some((_, figures)) => figures.push(figure),
            None => lines.push((&figure.name, vec![figure])),
        }
        if !units.contains(&figure.unit) {
            units.push(figure.unit);
        }
    }
    let mut table = Table::new();
    let header = std::iter::once(report.row).chain(units.iter().copied());
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for (name, figures) in lines {
        let median = |unit: &&str| {
            let spread = figures.iter().find(|figure| figure.unit == *unit)?.spread?;
            Some(short(spread.median))
        };
        let medians = units.iter().map(|unit| median(unit).unwrap_or_default());
        table.add_row(std::iter::once(name.to_owned()).chain(medians));
    }
    align(&mut table, &(1..=units.len()).collect::<Vec<_>>());
    table
}

/// Every ratio: the median of the pairs, their spread, and whether it is what it is to be.
pub(crate) fn ratios(reports: &[Report]) -> Table {
    let mut table = Table::new();
    let header = ["row", "work", "ratio of", "to", "median", "min..max", "to reach", ""];
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for report in reports {
        for Ratio { of, to, ratio, target, reached } in &report.ratios {
            let verdict = match reached {
                Some(true) => "reached",
                Some(false) => "MISSED",
                None => "",
            };
            let target = target.map(|target| target.to_string()).unwrap_or_default();
            let range = format!("{}..{}", short(ratio.min), short(ratio.max));
            let median = short(ratio.median);
            table.add_row([report.row, report.says, of, to, &median, &range, &target, verdict]);
        }
    }
    align(&mut table, &[4, 5, 6]);
    table
}

fn align(table: &mut Table, numbers: &[usize]) {
    for number in numbers {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// What was left out and what went wrong, a line each.
pub(crate) fn remarks(reports: &[Report]) -> Vec<String> {
    let lines = reports.iter().flat_map(|Report { row, skipped, failed, .. }| {
        let skipped = skipped.iter().map(move |what| format!("{row}: skipped: {what}"));
        skipped.chain(failed.iter().map(move |what| format!("{row}: FAILED: {what}")))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Target;

    fn report() -> Report {
        let ours = Figure::new("Tercet", "1/s", vec![30_000.0, 40_000.0]);
        let theirs = Figure::new("trio", "1/s", vec![10_000.0, 10_000.0]);
        let ratio = Ratio::of_pairs(&ours, &theirs, Some(Target::AtLeast(4.0))).unwrap();
        Report {
            row: "set",
            says: "SET, 50 clients",
            figures: vec![ours, theirs],
            ratios: vec![ratio],
            skipped: vec!["etcd is not installed".to_owned()],
            failed: vec!["it broke".to_owned()],
            ..Report::default()
        }
    }

    fn cells(table: &Table, of: &str) -> Vec<String> {
        let text = table.to_string();
        let line = text.lines().find(|line| line.contains(of)).unwrap();
        let cells = line.split(['│', '┆']).map(|cell| cell.trim().to_owned());
        cells.filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn figures_and_ratios_are_shown_with_their_spread() {
        let reports = [report()];
        let figures = cells(&figures(&reports), "Tercet");
        assert_eq!(figures, ["set", "SET, 50 clients", "Tercet", "35.0k", "30.0k..40.0k", "1/s"]);
        let ratios = cells(&ratios(&reports), "Tercet");
        let expected = ["set", "SET, 50 clients", "Tercet", "trio", "3.50", "3.00..4.00", "≥ 4", "MISSED"];
        assert_eq!(ratios, expected);
    }

    #[test]
    fn what_was_left_out_and_what_failed_is_said() {
        let expected = ["set: skipped: etcd is not installed", "set: FAILED: it broke"];
        assert_eq!(remarks(&[report()]), expected);
    }

    #[test]
    fn a_wide_row_has_a_column_for_each_unit() {
        let figures = vec![
            Figure::new("3 workers", "1/s", vec![30_000.0, 20_000.0]),
            Figure::new("3 workers", "µs", vec![7.0]),
            Figure::new("4 workers", "1/s", vec![10_000.0]),
        ];
        let report = Report { row: "growth", figures, wide: true, ..Report::default() };
        let table = wide(&report);
        assert_eq!(cells(&table, "growth"), ["growth", "1/s", "µs"]);
        assert_eq!(cells(&table, "3 workers"), ["3 workers", "25.0k", "7.00"]);
        assert_eq!(cells(&table, "4 workers"), ["4 workers", "10.0k"]);
        assert!(!super::figures(&[report]).to_string().contains("workers"));
    }
}
