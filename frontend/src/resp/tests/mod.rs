//! Golden exchanges: bytes in, bytes out, over a pipe in memory and over TCP.

mod commands;
mod hostile;
mod pipelining;
mod server;
mod sessions;
mod support;
