//! A linearizability checker for one counter: Wing and Gong's search with Lowe's memoisation ("Testing for
//! linearizability", 2017). An operation with an unknown outcome may take effect at any time after its call, or never.

use std::collections::HashSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Made this number; `None`: outcome unknown.
    Incr(Option<i64>),
    /// Saw this number (0: no value).
    Get(i64),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) kind: Kind,
    pub(super) called: u64,
    /// `u64::MAX`: never.
    pub(super) returned: u64,
}

/// Whether some order of the events explains all answers. At most 64 events.
pub(super) fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= 64);
    let must = events.iter().enumerate().filter(|(_, e)| e.returned != u64::MAX);
    let must = must.fold(0u64, |mask, (i, _)| mask | 1 << i);
    let mut seen = HashSet::new();
    let mut stack = vec![(0u64, 0i64)];
    while let Some((done, value)) = stack.pop() {
        if done & must == must {
            return true;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        let open = || events.iter().enumerate().filter(|(i, _)| done & (1 << i) == 0);
        // Only what was called before every open operation's return may come next.
        let horizon = open().map(|(_, e)| e.returned).min().unwrap_or(u64::MAX);
        for (i, event) in open().filter(|(_, e)| e.called <= horizon) {
            let next = match event.kind {
                Kind::Incr(Some(made)) if made == value + 1 => made,
                Kind::Incr(None) => value + 1,
                Kind::Get(saw) if saw == value => value,
                _ => continue,
            };
            stack.push((done | 1 << i, next));
        }
    }
    false
}

#[test]
fn the_checker_knows_right_from_wrong() {
    let event = |kind, called, returned| Event { kind, called, returned };
    let lost = [event(Kind::Incr(Some(1)), 0, 1), event(Kind::Incr(Some(1)), 2, 3)];
    assert!(!is_linearizable(&lost));
    let stale = [event(Kind::Incr(Some(1)), 0, 1), event(Kind::Get(0), 2, 3)];
    assert!(!is_linearizable(&stale));
    let concurrent = [event(Kind::Incr(Some(1)), 0, 5), event(Kind::Get(0), 2, 3), event(Kind::Get(1), 4, 6)];
    assert!(is_linearizable(&concurrent));
    let unknown = [
        event(Kind::Incr(None), 0, u64::MAX),
        event(Kind::Get(0), 1, 2),
        event(Kind::Get(1), 3, 4),
        event(Kind::Incr(Some(2)), 5, 6),
    ];
    assert!(is_linearizable(&unknown));
    let undone = [event(Kind::Incr(None), 0, u64::MAX), event(Kind::Get(1), 1, 2), event(Kind::Get(0), 3, 4)];
    assert!(!is_linearizable(&undone));
}
