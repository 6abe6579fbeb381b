//! The REST gateway over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod harness;
mod kv;
mod limits;
mod listing;
mod pages;
