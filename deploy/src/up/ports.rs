//! Ports: are the clients' free, and which may the parts use among themselves.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, bail};
use rand::RngExt;
use tokio::net::TcpSocket;

/// Below the range from which Linux (32768) and others (49152) take the ports of outgoing connections: a port chosen
/// here is not taken by one of them while the part that it is for is not running.
const CHOSEN: std::ops::RangeInclusive<u16> = 20_000..=32_000;
const ATTEMPTS: usize = 200;

/// Chooses ports, and keeps them as long as it lives.
///
/// A part listens on its port seconds after it was chosen, and again whenever it is started again; meanwhile another
/// cluster that starts on this machine must not choose it too. So the supervisor keeps a socket bound to it that never
/// listens and, once it is bound, allows reuse. Linux then lets the part, which allows reuse as well, listen there, but
/// refuses the port to whoever looks for a free one. Elsewhere reuse means something else, and ports are not kept.
#[derive(Debug, Default)]
pub(super) struct Ports {
    kept: Vec<TcpSocket>,
}

impl Ports {
    /// The address that clients will connect to: port 0 becomes a free port, a taken one an explanation.
    pub(super) fn for_clients(&mut self, address: SocketAddr, flag: &str) -> anyhow::Result<SocketAddr> {
        if address.port() == 0 {
            return self.free(address.ip());
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
    pub(super) fn internal(&mut self) -> anyhow::Result<SocketAddr> {
        self.free(Ipv4Addr::LOCALHOST.into())
    }

    fn free(&mut self, ip: IpAddr) -> anyhow::Result<SocketAddr> {
        let mut rng = rand::rng();
        let mut choices = (0..ATTEMPTS).map(|_| SocketAddr::new(ip, rng.random_range(CHOSEN)));
        let chosen = choices.find_map(|address| Some((address, keep(address).ok()?)));
        let (address, socket) = chosen.with_context(|| {
            format!("no free port on {ip} between {} and {}", CHOSEN.start(), CHOSEN.end())
        })?;
        if cfg!(target_os = "linux") {
            self.kept.push(socket);
        }
        Ok(address)
    }
}

fn keep(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(address)?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let text = Ports::default().for_clients(address, "--resp").unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("--resp 127.0.0.1:"), "{text}");
    }

    #[test]
    fn port_zero_becomes_a_port_outside_the_ephemeral_range() {
        let address = Ports::default().for_clients("127.0.0.1:0".parse().unwrap(), "--rest").unwrap();
        assert!(CHOSEN.contains(&address.port()));
        assert!(TcpListener::bind(address).is_ok());
    }

    /// Two clusters that started at once could choose the same port; the later part then found it taken.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_chosen_port_is_kept_for_its_part_and_from_others() {
        let mut ports = Ports::default();
        let address = ports.internal().unwrap();
        assert!(keep(address).is_err(), "nobody else may choose it");
        for _ in 0..2 {
            // The part listens, ends, and listens again.
            let part = TcpListener::bind(address).unwrap();
            assert!(std::net::TcpStream::connect(address).is_ok());
            drop(part);
        }
        assert!(std::net::TcpStream::connect(address).is_err(), "to keep it is not to listen");
    }

    #[test]
    fn a_foreign_address_is_told_apart() {
        let text = Ports::default()
            .for_clients("192.0.2.1:6379".parse().unwrap(), "--resp")
            .unwrap_err()
            .to_string();
        assert!(text.contains("no network interface"), "{text}");
    }
}
