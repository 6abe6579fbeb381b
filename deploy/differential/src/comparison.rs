//! When two replies count as equal.

use crate::peer::Reply;

/// Both stores look at the clock, one after the other; a busy machine may stop between.
const MILLIS_APART_MAX: i64 = 3_000;

/// A command and what became of it.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    pub command: &'a [Vec<u8>],
    pub redis: &'a Reply,
    pub tercet: &'a Reply,
}

impl Exchange<'_> {
    pub fn name(&self) -> String {
        self.word(0)
    }

    /// In lower case; empty where there is none.
    pub fn word(&self, at: usize) -> String {
        self.command.get(at).map_or(String::new(), |word| String::from_utf8_lossy(word).to_ascii_lowercase())
    }

    pub fn is_equal(&self) -> bool {
        match (self.name().as_str(), self.redis, self.tercet) {
            ("keys", Reply::Array(a), Reply::Array(b)) => same_members(a, b),
            ("ttl" | "expiretime", Reply::Integer(a), Reply::Integer(b)) => {
                near(*a, *b, MILLIS_APART_MAX / 1_000)
            }
            ("pttl" | "pexpiretime", Reply::Integer(a), Reply::Integer(b)) => near(*a, *b, MILLIS_APART_MAX),
            // Which key is chance; what a payload looks like is tried by restoring it.
            ("randomkey" | "dump", Reply::Bulk(_), Reply::Bulk(_)) => true,
            (_, redis, tercet) => redis == tercet,
        }
    }
}

/// -1 and -2 are no times but answers.
fn near(a: i64, b: i64, apart_max: i64) -> bool {
    a == b || a >= 0 && b >= 0 && a.abs_diff(b) <= apart_max.unsigned_abs()
}

/// In any order; a member may come several times.
pub fn same_members(a: &[Reply], b: &[Reply]) -> bool {
    let sorted = |replies: &[Reply]| {
        let mut sorted = replies.to_vec();
        sorted.sort();
        sorted
    };
    sorted(a) == sorted(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_may_be_a_little_apart() {
        let equal = |name: &str, a, b| {
            let command = [name.as_bytes().to_vec()];
            let exchange =
                Exchange { command: &command, redis: &Reply::Integer(a), tercet: &Reply::Integer(b) };
            exchange.is_equal()
        };
        assert!(equal("PTTL", 10_000, 9_000) && equal("ttl", 10, 9) && equal("GET", 5, 5));
        assert!(!equal("PTTL", -1, -2) && !equal("PTTL", 0, -1) && !equal("PTTL", 10_000, 5_000));
        assert!(!equal("STRLEN", 5, 6));
    }

    #[test]
    fn keys_come_in_any_order_but_all_of_them() {
        let (a, b) = (Reply::Bulk(b"a".to_vec()), Reply::Bulk(b"b".to_vec()));
        assert!(same_members(&[a.clone(), b.clone()], &[b.clone(), a.clone()]));
        assert!(!same_members(&[a.clone(), b.clone()], &[a.clone(), a]));
    }
}
