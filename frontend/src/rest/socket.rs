//! A client's socket with what HTTP libraries leave out: bytes are counted, a client that does not read is
//! cut, and one that is still sending when it has been refused gets to read why.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use metrics::Counter;
use tercet_common::metrics::{CLIENT_BYTES, CLIENTS_REFUSED};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::observe::PROTOCOL;

/// A client that takes nothing of an answer for this long is cut.
const STALL: Duration = Duration::from_secs(30);
/// How long a closed connection is read on. Closing a socket with unread input resets the connection, and the
/// reset may overtake the answer: a client that sends a body that is too large would see no 413.
const LINGER: Duration = Duration::from_secs(1);

/// The handles that all sockets share.
#[derive(Clone)]
pub(super) struct SocketMetrics {
    bytes_in: Counter,
    bytes_out: Counter,
    slow_readers: Counter,
}

impl SocketMetrics {
    pub(super) fn new() -> Self {
        Self {
            bytes_in: CLIENT_BYTES.counter(&[PROTOCOL, "in"]),
            bytes_out: CLIENT_BYTES.counter(&[PROTOCOL, "out"]),
            slow_readers: CLIENTS_REFUSED.counter(&["slow_reader"]),
        }
    }
}

pub(super) struct ClientSocket<S> {
    inner: S,
    metrics: SocketMetrics,
    stall_after: Duration,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    linger_for: Duration,
    /// Runs once the write side is closed.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientSocket<S> {
    pub(super) fn new(inner: S, metrics: SocketMetrics) -> Self {
        Self::with_times(inner, metrics, STALL, LINGER)
    }

    fn with_times(inner: S, metrics: SocketMetrics, stall_after: Duration, linger_for: Duration) -> Self {
        Self { inner, metrics, stall_after, stall: None, linger_for, linger: None }
    }

    /// Passes a write's result on; one that waits starts the clock, or finds it run out.
    fn watch(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match write {
            Poll::Ready(result) => {
                self.stall = None;
                if let Ok(n) = result {
                    self.metrics.bytes_out.increment(n as u64);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(self.stall_after)));
                ready!(stall.as_mut().poll(cx));
                self.metrics.slow_readers.increment(1);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.metrics.bytes_in.increment((buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Closes the write side, then reads to the client's end for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
            self.linger = Some(Box::pin(sleep(self.linger_for)));
        }
        loop {
            if let Some(linger) = &mut self.linger
                && linger.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ok(()));
            }
            let mut scratch = [0; 8 * 1024];
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut() {
        let (server, _client) = duplex(16);
        let mut socket = ClientSocket::with_times(server, SocketMetrics::new(), SHORT, SHORT);
        let error = socket.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_is_not_cut() {
        let (server, mut client) = duplex(1);
        let mut socket = ClientSocket::with_times(server, SocketMetrics::new(), LONG, SHORT);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.map(|_| all)
        });
        socket.write_all(&[7; 64]).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), [7; 64]);
    }

    #[tokio::test]
    async fn a_closing_socket_reads_what_the_client_still_sends() {
        let (server, mut client) = duplex(8);
        let mut socket = ClientSocket::with_times(server, SocketMetrics::new(), LONG, LONG);
        let sender = tokio::spawn(async move { client.write_all(&[0; 4096]).await });
        socket.shutdown().await.unwrap();
        sender.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_never_ends_does_not_hold_the_socket() {
        let (server, _client) = duplex(8);
        let mut socket = ClientSocket::with_times(server, SocketMetrics::new(), LONG, SHORT);
        socket.shutdown().await.unwrap();
    }
}
