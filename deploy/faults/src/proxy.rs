//! A link that can fail: a TCP proxy between a worker and its frontend.
//!
//! ```text
//!   frontend ──▶ [calls] ──▶ worker          towards the worker: requests, answers to heartbeats
//!   frontend ◀── [heartbeats] ◀── worker     from the worker: answers, heartbeats
//! ```
//!
//! Each direction has its own switch. In a real network TCP sends again what was lost, so nothing is dropped from the
//! middle of a stream: bytes that meet a cut are held, and so is the news that the other side has closed. When the cut
//! ends, they arrive late, or, if the fault wants it so, their connection is found dead.
//!
//! What workers say to each other is not cut on its way out, only towards the worker that is cut off.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const CHUNK: usize = 64 * 1024;

/// What a direction does to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Flows,
    /// Each chunk waits so long. There is no reordering.
    Slow(Duration),
    /// Nothing arrives.
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct State {
    condition: Condition,
    /// Connections that met a cut of an earlier life are dead.
    life: u64,
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub(crate) struct Direction(watch::Sender<State>);

impl Direction {
    fn new() -> Self {
        Self(watch::Sender::new(State { condition: Condition::Flows, life: 0 }))
    }

    pub(crate) fn set(&self, condition: Condition) {
        self.0.send_modify(|state| state.condition = condition);
    }

    /// Ends a fault. What was held is delivered late, or, with `reset`, its connection ends.
    pub(crate) fn heal(&self, reset: bool) {
        self.0.send_modify(|state| {
            state.condition = Condition::Flows;
            state.life += u64::from(reset);
        });
    }
}

/// Both ways between a worker and a frontend.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) towards_worker: Direction,
    pub(crate) from_worker: Direction,
    /// Where the frontend reaches the worker, and the worker the frontend.
    pub(crate) calls: SocketAddr,
    pub(crate) heartbeats: SocketAddr,
    /// End with the link.
    _proxies: JoinSet<()>,
}

impl Link {
    /// Between a worker and a frontend that listen at these addresses, now or later.
    pub(crate) async fn new(worker: SocketAddr, frontend: SocketAddr) -> std::io::Result<Self> {
        let (towards_worker, from_worker) = (Direction::new(), Direction::new());
        let calls = TcpListener::bind("127.0.0.1:0").await?;
        let heartbeats = TcpListener::bind("127.0.0.1:0").await?;
        let (calls_at, heartbeats_at) = (calls.local_addr()?, heartbeats.local_addr()?);
        let mut proxies = JoinSet::new();
        proxies.spawn(accept(calls, worker, towards_worker.clone(), from_worker.clone()));
        proxies.spawn(accept(heartbeats, frontend, from_worker.clone(), towards_worker.clone()));
        Ok(Self {
            towards_worker,
            from_worker,
            calls: calls_at,
            heartbeats: heartbeats_at,
            _proxies: proxies,
        })
    }
}

/// Passes connections on to `target`: `there` is the way to it, `back` the way from it.
async fn accept(listener: TcpListener, target: SocketAddr, there: Direction, back: Direction) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                connections.spawn(connection(client, target, there.clone(), back.clone()));
            }
            // Out of descriptors, for instance.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(client: TcpStream, target: SocketAddr, there: Direction, back: Direction) {
    let (mut to, mut from) = (there.0.subscribe(), back.0.subscribe());
    // No handshake passes a cut.
    if !pass(&mut to).await || !pass(&mut from).await {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    // A direction whose connection is found dead ends the other too.
    tokio::select! {
        () = forward(client_read, server_write, to) => {}
        () = forward(server_read, client_write, from) => {}
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await;
        if !pass(&mut state).await {
            return;
        }
        match read {
            Ok(n) if n > 0 => {
                if to.write_all(&chunk[..n]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Waits as the condition demands; false if the connection died meanwhile.
async fn pass(state: &mut watch::Receiver<State>) -> bool {
    let met = *state.borrow_and_update();
    match met.condition {
        Condition::Flows => true,
        Condition::Slow(delay) => {
            tokio::time::sleep(delay).await;
            true
        }
        Condition::Cut => {
            let flows = state.wait_for(|now| now.condition != Condition::Cut).await;
            flows.is_ok_and(|now| now.life == met.life)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that echoes, behind a link, and a connection to it.
    async fn echo() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::new(listener.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap()).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let client = TcpStream::connect(link.calls).await.unwrap();
        (link, client)
    }

    async fn read(client: &mut TcpStream, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        client.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_link_delivers_after_a_cut_what_was_sent_during_it() {
        let (link, mut client) = echo().await;
        client.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut client, 3).await, b"one");
        link.from_worker.set(Condition::Cut);
        client.write_all(b"two").await.unwrap();
        link.from_worker.heal(false);
        assert_eq!(read(&mut client, 3).await, b"two");
    }

    #[tokio::test]
    async fn nothing_passes_a_cut_until_it_heals() {
        let direction = Direction::new();
        let mut state = direction.0.subscribe();
        assert!(pass(&mut state).await);
        direction.set(Condition::Cut);
        let mut held = std::pin::pin!(pass(&mut state));
        assert!(futures_util::poll!(&mut held).is_pending());
        direction.heal(false);
        assert!(held.await, "and then it is delivered");
    }

    #[tokio::test]
    async fn what_was_held_by_a_cut_may_be_found_dead() {
        let direction = Direction::new();
        let mut state = direction.0.subscribe();
        direction.set(Condition::Cut);
        let mut held = std::pin::pin!(pass(&mut state));
        assert!(futures_util::poll!(&mut held).is_pending());
        direction.heal(true);
        assert!(!held.await);
        assert!(pass(&mut direction.0.subscribe()).await, "later connections live");
    }

    #[tokio::test]
    async fn a_slow_link_delivers_everything_in_order() {
        let (link, mut client) = echo().await;
        link.towards_worker.set(Condition::Slow(Duration::from_millis(5)));
        for part in [b"ab", b"cd", b"ef"] {
            client.write_all(part).await.unwrap();
        }
        assert_eq!(read(&mut client, 6).await, b"abcdef");
    }
}
