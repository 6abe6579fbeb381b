//! The worker's part in deciding ring configurations: it keeps the register, and says whose data it holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prost::Message;
use tercet_common::RingConfig;
use tercet_common::ring_register::{Ask, RegisterState};
use tercet_common::sync::Memory;
use tercet_proto::convert::{WireError, register_from_record};
use tercet_proto::v1;
use tracing::{info, warn};

use super::Engine;
use crate::replica::Membership;
use crate::store::{RingRegister, StoreError};

/// Why the worker did not do what concerns it as a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this worker belongs to cluster `{held}`, not to `{sent}`")]
    OtherCluster { held: String, sent: String },
    #[error("this worker's data is `{held}`, not `{sent}`")]
    OtherData { held: String, sent: String },
    #[error(transparent)]
    Malformed(#[from] WireError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The beginning of a text from outside, for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

pub(super) fn register_from_store(kept: &RingRegister) -> Result<RegisterState, WireError> {
    let Some((_, bytes)) = &kept.ring else {
        return Ok(RegisterState { promised: kept.promised, ..RegisterState::default() });
    };
    let malformed = |_| WireError::Malformed("the bytes of the ring register");
    let record = v1::RegisterRecord::decode(bytes.as_slice()).map_err(malformed)?;
    let state = register_from_record(kept.promised, record)?;
    if state.decided.is_some() || state.vote.is_some() {
        return Ok(state);
    }
    // From before configurations could change: the only one there was.
    let first = v1::RingConfiguration::decode(bytes.as_slice()).map_err(malformed)?;
    Ok(RegisterState { decided: Some(Arc::new(first.try_into()?)), ..state })
}

fn register_to_store(state: &RegisterState) -> RingRegister {
    let newest = state.vote.as_ref().map(|vote| &vote.config).or(state.decided.as_ref());
    let bytes = || v1::RegisterRecord::from(state).encode_to_vec();
    RingRegister {
        promised: state.promised,
        accepted: state.vote.as_ref().map(|vote| vote.term).unwrap_or_default(),
        ring: newest.map(|config| (config.epoch, bytes())),
    }
}

/// Does something that writes, though the caller hangs up meanwhile. A call to the store that is dropped half-way has an
/// unknown outcome, for which the store has to be opened anew.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Result<T, Refused> {
    let ended = tokio::spawn(work).await;
    ended.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string()).into()))
}

impl Engine {
    pub(crate) fn check_cluster(&self, sent: &str) -> Result<(), Refused> {
        if sent == self.cluster_id {
            return Ok(());
        }
        Err(Refused::OtherCluster { held: self.cluster_id.clone(), sent: shown(sent) })
    }

    fn check_data(&self, sent: &str) -> Result<String, Refused> {
        let held = self.identity().map(|identity| identity.worker_uuid).unwrap_or_default();
        if held == sent { Ok(held) } else { Err(Refused::OtherData { held, sent: shown(sent) }) }
    }

    /// One step of the ring register: what is kept afterwards, durably. After an error the step may have been taken.
    ///
    /// Like the other calls that write, it goes on when its future is dropped.
    pub(crate) async fn decide(
        self: &Arc<Self>,
        worker_uuid: &str,
        ask: &Ask,
    ) -> Result<RegisterState, Refused> {
        for config in ask.known.iter().chain(&ask.accept) {
            self.check_cluster(&config.cluster_id)?;
        }
        let (engine, worker_uuid, ask) = (self.clone(), worker_uuid.to_owned(), ask.clone());
        to_the_end(async move { engine.step(&worker_uuid, &ask).await }).await
    }

    async fn step(&self, worker_uuid: &str, ask: &Ask) -> Result<RegisterState, Refused> {
        let mut register = self.register.lock().await;
        let uuid = self.check_data(worker_uuid)?;
        let _gate = self.pass()?;
        let Some(next) = register.step(ask) else { return Ok(register.clone()) };
        self.store.keep_register(register_to_store(&next)).await?;
        let news = next.decided.as_ref().filter(|_| next.number() > register.number());
        if let Some(config) = news {
            info!(number = config.epoch.0, members = config.member_list(), "ring configuration");
            self.be_member(config, &uuid);
        }
        *register = next;
        Ok(register.clone())
    }

    /// Draws a new identity in the place of `worker_uuid`: in the eyes of others, the data is another worker's from now
    /// on. What it holds stays, to save copying it; it counts for nothing until a ring change has taken it in.
    pub(crate) async fn renew(self: &Arc<Self>, worker_uuid: &str) -> Result<String, Refused> {
        let (engine, worker_uuid) = (self.clone(), worker_uuid.to_owned());
        to_the_end(async move { engine.draw_identity(&worker_uuid).await }).await
    }

    async fn draw_identity(&self, worker_uuid: &str) -> Result<String, Refused> {
        let register = self.register.lock().await;
        let old = self.check_data(worker_uuid)?;
        let _gate = self.pass()?;
        // Left standing by an error: whoever ordered it asks again, with the identity that he finds then.
        self.renewing.store(true, Ordering::Relaxed);
        let uuid = self.store.renew_identity().await?;
        self.renewing.store(false, Ordering::Relaxed);
        warn!(
            old,
            uuid, "the data has lost something that this worker once said: it has another identity now"
        );
        if let Some(identity) = self.identity.lock().as_mut() {
            identity.worker_uuid.clone_from(&uuid);
        }
        if let Some(config) = &register.decided {
            self.be_member(config, &uuid);
        }
        Ok(uuid)
    }

    pub(crate) async fn remember(self: &Arc<Self>, memory: Memory) -> Result<(), Refused> {
        let engine = self.clone();
        to_the_end(async move {
            let _gate = engine.pass()?;
            Ok(engine.store.remember(memory).await?)
        })
        .await
    }

    pub(crate) async fn recall(&self) -> Result<Memory, Refused> {
        let _gate = self.pass()?;
        Ok(self.store.recall().await?)
    }

    fn be_member(&self, config: &RingConfig, uuid: &str) {
        let membership = Membership::from_config(config, &self.id, uuid);
        self.with(|replica| replica.set_membership(membership));
    }
}
