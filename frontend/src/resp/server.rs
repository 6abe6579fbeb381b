//! The listener: accepts connections, refuses what it must, ends in order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tercet_common::metrics;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clients::Peer;
use super::command::table::{CommandTable, TABLE};
use super::connection::{Connection, End};
use super::gateway::Gateway;
use crate::Config;
use crate::coordinator::Coordinator;

/// How long commands in flight may take at shutdown, beyond the request's own time-out.
const DRAIN_EXTRA: Duration = Duration::from_secs(1);
/// After a failed accept (no file descriptors left) the next try waits.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// As Redis's `tcp-keepalive`.
pub const KEEPALIVE: Duration = Duration::from_secs(300);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";
const PROTECTED: &[u8] = b"-DENIED Tercet is running in protected mode because protected mode is enabled and no \
password is set. In this mode connections are only accepted from the loopback interface. If you want to connect from \
external computers, choose one of the following: 1) Set a password (setting `password` of the frontend) and let \
clients authenticate with AUTH. 2) Disable protected mode (setting `protected_mode`), but make sure that the port \
cannot be reached from untrusted networks. 3) Connect from the host that the frontend runs on.\r\n";

/// Serves RESP until `shutdown`, then lets commands in flight finish, for a bounded time.
///
/// Dropping the future leaves the connections running; cancel `shutdown` instead.
pub async fn serve(
    listener: TcpListener,
    config: Arc<Config>,
    coordinator: Coordinator,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_table(listener, config, coordinator, shutdown, &TABLE).await
}

pub(super) async fn serve_table(
    listener: TcpListener,
    config: Arc<Config>,
    coordinator: Coordinator,
    shutdown: CancellationToken,
    table: &'static CommandTable,
) -> io::Result<()> {
    let port = listener.local_addr()?.port();
    let gateway = Arc::new(Gateway::new(config, coordinator, table, port));
    let tasks = TaskTracker::new();
    let sampler = tokio::spawn(sample(gateway.clone()));
    shutdown.run_until_cancelled(accept(&listener, &gateway, &tasks)).await;
    // From here on new clients are refused by the system.
    drop(listener);
    gateway.drain();
    tasks.close();
    let patience = gateway.config.request_timeout + DRAIN_EXTRA;
    if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
        tracing::warn!(clients = gateway.clients.len(), "clients still busy at shutdown are cut off");
        gateway.clients.kill_all();
        tasks.wait().await;
    }
    sampler.abort();
    Ok(())
}

async fn sample(gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        ticks.tick().await;
        gateway.stats.sample(Instant::now());
    }
}

async fn accept(listener: &TcpListener, gateway: &Arc<Gateway>, tasks: &TaskTracker) {
    let accepted = metrics::CLIENTS_ACCEPTED.counter(&["resp"]);
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                failing = false;
                accepted.increment(1);
                gateway.stats.connections.fetch_add(1, Ordering::Relaxed);
                admit(stream, remote, gateway, tasks);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept clients; trying again until it works");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn admit(stream: TcpStream, remote: SocketAddr, gateway: &Arc<Gateway>, tasks: &TaskTracker) {
    if let Some((text, reason)) = refusal(gateway, remote.ip()) {
        return refuse(&stream, text, reason, gateway);
    }
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "client was gone before it was served");
        return;
    }
    let local = stream.local_addr().map(|a| a.to_string()).unwrap_or_default();
    let peer = Peer { remote: remote.to_string(), local, fd: stream.as_raw_fd() };
    let connection = Connection::new(stream, gateway.clone(), gateway.clients.enter(peer));
    let gateway = gateway.clone();
    tasks.spawn(async move {
        let gauge = Connected::new();
        report(connection.run().await, remote, &gateway);
        drop(gauge);
    });
}

/// Why a client is not let in: the text for it and the label for the metric. Protected mode looks at where the client
/// comes from, as Redis does, so the host itself is served on any bind.
fn refusal(gateway: &Gateway, remote: IpAddr) -> Option<(&'static [u8], &'static str)> {
    if gateway.clients.len() >= gateway.config.clients_max {
        return Some((TOO_MANY_CLIENTS, "limit"));
    }
    let protected = gateway.config.protected_mode && !gateway.demands_password();
    (protected && !remote.to_canonical().is_loopback()).then_some((PROTECTED, "protected"))
}

/// The refusal is sent if the socket takes it at once; a new one does.
fn refuse(stream: &TcpStream, text: &[u8], reason: &str, gateway: &Gateway) {
    gateway.stats.connections_rejected.fetch_add(1, Ordering::Relaxed);
    metrics::CLIENTS_REFUSED.counter(&[reason]).increment(1);
    if let Err(error) = stream.try_write(text) {
        tracing::debug!(%error, reason, "refused client did not take the reason");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn report(end: End, remote: SocketAddr, gateway: &Gateway) {
    let refused = |reason| metrics::CLIENTS_REFUSED.counter(&[reason]).increment(1);
    match end {
        End::Closed | End::Killed => {}
        End::Io(error) => tracing::debug!(%error, %remote, "client connection lost"),
        End::Protocol => {
            tracing::debug!(%remote, "client broke the protocol");
            refused("protocol");
        }
        End::CrossProtocol => {
            if gateway.may_warn_of_http() {
                tracing::warn!(%remote, "possible attack: a client sent an HTTP request to the RESP port");
            }
            refused("protocol");
        }
        End::SlowReader => {
            tracing::warn!(%remote, "client cut off: it does not read its replies");
            refused("slow_reader");
        }
    }
}

/// Counts a connection while it lives.
struct Connected(::metrics::Gauge);

impl Connected {
    fn new() -> Self {
        let gauge = metrics::CLIENTS.gauge(&["resp"]);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::coordinator::memory::MemoryEngine;

    #[test]
    fn protected_mode_lets_only_this_host_in() {
        let refused = |change: fn(&mut Config), remote: &str| {
            let mut config = Config::new(Vec::new());
            change(&mut config);
            let coordinator = Coordinator::new(MemoryEngine::new());
            let gateway = Gateway::new(Arc::new(config), coordinator, &TABLE, 0);
            refusal(&gateway, remote.parse().unwrap()).map(|(_, reason)| reason)
        };
        for local in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(refused(|_| {}, local), None, "{local}");
        }
        for remote in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1"] {
            assert_eq!(refused(|_| {}, remote), Some("protected"), "{remote}");
            assert_eq!(refused(|config| config.protected_mode = false, remote), None);
            assert_eq!(refused(|config| config.password = Some(Secret::new("x")), remote), None);
            assert_eq!(refused(|config| config.clients_max = 0, remote), Some("limit"));
        }
    }
}
