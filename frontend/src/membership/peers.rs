//! Calls to workers that concern them as a whole. Rare and small, on connections of their own beside those of clients.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tercet_common::ring_register::{Ask, RegisterState};
use tercet_common::sync::{Memory, Witness};
use tercet_proto::convert::{WireError, ask_to_wire};
use tercet_proto::life;
use tercet_proto::v1;
use tercet_proto::v1::replica_client::ReplicaClient;
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::members::Registered;
use crate::config::Secret;

/// The largest answer, in bytes: two configurations of [`tercet_common::ring::MEMBERS_MAX`] members, of up to 200 bytes
/// each, and 1024 rows of up to 50.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

pub(super) struct Peers {
    cluster_id: String,
    secret: Option<Secret>,
    /// Of one call, connection included.
    timeout: Duration,
    /// By address. Those that failed are forgotten, and those of workers that are gone: see [`Peers::keep`].
    channels: Mutex<HashMap<String, Channel>>,
}

impl Peers {
    pub(super) fn new(cluster_id: String, secret: Option<Secret>, timeout: Duration) -> Self {
        Self { cluster_id, secret, timeout, channels: Mutex::new(HashMap::new()) }
    }

    /// Forgets connections to other addresses than these.
    pub(super) fn keep<'a>(&self, addresses: impl Iterator<Item = &'a str>) {
        let addresses: HashSet<&str> = addresses.collect();
        self.channels.lock().retain(|known, _| addresses.contains(known.as_str()));
    }

    /// One step of the ring register.
    pub(super) async fn decide(&self, to: &Registered, ask: &Ask) -> Result<RegisterState, Status> {
        let request = ask_to_wire(&self.cluster_id, &to.witness.uuid, ask);
        let reply = self.call(to, request, |mut client, r| async move { client.decide(r).await }).await?;
        reply.try_into().map_err(unusable)
    }

    /// The worker's new uuid.
    pub(super) async fn renew(&self, to: &Registered) -> Result<String, Status> {
        let worker_uuid = to.witness.uuid.clone();
        let request = v1::RenewRequest { cluster_id: self.cluster_id.clone(), worker_uuid };
        let reply = self.call(to, request, |mut client, r| async move { client.renew(r).await }).await?;
        Ok(reply.worker_uuid)
    }

    /// What the worker was told of the others.
    pub(super) async fn recall(&self, to: &Registered) -> Result<Vec<Witness>, Status> {
        let request = v1::RecallRequest { cluster_id: self.cluster_id.clone() };
        let reply = self.call(to, request, |mut client, r| async move { client.recall(r).await }).await?;
        Ok(Memory::try_from(reply).map_err(unusable)?.witnesses)
    }

    pub(super) async fn remember(&self, to: &Registered, witnesses: Vec<Witness>) -> Result<(), Status> {
        let memory = Memory { witnesses, ..Memory::default() };
        let request =
            v1::RememberRequest { cluster_id: self.cluster_id.clone(), memory: Some(memory.into()) };
        self.call(to, request, |mut client, r| async move { client.remember(r).await }).await?;
        Ok(())
    }

    async fn call<T, R, F>(
        &self,
        to: &Registered,
        message: T,
        call: impl FnOnce(ReplicaClient<Channel>, Request<T>) -> F,
    ) -> Result<R, Status>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = Request::new(message);
        if let Some(secret) = &self.secret {
            request.metadata_mut().insert("authorization", bearer(secret)?);
        }
        life::name_life(request.metadata_mut(), &to.witness.uuid, to.witness.boot_generation);
        let client =
            ReplicaClient::new(self.channel(&to.address)?).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = tokio::time::timeout(self.timeout, call(client, request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        if answer.is_err() {
            self.channels.lock().remove(&to.address);
        }
        answer.map(Response::into_inner)
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let channel = endpoint.connect_timeout(self.timeout).tcp_nodelay(true).connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn bearer(secret: &Secret) -> Result<MetadataValue<Ascii>, Status> {
    let bearer = format!("Bearer {}", secret.expose()).parse();
    bearer.map_err(|_| Status::internal("the cluster secret does not fit a header"))
}

fn unusable(error: WireError) -> Status {
    Status::data_loss(format!("the worker's answer cannot be used: {error}"))
}
