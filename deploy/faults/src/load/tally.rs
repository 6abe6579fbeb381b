//! What a client adds up beside its histories: outcomes, and how long it went unserved.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::Ended;

/// Absurd answers that are kept as evidence.
const ABSURD_MAX: usize = 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) uncertain: u64,
    /// The words of one that was refused.
    pub(crate) refusal: Option<String>,
    pub(crate) absurd: Vec<String>,
    /// The longest time in which one client got no answer to anything.
    pub(crate) longest_stall: Duration,
    pub(crate) longest_command: Duration,
}

impl Tally {
    pub(crate) fn add(&mut self, ended: &Ended, took: Duration) {
        self.operations += 1;
        match ended {
            Ended::Answered(_) => {
                self.acked += 1;
                self.longest_command = self.longest_command.max(took);
            }
            Ended::Refused(words) => {
                self.refused += 1;
                self.refusal.get_or_insert_with(|| words.clone());
            }
            Ended::Uncertain | Ended::Lost => self.uncertain += 1,
            Ended::Absurd(text) => {
                self.uncertain += 1;
                if self.absurd.len() < ABSURD_MAX {
                    self.absurd.push(text.clone());
                }
            }
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.operations += other.operations;
        self.acked += other.acked;
        self.refused += other.refused;
        self.uncertain += other.uncertain;
        self.refusal = self.refusal.take().or(other.refusal);
        self.absurd.extend(other.absurd);
        self.absurd.truncate(ABSURD_MAX);
        self.longest_stall = self.longest_stall.max(other.longest_stall);
        self.longest_command = self.longest_command.max(other.longest_command);
    }
}

/// Measures how long a client goes without an answer.
#[derive(Debug)]
pub(crate) struct Stall {
    since: Instant,
}

impl Stall {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now }
    }

    /// The client did not want anything for so long.
    pub(crate) fn excuse(&mut self, idle: Duration) {
        self.since += idle;
    }

    /// It is served. How long it was not.
    pub(crate) fn served(&mut self, now: Instant) -> Duration {
        let stall = self.lasting(now);
        self.since = now;
        stall
    }

    /// How long it has not been served.
    pub(crate) fn lasting(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use tercet_check::Answer;

    use super::*;

    #[test]
    fn outcomes_and_the_longest_waits_add_up() {
        let mut one = Tally::default();
        one.add(&Ended::Answered(Answer::Done), Duration::from_millis(3));
        one.add(&Ended::Refused("BUSY".to_owned()), Duration::from_secs(9));
        let mut other = Tally { longest_stall: Duration::from_secs(1), ..Tally::default() };
        other.add(&Ended::Lost, Duration::from_secs(9));
        other.add(&Ended::Absurd("x".to_owned()), Duration::from_secs(9));
        one.merge(other);
        assert_eq!((one.operations, one.acked, one.refused, one.uncertain), (4, 1, 1, 2));
        assert_eq!(one.longest_command, Duration::from_millis(3));
        assert_eq!(one.longest_stall, Duration::from_secs(1));
        assert_eq!(one.absurd, ["x"]);
        assert_eq!(one.refusal.as_deref(), Some("BUSY"));
    }

    #[test]
    fn a_pause_is_no_stall() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut stall = Stall::new(begun);
        assert_eq!(stall.served(at(2)), Duration::from_secs(2));
        stall.excuse(Duration::from_secs(5));
        assert_eq!(stall.served(at(8)), Duration::from_secs(1));
    }
}
