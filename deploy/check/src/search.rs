//! The search for an order: Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memoisation of
//! Lowe ("Testing for linearizability", 2017).
//!
//! A configuration is the set of operations that have taken effect, and the state that they made. From each, any
//! operation may come next that was called before every missing answer came. A configuration reached twice is explored
//! once.
//!
//! Two things keep unknown outcomes from doubling the work each. One that would change nothing is not taken: it may as
//! well never happen. And of several interchangeable ones the earliest called is taken first: wherever a later one fits,
//! it fits.

use std::collections::HashSet;
use std::hash::Hash;

use crate::history::{Operation, Outcome, Span};

/// What one key of the store does, one operation at a time.
pub trait Model {
    type Command;
    type Answer;
    type State: Clone + Eq + Hash;

    fn initial(&self) -> Self::State;

    /// Whether the two do the same to every state, whenever they were called.
    fn interchangeable(&self, one: &Self::Command, other: &Self::Command) -> bool;

    /// Every state that `command`, taking effect within `span`, can leave behind `state` with this `answer`; `None`
    /// stands for any answer. Several if time may or may not have changed the state before; none if the answer is
    /// impossible here.
    fn step(
        &self,
        state: &Self::State,
        command: &Self::Command,
        answer: Option<&Self::Answer>,
        span: Span,
    ) -> Vec<Self::State>;
}

/// What a history of one key shows. Operations are named by their place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In this order everything is explained. Unknown outcomes that are not in it need never have happened.
    Linearizable { order: Vec<usize> },
    /// No order explains all answers. This one explains the most; one of `next` had to follow, and none can.
    Violation { order: Vec<usize>, next: Vec<usize> },
    /// The search was given up. Never to be taken for a pass.
    Undecided { visited: usize },
}

impl Verdict {
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable { .. })
    }
}

/// Looks for an order, through at most `budget` configurations.
pub fn check<M: Model>(model: &M, history: &[Operation<M::Command, M::Answer>], budget: usize) -> Verdict {
    Search::new(model, history).run(budget)
}

/// The operations that have taken effect. `Search::required` and `Search::open` are sorted by call, so those that are
/// required form a prefix of nearly all, and a few beyond it: small to hash, however long the history.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done {
    /// The first `prefix` required ones, but not the next,
    prefix: usize,
    /// these required ones behind it, sorted,
    ahead: Vec<usize>,
    /// and these open ones, sorted.
    open: Vec<usize>,
}

/// How a configuration was reached, to tell the order in the end.
struct Step {
    from: Option<usize>,
    operation: usize,
    depth: usize,
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Command, M::Answer>],
    /// Those with an answer, by call.
    required: Vec<usize>,
    /// Those without, by call.
    open: Vec<usize>,
    /// For each of `open` the one before it that is interchangeable with it.
    equal_before: Vec<Option<usize>>,
}

enum Pick {
    Required(usize),
    Open(usize),
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Operation<M::Command, M::Answer>]) -> Self {
        let those = |wanted: fn(&Outcome<M::Answer>) -> bool| {
            let mut some: Vec<usize> = (0..history.len()).filter(|&i| wanted(&history[i].outcome)).collect();
            some.sort_by_key(|&i| history[i].called);
            some
        };
        let required = those(|outcome| matches!(outcome, Outcome::Answered { .. }));
        let open = those(|outcome| matches!(outcome, Outcome::Uncertain));
        let equal =
            |i: usize, j: usize| model.interchangeable(&history[open[i]].command, &history[open[j]].command);
        let equal_before = (0..open.len()).map(|i| (0..i).rev().find(|&j| equal(i, j))).collect();
        Self { model, history, required, open, equal_before }
    }

    fn run(&self, budget: usize) -> Verdict {
        let start = Done { prefix: 0, ahead: Vec::new(), open: Vec::new() };
        let mut steps: Vec<Step> = Vec::new();
        let mut seen = HashSet::new();
        let mut deepest: (Option<usize>, Done) = (None, start.clone());
        let mut stack = vec![(start, self.model.initial(), None::<usize>)];
        while let Some((done, state, reached)) = stack.pop() {
            if done.prefix == self.required.len() {
                return Verdict::Linearizable { order: order(&steps, reached) };
            }
            if !seen.insert((done.clone(), state.clone())) {
                continue;
            }
            if seen.len() > budget {
                return Verdict::Undecided { visited: budget };
            }
            let depth = |at: Option<usize>| at.map_or(0, |step| steps[step].depth);
            let here = depth(reached);
            if here > depth(deepest.0) {
                deepest = (reached, done.clone());
            }
            for pick in self.candidates(&done) {
                let operation = self.operation(&pick);
                let event = &self.history[operation];
                let after = self.model.step(&state, &event.command, event.answer(), event.span());
                for next in after {
                    if matches!(pick, Pick::Open(_)) && next == state {
                        continue;
                    }
                    steps.push(Step { from: reached, operation, depth: here + 1 });
                    stack.push((self.with(&done, &pick), next, Some(steps.len() - 1)));
                }
            }
        }
        let (reached, done) = deepest;
        let next = self.candidates(&done).filter(|pick| matches!(pick, Pick::Required(_)));
        Verdict::Violation {
            order: order(&steps, reached),
            next: next.map(|pick| self.operation(&pick)).collect(),
        }
    }

    fn operation(&self, pick: &Pick) -> usize {
        match *pick {
            Pick::Required(i) => self.required[i],
            Pick::Open(i) => self.open[i],
        }
    }

    /// What may come next, the likeliest last, where the stack takes it from: answered ones in order of call.
    fn candidates(&self, done: &Done) -> impl Iterator<Item = Pick> + use<M> {
        let mut required = Vec::new();
        let mut horizon = u64::MAX;
        for i in done.prefix..self.required.len() {
            let span = self.history[self.required[i]].span();
            if span.called > horizon {
                break;
            }
            if done.ahead.binary_search(&i).is_err() {
                // An answer that came before the rest was called leaves nothing of the rest as a candidate.
                horizon = horizon.min(span.returned);
                required.push(i);
            }
        }
        let taken = |i: usize| done.open.binary_search(&i).is_ok();
        let open: Vec<usize> = (0..self.open.len())
            .take_while(|&i| self.history[self.open[i]].called <= horizon)
            .filter(|&i| !taken(i) && self.equal_before[i].is_none_or(taken))
            .collect();
        open.into_iter().map(Pick::Open).chain(required.into_iter().rev().map(Pick::Required))
    }

    fn with(&self, done: &Done, pick: &Pick) -> Done {
        let mut done = done.clone();
        match *pick {
            Pick::Open(i) => insert(&mut done.open, i),
            Pick::Required(i) => {
                insert(&mut done.ahead, i);
                let reached =
                    done.ahead.iter().zip(done.prefix..).take_while(|(at, next)| *at == next).count();
                done.prefix += reached;
                done.ahead.drain(..reached);
            }
        }
        done
    }
}

fn insert(sorted: &mut Vec<usize>, item: usize) {
    let place = sorted.partition_point(|&other| other < item);
    sorted.insert(place, item);
}

fn order(steps: &[Step], mut reached: Option<usize>) -> Vec<usize> {
    let mut order = Vec::new();
    while let Some(step) = reached {
        order.push(steps[step].operation);
        reached = steps[step].from;
    }
    order.reverse();
    order
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A register of numbers, to test the search by itself: writes return nothing, reads what they saw.
    struct Register;

    #[derive(Clone, Debug, PartialEq)]
    enum Access {
        Write(u32),
        Read,
    }

    impl Model for Register {
        type Command = Access;
        type Answer = u32;
        type State = u32;

        fn initial(&self) -> u32 {
            0
        }

        fn interchangeable(&self, one: &Access, other: &Access) -> bool {
            one == other
        }

        fn step(&self, state: &u32, command: &Access, answer: Option<&u32>, _: Span) -> Vec<u32> {
            match command {
                Access::Write(value) => vec![*value],
                Access::Read if answer.is_none_or(|saw| saw == state) => vec![*state],
                Access::Read => Vec::new(),
            }
        }
    }

    fn write(value: u32, called: u64, at: u64) -> Operation<Access, u32> {
        Operation::answered(Access::Write(value), called, 0, at)
    }

    fn read(saw: u32, called: u64, at: u64) -> Operation<Access, u32> {
        Operation::answered(Access::Read, called, saw, at)
    }

    fn judge(history: &[Operation<Access, u32>]) -> Verdict {
        check(&Register, history, 100_000)
    }

    #[test]
    fn an_empty_history_is_fine() {
        assert_eq!(judge(&[]), Verdict::Linearizable { order: vec![] });
    }

    #[test]
    fn the_order_of_the_verdict_explains_the_answers() {
        let verdict = judge(&[read(1, 0, 9), write(2, 3, 4), write(1, 1, 2), read(2, 5, 6)]);
        assert_eq!(verdict, Verdict::Linearizable { order: vec![2, 0, 1, 3] });
    }

    #[test]
    fn a_stale_read_is_found_and_named() {
        let verdict = judge(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]);
        assert_eq!(verdict, Verdict::Violation { order: vec![0, 1], next: vec![2] });
    }

    #[test]
    fn two_readers_must_agree_on_the_order_of_writes() {
        let writes = || [write(1, 0, 9), write(2, 0, 9)];
        let forth = [read(1, 10, 11), read(2, 12, 13)];
        assert!(!judge(&writes().into_iter().chain(forth).collect::<Vec<_>>()).is_linearizable());
        let during = [read(1, 1, 2), read(2, 3, 4), read(1, 5, 6)];
        assert!(!judge(&writes().into_iter().chain(during).collect::<Vec<_>>()).is_linearizable());
        let fine = [read(1, 1, 2), read(2, 3, 4), read(2, 5, 6)];
        assert!(judge(&writes().into_iter().chain(fine).collect::<Vec<_>>()).is_linearizable());
    }

    #[test]
    fn what_returns_when_another_is_called_is_concurrent_with_it() {
        assert!(judge(&[write(1, 0, 5), read(0, 5, 6)]).is_linearizable());
        assert!(!judge(&[write(1, 0, 5), read(0, 6, 7)]).is_linearizable());
    }

    #[test]
    fn an_unknown_write_takes_effect_late_or_never_but_only_once() {
        let unknown = || Operation::uncertain(Access::Write(7), 2);
        assert!(judge(&[unknown(), read(0, 3, 4)]).is_linearizable());
        assert!(judge(&[unknown(), read(0, 3, 4), read(7, 5, 6)]).is_linearizable());
        assert!(!judge(&[read(7, 0, 1), unknown()]).is_linearizable(), "not before its call");
        let twice = [unknown(), read(7, 3, 4), write(1, 5, 6), read(7, 7, 8)];
        assert!(!judge(&twice).is_linearizable());
        let two = [unknown(), unknown(), read(7, 3, 4), write(1, 5, 6), read(7, 7, 8)];
        assert!(judge(&two).is_linearizable(), "two may");
    }

    #[test]
    fn a_refused_write_must_leave_no_trace() {
        let refused = || Operation { command: Access::Write(7), called: 0, outcome: Outcome::NotApplied };
        assert!(judge(&[refused(), read(0, 1, 2)]).is_linearizable());
        assert!(!judge(&[refused(), read(7, 1, 2)]).is_linearizable());
    }

    #[test]
    fn a_search_beyond_its_budget_is_undecided() {
        // Twenty different unknown writes make a million sets, and no read of a value that nobody wrote.
        let mut history: Vec<_> = (1..=20).map(|v| Operation::uncertain(Access::Write(v), 0)).collect();
        history.push(read(99, 1, 2));
        assert_eq!(check(&Register, &history, 1000), Verdict::Undecided { visited: 1000 });
    }

    #[test]
    fn equal_unknown_writes_do_not_multiply() {
        let mut history: Vec<_> = (0..40).map(|_| Operation::uncertain(Access::Write(1), 0)).collect();
        history.push(read(99, 1, 2));
        assert!(matches!(check(&Register, &history, 1000), Verdict::Violation { .. }));
    }

    #[test]
    fn a_long_history_is_judged_within_a_few_configurations_each() {
        let mut history = Vec::new();
        for i in 0..5000u32 {
            let at = u64::from(i) * 10;
            history.push(write(i + 1, at, at + 5));
            history.push(read(i + 1, at + 1, at + 9));
        }
        assert!(check(&Register, &history, 40_000).is_linearizable());
        history.push(read(4999, 60_000, 60_001));
        assert!(matches!(check(&Register, &history, 40_000), Verdict::Violation { .. }));
    }

    /// Whether any order of any choice of open operations explains the answers: no memory, no cleverness.
    fn brute_force(history: &[Operation<Access, u32>], done: u32, state: u32) -> bool {
        let left = || (0..history.len()).filter(|i| done & (1 << i) == 0);
        let answered = |i: &usize| history[*i].answer().is_some();
        if left().filter(answered).count() == 0 {
            return true;
        }
        let horizon = left().map(|i| history[i].span().returned).min().unwrap_or(u64::MAX);
        left().filter(|&i| history[i].outcome != Outcome::NotApplied && history[i].called <= horizon).any(
            |i| {
                let event = &history[i];
                let after = Register.step(&state, &event.command, event.answer(), event.span());
                after.into_iter().any(|next| brute_force(history, done | 1 << i, next))
            },
        )
    }

    fn any_operation() -> impl Strategy<Value = Operation<Access, u32>> {
        let command = prop_oneof![(1..3u32).prop_map(Access::Write), Just(Access::Read)];
        let outcome = prop_oneof![
            4 => (0..3u32, 0..8u64).prop_map(|(answer, at)| Outcome::Answered { answer, at }),
            1 => Just(Outcome::NotApplied),
            2 => Just(Outcome::Uncertain),
        ];
        (command, 0..12u64, outcome).prop_map(|(command, called, outcome)| {
            let outcome = match outcome {
                Outcome::Answered { answer, at } => Outcome::Answered { answer, at: called + at },
                other => other,
            };
            Operation { command, called, outcome }
        })
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_trying_everything(history in vec(any_operation(), 0..7)) {
            prop_assert_eq!(judge(&history).is_linearizable(), brute_force(&history, 0, 0));
        }
    }
}
