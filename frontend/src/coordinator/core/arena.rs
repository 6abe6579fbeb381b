//! A slab whose ids are never reused for another item, so that a late answer cannot reach the wrong one.

/// `generation << 32 | index`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Id(u64);

impl Id {
    pub(super) fn raw(self) -> u64 {
        self.0
    }

    pub(super) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }
}

struct Entry<T> {
    generation: u64,
    item: Option<T>,
}

pub(super) struct Arena<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// Generations stay below this, so that ids leave their top bits to the caller.
    generation_mask: u64,
}

impl<T> Arena<T> {
    /// Ids stay below `2^id_bits`.
    pub(super) fn new(id_bits: u32) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), generation_mask: (1 << (id_bits - 32)) - 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, item: T) -> Id {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, item: None });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.item = Some(item);
        Id(entry.generation << 32 | u64::from(index))
    }

    fn entry(&self, id: Id) -> Option<&Entry<T>> {
        self.entries.get(id.index()).filter(|e| e.generation == id.0 >> 32)
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        self.entry(id)?.item.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let entry = self.entries.get_mut(id.index()).filter(|e| e.generation == id.0 >> 32)?;
        entry.item.as_mut()
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let mask = self.generation_mask;
        let entry = self.entries.get_mut(id.index()).filter(|e| e.generation == id.0 >> 32)?;
        let item = entry.item.take()?;
        entry.generation = (entry.generation + 1) & mask;
        self.free.push(id.index() as u32);
        Some(item)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|entry| entry.item.as_mut())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, e)| {
            e.item.as_ref().map(|item| (Id(e.generation << 32 | index as u64), item))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_does_not_find_the_next_tenant() {
        let mut arena = Arena::new(56);
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
        assert_eq!((arena.len(), arena.iter().count()), (1, 1));
    }
}
