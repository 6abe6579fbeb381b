//! The gRPC services between frontend and workers.
//!
//! Generated types stay at the edges: shells turn them into the domain types of `tercet-common` at once (see
//! [`convert`]), and malformed ones are refused there.

pub mod convert;
pub mod life;
mod sync;

/// Generated from `tercet.proto`.
#[allow(clippy::all, unreachable_pub, missing_docs)]
pub mod v1 {
    tonic::include_proto!("tercet.v1");
}

/// The largest gRPC message either side accepts or sends: Redis's largest value (512 MiB) and room for the rest of a batch.
pub const MESSAGE_BYTES_MAX: usize = (512 + 16) * 1024 * 1024;
/// A sender closes a batch once it holds this many bytes; one request alone may be larger.
pub const BATCH_BYTES_TARGET: usize = 4 * 1024 * 1024;
/// The most requests or replies in one batch.
pub const BATCH_LEN_MAX: usize = 4_096;
