//! The stored formats, for the fuzz target `codec` alone.

use super::codec;

/// A stored clock, read and written again; `None` if it is damaged.
pub fn rewrite_clock(bytes: &[u8]) -> Option<Vec<u8>> {
    codec::decode_clock(bytes).ok().map(|clock| codec::encode_clock(&clock))
}

/// A journal row's advances, read and written again; `None` if they are damaged.
pub fn rewrite_advances(bytes: &[u8]) -> Option<Vec<u8>> {
    codec::decode_advances(bytes).ok().map(|advances| codec::encode_advances(&advances))
}
