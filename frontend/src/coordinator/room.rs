//! Room for large values on their way to replicas, shared by all gateways.
//!
//! A replica commits some tens of megabytes a second, and every value goes to three of them. Were all that clients send at once
//! passed on at once, it would wait in the lines of workers until calls are given up, and a healthy worker would seem dead.
//! So a command with a large value is not begun before there is room for it: its client waits, first come, first served, and TCP
//! slows what it sends. A gateway bounds the wait and answers BUSY then, as nothing was begun. Room is given back when the
//! last operation of the command has ended.
//!
//! What counts is what a command brings. One that writes a large value without bringing it (APPEND, RENAME) takes no room.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// Large values under way. At 10 MB/s they are written within the time that an operation has.
const ROOM_BYTES: usize = 32 * 1024 * 1024;
/// A command that brings less than this needs no room: there cannot be as many of them as would matter.
const LARGE_BYTES: usize = 64 * 1024;
const UNIT_BYTES: usize = 1024;

/// See the module.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

/// Held while a large value is under way.
pub type Taken = Arc<OwnedSemaphorePermit>;

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_BYTES / UNIT_BYTES)))
    }
}

impl Room {
    /// Waits for room for a command that brings so many bytes; however many, it takes half of all room at most. `None`: none
    /// is needed. Cancel-safe: who gives up leaves the line.
    pub async fn enter(&self, bytes: usize) -> Option<Taken> {
        let units = units(bytes)?;
        // Never closed.
        self.0.clone().acquire_many_owned(units).await.ok().map(Arc::new)
    }

    /// A place in the line, for who polls.
    pub fn line(&self) -> Line {
        Line { room: self.0.clone(), place: None }
    }
}

/// One that waits for room, for one command at a time.
pub struct Line {
    room: Arc<Semaphore>,
    place: Option<PollSemaphore>,
}

impl Line {
    /// As [`Room::enter`]. Who has to wait holds a place, and is given room there, taken or not: whoever does not come back for it
    /// at once has to [`Self::leave`].
    pub fn poll_enter(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<Option<Taken>> {
        let Some(units) = units(bytes) else { return Poll::Ready(None) };
        let place = self.place.get_or_insert_with(|| PollSemaphore::new(self.room.clone()));
        let taken = ready!(place.poll_acquire_many(cx, units)).map(Arc::new);
        self.place = None;
        Poll::Ready(taken)
    }

    #[cfg(test)]
    fn is_waiting(&self) -> bool {
        self.place.is_some()
    }

    pub fn leave(&mut self) {
        self.place = None;
    }
}

/// None has more than half of the room, so that others are never kept out by one alone.
fn units(bytes: usize) -> Option<u32> {
    let units = bytes.min(ROOM_BYTES / 2) / UNIT_BYTES;
    (bytes >= LARGE_BYTES).then_some(units as u32)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn small_commands_go_in_and_large_ones_wait_for_each_other() {
        let room = Room::default();
        let enter = |bytes| room.enter(bytes).now_or_never();
        let huge = enter(100 * ROOM_BYTES).unwrap();
        let quarter = enter(ROOM_BYTES / 4).unwrap();
        assert!(huge.is_some() && quarter.is_some());
        assert!(enter(ROOM_BYTES / 2).is_none());
        assert!(enter(LARGE_BYTES - 1).unwrap().is_none(), "needs no room");
        drop(huge);
        assert!(enter(ROOM_BYTES / 2).unwrap().is_some());
    }

    #[test]
    fn room_is_kept_until_the_last_operation_has_ended() {
        let room = Room::default();
        let full = || [(); 2].map(|()| room.enter(ROOM_BYTES).now_or_never().unwrap());
        let [taken, _rest] = full();
        let other = taken.clone();
        let (mut line, mut cx) = (room.line(), Context::from_waker(std::task::Waker::noop()));
        drop(taken);
        assert!(line.poll_enter(&mut cx, LARGE_BYTES).is_pending());
        drop(other);
        assert!(line.poll_enter(&mut cx, LARGE_BYTES).is_ready());
    }

    #[test]
    fn who_leaves_the_line_keeps_nobody_waiting() {
        let room = Room::default();
        let full = [(); 2].map(|()| room.enter(ROOM_BYTES).now_or_never().unwrap());
        let (mut line, mut cx) = (room.line(), Context::from_waker(std::task::Waker::noop()));
        assert!(line.poll_enter(&mut cx, ROOM_BYTES).is_pending() && line.is_waiting());
        drop(full);
        let behind = room.enter(ROOM_BYTES).now_or_never().unwrap();
        assert!(room.enter(LARGE_BYTES).now_or_never().is_none(), "its half of the room waits for it");
        line.leave();
        assert!(!line.is_waiting() && room.enter(LARGE_BYTES).now_or_never().unwrap().is_some());
        drop(behind);
    }
}
