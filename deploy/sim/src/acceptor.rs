//! A worker's part in deciding configurations, as its engine does it: one step of the register at a time, durable before it
//! is answered, and the replica takes what is known to be decided.
//!
//! ```text
//!   ask ─▶ real RegisterState::step ─▶ begun ── durable (KeepRegister) ── told (RegisterKept) ─▶ answer
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use tercet_common::RingConfig;
use tercet_common::ring_register::RegisterState;
use tercet_frontend::membership::council::Call;
use tercet_worker::store::{MemoryStore, RingRegister, Store};

use crate::calls::Parcel;

/// All states that a disk was given, by number. A store keeps bytes; to encode 1024 rows would take longer than all that
/// it is for, so the bytes are the number of the state in this list. What is lost or set back with the disk is the number.
#[derive(Clone, Default)]
pub(crate) struct Archive(Vec<RegisterState>);

impl Archive {
    fn record(&mut self, state: &RegisterState) -> RingRegister {
        let newest = state.vote.as_ref().map(|vote| &vote.config).or(state.decided.as_ref());
        let number = self.0.len().to_le_bytes().to_vec();
        self.0.push(state.clone());
        RingRegister {
            promised: state.promised,
            accepted: state.vote.as_ref().map(|vote| vote.term).unwrap_or_default(),
            // There may be a promise only.
            ring: newest.map(|ring| (ring.epoch, number)),
        }
    }

    fn find(&self, kept: &RingRegister) -> RegisterState {
        let promised = || RegisterState { promised: kept.promised, ..RegisterState::default() };
        let Some((_, number)) = &kept.ring else { return promised() };
        let number = number.as_slice().try_into().map(usize::from_le_bytes);
        number.ok().and_then(|number| self.0.get(number)).cloned().unwrap_or_else(promised)
    }
}

struct Keeping {
    parcel: Parcel,
    next: RegisterState,
    kept: Option<bool>,
}

/// What a worker process has of the register.
#[derive(Default)]
pub(crate) struct Acceptor {
    state: RegisterState,
    waiting: VecDeque<Parcel>,
    keeping: Option<Keeping>,
}

impl Acceptor {
    /// What the store has kept.
    pub(crate) fn load(&mut self, archive: &Archive, kept: &RingRegister) -> Option<Arc<RingConfig>> {
        self.state = archive.find(kept);
        self.state.decided.clone()
    }

    pub(crate) fn state(&self) -> &RegisterState {
        &self.state
    }

    pub(crate) fn submit(&mut self, parcel: Parcel) {
        self.waiting.push_back(parcel);
    }

    /// The store cannot be used: who waits is told nothing.
    pub(crate) fn refuse(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn is_keeping(&self) -> bool {
        self.keeping.is_some()
    }

    /// Goes on with what waits, up to a step that has to be kept. `uuid`: whose data it is; others are meant by other calls.
    pub(crate) fn go_on(&mut self, uuid: &str, answers: &mut Vec<(Parcel, RegisterState)>) {
        while self.keeping.is_none() {
            let Some(parcel) = self.waiting.pop_front() else { return };
            let Call::Decide(ask) = parcel.call() else { continue };
            if parcel.life().0 != uuid {
                continue;
            }
            match self.state.step(ask) {
                None => answers.push((parcel, self.state.clone())),
                Some(next) => self.keeping = Some(Keeping { parcel, next, kept: None }),
            }
        }
    }

    /// The step becomes durable, and the store says so; or `fails`: it says that it did not, which need not be true.
    pub(crate) fn keep(&mut self, store: &MemoryStore, archive: &mut Archive, fails: Option<bool>) {
        let Some(keeping) = &mut self.keeping else { return };
        let kept = fails != Some(false)
            && matches!(store.keep_register(archive.record(&keeping.next)).now_or_never(), Some(Ok(())));
        keeping.kept = Some(kept && fails.is_none());
    }

    /// The worker has heard what became of the step. The configuration is news to it.
    pub(crate) fn kept(&mut self, answers: &mut Vec<(Parcel, RegisterState)>) -> Option<Arc<RingConfig>> {
        let Keeping { parcel, next, .. } =
            self.keeping.take_if(|keeping| keeping.kept.is_some()).filter(Keeping::is_kept)?;
        let news = next.decided.clone().filter(|_| next.number() > self.state.number());
        self.state = next;
        answers.push((parcel, self.state.clone()));
        news
    }
}

impl Keeping {
    fn is_kept(&self) -> bool {
        self.kept == Some(true)
    }
}
