//! Holds `grafana/` and `deploy/prometheus/` to the metrics that are defined in `tercet_common::metrics`, and
//! back: every metric that is exported is shown.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod promql;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tercet_common::metrics::{ALL, Kind};

use crate::promql::mentions;

/// What the scrape adds, and `le`, which histograms have.
const TARGET_LABELS: [&str; 3] = ["cluster", "job", "instance"];
/// Exported by the crate metrics-process. All of them are shown too.
const PROCESS: [&str; 8] = [
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
];
/// Made by Prometheus itself.
const PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    assert!(!files.is_empty(), "{directory}");
    files
}

fn dashboards() -> Vec<Value> {
    let read = |path: PathBuf| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    files("grafana/dashboards", "json").into_iter().map(read).collect()
}

/// Panels without the rows that hold them.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        match panel["type"].as_str().unwrap() {
            "row" => found.extend(panel["panels"].as_array().unwrap()),
            _ => found.push(panel),
        }
    }
    found
}

fn expressions(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().unwrap();
    assert!(!targets.is_empty(), "{}", panel["title"]);
    targets.iter().map(|target| target["expr"].as_str().unwrap()).collect()
}

/// One alert or recorded series.
#[derive(Debug)]
struct Rule {
    /// `alert` or `record`.
    kind: String,
    name: String,
    /// The rule's own lines.
    text: String,
    expression: String,
}

/// Takes a rule file apart by its indentation; `promtool check rules` says whether it is right.
fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for path in files("deploy/prometheus/rules", "yml") {
        let mut expression_indent = None;
        for line in fs::read_to_string(path).unwrap().lines() {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            let start = ["alert", "record"]
                .into_iter()
                .find_map(|kind| Some((kind, text.strip_prefix(&format!("- {kind}: "))?)));
            if let Some((kind, name)) = start {
                let (kind, name) = (kind.to_owned(), name.to_owned());
                rules.push(Rule { kind, name, text: String::new(), expression: String::new() });
                expression_indent = None;
            }
            let Some(rule) = rules.last_mut() else { continue };
            rule.text += &format!("{text}\n");
            if let Some(expression) = text.strip_prefix("expr: ") {
                expression_indent = Some(indent);
                rule.expression += expression.strip_prefix('|').unwrap_or(expression);
            } else if expression_indent.is_some_and(|of| indent > of) {
                rule.expression += &format!("\n{text}");
            } else {
                expression_indent = None;
            }
        }
    }
    rules
}

/// The exported series names, with the labels that each has.
fn exported() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut exported = BTreeMap::new();
    for metric in ALL {
        let labels: BTreeSet<_> = metric.labels.iter().chain(&TARGET_LABELS).copied().collect();
        match metric.kind {
            Kind::Counter | Kind::Gauge => {
                exported.insert(metric.name.to_owned(), labels);
            }
            Kind::Histogram => {
                let with_le = labels.iter().copied().chain(["le"]).collect();
                exported.insert(format!("{}_bucket", metric.name), with_le);
                exported.insert(format!("{}_sum", metric.name), labels.clone());
                exported.insert(format!("{}_count", metric.name), labels);
            }
        }
    }
    for name in PROCESS.into_iter().chain(PROMETHEUS) {
        exported.insert(name.to_owned(), TARGET_LABELS.into_iter().chain(["alertstate"]).collect());
    }
    for rule in rules().into_iter().filter(|rule| rule.kind == "record") {
        exported.insert(rule.name, TARGET_LABELS.into_iter().collect());
    }
    exported
}

fn check(place: &str, expression: &str, exported: &BTreeMap<String, BTreeSet<&str>>) {
    let found = mentions(expression);
    assert!(!found.metrics.is_empty(), "{place}: no metric in {expression}");
    let mut labels: BTreeSet<&str> = BTreeSet::new();
    for metric in &found.metrics {
        let known = exported.get(metric);
        labels.extend(known.unwrap_or_else(|| panic!("{place}: nothing exports `{metric}`: {expression}")));
    }
    for (metric, label) in &found.selected {
        assert!(exported[metric].contains(label.as_str()), "{place}: `{metric}` has no label `{label}`");
    }
    for label in &found.grouped {
        assert!(labels.contains(label.as_str()), "{place}: no metric has the label `{label}`: {expression}");
    }
}

#[test]
fn dashboards_use_only_what_is_exported() {
    let exported = exported();
    for dashboard in dashboards() {
        for panel in panels(&dashboard) {
            for expression in expressions(panel) {
                check(panel["title"].as_str().unwrap(), expression, &exported);
            }
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            check("annotation", annotation["expr"].as_str().unwrap(), &exported);
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if let Some(query) = variable["query"]["query"].as_str() {
                // The last argument is a label, not a metric.
                let arguments = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
                let (metric, label) = arguments.rsplit_once(", ").unwrap();
                check("variable", &format!("sum by ({label}) ({metric})"), &exported);
            }
        }
    }
}

#[test]
fn rules_use_only_what_is_exported() {
    let exported = exported();
    for rule in rules() {
        check(&rule.name, &rule.expression, &exported);
    }
}

#[test]
fn every_metric_is_shown() {
    let mut shown = BTreeSet::new();
    for dashboard in dashboards() {
        for panel in panels(&dashboard) {
            shown.extend(expressions(panel).into_iter().flat_map(|e| mentions(e).metrics));
        }
    }
    let is_shown = |name: &str| {
        shown.contains(name)
            || ["_bucket", "_sum", "_count"].iter().any(|s| shown.contains(&format!("{name}{s}")))
    };
    let missing: Vec<_> = ALL.iter().map(|m| m.name).chain(PROCESS).filter(|name| !is_shown(name)).collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
}

#[test]
fn every_panel_explains_itself() {
    for dashboard in dashboards() {
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            let description = panel["description"].as_str().unwrap();
            assert!(!title.is_empty() && description.ends_with('.'), "{title}: {description}");
            assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn dashboards_can_be_provisioned() {
    let mut uids = BTreeSet::new();
    for dashboard in dashboards() {
        let text = dashboard.to_string();
        // Both are filled in by an import dialogue that provisioning does not have.
        assert!(!text.contains("__inputs") && !text.contains("${DS_"));
        let uid = dashboard["uid"].as_str().unwrap().to_owned();
        assert!(!uid.is_empty() && uids.insert(uid));
        assert_eq!(dashboard.get("id"), None);
        // One crosshair and tooltip for all panels.
        assert_eq!(dashboard["graphTooltip"], 1);
        let mut ids = BTreeSet::new();
        let rows = dashboard["panels"].as_array().unwrap().iter().filter(|p| p["type"] == "row");
        for panel in panels(&dashboard).into_iter().chain(rows) {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
        }
        for range in
            text.split("rate(").skip(1).filter_map(|call| Some(call.split_once('[')?.1.split_once(']')?.0))
        {
            assert!(["$__rate_interval", "5m", "1h"].contains(&range), "{range}");
        }
    }
}

#[test]
fn panels_lie_side_by_side() {
    for dashboard in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    assert!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn every_alert_has_a_severity_a_summary_and_a_section_in_the_runbook() {
    let runbook = fs::read_to_string(root().join("deploy/prometheus/RUNBOOK.md")).unwrap();
    let sections: BTreeSet<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let tests = fs::read_to_string(root().join("deploy/prometheus/tests/tercet_test.yml")).unwrap();
    let rules = rules();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.kind == "alert").collect();
    for alert in &alerts {
        let name = &alert.name;
        assert!(
            alert.text.contains("severity: critical") || alert.text.contains("severity: warning"),
            "{name}"
        );
        assert!(alert.text.contains("summary: ") && alert.text.contains("description: "), "{name}");
        let link = format!("runbook: deploy/prometheus/RUNBOOK.md#{}\n", name.to_lowercase());
        assert!(alert.text.contains(&link), "{name}");
        assert!(
            tests.contains(&format!("alertname: {name}\n        exp_alerts:")),
            "{name} is never seen to fire"
        );
    }
    assert_eq!(alerts.iter().map(|alert| alert.name.as_str()).collect::<BTreeSet<_>>(), sections);
    for name in [
        "MemberDown",
        "OneMoreFailureLosesQuorum",
        "UnderReplicated",
        "HighErrorRatio",
        "SlowWrites",
        "DiskFilling",
        "PoolExhausted",
        "ClockConflict",
    ] {
        assert!(sections.contains(name), "{name}");
    }
}
