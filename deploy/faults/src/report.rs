//! What a run showed: a table for people, JSON for programs, files for whoever must find out why.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::violation::{Class, Violation};

/// What one kind of fault showed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) fault: &'static str,
    pub(crate) does: &'static str,
    pub(crate) undone: &'static str,
    /// Why it was not tried.
    pub(crate) skipped: Option<String>,
    pub(crate) rounds: u64,
    pub(crate) operations: u64,
    pub(crate) acked: u64,
    pub(crate) uncertain: u64,
    pub(crate) refused: u64,
    /// Keys whose histories were checked, and how many operations those hold.
    pub(crate) keys: u64,
    pub(crate) checked: u64,
    /// The longest time in which one client got no answer to anything.
    pub(crate) longest_stall_ms: u64,
    pub(crate) longest_command_ms: u64,
    /// The longest time from the end of a fault until the cluster was whole.
    pub(crate) longest_heal_ms: u64,
    /// From the end of the load until all copies were equal; none if they never were.
    pub(crate) equal_after_ms: Option<u64>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) evidence: Option<PathBuf>,
}

impl Report {
    pub(crate) fn count(&self, wanted: impl Fn(Class) -> bool) -> usize {
        self.violations.iter().filter(|violation| wanted(violation.class)).count()
    }

    fn lost(&self) -> usize {
        self.count(|class| class == Class::Lost)
    }

    fn others(&self) -> usize {
        self.count(|class| class != Class::Lost)
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn table(reports: &[Report]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "fault",
        "rounds",
        "operations",
        "acked",
        "uncertain",
        "refused",
        "lost",
        "other violations",
        "longest stall",
        "longest command",
        "whole within",
        "copies equal within",
    ]);
    for report in reports {
        if report.skipped.is_some() {
            table.add_row([report.fault, "skipped"]);
            continue;
        }
        table.add_row([
            report.fault.to_owned(),
            report.rounds.to_string(),
            report.operations.to_string(),
            report.acked.to_string(),
            report.uncertain.to_string(),
            report.refused.to_string(),
            report.lost().to_string(),
            report.others().to_string(),
            seconds(report.longest_stall_ms),
            seconds(report.longest_command_ms),
            seconds(report.longest_heal_ms),
            report.equal_after_ms.map_or_else(|| "never".to_owned(), seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

/// Why it was skipped, or one line per sort of violation, with an example.
pub(crate) fn summary(report: &Report) -> Vec<String> {
    if let Some(why) = &report.skipped {
        return vec![format!("{}: skipped: {why}", report.fault)];
    }
    let mut sorts: BTreeMap<String, (usize, &Violation)> = BTreeMap::new();
    for violation in &report.violations {
        let sort = format!("{:?}", violation.class).to_lowercase();
        sorts.entry(sort).or_insert((0, violation)).0 += 1;
    }
    sorts
        .into_iter()
        .map(|(sort, (count, example))| {
            let key = example.key.as_deref().map(|key| format!("{key}: ")).unwrap_or_default();
            format!("{}: {count} {sort}, for example {key}{}", report.fault, example.text)
        })
        .collect()
}

/// Writes the stories of the violations to `dir`.
pub(crate) fn write_stories(dir: &Path, seed: u64, report: &Report) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::create_dir_all(dir)?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(dir.join("violations.txt"))?);
    writeln!(file, "fault {}, seed {seed}", report.fault)?;
    for violation in &report.violations {
        let key = violation.key.as_deref().unwrap_or("the cluster");
        writeln!(file, "\n{:?} – {key}: {}\n{}", violation.class, violation.text, violation.story)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let of = |class, key: &str| Violation::of_key(class, key, "is odd", "a story".to_owned());
        Report {
            fault: "kill-worker",
            rounds: 3,
            operations: 1000,
            longest_stall_ms: 1_234,
            violations: vec![of(Class::Lost, "a"), of(Class::Lost, "b"), of(Class::Wrong, "c")],
            ..Report::default()
        }
    }

    #[test]
    fn the_table_shows_losses_apart_and_what_was_skipped() {
        let skipped = Report { fault: "drain", skipped: Some("unknown".to_owned()), ..Report::default() };
        let text = table(&[report(), skipped]).to_string();
        let line = text.lines().find(|line| line.contains("kill-worker")).unwrap();
        let cells: Vec<&str> =
            line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let expected =
            ["kill-worker", "3", "1000", "0", "0", "0", "2", "1", "1.23 s", "0.00 s", "0.00 s", "never"];
        assert_eq!(cells, expected);
        assert!(text.lines().any(|line| line.contains("drain") && line.contains("skipped")));
    }

    #[test]
    fn violations_are_summed_up_by_sort() {
        assert_eq!(
            summary(&report()),
            ["kill-worker: 2 lost, for example a: is odd", "kill-worker: 1 wrong, for example c: is odd"]
        );
    }

    #[test]
    fn stories_are_written_with_the_seed() {
        let dir = tempfile::tempdir().unwrap();
        write_stories(dir.path(), 7, &report()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("violations.txt")).unwrap();
        assert!(text.starts_with("fault kill-worker, seed 7"), "{text}");
        assert!(text.contains("Lost – b: is odd\na story"), "{text}");
    }
}
