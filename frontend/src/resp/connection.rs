//! One connection: bytes in, commands started, replies in order, bytes out.
//!
//! The connection is one future that is polled by hand rather than a `select!` of halves: a step reads only when
//! there is nothing to start, starts only when the pipeline has room, and writes only when no more replies are
//! ready, so a batch of replies costs one system call. Between polls an idle connection owns no buffers: input is
//! read into a buffer of the thread and only what is incomplete is kept.
//!
//! Bounds: what may be in flight ([`Pipeline`]), what may wait to be sent ([`OUTPUT_BYTES_MAX`] plus one reply),
//! how long a client may take to read it ([`SLOW_READER_DEADLINE`]). Where a bound is reached the next stage back
//! stops, down to the socket, and TCP slows the client.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::clients::Registration;
use super::command::table::Entry;
use super::command::{Args, CommandError, Flag, Handler, SessionContext};
use super::encode::encode;
use super::gateway::{Gateway, unix_seconds};
use super::pipeline::{Call, Footprint, Pipeline, Slot};
use super::reply::Reply;
use super::scanner::Scanner;
use super::session::Session;
use super::slowlog::Words;
use super::stats::Outcome;

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Output from this size on is sent though more replies are ready.
const FLUSH_BYTES: usize = 64 * 1024;
/// While more than this waits to be sent, no reply is added and no command is read.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// A client must take [`OUTPUT_BYTES_MAX`], or all there is, within this time.
pub const SLOW_READER_DEADLINE: Duration = Duration::from_secs(60);
/// After a protocol error the connection is closed for writing, and what still arrives is thrown away for this long:
/// closing at once would reset the connection, and the error might never be read.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// By the client, by QUIT, or by the server's shutdown.
    Closed,
    /// CLIENT KILL, or the end of the time to drain.
    Killed,
    Protocol,
    /// Spoke HTTP.
    CrossProtocol,
    SlowReader,
    Io(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// No further command is read; the rest is answered.
    Closed,
    /// As `Closed`, and the end is [`End::Protocol`].
    Broken,
}

/// A scanned command that cannot start yet.
struct Held {
    words: Vec<Bytes>,
    /// Until when it is paused; otherwise it waits for the pipeline.
    until: Option<Instant>,
}

/// See the module.
pub struct Connection<S> {
    stream: S,
    gateway: Arc<Gateway>,
    registration: Registration,
    session: Session,
    scanner: Scanner,
    input: BytesMut,
    input_state: Input,
    held: Option<Held>,
    pipeline: Pipeline,
    output: BytesMut,
    slow_reader: Option<SlowReader>,
    slow_reader_deadline: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    cross_protocol: bool,
    shut_down: Option<Instant>,
}

/// A client that was not ready to take output.
struct SlowReader {
    deadline: Instant,
    /// Bytes to be sent until the deadline moves.
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S, gateway: Arc<Gateway>, registration: Registration) -> Self {
        let session = Session::new(registration.client.clone(), !gateway.demands_password());
        Self {
            stream,
            pipeline: Pipeline::new(gateway.config.pipeline_max),
            gateway,
            registration,
            session,
            scanner: Scanner::default(),
            input: BytesMut::new(),
            input_state: Input::Open,
            held: None,
            output: BytesMut::new(),
            slow_reader: None,
            slow_reader_deadline: SLOW_READER_DEADLINE,
            timer: None,
            cross_protocol: false,
            shut_down: None,
        }
    }

    /// Instead of [`SLOW_READER_DEADLINE`].
    #[cfg(test)]
    pub(super) fn with_slow_reader_deadline(self, slow_reader_deadline: Duration) -> Self {
        Self { slow_reader_deadline, ..self }
    }

    /// Serves the connection until it ends. Dropping the future abandons it: what was started goes on, unanswered.
    pub async fn run(mut self) -> End {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.registration.client.register(cx.waker());
        loop {
            if self.registration.client.is_killed() {
                return Poll::Ready(End::Killed);
            }
            if self.gateway.is_draining() && self.input_state == Input::Open {
                self.close_input(Input::Closed);
            }
            if self.shut_down.is_some() {
                return self.poll_linger(cx);
            }
            let mut progress = self.take_replies(cx);
            progress |= self.start_commands();
            if self.cross_protocol {
                return Poll::Ready(End::CrossProtocol);
            }
            if !progress {
                match self.poll_read(cx) {
                    Ok(read) => progress = read,
                    Err(e) => return Poll::Ready(End::Io(e)),
                }
            }
            if !progress || self.output.len() >= FLUSH_BYTES {
                match self.poll_write(cx) {
                    Ok(wrote) => progress |= wrote,
                    Err(e) => return Poll::Ready(End::Io(e)),
                }
            }
            self.publish_sizes();
            if self.is_done() {
                ready!(self.poll_shutdown(cx));
                if self.input_state == Input::Broken {
                    self.shut_down = Some(Instant::now() + LINGER);
                    continue;
                }
                return Poll::Ready(End::Closed);
            }
            if !progress {
                ready!(self.poll_timer(cx));
                if self.slow_reader.as_ref().is_some_and(|slow| slow.deadline <= Instant::now()) {
                    return Poll::Ready(End::SlowReader);
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        let idle = self.pipeline.is_empty() && self.output.is_empty() && self.held.is_none();
        self.input_state != Input::Open && idle
    }

    fn close_input(&mut self, state: Input) {
        self.input_state = state;
        self.held = None;
        self.input = BytesMut::new();
    }

    // Replies.

    fn take_replies(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while self.output.len() < OUTPUT_BYTES_MAX {
            let Poll::Ready(Some((call, answer))) = self.pipeline.poll_front(cx) else { break };
            self.finish(&call, answer);
            progress = true;
        }
        progress
    }

    fn finish(&mut self, call: &Call, answer: Result<Reply, CommandError>) {
        let now = Instant::now();
        let took = now.saturating_duration_since(call.started_at);
        let reply = answer.unwrap_or_else(|error| Reply::Error(error.line()));
        let outcome = match &reply {
            Reply::Error(line) if call.rejected => Outcome::Rejected(line),
            Reply::Error(line) => Outcome::Failed(line),
            _ => Outcome::Ok,
        };
        self.gateway.stats.record(call.entry.map(|e| (e.id, e.name)), took, outcome);
        if let (Some(entry), Outcome::Ok) = (call.entry, outcome) {
            self.gateway.stats.count_lookups(entry, &reply, call.keys);
        }
        if !call.rejected {
            self.note_slowness(call, took);
        }
        if !call.muted {
            let before = self.output.len();
            encode(&reply, self.session.version(), &mut self.output);
            self.pipeline.replied(self.output.len() - before);
        }
    }

    fn note_slowness(&self, call: &Call, took: Duration) {
        let gateway = &self.gateway;
        if gateway.latency.threshold_ms() > 0 {
            let fast = call.entry.is_some_and(|entry| entry.has(Flag::Fast));
            gateway.latency.record(if fast { "fast-command" } else { "command" }, took, unix_seconds());
        }
        if gateway.slowlog.is_slow(took) {
            let name = self.session.client.labels.lock().name.clone();
            gateway.slowlog.push(took, &call.words, self.session.client.peer.remote.clone(), name);
        }
    }

    // Commands.

    fn start_commands(&mut self) -> bool {
        let mut progress = false;
        while self.input_state == Input::Open && self.output.len() < OUTPUT_BYTES_MAX {
            let words = match self.held.take() {
                Some(held) => held.words,
                None => match self.scan() {
                    Some(words) => words,
                    None => {
                        // A protocol error left a reply.
                        progress |= self.input_state == Input::Broken;
                        break;
                    }
                },
            };
            match self.start(words) {
                None => progress = true,
                Some(held) => {
                    self.held = Some(held);
                    break;
                }
            }
            if self.session.close {
                self.close_input(Input::Closed);
            }
        }
        progress
    }

    /// The next whole command of the input. A protocol error becomes the last reply.
    fn scan(&mut self) -> Option<Vec<Bytes>> {
        if self.input.is_empty() {
            return None;
        }
        let limits = self.gateway.limits(self.session.authenticated);
        match self.scanner.next(&mut self.input, &limits) {
            Ok(words) => words,
            Err(error) => {
                let words = Words::default();
                self.reject(None, words, Instant::now(), CommandError::text(error.to_string()));
                self.close_input(Input::Broken);
                None
            }
        }
    }

    /// Starts a command, or gives it back if it must wait.
    fn start(&mut self, words: Vec<Bytes>) -> Option<Held> {
        if !self.pipeline.has_room() {
            return Some(Held { words, until: None });
        }
        let now = Instant::now();
        let entry = match self.gateway.table.resolve(&words) {
            Ok(entry) => entry,
            Err(_) if speaks_http(&words[0]) => {
                self.cross_protocol = true;
                self.close_input(Input::Closed);
                return None;
            }
            Err(error) => {
                self.reject(None, Words::of(&words), now, error);
                return None;
            }
        };
        if !self.session.authenticated && !entry.has(Flag::NoAuth) {
            let error = CommandError::text("NOAUTH Authentication required.");
            self.reject(Some(entry), Words::default(), now, error);
            return None;
        }
        let pause = self.gateway.pause.holds(entry.has(Flag::Write), now);
        if let Some(until) = pause.filter(|_| !lifts_pause(entry)) {
            return Some(Held { words, until: Some(until) });
        }
        let footprint = self.pipeline.footprint(entry, &words);
        let weight = words.iter().map(|word| word.len() + std::mem::size_of::<Bytes>()).sum();
        if !self.pipeline.admits(&footprint, weight) {
            return Some(Held { words, until: None });
        }
        self.launch(entry, words, footprint, weight, now);
        None
    }

    fn launch(
        &mut self,
        entry: &'static Entry,
        mut words: Vec<Bytes>,
        footprint: Footprint,
        weight: usize,
        now: Instant,
    ) {
        self.session.client.started(entry.id, now);
        let kept = if carries_password(entry) { Words::redacted(&words) } else { Words::of(&words) };
        let keys = entry.key_places(words.len()).count();
        words.drain(..entry.words);
        let args = Args::new(entry.name, words);
        self.session.reply_mode.next_command();
        let answer = match entry.spec.run {
            Handler::Data(run) => run(&self.gateway.coordinator, args),
            Handler::Session(run) => {
                run(&mut SessionContext { gateway: &self.gateway, session: &mut self.session }, args)
            }
            Handler::Container => Err(super::command::wrong_arity(entry.name)),
        };
        let muted = self.session.reply_mode.mutes();
        let call = Call { entry: Some(entry), started_at: now, words: kept, keys, rejected: false, muted };
        self.pipeline.push(Slot { call, answer, footprint, weight });
    }

    fn reject(&mut self, entry: Option<&'static Entry>, words: Words, now: Instant, error: CommandError) {
        self.session.reply_mode.next_command();
        let muted = self.session.reply_mode.mutes();
        let call = Call { entry, started_at: now, words, keys: 0, rejected: true, muted };
        let footprint = Footprint::Many(smallvec::SmallVec::new());
        self.pipeline.push(Slot { call, answer: Err(error), footprint, weight: 0 });
    }

    // Bytes.

    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let wanted =
            self.input_state == Input::Open && self.held.is_none() && self.output.len() < OUTPUT_BYTES_MAX;
        if !wanted {
            return Ok(false);
        }
        let (stream, input) = (Pin::new(&mut self.stream), &mut self.input);
        let read = READ_BUFFER.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            let polled = stream.poll_read(cx, &mut buf);
            input.extend_from_slice(buf.filled());
            polled.map_ok(|()| buf.filled().len())
        });
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(e)) => Err(e),
            Poll::Ready(Ok(0)) => {
                self.close_input(Input::Closed);
                Ok(true)
            }
            Poll::Ready(Ok(n)) => {
                self.gateway.stats.count_read(n);
                Ok(true)
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.output.is_empty() {
            return Ok(false);
        }
        match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
            Poll::Pending => {
                let patience = self.slow_reader_deadline;
                self.slow_reader.get_or_insert_with(|| SlowReader::armed(patience));
                Ok(false)
            }
            Poll::Ready(Err(e)) => Err(e),
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                self.output.advance(n);
                self.gateway.stats.count_written(n);
                if self.output.is_empty() {
                    self.slow_reader = None;
                } else if let Some(slow) = &mut self.slow_reader {
                    slow.left = slow.left.saturating_sub(n);
                    if slow.left == 0 {
                        *slow = SlowReader::armed(self.slow_reader_deadline);
                    }
                }
                Ok(true)
            }
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The client may be gone already; then there is nothing to close.
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| ())
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let stream = Pin::new(&mut self.stream);
            let polled = READ_BUFFER.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                stream.poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
            });
            match polled {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Protocol),
                Poll::Ready(Ok(_)) if self.shut_down.is_some_and(|until| until <= Instant::now()) => {
                    return Poll::Ready(End::Protocol);
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    ready!(self.poll_timer(cx));
                    return Poll::Ready(End::Protocol);
                }
            }
        }
    }

    // Waiting.

    /// Ready when a deadline has passed; gives idle memory back otherwise.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let paused = self.held.as_ref().and_then(|held| held.until);
        let slow = self.slow_reader.as_ref().map(|slow| slow.deadline);
        let Some(next) = [paused, slow, self.shut_down].into_iter().flatten().min() else {
            self.timer = None;
            self.release_memory();
            return Poll::Pending;
        };
        let next = tokio::time::Instant::from_std(next);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if timer.deadline() != next {
            timer.as_mut().reset(next);
        }
        pin!(timer).as_mut().poll(cx)
    }

    fn release_memory(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
        self.pipeline.shrink();
    }

    fn publish_sizes(&self) {
        let client = &self.registration.client;
        client.input_bytes.store(self.input.len() + self.scanner.held_bytes(), Ordering::Relaxed);
        client.output_bytes.store(self.output.len(), Ordering::Relaxed);
    }
}

impl SlowReader {
    fn armed(patience: Duration) -> Self {
        Self { deadline: Instant::now() + patience, left: OUTPUT_BYTES_MAX }
    }
}

/// The start of an HTTP request, or its second line: somebody makes a browser speak to a store (cross-protocol
/// scripting). As in Redis it is not answered.
fn speaks_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Where Redis would let a pause of everything hold up its own end as well.
fn lifts_pause(entry: &Entry) -> bool {
    entry.name == "client|unpause"
}

fn carries_password(entry: &Entry) -> bool {
    matches!(entry.name, "auth" | "hello")
}
