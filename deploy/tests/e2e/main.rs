//! Tercet from outside: the real binary with real PostgreSQL, spoken to by stock clients, raw bytes and HTTP.
//!
//! One test binary, so that one cluster serves most of it: see [`support::shared`]. Tests that must end, start or
//! configure a cluster of their own make one. No test sleeps for an event: it waits for what a client can see, with a
//! deadline that is only there to end a run that would otherwise hang.

mod commands;
mod failures;
mod healing;
mod hostile;
mod lifecycle;
mod metrics;
mod rest;
mod support;
mod tools;
