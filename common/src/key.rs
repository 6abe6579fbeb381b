//! Keys, and the way from a key to its partition.
//!
//! ```text
//! key bytes ──CRC16 of the hash tag──▶ slot 0..16384 ──▶ partition 0..1024 ──▶ token on the ring
//!           ──BLAKE3, 128 bits───────▶ key hash: the primary key inside the partition
//! ```
//!
//! Slots and hash tags are those of Redis Cluster (cluster specification, "Key distribution model"), so a client
//! that groups keys by `{tag}` for a cluster finds them together here too.

use std::fmt;

use bytes::Bytes;
use crc::{CRC_16_XMODEM, Crc};

/// Number of slots of Redis Cluster.
pub const SLOTS: u16 = 16_384;
/// Number of partitions. A partition is the unit of placement, promise and ring change; the number is part of the
/// stored format.
pub const PARTITIONS: u16 = 1_024;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// A key: any bytes, at most [`KEY_BYTES_MAX`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key of {len} bytes is longer than {KEY_BYTES_MAX} bytes")]
pub struct KeyTooLong {
    pub len: usize,
}

impl Key {
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KeyTooLong> {
        let bytes = bytes.into();
        if bytes.len() > KEY_BYTES_MAX {
            return Err(KeyTooLong { len: bytes.len() });
        }
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as a shared buffer, without a copy.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The same key in a buffer of its own, for who keeps it long: it may have come in a larger one.
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    pub fn slot(&self) -> u16 {
        CRC16.checksum(hash_tag(&self.0)) % SLOTS
    }

    pub fn partition(&self) -> PartitionId {
        PartitionId(self.slot() / (SLOTS / PARTITIONS))
    }

    pub fn hash(&self) -> KeyHash {
        let mut out = [0; 16];
        out.copy_from_slice(&blake3::hash(&self.0).as_bytes()[..16]);
        KeyHash(out)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(\"{}\")", self.0.escape_ascii())
    }
}

/// What Redis Cluster hashes: the text between the first `{` and the next `}`, unless that is empty.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|b| *b == b'{') else { return key };
    match key[open + 1..].iter().position(|b| *b == b'}') {
        Some(len) if len > 0 => &key[open + 1..open + 1 + len],
        _ => key,
    }
}

/// The number of a partition, below [`PARTITIONS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PartitionId(u16);

impl PartitionId {
    pub const MIN: Self = Self(0);

    /// `None` when there is no such partition.
    pub const fn new(id: u16) -> Option<Self> {
        if id < PARTITIONS { Some(Self(id)) } else { None }
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    pub const fn get(self) -> u16 {
        self.0
    }

    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first 128 bits of the key's BLAKE3 hash: the key's place inside its partition. PostgreSQL's B-tree entries
/// must stay under about 2.7 kB, so the key bytes themselves cannot be the primary key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 16]);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // `CLUSTER KEYSLOT` of a Redis 7 server.
        assert_eq!(key("foo").slot(), 12_182);
        assert_eq!(key("123456789").slot(), 12_739);
        assert_eq!(key("").slot(), 0);
    }

    #[test]
    fn a_hash_tag_decides_the_slot_alone() {
        assert_eq!(key("{user1000}.following").slot(), key("{user1000}.followers").slot());
        assert_eq!(key("foo{bar}{zap}").slot(), key("bar").slot());
        assert_eq!(key("foo{{bar}}zap").slot(), key("{bar").slot());
        assert_ne!(key("foo{}{bar}").slot(), key("bar").slot());
    }

    #[test]
    fn a_key_over_the_limit_is_refused() {
        assert!(Key::new(vec![b'k'; KEY_BYTES_MAX]).is_ok());
        assert_eq!(Key::new(vec![b'k'; KEY_BYTES_MAX + 1]), Err(KeyTooLong { len: KEY_BYTES_MAX + 1 }));
    }

    #[test]
    fn every_slot_has_a_partition() {
        assert_eq!(PartitionId::new(PARTITIONS), None);
        assert_eq!(PartitionId::all().count(), usize::from(PARTITIONS));
        assert!(usize::from((SLOTS - 1) / (SLOTS / PARTITIONS)) < usize::from(PARTITIONS));
    }
}
