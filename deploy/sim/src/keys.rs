//! Keys whose partitions have the lowest numbers, so that tables of partitions can be short.

use std::sync::LazyLock;

use tercet_common::{Key, KeyHash, PartitionId};

/// The most partitions of one schedule.
pub(crate) const PARTITIONS_MAX: usize = 2;

/// A key with what is derived from it.
#[derive(Clone, Debug)]
pub(crate) struct SimKey {
    pub key: Key,
    pub partition: PartitionId,
    pub hash: KeyHash,
}

/// For each partition the hash tag that leads there.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag_of = |index: usize| {
        let mut tags = (0u32..).map(|n| n.to_string());
        tags.find(|tag| key(tag, 0).partition().index() == index).unwrap_or_default()
    };
    (0..PARTITIONS_MAX).map(tag_of).collect()
});

fn key(tag: &str, nth: usize) -> Key {
    Key::new(format!("{{{tag}}}{nth}")).expect("a short key")
}

/// The keys of a schedule, one partition after the other.
pub(crate) fn keys(count: usize, partitions: usize) -> Vec<SimKey> {
    let sim_key = |nth: usize| {
        let key = key(&TAGS[nth % partitions], nth);
        SimKey { partition: key.partition(), hash: key.hash(), key }
    };
    (0..count).map(sim_key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_in_the_first_partitions() {
        let places: Vec<u16> = keys(4, 2).iter().map(|key| key.partition.get()).collect();
        assert_eq!(places, [0, 1, 0, 1]);
    }
}
