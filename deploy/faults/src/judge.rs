//! Holds what clients were told against itself: is there an order that explains it, and is the end what it must be?

use std::fmt::Write;

use tercet_check::{Answer, Command, CounterFault, DEFAULT_BUDGET, Outcome, StringModel, Verdict, check};

use crate::load::{CounterRecord, Event, KeyRecord, Record};
use crate::violation::{Class, Violation};

/// Expiry has the resolution of a millisecond and is judged by the clock of the same machine. Microseconds.
const MODEL: StringModel = StringModel { tolerance: 20_000 };

/// Everything that is wrong with what clients saw.
pub(crate) fn judge(record: &Record) -> Vec<Violation> {
    let absurd = record.tally.absurd.iter();
    let absurd = absurd.map(|text| Violation::new(Class::Wrong, format!("an answer that cannot be: {text}")));
    let keys = record.keys.iter().filter_map(of_key);
    absurd.chain(record.counters.iter().flat_map(of_counter)).chain(keys).collect()
}

fn of_counter(record: &CounterRecord) -> Vec<Violation> {
    let value = match &record.value {
        Ok(value) => *value,
        Err(why) => return vec![Violation::of_key(Class::Lost, &record.name, why, String::new())],
    };
    let faults = record.counter.faults(value).into_iter();
    faults
        .map(|fault| {
            let class = match fault {
                CounterFault::BelowAcknowledged { .. } => Class::Lost,
                CounterFault::MadeTwice { .. } | CounterFault::AboveAllSent { .. } => Class::Wrong,
            };
            Violation::of_key(class, &record.name, fault.to_string(), String::new())
        })
        .collect()
}

fn of_key(record: &KeyRecord) -> Option<Violation> {
    let violation = |class, text: String, story| Some(Violation::of_key(class, &record.name, text, story));
    let last = match &record.last {
        Ok(last) => last,
        Err(why) => return violation(Class::Lost, why.clone(), String::new()),
    };
    let whole: Vec<Event> = record.history.iter().chain([last]).cloned().collect();
    match check(&MODEL, &whole, DEFAULT_BUDGET) {
        Verdict::Linearizable { .. } => None,
        Verdict::Undecided { visited } => {
            let text = format!("undecided after {visited} configurations");
            violation(Class::Undecided, text, story(&whole, None))
        }
        verdict @ Verdict::Violation { .. } => {
            // What only the last read contradicts was there once, as far as clients saw.
            let was_fine = check(&MODEL, &record.history, DEFAULT_BUDGET).is_linearizable();
            let (class, text) = match was_fine {
                true => (Class::Lost, "the last read contradicts what was acknowledged"),
                false => (Class::Wrong, "no order explains what clients saw"),
            };
            violation(class, text.to_owned(), story(&whole, Some(&verdict)))
        }
    }
}

/// The history of a key, for violations that were found elsewhere.
pub(crate) fn history_of(record: &Record, key: &str) -> String {
    let found = record.keys.iter().find(|candidate| candidate.name == key);
    found.map(|found| story(&found.history, None)).unwrap_or_default()
}

/// A history as people can follow it, and how far it can be explained.
fn story(history: &[Event], verdict: Option<&Verdict>) -> String {
    let mut by_call: Vec<usize> = (0..history.len()).collect();
    by_call.sort_by_key(|&i| history[i].called);
    let mut text = String::new();
    for i in by_call {
        let _ = writeln!(text, "  [{i:>4}] {}", line(&history[i]));
    }
    if let Some(Verdict::Violation { order, next }) = verdict {
        let _ = writeln!(text, "  explained at most: {order:?}");
        let _ = writeln!(text, "  then one of these had to follow, and none can: {next:?}");
    }
    text
}

fn line(event: &Event) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let ms = |micros: u64| format!("{:>12.3} ms", micros as f64 / 1000.0);
    let ended = match &event.outcome {
        Outcome::Answered { answer, at } => format!("{}  {}", ms(*at), answer_text(answer)),
        Outcome::NotApplied => format!("{:>15}  refused", "–"),
        Outcome::Uncertain => format!("{:>15}  uncertain", "?"),
    };
    format!("{} to {ended} ← {}", ms(event.called), command_text(&event.command))
}

fn command_text(command: &Command) -> String {
    match command {
        Command::Get => "GET".to_owned(),
        Command::Set { value, ttl: None } => format!("SET {}", value.escape_ascii()),
        Command::Set { value, ttl: Some(ttl) } => format!("SET {} PX {}", value.escape_ascii(), ttl / 1000),
        Command::SetNx { value } => format!("SETNX {}", value.escape_ascii()),
        Command::Append { tail } => format!("APPEND {}", tail.escape_ascii()),
        Command::Incr => "INCR".to_owned(),
        Command::Del => "DEL".to_owned(),
        Command::Expire { ttl } => format!("PEXPIRE {}", ttl / 1000),
    }
}

fn answer_text(answer: &Answer) -> String {
    match answer {
        Answer::Done => "OK".to_owned(),
        Answer::Value(None) => "nil".to_owned(),
        Answer::Value(Some(value)) => format!("\"{}\"", value.escape_ascii()),
        Answer::Number(number) => number.to_string(),
        Answer::NotAnInteger => "not an integer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tercet_check::Counter;

    use super::*;
    use crate::load::Tally;

    fn set(value: &str, called: u64) -> Event {
        Event::answered(Command::Set { value: value.into(), ttl: None }, called, Answer::Done, called + 1)
    }

    fn sees(value: Option<&str>, called: u64) -> Event {
        Event::answered(Command::Get, called, Answer::Value(value.map(Into::into)), called + 1)
    }

    fn key(history: Vec<Event>, last: Result<Event, String>) -> Option<Class> {
        of_key(&KeyRecord { name: "k".to_owned(), history, last }).map(|violation| violation.class)
    }

    #[test]
    fn a_loss_is_told_from_a_wrong_answer() {
        assert_eq!(key(vec![set("a", 0)], Ok(sees(Some("a"), 10))), None);
        assert_eq!(key(vec![set("a", 0)], Ok(sees(None, 10))), Some(Class::Lost));
        assert_eq!(key(vec![set("a", 0)], Err("gone".to_owned())), Some(Class::Lost));
        let wrong = vec![set("a", 0), sees(None, 10)];
        assert_eq!(key(wrong, Ok(sees(Some("a"), 20))), Some(Class::Wrong));
    }

    #[test]
    fn counters_are_held_against_their_acknowledgements() {
        let mut counter = Counter::default();
        counter.acknowledge(1);
        counter.acknowledge(2);
        counter.leave_uncertain();
        let classes = |value| {
            let record = CounterRecord { name: "c".to_owned(), counter: counter.clone(), value };
            of_counter(&record).into_iter().map(|violation| violation.class).collect::<Vec<_>>()
        };
        assert_eq!(classes(Ok(1)), [Class::Lost]);
        assert_eq!(classes(Ok(2)), []);
        assert_eq!(classes(Ok(3)), []);
        assert_eq!(classes(Ok(4)), [Class::Wrong]);
        assert_eq!(classes(Err("gone".to_owned())), [Class::Lost]);
    }

    #[test]
    fn the_story_shows_every_operation_and_where_it_ends() {
        let history = vec![set("a", 0), Event::uncertain(Command::Incr, 5)];
        let record = KeyRecord { name: "k".to_owned(), history, last: Ok(sees(None, 10)) };
        let story = of_key(&record).unwrap().story;
        for part in ["SET a", "OK", "uncertain ← INCR", "nil ← GET", "explained at most: [0]", "can: [2]"]
        {
            assert!(story.contains(part), "{part} is not in:\n{story}");
        }
    }

    #[test]
    fn absurd_answers_are_violations() {
        let tally = Tally { absurd: vec!["x".to_owned()], ..Tally::default() };
        let record = Record { tally, counters: Vec::new(), keys: Vec::new() };
        assert_eq!(judge(&record)[0].class, Class::Wrong);
    }
}
