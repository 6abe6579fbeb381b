//! PostgreSQL as a part of the local cluster: finding its programs, fetching them, making databases, running them.

pub(super) mod create;
pub(super) mod fetch;
pub(super) mod find;
pub(super) mod postmaster;
pub(super) mod server;
