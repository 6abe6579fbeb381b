//! A linearizability checker for one key: Wing and Gong's search with Lowe's memoisation ("Testing for
//! linearizability", 2017). An operation with an unknown outcome may take effect at any time after its call, or never.

use std::collections::HashSet;

/// An operation and its answer; `None` inside: the outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Made this number.
    Incr(Option<i64>),
    /// With `expires`, the value may be gone at any time after; but then it stays gone.
    Set {
        value: i64,
        expires: bool,
    },
    /// Whether it set the value.
    SetNx(i64, Option<bool>),
    /// Whether there was a value.
    Del(Option<bool>),
    Flush,
    Get(Option<i64>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) kind: Kind,
    pub(super) called: u64,
    /// `u64::MAX`: never.
    pub(super) returned: u64,
}

/// The key's value, and whether it expires.
type State = Option<(i64, bool)>;

impl Kind {
    /// The state after the operation; `None` if it cannot have given its answer here.
    fn after(self, state: State) -> Option<State> {
        let fits = |answer: Option<bool>, fact: bool| answer.is_none_or(|a| a == fact);
        match self {
            Self::Incr(made) => {
                let next = state.map_or(0, |(value, _)| value) + 1;
                made.is_none_or(|made| made == next).then_some(Some((next, false)))
            }
            Self::Set { value, expires } => Some(Some((value, expires))),
            Self::SetNx(value, did) => fits(did, state.is_none()).then_some(state.or(Some((value, false)))),
            Self::Del(did) => fits(did, state.is_some()).then_some(None),
            Self::Flush => Some(None),
            Self::Get(saw) => (saw == state.map(|(value, _)| value)).then_some(state),
        }
    }
}

/// Whether some order of the events explains all answers. At most 64 events.
pub(super) fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= 64);
    let must = events.iter().enumerate().filter(|(_, e)| e.returned != u64::MAX);
    let must = must.fold(0u64, |mask, (i, _)| mask | 1 << i);
    let mut seen = HashSet::new();
    let mut stack = vec![(0u64, None)];
    while let Some((done, state)) = stack.pop() {
        if done & must == must {
            return true;
        }
        if !seen.insert((done, state)) {
            continue;
        }
        if let Some((_, true)) = state {
            stack.push((done, None));
        }
        let open = || events.iter().enumerate().filter(|(i, _)| done & (1 << i) == 0);
        // Only what was called before every open operation's return may come next.
        let horizon = open().map(|(_, e)| e.returned).min().unwrap_or(u64::MAX);
        for (i, event) in open().filter(|(_, e)| e.called <= horizon) {
            if let Some(next) = event.kind.after(state) {
                stack.push((done | 1 << i, next));
            }
        }
    }
    false
}

#[test]
fn the_checker_knows_right_from_wrong() {
    let event = |kind, called, returned| Event { kind, called, returned };
    let lost = [event(Kind::Incr(Some(1)), 0, 1), event(Kind::Incr(Some(1)), 2, 3)];
    assert!(!is_linearizable(&lost));
    let stale = [event(Kind::Incr(Some(1)), 0, 1), event(Kind::Get(None), 2, 3)];
    assert!(!is_linearizable(&stale));
    let concurrent =
        [event(Kind::Incr(Some(1)), 0, 5), event(Kind::Get(None), 2, 3), event(Kind::Get(Some(1)), 4, 6)];
    assert!(is_linearizable(&concurrent));
    let unknown = [
        event(Kind::Incr(None), 0, u64::MAX),
        event(Kind::Get(None), 1, 2),
        event(Kind::Get(Some(1)), 3, 4),
        event(Kind::Incr(Some(2)), 5, 6),
    ];
    assert!(is_linearizable(&unknown));
    let undone =
        [event(Kind::Incr(None), 0, u64::MAX), event(Kind::Get(Some(1)), 1, 2), event(Kind::Get(None), 3, 4)];
    assert!(!is_linearizable(&undone));
}

#[test]
fn the_checker_knows_what_comes_back() {
    let event = |kind, at| Event { kind, called: at, returned: at };
    let set = |expires| event(Kind::Set { value: 7, expires }, 0);
    let seen = |value, at| event(Kind::Get(value), at);
    assert!(is_linearizable(&[set(true), seen(Some(7), 1), seen(None, 2)]));
    assert!(!is_linearizable(&[set(true), seen(None, 1), seen(Some(7), 2)]));
    assert!(!is_linearizable(&[set(false), seen(None, 1)]));
    assert!(!is_linearizable(&[set(false), event(Kind::Del(Some(true)), 1), seen(Some(7), 2)]));
    assert!(!is_linearizable(&[set(false), event(Kind::Flush, 1), seen(Some(7), 2)]));
    assert!(!is_linearizable(&[set(false), event(Kind::SetNx(8, Some(true)), 1)]));
    assert!(is_linearizable(&[set(false), event(Kind::SetNx(8, Some(false)), 1), seen(Some(7), 2)]));
}
