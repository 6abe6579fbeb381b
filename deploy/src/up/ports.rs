//! Ports: are the clients' free, and which may the parts use among themselves.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, bail};
use rand::RngExt;

/// Below the range from which Linux (32768) and others (49152) take the ports of outgoing connections: a port chosen
/// here is still free when the part that it is for listens on it, also when that part is started again.
const INTERNAL: std::ops::RangeInclusive<u16> = 20_000..=32_000;
const ATTEMPTS: usize = 200;

/// The address that clients will connect to: port 0 becomes a free port, a taken one an explanation.
pub(super) fn for_clients(address: SocketAddr, flag: &str) -> anyhow::Result<SocketAddr> {
    if address.port() == 0 {
        return free(address.ip());
    }
    match TcpListener::bind(address) {
        Ok(_) => Ok(address),
        Err(error) => bail!(match error.kind() {
            ErrorKind::AddrInUse => format!(
                "{address} is taken by another program: choose another port, for example `{flag} {}`",
                SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(20_000))
            ),
            ErrorKind::AddrNotAvailable =>
                format!("no network interface of this machine has the address of `{flag} {address}`"),
            ErrorKind::PermissionDenied =>
                format!("`{flag} {address}` needs more rights: ports below 1024 belong to root"),
            _ => format!("`{flag} {address}` cannot be used: {error}"),
        }),
    }
}

/// A free port on loopback, for the parts.
pub(super) fn internal() -> anyhow::Result<SocketAddr> {
    free(Ipv4Addr::LOCALHOST.into())
}

fn free(ip: std::net::IpAddr) -> anyhow::Result<SocketAddr> {
    let mut rng = rand::rng();
    (0..ATTEMPTS)
        .map(|_| SocketAddr::new(ip, rng.random_range(INTERNAL)))
        .find(|address| TcpListener::bind(address).is_ok())
        .with_context(|| format!("no free port on {ip} between {} and {}", INTERNAL.start(), INTERNAL.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let text = for_clients(address, "--resp").unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("--resp 127.0.0.1:"), "{text}");
    }

    #[test]
    fn port_zero_becomes_a_port_outside_the_ephemeral_range() {
        let address = for_clients("127.0.0.1:0".parse().unwrap(), "--rest").unwrap();
        assert!(INTERNAL.contains(&address.port()));
        assert!(TcpListener::bind(address).is_ok());
    }

    #[test]
    fn a_foreign_address_is_told_apart() {
        let text = for_clients("192.0.2.1:6379".parse().unwrap(), "--resp").unwrap_err().to_string();
        assert!(text.contains("no network interface"), "{text}");
    }
}
