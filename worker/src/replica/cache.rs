//! Recent rows, bounded in bytes. Coherent, because the worker is the only writer of its database: what is here is
//! what is committed, including the knowledge that a key has no row.

use bytes::BytesMut;
use hashbrown::DefaultHashBuilder;
use hashlink::LruCache;
use tercet_common::{Content, Key, PartitionId, Row};

use super::Slot;

pub(super) struct RowCache {
    rows: LruCache<Slot, Option<Row>, DefaultHashBuilder>,
    bytes: usize,
    bytes_max: usize,
}

/// A row may take at most this share of the cache, so that a few huge values do not push out all the rest.
const ROW_SHARE: usize = 8;
/// What an entry costs beside its row: slot, links, hash table.
const ENTRY_BYTES: usize = 96;

impl RowCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        // The bound is in bytes; the number of entries follows from it.
        let rows = LruCache::with_hasher(usize::MAX, DefaultHashBuilder::default());
        Self { rows, bytes: 0, bytes_max }
    }

    /// `Some(None)`: the key is known to have no row. Counts as a use.
    pub(super) fn get(&mut self, slot: &Slot) -> Option<&Option<Row>> {
        self.rows.get(slot)
    }

    pub(super) fn peek(&self, slot: &Slot) -> Option<&Option<Row>> {
        self.rows.peek(slot)
    }

    /// Whether there is room for such a row.
    pub(super) fn keeps(&self, row: &Row) -> bool {
        weight_of(row) <= self.bytes_max / ROW_SHARE
    }

    /// Keeps what is committed for a slot; an older version never replaces a newer one.
    pub(super) fn insert(&mut self, slot: Slot, row: Option<Row>) {
        let ballot = |row: &Option<Row>| row.as_ref().map(|r| r.ballot);
        let weight = weight(&row);
        match self.rows.get_mut(&slot) {
            Some(held) if ballot(held) > ballot(&row) => return,
            _ if weight > self.bytes_max / ROW_SHARE => return self.remove(&slot),
            Some(held) => {
                self.bytes -= self::weight(held);
                *held = row;
            }
            None => drop(self.rows.insert(slot, row)),
        }
        self.bytes += weight;
        while self.bytes > self.bytes_max {
            let Some((_, row)) = self.rows.remove_lru() else { break };
            self.bytes -= self::weight(&row);
        }
    }

    pub(super) fn remove(&mut self, slot: &Slot) {
        if let Some(row) = self.rows.remove(slot) {
            self.bytes -= weight(&row);
        }
    }

    pub(super) fn remove_partition(&mut self, partition: PartitionId) {
        self.remove_where(|slot| slot.partition == partition);
    }

    /// Looks at every entry; for what is rare.
    pub(super) fn remove_where(&mut self, goes: impl Fn(&Slot) -> bool) {
        let slots = self.rows.iter().map(|(slot, _)| *slot);
        let slots: Vec<_> = slots.filter(goes).collect();
        for slot in slots {
            self.remove(&slot);
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.bytes = 0;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

fn weight(row: &Option<Row>) -> usize {
    row.as_ref().map_or(ENTRY_BYTES, weight_of)
}

fn weight_of(row: &Row) -> usize {
    ENTRY_BYTES + row.weight() + size_of_val(row.clock.entries())
}

/// The row with its bytes in a buffer of its own. A row from the wire is a slice of the whole batch it came in; to
/// keep it would keep megabytes for the sake of a few bytes.
pub(super) fn detached(row: &Row) -> Row {
    let key = row.key.as_bytes();
    let data = match &row.content {
        Content::Tombstone => &[][..],
        Content::Value { data, .. } => data,
    };
    let mut buffer = BytesMut::with_capacity(key.len() + data.len());
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(data);
    let mut own = buffer.freeze();
    let key = own.split_to(key.len());
    let content = match &row.content {
        Content::Tombstone => Content::Tombstone,
        Content::Value { data_type, expires_at, .. } => {
            Content::Value { data_type: *data_type, data: own, expires_at: *expires_at }
        }
    };
    let key = Key::new(key).expect("as long as the key that it is copied from");
    Row { key, ballot: row.ballot, clock: row.clock.clone(), content }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tercet_common::{Promise, VectorClock};

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
    fn the_least_recently_used_rows_leave_when_the_bytes_are_used_up() {
        let each = weight(&Some(row("a", 1, 100)));
        let mut cache = RowCache::new(each * 10);
        let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        for key in keys {
            cache.insert(slot(key), Some(row(key, 1, 100)));
        }
        assert_eq!((cache.len(), cache.bytes()), (10, each * 10));
        cache.get(&slot("a"));
        cache.insert(slot("k"), Some(row("k", 1, 100)));
        assert!(cache.peek(&slot("a")).is_some() && cache.peek(&slot("b")).is_none());
        assert_eq!(cache.bytes(), each * 10);
    }

    #[test]
    fn a_row_too_large_to_keep_still_replaces_the_older_one() {
        let mut cache = RowCache::new(8_000);
        cache.insert(slot("a"), Some(row("a", 1, 10)));
        cache.insert(slot("a"), Some(row("a", 2, 5_000)));
        assert_eq!((cache.peek(&slot("a")), cache.bytes()), (None, 0));
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let mut cache = RowCache::new(8_000);
        cache.insert(slot("a"), Some(row("a", 2, 10)));
        cache.insert(slot("a"), Some(row("a", 1, 10)));
        cache.insert(slot("a"), None);
        assert_eq!(cache.peek(&slot("a")), Some(&Some(row("a", 2, 10))));
    }

    #[test]
    fn a_detached_row_shares_no_buffer_with_the_batch_it_came_in() {
        let batch = Bytes::from(vec![b'x'; 1_000]);
        let key = Key::new(batch.slice(..3)).unwrap();
        let content = Content::string(batch.slice(3..8), None);
        let row = Row { key, ballot: Promise::ZERO.ballot(1), clock: VectorClock::new(), content };
        let own = detached(&row);
        assert_eq!(own, row);
        drop(row);
        assert!(batch.is_unique());
    }
}
