//! One number of a BITFIELD: some bits of a string, read and written as an integer of 1 to 64 bits.

use super::BITS_PER_BYTE;
use crate::resp::command::{CommandError, parse_i64};

/// `i1` … `i64`, `u1` … `u63`. A `u64` would not fit RESP's integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FieldType {
    signed: bool,
    bits: usize,
}

/// What happens to a result that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Overflow {
    #[default]
    Wrap,
    /// The nearest number that fits.
    Saturate,
    /// Nothing is written, the answer is null.
    Fail,
}

impl FieldType {
    pub(super) fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let parsed = match text {
            [b'i', bits @ ..] => Some((true, bits, 64)),
            [b'u', bits @ ..] => Some((false, bits, 63)),
            _ => None,
        };
        let parsed = parsed.and_then(|(signed, bits, bits_max)| {
            let bits = usize::try_from(parse_i64(bits)?).ok()?;
            (1..=bits_max).contains(&bits).then_some(Self { signed, bits })
        });
        parsed.ok_or(CommandError::text(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
        ))
    }

    pub(super) fn bits(self) -> usize {
        self.bits
    }

    /// The number at bit `offset`; behind the end of `data` all bits are 0.
    pub(super) fn get(self, data: &[u8], offset: usize) -> i64 {
        let raw = (offset..offset + self.bits).fold(0_u64, |raw, at| {
            let byte = data.get(at / BITS_PER_BYTE).unwrap_or(&0);
            raw << 1 | u64::from(byte >> (7 - at % BITS_PER_BYTE) & 1)
        });
        if self.signed {
            let unused = 64 - self.bits;
            (raw << unused).cast_signed() >> unused
        } else {
            raw.cast_signed()
        }
    }

    /// `data` reaches beyond the field.
    pub(super) fn set(self, data: &mut [u8], offset: usize, value: i64) {
        for (place, at) in (offset..offset + self.bits).rev().enumerate() {
            let mask = 0x80 >> (at % BITS_PER_BYTE);
            if value >> place & 1 == 1 {
                data[at / BITS_PER_BYTE] |= mask;
            } else {
                data[at / BITS_PER_BYTE] &= !mask;
            }
        }
    }

    /// What SET stores: an unsigned field takes a negative number for its bits.
    pub(super) fn fit_value(self, value: i64, overflow: Overflow) -> Option<i64> {
        let wide = if self.signed { i128::from(value) } else { i128::from(value.cast_unsigned()) };
        self.fit(wide, overflow)
    }

    /// What INCRBY stores.
    pub(super) fn fit_sum(self, old: i64, increment: i64, overflow: Overflow) -> Option<i64> {
        self.fit(i128::from(old) + i128::from(increment), overflow)
    }

    fn fit(self, value: i128, overflow: Overflow) -> Option<i64> {
        let size = 1_i128 << self.bits;
        let (min, max) = if self.signed { (-(size / 2), size / 2 - 1) } else { (0, size - 1) };
        let fitted = match overflow {
            _ if (min..=max).contains(&value) => value,
            Overflow::Wrap => (value - min).rem_euclid(size) + min,
            Overflow::Saturate => value.clamp(min, max),
            Overflow::Fail => return None,
        };
        i64::try_from(fitted).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(text: &str) -> FieldType {
        FieldType::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn types() {
        assert_eq!(field("i64"), FieldType { signed: true, bits: 64 });
        assert_eq!(field("u63"), FieldType { signed: false, bits: 63 });
        for text in ["", "i", "u0", "i0", "u64", "i65", "x8", "I8", "u08", "u-1", "u+1", "u8 "] {
            assert!(FieldType::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit() {
        use Overflow::{Fail, Saturate, Wrap};
        for (kind, old, increment, wrapped, saturated) in [
            ("u8", 255, 1, 0, 255),
            ("u8", 0, -1, 255, 0),
            ("u8", 200, 1000, 176, 255),
            ("i8", 127, 1, -128, 127),
            ("i8", -128, -1, 127, -128),
            ("i8", 100, i64::MIN, 100, -128),
            ("i64", i64::MAX, 1, i64::MIN, i64::MAX),
            ("i64", i64::MIN, -1, i64::MAX, i64::MIN),
            ("u63", i64::MAX, 1, 0, i64::MAX),
            ("i1", 0, 1, -1, 0),
            ("u1", 1, 1, 0, 1),
        ] {
            let field = field(kind);
            assert_eq!(field.fit_sum(old, increment, Wrap), Some(wrapped), "{kind} {old} {increment}");
            assert_eq!(field.fit_sum(old, increment, Saturate), Some(saturated), "{kind} {old} {increment}");
            assert_eq!(field.fit_sum(old, increment, Fail), None, "{kind} {old} {increment}");
        }
        assert_eq!(field("u8").fit_value(-1, Saturate), Some(255));
        assert_eq!(field("u8").fit_value(-1, Wrap), Some(255));
        assert_eq!(field("i8").fit_value(-200, Saturate), Some(-128));
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_back_and_nothing_else_changes(
            before in proptest::collection::vec(any::<u8>(), 17),
            signed: bool, bits in 1_usize..=63, offset in 0_usize..64, value: i64,
        ) {
            let field = FieldType { signed, bits };
            let value = field.fit_value(value, Overflow::Wrap).unwrap();
            let mut data = before.clone();
            field.set(&mut data, offset, value);
            prop_assert_eq!(field.get(&data, offset), value);
            field.set(&mut data, offset, field.get(&before, offset));
            prop_assert_eq!(data, before);
        }
    }
}
