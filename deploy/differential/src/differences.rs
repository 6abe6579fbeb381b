//! Where Tercet departs from Redis on purpose. Nothing else may differ.

use crate::comparison::Exchange;
use crate::peer::Reply;

pub struct Difference {
    pub about: &'static str,
    pub reason: &'static str,
    pub explains: fn(&Exchange<'_>) -> bool,
}

pub const DELIBERATE: &[Difference] = &[
    Difference {
        about: "MEMORY USAGE: the number",
        reason: "counts what a copy takes in a worker, not in Redis's heap",
        explains: |e| e.name() == "memory" && both_integers(e),
    },
    Difference {
        about: "MEMORY USAGE of an expired key",
        reason: "is null; Redis goes on counting until it meets the key",
        explains: |e| e.name() == "memory" && matches!((e.redis, e.tercet), (Reply::Integer(_), Reply::Null)),
    },
    Difference {
        about: "SCAN: a cursor that is no number",
        reason: "is an error; Redis takes what C's strtoul makes of it, a negative number or nothing at all too",
        explains: |e| {
            let digits = e.word(1).bytes().all(|byte| byte.is_ascii_digit());
            e.name() == "scan"
                && (!digits || e.word(1).is_empty())
                && has_error(e.tercet, "ERR invalid cursor")
        },
    },
    Difference {
        about: "OBJECT ENCODING: int, embstr or raw",
        reason: "told from the value; Redis's depends on how the value came about",
        explains: |e| e.name() == "object" && e.word(1) == "encoding" && both_bulk(e),
    },
    Difference {
        about: "OBJECT REFCOUNT and IDLETIME: the number",
        reason: "always 1 and 0: values are not shared between keys, access times not kept",
        explains: |e| {
            e.name() == "object" && matches!(&*e.word(1), "refcount" | "idletime") && both_integers(e)
        },
    },
    Difference {
        about: "MSETNX over several keys",
        reason: "is an error, because writes that are atomic across partitions do not exist yet",
        explains: |e| {
            e.name() == "msetnx" && has_error(e.tercet, "ERR MSETNX over several keys is not supported")
        },
    },
    Difference {
        about: "BITCOUNT and BITPOS of a missing key: wrong arguments",
        reason: "are an error, as since Redis 7.2; earlier ones did not look at them",
        explains: |e| {
            let nothing = if e.name() == "bitcount" { 0 } else { -1 };
            matches!(&*e.name(), "bitcount" | "bitpos")
                && matches!(e.redis, Reply::Integer(n) if *n == nothing || *n == 0)
                && (has_error(e.tercet, "ERR syntax error")
                    || has_error(e.tercet, "ERR value is not an integer"))
        },
    },
    Difference {
        about: "RESTORE: a time to live beyond the end of time",
        reason: "is an error, as it is for all other commands; Redis's sum wraps round to the past",
        explains: |e| {
            e.name() == "restore" && has_error(e.tercet, "ERR invalid expire time in 'restore' command")
        },
    },
    Difference {
        about: "INCRBYFLOAT: the last digits",
        reason: "adds exactly in decimal; Redis's binary sums show their rounding",
        explains: |e| e.name() == "incrbyfloat" && both_bulk(e) && nearly_same_number(e),
    },
    Difference {
        about: "INCRBYFLOAT: hexadecimal numbers",
        reason: "are not read",
        explains: |e| e.name() == "incrbyfloat" && e.word(2).contains("0x") && is_no_float(e.tercet),
    },
];

pub fn explanation(exchange: &Exchange<'_>) -> Option<&'static Difference> {
    DELIBERATE.iter().find(|difference| (difference.explains)(exchange))
}

fn both_integers(e: &Exchange<'_>) -> bool {
    matches!((e.redis, e.tercet), (Reply::Integer(_), Reply::Integer(_)))
}

fn both_bulk(e: &Exchange<'_>) -> bool {
    matches!((e.redis, e.tercet), (Reply::Bulk(_), Reply::Bulk(_)))
}

fn has_error(reply: &Reply, start: &str) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with(start))
}

fn is_no_float(reply: &Reply) -> bool {
    has_error(reply, "ERR value is not a valid float")
}

/// To 15 digits.
fn nearly_same_number(e: &Exchange<'_>) -> bool {
    let (Reply::Bulk(redis), Reply::Bulk(tercet)) = (e.redis, e.tercet) else { return false };
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<f64>().ok();
    match (number(redis), number(tercet)) {
        (Some(a), Some(b)) if a.is_finite() && b.is_finite() => (a - b).abs() <= 1e-15 * a.abs().max(1.0),
        // Out of a double's range, but not of a long double's: hundreds of digits.
        (Some(a), Some(b)) => a == b && places(redis) == places(tercet) && redis[..15] == tercet[..15],
        _ => false,
    }
}

/// Digits before the point.
fn places(number: &[u8]) -> usize {
    number.iter().position(|byte| *byte == b'.').unwrap_or(number.len())
}
