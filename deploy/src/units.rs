//! Durations and byte sizes as people write them: `500ms`, `2s`, `64MiB`.

use std::time::Duration;

const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000)];

const BYTE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// `500ms`, `1.5s`, `2m`, `1h`; `0` needs no unit. To the millisecond.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "a duration such as 500ms, 2s, 1m or 1h".to_owned();
    scaled(text, DURATION_UNITS, false).map(Duration::from_millis).ok_or_else(expected)
}

/// `64MiB`, `1.5GiB`, `500kB`, or a plain number of bytes.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let expected = || "a size such as 65536, 64KiB, 256MiB or 1GiB".to_owned();
    scaled(text, BYTE_UNITS, true).and_then(|n| usize::try_from(n).ok()).ok_or_else(expected)
}

/// A decimal number times its unit; `None` where it is no such thing or does not fit.
fn scaled(text: &str, units: &[(&str, u64)], plain: bool) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text.get(..split)?, text.get(split..)?.trim_start());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let factor = match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() && (plain || whole == 0) && fraction.is_empty() => 1,
        None => return None,
    };
    let part = match fraction {
        "" if number.ends_with('.') => return None,
        "" => 0,
        // Nine digits are finer than any unit here needs.
        digits if digits.len() <= 9 => {
            let scale = 10u64.checked_pow(u32::try_from(digits.len()).ok()?)?;
            u64::try_from(u128::from(digits.parse::<u64>().ok()?) * u128::from(factor) / u128::from(scale))
                .ok()?
        }
        _ => return None,
    };
    whole.checked_mul(factor)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("500ms", 500), ("2s", 2_000), ("1.5s", 1_500), ("1m", 60_000), ("2 h", 7_200_000), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "ms", "-1s", "1.s", "1..2s", "5 parsecs", "99999999999999999999h", "1e3s", "½s"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, n) in
            [("65536", 65_536), ("64KiB", 65_536), ("1.5GiB", 1_610_612_736), ("2 MB", 2_000_000), ("0", 0)]
        {
            assert_eq!(bytes(text), Ok(n), "{text}");
        }
        for text in ["", "MiB", "64mib", "1.5", "-1", "18446744073709551616", "20000000000GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
