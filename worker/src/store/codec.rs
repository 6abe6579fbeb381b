//! The binary formats inside `bytea` columns, format version 1. `SCHEMA.md` describes them for people.
//!
//! A clock is 16 bytes per entry, incarnation and counter, big-endian. The advances of a commit, one record per
//! partition, sit in every journal row and are packed tighter: a table of incarnations, then numbers of one to ten
//! bytes each (LEB128) that point into it.

use tercet_common::{Ballot, Epoch, Incarnation, PartitionId, Promise, Term, VectorClock};

use super::StoreError;

/// The version of all formats here; kept in `tercet.identity`.
pub(super) const FORMAT_VERSION: i32 = 1;

const CLOCK_ENTRY_BYTES: usize = 16;

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

pub(super) fn encode_advances(advances: &[Advance]) -> Vec<u8> {
    if advances.is_empty() {
        return Vec::new();
    }
    let mut incarnations: Vec<Incarnation> = advances
        .iter()
        .flat_map(|a| a.vector.entries().iter().map(|e| e.0).chain([a.highest.term.incarnation]))
        .collect();
    incarnations.sort_unstable();
    incarnations.dedup();
    let index = |incarnation: Incarnation| incarnations.partition_point(|i| *i < incarnation) as u64;

    let mut out = Vec::with_capacity(16 + advances.len() * 16);
    put(&mut out, incarnations.len() as u64);
    for incarnation in &incarnations {
        out.extend_from_slice(&incarnation.0.to_be_bytes());
    }
    for advance in advances {
        let Ballot { epoch, term, seq } = advance.highest;
        put(&mut out, u64::from(advance.partition.get()));
        for number in [epoch.0, term.n, index(term.incarnation), seq, advance.vector.entries().len() as u64] {
            put(&mut out, number);
        }
        for (incarnation, counter) in advance.vector.entries() {
            put(&mut out, index(*incarnation));
            put(&mut out, *counter);
        }
    }
    out
}

pub(super) fn decode_advances(bytes: &[u8]) -> Result<Vec<Advance>, StoreError> {
    decode_all(bytes).ok_or_else(|| StoreError::Failed("a journal row is damaged".to_owned()))
}

fn decode_all(mut bytes: &[u8]) -> Option<Vec<Advance>> {
    let mut advances = Vec::new();
    if bytes.is_empty() {
        return Some(advances);
    }
    let input = &mut bytes;
    let table_len = usize::try_from(take(input)?).ok()?.checked_mul(8)?;
    let (table, rest) = input.split_at_checked(table_len)?;
    *input = rest;
    let incarnation = |index: u64| {
        let at = usize::try_from(index).ok()?.checked_mul(8)?;
        Some(Incarnation(be_u64(table.get(at..at.checked_add(8)?)?)))
    };
    while !input.is_empty() {
        let partition = PartitionId::new(u16::try_from(take(input)?).ok()?)?;
        let epoch = Epoch(take(input)?);
        let term = Term { n: take(input)?, incarnation: incarnation(take(input)?)? };
        let highest = Promise { epoch, term }.ballot(take(input)?);
        let mut vector = VectorClock::new();
        for _ in 0..take(input)? {
            vector.observe(incarnation(take(input)?)?, take(input)?);
        }
        advances.push(Advance { partition, highest, vector });
    }
    Some(advances)
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

    use super::*;

    fn clock() -> impl Strategy<Value = VectorClock> {
        proptest::collection::vec((0..=u64::MAX >> 1, 1..=u64::MAX), 0..5).prop_map(|entries| {
            let mut clock = VectorClock::new();
            entries.into_iter().for_each(|(i, c)| clock.observe(Incarnation(i), c));
            clock
        })
    }

    fn advance() -> impl Strategy<Value = Advance> {
        (0..tercet_common::PARTITIONS, any::<[u64; 4]>(), clock()).prop_map(
            |(p, [epoch, n, i, seq], vector)| {
                let promise = Promise { epoch: Epoch(epoch), term: Term { n, incarnation: Incarnation(i) } };
                Advance { partition: PartitionId::new(p).unwrap(), highest: promise.ballot(seq), vector }
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
        fn damaged_bytes_are_an_error_or_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_advances(&bytes);
            let _ = decode_clock(&bytes);
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
