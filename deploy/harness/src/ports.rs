//! Free ports of this machine.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use rand::RngExt;

/// Below the range that outgoing connections take, so that the port is still free when a part starts again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 100;

/// One on loopback that is free now.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    let mut rng = rand::rng();
    let mut choices = (0..ATTEMPTS).map(|_| SocketAddr::from(([127, 0, 0, 1], rng.random_range(PORTS))));
    choices.find(|address| TcpListener::bind(address).is_ok()).context("no free port")
}
