//! One number from which everything that is drawn follows: what each client sends, which fault comes when, and where.

use std::hash::{DefaultHasher, Hash, Hasher};

use rand::SeedableRng;
use rand::rngs::StdRng;

#[derive(Clone, Debug)]
pub(crate) struct Seed {
    seed: u64,
    /// The kind of fault: each has draws of its own, so that one can be repeated without the others.
    kind: &'static str,
}

impl Seed {
    pub(crate) fn new(seed: u64, kind: &'static str) -> Self {
        Self { seed, kind }
    }

    /// The source of draws for one purpose.
    pub(crate) fn rng(&self, purpose: &str) -> StdRng {
        let mut hasher = DefaultHasher::new();
        (self.seed, self.kind, purpose).hash(&mut hasher);
        StdRng::seed_from_u64(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn draws_follow_from_the_seed_the_kind_and_the_purpose() {
        let draw = |seed, kind, purpose| Seed::new(seed, kind).rng(purpose).random::<u64>();
        assert_eq!(draw(1, "a", "x"), draw(1, "a", "x"));
        assert_ne!(draw(1, "a", "x"), draw(2, "a", "x"));
        assert_ne!(draw(1, "a", "x"), draw(1, "b", "x"));
        assert_ne!(draw(1, "a", "x"), draw(1, "a", "y"));
    }
}
