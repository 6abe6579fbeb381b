//! Ranges of BITCOUNT and BITPOS: `start end [BYTE | BIT]`, inclusive, negative from the end.

use super::BITS_PER_BYTE;
use crate::resp::command::{Args, CommandError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Byte,
    Bit,
}

impl Unit {
    /// The optional last argument.
    pub(super) fn parse(args: &mut Args) -> Result<Self, CommandError> {
        let unit = if args.is_empty() || args.take_keyword("BYTE") {
            Self::Byte
        } else if args.take_keyword("BIT") {
            Self::Bit
        } else {
            return Err(CommandError::SYNTAX);
        };
        args.finish()?;
        Ok(unit)
    }

    fn bits(self) -> usize {
        match self {
            Self::Byte => BITS_PER_BYTE,
            Self::Bit => 1,
        }
    }
}

/// The bits `start..end` of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BitRange {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl BitRange {
    pub(super) fn all(bytes: usize) -> Self {
        Self { start: 0, end: bytes * BITS_PER_BYTE }
    }

    /// Clamped to a value of `bytes` bytes; `start >= end` if nothing is left.
    pub(super) fn clamp(start: i64, end: i64, unit: Unit, bytes: usize) -> Self {
        let len = bytes * BITS_PER_BYTE / unit.bits();
        let absolute = |index: i64| {
            let distance = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
            if index < 0 { len.saturating_sub(distance) } else { distance.min(len) }
        };
        let end = absolute(end).saturating_add(1).min(len);
        Self { start: absolute(start) * unit.bits(), end: end * unit.bits() }
    }

    pub(super) fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The bytes that the range touches, each with a mask of the bits inside it.
    pub(super) fn bytes(self, data: &[u8]) -> impl Iterator<Item = (usize, u8, u8)> + '_ {
        let touched =
            if self.is_empty() { 0..0 } else { self.start / BITS_PER_BYTE..self.end.div_ceil(BITS_PER_BYTE) };
        touched.map(move |at| {
            let first = at * BITS_PER_BYTE;
            let head = self.start.saturating_sub(first);
            let tail = (first + BITS_PER_BYTE).saturating_sub(self.end);
            (at, data.get(at).copied().unwrap_or(0), (0xff >> head) & (0xff << tail))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamping() {
        let clamp = |start, end, unit| {
            let range = BitRange::clamp(start, end, unit, 3);
            (!range.is_empty()).then_some((range.start, range.end))
        };
        assert_eq!(clamp(0, -1, Unit::Byte), Some((0, 24)));
        assert_eq!(clamp(1, 1, Unit::Byte), Some((8, 16)));
        assert_eq!(clamp(-1, 100, Unit::Byte), Some((16, 24)));
        assert_eq!(clamp(5, 10, Unit::Bit), Some((5, 11)));
        assert_eq!(clamp(-2, -1, Unit::Bit), Some((22, 24)));
        assert_eq!(clamp(i64::MIN, i64::MAX, Unit::Bit), Some((0, 24)));
        assert_eq!(clamp(3, 5, Unit::Byte), None);
        assert_eq!(clamp(2, 1, Unit::Byte), None);
        assert_eq!(clamp(i64::MAX, i64::MAX, Unit::Byte), None);
    }

    #[test]
    fn masks_of_the_edges() {
        let masks =
            |start, end| BitRange { start, end }.bytes(&[0xaa; 3]).map(|b| (b.0, b.2)).collect::<Vec<_>>();
        assert_eq!(masks(0, 24), [(0, 0xff), (1, 0xff), (2, 0xff)]);
        assert_eq!(masks(3, 6), [(0, 0b0001_1100)]);
        assert_eq!(masks(7, 17), [(0, 0x01), (1, 0xff), (2, 0x80)]);
        assert_eq!(masks(5, 5), []);
    }
}
