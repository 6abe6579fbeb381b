//! The binary formats inside `bytea` columns, format version 1. `SCHEMA.md` describes them for people.
//!
//! A clock is 16 bytes per entry, incarnation and counter, big-endian. The advances of a commit, one record per
//! partition, sit in every journal row and are packed tighter: a table of incarnations, then numbers of one to ten
//! bytes each (LEB128) that point into it. So are the rows of the redo log.

use bytes::Bytes;
use tercet_common::{
    Ballot, Content, DataType, Epoch, Incarnation, Key, KeyHash, PartitionId, Promise, Row, Term, UnixMillis,
    VectorClock,
};

use super::{Place, StoreError};

/// The version of all formats here; kept in `tercet.identity`.
pub(super) const FORMAT_VERSION: i32 = 1;

const CLOCK_ENTRY_BYTES: usize = 16;
const PLACE_BYTES: usize = 18;

/// What one commit added to one partition, beyond what was durable when it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advance {
    pub(super) partition: PartitionId,
    /// The highest ballot of the commit, whether or not it is the partition's highest.
    pub(super) highest: Ballot,
    pub(super) vector: VectorClock,
}

pub(super) fn encode_clock(clock: &VectorClock) -> Vec<u8> {
    let mut out = Vec::with_capacity(clock.entries().len() * CLOCK_ENTRY_BYTES);
    for (incarnation, counter) in clock.entries() {
        out.extend_from_slice(&incarnation.0.to_be_bytes());
        out.extend_from_slice(&counter.to_be_bytes());
    }
    out
}

pub(super) fn decode_clock(bytes: &[u8]) -> Result<VectorClock, StoreError> {
    let mut clock = VectorClock::new();
    let (entries, rest) = bytes.as_chunks::<CLOCK_ENTRY_BYTES>();
    for entry in entries {
        let (incarnation, counter) = entry.split_at(8);
        clock.observe(Incarnation(be_u64(incarnation)), be_u64(counter));
    }
    // Sorted, unique and above zero is how they were written; anything else is not ours.
    let sorted = entries.is_sorted_by(|a, b| a[..8] < b[..8]);
    if !rest.is_empty() || !sorted || clock.entries().len() != entries.len() {
        return Err(StoreError::Failed("a stored clock is damaged".to_owned()));
    }
    Ok(clock)
}

fn be_u64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Places, 18 bytes each: partition and hash.
pub(super) fn encode_places(places: impl IntoIterator<Item = Place>) -> Vec<u8> {
    let places = places.into_iter();
    let mut out = Vec::with_capacity(places.size_hint().0 * PLACE_BYTES);
    for (partition, hash) in places {
        out.extend_from_slice(&partition.get().to_be_bytes());
        out.extend_from_slice(&hash.0);
    }
    out
}

pub(super) fn decode_places(bytes: &[u8]) -> Result<Vec<Place>, StoreError> {
    let (places, rest) = bytes.as_chunks::<PLACE_BYTES>();
    let place = |bytes: &[u8; PLACE_BYTES]| {
        let (partition, hash) = bytes.split_first_chunk::<2>()?;
        Some((PartitionId::new(u16::from_be_bytes(*partition))?, KeyHash(hash.try_into().ok()?)))
    };
    let places = places.iter().map(place).collect::<Option<_>>();
    places.filter(|_| rest.is_empty()).ok_or_else(damaged_journal)
}

fn damaged_journal() -> StoreError {
    StoreError::Failed("a journal row is damaged".to_owned())
}

/// The incarnations that a record names, each once; numbers point into it.
struct Incarnations(Vec<Incarnation>);

impl Incarnations {
    fn new<'a>(named: impl Iterator<Item = (&'a VectorClock, Ballot)>) -> Self {
        let mut table: Vec<Incarnation> = Vec::new();
        for (clock, ballot) in named {
            for incarnation in clock.entries().iter().map(|e| e.0).chain([ballot.term.incarnation]) {
                // Nearly all name the same one as those before.
                if table.last() != Some(&incarnation) {
                    table.push(incarnation);
                }
            }
        }
        table.sort_unstable();
        table.dedup();
        Self(table)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put(out, self.0.len() as u64);
        for incarnation in &self.0 {
            out.extend_from_slice(&incarnation.0.to_be_bytes());
        }
    }

    fn index(&self, incarnation: Incarnation) -> u64 {
        self.0.partition_point(|i| *i < incarnation) as u64
    }

    fn put_ballot(&self, out: &mut Vec<u8>, Ballot { epoch, term, seq }: Ballot) {
        for number in [epoch.0, term.n, self.index(term.incarnation), seq] {
            put(out, number);
        }
    }

    fn put_clock(&self, out: &mut Vec<u8>, clock: &VectorClock) {
        put(out, clock.entries().len() as u64);
        for (incarnation, counter) in clock.entries() {
            put(out, self.index(*incarnation));
            put(out, *counter);
        }
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        let len = usize::try_from(take(input)?).ok()?;
        let (table, rest) = input.split_at_checked(len.checked_mul(8)?)?;
        *input = rest;
        Some(Self(table.as_chunks::<8>().0.iter().map(|n| Incarnation(u64::from_be_bytes(*n))).collect()))
    }

    fn at(&self, index: u64) -> Option<Incarnation> {
        self.0.get(usize::try_from(index).ok()?).copied()
    }

    fn take_ballot(&self, input: &mut &[u8]) -> Option<Ballot> {
        let epoch = Epoch(take(input)?);
        let term = Term { n: take(input)?, incarnation: self.at(take(input)?)? };
        Some(Promise { epoch, term }.ballot(take(input)?))
    }

    fn take_clock(&self, input: &mut &[u8]) -> Option<VectorClock> {
        let mut clock = VectorClock::new();
        for _ in 0..take(input)? {
            clock.observe(self.at(take(input)?)?, take(input)?);
        }
        Some(clock)
    }
}

pub(super) fn encode_advances(advances: &[Advance]) -> Vec<u8> {
    if advances.is_empty() {
        return Vec::new();
    }
    let incarnations = Incarnations::new(advances.iter().map(|a| (&a.vector, a.highest)));
    let mut out = Vec::with_capacity(16 + advances.len() * 16);
    incarnations.put(&mut out);
    for advance in advances {
        put(&mut out, u64::from(advance.partition.get()));
        incarnations.put_ballot(&mut out, advance.highest);
        incarnations.put_clock(&mut out, &advance.vector);
    }
    out
}

pub(super) fn decode_advances(bytes: &[u8]) -> Result<Vec<Advance>, StoreError> {
    take_advances(bytes).ok_or_else(damaged_journal)
}

fn take_advances(mut bytes: &[u8]) -> Option<Vec<Advance>> {
    let mut advances = Vec::new();
    if bytes.is_empty() {
        return Some(advances);
    }
    let input = &mut bytes;
    let incarnations = Incarnations::take(input)?;
    while !input.is_empty() {
        let partition = PartitionId::new(u16::try_from(take(input)?).ok()?)?;
        let highest = incarnations.take_ballot(input)?;
        advances.push(Advance { partition, highest, vector: incarnations.take_clock(input)? });
    }
    Some(advances)
}

/// The rows of a commit, for the redo log.
pub(super) fn encode_rows<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Vec<u8> {
    const AROUND: usize = 48;
    let incarnations = Incarnations::new(rows.clone().map(|row| (&row.clock, row.ballot)));
    let bytes = |row: &Row| AROUND + row.key.as_bytes().len() + row.content.data_len();
    let mut out = Vec::with_capacity(AROUND + rows.clone().map(bytes).sum::<usize>());
    incarnations.put(&mut out);
    for row in rows {
        put_bytes(&mut out, row.key.as_bytes());
        incarnations.put_ballot(&mut out, row.ballot);
        incarnations.put_clock(&mut out, &row.clock);
        match &row.content {
            Content::Tombstone => out.push(0),
            Content::Value { data_type, data, expires_at } => {
                out.push(data_type.code());
                out.push(u8::from(expires_at.is_some()));
                expires_at.iter().for_each(|at| out.extend_from_slice(&at.0.to_be_bytes()));
                put_bytes(&mut out, data);
            }
        }
    }
    out
}

pub(super) fn decode_rows(bytes: &[u8]) -> Result<Vec<Row>, StoreError> {
    take_rows(bytes).ok_or_else(|| StoreError::Failed("a row of the redo log is damaged".to_owned()))
}

fn take_rows(mut bytes: &[u8]) -> Option<Vec<Row>> {
    let input = &mut bytes;
    let incarnations = Incarnations::take(input)?;
    let mut rows = Vec::new();
    while !input.is_empty() {
        let key = Key::new(take_bytes(input)?).ok()?;
        let ballot = incarnations.take_ballot(input)?;
        let clock = incarnations.take_clock(input)?;
        let content = match take_byte(input)? {
            0 => Content::Tombstone,
            code => Content::Value {
                data_type: DataType::from_code(code)?,
                expires_at: match take_byte(input)? {
                    0 => None,
                    _ => Some(UnixMillis(i64::from_be_bytes(*take_chunk(input)?))),
                },
                data: take_bytes(input)?,
            },
        };
        rows.push(Row { key, ballot, clock, content });
    }
    Some(rows)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_bytes(input: &mut &[u8]) -> Option<Bytes> {
    let len = usize::try_from(take(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(Bytes::copy_from_slice(bytes))
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    take_chunk::<1>(input).map(|chunk| chunk[0])
}

fn take_chunk<'a, const N: usize>(input: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (chunk, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(chunk)
}

/// LEB128: seven bits per byte, lowest first, the top bit says that more follow.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tercet_common::PARTITIONS;

    use super::*;

    fn clock() -> impl Strategy<Value = VectorClock> {
        proptest::collection::vec((0..=u64::MAX >> 1, 1..=u64::MAX), 0..5).prop_map(|entries| {
            let mut clock = VectorClock::new();
            entries.into_iter().for_each(|(i, c)| clock.observe(Incarnation(i), c));
            clock
        })
    }

    fn advance() -> impl Strategy<Value = Advance> {
        (0..PARTITIONS, any::<[u64; 4]>(), clock()).prop_map(|(p, [epoch, n, i, seq], vector)| {
            let promise = Promise { epoch: Epoch(epoch), term: Term { n, incarnation: Incarnation(i) } };
            Advance { partition: PartitionId::new(p).unwrap(), highest: promise.ballot(seq), vector }
        })
    }

    fn row() -> impl Strategy<Value = Row> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let content = proptest::option::of((bytes(), proptest::option::of(any::<i64>())));
        (bytes(), any::<[u64; 4]>(), clock(), content).prop_map(
            |(key, [epoch, n, i, seq], clock, content)| {
                let promise = Promise { epoch: Epoch(epoch), term: Term { n, incarnation: Incarnation(i) } };
                let content = content.map(|(data, at)| Content::string(data, at.map(UnixMillis)));
                let key = Key::new(key).unwrap();
                Row {
                    key,
                    ballot: promise.ballot(seq),
                    clock,
                    content: content.unwrap_or(Content::Tombstone),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn clocks_survive(clock in clock()) {
            prop_assert_eq!(decode_clock(&encode_clock(&clock)), Ok(clock));
        }

        #[test]
        fn advances_survive(advances in proptest::collection::vec(advance(), 0..8)) {
            prop_assert_eq!(decode_advances(&encode_advances(&advances)), Ok(advances));
        }

        #[test]
        fn rows_survive(rows in proptest::collection::vec(row(), 0..8)) {
            prop_assert_eq!(decode_rows(&encode_rows(rows.iter())), Ok(rows));
        }

        #[test]
        fn places_survive(places in proptest::collection::vec((0..PARTITIONS, any::<[u8; 16]>()), 0..8)) {
            let place = |(p, hash)| (PartitionId::new(p).unwrap(), KeyHash(hash));
            let places: Vec<_> = places.into_iter().map(place).collect();
            prop_assert_eq!(decode_places(&encode_places(places.iter().copied())), Ok(places));
        }

        #[test]
        fn damaged_bytes_are_an_error_or_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_advances(&bytes);
            let _ = decode_clock(&bytes);
            let _ = decode_rows(&bytes);
            let _ = decode_places(&bytes);
        }

        #[test]
        fn a_row_that_ends_early_is_damaged(row in row()) {
            let bytes = encode_rows([&row].into_iter());
            prop_assert!((1..bytes.len()).all(|len| decode_rows(&bytes[..len]) != Ok(vec![row.clone()])));
        }
    }

    #[test]
    fn a_usual_advance_is_small() {
        let incarnation = Incarnation(0x7bcd_ef01_2345_6789);
        let promise = Promise { epoch: Epoch(3), term: Term { n: 12, incarnation } };
        let advances: Vec<_> = (0..50)
            .map(|p| Advance {
                partition: PartitionId::new(p * 20).unwrap(),
                highest: promise.ballot(1_000_000),
                vector: VectorClock::new().with_dot(incarnation, 1_000_000),
            })
            .collect();
        assert!(encode_advances(&advances).len() <= 9 + 50 * 13);
    }

    #[test]
    fn a_clock_with_an_entry_twice_or_in_part_is_damaged() {
        let mut bytes = encode_clock(&VectorClock::new().with_dot(Incarnation(1), 1));
        bytes.extend_from_slice(&bytes.clone());
        assert!(decode_clock(&bytes).is_err());
        assert!(decode_clock(&bytes[..20]).is_err());
    }

    #[test]
    fn a_clock_in_another_order_is_damaged() {
        let entry = |incarnation| encode_clock(&VectorClock::new().with_dot(Incarnation(incarnation), 1));
        assert!(decode_clock(&[entry(1), entry(2)].concat()).is_ok());
        assert!(decode_clock(&[entry(2), entry(1)].concat()).is_err());
    }
}
