//! CLIENT PAUSE: commands of all connections wait until a time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Writes,
    All,
}

/// The longest pause, so that a slip of the finger does not stop a store for good.
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Default)]
pub struct Pause {
    /// Whether to look at `current` at all: the usual case costs one load.
    set: AtomicBool,
    current: Mutex<Option<(Scope, Instant)>>,
}

impl Pause {
    /// As in Redis, a second pause neither shortens nor weakens the first.
    pub fn pause(&self, scope: Scope, until: Instant, now: Instant) {
        let mut current = self.current.lock();
        *current = Some(match *current {
            Some((old_scope, old_until)) if old_until > now => (scope.max(old_scope), until.max(old_until)),
            _ => (scope, until),
        });
        self.set.store(true, Ordering::Release);
    }

    /// The caller wakes the connections.
    pub fn unpause(&self) {
        *self.current.lock() = None;
        self.set.store(false, Ordering::Release);
    }

    /// Until when a command must wait, if it must.
    pub fn holds(&self, write: bool, now: Instant) -> Option<Instant> {
        if !self.set.load(Ordering::Acquire) {
            return None;
        }
        let (scope, until) = (*self.current.lock())?;
        (until > now && (write || scope == Scope::All)).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_add_up_and_end() {
        let (pause, now) = (Pause::default(), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        pause.pause(Scope::Writes, at(10), now);
        assert_eq!(pause.holds(true, now), Some(at(10)));
        assert_eq!(pause.holds(false, now), None);
        pause.pause(Scope::All, at(5), now);
        pause.pause(Scope::Writes, at(1), now);
        assert_eq!(pause.holds(false, now), Some(at(10)));
        assert_eq!(pause.holds(true, at(10)), None);
        pause.unpause();
        assert_eq!(pause.holds(true, now), None);
    }
}
