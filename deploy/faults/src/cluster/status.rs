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
    /// That it is a replica of.
    partitions: Option<usize>,
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
    /// Why the cluster is not whole; `None` if every worker but the retired is alive, asked and has its share of the ring,
    /// and every key has all its replicas, none of them on the move.
    ///
    /// A worker that has come back from the dead again and again is made to wait before it gets its share, longer each
    /// time. That is as it should be: all keys have their replicas on others. What it is called meanwhile depends on how far
    /// the ring had let it go: it is spare, or a member that holds nothing, or its id stands for data that it lost.
    pub(super) fn flaw(&self, retired: &BTreeSet<String>) -> Option<String> {
        let damps = self.ring.waiting.as_deref().is_some_and(|why| why.contains("has come back"));
        for worker in self.workers.iter().filter(|worker| !retired.contains(&worker.id)) {
            let Worker { id, health, breaker, role, partitions } = worker;
            let idle = *partitions == Some(0);
            let damped = damps && idle && role != "leaving";
            // A spare is not asked, and has no link.
            let asked = breaker == "closed" || damped && breaker == "disconnected";
            if health != "alive" || !asked {
                return Some(format!("{id} is {health}, its breaker {breaker}"));
            }
            if role != "member" && !damped {
                return Some(format!("{id} is {role}"));
            }
            if idle && !damped {
                return Some(format!("{id} is {role}, and holds nothing"));
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
    fn a_worker_without_a_share_is_a_flaw_unless_it_is_kept_waiting_for_its_past() {
        let full = r#""under_replicated":0"#;
        let waiting =
            r#","ring":{"change":null,"waiting":"w1 has come back 3 times; it comes in after 4 s more"}"#;
        let another = r#","ring":{"waiting":"no spare worker"}"#;
        let idle = |role| format!(r#""health":"alive","role":"{role}","partitions":0"#);
        for role in ["spare", "joining", "replaced"] {
            assert_eq!(flaw(true, &idle(role), full, "").unwrap(), format!("w1 is {role}"));
            assert_eq!(flaw(true, &idle(role), full, another).unwrap(), format!("w1 is {role}"));
            assert_eq!(flaw(true, &idle(role), full, waiting), None, "{role}");
        }
        assert_eq!(flaw(true, &idle("member"), full, "").unwrap(), "w1 is member, and holds nothing");
        assert_eq!(flaw(true, &idle("member"), full, waiting), None);
        assert_eq!(flaw(true, &idle("leaving"), full, waiting).unwrap(), "w1 is leaving");
        let holds = r#""health":"alive","role":"replaced","partitions":700"#;
        assert_eq!(
            flaw(true, holds, full, waiting).unwrap(),
            "w1 is replaced",
            "others count on what it lost"
        );
    }

    #[test]
    fn a_worker_without_a_link_is_a_flaw_unless_it_is_kept_waiting() {
        let text = |waiting| {
            format!(
                r#"{{"ready":true,"workers":[{{"id":"w1","health":"alive","breaker":"disconnected","role":"spare",
                    "partitions":0}}],"partitions":{{"under_replicated":0}},"ring":{{"waiting":{waiting}}}}}"#
            )
        };
        let flaw = |waiting| serde_json::from_str::<Status>(&text(waiting)).unwrap().flaw(&BTreeSet::new());
        assert_eq!(flaw(r#""w1 has come back 3 times""#), None);
        assert_eq!(flaw("null").unwrap(), "w1 is alive, its breaker disconnected");
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
