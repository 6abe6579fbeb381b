//! SLOWLOG: the last commands that took long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tercet_common::UnixMillis;

/// As in Redis: arguments and bytes of each that an entry keeps.
const ARGS_MAX: usize = 32;
const ARG_BYTES_MAX: usize = 128;
/// What `slowlog-max-len` may be set to.
pub const LEN_MAX: i64 = 1_000_000;

/// The words of a command that is under way, for an entry that may be made of it. Shares their bytes.
#[derive(Debug, Clone, Default)]
pub struct Words {
    kept: SmallVec<[Bytes; 3]>,
    /// Words that were not kept.
    more: usize,
}

impl Words {
    pub fn of(words: &[Bytes]) -> Self {
        if words.len() <= ARGS_MAX {
            return Self { kept: words.iter().cloned().collect(), more: 0 };
        }
        let kept = words.iter().take(ARGS_MAX - 1).cloned().collect();
        Self { kept, more: words.len() - (ARGS_MAX - 1) }
    }

    /// For commands that carry passwords.
    pub fn redacted(words: &[Bytes]) -> Self {
        let name = words.iter().take(1).cloned();
        Self { kept: name.chain([Bytes::from_static(b"(redacted)")]).collect(), more: 0 }
    }

    fn shown(&self) -> Vec<Bytes> {
        let mut shown: Vec<Bytes> = self.kept.iter().map(shorten).collect();
        if self.more > 0 {
            shown.push(format!("... ({} more arguments)", self.more).into());
        }
        shown
    }
}

/// A copy: an entry lives long and must not pin a request's buffer.
fn shorten(word: &Bytes) -> Bytes {
    if word.len() <= ARG_BYTES_MAX {
        return Bytes::copy_from_slice(word);
    }
    let mut short = word[..ARG_BYTES_MAX].to_vec();
    short.extend_from_slice(format!("... ({} more bytes)", word.len() - ARG_BYTES_MAX).as_bytes());
    short.into()
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub id: i64,
    pub at: UnixMillis,
    pub took: Duration,
    pub words: Vec<Bytes>,
    pub client: String,
    pub client_name: String,
}

pub struct Slowlog {
    /// Microseconds; negative: off; 0: every command.
    slower_than_us: AtomicI64,
    len_max: AtomicI64,
    entries: Mutex<(i64, VecDeque<Entry>)>,
}

impl Default for Slowlog {
    /// Redis's defaults: 10 ms, 128 entries.
    fn default() -> Self {
        Self {
            slower_than_us: AtomicI64::new(10_000),
            len_max: AtomicI64::new(128),
            entries: Mutex::default(),
        }
    }
}

impl Slowlog {
    pub fn slower_than_us(&self) -> i64 {
        self.slower_than_us.load(Ordering::Relaxed)
    }

    pub fn set_slower_than_us(&self, micros: i64) {
        self.slower_than_us.store(micros, Ordering::Relaxed);
    }

    pub fn len_max(&self) -> i64 {
        self.len_max.load(Ordering::Relaxed)
    }

    pub fn set_len_max(&self, len: i64) {
        self.len_max.store(len, Ordering::Relaxed);
        self.trim(&mut self.entries.lock().1);
    }

    pub fn is_slow(&self, took: Duration) -> bool {
        u128::try_from(self.slower_than_us()).is_ok_and(|limit| took.as_micros() >= limit)
    }

    pub fn push(&self, took: Duration, words: &Words, client: String, client_name: String) {
        let words = words.shown();
        let mut guard = self.entries.lock();
        let (next_id, entries) = &mut *guard;
        let id = *next_id;
        *next_id += 1;
        entries.push_front(Entry { id, at: UnixMillis::now(), took, words, client, client_name });
        self.trim(entries);
    }

    fn trim(&self, entries: &mut VecDeque<Entry>) {
        entries.truncate(usize::try_from(self.len_max()).unwrap_or(0));
    }

    /// The newest entries, newest first.
    pub fn newest(&self, count: usize) -> Vec<Entry> {
        self.entries.lock().1.iter().take(count).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.entries.lock().1.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear(&self) {
        self.entries.lock().1.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_short_and_few() {
        let log = Slowlog::default();
        log.set_len_max(2);
        let words: Vec<Bytes> = (0..40).map(|n| Bytes::from(vec![b'x'; n * 10])).collect();
        for _ in 0..3 {
            log.push(Duration::from_millis(20), &Words::of(&words), String::new(), String::new());
        }
        let newest = log.newest(10);
        assert_eq!(newest.iter().map(|e| e.id).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(newest[0].words.len(), 32);
        assert_eq!(newest[0].words[31], "... (9 more arguments)");
        assert!(newest[0].words[30].ends_with(b"x... (172 more bytes)"));
    }

    #[test]
    fn the_threshold_may_be_zero_or_off() {
        let log = Slowlog::default();
        assert!(!log.is_slow(Duration::from_micros(9_999)) && log.is_slow(Duration::from_micros(10_000)));
        log.set_slower_than_us(0);
        assert!(log.is_slow(Duration::ZERO));
        log.set_slower_than_us(-1);
        assert!(!log.is_slow(Duration::MAX));
    }
}
