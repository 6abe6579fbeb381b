//! The REST gateway over real sockets.

mod access;
mod harness;
mod kv;
mod limits;
mod listing;
mod pages;
