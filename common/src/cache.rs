//! A cache that is bounded in bytes: the least recently used entries leave it.

use std::borrow::Borrow;
use std::hash::Hash;

use hashbrown::DefaultHashBuilder;
use hashlink::LruCache;

/// What a value costs in memory, in bytes, with all that belongs to it. It must not change while the value is kept.
pub trait Weight {
    fn weight(&self) -> usize;
}

/// A value may take at most this share of the cache, so that a few huge ones do not push out all the rest.
const SHARE: usize = 8;
/// What an entry costs beside its value: key, links, hash table.
const ENTRY_BYTES: usize = 96;

/// See the module.
pub struct Cache<K, V> {
    entries: LruCache<K, V, DefaultHashBuilder>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Hash + Eq, V: Weight> Cache<K, V> {
    pub fn new(bytes_max: usize) -> Self {
        // The bound is in bytes; the number of entries follows from it.
        let entries = LruCache::with_hasher(usize::MAX, DefaultHashBuilder::default());
        Self { entries, bytes: 0, bytes_max }
    }

    /// Counts as a use.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    /// Counts as no use.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.peek(key)
    }

    /// Whether a value of this weight is kept.
    pub fn keeps(&self, weight: usize) -> bool {
        ENTRY_BYTES + weight <= self.bytes_max / SHARE
    }

    /// Replaces what there is of the key, also with nothing, where the value is too large to be kept.
    pub fn insert(&mut self, key: K, value: V) {
        if !self.keeps(value.weight()) {
            return self.remove(&key);
        }
        self.bytes += weight(&value);
        if let Some(old) = self.entries.insert(key, value) {
            self.bytes -= weight(&old);
        }
        while self.bytes > self.bytes_max {
            let Some((_, old)) = self.entries.remove_lru() else { break };
            self.bytes -= weight(&old);
        }
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(old) = self.entries.remove(key) {
            self.bytes -= weight(&old);
        }
    }

    /// Looks at every entry; for what is rare.
    pub fn remove_where(&mut self, goes: impl Fn(&K) -> bool)
    where
        K: Clone,
    {
        let keys = self.entries.iter().map(|(key, _)| key);
        let keys: Vec<_> = keys.filter(|key| goes(key)).cloned().collect();
        for key in &keys {
            self.remove(key);
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// The weight of all entries.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn weight(value: &impl Weight) -> usize {
    ENTRY_BYTES + value.weight()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weight for &str {
        fn weight(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn the_least_recently_used_leave_when_the_bytes_are_used_up() {
        let each = weight(&"1234");
        let mut cache = Cache::new(each * 10);
        for key in 0..10 {
            cache.insert(key, "1234");
        }
        assert_eq!((cache.len(), cache.bytes()), (10, each * 10));
        cache.get(&0);
        cache.insert(10, "1234");
        assert!(cache.peek(&0).is_some() && cache.peek(&1).is_none());
        assert_eq!(cache.bytes(), each * 10);
    }

    #[test]
    fn what_is_too_large_to_keep_still_takes_the_place_of_what_was_there() {
        let large = "x".repeat(1_000);
        let mut cache = Cache::new(1_000);
        cache.insert("a", "small");
        cache.insert("a", &*large);
        assert_eq!((cache.peek("a"), cache.bytes()), (None, 0));
        assert!(cache.is_empty());
    }

    #[test]
    fn what_leaves_takes_its_bytes_along() {
        let mut cache = Cache::new(10_000);
        for key in 0..6 {
            cache.insert(key, "1234");
        }
        cache.insert(5, "12345678");
        cache.remove_where(|key| key % 2 == 0);
        cache.remove(&1);
        assert_eq!((cache.len(), cache.bytes()), (2, weight(&"1234") + weight(&"12345678")));
        cache.clear();
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }
}
