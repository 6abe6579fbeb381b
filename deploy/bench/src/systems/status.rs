//! What is read of a frontend's `/admin/status` and `/metrics`.

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) ready: bool,
    pub(crate) workers: Vec<Worker>,
    partitions: Partitions,
    ring: Ring,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Worker {
    pub(crate) id: String,
    /// Of which it is a replica.
    pub(crate) partitions: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Partitions {
    under_replicated: usize,
    moving: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Ring {
    change: Option<serde::de::IgnoredAny>,
    /// Why something that is to be done does not begin.
    waiting: Option<String>,
}

impl Status {
    /// Every partition has all its replicas, and none is on the move.
    pub(crate) fn is_whole(&self) -> bool {
        self.ready && self.partitions.under_replicated == 0 && !self.is_changing()
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.ring.change.is_some() || self.partitions.moving > 0
    }

    /// Why it is not as one might want it.
    pub(crate) fn says(&self) -> String {
        let Self { ready, workers, partitions: Partitions { under_replicated, moving }, ring } = self;
        let held: Vec<String> = workers.iter().map(|it| format!("{} {}", it.id, it.partitions)).collect();
        let waiting = ring.waiting.as_deref().map(|why| format!("; waiting: {why}")).unwrap_or_default();
        format!(
            "ready {ready}, {under_replicated} partitions under-replicated, {moving} moving, held: {}{waiting}",
            held.join(", ")
        )
    }

    /// How many partitions a worker holds; none if nobody knows it.
    pub(crate) fn holds(&self, worker: &str) -> usize {
        self.workers.iter().find(|it| it.id == worker).map_or(0, |it| it.partitions)
    }
}

/// The text of `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(pub(super) String);

impl Metrics {
    /// The sum of all series whose names and labels begin so.
    fn sum(&self, series: &str) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Whether the frontend reaches the worker.
    pub(crate) fn is_connected(&self, worker: &str) -> bool {
        self.sum(&format!("tercet_replica_connected{{worker=\"{worker}\"}}")) > 0.0
    }

    /// Keys that workers have missed and that wait to be sent.
    pub(crate) fn missed(&self) -> f64 {
        self.sum("tercet_repair_queue{")
    }

    /// Partitions and workers that wait to be compared because of a fault.
    pub(crate) fn waiting(&self) -> f64 {
        let of = |kind| self.sum(&format!("tercet_healing_backlog{{kind=\"{kind}\"}}"));
        of("touched") + of("delta")
    }

    /// No replica is looked at because of a fault or a start, nor waits to be.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.waiting() == 0.0 && self.sum("tercet_healing_tasks_under_way ") == 0.0
    }

    /// Comparisons of partitions because of a fault that have ended well since the frontend started.
    pub(crate) fn comparisons(&self) -> f64 {
        self.sum("tercet_healing_tasks_total{kind=\"touched\",outcome=\"done\"}")
    }

    /// Delta syncs that have ended well since the frontend started.
    pub(crate) fn delta_syncs(&self) -> f64 {
        self.sum("tercet_healing_tasks_total{kind=\"delta\",outcome=\"done\"}")
    }

    /// Keys that they have found in journals.
    pub(crate) fn journal_keys(&self) -> f64 {
        self.sum("tercet_journal_keys_total ")
    }
}

/// What was given to replicas that lacked it since the frontend started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Moved {
    /// By ring changes, comparisons and delta syncs.
    pub(crate) rows: f64,
    pub(crate) bytes: f64,
    /// Rows that reads have found to be lacking, those for the repair queue included.
    pub(crate) by_reads: f64,
}

impl Moved {
    pub(crate) fn of(metrics: &Metrics) -> Self {
        Self {
            rows: metrics.sum("tercet_copied_rows_total{result=\"sent\"}")
                + metrics.sum("tercet_repaired_rows_total{"),
            bytes: metrics.sum("tercet_copied_bytes_total ") + metrics.sum("tercet_repaired_bytes_total "),
            by_reads: metrics.sum("tercet_read_repairs_total{"),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            rows: self.rows - before.rows,
            bytes: self.bytes - before.bytes,
            by_reads: self.by_reads - before.by_reads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(change: &str, under_replicated: usize, moving: usize) -> Status {
        serde_json::from_str(&format!(
            r#"{{"ready":true,"epoch":3,"workers":[{{"id":"w1","health":"alive","partitions":7}}],
                "partitions":{{"total":9,"under_replicated":{under_replicated},"moving":{moving}}},
                "ring":{{"change":{change},"waiting":null}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_ring_at_rest_with_all_replicas_is_whole() {
        assert!(status("null", 0, 0).is_whole());
        assert!(!status("null", 1, 0).is_whole());
        assert!(!status("null", 0, 1).is_whole());
        let changing = status(r#"{"what":"w4 goes out","copies":3}"#, 0, 0);
        assert!(changing.is_changing() && !changing.is_whole());
        assert_eq!((changing.holds("w1"), changing.holds("w9")), (7, 0));
        let text = "ready true, 0 partitions under-replicated, 0 moving, held: w1 7";
        assert_eq!(changing.says(), text);
    }

    #[test]
    fn what_was_moved_is_read_from_the_metrics() {
        let text = "# HELP tercet_copied_rows_total Rows\ntercet_copied_rows_total{result=\"kept\"} 5\n\
                    tercet_copied_rows_total{result=\"sent\"} 120\ntercet_copied_bytes_total 9000\n\
                    tercet_repaired_rows_total{result=\"replicated\"} 7\n\
                    tercet_repaired_rows_total{result=\"rewritten\"} 1\ntercet_repaired_bytes_total 800\n\
                    tercet_read_repairs_total{result=\"replicated\"} 3\n";
        let moved = Moved::of(&Metrics(text.to_owned()));
        assert_eq!(moved, Moved { rows: 128.0, bytes: 9800.0, by_reads: 3.0 });
        assert_eq!(moved.since(Moved::of(&Metrics(String::new()))), moved);
    }

    #[test]
    fn what_is_to_be_waited_for_is_read_from_the_metrics() {
        let metrics = Metrics(
            "tercet_replica_connected{worker=\"w1\"} 1\ntercet_replica_connected{worker=\"w4\"} 0\n\
             tercet_repair_queue{worker=\"w1\"} 2\ntercet_repair_queue{worker=\"w4\"} 40\n\
             tercet_healing_backlog{kind=\"touched\"} 700\ntercet_healing_backlog{kind=\"delta\"} 1\n\
             tercet_healing_backlog{kind=\"scrub\"} 1024\n\
             tercet_healing_tasks_total{kind=\"copy\",outcome=\"done\"} 9\n\
             tercet_healing_tasks_total{kind=\"touched\",outcome=\"done\"} 8\n\
             tercet_healing_tasks_total{kind=\"delta\",outcome=\"done\"} 4\ntercet_journal_keys_total 5\n"
                .to_owned(),
        );
        assert!(metrics.is_connected("w1") && !metrics.is_connected("w4") && !metrics.is_connected("w9"));
        assert_eq!((metrics.missed(), metrics.waiting()), (42.0, 701.0));
        assert!(!metrics.is_at_rest() && Metrics(String::new()).is_at_rest());
        let ended = (metrics.comparisons(), metrics.delta_syncs(), metrics.journal_keys());
        assert_eq!(ended, (8.0, 4.0, 5.0));
    }
}
