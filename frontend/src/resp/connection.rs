//! One connection: bytes in, commands started, replies in order, bytes out.
//!
//! The connection is one future that is polled by hand rather than a `select!` of halves: a step reads only when
//! there is nothing to start, starts only when the pipeline has room, and writes only when no more replies are
//! ready, so a batch of replies costs one system call. Between polls an idle connection owns no buffers: input is
//! read into a buffer of the thread and only what is incomplete is kept.
//!
//! Bounds: what may be in flight ([`Pipeline`]), what all large values together may take ([`Line`]), what may wait to be
//! sent and for how long ([`Output`]), what all clients together may have sent of commands that are not complete or
//! wait for room ([`PARTIAL_BYTES_MAX`]). Where a bound is reached
//! the next stage back stops, down to the socket, and TCP slows the client; only the last bound ends connections, for
//! commands that wait for their own rest would wait for ever.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::clients::Registration;
use super::command::table::Entry;
use super::command::{Args, CommandError, Flag, Handler, SessionContext};
use super::encode::encode;
use super::gateway::{Gateway, unix_seconds};
use super::output::{Output, SLOW_READER_DEADLINE};
use super::pipeline::{Call, Footprint, Pipeline, Slot};
use super::reply::Reply;
use super::scanner::Scanner;
use super::session::Session;
use super::slowlog::Words;
use super::stats::Outcome;
use crate::coordinator::OpError;
use crate::coordinator::room::{Line, Taken};

/// Bytes read at a time.
const READ_BYTES: usize = 32 * 1024;
/// Output from this size on is sent though more replies are ready.
const FLUSH_BYTES: usize = 64 * 1024;
/// Commands of all clients together that are not complete, or wait for room. Above it, a client that has sent
/// [`PARTIAL_BYTES_FREE`] of an incomplete one loses its connection, and who would have to wait for room is refused.
pub const PARTIAL_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// An incomplete command up to this size is always taken.
pub const PARTIAL_BYTES_FREE: usize = 1024 * 1024;
/// Steps without a pause; then other connections of the thread have their turn.
const STEPS_MAX: usize = 8;
/// After a protocol error the connection is closed for writing, and what still arrives is thrown away for this long:
/// closing at once would reset the connection, and the error might never be read.
const LINGER: Duration = Duration::from_secs(1);

const TOO_MUCH: &str = "BUSY too many bytes of incomplete commands are held; nothing was done";

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
    /// Until when it is paused, or waits for room for its value; otherwise it waits for the pipeline.
    until: Option<Instant>,
    /// Of a command that waits for room: its bytes.
    large: usize,
}

/// What a command that may start takes of the bounds.
struct Admitted {
    footprint: Footprint,
    weight: usize,
    taken: Option<Taken>,
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
    room: Line,
    output: Output,
    timer: Option<Pin<Box<Sleep>>>,
    cross_protocol: bool,
    shut_down: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S, gateway: Arc<Gateway>, registration: Registration) -> Self {
        let session = Session::new(registration.client.clone(), !gateway.demands_password());
        Self {
            stream,
            pipeline: Pipeline::new(gateway.config.pipeline_max),
            room: gateway.coordinator.room().line(),
            gateway,
            registration,
            session,
            scanner: Scanner::default(),
            input: BytesMut::new(),
            input_state: Input::Open,
            held: None,
            output: Output::new(SLOW_READER_DEADLINE),
            timer: None,
            cross_protocol: false,
            shut_down: None,
        }
    }

    /// Instead of [`SLOW_READER_DEADLINE`].
    #[cfg(test)]
    pub(super) fn with_slow_reader_deadline(mut self, patience: Duration) -> Self {
        self.output = Output::new(patience);
        self
    }

    /// Serves the connection until it ends. Dropping the future abandons it: what was started goes on, unanswered.
    pub async fn run(mut self) -> End {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.registration.client.register(cx.waker());
        for _ in 0..STEPS_MAX {
            if self.registration.client.is_killed() {
                return Poll::Ready(End::Killed);
            }
            if self.gateway.is_draining() && self.input_state == Input::Open {
                self.close_input(Input::Closed);
            }
            if self.shut_down.is_some() {
                return self.poll_linger(cx);
            }
            let mut progress = false;
            // Ends with the input at hand, of which there is little more than one read.
            while self.take_replies(cx) | self.start_commands(cx) {
                progress = true;
            }
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
            if self.is_done() {
                ready!(self.poll_shutdown(cx));
                if self.input_state == Input::Broken {
                    self.shut_down = Some(Instant::now() + LINGER);
                    continue;
                }
                return Poll::Ready(End::Closed);
            }
            if !progress {
                self.publish_sizes();
                ready!(self.poll_timer(cx));
                if self.output.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                    return Poll::Ready(End::SlowReader);
                }
            }
        }
        self.publish_sizes();
        cx.waker().wake_by_ref();
        Poll::Pending
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
        while !self.output.is_full() {
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
            encode(&reply, self.session.version(), &mut self.output.buf);
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

    fn start_commands(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut in_line = false;
        while self.input_state == Input::Open && !self.output.is_full() {
            let (words, room_until) = match self.held.take() {
                Some(held) => (held.words, held.until.filter(|_| held.large > 0)),
                None => match self.scan() {
                    Some(words) => (words, None),
                    None => {
                        // A protocol error left a reply.
                        progress |= self.input_state == Input::Broken;
                        break;
                    }
                },
            };
            match self.start(words, room_until, cx) {
                None => progress = true,
                Some(held) => {
                    in_line = held.large > 0;
                    self.held = Some(held);
                    break;
                }
            }
            if self.session.close {
                self.close_input(Input::Closed);
            }
        }
        if !in_line {
            self.room.leave();
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
                self.reject(None, Instant::now(), CommandError::text(error.to_string()));
                self.close_input(Input::Broken);
                None
            }
        }
    }

    /// Starts a command, or gives it back if it must wait. `room_until`: it has waited for room before, and does so until then.
    fn start(
        &mut self,
        words: Vec<Bytes>,
        room_until: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Option<Held> {
        if !self.pipeline.has_room() {
            return Some(Held { words, until: None, large: 0 });
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
                self.reject(None, now, error);
                return None;
            }
        };
        if !self.session.authenticated && !entry.has(Flag::NoAuth) {
            let error = CommandError::text("NOAUTH Authentication required.");
            self.reject(Some(entry), now, error);
            return None;
        }
        let pause = self.gateway.pause.holds(entry.has(Flag::Write), now);
        if let Some(until) = pause.filter(|_| !lifts_pause(entry)) {
            return Some(Held { words, until: Some(until), large: 0 });
        }
        let footprint = self.pipeline.footprint(entry, &words);
        let weight = words.iter().map(|word| word.len() + std::mem::size_of::<Bytes>()).sum();
        if !self.pipeline.admits(&footprint, weight) {
            return Some(Held { words, until: None, large: 0 });
        }
        let mut taken = None;
        if entry.has(Flag::Write) {
            match self.room.poll_enter(cx, weight) {
                Poll::Ready(entered) => taken = entered,
                Poll::Pending => {
                    let until = room_until.unwrap_or(now + self.gateway.config.request_timeout);
                    if until <= now || self.gateway.partial_bytes() > PARTIAL_BYTES_MAX {
                        self.reject(Some(entry), now, OpError::Busy.into());
                        return None;
                    }
                    return Some(Held { words, until: Some(until), large: weight });
                }
            }
        }
        self.launch(entry, words, Admitted { footprint, weight, taken }, now);
        None
    }

    fn launch(
        &mut self,
        entry: &'static Entry,
        mut words: Vec<Bytes>,
        Admitted { footprint, weight, taken }: Admitted,
        now: Instant,
    ) {
        self.session.client.started(entry.id, now);
        let kept = if carries_password(entry) { Words::redacted(&words) } else { Words::of(&words) };
        let keys = entry.key_places(words.len()).count();
        words.drain(..entry.words);
        let args = Args::new(entry.name, words);
        self.session.reply_mode.next_command();
        let answer = match entry.spec.run {
            Handler::Data(run) if taken.is_some() => run(&self.gateway.coordinator.with_room(taken), args),
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

    fn reject(&mut self, entry: Option<&'static Entry>, now: Instant, error: CommandError) {
        self.session.reply_mode.next_command();
        let muted = self.session.reply_mode.mutes();
        let call = Call { entry, started_at: now, words: Words::default(), keys: 0, rejected: true, muted };
        let footprint = Footprint::Many(smallvec::SmallVec::new());
        self.pipeline.push(Slot { call, answer: Err(error), footprint, weight: 0 });
    }

    // Bytes.

    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let wanted = self.input_state == Input::Open && self.held.is_none() && !self.output.is_full();
        if !wanted {
            return Ok(false);
        }
        if self.sends_too_much() {
            self.reject(None, Instant::now(), CommandError::text(TOO_MUCH));
            self.close_input(Input::Broken);
            return Ok(true);
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
        let sent = self.output.poll_write(&mut self.stream, cx)?;
        self.gateway.stats.count_written(sent);
        Ok(sent > 0)
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
        let Some(next) = [paused, self.output.deadline(), self.shut_down].into_iter().flatten().min() else {
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
        self.output.shrink();
        self.pipeline.shrink();
    }

    fn publish_sizes(&self) {
        let client = &self.registration.client;
        client.output_bytes.store(self.output.len(), Ordering::Relaxed);
        let waiting = self.held.as_ref().map_or(0, |held| held.large);
        let partial = self.input.len() + self.scanner.held_bytes() + waiting;
        let before = client.input_bytes.swap(partial, Ordering::Relaxed);
        if partial != before {
            self.gateway.change_partial_bytes(before, partial);
        }
    }

    /// Whether this client has its share in an excess of incomplete commands.
    fn sends_too_much(&self) -> bool {
        self.input.len() + self.scanner.held_bytes() > PARTIAL_BYTES_FREE
            && self.gateway.partial_bytes() > PARTIAL_BYTES_MAX
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        let partial = self.registration.client.input_bytes.load(Ordering::Relaxed);
        self.gateway.change_partial_bytes(partial, 0);
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
    matches!(entry.name, "auth" | "hello" | "config|set")
}
