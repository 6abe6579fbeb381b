//! What clients ask, and what they are told.

use tercet_check::Outcome;
use tercet_frontend::coordinator::api::OpError;
use tercet_frontend::coordinator::core::{Missed, WorkerIx};

use crate::agenda::MILLISECOND;
use crate::client::{Ended, Level, Told};
use crate::history::{Issued, Purpose, Version};
use crate::model::{Answer, Command};
use crate::world::{Event, World};

/// A key of which so many writes have an unknown outcome is only read.
const UNCERTAIN_MAX: usize = 6;

impl World {
    /// A client that waits for nothing asks for something.
    pub(crate) fn client_turn(&mut self, client: usize) {
        if self.to_issue == 0 {
            return;
        }
        // Most clients are at the first frontend.
        let others = self.plan.clients.saturating_sub(self.plan.frontends);
        let frontend = client.saturating_sub(others) % self.plan.frontends;
        if self.frontends[frontend].core.is_none() {
            self.agenda.plan(self.now + 20 * MILLISECOND, Event::Client(client));
            return;
        }
        let nth = self.plan.operations - self.to_issue;
        self.to_issue -= 1;
        let key = self.random.index(self.keys.len());
        let drawn = self.draw_command(key, nth as u64);
        // Each open outcome doubles what the search for an order may have to look at.
        let uncertain = self.record.uncertain(|o| o.key == key || o.command == Command::Flush);
        let command = if uncertain < UNCERTAIN_MAX { drawn } else { Command::Get };
        let level = match self.random.below(100) {
            0..8 if command == Command::Get => Level::One,
            8..14 => Level::All,
            _ => Level::Quorum,
        };
        self.issue(frontend, Purpose::Client(client), key, command, level);
    }

    fn draw_command(&mut self, key: usize, nth: u64) -> Command {
        let counter = self.is_counter(key);
        let random = &mut self.random;
        if counter {
            return if random.percent(70) { Command::Incr } else { Command::Get };
        }
        // No two SETs write the same, and what INCR and APPEND make of it stays apart.
        let value = u128::from(1_000 + 20 * nth);
        let end = (self.now / MILLISECOND + random.spread(1, 300)) * MILLISECOND;
        let expires = self.plan.expiry && random.percent(40);
        let deletes = self.plan.deletes;
        match random.below(100) {
            0..24 => Command::Set { value, expires_at: expires.then_some(end) },
            24..40 => Command::Incr,
            40..50 => Command::SetNx { value },
            50..58 => Command::Append { digit: (1 + nth % 9) as u8 },
            n if (58..58 + deletes).contains(&n) => Command::Del,
            n if self.plan.expiry && (58 + deletes..63 + deletes).contains(&n) => Command::Expire { at: end },
            n if self.plan.flushes && (63 + deletes..66 + deletes).contains(&n) => Command::Flush,
            _ => Command::Get,
        }
    }

    /// A key that sees only INCR and GET, and no flush.
    pub(crate) fn is_counter(&self, key: usize) -> bool {
        key == 0 && self.plan.counter
    }

    pub(crate) fn issue(&mut self, nth: usize, purpose: Purpose, key: usize, command: Command, level: Level) {
        let frontend = &self.frontends[nth];
        // The frontend's own clock says when a time to live ends.
        let skew = frontend.skew * MILLISECOND.cast_signed();
        let command = match command {
            Command::Set { value, expires_at: Some(at) } => {
                Command::Set { value, expires_at: Some(at.saturating_add_signed(skew)) }
            }
            Command::Expire { at } => Command::Expire { at: at.saturating_add_signed(skew) },
            other => other,
        };
        // A flush would take the counter along.
        let counter = self.plan.counter && self.keys[key].partition == self.keys[0].partition;
        let command = if command == Command::Flush && counter { Command::Get } else { command };
        let life = frontend.life;
        let issued =
            Issued { purpose, frontend: nth, life, key, command, level, called: self.now, outcome: None };
        let operation = self.record.begin(issued);
        self.trace.say(self.now, || {
            let name = String::from_utf8_lossy(self.keys[key].key.as_bytes()).into_owned();
            format!("#{operation} {purpose:?} asks f{}: {command:?} {name} {level:?}", nth + 1)
        });
        if command == Command::Flush {
            let (partition, done) = (self.keys[key].partition, self.answers.flushed(operation));
            self.with_core(nth, |core| core.flush(partition, done));
        } else {
            let op = self.answers.operation(operation, self.keys[key].key.clone(), command, level);
            self.with_core(nth, |core| core.submit(op));
        }
    }

    /// A frontend has answered.
    pub(crate) fn conclude(&mut self, Ended { operation, result }: Ended) {
        let Issued { command, key, purpose, level, .. } = self.record.issued[operation].clone();
        self.trace.say(self.now, || {
            let told =
                result.as_ref().map(|told| (told.answer, told.version.as_ref().map(|v| v.0.to_string())));
            format!("#{operation} {command:?} is told {told:?}")
        });
        let outcome = match &result {
            Ok(told) => Outcome::Answered { answer: told.answer, at: self.now },
            Err(OpError::Uncertain) if command != Command::Get => Outcome::Uncertain,
            Err(_) => Outcome::NotApplied,
        };
        if !self.record.end(operation, outcome) {
            return self.violate(format!("#{operation} was answered twice"));
        }
        match (&result, purpose) {
            (Err(error), Purpose::Final) => {
                self.violate(format!("#{operation} failed although all is well: {error}"));
            }
            (Err(_), Purpose::Repair(worker)) => {
                let frontend = self.record.issued[operation].frontend;
                let missed = vec![(worker, Missed::Key(self.keys[key].key.clone()))];
                self.frontends[frontend].note_missed(missed);
                self.plan_repair(frontend);
            }
            (_, Purpose::Client(client)) => self.let_think(client),
            _ => {}
        }
        let weak = level == Level::One && command == Command::Get;
        if let Ok(Told { version: Some((ballot, clock)), answer }) = result
            && !weak
        {
            self.check_durable(operation, key, ballot, answer);
            // Where a flush stands for the answer there is no version of the key.
            if !clock.entries().is_empty() {
                self.record.versions.push(Version { key, ballot, clock });
            }
        }
    }

    pub(crate) fn let_think(&mut self, client: usize) {
        let at = self.now + self.random.below(self.plan.think_time) + 1;
        self.agenda.plan(at, Event::Client(client));
    }

    /// Acknowledged means durable at a majority: this version, or one above it.
    fn check_durable(&mut self, operation: usize, key: usize, ballot: tercet_common::Ballot, answer: Answer) {
        let sim_key = &self.keys[key];
        // As the frontend sees it: there may be a newer configuration, of which it has not heard.
        let frontend = &self.frontends[self.record.issued[operation].frontend];
        let Some(configuration) = &frontend.configuration else { return };
        let group = &configuration.groups[sim_key.partition.index()];
        let holds = |worker: WorkerIx| {
            let mut held = self.workers[usize::from(worker)]
                .disks()
                .map(|disk| disk.peek(sim_key.partition, sim_key.hash));
            held.any(|held| held.ballot >= ballot || held.floor >= ballot)
        };
        if !group.is_quorum(holds) {
            let group = group.clone();
            self.violate(format!(
                "#{operation} was told {answer:?} at {ballot}, which no quorum of {group:?} holds"
            ));
        }
    }
}
