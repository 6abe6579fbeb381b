//! Times to live as clients write them: `EX 10`, `PXAT 1700000000000`, `KEEPTTL`, `PERSIST`.
//!
//! A relative time stays relative until the coordinator decides the write and says what `now` is; a repeated decision
//! then counts from the repetition.

use bytes::Bytes;
use tercet_common::UnixMillis;

use super::{Args, CommandError, parse_i64};

const MILLIS_PER_SECOND: i64 = 1_000;

/// What a client's number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

impl Unit {
    /// `None` on overflow.
    fn to_millis(self, number: i64) -> Option<i64> {
        match self {
            Self::Seconds => number.checked_mul(MILLIS_PER_SECOND),
            Self::Millis => Some(number),
        }
    }

    /// Rounds to the nearest second, as TTL does.
    pub(super) fn of_millis(self, millis: i64) -> i64 {
        match self {
            Self::Seconds => millis.saturating_add(MILLIS_PER_SECOND / 2) / MILLIS_PER_SECOND,
            Self::Millis => millis,
        }
    }
}

/// From where a client's number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Now,
    Epoch,
}

/// When a value ends, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline {
    millis: i64,
    base: Base,
}

impl Deadline {
    /// Checks for overflow. Negative numbers and zero are legal here: EXPIRE takes them.
    pub(super) fn new(number: i64, unit: Unit, base: Base, command: &str) -> Result<Self, CommandError> {
        let millis = unit.to_millis(number).ok_or_else(|| invalid_expire_time(command))?;
        if base == Base::Now && millis.checked_add(UnixMillis::now().0).is_none() {
            return Err(invalid_expire_time(command));
        }
        Ok(Self { millis, base })
    }

    /// As the SET family has it: only numbers above zero.
    pub(super) fn parse(text: &[u8], unit: Unit, base: Base, command: &str) -> Result<Self, CommandError> {
        let number = parse_i64(text).ok_or(CommandError::NOT_AN_INTEGER)?;
        if number <= 0 {
            return Err(invalid_expire_time(command));
        }
        Self::new(number, unit, base, command)
    }

    pub(super) fn at(self, now: UnixMillis) -> UnixMillis {
        match self.base {
            Base::Now => UnixMillis(now.0.saturating_add(self.millis)),
            Base::Epoch => UnixMillis(self.millis),
        }
    }
}

pub(super) fn invalid_expire_time(command: &str) -> CommandError {
    CommandError::text(format!("ERR invalid expire time in '{command}' command"))
}

/// The options that SET and GETEX share. At most one kind may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TtlOption {
    Unsaid,
    /// SET only.
    Keep,
    /// GETEX only.
    Persist,
    /// Not parsed yet: Redis complains of other things first.
    Until {
        unit: Unit,
        base: Base,
        number: Bytes,
    },
}

const DEADLINES: [(&str, Unit, Base); 4] = [
    ("EX", Unit::Seconds, Base::Now),
    ("PX", Unit::Millis, Base::Now),
    ("EXAT", Unit::Seconds, Base::Epoch),
    ("PXAT", Unit::Millis, Base::Epoch),
];

impl TtlOption {
    /// Takes a keyword without a number (`KEEPTTL` or `PERSIST`, whichever the command has) if it comes next.
    pub(super) fn take_word(
        &mut self,
        args: &mut Args,
        word: &str,
        option: Self,
    ) -> Result<bool, CommandError> {
        if !args.take_keyword(word) {
            return Ok(false);
        }
        if *self != Self::Unsaid && *self != option {
            return Err(CommandError::SYNTAX);
        }
        *self = option;
        Ok(true)
    }

    /// Takes `EX`, `PX`, `EXAT` or `PXAT` and its number if one comes next.
    pub(super) fn take_deadline(&mut self, args: &mut Args) -> Result<bool, CommandError> {
        let Some((_, unit, base)) = DEADLINES.into_iter().find(|(word, ..)| args.take_keyword(word)) else {
            return Ok(false);
        };
        let free = match self {
            Self::Unsaid => true,
            Self::Until { unit: earlier, base: from, .. } => (*earlier, *from) == (unit, base),
            Self::Keep | Self::Persist => false,
        };
        if !free || args.is_empty() {
            return Err(CommandError::SYNTAX);
        }
        *self = Self::Until { unit, base, number: args.next_bytes()? };
        Ok(true)
    }

    /// The deadline, if one was given and makes sense.
    pub(super) fn deadline(&self, command: &str) -> Result<Option<Deadline>, CommandError> {
        match self {
            Self::Until { unit, base, number } => Deadline::parse(number, *unit, *base, command).map(Some),
            Self::Unsaid | Self::Keep | Self::Persist => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_refuse_what_overflows_and_saturate_afterwards() {
        let ok = |number, unit, base| Deadline::new(number, unit, base, "set").is_ok();
        assert!(ok(i64::MAX, Unit::Millis, Base::Epoch));
        assert!(!ok(i64::MAX, Unit::Millis, Base::Now));
        assert!(!ok(i64::MAX / 1000 + 1, Unit::Seconds, Base::Epoch));
        assert!(!ok(i64::MIN, Unit::Seconds, Base::Epoch));
        assert!(ok(-1, Unit::Seconds, Base::Now));
        let far = Deadline { millis: i64::MAX - 1, base: Base::Now };
        assert_eq!(far.at(UnixMillis(100)), UnixMillis(i64::MAX));
    }

    #[test]
    fn seconds_are_rounded_to_the_nearest() {
        assert_eq!(Unit::Seconds.of_millis(1_499), 1);
        assert_eq!(Unit::Seconds.of_millis(1_500), 2);
        assert_eq!(Unit::Millis.of_millis(1_499), 1_499);
        assert_eq!(Unit::Seconds.of_millis(i64::MAX), i64::MAX / 1_000);
    }
}
