//! What this program reads of `tercet status --json`. What an older version does not tell is as it was then.

use std::collections::BTreeSet;

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Status {
    ready: bool,
    workers: Vec<Worker>,
    partitions: Partitions,
    #[serde(default)]
    ring: Ring,
}

#[derive(Clone, Debug, Deserialize)]
struct Worker {
    id: String,
    health: String,
    breaker: String,
    #[serde(default = "member")]
    role: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Partitions {
    under_replicated: usize,
    #[serde(default)]
    moving: usize,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Ring {
    /// Why something that is to be done does not begin.
    waiting: Option<String>,
}

fn member() -> String {
    "member".to_owned()
}

impl Status {
    /// Why the cluster is not whole; `None` if every worker but the retired is alive, asked and in the ring, and every
    /// key has all its replicas, none of them on the move.
    ///
    /// A worker that has come back from the dead again and again is made to wait before it may join, longer each time.
    /// That is as it should be: all keys have their replicas on others.
    pub(super) fn flaw(&self, retired: &BTreeSet<String>) -> Option<String> {
        let damped = |worker: &Worker| {
            let waiting = self.ring.waiting.as_deref();
            worker.role == "spare" && waiting.is_some_and(|why| why.contains("has come back"))
        };
        for worker in self.workers.iter().filter(|worker| !retired.contains(&worker.id)) {
            let Worker { id, health, breaker, role } = worker;
            if health != "alive" || breaker != "closed" {
                return Some(format!("{id} is {health}, its breaker {breaker}"));
            }
            if role != "member" && !damped(worker) {
                return Some(format!("{id} is {role}"));
            }
        }
        let Partitions { under_replicated, moving } = self.partitions;
        let flaw = match (self.ready, under_replicated, moving) {
            (false, ..) => "it is not ready".to_owned(),
            (true, 0, 0) => return None,
            (true, 0, moving) => format!("{moving} partitions are changing hands"),
            (true, lacking, _) => format!("{lacking} partitions are under-replicated"),
        };
        Some(match &self.ring.waiting {
            Some(why) => format!("{flaw}; waiting: {why}"),
            None => flaw,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(ready: bool, worker: &str, partitions: &str, ring: &str) -> Option<String> {
        let text = format!(
            r#"{{"ready":{ready},"epoch":1,"workers":[{{"id":"w1","breaker":"closed",{worker}}}],
                "partitions":{{"total":1024,{partitions}}}{ring}}}"#
        );
        serde_json::from_str::<Status>(&text).unwrap().flaw(&BTreeSet::new())
    }

    #[test]
    fn a_cluster_that_is_not_whole_says_why() {
        let alive = r#""health":"alive""#;
        let full = r#""under_replicated":0"#;
        assert_eq!(flaw(true, alive, full, ""), None);
        assert_eq!(flaw(false, alive, full, "").unwrap(), "it is not ready");
        assert_eq!(flaw(true, r#""health":"dead""#, full, "").unwrap(), "w1 is dead, its breaker closed");
        assert_eq!(
            flaw(true, alive, r#""under_replicated":9"#, "").unwrap(),
            "9 partitions are under-replicated"
        );
        assert_eq!(
            flaw(true, alive, r#""under_replicated":0,"moving":3"#, r#","ring":{"waiting":"x"}"#).unwrap(),
            "3 partitions are changing hands; waiting: x"
        );
    }

    #[test]
    fn a_spare_worker_is_a_flaw_unless_it_is_kept_waiting_for_its_past() {
        let spare = r#""health":"alive","role":"spare""#;
        let full = r#""under_replicated":0"#;
        assert_eq!(flaw(true, spare, full, "").unwrap(), "w1 is spare");
        let waiting =
            r#","ring":{"change":null,"waiting":"w1 has come back 3 times; it comes in after 4s more"}"#;
        assert_eq!(flaw(true, spare, full, waiting), None);
    }

    #[test]
    fn who_has_retired_may_be_dead() {
        let text = r#"{"ready":true,"workers":[{"id":"w5","health":"dead","breaker":"open"}],
            "partitions":{"under_replicated":0}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.flaw(&BTreeSet::from(["w5".to_owned()])), None);
        assert!(status.flaw(&BTreeSet::new()).is_some());
    }
}
