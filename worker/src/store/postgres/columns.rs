//! Between rows of ours and columns of PostgreSQL's.
//!
//! PostgreSQL has no unsigned numbers: everything that a ballot counts must fit 63 bits, which is checked on the way in.
//! Batches travel as one array per column; values are borrowed, not copied, until the driver writes them out.

use bytes::{Bytes, BytesMut};
use tercet_common::{
    Ballot, Content, DataType, Epoch, Incarnation, Key, KeyHash, PartitionId, Promise, Row, Term, UnixMillis,
    VectorClock,
};
use tokio_postgres::Row as Stored;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::super::codec::{decode_clock, encode_clock};
use super::super::{CommitBatch, Place, StoreError, place_of};

/// `entry.kind` of a tombstone; other numbers are [`DataType`] codes.
pub(super) const TOMBSTONE: i16 = 0;
/// `entry.kind` of what locks a row and is gone before its transaction ends.
pub(super) const PLACEHOLDER: i16 = -1;
/// PostgreSQL takes messages below 1 GiB; the rest is room for what is not weighed.
const BATCH_BYTES_MAX: usize = 960 * 1024 * 1024;

type DriverError = Box<dyn std::error::Error + Sync + Send>;

/// A key hash as a `bytea` of 16 bytes, without an allocation of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HashColumn(pub(super) [u8; 16]);

impl ToSql for HashColumn {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, DriverError> {
        self.0.as_slice().to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for HashColumn {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, DriverError> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }
}

pub(super) fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Failed(format!("{number} does not fit a stored number")))
}

pub(super) fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Failed(format!("a stored number is negative: {number}")))
}

pub(super) fn smallint(partition: PartitionId) -> i16 {
    partition.get().cast_signed()
}

pub(super) fn partition_id(id: i16) -> Result<PartitionId, StoreError> {
    let out_of_range = || StoreError::Failed("a stored partition is out of range".to_owned());
    PartitionId::new(id.cast_unsigned()).ok_or_else(out_of_range)
}

/// A ballot as four columns.
pub(super) fn ballot_numbers(ballot: Ballot) -> Result<[i64; 4], StoreError> {
    let Ballot { epoch, term, seq } = ballot;
    Ok([signed(epoch.0)?, signed(term.n)?, signed(term.incarnation.0)?, signed(seq)?])
}

/// A promise from three columns.
pub(super) fn promise_at(row: &Stored, column: usize) -> Result<Promise, StoreError> {
    let number = |offset: usize| unsigned(row.get(column + offset));
    let term = Term { n: number(1)?, incarnation: Incarnation(number(2)?) };
    Ok(Promise { epoch: Epoch(number(0)?), term })
}

/// A ballot from four columns.
pub(super) fn ballot_at(row: &Stored, column: usize) -> Result<Ballot, StoreError> {
    Ok(promise_at(row, column)?.ballot(unsigned(row.get(column + 3))?))
}

/// The columns of a whole row, in the order that [`row_at`] expects. `e` is the entry.
pub(super) const ROW_COLUMNS: &str =
    "e.epoch, e.n, e.incarnation, e.seq, e.key, e.clock, e.kind, e.expires_at";

/// A row from the columns of [`ROW_COLUMNS`], beginning at `column`, and its value.
pub(super) fn row_at(row: &Stored, column: usize, value: Option<&[u8]>) -> Result<Row, StoreError> {
    let damaged = |what: &str| StoreError::Failed(format!("a stored row is damaged: {what}"));
    let key: &[u8] = row.get(column + 4);
    let kind: i16 = row.get(column + 6);
    let content = if kind == TOMBSTONE {
        Content::Tombstone
    } else {
        let data_type = u8::try_from(kind).ok().and_then(DataType::from_code);
        Content::Value {
            data_type: data_type.ok_or_else(|| damaged("its type is unknown"))?,
            data: Bytes::copy_from_slice(value.unwrap_or_default()),
            expires_at: row.get::<_, Option<i64>>(column + 7).map(UnixMillis),
        }
    };
    Ok(Row {
        key: Key::new(Bytes::copy_from_slice(key)).map_err(|_| damaged("its key is too long"))?,
        ballot: ballot_at(row, column)?,
        clock: decode_clock(row.get(column + 5))?,
        content,
    })
}

/// Ballots as arrays, one per column.
#[derive(Default)]
pub(super) struct Ballots {
    pub(super) epoch: Vec<i64>,
    pub(super) n: Vec<i64>,
    pub(super) incarnation: Vec<i64>,
    pub(super) seq: Vec<i64>,
}

impl Ballots {
    fn with_capacity(len: usize) -> Self {
        let column = || Vec::with_capacity(len);
        Self { epoch: column(), n: column(), incarnation: column(), seq: column() }
    }

    pub(super) fn push(&mut self, ballot: Ballot) -> Result<(), StoreError> {
        let [epoch, n, incarnation, seq] = ballot_numbers(ballot)?;
        self.epoch.push(epoch);
        self.n.push(n);
        self.incarnation.push(incarnation);
        self.seq.push(seq);
        Ok(())
    }
}

/// The rows of a batch as arrays, one per column of `tercet.entry`.
pub(super) struct RowColumns<'a> {
    pub(super) partition: Vec<i16>,
    pub(super) hash: Vec<HashColumn>,
    pub(super) key: Vec<&'a [u8]>,
    pub(super) ballot: Ballots,
    clock: Vec<Vec<u8>>,
    kind: Vec<i16>,
    value: Vec<Option<&'a [u8]>>,
    expires_at: Vec<Option<i64>>,
    bytes: usize,
}

impl<'a> RowColumns<'a> {
    pub(super) fn new(rows: impl IntoIterator<Item = (Place, &'a Row)>) -> Result<Self, StoreError> {
        let rows = rows.into_iter();
        let mut columns = Self::with_capacity(rows.size_hint().0);
        rows.into_iter().try_for_each(|(place, row)| columns.push(place, row))?;
        columns.weighed()
    }

    /// Of rows whose places nobody has at hand.
    pub(super) fn of_rows(rows: impl IntoIterator<Item = &'a Row>) -> Result<Self, StoreError> {
        Self::new(rows.into_iter().map(|row| (place_of(row), row)))
    }

    pub(super) fn len(&self) -> usize {
        self.partition.len()
    }

    /// The ballot of a row, as [`ballot_numbers`].
    pub(super) fn ballot(&self, at: usize) -> [i64; 4] {
        let Ballots { epoch, n, incarnation, seq } = &self.ballot;
        [epoch[at], n[at], incarnation[at], seq[at]]
    }

    /// The rows of one partition, and a placeholder where none of them has an evicted hash: all of them in the order of
    /// hashes, if both are.
    pub(super) fn with_placeholders(
        partition: PartitionId,
        rows: &'a [Row],
        evict: &[(KeyHash, Ballot)],
    ) -> Result<Self, StoreError> {
        let mut columns = Self::with_capacity(rows.len() + evict.len());
        let mut evict = evict.iter().map(|evicted| evicted.0).peekable();
        for row in rows {
            let hash = row.key.hash();
            while let Some(evicted) = evict.next_if(|evicted| *evicted < hash) {
                columns.push_placeholder(partition, evicted)?;
            }
            evict.next_if_eq(&hash);
            columns.push((partition, hash), row)?;
        }
        evict.try_for_each(|evicted| columns.push_placeholder(partition, evicted))?;
        columns.weighed()
    }

    fn with_capacity(len: usize) -> Self {
        Self {
            partition: Vec::with_capacity(len),
            hash: Vec::with_capacity(len),
            key: Vec::with_capacity(len),
            ballot: Ballots::with_capacity(len),
            clock: Vec::with_capacity(len),
            kind: Vec::with_capacity(len),
            value: Vec::with_capacity(len),
            expires_at: Vec::with_capacity(len),
            bytes: 0,
        }
    }

    fn push(&mut self, place: Place, row: &'a Row) -> Result<(), StoreError> {
        let (kind, value, expires_at) = match &row.content {
            Content::Tombstone => (TOMBSTONE, None, None),
            Content::Value { data_type, data, expires_at } => {
                (i16::from(data_type.code()), Some(data.as_ref()), expires_at.map(|at| at.0))
            }
        };
        self.bytes += row.weight();
        self.ballot.push(row.ballot)?;
        self.partition.push(smallint(place.0));
        self.hash.push(HashColumn(place.1.0));
        self.key.push(row.key.as_bytes());
        self.clock.push(encode_clock(&row.clock));
        self.kind.push(kind);
        self.value.push(value);
        self.expires_at.push(expires_at);
        Ok(())
    }

    fn push_placeholder(&mut self, partition: PartitionId, hash: KeyHash) -> Result<(), StoreError> {
        self.ballot.push(Ballot::ZERO)?;
        self.partition.push(smallint(partition));
        self.hash.push(HashColumn(hash.0));
        self.key.push(b"");
        self.clock.push(Vec::new());
        self.kind.push(PLACEHOLDER);
        self.value.push(None);
        self.expires_at.push(None);
        Ok(())
    }

    fn weighed(self) -> Result<Self, StoreError> {
        if self.bytes > BATCH_BYTES_MAX {
            let bytes = self.bytes;
            return Err(StoreError::Failed(format!("{bytes} bytes are too many for one transaction")));
        }
        Ok(self)
    }

    /// `$1` to `$11`: partition, key_hash, key, epoch, n, incarnation, seq, clock, kind, value, expires_at.
    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let Ballots { epoch, n, incarnation, seq } = &self.ballot;
        vec![
            &self.partition,
            &self.hash,
            &self.key,
            epoch,
            n,
            incarnation,
            seq,
            &self.clock,
            &self.kind,
            &self.value,
            &self.expires_at,
        ]
    }
}

/// What a batch raises on partitions, as arrays: each partition once, ascending. Zeros raise nothing.
pub(super) struct PartitionColumns {
    pub(super) id: Vec<i16>,
    promise: Ballots,
    flush: Ballots,
    flush_clock: Vec<Vec<u8>>,
}

impl PartitionColumns {
    pub(super) fn new(
        promises: &[(PartitionId, Promise)],
        flushes: &[(PartitionId, Ballot, VectorClock)],
    ) -> Result<Self, StoreError> {
        let mut raised: std::collections::BTreeMap<PartitionId, (Promise, Ballot, Option<&VectorClock>)> =
            std::collections::BTreeMap::new();
        for (partition, promise) in promises {
            let entry = raised.entry(*partition).or_default();
            entry.0 = entry.0.max(*promise);
        }
        for (partition, ballot, clock) in flushes {
            let entry = raised.entry(*partition).or_default();
            if *ballot > entry.1 {
                (entry.1, entry.2) = (*ballot, Some(clock));
            }
        }
        let mut columns = Self {
            id: raised.keys().copied().map(smallint).collect(),
            promise: Ballots::with_capacity(raised.len()),
            flush: Ballots::with_capacity(raised.len()),
            flush_clock: Vec::with_capacity(raised.len()),
        };
        for (promise, flush, clock) in raised.into_values() {
            columns.promise.push(promise.ballot(0))?;
            columns.flush.push(flush)?;
            columns.flush_clock.push(clock.map(encode_clock).unwrap_or_default());
        }
        Ok(columns)
    }

    /// In order: id; epoch, n, incarnation of the promise; epoch, n, incarnation, seq of the flush; flush_clock.
    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let (promise, flush) = (&self.promise, &self.flush);
        vec![
            &self.id,
            &promise.epoch,
            &promise.n,
            &promise.incarnation,
            &flush.epoch,
            &flush.n,
            &flush.incarnation,
            &flush.seq,
            &self.flush_clock,
        ]
    }
}

/// The partitions that a batch flushes.
pub(super) fn flushed(batch: &CommitBatch) -> Vec<i16> {
    batch.flushes.iter().map(|flush| smallint(flush.0)).collect()
}
