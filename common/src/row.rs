//! One version of one key.

use bytes::{Bytes, BytesMut};

use crate::cache::Weight;
use crate::{Ballot, Key, UnixMillis, VectorClock};

/// A version of a key as a put carries it, a replica stores it and a read returns it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub key: Key,
    pub ballot: Ballot,
    /// The partition's context joined with this put's dot. Ballots decide; clocks explain.
    pub clock: VectorClock,
    pub content: Content,
}

impl Row {
    /// Two versions of one key of which the one with the lower ballot has seen the other. The protocol never makes such a
    /// pair: an owner issues nothing below what it has seen.
    pub fn contradicts(&self, other: &Self) -> bool {
        let (lower, higher) = if self.ballot < other.ballot { (self, other) } else { (other, self) };
        lower.key == higher.key && lower.ballot < higher.ballot && lower.clock.has_seen(higher.ballot)
    }

    /// Roughly what the row costs in memory and on the wire, for byte bounds.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 160;
        FIXED + self.key.as_bytes().len() + self.content.data_len()
    }

    /// The row with its bytes in a buffer of its own. A row from the wire is a slice of the whole batch it came in; to
    /// keep it would keep megabytes for the sake of a few bytes.
    pub fn detached(&self) -> Self {
        let key = self.key.as_bytes();
        let data = match &self.content {
            Content::Tombstone => &[][..],
            Content::Value { data, .. } => data,
        };
        let mut buffer = BytesMut::with_capacity(key.len() + data.len());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(data);
        let mut own = buffer.freeze();
        let key = own.split_to(key.len());
        let content = match &self.content {
            Content::Tombstone => Content::Tombstone,
            Content::Value { data_type, expires_at, .. } => {
                Content::Value { data_type: *data_type, data: own, expires_at: *expires_at }
            }
        };
        let key = Key::new(key).expect("as long as the key that it is copied from");
        Self { key, ballot: self.ballot, clock: self.clock.clone(), content }
    }
}

impl Weight for Row {
    fn weight(&self) -> usize {
        self.weight() + size_of_val(self.clock.entries())
    }
}

/// What is known of a key may be that it has no row.
impl Weight for Option<Row> {
    fn weight(&self) -> usize {
        self.as_ref().map_or(0, Weight::weight)
    }
}

/// What a version says about its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The key is deleted. Kept as a row, so that no older version can come back.
    Tombstone,
    Value {
        data_type: DataType,
        data: Bytes,
        /// Absolute. Judged by the partition's owner, never by a worker's clock.
        expires_at: Option<UnixMillis>,
    },
}

impl Content {
    pub fn string(data: impl Into<Bytes>, expires_at: Option<UnixMillis>) -> Self {
        Self::Value { data_type: DataType::String, data: data.into(), expires_at }
    }

    pub fn data_len(&self) -> usize {
        match self {
            Self::Tombstone => 0,
            Self::Value { data, .. } => data.len(),
        }
    }

    pub fn expires_at(&self) -> Option<UnixMillis> {
        match self {
            Self::Tombstone => None,
            Self::Value { expires_at, .. } => *expires_at,
        }
    }

    /// Whether a client sees a value at `now`. A value is gone from the millisecond it names, as in Redis.
    pub fn is_live(&self, now: UnixMillis) -> bool {
        match self {
            Self::Tombstone => false,
            Self::Value { expires_at, .. } => expires_at.is_none_or(|at| now < at),
        }
    }
}

/// The type of a value. The numbers are stored and sent; new types take new numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum DataType {
    String = 1,
}

impl DataType {
    pub const fn code(self) -> u8 {
        self as u8
    }

    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::String),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_row_shares_no_buffer_with_the_batch_it_came_in() {
        let batch = Bytes::from(vec![b'x'; 1_000]);
        let key = Key::new(batch.slice(..3)).unwrap();
        let content = Content::string(batch.slice(3..8), None);
        let row = Row { key, ballot: Ballot::ZERO, clock: VectorClock::new(), content };
        let own = row.detached();
        assert_eq!(own, row);
        drop(row);
        assert!(batch.is_unique());
    }
}
