//! Strings as arrays of bits.

use super::Spec;

/// The rows of this family.
pub const COMMANDS: &[Spec] = &[];
