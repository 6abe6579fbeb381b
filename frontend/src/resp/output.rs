//! What waits to be sent to a client, and how long the client may take to read it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

/// While more than this waits to be sent, no reply is added and no command is read.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// A client must take [`OUTPUT_BYTES_MAX`], or all there is, within this time. So a slow line may fetch large values,
/// and a client that takes a byte now and then may not stay.
pub const SLOW_READER_DEADLINE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Output {
    pub buf: BytesMut,
    patience: Duration,
    /// Set while the client is not ready to take more.
    slow: Option<Slow>,
}

struct Slow {
    deadline: Instant,
    /// Bytes to be taken until the deadline moves.
    left: usize,
}

impl Output {
    pub fn new(patience: Duration) -> Self {
        Self { buf: BytesMut::new(), patience, slow: None }
    }

    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    pub fn len(&self) -> usize {
        self.buf.len()
    }

    pub fn is_full(&self) -> bool {
        self.buf.len() >= OUTPUT_BYTES_MAX
    }

    /// By when the client must have read more.
    pub fn deadline(&self) -> Option<Instant> {
        self.slow.as_ref().map(|slow| slow.deadline)
    }

    /// Sends what the client takes now; the number of bytes.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> io::Result<usize> {
        if self.buf.is_empty() {
            return Ok(0);
        }
        match Pin::new(stream).poll_write(cx, &self.buf)? {
            Poll::Pending => {
                let patience = self.patience;
                self.slow.get_or_insert_with(|| Slow::new(patience));
                Ok(0)
            }
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(taken) => {
                self.buf.advance(taken);
                self.took(taken);
                Ok(taken)
            }
        }
    }

    fn took(&mut self, taken: usize) {
        if self.buf.is_empty() {
            self.slow = None;
        } else if let Some(slow) = &mut self.slow {
            slow.left = slow.left.saturating_sub(taken);
            if slow.left == 0 {
                *slow = Slow::new(self.patience);
            }
        }
    }

    /// Gives memory back if nothing waits.
    pub fn shrink(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }
}

impl Slow {
    fn new(patience: Duration) -> Self {
        Self { deadline: Instant::now() + patience, left: OUTPUT_BYTES_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_moves_with_a_mebibyte_and_goes_when_all_is_taken() {
        let mut output = Output::new(SLOW_READER_DEADLINE);
        output.buf.resize(3 * OUTPUT_BYTES_MAX, 0);
        let long_ago = Instant::now();
        output.slow = Some(Slow { deadline: long_ago, left: OUTPUT_BYTES_MAX });
        output.took(OUTPUT_BYTES_MAX - 1);
        assert_eq!(output.deadline(), Some(long_ago));
        output.took(1);
        assert!(output.deadline().is_some_and(|deadline| deadline > long_ago));
        output.buf.clear();
        output.took(1);
        assert_eq!(output.deadline(), None);
    }
}
