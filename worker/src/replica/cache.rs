//! Recent rows, bounded in bytes. Coherent, because the worker is the only writer of its database: what is here is
//! what is committed, including the knowledge that a key has no row.

use tercet_common::cache::Cache;
use tercet_common::{PartitionId, Row};

use super::Slot;

pub(super) struct RowCache(Cache<Slot, Option<Row>>);

impl RowCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Cache::new(bytes_max))
    }

    /// `Some(None)`: the key is known to have no row. Counts as a use.
    pub(super) fn get(&mut self, slot: &Slot) -> Option<&Option<Row>> {
        self.0.get(slot)
    }

    pub(super) fn peek(&self, slot: &Slot) -> Option<&Option<Row>> {
        self.0.peek(slot)
    }

    /// Whether there is room for such a row.
    pub(super) fn keeps(&self, row: &Row) -> bool {
        self.0.keeps(row.weight())
    }

    /// Keeps what is committed for a slot; an older version never replaces a newer one.
    pub(super) fn insert(&mut self, slot: Slot, row: Option<Row>) {
        let ballot = |row: &Option<Row>| row.as_ref().map(|r| r.ballot);
        if self.0.peek(&slot).is_none_or(|held| ballot(held) <= ballot(&row)) {
            self.0.insert(slot, row);
        }
    }

    pub(super) fn remove(&mut self, slot: &Slot) {
        self.0.remove(slot);
    }

    pub(super) fn remove_partition(&mut self, partition: PartitionId) {
        self.remove_where(|slot| slot.partition == partition);
    }

    /// Looks at every entry; for what is rare.
    pub(super) fn remove_where(&mut self, goes: impl Fn(&Slot) -> bool) {
        self.0.remove_where(goes);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Content, Key, Promise, VectorClock};

    use super::*;

    fn row(key: &'static str, seq: u64, len: usize) -> Row {
        Row {
            key: Key::new(key).unwrap(),
            ballot: Promise::ZERO.ballot(seq),
            clock: VectorClock::new(),
            content: Content::string(vec![b'v'; len], None),
        }
    }

    fn slot(key: &'static str) -> Slot {
        Slot::of(&Key::new(key).unwrap())
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let mut cache = RowCache::new(8_000);
        cache.insert(slot("a"), Some(row("a", 2, 10)));
        cache.insert(slot("a"), Some(row("a", 1, 10)));
        cache.insert(slot("a"), None);
        assert_eq!(cache.peek(&slot("a")), Some(&Some(row("a", 2, 10))));
    }
}
