//! The open loop: commands are sent when their time has come, whether or not earlier ones were answered.
//!
//! That is how the world outside behaves, and a closed loop does not: it waits out every stall of the server and so asks
//! nothing in just the moments that are worst ("coordinated omission", Gil Tene, *How NOT to Measure Latency*). Here a
//! latency counts from the moment at which the command was *due*, so that whoever would have come during a stall is
//! counted with the time that they would have waited.
//!
//! The times are fixed beforehand: of `C` connections, the k-th command of connection `i` is due `(k·C + i) / rate` after
//! the start. So whoever reads the k-th answer knows when it was due, and nobody has to be told. One thread does nothing
//! but send: a timer of the runtime is a millisecond coarse, a sleeping thread some 60 µs, which count as latency. What a
//! server does not take yet is only written once it does, so that a flood costs the generator no memory.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::{CONNECT_DEADLINE, READ_BYTES};
use super::wire::{Reply, Scan, scan};
use super::work::{Source, Work};
use super::{DRAIN_DEADLINE, Seen};
use crate::sample::{Latency, Sample, Span};

/// Of a connection, written at a time.
const SEND_BYTES: usize = 16 << 10;
/// Between two looks at whether something is due.
const NAP_MAX: Duration = Duration::from_millis(5);
/// Between two looks at whether a server takes more.
const RETRY: Duration = Duration::from_millis(1);
/// So that everything is set up when the first command is due.
const LEAD: Duration = Duration::from_millis(50);

/// What an open loop asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// Commands per second.
    pub(crate) rate: f64,
    pub(crate) span: Span,
    /// For answers, once everything is due; then clients hang up.
    pub(crate) patience: Duration,
}

impl Offer {
    /// With time for every answer.
    pub(crate) fn new(rate: f64, span: Span) -> Self {
        Self { rate, span, patience: DRAIN_DEADLINE }
    }
}

/// What an open loop showed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    /// Per second, intended.
    pub(crate) offered: f64,
    /// What was answered; its latencies count from when commands were due.
    pub(crate) sample: Sample,
    /// Refused as BUSY.
    pub(crate) refused: u64,
    /// Without an answer when the clients hung up.
    pub(crate) unanswered: u64,
}

/// When which command is due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: Instant,
    /// Of all connections together.
    interval: Duration,
    connections: u64,
    total: u64,
    /// The first that counts.
    first: u64,
}

impl Schedule {
    fn new(start: Instant, Offer { rate, span, .. }: Offer, connections: usize) -> Self {
        let count = |time: Duration| (time.as_secs_f64() * rate) as u64;
        Self {
            start,
            interval: Duration::from_secs_f64(1.0 / rate),
            connections: connections as u64,
            total: count(span.warm_up + span.lasting),
            first: count(span.warm_up),
        }
    }

    /// When the command of this number is due.
    fn due(&self, number: u64) -> Instant {
        let nanos = u128::from(number) * self.interval.as_nanos();
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The number of a connection's k-th command; `None`: it has no such.
    fn number(&self, connection: u64, k: u64) -> Option<u64> {
        Some(k * self.connections + connection).filter(|number| *number < self.total)
    }

    /// How many are due.
    fn until(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_nanos() / self.interval.as_nanos().max(1);
        match now < self.start {
            true => 0,
            false => u64::try_from(passed + 1).unwrap_or(u64::MAX).min(self.total),
        }
    }
}

/// Over `work.clients` connections.
pub(crate) async fn measure(at: SocketAddr, work: Work, offer: Offer) -> anyhow::Result<Outcome> {
    ensure!(offer.rate >= 1.0, "a rate below 1 per second");
    let task = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run(at, work, offer))
    };
    tokio::task::spawn_blocking(task).await.context("the open loop failed")?
}

async fn run(at: SocketAddr, work: Work, offer: Offer) -> anyhow::Result<Outcome> {
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for _ in 0..work.clients {
        let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(at)).await;
        let stream = connecting.context("connecting took too long")??;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        // Both halves do not block.
        writers.push(stream.try_clone()?);
        readers.push(TcpStream::from_std(stream)?);
    }
    let schedule = Schedule::new(Instant::now() + LEAD, offer, work.clients);
    let over = Arc::new(AtomicBool::new(false));
    let sender = {
        let over = over.clone();
        std::thread::spawn(move || send(&schedule, work, writers, &over))
    };
    let mut all = JoinSet::new();
    let deadline = tokio::time::Instant::from_std(schedule.due(schedule.total) + offer.patience);
    for (connection, stream) in readers.into_iter().enumerate() {
        all.spawn(read(schedule, connection as u64, stream, deadline));
    }
    let mut sum = Answers::new();
    let mut lost = None;
    while let Some(ended) = all.join_next().await {
        match ended.context("a reader failed")? {
            Ok(answers) => sum.merge(answers),
            Err(error) => lost = Some(error),
        }
    }
    over.store(true, Ordering::Relaxed);
    sender.join().map_err(|_| anyhow::anyhow!("the sender failed"))??;
    if let Some(error) = lost {
        return Err(error);
    }
    let counted = (schedule.total - schedule.first) as f64;
    let seconds = offer.span.lasting.as_secs_f64();
    Ok(Outcome {
        offered: counted / seconds,
        sample: Sample {
            seconds,
            per_second: sum.in_time as f64 / seconds,
            latency: Some(Latency::of(&sum.seen.latency)),
            failures: sum.seen.failures,
            failure: sum.seen.failure,
        },
        refused: sum.refused,
        unanswered: sum.unanswered,
    })
}

/// Sends what is due, until all is sent or nobody waits for answers any more.
fn send(
    schedule: &Schedule,
    work: Work,
    connections: Vec<std::net::TcpStream>,
    over: &AtomicBool,
) -> anyhow::Result<()> {
    let source = Source::endless(work);
    let mut rng = rand::make_rng();
    let mut senders: Vec<Sender> = (0..).zip(connections).map(|(n, to)| Sender::new(n, to)).collect();
    while !over.load(Ordering::Relaxed) {
        let due = schedule.until(Instant::now());
        let mut waits = false;
        for sender in &mut senders {
            waits |= !sender.send(schedule, due, |out, key| {
                source.next(out, key, &mut rng);
            })?;
        }
        if due == schedule.total && !waits {
            return Ok(());
        }
        let nap = schedule.due(due).saturating_duration_since(Instant::now()).min(NAP_MAX);
        std::thread::sleep(if waits { nap.min(RETRY) } else { nap });
    }
    Ok(())
}

/// The sending half of a connection.
struct Sender {
    number: u64,
    to: std::net::TcpStream,
    /// How many of its commands were written out.
    written: u64,
    bytes: Vec<u8>,
    /// Of `bytes`.
    sent: usize,
    key: Vec<u8>,
}

impl Sender {
    fn new(number: u64, to: std::net::TcpStream) -> Self {
        Self { number, to, written: 0, bytes: Vec::new(), sent: 0, key: Vec::new() }
    }

    /// Sends its commands below the number `due`; `false`: the server does not take all of them now.
    fn send(
        &mut self,
        schedule: &Schedule,
        due: u64,
        mut write: impl FnMut(&mut Vec<u8>, &mut Vec<u8>),
    ) -> anyhow::Result<bool> {
        loop {
            while self.bytes.len() < SEND_BYTES
                && schedule.number(self.number, self.written).is_some_and(|number| number < due)
            {
                write(&mut self.bytes, &mut self.key);
                self.written += 1;
            }
            if self.bytes.is_empty() {
                return Ok(true);
            }
            if !self.flush()? {
                return Ok(false);
            }
        }
    }

    /// `false`: the server does not take all of it now.
    fn flush(&mut self) -> anyhow::Result<bool> {
        while self.sent < self.bytes.len() {
            match self.to.write(&self.bytes[self.sent..]) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(true)
    }
}

struct Answers {
    seen: Seen,
    /// Successes that came while it was counted, warm-up and aftermath excluded.
    in_time: u64,
    refused: u64,
    unanswered: u64,
}

impl Answers {
    fn new() -> Self {
        Self { seen: Seen::new(), in_time: 0, refused: 0, unanswered: 0 }
    }

    fn merge(&mut self, other: Self) {
        self.seen.merge(other.seen);
        self.in_time += other.in_time;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
    }
}

/// The answers of one connection, in the order of its commands.
async fn read(
    schedule: Schedule,
    connection: u64,
    mut stream: TcpStream,
    deadline: tokio::time::Instant,
) -> anyhow::Result<Answers> {
    let mut answers = Answers::new();
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let (from, until) = (schedule.due(schedule.first), schedule.due(schedule.total));
    let mut k = 0;
    while schedule.number(connection, k).is_some() {
        input.reserve(READ_BYTES);
        match tokio::time::timeout_at(deadline, stream.read_buf(&mut input)).await {
            Ok(received) => ensure!(received.context("receiving")? > 0, "the server closed the connection"),
            Err(_) => break,
        }
        let now = Instant::now();
        while let Scan::Whole(reply, length) = scan(&input)? {
            let number = schedule.number(connection, k).context("an answer to nothing")?;
            let counts = number >= schedule.first;
            match reply {
                Reply::Done | Reply::Value(_) => {
                    answers.in_time += u64::from(now >= from && now < until);
                    if counts {
                        answers.seen.took(now.saturating_duration_since(schedule.due(number)));
                    }
                }
                Reply::Error(text) if text.starts_with(b"BUSY") => answers.refused += u64::from(counts),
                Reply::Absent => answers.seen.failed(|| "a key was absent".to_owned()),
                Reply::Error(text) => {
                    answers.seen.failed(|| String::from_utf8_lossy(text).into_owned());
                }
            }
            k += 1;
            input.advance(length);
        }
    }
    while schedule.number(connection, k).is_some() {
        answers.unanswered += 1;
        k += 1;
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_command_is_due_once_and_its_reader_knows_when() {
        let start = Instant::now();
        let schedule =
            Schedule::new(start, Offer::new(10.0, Span { warm_up: SECOND, lasting: 2 * SECOND }), 3);
        assert_eq!((schedule.total, schedule.first), (30, 10));
        let mut numbers: Vec<u64> =
            (0..3).flat_map(|connection| (0..).map_while(move |k| schedule.number(connection, k))).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..30).collect::<Vec<_>>());
        assert_eq!(schedule.due(7) - start, Duration::from_millis(700));
    }

    #[test]
    fn as_many_are_due_as_time_has_passed() {
        let start = Instant::now() + SECOND;
        let schedule = Schedule::new(start, Offer::new(10.0, Span { warm_up: SECOND, lasting: SECOND }), 3);
        let due = |ms| schedule.until(start + Duration::from_millis(ms));
        assert_eq!(schedule.until(start - SECOND / 2), 0);
        assert_eq!([due(0), due(99), due(100), due(60_000)], [1, 1, 2, 20]);
    }

    /// A server that stalls once: of a closed loop only one command would have noticed.
    #[tokio::test]
    async fn whoever_is_due_during_a_stall_is_counted_with_the_stall() {
        const COMMAND_BYTES: usize = "*2\r\n$3\r\nGET\r\n$4\r\nv8:0\r\n".len();
        const PER_SECOND: usize = 200;
        const STALLED: usize = PER_SECOND / 2;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = BytesMut::new();
            let mut stalls = true;
            while stream.read_buf(&mut bytes).await.unwrap() > 0 {
                let commands = bytes.len() / COMMAND_BYTES;
                stalls = stalls && commands < STALLED;
                if !stalls {
                    bytes.advance(commands * COMMAND_BYTES);
                    stream.write_all(&b"+OK\r\n".repeat(commands)).await.unwrap();
                }
            }
        });
        let work = Work { keys: 1, ..Work::new(super::super::work::Command::Get, 1, 1, 8) };
        let span = Span { warm_up: Duration::ZERO, lasting: SECOND };
        let outcome = measure(at, work, Offer::new(PER_SECOND as f64, span)).await.unwrap();
        server.abort();
        let seen = outcome.sample.latency.unwrap();
        // The first waited until the last of the stalled was due; half of all were due meanwhile.
        assert!(seen.max_us >= 490_000 && seen.p99_us >= 480_000, "{seen:?}");
        assert_eq!((outcome.sample.failures, outcome.unanswered), (0, 0));
    }

    /// A server that never reads: the clients hang up in time, and have held little.
    #[tokio::test]
    async fn what_a_server_does_not_take_is_not_written() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_deaf, _) = listener.accept().unwrap();
        to.set_nonblocking(true).unwrap();
        let schedule = Schedule::new(
            Instant::now(),
            Offer::new(1e9, Span { warm_up: Duration::ZERO, lasting: SECOND }),
            1,
        );
        let mut sender = Sender::new(0, to);
        let whole = sender.send(&schedule, schedule.total, |out, _| out.extend_from_slice(&[b'x'; 1000]));
        assert!(!whole.unwrap());
        assert!(sender.written > 0 && sender.bytes.len() < SEND_BYTES + 1000, "{}", sender.bytes.len());
    }
}
