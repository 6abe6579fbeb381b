//! Numbers of INCRBYFLOAT: exact decimal addition with 17 digits behind the point.
//!
//! Redis adds in 80-bit binary floating point and prints 17 decimal places, which needs luck to make 10.5 + 0.1 read
//! 10.6 and shows noise once the integer part grows. Decimal digits give what people expect in every case where Redis
//! does, and no noise in the others.

use std::cmp::Ordering;
use std::fmt;

/// Digits behind the point. More are rounded, as Redis's `%.17Lf` does.
const PLACES: usize = 17;
/// The range of Redis's `long double`, in powers of ten: largest and smallest number that differ from infinity and zero.
const EXPONENT_MAX: i64 = 4_932;
const EXPONENT_MIN: i64 = -4_950;
/// The longest text that Redis reads as a number.
const TEXT_BYTES_MAX: usize = 5 * 1_024 - 1;

/// A number that a client wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    Finite(Decimal),
    Infinite,
}

/// Sign and digits, the least significant first, in units of 10^-17, without leading zeros. Zero has no digits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Decimal {
    negative: bool,
    digits: Vec<u8>,
}

impl Parsed {
    /// C's grammar for decimal numbers, without surrounding space: `-1`, `.5`, `3.0e3`, `+inf`.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
            return Some(Self::Infinite);
        }
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (mantissa, exponent) = match unsigned.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
            None => (unsigned, 0),
        };
        let point = mantissa.iter().position(|b| *b == b'.').unwrap_or(mantissa.len());
        let (whole, fraction) = (&mantissa[..point], mantissa.get(point + 1..).unwrap_or_default());
        if whole.is_empty() && fraction.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return None;
        }
        let digits = whole.iter().chain(fraction).map(|b| b - b'0').skip_while(|d| *d == 0).collect();
        // Both fit easily: the text is short, the exponent clamped.
        let exponent = exponent - i64::try_from(fraction.len()).ok()?;
        Decimal::scaled(negative, digits, exponent).map(Self::Finite)
    }
}

/// Clamped to where every number is out of range anyway.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        rest => (1, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0_i64, |n, d| (n * 10 + i64::from(d - b'0')).min(1_000_000));
    Some(sign * size)
}

impl Decimal {
    /// `digits` (the most significant first, without leading zeros) times 10^`exponent`; `None` if out of range.
    fn scaled(negative: bool, mut digits: Vec<u8>, exponent: i64) -> Option<Self> {
        if digits.is_empty() {
            return Some(Self::default());
        }
        let magnitude = i64::try_from(digits.len()).ok()? + exponent;
        if !(EXPONENT_MIN..=EXPONENT_MAX).contains(&magnitude) {
            return None;
        }
        digits.reverse();
        let shift = exponent + i64::try_from(PLACES).ok()?;
        let distance = usize::try_from(shift.unsigned_abs()).ok()?;
        if shift >= 0 {
            digits.splice(..0, std::iter::repeat_n(0, distance));
        } else {
            // Half and more of the last place counts as one.
            let round_up = digits.get(distance - 1).is_some_and(|digit| *digit >= 5);
            digits.drain(..distance.min(digits.len()));
            if round_up {
                digits = add(&digits, &[1]);
            }
        }
        Some(Self::new(negative, digits))
    }

    fn new(negative: bool, mut digits: Vec<u8>) -> Self {
        let len = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        digits.truncate(len);
        Self { negative: negative && len > 0, digits }
    }

    /// The sum; `None` where it leaves the range.
    pub(super) fn checked_add(&self, other: &Self) -> Option<Self> {
        let sum = if self.negative == other.negative {
            Self::new(self.negative, add(&self.digits, &other.digits))
        } else {
            match compare(&self.digits, &other.digits) {
                Ordering::Less => Self::new(other.negative, subtract(&other.digits, &self.digits)),
                _ => Self::new(self.negative, subtract(&self.digits, &other.digits)),
            }
        };
        let places = usize::try_from(EXPONENT_MAX).ok()? + PLACES;
        (sum.digits.len() <= places).then_some(sum)
    }
}

fn compare(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()))
}

fn add(a: &[u8], b: &[u8]) -> Vec<u8> {
    let len = a.len().max(b.len());
    let mut sum = Vec::with_capacity(len + 1);
    let mut carry = 0;
    for i in 0..len {
        let digit = a.get(i).unwrap_or(&0) + b.get(i).unwrap_or(&0) + carry;
        sum.push(digit % 10);
        carry = digit / 10;
    }
    sum.push(carry);
    sum
}

/// `a` is not below `b`.
fn subtract(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let difference = a.iter().enumerate().map(|(i, digit)| {
        let take = b.get(i).unwrap_or(&0) + borrow;
        borrow = u8::from(*digit < take);
        digit + 10 * borrow - take
    });
    difference.collect()
}

/// Without an exponent, without zeros at the end.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |place: usize| char::from(b'0' + self.digits.get(place).unwrap_or(&0));
        let mut text = String::with_capacity(self.digits.len() + 3);
        if self.negative {
            text.push('-');
        }
        text.extend((PLACES..self.digits.len().max(PLACES + 1)).rev().map(digit));
        let last = (0..PLACES).find(|place| digit(*place) != '0');
        if let Some(last) = last {
            text.push('.');
            text.extend((last..PLACES).rev().map(digit));
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn finite(text: &str) -> Decimal {
        match Parsed::parse(text.as_bytes()) {
            Some(Parsed::Finite(number)) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn numbers_are_read_and_written() {
        for (text, shown) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0e5", "0"),
            ("10.50", "10.5"),
            ("+.5", "0.5"),
            ("5.", "5"),
            ("-3.0e3", "-3000"),
            ("5.0E-3", "0.005"),
            ("00012.300", "12.3"),
            ("1e20", "100000000000000000000"),
            ("0.00000000000000001", "0.00000000000000001"),
            ("0.000000000000000005", "0.00000000000000001"),
            ("0.000000000000000004", "0"),
            ("9.999999999999999999", "10"),
            ("0.99999999999999999", "0.99999999999999999"),
            ("5e-19", "0"),
            ("9e-19", "0"),
            ("1e-4000", "0"),
        ] {
            assert_eq!(finite(text).to_string(), shown, "{text}");
        }
        assert_eq!(finite("1e4931").to_string().len(), 4932);
    }

    #[test]
    fn what_is_no_number() {
        for text in [
            "",
            " 1",
            "1 ",
            "abc",
            "1.2.3",
            "1e",
            "e5",
            ".",
            "-",
            "+-1",
            "--1",
            "nan",
            "1e5e5",
            "1e5.0",
            "0x10",
            "1e4932",
            "1e-5000",
            "1e99999999999999999999",
        ] {
            assert_eq!(Parsed::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Parsed::parse(&[b'1'; TEXT_BYTES_MAX + 1]), None);
        for text in ["inf", "-Infinity", "+INF"] {
            assert_eq!(Parsed::parse(text.as_bytes()), Some(Parsed::Infinite), "{text}");
        }
    }

    #[test]
    fn sums() {
        for (a, b, sum) in [
            ("10.5", "0.1", "10.6"),
            ("3.0e3", "200", "3200"),
            ("0.1", "0.2", "0.3"),
            ("0.5", "-0.5", "0"),
            ("1", "-1.1", "-0.1"),
            ("-1", "0.00000000000000001", "-0.99999999999999999"),
            ("99999999999999999999", "1", "100000000000000000000"),
        ] {
            assert_eq!(finite(a).checked_add(&finite(b)).unwrap().to_string(), sum, "{a} + {b}");
        }
        let largest = finite(&"9".repeat(4932));
        assert_eq!(largest.checked_add(&largest), None);
    }

    proptest! {
        #[test]
        fn decimal_sums_are_integer_sums(a in any::<i64>(), b in any::<i64>()) {
            let sum = finite(&a.to_string()).checked_add(&finite(&b.to_string())).unwrap();
            prop_assert_eq!(sum.to_string(), (i128::from(a) + i128::from(b)).to_string());
        }

        #[test]
        fn any_bytes_are_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Parsed::parse(&text);
        }

        #[test]
        fn what_is_written_is_read_back(text in r"-?[0-9]{0,30}\.[0-9]{1,20}(e-?[0-9]{1,2})?") {
            let number = finite(&text);
            prop_assert_eq!(finite(&number.to_string()), number);
        }
    }
}
