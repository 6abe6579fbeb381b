//! The commands of one connection that are under way, in the order of their arrival.
//!
//! Replies leave in this order, so only the front one is ever waited for. Nothing is lost by that: a data command has
//! submitted its operation when it is started, and the coordinator works on all of them at once. A data command on one
//! key must be one operation: a second one, submitted later, could be overtaken.
//!
//! ```text
//! SET a ─┐ overlap: one key each; the engine keeps the order of writes, and of reads behind a write
//! GET a ─┤
//! MGET b c ┤ overlaps, as no key of it is in use; `MGET a` would wait
//! SET a ─┤ waits for `GET a`: a read takes no place in the engine's queue and might see a later write
//! SCAN ──┘ a barrier: waits for all before it, and all after it wait
//! ```
//!
//! The number in flight is bounded by a window that shrinks when replies are large, so that a thousand GETs of large
//! values do not pile up before a client that does not read.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashMap};
use smallvec::SmallVec;

use super::command::table::{Entry, Overlap};
use super::command::{CommandError, Flag, Pending};
use super::reply::Reply;
use super::slowlog::Words;

/// Arguments of all commands in flight; one command may be larger.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Where the window begins: enough for common pipelines, little where values turn out to be large.
const WINDOW_START: usize = 8;
/// Replies up to this size widen the window.
const SMALL_REPLY_BYTES: usize = 16 * 1024;
/// What all replies in flight should take together if they are like the last one.
const REPLIES_BYTES_TARGET: usize = 16 * 1024 * 1024;

/// The keys of a command, hashed: a collision costs an overlap, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Footprint {
    Barrier,
    Read(u64),
    Write(u64),
    Many(SmallVec<[u64; 4]>),
}

/// What is remembered of a command until it is answered.
#[derive(Debug)]
pub struct Call {
    /// None for a command that does not exist.
    pub entry: Option<&'static Entry>,
    pub started_at: Instant,
    pub words: Words,
    pub keys: usize,
    /// Refused before its handler ran.
    pub rejected: bool,
    /// CLIENT REPLY: the answer is not sent.
    pub muted: bool,
}

/// A started command.
pub struct Slot {
    pub call: Call,
    pub answer: Result<Pending, CommandError>,
    pub footprint: Footprint,
    /// Bytes of its arguments.
    pub weight: usize,
}

/// Commands in flight that use a key.
#[derive(Default, Clone, Copy)]
struct Uses {
    reads: u32,
    writes: u32,
    among_others: u32,
}

impl Uses {
    fn is_none(self) -> bool {
        self.reads == 0 && self.writes == 0 && self.among_others == 0
    }
}

/// See the module.
pub struct Pipeline {
    slots: VecDeque<Slot>,
    uses: HashMap<u64, Uses>,
    hasher: DefaultHashBuilder,
    barrier: bool,
    bytes: usize,
    window: usize,
    window_max: usize,
}

impl Pipeline {
    pub fn new(window_max: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            uses: HashMap::new(),
            hasher: DefaultHashBuilder::default(),
            barrier: false,
            bytes: 0,
            window: WINDOW_START,
            window_max: window_max.max(1),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn footprint(&self, entry: &Entry, words: &[Bytes]) -> Footprint {
        let hash = |at: usize| self.hasher.hash_one(&words[at][..]);
        let mut places = entry.key_places(words.len());
        match entry.overlap {
            Overlap::Barrier => Footprint::Barrier,
            Overlap::OneKey => match places.next() {
                Some(at) if entry.has(Flag::Write) => Footprint::Write(hash(at)),
                Some(at) => Footprint::Read(hash(at)),
                None => Footprint::Barrier,
            },
            Overlap::Independent => Footprint::Many(places.map(hash).collect()),
        }
    }

    /// Whether there is room for one more, whatever it is.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.window.min(self.window_max)
    }

    /// Whether a command may start now.
    pub fn admits(&self, footprint: &Footprint, weight: usize) -> bool {
        if self.slots.is_empty() {
            return true;
        }
        if self.barrier || !self.has_room() || self.bytes + weight > BYTES_MAX {
            return false;
        }
        match footprint {
            Footprint::Barrier => false,
            Footprint::Read(key) => self.uses.get(key).is_none_or(|uses| uses.among_others == 0),
            Footprint::Write(key) => {
                self.uses.get(key).is_none_or(|uses| uses.among_others == 0 && uses.reads == 0)
            }
            Footprint::Many(keys) => keys.iter().all(|key| !self.uses.contains_key(key)),
        }
    }

    pub fn push(&mut self, slot: Slot) {
        match &slot.footprint {
            Footprint::Barrier => self.barrier = true,
            Footprint::Read(key) => self.uses.entry(*key).or_default().reads += 1,
            Footprint::Write(key) => self.uses.entry(*key).or_default().writes += 1,
            Footprint::Many(keys) => {
                for key in keys {
                    self.uses.entry(*key).or_default().among_others += 1;
                }
            }
        }
        self.bytes += slot.weight;
        self.slots.push_back(slot);
    }

    /// The oldest command and its answer, once it is there; `None` if there is no command.
    pub fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Call, Result<Reply, CommandError>)>> {
        let polled = match self.slots.front_mut() {
            Some(Slot { answer: Ok(Pending::Later(future)), .. }) => Some(ready!(future.as_mut().poll(cx))),
            _ => None,
        };
        let Some(slot) = self.slots.pop_front() else { return Poll::Ready(None) };
        self.release(&slot);
        let answer = match (polled, slot.answer) {
            (Some(answer), _) => answer,
            (None, Ok(Pending::Ready(reply))) => Ok(reply),
            (None, Err(error)) => Err(error),
            (None, Ok(Pending::Later(_))) => unreachable!("a front that is to come was polled above"),
        };
        Poll::Ready(Some((slot.call, answer)))
    }

    fn release(&mut self, slot: &Slot) {
        self.bytes -= slot.weight;
        match &slot.footprint {
            Footprint::Barrier => self.barrier = false,
            Footprint::Read(key) => self.release_key(*key, |uses| uses.reads -= 1),
            Footprint::Write(key) => self.release_key(*key, |uses| uses.writes -= 1),
            Footprint::Many(keys) => {
                for key in keys {
                    self.release_key(*key, |uses| uses.among_others -= 1);
                }
            }
        }
    }

    fn release_key(&mut self, key: u64, release: impl FnOnce(&mut Uses)) {
        if let Some(uses) = self.uses.get_mut(&key) {
            release(uses);
            if uses.is_none() {
                self.uses.remove(&key);
            }
        }
    }

    /// Tells how large a reply was.
    pub fn replied(&mut self, bytes: usize) {
        self.window = if bytes <= SMALL_REPLY_BYTES {
            (self.window + 1).min(self.window_max)
        } else {
            (REPLIES_BYTES_TARGET / bytes).clamp(1, self.window)
        };
    }

    /// Gives memory back; for a connection that has nothing to do.
    pub fn shrink(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
            self.uses = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(footprint: Footprint) -> Slot {
        Slot {
            call: Call {
                entry: None,
                started_at: Instant::now(),
                words: Words::default(),
                keys: 0,
                rejected: false,
                muted: false,
            },
            answer: Ok(Pending::Ready(Reply::OK)),
            footprint,
            weight: 1,
        }
    }

    fn many<const N: usize>(keys: [u64; N]) -> Footprint {
        Footprint::Many(keys.into_iter().collect())
    }

    fn pop(pipeline: &mut Pipeline) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(pipeline.poll_front(&mut cx), Poll::Ready(Some(_))));
    }

    #[test]
    fn one_key_commands_overlap_and_many_key_commands_when_their_keys_are_free() {
        let mut pipeline = Pipeline::new(100);
        pipeline.push(slot(Footprint::Write(1)));
        assert!(pipeline.admits(&Footprint::Write(1), 1));
        assert!(pipeline.admits(&many([2, 3]), 1));
        assert!(!pipeline.admits(&many([2, 1]), 1));
        pipeline.push(slot(many([2, 3])));
        assert!(!pipeline.admits(&Footprint::Write(3), 1));
        assert!(pipeline.admits(&Footprint::Write(4), 1));
        assert!(!pipeline.admits(&Footprint::Barrier, 1));
        pop(&mut pipeline);
        pop(&mut pipeline);
        assert!(pipeline.is_empty() && pipeline.uses.is_empty() && pipeline.bytes == 0);
    }

    /// A read that was sent before a write must not answer the write's value, as it once did.
    #[test]
    fn a_write_waits_for_earlier_reads_of_its_key() {
        let mut pipeline = Pipeline::new(100);
        pipeline.push(slot(Footprint::Read(1)));
        assert!(pipeline.admits(&Footprint::Read(1), 1));
        assert!(pipeline.admits(&Footprint::Write(2), 1));
        assert!(!pipeline.admits(&Footprint::Write(1), 1));
        pop(&mut pipeline);
        pipeline.push(slot(Footprint::Write(1)));
        assert!(pipeline.admits(&Footprint::Read(1), 1), "the engine puts it behind the write");
        assert!(pipeline.admits(&Footprint::Write(1), 1));
    }

    #[test]
    fn a_barrier_is_alone() {
        let mut pipeline = Pipeline::new(100);
        assert!(pipeline.admits(&Footprint::Barrier, 1));
        pipeline.push(slot(Footprint::Barrier));
        assert!(!pipeline.admits(&Footprint::Write(1), 1));
        pop(&mut pipeline);
        assert!(pipeline.admits(&Footprint::Write(1), 1));
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let mut pipeline = Pipeline::new(2);
        assert!(pipeline.admits(&Footprint::Write(0), BYTES_MAX + 1), "a single command may be larger");
        pipeline.push(slot(Footprint::Write(0)));
        assert!(!pipeline.admits(&Footprint::Write(1), BYTES_MAX));
        pipeline.push(slot(Footprint::Write(1)));
        assert!(!pipeline.admits(&Footprint::Write(2), 1));
    }

    #[test]
    fn large_replies_narrow_the_window() {
        let mut pipeline = Pipeline::new(1_000);
        pipeline.replied(REPLIES_BYTES_TARGET / 4);
        assert_eq!(pipeline.window, 4);
        pipeline.replied(usize::MAX);
        assert_eq!(pipeline.window, 1);
        for _ in 0..2_000 {
            pipeline.replied(10);
        }
        assert_eq!(pipeline.window, 1_000);
    }
}
